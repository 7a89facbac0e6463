"""What a network is, as data: the specification that both engines are built from.

The names that users may write are listed here once, with the rule for each, so that every room that meets a name
agrees on it and every wrong name gets the same kind of answer.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "silu", "softplus")
"""Activations of the hidden layers."""


@dataclass(frozen=True)
class LossRule:
    """What follows from the choice of a loss.

    Attributes
    ----------
    output_activation : str
        The one it has unless another is chosen.
    takes_logits : bool
        Whether it is a loss of the outputs before that activation, which is then a part of it, and cannot be chosen.
    is_classifier : bool
        Whether its targets are classes or labels.
    parameter : float, optional
        The default of its parameter, if it has one, which is above 0.
    parameter_below : float, optional
        What its parameter must be below.
    targets : (float, float)
        What its targets must lie between, if they are no class indices.
    """

    output_activation: str = "identity"
    takes_logits: bool = False
    is_classifier: bool = False
    parameter: float | None = None
    parameter_below: float | None = None
    targets: tuple[float, float] = (-np.inf, np.inf)


LOSSES = {
    "softmax_cross_entropy": LossRule("softmax", takes_logits=True, is_classifier=True),
    "sigmoid_cross_entropy": LossRule("sigmoid", takes_logits=True, is_classifier=True, targets=(0.0, 1.0)),
    "squared_error": LossRule(),
    "poisson": LossRule("exp", takes_logits=True, targets=(0.0, np.inf)),
    "absolute_error": LossRule(),
    "huber": LossRule(parameter=1.0),
    "quantile": LossRule(parameter=0.5, parameter_below=1.0),
}

ENGINES = ("numba", "numpy")
REDUCTIONS = ("mean", "sum")
DTYPES = ("float32", "float64")
INITIALISERS = ("he_normal", "he_uniform", "glorot_normal", "glorot_uniform")
BACKWARD_TAKES_INPUT = ("gelu", "silu")
"""The activations whose derivative is computed from the input Z, and not from the output A."""
RELU_FAMILY = ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus")


@dataclass(frozen=True)
class NetworkSpec:
    """A network without its parameters. Built by :func:`make_spec`, which checks every field.

    Attributes
    ----------
    layer_sizes : tuple of int
        Units a layer, inputs first, outputs last.
    activations : tuple of str
        One name for each hidden layer.
    output_activation : str
        ``"softmax"``, ``"exp"`` or a name of `ACTIVATIONS`.
    loss, reduction, dtype : str
        As in `fastmlp.MLP`.
    bias : bool
        Whether the layers add a bias.
    input_scale : float
        X is multiplied by it before the first layer.
    loss_parameter : float or None
        Of a loss that has one.
    """

    layer_sizes: tuple[int, ...]
    activations: tuple[str, ...]
    output_activation: str
    loss: str
    reduction: str
    bias: bool
    input_scale: float
    dtype: str
    loss_parameter: float | None = None

    @property
    def n_layers(self) -> int:
        """Number of affine layers."""
        return len(self.layer_sizes) - 1

    @property
    def is_classifier(self) -> bool:
        """Whether `predict` gives classes."""
        return LOSSES[self.loss].is_classifier

    @property
    def loss_takes_logits(self) -> bool:
        """Whether the output activation is a part of the loss, so that an engine's outputs come without it."""
        return LOSSES[self.loss].takes_logits

    def as_call(self, engine: str) -> str:
        """Write the call that makes such a network; most arguments only where they are not the default."""
        rule, names = LOSSES[self.loss], self.activations
        arguments: dict[str, Any] = {"activation": names[0] if len(set(names)) == 1 else list(names)}
        if self.output_activation != rule.output_activation:
            arguments["output_activation"] = self.output_activation
        arguments["loss"] = self.loss
        if self.loss_parameter != rule.parameter:
            arguments["loss_parameter"] = self.loss_parameter
        for argument, default in (("reduction", "mean"), ("bias", True), ("input_scale", 1.0)):
            if getattr(self, argument) != default:
                arguments[argument] = getattr(self, argument)
        arguments |= {"dtype": self.dtype, "engine": engine}
        shown_arguments = ", ".join(f"{argument}={value!r}" for argument, value in arguments.items())
        return f"MLP({list(self.layer_sizes)}, {shown_arguments})"


