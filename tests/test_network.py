"""`MLP`, the public contract: what it computes, what it takes, and what it answers to bad input."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import LOSSES, unaligned
from numpy.testing import assert_allclose, assert_array_equal

import fastmlp
from fastmlp import MLP, SGD

Array = np.ndarray


def hand_made(engine: str, loss: str = "squared_error", **options: Any) -> MLP:
    """Two inputs, two hidden ReLU units, two outputs, with weights that paper and pencil can follow."""
    net = MLP([2, 2, 2], loss=loss, **{"dtype": "float64", "engine": engine, **options})
    net.set_parameters([[[1.0, -1.0], [2.0, 1.0]], [[1.0, 0.0], [-1.0, 2.0]]], [[0.5, -0.5], [0.0, 1.0]])
    return net


X = np.array([[1.0, 0.0], [-1.0, 2.0]])
# Before the ReLU: (1.5, -1.5) and (3.5, 2.5). After it (1.5, 0) and (3.5, 2.5).
Z = np.array([[1.5, 1.0], [1.0, 6.0]])


# --- What it computes -------------------------------------------------------------------------------------------------


def test_squared_error_by_hand(engine: str) -> None:
    net = hand_made(engine)
    y = np.array([[1.5, 0.0], [0.0, 4.0]])
    assert_allclose(net.forward(X), Z, rtol=1e-15)
    assert_allclose(net.predict(X), Z, rtol=1e-15)
    assert net.loss(X, y) == pytest.approx((0.5 * 1 + 0.5 * (1 + 4)) / 2, rel=1e-15)
    assert hand_made(engine, reduction="sum").loss(X, y) == pytest.approx(3.0, rel=1e-15)


def test_softmax_by_hand(engine: str) -> None:
    net = hand_made(engine, "softmax_cross_entropy")
    P = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
    assert_allclose(net.forward(X), P, rtol=1e-14)
    assert_allclose(net.predict_proba(X), P, rtol=1e-14)
    predicted = net.predict(X)
    assert (predicted.tolist(), predicted.dtype.kind) == ([0, 1], "i")
    for y in ([0, 0], [[1, 0], [1, 0]], np.array([0, 0], dtype=np.uint8), np.eye(2)[[0, 0]]):
        assert net.accuracy(X, y) == 0.5
        assert net.loss(X, y) == pytest.approx(-(math.log(P[0, 0]) + math.log(P[1, 0])) / 2, rel=1e-14)


def test_sigmoid_by_hand(engine: str) -> None:
    net = hand_made(engine, "sigmoid_cross_entropy")
    P = 1 / (1 + np.exp(-Z))
    assert_allclose(net.forward(X), P, rtol=1e-14)
    assert_allclose(net.predict_proba(X), P, rtol=1e-14)
    assert net.predict(X).tolist() == [[1, 1], [1, 1]]
    y = np.array([[1, 1], [0, 1]])
    assert net.accuracy(X, y) == 0.5  # All labels of a sample must be right.
    expected = -(math.log(P[0, 0]) + math.log(P[0, 1]) + math.log(1 - P[1, 0]) + math.log(P[1, 1])) / 2
    assert net.loss(X, y) == pytest.approx(expected, rel=1e-14)


def test_one_sigmoid_output_is_a_binary_classifier(engine: str) -> None:
    net = MLP([1, 1], loss="sigmoid_cross_entropy", engine=engine)
    net.set_parameters([[[1.0]]], [[0.0]])
    inputs = [[-2.0], [3.0], [0.5]]
    assert net.predict(inputs).tolist() == [0, 1, 1]
    assert net.predict_proba(inputs).shape == (3, 1)
    for y in ([0, 1, 0], [[0], [1], [0]], [False, True, False], [0.0, 1.0, 0.0]):
        assert net.accuracy(inputs, y) == pytest.approx(2 / 3)
    assert net.loss(inputs, [0, 1, 0]) == net.loss(inputs, [[0.0], [1.0], [0.0]])


@pytest.mark.parametrize(
    ("activation", "value"),
    [("relu", 2.0), ("sigmoid", 0.8807970779778823), ("tanh", 0.9640275800758169), ("identity", 2.0)],
)
def test_named_output_activation(engine: str, activation: str, value: float) -> None:
    net = MLP([1, 1], output_activation=activation, loss="squared_error", bias=False, dtype="float64", engine=engine)
    net.set_parameters([[[2.0]]])
    assert net.forward([[1.0]])[0, 0] == pytest.approx(value, rel=1e-15)
    assert net.predict([[1.0]])[0, 0] == pytest.approx(value, rel=1e-15)
    assert net.loss([[1.0]], [0.0]) == pytest.approx(value**2 / 2, rel=1e-15)


def test_activations_layer_by_layer(engine: str) -> None:
    net = MLP([1, 1, 1, 1], ["tanh", "softplus"], loss="squared_error", bias=False, dtype="float64", engine=engine)
    net.set_parameters([[[0.5]], [[-2.0]], [[3.0]]])
    expected = 3 * math.log1p(math.exp(-2 * math.tanh(0.5)))
    assert net.forward([[1.0]])[0, 0] == pytest.approx(expected, rel=1e-14)


def test_input_scale_multiplies_inputs(engine: str) -> None:
    pixels = np.array([[0, 51, 255]], dtype=np.uint8)
    net = MLP([3, 2], loss="squared_error", input_scale=1 / 255, dtype="float64", engine=engine)
    plain = MLP([3, 2], loss="squared_error", dtype="float64", engine=engine)
    assert_allclose(net.forward(pixels), plain.forward([[0.0, 0.2, 1.0]]), rtol=1e-14)
    assert_allclose(net.forward(pixels.astype(float)), net.forward(pixels), rtol=1e-14)


def test_xor_is_learnt(engine: str) -> None:
    inputs, y = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]
    net = MLP([2, 8, 2], activation="tanh", seed=1, engine=engine)
    history = net.fit(inputs, y, epochs=200, batch_size=4)
    assert net.predict(inputs).tolist() == y
    assert net.accuracy(inputs, y) == 1.0
    assert len(history.train_loss) == 200


# --- The contract -----------------------------------------------------------------------------------------------------


def test_signatures() -> None:
    """Names, order and defaults that users and the documentation rely on."""
    parameters = inspect.signature(MLP).parameters
    assert {name: p.default for name, p in parameters.items() if name != "layer_sizes"} == {
        "activation": "relu", "output_activation": None, "loss": "softmax_cross_entropy", "reduction": "mean",
        "bias": True, "init": None, "input_scale": 1.0, "dtype": "float32", "seed": 0, "engine": "numba",
        "loss_parameter": None,
    }  # fmt: skip
    assert next(iter(parameters)) == "layer_sizes"
    fit = inspect.signature(MLP.fit).parameters
    assert list(fit)[:10] == [
        "self", "X", "y", "epochs", "batch_size", "optimizer", "schedule", "shuffle", "validation_data", "threads",
    ]  # fmt: skip
    assert [fit[name].default for name in ("epochs", "batch_size", "schedule", "shuffle", "threads")] == [
        10, 100, "constant", True, None,
    ]  # fmt: skip
    options = ("sample_weight", "l2", "dropout", "label_smoothing", "clip_norm", "average")
    assert [fit[name].default for name in options] == [None, 0.0, 0.0, 0.0, None, None]


def test_defaults(engine: str) -> None:
    net = MLP([784, 100, 64, 32, 10], engine=engine)
    assert [W.shape for W in net.weights] == [(784, 100), (100, 64), (64, 32), (32, 10)]
    assert [b.shape for b in net.biases] == [(100,), (64,), (32,), (10,)]
    assert {a.dtype for a in (*net.weights, *net.biases)} == {np.dtype("float32")}
    assert net.spec.output_activation == "softmax"
    assert repr(net) == (
        "MLP([784, 100, 64, 32, 10], activation=['relu', 'relu', 'relu'], loss='softmax_cross_entropy', "
        f"dtype='float32', engine={engine!r})"
    )


def test_weights_are_views(engine: str) -> None:
    net = hand_made(engine)
    net.weights[1][0, 0] = 3.0
    net.biases[1][:] += 1.0
    assert_allclose(net.forward(X), [[5.5, 2.0], [9.0, 7.0]], rtol=1e-15)


def test_without_biases(engine: str) -> None:
    net = MLP([2, 3, 2], bias=False, engine=engine)
    assert net.biases == []
    assert net.gradients(X, [0, 1]).biases == []
    net.fit(X, [0, 1], epochs=1)
    assert_allclose(net.predict_proba(np.zeros((1, 2))), [[0.5, 0.5]])


def test_set_parameters_copies_and_may_leave_out_biases(engine: str) -> None:
    net = hand_made(engine)
    weights = [W.copy() for W in net.weights]
    net.set_parameters(weights)
    weights[0][:] = 0
    assert_allclose(net.forward(X), [[1.0, 0.0], [0.0, 6.0]], rtol=1e-15)
    net.set_parameters([W.tolist() for W in net.weights], [(1, 2), (3, 4)])
    assert [b.tolist() for b in net.biases] == [[1, 2], [3, 4]]
    net.set_parameters(net.weights, net.biases)
    assert [b.tolist() for b in net.biases] == [[1, 2], [3, 4]]


def test_dtype_may_be_a_numpy_dtype(engine: str) -> None:
    for dtype in ("float64", np.float64, np.dtype("float64"), "f8"):
        assert MLP([2, 2], dtype=dtype, engine=engine).weights[0].dtype == np.float64


# --- Inputs in every form ---------------------------------------------------------------------------------------------


def memory_mapped(a: Array, path: Path) -> Array:
    np.save(path / "a.npy", a)
    return np.load(path / "a.npy", mmap_mode="r")


FORMS: dict[str, Callable[[Array, Path], Any]] = {
    "list": lambda a, path: a.tolist(),
    "int64": lambda a, path: a.astype(np.int64),
    "int8": lambda a, path: a.astype(np.int8),
    "uint8": lambda a, path: a.astype(np.uint8),
    "float16": lambda a, path: a.astype(np.float16),
    "float32": lambda a, path: a.astype(np.float32),
    "big-endian": lambda a, path: a.astype(">f8"),
    "big-endian int": lambda a, path: a.astype(">i4"),
    "longdouble": lambda a, path: a.astype(np.longdouble),
    "Fortran": lambda a, path: np.asfortranarray(a),
    "strided": lambda a, path: np.repeat(np.repeat(a, 2, axis=0), 3, axis=1)[::2, ::3],
    "strided uint8": lambda a, path: np.repeat(a.astype(np.uint8), 2, axis=1)[:, ::2],
    "unaligned": lambda a, path: unaligned(a),
    "memmap": memory_mapped,
    "frombuffer": lambda a, path: np.frombuffer(a.tobytes()).reshape(a.shape),
}


@pytest.mark.parametrize("form", FORMS)
def test_inputs_in_every_form(engine: str, form: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    plain = rng.integers(0, 100, size=(12, 5)).astype(np.float64)
    y = rng.integers(3, size=12)
    options: dict[str, Any] = {"input_scale": 0.01, "dtype": "float64", "engine": engine}
    net, same = MLP([5, 4, 3], **options), MLP([5, 4, 3], **options)
    other = FORMS[form](plain, tmp_path)
    if isinstance(other, np.ndarray):
        other.flags.writeable = False
    close = {"rtol": 1e-13, "atol": 1e-15}
    assert_allclose(net.forward(other), net.forward(plain), **close)
    assert_allclose(net.gradients(other, y).weights[0], net.gradients(plain, y).weights[0], **close)
    net.fit(other, y, epochs=3, batch_size=5)
    same.fit(plain, y, epochs=3, batch_size=5)
    assert_allclose(net.weights[0], same.weights[0], **close)


def records_of(a: Array) -> Array:
    """Put each sample behind a byte: then the distance between two is no whole number of elements."""
    records = np.zeros(len(a), [("label", "u1"), ("inputs", a.dtype, a.shape[1:])])
    records["inputs"] = a
    return records


VIEWS: dict[str, Callable[[Array], Array]] = {
    "reversed": lambda a: a[::-1],
    "every third": lambda a: np.repeat(a, 3, axis=0)[::3],
    "some columns": lambda a: np.hstack([a, a, a])[:, a.shape[1] : 2 * a.shape[1]],
    "one sample, many times": lambda a: np.broadcast_to(a[:1], a.shape),
    "columns that are not side by side": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "one sample": lambda a: a[::-1][:1],
    "one sample, of columns": lambda a: np.repeat(a, 2, axis=1)[:1, ::2],
    "packed records": lambda a: records_of(a)["inputs"],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("n_inputs", [1, 5, 64, 784])
def test_samples_need_not_lie_side_by_side(n_inputs: int, view: str) -> None:
    """They are predicted wherever they lie, without a copy, if the numbers of each do."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(700, n_inputs)).astype(np.float32) * (rng.random((700, n_inputs)) < 0.4)
    net, other = MLP([n_inputs, 30, 4], seed=1), VIEWS[view](a)
    assert_array_equal(net.predict_proba(other), net.predict_proba(other.copy()))
    assert_array_equal(net.predict(other), net.predict(other.copy()))


