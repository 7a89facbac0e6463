"""Reads safetensors files as what they are: bytes of unknown origin, of which nothing is believed before it is checked.

A file is eight bytes that say how long the header is; the header, JSON: dtype, shape and place of each array by name,
and a map of strings, ``__metadata__``; then the arrays' bytes, one array behind the other. `TensorFile` reads the
header and holds it against the length of the file. Arrays are then read piece by piece into memory of the caller's.

The package safetensors writes our files, but reads them otherwise: it maps the file, so that the process dies of
SIGBUS if another one cuts the file meanwhile, and hands out each array as a copy, which has to be copied again.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.spec import shown

Array = NDArray[Any]

MAX_HEADER = 1 << 20
"""Bytes of the longest header that is read. Parsed JSON was seen to take 40 times the memory of its text."""

DTYPE_OF_CODE: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
PIECE = 1 << 18
"""Elements that are read, converted and looked at in one go."""


class Entry(NamedTuple):
    """Where an array stands: its first byte is byte `start` of the file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int


def is_not_finite(values: Array) -> Array:
    """Flag NaN and infinity."""
    return ~np.isfinite(values)


class TensorFile:
    """An open file whose header is sound: `entries` by name, `metadata`, and the arrays by `read`.

    Parameters
    ----------
    path : str
        The file.

    Raises
    ------
    OSError
        If it cannot be opened.
    ValueError
        If it is not a regular file, not whole, or not in the format.
    """

    def __init__(self, path: str) -> None:
        if not stat.S_ISREG(os.stat(path).st_mode):  # A pipe would never end, and opening one may wait for ever.
            raise ValueError("it must be a regular file")
        self._file = open(path, "rb")  # noqa: SIM115
        try:
            self.entries, self.metadata = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read_header(self) -> tuple[dict[str, Entry], dict[str, Any]]:
        size = os.fstat(self._file.fileno()).st_size
        length = int.from_bytes(self._file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"the header must end within the file, got {length} bytes of header in a file of {size}")
        if length > MAX_HEADER:
            raise ValueError(f"the header must be <= {MAX_HEADER} bytes, got {length}")
        header = parse_json("the header", self._file.read(length))
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError(f"__metadata__ must be an object, got {shown(metadata)}")
        entries = {name: check_entry(name, fields, 8 + length) for name, fields in header.items()}
        end = 8 + length
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, math.prod(item[1].shape))):
            if entry.start != end:
                raise ValueError(
                    f"array {shown(name)} must begin at byte {end}, behind the one before, got {entry.start}"
                )
            end += math.prod(entry.shape) * entry.dtype.itemsize
        if end != size:
            raise ValueError(f"the arrays must end with the file, got byte {end} of {size}")
        return entries, metadata

    def read(self, name: str, out: Array, refuse: Callable[[Array], Array] | None = is_not_finite) -> None:
        """Read an array into `out`, which has its shape.

        Raises
        ------
        ValueError
            If `refuse` is true of a value, or the file has been cut since it was opened.
        """
        entry = self.entries[name]
        assert entry.shape == out.shape
        rows = out if out.ndim == 2 else out[None]
        n_rows, n_columns = rows.shape
        rows_a_piece = max(1, PIECE // max(1, n_columns))
        self._file.seek(entry.start)
        for i in range(0, n_rows, rows_a_piece):
            for k in range(0, n_columns, PIECE):  # More than once only where a row is longer than a piece.
                part = rows[i : i + rows_a_piece, k : k + PIECE]
                data = self._file.read(part.size * entry.dtype.itemsize)
                if len(data) != part.size * entry.dtype.itemsize:
                    raise ValueError(f"array {name} must be whole, got the end of the file")
                values = np.frombuffer(data, entry.dtype)
                if refuse is not None and (wrong := refuse(values)).any():
                    raise ValueError(
                        f"array {name} must hold numbers that can be computed with, got {values[wrong][0]}"
                    )
                part[:] = values.reshape(part.shape)


def parse_json(what: str, text: Any) -> dict[str, Any]:
    """Return the object that a text holds; raise ValueError if it holds none, or gives a name twice."""
    if not isinstance(text, str | bytes):
        raise ValueError(f"{what} must be a string, got {shown(text)}")
    try:
        value = json.loads(text.decode() if isinstance(text, bytes) else text, object_pairs_hook=without_doubles)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} must be JSON, got: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, got {shown(value)}")
    return value


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of an object's pairs: one that is there twice would be read differently by another reader."""
    made = dict(pairs)
    if len(made) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the name {shown(name)} more than once")
    return made


def check_entry(name: str, fields: Any, data_start: int) -> Entry:
    """Return the header's entry of one array, or raise ValueError."""
    where = f"array {shown(name)}"
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where} must have dtype, shape and data_offsets, got {shown(fields)}")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_OF_CODE:
        raise ValueError(f"{where} must have a dtype of {', '.join(DTYPE_OF_CODE)}, got {shown(dtype)}")
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"{where} must have a {what} of whole numbers >= 0, got {shown(numbers)}")
    if len(shape) > 2 or len(offsets) != 2:
        raise ValueError(f"{where} must have at most 2 dimensions and 2 data_offsets, got {shown(shape + offsets)}")
    n_bytes = math.prod(shape) * DTYPE_OF_CODE[dtype].itemsize
    if offsets[1] - offsets[0] != n_bytes:
        raise ValueError(
            f"{where} must have the {shown(n_bytes)} bytes of its shape {shown(shape)}, got {shown(offsets)}"
        )
    return Entry(DTYPE_OF_CODE[dtype], tuple(shape), data_start + offsets[0])
