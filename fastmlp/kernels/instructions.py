"""Single instructions that Numba has no name for: pointers, fused multiply-add, bit masks, prefetch, atomics.

Each is an ``@intrinsic`` of a few lines of LLVM. What they are for is said in the rooms that use them.
"""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from fastmlp.kernels.jit import I32, I64, POINTER, native_type
from fastmlp.kernels.machine import MACHINE, lanes_of

I8 = ir.IntType(8)
LINE_BYTES = 64
"""Bytes of a cache line: rows are padded to whole ones. (Not imported: what is compiled must be in these sources.)"""

# --- For the builders of other intrinsics -----------------------------------------------------------------------------


def splat(builder: ir.IRBuilder, scalar: Any, vector: ir.VectorType) -> Any:
    """All lanes of a vector equal to a scalar."""
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))


def vector_at(builder: ir.IRBuilder, base: Any, offset: Any, vector: ir.VectorType) -> Any:
    """Point to the vector that begins `offset` elements after a pointer."""
    return builder.bitcast(builder.gep(base, [offset], source_etype=vector.element), vector.as_pointer())


def load_vector(builder: ir.IRBuilder, base: Any, offset: Any, vector: ir.VectorType) -> Any:
    """Load the vector that begins there; it need not be aligned, but as its elements are."""
    return builder.load(vector_at(builder, base, offset, vector), align=bytes_of(vector.element), typ=vector)


def store_vector(builder: ir.IRBuilder, values: Any, base: Any, offset: Any) -> None:
    """Store a vector there."""
    builder.store(values, vector_at(builder, base, offset, values.type), align=bytes_of(values.type.element))


def bytes_of(element: ir.Type) -> int:
    """Bytes of a number."""
    if isinstance(element, ir.IntType):
        return int(element.width) // 8
    return 4 if isinstance(element, ir.FloatType) else 8


