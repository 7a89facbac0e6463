"""Losses, and their derivatives by the network's last layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.reference.activations import sigmoid
from fastmlp.shapes import check_class_targets, check_real, check_softmax, check_value_targets, reduction_factor
from fastmlp.spec import check_number

Array = NDArray[Any]


def softmax(Z: Array, out: Array | None = None) -> Array:
    """Softmax of each row, ``P = exp(Z) / Σ exp(Z)``, shifted by the row's maximum so that it cannot overflow.

    Parameters
    ----------
    Z : ndarray (..., n_classes)
        Logits, float32 or float64: rows along the last of any number of axes, one or more, with n_classes >= 1.
    out : ndarray (..., n_classes), optional
        Where to write P; may be Z itself.

    Returns
    -------
    ndarray (..., n_classes)
        Rows that sum to one, of the dtype of Z.

    Raises
    ------
    ValueError
        If Z is not such an array, or `out` is not a writable one of its shape and dtype.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press 2016, section 4.1.

    Examples
    --------
    >>> softmax(np.array([[1e4, 1e4]]))
    array([[0.5, 0.5]])
    """
    P: Array = np.subtract(check_softmax(Z, out), Z.max(axis=-1, keepdims=True), out=out)
    np.exp(P, out=P)
    P /= P.sum(axis=-1, keepdims=True)
    return P


def reduced(losses: Array, dZ: Array, reduction: str) -> tuple[float, Array]:
    """Reduce the losses of the rows to one, and scale their derivatives, which are changed, alike."""
    scale = reduction_factor(reduction, len(losses))
    dZ *= dZ.dtype.type(scale)
    return float(losses.sum(dtype=np.float64)) * scale, dZ


def softmax_cross_entropy(Z: Array, y: Array, reduction: str = "mean") -> tuple[float, Array]:
    """Cross-entropy of ``softmax(Z)`` against classes: ``-log P[y]``, and its derivative ``P - onehot(y)``.

    Parameters
    ----------
    Z : ndarray (n_samples, n_classes)
        Logits, float32 or float64.
    y : ndarray (n_samples,) or (n_samples, n_classes)
        Class indices, of any integer dtype, or one-hot rows, of any real dtype.
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
        If the shapes do not match, Z or y is not an array of such a dtype, a class is not in ``0 ... n_classes - 1``, a
        row is not one-hot, there are no samples, or `reduction` is unknown.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, equations 4.108 and 4.109.

    Examples
    --------
    >>> loss, dZ = softmax_cross_entropy(np.array([[0.0, 0.0]]), np.array([1]))
    >>> round(loss, 4), dZ.tolist()
    (0.6931, [[0.5, -0.5]])
    """
    return reduced(*softmax_cross_entropy_rows(Z, check_class_targets(check_real(Z).shape, y)), reduction)


def softmax_cross_entropy_rows(
    Z: Array, classes: NDArray[np.int64], cap: float = np.inf, smoothing: float = 0.0
) -> tuple[Array, Array]:
    """`softmax_cross_entropy` of each row, without the checks and the reduction, which the training loop does.

    No row's loss is more than `cap`. With `smoothing`, against the targets
    ``(1 - smoothing) onehot + smoothing / n_classes``.
    """
    rows = np.arange(len(Z))
    dZ = Z - Z.max(axis=1, keepdims=True)
    at_target = dZ[rows, classes]
    shift = smoothing * (at_target - dZ.mean(axis=1)) if smoothing else 0.0
    np.exp(dZ, out=dZ)
    total = dZ.sum(axis=1, keepdims=True)
    losses = np.minimum(np.log(total[:, 0]) - at_target, Z.dtype.type(cap)) + shift
    dZ /= total
    dZ[rows, classes] -= 1.0 - smoothing
    if smoothing:
        dZ -= dZ.dtype.type(smoothing / Z.shape[1])
    return losses, dZ


def sigmoid_cross_entropy(Z: Array, y: Array, reduction: str = "mean") -> tuple[float, Array]:
    """Binary cross-entropy of ``sigmoid(Z)``, summed over the outputs, and its derivative ``sigmoid(Z) - y``.

    ``loss = max(Z, 0) - y Z + log(1 + exp(-|Z|))``, which is finite for every finite Z.

    Parameters
    ----------
    Z : ndarray (n_samples, n_outputs)
        Logits, float32 or float64.
    y : ndarray (n_samples, n_outputs), or (n_samples,) with one output
        Targets in [0, 1], which is not checked, of any real dtype.
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
        If the shapes do not match, Z or y is not an array of such a dtype, there are no samples, or `reduction` is
        unknown.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, equations 4.90 and 4.91.

    Examples
    --------
    >>> loss, dZ = sigmoid_cross_entropy(np.array([[0.0]]), np.array([1.0]))
    >>> round(loss, 4), dZ.tolist()
    (0.6931, [[-0.5]])
    """
    return reduced(*sigmoid_cross_entropy_rows(Z, check_value_targets("Z", Z, y)), reduction)


def sigmoid_cross_entropy_rows(Z: Array, Y: Array, cap: float = np.inf) -> tuple[Array, Array]:
    """`sigmoid_cross_entropy` of each row. No term of the loss counts more than `cap`."""
    losses = np.minimum(np.maximum(Z, 0) - Y * Z + np.log1p(np.exp(-np.abs(Z))), Z.dtype.type(cap))
    return losses.sum(axis=1, dtype=np.float64), sigmoid(Z) - Y


def squared_error(A: Array, y: Array, reduction: str = "mean") -> tuple[float, Array]:
    """Half the squared error, ``½ Σ (A - y)²`` over the outputs, and its derivative ``A - y``.

    Parameters
    ----------
    A : ndarray (n_samples, n_outputs)
        The network's outputs ŷ, float32 or float64.
    y : ndarray (n_samples, n_outputs), or (n_samples,) with one output
        Targets, of any real dtype.
    reduction : {"mean", "sum"}
        Over the samples.

    Returns
    -------
    loss : float
        In the square of the targets' unit.
    dA : ndarray (n_samples, n_outputs)
        The derivative by the *output* A, in its dtype; the output activation's backward gives dZ.

    Raises
    ------
    ValueError
        If the shapes do not match, A or y is not an array of such a dtype, there are no samples, or `reduction` is
        unknown.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, equation 5.11.

    Examples
    --------
    >>> loss, dA = squared_error(np.array([[3.0]]), np.array([1.0]))
    >>> loss, dA.tolist()
    (2.0, [[2.0]])
    """
    return reduced(*squared_error_rows(A, check_value_targets("A", A, y)), reduction)


def squared_error_rows(A: Array, Y: Array) -> tuple[Array, Array]:
    """`squared_error` of each row."""
    dA = A - Y
    return 0.5 * np.square(dA, dtype=np.float64).sum(axis=1), dA


def poisson(Z: Array, y: Array, reduction: str = "mean") -> tuple[float, Array]:
    """Half the Poisson deviance of counts, their mean being ``exp(Z)``, and its derivative ``exp(Z) - y``.

    ``loss = y log(y / exp(Z)) - y + exp(Z)``, summed over the outputs; the first term is 0 where y is.

    Parameters
    ----------
    Z : ndarray (n_samples, n_outputs)
        Logarithms of the means, float32 or float64.
    y : ndarray (n_samples, n_outputs), or (n_samples,) with one output
        Targets >= 0, which is not checked, of any real dtype.
    reduction : {"mean", "sum"}
        Over the samples.

    Returns
    -------
    loss : float
        >= 0, and 0 where ``exp(Z) = y``.
    dZ : ndarray (n_samples, n_outputs)
        Of the dtype of Z.

    Raises
    ------
    ValueError
        If the shapes do not match, Z or y is not an array of such a dtype, there are no samples, or `reduction` is
        unknown.

    References
    ----------
    P. McCullagh, J. A. Nelder, "Generalized Linear Models", Chapman and Hall 1989, section 2.3.

    Examples
    --------
    >>> loss, dZ = poisson(np.array([[0.0, 0.0]]), np.array([[2.0, 0.0]]))
    >>> round(loss, 4), dZ.tolist()
    (1.3863, [[-1.0, 1.0]])
    """
    return reduced(*poisson_rows(Z, check_value_targets("Z", Z, y)), reduction)


def poisson_rows(Z: Array, Y: Array) -> tuple[Array, Array]:
    """`poisson` of each row."""
    mean = np.exp(Z)
    losses = mean.astype(np.float64)  # Where y is 0.
    others = ~(Y <= 0) & (mean < np.inf)
    # y (t + exp(-t) - 1), t = log(y / mean), in float64: the terms nearly cancel where the mean is nearly y.
    y = Y[others].astype(np.float64)
    t = np.log(y) - Z[others]
    losses[others] = np.where(-t >= 700.0, mean[others], y * (t + np.expm1(np.minimum(-t, 700.0))))
    return losses.sum(axis=1), mean - Y


def absolute_error(A: Array, y: Array, reduction: str = "mean") -> tuple[float, Array]:
    """Absolute error, ``Σ |A - y|`` over the outputs, and its derivative, the sign of ``A - y`` (0 at 0).

    Parameters
    ----------
    A : ndarray (n_samples, n_outputs)
        The network's outputs ŷ, float32 or float64.
    y : ndarray (n_samples, n_outputs), or (n_samples,) with one output
        Targets, of any real dtype.
    reduction : {"mean", "sum"}
        Over the samples.

    Returns
    -------
    loss : float
        In the targets' unit.
    dA : ndarray (n_samples, n_outputs)
        The derivative by the *output* A, in its dtype; the output activation's backward gives dZ.

    Raises
    ------
    ValueError
        If the shapes do not match, A or y is not an array of such a dtype, there are no samples, or `reduction` is
        unknown.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, section 1.5.5.

    Examples
    --------
    >>> loss, dA = absolute_error(np.array([[3.0]]), np.array([1.0]))
    >>> loss, dA.tolist()
    (2.0, [[1.0]])
    """
    return reduced(*absolute_error_rows(A, check_value_targets("A", A, y)), reduction)


def absolute_error_rows(A: Array, Y: Array) -> tuple[Array, Array]:
    """`absolute_error` of each row."""
    difference = A - Y
    return np.abs(difference).sum(axis=1, dtype=np.float64), np.sign(difference)


def huber(A: Array, y: Array, delta: float = 1.0, reduction: str = "mean") -> tuple[float, Array]:
    """Huber's loss: half the squared error near the target, linear beyond, summed over the outputs.

    With ``r = A - y`` it is ``½ r²`` where ``|r| <= δ``, else ``δ (|r| - ½ δ)``; its derivative is r, cut off at ±δ.

    Parameters
    ----------
    A : ndarray (n_samples, n_outputs)
        The network's outputs ŷ, float32 or float64.
    y : ndarray (n_samples, n_outputs), or (n_samples,) with one output
        Targets, of any real dtype.
    delta : float
        δ > 0, in the targets' unit.
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
        If the shapes do not match, A or y is not an array of such a dtype, delta is not above 0, there are no
        samples, or `reduction` is unknown.

    References
    ----------
    P. J. Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35, 1964.

    Examples
    --------
    >>> loss, dA = huber(np.array([[3.0, 1.5]]), np.array([[1.0, 1.0]]))
    >>> loss, dA.tolist()
    (1.625, [[1.0, 0.5]])
    """
    delta = check_number("delta", delta, above=0.0)
    return reduced(*huber_rows(A, check_value_targets("A", A, y), delta), reduction)


def huber_rows(A: Array, Y: Array, delta: float) -> tuple[Array, Array]:
    """`huber` of each row."""
    difference = A - Y
    near = np.clip(difference, -delta, delta)
    return (near.astype(np.float64) * (difference - 0.5 * near)).sum(axis=1), near


def quantile(A: Array, y: Array, level: float = 0.5, reduction: str = "mean") -> tuple[float, Array]:
    """Pinball loss, whose minimum is at a quantile of y, summed over the outputs.

    It is ``level (y - A)`` where ``A < y``, else ``(1 - level) (A - y)``; its derivative is ``-level``,
    ``1 - level``, or 0 where A = y.

    Parameters
    ----------
    A : ndarray (n_samples, n_outputs)
        The network's outputs ŷ, float32 or float64.
    y : ndarray (n_samples, n_outputs), or (n_samples,) with one output
        Targets, of any real dtype.
    level : float
        Of the quantile, in (0, 1).
    reduction : {"mean", "sum"}
        Over the samples.

    Returns
    -------
    loss : float
        In the targets' unit.
    dA : ndarray (n_samples, n_outputs)
        The derivative by the *output* A, in its dtype; the output activation's backward gives dZ.

    Raises
    ------
    ValueError
        If the shapes do not match, A or y is not an array of such a dtype, level is not in (0, 1), there are no
        samples, or `reduction` is unknown.

    References
    ----------
    R. Koenker, G. Bassett, "Regression quantiles", Econometrica 46, 1978.

    Examples
    --------
    >>> loss, dA = quantile(np.array([[3.0, 0.0]]), np.array([[1.0, 1.0]]), level=0.75)
    >>> loss, dA.tolist()
    (1.25, [[0.25, -0.75]])
    """
    level = check_number("level", level, above=0.0, below=1.0)
    return reduced(*quantile_rows(A, check_value_targets("A", A, y), level), reduction)


def quantile_rows(A: Array, Y: Array, level: float) -> tuple[Array, Array]:
    """`quantile` of each row."""
    difference = A - Y
    slopes = np.where(difference > 0, 1.0 - level, np.where(difference < 0, -level, difference))  # NaN must survive.
    dA = slopes.astype(A.dtype)
    return (dA * difference).sum(axis=1, dtype=np.float64), dA
