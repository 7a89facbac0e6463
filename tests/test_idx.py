"""load_dataset: the shipped digits and folders of IDX files, and what bad ones get told."""

import contextlib
import gzip
import hashlib
import re
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import load_fails

from fastmlp.datasets import idx, load_dataset

MNIST = Path(__file__).resolve().parents[1] / "data" / "mnist"
README_CHECKSUM = re.compile(r"\| ([\w-]+) \| ([\d,]+) \| ([0-9a-f]{64}) \|")

# The shipped digits


def test_mnist_is_the_published_one():
    data = load_dataset("mnist", raw=True)
    assert data.X_train.shape == (60000, 784)
    assert data.X_test.shape == (10000, 784)
    # Published label counts, first labels, and the mean and deviation that everyone normalises with.
    assert np.bincount(data.y_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.y_test[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.X_train.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert data.X_train.std() / 255 == pytest.approx(0.3081, abs=5e-5)


def test_mnist_bytes_are_those_of_the_files():
    data = load_dataset("mnist", raw=True)
    arrays = {
        "train-images-idx3-ubyte": (data.X_train, 16),
        "train-labels-idx1-ubyte": (data.y_train, 8),
        "t10k-images-idx3-ubyte": (data.X_test, 16),
        "t10k-labels-idx1-ubyte": (data.y_test, 8),
    }
    checksums = README_CHECKSUM.findall((MNIST / "README.md").read_text(encoding="utf-8"))
    assert [name for name, _, _ in checksums] == list(arrays)
    for name, size, sha256 in checksums:
        content = gzip.decompress((MNIST / f"{name}.gz").read_bytes())
        assert len(content) == int(size.replace(",", ""))
        assert hashlib.sha256(content).hexdigest() == sha256
        array, header = arrays[name]
        assert array.astype(np.uint8).tobytes() == content[header:]


def test_mnist_fields():
    raw, data = load_dataset("mnist", raw=True), load_dataset("mnist")
    assert (raw.X_train.dtype, raw.y_train.dtype, raw.y_test.dtype) == (np.uint8, np.int64, np.int64)
    assert (data.X_train.dtype, data.X_test.dtype) == (np.float32, np.float32)
    assert (raw.input_scale, data.input_scale) == (1 / 255, 1.0)
    assert data.name == "mnist"
    assert data.class_names == tuple("0123456789")
    assert data.image_shape == (28, 28)
    assert data.X_test.min() == 0
    assert data.X_test.max() == 1
    np.testing.assert_allclose(data.X_test, raw.X_test / 255, rtol=1e-6)
    assert data.X_train.flags.c_contiguous
    assert data.X_train.flags.writeable
    assert raw.X_train.flags.writeable
    assert len(repr(data)) < 300


def copy_mnist(folder):
    folder.mkdir(parents=True)
    for path in MNIST.glob("*.gz"):
        (folder / path.name).symlink_to(path)
    return folder


def test_mnist_is_found_inside_an_installed_package(tmp_path, monkeypatch):
    copy_mnist(tmp_path / "fastmlp" / "data" / "mnist")
    monkeypatch.setattr(idx, "__file__", str(tmp_path / "fastmlp" / "datasets" / "idx.py"))
    assert load_dataset("mnist", raw=True).y_test[:5].tolist() == [7, 2, 1, 0, 4]


def test_mnist_with_one_changed_pixel_is_refused(tmp_path, monkeypatch):
    folder = copy_mnist(tmp_path / "data" / "mnist")
    monkeypatch.setattr(idx, "__file__", str(tmp_path / "fastmlp" / "datasets" / "idx.py"))
    name = "t10k-images-idx3-ubyte.gz"
    content = bytearray(gzip.decompress((MNIST / name).read_bytes()))
    content[5_000_000] ^= 1
    (folder / name).unlink()
    (folder / name).write_bytes(gzip.compress(bytes(content), 1))
    message = load_fails(ValueError, "must have the SHA-256 0fa7898d", "mnist")
    assert name in message
    assert hashlib.sha256(content).hexdigest() in message


def test_mnist_missing_says_where_it_should_be(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "__file__", str(tmp_path / "fastmlp" / "datasets" / "idx.py"))
    assert str(tmp_path / "data" / "mnist") in load_fails(FileNotFoundError, "found neither", "mnist")


def test_loading_mnist_imports_nothing_heavy():
    code = (
        "import sys; from fastmlp.datasets import load_dataset; load_dataset('mnist', raw=True);"
        "print(*{'pandas', 'pyarrow', 'tensorflow_datasets', 'PIL', 'platformdirs', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# IDX folders

IMAGES = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3) * 8
LABELS = [3, 0, 1, 2, 1]


def idx_images(images):
    return struct.pack(">IIII", 0x803, *images.shape) + images.tobytes()


def idx_labels(labels):
    return struct.pack(">II", 0x801, len(labels)) + bytes(labels)


def idx_folder(folder, name="{split}-{content}-idx{n}-ubyte", test="t10k", pack=bytes):
    """Write a set of 5 training and 3 test images of 2 × 3 pixels."""
    folder.mkdir(exist_ok=True)
    for split, k in (("train", 5), (test, 3)):
        files = (("images", 3, idx_images(IMAGES[:k])), ("labels", 1, idx_labels(LABELS[:k])))
        for content, n, stored in files:
            (folder / name.format(split=split, content=content, n=n)).write_bytes(pack(stored))
    return folder


@pytest.mark.parametrize(
    ("name", "test", "pack"),
    [
        ("{split}-{content}-idx{n}-ubyte", "t10k", bytes),
        ("{split}-{content}.idx{n}-ubyte", "t10k", bytes),
        ("{split}-{content}-idx{n}-ubyte.gz", "t10k", gzip.compress),
        ("{split}-{content}.idx{n}-ubyte.gz", "t10k", gzip.compress),
        ("emnist-letters-{split}-{content}-idx{n}-ubyte.gz", "test", gzip.compress),
        ("{split}-{content}-idx{n}-ubyte.gz", "t10k", bytes),  # unpacked by a browser that kept the name
        ("{split}-{content}-idx{n}-ubyte", "t10k", gzip.compress),
        ("{split}-{content}-idx{n}-ubyte", "t10k", lambda stored: gzip.compress(stored) + bytes(512)),
    ],
)
def test_idx_folder(tmp_path, name, test, pack):
    folder = idx_folder(tmp_path / "set", name, test, pack)
    data = load_dataset(folder, raw=True)
    assert data.X_train.tolist() == IMAGES.reshape(5, 6).tolist()
    assert data.X_test.tolist() == IMAGES[:3].reshape(3, 6).tolist()
    assert data.y_train.tolist() == LABELS
    assert data.y_test.tolist() == LABELS[:3]
    assert data.class_names == ("0", "1", "2", "3")
    assert data.image_shape == (2, 3)
    assert data.input_scale == 1 / 255
    scaled = load_dataset(str(folder))
    assert scaled.X_train.dtype == np.float32
    np.testing.assert_allclose(scaled.X_train, IMAGES.reshape(5, 6) / 255, rtol=1e-6)


def test_idx_file_of_several_gzip_members(tmp_path):
    folder = idx_folder(tmp_path)
    stored = idx_images(IMAGES)
    packed = gzip.compress(stored[:20]) + gzip.compress(stored[20:])
    (folder / "train-images-idx3-ubyte").write_bytes(packed)
    assert load_dataset(folder, raw=True).X_train.tolist() == IMAGES.reshape(5, 6).tolist()


def test_idx_plain_file_comes_before_its_compressed_twin(tmp_path):
    folder = idx_folder(tmp_path)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_images(IMAGES[::-1])))
    assert load_dataset(folder, raw=True).X_train[0].tolist() == IMAGES[0].ravel().tolist()