def multiply_add(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``: rounded once where the machine can, because without the instruction LLVM would call a function."""
    if not MACHINE.fused:
        return builder.fadd(builder.fmul(a, b), c)
    kind = a.type
    element, prefix = (kind.element, f"v{kind.count}") if isinstance(kind, ir.VectorType) else (kind, "")
    name = f"llvm.fma.{prefix}f{8 * bytes_of(element)}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(function, [a, b, c])


def ask_for_line(builder: ir.IRBuilder, base: Any) -> None:
    """Have the cache line at a pointer brought near, to be read soon; wherever it points to, nothing can go wrong."""
    bytes_pointer = I8.as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [bytes_pointer, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(base, bytes_pointer), I32(0), I32(2), I32(1)])


# --- Pointers ---------------------------------------------------------------------------------------------------------
#
# Inside the kernels memory is pointers: Numba indexes them like arrays, without the bookkeeping of arrays (passing
# and slicing those is code that Numba has to write and LLVM to remove again, which takes compile time).


@intrinsic
def pointer(typing: Any, address: Any, like: Any) -> Any:
    """A pointer to elements of the type of the scalar `like`, from an address held as an integer."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(types.int64, like), codegen


@intrinsic
def pointer_to(typing: Any, array: Any) -> Any:
    """A pointer to the first element of an array."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return context.make_array(array)(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def address_of(typing: Any, base: Any) -> Any:
    """The address that a pointer holds, as an integer."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], I64)

    return types.int64(base), codegen


@intrinsic
def call(typing: Any, address: Any, arguments: Any) -> Any:
    """Call the kernel at an address with a tuple of scalars; it returns an int64.

    Nobody compares them with what the kernel takes, but a test, by their number.
    """
    for kind in arguments.types:
        if types.unliteral(kind) not in (types.int64, types.float32, types.float64):
            raise TypingError(f"kernels take int64, float32 and float64, not {kind}")

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        scalars = cgutils.unpack_tuple(builder, values[1], len(arguments))
        function = native_type([scalar.type for scalar in scalars])
        result, exception = cgutils.alloca_once(builder, I64), cgutils.alloca_once(builder, POINTER)
        builder.call(builder.inttoptr(values[0], function.as_pointer()), [result, exception, *scalars])
        return builder.load(result, typ=I64)

    return types.int64(types.int64, arguments), codegen


@intrinsic
def advance(typing: Any, base: Any, offset: Any) -> Any:
    """The pointer to the element `offset` elements after that of `base`."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]], source_etype=context.get_data_type(base.dtype))

    return base(base, types.int64), codegen


@intrinsic
def prefetch(typing: Any, base: Any) -> Any:
    """See `ask_for_line`."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        ask_for_line(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(base), codegen


# --- Bits -------------------------------------------------------------------------------------------------------------


@intrinsic
def count_ones(typing: Any, word: Any) -> Any:
    """How many bits of a uint64 are set, as an int64."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), codegen


@intrinsic
def expand8(typing: Any, indices: Any, table: Any, base: Any) -> Any:
    """Store eight int32 to `indices`: the eight bytes at `table`, each plus `base`."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target, source, base_value = arguments
        bytes8, words8 = ir.VectorType(I8, 8), ir.VectorType(I32, 8)
        offsets = load_vector(builder, source, I64(0), bytes8)
        start = splat(builder, builder.trunc(base_value, I32), words8)
        store_vector(builder, builder.add(builder.zext(offsets, words8), start), target, I64(0))
        return context.get_dummy_value()

    return types.void(indices, table, types.int64), codegen


# --- Scalars ----------------------------------------------------------------------------------------------------------


@intrinsic
def real(typing: Any, constant: Any, like: Any) -> Any:
    """The constant in the dtype of `like`: a bare 0.5 would turn float32 arithmetic into float64."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[0], constant, like)

    return like(constant, like), codegen


@intrinsic
def lanes(typing: Any, like: Any) -> Any:
    """Lanes of a vector of the dtype of `like`; known when the kernel is compiled."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return I64(lanes_of(like.bitwidth))

    return types.int64(like), codegen


@intrinsic
def itemsize_of(typing: Any, like: Any) -> Any:
    """Bytes of a number of the dtype of `like`; likewise."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return I64(like.bitwidth // 8)

    return types.int64(like), codegen


@intrinsic
def is_double(typing: Any, x: Any) -> Any:
    """Whether a scalar is float64; known when the kernel is compiled, so a branch on it costs nothing."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return context.get_constant(types.boolean, x.bitwidth == 64)

    return types.boolean(x), codegen


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, see `multiply_add`."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return multiply_add(builder, *arguments)

    return a(a, a, a), codegen


def polynomial(for_float: tuple[float, ...], for_double: tuple[float, ...]) -> Any:
    """Make the intrinsic of a polynomial, given by its coefficients in each dtype, the highest power's first."""

    @intrinsic
    def horner(typing: Any, x: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            kind = context.get_value_type(x)
            first, *others = for_float if x.bitwidth == 32 else for_double
            total = kind(first)
            for coefficient in others:
                total = multiply_add(builder, total, arguments[0], kind(coefficient))
            return total

        return x(x), codegen

    return horner


def float_format(kind: Any) -> tuple[int, int, int]:
    """The bits of a float, those of its mantissa, and the bias of its exponent."""
    return (32, 23, 127) if kind.bitwidth == 32 else (64, 52, 1023)


@intrinsic
def power_of_two(typing: Any, shifted: Any) -> Any:
    """``2 ** n`` for a whole number n in the range of the exponent, given by the last bits of a float."""
    bits, mantissa, bias = float_format(shifted)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(bits)
        exponent = builder.add(builder.bitcast(arguments[0], integer), integer(bias))
        return builder.bitcast(builder.shl(exponent, integer(mantissa)), context.get_value_type(shifted))

    return shifted(shifted), codegen


@intrinsic
def exponent(typing: Any, x: Any) -> Any:
    """The n of ``x = m 2 ** n``, ``1 <= m < 2``, as a float; x is positive and normal."""
    bits, mantissa, bias = float_format(x)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        integer, kind = ir.IntType(bits), context.get_value_type(x)
        # These bits behind the exponent of a float whose last bit counts ones: 2 ** mantissa + n + bias.
        shifted = builder.lshr(builder.bitcast(arguments[0], integer), integer(mantissa))
        shifted = builder.bitcast(builder.or_(shifted, integer((mantissa + bias) << mantissa)), kind)
        return builder.fsub(shifted, kind(2.0**mantissa + bias))

    return x(x), codegen


@intrinsic
def significand(typing: Any, x: Any) -> Any:
    """The m of ``x = m 2 ** n``, ``1 <= m < 2``; x is positive and normal."""
    bits, mantissa, bias = float_format(x)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(bits)
        fraction = builder.and_(builder.bitcast(arguments[0], integer), integer((1 << mantissa) - 1))
        return builder.bitcast(builder.or_(fraction, integer(bias << mantissa)), context.get_value_type(x))

    return x(x), codegen


# --- Threads ----------------------------------------------------------------------------------------------------------


@intrinsic
def atomic_add(typing: Any, counter: Any, value: Any) -> Any:
    """Add to an int64 at a pointer; everything written before is seen by whoever reads the sum."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], arguments[1], "seq_cst")

    return types.int64(counter, types.int64), codegen


@intrinsic
def atomic_load(typing: Any, counter: Any) -> Any:
    """Read an int64 at a pointer, and all that was written before it was."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(arguments[0], "acquire", 8, typ=I64)

    return types.int64(counter), codegen


@intrinsic
def rest(typing: Any) -> Any:
    """Leave this core to other threads for 10 µs, and what the system adds: on Linux some 50, unless it is told else.

    A thread that gives way (``sched_yield``) loses its turn, some milliseconds, to any other that can run; one that
    wakes up is soon let in again, since it has had less than its share. On Windows, where a sleep takes 1 to 16 ms, it
    gives way all the same.
    """
    name, arguments_of_c = ("SwitchToThread", []) if sys.platform == "win32" else ("usleep", [I32(10)])

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(I32, [each.type for each in arguments_of_c])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments_of_c)
        return context.get_dummy_value()

    return types.void(), codegen
