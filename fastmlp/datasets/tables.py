"""Arrays in .npz files, tables in .csv and .parquet files."""

from __future__ import annotations

import contextlib
import math
from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp.datasets.source import MAX_DEFLATE_RATIO, Source, is_number, one_line
from fastmlp.spec import did_you_mean

if TYPE_CHECKING:
    import zipfile
    from pathlib import Path

    from fastmlp.datasets.source import Array

PIECE = 1 << 20  # bytes read at a time
TRUTH = {"true": "1", "false": "0"}
"""Cells of a column of truth values, as pandas writes them, in small letters."""
MISSING = {"na", "n/a", "#n/a", "?"}
"""What others write for a label that is missing, in small letters."""


def load_npz(path: Path, target: str | None) -> Source:
    """Read ``X_train, y_train, X_test, y_test`` (or ``x_train`` ...), or ``X`` and the array that `target` names."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            stored = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            split = bool({"X_train", "x_train"} & stored.keys())
            wanted = ("X_train", "y_train", "X_test", "y_test") if split else ("X", target or "y")
            names = [name if name in stored else name.replace("X", "x") for name in wanted]
            limit = MAX_DEFLATE_RATIO * path.stat().st_size
            arrays = {name: _read_member(archive, stored[name], limit) for name in names if name in stored}
    except Exception as error:  # zipfile and NumPy answer a damaged file with nearly any of them
        raise ValueError(f"{path} must be a sound .npz file without object arrays, got: {one_line(error)}") from None
    if split and target is not None:
        raise ValueError(f"target must be None for {path}, whose labels are y_train and y_test, got {target!r}")
    for name, found in zip(wanted, names, strict=True):
        if found not in arrays:
            hint = did_you_mean(name, stored)
            raise ValueError(
                f"{path} must hold an array {name!r}, got {one_line(', '.join(sorted(stored)) or 'none')}{hint}"
            )
        if arrays[found].ndim == 0:
            raise ValueError(f"{found} in {path} must have one entry a sample, got a single value")
    X_train, y_train, *rest = (arrays[name] for name in names)
    X_test, y_test = rest if split else (None, None)
    return Source(X_train, y_train, X_test, y_test, target=names[1])


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> Array:
    """Read an array of an archive, of which at most `limit` bytes are believed; raise an exception if it is not sound.

    ``numpy.load`` allocates what the array's header announces, inflates bzip2 and LZMA without a limit, and does not
    look at the checksum.
    """
    from zipfile import ZIP_DEFLATED, ZIP_STORED

    from numpy.lib import format as npy

    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise ValueError(f"{info.filename} is compressed by method {info.compress_type}, which is not NumPy's")
    file: Any
    with archive.open(info) as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{info.filename} is of .npy version {version}, which arrays of numbers do not have")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
        if dtype.hasobject:  # They would have to be unpickled, which can run any code.
            raise ValueError(f"Object arrays are not read: {info.filename}")
        size, held = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
        if size != held or held > limit or min(shape, default=0) < 0 or dtype.itemsize == 0:
            raise ValueError(f"{info.filename} announces {dtype} of shape {shape}, but holds {held} bytes")
        data = np.empty(size, np.uint8)  # the system gives memory to what is written, not to what was announced
        filled = 0
        while filled < size and (n := file.readinto(data.data[filled : filled + PIECE])):
            filled += n
        if filled < size or file.read(1):  # reading to the end also holds the checksum against the bytes
            raise ValueError(f"{info.filename} ends after {filled} of {size} bytes")
    return data.view(dtype).reshape(shape, order="F" if is_fortran else "C")


def load_csv(path: Path, target: str | None, dtype: np.dtype[Any]) -> Source:
    """Read a table whose first line names its columns; comma, semicolon or tab between them."""
    import csv

    values: array[float] = array(dtype.char)
    labels: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(1 << 16)
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), skipinitialspace=True)
            columns = [name.strip() for name in next(reader, [])]
            if "" in columns:
                place = columns.index("")
                hint = " (if it is the index of a pandas frame: to_csv(index=False) leaves it out)"
                raise ValueError(f"column {place + 1} of {path} must have a name{'' if place else hint}")
            position = _target_position(columns, target, path)
            features = columns[:position] + columns[position + 1 :]
            for row in reader:
                if not row:
                    continue  # a blank line
                where = f"row {len(labels) + 1} of {path}"
                if len(row) != len(columns):
                    raise ValueError(f"{where} must have {len(columns)} cells, got {len(row)}")
                labels.append(row.pop(position).strip())
                if "\n" in labels[-1] and reader.dialect.delimiter in labels[-1]:  # What followed a stray quote.
                    raise ValueError(
                        f"column {target!r} must have labels of one line, got {labels[-1][:40]!r} in {where}"
                    )
                try:
                    values.extend(map(float, row))
                    if "_" in "".join(row):
                        raise ValueError
                except ValueError:
                    del values[(len(labels) - 1) * len(features) :]  # Those of this row that were numbers.
                    cells = [TRUTH.get(cell.strip().lower(), cell) for cell in row]
                    wrong = [pair for pair in zip(features, cells, strict=True) if not is_number(pair[1])]
                    if wrong:
                        column, cell = wrong[0]
                        message = f"column {column[:40]!r} must be numeric, got {cell[:40]!r} in {where}"
                        raise ValueError(message) from None
                    values.extend(map(float, cells))
                if not labels[-1]:
                    raise ValueError(f"column {target!r} must have a label in every row, got none in {where}")
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a CSV file in UTF-8, got: {one_line(error)}") from None
    if not labels:
        raise ValueError(f"{path} must have rows below its header, got none")
    X = np.frombuffer(values, dtype).reshape(len(labels), -1)
    return Source(X, _parse_labels(labels), columns=features, target=columns[position])


def _parse_labels(labels: list[str]) -> Array:
    """Return integers if all cells are integers as Python prints them, else floats if all are numbers, else strings.

    Integers with zeros in front are strings, as ``007``: to whoever wrote them, ``7`` is another label.
    """
    if all(map(is_number, labels)):
        try:
            integers = list(map(int, labels))
        except ValueError:
            return np.fromiter(map(float, labels), float, len(labels))
        if labels == list(map(str, integers)):
            with contextlib.suppress(OverflowError):
                return np.array(integers, np.int64)
            return np.fromiter(map(float, labels), float, len(labels))
    odd = next((label for label in labels if not is_number(label)), "")
    if odd.lower() in MISSING and all(is_number(label) or label.lower() in MISSING for label in labels):
        raise ValueError(f"labels must not be missing, got {odd!r} in row {labels.index(odd) + 1}")
    return np.array(labels, object)  # NumPy's own strings would all take the memory of the longest


def load_parquet(path: Path, target: str | None, dtype: np.dtype[Any]) -> Source:
    """Read a table through pyarrow."""
    table = _read_parquet(path)
    position = _target_position(list(table), target, path)
    columns = list(table)
    y = table[columns.pop(position)]
    if len(y) == 0:
        raise ValueError(f"{path} must have rows, got none")
    for name in columns:
        if table[name].dtype.kind not in "buif":
            value = next(value for value in table[name] if not isinstance(value, (bool, int, float)))
            raise ValueError(f"column {name[:40]!r} of {path} must be numeric, got {str(value)[:40]!r}")
    pixels = all(table[name].dtype == np.uint8 for name in columns)
    with np.errstate(over="ignore"):  # found by the check for infinite values
        X = np.stack([table[name] for name in columns], axis=1, dtype=np.uint8 if pixels else dtype, casting="unsafe")
    return Source(X, y, columns=columns, target=str(target))


def _read_parquet(path: Path) -> dict[str, Array]:
    """Return the columns of the file, without the row index that pandas may have stored among them."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ModuleNotFoundError(f"{path} needs pyarrow to be read: pip install pyarrow") from None
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} must be a sound .parquet file, got: {one_line(error)}") from None
    stored_index = (table.schema.pandas_metadata or {}).get("index_columns", [])
    return {name: _to_numpy(table[name]) for name in table.column_names if name not in stored_index}


