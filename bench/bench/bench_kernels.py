"""Each public kernel, Numba against NumPy: ``pytest bench/bench_kernels.py``.

The inputs are those of the tests' table. A kernel that takes ``out`` is given one in both engines.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
from cases import ENGINES, KERNELS, Sizes, arguments, kernels_of

SIZES: Sizes = (100, 784, 100)
"""Batch, inputs and outputs: the first layer of the MNIST network."""


@pytest.mark.benchmark(max_time=0.3, min_rounds=20)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernel(name: str, dtype: str, engine: str, timed: Callable[..., None]) -> None:
    kernel = getattr(kernels_of(engine), name)
    inputs = arguments(name, SIZES, dtype)
    if "out" in inspect.signature(kernel).parameters:
        timed(f"{name} {dtype}", kernel, *inputs, out=kernel(*inputs))
    else:
        timed(f"{name} {dtype}", kernel, *inputs)
