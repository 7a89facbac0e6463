"""Data sets: one function that reads the shipped digits, IDX folders, tables and the catalogue of tensorflow-datasets.

Each reader (`idx`, `tables`, `tfds`) hands back arrays as they are stored; here they become a `Dataset`: samples as
rows, labels as class indices, pixels as numbers from 0 to 1.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp.datasets.source import Source, is_number
from fastmlp.spec import DTYPES, check_count, check_flag, check_name, check_number, did_you_mean, dtype_name, shown

if TYPE_CHECKING:
    from fastmlp.datasets.source import Array

__all__ = ["Dataset", "load_dataset"]

KNOWN = ("mnist", "tfds:mnist", "tfds:fashion_mnist", "tfds:kmnist", "tfds:emnist")  # for suggestions only
PIXEL_SCALE = 1 / 255


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set.

    Attributes
    ----------
    X_train, X_test : ndarray of float32 or float64, or uint8 with ``raw=True``, (n_samples, n_features)
        The samples, one a row. Pixels are multiplied by 1/255, rounded to the dtype, as the kernels do it.
    y_train, y_test : ndarray of int64, or for regression of float32 or float64, (n_samples,)
        Class indices, or values.
    class_names : tuple of str, or None
        What each class index stands for; None for regression.
    name : str
        The name that the data set was asked for by.
    input_scale : float
        What to multiply X by: 1/255 where X holds raw pixels, else 1.
    image_shape : tuple of int, or None
        The shape of one sample if it is an image, as ``(28, 28)`` or ``(32, 32, 3)``.
    feature_names : tuple of str, or None
        The columns of X in a table, in their order.
    """

    X_train: Array = field(repr=False)
    y_train: Array = field(repr=False)
    X_test: Array = field(repr=False)
    y_test: Array = field(repr=False)
    class_names: tuple[str, ...] | None
    name: str
    input_scale: float = 1.0
    image_shape: tuple[int, ...] | None = None
    feature_names: tuple[str, ...] | None = None


def load_dataset(
    name: str | os.PathLike[str],
    *,
    raw: bool = False,
    target: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
    as_values: bool = False,
    as_classes: bool = False,
    dtype: str = "float32",
) -> Dataset:
    """Load a data set by its name or path.

    Parameters
    ----------
    name : str or path-like
        One of

        - ``"mnist"``: the 60,000 and 10,000 digits that come with fastmlp, their SHA-256 verified (a folder of this
          name is ``"./mnist"``);
        - a folder with the four IDX files of an MNIST-shaped set under their usual names
          (``train-images-idx3-ubyte``, ``t10k-labels.idx1-ubyte.gz``, ...);
        - a ``.npz`` file with ``X_train, y_train, X_test, y_test`` (or ``x_train`` ...), or with ``X`` and ``y``;
        - a ``.csv`` (first line: column names) or ``.parquet`` file, with `target` naming the column of labels;
        - ``"tfds:NAME"``, ``"tfds:NAME/CONFIG:VERSION"``: a data set of tensorflow-datasets (extra ``[tfds]``).
    raw : bool, default False
        Keep uint8 pixels as they are. By default they become numbers in [0, 1]. Only what is stored as uint8 counts as
        pixels; any other number stays unscaled, with or without `raw`.
    target : str, optional
        The column of labels in a table, the array of labels in a ``.npz`` file with ``X`` (``"y"`` by default), or the
        label feature of a ``tfds:`` set where it is not the declared one.
    test_fraction : float, default 0.2
        The share of rows, drawn at random, that becomes the test set where the data set has none of its own.
    seed : int, default 0
        The seed of that draw.
    data_dir : str or path-like, optional
        Where tensorflow-datasets keeps its prepared copies, if not in its default place.
    as_values : bool, default False
        Take labels for the values of a regression even where they are integers, as counts are; not those of a set that
        names its classes.
    as_classes : bool, default False
        Take labels such as 0.0 and 1.0 for classes, if all are whole numbers: so pandas writes integers of a column in
        which one was missing.
    dtype : {"float32", "float64"}
        Of the samples, and of the values of a regression. float32 has seven digits, too few for columns such as
        timestamps, which a network of float64 can tell apart.

    Returns
    -------
    Dataset
        The arrays are in memory and may be written to. Labels that are integers, strings or bools are classes,
        and become indices into ``class_names``, which is sorted by value (IDX labels are class indices already).
        Labels that are floats are the values of a regression.

    Raises
    ------
    FileNotFoundError
        If the file, the folder, one of its files, or the prepared copy does not exist. (What has no ending and no
        slash counts as a name: ValueError.)
    ModuleNotFoundError
        If an optional package is missing (pyarrow for ``.parquet``, tensorflow-datasets for ``tfds:``).
    ValueError
        If an argument does not fit, the name is unknown, or what is stored is truncated, damaged, inconsistent, not
        finite or not numeric.

    Examples
    --------
    >>> import fastmlp
    >>> data = fastmlp.load_dataset("mnist")
    >>> data.X_train.shape, data.X_train.dtype, data.y_test.shape
    ((60000, 784), dtype('float32'), (10000,))
    >>> data.class_names[3], data.image_shape
    ('3', (28, 28))
    """
    raw, as_values = check_flag("raw", raw), check_flag("as_values", as_values)
    as_classes = check_flag("as_classes", as_classes)
    if as_values and as_classes:
        raise ValueError("as_values and as_classes must not both be True")
    test_fraction = check_number("test_fraction", test_fraction, above=0.0, below=1.0)
    seed = check_count("seed", seed, minimum=0)
    if not isinstance(name, str | os.PathLike):
        raise ValueError(f"dataset must be a name or a path, got {shown(name)}")
    if not isinstance(target, str | None):
        raise ValueError(f"target must be a name, got {shown(target)}")
    real = np.dtype(check_name("dtype", dtype_name(dtype), DTYPES))
    name = os.fsdecode(name)
    source = _read(name, target, data_dir, real)
    if source.class_names is None and (as_values or as_classes):
        parts = [y for y in (source.y_train, source.y_test) if y is not None]
        source.y_train, *rest = _values(parts, source) if as_values else _whole(parts)
        source.y_test = rest[0] if rest else None
    return _finish(source, name, raw, test_fraction, seed, real)


