"""`MLP.gradients` against central differences of `MLP.loss`, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import ACTIVATIONS, LOSSES, targets
from numpy.testing import assert_allclose, assert_array_equal

from fastmlp import MLP
from fastmlp.sparse import SparseRows

Array = np.ndarray

N_SAMPLES, N_IN, N_OUT = 5, 3, 4
WIDTHS = (5, 4)
KINKED = ("relu", "leaky_relu")
STEP = 1e-4


def central_difference(f: Callable[[], float], parameters: list[Array]) -> list[Array]:
    """Differentiate f by each element of the arrays that it depends on.

    Four points, so that the formula's own error, of the order of STEP^4, is as far below the tolerance as rounding,
    of the order of 1e-16 / STEP.
    """
    result = []
    for array in parameters:
        slope = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            kept = array[index]
            values = []
            for k in (-2, -1, 1, 2):
                array[index] = kept + k * STEP
                values.append(f())
            array[index] = kept
            slope[index] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * STEP)
        result.append(slope)
    return result


def distance_to_kink(net: MLP, X: Array, activations: list[str]) -> float:
    """Give the smallest |Z| before an activation with a kink: central differences must not step over zero."""
    smallest = np.inf
    A = X
    for layer, (W, name) in enumerate(zip(net.weights, activations, strict=True)):
        Z = A @ W + (net.biases[layer] if net.biases else 0)
        if name in KINKED:
            smallest = min(smallest, float(np.abs(Z).min()))
        A = {"relu": np.maximum(Z, 0), "leaky_relu": np.maximum(Z, 0.01 * Z)}.get(name, np.tanh(Z))
    return smallest


def make_problem(
    engine: str, activation: str, loss: str, output_activation: str | None = None, depth: int = 2, **options: Any
) -> tuple[MLP, Array, Array]:
    """Build a small network with inputs and targets, its parameters all drawn and no kink nearby."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(N_SAMPLES, N_IN))
        y = targets(loss, N_SAMPLES, N_OUT, rng)
        sizes = [N_IN, *WIDTHS[: depth - 1], N_OUT]
        net = MLP(
            sizes, activation, output_activation, loss, dtype="float64", seed=seed, engine=engine, **options
        )  # fmt: skip
        for b in net.biases:
            b[:] = rng.normal(size=b.shape)
        if distance_to_kink(net, X, [activation] * (depth - 1) + [output_activation or "identity"]) > 0.01:
            return net, X, y
    raise AssertionError("no seed keeps this network away from its kinks")


