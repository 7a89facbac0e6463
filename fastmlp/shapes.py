"""What the public kernels ask of their arguments, in both engines: the checks name both shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.spec import REDUCTIONS, check_count, check_name

Array = NDArray[Any]
REAL_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


class NotFiniteError(ValueError):
    """An engine has met a NaN or an infinity in X. It does not know where; the network finds out and says so."""


def check_real(Z: Array, what: str = "Z") -> Array:
    """Return `Z` if its dtype is float32 or float64, else raise ValueError."""
    if Z.dtype not in REAL_DTYPES:
        raise ValueError(f"{what} must be float32 or float64, got {Z.dtype}")
    return Z


def check_affine(X: Array, W: Array, b: Array | None = None, dY: Array | None = None) -> None:
    """Raise ValueError unless ``X W + b`` is defined and `dY` has its shape."""
    check_real(W, "W")
    if X.ndim != 2 or W.ndim != 2 or X.shape[1] != W.shape[0]:
        raise ValueError(f"X (n_samples, n_in) and W (n_in, n_out) must align, got {X.shape} and {W.shape}")
    if b is not None and b.shape != (W.shape[1],):
        raise ValueError(f"b must be (n_out,) for W (n_in, n_out), got {b.shape} and {W.shape}")
    if dY is not None and dY.shape != (X.shape[0], W.shape[1]):
        raise ValueError(
            f"dY must be (n_samples, n_out) = {(len(X), W.shape[1])} for X {X.shape} and W {W.shape}, got {dY.shape}"
        )


def check_same_shape(a_name: str, a: Array, b_name: str, b: Array) -> None:
    """Raise ValueError unless the two arrays have one shape."""
    if a.shape != b.shape:
        raise ValueError(f"{a_name} and {b_name} must have one shape, got {a.shape} and {b.shape}")


def check_class_targets(Z: Array, y: Array) -> NDArray[np.int64]:
    """Return `y`, class indices or one-hot rows for the logits `Z`, as class indices."""
    if Z.ndim != 2:
        raise ValueError(f"Z must be (n_samples, n_classes), got {Z.shape}")
    n_classes = Z.shape[1]
    if y.shape == Z.shape and y.ndim == 2:
        if not (np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()):
            raise ValueError("one-hot y must have a single 1 in each row and zeros elsewhere")
        classes: NDArray[np.int64] = y.argmax(axis=1)
        return classes
    if y.shape != Z.shape[:1]:
        raise ValueError(f"y must be (n_samples,) or one-hot like Z, got {y.shape} for Z {Z.shape}")
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"y must hold whole-number classes, got {y.dtype}")
    if y.size and (y.min() < 0 or y.max() >= n_classes):
        wrong = int(y[(y < 0) | (y >= n_classes)][0])
        raise ValueError(f"y must hold classes 0 to {n_classes - 1}, got {wrong}")
    return y.astype(np.int64, copy=False)


def check_value_targets(what: str, Z: Array, y: Array) -> Array:
    """Return `y` in the shape and dtype of the outputs `Z`; with one output, `y` may be ``(n_samples,)``."""
    if check_real(Z, what).ndim != 2:
        raise ValueError(f"{what} must be (n_samples, n_outputs), got {Z.shape}")
    Y = y[:, None] if y.ndim == 1 and Z.shape[1] == 1 else y
    if Y.shape != Z.shape:
        raise ValueError(f"{what} and y must have one shape, got {Z.shape} and {y.shape}")
    return Y.astype(Z.dtype, copy=False)


def reduction_factor(reduction: str, n_samples: int) -> float:
    """1 / n_samples for the mean, 1 for the sum."""
    check_name("reduction", reduction, REDUCTIONS)
    check_count("n_samples", n_samples)
    return 1.0 / n_samples if reduction == "mean" else 1.0
