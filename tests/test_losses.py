"""The softmax cross-entropy of few classes, which goes class by class over many rows, and row by row over few."""

from __future__ import annotations

from typing import Any

import cases
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

KERNELS = cases.kernels_of("numba")
CLASSES = [1, 2, 3, 4, 10, 16, 17, 31, 32, 33]


def logits(n_rows: int, n: int, dtype: str, spread: float = 3.0) -> tuple[NDArray[Any], NDArray[np.int64]]:
    rng = np.random.default_rng(n_rows + n)
    return (spread * rng.standard_normal((n_rows, n))).astype(dtype), rng.integers(0, n, n_rows)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", CLASSES)
def test_rows_have_the_same_bits_whichever_they_are_taken_with(n: int, dtype: str) -> None:
    Z, y = logits(75, n, dtype)
    loss, dZ = KERNELS.softmax_cross_entropy(Z, y, "sum")
    one_by_one = [KERNELS.softmax_cross_entropy(Z[i : i + 1], y[i : i + 1], "sum") for i in range(75)]
    assert loss == np.sum([each for each, _ in one_by_one])
    assert_array_equal(dZ, np.concatenate([each for _, each in one_by_one]))
    for first, last in ((0, 3), (3, 10), (10, 18), (18, 49), (49, 75), (5, 38)):
        _, part = KERNELS.softmax_cross_entropy(Z[first:last], y[first:last], "sum")
        assert_array_equal(part, dZ[first:last])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", CLASSES)
@pytest.mark.parametrize("n_rows", [1, 5, 8, 100])
@pytest.mark.parametrize("spread", [0.01, 3.0, 100.0])
def test_against_more_digits(n_rows: int, n: int, dtype: str, spread: float) -> None:
    Z, y = logits(n_rows, n, dtype, spread)
    exact = Z.astype(np.longdouble) - Z.max(axis=1, keepdims=True)
    total = np.exp(exact).sum(axis=1)
    losses = np.log(total) - exact[np.arange(n_rows), y]
    P = np.exp(exact) / total[:, None]
    P[np.arange(n_rows), y] -= 1
    loss, dZ = KERNELS.softmax_cross_entropy(Z, y, "sum")
    eps = float(np.finfo(dtype).eps)
    assert_allclose(loss, float(losses.sum()), rtol=8 * eps, atol=2 * n_rows * eps)
    assert_allclose(dZ, P.astype(float), rtol=20 * eps, atol=2 * eps)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n_rows", [5, 40])
def test_a_bad_row_spoils_no_other(n_rows: int, bad: float, dtype: str) -> None:
    Z, y = logits(n_rows, 10, dtype)
    _, expected = KERNELS.softmax_cross_entropy(Z, y, "sum")
    Z[3] = bad
    loss, dZ = KERNELS.softmax_cross_entropy(Z, y, "sum")
    assert np.isnan(loss)
    assert np.isnan(dZ[3]).all()
    assert_array_equal(np.delete(dZ, 3, axis=0), np.delete(expected, 3, axis=0))