def test_idx_two_sets_in_one_folder(tmp_path):
    idx_folder(idx_folder(tmp_path), "emnist-{split}-{content}-idx{n}-ubyte")
    message = load_fails(ValueError, "must hold one file of train images, got 2", tmp_path)
    assert "emnist-train-images-idx3-ubyte, train-images-idx3-ubyte" in message


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("file", "stored", "pattern"),
    [
        ("train-images-idx3-ubyte", idx_labels(LABELS), r"magic number 0x00000803 of images, got 0x00000801 .*swapped"),
        ("t10k-labels-idx1-ubyte", idx_images(IMAGES), r"magic number 0x00000801 of labels, got 0x00000803 .*swapped"),
        ("train-images-idx3-ubyte", b"P5 28 28 255 ", r"magic number 0x00000803 of images, got 0x50352032$"),
        ("train-images-idx3-ubyte", b"\0\0", r"magic number 0x00000803 of images, got 0x0000$"),
        ("train-images-idx3-ubyte", b"", "got an empty file"),
        ("train-images-idx3-ubyte", idx_images(IMAGES)[:12], "header of 16 bytes, got 12"),
        ("train-images-idx3-ubyte", idx_images(IMAGES)[:-1], "must hold the 46 bytes that its header announces, got"),
        ("train-images-idx3-ubyte", idx_images(IMAGES) + b"x", "must hold the 46 bytes that its header announces, got"),
        ("train-images-idx3-ubyte", idx_images(IMAGES[:0]), r"at least one sample .* got the shape \(0, 2, 3\)"),
        ("train-images-idx3-ubyte", idx_images(IMAGES[:4]), "train files .* got 5 labels and 4 images"),
        ("t10k-labels-idx1-ubyte", idx_labels([1, 2]), "t10k files .* got 2 labels and 3 images"),
        ("t10k-images-idx3-ubyte", idx_images(IMAGES[:3, :, :2]), r"shape \(2, 3\) of the others, got \(2, 2\)"),
    ],
)
def test_idx_bad_file(tmp_path, file, stored, pattern, pack):
    (idx_folder(tmp_path) / file).write_bytes(pack(stored))
    load_fails(ValueError, pattern, tmp_path)