def make_spec(
    layer_sizes: Sequence[int],
    activation: str | Sequence[str],
    output_activation: str | None,
    loss: str,
    reduction: str,
    bias: bool,
    input_scale: float,
    dtype: Any,
    loss_parameter: float | None = None,
) -> NetworkSpec:
    """Check the arguments of `fastmlp.MLP` and gather them in a `NetworkSpec`."""
    sizes = check_layer_sizes(layer_sizes)
    n_hidden = len(sizes) - 2
    if isinstance(activation, str) or not isinstance(activation, Iterable):
        activations = (check_name("activation", activation, ACTIVATIONS),) * n_hidden
    else:
        activations = tuple(check_name("activation", name, ACTIVATIONS) for name in activation)
        if len(activations) != n_hidden:
            raise ValueError(
                f"activation must name one function for each of the {n_hidden} hidden layers, got {len(activations)}"
            )
    rule = LOSSES[check_name("loss", loss, LOSSES)]
    if output_activation is None:
        output_activation = rule.output_activation
    check_name("output_activation", output_activation, (*ACTIVATIONS, "softmax", "exp"))
    fits = (rule.output_activation,) if rule.takes_logits else ACTIVATIONS
    if output_activation not in fits:
        raise ValueError(
            f"output_activation with loss {loss!r} must be one of {', '.join(fits)}, got {output_activation!r}"
        )
    check_name("reduction", reduction, REDUCTIONS)
    dtype = check_name("dtype", dtype_name(dtype), DTYPES)
    input_scale = check_number("input_scale", input_scale, above=0.0)
    with np.errstate(over="ignore", under="ignore"):
        if not 0.0 < np.dtype(dtype).type(input_scale) < np.inf:
            raise ValueError(f"input_scale must be > 0 and finite in {dtype}, got {input_scale:g}")
        loss_parameter = check_loss_parameter(loss, loss_parameter)
        if loss_parameter is not None and not np.dtype(dtype).type(loss_parameter) > 0.0:
            raise ValueError(f"loss_parameter must be > 0 in {dtype}, got {loss_parameter:g}")
    return NetworkSpec(
        layer_sizes=sizes,
        activations=activations,
        output_activation=output_activation,
        loss=loss,
        reduction=reduction,
        bias=check_flag("bias", bias),
        input_scale=input_scale,
        dtype=dtype,
        loss_parameter=loss_parameter,
    )


def check_loss_parameter(loss: str, value: float | None) -> float | None:
    """Return the loss's parameter, its default if None is given; raise ValueError if it is not one of this loss."""
    rule = LOSSES[loss]
    if rule.parameter is None:
        if value is not None:
            raise ValueError(f"loss_parameter must be None for loss {loss!r}, got {shown(value)}")
        return None
    value = rule.parameter if value is None else value
    return check_number("loss_parameter", value, above=0.0, below=rule.parameter_below)


def shown(value: Any) -> str:
    """Give a value as a message shows it: on one line, and not a long one."""
    text = " ".join(repr(value).split()) if isinstance(value, np.ndarray) else repr(value).replace("\n", " ")
    return text if len(text) <= 100 else f"{text[:97]}..."


def dtype_name(dtype: Any) -> str:
    """Give the name of a dtype written as a string, a NumPy type or a NumPy dtype."""
    if dtype is None:  # NumPy would take it for float64.
        return "None"
    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        return str(dtype)


