"""How kernels are compiled and kept: the njit options, the cache, the machine's vectors. Decided once, here."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import pickle
import sys
import threading
import types
import uuid
import warnings
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
import platformdirs
from numba.core import serialize
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target

if numba.config.DISABLE_JIT:
    raise ImportError(
        "engine 'numba' needs Numba's compiler, which NUMBA_DISABLE_JIT turns off: unset it, or use 'numpy'"
    )


class Machine(NamedTuple):
    """What the kernels need to know of the CPU.

    Attributes
    ----------
    vector_bytes : int
        Bytes of the widest vector register that is worth using.
    registers : int
        How many of them there are.
    fused : bool
        Whether it has a fused multiply-add.
    """

    vector_bytes: int
    registers: int
    fused: bool


def detect_machine() -> Machine:
    """Read the CPU that Numba compiles for: the host, or what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say."""
    features = numba.config.CPU_FEATURES
    if features is None:
        if numba.config.CPU_NAME == "generic":
            features = ""
        else:
            features = ",".join(f"+{name}" for name, has in llvm.get_host_cpu_features().items() if has)
    has = set(features.split(","))
    if {"+avx512f", "+avx512bw", "+avx512vl", "+avx512dq"} <= has:
        return Machine(vector_bytes=64, registers=32, fused=True)
    if {"+avx2", "+fma"} <= has:
        return Machine(vector_bytes=32, registers=16, fused=True)
    if "+neon" in has or "aarch64" in llvm.get_default_triple() or "arm64" in llvm.get_default_triple():
        return Machine(vector_bytes=16, registers=32, fused=True)
    return Machine(
        vector_bytes=16, registers=16, fused=False
    )  # SSE2 and everything else; LLVM makes these legal on any target


MACHINE = detect_machine()


# --- The on-disk cache ------------------------------------------------------------------------------------------------
#
# Numba keys a cached function on the time stamp of the one file that defines it, so an edit to an imported helper, or
# to a constant, would leave stale machine code behind; and it runs what it finds in a file, whole or not. Here the
# cache lives in a folder that is named after everything the machine code depends on, so that a change of any of it is a
# new folder; and each file begins with a hash of the rest, so that nothing is run but what was written.


def hash_of_sources() -> bytes | None:
    """Hash the sources of the kernels; None if they are not there, as in some frozen programs."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.digest() if sources else None


SOURCES = hash_of_sources()
"""Read with the modules themselves: an upgrade on the disk must not give a running program's kernels its name."""


@functools.cache
def cache_key() -> str:
    """Hash all that the machine code depends on."""
    config = numba.config
    environment = (
        SOURCES, numba.__version__, llvmlite.__version__, np.__version__, sys.version_info[:2],
        cpu_target.target_context.codegen().magic_tuple(), MACHINE, config.OPT, config.LOOP_VECTORIZE,
        config.SLP_VECTORIZE, config.BOUNDSCHECK, config.DEBUGINFO_DEFAULT, config.USING_SVML,
    )  # fmt: skip
    return hashlib.sha256(repr(environment).encode()).hexdigest()[:16]


@functools.cache
def cache_folder() -> Path | None:
    """The folder of this key's machine code, which need not be there yet; None if there is no place for it."""
    root = cache_root()
    if SOURCES is None:
        warn_once(f"{AT_EACH_START}, because its sources are not there, which tell old machine code from new")
    elif root is None:
        warn_once(f"{AT_EACH_START}, because it knows no home folder; set NUMBA_CACHE_DIR to a folder")
    else:
        return Path(root, f"kernels-{cache_key()}")
    return None


def cache_root() -> str | None:
    """Where all keys' folders are; None without a home."""
    if numba.config.CACHE_DIR:
        return os.path.abspath(str(numba.config.CACHE_DIR))
    try:
        root = platformdirs.user_cache_dir("fastmlp", False)
    except RuntimeError:
        return None
    return root if os.path.isabs(root) else None  # Older versions give "~/.cache": it would be a folder named "~".


AT_EACH_START = "fastmlp compiles its kernels at each start"


@functools.cache  # Thirty kernels have one trouble, and one warning.
def warn_once(message: str) -> None:
    """Warn that something is compiled which could have been loaded, or will have to be at the next start."""
    warnings.warn(message, RuntimeWarning, stacklevel=2)


class KernelCache:
    """One compiled function on disk: what Numba's dispatchers ask of a cache. No fault of it stops the program.

    The file holds a hash, and Numba's own form of the function behind it. The hash is of the file's name, too, and of
    the key. It guards against accidents: who may write to the folder can have any code run, as in a folder of packages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load the function; None if it is not there, or not whole."""
        target_context.refresh()
        try:
            content = self.path.read_bytes()
        except OSError:
            return None
        body = content[HASH_BYTES:]
        if content[:HASH_BYTES] != self._hash(body):
            warn_once(f"fastmlp compiles again what it kept in {self.path.parent}, because a file there is damaged")
            return None
        return CompileResult._rebuild(target_context, *pickle.loads(body))

    def save_overload(self, sig: Any, result: Any) -> None:
        """Keep the function, if the disk lets us: beside its place first, so that others never read half of it."""
        assert not attrgetter("library")(result).has_dynamic_globals, "a kernel that holds an address cannot be kept"
        body = serialize.dumps(result._reduce())
        beside = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                beside.write_bytes(self._hash(body) + body)
                beside.replace(self.path)
            finally:
                beside.unlink(missing_ok=True)
        except OSError as error:
            if os.path.isfile(self.path):  # From another process: Windows lets nobody replace what is being read.
                return
            warn_once(
                f"{AT_EACH_START}, because {self.path.parent} cannot be written ({error.strerror}); "
                "set NUMBA_CACHE_DIR to a folder that can"
            )

    def _hash(self, body: bytes) -> bytes:
        return hashlib.sha256(f"{cache_key()} {self.path.name} ".encode() + body).digest()


