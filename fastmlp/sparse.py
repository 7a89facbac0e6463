"""Samples that are mostly zero, by rows: what a `scipy.sparse` matrix becomes. SciPy itself is not needed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@final
@dataclass(frozen=True)
class SparseRows:
    """A matrix in compressed rows (CSR), each with its columns in ascending order and no column twice.

    Attributes
    ----------
    values : ndarray (n_values,)
        Of the network's dtype, finite.
    columns : int32 ndarray (n_values,)
        Where the values stand in their rows.
    starts : int64 ndarray (n_rows + 1,)
        Row i has the values ``starts[i] ... starts[i + 1] - 1``.
    n_columns : int
        Of the matrix.
    """

    values: Array
    columns: NDArray[np.int32]
    starts: NDArray[np.int64]
    n_columns: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), self.n_columns

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the values."""
        return self.values.dtype

    @property
    def n_entries(self) -> int:
        """How many values there are."""
        return int(self.starts[-1] - self.starts[0])

    def most(self, n_rows: int) -> int:
        """Give the number of values that any `n_rows` of the rows have at most."""
        return self.n_entries if len(self) <= n_rows else int(self._longest[:n_rows].sum())

    @property
    def _longest(self) -> NDArray[np.int64]:
        """The lengths of the rows, descending. Not a `cached_property`: it has a lock before Python 3.12."""
        if "longest" not in self.__dict__:
            self.__dict__["longest"] = np.sort(np.diff(self.starts))[::-1]
        longest: NDArray[np.int64] = self.__dict__["longest"]
        return longest

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> SparseRows:
        """Give some rows: a view of those of a slice (of step 1), a copy of those of an array."""
        if isinstance(rows, slice):
            first, last, _ = rows.indices(len(self))
            return SparseRows(self.values, self.columns, self.starts[first : last + 1], self.n_columns)
        counts = self.starts[rows + 1] - self.starts[rows]
        starts = np.append(0, np.cumsum(counts))
        kept = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], counts)
        return SparseRows(self.values[kept], self.columns[kept], starts, self.n_columns)

    def to_dense(self) -> Array:
        """Give an ndarray of the same rows."""
        dense = np.zeros(self.shape, self.dtype)
        here = slice(self.starts[0], self.starts[-1])
        row_numbers = np.repeat(np.arange(len(self)), np.diff(self.starts))
        dense[row_numbers, self.columns[here]] = self.values[here]
        return dense


Inputs = Array | SparseRows
"""X, as the engines take it."""


def is_sparse(X: Any) -> bool:
    """Whether it is one of SciPy's sparse matrices or arrays, told without importing SciPy."""
    return hasattr(X, "tocsr")


def sparse_rows(what: str, X: Any, dtype: str, scale: float = 1.0) -> SparseRows:
    """Convert a sparse matrix of SciPy's to `SparseRows`, or raise ValueError; its values times `scale` are finite."""
    if X.dtype.kind not in "biuf":
        raise ValueError(f"{what} must be numeric, got dtype {X.dtype}")
    n_rows, n_columns = X.shape  # Whatever `tocsr` gives: the callers look at these.
    X = X.tocsr()
    data, indices, starts = X.data, X.indices, np.array(X.indptr)  # Copies of what kernels trust, and then the checks.
    if starts.shape != (n_rows + 1,) or not indices.dtype.kind == starts.dtype.kind == "i":
        raise ValueError(
            f"{what} must be a well-formed CSR matrix, got {starts.size} row starts of {starts.dtype} for {n_rows} "
            f"rows, and columns of {indices.dtype}"
        )
    starts, n_values = np.ascontiguousarray(starts, np.int64), int(starts[-1])
    wide_columns = np.array(indices[:n_values])
    if starts[0] != 0 or (np.diff(starts) < 0).any() or n_values > min(len(data), len(indices)):
        raise ValueError(
            f"{what} must be a well-formed CSR matrix, got row starts that do not ascend within its values"
        )
    if n_values and (wide_columns.min() < 0 or wide_columns.max() >= n_columns):
        raise ValueError(
            f"{what} must be a well-formed CSR matrix, got columns {wide_columns.min()} to {wide_columns.max()} "
            f"of {n_columns}"
        )
    columns = np.ascontiguousarray(wide_columns, np.int32)
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(data[:n_values], dtype)
    check_finite(what, data, values, columns, starts, scale)
    if not columns_ascend(columns, starts):
        ordered = type(X)((values, columns, starts), (n_rows, n_columns), copy=True)
        ordered.sum_duplicates()
        values, columns = ordered.data, np.ascontiguousarray(ordered.indices, np.int32)
        starts = np.ascontiguousarray(ordered.indptr, np.int64)
        check_finite(what, values, values, columns, starts, scale)
    return SparseRows(values, columns, starts, n_columns)


def check_finite(
    what: str, given: Array, values: Array, columns: NDArray[np.int32], starts: NDArray[np.int64], scale: float
) -> None:
    """Raise ValueError, by position, if a value is not finite: as given, once converted, or times `scale`."""
    with np.errstate(over="ignore"):
        wrong = ~np.isfinite(values * values.dtype.type(scale) if scale > 1.0 else values)
    if wrong.any():
        at = int(np.argmax(wrong))
        place = [int(np.searchsorted(starts, at, side="right")) - 1, int(columns[at])]
        if np.isfinite(values[at]):
            rule = "be finite when multiplied by input_scale"
        else:
            rule = "be finite" if not np.isfinite(given[at]) else f"not be too large for {values.dtype}"
        raise ValueError(f"{what} must {rule}, got {given[at]} at {place}")


def columns_ascend(columns: NDArray[np.int32], starts: NDArray[np.int64]) -> bool:
    """Whether each row's columns ascend, and none stands there twice. SciPy's flags of this can be out of date."""
    falls = np.flatnonzero(columns[1:] <= columns[:-1]) + 1
    return not len(falls) or bool((starts[np.searchsorted(starts, falls)] == falls).all())  # Only where a row begins.