def _read(name: str, target: str | None, data_dir: str | os.PathLike[str] | None, dtype: np.dtype[Any]) -> Source:
    """Choose the reader; each is imported only when it is needed."""
    if name.startswith("tfds:"):
        from fastmlp.datasets.tfds import load_tfds

        return load_tfds(name.removeprefix("tfds:"), target, data_dir)

    path = Path(name).expanduser()
    if name == "mnist" or path.is_dir():
        from fastmlp.datasets.idx import load_folder, load_mnist

        if target is not None:
            raise ValueError(f"target must be None for IDX files, which hold their labels apart, got {target!r}")
        return load_mnist() if name == "mnist" else load_folder(path)

    if path.suffix.lower() in (".npz", ".csv", ".parquet"):
        from fastmlp.datasets import tables

        if not path.is_file():
            raise FileNotFoundError(f"dataset must be an existing file, got {name!r}")
        if path.suffix.lower() == ".npz":
            return tables.load_npz(path, target)
        return (tables.load_csv if path.suffix.lower() == ".csv" else tables.load_parquet)(path, target, dtype)

    if path.exists():
        raise ValueError(f"dataset file must be .npz, .csv or .parquet, got {name!r}")
    if path.name != name:
        raise FileNotFoundError(f"dataset must be an existing folder or file, got {name!r}")
    raise ValueError(
        "dataset must be 'mnist', 'tfds:NAME', a folder of IDX files or a .npz, .csv or .parquet file, "
        f"got {name!r}{did_you_mean(name, KNOWN)}"
    )


def _finish(source: Source, name: str, raw: bool, test_fraction: float, seed: int, dtype: np.dtype[Any]) -> Dataset:
    """Check what was read, encode the labels, flatten and scale the samples, split off a test set if there is none."""
    if source.X_test is None or source.y_test is None:
        parts = [("", source.X_train, source.y_train)]
    else:
        parts = [("training ", source.X_train, source.y_train), ("test ", source.X_test, source.y_test)]
    shape = source.X_train.shape[1:]
    for part, X, y in parts:
        if len(X) != len(y):
            raise ValueError(
                f"{part or 'data '}set of {name} must have a label a sample, got {len(y)} labels, {len(X)} samples"
            )
        if X.size == 0:
            raise ValueError(f"{part or 'data '}set of {name} must have samples with features, got the shape {X.shape}")
        if X.shape[1:] != shape:
            raise ValueError(f"test samples of {name} must have the shape {shape} of the others, got {X.shape[1:]}")

    rows = [_flat_labels(y, source) for _, _, y in parts]
    if rows[0].dtype.kind != rows[-1].dtype.kind:
        raise ValueError(f"labels of {name} must be of one kind, got {rows[0].dtype} and {rows[-1].dtype}")
    labels, class_names = _encode_labels(np.concatenate(rows), source, dtype)
    pixels = all(X.dtype == np.uint8 for _, X, _ in parts)
    samples = [_flatten(X, part, source, name, pixels, raw, dtype) for part, X, _ in parts]
    n_train = len(source.X_train)
    if len(parts) == 2:
        (X_train, X_test), y_train, y_test = samples, labels[:n_train], labels[n_train:]
    else:
        n_test = max(1, round(test_fraction * n_train))
        if n_test >= n_train:
            raise ValueError(
                f"{name} must have rows left for training, got {n_train} rows, {n_test} of them for testing"
            )
        order = np.random.default_rng(seed).permutation(n_train)
        test, train = order[:n_test], order[n_test:]
        X_train, X_test, y_train, y_test = samples[0][train], samples[0][test], labels[train], labels[test]

    image_shape = (shape[:-1] if shape[-1] == 1 else shape) if len(shape) == 3 else shape
    return Dataset(
        X_train,
        y_train,
        X_test,
        y_test,
        class_names,
        name,
        input_scale=PIXEL_SCALE if pixels and raw else 1.0,
        image_shape=image_shape if len(shape) in (2, 3) else None,
        feature_names=None if source.columns is None else tuple(source.columns),
    )