def check_layer_sizes(layer_sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the layer sizes as a tuple of ints, or raise ValueError."""
    try:
        if any(isinstance(size, bool) for size in layer_sizes):
            raise TypeError
        sizes = tuple(operator.index(size) for size in layer_sizes)
    except TypeError:
        raise ValueError(f"layer_sizes must be a sequence of whole numbers, got {shown(layer_sizes)}") from None
    if len(sizes) < 2:
        raise ValueError(f"layer_sizes must name at least inputs and outputs, got {shown(list(sizes))}")
    if min(sizes) < 1:
        raise ValueError(f"layer_sizes must all be >= 1, got {shown(list(sizes))}")
    return sizes


NAMES_ELSEWHERE = {
    "linear": "identity",
    "logistic": "sigmoid",
    "swish": "silu",
    "mse": "squared_error",
    "mean_squared_error": "squared_error",
    "mae": "absolute_error",
    "mean_absolute_error": "absolute_error",
    "bce": "sigmoid_cross_entropy",
    "binary_crossentropy": "sigmoid_cross_entropy",
    "binary_cross_entropy": "sigmoid_cross_entropy",
    "log_loss": "softmax_cross_entropy",
    "nll": "softmax_cross_entropy",
    "pinball": "quantile",
    "kaiming": "he_normal",
    "kaiming_normal": "he_normal",
    "kaiming_uniform": "he_uniform",
    "xavier": "glorot_normal",
    "xavier_normal": "glorot_normal",
    "xavier_uniform": "glorot_uniform",
}
"""What other libraries call some of these: for suggestions, where the nearest spelling would be another thing."""


def check_name(what: str, name: Any, known: Iterable[str]) -> str:
    """Return `name` if it is a known one; else raise ValueError that lists them and suggests one."""
    known = tuple(known)
    if isinstance(name, str) and name in known:
        return name
    own = NAMES_ELSEWHERE.get(name.lower()) if isinstance(name, str) else None
    hint = did_you_mean(own if own in known else name, known)
    raise ValueError(f"{what} must be one of {', '.join(known)}, got {shown(name)}{hint}")


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """Suggest the known name that is nearest to an unknown one; nothing if none is near."""
    if not isinstance(name, str):
        return ""
    spellings = {candidate.lower(): candidate for candidate in islice(known, 10_000)}  # A forged file may have more.
    near = difflib.get_close_matches(name.lower(), spellings, n=1)
    return f" (did you mean {spellings[near[0]]!r}?)" if near else ""


def check_flag(what: str, value: Any) -> bool:
    """Return `value` as a bool if it is one, or 0 or 1; else raise ValueError: the string "no" is true in Python."""
    if isinstance(value, bool | np.bool_ | int) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{what} must be True or False, got {shown(value)}")


def check_count(what: str, value: Any, minimum: int = 1) -> int:
    """Return `value` as an int that is at least `minimum`, or raise ValueError."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{what} must be a whole number, got {shown(value)}") from None
    if number < minimum:
        raise ValueError(f"{what} must be >= {minimum}, got {number}")
    return number


def check_number(
    what: str,
    value: Any,
    *,
    above: float | None = None,
    minimum: float | None = None,
    below: float | None = None,
) -> float:
    """Return `value` as a finite float within the bounds, or raise ValueError."""
    try:
        # float() would take "0.1", and whoever computes with it would not; and True is no number.
        if isinstance(value, str | bytes | bool | np.bool_):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # The last: a whole number beyond any float.
        raise ValueError(f"{what} must be a number, got {shown(value)}") from None
    if not math.isfinite(number):
        raise ValueError(f"{what} must be finite, got {number}")
    if above is not None and not number > above:
        raise ValueError(f"{what} must be > {above:g}, got {number:g}")
    if minimum is not None and not number >= minimum:
        raise ValueError(f"{what} must be >= {minimum:g}, got {number:g}")
    if below is not None and not number < below:
        raise ValueError(f"{what} must be < {below:g}, got {number:g}")
    return number