def _to_numpy(column: Any) -> Array:
    from pyarrow import types

    if types.is_dictionary(column.type):  # pandas' categories
        column = column.cast(column.type.value_type)
    result: Array = column.to_numpy()
    return result


def _target_position(columns: list[str], target: str | None, path: Path) -> int:
    """Return the position of the target column, and check that the columns can be told apart."""
    if not columns:
        raise ValueError(f"{path} must start with a line of column names, got an empty file")
    if target is None or target not in columns:
        shown = ", ".join(columns) if len(columns) <= 8 else f"{', '.join(columns[:4])} ... {', '.join(columns[-2:])}"
        hint = "" if target is None else did_you_mean(target, columns)
        raise ValueError(f"target must name a column of {path} ({one_line(shown)}), got {target!r}{hint}")
    numbers = [name for name in columns if is_number(name)]
    ascend = numbers == sorted(set(numbers), key=float)  # As wavelengths do.
    may_be_names = ascend and (len(numbers) < len(columns) or not any("." in name for name in numbers))
    if len(numbers) > 1 and not may_be_names:
        shown = ", ".join(numbers[:4])
        raise ValueError(f"{path} must start with a line of column names, got the numbers {one_line(shown)}")
    if len(columns) == 1:
        raise ValueError(f"{path} must have a feature column beside the target, got {target!r} alone")
    doubles = [name for name, n in Counter(columns).items() if n > 1]
    if doubles:
        raise ValueError(f"columns of {path} must have different names, got {min(doubles)[:40]!r} twice")
    return columns.index(target)
