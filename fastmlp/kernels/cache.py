"""The on-disk cache: one file for each compiled kernel, which is loaded without Numba.

Numba keys a cached function on the time stamp of the one file that defines it, so an edit to an imported helper, or to
a constant, would leave stale machine code behind; it runs what it finds in a file, whole or not; and to read it, Numba
has to be imported, which takes longer than most small networks take to train. Here the cache lives in a folder that is
named after everything the machine code depends on, so that a change of any of it is a new folder; and each file begins
with a hash of the rest, so that nothing is run but what was written.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import sys
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import llvmlite
import llvmlite.binding as llvm
import numpy as np
import platformdirs

from fastmlp.files import rename
from fastmlp.kernels.machine import MACHINE, numba_setting

if sys.platform != "win32":
    import fcntl


def hash_of_sources() -> bytes | None:
    """Hash the sources of the kernels; None if they are not there, as in some frozen programs."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.digest() if sources else None


SOURCES_HASH = hash_of_sources()
"""Read with the modules themselves: an upgrade on the disk must not give a running program's kernels its name."""

SETTINGS = {"CPU_NAME": None, "CPU_FEATURES": None, "OPT": 3, "LOOP_VECTORIZE": 1, "SLP_VECTORIZE": 0}
"""Numba's settings that machine code depends on, and what they are unless the environment says otherwise."""
MORE_SETTINGS = "BOUNDSCHECK", "DEBUGINFO", "ENABLE_AVX", "DISABLE_INTEL_SVML"
"""Others, of which the environment alone is asked."""


def numba_version() -> str | bytes:
    """Tell the installed Numba from others, without the half second that it takes to import."""
    spec = importlib.util.find_spec("numba")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("engine 'numba' needs Numba: install it, or use 'numpy'")
    try:
        return Path(spec.origin).with_name("_version.py").read_bytes()
    except OSError:
        import numba

        return str(numba.__version__)


@functools.cache
def cache_key() -> str:
    """Hash all that the machine code depends on."""
    environment = (
        SOURCES_HASH, numba_version(), llvmlite.__version__, np.__version__, sys.implementation.cache_tag,
        object.__basicsize__, llvm.get_default_triple(), llvm.get_host_cpu_name(),
        sorted(llvm.get_host_cpu_features().items()), MACHINE, *map(numba_setting, (*SETTINGS, *MORE_SETTINGS)),
    )  # fmt: skip
    return hashlib.sha256(repr(environment).encode()).hexdigest()[:16]


@functools.cache
def cache_folder() -> Path | None:
    """The folder of this key's machine code, which need not be there yet; None if there is no place for it."""
    root = cache_root()
    if SOURCES_HASH is None:
        warn_once(f"{AT_EACH_START}, because its sources are not there, which tell old machine code from new")
    elif root is None:
        warn_once(f"{AT_EACH_START}, because it knows no home folder; set NUMBA_CACHE_DIR to a folder")
    else:
        return Path(root, f"kernels-{cache_key()}")
    return None


def cache_root() -> str | None:
    """Where all keys' folders are; None without a home."""
    if given := numba_setting("CACHE_DIR"):
        return os.path.abspath(given)
    try:
        root = platformdirs.user_cache_dir("fastmlp", False)
    except RuntimeError:
        return None
    return root if os.path.isabs(root) else None  # Older versions give "~/.cache": it would be a folder named "~".


AT_EACH_START = "fastmlp compiles its kernels at each start"


warned: set[str] = set()


def warn_once(message: str) -> None:
    """Warn that something is compiled which could have been loaded, or will have to be at the next start.

    Dozens of kernels have one trouble, and one warning; one error, where warnings are errors.
    """
    if message not in warned:
        warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


class Compiled(NamedTuple):
    """What is kept of a kernel, for one dtype.

    Attributes
    ----------
    symbol : str
        The kernel's name in its machine code.
    calls : list of str or None
        What it calls, of the C library; None if that is not known.
    kernel : bytes
        Its machine code, an object file.
    entry : bytes
        That of the function `ENTRY`, which Python calls.
    """

    symbol: str
    calls: list[str] | None
    kernel: bytes
    entry: bytes

    def pack(self) -> bytes:
        """Write it in one piece."""
        calls = [UNKNOWN] if self.calls is None else self.calls
        return " ".join([self.symbol, str(len(self.kernel)), *calls]).encode() + b"\n" + self.kernel + self.entry

    @classmethod
    def unpack(cls, body: bytes) -> Compiled:
        """Read what `pack` has written."""
        head, _, rest = body.partition(b"\n")
        symbol, size, *calls = head.decode().split()
        return cls(symbol, None if calls == [UNKNOWN] else calls, rest[: int(size)], rest[int(size) :])


UNKNOWN = "?"
ENTRY = "fastmlp_entry"
"""The name, in machine code, of what Python calls; see `fastmlp.kernels.jit.emit_entry`."""

HASH_BYTES = 32


def load(name: str) -> bytes | None:
    """Read what was kept by a name; None if it is not there, or not whole."""
    if (folder := cache_folder()) is None:
        return None
    try:
        content = (folder / name).read_bytes()
    except OSError:
        return None
    body = content[HASH_BYTES:]
    if content[:HASH_BYTES] != hash_of(name, body):
        warn_once(f"fastmlp compiles again what it kept in {folder}, because a file there is damaged")
        return None
    return body


def save(name: str, body: bytes) -> None:
    """Keep it, if the disk lets us: beside its place first, so that others never read half."""
    if (folder := cache_folder()) is None:
        return
    path, beside = folder / name, folder / f"{name}.{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(hash_of(name, body) + body)
            rename(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        if os.path.isfile(path):  # From another process: Windows lets nobody replace what is being read.
            return
        keep_nothing(f"{folder} cannot be written ({error.strerror}); set NUMBA_CACHE_DIR to a folder that can")


keeps = True
"""Whether what this process compiles is kept, as far as it knows."""


def keep_nothing(why: str) -> None:
    """Warn that the cache gets nothing of this process."""
    global keeps
    keeps = False
    warn_once(f"{AT_EACH_START}, because {why}")


def count_files() -> int:
    """Count the kernels that are kept."""
    folder = cache_folder()
    try:
        return 0 if folder is None else sum(name.endswith(".kernel") for name in os.listdir(folder))
    except OSError:
        return 0


@contextmanager
def claim(name: str) -> Iterator[bool]:
    """Hold the making of a file, if no other process does: whether it is held.

    The system gives it back when this process ends, however that is. Where files cannot be locked, as on Windows and
    some network file systems, everybody may hold it; and if this process keeps nothing, nobody need wait for it.
    """
    folder = cache_folder() if sys.platform != "win32" and keeps else None
    if folder is None:
        yield True
        return
    path = folder / f"{name}.claim"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError:  # `save` says so.
        yield True
        return
    with file:
        is_held = not is_locked_elsewhere(file.fileno())
        try:
            yield is_held
        finally:
            if is_held:
                with suppress(OSError):
                    path.unlink()


def is_locked_elsewhere(descriptor: int) -> bool:
    """Lock a file, unless another process has: whether it has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # As on some network file systems.
        pass
    return False


def hash_of(name: str, body: bytes) -> bytes:
    """Hash a file: its name and the key, too.

    It guards against accidents: who may write to the folder can have any code run, as in a folder of packages.
    """
    return hashlib.sha256(f"{cache_key()} {name} ".encode() + body).digest()
