"""What the public kernels ask of their arguments, in both engines: the checks name both shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.optimizers import Optimizer, check_epsilon
from fastmlp.spec import REDUCTIONS, check_count, check_name, check_number

Array = NDArray[Any]
REAL_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


class InvalidInputsError(ValueError):
    """An engine cannot take X: a value is not finite, or its shape is not the network's.

    The engine does not know which, and where; the network finds out and says so.
    """


# --- One array --------------------------------------------------------------------------------------------------------


def check_array(what: str, array: Any) -> Array:
    """Return `array` if it is a NumPy array of numbers, else raise ValueError."""
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{what} must be a NumPy array, got {type(array).__name__}")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{what} must be numeric, got dtype {array.dtype}")
    return array


def check_real(Z: Array, what: str = "Z") -> Array:
    """Return `Z` if it is an array of float32 or float64, else raise ValueError."""
    if not isinstance(Z, np.ndarray):
        raise ValueError(f"{what} must be a NumPy array, got {type(Z).__name__}")
    if Z.dtype not in REAL_DTYPES:
        raise ValueError(f"{what} must be float32 or float64, got {Z.dtype}")
    return Z


def check_writable(what: str, array: Array) -> None:
    """Raise ValueError if `array`, which is to be changed, is read-only."""
    if not array.flags.writeable:
        raise ValueError(f"{what} must be writable, got a read-only array")


def check_out(out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise ValueError unless a result of this shape and dtype can be written to `out`, where it is given."""
    if out is None:
        return
    check_array("out", out)
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out must be {shape} of {dtype}, got {out.shape} of {out.dtype}")
    check_writable("out", out)


def check_same_shape(a_name: str, a: Array, b_name: str, b: Array) -> None:
    """Raise ValueError unless the two arrays have one shape."""
    if a.shape != b.shape:
        raise ValueError(f"{a_name} and {b_name} must have one shape, got {a.shape} and {b.shape}")


# --- The arguments of the kernels -------------------------------------------------------------------------------------


def check_affine(X: Array, W: Array, b: Array | None = None, dY: Array | None = None) -> None:
    """Raise ValueError unless ``X W + b`` is defined and `dY` has its shape."""
    check_array("X", X)
    check_real(W, "W")
    if X.ndim != 2 or W.ndim != 2 or X.shape[1] != W.shape[0]:
        raise ValueError(f"X (n_samples, n_in) and W (n_in, n_out) must align, got {X.shape} and {W.shape}")
    if b is not None and check_array("b", b).shape != (W.shape[1],):
        raise ValueError(f"b must be (n_out,) for W (n_in, n_out), got {b.shape} and {W.shape}")
    if dY is not None and check_real(dY, "dY").shape != (X.shape[0], W.shape[1]):
        raise ValueError(
            f"dY must be (n_samples, n_out) = {(len(X), W.shape[1])} for X {X.shape} and W {W.shape}, got {dY.shape}"
        )


def check_forward(Z: Array, out: Array | None) -> Array:
    """Return `Z`, an activation's input, or raise ValueError if it or `out` does not fit."""
    check_out(out, check_real(Z).shape, Z.dtype)
    return Z


def check_backward(dA: Array, kept: Array, kept_name: str = "A") -> Array:
    """Return `kept`, what an activation's forward left to its backward, in the dtype of `dA`."""
    check_same_shape("dA", check_real(dA, "dA"), kept_name, check_real(kept, kept_name))
    return kept.astype(dA.dtype, copy=False)


def check_softmax(Z: Array, out: Array | None) -> Array:
    """Return `Z` if it has classes along its last axis, or raise ValueError."""
    if check_real(Z).ndim == 0 or Z.shape[-1] == 0:
        raise ValueError(f"Z must be (n_samples, n_classes) with n_classes >= 1, got {Z.shape}")
    return check_forward(Z, out)


