"""The one table of cases: every public kernel, with inputs for it. Tests and benchmarks both take theirs from here.

``arguments("relu", (17, 31, 13), "float32")`` gives inputs for a kernel, for a layer of 31 inputs and 13 outputs and
a batch of 17; ``LAYOUTS`` puts an array into memory in the ways in which users hold theirs.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

Array = np.ndarray
Sizes = tuple[int, int, int]

ENGINES = ("numba", "numpy")
DTYPES = ("float32", "float64")
ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "silu", "softplus")
BACKWARD_TAKES_INPUT = ("gelu", "silu")
LOSSES = (
    "softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error", "poisson", "absolute_error", "huber", "quantile",
)  # fmt: skip
OUTPUT_IS_PART_OF_LOSS = ("softmax_cross_entropy", "sigmoid_cross_entropy", "poisson")

ON_X86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs an x86-64 compiler")
AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+bmi,+bmi2,+popcnt,+sse4.2"}
VECTORS = [
    pytest.param({}, id="this machine's"),
    pytest.param(AVX2, id="AVX2", marks=ON_X86),
    pytest.param({"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, id="SSE2"),
]
"""Environments in which kernels are compiled for other vectors than this machine's."""

SIZES: dict[str, Sizes] = {
    # name: (n_samples, n_in, n_out). Neighbours of powers of two catch what a vector loop does with its remainder.
    "one of each": (1, 1, 1),
    "batch 1": (1, 7, 5),
    "one input": (6, 1, 4),
    "one output": (5, 3, 1),
    "odd": (17, 31, 13),
    "even": (16, 32, 64),
    "remainders": (33, 65, 67),
    "wide": (10, 150, 10),
    "many short rows": (300, 2, 5),
    "long rows": (3, 2, 1100),
    "deep and wide": (7, 1100, 150),  # More than a slice of the weights both ways.
}


def kernels_of(engine: str) -> ModuleType:
    """Import the module of public kernels of an engine."""
    return importlib.import_module({"numba": "fastmlp.kernels", "numpy": "fastmlp.reference"}[engine])


# --- Inputs -----------------------------------------------------------------------------------------------------------


def affine_forward(sizes: Sizes, dtype: str, rng: np.random.Generator) -> tuple[Any, ...]:
    n_samples, n_in, n_out = sizes
    return normal(rng, (n_samples, n_in), dtype), normal(rng, (n_in, n_out), dtype), normal(rng, (n_out,), dtype)


def affine_backward(sizes: Sizes, dtype: str, rng: np.random.Generator) -> tuple[Any, ...]:
    n_samples, n_in, n_out = sizes
    shapes = (n_samples, n_in), (n_in, n_out), (n_samples, n_out)
    return tuple(normal(rng, shape, dtype) for shape in shapes)


def activation(sizes: Sizes, dtype: str, rng: np.random.Generator) -> tuple[Any, ...]:
    return (3.0 * normal(rng, (sizes[0], sizes[2]), dtype),)


def activation_backward(name: str) -> Callable[..., tuple[Any, ...]]:
    def make(sizes: Sizes, dtype: str, rng: np.random.Generator) -> tuple[Any, ...]:
        (Z,) = activation(sizes, dtype, rng)
        dA = normal(rng, Z.shape, dtype)
        return dA, (Z if name in BACKWARD_TAKES_INPUT else getattr(kernels_of("numpy"), name)(Z))

    return make


def softmax_cross_entropy(sizes: Sizes, dtype: str, rng: np.random.Generator) -> tuple[Any, ...]:
    n_samples, _, n_out = sizes
    return 3.0 * normal(rng, (n_samples, n_out), dtype), rng.integers(n_out, size=n_samples)


def sigmoid_cross_entropy(sizes: Sizes, dtype: str, rng: np.random.Generator) -> tuple[Any, ...]:
    n_samples, _, n_out = sizes
    return 3.0 * normal(rng, (n_samples, n_out), dtype), rng.integers(2, size=(n_samples, n_out)).astype(dtype)


def squared_error(sizes: Sizes, dtype: str, rng: np.random.Generator) -> tuple[Any, ...]:
    n_samples, _, n_out = sizes
    return normal(rng, (n_samples, n_out), dtype), normal(rng, (n_samples, n_out), dtype)


def poisson(sizes: Sizes, dtype: str, rng: np.random.Generator) -> tuple[Any, ...]:
    n_samples, _, n_out = sizes
    return normal(rng, (n_samples, n_out), dtype), rng.poisson(1.5, size=(n_samples, n_out)).astype(dtype)