def _flatten(X: Array, part: str, source: Source, name: str, pixels: bool, raw: bool, dtype: np.dtype[Any]) -> Array:
    """Return the samples as rows: raw pixels, pixels from 0 to 1, or any other numbers."""
    X = np.ascontiguousarray(X.reshape(len(X), -1))
    if pixels:
        # The product that the kernels form with input_scale, so that both ways train the same bits.
        return X if raw else np.multiply(X, dtype.type(PIXEL_SCALE), dtype=dtype)
    if X.dtype.kind not in "buif":
        raise ValueError(f"samples of {name} must be numeric, got dtype {X.dtype}")
    with np.errstate(over="ignore"):  # what is beyond the dtype is infinite, which is said below
        X = X.astype(dtype, copy=False)
    if not np.isfinite(X).all():
        row, k = np.argwhere(~np.isfinite(X))[0]
        column = f"column {source.columns[k][:40]!r}" if source.columns else f"feature {k + 1}"
        raise ValueError(f"{column} of {name} must be finite in {dtype}, got {X[row, k]} in {part}row {row + 1}")
    return X


def _flat_labels(y: Array, source: Source) -> Array:
    """Return labels as one row of int64, bool, float or str, these also as objects."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"labels {source.target!r} must be one number or name a sample, got the shape {y.shape}")
    if y.dtype.kind == "O":
        row = next((i for i, label in enumerate(y) if not isinstance(label, str)), None)
        if row is not None:
            raise ValueError(f"labels {source.target!r} must be numbers or strings, got {y[row]!r} in row {row + 1}")
        return y
    if y.dtype.kind == "S":
        return np.char.decode(y, "utf-8", "replace")
    if y.dtype.kind in "iu":
        return y.astype(np.int64)
    if y.dtype.kind not in "bfU":
        raise ValueError(f"labels {source.target!r} must be numbers or strings, got dtype {y.dtype}")
    return y


def _values(parts: list[Array], source: Source) -> list[Array]:
    """Return labels as floats."""
    for y in parts:
        for row, label in enumerate(y.ravel() if y.dtype.kind in "OUS" else ()):
            if not is_number(str(label)):
                raise ValueError(f"labels {source.target!r} must be numbers, got {str(label)[:40]!r} in row {row + 1}")
        if y.dtype.kind not in "biufOUS":
            raise ValueError(f"labels {source.target!r} must be numbers, got dtype {y.dtype}")
    return [y.astype(np.float64) for y in parts]


def _whole(parts: list[Array]) -> list[Array]:
    """Return labels as integers if they are floats, and all are whole."""
    if all(are_whole(y) for y in parts):
        return [y.astype(np.int64) for y in parts]
    return parts


def are_whole(y: Array) -> bool:
    """Whether labels are floats without a fraction, of which float64 knows the last digit."""
    return y.dtype.kind == "f" and bool((np.abs(y) < 2.0**53).all() and (y == np.rint(y)).all())


def _encode_labels(y: Array, source: Source, dtype: np.dtype[Any]) -> tuple[Array, tuple[str, ...] | None]:
    """Return class indices and class names, or values and None for a regression."""
    if source.class_names is not None:
        if y.min() < 0 or y.max() >= len(source.class_names):
            wrong = y.min() if y.min() < 0 else y.max()
            raise ValueError(f"labels {source.target!r} must be in [0, {len(source.class_names)}), got {wrong}")
        return y, source.class_names
    if y.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what is beyond the dtype is infinite, which is said below
            values = y.astype(dtype)
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            raise ValueError(f"labels {source.target!r} must be finite in {dtype}, got {y[row]} in row {row + 1}")
        return values, None
    if y.dtype.kind == "O":
        classes = sorted(set(y))
        codes = np.fromiter(map({name: k for k, name in enumerate(classes)}.__getitem__, y), np.int64, len(y))
    else:
        different, codes = np.unique(y, return_inverse=True)
        classes = different.tolist()
    if len(classes) > max(20, len(y) // 2):
        words = [row for row, label in enumerate(y) if not is_number(str(label))]
        if 0 < len(words) <= len(y) // 2:
            word = str(y[words[0]])[:40]
            raise ValueError(
                f"labels {source.target!r} must be numbers or classes that recur, got {word!r} in row {words[0] + 1}"
            )
        raise ValueError(
            f"labels {source.target!r} must be classes that recur, got {len(classes)} different ones in {len(y)} rows "
            "(for a regression: as_values=True, or on the command line --loss squared_error)"
        )
    return codes.astype(np.int64), tuple(str(label) for label in classes)