def test_booleans_are_numbers(engine: str) -> None:
    net = hand_made(engine)
    assert_array_equal(net.forward(np.array([[True, False]])), net.forward([[1.0, 0.0]]))
    binary = MLP([2, 2], engine=engine)
    assert binary.loss(X, np.array([True, False])) == binary.loss(X, [1, 0])


@pytest.mark.parametrize("y_dtype", ["int8", "uint8", "int32", ">i4", "uint64"])
def test_class_targets_in_every_dtype(engine: str, y_dtype: str) -> None:
    net, same = (MLP([2, 3], engine=engine) for _ in range(2))
    y = np.array([2, 0])
    assert net.loss(X, y.astype(y_dtype)) == net.loss(X, y)
    net.fit(X, y.astype(y_dtype)[::-1][::-1], epochs=2)
    same.fit(X, y, epochs=2)
    assert_array_equal(net.weights[0], same.weights[0])


def test_nothing_given_is_modified(engine: str) -> None:
    rng = np.random.default_rng(0)
    for dtype in ("float32", "uint8"):
        for loss in ("softmax_cross_entropy", "squared_error"):
            inputs = (100 * rng.uniform(size=(10, 4))).astype(dtype)
            y = rng.integers(2, size=10) if loss == "softmax_cross_entropy" else rng.normal(size=(10, 2)).astype("f4")
            kept_inputs, kept_y = inputs.copy(), y.copy()
            net = MLP([4, 3, 2], loss=loss, input_scale=0.01, engine=engine)
            net.fit(inputs, y, epochs=2, batch_size=3, validation_data=(inputs, y))
            net.forward(inputs)
            net.loss(inputs, y)
            net.gradients(inputs, y)
            assert_array_equal(inputs, kept_inputs)
            assert_array_equal(y, kept_y)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_samples_are_not_copied(engine: str, dtype: str) -> None:
    samples = np.ones((20_000, 100), dtype=dtype)
    y = np.zeros(20_000, dtype=np.int64)
    net = MLP([100, 3], input_scale=1 / 255, engine=engine)
    net.fit(samples[:100], y[:100], epochs=1)  # What is imported or compiled at first is not counted.
    tracemalloc.start()
    net.fit(samples, y, epochs=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < samples.nbytes / 2


def test_answers_are_the_callers_own(engine: str) -> None:
    net = hand_made(engine)
    first = net.forward(X)
    kept = first.copy()
    net.forward(X + 1.0)
    assert_array_equal(first, kept)
    first[:] = 0
    assert_array_equal(net.forward(X), kept)


def test_copies_and_pickles_are_networks_of_their_own(engine: str) -> None:
    net = MLP([2, 17, 3], "gelu", seed=2, engine=engine)
    net.fit(X, [0, 2], epochs=2)
    copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    expected = net.forward(X)
    net.fit(X, [1, 2], epochs=3, batch_size=1)
    for other in copies:
        assert_array_equal(other.forward(X), expected)
        other.fit(X, [1, 2], epochs=3, batch_size=1)
        assert_array_equal(other.forward(X), net.forward(X))


def test_one_network_may_answer_several_threads_at_once(engine: str) -> None:
    rng = np.random.default_rng(0)
    net = MLP([30, 40, 5], seed=2, engine=engine)
    batches = [rng.normal(size=(300 + i, 30)) for i in range(20)]
    expected = [net.forward(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for a, b in zip(pool.map(net.forward, batches), expected, strict=True):
                assert_array_equal(a, b)


def test_many_samples_at_once(engine: str) -> None:
    """More samples than any kernel takes in one go."""
    rng = np.random.default_rng(0)
    many = rng.normal(size=(3001, 2))
    net = hand_made(engine)
    rows = [0, 1, 1023, 1024, 2047, 2048, 3000]
    assert_allclose(net.forward(many)[rows], net.forward(many[rows]), rtol=1e-12, atol=1e-14)
    expected = sum(net.loss(many[i : i + 1], [[0, 0]]) for i in range(3001)) / 3001
    assert net.loss(many, np.zeros((3001, 2))) == pytest.approx(expected, rel=1e-12)
    gradient = sum(net.gradients(many[i : i + 1], [[0, 0]]).weights[0] for i in range(3001)) / 3001
    assert_allclose(net.gradients(many, np.zeros((3001, 2))).weights[0], gradient, rtol=1e-10)


# --- Bad input --------------------------------------------------------------------------------------------------------


def message_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    return message


COLUMN = "y must be (n_samples,) = (2,) or one-hot (2, 2), got (2, 1); y.ravel() makes it so"
KNOWN = "identity, relu, leaky_relu, elu, sigmoid, tanh, gelu, silu, softplus"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_sizes": [3]}, "layer_sizes must name at least inputs and outputs, got [3]"),
        ({"layer_sizes": []}, "layer_sizes must name at least inputs and outputs, got []"),
        ({"layer_sizes": [3, 0, 2]}, "layer_sizes must all be >= 1, got [3, 0, 2]"),
        ({"layer_sizes": [3, -4, 2]}, "layer_sizes must all be >= 1, got [3, -4, 2]"),
        ({"layer_sizes": [3, 2.5]}, "layer_sizes must be a sequence of whole numbers, got [3, 2.5]"),
        ({"layer_sizes": "3,2"}, "layer_sizes must be a sequence of whole numbers, got '3,2'"),
        ({"layer_sizes": 784}, "layer_sizes must be a sequence of whole numbers, got 784"),
        ({"activation": "rleu"}, f"activation must be one of {KNOWN}, got 'rleu' (did you mean 'relu'?)"),
        ({"activation": "swish7"}, f"activation must be one of {KNOWN}, got 'swish7'"),
        ({"activation": None}, f"activation must be one of {KNOWN}, got None"),
        ({"activation": [7]}, f"activation must be one of {KNOWN}, got 7"),
        (
            {"activation": ["relu", "relu"]},
            "activation must name one function for each of the 1 hidden layers, got 2",
        ),
        (
            {"output_activation": "sigmoid"},
            "output_activation with loss 'softmax_cross_entropy' must be one of softmax, got 'sigmoid'",
        ),
        (
            {"output_activation": "softmax", "loss": "squared_error"},
            f"output_activation with loss 'squared_error' must be one of {KNOWN}, got 'softmax'",
        ),
        (
            {"output_activation": "sigmod", "loss": "squared_error"},
            f"output_activation must be one of {KNOWN}, softmax, exp, got 'sigmod' (did you mean 'sigmoid'?)",
        ),
        (
            {"loss": "cross_entropy"},
            f"loss must be one of {', '.join(LOSSES)}, got 'cross_entropy' (did you mean 'softmax_cross_entropy'?)",
        ),
        ({"reduction": "mena"}, "reduction must be one of mean, sum, got 'mena' (did you mean 'mean'?)"),
        (
            {"init": "he"},
            "init must be one of he_normal, he_uniform, glorot_normal, glorot_uniform, got 'he'",
        ),
        ({"input_scale": 0}, "input_scale must be > 0, got 0"),
        ({"input_scale": 1e300}, "input_scale must be > 0 and finite in float32, got 1e+300"),
        ({"input_scale": 1e-300}, "input_scale must be > 0 and finite in float32, got 1e-300"),
        ({"input_scale": math.nan}, "input_scale must be finite, got nan"),
        ({"input_scale": "big"}, "input_scale must be a number, got 'big'"),
        ({"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16' (did you mean 'float64'?)"),
        ({"dtype": "int32"}, "dtype must be one of float32, float64, got 'int32'"),
        ({"dtype": "flaot32"}, "dtype must be one of float32, float64, got 'flaot32' (did you mean 'float32'?)"),
        ({"activation": "ReLU"}, f"activation must be one of {KNOWN}, got 'ReLU' (did you mean 'relu'?)"),
        ({"activation": np.eye(2)}, f"activation must be one of {KNOWN}, got array([1., 0.])"),
        ({"init": [np.eye(30)]}, "init must be a name, got list; arrays go through set_parameters"),
        ({"init": np.eye(30)}, "init must be a name, got ndarray; arrays go through set_parameters"),
        ({"bias": "no"}, "bias must be True or False, got 'no'"),
        ({"seed": np.eye(2)}, "seed must be a whole number, got array([[1., 0.], [0., 1.]])"),
        ({"seed": "7" * 200}, f"seed must be a whole number, got '{'7' * 96}..."),
        (
            {"layer_sizes": [10**12, 10**12]},
            "layer_sizes must make a network that fits in memory, got [1000000000000, 1000000000000]: "
            "1000000000001000000000000 parameters",
        ),
        (
            {"layer_sizes": [2**30, 2**30, 1], "bias": False},
            "layer_sizes must make a network that fits in memory, got [1073741824, 1073741824, 1]: "
            f"{2**60 + 2**30} parameters",
        ),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"engine": "Numba"}, "engine must be one of numba, numpy, got 'Numba' (did you mean 'numba'?)"),
    ],
    ids=lambda value: repr(value)[:50] if isinstance(value, dict) else "",
)
def test_bad_constructor_arguments(arguments: dict[str, Any], message: str) -> None:
    assert message_of(lambda: MLP(**{"layer_sizes": [3, 4, 2], **arguments})) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"epochs": 2.5}, "epochs must be a whole number, got 2.5"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"batch_size": -100}, "batch_size must be >= 1, got -100"),
        ({"batch_size": "all"}, "batch_size must be a whole number, got 'all'"),
        ({"threads": 0}, "threads must be >= 1, got 0"),
        ({"threads": -1}, "threads must be >= 1, got -1"),
        ({"optimizer": "sdg"}, "optimizer must be one of sgd, adam, adamw, rmsprop, got 'sdg' (did you mean 'sgd'?)"),
        (
            {"optimizer": SGD},
            f"optimizer must be SGD, Adam, AdamW or RMSprop, got {SGD!r} (did you mean SGD()?)",
        ),
        ({"optimizer": np.eye(2)}, "optimizer must be SGD, Adam, AdamW or RMSprop, got array([[1., 0.], [0., 1.]])"),
        (
            {"schedule": fastmlp.Cosine},
            "schedule must be one of constant, step, exponential, cosine, one_cycle, inverse_scaling or a Schedule, "
            f"got {fastmlp.Cosine!r} (did you mean Cosine()?)",
        ),
        ({"shuffle": "no"}, "shuffle must be True or False, got 'no'"),
        ({"callbacks": print}, "callbacks must be a sequence of callables, got <built-in function print>"),
        ({"callbacks": [print, 3]}, "callbacks[1] must be callable, got 3"),
        ({"progress": 3}, "progress must be callable, got 3"),
        ({"validation_data": (X, [0, 1], 3)}, "validation_data must be a pair (X, y), got 3 entries"),
        ({"validation_data": (X,)}, "validation_data must be a pair (X, y), got 1 entries"),
        ({"validation_data": 3}, "validation_data must be a pair (X, y), got 3"),
        ({"validation_data": (X, [[0], [1]])}, f"validation {COLUMN}"),
        ({"X": [[1.0, 2.0], [3.0]]}, "X must have rows of one length, got a ragged list"),
        ({"y": [[1, 0], [1]]}, "y must have rows of one length, got a ragged list"),
        (
            {"schedule": "one-cycle"},
            "schedule must be one of constant, step, exponential, cosine, one_cycle, inverse_scaling, got 'one-cycle' "
            "(did you mean 'one_cycle'?)",
        ),
        ({"y": [0, 1, 2]}, "y must have one entry for each of the 2 samples of X, got shape (3,)"),
        ({"validation_data": (X[:, :1], [0, 1])}, "validation X must be (n_samples, 2), got (2, 1)"),
        ({"validation_data": (X, [0, 2])}, "validation y must hold classes 0 to 1, got 2"),
        (
            {"validation_data": (X, [0])},
            "validation y must have one entry for each of the 2 samples of X, got shape (1,)",
        ),
    ],
    ids=lambda value: repr(value)[:50] if isinstance(value, dict) else "",
)
def test_bad_fit_arguments(engine: str, arguments: dict[str, Any], message: str) -> None:
    net = hand_made(engine, "softmax_cross_entropy")
    before = [a.copy() for a in (*net.weights, *net.biases)]
    assert message_of(lambda: net.fit(**{"X": X, "y": [0, 1], **arguments})) == message
    for a, b in zip((*net.weights, *net.biases), before, strict=True):
        assert_array_equal(a, b)


