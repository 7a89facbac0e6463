"""What a run that diverges says, and the weights that it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blobs import assert_same, blobs, classifier, parameters

from fastmlp import MLP, SGD, DivergenceError, chunks, training
from fastmlp.optimizers import Schedule

Array = np.ndarray


def test_divergence_says_when_and_keeps_the_best_weights(engine: str) -> None:
    """On X = [[1]], y = [0] a rate of 1e60 multiplies the weight by about -1e60 a step; the loss is half its square.

    The weight overflows the loss, 1e360, in the fourth epoch's step; the third left it at -1e180.
    """
    net = MLP([1, 1], loss="squared_error", bias=False, dtype="float64", engine=engine)
    net.set_parameters([[[1.0]]])
    with pytest.raises(DivergenceError) as error:
        net.fit([[1.0]], [0.0], epochs=10, batch_size=1, optimizer=SGD(1e60), validation_data=([[0.0]], [0.0]))
    assert str(error.value) == (
        "training diverged in epoch 4, batch 1 of 1: the loss is inf, the last finite loss was 5e+239; "
        "the network keeps the weights of epoch 3, the best so far; try a learning_rate below 1e+60, a warm-up, "
        "or inputs scaled to about [-1, 1]"
    )
    assert net.weights[0][0, 0] == pytest.approx(-1e180, rel=1e-12)


@pytest.mark.parametrize("average", [None, 0.5])
def test_weights_that_validate_worse_than_those_of_the_beginning_are_not_kept(
    engine: str, average: float | None
) -> None:
    """The weight is 1, -1e60, 1e120, ...: each validates worse than the one before."""
    net = MLP([1, 1], loss="squared_error", bias=False, dtype="float64", engine=engine)
    net.set_parameters([[[1.0]]])
    data = [[1.0]], [0.0]
    with pytest.raises(DivergenceError, match=r"in epoch 4, batch 1 of 1: .* keeps the weights it began with"):
        net.fit(*data, epochs=10, batch_size=1, optimizer=SGD(1e60), validation_data=data, average=average)
    assert net.weights[0][0, 0] == 1.0


def test_weights_of_an_epoch_whose_last_step_spoilt_them_are_not_kept(engine: str) -> None:
    net = MLP([1, 1], loss="squared_error", bias=False, dtype="float64", engine=engine)
    net.set_parameters([[[1.0]]])
    with pytest.raises(DivergenceError, match=r"diverged in epoch 4, batch 1 of 1: .* keeps the weights it began with"):
        net.fit([[1.0]], [0.0], epochs=10, batch_size=1, optimizer=SGD(1e60))
    assert net.weights[0][0, 0] == 1.0


@dataclass(frozen=True)
class ByStep(Schedule):
    """The factors of the first steps, as they are."""

    all_factors: tuple[float, ...] = ()

    def factors(self, first_step: int, n_steps: int, steps_per_epoch: int, epochs: int) -> Array:
        return np.array(self.all_factors[first_step : first_step + n_steps])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_first_step_judges_an_epoch_by_what_all_its_samples_would_lose(engine: str, reduction: str) -> None:
    """A sample's loss is w² / 2, and each step multiplies w by 1 - rate. The second epoch ends with w = -1.5."""
    net = MLP([1, 1], loss="squared_error", bias=False, dtype="float64", reduction=reduction, engine=engine)
    net.set_parameters([[[1.0]]])
    rates = (0, 0, 0, 0, 0, 0, 0, 2.5, 1e200, 1, 1, 1)
    with pytest.raises(DivergenceError, match=r"diverged in epoch 3, batch 2 of 4: .* keeps the weights of epoch 1,"):
        net.fit(np.ones((4, 1)), np.zeros(4), epochs=3, batch_size=1, optimizer=SGD(1.0), schedule=ByStep(rates))
    assert net.weights[0][0, 0] == 1.0


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_divergence_is_an_error_and_no_warning(engine: str, dtype: str, reduction: str, validated: bool) -> None:
    """Each step multiplies w by -1.1, so sums overflow before losses, and losses of larger inputs."""
    X, y = np.ones((128, 1)), np.zeros(128)
    net = MLP([1, 1], loss="squared_error", bias=False, dtype=dtype, reduction=reduction, engine=engine)
    net.set_parameters([[[1.0]]])
    optimizer = SGD(2.1 if reduction == "mean" else 2.1 / 64)
    with pytest.raises(DivergenceError):
        net.fit(X, y, 3000, 64, optimizer, validation_data=(10 * X, y) if validated else None)
    assert abs(net.weights[0][0, 0]) < 1.3  # Those of the beginning, or of the first epoch.


