"""Passing over zeros: the lists against plain loops, and the bits of a whole epoch with any choice of tiles."""

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any

import numba
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastmlp
from fastmlp.kernels import cache, engine, gathering, jit, lists, weights
from fastmlp.kernels.instructions import pointer_to
from fastmlp.kernels.native import Kernel, kernel
from fastmlp.kernels.sizes import BLOCK_ROWS, TURNED_BYTES

Array = np.ndarray
RNG = np.random.default_rng(0)


# --- The lists --------------------------------------------------------------------------------------------------------


@numba.njit
def listed_inputs(masks: Array, first_word: int, last_word: int, row: int, n_rows: int, indices: Array) -> int:
    n_words = masks.shape[1]
    return lists.forward_list(
        pointer_to(masks.ravel()), n_words, first_word, last_word, row, n_rows, pointer_to(indices)
    )  # fmt: skip


@numba.njit
def listed_rows(masks: Array, word: int, n_rows: int, pair: int, turned: Array, indices: Array) -> int:
    lists.turn_masks(pointer_to(masks.ravel()), masks.shape[1], word, n_rows, pointer_to(turned))
    return lists.backward_list(pointer_to(turned), pair, n_rows, pointer_to(indices))


def masks_of(inputs: Array) -> Array:
    """Pack booleans (n_rows, 64 n_words) as the gathering does, with rows behind them that are not to be seen."""
    packed = np.packbits(inputs, axis=1, bitorder="little").view("<u8").astype(np.uint64)
    return np.vstack([packed, np.full((8, packed.shape[1]), np.uint64(2**64 - 1))])


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_a_forward_list_holds_the_union_of_its_rows(n_rows: int, density: float) -> None:
    inputs = RNG.random((9, 5 * 64)) < density
    indices = np.full(5 * 64, -1, np.int32)
    for first_word, last_word, row in ((0, 5, 0), (1, 4, 3), (4, 5, 9 - n_rows)):
        length = listed_inputs(masks_of(inputs), first_word, last_word, row, n_rows, indices)
        union = inputs[row : row + n_rows].any(axis=0)
        expected = [p for p in range(64 * first_word, 64 * last_word) if union[p]]
        assert indices[:length].tolist() == expected


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("n_rows", [1, 7, 8, 9, 100, 263, 264])
def test_a_backward_list_holds_the_rows_that_have_one_of_two_inputs(n_rows: int, density: float) -> None:
    inputs = RNG.random((n_rows, 3 * 64)) < density
    turned = np.zeros(TURNED_BYTES * BLOCK_ROWS, np.uint8)
    indices = np.full(BLOCK_ROWS, -1, np.int32)
    for word in range(3):
        for pair in range(32):
            length = listed_rows(masks_of(inputs), word, n_rows, pair, turned, indices)
            p = 64 * word + 2 * pair
            assert indices[:length].tolist() == np.flatnonzero(inputs[:, p] | inputs[:, p + 1]).tolist()


# --- A whole epoch ----------------------------------------------------------------------------------------------------


@numba.njit
def always(masks: Any, n_words: int, first_row: int, last_row: int, n_in: int) -> bool:
    return True


@numba.njit
def never(masks: Any, n_words: int, first_row: int, last_row: int, n_in: int) -> bool:
    return False


@numba.njit
def by_turns(masks: Any, n_words: int, first_row: int, last_row: int, n_in: int) -> bool:
    """Unlike for the blocks of a batch, for the shares of threads, and for forward and backward."""
    return (masks[first_row * n_words] >> np.uint64(3) ^ np.uint64(first_row + last_row)) & np.uint64(1) == 0


@functools.cache
def parts_with(rule: Any) -> dict[Kernel, Kernel]:
    """Make the kernels that choose between listed and dense tiles anew, with a rule instead of `lists_pay`."""
    takes_lists = jit.inline(with_globals(gathering.takes_lists.py_func, lists_pay=rule))
    parts = {}
    for function in (gathering.gather, gathering.multiply_inputs, weights.backward_to_weights):
        key = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        made = f"{key} {rule.__name__}"
        jit.KERNELS[made] = with_globals(function, lists_pay=rule, takes_lists=takes_lists)
        parts[kernel(key)] = kernel(made)
    return parts


def with_globals(function: Any, **others: Any) -> FunctionType:
    """Make a copy of a function that sees other globals."""
    return FunctionType(function.__code__, {**function.__globals__, **others}, function.__name__)


def samples(density: float, dtype: str) -> tuple[Array, Array]:
    """Six hundred samples: a third of them of the given density, the others of half and of one and a half of it.

    The inputs are two parts, and the first one ends in the middle of a mask's word.
    """
    X = RNG.normal(size=(600, 310))
    X *= RNG.random(X.shape) < density * np.array([1.0, 0.5, 1.5])[RNG.integers(3, size=600), None]
    return X.astype(dtype), RNG.integers(5, size=600)


def trained(X: Array, y: Array, engine: str = "numba", **options: Any) -> Array:
    """Train for an epoch, and give the weights, the loss, and what the network then says of X."""
    net = fastmlp.MLP([X.shape[1], 37, 5], dtype=X.dtype, engine=engine)
    loss = net.fit(X, y, epochs=1, optimizer=fastmlp.SGD(0.002, momentum=0.9), **options).train_loss
    arrays = [*net.weights, *net.biases, net.forward(X), net.forward(X[:1]), *net.gradients(X, y).weights]
    return np.concatenate([loss, *(array.ravel() for array in arrays)])


@pytest.mark.parametrize("in_halves", [False, True])
@pytest.mark.parametrize("rule", [always, never, by_turns], ids=["always", "never", "by turns"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_passing_over_zeros_leaves_every_bit(
    rule: Any, dtype: str, in_halves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two parts of the inputs; or of one, whose dW is summed over each half of a block's rows by itself."""
    monkeypatch.setattr("fastmlp.network.available_cpus", lambda: 3)
    if in_halves:
        monkeypatch.setattr("fastmlp.kernels.memory.PART_INPUTS", 1000)
        monkeypatch.setattr("fastmlp.kernels.engine.STEP_WORK_FOR_TWO", 0)
    cases = [
        (*samples(density, dtype), batch_size)
        for density in (0.0, 0.2, lists.LISTS_PAY_BELOW, 1.0)
        for batch_size in (1, 50, 560)  # 560 rows are three blocks.
    ]
    usual = [trained(X, y, batch_size=size, threads=1) for X, y, size in cases]
    monkeypatch.setattr(cache, "cache_folder", lambda: None)  # These kernels are nobody else's.
    for table in (engine.TRAINING_KERNELS, engine.FORWARD_KERNELS_BY_KIND["dense"]):
        for field, part in table.items():
            monkeypatch.setitem(table, field, parts_with(rule).get(part, part))
    for (X, y, size), result in zip(cases, usual, strict=True):
        for threads in (1, 2, 3):
            assert_array_equal(trained(X, y, batch_size=size, threads=threads), result)
        plain = trained(X, y, "numpy", batch_size=size)
        tolerance = 1e-4 if dtype == "float32" else 1e-10
        assert_allclose(result, plain, rtol=tolerance, atol=tolerance)