def test_epsilon_that_the_dtype_rounds_to_zero(engine: str) -> None:
    for optimizer in (fastmlp.Adam(epsilon=1e-50), fastmlp.AdamW(epsilon=1e-50), fastmlp.RMSprop(epsilon=1e-50)):
        net = MLP([2, 2], engine=engine)
        message = "epsilon must be > 0 in float32, got 1e-50"
        assert message_of(lambda net=net, optimizer=optimizer: net.fit(X, [0, 1], optimizer=optimizer)) == message
        MLP([2, 2], dtype="float64", engine=engine).fit(X, [0, 1], epochs=1, optimizer=optimizer)


def with_value(value: float) -> Array:
    bad = X.copy()
    bad[1, 0] = value
    return bad


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 3)), "X must be (n_samples, 2), got (2, 3)"),
        (np.zeros((2, 2, 1)), "X must be (n_samples, 2), got (2, 2, 1)"),
        (np.zeros(3), "X must be (n_samples, 2), got (3,)"),
        (np.zeros(2), "X must be (n_samples, 2), got (2,); one sample is X.reshape(1, -1), of shape (1, 2)"),
        (7.0, "X must be (n_samples, 2), got ()"),
        (np.zeros((0, 2)), "X must have at least one sample, got (0, 2)"),
        (np.zeros((2, 2))[:0], "X must have at least one sample, got (0, 2)"),
        (
            np.ma.array([[1.0, 2.0]], mask=[[False, True]]),
            "X must have no masked values, got one at [0, 1]; .filled(value) fills them",
        ),
        ([], "X must be (n_samples, 2), got (0,)"),
        (with_value(np.nan), "X must be finite, got nan at [1, 0]"),
        (with_value(np.inf), "X must be finite, got inf at [1, 0]"),
        (with_value(-np.inf), "X must be finite, got -inf at [1, 0]"),
        ([["a", "b"]], "X must be numeric, got dtype <U1"),
        (np.zeros((2, 2), dtype=complex), "X must be numeric, got dtype complex128"),
        (np.array([[None, 1.0]]), "X must be numeric, got dtype object"),
    ],
    ids=str,
)
def test_bad_inputs(engine: str, inputs: Any, message: str) -> None:
    net = hand_made(engine, "softmax_cross_entropy")
    y = [0, 1]
    calls: list[Callable[[], Any]] = [
        lambda: net.forward(inputs),
        lambda: net.predict(inputs),
        lambda: net.predict_proba(inputs),
        lambda: net.loss(inputs, y),
        lambda: net.accuracy(inputs, y),
        lambda: net.gradients(inputs, y),
        lambda: net.fit(inputs, y),
    ]
    for call in calls:
        assert message_of(call) == message
    assert message_of(lambda: net.fit(X, y, validation_data=(inputs, y))) == f"validation {message}"


