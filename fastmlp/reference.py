"""The whole of the numerics in plain NumPy: the oracle of the tests and the peer of the benchmarks.

Every public function here has a twin of the same name and signature in `fastmlp.kernels`. This is the one place where
a formula is written a second time, on purpose: it is meant to be read beside a textbook and to be right.

Shapes: ``X (n_samples, n_in)``, ``W (n_in, n_out)``, ``b (n_out,)``, ``Z`` before an activation and ``A`` after it
``(n_samples, n_out)``; ``dZ`` is the derivative of the loss by ``Z``, and so on. Dtype float32 or float64; `X` may also
be uint8 where it meets a `W`. No input is ever modified, except the arrays that an ``..._update`` is called to change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.optimizers import SGD, Adam, Optimizer, RMSprop
from fastmlp.parameters import ParameterLayout
from fastmlp.shapes import (
    check_affine,
    check_backward,
    check_class_targets,
    check_forward,
    check_out,
    check_real,
    check_softmax,
    check_update,
    check_value_targets,
    reduction_factor,
)
from fastmlp.spec import check_count

Array = NDArray[Any]

LEAKY_SLOPE = 0.01
"""Slope of `leaky_relu` below zero, PyTorch's default."""


# --- The affine layer -------------------------------------------------------------------------------------------------


def affine_forward(X: Array, W: Array, b: Array | None = None, out: Array | None = None) -> Array:
    """Affine map of a batch: ``Y = X W + b``.

    Parameters
    ----------
    X : ndarray (n_samples, n_in)
        float32, float64 or uint8; converted to the dtype of `W`.
    W : ndarray (n_in, n_out)
        float32 or float64.
    b : ndarray (n_out,), optional
        No bias if None.
    out : ndarray (n_samples, n_out), optional
        Where to write Y.

    Returns
    -------
    ndarray (n_samples, n_out)
        Of the dtype of `W`.

    Raises
    ------
    ValueError
        If the shapes do not align; names both.

    Examples
    --------
    >>> affine_forward(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), np.array([5.0]))
    array([[16.]])
    """
    check_affine(X, W, b)
    check_out(out, (X.shape[0], W.shape[1]), W.dtype)
    Y: Array = np.matmul(X.astype(W.dtype, copy=False), W, out=out)
    if b is not None:
        Y += b
    return Y


def affine_backward(X: Array, W: Array, dY: Array) -> tuple[Array, Array, Array]:
    """Backward pass of `affine_forward` for a batch: ``dX = dY Wᵀ``, ``dW = Xᵀ dY``, ``db = Σ dY`` over the samples.

    Parameters
    ----------
    X : ndarray (n_samples, n_in)
        The layer's input.
    W : ndarray (n_in, n_out)
        Its weights.
    dY : ndarray (n_samples, n_out)
        Derivative of the loss by the layer's output.

    Returns
    -------
    dX, dW, db : ndarray
        Of the shapes of X, W and b, in the dtype of `W`.

    Raises
    ------
    ValueError
        If the shapes do not align; names both.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press 2016, section 6.5.

    Examples
    --------
    >>> dX, dW, db = affine_backward(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), np.array([[10.0]]))
    >>> dX.tolist(), dW.tolist(), db.tolist()
    ([[30.0, 40.0]], [[10.0], [20.0]], [10.0])
    """
    check_affine(X, W, None, dY)
    dY = dY.astype(W.dtype, copy=False)
    return dY @ W.T, X.astype(W.dtype, copy=False).T @ dY, dY.sum(axis=0)


# --- Activations ------------------------------------------------------------------------------------------------------


def identity(Z: Array, out: Array | None = None) -> Array:
    """Identity, ``A = Z``.

    Parameters
    ----------
    Z : ndarray
        Any shape, float32 or float64.
    out : ndarray, optional
        Where to write A; may be Z itself.

    Returns
    -------
    ndarray
        Of the shape and dtype of Z.

    Examples
    --------
    >>> identity(np.array([-1.0, 2.0]))
    array([-1.,  2.])
    """
    return np.positive(check_forward(Z, out), out=out)


