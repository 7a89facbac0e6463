"""Machine code without Numba: what is kept of a kernel, what it calls, and what Python may give to it."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

import fastmlp
from fastmlp.kernels import cache, native
from fastmlp.kernels.cache import Compiled
from fastmlp.kernels.native import Kernel

FLOAT32 = np.dtype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new cache."""
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    return tmp_path


def halve_negative(kernel: Kernel) -> list[float]:
    """What the kernel of leaky_relu makes of three numbers."""
    A = np.array([-100.0, 0.0, 2.0], FLOAT32)
    assert kernel.entry(FLOAT32)(A.__array_interface__["data"][0], A.size) == 0
    return [float(a) for a in A]


def undefined(elf: bytes) -> set[str]:
    """The names that an ELF object file does not define."""
    (sections_at,) = struct.unpack_from("<Q", elf, 40)
    size, count = struct.unpack_from("<HH", elf, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, sections_at + size * k) for k in range(count)]
    (symbols,) = [section for section in sections if section[1] == 2]  # SHT_SYMTAB
    names = sections[symbols[6]]
    found = set()
    for at in range(symbols[4], symbols[4] + symbols[5], 24):
        name, _, _, section, _, _ = struct.unpack_from("<IBBHQQ", elf, at)
        if name and section == 0:
            start = names[4] + name
            found.add(elf[start : elf.index(b"\0", start)].decode())
    return found - {"_GLOBAL_OFFSET_TABLE_"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")
def test_what_kernels_call_is_kept_with_them() -> None:
    """All that this process's cache holds: LLVM ends the process if something is not there."""
    net = fastmlp.MLP([3, 4, 2], loss="poisson", output_activation="exp")
    net.fit(np.ones((4, 3)), np.ones((4, 2)), epochs=1)
    folder = cache.cache_folder()
    assert folder is not None
    called = set()
    for path in folder.glob("*.kernel"):
        body = cache.load(path.name)
        assert body is not None
        compiled = Compiled.unpack(body)
        assert undefined(compiled.kernel) <= set(compiled.calls), path.name
        assert undefined(compiled.entry) <= {compiled.symbol, *native.PYTHON_CALLS}, path.name
        called |= undefined(compiled.kernel)
    assert "log" in called  # That of the Poisson deviance.


def test_a_kernel_is_what_was_packed() -> None:
    for calls in ([], ["log", "memset"]):
        compiled = Compiled("name", calls, b"\n1 2\n\0", b"3\n")
        assert Compiled.unpack(compiled.pack()) == compiled


def test_one_that_calls_what_is_not_here_is_compiled_anew(folder: Path) -> None:
    right = halve_negative(Kernel("elementwise.leaky_relu"))
    assert right == pytest.approx([-1.0, 0.0, 2.0])
    (path,) = folder.iterdir()
    body = cache.load(path.name)
    assert body is not None
    compiled = Compiled.unpack(body)
    elsewhere = compiled._replace(calls=["a_function_of_nobody"]).pack()
    cache.save(path.name, elsewhere)
    assert halve_negative(Kernel("elementwise.leaky_relu")) == right
    assert cache.load(path.name) not in (None, elsewhere)


@pytest.mark.parametrize("arguments", [(), (0,), (0, 1, 2), (0, "1"), (0, 2**64), (0, None), (0, 1.5)])
def test_wrong_arguments_are_errors_of_python(arguments: tuple[object, ...]) -> None:
    with pytest.raises((TypeError, OverflowError)):
        native.kernel("elementwise.relu").entry(FLOAT32)(*arguments)