def test_idx_missing_file(tmp_path):
    (idx_folder(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    load_fails(FileNotFoundError, "t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz, found neither", tmp_path)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_idx_cut_or_damaged_gzip_is_always_noticed(tmp_path_factory, data):
    folder = idx_folder(tmp_path_factory.mktemp("cut"))
    stored = gzip.compress(idx_images(IMAGES), mtime=0)
    cut = data.draw(st.integers(2, len(stored) - 1))
    (folder / "train-images-idx3-ubyte").write_bytes(stored[:cut])
    load_fails(ValueError, "train-images-idx3-ubyte must", folder)
    flipped = bytearray(stored)
    flipped[data.draw(st.integers(10, len(stored) - 1))] ^= data.draw(st.integers(1, 255))  # behind gzip's header
    with contextlib.suppress(Exception):  # Some bits only fill the last byte of what is compressed.
        if gzip.decompress(bytes(flipped)) == gzip.decompress(stored):
            return
    (folder / "train-images-idx3-ubyte").write_bytes(flipped)
    load_fails(ValueError, "train-images-idx3-ubyte must", folder)


@pytest.mark.parametrize(
    "stored",
    [
        struct.pack(">IIII", 0x803, 2**32 - 1, 28, 28),
        gzip.compress(struct.pack(">IIII", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1)),
        gzip.compress(struct.pack(">IIII", 0x803, 50_000, 28, 28)),
        gzip.compress(struct.pack(">IIII", 0x803, 1, 28, 28) + bytes(200_000_000), 1),
    ],
    ids=["absurd count", "absurd count, gzip", "count beyond what gzip can hold", "gzip bomb"],
)
def test_idx_header_is_not_believed(tmp_path, stored):
    (idx_folder(tmp_path) / "train-images-idx3-ubyte").write_bytes(stored)
    tracemalloc.start()
    try:
        load_fails(ValueError, "bytes that its header announces, got", tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 16e6
    finally:
        tracemalloc.stop()
