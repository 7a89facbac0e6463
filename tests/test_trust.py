"""What native code is told of arrays stays true, whatever users' code does between a check and a use.

Each of these ended the process, or read memory that is nobody's.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastmlp
from fastmlp import MLP, SGD, Adam, History, OnlineTrainer, Schedule

CLASSES = np.arange(300) % 3


@pytest.mark.filterwarnings("ignore:Setting the .* on a NumPy array:DeprecationWarning")  # Of NumPy 2.5.
def test_a_callback_cannot_change_the_shape_of_the_samples() -> None:
    X, expected = np.random.default_rng(0).normal(size=(300, 64)), MLP([64, 8, 3], seed=0, dtype="float64")
    history = expected.fit(X, CLASSES, epochs=3)
    for change in ("shape", "dtype"):
        own, net = X.copy(), MLP([64, 8, 3], seed=0, dtype="float64")

        def spoil(history: History, own: np.ndarray = own, change: str = change) -> None:
            if change == "shape":
                own.shape = 3, 6400
            else:
                own.dtype = np.float32  # type: ignore[misc]

        assert net.fit(own, CLASSES, epochs=3, callbacks=[spoil]).train_loss == history.train_loss


def test_a_callback_cannot_take_the_optimizers_buffers_away() -> None:
    for replacement in ([], [np.zeros(1, np.float32)] * 2, [np.zeros(1)] * 2):
        net = MLP([50, 8, 3])
        state = net.training_state(Adam())

        def spoil(history: History, state: Any = state, replacement: Any = replacement) -> None:
            state.slots = replacement

        with pytest.raises(ValueError, match="the optimizer's buffers must be"):
            net.fit(np.ones((300, 50)), CLASSES, 3, optimizer=Adam(), state=state, callbacks=[spoil])


def test_an_optimizer_has_the_buffers_that_its_kernel_changes() -> None:
    class Mine(SGD):
        n_slots = 0

    net, X, wrong = MLP([50, 8, 3]), np.ones((300, 50)), "the optimizer's buffers must be as many"
    with pytest.raises(ValueError, match=wrong):
        net.fit(X, CLASSES, optimizer=Mine(0.1, momentum=0.9))
    with pytest.raises(ValueError, match=wrong):
        OnlineTrainer(net, Mine(0.1, momentum=0.9)).step(X, CLASSES)
    optimizer = SGD(0.1)
    trainer = OnlineTrainer(net, optimizer)
    trainer.step(X, CLASSES)
    object.__setattr__(optimizer, "momentum", 0.9)
    with pytest.raises(ValueError, match=wrong):
        trainer.step(X[:7], CLASSES[:7])


def test_a_network_that_is_made_anew_under_a_trainer() -> None:
    net = MLP([5, 4, 3])
    trainer = OnlineTrainer(net)
    MLP.__init__(net, [3000, 200, 3])
    with pytest.raises(ValueError, match="must be"):
        trainer.step(np.ones((30, 3000), np.float32), CLASSES[:30])
    with pytest.raises(AttributeError):
        net.spec = MLP([2, 3]).spec  # type: ignore[misc]


@pytest.mark.parametrize("protocol", [4, 5])
def test_networks_out_of_memory_that_is_not_theirs_to_write(protocol: int) -> None:
    """As of a file that joblib has mapped; that may begin on a cache line, or not."""
    net, buffers = MLP([300, 300, 3], seed=0), []
    X = np.ones((9, 300), np.float32)
    call = buffers.append if protocol == 5 else None
    pickled = pickle.dumps(net, protocol, buffer_callback=call)
    kept = [bytes(buffer) for buffer in buffers]
    for _ in range(20):
        held = [kept_one[:-1] + kept_one[-1:] for kept_one in kept]  # At another place.
        pickle.loads(pickled, buffers=held if held else None).fit(X, CLASSES[:9], epochs=1)
        assert held == kept


def test_a_mapped_network_trains(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    net, X = MLP([300, 300, 3], seed=0), np.ones((9, 300), np.float32)
    trainer = OnlineTrainer(net, Adam())
    for k in range(16):  # Which moves the array in the file.
        joblib.dump(("a" * k, net, trainer), tmp_path / "net")
        _, mapped, stepping = joblib.load(tmp_path / "net", mmap_mode="r")
        mapped.fit(X, CLASSES[:9], epochs=1)
        stepping.step(X, CLASSES[:9])


def test_a_generator_cannot_name_samples_that_are_not_there() -> None:
    class Liar(np.random.Generator):
        def permuted(self, x: Any, axis: Any = None, out: Any = None) -> Any:
            return np.full(np.shape(x), 10**9)

    net = MLP([5, 3])
    state = net.training_state(SGD(0.1))
    state.rng = Liar(np.random.PCG64(0))
    net.fit(np.ones((300, 5)), CLASSES, batch_size=10, optimizer=SGD(0.1), state=state)


@pytest.mark.parametrize("extra", [-1, 5])
def test_a_schedule_gives_a_factor_a_step(extra: int, engine: str) -> None:
    class More(Schedule):
        def factors(self, first_step: int, n_steps: int, steps_per_epoch: int, epochs: int) -> np.ndarray:
            return np.ones(n_steps + extra)

    net = MLP([5, 3], engine=engine)
    with pytest.raises(ValueError, match=r"schedule must give \(1,\) factors for so many steps, got \((0|6),\)"):
        net.fit(np.ones((300, 5)), CLASSES, 3, schedule=More())


def test_a_class_of_arrays_whose_copies_are_short() -> None:
    class Short(np.ndarray):
        def flatten(self, order: Any = "C") -> Any:
            return np.zeros(1)

    dA, A = np.ones((50, 40)).view(Short), np.full((50, 40), 0.5)
    np.testing.assert_array_equal(fastmlp.kernels.tanh_backward(dA, A), np.full((50, 40), 0.75))


def test_gradients_have_classes_of_their_own() -> None:
    """Another thread may write to the user's at any time."""
    y = CLASSES.copy()
    targets = MLP([5, 3])._check_targets(y, 300)
    assert not np.shares_memory(targets, y)


# --- Sparse samples ---------------------------------------------------------------------------------------------------


def test_csr_whose_parts_do_not_belong_together(engine: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    net = MLP([300, 3], engine=engine)
    for change in (
        {"indptr": np.concatenate([np.arange(301), np.full(1000, 300)])},
        {"indptr": np.arange(100)},
        {"indices": np.full(300, np.nan)},
        {"indptr": np.arange(301.0)},
    ):
        X = sparse.eye(300, format="csr")
        for name, array in change.items():
            setattr(X, name, array)
        for call in (lambda X=X: net.predict(X), lambda X=X: net.fit(X, CLASSES, epochs=1)):
            with pytest.raises(ValueError, match="must be a well-formed CSR matrix"):
                call()


def test_a_matrix_that_becomes_another_one(engine: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")

    class Changing(sparse.coo_array):  # type: ignore[misc,name-defined]
        def tocsr(self, copy: bool = False) -> Any:
            return sparse.csr_array((300, 10**9))

    with pytest.raises(ValueError, match=r"well-formed CSR matrix|must be"):
        MLP([20, 3], engine=engine).predict(Changing(np.eye(9, 20)))


def test_indices_are_copied_and_then_checked() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    X = sparse.eye(300, format="csr", dtype=np.float32)
    rows = MLP([300, 3])._check_inputs(X)
    assert not np.shares_memory(rows.columns, X.indices)  # type: ignore[union-attr]
    assert not np.shares_memory(rows.starts, X.indptr)  # type: ignore[union-attr]
