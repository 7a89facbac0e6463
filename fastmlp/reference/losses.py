"""Losses, and their derivatives by the network's last layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.reference.activations import sigmoid
from fastmlp.shapes import check_class_targets, check_real, check_softmax, check_value_targets, reduction_factor

Array = NDArray[Any]


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
    return reduced(*softmax_cross_entropy_rows(Z, check_class_targets(check_real(Z).shape, y)), reduction)


def softmax_cross_entropy_rows(Z: Array, classes: NDArray[np.int64]) -> tuple[Array, Array]:
    """`softmax_cross_entropy` of each row, without the checks and the reduction, which the training loop does."""
    rows = np.arange(len(Z))
    dZ = Z - Z.max(axis=1, keepdims=True)
    at_class = dZ[rows, classes]
    np.exp(dZ, out=dZ)
    total = dZ.sum(axis=1, keepdims=True)
    losses = np.log(total[:, 0]) - at_class
    dZ /= total
    dZ[rows, classes] -= 1
    return losses, dZ


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
    return reduced(*sigmoid_cross_entropy_rows(Z, check_value_targets("Z", Z, y)), reduction)


def sigmoid_cross_entropy_rows(Z: Array, Y: Array) -> tuple[Array, Array]:
    """`sigmoid_cross_entropy` of each row."""
    losses = np.maximum(Z, 0) - Y * Z + np.log1p(np.exp(-np.abs(Z)))
    return losses.sum(axis=1, dtype=np.float64), sigmoid(Z) - Y


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
    return reduced(*squared_error_rows(A, check_value_targets("A", A, y)), reduction)


def squared_error_rows(A: Array, Y: Array) -> tuple[Array, Array]:
    """`squared_error` of each row."""
    dA = A - Y
    return 0.5 * np.square(dA).sum(axis=1, dtype=np.float64), dA
