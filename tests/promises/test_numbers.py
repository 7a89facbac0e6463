"""Promise 6: what is no number is refused, every kind of array is taken as it is meant, both engines say the same."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fastmlp import MLP, SGD, Adam, AdamW, DivergenceError, RMSprop

Array = np.ndarray
Count = Callable[[int, int], int]

ENGINES = ("numba", "numpy")
ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "silu", "softplus")
LOSSES = (
    "softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error", "poisson", "absolute_error", "huber", "quantile",
)  # fmt: skip


class Rows:
    """What the library asks of a sparse matrix of SciPy's, without SciPy."""

    ndim = 2

    def __init__(self, dense: Array, dtype: Any = None) -> None:
        self.shape, self.dtype = dense.shape, np.dtype(dtype or dense.dtype)
        row, self.indices = np.nonzero(dense)
        self.data = dense[row, self.indices].astype(self.dtype)
        self.indptr = np.searchsorted(row, np.arange(len(dense) + 1))

    def tocsr(self) -> Rows:
        return self


def parameters(net: MLP) -> list[Array]:
    return [array.copy() for array in (*net.weights, *net.biases)]


def assert_same(one: MLP, other: MLP) -> None:
    for a, b in zip(parameters(one), parameters(other), strict=True):
        assert_array_equal(a, b)


# --- NaN and infinity -------------------------------------------------------------------------------------------------

WHERE = {
    "X": "X", "sparse X": "X", "y": "y", "classes": "y", "one-hot": "y", "labels": "y", "weights": "sample_weight",
    "validation X": "validation X", "validation y": "validation y",
}  # fmt: skip
"""What is spoilt, and how a message calls it."""


