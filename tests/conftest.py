"""What all tests share: each test that asks for `engine` runs once on each engine."""

from __future__ import annotations

import signal
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from cases import ENGINES, kernels_of
from command_line import write_idx


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_counts() -> None:
    """Let tests press Ctrl-C where the shell has them ignore it, as a script's background job."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Name of the engine."""
    return str(request.param)


@pytest.fixture
def kernels(engine: str) -> ModuleType:
    """The public kernels of the engine: `fastmlp.kernels` or `fastmlp.reference`."""
    return kernels_of(engine)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A folder of IDX files: 4 classes of 4 x 4 pixels, each with a bright row of its own in noise."""
    folder = tmp_path / "digits"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, n in (("train", 200), ("t10k", 60)):
        labels = rng.integers(0, 4, n)
        images = rng.integers(0, 140, (n, 4, 4))
        images[np.arange(n), labels] += 110
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture
def values(tmp_path: Path) -> Path:
    """A table for a regression: y = a - 2 b."""
    a, b = np.random.default_rng(1).normal(size=(2, 100)).round(3)
    path = tmp_path / "values.csv"
    path.write_text("a,b,y\n" + "".join(f"{p},{q},{p - 2 * q + 0.0001:.4f}\n" for p, q in zip(a, b, strict=True)))
    return path
