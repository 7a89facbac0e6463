"""Three classes of points in the plane, a small network that learns them, and networks held against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_array_equal

from fastmlp import MLP

Array = np.ndarray


def blobs(n_samples: int = 23, seed: int = 0) -> tuple[Array, Array]:
    """Points in the plane around three centres."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n_samples)
    return rng.normal(size=(n_samples, 2)) + 2.0 * np.array([[0, 1], [1, -1], [-1, -1]])[y], y


def classifier(engine: str, **options: Any) -> MLP:
    return MLP([2, 7, 5, 3], **{"activation": "tanh", "dtype": "float64", "seed": 3, "engine": engine, **options})


def parameters(net: MLP) -> list[Array]:
    """Copies of everything that is learnt."""
    return [array.copy() for array in (*net.weights, *net.biases)]


def assert_same(actual: list[Array], expected: list[Array]) -> None:
    """Hold every bit of one network against the other."""
    for a, e in zip(actual, expected, strict=True):
        assert_array_equal(a, e)
