"""Activations, ``A = f(Z)``, and their backward passes, ``dZ = dA f'(Z)``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.shapes import check_backward, check_forward

Array = NDArray[Any]

LEAKY_SLOPE = 0.01
"""Slope of `leaky_relu` below zero, PyTorch's default."""


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

    Raises
    ------
    ValueError
        If Z is not an array of float32 or float64, or `out` is not a writable one of its shape and dtype.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press 2016, section 6.2.2.1.

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
        Of one shape, each float32 or float64.

    Returns
    -------
    ndarray
        dZ, of that shape and the dtype of dA.

    Raises
    ------
    ValueError
        If the shapes differ, or one is not an array of float32 or float64.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press 2016, algorithm 6.4.

    Examples
    --------
    >>> identity_backward(np.array([3.0]), np.array([-1.0]))
    array([3.])
    """
    check_backward(dA, A)
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

    Raises
    ------
    ValueError
        If Z is not an array of float32 or float64, or `out` is not a writable one of its shape and dtype.

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
        Of one shape, each float32 or float64; A is the forward's *output*.

    Returns
    -------
    ndarray
        dZ, of that shape and the dtype of dA.

    Raises
    ------
    ValueError
        If the shapes differ, or one is not an array of float32 or float64.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press 2016, section 6.3: the derivative at 0.

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

    Raises
    ------
    ValueError
        If Z is not an array of float32 or float64, or `out` is not a writable one of its shape and dtype.

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
        Of one shape, each float32 or float64; A is the forward's *output*, whose sign is the input's.

    Returns
    -------
    ndarray
        dZ, of that shape and the dtype of dA.

    Raises
    ------
    ValueError
        If the shapes differ, or one is not an array of float32 or float64.

    References
    ----------
    As in `leaky_relu`.

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

    Raises
    ------
    ValueError
        If Z is not an array of float32 or float64, or `out` is not a writable one of its shape and dtype.

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
        Of one shape, each float32 or float64; A is the forward's *output*.

    Returns
    -------
    ndarray
        dZ, of that shape and the dtype of dA.

    Raises
    ------
    ValueError
        If the shapes differ, or one is not an array of float32 or float64.

    References
    ----------
    As in `elu`.

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

    Raises
    ------
    ValueError
        If Z is not an array of float32 or float64, or `out` is not a writable one of its shape and dtype.

    References
    ----------
    D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by back-propagating errors", Nature 323,
    1986, equation 2.

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
        Of one shape, each float32 or float64; A is the forward's *output*.

    Returns
    -------
    ndarray
        dZ, of that shape and the dtype of dA.

    Raises
    ------
    ValueError
        If the shapes differ, or one is not an array of float32 or float64.

    References
    ----------
    D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by back-propagating errors", Nature 323,
    1986, equation 5.

    Examples
    --------
    >>> sigmoid_backward(np.array([4.0]), np.array([0.5]))
    array([1.])
    """
    A = check_backward(dA, A)
    dZ: Array = dA * A * (A.dtype.type(1) - A)
    return dZ


def tanh(Z: Array, out: Array | None = None) -> Array:
    """Hyperbolic tangent, ``A = (exp(Z) - exp(-Z)) / (exp(Z) + exp(-Z))``, without overflow.

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

    Raises
    ------
    ValueError
        If Z is not an array of float32 or float64, or `out` is not a writable one of its shape and dtype.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, equation 5.59.

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
        Of one shape, each float32 or float64; A is the forward's *output*.

    Returns
    -------
    ndarray
        dZ, of that shape and the dtype of dA.

    Raises
    ------
    ValueError
        If the shapes differ, or one is not an array of float32 or float64.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, equation 5.60.

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

    Raises
    ------
    ValueError
        If Z is not an array of float32 or float64, or `out` is not a writable one of its shape and dtype.

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
        Of one shape, each float32 or float64; Z is the forward's *input*: gelu is not monotonic, so its output does
        not tell the derivative.

    Returns
    -------
    ndarray
        dZ, of that shape and the dtype of dA.

    Raises
    ------
    ValueError
        If the shapes differ, or one is not an array of float32 or float64.

    References
    ----------
    As in `gelu`, by the product rule: φ is the derivative of Φ.

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

    Raises
    ------
    ValueError
        If Z is not an array of float32 or float64, or `out` is not a writable one of its shape and dtype.

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
        Of one shape, each float32 or float64; Z is the forward's *input*: silu is not monotonic, so its output does
        not tell the derivative.

    Returns
    -------
    ndarray
        dZ, of that shape and the dtype of dA.

    Raises
    ------
    ValueError
        If the shapes differ, or one is not an array of float32 or float64.

    References
    ----------
    As in `silu`: the slope is the paper's dSiLU.

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

    Raises
    ------
    ValueError
        If Z is not an array of float32 or float64, or `out` is not a writable one of its shape and dtype.

    References
    ----------
    C. Dugas, Y. Bengio, F. Bélisle, C. Nadeau, R. Garcia, "Incorporating second-order functional knowledge for better
    option pricing", NIPS 2000.

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
        Of one shape, each float32 or float64; A is the forward's *output*.

    Returns
    -------
    ndarray
        dZ, of that shape and the dtype of dA.

    Raises
    ------
    ValueError
        If the shapes differ, or one is not an array of float32 or float64.

    References
    ----------
    I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press 2016, section 3.10.

    Examples
    --------
    >>> softplus_backward(np.array([2.0]), np.array([np.log(2.0)]))
    array([1.])
    """
    A = check_backward(dA, A)
    return dA * -np.expm1(-A)
