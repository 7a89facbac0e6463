"""The flat parameter buffer and the initialisers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastmlp import MLP, SGD, Adam
from fastmlp.kernels.instructions import LINE_BYTES
from fastmlp.parameters import CACHE_LINE, ParameterLayout, aligned_zeros, padded
from fastmlp.spec import INITIALISERS, make_spec


def layout_of(sizes: list[int], **options: Any) -> ParameterLayout:
    fields: dict[str, Any] = {
        "activation": "relu", "output_activation": None, "loss": "squared_error", "reduction": "mean", "bias": True,
        "input_scale": 1.0, "dtype": "float32", **options,
    }  # fmt: skip
    return ParameterLayout(make_spec(sizes, **fields))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [[1, 1], [784, 100, 64, 32, 10], [3, 256, 512, 5], [7, 1, 9]])
def test_every_row_starts_on_a_cache_line_of_its_own(sizes: list[int], dtype: str) -> None:
    layout = layout_of(sizes, dtype=dtype)
    flat = layout.allocate()
    rows = [W[i] for W in layout.weights(flat) for i in range(len(W))] + layout.biases(flat)
    assert all(row.ctypes.data % CACHE_LINE == 0 for row in rows)
    assert [W.shape for W in layout.weights(flat)] == list(itertools.pairwise(sizes))
    assert [b.shape for b in layout.biases(flat)] == [(n,) for n in sizes[1:]]
    # Views do not overlap: numbered elements all survive.
    count = 0
    for row in rows:
        row[:] = np.arange(count + 1, count + 1 + row.size)
        count += row.size
    assert np.count_nonzero(flat) == count
    assert float(flat.sum(dtype="float64")) == count * (count + 1) / 2


def test_padding() -> None:
    assert LINE_BYTES == CACHE_LINE  # The kernels read whole ones.
    assert [padded(n, 4) for n in (1, 16, 17, 100)] == [16, 16, 32, 112]
    assert [padded(n, 8) for n in (1, 8, 9, 100)] == [8, 8, 16, 104]
    # 1 KiB and its multiples get one more cache line.
    assert [padded(n, 4) for n in (256, 512, 250, 240)] == [272, 528, 272, 240]
    for n in range(1, 50):
        assert aligned_zeros(n, "float32").ctypes.data % CACHE_LINE == 0
        assert aligned_zeros(n, "float32").shape == (n,)


def test_padding_stays_zero_through_training(engine: str) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 5)), rng.integers(3, size=40)
    for optimizer in (SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1), Adam(0.01, weight_decay=0.1)):
        for bias in (True, False):
            net = MLP([5, 17, 3], bias=bias, seed=1, engine=engine)
            state = net.training_state(optimizer)
            net.fit(X, y, epochs=3, batch_size=7, optimizer=optimizer, state=state)
            for flat in (net._parameters, *state.slots):
                learnt = flat.copy()
                for view in (*net._layout.weights(learnt), *net._layout.biases(learnt)):
                    view[:] = 0
                assert_array_equal(learnt, 0)


@pytest.mark.parametrize("init", INITIALISERS)
def test_initialisers_draw_the_published_variance(init: str) -> None:
    n_in, n_out = 300, 500
    (W,) = MLP([n_in, n_out], loss="squared_error", init=init, dtype="float64", engine="numpy").weights
    variance = 2 / n_in if init.startswith("he") else 2 / (n_in + n_out)
    # 150,000 draws: the variance's standard error is below half a percent, the mean's below 0.3 % of a deviation.
    assert W.var() == pytest.approx(variance, rel=0.02)
    assert abs(W.mean()) < 0.01 * np.sqrt(variance)
    largest = np.abs(W).max() / np.sqrt(variance)
    if init.endswith("uniform"):
        assert 1.73 < largest < np.sqrt(3)  # The edge of a uniform distribution, in deviations.
    else:
        assert 3.5 < largest < 6.5


def test_default_initialisers_follow_the_activation() -> None:
    sizes = [200, 200, 200, 200]
    net = MLP(sizes, ["relu", "tanh"], loss="squared_error", dtype="float64", engine="numpy")
    assert_allclose([W.var() for W in net.weights], [2 / 200, 2 / 400, 2 / 400], rtol=0.05)
    for b in net.biases:
        assert_array_equal(b, 0)


def test_both_dtypes_and_engines_start_alike() -> None:
    nets = [
        MLP([4, 9, 3], seed=11, dtype=dtype, engine=engine)
        for dtype in ("float64", "float32")
        for engine in ("numpy", "numba")
    ]
    for net in nets[1:]:
        for a, b in zip(net.weights, nets[0].weights, strict=True):
            assert_array_equal(a, b.astype(a.dtype))
