"""IDX files, the format of MNIST: a big-endian header, then one byte a pixel or label; gzip-compressed or not.

Loading the shipped digits is on the way to the first training step, hence the care for milliseconds here.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import zlib
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np

from fastmlp.datasets.source import MAX_DEFLATE_RATIO, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastmlp.datasets.source import Array

# SHA-256 of the uncompressed files, as in data/mnist/README.md.
MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MAGIC = {"images": 0x00000803, "labels": 0x00000801}
FILE_NAME = re.compile(r"(?:.*[-_.])?(train|t10k|test)[-_](images|labels)[-.]idx[13]-ubyte(?:\.gz)?", re.IGNORECASE)
GZIP_MAGIC = b"\x1f\x8b"
ZEROS = re.compile(rb"\0*")
# Bytes given to zlib at first, then twice as many each time: it copies what a short member leaves of them.
SHARE = 1 << 12
# Bytes inflated at a time: few enough to stay in cache, enough to be away from the GIL for long.
PIECE = 1 << 21


def load_mnist() -> Source:
    """Read the digits that come with fastmlp and verify their SHA-256."""
    package = Path(__file__).resolve().parents[1]
    places = (package / "data" / "mnist", package.parent / "data" / "mnist")  # installed package, repository
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"dataset 'mnist' must lie in {places[0]} or {places[1]}, found neither")
    files = {}
    for name, sha256 in MNIST_SHA256.items():
        split, content, *_ = name.split("-")
        files[split, content] = read_idx(folder / name, content, sha256)
    return _source(files, folder)


def load_folder(folder: Path) -> Source:
    """Read a folder with the four files of an MNIST-shaped data set, gzip-compressed or not."""
    files = {}
    for split in ("train", "t10k"):
        for content in ("images", "labels"):
            files[split, content] = read_idx(_find(folder, split, content), content)
    return _source(files, folder)


def _find(folder: Path, split: str, content: str) -> Path:
    """Return the file of `folder` that holds this part; of a file and its compressed twin, the plain one."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), reverse=True):  # "x.gz" comes before "x", which replaces it
        match = FILE_NAME.fullmatch(path.name)
        if match and match[1].lower().replace("test", "t10k") == split and match[2].lower() == content:
            found[path.name.removesuffix(".gz")] = path
    if not found:
        usual = f"{split}-{content}-idx{3 if content == 'images' else 1}-ubyte"
        raise FileNotFoundError(f"folder {folder} must hold {usual} or {usual}.gz, found neither")
    if len(found) > 1:
        names = ", ".join(sorted(path.name for path in found.values()))
        raise ValueError(f"folder {folder} must hold one file of {split} {content}, got {len(found)}: {names}")
    return found.popitem()[1]


def _source(files: dict[tuple[str, str], Array], folder: Path) -> Source:
    for split in ("train", "t10k"):
        images, labels = files[split, "images"], files[split, "labels"]
        if len(images) != len(labels):
            raise ValueError(
                f"{split} files in {folder} must hold as many labels as images, "
                f"got {len(labels)} labels and {len(images)} images"
            )
    y_train, y_test = files["train", "labels"], files["t10k", "labels"]
    n_classes = int(max(y_train.max(), y_test.max())) + 1
    return Source(
        files["train", "images"],
        y_train,
        files["t10k", "images"],
        y_test,
        class_names=tuple(str(k) for k in range(n_classes)),
    )


def read_idx(path: Path, content: str, sha256: str | None = None) -> Array:
    """Read one IDX file of bytes.

    Parameters
    ----------
    path : Path
        The file, gzip-compressed or not: its first bytes tell.
    content : {"images", "labels"}
        What the file has to hold.
    sha256 : str, optional
        The hexadecimal SHA-256 that the uncompressed file must have.

    Returns
    -------
    ndarray of uint8, (n, height, width) or (n,)

    Raises
    ------
    ValueError
        If the file is empty, truncated, damaged, of the other kind, or not the one with that checksum. Memory is
        allocated only after the header has been held against the length of the file.
    """
    if not path.is_file():  # opening a pipe may wait for ever
        raise ValueError(f"{path} must be a regular file")
    with path.open("rb") as file:
        begin = file.read(16)
        file.seek(0)
        length = os.fstat(file.fileno()).st_size
        if begin.startswith(GZIP_MAGIC):
            return _read_packed(file.read(), path, content, sha256)
        shape, start = _parse_header(begin, path, content)
        size = start + math.prod(shape)
        if size != length:
            raise ValueError(f"{path} must hold the {size} bytes that its header announces, got {length} bytes")
        data = np.fromfile(file, np.uint8)
    _check_size(data.size, size, path)
    if sha256 is not None:
        _check_sha256(hashlib.sha256(data.data), sha256, path)
    return data[start:].reshape(shape)


