"""`MLP`, the public contract: what it computes, and what it takes."""

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
from cases import unaligned
from hand_made import X, Z, hand_made
from numpy.testing import assert_allclose, assert_array_equal

from fastmlp import MLP, SGD

Array = np.ndarray

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


def test_soft_labels_count_as_right_where_they_are_nearer(engine: str) -> None:
    net = MLP([1, 1], loss="sigmoid_cross_entropy", engine=engine)
    net.set_parameters([[[1.0]]])
    assert net.accuracy([[1.0], [1.0], [-1.0]], [0.7, 0.3, 0.1]) == pytest.approx(2 / 3)


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
    assert [fit[name].default for name in ("epochs", "batch_size", "optimizer", "schedule", "shuffle", "threads")] == [
        10, 100, SGD(learning_rate=0.1, momentum=0.9, nesterov=False, weight_decay=0.0), "constant", True, None,
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
        "MLP([784, 100, 64, 32, 10], activation='relu', loss='softmax_cross_entropy', dtype='float32', "
        f"engine={engine!r})"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"activation": ["tanh", "gelu"], "loss": "squared_error", "output_activation": "sigmoid", "reduction": "sum"},
        {"activation": "elu", "loss": "huber", "loss_parameter": 0.5, "bias": False, "dtype": "float64"},
        {"activation": "relu", "loss": "quantile", "input_scale": 0.5},
    ],
)
def test_what_is_shown_makes_such_a_network(engine: str, arguments: dict[str, Any]) -> None:
    net = MLP([3, 4, 5, 2], **arguments, engine=engine)
    assert eval(repr(net)).spec == net.spec
    assert repr(MLP([3, 2])).startswith("MLP([3, 2], activation=[], ")


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
    samples = np.full((20_000, 100), 255, dtype=dtype)
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


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_as_quick(monkeypatch: pytest.MonkeyPatch, copied: Callable[[MLP], MLP]) -> None:
    net = MLP([3, 5, 2], seed=1)
    twin = copied(net)
    assert twin._parameters.ctypes.data % 64 == 0  # A cache line.
    monkeypatch.setattr(MLP, "_check_inputs", None)  # A plain array of the dtype is not looked at twice.
    x = np.ones((1, 3), np.float32)
    assert twin.predict(x) == net.predict(x)


class Slotted(MLP):
    __slots__ = ("label",)


def test_a_copy_of_a_subclass_with_slots_is_whole() -> None:
    net = Slotted([3, 5, 2])
    net.label = "a"
    for twin in (copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin.label == "a"
        assert_array_equal(twin.forward(np.ones((1, 3))), net.forward(np.ones((1, 3))))


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
    before = [W.copy() for W in weights]
    weights[:] = weights[::-1]
    assert_array_equal(weights[0], before[1])
    assert_array_equal(weights[1], before[0])
    weights[1:][0] = np.eye(2)
    assert_array_equal(other.weights[1], np.eye(2))
    assert isinstance(weights, list)
    assert_array_equal(pickle.loads(pickle.dumps(weights))[1], weights[1])


def test_what_a_callback_writes_to_the_labels_does_not_reach_the_kernels(engine: str) -> None:
    """Not to the memory beyond a row's outputs, either: with 10**9 the process would end."""
    X, y = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 2
    nets = [MLP([2, 3, 2], engine=engine) for _ in range(2)]
    nets[0].fit(X, y.copy(), epochs=3, batch_size=10)
    nets[1].fit(X, y, epochs=3, batch_size=10, callbacks=[lambda history: y.fill(10**9)])
    assert_array_equal(nets[0].weights[0], nets[1].weights[0])


def test_pixels_that_are_scaled_twice(engine: str) -> None:
    """Nothing else would tell: all outputs are nearly those of a black picture."""
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    scaled = pixels.astype(np.float32) / 255

    def made() -> MLP:
        net = MLP([4, 3], input_scale=1 / 255, engine=engine)
        net.predict(pixels)
        return net

    for samples in (pixels.astype(np.float32), (pixels > 100).astype(np.float32), scaled * -1, [[0, 1, 0, 1]]):
        made().predict(samples)
    for call in (
        lambda net: net.predict(scaled),
        lambda net: net.forward(scaled),
        lambda net: net.accuracy(scaled, [0, 1, 2]),
        lambda net: net.fit(scaled, [0, 1, 2], epochs=1),
        lambda net: net.fit(pixels, [0, 1, 2], epochs=1, validation_data=(scaled, [0, 1, 2])),
    ):
        net = made()
        with pytest.warns(UserWarning, match=r"X is within 0 to 1, and .* its input_scale, 0\.003922: if") as warned:
            call(net)
        assert [each.filename for each in warned] == [__file__]
        call(net)  # It is said once.


def test_lists_of_arrays_may_be_assigned(engine: str) -> None:
    net, other = MLP([2, 3, 2], seed=1, engine=engine), MLP([2, 3, 2], seed=2, engine=engine)
    kept = net.weights[0]
    net.weights, net.biases = other.weights, [[1.0, 2.0, 3.0], [4.0, 5.0]]
    assert_array_equal(net.weights[1], other.weights[1])
    assert_array_equal(kept, other.weights[0])
    assert_array_equal(net.biases[1], [4.0, 5.0])
    with pytest.raises(ValueError, match="weights must be 2 arrays, one a layer, got 1"):
        net.weights = [np.zeros((2, 3))]
    with pytest.raises(ValueError, match=r"weights\[1\] must be \(3, 2\), got \(2, 3\); its transpose is"):
        net.weights = [np.zeros((2, 3)), np.zeros((2, 3))]
    assert_array_equal(net.weights[1], other.weights[1])
    net.biases[0][:] = np.nan
    net.weights = other.weights  # Whatever is in the biases.
    net.biases = other.biases
    assert_array_equal(net.biases[0], other.biases[0])
