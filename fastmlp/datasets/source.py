"""What every reader of this package hands back: arrays as they were stored, before labels and scales are settled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

MAX_DEFLATE_RATIO = 1032
"""No deflate stream, of a .gz or .npz file, grows by more than this: whoever announces more has forged a header."""


@dataclass
class Source:
    """The arrays of one data set, of any dtype; without a test part, one is split off later.

    ``X_*`` have the samples along the first axis and any axes behind it. ``class_names`` is given where the labels
    are class indices already. ``columns`` names the features and ``target`` the labels in error messages.
    """

    X_train: Array
    y_train: Array
    X_test: Array | None = None
    y_test: Array | None = None
    class_names: tuple[str, ...] | None = None
    columns: list[str] | None = None
    target: str = "y"


def one_line(error: BaseException | str) -> str:
    """Return another library's message, or text of a file, on one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def is_number(cell: str) -> bool:
    """Whether a cell is a number, as Python writes them; but not ``1_000``, which Python alone takes for one."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
