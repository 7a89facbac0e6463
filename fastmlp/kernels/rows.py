"""Rows of numbers, vector by vector: what LLVM does not make of a loop, or not at the length that rows have here.

Each is an ``@intrinsic`` that emits a loop over whole vectors. Rows have memory up to whole vectors, mostly of zeros. A
vector is a cache line where nothing is to be kept in registers but sums: rows are padded to those.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.instructions import LINE_BYTES, bytes_of, load_vector, multiply_add, splat, store_vector
from fastmlp.kernels.jit import I32, I64
from fastmlp.kernels.machine import MACHINE, lanes_of

LINE_BITS = 8 * LINE_BYTES

# --- Gathering --------------------------------------------------------------------------------------------------------


def scan_lines(builder: ir.IRBuilder, element: ir.Type, count: Any, masks: Any, line_at: Callable[..., Any]) -> Any:
    """Emit a loop over cache lines that writes a bit for each number, is it not zero? Say whether all are finite.

    `line_at` gives a line's numbers as they are to be looked at, and does with them what else is to be done. A number
    is finite if 0 times it is 0, and not NaN: the bits of these products are gathered.
    """
    bits = 8 * bytes_of(element)
    lanes = LINE_BITS // bits
    vector, integers = ir.VectorType(element, lanes), ir.VectorType(ir.IntType(bits), lanes)
    zeros, mask_type = ir.Constant(vector, [0.0] * lanes), ir.IntType(lanes)
    masks = builder.bitcast(masks, mask_type.as_pointer())
    products = cgutils.alloca_once_value(builder, ir.Constant(integers, [0] * lanes))
    with cgutils.for_range(builder, count) as loop:
        values = line_at(vector, builder.mul(loop.index, I64(lanes)))
        mask = builder.bitcast(builder.fcmp_unordered("!=", values, zeros), mask_type)
        builder.store(mask, builder.gep(masks, [loop.index], source_etype=mask_type))
        product = builder.bitcast(builder.fmul(values, zeros), integers)
        builder.store(builder.or_(builder.load(products), product), products)
    without_sign = ir.Constant(integers, [(1 << bits - 1) - 1] * lanes)
    is_zero = builder.icmp_unsigned("==", builder.and_(builder.load(products), without_sign), integers(None))
    return builder.icmp_unsigned("==", builder.bitcast(is_zero, mask_type), mask_type(-1))


@intrinsic
def scan_row(typing: Any, row: Any, n_lines: Any, masks: Any) -> Any:
    """Write the mask of a row of so many cache lines, a bit an element; say whether all are finite."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        base, count, target = arguments
        element = context.get_data_type(row.dtype)

        def line_at(vector: ir.VectorType, first: Any) -> Any:
            return load_vector(builder, base, first, vector)

        return scan_lines(builder, element, count, target, line_at)

    return types.boolean(row, types.int64, masks), codegen


