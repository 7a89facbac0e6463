"""`MLP` and bad input: one clear error, and nothing lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import LOSSES
from hand_made import X, Z, hand_made
from numpy.testing import assert_allclose, assert_array_equal

import fastmlp
from fastmlp import MLP, SGD, spec

Array = np.ndarray


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
        ({"layer_sizes": [3, True]}, "layer_sizes must be a sequence of whole numbers, got [3, True]"),
        ({"input_scale": True}, "input_scale must be a number, got True"),
        ({"layer_sizes": "3,2"}, "layer_sizes must be a sequence of whole numbers, got '3,2'"),
        ({"layer_sizes": 784}, "layer_sizes must be a sequence of whole numbers, got 784"),
        ({"activation": "rleu"}, f"activation must be one of {KNOWN}, got 'rleu' (did you mean 'relu'?)"),
        ({"activation": "step7"}, f"activation must be one of {KNOWN}, got 'step7'"),
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
        (
            {"loss": "BCE"},
            f"loss must be one of {', '.join(LOSSES)}, got 'BCE' (did you mean 'sigmoid_cross_entropy'?)",
        ),
        ({"loss": "MSE"}, f"loss must be one of {', '.join(LOSSES)}, got 'MSE' (did you mean 'squared_error'?)"),
        ({"activation": "linear"}, f"activation must be one of {KNOWN}, got 'linear' (did you mean 'identity'?)"),
        ({"activation": "mse"}, f"activation must be one of {KNOWN}, got 'mse'"),
        ({"reduction": "mena"}, "reduction must be one of mean, sum, got 'mena' (did you mean 'mean'?)"),
        (
            {"init": "he"},
            "init must be one of he_normal, he_uniform, glorot_normal, glorot_uniform, got 'he'",
        ),
        ({"input_scale": 0}, "input_scale must be > 0, got 0"),
        ({"input_scale": 1e300}, "input_scale must be > 0 and finite in float32, got 1e+300"),
        ({"input_scale": 1e-300}, "input_scale must be > 0 and finite in float32, got 1e-300"),
        ({"loss": "huber", "loss_parameter": 1e-50}, "loss_parameter must be > 0 in float32, got 1e-50"),
        ({"dtype": None}, "dtype must be one of float32, float64, got 'None'"),
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


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((2, 3), "; one sample is X.reshape(1, -1), of shape (1, 6)"),
        ((4, 2, 3), "; X.reshape(len(X), -1) makes it so"),
        ((6, 1), ""),
        ((0, 2, 3), ""),
    ],
)
def test_images_and_their_samples(shape: tuple[int, ...], hint: str) -> None:
    net = MLP([6, 2], engine="numpy")
    assert message_of(lambda: net.predict(np.zeros(shape))) == f"X must be (n_samples, 6), got {shape}{hint}"


def test_a_truth_value_is_no_number() -> None:
    net = MLP([6, 2], engine="numpy")
    assert message_of(lambda: net.fit(np.zeros((2, 6)), [0, 1], epochs=True)) == (
        "epochs must be a whole number, got True"
    )


def test_a_column_of_one_feature() -> None:
    net = MLP([1, 2], engine="numpy")
    assert message_of(lambda: net.predict(np.zeros(5))) == (
        "X must be (n_samples, 1), got (5,); X.reshape(-1, 1) makes it so"
    )


def with_value(value: float) -> Array:
    bad = X.copy()
    bad[1, 0] = value
    return bad


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 3)), "X must be (n_samples, 2), got (2, 3); X.T makes it so"),
        (np.zeros((2, 2, 1)), "X must be (n_samples, 2), got (2, 2, 1); X.reshape(len(X), -1) makes it so"),
        (np.zeros((2, 2, 2)), "X must be (n_samples, 2), got (2, 2, 2)"),
        (np.zeros((0, 1, 2)), "X must be (n_samples, 2), got (0, 1, 2)"),
        (np.zeros(3), "X must be (n_samples, 2), got (3,)"),
        (np.zeros(2), "X must be (n_samples, 2), got (2,); one sample is X.reshape(1, -1), of shape (1, 2)"),
        (7.0, "X must be (n_samples, 2), got ()"),
        (np.zeros((2, 1)), "X must be (n_samples, 2), got (2, 1)"),
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
        (np.array([[None, 1.0]]), "X must be numeric, got dtype object; np.asarray(values, float) converts numbers"),
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
            "y must hold whole-number classes, got float64; values need another loss, such as squared_error",
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
        ("sigmoid_cross_entropy", [0, 1], "y must be (2, 2), got (2,); np.eye(2)[y] makes classes one-hot"),
        ("squared_error", [0.5, 1.0], "y must be (2, 2), got (2,)"),
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


def test_bad_arrays_assigned_to_weights_change_nothing(engine: str) -> None:
    net = hand_made(engine)
    weights = net.weights
    assert message_of(lambda: weights.__setitem__(1, np.zeros((3, 2)))) == "weights[1] must be (2, 2), got (3, 2)"
    assert message_of(lambda: weights.__setitem__(0, [[1, np.nan], [0, 0]])) == (
        "weights[0] must be finite, got nan at [0, 1]"
    )
    assert message_of(lambda: weights.__setitem__(slice(None), [np.ones((2, 2)), [[1, np.nan], [0, 0]]])) == (
        "weights[1] must be finite, got nan at [0, 1]"
    )  # All or none.
    assert_allclose(net.forward(X), Z, rtol=1e-15)


def test_biases_for_a_network_without(engine: str) -> None:
    net = MLP([2, 2], bias=False, engine=engine)
    net.set_parameters([np.eye(2)], [])
    assert message_of(lambda: net.set_parameters([np.eye(2)], [[0, 0]])) == (
        "biases must be 0 arrays, one a layer, got 1"
    )


def test_names_of_other_libraries_lead_to_ours() -> None:
    assert {*spec.NAMES_ELSEWHERE.values()} <= {*spec.ACTIVATIONS, *spec.LOSSES, *spec.INITIALISERS}
    assert all(name == name.lower() for name in spec.NAMES_ELSEWHERE)