def check_class_targets(shape: tuple[int, ...], y: Array, what: str = "y") -> NDArray[np.int64]:
    """Return `y`, class indices or one-hot rows for logits of this shape, as class indices."""
    if len(shape) != 2 or shape[1] == 0:
        raise ValueError(f"Z must be (n_samples, n_classes) with n_classes >= 1, got {shape} and {what} {np.shape(y)}")
    if not isinstance(y, np.ndarray):
        raise ValueError(f"{what} must be a NumPy array, got {type(y).__name__}")
    if y.shape == shape:
        check_array(what, y)
        is_one_hot = np.isin(y, (0, 1)).all(axis=1) & (y.sum(axis=1) == 1)
        if not is_one_hot.all():
            row = int(np.argmin(is_one_hot))
            got = np.array2string(y[row], threshold=10, edgeitems=3)
            raise ValueError(
                f"one-hot {what} must have a single 1 in each row and zeros elsewhere, got {got} in row {row}"
            )
        classes: NDArray[np.int64] = y.argmax(axis=1)
        return classes
    if y.shape != shape[:1]:
        remedy = "; y.ravel() makes it so" if y.shape == (shape[0], 1) else ""
        raise ValueError(f"{what} must be (n_samples,) = {shape[:1]} or one-hot {shape}, got {y.shape}{remedy}")
    if not np.issubdtype(y.dtype, np.integer):
        is_whole = y.dtype.kind == "f" and (y == np.floor(y)).all()
        remedy = "y.astype(int) makes it so" if is_whole else "np.unique(y, return_inverse=True)[1] numbers them"
        if y.dtype.kind == "f" and not is_whole:
            remedy = "values need another loss, such as squared_error"
        raise ValueError(f"{what} must hold whole-number classes, got {y.dtype}; {remedy}")
    if y.size and (y.min() < 0 or y.max() >= shape[1]):
        wrong = int(y[(y < 0) | (y >= shape[1])][0])
        remedy = ""
        if shape[1] == 1:
            remedy = "; with one output, loss='sigmoid_cross_entropy' is for two classes, 'squared_error' for values"
        elif y.min() == 1 and y.max() == shape[1]:
            remedy = "; they begin with 1: y - 1"
        raise ValueError(f"{what} must hold classes 0 to {shape[1] - 1}, got {wrong}{remedy}")
    return y.astype(np.int64, copy=False)


def check_value_targets(what: str, Z: Array, y: Array) -> Array:
    """Return `y` in the shape and dtype of the outputs `Z`; with one output, `y` may be ``(n_samples,)``."""
    if check_real(Z, what).ndim != 2 or Z.shape[1] == 0:
        raise ValueError(
            f"{what} must be (n_samples, n_outputs) with n_outputs >= 1, got {Z.shape} and y {np.shape(y)}"
        )
    Y = y[:, None] if check_array("y", y).ndim == 1 and Z.shape[1] == 1 else y
    if Y.shape != Z.shape:
        raise ValueError(f"{what} and y must have one shape, got {Z.shape} and {y.shape}")
    return Y.astype(Z.dtype, copy=False)


def reduction_factor(reduction: str, n_samples: int) -> float:
    """1 / n_samples for the mean, 1 for the sum."""
    check_name("reduction", reduction, REDUCTIONS)
    check_count("n_samples", n_samples)
    return 1.0 / n_samples if reduction == "mean" else 1.0


def check_update(
    optimizer: Optimizer,
    learning_rate: float,
    parameters: Array,
    gradients: Array,
    slots: Mapping[str, Array | None],
) -> Array:
    """Return `gradients` in the dtype of `parameters` if an update can be done with all these, else raise ValueError.

    `optimizer` holds (and has checked) the other constants. Its own rate does not count: it is above zero, but that of
    a step is zero where a schedule ends.
    """
    check_number("learning_rate", learning_rate, minimum=0.0)
    check_writable("parameters", check_real(parameters, "parameters"))
    check_same_shape("parameters", parameters, "gradients", check_real(gradients, "gradients"))
    check_epsilon(optimizer, parameters.dtype)
    for name, slot in slots.items():
        if slot is None:
            raise ValueError(f"{name} must be an array with these arguments, got None")
        check_writable(name, check_real(slot, name))
        check_same_shape("parameters", parameters, name, slot)
        if slot.dtype != parameters.dtype:
            raise ValueError(f"{name} must be {parameters.dtype} like parameters, got {slot.dtype}")
    return gradients.astype(parameters.dtype, copy=False)
