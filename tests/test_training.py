"""The minibatch loop: order, batches, history, stopping, repeatability, resuming."""

from __future__ import annotations

import math
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blobs import assert_same, blobs, classifier, parameters
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fastmlp import MLP, SGD, Adam, Cosine, History, Progress, chunks, training
from fastmlp.checkpoint import SavedNetwork
from fastmlp.cpus import available_cpus
from fastmlp.optimizers import AdamW, Constant, Optimizer, RMSprop
from fastmlp.parameters import aligned_zeros
from fastmlp.recipe import Recipe, TrainingState
from fastmlp.training import draw_orders

Array = np.ndarray


# --- Against a loop written by hand -----------------------------------------------------------------------------------


def plain_loop(
    net: MLP, X: Array, y: Array, epochs: int, batch_size: int, rate: float, momentum: float, fits: int, shuffle: bool
) -> tuple[list[Array], list[Array], list[float]]:
    """Train a copy of a tanh network with softmax cross-entropy in the plainest NumPy; give weights, biases, losses."""
    W, b = [w.copy() for w in net.weights], [v.copy() for v in net.biases]
    velocity_W, velocity_b = [np.zeros_like(w) for w in W], [np.zeros_like(v) for v in b]
    rng = np.random.default_rng(np.random.SeedSequence(net.seed, spawn_key=(1, fits)))
    train_loss = []
    for _ in range(epochs):
        order = rng.permuted(np.arange(len(X))) if shuffle else np.arange(len(X))
        total = 0.0
        for start in range(0, len(X), batch_size):
            rows = order[start : start + batch_size]
            A = [X[rows]]
            for layer in range(len(W) - 1):
                A.append(np.tanh(A[-1] @ W[layer] + b[layer]))
            Z = A[-1] @ W[-1] + b[-1]
            P = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
            total -= np.log(P[np.arange(len(rows)), y[rows]]).sum()
            delta = (P - np.eye(3)[y[rows]]) / len(rows)
            for layer in reversed(range(len(W))):
                dW, db = A[layer].T @ delta, delta.sum(axis=0)
                delta = (delta @ W[layer].T) * (1 - A[layer] ** 2)
                velocity_W[layer] = momentum * velocity_W[layer] + dW
                velocity_b[layer] = momentum * velocity_b[layer] + db
                W[layer] = W[layer] - rate * velocity_W[layer]
                b[layer] = b[layer] - rate * velocity_b[layer]
        train_loss.append(total / len(X))
    return W, b, train_loss


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 5, 8, 23, 100])
def test_fit_is_the_plain_loop(engine: str, batch_size: int, shuffle: bool) -> None:
    """23 samples: batches of 1, with a short last batch of 3 and of 7, the full batch, and more than there is."""
    X, y = blobs()
    net = classifier(engine)
    for fits in range(2):  # The second fit goes on from the first one's weights, with velocities of zero.
        W, b, train_loss = plain_loop(net, X, y, 4, batch_size, 0.2, 0.7, fits, shuffle)
        history = net.fit(
            X, y, epochs=4, batch_size=batch_size, optimizer=SGD(0.2, momentum=0.7), shuffle=shuffle
        )  # fmt: skip
        for actual, expected in zip([*net.weights, *net.biases], [*W, *b], strict=True):
            assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)
        # The loss of the history is that of each sample in the forward pass of its own step, before the update.
        assert_allclose(history.train_loss, train_loss, rtol=1e-10)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_train_loss_is_reduced_as_the_network_says(engine: str, reduction: str) -> None:
    # With a rate of next to nothing every step sees the first weights, whatever the batches.
    X, y = blobs()
    net = classifier(engine, reduction=reduction)
    before = net.loss(X, y)
    history = net.fit(X, y, epochs=2, batch_size=5, optimizer=SGD(1e-15))
    assert_allclose(history.train_loss, before, rtol=1e-10)