def _read_packed(stored: bytes, path: Path, content: str, sha256: str | None) -> Array:
    """Inflate a gzip-compressed file, no further than to the bytes that its header announces."""
    pieces = _inflate(stored, path)
    piece = next(pieces, b"")
    while len(piece) < 16 and (more := next(pieces, b"")):  # short members
        piece += more
    shape, start = _parse_header(bytes(piece[:16]), path, content)
    size = start + math.prod(shape)
    if size > MAX_DEFLATE_RATIO * len(stored):
        held = f"{len(stored)} compressed bytes"
        raise ValueError(f"{path} must hold the {size} bytes that its header announces, got {held}")

    try:
        data = np.empty(size, np.uint8)  # the system gives memory to what is written, not to what was announced
    except MemoryError:
        raise ValueError(f"{path} must fit in memory, got a header that announces {size} bytes") from None
    digest, filled = hashlib.sha256(), 0
    hashing = Thread()
    while piece:
        if filled + len(piece) > size:
            raise ValueError(f"{path} must hold the {size} bytes that its header announces, got more")
        data[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
        if sha256 is not None:  # in a thread, beside the inflation of the next piece: neither holds the GIL
            if hashing.ident:
                hashing.join()
            hashing = Thread(target=digest.update, args=(piece,))
            hashing.start()
        piece = next(pieces, b"")
    if hashing.ident:
        hashing.join()
    _check_size(filled, size, path)
    if sha256 is not None:
        _check_sha256(digest, sha256, path)
    return data[start:].reshape(shape)


def _check_size(held: int, size: int, path: Path) -> None:
    if held != size:
        raise ValueError(f"{path} must hold the {size} bytes that its header announces, got {held}")


def _check_sha256(digest: hashlib._Hash, sha256: str, path: Path) -> None:
    if digest.hexdigest() != sha256:
        raise ValueError(f"{path} must have the SHA-256 {sha256} (uncompressed), got {digest.hexdigest()}")


def _parse_header(header: bytes, path: Path, content: str) -> tuple[tuple[int, ...], int]:
    """Return the shape of the array and the offset of its first byte."""
    if not header:
        raise ValueError(f"{path} must be an IDX file of {content}, got an empty file")
    magic = int.from_bytes(header[:4], "big")
    if magic != MAGIC[content]:
        other = next((kind for kind, value in MAGIC.items() if value == magic), None)
        hint = f" (a file of {other}: swapped?)" if other else ""
        raise ValueError(f"{path} must start with the magic number 0x{MAGIC[content]:08x} of {content}, "
                         f"got 0x{header[:4].hex()}{hint}")  # fmt: skip
    start = 4 + 4 * (magic & 0xFF)
    if len(header) < start:
        raise ValueError(f"{path} must have a header of {start} bytes, got {len(header)}")
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, start, 4))
    if 0 in shape:
        raise ValueError(f"{path} must hold at least one sample of at least one byte, got the shape {shape}")
    return shape, start


def _inflate(stored: bytes, path: Path) -> Iterator[bytes]:
    """Yield the contents of a gzip file, whose own checksum zlib verifies, in pieces of at most `PIECE` bytes.

    ``gzip.decompress`` takes 30 % longer, and has no limit to what a hostile file may inflate to.
    """
    view, place = memoryview(stored), 0
    while place < len(stored):
        inflater, share = zlib.decompressobj(wbits=31), SHARE
        while not inflater.eof:
            given = view[place : place + share]
            try:
                piece = inflater.decompress(given, PIECE)
            except zlib.error as error:
                raise ValueError(f"{path} must be a sound gzip file, got a damaged one ({error})") from None
            left = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            place += len(given) - len(left)
            share = min(2 * share, PIECE)
            if piece:
                yield piece
            elif not inflater.eof and len(left) == len(given):
                raise ValueError(f"{path} must be a complete gzip file, got a truncated one")
        place = ZEROS.match(stored, place).end()  # type: ignore[union-attr]  # padding, or a further member
