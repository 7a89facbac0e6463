"""What users may give to a network's methods: each check gives it back as the engines take it, or raises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.shapes import check_class_targets
from fastmlp.sparse import Inputs, SparseRows, is_sparse, sparse_rows
from fastmlp.spec import NetworkSpec, shown
from fastmlp.training import Callback

Array = NDArray[Any]


def check_inputs(spec: NetworkSpec, X: Any, what: str, engine_finds_not_finite: bool) -> Inputs:
    """Return X as the engines take it: 2-D, of the network's dtype or uint8, not empty; an ndarray in C order.

    And finite, unless the engine finds that out by itself: the first lines are all that a single sample costs.
    """
    sparse = is_sparse(X)
    X = X if sparse else as_array(what, X)
    n_features = spec.layer_sizes[0]
    if X.ndim != 2 or X.shape[1] != n_features:
        hint = f"; one sample is X.reshape(1, -1), of shape (1, {n_features})" if X.shape == (n_features,) else ""
        raise ValueError(f"{what} must be (n_samples, {n_features}), got {X.shape}{hint}")
    if X.shape[0] == 0:
        raise ValueError(f"{what} must have at least one sample, got {X.shape}")
    if sparse:
        return sparse_rows(what, X, spec.dtype)
    if X.dtype == np.uint8 or (X.dtype == spec.dtype and engine_finds_not_finite):
        return X if X.flags.c_contiguous else np.ascontiguousarray(X)
    return as_finite(what, X, spec.dtype)


def check_targets(spec: NetworkSpec, y: ArrayLike, n_samples: int, what: str) -> Array:
    """Return y as the engines take it: int64 ``(n,)`` for softmax, else ``(n, n_outputs)`` of the dtype."""
    y = as_array(what, y)
    n_outputs = spec.layer_sizes[-1]
    if y.ndim == 0 or len(y) != n_samples:
        raise ValueError(f"{what} must have one entry for each of the {n_samples} samples of X, got shape {y.shape}")
    if spec.loss == "softmax_cross_entropy":
        classes = y.astype(np.int64) if y.dtype == np.bool_ and y.ndim == 1 else y
        return np.ascontiguousarray(check_class_targets((n_samples, n_outputs), classes, what))
    Y = as_finite(what, y, spec.dtype)
    if Y.ndim == 1 and n_outputs == 1:
        Y = Y[:, None]
    if Y.shape != (n_samples, n_outputs):
        raise ValueError(f"{what} must be ({n_samples}, {n_outputs}), got {y.shape}")
    if spec.loss == "sigmoid_cross_entropy" and (Y.min() < 0 or Y.max() > 1):
        wrong = Y[(Y < 0) | (Y > 1)][0]
        raise ValueError(f"{what} must be in [0, 1] for sigmoid_cross_entropy, got {wrong:g}")
    if spec.loss == "poisson" and Y.min() < 0:
        raise ValueError(f"{what} must be >= 0 for poisson, got {Y.min():g}")
    return Y


@contextmanager
def explaining_lack_of_memory(spec: NetworkSpec) -> Iterator[None]:
    """Make a failed allocation a ValueError that says how many parameters the layer sizes make."""
    try:
        yield
    except (MemoryError, OverflowError, ValueError):  # NumPy has three answers, by how far the size is beyond it.
        n = sum((n_in + spec.bias) * n_out for n_in, n_out in pairwise(spec.layer_sizes))
        raise ValueError(
            f"layer_sizes must make a network that fits in memory, got {shown(list(spec.layer_sizes))}: {n} parameters"
        ) from None


def check_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """Return the callbacks as a tuple, or raise ValueError."""
    try:
        checked: tuple[Callback, ...] = tuple(callbacks)
    except TypeError:
        raise ValueError(f"callbacks must be a sequence of callables, got {shown(callbacks)}") from None
    for i, callback in enumerate(checked):
        if not callable(callback):
            raise ValueError(f"callbacks[{i}] must be callable, got {shown(callback)}")
    return checked


def check_pair(what: str, pair: Any) -> tuple[Any, Any]:
    """Return the two members of ``(X, y)``, or raise ValueError."""
    try:
        X, y = pair
    except (TypeError, ValueError):
        got = f"{len(pair)} entries" if hasattr(pair, "__len__") else shown(pair)
        raise ValueError(f"{what} must be a pair (X, y), got {got}") from None
    return X, y


def as_array(what: str, values: Any) -> Array:
    """Return an array of what a user gave, or raise ValueError if its rows differ in length."""
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(f"{what} must have rows of one length, got a ragged {type(values).__name__}") from None


def as_finite(what: str, array: Array, dtype: str) -> Array:
    """Return a numeric array in C order and of `dtype`; raise ValueError, by position, if a value is not finite."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{what} must be numeric, got dtype {array.dtype}")
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, dtype=dtype)
    if not all_finite(converted):
        raise not_finite(what, array, converted)
    return converted


def all_finite(array: Inputs) -> bool:
    """Whether all values are finite."""
    if isinstance(array, SparseRows) or array.dtype == np.uint8:  # The first were looked at when they were made.
        return True
    # A sum is finite if all its terms are (and seldom overflows); it needs no array of flags.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def not_finite(what: str, array: Inputs, converted: Array | None = None) -> ValueError:
    """Say which value is the first that is not finite (once converted), or too large once multiplied."""
    assert isinstance(array, np.ndarray)
    bad = ~np.isfinite(array if converted is None else converted)
    if not bad.any():
        position = tuple(int(i) for i in np.unravel_index(np.abs(array).argmax(), array.shape))
        return ValueError(
            f"{what} must be finite when multiplied by input_scale, got {array[position]} at {list(position)}"
        )
    position = tuple(int(i) for i in np.argwhere(bad)[0])
    got = f"got {array[position]} at {list(position)}"
    if converted is not None and np.isfinite(array[position]):
        return ValueError(f"{what} must not be too large for {converted.dtype}, {got}")
    return ValueError(f"{what} must be finite, {got}")


def copy_checked(what: str, arrays: Sequence[ArrayLike], views: list[Array]) -> None:
    """Copy each array into its view, or raise ValueError."""
    try:
        arrays = list(arrays)
    except TypeError:
        raise ValueError(f"{what} must be {len(views)} arrays, one a layer, got {shown(arrays)}") from None
    if len(arrays) != len(views):
        raise ValueError(f"{what} must be {len(views)} arrays, one a layer, got {len(arrays)}")
    for layer, (array, view) in enumerate(zip(arrays, views, strict=True)):
        array = as_array(f"{what}[{layer}]", array)
        if array.shape != view.shape:
            raise ValueError(f"{what}[{layer}] must be {view.shape}, got {array.shape}")
        view[:] = as_finite(f"{what}[{layer}]", array, view.dtype.name)


def check_sample_weight(sample_weight: ArrayLike, n_samples: int) -> NDArray[np.float64]:
    """Return the samples' weights as float64 ``(n_samples,)``, or raise ValueError."""
    weights = as_array("sample_weight", sample_weight)
    if weights.shape != (n_samples,):
        raise ValueError(f"sample_weight must be ({n_samples},), got {weights.shape}")
    weights = as_finite("sample_weight", weights, "float64")
    if weights.min() < 0.0:
        raise ValueError(f"sample_weight must be >= 0, got {weights.min():g}")
    if not weights.any():
        raise ValueError("sample_weight must be > 0 for at least one sample, got zeros")
    return weights