def identity_backward(dA: Array, A: Array) -> Array:
    """``dZ = dA``. Takes the forward's output (or input: they are the same).

    Parameters
    ----------
    dA, A : ndarray
        Of one shape.

    Returns
    -------
    ndarray
        dZ, of that shape.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> identity_backward(np.array([3.0]), np.array([-1.0]))
    array([3.])
    """
    A = check_backward(dA, A)
    return np.positive(dA)


def relu(Z: Array, out: Array | None = None) -> Array:
    """Rectified linear unit, ``A = max(Z, 0)``.

    Parameters
    ----------
    Z : ndarray
        Any shape, float32 or float64. NaN stays NaN.
    out : ndarray, optional
        Where to write A; may be Z itself.

    Returns
    -------
    ndarray
        Of the shape and dtype of Z.

    References
    ----------
    V. Nair, G. Hinton, "Rectified linear units improve restricted Boltzmann machines", ICML 2010.

    Examples
    --------
    >>> relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    A: Array = np.maximum(check_forward(Z, out), Z.dtype.type(0), out=out)
    return A


def relu_backward(dA: Array, A: Array) -> Array:
    """``dZ = dA`` where the forward's output `A` is positive, else 0: the derivative at zero is taken as 0.

    Parameters
    ----------
    dA, A : ndarray
        Of one shape; A is the forward's *output*.

    Returns
    -------
    ndarray
        dZ, of that shape.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> relu_backward(np.array([3.0, 3.0]), np.array([0.0, 2.0]))
    array([0., 3.])
    """
    A = check_backward(dA, A)
    return dA * (A > 0)


def leaky_relu(Z: Array, out: Array | None = None) -> Array:
    """Leaky rectified linear unit: ``A = Z`` where positive, else ``0.01 Z``.

    Parameters
    ----------
    Z : ndarray
        Any shape, float32 or float64.
    out : ndarray, optional
        Where to write A; may be Z itself.

    Returns
    -------
    ndarray
        Of the shape and dtype of Z.

    References
    ----------
    A. Maas, A. Hannun, A. Ng, "Rectifier nonlinearities improve neural network acoustic models", ICML 2013.

    Examples
    --------
    >>> leaky_relu(np.array([-1.0, 2.0]))
    array([-0.01,  2.  ])
    """
    A: Array = np.maximum(check_forward(Z, out), Z * Z.dtype.type(LEAKY_SLOPE), out=out)
    return A


def leaky_relu_backward(dA: Array, A: Array) -> Array:
    """``dZ = dA`` where the forward's output `A` is positive, else ``0.01 dA``.

    Parameters
    ----------
    dA, A : ndarray
        Of one shape; A is the forward's *output*, whose sign is the input's.

    Returns
    -------
    ndarray
        dZ, of that shape.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> leaky_relu_backward(np.array([3.0, 3.0]), np.array([-0.01, 2.0]))
    array([0.03, 3.  ])
    """
    A = check_backward(dA, A)
    return np.where(A > 0, dA, dA * dA.dtype.type(LEAKY_SLOPE))


def elu(Z: Array, out: Array | None = None) -> Array:
    """Exponential linear unit: ``A = Z`` where positive, else ``exp(Z) - 1``.

    Parameters
    ----------
    Z : ndarray
        Any shape, float32 or float64.
    out : ndarray, optional
        Where to write A; may be Z itself.

    Returns
    -------
    ndarray
        Of the shape and dtype of Z.

    References
    ----------
    D.-A. Clevert, T. Unterthiner, S. Hochreiter, "Fast and accurate deep network learning by exponential linear
    units", ICLR 2016.

    Examples
    --------
    >>> elu(np.array([-1.0, 2.0])).round(4)
    array([-0.6321,  2.    ])
    """
    zero = check_forward(Z, out).dtype.type(0)
    below = np.expm1(np.minimum(Z, zero))
    A: Array = np.add(np.maximum(Z, zero), below, out=out)
    return A


def elu_backward(dA: Array, A: Array) -> Array:
    """``dZ = dA`` where the forward's output `A` is positive, else ``dA (A + 1)``.

    Parameters
    ----------
    dA, A : ndarray
        Of one shape; A is the forward's *output*.

    Returns
    -------
    ndarray
        dZ, of that shape.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> elu_backward(np.array([2.0, 2.0]), np.array([-0.5, 2.0]))
    array([1., 2.])
    """
    A = check_backward(dA, A)
    dZ: Array = dA * (np.minimum(A, A.dtype.type(0)) + A.dtype.type(1))
    return dZ


def sigmoid(Z: Array, out: Array | None = None) -> Array:
    """Logistic function, ``A = 1 / (1 + exp(-Z))``, without overflow for any finite Z.

    Parameters
    ----------
    Z : ndarray
        Any shape, float32 or float64.
    out : ndarray, optional
        Where to write A; may be Z itself.

    Returns
    -------
    ndarray
        Of the shape and dtype of Z.

    Examples
    --------
    >>> sigmoid(np.array([-1e4, 0.0, 1e4]))
    array([0. , 0.5, 1. ])
    """
    e = np.exp(-np.abs(check_forward(Z, out)))
    A: Array = np.divide(np.where(Z >= 0, Z.dtype.type(1), e), e + Z.dtype.type(1), out=out)
    return A


def sigmoid_backward(dA: Array, A: Array) -> Array:
    """``dZ = dA A (1 - A)``.

    Parameters
    ----------
    dA, A : ndarray
        Of one shape; A is the forward's *output*.

    Returns
    -------
    ndarray
        dZ, of that shape.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> sigmoid_backward(np.array([4.0]), np.array([0.5]))
    array([1.])
    """
    A = check_backward(dA, A)
    dZ: Array = dA * A * (A.dtype.type(1) - A)
    return dZ


def tanh(Z: Array, out: Array | None = None) -> Array:
    """Hyperbolic tangent.

    Parameters
    ----------
    Z : ndarray
        Any shape, float32 or float64.
    out : ndarray, optional
        Where to write A; may be Z itself.

    Returns
    -------
    ndarray
        Of the shape and dtype of Z.

    Examples
    --------
    >>> tanh(np.array([0.0, 1e4]))
    array([0., 1.])
    """
    return np.tanh(check_forward(Z, out), out=out)


def tanh_backward(dA: Array, A: Array) -> Array:
    """``dZ = dA (1 - A²)``.

    Parameters
    ----------
    dA, A : ndarray
        Of one shape; A is the forward's *output*.

    Returns
    -------
    ndarray
        dZ, of that shape.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> tanh_backward(np.array([4.0]), np.array([0.5]))
    array([3.])
    """
    A = check_backward(dA, A)
    dZ: Array = dA * (A.dtype.type(1) - A * A)
    return dZ


def gelu(Z: Array, out: Array | None = None) -> Array:
    """Gaussian error linear unit in the exact form, ``A = Z Φ(Z) = Z (1 + erf(Z / √2)) / 2``.

    Parameters
    ----------
    Z : ndarray
        Any shape, float32 or float64.
    out : ndarray, optional
        Where to write A; may be Z itself.

    Returns
    -------
    ndarray
        Of the shape and dtype of Z.

    References
    ----------
    D. Hendrycks, K. Gimpel, "Gaussian error linear units (GELUs)", 2016.

    Examples
    --------
    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    return np.multiply(check_forward(Z, out), _normal_cdf(Z), out=out)


