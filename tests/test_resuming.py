"""Checkpoints of a run, and going on from them: when they are written, what goes on, what is refused.

That a run may be killed at any moment is tested for real in promises/test_resume.py.
"""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from short_run import ARGUMENTS, WEIGHTS, N, X, Y, assert_same, network, saved_state

from fastmlp import (
    MLP,
    SGD,
    Adam,
    AdamW,
    Cosine,
    DivergenceError,
    ModelFileError,
    OneCycle,
    Progress,
    RMSprop,
    chunks,
    resuming,
    training,
)
from fastmlp.checkpoint import SavedNetwork
from fastmlp.files import lock, remove_leftovers
from fastmlp.optimizers import Schedule
from fastmlp.recipe import TrainingState
from fastmlp.resuming import CHECKPOINT, Checkpoints

Array = np.ndarray


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def always_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let checkpoints take all the time they want, so that each is written at its point."""
    monkeypatch.setattr(resuming, "WRITING_SHARE", 1.0)


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a progress callback that ends a run after that step; the steps are taken one by one then."""
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)

    def kill(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    return kill


# --- Going on ---------------------------------------------------------------------------------------------------------

RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": SGD(0.05)},
    "nesterov, weights": {"optimizer": SGD(0.05, momentum=0.9, nesterov=True), "sample_weight": WEIGHTS},
    "adam, clipped": {"clip_norm": 0.1, "l2": 0.1},
    "adamw, average": {"optimizer": AdamW(0.01), "average": 0.9, "schedule": Cosine(warmup=1.5)},
    "rmsprop, dropout": {"optimizer": RMSprop(0.01), "dropout": [0.3, 0.0], "label_smoothing": 0.1},
    "validated": {"validation_data": (X[:9], Y[:9])},
    "in order": {"shuffle": False},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("step", [1, 5, 8, 13, 31])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_run_that_goes_on_ends_like_one_that_never_stopped(
    engine: str, recipe: dict[str, Any], step: int, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {**ARGUMENTS, **recipe}
    whole = network(engine, dtype=dtype)
    whole_state = whole.training_state(arguments["optimizer"])
    expected = whole.fit(X, Y, **arguments, state=whole_state)
    checkpoints = {"checkpoint": tmp_path / "deep" / "run", "checkpoint_every": 0.3, "resume": True}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        network(engine, dtype=dtype).fit(X, Y, **arguments, **checkpoints, progress=killed_at(step, patch))
    net = network(engine, dtype=dtype)
    history = net.fit(X, Y, **arguments, **checkpoints)
    assert_same(net, whole)
    ours, theirs = history.to_dict(), expected.to_dict()
    assert len(ours.pop("seconds")) == len(theirs.pop("seconds")) == 4
    assert ours == theirs
    state = saved_state(tmp_path / "deep" / "run")
    for a, e in zip(state.slots, whole_state.slots, strict=True):
        assert_array_equal(a, e)
    assert state.rng.bit_generator.state == whole_state.rng.bit_generator.state
    # The next fit of either draws the same orders.
    for n in (net, whole):
        n.fit(X, Y, epochs=1)
    assert_same(net, whole)


def test_a_run_on_a_file_goes_on_too(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of chunks of two batches, in the middle of an epoch and of a chunk."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2 * 6 * (8 + 8 + 8))
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    whole, in_memory = network(engine, dtype="float64"), network(engine, dtype="float64")
    whole.fit(mapped, Y, **ARGUMENTS)
    in_memory.fit(X, Y, **ARGUMENTS)
    assert not np.array_equal(whole.weights[0], in_memory.weights[0])
    for step in (3, 6, 13, 20, 31, None):
        with monkeypatch.context() as patch, nullcontext() if step is None else pytest.raises(Killed):
            stop = {} if step is None else {"progress": killed_at(step, patch)}
            net = network(engine, dtype="float64")
            net.fit(mapped, Y, **ARGUMENTS, **stop, checkpoint=tmp_path, checkpoint_every=0.2, resume=True)
    assert_same(net, whole)
    with pytest.raises(ValueError, match=r"^X must stay mapped to go on from '.*', got in memory$"):
        net.fit(X, Y, **ARGUMENTS, checkpoint=tmp_path, resume=True)


def test_short_epochs_that_share_a_call_go_on_too(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, net = network(engine), network(engine)
    arguments = {**ARGUMENTS, "epochs": 40}
    whole.fit(X, Y, **arguments)
    positions = []
    write = Checkpoints.write

    def killed(self: Checkpoints, step: int) -> None:
        write(self, step)
        positions.append(step)
        raise Killed

    monkeypatch.setattr(Checkpoints, "write", killed)
    while not positions or positions[-1] < 320:
        net = network(engine)
        with pytest.raises(Killed):
            net.fit(X, Y, **arguments, checkpoint=tmp_path, checkpoint_every=5.3, resume=True)
    assert positions == [43, 85, 128, 170, 212, 255, 297, 320]  # 5.3 epochs are 42.4 steps.
    assert_same(net, whole)


def test_a_run_that_is_over_trains_nothing(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(engine)
    history = net.fit(X, Y, **ARGUMENTS, checkpoint=tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    for name in ("train_steps", "compile"):
        monkeypatch.setattr(type(net._engine), name, lambda *_: pytest.fail("something was trained"))
    again = network(engine)
    assert again.fit(X, Y, **ARGUMENTS, checkpoint=str(tmp_path), resume=True) == history
    assert_same(again, net)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_run_that_a_callback_ended_is_over(engine: str, tmp_path: Path) -> None:
    runs: list[MLP] = []
    for _ in range(2):
        calls: list[int] = []
        runs.append(network(engine))
        history = runs[-1].fit(
            X, Y, **ARGUMENTS, checkpoint=tmp_path, resume=True,
            callbacks=[lambda h: calls.append(len(h.train_loss)), lambda h: len(h.train_loss) == 2],  # noqa: B023
        )  # fmt: skip
        assert len(history.train_loss) == 2
        assert calls == ([1, 2] if len(runs) == 1 else [])
    assert_same(*runs)
    # Unless it is asked for more.
    more = network(engine).fit(X, Y, **{**ARGUMENTS, "epochs": 5}, checkpoint=tmp_path, resume=True)
    assert len(more.train_loss) == 5
    # One that a progress callback stopped is not over.
    folder = tmp_path / "stopped"
    network(engine).fit(X, Y, **ARGUMENTS, checkpoint=folder, progress=lambda progress: True)
    assert len(network(engine).fit(X, Y, **ARGUMENTS, checkpoint=folder, resume=True).train_loss) == 4


def test_more_epochs_may_follow(engine: str, tmp_path: Path) -> None:
    arguments = {**ARGUMENTS, "schedule": "constant"}
    whole, net = network(engine), network(engine)
    expected = whole.fit(X, Y, **arguments)
    network(engine).fit(X, Y, **{**arguments, "epochs": 2}, checkpoint=tmp_path)
    assert net.fit(X, Y, **arguments, checkpoint=tmp_path, resume=True).train_loss == expected.train_loss
    assert_same(net, whole)


def test_a_run_may_go_on_with_a_state_and_leave_checkpoints(engine: str, tmp_path: Path) -> None:
    """As the command line does, which allows more to change."""
    net = network(engine)
    state = net.training_state(Adam())
    net.notes = {"mine": [1, 2]}
    net.fit(X, Y, **ARGUMENTS, state=state, checkpoint=tmp_path)
    assert SavedNetwork(tmp_path / CHECKPOINT).notes == {"mine": [1, 2]}
    arguments = {**ARGUMENTS, "optimizer": Adam(0.5), "schedule": "constant", "epochs": 6}
    net.fit(X, Y, **arguments, state=state, checkpoint=tmp_path)
    assert saved_state(tmp_path).run["optimizer"]["learning_rate"] == 0.5
    network(engine).fit(X, Y, **{**arguments, "epochs": 7}, checkpoint=tmp_path, resume=True)
    assert SavedNetwork(tmp_path / CHECKPOINT).notes == {"mine": [1, 2]}
    net = network(engine)
    net.notes = {"other": None}
    net.fit(X, Y, **{**arguments, "epochs": 8}, checkpoint=tmp_path, resume=True)
    assert SavedNetwork(tmp_path / CHECKPOINT).notes == {"other": None}


def test_a_checkpoint_says_what_the_run_is(tmp_path: Path) -> None:
    network("numpy").fit(X, Y, **ARGUMENTS, validation_data=(X, Y), dropout=0.5, checkpoint=tmp_path)
    assert saved_state(tmp_path).run == {
        "engine": "numpy", "epochs": 4, "batch_size": 6, "shuffle": True, "l2": 0.0, "label_smoothing": 0.0,
        "clip_norm": None,
        "average": None, "dropout": [0.5, 0.5], "n_samples": 46, "X": "in memory",
        "sample_weight": None, "validation_data": "given",
        "optimizer": {
            "kind": "Adam", "learning_rate": 0.01, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0,
            "epsilon_hat": False,
        },
        "schedule": {"kind": "OneCycle", "warmup": 0.0, "rise": 0.3, "start": 0.04, "final": 0.0},
    }  # fmt: skip


@dataclass(frozen=True)
class Own(Schedule):
    """A user's own schedule, which may hold anything."""

    function: Any = None

    def curve(self, t: Array, epochs: int) -> Array:
        return np.asarray(self.function(t))


def test_a_run_with_a_schedule_of_functions_and_locks_goes_on(tmp_path: Path) -> None:
    class Locked:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __call__(self, t: Array) -> Array:
            with self.lock:
                return np.ones_like(t)

    def make(scale: float) -> Any:
        return lambda t: scale / (1.0 + t)

    for name, make_function in (("lambda", lambda: make(1.0)), ("object", Locked)):
        arguments = {**ARGUMENTS, "checkpoint": tmp_path / name, "resume": True}
        for _ in range(2):  # Each process makes its own, in another place of its memory.
            history = network("numpy").fit(X, Y, **{**arguments, "schedule": Own(function=make_function())})
            assert len(history.train_loss) == 4
        with pytest.raises(ValueError, match=r"^schedule\.function must stay <.*> to go on from .*, got <"):
            network("numpy").fit(X, Y, **{**arguments, "schedule": Own(function=blend)})


def blend(t: Array) -> Array:
    return 1.0 - t / 4.0


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checkpoint_every": 0}, "checkpoint_every must be > 0, got 0"),
        ({"checkpoint_every": -0.5}, "checkpoint_every must be > 0, got -0.5"),
        ({"checkpoint_every": np.nan}, "checkpoint_every must be finite, got nan"),
        ({"checkpoint_every": "often"}, "checkpoint_every must be a number, got 'often'"),
        ({"checkpoint": 3}, "checkpoint must be a folder, got 3"),
        ({"checkpoint": ""}, "checkpoint must be a folder, got ''"),
        ({"checkpoint": None, "resume": True}, "checkpoint must be the folder to go on from with resume=True, got "
         "None"),
        ({"resume": "yes"}, "resume must be True or False, got 'yes'"),
        ({"resume": True, "state": 1}, "state must be None with resume=True, which takes the checkpoint's, got a "
         "TrainingState"),
    ],
)  # fmt: skip
def test_wrong_arguments_change_nothing(arguments: dict[str, Any], message: str, engine: str, tmp_path: Path) -> None:
    net = network(engine)
    if "state" in arguments:
        arguments = {**arguments, "state": net.training_state(Adam())}
    with pytest.raises(ValueError, match="must") as error:
        net.fit(X, Y, **{**ARGUMENTS, "checkpoint": tmp_path / "run", **arguments})
    assert str(error.value) == message
    assert_same(net, network(engine))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_refused_first(place: str, engine: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    net = network(engine)
    with pytest.raises(OSError, match=r"^checkpoint must be a writable folder, got '.*file.*': (Not|File)"):
        net.fit(X, Y, **ARGUMENTS, checkpoint=tmp_path / place)
    assert_same(net, network(engine))
    assert net._fits == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": SGD(0.01)}, "optimizer.kind must stay Adam"),
        ({"optimizer": AdamW(0.01)}, "optimizer.kind must stay Adam"),
        ({"optimizer": Adam(0.02)}, "optimizer.learning_rate must stay 0.01"),
        ({"schedule": "constant"}, "schedule.kind must stay OneCycle"),
        ({"schedule": OneCycle(warmup=1.0)}, "schedule.warmup must stay 0.0"),
        ({"batch_size": 7}, "batch_size must stay 6"),
        ({"shuffle": False}, "shuffle must stay True"),
        ({"l2": 0.1}, "l2 must stay 0.0"),
        ({"label_smoothing": 0.1}, "label_smoothing must stay 0.0"),
        ({"clip_norm": 1.0}, "clip_norm must stay None"),
        ({"average": 0.9}, "average must stay None"),
        ({"dropout": 0.1}, "dropout must stay []"),
        ({"sample_weight": WEIGHTS}, "sample_weight must stay None"),
        ({"validation_data": (X, Y)}, "validation_data must stay None"),
        ({"epochs": 3}, "epochs must be >= 4"),
        ({"samples": 40}, "n_samples must stay 46"),
        ({"network": {"activation": "relu"}}, "activations must stay ('tanh', 'tanh')"),
        ({"network": {"bias": False}}, "bias must stay True"),
        ({"network": {"dtype": "float64"}}, "dtype must stay float32"),
        ({"network": {"seed": 4}}, "seed must stay 3"),
        ({"network": {"loss": "squared_error"}, "targets": np.eye(3)[Y]}, "output_activation must stay softmax"),
    ],
)
def test_another_run_is_not_gone_on_with(change: dict[str, Any], message: str, engine: str, tmp_path: Path) -> None:
    network(engine).fit(X, Y, **ARGUMENTS, checkpoint=tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    change = dict(change)
    options, n, y = change.pop("network", {}), change.pop("samples", N), change.pop("targets", Y)
    net = network(engine, **options)
    with pytest.raises(ValueError, match="must") as error:
        net.fit(X[:n], y[:n], **{**ARGUMENTS, **change}, checkpoint=tmp_path, resume=True)
    assert str(error.value).startswith(f"{message} to go on from {str(tmp_path)!r}, got ")
    assert_same(net, network(engine, **options))
    assert net._fits == 0
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_what_changed_is_told_where_one_batch_took_all(engine: str, tmp_path: Path) -> None:
    """Nothing was shuffled then: that is no difference between the runs, the number of samples is."""
    arguments = {**ARGUMENTS, "batch_size": N, "checkpoint": tmp_path}
    network(engine).fit(X[:40], Y[:40], **arguments)
    with pytest.raises(ValueError, match="n_samples must stay 40"):
        network(engine).fit(X, Y, **arguments, resume=True)


def test_another_engine_is_refused(tmp_path: Path) -> None:
    """Its last bits are others. With `state` a run may go on there."""
    network("numpy").fit(X, Y, **ARGUMENTS, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"^engine must stay numpy to go on from '.*', got numba$"):
        network("numba").fit(X, Y, **ARGUMENTS, checkpoint=tmp_path, resume=True)


def test_what_is_no_checkpoint_is_refused(engine: str, tmp_path: Path) -> None:
    net = network(engine)
    (tmp_path / CHECKPOINT).write_bytes(b"garbage")
    with pytest.raises(ModelFileError, match="is not a readable safetensors file"):
        net.fit(X, Y, **ARGUMENTS, checkpoint=tmp_path, resume=True)
    told = rf"^checkpoint must hold a run that fit began, got '.*', whose {CHECKPOINT} does not$"
    net.save(tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match=told):
        net.fit(X, Y, **ARGUMENTS, checkpoint=tmp_path, resume=True)
    net.save(tmp_path / CHECKPOINT, net.training_state(Adam()))
    with pytest.raises(ValueError, match=told):
        net.fit(X, Y, **ARGUMENTS, checkpoint=tmp_path, resume=True)
    net.fit(X, Y, **ARGUMENTS, checkpoint=tmp_path)  # Without resume, the run begins and takes the file's place.
    assert saved_state(tmp_path).epoch == 4


# --- When -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1.0, [8, 16, 24, 32]),
        (0.25, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32]),
        (0.3, [3, 5, 8, 10, 12, 15, 17, 20, 22, 24, 27, 29, 32]),  # 2.4 steps: the first one at or beyond.
        (1.5, [12, 24, 32]),
        (1e-9, list(range(1, 33))),
        (4, [32]),
        (1e308, [32]),
    ],
)
@pytest.mark.parametrize("validated", [False, True])
def test_checkpoints_are_written_at_their_points(
    every: float, expected: list[int], validated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    save = MLP.save

    def saving(self: MLP, path: str, state: TrainingState) -> None:
        assert len(state.history.train_loss) == state.epoch
        assert len(state.history.validation_loss) == (state.epoch if validated else 0)
        steps.append(state.step)
        save(self, path, state)

    monkeypatch.setattr(MLP, "save", saving)
    arguments = {**ARGUMENTS, "validation_data": (X, Y) if validated else None}
    network("numpy").fit(X, Y, **arguments, checkpoint=tmp_path, checkpoint_every=every)
    assert steps == expected


def test_writing_takes_its_share_of_the_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second, a checkpoint two; of a twentieth, the next one may come 38 seconds later."""
    monkeypatch.setattr(resuming, "WRITING_SHARE", 0.05)
    now = 0.0
    monkeypatch.setattr(resuming.time, "monotonic", lambda: now)

    def save(path: str) -> None:
        nonlocal now
        now += 2.0

    checkpoints = Checkpoints("folder", 0.5, save, is_new=True)
    written, step = [], 0
    with checkpoints:
        checkpoints.begin(0, 10)
        while step < 120:
            n_steps = checkpoints.cut(step, 7)
            assert 1 <= n_steps <= 7
            now += n_steps
            step += n_steps
            if checkpoints.is_due(step):
                checkpoints.write(step)
                written.append(step)
    assert written == [5, 47, 89]  # The first at its point; then, calls not being cut, the first end of one after 38 s.


@pytest.mark.parametrize("every", [1.0, 30 * 0.1 / 3, 0.1, 0.7, 3.3, 0.123456])
def test_points_are_not_lost_to_rounding(every: float, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    checkpoints = Checkpoints("folder", every, lambda path: None, is_new=True)
    checkpoints.begin(0, 30)
    for step in range(1, 3001):
        assert checkpoints.cut(step - 1, 1) == 1
        if checkpoints.is_due(step):
            checkpoints.write(step)
            written.append(step)
    checkpoints.__exit__()
    assert written == sorted({int(np.ceil(round(k * every * 30, 4))) for k in range(1, int(100 / every + 1e-9) + 1)})


def test_callbacks_may_change_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    network("numpy").fit(
        X, Y, **ARGUMENTS, checkpoint="run", callbacks=[lambda history: os.chdir(tmp_path / "elsewhere")]
    )
    assert os.listdir(tmp_path / "elsewhere") == []
    assert saved_state(tmp_path / "run").epoch == 4


# --- Divergence -------------------------------------------------------------------------------------------------------


def test_divergence_keeps_what_it_keeps_without_checkpoints(engine: str, tmp_path: Path) -> None:
    told = []
    nets = []
    for checkpoints in ({}, {"checkpoint": tmp_path, "checkpoint_every": 0.2}):
        net = MLP([1, 1], loss="squared_error", bias=False, dtype="float64", engine=engine)
        net.set_parameters([[[1.0]]])
        with pytest.raises(DivergenceError) as error:
            net.fit(np.ones((4, 1)), np.zeros(4), epochs=10, batch_size=1, optimizer=SGD(1e20), **checkpoints)
        told.append(str(error.value))
        nets.append(net)
    assert told[0] == told[1]
    assert_same(*nets)
    saved = SavedNetwork(tmp_path / CHECKPOINT)  # Of a step between, from which the run would diverge again.
    assert np.isfinite(saved.weights[0]).all()
    assert saved.state is not None
    assert saved.state.step > 4


def test_weights_that_are_not_finite_get_into_no_checkpoint(engine: str, tmp_path: Path) -> None:
    net = MLP([1, 1], loss="squared_error", bias=False, dtype="float32", engine=engine)
    net.set_parameters([[[100.0]]])  # The first step's loss is finite, and its update is not.
    with pytest.raises(
        DivergenceError, match=r"a weight or an output is not.*; the network keeps the weights it began with"
    ):
        net.fit(np.ones((2, 1)), np.zeros(2), epochs=1, batch_size=1, optimizer=SGD(1e38),
                checkpoint=tmp_path, checkpoint_every=0.5)  # fmt: skip
    assert net.weights[0][0, 0] == 100.0
    assert os.listdir(tmp_path) == []


# --- What killed runs leave behind ------------------------------------------------------------------------------------


def test_half_written_files_are_cleared_away_unless_somebody_writes_them(tmp_path: Path) -> None:
    mine = [f".{CHECKPOINT}.{i}" for i in "ab"]
    others = [".model.safetensors.a", f"{CHECKPOINT}.old", ".hidden"]
    for name in (*mine, *others):
        (tmp_path / name).write_bytes(b"half")
    with open(tmp_path / mine[1], "r+b") as file:
        lock(file)
        remove_leftovers(tmp_path / CHECKPOINT)
        assert sorted(os.listdir(tmp_path)) == sorted([mine[1], *others])
    network("numpy").fit(X, Y, epochs=1, checkpoint=tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([CHECKPOINT, *others])


def test_a_checkpoint_of_another_run_is_set_aside(tmp_path: Path) -> None:
    X, y = np.eye(4), [0, 1, 0, 1]
    first, second = MLP([4, 2], engine="numpy", seed=1), MLP([4, 2], engine="numpy", seed=2)
    first.fit(X, y, epochs=2, checkpoint=tmp_path)
    second.fit(X, y, epochs=3, checkpoint=tmp_path)
    assert_array_equal(MLP.load(tmp_path / "previous" / CHECKPOINT).weights[0], first.weights[0])
    assert_array_equal(MLP.load(tmp_path / CHECKPOINT).weights[0], second.weights[0])
    second.fit(X, y, epochs=5, checkpoint=tmp_path, resume=True)  # Its own is replaced.
    assert_array_equal(MLP.load(tmp_path / "previous" / CHECKPOINT).weights[0], first.weights[0])