@pytest.mark.parametrize("where", WHERE)
def test_what_is_not_finite_is_named_by_its_first_place(where: str, promise: Any, count: Count) -> None:
    rng = np.random.default_rng(0)
    for i in range(count(60, 1000)):
        n, n_in, n_out = (int(k) for k in rng.integers(2, (400, 90, 5)))
        loss = {"classes": LOSSES[0], "one-hot": LOSSES[0], "labels": LOSSES[1]}.get(where, LOSSES[2])
        X, y, weights = rng.normal(size=(n, n_in)), rng.uniform(size=(n, n_out)), rng.uniform(0.1, 1, size=n)
        if where in ("classes", "one-hot"):
            y = rng.integers(n_out, size=n).astype(float)
            y = y if where == "classes" else np.eye(n_out)[y.astype(int)]
        spoilt = {"X": X, "sparse X": X, "validation X": X.copy(), "validation y": y.copy(), "weights": weights}
        array = spoilt.get(where, y)
        places = np.sort(rng.integers(array.size, size=2))  # The first is the one that is named.
        array.reshape(-1)[places] = rng.choice([np.nan, np.inf, -np.inf], size=2)
        place = [int(k) for k in np.unravel_index(places[0], array.shape)]
        got = array[tuple(place)]
        validation = (array, y) if where == "validation X" else (X, array) if where == "validation y" else None
        # Float16 and wider types than the network's, other orders of bytes and of axes have conversions of their own.
        dtype = rng.choice(["f8", "f4", "f2", ">f8", np.longdouble])
        given_X = Rows(X, dtype) if where == "sparse X" else X.astype(dtype, order=rng.choice(["C", "F"]))
        net, untouched = (
            MLP([n_in, 4, n_out], loss=loss, engine=ENGINES[i % 2], dtype=("float32", "float64")[i // 2 % 2])
            for _ in range(2)
        )
        with promise(f"6 NaN or infinity in {where}: its first place is named, nothing has changed"):
            with pytest.raises(
                ValueError, match=rf"^{WHERE[where]} must be finite, got {got} at {re.escape(str(place))}$"
            ):
                net.fit(
                    given_X, y, 2, int(rng.integers(1, n + 1)), sample_weight=weights if where == "weights" else None,
                    validation_data=validation,
                )  # fmt: skip
            if where in ("X", "sparse X", "y", "classes"):
                with pytest.raises(ValueError, match=rf"^{WHERE[where]} must be finite, got {got} at "):
                    net.loss(given_X, y)
            for each in (net, untouched):
                each.fit(np.ones((5, n_in)), np.eye(n_out)[np.zeros(5, int)], epochs=1)
            assert_same(net, untouched)


# --- Divergence -------------------------------------------------------------------------------------------------------

MESSAGE = re.compile(
    r"training diverged in epoch (\d+), batch (\d+) of (\d+): (the loss is (?:inf|-inf|nan)|a weight is not finite)"
    r"(?:, the last finite loss was (\S+))?; the network keeps (?:the weights of epoch (\d+), the best so far|"
    r"the weights it began with); try a learning_rate below \S+, a warm-up, or inputs scaled to about \[-1, 1\]"
)


def losses_of_steps(net: MLP, X: Array, y: Array, options: dict[str, Any]) -> list[float]:
    """Train one step a call until the run diverges, and give the losses."""
    state, losses = net.training_state(options["optimizer"]), []
    n_batches = -(-len(X) // options["batch_size"])
    with pytest.raises(DivergenceError):
        while state.epoch < options["epochs"]:
            before, batch = state.loss_sum, state.batch
            net.fit(X, y, **options, state=state, progress=lambda at: True)
            after = state.loss_sum if state.batch else state.history.train_loss[-1] * len(X)
            size = options["batch_size"] if batch < n_batches - 1 else len(X) - batch * options["batch_size"]
            losses.append((after - before) / size)
    return losses


@pytest.mark.parametrize("measure", ["validation", "training", "all samples at once"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_that_diverges_stops_there_and_keeps_its_best_weights(
    engine: str, measure: str, promise: Any, count: Count
) -> None:
    rng = np.random.default_rng(0)
    n_tries, i = count(20, 200), 0
    while i < n_tries:
        n = int(rng.integers(8, 60))
        X, y = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
        batch_size = n if measure == "all samples at once" else int(rng.integers(3, 1 + n // 2))
        options: dict[str, Any] = {
            "epochs": 60, "batch_size": batch_size, "optimizer": SGD(float(10 ** rng.uniform(-1, 1)), momentum=0.5),
            "validation_data": (X[::2], y[::2]) if measure == "validation" else None,
            "average": 0.5 if i % 3 == 2 else None,
        }  # fmt: skip
        spec: dict[str, Any] = {"loss": "squared_error", "dtype": ("float32", "float64")[i % 2], "seed": i}
        net, watched, stepped = (MLP([3, 6, 2], "identity", engine=engine, **spec) for _ in range(3))
        ends, validation_losses = [parameters(watched)], [np.inf]

        def watch(history: Any, net: MLP = watched, ends: Any = ends, losses: Any = validation_losses) -> None:
            ends.append(parameters(net))
            losses.extend(history.validation_loss[-1:])

        try:
            with np.errstate(all="ignore"):  # NumPy's own warnings of what is about to be told.
                watched.fit(X, y, **options, callbacks=[watch])
        except DivergenceError as error:
            told = str(error)
        else:
            continue  # With another rate it will diverge.
        i += 1
        with promise("6 divergence: the step, the last finite loss, the best weights"), np.errstate(all="ignore"):
            # Without anyone to call, epochs run together; it must make no difference.
            with pytest.raises(DivergenceError, match=f"^{re.escape(told)}$"):
                net.fit(X, y, **options)
            match = MESSAGE.fullmatch(told)
            assert match is not None, told
            epoch, batch, n_batches, what, last, kept = match.groups()
            assert (int(epoch), int(n_batches)) == (len(ends), -(-n // batch_size))
            best = int(kept or 0)
            for a, b in zip(parameters(net), ends[best], strict=True):
                assert_array_equal(a, b)

            losses, step = losses_of_steps(stepped, X, y, options), (int(epoch) - 1) * int(n_batches) + int(batch)
            n_finite = step - what.startswith("the loss")
            # Step by step, weights that are not finite are seen at once, and not by what the next step makes of them.
            assert n_finite - 1 <= len(losses) <= n_finite
            if len(losses) == n_finite:
                assert float(last) == pytest.approx(losses[-1], rel=1e-3)
            losses = [*losses, float(last or 0)][:n_finite]

            if measure == "validation":
                assert validation_losses[best] == np.nanmin(validation_losses)
                continue
            sizes = np.minimum(batch_size, n - np.arange(0, n, batch_size))
            firsts = [*losses[:: len(sizes)], np.inf]
            means = [
                np.average(losses[k : k + len(sizes)], weights=sizes) for k in range(0, step - len(sizes), len(sizes))
            ]
            judged = [means[0] if means else np.inf, *map(max, means, firsts[1:])]
            if measure == "all samples at once":
                judged = firsts
            assert judged[best] <= 1.001 * min(judged[: len(ends)])
