"""Compiled kernels as Python sees them: loaded from the cache, linked, and called, all without Numba.

To import Numba and to make its compiler ready takes half a second and 60 MB; the machine code of a training run loads
in a few hundredths. So Numba comes in only where the cache does not have a kernel, and Python's side of the engine
names kernels instead of importing them: ``kernel("loop.train_steps")`` is the function `train_steps` of `loop.py`.
"""

from __future__ import annotations

import ctypes
import functools
import logging  # noqa: F401 - See below.
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np

from fastmlp.kernels import cache
from fastmlp.kernels.cache import ENTRY, Compiled
from fastmlp.kernels.machine import NO_COMPILER, numba_setting
from fastmlp.stopping import signals_held

if (numba_setting("DISABLE_JIT") or "").strip("0") or numba_setting("OPT") == "0":
    raise ImportError(NO_COMPILER)

compiling = threading.RLock()
"""Held by the thread that compiles, or loads, a kernel."""
if hasattr(os, "register_at_fork"):
    # Numba's own lock would stay held for ever in the child of a fork in the midst of another thread's compilation.
    # Numba imports logging, which registers such functions, too: they must not come while this one waits.
    os.register_at_fork(before=compiling.acquire, after_in_parent=compiling.release, after_in_child=compiling.release)


PATIENCE = 20.0
"""Seconds without any new kernel in the cache after which those who compile are not waited for: they may be frozen."""


class Others:
    """The processes that compile what this one waits for."""

    def __init__(self) -> None:
        self.n_files = 0
        self.looked = -math.inf
        self.latest = -math.inf  # When there was a new file of theirs, or somebody here began to look.

    def stand_still(self) -> bool:
        """Whether they have made nothing for longer than `PATIENCE`, as far as somebody here has looked."""
        now, n_files = time.monotonic(), cache.count_files()
        if n_files != self.n_files or now - self.looked > PATIENCE:
            self.n_files, self.latest = n_files, now
        self.looked = now
        return now - self.latest > PATIENCE


others = Others()


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

    at_work = 0
    """How many are being compiled: more than one, if a signal's handler needs one meanwhile."""

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
        """Load or compile it, unless another process is compiling it: whether it is in memory."""
        with compiling:
            linked = self._linked.get(dtype) or self._load(dtype)
            if linked is None:
                # A signal's handler that has interrupted this thread's compiling does not wait for its end.
                with nullcontext(True) if self.at_work else cache.claim(self._file(dtype)) as is_ours:
                    linked = self._load(dtype)  # It may have been made a moment ago.
                    if linked is None and is_ours:
                        linked = self._compile(dtype)
            if linked is not None:
                self._linked[dtype] = linked
            return linked is not None

    def _link(self, dtype: np.dtype) -> Linked:
        pause = 0.005
        while not self.link_unless_claimed(dtype):  # Between two tries, other threads go on, and may fork.
            if others.stand_still():
                with compiling:
                    self._linked[dtype] = self._linked.get(dtype) or self._compile(dtype)
            else:
                time.sleep(pause)
                pause = min(1.5 * pause, 0.3)  # Many that wait must not take the CPU from the one that compiles.
        return self._linked[dtype]

    def _file(self, dtype: np.dtype) -> str:
        return f"{self.key}_{dtype}.kernel"

    def _load(self, dtype: np.dtype) -> Linked | None:
        """Link what the cache has; None if that is nothing, or calls what is not in this process."""
        if (body := cache.load(self._file(dtype))) is None:
            return None
        compiled = Compiled.unpack(body)
        if not can_be_linked(compiled):
            with signals_held():
                compiler()
        return link(compiled, self.key) if can_be_linked(compiled) else None

    def _compile(self, dtype: np.dtype) -> Linked:
        Kernel.at_work += 1
        try:
            with signals_held():  # At its end, handlers may raise: what is done is kept before.
                jit = compiler()
                compiled: Compiled = jit.compile_kernel(self.key, dtype)
                if jit.has_settings_of_cache():
                    cache.save(self._file(dtype), compiled.pack())
                    others.n_files = cache.count_files()  # This one is not theirs.
                self._linked[dtype] = link(compiled, self.key)
        finally:
            Kernel.at_work -= 1
        return self._linked[dtype]


@functools.cache
def compiler() -> Any:
    """Import Numba and all kernels; RuntimeError if they are not those of the engine that is running."""
    from fastmlp.kernels import activations, jit, loop, losses, sparse, updates  # noqa: F401 - These import all others.

    if cache.hash_of_sources() != cache.SOURCES_HASH:
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
        address = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
        assert address is not None
        llvm.add_symbol(name, address)


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
    addresses = linker.get_function_address(compiled.symbol), linker.get_function_address(ENTRY)
    linker.detach()  # The code stays for the life of the process: a thread may be in it to the last.
    definition = MethodDefinition(name.encode(), addresses[1], FASTCALL, None)
    # CPython reads the definition until the function has gone, so the function has to hold it: as its ``self``.
    return Linked(addresses[0], make_function(ctypes.addressof(definition), definition, None))