def gelu_backward(dA: Array, Z: Array) -> Array:
    """``dZ = dA (Φ(Z) + Z φ(Z))``, φ the normal density.

    Parameters
    ----------
    dA, Z : ndarray
        Of one shape; Z is the forward's *input*: gelu is not monotonic, so its output does not tell the derivative.

    Returns
    -------
    ndarray
        dZ, of that shape.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> gelu_backward(np.array([2.0]), np.array([0.0]))
    array([1.])
    """
    Z = check_backward(dA, Z, "Z")
    density = np.exp(Z * Z * Z.dtype.type(-0.5)) * Z.dtype.type(1.0 / math.sqrt(2.0 * math.pi))
    dZ: Array = dA * (_normal_cdf(Z) + Z * density)
    return dZ


def _normal_cdf(Z: Array) -> Array:
    """Φ(Z) by the C library's erfc, which keeps its precision in the lower tail. NumPy has none of its own."""
    flat = [0.5 * math.erfc(-z * math.sqrt(0.5)) for z in Z.ravel().tolist()]
    return np.array(flat, dtype=Z.dtype).reshape(Z.shape)


def silu(Z: Array, out: Array | None = None) -> Array:
    """Sigmoid linear unit (swish), ``A = Z sigmoid(Z)``.

    Parameters
    ----------
    Z : ndarray
        Any shape, float32 or float64.
    out : ndarray, optional
        Where to write A; may be Z itself.

    Returns
    -------
    ndarray
        Of the shape and dtype of Z.

    References
    ----------
    S. Elfwing, E. Uchibe, K. Doya, "Sigmoid-weighted linear units", Neural Networks 107, 2018.

    Examples
    --------
    >>> silu(np.array([0.0, 1.0])).round(4)
    array([0.    , 0.7311])
    """
    return np.multiply(check_forward(Z, out), sigmoid(Z), out=out)


