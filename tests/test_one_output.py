"""Layers of a single output, whose products are made along the inputs: against NumPy, and against other ways here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fastmlp

RNG = np.random.default_rng(11)
TOLERANCE = {"float32": 2e-4, "float64": 1e-11}


def trained(dtype: str, sizes: list[int], engine: str = "numba", **options: Any) -> tuple[fastmlp.MLP, np.ndarray]:
    """Train for two epochs; give the network, and the losses and parameters as one array."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(310, sizes[0])).astype(dtype)
    y = np.tanh(X @ rng.normal(size=(sizes[0], sizes[-1])))
    net = fastmlp.MLP(sizes, activation="sigmoid", loss="squared_error", dtype=dtype, engine=engine, seed=2)
    losses = net.fit(X, y, epochs=2, optimizer=fastmlp.SGD(0.005, momentum=0.9), **options).train_loss
    return net, np.concatenate([losses, *(array.ravel() for array in (*net.weights, *net.biases))])


@pytest.mark.parametrize("in_halves", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 50, 310])  # 310 are two blocks.
@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 100])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_with_one_output_is_numpys(
    dtype: str, width: int, batch_size: int, in_halves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastmlp.kernels.engine.STEP_WORK_FOR_TWO", 0 if in_halves else np.inf)
    net, result = trained(dtype, [5, width, 1], batch_size=batch_size)
    plain, expected = trained(dtype, [5, width, 1], engine="numpy", batch_size=batch_size)
    assert_allclose(result, expected, rtol=0, atol=TOLERANCE[dtype])
    X = RNG.normal(size=(101, 5)).astype(dtype)
    assert_allclose(net.forward(X), plain.forward(X), rtol=0, atol=TOLERANCE[dtype])
    assert_array_equal(np.concatenate([net.forward(X[i : i + 1]) for i in range(101)]), net.forward(X))


def test_a_layer_of_one_unit_amid_others() -> None:
    for batch_size in (1, 7, 310):
        _, result = trained("float64", [3, 20, 1, 9, 1, 2], batch_size=batch_size)
        _, expected = trained("float64", [3, 20, 1, 9, 1, 2], engine="numpy", batch_size=batch_size)
        assert_allclose(result, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("in_halves", [False, True])
@pytest.mark.parametrize("batch_size", [7, 100, 310])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_leave_every_bit(dtype: str, batch_size: int, in_halves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmlp.network.available_cpus", lambda: 3)
    monkeypatch.setattr("fastmlp.kernels.engine.STEP_WORK_FOR_TWO", 0 if in_halves else np.inf)
    one, two, three = (
        trained(dtype, [9, 37, 1], batch_size=batch_size, threads=threads, l2=0.1)[1] for threads in (1, 2, 3)
    )
    assert_array_equal(two, one)
    assert_array_equal(three, one)


@pytest.mark.parametrize(("dtype", "much"), [("float32", 1e20), ("float64", 1e200)])
@pytest.mark.parametrize(("activation", "expected"), [("relu", 1.0), ("tanh", -2.0), ("sigmoid", 1.0)])
def test_units_that_overflow_leave_the_others_alone(activation: str, expected: float, dtype: str, much: float) -> None:
    """Where a unit is infinite, the places behind those of the next layer are NaN: nobody may read them."""
    for engine in ("numba", "numpy"):
        net = fastmlp.MLP([2, 4, 3, 1], ["relu", activation], loss="squared_error", dtype=dtype, engine=engine)
        net.set_parameters(
            [np.full((2, 4), much), -np.ones((4, 3)), np.ones((3, 1))], [np.zeros(4), np.zeros(3), np.ones(1)]
        )
        with np.errstate(over="ignore", invalid="ignore"):
            assert net.predict(np.full((1, 2), much, dtype)).item() == expected


def test_weights_that_are_assigned_are_used_at_once() -> None:
    net = fastmlp.MLP([2, 3, 1], activation="identity", loss="squared_error")
    X = np.array([[1.0, 2.0], [3.0, 5.0]], np.float32)
    net.predict(X)
    net.set_parameters([np.ones((2, 3)), np.array([[1.0], [10.0], [100.0]])], [np.zeros(3), np.array([7.0])])
    assert_array_equal(net.predict(X), [[3.0 * 111 + 7], [8.0 * 111 + 7]])
