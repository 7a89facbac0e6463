"""The affine layer: ``Y = X W + b``, and its derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.shapes import check_affine, check_out

Array = NDArray[Any]


def affine_forward(X: Array, W: Array, b: Array | None = None, out: Array | None = None) -> Array:
    """Affine map of a batch: ``Y = X W + b``.

    Parameters
    ----------
    X : ndarray (n_samples, n_in)
        Any real dtype; converted to that of `W`.
    W : ndarray (n_in, n_out)
        float32 or float64.
    b : ndarray (n_out,), optional
        Any real dtype. No bias if None.
    out : ndarray (n_samples, n_out), optional
        Where to write Y; of the dtype of `W`.

    Returns
    -------
    ndarray (n_samples, n_out)
        Of the dtype of `W`.

    Raises
    ------
    ValueError
        If the shapes do not align (names both), X, W or b is not an array of such a dtype, or `out` is not a writable
        one of the shape and dtype of Y.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press 2016, algorithm 6.3.

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
        The layer's input; any real dtype, converted to that of `W`.
    W : ndarray (n_in, n_out)
        Its weights, float32 or float64.
    dY : ndarray (n_samples, n_out)
        Derivative of the loss by the layer's output; float32 or float64, converted likewise.

    Returns
    -------
    dX, dW, db : ndarray
        Of the shapes of X, W and b, in the dtype of `W`.

    Raises
    ------
    ValueError
        If the shapes do not align (names both), or X, W or dY is not an array of such a dtype.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press 2016, algorithm 6.4.

    Examples
    --------
    >>> dX, dW, db = affine_backward(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), np.array([[10.0]]))
    >>> dX.tolist(), dW.tolist(), db.tolist()
    ([[30.0, 40.0]], [[10.0], [20.0]], [10.0])
    """
    check_affine(X, W, None, dY)
    dY = dY.astype(W.dtype, copy=False)
    return dY @ W.T, X.astype(W.dtype, copy=False).T @ dY, dY.sum(axis=0)