def silu_backward(dA: Array, Z: Array) -> Array:
    """``dZ = dA S (1 + Z (1 - S))`` with ``S = sigmoid(Z)``.

    Parameters
    ----------
    dA, Z : ndarray
        Of one shape; Z is the forward's *input*: silu is not monotonic, so its output does not tell the derivative.

    Returns
    -------
    ndarray
        dZ, of that shape.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> silu_backward(np.array([2.0]), np.array([0.0]))
    array([1.])
    """
    Z = check_backward(dA, Z, "Z")
    S = sigmoid(Z)
    one = Z.dtype.type(1)
    dZ: Array = dA * S * (one + Z * (one - S))
    return dZ


def softplus(Z: Array, out: Array | None = None) -> Array:
    """Smooth rectifier, ``A = log(1 + exp(Z))``, without overflow.

    Parameters
    ----------
    Z : ndarray
        Any shape, float32 or float64.
    out : ndarray, optional
        Where to write A; may be Z itself.

    Returns
    -------
    ndarray
        Of the shape and dtype of Z.

    Examples
    --------
    >>> softplus(np.array([0.0, 1e4])).round(4)
    array([6.931e-01, 1.000e+04])
    """
    positive = np.maximum(check_forward(Z, out), Z.dtype.type(0))
    A: Array = np.add(positive, np.log1p(np.exp(-np.abs(Z))), out=out)
    return A


def softplus_backward(dA: Array, A: Array) -> Array:
    """``dZ = dA sigmoid(Z) = dA (1 - exp(-A))``.

    Parameters
    ----------
    dA, A : ndarray
        Of one shape; A is the forward's *output*.

    Returns
    -------
    ndarray
        dZ, of that shape.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> softplus_backward(np.array([2.0]), np.array([np.log(2.0)]))
    array([1.])
    """
    A = check_backward(dA, A)
    return dA * -np.expm1(-A)


def softmax(Z: Array, out: Array | None = None) -> Array:
    """Softmax of each row, ``P = exp(Z) / Σ exp(Z)``, shifted by the row's maximum so that it cannot overflow.

    Parameters
    ----------
    Z : ndarray (n_samples, n_classes)
        Logits, float32 or float64.
    out : ndarray (n_samples, n_classes), optional
        Where to write P; may be Z itself.

    Returns
    -------
    ndarray (n_samples, n_classes)
        Rows that sum to one.

    Examples
    --------
    >>> softmax(np.array([[1e4, 1e4]]))
    array([[0.5, 0.5]])
    """
    P: Array = np.subtract(check_softmax(Z, out), Z.max(axis=-1, keepdims=True), out=out)
    np.exp(P, out=P)
    P /= P.sum(axis=-1, keepdims=True)
    return P


# --- Losses -----------------------------------------------------------------------------------------------------------


