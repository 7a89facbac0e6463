"""What users may give to a network's methods: each check gives it back as the engines take it, or raises."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.chunks import MappedRows, is_mapped
from fastmlp.recipe import Callback
from fastmlp.shapes import InvalidInputsError, check_class_targets
from fastmlp.sparse import Inputs, SparseRows, is_sparse, sparse_rows
from fastmlp.spec import LOSSES, NetworkSpec, shown

Array = NDArray[Any]
Samples = Inputs | MappedRows
"""X as a network takes it: as the engines do, or a file of which they are given chunks."""


def check_inputs(spec: NetworkSpec, X: Any, what: str, engine_finds_not_finite: bool) -> Samples:
    """Return X as the engines take it: 2-D, of the network's dtype or uint8, not empty; an ndarray in C order.

    And finite, unless the engine finds that out by itself. A file's values are looked at when a chunk is read.
    """
    sparse, mapped = is_sparse(X), is_mapped(X)
    X = X if sparse else X.view() if mapped else as_array(what, X)
    n_features = spec.layer_sizes[0]
    if X.ndim != 2 or X.shape[1] != n_features:
        raise ValueError(f"{what} must be (n_samples, {n_features}), got {X.shape}{reshaping(X.shape, n_features)}")
    if X.shape[0] == 0:
        raise ValueError(f"{what} must have at least one sample, got {X.shape}")
    if sparse:
        return sparse_rows(what, X, spec.dtype, spec.input_scale)
    if X.dtype == np.uint8 or (X.dtype == spec.dtype and engine_finds_not_finite):
        return MappedRows(X) if mapped else np.ascontiguousarray(X)
    convert = partial(as_finite, what, spec.dtype, scale=spec.input_scale)
    return MappedRows(X, convert) if mapped else convert(X)


def are_scaled_pixels(X: Any) -> bool:
    """Whether the first samples are numbers from 0 to 1, and not whole."""
    if not isinstance(X, np.ndarray) or X.dtype.kind != "f":
        return False
    first = X[:64]
    return bool(first.size and first.min() >= 0.0 and first.max() <= 1.0 and (first % 1.0).any())


def warn_user(message: str, category: type[Warning] = UserWarning, module: str | None = None) -> None:
    """Warn at the line that called fastmlp; filters see the name of that line's module, or the given one."""
    frame = sys._getframe()
    while frame.f_globals.get("__name__", "").startswith("fastmlp.") and frame.f_back is not None:
        frame = frame.f_back
    warnings.warn_explicit(
        message, category, frame.f_code.co_filename, frame.f_lineno, module or frame.f_globals.get("__name__"),
        frame.f_globals.setdefault("__warningregistry__", {}),
    )  # fmt: skip


def reshaping(shape: tuple[int, ...], n_features: int) -> str:
    """Say what makes samples of a wrong shape ``(n_samples, n_features)``, if that is plain."""
    if shape == (n_features,) or (len(shape) == 2 and min(shape) > 1 and prod(shape) == n_features):
        return f"; one sample is X.reshape(1, -1), of shape (1, {n_features})"
    if len(shape) == 1 and n_features == 1:
        return "; X.reshape(-1, 1) makes it so"
    if len(shape) > 2 and shape[0] > 0 and prod(shape[1:]) == n_features:
        return "; X.reshape(len(X), -1) makes it so"
    if len(shape) == 2 and shape[0] == n_features < shape[1]:
        return "; X.T makes it so"
    return ""


def check_targets_and_weights(
    spec: NetworkSpec, X: Samples, y: Any, sample_weight: Any
) -> tuple[Array | MappedRows, NDArray[np.float64] | MappedRows | None]:
    """Return what belongs to X, read in chunks if X is.

    All chunks are looked at here, those of X too if the engine does not check them: what is wrong is said before
    anything has changed.
    """
    n_samples = X.shape[0]
    if not isinstance(X, MappedRows):
        weights = None if sample_weight is None else check_sample_weight(sample_weight, n_samples)
        Y = check_targets(spec, y, n_samples, "y")
        return Y, weights
    if X.convert is not None:
        for _ in X.blocks():
            pass
    targets = mapped_rows("y", y, n_samples, lambda rows, n: check_targets(spec, rows, n, "y"))
    if sample_weight is None:
        return targets, None
    mapped_weights = mapped_rows("sample_weight", sample_weight, n_samples, check_weight_values)
    check_some_weight("sample_weight", any(rows.any() for _, rows in mapped_weights.blocks()))
    return targets, mapped_weights