def test_sum_reduction_steps_by_the_summed_gradient(engine: str) -> None:
    X, y = blobs()
    net = classifier(engine, reduction="sum")
    gradient = net.gradients(X[:6], y[:6])
    expected = [p - 0.01 * g for p, g in zip(parameters(net), [*gradient.weights, *gradient.biases], strict=True)]
    net.fit(X[:6], y[:6], epochs=1, batch_size=6, optimizer=SGD(0.01), shuffle=False)
    for actual, e in zip(parameters(net), expected, strict=True):
        assert_allclose(actual, e, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 70), min_size=2, max_size=4),
    n_in=st.sampled_from([1, 3, 8, 15, 17, 64, 65, 200, 256, 301]),
    n_samples=st.sampled_from([1, 7, 8, 9, 50, 263, 264, 265, 550]),
    batch_size=st.sampled_from([1, 5, 16, 100, 265, 550]),
    optimizer=st.sampled_from(
        [
            # Small rates: where learning is chaotic, two engines soon differ by more than their rounding.
            SGD(0.05),
            SGD(0.01, momentum=0.9, weight_decay=0.01),
            SGD(0.01, momentum=0.9, nesterov=True),
            # A large epsilon: else a gradient that is zero but for rounding decides where a whole step goes.
            Adam(0.01, epsilon=0.01, weight_decay=0.01),
            AdamW(0.01, epsilon=0.01),
            RMSprop(0.01, epsilon=0.01, weight_decay=0.01),
        ]
    ),
    activation=st.sampled_from(["relu", "tanh", "gelu", "softplus"]),
    bias=st.booleans(),
    density=st.sampled_from([0.0, 0.1, 1.0]),
    pixels=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_engines_train_alike(
    sizes: list[int], n_in: int, n_samples: int, batch_size: int, optimizer: Optimizer, activation: str, bias: bool,
    density: float, pixels: bool, seed: int,
) -> None:  # fmt: skip
    """Sparse and dense inputs, batches beyond any block that a kernel works on, one thread and more."""
    rng = np.random.default_rng(seed)
    X = rng.integers(256, size=(n_samples, n_in)) * (rng.uniform(size=(n_samples, n_in)) < density)
    X = X.astype(np.uint8 if pixels else np.float64)
    y = rng.integers(sizes[-1], size=n_samples)
    n_steps = -(-n_samples // batch_size)
    arguments: dict[str, Any] = {
        "epochs": 2 if n_steps < 50 else 1, "batch_size": batch_size, "optimizer": optimizer, "schedule": "one_cycle",
    }  # fmt: skip
    results = []
    for engine, threads in (("numpy", 1), ("numba", 1), ("numba", 2), ("numba", 3)):
        net = MLP(
            [n_in, *sizes], activation, bias=bias, input_scale=1 / 255, dtype="float64", seed=seed, engine=engine
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fastmlp.network.available_cpus", lambda: 3)
            history = net.fit(X, y, threads=threads, **arguments)
        results.append([*parameters(net), np.array(history.train_loss)])
    assert_same(results[2], results[1])
    assert_same(results[3], results[1])
    for actual, expected in zip(results[1], results[0], strict=True):
        assert_allclose(actual, expected, rtol=1e-7, atol=1e-9)


# --- Which samples, in which order ------------------------------------------------------------------------------------


def test_every_sample_is_taken_exactly_once_an_epoch(engine: str) -> None:
    """Sample i is the i-th unit vector, so it alone moves weight i: half of the way to its target, each time."""
    n = 37
    for batch_size in (1, 4, 37):
        net = MLP([n, 1], loss="squared_error", reduction="sum", bias=False, dtype="float64", engine=engine)
        net.set_parameters([np.zeros((n, 1))])
        net.fit(np.eye(n), np.arange(n, dtype=float), epochs=3, batch_size=batch_size, optimizer=SGD(0.5))
        assert_allclose(net.weights[0][:, 0], np.arange(n) * (1 - 0.5**3), rtol=1e-13)


class Recorder:
    """An engine that takes no step and records which rows each step would have had."""

    name = "recorder"

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.rates: list[float] = []
        self.first_steps: list[int] = []
        self.calls = 0

    def compile(self, X: Array, recipe: Any = None) -> None:
        pass

    def raw_outputs(self, parameters: Array, X: Array, threads: int | None = None) -> Array:
        return np.zeros((len(X), 1))

    def train_steps(
        self, parameters: Array, state: TrainingState, X: Array, y: Array, orders: Array, recipe: Recipe,
        first_batch: int, learning_rates: Array, threads: int, *options: Any,
    ) -> Array:  # fmt: skip
        self.calls += 1
        batch_size = recipe.batch_size
        n_batches = -(-len(X) // batch_size)
        for i, rate in enumerate(learning_rates):
            epoch, batch = divmod(first_batch + i, n_batches)
            self.batches.append(orders[epoch % len(orders)][batch * batch_size :][:batch_size].tolist())
            self.rates.append(float(rate))
            self.first_steps.append(state.step + i)
        return np.ones(len(learning_rates))


def record(n_samples: int, epochs: int, batch_size: int, **arguments: Any) -> tuple[Recorder, TrainingState]:
    recorder = Recorder()
    state = TrainingState(rng=np.random.default_rng(0), slots=[])
    shuffle = arguments.pop("shuffle", True)
    recipe = Recipe(epochs, batch_size, SGD(0.1), arguments.pop("schedule", Constant()), shuffle)
    X = np.zeros((n_samples, 1))
    training.EpochLoop(recorder, aligned_zeros(1, "float64"), X, X, True, recipe, state, 1, **arguments).run()  # type: ignore[arg-type]
    return recorder, state


@pytest.mark.parametrize("evaluate", [None, lambda: (0.0, 0.0)])
def test_orders_remix_samples_and_not_batches(evaluate: Any) -> None:
    recorder, _ = record(23, epochs=6, batch_size=5, evaluate=evaluate)
    assert [len(batch) for batch in recorder.batches] == [5, 5, 5, 5, 3] * 6
    epochs = [[row for batch in recorder.batches[5 * e : 5 * e + 5] for row in batch] for e in range(6)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(23))
    assert len({tuple(epoch) for epoch in epochs}) == 6
    # Companions in a batch change: the samples that shared the first batch do not share one again.
    first = set(recorder.batches[0])
    assert not any(first <= set(batch) for batch in recorder.batches[5:])
    assert recorder.first_steps == list(range(30))


def test_without_shuffling_the_order_is_the_datas() -> None:
    recorder, _ = record(7, epochs=2, batch_size=3, shuffle=False)
    assert recorder.batches == [[0, 1, 2], [3, 4, 5], [6]] * 2


def test_one_batch_has_no_order(engine: str) -> None:
    """Full-batch learning draws nothing: its sums are in the order of the data, whatever the seed."""
    X, y = blobs()
    results, start = [], classifier(engine)
    for seed, shuffle in ((0, True), (1, True), (0, False)):
        net = classifier(engine, seed=seed)
        net.set_parameters(start.weights, start.biases)
        losses = net.fit(X, y, epochs=5, batch_size=30, shuffle=shuffle).train_loss
        results.append([*parameters(net), np.array(losses)])
    assert_same(results[1], results[0])
    assert_same(results[2], results[0])


def test_orders_do_not_depend_on_how_they_are_grouped() -> None:
    together = draw_orders(np.random.default_rng(5), 4, 9)
    rng = np.random.default_rng(5)
    apart = [draw_orders(rng, n, 9) for n in (1, 2, 1)]
    assert_array_equal(together, np.concatenate(apart))
    rng = np.random.default_rng(5)
    assert_array_equal(together, [rng.permuted(np.arange(9)) for _ in range(4)])


def test_the_schedule_is_followed_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = 0.1 * Cosine(warmup=1).factors(0, 20, steps_per_epoch=5, epochs=4)
    for call_seconds in (0.0, 0.1):  # One step a call, and as many as there are.
        monkeypatch.setattr(training, "CALL_SECONDS", call_seconds)
        recorder, state = record(23, epochs=4, batch_size=5, schedule=Cosine(warmup=1))
        assert_allclose(recorder.rates, expected, rtol=1e-15)
        assert_allclose(state.history.learning_rate, expected[4::5], rtol=1e-15)
        assert state.history.train_loss == [1.0] * 4


def test_short_epochs_share_engine_calls() -> None:
    recorder, state = record(4, epochs=2000, batch_size=4)
    assert len(recorder.batches) == 2000
    assert recorder.calls < 100
    assert len(state.history.seconds) == 2000


def test_the_weights_and_the_fits_of_a_seed_have_streams_of_their_own() -> None:
    """Not those of other seeds, nor the one that users draw their data from."""
    streams = []
    for seed in (0, 1, 2**32):
        streams.append(np.random.default_rng(seed).random(50))
        net = MLP([1, 50], seed=seed, init="glorot_uniform", dtype="float64", engine="numpy")
        streams.append(net.weights[0][0] / np.sqrt(6.0 / 51) / 2.0 + 0.5)
        for _ in range(2):
            state = net.training_state(SGD())
            streams += [state.rng.random(50), np.random.default_rng(state.dropout_seed).random(50)]
            net.fit([[0.0]], [0], epochs=1)
    for i, stream in enumerate(streams):
        assert all(np.abs(stream - other).max() > 0.1 for other in streams[:i])


# --- History, callbacks, progress -------------------------------------------------------------------------------------


def test_history_has_one_entry_an_epoch(engine: str) -> None:
    X, y = blobs()
    net = classifier(engine)
    history = net.fit(X, y, epochs=3, batch_size=5, validation_data=(X[:9], y[:9]))
    assert isinstance(history, History)
    assert {name: len(values) for name, values in history.to_dict().items()} == {
        "train_loss": 3, "validation_loss": 3, "validation_accuracy": 3, "learning_rate": 3, "seconds": 3,
    }  # fmt: skip
    assert history.validation_loss[-1] == net.loss(X[:9], y[:9])
    assert history.validation_accuracy[-1] == net.accuracy(X[:9], y[:9])
    assert all(seconds > 0 for seconds in history.seconds)
    assert history.compile_seconds >= 0
    assert history.train_loss[-1] < history.train_loss[0]
    history.to_dict()["train_loss"].clear()  # A copy.
    assert len(history.train_loss) == 3


def test_a_history_is_shown_in_one_line() -> None:
    assert repr(History()) == "History of 0 epochs"
    history = History(train_loss=[0.5] * 2999 + [0.25], learning_rate=[0.1] * 3000, seconds=[2.0] * 3000)
    assert repr(history) == "History of 3000 epochs, of the last: train_loss 0.25, learning_rate 0.1, seconds 2"


def test_history_without_validation_and_of_a_regression(engine: str) -> None:
    X, y = blobs()
    history = classifier(engine).fit(X, y, epochs=2)
    assert (history.validation_loss, history.validation_accuracy) == ([], [])
    net = MLP([2, 4, 2], loss="squared_error", dtype="float64", engine=engine)
    history = net.fit(X, X, epochs=2, validation_data=(X, X))
    assert (len(history.validation_loss), history.validation_accuracy) == (2, [])


def test_watching_does_not_change_the_result(engine: str) -> None:
    X, y = blobs()
    plain, watched, validated = (classifier(engine) for _ in range(3))
    plain.fit(X, y, epochs=5, batch_size=4)
    watched.fit(X, y, epochs=5, batch_size=4, progress=lambda progress: None, callbacks=[lambda history: None])
    validated.fit(X, y, epochs=5, batch_size=4, validation_data=(X, y))
    assert_same(parameters(watched), parameters(plain))
    assert_same(parameters(validated), parameters(plain))


def test_a_callback_stops_after_its_epoch(engine: str) -> None:
    X, y = blobs()
    called = []
    net, shorter = classifier(engine), classifier(engine)
    history = net.fit(
        X, y, epochs=10, batch_size=4,
        callbacks=[lambda h: len(h.train_loss) == 3, lambda h: called.append(len(h.train_loss))],
    )  # fmt: skip
    assert len(history.train_loss) == 3
    assert called == [1, 2, 3]  # The others are called all the same.
    shorter.fit(X, y, epochs=3, batch_size=4)
    assert_same(parameters(net), parameters(shorter))


def test_progress_says_where_the_run_stands(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)  # One step a call.
    X, y = blobs()
    net = classifier(engine)
    seen: list[Progress] = []
    history = net.fit(X, y, epochs=2, batch_size=8, progress=seen.append)
    assert [p.step for p in seen] == [1, 2, 3, 4, 5, 6]
    assert [p.epoch for p in seen] == [0, 0, 1, 1, 1, 2]
    assert [p.samples for p in seen] == [8, 16, 23, 31, 39, 46]
    assert {(p.epochs, p.n_steps) for p in seen} == {(2, 6)}
    assert [seen[2].loss, seen[5].loss] == history.train_loss
    assert seen[0].history is history


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_progress_tells_the_loss_of_the_epoch_so_far(
    engine: str, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    X, y = blobs()
    net = classifier(engine, reduction=reduction)
    expected = [net.loss(X[:8], y[:8])]
    seen: list[Progress] = []

    def note(progress: Progress) -> None:
        seen.append(progress)
        expected.append(net.loss(X[8:16], y[8:16]))  # With the weights of the next step.

    net.fit(X, y, epochs=1, batch_size=8, shuffle=False, progress=note)
    means = [expected[0], (expected[0] + expected[1]) / 2]
    if reduction == "sum":  # Of batches of eight: scaled to all samples, so that it does not grow as the epoch goes on.
        means = [mean * len(X) / 8 for mean in means]
    assert_allclose([seen[0].loss, seen[1].loss], means, rtol=1e-5)


# --- Stopping and going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [1, 4, 6, 7, 12])
@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("through_a_file", [False, True])
def test_a_resumed_run_is_the_uninterrupted_one(
    engine: str, stop_at: int, validated: bool, through_a_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps an epoch: stopped at the first step, within epochs, and at their ends; then on, bit for bit."""
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    X, y = blobs()
    arguments: dict[str, Any] = {
        "epochs": 3, "batch_size": 4, "optimizer": Adam(0.01), "schedule": "one_cycle",
        "validation_data": (X, y) if validated else None,
    }  # fmt: skip
    whole = classifier(engine)
    expected = whole.fit(X, y, **arguments)

    net = classifier(engine)
    state: TrainingState | None = net.training_state(arguments["optimizer"])
    net.fit(X, y, **arguments, state=state, progress=lambda progress: progress.step == stop_at)
    assert state is not None
    assert (state.step, state.epoch, state.batch) == (stop_at, stop_at // 6, stop_at % 6)
    if through_a_file:
        net.save(tmp_path / "run.safetensors", state)
        net = MLP.load(tmp_path / "run.safetensors", engine=engine)
        state = SavedNetwork(tmp_path / "run.safetensors").state
    history = net.fit(X, y, **arguments, state=state)

    assert_same(parameters(net), parameters(whole))
    assert history.train_loss == expected.train_loss
    assert history.learning_rate == expected.learning_rate
    assert len(history.seconds) == 3
    if validated and stop_at != 12:
        assert history.validation_loss == expected.validation_loss
    # The next fit, too, draws what it would have drawn.
    assert_array_equal(
        draw_orders(net.training_state(SGD()).rng, 1, 23), draw_orders(whole.training_state(SGD()).rng, 1, 23)
    )


def test_a_second_fit_starts_with_a_fresh_optimizer(engine: str) -> None:
    # v = w = 1 at each start: the second fit's first step has no velocity of the first. 1 - 0.1, 0.9 - 0.09.
    net = MLP([1, 1], loss="squared_error", bias=False, dtype="float64", engine=engine)
    net.set_parameters([[[1.0]]])
    for expected in (0.9, 0.81, 0.729):
        net.fit([[1.0]], [0.0], epochs=1, batch_size=1, optimizer=SGD(0.1, momentum=0.9))
        assert net.weights[0][0, 0] == pytest.approx(expected, rel=1e-15)


def test_a_foreign_state_is_refused(engine: str) -> None:
    X, y = blobs()
    net = classifier(engine)
    before = parameters(net)
    for call in (lambda: net.fit(X, y, state=3), lambda: net.save("model", state=3)):
        with pytest.raises(ValueError, match=r"^state must come from MLP.training_state, got 3$"):
            call()
    with pytest.raises(ValueError, match=r"^state must come from a run of this network with this optimizer$"):
        net.fit(X, y, optimizer=Adam(), state=net.training_state(SGD()))
    # With 4080 units, networks of both dtypes have equally many numbers, padding included.
    single, double = (MLP([2, 4080, 16], dtype=dtype, engine=engine) for dtype in ("float32", "float64"))
    small = MLP([2, 8, 16], engine=engine).training_state(SGD(0.1))
    small.unaveraged = np.zeros(100, np.float32)
    for foreign, options in (
        (single.training_state(Adam(0.01)), {"optimizer": Adam(0.01)}),
        (small, {"optimizer": SGD(0.1), "average": 0.9}),
    ):
        with pytest.raises(ValueError, match=r"^state must come from a run of this network with this optimizer$"):
            double.fit(X, y, state=foreign, **options)
    state = net.training_state(SGD(0.1))
    state.batch = 5
    with pytest.raises(ValueError, match=r"^state must come from a run on these 23 samples with this batch_size, got"):
        net.fit(X, y, batch_size=10, optimizer=SGD(0.1), state=state)
    assert_same(parameters(net), before)


def test_a_refused_fit_changes_nothing(engine: str) -> None:
    X, y = blobs()
    net, untouched = classifier(engine), classifier(engine)
    for arguments in ({"epochs": 0}, {"threads": 0}, {"optimizer": "x"}, {"schedule": "x"}, {"batch_size": -1}):
        with pytest.raises(ValueError, match="must be"):
            net.fit(X, y, **arguments)
    net.fit(X, y, epochs=2, batch_size=4)
    untouched.fit(X, y, epochs=2, batch_size=4)
    assert_same(parameters(net), parameters(untouched))


# --- Repeatability ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_seed_gives_the_same_bits(engine: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(333, 20)), rng.integers(10, size=333)
    results = []
    for threads in (None, 1, 2, 1):
        net = MLP([20, 50, 30, 10], dtype=dtype, seed=7, engine=engine)
        net.fit(X, y, epochs=3, batch_size=64, threads=threads)
        results.append(parameters(net))
    for other in results[1:]:
        assert_same(other, results[0])
    another = MLP([20, 50, 30, 10], dtype=dtype, seed=8, engine=engine)
    assert not np.array_equal(another.weights[0], MLP([20, 50, 30, 10], dtype=dtype, seed=7, engine=engine).weights[0])


def test_chunks_do_not_change_the_result(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = blobs()
    results = []
    for call_seconds in (0.0, 1e-3, 10.0):
        monkeypatch.setattr(training, "CALL_SECONDS", call_seconds)
        net = classifier(engine)
        history = net.fit(X, y, epochs=20, batch_size=4, optimizer=Adam(0.01), schedule="cosine")
        results.append((parameters(net), history))
    for result, history in results[1:]:
        assert_same(result, results[0][0])
        assert history.train_loss == results[0][1].train_loss
        assert history.learning_rate == results[0][1].learning_rate


def test_threads_are_never_more_than_the_process_may_use(engine: str) -> None:
    net = classifier(engine)
    available = available_cpus()
    assert net.threads(100, 10_000) == available
    assert net.threads(100, 1) == 1
    assert 1 <= net.threads(100) <= available
    with pytest.raises(ValueError, match=r"^threads must be >= 1, got 0$"):
        net.threads(100, 0)
    with pytest.raises(ValueError, match=r"^batch_size must be >= 1, got 0$"):
        net.threads(0)


@pytest.mark.parametrize("ends", ["progress", "last progress", "callback", "evaluation", "first evaluation"])
@pytest.mark.parametrize("is_mapped", [False, True])
def test_a_run_that_an_error_ended_can_be_gone_on_with(
    engine: str, ends: str, is_mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the second epoch, with its last step, at its end, or in its evaluation; or in that of the first."""
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    X, y = blobs()
    X, y = X[:40], y[:40]
    if is_mapped:
        monkeypatch.setattr(chunks, "CHUNK_BYTES", 32 * X[0].nbytes)
        np.save(tmp_path / "X.npy", X)
        X = np.load(tmp_path / "X.npy", mmap_mode="r")
    failing_step, failing_epoch = 20 if ends == "last progress" else 13, 1 if ends == "first evaluation" else 2
    arguments: dict[str, Any] = {"batch_size": 4, "optimizer": Adam(0.01), "validation_data": (X[:9], y[:9])}
    whole, net = classifier(engine), classifier(engine)
    expected = whole.fit(X, y, 4, **arguments)
    state = net.training_state(arguments["optimizer"])

    def fail(at: History | Progress) -> None:
        if at.step == failing_step if isinstance(at, Progress) else len(at.train_loss) == failing_epoch:
            raise MemoryError("ours")

    def evaluate(*arguments: Any) -> float:
        fail(state.history)
        return accuracy(*arguments)

    accuracy = MLP._accuracy
    options: dict[str, Any] = {"progress": fail} if "progress" in ends else {}
    options |= {"callbacks": [fail]} if ends == "callback" else {}
    with monkeypatch.context() as patch:
        if "evaluation" in ends:
            patch.setattr(MLP, "_accuracy", evaluate)
        with pytest.raises(MemoryError, match="ours"):
            net.fit(X, y, 4, **arguments, **options, state=state)
    history = net.fit(X, y, 4, **arguments, state=state)
    assert_same(parameters(net), parameters(whole))
    assert history.train_loss == expected.train_loss
    assert history.validation_loss == expected.validation_loss
    assert net._fits == whole._fits


def test_a_state_is_not_touched_by_samples_that_are_not_finite(engine: str, tmp_path: Path) -> None:
    X, y = blobs()
    net = classifier(engine)
    state = net.training_state(Adam(0.01))
    net.fit(X, y, 1, 4, Adam(0.01), state=state)
    before, slots = parameters(net), [slot.copy() for slot in state.slots]
    bad = X.copy()
    bad[-1, 0] = np.nan
    for options in ({"state": state}, {"checkpoint": tmp_path}):
        with pytest.raises(ValueError, match=r"^X must be finite"):
            net.fit(bad, y, 2, 4, Adam(0.01), shuffle=False, **options)
    assert_same(parameters(net), before)
    assert_same(state.slots, slots)
    assert (state.epoch, state.batch, list(tmp_path.iterdir())) == (1, 0, [])


def threads_in_a_worker(asked: int | None) -> int:
    return MLP([784, 100, 10]).threads(1000, asked)


def test_a_worker_process_takes_one_thread_unless_it_is_told_more() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(threads_in_a_worker, [None, 10_000]) == [1, available_cpus()]
    assert MLP([784, 100, 10]).threads(1000) == min(available_cpus(), 79)


@pytest.mark.parametrize("factor", [math.inf, -1.0])
def test_a_schedule_that_gives_no_usable_factor_is_refused(engine, factor):
    class Wild(Constant):
        def curve(self, t, epochs):
            return np.where(t < 1.0, 1.0, factor)

    net = MLP([2, 3, 2], engine=engine)
    with pytest.raises(ValueError, match=r"schedule must give finite factors >= 0, got (inf|-1) at step 3"):
        net.fit(np.eye(2), np.array([0, 1]), epochs=3, batch_size=1, schedule=Wild())


@pytest.mark.parametrize("n_in", [3, 300])
def test_full_batches_of_one_call_are_those_of_many(n_in: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one call the samples are gathered once; of two threads, each does some rows of it, or some inputs."""
    monkeypatch.setattr("fastmlp.network.available_cpus", lambda: 2)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, n_in)).astype(np.float32), rng.integers(2, size=200)
    for threads in (1, 2):
        at_once, one_by_one = MLP([n_in, 8, 2]), MLP([n_in, 8, 2])
        at_once.fit(X, y, epochs=20, batch_size=200, optimizer=SGD(0.1), threads=threads)
        for _ in range(20):
            one_by_one.fit(X, y, epochs=1, batch_size=200, optimizer=SGD(0.1), threads=threads)
        for a, b in zip(at_once.weights, one_by_one.weights, strict=True):
            assert_array_equal(a, b)