def softmax_cross_entropy(Z: Array, y: Array, reduction: str = "mean") -> tuple[float, Array]:
    """Cross-entropy of ``softmax(Z)`` against classes: ``-log P[y]``, and its derivative ``P - onehot(y)``.

    Parameters
    ----------
    Z : ndarray (n_samples, n_classes)
        Logits, float32 or float64.
    y : ndarray (n_samples,) or (n_samples, n_classes)
        Class indices, or one-hot rows.
    reduction : {"mean", "sum"}
        Over the samples; applies to the loss and to dZ alike.

    Returns
    -------
    loss : float
        In nats.
    dZ : ndarray (n_samples, n_classes)
        Of the dtype of Z.

    Raises
    ------
    ValueError
        If the shapes do not match, or a class is not in ``0 ... n_classes - 1``.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, equations 4.108 and 4.109.

    Examples
    --------
    >>> loss, dZ = softmax_cross_entropy(np.array([[0.0, 0.0]]), np.array([1]))
    >>> round(loss, 4), dZ.tolist()
    (0.6931, [[0.5, -0.5]])
    """
    classes = check_class_targets(check_real(Z).shape, y)
    rows = np.arange(len(Z))
    dZ = Z - Z.max(axis=1, keepdims=True)
    at_class = dZ[rows, classes]
    np.exp(dZ, out=dZ)
    total = dZ.sum(axis=1, keepdims=True)
    loss = float(np.sum(np.log(total[:, 0]) - at_class, dtype=np.float64))
    dZ /= total
    dZ[rows, classes] -= 1
    scale = reduction_factor(reduction, len(Z))
    dZ *= dZ.dtype.type(scale)
    return loss * scale, dZ


def sigmoid_cross_entropy(Z: Array, y: Array, reduction: str = "mean") -> tuple[float, Array]:
    """Binary cross-entropy of ``sigmoid(Z)``, summed over the outputs, and its derivative ``sigmoid(Z) - y``.

    ``loss = max(Z, 0) - y Z + log(1 + exp(-|Z|))``, which is finite for every finite Z.

    Parameters
    ----------
    Z : ndarray (n_samples, n_outputs)
        Logits, float32 or float64.
    y : ndarray (n_samples, n_outputs), or (n_samples,) with one output
        Targets in [0, 1].
    reduction : {"mean", "sum"}
        Over the samples.

    Returns
    -------
    loss : float
        In nats.
    dZ : ndarray (n_samples, n_outputs)
        Of the dtype of Z.

    Raises
    ------
    ValueError
        If the shapes do not match.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, equations 4.90 and 4.91.

    Examples
    --------
    >>> loss, dZ = sigmoid_cross_entropy(np.array([[0.0]]), np.array([1.0]))
    >>> round(loss, 4), dZ.tolist()
    (0.6931, [[-0.5]])
    """
    Y = check_value_targets("Z", Z, y)
    loss = float(np.sum(np.maximum(Z, 0) - Y * Z + np.log1p(np.exp(-np.abs(Z))), dtype=np.float64))
    dZ = sigmoid(Z)
    dZ -= Y
    scale = reduction_factor(reduction, len(Z))
    dZ *= dZ.dtype.type(scale)
    return loss * scale, dZ


def squared_error(A: Array, y: Array, reduction: str = "mean") -> tuple[float, Array]:
    """Half the squared error, ``½ Σ (A - y)²`` over the outputs, and its derivative ``A - y``.

    Parameters
    ----------
    A : ndarray (n_samples, n_outputs)
        The network's outputs ŷ, float32 or float64.
    y : ndarray (n_samples, n_outputs), or (n_samples,) with one output
        Targets.
    reduction : {"mean", "sum"}
        Over the samples.

    Returns
    -------
    loss : float
        In the square of the targets' unit.
    dA : ndarray (n_samples, n_outputs)
        The derivative by the *output* A; the output activation's backward gives dZ.

    Raises
    ------
    ValueError
        If the shapes do not match.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, equation 5.11.

    Examples
    --------
    >>> loss, dA = squared_error(np.array([[3.0]]), np.array([1.0]))
    >>> loss, dA.tolist()
    (2.0, [[2.0]])
    """
    dA = A - check_value_targets("A", A, y)
    loss = 0.5 * float(np.sum(np.square(dA), dtype=np.float64))
    scale = reduction_factor(reduction, len(A))
    dA *= dA.dtype.type(scale)
    return loss * scale, dA


