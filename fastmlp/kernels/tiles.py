"""The register tile: the one place where the multiplications are done.

A tile is a small block of C = A B, held in the vector registers while it is summed over the whole depth::

                        <------- NV vectors of V lanes ------->
              B, row p  [ b0          ][ b1          ][ b2    ]      NV loads
    A(0, p)   splat     [ c00 += a0 b0 ][ c01 += a0 b1 ][ c02  ]  \
    A(1, p)   splat     [ c10 += a1 b0 ][ c11 += a1 b1 ][ c12  ]   }  MR x NV fused multiply-adds
    A(2, p)   splat     [ c20 += a2 b0 ][ c21 += a2 b1 ][ c22  ]  /

For every p it loads NV vectors and MR scalars and does MR x NV multiply-adds, so the registers, not the memory,
feed the multipliers. ``MR * NV`` sums, the smaller of the two operands and one element of the other must fit the
register file; the sums must be enough to hide the latency of a multiply-add (8 on current CPUs). LLVM's own vectoriser
does not find this shape, so the tile is emitted here, instruction by instruction.

A dense tile of several rows, as wide as its kind can be, also asks for what lies beside row p of its B, where the next
tiles of a wide matrix begin: the rows there are pages apart, and no CPU foresees them. Nothing waits for the answer.

Five kinds, four of them from two choices (and by rows, a shape for a single row):

=============  ======================================  ==============================================
               A is read by *rows*                     A is read by *columns*
               ``A(i, p) = A[i * lda + p]``            ``A(i, p) = A[p * lda + i]``
=============  ======================================  ==============================================
*dense*        all p: ``Z = X W``, ``dX = dY Wᵀ``      all p: ``dW = Xᵀ dY``
*listed*       only the p of a list: ``Z = X W``       only the p of a list: ``dW = Xᵀ dY``
               where all other A(i, p) are zero        where all other A(i, p) are zero;
                                                       A is the addresses of rows that may lie anywhere:
                                                       ``A(i, p) = A[p][lda + i]``
*packed*       only the p of a list, in a row          --
               ``A(0, p) = A[q]``, p = list[q]
=============  ======================================  ==============================================

A list holds, in ascending order, every p where any A(i, p) of the tile's rows is not zero. What it leaves out would
only have added zero, so a listed tile gives the same bits as a dense one, if B is finite. (But for the sign of a zero:
where all products underflow to -0.0, one more zero would make it 0.0. Nothing that follows tells the two apart.) A
packed tile is that of a sparse row, of which nothing but the entries of the list is in memory.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.instructions import (
    LINE_BYTES,
    ask_for_line,
    bytes_of,
    load_vector,
    multiply_add,
    splat,
    store_vector,
    vector_at,
)
from fastmlp.kernels.jit import I32, I64
from fastmlp.kernels.machine import SHAPES, lanes_of


def emit_tile(module: ir.Module, element: ir.Type, lanes: int, rows: int, vectors: int, kind: tuple[str, str]) -> Any:
    """Add to `module` the function of one tile, and return it.

    ``void tile(A, lda, B, ldb, initial, ldi, C, ldc, list, depth)``: ``C[i, :] = initial[i * ldi, :] + sum over p``,
    C being `rows` by ``vectors * lanes``. Strides are in elements. ``ldi = 0`` starts every row from the same vector,
    as a bias; `initial` may be C itself, to add to it. `list` holds `depth` int32 if the kind is listed or packed.
    """
    listed, packed, by_columns = kind[0] != "dense", kind[0] == "packed", kind[1] == "columns"
    name = f"fastmlp_tile_{element}_{lanes}x{rows}x{vectors}_{kind[0]}_{kind[1]}"
    vector, pointer = ir.VectorType(element, lanes), element.as_pointer()
    signature = [pointer, I64, pointer, I64, pointer, I64, pointer, I64, I32.as_pointer(), I64]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), signature), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    A, lda, B, ldb, initial, ldi, C, ldc, indices, depth = function.args
    entry, loop, done = (function.append_basic_block(label) for label in ("entry", "loop", "done"))
    columns = [I64(j * lanes) for j in range(vectors)]

    builder = ir.IRBuilder(entry)
    start = [
        [load_vector(builder, initial, builder.add(builder.mul(ldi, I64(i)), column), vector) for column in columns]
        for i in range(rows)
    ]
    row_of_A = [builder.gep(A, [builder.mul(lda, I64(i))], source_etype=element) for i in range(rows)]
    builder.cbranch(builder.icmp_signed(">", depth, I64(0)), loop, done)

    builder = ir.IRBuilder(loop)
    q = builder.phi(I64)  # Counts the terms of the sum. The row of B of each is p: q itself or, with a list, list[q].
    q.add_incoming(I64(0), entry)
    sums = [[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)]
    p = q
    if listed:
        p = builder.sext(builder.load(builder.gep(indices, [q], source_etype=I32), typ=I32), I64)
    row_of_B = builder.mul(p, ldb)
    if listed and by_columns:
        address = builder.load(builder.gep(builder.bitcast(A, I64.as_pointer()), [p], source_etype=I64), typ=I64)
        column_of_A = builder.gep(builder.inttoptr(address, pointer), [lda], source_etype=element)
    elif by_columns:
        column_of_A = builder.gep(A, [builder.mul(p, lda)], source_etype=element)

    def splat_of_A(i: int) -> Any:
        if by_columns:
            source = builder.gep(column_of_A, [I64(i)], source_etype=element)
        else:
            source = builder.gep(row_of_A[i], [q if packed else p], source_etype=element)
        return splat(builder, builder.load(source, align=bytes_of(element), typ=element), vector)

    def vector_of_B(j: int) -> Any:
        return load_vector(builder, B, builder.add(row_of_B, columns[j]), vector)

    # The smaller operand is held in registers, and the other is loaded piece by piece.
    total: list[list[Any]] = [[None] * vectors for _ in range(rows)]
    if rows < vectors:
        a = [splat_of_A(i) for i in range(rows)]
        for j in range(vectors):
            b_j = vector_of_B(j)
            for i in range(rows):
                total[i][j] = multiply_add(builder, a[i], b_j, sums[i][j])
    else:
        b = [vector_of_B(j) for j in range(vectors)]
        if kind[0] == "dense" and vectors == SHAPES[kind].vectors:  # There may be another such tile beside this one.
            for j in range(2 * vectors - 1, vectors - 1, -max(1, LINE_BYTES // (lanes * bytes_of(element)))):
                ask_for_line(builder, vector_at(builder, B, builder.add(row_of_B, I64(j * lanes)), vector))
        for i in range(rows):
            a_i = splat_of_A(i)
            for j in range(vectors):
                total[i][j] = multiply_add(builder, a_i, b[j], sums[i][j])
    following = builder.add(q, I64(1))
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
    q.add_incoming(following, loop)
    for i in range(rows):
        for j in range(vectors):
            sums[i][j].add_incoming(start[i][j], entry)
            sums[i][j].add_incoming(total[i][j], loop)

    builder = ir.IRBuilder(done)
    results = [[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)]
    for i in range(rows):
        for j in range(vectors):
            results[i][j].add_incoming(start[i][j], entry)  # A list may be empty.
            results[i][j].add_incoming(total[i][j], loop)
    for i in range(rows):
        for result, column in zip(results[i], columns, strict=True):
            store_vector(builder, result, C, builder.add(builder.mul(ldc, I64(i)), column))
    builder.ret_void()
    return function


def tile_family(kind: tuple[str, str]) -> Any:
    """Make the intrinsic that runs a tile of one kind, of as many vectors as its first argument says at run time."""
    shape = SHAPES[kind]

    @intrinsic
    def tile(
        typing: Any, vectors: Any, A: Any, lda: Any, B: Any, ldb: Any, initial: Any, ldi: Any, C: Any, ldc: Any,
        indices: Any, depth: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(
            types.int64, A, types.int64, A, types.int64, A, types.int64, A, types.int64, indices, types.int64
        )

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            count, *rest = arguments
            element = context.get_data_type(A.dtype)
            default = builder.append_basic_block("no_tile")  # It never comes to that: panels have 1 ... the most.
            after = builder.append_basic_block("after_tile")
            switch = builder.switch(count, default)
            for n in range(1, shape.vectors + 1):
                function = emit_tile(builder.module, element, lanes_of(A.dtype.bitwidth), shape.rows, n, kind)
                case = builder.append_basic_block(f"tile_{n}")
                switch.add_case(I64(n), case)
                with builder.goto_block(case):
                    builder.call(function, rest)
                    builder.branch(after)
            with builder.goto_block(default):
                builder.branch(after)
            builder.position_at_end(after)
            return context.get_dummy_value()

        return signature, codegen

    return tile


dense_rows = tile_family(("dense", "rows"))
dense_columns = tile_family(("dense", "columns"))
listed_rows = tile_family(("listed", "rows"))
listed_columns = tile_family(("listed", "columns"))
dense_row = tile_family(("dense", "row"))
listed_row = tile_family(("listed", "row"))
packed_row = tile_family(("packed", "row"))
