"""One step of each optimizer, in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.optimizers import SGD, Adam, AdamW, RMSprop
from fastmlp.shapes import check_update
from fastmlp.spec import check_count, check_flag

Array = NDArray[Any]


def sgd_update(
    parameters: Array,
    gradients: Array,
    velocity: Array | None,
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """One step of `fastmlp.SGD`, in place.

    With ``g = gradients + weight_decay * w``: ``v = momentum * v + g``, ``w = w - learning_rate * v``, or Nesterov's
    ``w = w - learning_rate * (g + momentum * v)``.

    Parameters
    ----------
    parameters, velocity : ndarray
        w and v, of one shape and dtype, float32 or float64; changed in place. `velocity` may be None without momentum.
    gradients : ndarray
        Of that shape, float32 or float64.
    learning_rate, momentum, weight_decay : float
        As in `fastmlp.SGD`; the rate may be 0.
    nesterov : bool
        As in `fastmlp.SGD`.

    Raises
    ------
    ValueError
        If the shapes differ, an array is of another dtype or None, one to be changed is read-only, or a number is out
        of its bounds.

    References
    ----------
    As in `fastmlp.SGD`.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> sgd_update(w, np.array([2.0]), None, 0.1)
    >>> w
    array([0.8])
    """
    optimizer = SGD(1.0, momentum, nesterov, weight_decay)
    slots = {"velocity": velocity} if momentum else {}
    g = check_update(optimizer, learning_rate, parameters, gradients, slots)
    sgd_step(optimizer, parameters, g, list(slots.values()), 1, learning_rate)


def sgd_step(
    optimizer: SGD, parameters: Array, g: Array, slots: Sequence[Array | None], step: int, learning_rate: float
) -> None:
    """`sgd_update` without its checks, which the training loop need not repeat at every step."""
    T = parameters.dtype.type
    if optimizer.weight_decay:
        g = g + T(optimizer.weight_decay) * parameters
    if optimizer.momentum:
        (velocity,) = slots
        assert velocity is not None
        velocity *= T(optimizer.momentum)
        velocity += g
        g = g + T(optimizer.momentum) * velocity if optimizer.nesterov else velocity
    parameters -= T(learning_rate) * g


def adam_update(
    parameters: Array,
    gradients: Array,
    first_moment: Array,
    second_moment: Array,
    step: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    epsilon_hat: bool = False,
) -> None:
    """One step of `fastmlp.Adam`, or of `fastmlp.AdamW` if `decoupled`, in place.

    With ``g = gradients + weight_decay * w``, or if `decoupled` with ``g = gradients`` and, besides,
    ``w = w - learning_rate * weight_decay * w``: ``m = beta1 * m + (1 - beta1) * g``,
    ``v = beta2 * v + (1 - beta2) * g²``,
    ``w = w - learning_rate * (m / (1 - beta1 ** t)) / (√(v / (1 - beta2 ** t)) + epsilon)``.

    Parameters
    ----------
    parameters, first_moment, second_moment : ndarray
        w, m and v, of one shape and dtype, float32 or float64; changed in place.
    gradients : ndarray
        Of that shape, float32 or float64.
    step : int
        t >= 1, the number of this step, for the bias correction.
    learning_rate, beta1, beta2, epsilon, weight_decay : float
        As in `fastmlp.Adam`; the rate may be 0.
    decoupled : bool
        Weight decay as in AdamW.
    epsilon_hat : bool
        As in `fastmlp.Adam`.

    Raises
    ------
    ValueError
        If the shapes differ, an array is of another dtype or None, one to be changed is read-only, or a number is out
        of its bounds.

    References
    ----------
    As in `fastmlp.Adam` and `fastmlp.AdamW`.

    Examples
    --------
    >>> w, m, v = np.array([1.0]), np.zeros(1), np.zeros(1)
    >>> adam_update(w, np.array([2.0]), m, v, 1, 0.1)
    >>> w.round(6)
    array([0.9])
    """
    kind = AdamW if check_flag("decoupled", decoupled) else Adam
    optimizer = kind(1.0, beta1, beta2, epsilon, weight_decay, epsilon_hat)
    slots = {"first_moment": first_moment, "second_moment": second_moment}
    g = check_update(optimizer, learning_rate, parameters, gradients, slots)
    check_count("step", step)
    adam_step(optimizer, parameters, g, list(slots.values()), step, learning_rate)


def adam_step(
    optimizer: Adam, parameters: Array, g: Array, slots: Sequence[Array], step: int, learning_rate: float
) -> None:
    """`adam_update` without its checks."""
    T, (first_moment, second_moment) = parameters.dtype.type, slots
    beta1, beta2, epsilon = optimizer.beta1, optimizer.beta2, optimizer.epsilon
    weight_decay, decoupled = optimizer.weight_decay, isinstance(optimizer, AdamW)
    if weight_decay and not decoupled:
        g = g + T(weight_decay) * parameters
    first_moment *= T(beta1)
    first_moment += T(1.0 - beta1) * g
    second_moment *= T(beta2)
    second_moment += T(1.0 - beta2) * g * g
    correction = 1.0 / math.sqrt(1.0 - beta2**step)
    root = np.sqrt(second_moment)
    root *= T(correction)
    root += T(correction * epsilon if optimizer.epsilon_hat else epsilon)
    change = T(learning_rate / (1.0 - beta1**step)) * first_moment / root
    if weight_decay and decoupled:  # Not by a factor near 1, which float32 would round to it.
        change += T(learning_rate * weight_decay) * parameters
    parameters -= change


def rmsprop_update(
    parameters: Array,
    gradients: Array,
    mean_square: Array,
    learning_rate: float,
    rho: float = 0.99,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """One step of `fastmlp.RMSprop`, in place.

    With ``g = gradients + weight_decay * w``: ``s = rho * s + (1 - rho) * g²``,
    ``w = w - learning_rate * g / (√s + epsilon)``.

    Parameters
    ----------
    parameters, mean_square : ndarray
        w and s, of one shape and dtype, float32 or float64; changed in place.
    gradients : ndarray
        Of that shape, float32 or float64.
    learning_rate, rho, epsilon, weight_decay : float
        As in `fastmlp.RMSprop`; the rate may be 0.

    Raises
    ------
    ValueError
        If the shapes differ, an array is of another dtype or None, one to be changed is read-only, or a number is out
        of its bounds.

    References
    ----------
    As in `fastmlp.RMSprop`.

    Examples
    --------
    >>> w, s = np.array([1.0]), np.zeros(1)
    >>> rmsprop_update(w, np.array([2.0]), s, 0.1, rho=0.75)
    >>> w.round(6)
    array([0.8])
    """
    optimizer = RMSprop(1.0, rho, epsilon, weight_decay)
    g = check_update(optimizer, learning_rate, parameters, gradients, {"mean_square": mean_square})
    rmsprop_step(optimizer, parameters, g, [mean_square], 1, learning_rate)


def rmsprop_step(
    optimizer: RMSprop, parameters: Array, g: Array, slots: Sequence[Array], step: int, learning_rate: float
) -> None:
    """`rmsprop_update` without its checks."""
    T, (mean_square,) = parameters.dtype.type, slots
    if optimizer.weight_decay:
        g = g + T(optimizer.weight_decay) * parameters
    mean_square *= T(optimizer.rho)
    mean_square += T(1.0 - optimizer.rho) * g * g
    parameters -= T(learning_rate) * g / (np.sqrt(mean_square) + T(optimizer.epsilon))


STEPS: dict[str, Callable[..., None]] = {
    "sgd": sgd_step, "adam": adam_step, "adamw": adam_step, "rmsprop": rmsprop_step,
}  # fmt: skip
"""The steps by the optimizers' names."""