# --- Optimizer updates ------------------------------------------------------------------------------------------------


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

    Parameters
    ----------
    parameters, velocity : ndarray
        Of one shape; changed in place. `velocity` may be None without momentum.
    gradients : ndarray
        Of that shape.
    learning_rate, momentum, weight_decay : float
        As in `fastmlp.SGD`; the rate may be 0.
    nesterov : bool
        As in `fastmlp.SGD`.

    Raises
    ------
    ValueError
        If shapes or dtypes differ, or a number is out of its bounds.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> sgd_update(w, np.array([2.0]), None, 0.1)
    >>> w
    array([0.8])
    """
    optimizer = SGD(1.0, momentum, nesterov, weight_decay)
    slots = {"velocity": velocity} if momentum else {}
    gradients = check_update(optimizer, learning_rate, parameters, gradients, slots)
    _sgd(parameters, gradients, velocity, learning_rate, momentum, nesterov, weight_decay)


def _sgd(
    parameters: Array,
    gradients: Array,
    velocity: Array | None,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    """`sgd_update` without its checks, which the training loop need not repeat at every step."""
    T = parameters.dtype.type
    g = gradients + T(weight_decay) * parameters if weight_decay else gradients
    if momentum:
        assert velocity is not None
        velocity *= T(momentum)
        velocity += g
        g = g + T(momentum) * velocity if nesterov else velocity
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
) -> None:
    """One step of `fastmlp.Adam`, or of `fastmlp.AdamW` if `decoupled`, in place.

    Parameters
    ----------
    parameters, first_moment, second_moment : ndarray
        Of one shape; changed in place.
    gradients : ndarray
        Of that shape.
    step : int
        t >= 1, the number of this step, for the bias correction.
    learning_rate, beta1, beta2, epsilon, weight_decay : float
        As in `fastmlp.Adam`; the rate may be 0.
    decoupled : bool
        Weight decay as in AdamW.

    Raises
    ------
    ValueError
        If shapes or dtypes differ, or a number is out of its bounds.

    Examples
    --------
    >>> w, m, v = np.array([1.0]), np.zeros(1), np.zeros(1)
    >>> adam_update(w, np.array([2.0]), m, v, 1, 0.1)
    >>> w.round(6)
    array([0.9])
    """
    optimizer = Adam(1.0, beta1, beta2, epsilon, weight_decay)
    slots = {"first_moment": first_moment, "second_moment": second_moment}
    g = check_update(optimizer, learning_rate, parameters, gradients, slots)
    check_count("step", step)
    _adam(
        parameters, g, first_moment, second_moment, step, learning_rate, beta1, beta2, epsilon, weight_decay, decoupled
    )  # fmt: skip


def _adam(
    parameters: Array,
    g: Array,
    first_moment: Array,
    second_moment: Array,
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    """`adam_update` without its checks."""
    T = parameters.dtype.type
    if weight_decay and decoupled:
        parameters *= T(1.0 - learning_rate * weight_decay)
    elif weight_decay:
        g = g + T(weight_decay) * parameters
    first_moment *= T(beta1)
    first_moment += T(1.0 - beta1) * g
    second_moment *= T(beta2)
    second_moment += T(1.0 - beta2) * g * g
    root = np.sqrt(second_moment)
    root *= T(1.0 / math.sqrt(1.0 - beta2**step))
    root += T(epsilon)
    parameters -= T(learning_rate / (1.0 - beta1**step)) * first_moment / root


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

    Parameters
    ----------
    parameters, mean_square : ndarray
        Of one shape; changed in place.
    gradients : ndarray
        Of that shape.
    learning_rate, rho, epsilon, weight_decay : float
        As in `fastmlp.RMSprop`; the rate may be 0.

    Raises
    ------
    ValueError
        If shapes or dtypes differ, or a number is out of its bounds.

    Examples
    --------
    >>> w, s = np.array([1.0]), np.zeros(1)
    >>> rmsprop_update(w, np.array([2.0]), s, 0.1, rho=0.75)
    >>> w.round(6)
    array([0.8])
    """
    optimizer = RMSprop(1.0, rho, epsilon, weight_decay)
    gradients = check_update(optimizer, learning_rate, parameters, gradients, {"mean_square": mean_square})
    _rmsprop(parameters, gradients, mean_square, learning_rate, rho, epsilon, weight_decay)


