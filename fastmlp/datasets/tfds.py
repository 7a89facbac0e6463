"""Data sets of the tensorflow-datasets catalogue, read without TensorFlow from a prepared ArrayRecord copy.

Decoding 60,000 PNG digits takes several seconds, so the decoded arrays are kept in the user's cache folder. A cache
that is stale, damaged or cannot be written only costs that time again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp.datasets.source import Source, one_line
from fastmlp.files import rename
from fastmlp.spec import did_you_mean

if TYPE_CHECKING:
    from fastmlp.datasets.source import Array

BATCH = 1024  # records read at a time: one by one, each costs three times as much
PILLOW_MODE = {1: "L", 3: "RGB", 4: "RGBA"}  # by the number of channels


def load_tfds(name: str, target: str | None, data_dir: str | os.PathLike[str] | None) -> Source:
    """Read ``NAME``, ``NAME/CONFIG`` or ``NAME/CONFIG:VERSION`` of the catalogue."""
    try:
        builder = _open(name, data_dir)
        cache = _cache_file(builder, target)
        source = _read_cache(cache)
        if source is None:
            source = _decode(builder, name, target)
            _write_cache(cache, source)
    except ImportError as error:
        missing = error.name or one_line(error)
        raise ModuleNotFoundError(
            f"dataset 'tfds:{name}' needs the package {missing!r}: pip install 'fastmlp[tfds]'",
            name=error.name,
        ) from None
    return source


def _open(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """Return the library's builder for `name`, with an ArrayRecord copy prepared."""
    import tensorflow_datasets as tfds

    folder = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        builder = tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError:
        plain = name.split("/")[0].split(":")[0]
        hint = did_you_mean(plain, tfds.list_builders(with_community_datasets=False))
        raise ValueError(f"dataset must be in the catalogue of tensorflow-datasets, got 'tfds:{name}'{hint}") from None
    except (AssertionError, ValueError, TypeError, OSError, RuntimeError) as error:
        raise ValueError(f"dataset 'tfds:{name}' cannot be opened: {one_line(error)}") from None

    copy = f"an ArrayRecord copy of 'tfds:{name}' must lie in {builder.data_dir}"
    elsewhere = "or point --data-dir (data_dir) to where a copy is"
    if not builder.is_prepared():
        if find_spec("tensorflow") is None:
            raise FileNotFoundError(f"{copy}: pip install tensorflow, which prepares it, {elsewhere}")
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # anything from a lost connection to a changed page
            raise ValueError(f"{copy}, preparing it failed, {elsewhere}: {one_line(error)}") from None
    elif not builder.info.available_file_formats() & tfds.core.FileFormat.with_random_access():
        stored = builder.info.file_format.value
        raise ValueError(
            f"{copy}, got {stored}: run 'tfds build {name} --file_format=array_record' into another folder, {elsewhere}"
        )
    return builder


def _decode(builder: Any, name: str, target: str | None) -> Source:
    """Decode the training split and, if there is one, the test or validation split."""
    features, splits = builder.info.features, list(builder.info.splits)
    pair = builder.info.supervised_keys
    keys = [key for key in features if key != target] if pair is None else [pair[0]]
    if len(keys) != 1 or not isinstance(keys[0], str) or (pair is None and target is None):
        raise ValueError(f"dataset 'tfds:{name}' must declare one input and one label, got features {list(features)}")
    x, y = keys[0], target or pair[1]
    if y not in list(features) or y == x:
        hint = did_you_mean(str(y), features)
        raise ValueError(f"target must name a label of 'tfds:{name}' ({', '.join(features)}), got {y!r}{hint}")
    if "train" not in splits:
        raise ValueError(f"dataset 'tfds:{name}' must have a split 'train', got {', '.join(splits)}")

    test = next((split for split in ("test", "validation") if split in splits), None)
    try:
        X_train, y_train = _decode_split(builder, "train", x, y)
        X_test, y_test = _decode_split(builder, test, x, y) if test else (None, None)
    except ImportError:
        raise
    except Exception as error:  # each layer beneath has exceptions of its own
        raise ValueError(f"dataset 'tfds:{name}' in {builder.data_dir} cannot be read: {one_line(error)}") from None
    names = getattr(features[y], "names", None)
    return Source(X_train, y_train, X_test, y_test, class_names=names and tuple(names), target=str(y))


def _decode_split(builder: Any, split: str, x: str, y: str) -> tuple[Array, Array]:
    from tensorflow_datasets.core.decode import SkipDecoding
    from tensorflow_datasets.core.features import Image

    features = builder.info.features
    images = [key for key in features if isinstance(features[key], Image)]
    records = builder.as_data_source(split, decoders={key: SkipDecoding() for key in images} or None)
    X: Array | None = None
    labels = []
    for start in range(0, len(records), BATCH):
        stop = min(start + BATCH, len(records))
        for i, record in enumerate(records.__getitems__(list(range(start, stop))), start):
            value = _decode_image(record[x], features[x]) if x in images else np.asarray(record[x])
            if X is None:
                X = np.empty((len(records), *value.shape), value.dtype)
            if value.shape != X.shape[1:]:
                raise ValueError(f"all samples must have one shape, got {X.shape[1:]} and {value.shape}")
            X[i] = value
            labels.append(record[y])
    if X is None:
        raise ValueError(f"split {split!r} must have samples, got none")
    return X, np.array(labels)


def _decode_image(encoded: bytes, feature: Any) -> Array:
    """Decode PNG or JPEG bytes with Pillow; one channel becomes a plain (height, width)."""
    from PIL import Image

    mode = PILLOW_MODE.get(feature.shape[-1])
    if feature.np_dtype != np.uint8 or mode is None:
        raise ValueError(f"images must be uint8 with 1, 3 or 4 channels, got {feature.np_dtype} of {feature.shape}")
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image if image.mode == mode else image.convert(mode))


def _cache_file(builder: Any, target: str | None) -> tuple[Path, str] | None:
    """Return the cache file of this copy and what the copy looks like now; None if that cannot be told."""
    from platformdirs import user_cache_path

    try:
        files = sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in os.scandir(builder.data_dir))
        place = repr((os.path.realpath(builder.data_dir), target)).encode()
        label = f"{builder.info.full_name.replace('/', '-')}-{hashlib.sha256(place).hexdigest()[:12]}.npz"
        return user_cache_path("fastmlp", False) / "tfds" / label, hashlib.sha256(repr(files).encode()).hexdigest()
    except (OSError, RuntimeError):  # The second: there is no home folder.
        return None


def _read_cache(cache: tuple[Path, str] | None) -> Source | None:
    if cache is None:
        return None
    path, identity = cache
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["identity"]) != identity:
                return None
            part = {name: stored[name] for name in stored.files}
        names = tuple(part.pop("class_names").tolist()) if "class_names" in part else None
        X_test, y_test, target = part.get("X_test"), part.get("y_test"), str(part["target"])
        return Source(part["X_train"], part["y_train"], X_test, y_test, class_names=names, target=target)
    except Exception:  # whatever is wrong with it, the prepared copy is there
        return None


def _write_cache(cache: tuple[Path, str] | None, source: Source) -> None:
    """Write to a temporary file beside the cache, then put it in place in one step."""
    if cache is None or any(a is not None and a.dtype.hasobject for a in (source.y_train, source.y_test)):
        return
    path, identity = cache
    arrays = {name: value for name, value in vars(source).items() if value is not None}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(suffix=".npz", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, identity=np.array(identity), **arrays)
            rename(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