def mapped_rows(what: str, values: Any, n_samples: int, check: Callable[[Array, int], Array]) -> MappedRows:
    """Return what belongs to the rows of a file, a file's rows or not, or raise what `check` raises."""
    array = values if isinstance(values, np.memmap) else as_array(what, values)
    rows = MappedRows(array.view(), lambda part, first: check(part, len(part)))
    try:
        if array.shape[:1] != (n_samples,):
            raise ValueError
        for _ in rows.blocks():
            pass
    except ValueError:
        check(array, n_samples)  # It says of the whole what is wrong: the shape, and the place in it.
        raise
    return rows


def smoothed(Y: Array | MappedRows, smoothing: float) -> Array | MappedRows:
    """Return labels moved towards one half, as `label_smoothing` says; classes stay: the engines smooth those."""

    def smooth(rows: Array) -> Array:
        if smoothing == 0.0 or rows.ndim == 1:
            return rows
        return ((1.0 - smoothing) * rows + smoothing / 2).astype(rows.dtype)

    if not isinstance(Y, MappedRows):
        return smooth(Y)
    return replace(Y, convert=lambda rows, first: smooth(Y.converted(rows, first)))


def check_targets(spec: NetworkSpec, y: ArrayLike, n_samples: int, what: str) -> Array:
    """Return y as the engines take it: int64 ``(n,)`` for softmax, else ``(n, n_outputs)`` of the dtype."""
    y = as_array(what, y)
    n_outputs = spec.layer_sizes[-1]
    if y.ndim == 0 or len(y) != n_samples:
        raise ValueError(f"{what} must have one entry for each of the {n_samples} samples of X, got shape {y.shape}")
    if spec.loss == "softmax_cross_entropy":
        if y.dtype.kind == "f" and not all_finite(y):
            raise not_finite_error(what, y)
        # Kernels trust classes: what a callback, or another thread, writes to y must not reach them, nor these checks.
        classes = y.astype(np.int64) if y.dtype == np.bool_ and y.ndim == 1 else y.copy()
        return np.ascontiguousarray(check_class_targets((n_samples, n_outputs), classes, what))
    Y = as_finite(what, spec.dtype, y)
    if Y.ndim == 1 and n_outputs == 1:
        Y = Y[:, None]
    if Y.shape != (n_samples, n_outputs):
        may_be_classes = y.ndim == 1 and y.dtype.kind in "iu" and y.min() >= 0 and y.max() < n_outputs
        remedy = f"; np.eye({n_outputs})[y] makes classes one-hot" if may_be_classes else ""
        raise ValueError(f"{what} must be ({n_samples}, {n_outputs}), got {y.shape}{remedy}")
    low, high = LOSSES[spec.loss].targets
    if low > -np.inf and (Y.min() < low or Y.max() > high):
        rule = f"in [{low:g}, {high:g}]" if high < np.inf else f">= {low:g}"
        wrong = Y[np.clip(Y, low, high) != Y][0]
        raise ValueError(f"{what} must be {rule} for {spec.loss}, got {wrong:g}")
    return Y


class TooLargeError(MemoryError, ValueError):
    """A network does not fit in memory: there is too little of it, and the layer sizes are wrong."""


