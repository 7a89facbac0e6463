"""The public kernels: Numba's against NumPy's, and both against numbers and identities from elsewhere."""

from __future__ import annotations

import importlib
import inspect
import math
from decimal import Decimal, localcontext
from types import ModuleType
from typing import Any

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

Array = np.ndarray


def assert_close(actual: Any, expected: Any, dtype: str) -> None:
    """Compare what two engines computed.

    They add in different orders and their exp differs in the last place. The rounding of a sum of n terms comes to n/2
    units of the last place of its terms at most, and there are up to 150 terms here: hence 100 units of the largest
    number. That still holds five digits of float32 and thirteen of float64.
    """
    tolerance = 100 * float(np.finfo(dtype).eps)
    if expected is None:
        assert actual is None
    elif isinstance(expected, tuple):
        assert isinstance(actual, tuple)
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e, dtype)
    elif isinstance(expected, np.ndarray):
        assert isinstance(actual, np.ndarray)
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        scale = float(np.abs(expected).max(initial=0.0))
        assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)
    else:
        assert actual == pytest.approx(expected, rel=tolerance)


def call(kernels: ModuleType, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Call a kernel; give its result and the arguments that it changed."""
    result = getattr(kernels, name)(*args)
    return (result, *(args[i] for i in cases.CHANGES.get(name, ())))


# --- One engine against the other -------------------------------------------------------------------------------------


def test_the_table_names_every_kernel() -> None:
    public = {
        name
        for name, value in vars(cases.kernels_of("numpy")).items()
        if inspect.isfunction(value) and value.__module__.startswith("fastmlp.reference.")
    }
    assert public == set(cases.KERNELS)


@pytest.mark.parametrize("name", cases.KERNELS)
def test_both_engines_have_one_signature(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(cases.kernels_of(engine), name)) for engine in cases.ENGINES)
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]
    assert ours.return_annotation == theirs.return_annotation


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("name", cases.KERNELS)
def test_numba_agrees_with_numpy(name: str, dtype: str) -> None:
    numba, numpy = (cases.kernels_of(engine) for engine in cases.ENGINES)
    for sizes in cases.SIZES.values():
        expected = call(numpy, name, cases.arguments(name, sizes, dtype))
        assert_close(call(numba, name, cases.arguments(name, sizes, dtype)), expected, dtype)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("name", cases.KERNELS)
def test_any_layout_gives_the_same(kernels: ModuleType, name: str, layout: str) -> None:
    for dtype in cases.DTYPES:
        plain = cases.arguments(name, (9, 7, 5), dtype)
        laid_out = cases.lay_out(name, plain, cases.LAYOUTS[layout])
        before = [a.copy() if isinstance(a, np.ndarray) else a for a in laid_out]
        result = call(kernels, name, laid_out)
        assert_close(result, call(cases.kernels_of("numpy"), name, plain), dtype)
        for i, (a, kept) in enumerate(zip(laid_out, before, strict=True)):
            if i not in cases.CHANGES.get(name, ()):
                assert_array_equal(a, kept, err_msg=f"{name} changed its argument {i}")


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("x_dtype", ["uint8", "float32", "float64"])
def test_affine_takes_pixels_and_the_other_float(kernels: ModuleType, x_dtype: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    X = rng.integers(256, size=(17, 31)).astype(x_dtype)  # Whole numbers: the conversion itself is exact.
    W, b, dY = (rng.normal(size=shape).astype(dtype) for shape in [(31, 13), (13,), (17, 13)])
    exact = X.astype("float64")
    Y = kernels.affine_forward(X, W, b)
    assert Y.dtype == dtype
    assert_close(Y, (exact @ W + b).astype(dtype), dtype)
    dX, dW, db = kernels.affine_backward(X, W, dY)
    assert {dX.dtype, dW.dtype, db.dtype} == {np.dtype(dtype)}
    assert_close(dX, (dY.astype("float64") @ W.T).astype(dtype), dtype)
    assert_close(dW, (exact.T @ dY).astype(dtype), dtype)
    assert_close(db, dY.sum(axis=0, dtype="float64").astype(dtype), dtype)


def test_affine_without_bias(kernels: ModuleType) -> None:
    X, W = np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])
    assert kernels.affine_forward(X, W).tolist() == [[11.0]]
    assert kernels.affine_forward(X, W, None).tolist() == [[11.0]]


@pytest.mark.parametrize(("n_in", "n_out"), [(0, 3), (2, 0), (0, 0)])
def test_affine_without_inputs_or_outputs(kernels: ModuleType, n_in: int, n_out: int) -> None:
    X, W, b, dY = np.ones((4, n_in)), np.ones((n_in, n_out)), np.full(n_out, 5.0), np.ones((4, n_out))
    assert_array_equal(kernels.affine_forward(X, W, b), np.full((4, n_out), 5.0))
    for result, expected in zip(kernels.affine_backward(X, W, dY), (X * n_out, W, np.full(n_out, 4.0)), strict=True):
        assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("name", [*cases.ACTIVATIONS, "softmax", "affine_forward"])
def test_out_is_written_and_returned(kernels: ModuleType, name: str, dtype: str) -> None:
    args = cases.arguments(name, (5, 4, 3), dtype)
    expected = getattr(kernels, name)(*args)
    out = np.full((5, 3), 77.0, dtype=dtype)
    assert getattr(kernels, name)(*args, out=out) is out
    assert_array_equal(out, expected)
    if name != "affine_forward":  # In place.
        (Z,) = args
        assert getattr(kernels, name)(Z, out=Z) is Z
        assert_array_equal(Z, expected)


@pytest.mark.parametrize("name", cases.ACTIVATIONS)
def test_activations_take_any_number_of_axes(kernels: ModuleType, name: str) -> None:
    forward, backward = getattr(kernels, name), getattr(kernels, f"{name}_backward")
    Z = np.linspace(-2.0, 3.0, 24)
    for shape in [(24,), (2, 3, 4), (0, 3)]:
        block = Z[: math.prod(shape)].reshape(shape)
        assert_allclose(forward(block).ravel(), forward(Z)[: block.size], rtol=1e-14)
        assert_allclose(backward(block, block).ravel(), backward(Z, Z)[: block.size], rtol=1e-14)


def test_a_rate_of_zero_moves_the_slots_only(kernels: ModuleType) -> None:
    # Schedules end at a factor of zero.
    for name, slots, constants in [
        ("sgd_update", 1, (0.0, 0.5)),
        ("adam_update", 2, (1, 0.0)),
        ("rmsprop_update", 1, (0.0,)),
    ]:
        w, g, *buffers = (np.full(3, value) for value in (2.0, 1.0, *[0.0] * slots))
        getattr(kernels, name)(w, g, *buffers, *constants)
        assert w.tolist() == [2.0] * 3
        assert all(buffer.all() for buffer in buffers)


def test_backward_answers_in_the_dtype_of_dA(kernels: ModuleType) -> None:
    for name in cases.ACTIVATIONS:
        single, double = np.zeros(3, np.float32), np.zeros(3)
        for dA, kept in [(single, double), (double, single)]:
            assert getattr(kernels, f"{name}_backward")(dA, kept).dtype == dA.dtype


# --- Against numbers from elsewhere -----------------------------------------------------------------------------------


def test_affine_by_hand(kernels: ModuleType) -> None:
    # Two samples, three inputs, two outputs, worked on paper.
    X = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    W = np.array([[1.0, 0.0], [2.0, 1.0], [0.0, -1.0]])
    b = np.array([0.5, -0.5])
    dY = np.array([[1.0, 2.0], [-1.0, 3.0]])
    assert kernels.affine_forward(X, W, b).tolist() == [[5.5, -1.5], [14.5, -1.5]]
    dX, dW, db = kernels.affine_backward(X, W, dY)
    assert dX.tolist() == [[1.0, 4.0, -2.0], [-1.0, 1.0, -3.0]]
    assert dW.tolist() == [[-3.0, 14.0], [-3.0, 19.0], [-3.0, 24.0]]
    assert db.tolist() == [0.0, 5.0]


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_affine_against_three_loops(kernels: ModuleType, dtype: str) -> None:
    X, W, dY = cases.arguments("affine_backward", (4, 6, 5), dtype)
    b = np.arange(5, dtype=dtype)
    Y = np.zeros((4, 5))
    dX, dW = np.zeros((4, 6)), np.zeros((6, 5))
    for i in range(4):
        for j in range(5):
            Y[i, j] = b[j]
            for k in range(6):
                Y[i, j] += float(X[i, k]) * float(W[k, j])
                dX[i, k] += float(dY[i, j]) * float(W[k, j])
                dW[k, j] += float(X[i, k]) * float(dY[i, j])
    assert_close(kernels.affine_forward(X, W, b), Y.astype(dtype), dtype)
    db = np.array([math.fsum(dY[:, j].tolist()) for j in range(5)])
    assert_close(kernels.affine_backward(X, W, dY), tuple(a.astype(dtype) for a in (dX, dW, db)), dtype)


TEXTBOOK = {
    # The activation and its derivative at one number, by the math module, from the functions' definitions.
    "identity": (lambda z: z, lambda z: 1.0),
    "relu": (lambda z: z if z > 0 else 0.0, lambda z: 1.0 if z > 0 else 0.0),
    "leaky_relu": (lambda z: z if z > 0 else 0.01 * z, lambda z: 1.0 if z > 0 else 0.01),
    "elu": (lambda z: z if z > 0 else math.expm1(z), lambda z: 1.0 if z > 0 else math.exp(z)),
    "sigmoid": (lambda z: 1 / (1 + math.exp(-z)), lambda z: 0.25 / math.cosh(z / 2) ** 2),
    "tanh": (math.tanh, lambda z: 1 / math.cosh(z) ** 2),
    "gelu": (
        lambda z: 0.5 * z * math.erfc(-z / math.sqrt(2)),
        lambda z: 0.5 * math.erfc(-z / math.sqrt(2)) + z * math.exp(-z * z / 2) / math.sqrt(2 * math.pi),
    ),
    "silu": (
        lambda z: z / (1 + math.exp(-z)),
        lambda z: (1 + math.exp(-z) + z * math.exp(-z)) / (1 + math.exp(-z)) ** 2,
    ),
    "softplus": (lambda z: math.log1p(math.exp(z)), lambda z: 1 / (1 + math.exp(-z))),
}


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("name", cases.ACTIVATIONS)
def test_activations_by_the_math_module(kernels: ModuleType, name: str, dtype: str) -> None:
    Z = np.concatenate([np.linspace(-9, 9, 181), [-1e-3, 1e-3, -1e-6, 1e-6, 0.5, -0.75]]).astype(dtype)
    value, slope = TEXTBOOK[name]
    A = getattr(kernels, name)(Z)
    dA = np.linspace(-2, 2, len(Z)).astype(dtype)
    dZ = getattr(kernels, f"{name}_backward")(dA, Z if name in cases.BACKWARD_TAKES_INPUT else A)
    assert A.dtype == dZ.dtype == dtype
    eps = np.finfo(dtype).eps
    # Element by element. The absolute part is for gelu and silu, which subtract near zeros of their derivatives, and
    # for derivatives that the output determines only to its own precision (1 - tanh(z)^2 where tanh(z) rounds to 1).
    assert_allclose(A, [value(z) for z in Z.tolist()], rtol=16 * eps, atol=4 * eps * 1e-3)
    expected = [d * slope(z) for d, z in zip(dA.tolist(), Z.tolist(), strict=True)]
    assert_allclose(dZ, expected, rtol=16 * eps, atol=4 * eps)


def test_published_values(kernels: ModuleType) -> None:
    one = np.array([1.0])
    assert kernels.gelu(one)[0] == pytest.approx(0.8413447460685429, rel=1e-14)  # The normal distribution's table.
    assert kernels.gelu(-one)[0] == pytest.approx(-0.15865525393145707, rel=1e-13)
    assert kernels.gelu(-30 * one)[0] == pytest.approx(-30 * 4.906713927148187e-198, rel=1e-12)
    assert kernels.sigmoid(one)[0] == pytest.approx(0.7310585786300049, rel=1e-14)
    assert kernels.tanh(one)[0] == pytest.approx(0.7615941559557649, rel=1e-14)
    assert kernels.elu(-one)[0] == pytest.approx(1 / math.e - 1, rel=1e-14)
    assert kernels.softplus(0 * one)[0] == pytest.approx(math.log(2), rel=1e-14)
    assert kernels.softplus_backward(one, kernels.softplus(0 * one))[0] == pytest.approx(0.5, rel=1e-14)


def test_identities(kernels: ModuleType) -> None:
    Z = np.linspace(-20, 20, 401)
    tight = {"rtol": 1e-13, "atol": 1e-15}
    assert_allclose(kernels.sigmoid(Z) + kernels.sigmoid(-Z), 1, **tight)
    assert_allclose(kernels.tanh(Z), 2 * kernels.sigmoid(2 * Z) - 1, rtol=1e-13, atol=1e-15)
    assert_allclose(kernels.silu(Z), Z * kernels.sigmoid(Z), **tight)
    assert_allclose(kernels.softplus(Z) - kernels.softplus(-Z), Z, rtol=1e-13, atol=1e-14)
    assert_allclose(kernels.gelu(Z) - kernels.gelu(-Z), Z, rtol=1e-13, atol=1e-14)  # Φ(z) + Φ(-z) = 1
    assert_allclose(kernels.relu(Z) - kernels.relu(-Z), Z, rtol=0, atol=0)
    P = kernels.softmax(Z.reshape(-1, 1) * [1.0, 0.0])  # Two classes: the sigmoid of the difference.
    assert_allclose(P[:, 0], kernels.sigmoid(Z), **tight)
    shifted = kernels.softmax(np.array([[1.0, 2.0, 3.0]]) + 700.0)
    assert_allclose(shifted, kernels.softmax(np.array([[1.0, 2.0, 3.0]])), rtol=1e-12)


def test_derivative_at_the_kink_is_the_left_one(kernels: ModuleType) -> None:
    zero, dA = np.zeros(2), np.array([1.0, -3.0])
    assert kernels.relu_backward(dA, zero).tolist() == [0.0, 0.0]
    assert kernels.leaky_relu_backward(dA, zero).tolist() == [0.01, -0.03]


def test_losses_by_hand(kernels: ModuleType) -> None:
    # softmax of (0, ln 3) is (1/4, 3/4); of (0, 0) it is (1/2, 1/2).
    Z = np.array([[0.0, math.log(3)], [0.0, 0.0]])
    loss, dZ = kernels.softmax_cross_entropy(Z, np.array([0, 1]))
    assert loss == pytest.approx((math.log(4) + math.log(2)) / 2, rel=1e-15)
    assert_allclose(dZ, np.array([[-3 / 4, 3 / 4], [1 / 2, -1 / 2]]) / 2, rtol=1e-14)
    loss, dZ = kernels.softmax_cross_entropy(Z, np.array([0, 1]), "sum")
    assert loss == pytest.approx(math.log(8), rel=1e-15)
    assert_allclose(dZ, [[-3 / 4, 3 / 4], [1 / 2, -1 / 2]], rtol=1e-14)

    # sigmoid of ln 3 is 3/4.
    loss, dZ = kernels.sigmoid_cross_entropy(Z, np.array([[1.0, 0.0], [0.25, 1.0]]))
    assert loss == pytest.approx((math.log(2) + math.log(4) + math.log(2) + math.log(2)) / 2, rel=1e-15)
    assert_allclose(dZ, np.array([[-1 / 2, 3 / 4], [1 / 4, -1 / 2]]) / 2, rtol=1e-14)

    A, y = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 4.0], [3.0, 1.0]])
    loss, dA = kernels.squared_error(A, y)
    assert loss == (1 + 4 + 0 + 9) / 2 / 2
    assert dA.tolist() == [[0.5, -1.0], [0.0, 1.5]]
    loss, dA = kernels.squared_error(A, y, reduction="sum")
    assert loss == 7.0
    assert dA.tolist() == [[1.0, -2.0], [0.0, 3.0]]

    # A - y is 1, -2, 0, 3.
    loss, dA = kernels.absolute_error(A, y)
    assert loss == (1 + 2 + 0 + 3) / 2
    assert dA.tolist() == [[0.5, -0.5], [0.0, 0.5]]
    loss, dA = kernels.huber(A, y, 2.0, reduction="sum")
    assert loss == 1 / 2 + 2**2 / 2 + 0 + 2 * (3 - 1)
    assert dA.tolist() == [[1.0, -2.0], [0.0, 2.0]]
    assert kernels.huber(A, y, reduction="sum")[0] == 1 / 2 + (2 - 1 / 2) + 0 + (3 - 1 / 2)
    loss, dA = kernels.quantile(A, y, 0.75, reduction="sum")
    assert loss == 1 / 4 * 1 + 3 / 4 * 2 + 0 + 1 / 4 * 3
    assert dA.tolist() == [[0.25, -0.75], [0.0, 0.25]]
    assert kernels.quantile(A, y)[0] == kernels.absolute_error(A, y)[0] / 2

    # Means 1 and 2 against counts 3 and 0, then against themselves.
    Z = np.array([[0.0, math.log(2)], [0.0, math.log(2)]])
    loss, dZ = kernels.poisson(Z, np.array([[3.0, 0.0], [1.0, 2.0]]), "sum")
    assert loss == pytest.approx(3 * math.log(3) - 3 + 1 + 2, rel=1e-15)
    assert_allclose(dZ, [[-2.0, 2.0], [0.0, 0.0]], rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropies_against_plain_loops(kernels: ModuleType, reduction: str, dtype: str) -> None:
    Z, y = cases.arguments("softmax_cross_entropy", (11, 1, 7), dtype)
    scale = 1 / 11 if reduction == "mean" else 1.0
    terms, expected = [], np.zeros((11, 7))
    for i in range(11):
        e = [math.exp(z) for z in Z[i].tolist()]
        terms.append(-math.log(e[y[i]] / math.fsum(e)))
        for j in range(7):
            expected[i, j] = scale * (e[j] / math.fsum(e) - (j == y[i]))
    loss, dZ = kernels.softmax_cross_entropy(Z, y, reduction)
    assert_close((loss, dZ), (scale * math.fsum(terms), expected.astype(dtype)), dtype)
    assert isinstance(loss, float)

    Z, Y = cases.arguments("sigmoid_cross_entropy", (11, 1, 7), dtype)
    terms = []
    for i in range(11):
        for j in range(7):
            p = 1 / (1 + math.exp(-float(Z[i, j])))
            terms.append(-math.log(p if Y[i, j] else 1 - p))
            expected[i, j] = scale * (p - Y[i, j])
    loss, dZ = kernels.sigmoid_cross_entropy(Z, Y, reduction)
    assert_close((loss, dZ), (scale * math.fsum(terms), expected.astype(dtype)), dtype)
    assert isinstance(loss, float)


def test_targets_may_be_indices_or_one_hot_or_one_column(kernels: ModuleType) -> None:
    Z = np.array([[0.3, -1.0, 2.0], [1.0, 0.0, -2.0]])
    expected = kernels.softmax_cross_entropy(Z, np.array([2, 0]))
    for y in [
        np.array([2, 0], dtype=np.uint8),
        np.array([[0, 0, 1], [1, 0, 0]]),
        np.array([[0, 0, 1], [1, 0, 0]], dtype=np.float32),
    ]:
        loss, dZ = kernels.softmax_cross_entropy(Z, y)
        assert loss == expected[0]
        assert_array_equal(dZ, expected[1])
    column = Z[:, :1].copy()
    for name in cases.LOSSES[1:]:
        flat, tall = (getattr(kernels, name)(column, y) for y in (np.array([1, 0]), np.array([[1.0], [0.0]])))
        assert flat[0] == tall[0]
        assert_array_equal(flat[1], tall[1])


# --- Far out ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_huge_logits_stay_finite(kernels: ModuleType, dtype: str) -> None:
    Z = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4]], dtype=dtype)
    assert_allclose(kernels.softmax(Z), [[1, 0, 0], [1 / 3] * 3, [1 / 3] * 3], rtol=1e-6)
    loss, dZ = kernels.softmax_cross_entropy(Z, np.array([1, 0, 2]), "sum")
    assert loss == pytest.approx(2e4 + 2 * math.log(3), rel=1e-6)
    assert_allclose(dZ, [[1, -1, 0], [-2 / 3, 1 / 3, 1 / 3], [1 / 3, 1 / 3, -2 / 3]], rtol=1e-6)
    loss, dZ = kernels.sigmoid_cross_entropy(Z[:1], np.array([[0.0, 1.0, 0.5]]), "sum")
    assert loss == pytest.approx(2e4 + math.log(2), rel=1e-6)
    assert_allclose(dZ, [[1, -1, 0]], atol=1e-7)


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_the_mean_of_counts_over_the_range_of_exp(kernels: ModuleType, dtype: str) -> None:
    top = 88.0 if dtype == "float32" else 709.0
    Z = np.array([[-1e4, -5.0, -0.1, 0.0, 0.1, 5.0, 20.0, top]], dtype=dtype)
    dZ = kernels.poisson(Z, np.zeros_like(Z), "sum")[1]
    expected = [math.exp(z) for z in Z[0].tolist()]
    assert_allclose(dZ[0], expected, rtol=4 * np.finfo(dtype).eps, atol=1e-37)
    with np.errstate(over="ignore"):
        assert kernels.poisson(np.full((1, 1), 1e4, dtype=dtype), np.zeros((1, 1)))[1][0, 0] == np.inf


def test_poisson_loss_far_from_the_count(kernels: ModuleType) -> None:
    assert kernels.poisson(np.array([[700.0]]), np.array([[1e-10]]))[0] == pytest.approx(math.exp(700.0), rel=1e-12)
    assert math.isnan(kernels.poisson(np.array([[0.0]]), np.array([[np.nan]]))[0])


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("mean", [0.1, 10.0, 1e3, 1e6])
def test_poisson_loss_does_not_cancel_where_the_mean_is_nearly_the_count(
    kernels: ModuleType, mean: float, dtype: str
) -> None:
    y = np.full((1, 1), mean, dtype=dtype)
    for distance in (0.0, 1e-5, -1e-3, 0.1):
        Z = np.full((1, 1), math.log(mean) + distance, dtype=dtype)
        with localcontext() as context:
            context.prec = 50
            z, count = Decimal(float(Z[0, 0])), Decimal(float(y[0, 0]))
            expected = float(count * (count.ln() - z) - count + z.exp())
        # About y t² / 2, whose t = log y - z has the error of log y.
        assert kernels.poisson(Z, y)[0] == pytest.approx(expected, rel=1e-9, abs=mean * 1e-14 * (abs(distance) + 1e-7))


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("name", cases.ACTIVATIONS)
def test_activations_reach_their_limits(kernels: ModuleType, name: str, dtype: str) -> None:
    Z = np.array([-1e4, -800.0, -104.0, -90.0, 90.0, 104.0, 800.0, 1e4], dtype=dtype)
    limit_left, limit_right, slope_left, slope_right = {
        "identity": (Z[:4], Z[4:], 1, 1),
        "relu": (0, Z[4:], 0, 1),
        "leaky_relu": (0.01 * Z[:4], Z[4:], 0.01, 1),
        "elu": (-1, Z[4:], 0, 1),
        "sigmoid": (0, 1, 0, 0),
        "tanh": (-1, 1, 0, 0),
        "gelu": (0, Z[4:], 0, 1),
        "silu": (0, Z[4:], 0, 1),
        "softplus": (0, Z[4:], 0, 1),
    }[name]
    A = getattr(kernels, name)(Z)
    dZ = getattr(kernels, f"{name}_backward")(np.ones_like(Z), Z if name in cases.BACKWARD_TAKES_INPUT else A)
    close = {"rtol": 1e-6, "atol": 1e-35}
    assert_allclose(A[:4], np.broadcast_to(limit_left, 4), **close)
    assert_allclose(A[4:], np.broadcast_to(limit_right, 4), **close)
    assert_allclose(dZ[:4], np.full(4, slope_left), **close)
    assert_allclose(dZ[4:], np.full(4, slope_right), **close)


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("name", [*cases.ACTIVATIONS, "softmax"])
def test_nan_is_not_hidden(kernels: ModuleType, name: str, dtype: str) -> None:
    Z = np.array([[np.nan, 1.0, -1.0]], dtype=dtype)
    assert np.isnan(getattr(kernels, name)(Z)[0, 0])


@pytest.mark.parametrize("part", ["turned", "reversed", "shifted"])
def test_softmax_into_memory_of_its_input(kernels: ModuleType, part: str) -> None:
    Z = np.random.default_rng(0).normal(size=(321, 321))
    given, out = {"turned": (Z.T, Z), "reversed": (Z[::-1], Z), "shifted": (Z[:-1], Z[1:])}[part]
    expected = cases.kernels_of("numpy").softmax(given.copy())
    assert_allclose(kernels.softmax(given, out=out), expected, rtol=1e-13)


@pytest.mark.parametrize("name", [name for name in cases.LOSSES if name != "softmax_cross_entropy"])
def test_nan_is_not_hidden_by_a_loss(kernels: ModuleType, name: str) -> None:
    loss, dZ = getattr(kernels, name)(np.array([[0.5, np.nan]]), np.array([[1.0, 1.0]]))
    assert np.isnan(loss)
    assert np.isnan(dZ).tolist() == [[False, True]]


# --- Whole networks, one engine against the other ---------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    n_samples=st.integers(1, 40),
    names=st.lists(st.sampled_from(cases.ACTIVATIONS), min_size=3, max_size=3),
    output=st.sampled_from(cases.ACTIVATIONS),
    loss=st.sampled_from(cases.LOSSES),
    reduction=st.sampled_from(["mean", "sum"]),
    bias=st.booleans(),
    pixels=st.booleans(),
    dtype=st.sampled_from(cases.DTYPES),
    seed=st.integers(0, 1000),
)
def test_networks_agree(
    sizes: list[int],
    n_samples: int,
    names: list[str],
    output: str,
    loss: str,
    reduction: str,
    bias: bool,
    pixels: bool,
    dtype: str,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    n_out = sizes[-1]
    if pixels:
        X = rng.integers(256, size=(n_samples, sizes[0]), dtype=np.uint8)
    else:
        X = rng.normal(size=(n_samples, sizes[0])).astype(dtype)
    y = cases.targets(loss, n_samples, n_out, rng)
    MLP = importlib.import_module("fastmlp").MLP
    numba, numpy = (
        MLP(
            sizes,
            activation=names[: len(sizes) - 2],
            output_activation=None if loss in cases.OUTPUT_IS_PART_OF_LOSS else output,
            loss=loss,
            reduction=reduction,
            bias=bias,
            input_scale=1 / 255 if pixels else 1.0,
            dtype=dtype,
            seed=seed,
            engine=engine,
        )
        for engine in cases.ENGINES
    )
    # Errors pass through four layers, and the kinks of relu and leaky_relu let a rounded zero fall to either side;
    # drawn weights do not come that close to one.
    tolerance = {"float32": 1e-4, "float64": 1e-11}[dtype]
    for actual, expected in [
        ([numba.forward(X)], [numpy.forward(X)]),
        (numba.gradients(X, y).weights, numpy.gradients(X, y).weights),
        (numba.gradients(X, y).biases, numpy.gradients(X, y).biases),
    ]:
        for a, e in zip(actual, expected, strict=True):
            assert_allclose(a, e, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(e).max())))
    assert numba.loss(X, y) == pytest.approx(numpy.loss(X, y), rel=tolerance, abs=tolerance)
