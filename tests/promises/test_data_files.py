"""Promise 2, for data sets: IDX, .npz and CSV files are data, never code, and promise nothing that is believed."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import damage
import numpy as np
import pytest
from test_model_files import ALLOWANCE, Bomb, bombs, peak_of, run_damage

from fastmlp import load_dataset
from fastmlp.datasets.idx import read_idx


@pytest.mark.parametrize("kind", ["idx", "npz", "csv"])
def test_damaged_files(kind: str, promise: Any, count: Any) -> None:
    tries = count(2000, 100_000)
    for seed in range(0, tries, 10_000):
        n = min(10_000, tries - seed)
        with promise(f"2 a damaged {kind} file is refused, or is sound; code, other files, memory: none", n):
            report = run_damage(kind, seed, n)
            assert report["wrong"] == []
            assert report["refused"] > n / 2
            assert report["loaded"] > n / 50
            assert report["kinds of refusal"] > 10
            assert report["slowest"] < 5


# --- Code -------------------------------------------------------------------------------------------------------------


def test_no_file_is_unpickled(tmp_path: Path, promise: Any) -> None:
    made = tmp_path / "made"
    objects = np.array([Bomb(made), 1], dtype=object)
    np.savez(tmp_path / "objects", X=objects, y=[0, 1])
    np.savez(tmp_path / "labels", X=np.zeros((2, 1)), y=objects)
    with (tmp_path / "array").open("wb") as file:
        np.save(file, objects)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:  # An array that is a pickle and nothing else.
        written.writestr("X.npy", pickle.dumps(Bomb(made), 2))
        written.writestr("y.npy", pickle.dumps(Bomb(made), 2))
    files = {
        **bombs(made), "members": archive.getvalue(),
        **{name: (tmp_path / name).read_bytes() for name in ("objects.npz", "labels.npz", "array")},
    }  # fmt: skip
    for data in files.values():
        for name in ("table.npz", "table.csv"):
            (tmp_path / name).write_bytes(data)
            with promise("2 a data file that would run code runs none"):
                with pytest.raises(ValueError):  # noqa: PT011  Each has its own message.
                    load_dataset(tmp_path / name, target="y")
                assert not made.exists()
    np.load(tmp_path / "objects.npz", allow_pickle=True)["X"]
    assert made.exists()  # The bombs are live.


# --- Bombs: small files of large contents -----------------------------------------------------------------------------


def refused(path: Path, rule: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=rule):
        load_dataset(path, **options)


def idx_refused(path: Path, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        read_idx(path, "images")


def idx(n: int) -> bytes:
    return struct.pack(">IIII", 0x803, n, 28, 28)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: gzip.compress(idx(1) + bytes(300 << 20), 1), "the 800 bytes that its header announces, got more"),
        (lambda: gzip.compress(idx(1) + bytes(784), 1) + gzip.compress(bytes(300 << 20), 1), "got more"),
        (lambda: gzip.compress(idx(2**32 - 1)), "got 31 compressed bytes|got [0-9]+ compressed bytes"),
        (lambda: idx(2**32 - 1) + bytes(1000), "header announces, got 1016 bytes"),
        (lambda: gzip.compress(b"") * 20_000, "got an empty file"),
        (lambda: b"".join(gzip.compress(bytes([b])) for b in idx(1)) + gzip.compress(b"\0") * 50_000, "got more"),
        (lambda: gzip.compress(idx(1)) + bytes(20 << 20) + b"x", "truncated"),
    ],
    ids=["stream", "member", "count", "count, plain", "empty members", "short members", "padding"],
)  # fmt: skip
def test_idx_bombs(make: Any, rule: str, tmp_path: Path, promise: Any) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(make())
    started = time.process_time()
    with promise("2 small files of large contents: refused, in time and memory of the file's size"):
        assert peak_of(lambda: idx_refused(path, rule)) < path.stat().st_size + ALLOWANCE
        assert time.process_time() - started < 20


def test_many_gzip_members_take_time_in_proportion(tmp_path: Path, promise: Any) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"

    def seconds(n: int) -> float:
        path.write_bytes(gzip.compress(b"") * n)
        started = time.process_time()
        idx_refused(path, "got an empty file")
        return time.process_time() - started

    with promise("2 small files of large contents: refused, in time and memory of the file's size"):
        assert seconds(80_000) < 8 * seconds(20_000)  # 16 times, were the rest of the file copied for each.


def test_a_large_idx_file_is_held_once(tmp_path: Path, promise: Any) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    with path.open("wb") as file:
        file.write(idx(150_000))
        file.truncate(16 + 150_000 * 784)
    with promise("2 an IDX file takes its own size"):
        assert peak_of(lambda: read_idx(path, "images")) < path.stat().st_size + (1 << 20)


def npz(method: int, members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(announced: str, content: bytes) -> bytes:
    header = announced.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + content


X_HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 1)}"
LABELS = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4,)}", b"\0\1\0\1")


def encrypted(data: bytes) -> bytes:
    """Set the flag of encryption in every header."""
    flagged = bytearray(data)
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = flagged.find(signature)
        while at >= 0:
            flagged[at + place] |= 1
            at = flagged.find(signature, at + 4)
    return bytes(flagged)


def one_table(X: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    return npz(method, {"X.npy": X, "y.npy": LABELS})


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: one_table(npy(X_HEADER % 4, bytes(300 << 20))), "announces uint8 of shape .4, 1., but holds 314"),
        (lambda: one_table(npy(X_HEADER % 10**12, bytes(4))), "announces uint8 of shape"),
        (lambda: one_table(npy(X_HEADER % -4, bytes(4))), "announces uint8 of shape"),
        (lambda: one_table(npy(X_HEADER % (300 << 20), bytes(300 << 20)), zipfile.ZIP_BZIP2), "by method 12"),
        (lambda: one_table(npy(X_HEADER % (100 << 20), bytes(100 << 20)), zipfile.ZIP_LZMA), "by method 14"),
        (lambda: one_table(bytes(300 << 20)), "magic"),
        (lambda: npz(zipfile.ZIP_DEFLATED, {"bomb": bytes(300 << 20), "y.npy": LABELS}), "must hold an array 'X'"),
        (lambda: encrypted(one_table(npy(X_HEADER % 4, bytes(4)))), "password"),
        (lambda: one_table(npy(X_HEADER.replace("u1", "V0") % 10**12, b"")), "announces"),
        (lambda: one_table(npy("(" * 5000, b"")), "sound .npz file"),
    ],
    ids=["member", "count", "negative", "bzip2", "lzma", "raw", "beside", "encrypted", "no bytes", "nested"],
)  # fmt: skip
def test_npz_bombs(make: Any, rule: str, tmp_path: Path, promise: Any) -> None:
    path = tmp_path / "table.npz"
    path.write_bytes(make())
    started = time.process_time()
    with promise("2 small files of large contents: refused, in time and memory of the file's size"):
        assert peak_of(lambda: refused(path, rule)) < path.stat().st_size + ALLOWANCE
        assert time.process_time() - started < 20


def test_what_zip_says_of_itself_is_not_believed(tmp_path: Path, promise: Any) -> None:
    """The directory of the archive claims gigabytes, and so does the array's header; the bytes are not there."""
    path = tmp_path / "table.npz"
    claimed = 3 << 30
    data = bytearray(one_table(npy(X_HEADER % (claimed - 128), bytes(1000)), zipfile.ZIP_STORED))
    at = data.index(b"PK\1\2")
    data[at + 20 : at + 28] = struct.pack("<II", claimed, claimed)
    path.write_bytes(data)
    with promise("2 small files of large contents: refused, in time and memory of the file's size"):
        assert peak_of(lambda: refused(path, "sound .npz file")) < len(data) + ALLOWANCE


