"""The softmax cross-entropy of few classes, which goes class by class over many rows, and row by row over few."""

from __future__ import annotations

import os
import subprocess
import sys
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


WITHIN = """
import numpy as np
from fastmlp.kernels.machine import MACHINE
from fastmlp.kernels.memory import address
from fastmlp.kernels.native import kernel
from fastmlp.kernels.sizes import LOSS_MEMORY
from fastmlp.parameters import aligned_zeros, padded

N_ROWS = 80
rng = np.random.default_rng(0)
for dtype in (np.dtype("float32"), np.dtype("float64")):
    for n in (1, 3, 10, 17, 32, 33):
        stride, lanes = padded(n, dtype.itemsize), MACHINE.vector_bytes // dtype.itemsize
        y, order = rng.integers(0, n, N_ROWS), rng.permutation(N_ROWS)
        for begin, end in ((0, 80), (5, 38), (6, 14), (40, 80), (3, 3), (7, 8)):
            Z, D = (aligned_zeros(N_ROWS * stride, dtype.name).reshape(N_ROWS, stride) for _ in range(2))
            Z[:], D[:] = np.nan, 7.0
            Z[begin:end, :n] = rng.standard_normal((end - begin, n))
            memory, losses = np.full(LOSS_MEMORY + 64, np.nan), np.zeros(N_ROWS)
            kernel("losses.softmax_cross_entropy").run(
                dtype, address(Z), n, address(y), address(order), 0.25, address(D), stride, address(losses), begin,
                end, address(memory),
            )
            assert (np.delete(D, np.s_[begin:end], axis=0) == 7.0).all(), (dtype, n, begin, end)
            assert not np.delete(losses, np.s_[begin:end]).any(), (dtype, n, begin, end)
            assert np.isnan(memory[LOSS_MEMORY:]).all(), (dtype, n, begin, end)
            assert np.isfinite(losses).all() and (D[begin:end, :n] != 7.0).all(), (dtype, n, begin, end)
            assert not D[begin:end, n : -(-n // lanes) * lanes].any(), (dtype, n, begin, end)
"""


@pytest.mark.parametrize("environment", cases.VECTORS)
def test_it_reads_and_writes_its_own_rows_alone(environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-c", WITHIN], env={**os.environ, **environment}, check=True, timeout=300)


@pytest.mark.parametrize("engine", cases.ENGINES)
def test_errors_are_squared_in_float64(engine: str) -> None:
    """Whatever the dtype of the outputs: 1e20 squared is more than float32 holds, and 1e-25 squared is less."""
    kernels = cases.kernels_of(engine)
    for a, half_its_square in ((1e20, 5e39), (1e-25, 5e-51)):
        A, y = np.array([[a]], np.float32), np.zeros((1, 1))
        assert kernels.squared_error(A, y)[0] == pytest.approx(half_its_square, rel=1e-6)
        assert kernels.huber(A, y, 1e25)[0] == pytest.approx(half_its_square, rel=1e-6)
