"""What `fit` can do besides plain training: each option by hand, engine against engine, thread against thread."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastmlp import MLP, SGD, Adam, Constant, DivergenceError, dropout, reference, training
from fastmlp.checkpoint import SavedNetwork
from fastmlp.recipe import Recipe, batch_totals

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
    "label_smoothing": {"label_smoothing": 0.2},
    "clip_norm": {"clip_norm": 0.1},
    "average": {"average": 0.9},
    "dropout": {"dropout": [0.2, 0.5]},
    "all": {
        "sample_weight": WEIGHTS, "l2": 0.3, "label_smoothing": 0.1, "clip_norm": 0.3, "average": 0.8, "dropout": 0.25,
    },
}  # fmt: skip
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


@pytest.mark.parametrize("in_halves", [False, True])
@pytest.mark.parametrize("n_parts", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [50, 270])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_threads_leave_every_bit(
    options: dict[str, Any],
    batch_size: int,
    dtype: str,
    n_parts: int,
    in_halves: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two threads have a part of the inputs each, or a share of the rows; three have a share of the rows.

    And two sum the gradient of half of the rows each, where a step is worth them.
    """
    monkeypatch.setattr("fastmlp.network.available_cpus", lambda: 3)
    monkeypatch.setattr("fastmlp.kernels.engine.STEP_WORK_FOR_TWO", 0 if in_halves else np.inf)
    monkeypatch.setattr("fastmlp.kernels.memory.PART_INPUTS", 20 // n_parts)
    one, *others = (network("numba", dtype=dtype) for _ in range(3))
    losses = [
        net.fit(X, CLASSES, epochs=2, batch_size=batch_size, threads=threads, **with_optimizer(options)).train_loss
        for threads, net in enumerate((one, *others), start=1)
    ]
    for net, loss in zip(others, losses[1:], strict=True):
        assert loss == losses[0]
        for a, b in zip(parameters(net), parameters(one), strict=True):
            assert_array_equal(a, b)


@pytest.mark.parametrize("through_a_file", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_resumed_run_is_the_uninterrupted_one(
    engine: str, options: dict[str, Any], through_a_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
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


@pytest.mark.parametrize(("loss", "most"), [("softmax_cross_entropy", 2.0), ("sigmoid_cross_entropy", 8.0)])
def test_a_cap_is_on_the_losses_that_are_reported_and_on_nothing_else(engine: str, loss: str, most: float) -> None:
    """Of the estimators, which report what scikit-learn does. Weights are so large that every loss is above it or 0."""
    y = CLASSES if loss == "softmax_cross_entropy" else np.eye(4)[CLASSES]
    ends, losses_and_gradients = [], []
    for cap in (np.inf, 2.0):
        net = network(engine, loss=loss)
        net.set_parameters([1e9 * W for W in net.weights])
        recipe = Recipe(1, N, SGD(0.1), Constant(), shuffle=False, loss_cap=cap)
        state = net.training_state(recipe.optimizer)
        wrong = abs((net._raw_outputs(X).argmax(axis=1) if y.ndim == 1 else net._raw_outputs(X) > 0) - y)
        expected = 2.0 * (wrong != 0).sum() / N
        own = y if y.ndim == 1 else y.astype(net.spec.dtype)
        losses_and_gradients.append(net._engine.gradient_function(net._parameters, X, own, loss_cap=cap)())
        training.EpochLoop(net._engine, net._parameters, X, y, True, recipe, state, 1).run()
        ends.append(parameters(net))
    assert 0.0 < expected < most
    assert state.history.train_loss[0] == pytest.approx(expected, rel=1e-6)
    for one, other in zip(*ends, strict=True):
        assert_array_equal(one, other)
    (without, gradient), (capped, same_gradient) = losses_and_gradients
    assert capped == pytest.approx(expected, rel=1e-6) != pytest.approx(without, rel=1e-6)
    assert_array_equal(gradient, same_gradient)


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
    assert_allclose(history.train_loss, other.train_loss, rtol=1e-14)


def test_batches_without_weight_are_not_in_the_mean_loss(engine: str) -> None:
    """Nor in that of an epoch that is stopped, and gone on with."""
    net, weights = network(engine), np.ones(N)
    weights[np.random.default_rng(1).random(N) < 0.7] = 0.0
    expected = net.loss(X[weights > 0], CLASSES[weights > 0])
    arguments: dict[str, Any] = {"batch_size": 1, "sample_weight": weights, "optimizer": SGD(1e-300)}
    assert_allclose(net.fit(X, CLASSES, epochs=3, **arguments).train_loss, expected, rtol=1e-12)
    state, losses = net.training_state(SGD(1e-300)), []
    for _ in range(5):
        net.fit(X, CLASSES, epochs=1, **arguments, state=state, progress=lambda at: losses.append(at.loss) or True)
    assert 0 < state.n_counted < state.batch
    assert losses[-1] == pytest.approx(state.loss_sum / state.n_counted)
    assert_allclose(net.fit(X, CLASSES, epochs=1, **arguments, state=state).train_loss, expected, rtol=1e-12)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy"])
@pytest.mark.parametrize("weight", [1e-44, 1e-30, 1e37, 1e45])
def test_weights_of_any_size_are_weights(engine: str, loss: str, weight: float) -> None:
    """A float32 network divides by their sum, and the quotient is in its range."""
    n_outputs, y = (4, CLASSES) if loss == "softmax_cross_entropy" else (1, CLASSES > 0)
    nets = [MLP([20, 5, n_outputs], loss=loss, seed=1, engine=engine) for _ in range(2)]
    for net, weights in zip(nets, (None, np.full(N, weight)), strict=True):
        net.fit(X, y, epochs=2, sample_weight=weights, label_smoothing=0.1)
    for a, b in zip(parameters(nets[0]), parameters(nets[1]), strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_weights_that_nothing_can_be_divided_by_are_zeros(engine: str) -> None:
    first = np.arange(N) == 0
    nets = [network(engine) for _ in range(2)]
    for net, others in zip(nets, (0.0, 1e-320), strict=True):
        net.fit(X, CLASSES, batch_size=20, epochs=1, sample_weight=np.where(first, 1.0, others))
    for a, b in zip(parameters(nets[0]), parameters(nets[1]), strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(N - 1), r"^sample_weight must be \(300,\), got \(299,\)$"),
        (np.ones((N, 1)), r"^sample_weight must be \(300,\), got \(300, 1\)$"),
        (-np.ones(N), r"^sample_weight must be >= 0, got -1$"),
        (np.zeros(N), r"^sample_weight must be > 0 for at least one sample, got zeros$"),
        (np.full(N, 1e-320), r"^sample_weight must be > 0 for at least one sample, got zeros$"),
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
    back = MLP.load(tmp_path / "net.safetensors", engine=engine)
    assert back.spec == net.spec
    back.set_parameters([np.zeros((2, 3)), np.zeros((3, 1))])
    assert back.loss([[1.0, 1.0]], [2.0]) == 0.25 * (2.0 - 0.125)  # delta (|r| - delta / 2)
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


# --- Label smoothing --------------------------------------------------------------------------------------------------


def test_smoothed_classes_are_soft_targets(engine: str) -> None:
    e, n_classes = 0.3, 4
    targets = (1 - e) * np.eye(n_classes)[CLASSES] + e / n_classes
    net = network(engine)
    logits = net_logits(net, X)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected_loss = -(targets * log_p).sum(axis=1).mean()
    b = net.biases[-1].copy()
    history = net.fit(X, CLASSES, epochs=1, batch_size=N, optimizer=SGD(1.0), label_smoothing=e)
    assert history.train_loss == [pytest.approx(expected_loss, rel=1e-12)]
    assert_allclose(net.biases[-1], b - (np.exp(log_p) - targets).mean(axis=0), rtol=1e-12, atol=1e-15)


def test_smoothed_labels_are_soft_labels(engine: str) -> None:
    labels = np.eye(4)[CLASSES]
    smoothed, soft = (network(engine, loss="sigmoid_cross_entropy") for _ in range(2))
    validation = (X[:50], labels[:50])
    a = smoothed.fit(X, labels, epochs=2, label_smoothing=0.3, validation_data=validation)
    b = soft.fit(X, 0.7 * labels + 0.15, epochs=2, validation_data=validation)
    assert_allclose(a.train_loss, b.train_loss, rtol=1e-12)
    assert_allclose(a.validation_loss, b.validation_loss, rtol=1e-9)
    for one, other in zip(parameters(smoothed), parameters(soft), strict=True):
        assert_allclose(one, other, rtol=1e-9, atol=1e-13)


def net_logits(net: MLP, A: Array) -> Array:
    for W, b in zip(net.weights[:-1], net.biases[:-1], strict=True):
        A = np.tanh(A @ W + b)
    return A @ net.weights[-1] + net.biases[-1]


# --- Clipping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.0, 2.0])
@pytest.mark.parametrize("clip_norm", [0.05, 1e6])
def test_the_whole_gradient_is_clipped_as_one_vector(engine: str, clip_norm: float, l2: float) -> None:
    net = network(engine)
    before, gradients = parameters(net), net.gradients(X, CLASSES)
    whole = [dW + l2 / N * W for dW, W in zip(gradients.weights, net.weights, strict=True)] + gradients.biases
    norm = np.sqrt(sum(float((g**2).sum()) for g in whole))
    factor = min(1.0, clip_norm / (norm + 1e-6))
    assert (factor < 1.0) == (clip_norm == 0.05)
    net.fit(X, CLASSES, epochs=1, batch_size=N, optimizer=SGD(0.5, weight_decay=0.1), clip_norm=clip_norm, l2=l2)
    for w, w_before, g in zip(parameters(net), before, whole, strict=True):
        assert_allclose(w, w_before - 0.5 * (factor * g + 0.1 * w_before), rtol=1e-10, atol=1e-14)


# --- The average of the weights ---------------------------------------------------------------------------------------


def test_the_network_holds_the_average_of_the_weights(engine: str) -> None:
    plain, averaged = network(engine), network(engine)
    arguments: dict[str, Any] = {"epochs": 6, "batch_size": N, "optimizer": Adam(0.05), "shuffle": False}
    weights: list[list[Array]] = []
    averages: list[list[Array]] = []
    losses = plain.fit(X, CLASSES, **arguments, callbacks=[lambda history: weights.append(parameters(plain))])
    history = averaged.fit(
        X, CLASSES, **arguments, average=0.75, validation_data=(X, CLASSES),
        callbacks=[lambda history: averages.append(parameters(averaged))],
    )  # fmt: skip
    assert history.train_loss == losses.train_loss  # The steps are those of the weights themselves.
    expected = weights[0]
    for step in range(6):
        expected = [a + 0.25 * (w - a) for a, w in zip(expected, weights[step], strict=True)]
        for a, e in zip(averages[step], expected, strict=True):
            assert_allclose(a, e, rtol=1e-12, atol=1e-15)
    for a, e in zip(averages[0], weights[0], strict=True):
        assert_array_equal(a, e)
    assert history.validation_loss[-1] == averaged.loss(X, CLASSES)


def test_a_state_with_an_average_goes_on_with_one(engine: str) -> None:
    net = network(engine)
    state = net.training_state(SGD(0.1))
    net.fit(X, CLASSES, epochs=1, optimizer=SGD(0.1), average=0.5, state=state)
    with pytest.raises(ValueError, match=r"^average must be given again: the state comes from a run with it, got None"):
        net.fit(X, CLASSES, epochs=2, optimizer=SGD(0.1), state=state)


def test_a_run_that_diverges_leaves_average_and_weights_as_they_were(engine: str) -> None:
    net = network(engine, loss="squared_error")
    before = parameters(net)
    with pytest.raises(DivergenceError):
        net.fit(X, 1e200 * np.eye(4)[CLASSES], epochs=2, optimizer=SGD(1e200), average=0.5)
    for a, b in zip(parameters(net), before, strict=True):
        assert_array_equal(a, b)


# --- Dropout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "identity"])
@pytest.mark.parametrize("batch_size", [20, 270])
def test_a_step_with_dropout_by_hand(engine: str, batch_size: int, activation: str) -> None:
    """Loss and gradient of the network whose hidden outputs are multiplied by the masks, by central differences."""
    net = network(engine, activation=activation)
    state = net.training_state(SGD(1.0))
    key = dropout.step_keys(state.dropout_seed, 0, 1)[0]
    masks = [dropout.masks(key, i, batch_size, n, 0.4, "float64") for i, n in enumerate((33, 16))]
    weights, biases = [W.copy() for W in net.weights], [b.copy() for b in net.biases]
    f = getattr(reference, activation)

    def loss() -> float:
        A = X[:batch_size]
        for layer, mask in enumerate(masks):
            A = f(A @ weights[layer] + biases[layer]) * mask
        return reference.softmax_cross_entropy(A @ weights[2] + biases[2], CLASSES[:batch_size])[0]

    history = net.fit(
        X[:batch_size], CLASSES[:batch_size], epochs=1, batch_size=batch_size, shuffle=False, optimizer=SGD(1.0),
        dropout=0.4, state=state,
    )  # fmt: skip
    assert history.train_loss == [pytest.approx(loss(), rel=1e-12)]
    for before, after in zip([*weights, *biases], parameters(net), strict=True):
        for index in [tuple(RNG.integers(before.shape)) for _ in range(5)]:
            kept, step = before[index], 1e-6
            before[index] = kept + step
            above = loss()
            before[index] = kept - step
            slope = (above - loss()) / (2 * step)
            before[index] = kept
            assert kept - after[index] == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_masks_are_drawn_evenly_and_independently() -> None:
    keys = dropout.step_keys(5, 0, 40)
    kept = np.array([[dropout.masks(key, i, 60, 50, 0.3, "float64") > 0 for i in range(2)] for key in keys])
    n = kept.size
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.21 / n)
    centred = (kept - 0.7) / np.sqrt(0.21)
    for axis in range(4):  # Steps, layers, rows, units: neighbours know nothing of each other.
        first, second = (
            np.take(centred, range(kept.shape[axis] - 1), axis),
            np.take(centred, range(1, kept.shape[axis]), axis),
        )
        assert abs((first * second).mean()) < 5 / np.sqrt(first.size)
    for axis in range(4):
        others = tuple(i for i in range(4) if i != axis)
        assert np.abs(centred.mean(axis=others)).max() < 5 * np.sqrt(kept.shape[axis] / n)
    assert_array_equal(np.unique(dropout.masks(keys[0], 0, 60, 50, 0.5, "float32")), [0.0, 2.0])


def test_dropout_is_of_the_training_alone(engine: str) -> None:
    net, plain = network(engine), network(engine)
    history = net.fit(X, CLASSES, epochs=1, dropout=0.5, validation_data=(X, CLASSES))
    assert history.validation_loss == [net.loss(X, CLASSES)]
    plain.set_parameters(net.weights, net.biases)
    assert_array_equal(net.forward(X), plain.forward(X))
    plain.fit(X, CLASSES, epochs=1, dropout=0.0)
    other = network(engine)
    other.set_parameters(net.weights, net.biases)
    other.fit(X, CLASSES, epochs=1, dropout=[0.0, 0.0])
    for a, b in zip(parameters(plain), parameters(other), strict=True):
        assert_array_equal(a, b)


def test_a_second_fit_leaves_out_other_units() -> None:
    net = network("numpy")
    first = net.training_state(SGD()).dropout_seed
    net.fit(X, CLASSES, epochs=1, dropout=0.5)
    assert net.training_state(SGD()).dropout_seed != first
    assert network("numpy", seed=4).training_state(SGD()).dropout_seed != first


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("l2", -1.0, r"^l2 must be >= 0, got -1$"),
        ("label_smoothing", 1.0, r"^label_smoothing must be < 1, got 1$"),
        ("clip_norm", 0.0, r"^clip_norm must be > 0, got 0$"),
        ("average", 1.0, r"^average must be < 1, got 1$"),
        ("average", 0.0, r"^average must be > 0, got 0$"),
        ("dropout", 1.0, r"^dropout must be < 1, got 1$"),
        ("dropout", [0.5, -0.5], r"^dropout must be >= 0, got -0\.5$"),
        ("dropout", [0.5], r"^dropout must give one rate for each of the 2 hidden layers, got 1$"),
        ("dropout", "half", r"^dropout must be a number, got 'half'$"),
    ],
)
def test_wrong_options(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network("numpy").fit(X, CLASSES, **{name: value})


def test_smoothing_needs_classes() -> None:
    with pytest.raises(ValueError, match=r"^label_smoothing must be 0 for loss 'huber', got 0\.1$"):
        network("numpy", loss="huber").fit(X, np.eye(4)[CLASSES], label_smoothing=0.1)


def test_what_is_predicted_after_averaging_is_the_average(engine: str) -> None:
    """Memory that a step has used, with the weights that are trained, is used again."""
    net, plain = (MLP([5, 6, 3], dtype="float64", engine=name) for name in (engine, "numpy"))
    X, y = np.random.default_rng(0).normal(size=(30, 5)), np.arange(30) % 3
    net.fit(X, y, epochs=3, batch_size=10, average=0.9, threads=1)
    plain.set_parameters(net.weights, net.biases)
    assert_allclose(net.forward(X), plain.forward(X), rtol=1e-12)


@pytest.mark.parametrize("sample_weight", [None, np.ones(1)])
def test_the_sizes_of_some_batches_cost_nothing_for_the_others(sample_weight: np.ndarray | None) -> None:
    """Of an epoch of a hundred million steps, a call takes some: to look at all took longer than its steps."""
    orders = np.broadcast_to(np.int64(0), (1, 100_000_001))
    tracemalloc.start()
    try:
        totals = batch_totals(sample_weight, orders, 2, 50_000_000 - 3, 8)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert totals.tolist() == [2, 2, 2, 1, 2, 2, 2, 2]
    assert peak < 100_000