def test_numbers_too_large_for_the_dtype(engine: str) -> None:
    net = hand_made(engine, dtype="float32")
    assert message_of(lambda: net.forward(with_value(1e300))) == (
        "X must not be too large for float32, got 1e+300 at [1, 0]"
    )
    assert message_of(lambda: net.forward(with_value(np.inf))) == "X must be finite, got inf at [1, 0]"
    # A sum that overflows is no reason to refuse numbers that do not.
    identity = MLP([1, 1], loss="squared_error", bias=False, dtype="float64", engine=engine)
    identity.set_parameters([[[1.0]]])
    assert identity.forward([[1e308], [1e308]]).tolist() == [[1e308], [1e308]]


@pytest.mark.parametrize("activation", ["identity", "tanh", "softplus"])
def test_a_fit_after_one_that_met_nan(engine: str, activation: str) -> None:
    net = MLP([3, 4, 2], loss="squared_error", output_activation=activation, engine=engine)
    X, Y = np.random.default_rng(0).normal(size=(40, 3)), np.full((40, 2), 0.5)
    wrong = X.copy()
    wrong[7, 1] = np.nan
    assert message_of(lambda: net.fit(wrong, Y, epochs=1)) == "X must be finite, got nan at [7, 1]"
    net.fit(X, Y, epochs=2, l2=0.1, clip_norm=1.0)


