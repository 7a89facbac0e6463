"""What wrong arguments get told by the public kernels, of both engines."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import cases
import numpy as np
import pytest

Array = np.ndarray


def zeros(*shape: int) -> Array:
    return np.zeros(shape)


WRONG_SHAPES = [
    ("affine_forward", (zeros(2, 3), zeros(4, 5), zeros(5))),
    ("affine_forward", (zeros(2, 3), zeros(3, 5), zeros(4))),
    ("affine_forward", (zeros(3), zeros(3, 5), zeros(5))),
    ("affine_backward", (zeros(2, 3), zeros(4, 5), zeros(2, 5))),
    ("affine_backward", (zeros(2, 3), zeros(3, 5), zeros(2, 4))),
    ("affine_backward", (zeros(2, 3), zeros(3, 5), zeros(1, 5))),
    *((f"{name}_backward", (zeros(2, 3), zeros(3, 2))) for name in cases.ACTIVATIONS),
    ("softmax_cross_entropy", (zeros(2, 3), np.zeros(3, dtype=int))),
    ("softmax_cross_entropy", (zeros(2, 3), np.zeros((2, 4), dtype=int))),
    ("sigmoid_cross_entropy", (zeros(2, 3), zeros(2, 4))),
    ("sigmoid_cross_entropy", (zeros(2, 3), zeros(6))),
    *(
        (name, (zeros(2, 3), zeros(*shape)))
        for name in ("squared_error", "poisson", "absolute_error", "huber", "quantile")
        for shape in [(3, 2), (2,), (1, 3)]
    ),
    ("sgd_update", (zeros(3), zeros(4), None, 0.1)),
    ("sgd_update", (zeros(3), zeros(3), zeros(4), 0.1, 0.9)),
    ("adam_update", (zeros(3), zeros(4), zeros(3), zeros(3), 1, 0.1)),
    ("adam_update", (zeros(3), zeros(3), zeros(4), zeros(3), 1, 0.1)),
    ("adam_update", (zeros(3), zeros(3), zeros(3), zeros(4), 1, 0.1)),
    ("rmsprop_update", (zeros(3), zeros(4), zeros(3), 0.1)),
    ("rmsprop_update", (zeros(3), zeros(3), zeros(4), 0.1)),
]


@pytest.mark.parametrize(("name", "args"), WRONG_SHAPES)
def test_wrong_shapes_name_both(kernels: ModuleType, name: str, args: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="must") as error:
        getattr(kernels, name)(*args)
    shapes = [a.shape for a in args if isinstance(a, np.ndarray)]
    named = [shape for shape in set(shapes) if str(shape) in str(error.value)]
    assert len(named) >= 2, str(error.value)
    assert "\n" not in str(error.value)


def test_other_wrong_arguments(kernels: ModuleType) -> None:
    Z = zeros(2, 3)
    with pytest.raises(ValueError, match=r"^Z must be float32 or float64, got int64$"):
        kernels.relu(np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match=r"^W must be float32 or float64, got float16$"):
        kernels.affine_forward(zeros(2, 3), np.zeros((3, 2), dtype=np.float16))
    with pytest.raises(ValueError, match=r"^y must hold classes 0 to 2, got 3$"):
        kernels.softmax_cross_entropy(Z, np.array([0, 3]))
    with pytest.raises(ValueError, match=r"^y must hold classes 0 to 2, got -1$"):
        kernels.softmax_cross_entropy(Z, np.array([-1, 2]))
    with pytest.raises(
        ValueError, match=r"^y must hold whole-number classes, got float64; y.astype\(int\) makes it so$"
    ):
        kernels.softmax_cross_entropy(Z, np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"^one-hot y must have a single 1 in each row"):
        kernels.softmax_cross_entropy(Z, np.array([[0, 1, 0], [1, 1, 0]]))
    for name in cases.LOSSES:
        y = np.array([0, 1]) if name == "softmax_cross_entropy" else Z
        with pytest.raises(
            ValueError, match=r"^reduction must be one of mean, sum, got 'man' \(did you mean 'mean'\?\)$"
        ):
            getattr(kernels, name)(Z, y, reduction="man")
        with pytest.raises(ValueError, match=r"^n_samples must be >= 1, got 0$"):
            getattr(kernels, name)(Z[:0], y[:0])
    with pytest.raises(ValueError, match=r"^velocity must be an array .*, got None$"):
        kernels.sgd_update(zeros(2), zeros(2), None, 0.1, 0.9)


def integers(*shape: int) -> Array:
    return np.zeros(shape, dtype=np.int64)


def single(*shape: int) -> Array:
    return np.zeros(shape, dtype=np.float32)


def read_only(*shape: int) -> Array:
    return cases.read_only(zeros(*shape))


w, v = zeros(3), zeros(3)
OUT_SHAPE = "out must be (2, 3) of float64, got "

REFUSED: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("sgd_update", (w, v, None, -0.1), {}, "learning_rate must be >= 0, got -0.1"),
    ("adam_update", (w, v, v, v, 1, -0.1), {}, "learning_rate must be >= 0, got -0.1"),
    ("rmsprop_update", (w, v, v, -0.1), {}, "learning_rate must be >= 0, got -0.1"),
    ("sgd_update", (w, v, None, math.nan), {}, "learning_rate must be finite, got nan"),
    ("sgd_update", (w, v, None, 0.1), {"nesterov": True}, "nesterov must come with momentum > 0, got momentum 0"),
    ("sgd_update", (w, v, v, 0.1), {"momentum": 1}, "momentum must be < 1, got 1"),
    ("sgd_update", (w, v, None, 0.1), {"weight_decay": -1}, "weight_decay must be >= 0, got -1"),
    ("rmsprop_update", (w, v, v, 0.1), {"epsilon": 0}, "epsilon must be > 0, got 0"),
    ("rmsprop_update", (w, v, v, 0.1), {"rho": 1}, "rho must be < 1, got 1"),
    ("adam_update", (w, v, v, v, 1, 0.1), {"epsilon": 0}, "epsilon must be > 0, got 0"),
    ("adam_update", (w, v, v, v, 1, 0.1), {"beta2": 1}, "beta2 must be < 1, got 1"),
    ("adam_update", (w, v, v, v, 0, 0.1), {}, "step must be >= 1, got 0"),
    ("adam_update", (w, v, v, v, 1.5, 0.1), {}, "step must be a whole number, got 1.5"),
    (
        "adam_update", (single(3), single(3), single(3), single(3), 1, 0.1), {"epsilon": 1e-50},
        "epsilon must be > 0 in float32, got 1e-50",
    ),
    ("sgd_update", (integers(3), v, None, 0.1), {}, "parameters must be float32 or float64, got int64"),
    ("sgd_update", (w, integers(3), None, 0.1), {}, "gradients must be float32 or float64, got int64"),
    ("sgd_update", (w, [0.0] * 3, None, 0.1), {}, "gradients must be a NumPy array, got list"),
    ("sgd_update", (w, v, single(3), 0.1, 0.9), {}, "velocity must be float64 like parameters, got float32"),
    ("adam_update", (w, v, v, [0.0] * 3, 1, 0.1), {}, "second_moment must be a NumPy array, got list"),
    ("sgd_update", (read_only(3), v, None, 0.1), {}, "parameters must be writable, got a read-only array"),
    ("rmsprop_update", (w, v, read_only(3), 0.1), {}, "mean_square must be writable, got a read-only array"),
    *(
        (f"{name}_backward", (dA, kept), {}, message.format(kept="Z" if name in cases.BACKWARD_TAKES_INPUT else "A"))
        for name in cases.ACTIVATIONS
        for dA, kept, message in [
            (integers(3), v, "dA must be float32 or float64, got int64"),
            (v, integers(3), "{kept} must be float32 or float64, got int64"),
            ([0.0] * 3, v, "dA must be a NumPy array, got list"),
            (v, [0.0] * 3, "{kept} must be a NumPy array, got list"),
        ]
    ),
    ("affine_backward", (zeros(2, 3), zeros(3, 4), integers(2, 4)), {}, "dY must be float32 or float64, got int64"),
    ("affine_backward", ([[0.0]], zeros(1, 4), zeros(1, 4)), {}, "X must be a NumPy array, got list"),
    ("affine_forward", ([[0.0]], zeros(1, 4)), {}, "X must be a NumPy array, got list"),
    ("affine_forward", (zeros(2, 1), [[0.0]]), {}, "W must be a NumPy array, got list"),
    ("affine_forward", (zeros(2, 1), zeros(1, 1), [0.0]), {}, "b must be a NumPy array, got list"),
    ("affine_forward", (zeros(2, 1) + 1j, zeros(1, 1)), {}, "X must be numeric, got dtype complex128"),
    ("affine_forward", (zeros(2, 1), zeros(1, 3)), {"out": integers(2, 3)}, OUT_SHAPE + "(2, 3) of int64"),
    ("affine_forward", (zeros(2, 1), zeros(1, 3)), {"out": zeros(3, 2)}, OUT_SHAPE + "(3, 2) of float64"),
    *(
        (name, args, out, message)
        for name in (*cases.ACTIVATIONS, "softmax")
        for args, out, message in [
            (([[0.0]],), {}, "Z must be a NumPy array, got list"),
            ((zeros(2, 3),), {"out": integers(2, 3)}, OUT_SHAPE + "(2, 3) of int64"),
            ((zeros(2, 3),), {"out": single(2, 3)}, OUT_SHAPE + "(2, 3) of float32"),
            ((zeros(2, 3),), {"out": zeros(3)}, OUT_SHAPE + "(3,) of float64"),
            ((zeros(2, 3),), {"out": zeros(1, 2, 3)}, OUT_SHAPE + "(1, 2, 3) of float64"),
            ((zeros(2, 3),), {"out": [[0.0] * 3] * 2}, "out must be a NumPy array, got list"),
            ((zeros(2, 3),), {"out": read_only(2, 3)}, "out must be writable, got a read-only array"),
        ]
    ),
    ("softmax", (np.array(1.0),), {}, "Z must be (n_samples, n_classes) with n_classes >= 1, got ()"),
    ("softmax", (zeros(2, 0),), {}, "Z must be (n_samples, n_classes) with n_classes >= 1, got (2, 0)"),
    (
        "softmax_cross_entropy", (zeros(2, 0), integers(2)), {},
        "Z must be (n_samples, n_classes) with n_classes >= 1, got (2, 0) and y (2,)",
    ),
    ("softmax_cross_entropy", (zeros(2, 3), [0, 1]), {}, "y must be a NumPy array, got list"),
    (
        "softmax_cross_entropy", (zeros(2, 3), integers(2, 1)), {},
        "y must be (n_samples,) = (2,) or one-hot (2, 3), got (2, 1); y.ravel() makes it so",
    ),
    ("sigmoid_cross_entropy", ([[0.0]], zeros(1, 1)), {}, "Z must be a NumPy array, got list"),
    ("squared_error", (zeros(1, 1), [[0.0]]), {}, "y must be a NumPy array, got list"),
    ("squared_error", (zeros(1, 1), np.array([["a"]])), {}, "y must be numeric, got dtype <U1"),
    ("huber", (zeros(1, 1), zeros(1, 1), 0.0), {}, "delta must be > 0, got 0"),
    ("quantile", (zeros(1, 1), zeros(1, 1), 1.0), {}, "level must be < 1, got 1"),
    ("quantile", (zeros(1, 1), zeros(1, 1)), {"level": 0.0}, "level must be > 0, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "options", "message"), REFUSED)
def test_both_engines_refuse_alike(
    kernels: ModuleType, name: str, args: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="must") as error:
        getattr(kernels, name)(*args, **options)
    assert str(error.value) == message
    assert not w.any()