def _rmsprop(
    parameters: Array,
    gradients: Array,
    mean_square: Array,
    learning_rate: float,
    rho: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """`rmsprop_update` without its checks."""
    T = parameters.dtype.type
    g = gradients + T(weight_decay) * parameters if weight_decay else gradients
    mean_square *= T(rho)
    mean_square += T(1.0 - rho) * g * g
    parameters -= T(learning_rate) * g / (np.sqrt(mean_square) + T(epsilon))


# --- The engine: the functions above, put together into a training loop -----------------------------------------------

Activation = Callable[..., Array]
Backward = Callable[[Array, Array], Array]

ACTIVATIONS: dict[str, tuple[Activation, Backward]] = {
    "identity": (identity, identity_backward),
    "relu": (relu, relu_backward),
    "leaky_relu": (leaky_relu, leaky_relu_backward),
    "elu": (elu, elu_backward),
    "sigmoid": (sigmoid, sigmoid_backward),
    "tanh": (tanh, tanh_backward),
    "gelu": (gelu, gelu_backward),
    "silu": (silu, silu_backward),
    "softplus": (softplus, softplus_backward),
}
BACKWARD_TAKES_INPUT = ("gelu", "silu")
LOSSES = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "squared_error": squared_error,
}


class Engine:
    """Forward, gradients and training steps of one network, on the flat parameter buffer.

    Parameters
    ----------
    layout : ParameterLayout
        The network and where its parameters stand.
    """

    name = "numpy"
    finds_not_finite = False

    def __init__(self, layout: ParameterLayout) -> None:
        self.layout = layout
        self.spec = layout.spec

    def choose_threads(self, batch_size: int, limit: int) -> int:
        """One: the BLAS behind NumPy has threads of its own."""
        return 1

    def compile(self, X: Array, optimizer: Optimizer | None = None) -> None:
        """Do nothing: there is nothing to compile."""

    def forward(self, parameters: Array, X: Array, threads: int | None = None) -> Array:
        """Compute the outputs ``(n_samples, n_out)``: logits for a cross-entropy, which does its activation itself."""
        Z = self._forward(parameters, self._scaled(X))[-1]
        return ACTIVATIONS[self.spec.output_activation][0](Z) if self.spec.loss == "squared_error" else Z

    def classes(self, parameters: Array, X: Array, threads: int | None = None) -> NDArray[np.intp]:
        """Compute the largest output of each sample."""
        classes: NDArray[np.intp] = self.forward(parameters, X).argmax(axis=1)
        return classes

    def gradients(self, parameters: Array, X: Array, y: Array) -> tuple[float, Array]:
        """Loss and its derivative by every parameter, as a flat buffer in the layout of `parameters`."""
        flat = self.layout.allocate()
        with np.errstate(over="ignore", invalid="ignore"):
            return self._gradients(parameters, self._scaled(X), y, flat), flat

    def train_steps(
        self,
        parameters: Array,
        slots: list[Array],
        X: Array,
        y: Array,
        orders: NDArray[np.int64],
        batch_size: int,
        first_batch: int,
        optimizer: Optimizer,
        first_step: int,
        learning_rates: NDArray[np.float64],
        threads: int,
    ) -> NDArray[np.float64]:
        """Take ``len(learning_rates)`` steps, one minibatch each, changing `parameters` and `slots` in place.

        Parameters
        ----------
        parameters : ndarray
            The flat buffer.
        slots : list of ndarray
            The optimizer's buffers.
        X, y : ndarray
            All samples.
        orders : ndarray (n_epochs, n_samples) or (1, n_samples)
            Row e is the order of the samples in the e-th epoch of this call; a single row serves them all.
        batch_size : int
            Samples a step; the last batch of an epoch may be shorter.
        first_batch : int
            Batch of the first epoch to begin with.
        optimizer : Optimizer
            What update to do.
        first_step : int
            Steps taken before in this run (Adam's bias correction counts them).
        learning_rates : ndarray (n_steps,)
            The rate of each step.
        threads : int
            Not used here.

        Returns
        -------
        ndarray (n_done,)
            The reduced loss of each step, before its update. If a loss is not finite, it is the last, and its update
            has not been done.
        """
        n_samples = len(X)
        n_batches = -(-n_samples // batch_size)
        gradient = self.layout.allocate()
        losses = np.empty(len(learning_rates))
        for i, learning_rate in enumerate(learning_rates):
            epoch, batch = divmod(first_batch + i, n_batches)
            order = orders[epoch % len(orders)]
            rows = order[batch * batch_size : (batch + 1) * batch_size]
            with np.errstate(over="ignore", invalid="ignore"):  # The loss tells what diverges, and the loop says so.
                losses[i] = self._gradients(parameters, self._scaled(X[rows]), y[rows], gradient)
                if not np.isfinite(losses[i]):
                    return losses[: i + 1]
                self._update(optimizer, parameters, gradient, slots, first_step + i + 1, float(learning_rate))
        return losses

    def _scaled(self, X: Array) -> Array:
        X = X.astype(self.spec.dtype, copy=False)
        return X if self.spec.input_scale == 1.0 else X * X.dtype.type(self.spec.input_scale)

    def _forward(self, parameters: Array, X: Array) -> list[Array]:
        """X, then each hidden layer's Z and A, then the last layer's Z."""
        tape = [X]
        weights, biases = self.layout.weights(parameters), self.layout.biases(parameters)
        for layer, W in enumerate(weights):
            Z = affine_forward(tape[-1], W, biases[layer] if biases else None)
            tape.append(Z)
            if layer < len(weights) - 1:
                name = self.spec.activations[layer]
                keep_input = name in BACKWARD_TAKES_INPUT
                tape.append(ACTIVATIONS[name][0](Z, out=None if keep_input else Z))
        return tape

    def _gradients(self, parameters: Array, X: Array, y: Array, flat: Array) -> float:
        """Write the gradient of one batch into `flat`; return the loss."""
        spec = self.spec
        tape = self._forward(parameters, X)
        Z = tape[-1]
        if spec.loss == "squared_error":
            activation, backward = ACTIVATIONS[spec.output_activation]
            A = activation(Z)
            loss, dA = squared_error(A, y, spec.reduction)
            dZ = backward(dA, Z if spec.output_activation in BACKWARD_TAKES_INPUT else A)
        else:
            loss, dZ = LOSSES[spec.loss](Z, y, spec.reduction)
        weights = self.layout.weights(parameters)
        dW, db = self.layout.weights(flat), self.layout.biases(flat)
        for layer in reversed(range(spec.n_layers)):
            A = tape[2 * layer]
            np.matmul(A.T, dZ, out=dW[layer])
            if db:
                np.sum(dZ, axis=0, out=db[layer])
            if layer:
                name = spec.activations[layer - 1]
                kept = tape[2 * layer - 1] if name in BACKWARD_TAKES_INPUT else A
                dZ = ACTIVATIONS[name][1](dZ @ weights[layer].T, kept)
        return loss

    def _update(
        self,
        optimizer: Optimizer,
        parameters: Array,
        gradient: Array,
        slots: list[Array],
        step: int,
        learning_rate: float,
    ) -> None:
        if isinstance(optimizer, SGD):
            velocity = slots[0] if slots else None
            _sgd(
                parameters,
                gradient,
                velocity,
                learning_rate,
                optimizer.momentum,
                optimizer.nesterov,
                optimizer.weight_decay,
            )
        elif isinstance(optimizer, Adam):
            _adam(
                parameters, gradient, slots[0], slots[1], step, learning_rate, optimizer.beta1, optimizer.beta2,
                optimizer.epsilon, optimizer.weight_decay, optimizer.name == "adamw",
            )  # fmt: skip
        elif isinstance(optimizer, RMSprop):
            _rmsprop(
                parameters,
                gradient,
                slots[0],
                learning_rate,
                optimizer.rho,
                optimizer.epsilon,
                optimizer.weight_decay,
            )
