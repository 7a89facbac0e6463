"""What all tests share: each test that asks for `engine` runs once on each engine."""

from __future__ import annotations

from types import ModuleType

import pytest
from cases import ENGINES, kernels_of


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Name of the engine."""
    return str(request.param)


@pytest.fixture
def kernels(engine: str) -> ModuleType:
    """The public kernels of the engine: `fastmlp.kernels` or `fastmlp.reference`."""
    return kernels_of(engine)
