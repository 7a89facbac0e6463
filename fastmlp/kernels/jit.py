"""How kernels are compiled: the njit options, and the way into a kernel from Python. Decided once, here."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir

from fastmlp.kernels.cache import ENTRY, SETTINGS, Compiled, keep_nothing
from fastmlp.kernels.machine import NO_COMPILER, numba_setting
from fastmlp.kernels.objects import calls_of

if numba.config.DISABLE_JIT or not numba.config.OPT:
    raise ImportError(NO_COMPILER)

# No fastmath: the order of every sum is part of the contract (equal bits at every thread count), and NaN must survive.
# error_model numpy: a division by zero gives inf or NaN like NumPy's, without a branch.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

inline: Callable[..., Any] = numba.njit(**OPTIONS)
"""Decorates what kernels are made of; it can be called from other kernels only."""

scalar: Callable[..., Any] = numba.njit(**OPTIONS, forceinline=True)
"""Decorates functions of one element: LLVM makes vector code of a loop only if no call is left in it."""


ZERO = np.int64(0)
"""Zero as an int64. A literal 0 is of a type of its own, for which Numba would compile the callee once more."""

REALS = ("scale", "l2", "low", "high")
ARRAY = "_array"
"""Ends the name of an argument for which Python gives an array; the kernel gets the address of the Python object."""

KERNELS: dict[str, Callable[..., Any]] = {}
"""The functions of all kernels, by the keys of `fastmlp.kernels.native.Kernel`."""


def kernel(function: Callable[..., Any], name: str | None = None) -> Callable[..., Any]:
    """Decorate a kernel. Arguments are int64, but `REALS` are float64 and `like` is of the dtype; it returns an int64.

    `name` tells kernels apart that are made of one function, by what it encloses.
    """
    KERNELS[f"{function.__module__.rpartition('.')[2]}.{name or function.__name__}"] = function
    return function


def compile_kernel(key: str, dtype: np.dtype) -> Compiled:
    """Compile a kernel for a dtype."""
    given = KERNELS[key]
    # A copy, by a name of its own: symbols are made of names, and both dtypes' kernels may be in one process.
    function = types.FunctionType(given.__code__, given.__globals__, given.__name__, closure=given.__closure__)
    function.__qualname__ = f"{key.replace('.', '_')}_{dtype}"
    T = numba.from_dtype(dtype)
    special = {**dict.fromkeys(REALS, numba.float64), "like": T}
    names = list(inspect.signature(function).parameters)
    signature = tuple(special.get(name, numba.int64) for name in names)
    dispatcher = inline(function)
    dispatcher.compile(signature)
    result = dispatcher.overloads[signature]
    returned = numba.types.unliteral(result.signature.return_type)
    assert returned == numba.int64, f"kernel {key} must return an int64, not {returned}"
    machine_code = attrgetter("library")(result)
    assert not machine_code.has_dynamic_globals, "a kernel that holds an address cannot be kept"
    *_, (object_file, _) = machine_code.serialize_using_object_code()
    symbol = result.fndesc.llvm_func_name
    return Compiled(symbol, calls_of(object_file), object_file, emit_entry(symbol, names, dtype))


def has_settings_of_cache() -> bool:
    """Whether Numba compiles as the name of the cache's folder says.

    A program may have changed Numba's settings since. Those that the environment gives are not looked at.
    """
    for name, default in SETTINGS.items():
        is_given = numba_setting(name) is not None or (name == "CPU_FEATURES" and numba_setting("CPU_NAME") is not None)
        if not is_given and getattr(numba.config, name) != default:
            keep_nothing(f"numba.config.{name} was changed; NUMBA_{name} is what it knows")
            return False
    return True


I32, I64, DOUBLE = ir.IntType(32), ir.IntType(64), ir.DoubleType()
POINTER = ir.IntType(8).as_pointer()


def native_type(arguments: list[ir.Type]) -> ir.FunctionType:
    """The type of a compiled kernel: it returns a status, and writes what it returns to the first argument.

    That is how Numba compiles functions. The second argument is for exceptions, of which kernels have none.
    """
    return ir.FunctionType(I32, [I64.as_pointer(), POINTER.as_pointer(), *arguments])


def emit_entry(symbol: str, names: list[str], dtype: np.dtype) -> bytes:
    """Compile what makes a kernel a built-in function of Python (METH_FASTCALL), as `native.Linked` says.

    Numba has a wrapper for this, too, which takes twice the time to call, and half a second of imports to load.
    """
    module = ir.Module()
    module.triple = llvm.get_process_triple()

    def imported(name: str, result: ir.Type, *arguments: ir.Type) -> ir.Function:
        return ir.Function(module, ir.FunctionType(result, arguments), name)

    like = ir.FloatType() if dtype.itemsize == 4 else DOUBLE
    kinds = [like if name == "like" else DOUBLE if name in REALS else I64 for name in names]
    compiled = ir.Function(module, native_type(kinds), symbol)
    to_int, to_double = imported("PyLong_AsLongLong", I64, POINTER), imported("PyFloat_AsDouble", DOUBLE, POINTER)
    from_int, has_error = imported("PyLong_FromLongLong", POINTER, I64), imported("PyErr_Occurred", POINTER)
    let_go, take_back = imported("PyEval_SaveThread", POINTER), imported("PyEval_RestoreThread", ir.VoidType(), POINTER)
    set_error = imported("PyErr_BadArgument", I32)

    entry = ir.Function(module, ir.FunctionType(POINTER, [POINTER, POINTER.as_pointer(), I64]), ENTRY)
    builder = ir.IRBuilder(entry.append_basic_block())
    result, exception, thread = builder.alloca(I64), builder.alloca(POINTER), builder.alloca(POINTER)
    given = [name for name in names if name != "like"]
    with builder.if_then(builder.icmp_signed("!=", entry.args[2], I64(1 + len(given)))):
        builder.call(set_error, [])
        builder.ret(POINTER(None))

    def argument(number: int) -> ir.Value:
        return builder.load(builder.gep(entry.args[1], [I64(number)], source_etype=POINTER), typ=POINTER)

    lets_go = builder.icmp_signed("!=", builder.call(to_int, [argument(0)]), I64(0))
    values = []
    for name, kind in zip(names, kinds, strict=True):
        if name == "like":
            values.append(like(0.0))
        elif name.endswith(ARRAY):
            values.append(builder.ptrtoint(argument(1 + given.index(name)), I64))
        else:
            values.append(builder.call(to_double if kind is DOUBLE else to_int, [argument(1 + given.index(name))]))
    error = builder.ptrtoint(builder.call(has_error, []), I64)
    with builder.if_then(builder.icmp_signed("!=", error, I64(0))):
        builder.ret(POINTER(None))

    with builder.if_then(lets_go):
        builder.store(builder.call(let_go, []), thread)
    status = builder.call(compiled, [result, exception, *values])
    with builder.if_then(lets_go):
        builder.call(take_back, [builder.load(thread, typ=POINTER)])
    with builder.if_then(builder.icmp_signed("!=", status, I32(0))):
        builder.call(set_error, [])
        builder.ret(POINTER(None))
    builder.ret(builder.call(from_int, [builder.load(result, typ=I64)]))

    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    object_file: bytes = machine.emit_object(llvm.parse_assembly(str(module)))
    return object_file