def test_csv_bombs(tmp_path: Path, promise: Any) -> None:
    path = tmp_path / "table.csv"
    n = 200_000
    files = {
        "must have different names, got 'a' twice": "a," * n + "t\n" + "1," * n + "1\n",
        "must name a column": ",".join(f"c{i}" for i in range(n)) + "\n",
        "one line": "a" * 3_000_000,
        "a line": "a,t\n" + '1,"' + "x" * 3_000_000,
        "must be numeric": "a,t\n" + "9" * 100_000 + "e,1\n",
    }
    for rule, text in files.items():
        path.write_text(text)
        started = time.process_time()
        with promise("2 a table that is hostile is refused in time"):
            with pytest.raises(ValueError, match=rule if "must" in rule else "must") as error:
                load_dataset(path, target="t")
            assert len(str(error.value)) < 600
            assert time.process_time() - started < 20


def test_one_long_label_does_not_lengthen_the_others(tmp_path: Path, promise: Any) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,t\n" + f"1,{'long' * 30_000}\n" * 2 + "1,ant\n" * 100_000)
    with promise("2 a table takes memory in proportion to its size"):
        peak = peak_of(lambda: load_dataset(path, target="t"))
        assert peak < 32 * path.stat().st_size + ALLOWANCE  # As one array of NumPy's strings: 48 GB.
    assert load_dataset(path, target="t").class_names == ("ant", "long" * 30_000)


LACK_OF_MEMORY = """
import resource, sys
from fastmlp import load_dataset
from fastmlp.datasets.idx import read_idx
from pathlib import Path
path, kind, limited = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "limited"
import zipfile, numpy.lib.format
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if limited:
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (512 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
try:
    read_idx(path, "images") if kind == "idx" else load_dataset(path)
except ValueError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["idx", "npz"])
@pytest.mark.parametrize("limited", ["limited", "free"])
def test_gigabytes_that_could_be_there(kind: str, limited: str, tmp_path: Path, promise: Any) -> None:
    """A header announces as much as its bytes might inflate to; they do not. Only what is there takes memory."""
    noise = np.random.default_rng(0).bytes(4 << 20)  # Which could be of 4 GB, were they compressed zeros.
    n = (3 << 30) // 784
    if kind == "idx":
        path = tmp_path / "train-images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(idx(n) + noise, 1))
    else:
        path = tmp_path / "table.npz"
        data = bytearray(one_table(npy(X_HEADER % (784 * n), noise)))
        at = data.index(b"PK\1\2")
        data[at + 24 : at + 28] = struct.pack("<I", 784 * n + 128)
        path.write_bytes(data)
    with promise("2 small files of large contents: refused, in time and memory of the file's size"):
        done = subprocess.run(
            [sys.executable, "-c", LACK_OF_MEMORY, str(path), kind, limited],
            capture_output=True, text=True, timeout=100, check=True,
        )  # fmt: skip
        message, grown = done.stdout.splitlines()
        assert message.startswith(str(path))
        assert int(grown) < 2 * path.stat().st_size + ALLOWANCE  # The file and what it holds.


def test_pipes_are_not_waited_for(tmp_path: Path, promise: Any) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes on this system")
    damage.labels_beside(tmp_path)
    for name in ("train-images-idx3-ubyte", "table.npz", "table.csv"):
        os.mkfifo(tmp_path / name)
        with promise("2 pipes, devices and folders are refused"), pytest.raises((ValueError, FileNotFoundError)):
            load_dataset(tmp_path if "idx" in name else tmp_path / name, target=None if "idx" in name else "y")
