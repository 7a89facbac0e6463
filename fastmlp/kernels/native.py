"""Compiled kernels as Python sees them: loaded from the cache, linked, and called, all without Numba.

To import Numba and to make its compiler ready takes half a second and 60 MB; the machine code of a training run loads
in a few hundredths. So Numba comes in only where the cache does not have a kernel, and Python's side of the engine
names kernels instead of importing them: ``kernel("loop.train_steps")`` is the function `train_steps` of `loop.py`.
"""

from __future__ import annotations

import ctypes
import functools
import logging  # noqa: F401 - See below.
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np

from fastmlp.cpus import available_cpus
from fastmlp.kernels import cache
from fastmlp.kernels.cache import ENTRY, Compiled
from fastmlp.kernels.machine import NO_COMPILER, numba_setting

if (numba_setting("DISABLE_JIT") or "").strip("0") or numba_setting("OPT") == "0":
    raise ImportError(NO_COMPILER)

compiling = threading.RLock()
"""Held by the thread that compiles, or loads, a kernel."""
if hasattr(os, "register_at_fork"):
    # Numba's own lock would stay held for ever in the child of a fork in the midst of another thread's compilation.
    # Numba imports logging, which registers such functions, too: they must not come while this one waits.
    os.register_at_fork(before=compiling.acquire, after_in_parent=compiling.release, after_in_child=compiling.release)


PATIENCE = 20.0
"""Seconds that this process waits, in all, for others that compile: they may be frozen. Then it compiles by itself."""
waited = 0.0


def wait_for_others(seconds: float) -> bool:
    """Wait so long; or do not, because patience is at its end, and say so."""
    global waited
    if waited >= PATIENCE:
        return False
    time.sleep(seconds)
    waited += seconds
    return True


class Linked(NamedTuple):
    """A kernel that is in memory, for one dtype.

    Attributes
    ----------
    address : int
        Where other kernels call it (`fastmlp.kernels.instructions.call`).
    entry : callable
        What Python calls: with whether to let the GIL go meanwhile, and then with the kernel's arguments, numbers, or
        arrays where a name ends in ``_array``, but without `like`.
    """

    address: int
    entry: Callable[..., int]


