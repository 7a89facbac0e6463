"""What tests of `load_dataset` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastmlp.datasets import load_dataset


def load_fails(error: type[Exception], pattern: str, name: str | Path, **options: Any) -> str:
    """Load a bad data set: exactly this kind of error, on one line, that says `pattern`; give the line."""
    with pytest.raises(error, match=pattern) as caught:
        load_dataset(name, **options)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return str(caught.value)
