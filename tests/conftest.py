"""What all tests share: each test that asks for `engine` runs once on each engine."""

from __future__ import annotations

import signal
from types import ModuleType

import pytest
from cases import ENGINES, kernels_of


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
