"""Promise 6: what is no number is refused, every kind of array is taken as it is meant, both engines say the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
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
    r"training diverged in epoch (\d+), batch (\d+) of (\d+): "
    r"(the loss is (?:inf|-inf|nan)|a weight or an output is not finite)"
    r"(?:, the last finite loss was (\S+))?; the network keeps (?:the weights of epoch (\d+), the best so far|"
    r"the weights it began with); try a learning_rate below \S+, a warm-up, or inputs scaled to about \[-1, 1\]"
)


def losses_of_steps(net: MLP, X: Array, y: Array, options: dict[str, Any]) -> list[float]:
    """Train one step a call until the run diverges, and give the losses."""
    state, losses = net.training_state(options["optimizer"]), []
    n_batches = -(-len(X) // options["batch_size"])
    while state.epoch < options["epochs"]:
        before, batch = state.loss_sum, state.batch
        try:
            net.fit(X, y, **options, state=state, progress=lambda at: True)
        except DivergenceError:
            return losses
        after = state.loss_sum if state.batch else state.history.train_loss[-1] * len(X)
        size = options["batch_size"] if batch < n_batches - 1 else len(X) - batch * options["batch_size"]
        losses.append((after - before) / size)
    raise AssertionError("it did not diverge")


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
            "schedule": ("one_cycle", "constant")[i % 2],  # The first learns before its rate is too high.
        }  # fmt: skip
        spec: dict[str, Any] = {"loss": "squared_error", "dtype": ("float32", "float64")[i // 2 % 2], "seed": i}
        net, watched, stepped = (MLP([3, 6, 2], "identity", engine=engine, **spec) for _ in range(3))
        ends, validation_losses = [parameters(watched)], [watched.loss(X[::2], y[::2])]

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
            if len(losses) == n_finite and np.isfinite(losses[-1]):  # Not where an epoch's sum is too large.
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


# --- Arrays of every kind ---------------------------------------------------------------------------------------------


def within(a: Array, shape: tuple[int, ...], index: Any) -> Array:
    """Hold `a` in some places of a larger array."""
    larger = np.full(shape, 99, dtype=a.dtype)
    larger[index] = a
    view = larger[index]
    assert view.base is not None
    return view


def memory_mapped(a: Array, path: Path) -> Array:
    name = path / f"{len(list(path.iterdir()))}.npy"
    np.save(name, a)
    return np.load(name, mmap_mode="r")


def masked_nowhere(a: Array, path: Path) -> Array:
    return np.ma.array(a, mask=np.zeros(a.shape, bool))


class Labelled(np.ndarray):
    """An array with something more, and an arithmetic of its own."""

    def __mul__(self, other: Any) -> Any:
        raise TypeError("not to be multiplied")


LAYOUTS: dict[str, Callable[[Array, Path], Any]] = {
    "plain": lambda a, path: a,
    "list": lambda a, path: a.tolist(),
    "read-only": lambda a, path: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "Fortran": lambda a, path: np.asfortranarray(a),
    "every second row": lambda a, path: within(a, (2 * len(a), *a.shape[1:]), np.s_[::2]),
    "columns of more": lambda a, path: within(a, (*a.shape[:-1], 3 * a.shape[-1]), np.s_[..., 1::3]),
    "backwards": lambda a, path: np.flip(np.flip(a).copy()),
    "unaligned": lambda a, path: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
    "memory-mapped": memory_mapped,
    "masked nowhere": masked_nowhere,
    "subclass": lambda a, path: a.view(Labelled),
    "big-endian": lambda a, path: a.astype(a.dtype.newbyteorder(">")),
}
"""Ways to hold one and the same array."""

DTYPES = ("f8", "f4", "f2", "g", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")


def held(a: Array) -> Array:
    """Give the memory that an array is a view of, or its own."""
    while isinstance(getattr(a, "base", None), np.ndarray):
        a = a.base
    return a


@pytest.mark.parametrize("engine", ENGINES)
def test_an_array_of_any_kind_is_taken_for_its_numbers(engine: str, tmp_path: Path, promise: Any, count: Count) -> None:
    rng = np.random.default_rng(0)
    for i in range(count(150, 2000)):
        n, n_in, loss = int(rng.integers(2, 40)), int(rng.integers(1, 80)), LOSSES[i % 4]
        names = [str(rng.choice(list(LAYOUTS))) for _ in range(3)]
        with promise("6 an array of any kind trains as its numbers do, and none is modified"):
            arrays = []
            for what, name in zip(("X", "y", "w"), names, strict=True):
                shape = {"X": (n, n_in), "y": (n,) if loss == "softmax_cross_entropy" else (n, 2), "w": (n,)}[what]
                dtype = str(rng.choice(DTYPES[4:] if what == "y" and len(shape) == 1 else DTYPES))
                high = 2 if dtype == "?" or (what == "y" and loss in LOSSES[:2]) else 100
                a = rng.integers(0, high, shape) if what != "w" else np.maximum(rng.integers(0, high, shape), 1)
                if what == "X" and dtype in ("f8", "f4", "f2", "g"):
                    a = rng.normal(size=shape)
                arrays.append(LAYOUTS[name](np.asarray(a).astype(dtype), tmp_path))
            numbers = [np.array(a, dtype="f8") for a in arrays]
            memory = [(held(a), held(a).tobytes()) for a in arrays if isinstance(a, np.ndarray)]
            X, y, w = arrays
            options: dict[str, Any] = {"epochs": 2, "batch_size": int(rng.integers(1, n + 1))}
            options["optimizer"] = Adam(0.01, epsilon=1e-3)
            nets = [
                MLP([n_in, 5, 2], loss=loss, engine=engine, dtype=("float32", "float64")[i % 2], input_scale=0.01)
                for _ in range(2)
            ]
            nets[0].fit(X, y, **options, sample_weight=w, validation_data=(X, y))
            plain_y = numbers[1].astype(int) if loss == "softmax_cross_entropy" else numbers[1]
            nets[1].fit(numbers[0], plain_y, **options, sample_weight=numbers[2], validation_data=(numbers[0], plain_y))
            assert_same(*nets)
            assert_array_equal(nets[0].forward(X), nets[1].forward(numbers[0]))
            assert nets[0].loss(X, y) == nets[1].loss(numbers[0], plain_y)
            for array, before in memory:
                assert array.tobytes() == before


FINE = {"X": np.ones((4, 3)), "y": np.array([0, 1, 1, 0]), "sample_weight": np.ones(4)}


def one_masked(a: Array) -> Any:
    mask = np.zeros(a.shape, bool)
    mask.reshape(-1)[[-1, -2]] = True
    return np.ma.array(a, mask=mask)


NOT_NUMERIC = "must be numeric, got dtype object; np.asarray(values, float) converts numbers"
REFUSED: dict[str, tuple[str, Any, str]] = {
    "masked X": (
        "X", one_masked(FINE["X"]), "X must have no masked values, got one at [3, 1]; .filled(value) fills them",
    ),
    "masked y": (
        "y", one_masked(FINE["y"]), "y must have no masked values, got one at [2]; .filled(value) fills them",
    ),
    "masked weights": (
        "sample_weight", one_masked(FINE["sample_weight"]),
        "sample_weight must have no masked values, got one at [2]; .filled(value) fills them",
    ),
    "object X": ("X", FINE["X"].astype(object), "X " + NOT_NUMERIC),
    "None in X": ("X", [[1, 2, None]] * 4, "X " + NOT_NUMERIC),
    "complex X": ("X", FINE["X"] * 1j, "X must be numeric, got dtype complex128"),
    "strings in X": ("X", FINE["X"].astype(str), "X must be numeric, got dtype <U32"),
    "dates in X": ("X", FINE["X"].astype("M8[s]"), "X must be numeric, got dtype datetime64[s]"),
    "durations in X": ("X", FINE["X"].astype("m8[s]"), "X must be numeric, got dtype timedelta64[s]"),
    "records": ("X", np.zeros((4, 3), "f4,f4"), "X must be numeric, got dtype [('f0', '<f4'), ('f1', '<f4')]"),
    "a ragged X": ("X", [[1, 2, 3], [4]], "X must have rows of one length, got a ragged list"),
    "no samples": ("X", np.ones((0, 3)), "X must have at least one sample, got (0, 3)"),
    "no features": ("X", np.ones((4, 0)), "X must be (n_samples, 3), got (4, 0)"),
    "nothing": ("X", np.array(None), "X must be (n_samples, 3), got ()"),
    "no targets": ("y", [], "y must have one entry for each of the 4 samples of X, got shape (0,)"),
    "object y": (
        "y", FINE["y"].astype(object),
        "y must hold whole-number classes, got object; np.unique(y, return_inverse=True)[1] numbers them",
    ),
    "object weights": ("sample_weight", np.ones(4, object), "sample_weight " + NOT_NUMERIC),
    "too large": ("X", FINE["X"] * 1e300, "X must not be too large for float32, got 1e+300 at [0, 0]"),
}  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("what", "array", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_numbers_is_refused(engine: str, what: str, array: Any, message: str, promise: Any) -> None:
    with promise("6 arrays without numbers are refused in one clear line"):
        net = MLP([3, 4, 2], engine=engine)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            net.fit(**{**FINE, what: array}, epochs=1)
        if what != "sample_weight":
            with pytest.raises(ValueError, match=f"^validation {re.escape(message.split(';')[0])}"):
                net.fit(**FINE, epochs=1, validation_data=({**FINE, what: array}["X"], {**FINE, what: array}["y"]))
        assert_same(net, MLP([3, 4, 2], engine=engine))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_matrix_is_an_array(engine: str, promise: Any) -> None:
    with pytest.warns(PendingDeprecationWarning):
        X = np.asmatrix(np.random.default_rng(0).normal(size=(9, 3)))
    with promise("6 an array of any kind trains as its numbers do, and none is modified"):
        nets = [MLP([3, 4, 2], engine=engine, loss="squared_error") for _ in range(2)]
        nets[0].fit(X, X[:, :2], epochs=2, batch_size=4)
        nets[1].fit(np.asarray(X), np.asarray(X)[:, :2], epochs=2, batch_size=4)
        assert_same(*nets)


# --- Both engines -----------------------------------------------------------------------------------------------------


def rarely(strategy: st.SearchStrategy[Any], else_: Any) -> st.SearchStrategy[Any]:
    """Draw an option that is left alone in half of the cases."""
    return st.booleans().flatmap(lambda given: strategy if given else st.just(else_))


@st.composite
def cases(draw: Any) -> dict[str, Any]:
    """Draw a network, its samples, and how it is trained."""
    n_hidden = draw(st.integers(0, 3))
    loss, dtype = draw(st.sampled_from(LOSSES)), draw(st.sampled_from(["float32", "float64"]))
    is_classifier = loss in LOSSES[:2]
    n_samples = draw(st.integers(1, 40) | st.sampled_from([64, 241, 300, 481]))  # More than a block of rows, too.
    spec = {
        "layer_sizes": [draw(st.integers(1, 70) | st.sampled_from([128, 257])) for _ in range(n_hidden + 1)]
        + [draw(st.integers(1 + (loss == LOSSES[0]), 20))],
        "activation": [draw(st.sampled_from(ACTIVATIONS)) for _ in range(n_hidden)],
        "output_activation": None if loss in LOSSES[:2] or loss == "poisson" else draw(st.sampled_from(ACTIVATIONS)),
        "loss": loss,
        "reduction": draw(st.sampled_from(["mean", "sum"])),
        "bias": draw(st.booleans()),
        "input_scale": 0.05 if loss == "poisson" else draw(st.sampled_from([1.0, 0.3])),  # exp makes much of little.
        "dtype": dtype,
        "seed": draw(st.integers(0, 99)),
        "loss_parameter": draw(st.floats(0.1, 0.9)) if loss in ("huber", "quantile") else None,
    }
    batch_size = draw(st.integers(1, n_samples) | st.just(n_samples))
    # Of small gradients, Adam and RMSprop make steps that are not: epsilon is what keeps rounding from becoming one.
    epsilon = 1e-5 if dtype == "float64" else 1e-2
    rate = 0.05 / max(spec["layer_sizes"]) / (batch_size if spec["reduction"] == "sum" else 1)
    step = 0.1 / max(spec["layer_sizes"])
    decay = draw(rarely(st.just(0.01), 0.0))
    momentum = draw(st.sampled_from([0.0, 0.9]))
    optimizer = draw(
        st.sampled_from(
            [
                SGD(rate, momentum, nesterov=False, weight_decay=decay),
                SGD(rate, 0.9, nesterov=True, weight_decay=decay),
                Adam(step, epsilon=epsilon, weight_decay=decay, epsilon_hat=momentum > 0),
                AdamW(step, epsilon=epsilon, weight_decay=decay),
                RMSprop(step, epsilon=epsilon, weight_decay=decay),
            ]
        )
    )
    options = {
        "epochs": draw(st.integers(1, 3 if n_samples / batch_size < 20 else 1)),
        "batch_size": batch_size,
        "optimizer": optimizer,
        "schedule": draw(st.sampled_from(["constant", "cosine"])),
        "shuffle": draw(st.booleans()),
        "l2": draw(rarely(st.sampled_from([0.01, 0.5]), 0.0)),
        "label_smoothing": draw(rarely(st.just(0.2), 0.0)) if is_classifier else 0.0,
        "clip_norm": draw(rarely(st.sampled_from([0.05, 1.0]), None)),
        "average": draw(rarely(st.just(0.8), None)),
        "dropout": draw(rarely(st.sampled_from([0.1, 0.5]), 0.0)),
    }
    return {
        "spec": spec,
        "options": options,
        "n_samples": n_samples,
        "weighted": draw(st.booleans()),
        "zeros": draw(st.sampled_from(["none", "some", "most", "columns", "rows", "all"])),
        "kind": draw(st.sampled_from(["dense", "dense", "uint8", "sparse"])),
        "threads": draw(st.integers(1, 2)),
        "data_seed": draw(st.integers(0, 999)),
    }


def data_of(case: dict[str, Any]) -> tuple[Any, Array, Array | None]:
    """Draw the samples of a case, their targets and their weights."""
    rng, n = np.random.default_rng([case["data_seed"], 1]), case["n_samples"]  # No network draws its weights so.
    n_in, n_out, loss = case["spec"]["layer_sizes"][0], case["spec"]["layer_sizes"][-1], case["spec"]["loss"]
    X = rng.normal(size=(n, n_in))
    if case["kind"] == "uint8":
        X = rng.integers(0, 5, size=(n, n_in)).astype(np.uint8)
    X[rng.random(X.shape) < {"some": 0.4, "most": 0.95}.get(case["zeros"], 0.0)] = 0
    if case["zeros"] in ("columns", "rows", "all"):
        where = {"columns": np.s_[:, ::2], "rows": np.s_[::2], "all": np.s_[:]}[case["zeros"]]
        X[where] = 0
    y: Array = rng.integers(n_out, size=n)
    if loss == "sigmoid_cross_entropy":
        y = rng.integers(2, size=(n, n_out))
    elif loss == "poisson":
        y = rng.poisson(1.5, size=(n, n_out))
    elif loss != "softmax_cross_entropy":
        y = rng.normal(size=(n, n_out))
    weights = None
    if case["weighted"]:
        weights = rng.uniform(0.1, 2.0, size=n) * (rng.random(n) < 0.8)
        weights[0] = 1.0
    return (Rows(X) if case["kind"] == "sparse" else X), y, weights


def test_both_engines_train_the_same_network(
    promise: Any, count: Count, is_nightly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within rounding, and on any number of threads to the bit.

    What is compared is a sum of some hundred products, or what some hundred steps have changed, so that the rounding of
    the dtype, 1e-16 or 1e-7, may have grown by some digits: the seventh digit of the largest number must be the same in
    float64, and the second in float32. A formula that differs shows in the first.
    """
    monkeypatch.setattr("fastmlp.network.available_cpus", lambda: 2)

    @settings(
        max_examples=count(100, 2000), deadline=None, database=None, derandomize=not is_nightly,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases())
    def check(case: dict[str, Any]) -> None:
        X, y, weights = data_of(case)
        tolerance = 1e-7 if case["spec"]["dtype"] == "float64" else 1e-2
        if y.dtype.kind == "f" or case["spec"]["loss"] == "poisson":
            # Of an error that is all rounding, as where exp(z) meets a count of 1, no digit is left to compare.
            assume(np.abs(MLP(**case["spec"], engine="numpy").forward(X) - y).max() > 1e-4)

        def assert_close(ours: list[Array], theirs: list[Array], least: float = 0.0) -> None:
            largest = max(np.abs(array).max() for array in theirs)
            for a, b in zip(ours, theirs, strict=True):
                assert_allclose(a, b, rtol=0.0, atol=tolerance * (largest + least))

        with promise("6 the Numba engine trains what the NumPy engine trains"):
            numba, numpy, threaded = (MLP(**case["spec"], engine=engine) for engine in ("numba", "numpy", "numba"))
            assert_same(numba, numpy)
            assert_close([numba.forward(X)], [numpy.forward(X)])
            assert_close([np.array(numba.loss(X, y))], [np.array(numpy.loss(X, y))])
            gradients = [net.gradients(X, y) for net in (numba, numpy)]
            assert_close(*[[*each.weights, *each.biases] for each in gradients])
            before = parameters(numpy)
            histories = [
                net.fit(X, y, **case["options"], sample_weight=weights, threads=threads)
                for net, threads in ((numba, 1), (numpy, 1), (threaded, case["threads"]))
            ]
            changes = [[a - b for a, b in zip(parameters(net), before, strict=True)] for net in (numba, numpy)]
            # Changes smaller than this are of the size of the weights' own rounding.
            assert_close(*changes, least=1e-4)
            assert_close(*[[np.array(each.train_loss)] for each in histories[:2]])
            assert_same(threaded, numba)
            assert histories[2].train_loss == histories[0].train_loss

    check()