def huber(sizes: Sizes, dtype: str, rng: np.random.Generator) -> tuple[Any, ...]:
    return (*squared_error(sizes, dtype, rng), 0.7)


def quantile(sizes: Sizes, dtype: str, rng: np.random.Generator) -> tuple[Any, ...]:
    return (*squared_error(sizes, dtype, rng), 0.8, "sum")


def targets(loss: str, n_samples: int, n_out: int, rng: np.random.Generator) -> Array:
    """Draw targets for a loss."""
    if loss == "softmax_cross_entropy":
        return rng.integers(n_out, size=n_samples)
    if loss == "sigmoid_cross_entropy":
        return rng.integers(2, size=(n_samples, n_out))
    if loss == "poisson":
        return rng.poisson(1.5, size=(n_samples, n_out))
    return rng.normal(size=(n_samples, n_out))


def sgd_update(sizes: Sizes, dtype: str, rng: np.random.Generator) -> tuple[Any, ...]:
    w, g, velocity = parameters_and(3, sizes, dtype, rng)
    return w, g, velocity, 0.1, 0.9, True, 0.01


def adam_update(sizes: Sizes, dtype: str, rng: np.random.Generator) -> tuple[Any, ...]:
    w, g, first, second = parameters_and(4, sizes, dtype, rng)
    return w, g, first, np.abs(second), 3, 0.01, 0.9, 0.99, 1e-6, 0.1, True, True


def rmsprop_update(sizes: Sizes, dtype: str, rng: np.random.Generator) -> tuple[Any, ...]:
    w, g, mean_square = parameters_and(3, sizes, dtype, rng)
    return w, g, np.abs(mean_square), 0.01, 0.9, 1e-6, 0.1


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Standard normal numbers."""
    return rng.normal(size=shape).astype(dtype)


def parameters_and(n: int, sizes: Sizes, dtype: str, rng: np.random.Generator) -> tuple[Array, ...]:
    """Draw `n` flat buffers, each of the size of a layer."""
    return tuple(normal(rng, (sizes[1] * sizes[2] + sizes[2],), dtype) for _ in range(n))


KERNELS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "affine_forward": affine_forward,
    "affine_backward": affine_backward,
    **dict.fromkeys(ACTIVATIONS, activation),
    **{f"{name}_backward": activation_backward(name) for name in ACTIVATIONS},
    "softmax": activation,
    "softmax_cross_entropy": softmax_cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "squared_error": squared_error,
    "poisson": poisson,
    "absolute_error": squared_error,
    "huber": huber,
    "quantile": quantile,
    "sgd_update": sgd_update,
    "adam_update": adam_update,
    "rmsprop_update": rmsprop_update,
}
"""Every public kernel, with what makes its arguments."""

CHANGES: dict[str, tuple[int, ...]] = {"sgd_update": (0, 2), "adam_update": (0, 2, 3), "rmsprop_update": (0, 2)}
"""Which arguments, by position, a kernel changes in place. No other kernel changes any."""


def arguments(name: str, sizes: Sizes, dtype: str, seed: int = 0) -> tuple[Any, ...]:
    """Make inputs for the kernel `name`: the same ones whenever it is asked for the same."""
    return KERNELS[name](sizes, dtype, np.random.default_rng(seed))


# --- Layouts ----------------------------------------------------------------------------------------------------------


def strided(a: Array) -> Array:
    """Hold `a` in every second element of a larger array, along each axis."""
    out = np.full([2 * n for n in a.shape], 77, dtype=a.dtype)[tuple(slice(None, None, 2) for _ in a.shape)]
    out[...] = a
    return out


def backwards(a: Array) -> Array:
    """Hold `a` with negative strides."""
    return np.flip(np.flip(a).copy())


def read_only(a: Array) -> Array:
    out = a.copy()
    out.flags.writeable = False
    return out


def unaligned(a: Array) -> Array:
    """Hold `a` from an address that is no multiple of its element size, as arrays inside of records are."""
    out = np.zeros(a.nbytes + 1, dtype=np.uint8)[1:].view(a.dtype).reshape(a.shape)
    out[...] = a
    return out


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "strided": strided,
    "Fortran": lambda a: np.asfortranarray(a.copy()),
    "backwards": backwards,
    "read-only": read_only,
    "unaligned": unaligned,
}


def lay_out(name: str, args: tuple[Any, ...], layout: Callable[[Array], Array]) -> tuple[Any, ...]:
    """Put the arrays that the kernel `name` only reads into a layout; those that it changes are copied."""
    changes = CHANGES.get(name, ())
    return tuple(
        a if not isinstance(a, np.ndarray) else a.copy() if i in changes else layout(a) for i, a in enumerate(args)
    )