@contextmanager
def explaining_lack_of_memory(spec: NetworkSpec) -> Iterator[None]:
    """Make a failed allocation an error that says how many parameters the layer sizes make."""
    try:
        yield
    except (MemoryError, OverflowError, ValueError):  # NumPy has three answers, by how far the size is beyond it.
        n = sum((n_in + spec.bias) * n_out for n_in, n_out in pairwise(spec.layer_sizes))
        raise TooLargeError(
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


def check_validation_data(pair: Any) -> tuple[Any, Any]:
    """Return the two members of ``(X, y)``, or raise ValueError."""
    try:
        X, y = pair
    except (TypeError, ValueError):
        got = f"{len(pair)} entries" if hasattr(pair, "__len__") else shown(pair)
        raise ValueError(f"validation_data must be a pair (X, y), got {got}") from None
    return X, y


def as_array(what: str, values: Any) -> Array:
    """Return a plain array of what a user gave, or raise ValueError if its rows differ in length, or some is masked.

    It is not the user's own, but a view of it: so nobody else changes its shape, or its dtype, in place.
    """
    try:
        array = np.asarray(values).view()
    except ValueError:
        raise ValueError(f"{what} must have rows of one length, got a ragged {type(values).__name__}") from None
    if isinstance(values, np.ndarray) and type(values) is not np.ndarray and np.ma.is_masked(values):
        position = np.argwhere(np.ma.getmaskarray(values))[0].tolist()
        raise ValueError(f"{what} must have no masked values, got one at {position}; .filled(value) fills them")
    return array


def as_finite(what: str, dtype: str, array: Array, first_row: int = 0, scale: float = 1.0) -> Array:
    """Return a numeric array in C order and of `dtype`; raise ValueError, by position, if a value is not finite.

    Or if it would not be when multiplied by `scale`. Positions count from the row `first_row` of the samples.
    """
    if array.dtype.kind not in "biuf":
        remedy = "; np.asarray(values, float) converts numbers" if array.dtype.kind == "O" else ""
        raise ValueError(f"{what} must be numeric, got dtype {array.dtype}{remedy}")
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, dtype=dtype)
    if not all_finite(converted, scale):
        raise not_finite_error(what, array, converted, first_row)
    return converted


def all_finite(array: Samples, scale: float = 1.0) -> bool:
    """Whether all values are finite, and stay so when multiplied by `scale`."""
    if isinstance(array, MappedRows):
        return all(all_finite(rows, scale) for _, rows in array.blocks())
    if isinstance(array, SparseRows) or array.dtype == np.uint8:  # The first were looked at when they were made.
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        # If the sum is finite, so is every term, and no array of flags is needed; if not, it may have overflowed.
        is_finite = np.isfinite(array.sum()) or np.isfinite(array).all()
        return bool(
            is_finite and (scale <= 1.0 or np.isfinite(max(array.max(), -array.min()) * array.dtype.type(scale)))
        )


def not_finite_error(
    what: str, array: Samples, converted: Array | None = None, first_row: int = 0, scale: float = 1.0
) -> ValueError:
    """Say which value is the first that is not finite (once converted), or too large once multiplied by `scale`."""
    if isinstance(array, MappedRows):
        first_row, array = next((first, rows) for first, rows in array.blocks() if not all_finite(rows, scale))
    assert isinstance(array, np.ndarray)
    bad = ~np.isfinite(array if converted is None else converted)
    position = tuple(np.argwhere(bad)[0] if bad.any() else np.unravel_index(np.abs(array).argmax(), array.shape))
    got = f"got {array[position]} at {[int(position[0]) + first_row, *map(int, position[1:])]}"
    if not bad.any():
        return ValueError(f"{what} must be finite when multiplied by input_scale, {got}")
    if converted is not None and np.isfinite(array[position]):
        return ValueError(f"{what} must not be too large for {converted.dtype}, {got}")
    return ValueError(f"{what} must be finite, {got}")


def compute_by_blocks(
    compute: Callable[..., Array], parameters: Array, X: Samples, threads: int | None = None, first_row: int = 0
) -> Array:
    """Call ``compute(parameters, X, threads)``: if the samples are a file's, for one chunk after the other."""
    if type(X) is MappedRows:
        return np.concatenate(
            [compute_by_blocks(compute, parameters, rows, threads, first_row=first) for first, rows in X.blocks()]
        )
    try:
        return compute(parameters, X, threads)
    except InvalidInputsError:
        raise not_finite_error("X", X, first_row=first_row) from None


