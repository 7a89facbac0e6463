"""What the pytest-benchmark cases share: one BLAS thread, a header that says so, and the cost of first calls apart."""
# ruff: noqa: E402

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"  # Read when NumPy is imported: so this stands before it.

import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import threadpoolctl

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "tests")]

from results import machine

FIRST_CALLS: dict[str, float] = {}
"""Seconds of each case's first call, which compiles or loads from the cache."""


def pytest_report_header() -> list[str]:
    """Say what is measured on."""
    np.ones((2, 2)) @ np.ones((2, 2))  # Loads the BLAS.
    pools = [
        f"{pool['internal_api']} {pool['version']}: {pool['num_threads']}" for pool in threadpoolctl.threadpool_info()
    ]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "llvmlite"))
    return [
        f"machine: {machine()}",
        f"versions: Python {platform.python_version()}, {libraries}",
        f"BLAS threads: {', '.join(pools) or 'unknown'}",
    ]


@pytest.fixture
def timed(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Benchmark a call within a group, its first call apart."""

    def run(group: str, function: Callable[..., Any], *args: Any, **options: Any) -> None:
        started = time.perf_counter()
        function(*args, **options)
        FIRST_CALLS[request.node.name] = time.perf_counter() - started
        benchmark.group = group
        benchmark(function, *args, **options)

    return run


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show the slowest first calls."""
    if FIRST_CALLS:
        terminalreporter.section("first calls, not in the timings above: compiled or loaded from the cache")
        for name, seconds in sorted(FIRST_CALLS.items(), key=lambda item: -item[1])[:10]:
            terminalreporter.line(f"{seconds:8.3f} s  {name}")