def check(net: MLP, X: Array, y: Array) -> None:
    gradients = net.gradients(X, y)
    assert len(gradients.weights) == len(net.weights)
    assert len(gradients.biases) == len(net.biases)
    expected = central_difference(lambda: net.loss(X, y), [*net.weights, *net.biases])
    for actual, slope in zip([*gradients.weights, *gradients.biases], expected, strict=True):
        assert np.abs(slope).max() > 1e-4  # The comparison is of something.
        # Element by element; the absolute part is the rounding error of the differences themselves.
        assert_allclose(actual, slope, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_with_every_loss(engine: str, activation: str, loss: str) -> None:
    check(*make_problem(engine, activation, loss))


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
@pytest.mark.parametrize("output_activation", ACTIVATIONS)
def test_every_output_activation(engine: str, output_activation: str, loss: str) -> None:
    check(*make_problem(engine, "tanh", loss, output_activation))


@pytest.mark.parametrize(("loss", "parameter"), [("huber", 0.3), ("huber", 5.0), ("quantile", 0.1), ("quantile", 0.9)])
def test_loss_parameters(engine: str, loss: str, parameter: float) -> None:
    check(*make_problem(engine, "tanh", loss, loss_parameter=parameter))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
def test_depth_bias_and_reduction(engine: str, loss: str, reduction: str, bias: bool, depth: int) -> None:
    check(*make_problem(engine, "leaky_relu", loss, depth=depth, bias=bias, reduction=reduction))


def test_layers_with_activations_of_their_own(engine: str) -> None:
    rng = np.random.default_rng(3)
    net = MLP([3, 6, 5, 4, 2], ["gelu", "tanh", "silu"], loss="squared_error", dtype="float64", engine=engine)
    check(net, rng.normal(size=(5, 3)), rng.normal(size=(5, 2)))


def test_input_scale_and_pixels(engine: str) -> None:
    rng = np.random.default_rng(4)
    X, y = rng.integers(256, size=(6, 9), dtype=np.uint8), rng.integers(3, size=6)
    net = MLP([9, 5, 3], "sigmoid", input_scale=1 / 255, dtype="float64", engine=engine)
    check(net, X, y)
    plain = MLP([9, 5, 3], "sigmoid", dtype="float64", engine=engine)
    for a, b in zip(net.gradients(X, y).weights, plain.gradients(X / 255, y).weights, strict=True):
        assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_soft_targets(engine: str) -> None:
    rng = np.random.default_rng(5)
    net = MLP([3, 4, 2], "tanh", loss="sigmoid_cross_entropy", dtype="float64", engine=engine)
    check(net, rng.normal(size=(5, 3)), rng.uniform(size=(5, 2)))


def test_one_hot_targets_are_the_same_as_classes(engine: str) -> None:
    net, X, y = make_problem(engine, "tanh", "softmax_cross_entropy")
    by_class, by_row = net.gradients(X, y), net.gradients(X, np.eye(N_OUT)[y])
    for a, b in zip([*by_class.weights, *by_class.biases], [*by_row.weights, *by_row.biases], strict=True):
        assert_array_equal(a, b)


def test_mean_is_the_sum_over_the_batch_size(engine: str) -> None:
    for loss in LOSSES:
        mean, X, y = make_problem(engine, "tanh", loss)
        total = MLP([N_IN, WIDTHS[0], N_OUT], "tanh", loss=loss, reduction="sum", dtype="float64", engine=engine)
        total.set_parameters(mean.weights, mean.biases)
        assert total.loss(X, y) == pytest.approx(N_SAMPLES * mean.loss(X, y), rel=1e-14)
        for a, b in zip(total.gradients(X, y).weights, mean.gradients(X, y).weights, strict=True):
            assert_allclose(a, N_SAMPLES * b, rtol=1e-12, atol=1e-15)


def test_the_textbooks_delta_rule(engine: str) -> None:
    """With reduction="sum" the gradient of a sigmoid unit is the textbook's sum of (ŷ - y) ŷ (1 - ŷ) x."""
    X = np.array([[0.0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
    y = np.array([0.0, 0, 1, 1])
    net = MLP(
        [3, 1], output_activation="sigmoid", loss="squared_error", reduction="sum", bias=False, dtype="float64",
        engine=engine,
    )  # fmt: skip
    net.set_parameters([[[0.5], [-1.0], [0.25]]])
    guess = 1 / (1 + np.exp(-(X @ np.array([0.5, -1.0, 0.25]))))
    delta = (guess - y) * guess * (1 - guess)
    assert_allclose(net.gradients(X, y).weights[0][:, 0], X.T @ delta, rtol=1e-14, atol=1e-15)
    assert net.gradients(X, y).biases == []


def test_gradients_leave_the_network_alone(engine: str) -> None:
    net, X, y = make_problem(engine, "relu", "softmax_cross_entropy")
    before = [a.copy() for a in [*net.weights, *net.biases]]
    first = net.gradients(X, y)
    kept = [g.copy() for g in first.weights]
    net.gradients(X[:2], y[:2])
    for a, b in zip([*net.weights, *net.biases], before, strict=True):
        assert_array_equal(a, b)
    for a, b in zip(first.weights, kept, strict=True):  # The first answer is its caller's own.
        assert_array_equal(a, b)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("n_samples", [1, 7, 600])
def test_gradients_of_the_same_samples_again_and_again(n_samples: int, is_sparse: bool, bias: bool) -> None:
    """In a line search, the loss may be anything for a moment."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, 6)) * (rng.random((n_samples, 6)) < 0.5)
    rows, columns = np.nonzero(X)
    starts = np.searchsorted(rows, np.arange(n_samples + 1))
    samples = SparseRows(X[rows, columns], columns.astype(np.int32), starts, 6) if is_sparse else X
    y, weights = rng.integers(3, size=n_samples), rng.random(n_samples) + 0.5
    nets = [MLP([6, 5, 5, 3], dtype="float64", bias=bias, engine=engine) for engine in ("numba", "numpy")]
    ours, at_first = nets[0], nets[0].weights[0].copy()
    functions = [net._engine.gradient_function(net._parameters, samples, y, weights) for net in nets]
    beside = ours._engine.gradient_function(ours._parameters, samples, y)
    gradients = []
    for factor in (1.0, -2.0, np.nan, 0.5, 1e308, 1.0):
        for net in nets:
            net.weights[0][...] = factor * at_first
        (loss, gradient), (own_loss, expected) = (function() for function in functions)
        beside()
        gradients.append(gradient.copy())
        if abs(factor) < 10.0:
            assert loss == pytest.approx(own_loss, rel=1e-12)
            for view in (ours._layout.weights, ours._layout.biases):
                for dW, expected_dW in zip(view(gradient), view(expected), strict=True):
                    assert_allclose(dW, expected_dW, rtol=1e-9, atol=1e-12)
        elif not np.isfinite(loss):
            assert np.isnan(gradient).all()
    assert np.isnan(gradients[2]).all()
    assert_array_equal(gradients[0], gradients[-1])
    assert gradients[0].any()
    assert np.isfinite(gradients[0]).all()


def test_gradients_give_their_memory_back() -> None:
    net = MLP([6, 5, 11])
    spare = net._engine._spare["dense", 1]  # type: ignore[attr-defined]
    for _ in range(3):
        net.gradients(np.ones((2, 6)), [0, 1])
        assert len(spare) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_every_width_is_taken_whole(dtype: str) -> None:
    """Inputs, hidden units and outputs that do not fill a vector, a cache line or a word of a mask."""
    rng = np.random.default_rng(0)
    own = "float64" if dtype == "uint8" else dtype
    tolerance = 1e-5 if own == "float32" else 1e-12
    for width in range(1, 67):
        X = (rng.integers(1, 256, size=(19, width)) * (rng.random((19, width)) < 0.4)).astype(dtype)
        sizes, y = [width, 67 - width, width, 1 + width % 17], rng.integers(1 + width % 17, size=19)
        ours, theirs = (
            MLP(sizes, "tanh", dtype=own, input_scale=1 / 255, seed=1, engine=engine).gradients(X, y)
            for engine in ("numba", "numpy")
        )
        for a, b in zip([*ours.weights, *ours.biases], [*theirs.weights, *theirs.biases], strict=True):
            assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_in", [1, 5, 16, 23, 64, 70, 300])
def test_what_is_not_finite_is_found_wherever_it_stands(n_in: int, dtype: str) -> None:
    net = MLP([n_in, 3, 2], dtype=dtype)
    for column in range(n_in):
        X = np.zeros((3, n_in), dtype)
        X[1, column] = [np.nan, np.inf, -np.inf][column % 3]
        with pytest.raises(ValueError, match=rf"X must be finite, got \S+ at \[1, {column}\]"):
            net.forward(X)
