"""How kernels are compiled and kept: the njit options, the cache, the machine's vectors. Decided once, here."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import os
import sys
import tempfile
import types
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
from numba.core import caching

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
# to a constant, would leave stale machine code behind. Here the cache lives in a folder that is named after everything
# the machine code depends on: the sources of this package, Numba, llvmlite and the CPU. A change of any of them is a
# new folder; nothing old can be loaded.


@functools.cache
def cache_key() -> str:
    """Hash all that the machine code depends on."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    environment = (
        numba.__version__, llvmlite.__version__, sys.version_info[:2],
        numba.config.CPU_NAME or llvm.get_host_cpu_name(),
        numba.config.CPU_FEATURES or sorted(llvm.get_host_cpu_features().items()), numba.config.OPT, MACHINE,
    )  # fmt: skip
    digest.update(repr(environment).encode())
    return digest.hexdigest()[:16]


@functools.cache
def cache_folder() -> str | None:
    """The folder of this key's machine code, made if need be; None if there is nowhere to write."""
    root = numba.config.CACHE_DIR or platformdirs.user_cache_dir("fastmlp", False)
    folder = os.path.join(root, f"kernels-{cache_key()}")
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        warnings.warn(
            f"fastmlp compiles its kernels at each start, because {root} cannot be written ({error.strerror}); "
            "set NUMBA_CACHE_DIR to a folder that can",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return folder


class KernelLocator(caching._CacheLocator):  # type: ignore[misc]
    """Tells Numba's cache where our folder is; the folder's name carries the key, so the stamp is constant."""

    def __init__(self, py_func: Any, py_file: str) -> None:
        self._py_file = py_file

    def get_cache_path(self) -> str:
        """Give the folder."""
        folder = cache_folder()
        assert folder is not None
        return folder

    def get_source_stamp(self) -> str:
        """Give a stamp that never changes within the folder."""
        return cache_key()

    def get_disambiguator(self) -> str:
        """Give a part of the file's name; function names are enough."""
        return "k"

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> KernelLocator:
        """Serve every function."""
        return cls(py_func, py_file)


class KernelCacheImpl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    """Numba's own way of keeping compiled functions, in our place."""

    _locator_classes = [KernelLocator]  # noqa: RUF012


class KernelCache(caching.FunctionCache):  # type: ignore[misc]
    """A cache whose faults cost a compilation, never the program."""

    _impl_class = KernelCacheImpl

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        """Give the key within a kernel's file: code and what it encloses are told by the folder and the file's name."""
        return sig, codegen.magic_tuple()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load a compiled function; None if there is none that can be read."""
        try:
            loaded = super().load_overload(sig, target_context)
            return loaded if loaded is None or tuple(loaded.signature.args) == tuple(sig) else None
        except Exception as error:
            warnings.warn(
                f"fastmlp's cached kernel cannot be read ({error}): compiling it", RuntimeWarning, stacklevel=2
            )
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function if the disk lets us."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            warnings.warn(f"fastmlp's compiled kernel cannot be kept ({error})", RuntimeWarning, stacklevel=2)


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
        self._entries: dict[Any, Callable[..., Any]] = {}
        self._addresses: dict[Any, int] = {}
        self._results: list[Any] = []  # They own the machine code.

    def _compile(self, dtypes: tuple[Any, ...], suffix: str, **options: Any) -> Any:
        """Give Numba's result of compiling it for these dtypes."""
        # A function of its own for each result, because the cache's files bear its name: two processes that compile
        # different dtypes at once must not write to one index.
        given = self.function
        function = types.FunctionType(given.__code__, given.__globals__, given.__name__, closure=given.__closure__)
        function.__qualname__ = "_".join([self.name, *(str(dtype) for dtype in dtypes)]) + suffix
        dispatcher = numba.njit(nogil=True, error_model="numpy", **options)(function)
        if cache_folder() is not None:
            dispatcher._cache = KernelCache(function)
        signature = self.signature(*map(numba.from_dtype, dtypes))
        dispatcher.compile(signature)
        return dispatcher.overloads[signature]

    def entry(self, *dtypes: Any) -> Callable[..., Any]:
        """Give what Python calls."""
        if dtypes not in self._entries:
            self._entries[dtypes] = self._compile(dtypes, "_entry", no_cfunc_wrapper=True).entry_point
        return self._entries[dtypes]

    def address(self, *dtypes: Any) -> int:
        """Give what other kernels call: without what Python needs, which takes an eighth of the time to compile."""
        if dtypes not in self._addresses:
            result = self._compile(dtypes, "", no_cpython_wrapper=True)
            machine_code = attrgetter("library")(result)
            self._addresses[dtypes] = machine_code.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)
            self._results.append(result)
        return self._addresses[dtypes]


REALS = ("scale", "l2", "low", "high")


def kernel(function: Callable[..., Any], name: str | None = None) -> Kernel:
    """Decorate a `Kernel` of scalars: arguments are int64, but `REALS` are float64 and `like` is of the dtype."""

    def signature(T: Any) -> tuple[Any, ...]:
        special = {**dict.fromkeys(REALS, numba.float64), "like": T}
        return tuple(special.get(name, numba.int64) for name in inspect.signature(function).parameters)

    return Kernel(function, signature, name)