HASH_BYTES = 32

# --- Compilation ------------------------------------------------------------------------------------------------------

# No fastmath: the order of every sum is part of the contract (equal bits at every thread count), and NaN must survive.
# error_model numpy: a division by zero gives inf or NaN like NumPy's, without a branch.
inline: Callable[..., Any] = numba.njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Decorates what kernels are made of; it can be called from other kernels only."""

scalar: Callable[..., Any] = numba.njit(
    nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True
)
"""The same for functions of one element: LLVM makes vector code of a loop only if no call is left in it."""


FIRST = np.int64(0)
"""A zero that Numba does not compile a function of its own for, as it does for a literal."""


compiling = threading.RLock()
"""Held by the thread that compiles, or loads, a kernel."""
if hasattr(os, "register_at_fork"):
    # Numba's own lock would stay held for ever in the child of a fork in the midst of another thread's compilation.
    os.register_at_fork(before=compiling.acquire, after_in_parent=compiling.release, after_in_child=compiling.release)


KERNELS: dict[str, Kernel] = {}
"""All kernels by their keys."""


class Kernel:
    """A function compiled by itself: once for each dtype, when it is first needed, and kept on disk.

    Python calls its `entry`, which goes straight to the compiled code without Numba's look-up of argument types; so
    the arguments must be of the declared types. Other kernels call its `address` (`fastmlp.kernels.instructions.call`).
    They could call the function by name, but then Numba would optimise it, and all that it calls, again in each of
    them: a third of the compile time was that.

    Parameters
    ----------
    function : callable
        Nopython code. One that is called by address returns an int64.
    signature : callable
        Gives the Numba types of the arguments for the Numba types of the dtypes.
    name : str, optional
        Tells kernels apart that are made of one function, by what it encloses.
    """

    def __init__(
        self, function: Callable[..., Any], signature: Callable[..., tuple[Any, ...]], name: str | None = None
    ) -> None:
        self.function = function
        self.signature = signature
        self.name = name or function.__qualname__
        self.key = f"{function.__module__.rpartition('.')[2]}.{self.name}"
        KERNELS.setdefault(self.key, self)
        self._entries: dict[Any, Callable[..., Any]] = {}
        self._addresses: dict[Any, int] = {}
        self._results: list[Any] = []  # They own the machine code.

    def _compile(self, dtypes: tuple[Any, ...], suffix: str, **options: Any) -> Any:
        """Give Numba's result of compiling it for these dtypes."""
        given = self.function
        function = types.FunctionType(given.__code__, given.__globals__, given.__name__, closure=given.__closure__)
        function.__qualname__ = "_".join([self.name, *(str(dtype) for dtype in dtypes)]) + suffix
        dispatcher = numba.njit(nogil=True, error_model="numpy", **options)(function)
        if (folder := cache_folder()) is not None:
            dispatcher._cache = KernelCache(folder / f"{self.key}{function.__qualname__[len(self.name) :]}.kernel")
        signature = self.signature(*map(numba.from_dtype, dtypes))
        dispatcher.compile(signature)
        return dispatcher.overloads[signature]

    def entry(self, *dtypes: Any) -> Callable[..., Any]:
        """Give what Python calls."""
        if dtypes not in self._entries:
            with compiling:
                if dtypes not in self._entries:  # Another thread may have done it meanwhile.
                    self._entries[dtypes] = self._compile(dtypes, "_entry", no_cfunc_wrapper=True).entry_point
        return self._entries[dtypes]

    def address(self, *dtypes: Any) -> int:
        """Give what other kernels call: without what Python needs, which takes an eighth of the time to compile."""
        if dtypes not in self._addresses:
            with compiling:
                if dtypes not in self._addresses:
                    result = self._compile(dtypes, "", no_cpython_wrapper=True)
                    machine_code = attrgetter("library")(result)
                    place = machine_code.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)
                    self._results.append(result)
                    self._addresses[dtypes] = place
        return self._addresses[dtypes]


REALS = ("scale", "l2", "low", "high")


def kernel(function: Callable[..., Any], name: str | None = None) -> Kernel:
    """Decorate a `Kernel` of scalars: arguments are int64, but `REALS` are float64 and `like` is of the dtype."""

    def signature(T: Any) -> tuple[Any, ...]:
        special = {**dict.fromkeys(REALS, numba.float64), "like": T}
        return tuple(special.get(name, numba.int64) for name in inspect.signature(function).parameters)

    return Kernel(function, signature, name)