@pytest.mark.parametrize(("X", "input_scale"), [(np.float32([[1, 1e30]]), 1e30), (np.uint8([[0, 255]]), 1e38)])
def test_numbers_too_large_for_the_input_scale(X: Array, input_scale: float) -> None:
    net = MLP([2, 3, 2], input_scale=input_scale)
    message = f"X must be finite when multiplied by input_scale, got {X[0, 1]} at [0, 1]"
    for call in (net.forward, net.predict):
        assert message_of(lambda call=call: call(X)) == message


def test_no_method_takes_numbers_too_large_for_the_input_scale(engine: str) -> None:
    net = MLP([2, 3, 2], input_scale=1e10, engine=engine)
    inputs, y = np.float32([[1, 2], [3, 1e30]]), [0, 1]
    message = "X must be finite when multiplied by input_scale, got 1.0000000150474662e+30 at [1, 1]"
    for call in (net.forward, net.predict_proba):
        assert message_of(lambda call=call: call(inputs)) == message
    for call in (net.fit, net.loss, net.gradients):
        assert message_of(lambda call=call: call(inputs, y)) == message
    assert message_of(lambda: net.fit(np.eye(2), y, validation_data=(inputs, y))) == f"validation {message}"


def test_gradients_of_an_infinite_loss_are_not_finite(engine: str) -> None:
    net = MLP([1, 1], loss="poisson", engine=engine)
    net.set_parameters([[[100.0]]], [[0.0]])
    gradients = net.gradients([[1.0]], [[1.0]])
    assert not np.isfinite(gradients.weights[0]).any()
    assert not np.isfinite(gradients.biases[0]).any()


