"""What `fit` can do besides plain training: each option by hand, engine against engine, thread against thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastmlp import MLP, SGD, Adam, training
from fastmlp.checkpoint import SavedNetwork

Array = np.ndarray
RNG = np.random.default_rng(7)
N = 300
X = RNG.normal(size=(N, 20)) * (RNG.random((N, 20)) < 0.6)
CLASSES = RNG.integers(4, size=N)
WEIGHTS = RNG.integers(0, 4, size=N).astype(float)

OPTIONS: dict[str, dict[str, Any]] = {
    "sample_weight": {"sample_weight": WEIGHTS},
    "l2": {"l2": 0.3},
    "epsilon_hat": {"optimizer": Adam(0.01, epsilon=1e-3, epsilon_hat=True)},
    "all": {"sample_weight": WEIGHTS, "l2": 0.3},
}
"""Arguments of `fit`."""


def network(engine: str, **options: Any) -> MLP:
    return MLP([20, 33, 16, 4], **{"activation": "tanh", "dtype": "float64", "seed": 3, "engine": engine, **options})


def parameters(net: MLP) -> list[Array]:
    return [array.copy() for array in (*net.weights, *net.biases)]


def with_optimizer(options: dict[str, Any]) -> dict[str, Any]:
    return {"optimizer": SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01), **options}


# --- Every option -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("batch_size", [7, 270])  # 270 rows are more than a block.
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_engines_agree(options: dict[str, Any], batch_size: int, reduction: str) -> None:
    rate = SGD(0.05 if reduction == "mean" else 0.0005, momentum=0.9, weight_decay=0.01)
    numba, numpy = (network(engine, reduction=reduction) for engine in ("numba", "numpy"))
    histories = [
        net.fit(X, CLASSES, epochs=3, batch_size=batch_size, **{"optimizer": rate, **options}) for net in (numba, numpy)
    ]
    for a, b in zip(parameters(numba), parameters(numpy), strict=True):
        assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    assert_allclose(histories[0].train_loss, histories[1].train_loss, rtol=1e-10)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_does_something(engine: str, options: dict[str, Any]) -> None:
    plain, other = network(engine), network(engine)
    optimizer = Adam(0.01, epsilon=1e-3)
    plain.fit(X, CLASSES, epochs=1, batch_size=50, optimizer=optimizer)
    other.fit(X, CLASSES, epochs=1, batch_size=50, **{"optimizer": optimizer, **options})
    assert all(np.abs(a - b).max() > 1e-6 for a, b in zip(parameters(plain), parameters(other), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [50, 270])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_threads_leave_every_bit(
    options: dict[str, Any], batch_size: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastmlp.network.available_cpus", lambda: 2)
    one, two = network("numba", dtype=dtype), network("numba", dtype=dtype)
    losses = [
        net.fit(X, CLASSES, epochs=2, batch_size=batch_size, threads=threads, **with_optimizer(options)).train_loss
        for threads, net in enumerate((one, two), start=1)
    ]
    assert losses[0] == losses[1]
    for a, b in zip(parameters(one), parameters(two), strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize("through_a_file", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_resumed_run_is_the_uninterrupted_one(
    engine: str, options: dict[str, Any], through_a_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHUNK_SECONDS", 0.0)
    arguments: dict[str, Any] = {"epochs": 2, "batch_size": 80, **with_optimizer(options)}
    whole, net = network(engine), network(engine)
    expected = whole.fit(X, CLASSES, **arguments)
    state = net.training_state(arguments["optimizer"])
    net.fit(X, CLASSES, **arguments, state=state, progress=lambda progress: progress.step == 3)
    assert state.step == 3
    if through_a_file:
        net.save(tmp_path / "run.safetensors", state)
        net = MLP.load(tmp_path / "run.safetensors", engine=engine)
        saved = SavedNetwork(tmp_path / "run.safetensors").state
        assert saved is not None
        state = saved
    history = net.fit(X, CLASSES, **arguments, state=state)
    assert history.train_loss == expected.train_loss
    for a, b in zip(parameters(net), parameters(whole), strict=True):
        assert_array_equal(a, b)


# --- Sample weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error"])
def test_a_weight_counts_like_so_many_copies(engine: str, loss: str, reduction: str) -> None:
    y = CLASSES if loss == "softmax_cross_entropy" else np.eye(4)[CLASSES]
    copies = np.repeat(np.arange(N), WEIGHTS.astype(int))
    weighted, copied = (network(engine, loss=loss, reduction=reduction) for _ in range(2))
    arguments: dict[str, Any] = {"epochs": 3, "optimizer": SGD(0.001), "batch_size": 1000, "l2": 0.5}
    a = weighted.fit(X, y, sample_weight=WEIGHTS, **arguments)
    b = copied.fit(X[copies], y[copies], **arguments)
    assert_allclose(a.train_loss, b.train_loss, rtol=1e-12)
    for one, other in zip(parameters(weighted), parameters(copied), strict=True):
        assert_allclose(one, other, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_without_weight_changes_nothing(engine: str, reduction: str) -> None:
    weights = np.ones(4)
    weights[2:] = 0.0
    left_out, absent = (network(engine, reduction=reduction) for _ in range(2))
    arguments: dict[str, Any] = {"batch_size": 2, "optimizer": SGD(0.1, momentum=0.9, weight_decay=0.1), "l2": 0.1}
    history = left_out.fit(X[:4], CLASSES[:4], epochs=3, shuffle=False, sample_weight=weights, **arguments)
    other = absent.fit(X[:2], CLASSES[:2], epochs=3, shuffle=False, **arguments)
    for a, b in zip(parameters(left_out), parameters(absent), strict=True):
        assert_array_equal(a, b)
    share = 0.5 if reduction == "mean" else 1.0
    assert_allclose(history.train_loss, [share * loss for loss in other.train_loss], rtol=1e-14)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(N - 1), r"^sample_weight must be \(300,\), got \(299,\)$"),
        (np.ones((N, 1)), r"^sample_weight must be \(300,\), got \(300, 1\)$"),
        (-np.ones(N), r"^sample_weight must be >= 0, got -1$"),
        (np.zeros(N), r"^sample_weight must be > 0 for at least one sample, got zeros$"),
        (np.full(N, np.nan), r"^sample_weight must be finite, got nan at \[0\]$"),
        (["a"] * N, r"^sample_weight must be numeric, got dtype <U1$"),
    ],
)
def test_wrong_weights(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network("numpy").fit(X, CLASSES, sample_weight=weights)


# --- Losses -----------------------------------------------------------------------------------------------------------


def test_a_poisson_network_predicts_means(engine: str) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, size=(400, 1))
    counts = rng.poisson(np.exp(1.0 + points[:, 0]))
    net = MLP([1, 1], loss="poisson", dtype="float64", engine=engine)
    net.fit(points, counts, epochs=600, batch_size=400, optimizer=SGD(0.2, momentum=0.9))
    assert_allclose(net.forward([[0.0], [1.0]]), np.exp(net.biases[0] + [[0.0], net.weights[0][0]]), rtol=1e-12)
    assert_array_equal(net.predict(points), net.forward(points))
    # The maximum-likelihood fit has the counts' own mean.
    assert net.predict(points).mean() == pytest.approx(counts.mean(), rel=1e-6)
    assert_allclose(np.log(net.predict([[0.0], [1.0]]))[:, 0], [1.0, 2.0], atol=0.2)
    with pytest.raises(ValueError, match=r"^y must be >= 0 for poisson, got -1$"):
        net.fit(points, -np.ones(400))


@pytest.mark.parametrize("level", [0.2, 0.5, 0.9])
def test_the_pinball_loss_finds_quantiles(engine: str, level: float) -> None:
    y = np.random.default_rng(1).normal(size=999)
    net = MLP([1, 1], loss="quantile", loss_parameter=level, dtype="float64", engine=engine)
    net.fit(np.zeros((999, 1)), y, epochs=600, batch_size=999, optimizer=SGD(0.2), schedule="cosine")
    assert net.predict([[0.0]])[0, 0] == pytest.approx(np.quantile(y, level), abs=0.02)


def test_losses_with_a_parameter_are_saved_with_it(engine: str, tmp_path: Path) -> None:
    net = MLP([2, 3, 1], loss="huber", loss_parameter=0.25, engine=engine)
    net.save(tmp_path / "net.safetensors")
    assert MLP.load(tmp_path / "net.safetensors", engine=engine).spec == net.spec
    assert MLP([2, 3, 1], loss="huber").spec.loss_parameter == 1.0
    assert MLP([2, 3, 1], loss="quantile").spec.loss_parameter == 0.5


@pytest.mark.parametrize(
    ("loss", "parameter", "message"),
    [
        ("squared_error", 1.0, r"^loss_parameter must be None for loss 'squared_error', got 1\.0$"),
        ("huber", 0.0, r"^loss_parameter must be > 0, got 0$"),
        ("quantile", 1.0, r"^loss_parameter must be < 1, got 1$"),
        ("quantile", "half", r"^loss_parameter must be a number, got 'half'$"),
    ],
)
def test_wrong_loss_parameters(loss: str, parameter: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP([1, 1], loss=loss, loss_parameter=parameter)


# --- L2 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reduction", "divisor"), [("mean", 10), ("sum", 1)])
def test_the_l2_term_is_part_of_the_loss_and_of_the_gradient_of_weights(
    engine: str, reduction: str, divisor: int
) -> None:
    net = network(engine, reduction=reduction)
    before, gradients, loss = parameters(net), net.gradients(X[:10], CLASSES[:10]), net.loss(X[:10], CLASSES[:10])
    n_layers = len(net.weights)
    history = net.fit(X[:10], CLASSES[:10], epochs=1, optimizer=SGD(0.25), l2=3.0)
    penalty = 0.5 * 3.0 * sum(float((W**2).sum()) for W in before[:n_layers]) / divisor
    assert history.train_loss == [pytest.approx(loss + penalty, rel=1e-14)]
    for W, W_before, dW in zip(net.weights, before[:n_layers], gradients.weights, strict=True):
        assert_allclose(W, W_before - 0.25 * (dW + 3.0 * W_before / divisor), rtol=1e-12, atol=1e-15)
    for b, b_before, db in zip(net.biases, before[n_layers:], gradients.biases, strict=True):
        assert_allclose(b, b_before - 0.25 * db, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("name", "value", "message"), [("l2", -1.0, r"^l2 must be >= 0, got -1$")])
def test_wrong_options(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network("numpy").fit(X, CLASSES, **{name: value})
