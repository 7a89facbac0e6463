"""Samples, targets and weights: from what scikit-learn's validation leaves to what the engine takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.validation import _check_sample_weight

from fastmlp.checks import divisible, warn_user
from fastmlp.sparse import Inputs, is_sparse, sparse_rows

Array = NDArray[Any]


def warn(message: str, category: type[Warning]) -> None:
    """Warn in the name of the module of scikit-learn's own classes, by which people filter."""
    warn_user(message, category, "sklearn.neural_network._multilayer_perceptron")


@dataclass(frozen=True)
class EncodedSamples:
    """X as the engine takes it, the targets as the estimator encodes them, and the weights, or None."""

    X: Any
    Y: Array
    weights: Array | None

    def __len__(self) -> int:
        return int(self.X.shape[0])

    def take(self, rows: NDArray[np.int64]) -> EncodedSamples:
        """Give some of them."""
        return EncodedSamples(self.X[rows], self.Y[rows], None if self.weights is None else self.weights[rows])


def as_inputs(X: Any, dtype: np.dtype[Any]) -> Inputs:
    """Give a matrix as the engine takes it."""
    if is_sparse(X):
        return sparse_rows("X", X, dtype.name)
    if X.dtype.kind not in "biuf":
        raise ValueError(f"X must be numeric, got dtype {X.dtype}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(X, dtype=dtype)


def as_targets(Y: Array, dtype: str) -> Array:
    """Give encoded targets as an engine takes them: classes, or rows of numbers of the network's dtype."""
    with np.errstate(over="ignore"):  # The loss is not finite then.
        return np.ascontiguousarray(Y, dtype=np.int64 if Y.ndim == 1 else dtype)


def checked_weights(what: str, sample_weight: Any, X: Any) -> Array:
    """Give weights as the engine takes them, or raise ValueError."""
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
    if (weights < 0).any():
        raise ValueError(f"{what} must be >= 0, got {weights.min():g}")
    return np.ascontiguousarray(divisible(what, weights))


def flattened(y: Array) -> Array:
    """Give a column of labels or values as a vector, and warn."""
    warn(
        "A column-vector y was passed when a 1d array was expected. "
        "Please change the shape of y to (n_samples, ), for example using ravel().",
        DataConversionWarning,
    )
    return np.ravel(y)