class Kernel:
    """A function compiled by itself: once for each dtype, when it is first needed, and kept on disk.

    Kernels call each other by address. They could call by name, but then Numba would optimise a function, and all that
    it calls, again in each of its callers: a third of the compile time was that.

    Parameters
    ----------
    key : str
        The module in this package, a dot, and the kernel's name there.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._linked: dict[Any, Linked] = {}

    def is_linked(self, dtype: np.dtype) -> bool:
        """Whether it is in memory already."""
        return dtype in self._linked

    def address(self, dtype: np.dtype) -> int:
        """Give what other kernels call."""
        return (self._linked.get(dtype) or self._link(dtype)).address

    def entry(self, dtype: np.dtype) -> Callable[..., int]:
        """Give what Python calls, see `Linked`."""
        return (self._linked.get(dtype) or self._link(dtype)).entry

    def run(self, dtype: np.dtype, *arguments: Any) -> int:
        """Call it from Python, and let the GIL go."""
        return self.entry(dtype)(True, *arguments)

    def link_unless_claimed(self, dtype: np.dtype) -> bool:
        """Load or compile it, unless other processes are at work: whether it is in memory."""
        with compiling:
            linked = self._linked.get(dtype) or self._load(dtype) or self._compile_unless_claimed(dtype)
            if linked is not None:
                self._linked[dtype] = linked
            return linked is not None

    def _link(self, dtype: np.dtype) -> Linked:
        pause = 0.005
        while not self.link_unless_claimed(dtype):  # Between two tries, other threads go on, and may fork.
            if not wait_for_others(pause):
                with compiling:
                    self._linked[dtype] = self._linked.get(dtype) or self._compile(dtype)
            pause = min(1.5 * pause, 0.3)  # Many that wait must not take the CPU from the one that compiles.
        return self._linked[dtype]

    def _compile_unless_claimed(self, dtype: np.dtype) -> Linked | None:
        """Compile it; None if another process is doing so, or as many processes compile as there are CPUs."""
        with ExitStack() as claims:
            is_cpu_free = any(claims.enter_context(cache.claim(f"compiler.{cpu}")) for cpu in range(available_cpus()))
            if is_cpu_free and claims.enter_context(cache.claim(self._file(dtype))):
                return self._load(dtype) or self._compile(dtype)  # It may have been made a moment ago.
        return None

    def _file(self, dtype: np.dtype) -> str:
        return f"{self.key}_{dtype}.kernel"

    def _load(self, dtype: np.dtype) -> Linked | None:
        """Link what the cache has; None if that is nothing, or calls what is not in this process."""
        if (body := cache.load(self._file(dtype))) is None:
            return None
        compiled = Compiled.unpack(body)
        if not can_be_linked(compiled):
            compiler()
        return link(compiled, self.key) if can_be_linked(compiled) else None

    def _compile(self, dtype: np.dtype) -> Linked:
        jit = compiler()
        compiled: Compiled = jit.compile_kernel(self.key, dtype)
        if jit.has_settings_of_cache():
            cache.save(self._file(dtype), compiled.pack())
        return link(compiled, self.key)


@functools.cache
def compiler() -> Any:
    """Import Numba and all kernels; RuntimeError if they are not those of the engine that is running."""
    from fastmlp.kernels import activations, jit, loop, losses, sparse, updates  # noqa: F401 - These import all others.

    if cache.hash_of_sources() != cache.SOURCES:
        raise RuntimeError("fastmlp's files have changed since it was imported, and a kernel must be compiled: restart")
    return jit


@functools.cache
def kernel(key: str) -> Kernel:
    """Give the kernel of a name; one, however often it is asked for."""
    return Kernel(key)


def activation_kernels(name: str) -> list[Kernel]:
    """Give an activation's kernels, of its values and of its derivative; none for identity."""
    return [] if name == "identity" else [kernel(f"activations.{name}"), kernel(f"activations.{name}_slope")]


class MethodDefinition(ctypes.Structure):
    """CPython's ``PyMethodDef``."""

    _fields_ = (
        ("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p),
    )  # fmt: skip


FASTCALL = 0x80  # METH_FASTCALL: the arguments are an array and their number.
make_function = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
    ("PyCFunction_NewEx", ctypes.pythonapi)
)

PYTHON_CALLS = (
    "PyLong_AsLongLong", "PyLong_FromLongLong", "PyFloat_AsDouble", "PyErr_Occurred", "PyErr_BadArgument",
    "PyEval_SaveThread", "PyEval_RestoreThread",
)  # fmt: skip
"""What entries call of CPython."""


@functools.cache
def prepare_linker() -> None:
    """Tell LLVM of the machine, and where CPython is: the operating system does not, in some programs that embed it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    new_linker().close()  # LLVM finds nothing of this process before there was one.
    for name in PYTHON_CALLS:
        place = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
        assert place is not None
        llvm.add_symbol(name, place)


def new_linker() -> Any:
    """Make a linker, for one kernel: others may have functions of the same names."""
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def can_be_linked(compiled: Compiled) -> bool:
    """Whether all that it calls is there: LLVM would end the process. Whatever it is, Numba brings it."""
    prepare_linker()
    return "numba" in sys.modules if compiled.calls is None else all(map(llvm.address_of_symbol, compiled.calls))


def link(compiled: Compiled, name: str) -> Linked:
    """Bring machine code into memory."""
    prepare_linker()
    linker = new_linker()
    for object_file in (compiled.kernel, compiled.entry):
        linker.add_object_file(llvm.ObjectFileRef.from_data(object_file))
    linker.finalize_object()
    places = linker.get_function_address(compiled.symbol), linker.get_function_address(ENTRY)
    linker.detach()  # The code stays for the life of the process: a thread may be in it to the last.
    definition = MethodDefinition(name.encode(), places[1], FASTCALL, None)
    # CPython reads the definition until the function has gone, so the function has to hold it: as its ``self``.
    return Linked(places[0], make_function(ctypes.addressof(definition), definition, None))