ONE_HOT = "one-hot y must have a single 1 in each row and zeros elsewhere, got"


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        ("softmax_cross_entropy", [0, 2], "y must hold classes 0 to 1, got 2"),
        ("softmax_cross_entropy", [-1, 0], "y must hold classes 0 to 1, got -1"),
        (
            "softmax_cross_entropy", [0.0, 1.0],
            "y must hold whole-number classes, got float64; y.astype(int) makes it so",
        ),
        (
            "softmax_cross_entropy", [0.5, 1.0],
            "y must hold whole-number classes, got float64; np.unique(y, return_inverse=True)[1] numbers them",
        ),
        (
            "softmax_cross_entropy", ["0", "1"],
            "y must hold whole-number classes, got <U1; np.unique(y, return_inverse=True)[1] numbers them",
        ),
        ("softmax_cross_entropy", [["0", "1"], ["1", "0"]], "y must be numeric, got dtype <U1"),
        ("softmax_cross_entropy", [[0, 1], [1, 1]], f"{ONE_HOT} [1 1] in row 1"),
        ("softmax_cross_entropy", [[0.5, 0.5], [1, 0]], f"{ONE_HOT} [0.5 0.5] in row 0"),
        ("softmax_cross_entropy", [[0], [1]], COLUMN),
        ("softmax_cross_entropy", [0], "y must have one entry for each of the 2 samples of X, got shape (1,)"),
        ("softmax_cross_entropy", [], "y must have one entry for each of the 2 samples of X, got shape (0,)"),
        ("softmax_cross_entropy", 1, "y must have one entry for each of the 2 samples of X, got shape ()"),
        ("sigmoid_cross_entropy", [[0, 2], [1, 0]], "y must be in [0, 1] for sigmoid_cross_entropy, got 2"),
        ("sigmoid_cross_entropy", [[0, -0.5], [1, 0]], "y must be in [0, 1] for sigmoid_cross_entropy, got -0.5"),
        ("sigmoid_cross_entropy", [0, 1], "y must be (2, 2), got (2,)"),
        ("squared_error", [[0.0], [1.0]], "y must be (2, 2), got (2, 1)"),
        ("squared_error", [[0.0, np.nan], [1.0, 0]], "y must be finite, got nan at [0, 1]"),
        ("squared_error", [["a", "b"], ["c", "d"]], "y must be numeric, got dtype <U1"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_targets(engine: str, loss: str, y: Any, message: str) -> None:
    net = hand_made(engine, loss)
    for call in (net.loss, net.gradients, net.fit):
        assert message_of(lambda call=call: call(X, y)) == message
    assert message_of(lambda: net.fit(X, np.eye(2), validation_data=(X, y))) == message.replace(
        "y must", "validation y must"
    )


def test_what_only_classifiers_can_do(engine: str) -> None:
    net = hand_made(engine)
    for name, call in (("predict_proba", lambda: net.predict_proba(X)), ("accuracy", lambda: net.accuracy(X, X))):
        assert message_of(call) == f"{name} needs a cross-entropy loss, this network has loss 'squared_error'"


@pytest.mark.parametrize(
    ("weights", "biases", "message"),
    [
        ([np.zeros((2, 2))], None, "weights must be 2 arrays, one a layer, got 1"),
        (None, None, "weights must be 2 arrays, one a layer, got None"),
        ([np.zeros((2, 2))] * 2, 7, "biases must be 2 arrays, one a layer, got 7"),
        ([np.zeros((2, 2)), [[1.0, 2.0], [3.0]]], None, "weights[1] must have rows of one length, got a ragged list"),
        ([np.zeros((2, 2)), np.zeros((2, 3))], None, "weights[1] must be (2, 2), got (2, 3)"),
        ([np.zeros((2, 2)), [[1.0, np.nan], [0, 0]]], None, "weights[1] must be finite, got nan at [0, 1]"),
        ([np.zeros((2, 2))] * 2, [np.zeros(2)], "biases must be 2 arrays, one a layer, got 1"),
        ([np.zeros((2, 2))] * 2, [np.zeros(2), np.zeros(3)], "biases[1] must be (2,), got (3,)"),
        ([np.zeros((2, 2))] * 2, [np.zeros(2), [0.0, np.inf]], "biases[1] must be finite, got inf at [1]"),
        ([[["a", "b"], ["c", "d"]], np.zeros((2, 2))], None, "weights[0] must be numeric, got dtype <U1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_parameters_change_nothing(engine: str, weights: Any, biases: Any, message: str) -> None:
    net = hand_made(engine)
    assert message_of(lambda: net.set_parameters(weights, biases)) == message
    assert_allclose(net.forward(X), Z, rtol=1e-15)


def test_arrays_assigned_to_weights_are_copied_into_the_network(engine: str) -> None:
    net = hand_made(engine)
    other = MLP([2, 2, 2], activation=net.spec.activations, loss="squared_error", dtype="float64", engine=engine)
    assert (net.weights[0] != other.weights[0]).any()
    for i in range(2):
        other.weights[i] = net.weights[i] + 0
        other.biases[i] = list(net.biases[i])
    assert_array_equal(other.forward(X), net.forward(X))
    other.weights[0] += 1  # In place, and then assigned to itself.
    assert_array_equal(other.weights[0], net.weights[0] + 1)
    other.weights[:] = net.weights
    assert_array_equal(other.forward(X), net.forward(X))
    weights = other.weights
    assert message_of(lambda: weights.__setitem__(1, np.zeros((3, 2)))) == "weights[1] must be (2, 2), got (3, 2)"
    assert message_of(lambda: weights.__setitem__(0, [[1, np.nan], [0, 0]])) == (
        "weights[0] must be finite, got nan at [0, 1]"
    )
    assert_array_equal(other.forward(X), net.forward(X))
    assert message_of(lambda: weights.__setitem__(slice(None), [np.ones((2, 2)), [[1, np.nan], [0, 0]]])) == (
        "weights[1] must be finite, got nan at [0, 1]"
    )
    assert_array_equal(other.forward(X), net.forward(X))  # All or none.
    before = [W.copy() for W in weights]
    weights[:] = weights[::-1]
    assert_array_equal(weights[0], before[1])
    assert_array_equal(weights[1], before[0])
    weights[1:][0] = np.eye(2)
    assert_array_equal(other.weights[1], np.eye(2))
    assert isinstance(weights, list)
    assert_array_equal(pickle.loads(pickle.dumps(weights))[1], weights[1])


def test_soft_labels_count_as_right_where_they_are_nearer(engine: str) -> None:
    net = MLP([1, 1], loss="sigmoid_cross_entropy", engine=engine)
    net.set_parameters([[[1.0]]])
    assert net.accuracy([[1.0], [1.0], [-1.0]], [0.7, 0.3, 0.1]) == pytest.approx(2 / 3)


def test_what_a_callback_writes_to_the_labels_does_not_reach_the_kernels(engine: str) -> None:
    """Not to the memory beyond a row's outputs, either: with 10**9 the process would end."""
    X, y = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 2
    nets = [MLP([2, 3, 2], engine=engine) for _ in range(2)]
    nets[0].fit(X, y.copy(), epochs=3, batch_size=10)
    nets[1].fit(X, y, epochs=3, batch_size=10, callbacks=[lambda history: y.fill(10**9)])
    assert_array_equal(nets[0].weights[0], nets[1].weights[0])


def test_biases_for_a_network_without(engine: str) -> None:
    net = MLP([2, 2], bias=False, engine=engine)
    net.set_parameters([np.eye(2)], [])
    assert message_of(lambda: net.set_parameters([np.eye(2)], [[0, 0]])) == (
        "biases must be 0 arrays, one a layer, got 1"
    )


def test_public_classes_are_the_rooms_own() -> None:
    assert fastmlp.MLP is MLP
    assert type(hand_made("numpy").gradients(X, X)) is fastmlp.Gradients
