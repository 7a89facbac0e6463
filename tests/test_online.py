"""Single steps: held against `fit`, bit for bit; what they take, refuse and leave."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastmlp
from fastmlp import MLP, SGD, Adam, OnlineTrainer, RMSprop, chunks, network
from fastmlp.kernels.engine import Engine
from fastmlp.kernels.prepared import SingleSteps
from fastmlp.kernels.threads import Helper

RNG = np.random.default_rng(0)
N, BATCH = 40, 8
X = RNG.normal(size=(N, 6))
LOSSES: dict[str, tuple[int, np.ndarray]] = {
    "softmax_cross_entropy": (3, RNG.integers(3, size=N)),
    "sigmoid_cross_entropy": (2, RNG.integers(2, size=(N, 2)).astype(float)),
    "squared_error": (1, RNG.normal(size=N)),
    "absolute_error": (2, RNG.normal(size=(N, 2))),
    "huber": (2, RNG.normal(size=(N, 2))),
    "quantile": (1, RNG.normal(size=(N, 1))),
    "poisson": (1, RNG.poisson(2.0, size=N).astype(float)),
}
"""By the name of the loss: how many outputs, and targets."""


def make(loss: str = "softmax_cross_entropy", hidden: int = 5, **options: Any) -> MLP:
    return MLP([6, hidden, LOSSES[loss][0]], loss=loss, seed=2, **options)


def batches(size: int = BATCH) -> list[slice]:
    return [slice(first, first + size) for first in range(0, N, size)]


def assert_same(one: MLP, other: MLP) -> None:
    for a, b in zip(one.weights + one.biases, other.weights + other.biases, strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_steps_are_those_of_a_fit(loss: str, dtype: str, engine: str) -> None:
    y = LOSSES[loss][1]
    x, y = X.astype(dtype), y if loss == "softmax_cross_entropy" else y.astype(dtype)
    one, other = make(loss, dtype=dtype, engine=engine), make(loss, dtype=dtype, engine=engine)
    history = one.fit(x, y, 3, BATCH, Adam(0.01), shuffle=False)
    trainer = OnlineTrainer(other, Adam(0.01))
    losses = [[trainer.step(x[batch], y[batch]) for batch in batches()] for _ in range(3)]
    assert_same(one, other)
    np.testing.assert_allclose(np.mean(losses, axis=1), history.train_loss, rtol=1e-12)
    assert trainer.steps == 15


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": SGD(0.1, momentum=0.9, weight_decay=0.01), "l2": 0.1},
        {"optimizer": RMSprop(0.01), "clip_norm": 0.05},
        {"optimizer": "adamw", "average": 0.8},
        {"label_smoothing": 0.2},
        {"optimizer": SGD(0.1)},
    ],
    ids=str,
)
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy"])
def test_options_are_those_of_a_fit(loss: str, options: dict[str, Any], engine: str) -> None:
    y, size = LOSSES[loss][1], 10
    one, other = make(loss, reduction="sum", engine=engine), make(loss, reduction="sum", engine=engine)
    one.fit(X, y, 2, size, shuffle=False, **options)
    trainer = OnlineTrainer(other, **options)
    for _ in range(2):
        for batch in batches(size):
            trainer.step(X[batch], y[batch])
    assert_same(one, other)


def test_dropout_is_that_of_a_fit(engine: str) -> None:
    one, other, undropped = make(engine=engine), make(engine=engine), make(engine=engine)
    one.fit(X, LOSSES["softmax_cross_entropy"][1], 1, BATCH, SGD(0.1), shuffle=False, dropout=0.5)
    for net, rate in ((other, 0.5), (undropped, 0.0)):
        trainer = OnlineTrainer(net, SGD(0.1), dropout=rate)
        for batch in batches():
            trainer.step(X[batch], LOSSES["softmax_cross_entropy"][1][batch])
    assert_same(one, other)
    with pytest.raises(AssertionError):
        assert_same(one, undropped)


@pytest.mark.parametrize("size", [1, 7, 264, 300])
@pytest.mark.parametrize("threads", [1, 2])
def test_batches_of_any_size(size: int, threads: int, engine: str) -> None:
    x, y = RNG.normal(size=(3 * size, 6)), RNG.integers(3, size=3 * size)
    one, other = make(hidden=300, engine=engine), make(hidden=300, engine=engine)
    one.fit(x, y, 1, size, "adam", shuffle=False, threads=threads)
    trainer = OnlineTrainer(other, "adam", threads=threads)
    for k in range(3):
        trainer.step(x[k * size : (k + 1) * size], y[k * size : (k + 1) * size])
    assert_same(one, other)


def test_sizes_may_change_and_weights_may_come_and_go(engine: str) -> None:
    """Against steps of a `fit` each, whose optimizer has nothing to remember."""
    one, other = make(engine=engine), make(engine=engine)
    trainer, y = OnlineTrainer(other, SGD(0.1)), LOSSES["softmax_cross_entropy"][1]
    for size, weighted in ((5, False), (9, False), (5, True), (5, False), (9, True), (1, False)):
        weights = np.linspace(0.0, 2.0, size) if weighted else None
        one.fit(X[:size], y[:size], 1, size, SGD(0.1), sample_weight=weights)
        trainer.step(X[:size], y[:size], sample_weight=weights)
    assert_same(one, other)


def inset(array: np.ndarray) -> np.ndarray:
    """Give the same numbers with others around them, of each row and between the rows."""
    around = np.full((3 * len(array), *[size + 3 for size in array.shape[1:]]), 99, array.dtype)
    place = (slice(1, None, 3), *[slice(2, -1)] * (array.ndim - 1))
    around[place] = array
    return around[place]


KINDS: dict[str, Any] = {
    "lists": lambda array: array.tolist(),
    "inset": inset,
    "reversed": lambda array: array[::-1].copy()[::-1],
    "turned": lambda array: np.flip(np.flip(array).copy()),
    "fortran": lambda array: np.asfortranarray(array),
    "every_other": lambda array: np.repeat(np.repeat(array, 2, axis=0), 2, axis=-1)[::2, ..., ::2],
    "unaligned": lambda array: np.frombuffer(b"." + array.tobytes(), np.uint8)[1:].view(array.dtype),
    "unpickled": lambda array: pickle.loads(pickle.dumps(array)),
    "swapped": lambda array: array.astype(array.dtype.newbyteorder()),
    "subclass": lambda array: array.view(type("Mine", (np.ndarray,), {})),
}
"""Arrays of the same numbers, of any layout and kind."""


def test_a_loss_of_ones_own_by_its_derivative(engine: str) -> None:
    """Of a cross-entropy's derivative, made by hand, a network of values takes the steps that the cross-entropy has."""
    options = {"activation": "tanh", "dtype": "float64", "seed": 3, "engine": engine}
    known, own = (
        MLP([5, 7, 3], loss=loss, reduction=reduction, **options)
        for loss, reduction in (("softmax_cross_entropy", "mean"), ("squared_error", "sum"))
    )
    of_known, of_own = (OnlineTrainer(net, Adam(0.01)) for net in (known, own))
    X = np.random.default_rng(0).normal(size=(12, 5))
    y = np.arange(12) % 3
    for _ in range(20):
        Z = own.forward(X)
        P = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
        G = (P - np.eye(3)[y]) / 12
        np.testing.assert_allclose(own.gradients(X, Z - G).weights[0], known.gradients(X, y).weights[0], atol=1e-14)
        of_own.step(X, Z - G)
        of_known.step(X, y)
    for mine, others in zip(own.weights + own.biases, known.weights + known.biases, strict=True):
        np.testing.assert_allclose(mine, others, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error", "absolute_error"])
def test_arrays_of_any_kind(loss: str, kind: str, engine: str) -> None:
    y = LOSSES[loss][1]
    x, y = X.astype(np.float32), y if loss == "softmax_cross_entropy" else y.astype(np.float32)
    one, other = make(loss, engine=engine), make(loss, engine=engine)
    one.fit(x, y, 3, N, SGD(0.1, momentum=0.9))
    trainer = OnlineTrainer(other, SGD(0.1, momentum=0.9))
    for _ in range(3):
        if kind == "every_other" and y.ndim == 1:
            given = KINDS[kind](x), np.repeat(y, 2)[::2]
        else:
            given = KINDS[kind](x), KINDS[kind](y)
        if kind == "unaligned":
            given = given[0].reshape(x.shape), given[1].reshape(y.shape)
            assert not given[0].flags.aligned
        trainer.step(*given)
    assert_same(one, other)


@pytest.mark.parametrize("kind", ["uint8", "int32", "one_hot", "read_only", "column_of_a_table"])
def test_whatever_fit_takes(kind: str, engine: str) -> None:
    x, y = np.abs(X * 40).astype(np.float32), LOSSES["softmax_cross_entropy"][1]
    loss = "squared_error" if kind == "column_of_a_table" else "softmax_cross_entropy"
    given: Any = x.copy(), y.copy()
    if kind == "uint8":
        x = np.floor(x)
        given = x.astype(np.uint8), y
    elif kind == "int32":
        given = x, y.astype(np.int32)
    elif kind == "one_hot":
        given = x, np.eye(3, dtype=int)[y]
    elif kind == "read_only":
        for array in given:
            array.flags.writeable = False
    elif kind == "column_of_a_table":
        table = np.hstack([x, RNG.normal(size=(N, 2))]).astype(np.float32)
        given, y = (table[:, :6], table[:, 7]), table[:, 7].copy()
    one, other = (make(loss, input_scale=0.02, engine=engine) for _ in range(2))
    one.fit(x, y, 3, N, SGD(0.1, momentum=0.9))
    trainer = OnlineTrainer(other, SGD(0.1, momentum=0.9))
    for _ in range(3):
        trainer.step(*given)
    assert_same(one, other)


@pytest.mark.parametrize("kind", ["plain", *KINDS, "float64", "int32", "smoothed"])
def test_what_is_set_up_serves_all_batches(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_ups, general = [], []
    set_up, train_steps = SingleSteps._set_up, Engine.train_steps
    monkeypatch.setattr(SingleSteps, "_set_up", lambda self, n: (set_ups.append(n), set_up(self, n))[1])
    monkeypatch.setattr(Engine, "train_steps", lambda *given: (general.append(1), train_steps(*given))[1])
    trainer = OnlineTrainer(make(engine="numba"), label_smoothing=0.1 if kind == "smoothed" else 0.0)
    x, y = X.astype(np.float32), LOSSES["softmax_cross_entropy"][1]
    if kind == "float64":
        x = X
    elif kind == "int32":
        y = y.astype(np.int32)
    elif kind in KINDS and kind != "every_other":
        x, y = (np.reshape(KINDS[kind](array), array.shape) for array in (x, y))
    for _ in range(5):
        trainer.step(x, y)
    assert (set_ups, general) == ([N], [])


def test_a_file_that_is_mapped_is_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 100)
    np.save(tmp_path / "x.npy", X.astype(np.float32))
    one, other = make(engine=engine), make(engine=engine)
    OnlineTrainer(one).step(X, LOSSES["softmax_cross_entropy"][1])
    OnlineTrainer(other).step(np.load(tmp_path / "x.npy", mmap_mode="r"), LOSSES["softmax_cross_entropy"][1])
    assert_same(one, other)


@pytest.mark.parametrize("threads", [1, 2])
def test_so_many_threads_work(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "available_cpus", lambda: 2)
    started = []
    start = Helper.start
    monkeypatch.setattr(Helper, "start", lambda self: (started.append(1), start(self))[1])
    OnlineTrainer(make(engine="numba"), threads=threads).step(X, LOSSES["softmax_cross_entropy"][1])
    assert len(started) == threads - 1


def test_a_step_that_ctrl_c_comes_after_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python raises it when the native call has come back."""
    one, other = make(engine="numba"), make(engine="numba")
    y = LOSSES["softmax_cross_entropy"][1]
    trainers = [OnlineTrainer(net, Adam(0.01), dropout=0.3) for net in (one, other)]
    for trainer in trainers:
        trainer.step(X, y)
    (prepared,) = trainers[0]._prepared
    take_step = prepared._take_step

    def interrupted(*given: Any) -> None:
        take_step(*given)
        raise KeyboardInterrupt

    prepared._take_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainers[0].step(X, y)
    trainers[1].step(X, y)
    assert trainers[0].steps == trainers[1].steps == 2
    for trainer in trainers:
        trainer.step(X, y)
    assert_same(one, other)


def test_what_a_step_of_nan_leaves_reaches_no_other(engine: str) -> None:
    """Its rows, more than the next batch has, may be left beside that batch in memory."""
    one, other = make(hidden=33, engine=engine), make(hidden=33, engine=engine)
    y, spoilt = LOSSES["softmax_cross_entropy"][1], np.full((N, 6), np.nan, np.float32)
    trainers = [OnlineTrainer(net, Adam(0.01)) for net in (one, other)]
    for size in (N, 7, 1, 9):
        with pytest.raises(ValueError, match="X must be finite"):
            trainers[0].step(spoilt, y)
        assert not trainers[0]._prepared  # It is not used again.
        for trainer in trainers:
            trainer.step(X[:size], y[:size])
    assert_same(one, other)


def test_what_comes_after_a_trainer_drops_other_units(engine: str) -> None:
    """As after a fit: each run of a network has its own stream of random numbers."""
    losses = []
    net = make(hidden=50, engine=engine)
    weights, biases = [W.copy() for W in net.weights], [b.copy() for b in net.biases]
    for _ in range(3):
        net.set_parameters(weights, biases)
        losses.append(OnlineTrainer(net, SGD(0.1), dropout=0.5).step(X, LOSSES["softmax_cross_entropy"][1]))
    assert len(set(losses)) == 3


def test_a_batch_without_weight_changes_nothing_but_counts(engine: str) -> None:
    one, other = make(engine=engine), make(engine=engine)
    y, weights = LOSSES["softmax_cross_entropy"][1], np.ones(N)
    weights[BATCH : 2 * BATCH] = 0.0
    one.fit(X, y, 1, BATCH, Adam(0.01), shuffle=False, sample_weight=weights)
    trainer = OnlineTrainer(other, Adam(0.01))
    losses = [trainer.step(X[batch], y[batch], weights[batch]) for batch in batches()]
    assert_same(one, other)
    assert [loss == 0.0 for loss in losses] == [False, True, False, False, False]
    assert trainer.steps == 5


def test_sparse_batches(engine: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    x, y = np.where(X > 0.5, X, 0.0), LOSSES["softmax_cross_entropy"][1]
    one, other = make(engine=engine), make(engine=engine)
    one.fit(sparse.csr_matrix(x), y, 1, BATCH, SGD(0.1), shuffle=False)
    trainer = OnlineTrainer(other, SGD(0.1))
    for batch in batches():
        trainer.step(sparse.csr_matrix(x[batch]), y[batch])
    assert_same(one, other)


def test_the_learning_rate_may_change(engine: str) -> None:
    """Two rates, against a schedule of the same."""

    class Halved(fastmlp.Schedule):
        def curve(self, t: Any, epochs: int) -> Any:
            return np.where(t < 0.5, 1.0, 0.5)  # In epochs, of five steps.

    y = LOSSES["softmax_cross_entropy"][1]
    one, other = make(engine=engine), make(engine=engine)
    one.fit(X, y, 1, BATCH, Adam(0.01), Halved(), shuffle=False)
    trainer = OnlineTrainer(other, Adam(0.01))
    assert trainer.learning_rate == 0.01
    for k, batch in enumerate(batches()):
        if k == 3:
            trainer.learning_rate = 0.005
        trainer.step(X[batch], y[batch])
    assert_same(one, other)
    with pytest.raises(ValueError, match="learning_rate must be > 0, got 0"):
        trainer.learning_rate = 0.0
    assert trainer.learning_rate == 0.005


def test_many_steps_go_on_beyond_those_that_are_prepared_for(engine: str) -> None:
    """Adam's corrections change with every step; `fit` takes other numbers of them at once."""
    one, other = make(engine=engine), make(engine=engine)
    y = LOSSES["softmax_cross_entropy"][1]
    one.fit(X, y, 250, N, Adam(0.01))
    trainer = OnlineTrainer(other, Adam(0.01))
    for _ in range(250):
        trainer.step(X, y)
    assert_same(one, other)


@pytest.mark.parametrize("is_first", [True, False])
def test_wrong_batches_are_refused_and_change_nothing(is_first: bool, engine: str) -> None:
    net, twin = make(dtype="float64", engine=engine), make(dtype="float64", engine=engine)
    trainer, y = OnlineTrainer(net), LOSSES["softmax_cross_entropy"][1]
    steps = 0 if is_first else 1
    for _ in range(steps):
        trainer.step(X, y)
        twin.fit(X, y, 1, N)
    spoilt = X.copy()
    spoilt[3, 2] = np.inf
    wrong: list[tuple[Any, Any, str]] = [
        (X[:, :5], y, r"X must be \(n_samples, 6\), got \(40, 5\)"),
        (X[0], y, r"X must be \(n_samples, 6\), got \(6,\)"),
        (X[:0], y[:0], "X must have at least one sample"),
        (X, y[:-1], "y must have one entry for each of the 40 samples"),
        (X, y + 1, "y must hold classes 0 to 2, got 3"),
        (X, y - 1, "y must hold classes 0 to 2, got -1"),
        (X, y.astype(float), "y must hold whole-number classes"),
        (X, y[:, None], r"y must be \(n_samples,\)"),
        (X, np.empty((N, 0), np.int64), "y must be"),
        (spoilt, y, "X must be finite"),
    ]
    for x, targets, message in wrong:
        with pytest.raises(ValueError, match=message):
            trainer.step(x, targets)
    with pytest.raises(ValueError, match="sample_weight must be >= 0, got -1"):
        trainer.step(X, y, sample_weight=np.full(N, -1.0))
    assert trainer.steps == steps
    assert_same(net, twin)
    assert np.isfinite(trainer.step(X, y))


@pytest.mark.parametrize(
    ("loss", "value", "message"),
    [
        ("sigmoid_cross_entropy", 1.5, r"y must be in \[0, 1\]"),
        ("poisson", -1.0, "y must be >= 0 for poisson"),
        ("squared_error", np.nan, "y must be finite"),
        ("huber", np.inf, "y must be finite"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wrong_values_are_refused(loss: str, value: float, message: str, dtype: str, engine: str) -> None:
    y = LOSSES[loss][1].astype(dtype)
    trainer = OnlineTrainer(make(loss, dtype=dtype, engine=engine))
    trainer.step(X.astype(dtype), y)
    y[3] = value
    with pytest.raises(ValueError, match=message):
        trainer.step(X.astype(dtype), y)


def test_wrong_arguments_are_refused() -> None:
    net: Any = make(engine="numpy")
    with pytest.raises(ValueError, match="net must be an MLP, got 3"):
        OnlineTrainer(3)  # type: ignore[arg-type]
    for options, message in (
        ({"optimizer": "adamm"}, "optimizer must be .*adam"),
        ({"l2": -1.0}, "l2 must be >= 0"),
        ({"threads": 0}, "threads must be >= 1"),
        ({"dropout": 1.0}, "dropout must be < 1"),
    ):
        with pytest.raises(ValueError, match=message):
            OnlineTrainer(net, **options)


def test_a_step_that_diverges_says_so_and_is_not_taken(engine: str) -> None:
    net = make("squared_error", dtype="float64", engine=engine)
    trainer, y = OnlineTrainer(net, SGD(1e200)), LOSSES["squared_error"][1]
    before = [array.copy() for array in net.weights + net.biases]
    last = trainer.step(X, y)
    assert not np.array_equal(net.weights[0], before[0])
    message = rf"training diverged in step 2: .*, the last finite loss was {last:g}; try a learning_rate below 1e\+200"
    with pytest.raises(fastmlp.DivergenceError, match=message):
        trainer.step(X, y)
    assert trainer.steps == 1
    for array, was in zip(net.weights + net.biases, before, strict=True):
        array[...] = was
    trainer.learning_rate = 1e-3
    assert trainer.step(X, y) == last


def test_a_first_step_that_diverges_has_no_loss_before_it(engine: str) -> None:
    net = make("squared_error", dtype="float64", engine=engine)
    for W in net.weights:
        W *= 1e200
    with pytest.raises(fastmlp.DivergenceError, match=r"^training diverged in step 1: the loss is \w+; try a learning"):
        OnlineTrainer(net).step(X, LOSSES["squared_error"][1])


def test_misspelt_attributes_are_refused() -> None:
    trainer: Any = OnlineTrainer(make(engine="numpy"), SGD(0.5))
    assert repr(trainer) == f"OnlineTrainer({trainer.net!r}, {SGD(0.5)!r}), 0 steps taken"
    for name in ("lr", "net", "steps"):
        with pytest.raises(AttributeError):
            setattr(trainer, name, 1)


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda trainer: pickle.loads(pickle.dumps(trainer))])
@pytest.mark.parametrize("options", [{}, {"average": 0.7, "dropout": 0.3}, {"optimizer": SGD(0.1, momentum=0.9)}])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_copies_go_on_by_themselves(make_copy: Any, options: dict[str, Any], dtype: str, engine: str) -> None:
    x, y = X.astype(dtype), LOSSES["softmax_cross_entropy"][1]
    trainer = OnlineTrainer(make(engine=engine, dtype=dtype), **{"optimizer": Adam(0.01), **options})
    for batch in batches():
        trainer.step(x[batch], y[batch])
    trainer.learning_rate = 0.003
    twin, before = make_copy(trainer), copy.deepcopy(trainer.net)
    assert (twin.steps, twin.learning_rate, repr(twin)) == (5, 0.003, repr(trainer))
    assert_same(twin.net, before)
    losses = [trainer.step(x[batch], y[batch]) for batch in batches()]
    assert_same(twin.net, before)
    assert losses == [twin.step(x[batch], y[batch]) for batch in batches()]
    assert_same(twin.net, trainer.net)


def test_a_shallow_copy_has_the_network_and_a_state_of_its_own(engine: str) -> None:
    """Two trainers of one network: neither has memory of the other, which may be gone."""
    y = LOSSES["softmax_cross_entropy"][1]
    trainer = OnlineTrainer(make(engine=engine), Adam(0.01))
    trainer.step(X, y)
    twin = copy.copy(trainer)
    assert twin.net is trainer.net
    loss = twin.step(X, y)
    assert (trainer.steps, twin.steps) == (1, 2)
    del twin
    assert trainer.step(X, y) < loss


def test_a_copy_has_no_more_threads_than_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "available_cpus", lambda: 2)
    trainer = OnlineTrainer(make(), threads=2)
    assert trainer._threads == 2
    monkeypatch.setattr(network, "available_cpus", lambda: 1)
    assert copy.deepcopy(trainer)._threads == 1


def test_two_trainers_of_one_network_have_a_state_each(engine: str) -> None:
    """As of two data sets in turn: without anything to remember, steps are steps."""
    one, other = make(engine=engine), make(engine=engine)
    y = LOSSES["softmax_cross_entropy"][1]
    single, pair = OnlineTrainer(one, SGD(0.1)), [OnlineTrainer(other, SGD(0.1)), OnlineTrainer(other, SGD(0.1))]
    for k, batch in enumerate(batches()):
        single.step(X[batch], y[batch])
        pair[k % 2].step(X[batch], y[batch])
    assert_same(one, other)


@pytest.mark.parametrize("hidden", [5, 2000])
def test_threads_may_step_at_once(hidden: int) -> None:
    """Their steps mix, but nothing breaks; with many units the kernel lets the other threads run meanwhile."""
    net = MLP([6, hidden, 3], seed=0)
    trainer, y = OnlineTrainer(net, SGD(1e-4), threads=1), LOSSES["softmax_cross_entropy"][1]
    losses: list[float] = []

    def work(size: int) -> None:
        losses.extend(trainer.step(X[:size].copy(), y[:size].copy()) for _ in range(100))

    workers = [threading.Thread(target=work, args=(size,)) for size in (40, 40, 30, 20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(losses) == 400
    assert np.isfinite(losses).all()
