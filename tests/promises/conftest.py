"""What the tests of the promises share: how much they try, and the table of what was tried and what held.

Every test in this folder has the marks `promises` (``pytest -m promises``, minutes) and `nightly` (``pytest -m
nightly``, the long form). Each tries a number of times, and counts with `promise` what it tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

tried: Counter[str] = Counter()
held: Counter[str] = Counter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and no others."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("promises")
            item.add_marker("nightly")


@pytest.fixture
def is_nightly(request: pytest.FixtureRequest) -> bool:
    """Whether the long forms are asked for."""
    return request.config.option.markexpr == "nightly"


@pytest.fixture
def count(is_nightly: bool) -> Callable[[int, int], int]:
    """Choose how often to try: ``count(50, 1000)`` is 50, and 1,000 in the nightly runs."""
    return lambda short, long: long if is_nightly else short


@contextmanager
def one_try(name: str, n: int = 1) -> Iterator[None]:
    """Count `n` tries of a promise, which held if the block raises nothing."""
    tried[name] += n
    yield
    held[name] += n


@pytest.fixture
def promise() -> Callable[..., object]:
    """``with promise("kill -9, then resume: the same bits"):`` around one try."""
    return one_try


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if not tried:
        return
    terminalreporter.section("promises: held / tried")
    for name in sorted(tried):
        terminalreporter.line(f"{held[name]:>7,} / {tried[name]:<7,} {name}")