def test_divergence_in_the_first_epoch_keeps_what_was_there(engine: str) -> None:
    X, y = blobs()
    net = classifier(engine, dtype="float32", activation="identity")
    before = parameters(net)
    with pytest.raises(DivergenceError, match=r"^training diverged in epoch 1, .*keeps the weights it began with"):
        net.fit(X, y, epochs=3, batch_size=4, optimizer=SGD(1e38))
    assert_same(parameters(net), before)


def test_an_infinite_weight_is_divergence_too(engine: str) -> None:
    # The only step's loss is finite, and its update is not.
    net = MLP([1, 1], loss="squared_error", bias=False, dtype="float32", engine=engine)
    net.set_parameters([[[100.0]]])
    with pytest.raises(
        DivergenceError, match=r"in epoch 1, batch 1 of 1: a weight or an output is not finite, .* it began"
    ):
        net.fit([[1.0]], [0.0], epochs=1, batch_size=1, optimizer=SGD(1e38))
    assert net.weights[0][0, 0] == 100.0


@pytest.mark.parametrize("form", ["dense", "sparse", "mapped"])
def test_samples_without_weight_may_have_any_output(
    engine: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = MLP([1, 1], loss="squared_error", bias=False, dtype="float64", engine=engine)
    net.set_parameters([[[1e5]]])
    X: Any = np.array([[1e305], [100.0]])
    if form == "sparse":
        X = pytest.importorskip("scipy.sparse").csr_array(X)
    elif form == "mapped":
        monkeypatch.setattr(chunks, "CHUNK_BYTES", 8)
        np.save(tmp_path / "X.npy", X)
        X = np.load(tmp_path / "X.npy", mmap_mode="r")
    net.fit(X, [0.0, 1e7], 1, 1, SGD(1e-9), shuffle=False, sample_weight=[0.0, 1.0])
    assert net.weights[0][0, 0] == 1e5
    with pytest.raises(DivergenceError, match="a weight or an output is not"):
        net.fit(X, [0.0, 0.0], 1, 1, SGD(1e298), shuffle=False, sample_weight=[0.0, 1.0])


def test_a_sample_that_is_not_finite_is_named_before_its_step(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    net = MLP([1, 1], loss="squared_error", bias=False, engine=engine)
    net.set_parameters([[[1e5]]])
    X = np.ones((50, 1))
    X[0] = np.nan
    with pytest.raises(ValueError, match=r"^X must be finite, got nan at \[0, 0\]$"):
        net.fit(X, np.ones(50), 2, 1, SGD(1e-9), progress=lambda at: at.step == 1)


@pytest.mark.parametrize("stops", ["callbacks", "progress"])
def test_a_run_that_is_stopped_has_diverged_too_if_nothing_is_left(engine: str, stops: str) -> None:
    net = MLP([1, 1, 1], "identity", loss="squared_error", bias=False, dtype="float64", engine=engine)
    net.set_parameters([[[1.0]], [[1.0]]])
    stop: dict[str, Any] = {"callbacks": [lambda _: True]} if stops == "callbacks" else {"progress": lambda _: True}
    with pytest.raises(DivergenceError, match="a weight or an output is not finite"):
        net.fit([[1.0]], [0.0], 2, 1, SGD(1e200), **stop)


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("validated", [False, True])
def test_a_network_whose_last_step_left_it_without_answers_has_diverged(
    engine: str, validated: bool, epochs: int
) -> None:
    """The last step takes both weights to -1e200: they are finite, and so was each loss, but not their product."""
    net = MLP([1, 1, 1], "identity", loss="squared_error", bias=False, dtype="float64", engine=engine)
    net.set_parameters([[[1.0]], [[1.0]]])
    schedule = ByStep((0.0,) * (epochs - 1) + (1.0,))
    with pytest.raises(DivergenceError, match=rf"in epoch {epochs}, batch 1 of 1: a weight or an output is not finite"):
        net.fit(
            [[1.0]], [0.0], epochs, 1, SGD(1e200), schedule, validation_data=([[1.0]], [0.0]) if validated else None
        )
    assert net.forward([[3.0]]).tolist() == [[3.0]]


def test_the_network_can_be_trained_on_after_divergence(engine: str) -> None:
    X, y = blobs()
    net = classifier(engine, activation="relu")
    with pytest.raises(DivergenceError):
        net.fit(X, y, epochs=50, batch_size=4, optimizer=SGD(1e300))
    assert net.fit(X, y, epochs=50, batch_size=4).train_loss[-1] < 0.5