@intrinsic
def take_row(typing: Any, source: Any, scale: Any, row: Any, n_lines: Any, masks: Any) -> Any:
    """Write to `row` as many elements of `source` as fill its cache lines, times `scale`; and go on as `scan_row`."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        given, factor, base, count, target = arguments
        kind, element = context.get_data_type(source.dtype), context.get_data_type(row.dtype)

        def line_at(vector: ir.VectorType, first: Any) -> Any:
            values = load_vector(builder, given, first, ir.VectorType(kind, vector.count))
            if source != row:
                values = builder.uitofp(values, vector)
            values = builder.fmul(values, splat(builder, factor, vector))
            store_vector(builder, values, base, first)
            return values

        return scan_lines(builder, element, count, target, line_at)

    return types.boolean(source, scale, row, types.int64, masks), codegen


# --- Sums and products ------------------------------------------------------------------------------------------------

ROWS_AT_ONCE = 4
"""Rows that `dots_of_rows` and `weighted_sum_of_rows` sum side by side, to hide the latency of a multiply-add."""


def rows_at_once(builder: ir.IRBuilder, row: Any, end: Any) -> list[Any]:
    """Give the numbers of so many rows from `row` on: instead of those from `end` on, the last one."""
    last = builder.sub(end, I64(1))
    numbers = [builder.add(row, I64(k)) for k in range(ROWS_AT_ONCE)]
    return [builder.select(builder.icmp_signed("<", number, end), number, last) for number in numbers]


def reduce_lanes(builder: ir.IRBuilder, operation: str, values: Any) -> Any:
    """Add up the lanes of a vector, or take their maximum: in pairs, the results in pairs, and so on."""
    vector = values.type
    start = [vector.element(0.0)] if operation == "fadd" else []
    kind = ir.FunctionType(vector.element, [*(each.type for each in start), vector])
    name = f"llvm.vector.reduce.{operation}.v{vector.count}f{8 * bytes_of(vector.element)}"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, [*start, values], fastmath=["reassoc"])


@intrinsic
def add_vectors(typing: Any, target: Any, a: Any, b: Any, n: Any) -> Any:
    """``target[i] = a[i] + b[i]`` for n elements, whole cache lines of them; `target` may be `a`."""
    lanes = LINE_BITS // target.dtype.bitwidth

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(context.get_data_type(target.dtype), lanes)
        with cgutils.for_range(builder, builder.sdiv(arguments[3], I64(lanes))) as loop:
            offset = builder.mul(loop.index, I64(lanes))
            total = builder.fadd(*(load_vector(builder, term, offset, vector) for term in arguments[1:3]))
            store_vector(builder, total, arguments[0], offset)
        return context.get_dummy_value()

    return types.void(target, a, b, types.int64), codegen


def reduce_rows(operation: str, neutral: float) -> Any:
    """Make ``target = Σ rows``, or their maximum: of the first n elements of each, whole vectors of them.

    Each vector of the result is made in a register.
    """

    @intrinsic
    def reduction(typing: Any, target: Any, rows: Any, n_rows: Any, stride: Any, n: Any) -> Any:
        lanes = lanes_of(target.dtype.bitwidth)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            to, base, count, distance, length = arguments
            vector = ir.VectorType(context.get_data_type(target.dtype), lanes)
            total = cgutils.alloca_once(builder, vector)
            with cgutils.for_range_slice(builder, I64(0), length, I64(lanes), intp=I64) as (first, _):
                builder.store(ir.Constant(vector, [neutral] * lanes), total)
                with cgutils.for_range(builder, count) as loop:
                    offset = builder.add(builder.mul(loop.index, distance), first)
                    row = load_vector(builder, base, offset, vector)
                    builder.store(combine(builder, operation, builder.load(total), row), total)
                store_vector(builder, builder.load(total), to, first)
            return context.get_dummy_value()

        return types.void(target, rows, types.int64, types.int64, types.int64), codegen

    return reduction


def combine(builder: ir.IRBuilder, operation: str, total: Any, values: Any) -> Any:
    """Add, or take the maximum; that leaves NaN out."""
    if operation == "fadd":
        return builder.fadd(total, values)
    return builder.select(builder.fcmp_ordered(">", values, total), values, total)


sum_of_rows = reduce_rows("fadd", 0.0)
max_of_rows = reduce_rows("fmax", float("-inf"))


def with_each_row(operation: str) -> Any:
    """Make ``rows -= row``, or ``rows *= row``: for rows of n elements, whole vectors, one behind the other."""

    @intrinsic
    def change(typing: Any, rows: Any, row: Any, n_rows: Any, n: Any) -> Any:
        lanes = lanes_of(rows.dtype.bitwidth)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            base, other, count, length = arguments
            vector = ir.VectorType(context.get_data_type(rows.dtype), lanes)
            with cgutils.for_range_slice(builder, I64(0), length, I64(lanes), intp=I64) as (first, _):
                operand = load_vector(builder, other, first, vector)
                with cgutils.for_range(builder, count) as loop:
                    offset = builder.add(builder.mul(loop.index, length), first)
                    values = load_vector(builder, base, offset, vector)
                    store_vector(builder, getattr(builder, operation)(values, operand), base, offset)
            return context.get_dummy_value()

        return types.void(rows, rows, types.int64, types.int64), codegen

    return change


subtract_from_rows = with_each_row("fsub")
multiply_rows_by = with_each_row("fmul")


@intrinsic
def dots_of_rows(
    typing: Any, target: Any, stride: Any, rows: Any, distance: Any, begin: Any, end: Any, b: Any, n: Any, start: Any
) -> Any:
    """``target[r] = start + rows[r] . b``, then zeros up to a whole vector, for the rows begin ... end.

    Rows and b have n elements, b with zeros behind them up to a whole vector. Behind a row may be anything, even NaN:
    of a row that overflowed. Four rows share the loads of b; a row's sum is made lane by lane and then over the lanes,
    in an order that depends on nothing else.
    """
    dtype, whole = target.dtype, types.int64
    lanes = lanes_of(dtype.bitwidth)
    signature = types.void(target, whole, rows, whole, whole, whole, b, whole, dtype)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target, stride, rows, distance, begin, end, b, n, start = arguments
        vector = ir.VectorType(context.get_data_type(dtype), lanes)
        integers = ir.VectorType(I64, lanes)
        lane_numbers, zeros = ir.Constant(integers, list(range(lanes))), ir.Constant(vector, [0.0] * lanes)
        totals = [cgutils.alloca_once(builder, vector) for _ in range(ROWS_AT_ONCE)]
        with cgutils.for_range_slice(builder, begin, end, I64(ROWS_AT_ONCE), intp=I64) as (row, _):
            numbers = rows_at_once(builder, row, end)
            for total in totals:
                builder.store(zeros, total)
            with cgutils.for_range_slice(builder, I64(0), n, I64(lanes), intp=I64) as (j, _):
                shared = load_vector(builder, b, j, vector)
                inside = builder.icmp_signed("<", lane_numbers, splat(builder, builder.sub(n, j), integers))
                for number, total in zip(numbers, totals, strict=True):
                    values = load_vector(builder, rows, builder.add(builder.mul(number, distance), j), vector)
                    values = builder.select(inside, values, zeros)
                    builder.store(multiply_add(builder, values, shared, builder.load(total)), total)
            for number, total in zip(numbers, totals, strict=True):
                dot = builder.fadd(start, reduce_lanes(builder, "fadd", builder.load(total)))
                row_of_target = builder.insert_element(zeros, dot, I32(0))
                store_vector(builder, row_of_target, target, builder.mul(number, stride))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def weighted_sum_of_rows(
    typing: Any, target: Any, stride: Any, rows: Any, distance: Any, n_rows: Any, weights: Any, step: Any, n: Any
) -> Any:
    """``target[j] = Σ weights[step * r] rows[r, j]``, then zeros up to a whole vector, for n rows j of `target`.

    Those that fill the last vector of `rows` are written, too.
    The sums of every fourth row are made apart, so that no multiply-add waits for the one before.
    """
    dtype, whole = target.dtype, types.int64
    lanes = lanes_of(dtype.bitwidth)
    signature = types.void(target, whole, rows, whole, whole, weights, whole, whole)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target, stride, rows, distance, n_rows, weights, step, n = arguments
        vector = ir.VectorType(context.get_data_type(dtype), lanes)
        zeros = ir.Constant(vector, [0.0] * lanes)
        totals = [cgutils.alloca_once(builder, vector) for _ in range(ROWS_AT_ONCE)]
        with cgutils.for_range_slice(builder, I64(0), n, I64(lanes), intp=I64) as (j, _):
            for total in totals:
                builder.store(zeros, total)
            with cgutils.for_range_slice(builder, I64(0), n_rows, I64(ROWS_AT_ONCE), intp=I64) as (row, _):
                for k, (number, total) in enumerate(zip(rows_at_once(builder, row, n_rows), totals, strict=True)):
                    source = builder.gep(weights, [builder.mul(number, step)], source_etype=vector.element)
                    weight = builder.load(source, align=bytes_of(vector.element), typ=vector.element)
                    inside = builder.icmp_signed("<", builder.add(row, I64(k)), n_rows)
                    weight = builder.select(inside, weight, vector.element(0.0))
                    values = load_vector(builder, rows, builder.add(builder.mul(number, distance), j), vector)
                    products = multiply_add(builder, splat(builder, weight, vector), values, builder.load(total))
                    builder.store(products, total)
            a, b, c, d = (builder.load(total) for total in totals)
            result = builder.fadd(builder.fadd(a, b), builder.fadd(c, d))
            for lane in range(lanes):
                row_of_target = builder.insert_element(zeros, builder.extract_element(result, I32(lane)), I32(0))
                store_vector(builder, row_of_target, target, builder.mul(builder.add(j, I64(lane)), stride))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def sum_of_squares(typing: Any, base: Any, n: Any) -> Any:
    """``Σ x²`` over n elements, whole cache lines of them, in float64.

    The lines go to several sums in turn, so that no multiply-add waits for the one before: to as many as fill eight
    registers. At last these are added up, and the lanes.
    """
    lanes = LINE_BITS // base.dtype.bitwidth
    count = max(1, MACHINE.vector_bytes // lanes)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(context.get_data_type(base.dtype), lanes)
        doubles = ir.VectorType(ir.DoubleType(), lanes)
        sums = [cgutils.alloca_once_value(builder, ir.Constant(doubles, [0.0] * lanes)) for _ in range(count)]

        def add_square(line: Any, total: Any) -> None:
            x = load_vector(builder, arguments[0], builder.mul(line, I64(lanes)), vector)
            x = x if base.dtype.bitwidth == 64 else builder.fpext(x, doubles)
            builder.store(multiply_add(builder, x, x, builder.load(total)), total)

        n_lines = builder.sdiv(arguments[1], I64(lanes))
        n_rounds = builder.sdiv(n_lines, I64(count))
        done = builder.mul(n_rounds, I64(count))
        with cgutils.for_range(builder, n_rounds) as loop:
            for k, total in enumerate(sums):
                add_square(builder.add(builder.mul(loop.index, I64(count)), I64(k)), total)
        with cgutils.for_range(builder, builder.sub(n_lines, done)) as loop:
            add_square(builder.add(done, loop.index), sums[0])
        return reduce_lanes(builder, "fadd", functools.reduce(builder.fadd, map(builder.load, sums)))

    return types.float64(base, types.int64), codegen


@intrinsic
def transpose_square(typing: Any, rows: Any, stride: Any, n_rows: Any, zeros: Any, target: Any, distance: Any) -> Any:
    """Copy a square of as many rows as a vector has lanes to the columns of another; rows from `n_rows` on are zeros.

    A round interleaves row i with row ``i + V / 2``, for all i. That moves each element from place ``V i + j`` to the
    place whose number has the bits of that one, turned by one: of V = 4, from i₁i₀j₁j₀ to i₀j₁j₀i₁. So log2 V rounds,
    which bring j before i, here j₁j₀i₁i₀, transpose the square.
    """
    lanes = lanes_of(rows.dtype.bitwidth)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        base, between, count, none, to, apart = arguments
        vector = ir.VectorType(context.get_data_type(rows.dtype), lanes)
        square = []
        for row in range(lanes):
            inside = builder.icmp_signed("<", I64(row), count)
            source = builder.gep(base, [builder.mul(I64(row), between)], source_etype=vector.element)
            square.append(load_vector(builder, builder.select(inside, source, none), I64(0), vector))
        indices = [lane // 2 + lane % 2 * lanes for lane in range(2 * lanes)]
        halves = [ir.Constant(ir.VectorType(I32, lanes), part) for part in (indices[:lanes], indices[lanes:])]
        for _ in range(lanes.bit_length() - 1):
            pairs = zip(square[: lanes // 2], square[lanes // 2 :], strict=True)
            square = [builder.shuffle_vector(a, b, half) for a, b in pairs for half in halves]
        for row in range(lanes):
            store_vector(builder, square[row], to, builder.mul(I64(row), apart))
        return context.get_dummy_value()

    return types.void(rows, types.int64, types.int64, rows, rows, types.int64), codegen


# --- Short rows -------------------------------------------------------------------------------------------------------
#
# A loop over ten classes is too short for the vector code that LLVM makes of loops of any length. These take a row a
# whole vector at a time: rows have memory up to whole vectors.


def each_vector(builder: ir.IRBuilder, element: ir.Type, base: Any, n: Any, work: Callable[..., Any]) -> None:
    """Emit a loop over the vectors that hold n elements: ``work(values, first, inside)``, `inside` where lane < n."""
    lanes = lanes_of(8 * bytes_of(element))
    vector, integers = ir.VectorType(element, lanes), ir.VectorType(I64, lanes)
    numbers = ir.Constant(integers, list(range(lanes)))
    with cgutils.for_range_slice(builder, I64(0), n, I64(lanes), intp=I64) as (first, _):
        values = load_vector(builder, base, first, vector)
        inside = builder.icmp_signed("<", numbers, splat(builder, builder.sub(n, first), integers))
        work(values, first, inside)


def reduce_row(operation: str, neutral: float) -> Any:
    """Make the intrinsic that reduces the first n elements of a row, vector by vector and then over the lanes."""

    @intrinsic
    def reduction(typing: Any, row: Any, n: Any) -> Any:
        lanes = lanes_of(row.dtype.bitwidth)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            element = context.get_data_type(row.dtype)
            vector = ir.VectorType(element, lanes)
            outside = ir.Constant(vector, [neutral] * lanes)
            kept = cgutils.alloca_once_value(builder, outside)

            def keep(values: Any, first: Any, inside: Any) -> None:
                values = builder.select(inside, values, outside)
                builder.store(combine(builder, operation, builder.load(kept), values), kept)

            each_vector(builder, element, arguments[0], arguments[1], keep)
            return reduce_lanes(builder, operation, builder.load(kept))

        return row.dtype(row, types.int64), codegen

    return reduction


row_sum = reduce_row("fadd", 0.0)
row_max = reduce_row("fmax", float("-inf"))


@intrinsic
def shift_row(typing: Any, row: Any, n: Any, offset: Any, target: Any) -> Any:
    """``target = row - offset`` for n elements, and minus infinity beyond them."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        base, count, amount, goal = arguments
        lanes = lanes_of(row.dtype.bitwidth)
        vector = ir.VectorType(context.get_data_type(row.dtype), lanes)

        def shift(values: Any, first: Any, inside: Any) -> None:
            shifted = builder.fsub(values, splat(builder, amount, vector))
            outside = ir.Constant(vector, [float("-inf")] * lanes)
            store_vector(builder, builder.select(inside, shifted, outside), goal, first)

        each_vector(builder, vector.element, base, count, shift)
        return context.get_dummy_value()

    return types.void(row, types.int64, row.dtype, row), codegen


@intrinsic
def scale_row(typing: Any, row: Any, n: Any, factor: Any) -> Any:
    """``row *= factor`` for n elements and those that fill the last vector."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        base, count, amount = arguments

        def scale(values: Any, first: Any, inside: Any) -> None:
            product = builder.fmul(values, splat(builder, amount, values.type))
            store_vector(builder, product, base, first)

        each_vector(builder, context.get_data_type(row.dtype), base, count, scale)
        return context.get_dummy_value()

    return types.void(row, types.int64, row.dtype), codegen