def copy_checked(what: str, arrays: Sequence[ArrayLike], views: list[Array]) -> None:
    """Copy each array into its view, or raise ValueError."""
    try:
        arrays = list(arrays)
    except TypeError:
        raise ValueError(f"{what} must be {len(views)} arrays, one a layer, got {shown(arrays)}") from None
    if len(arrays) != len(views):
        raise ValueError(f"{what} must be {len(views)} arrays, one a layer, got {len(arrays)}")
    for layer, (array, view) in enumerate(zip(arrays, views, strict=True)):
        copy_one(f"{what}[{layer}]", array, view)


def copy_one(what: str, values: ArrayLike, view: Array) -> None:
    """Copy an array into a view, or raise ValueError."""
    array = as_array(what, values)
    if array.shape != view.shape:
        remedy = "; its transpose is" if array.shape == view.shape[::-1] else ""
        raise ValueError(f"{what} must be {view.shape}, got {array.shape}{remedy}")
    view[:] = as_finite(what, view.dtype.name, array)


class ParameterViews(list[Array]):
    """Views of a network's parameters: an array that is assigned to an element is copied into the network.

    Parameters
    ----------
    what : str
        What they are, for the messages.
    views : list of ndarray
        One a layer.
    """

    def __init__(self, what: str, views: list[Array]) -> None:
        super().__init__(views)
        self.what = what

    def __getitem__(self, index: Any) -> Any:
        """Give a view, or the views of a slice, likewise."""
        got: Any = super().__getitem__(index)
        return ParameterViews(self.what, got) if isinstance(index, slice) else got

    def __setitem__(self, index: Any, values: Any) -> None:
        """Copy arrays into the network; ValueError if their shapes are others, or they are not finite."""
        if isinstance(index, slice):
            fresh = [np.empty_like(view) for view in self[index]]  # All or none; and they may be of the same network.
            copy_checked(self.what, values, fresh)
            for view, array in zip(self[index], fresh, strict=True):
                view[:] = array
        elif values is not self[index]:  # As after ``weights[i] -= dW``, which has changed the view itself.
            copy_one(f"{self.what}[{index}]", values, self[index])


def check_sample_weight(sample_weight: ArrayLike, n_samples: int) -> NDArray[np.float64]:
    """Return the samples' weights as float64 ``(n_samples,)``, or raise ValueError."""
    weights = check_weight_values(sample_weight, n_samples)
    check_some_weight("sample_weight", weights.any())
    return weights


def check_some_weight(what: str, has_some: bool | np.bool_) -> None:
    """Raise ValueError if all weights are zero."""
    if not has_some:
        raise ValueError(f"{what} must be > 0 for at least one sample, got zeros")


def check_weight_values(sample_weight: ArrayLike, n_samples: int) -> NDArray[np.float64]:
    """Return weights as float64: of that shape, finite and >= 0. Whether some weight is above 0 is not looked at."""
    weights = as_array("sample_weight", sample_weight)
    if weights.shape != (n_samples,):
        raise ValueError(f"sample_weight must be ({n_samples},), got {weights.shape}")
    weights = as_finite("sample_weight", "float64", weights)
    if weights.min() < 0.0:
        raise ValueError(f"sample_weight must be >= 0, got {weights.min():g}")
    return with_normal_sums("sample_weight", weights)


def divisible(what: str, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give finite weights >= 0 by whose sum losses can be divided, or raise ValueError."""
    weights = with_normal_sums(what, weights)
    check_some_weight(what, weights.any())
    return weights


def with_normal_sums(what: str, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give finite weights >= 0 so that the sum of any of them is 0 or can be divided by; ValueError if it may overflow.

    Those below the range of normal numbers become 0: ``1 / 1e-320`` overflows.
    """
    with np.errstate(over="ignore"):
        if not np.isfinite(weights.sum()):
            raise ValueError(f"{what} must have a finite sum, got {weights.max():g}")
    is_tiny = weights < np.finfo(np.float64).tiny
    return np.where(is_tiny, 0.0, weights) if weights[is_tiny].any() else weights
