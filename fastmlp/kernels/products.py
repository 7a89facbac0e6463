"""Whole matrix products out of tiles: which tile goes where, and in which order.

Columns are cut into *panels* as wide as a tile; the panels of a matrix are as equal as can be. A *slice* is `DEPTH`
rows of a panel of the right-hand matrix: it stays in the cache while all rows of the left-hand one pass over it, and
the tiles ask for the slice beside, which is the next. Listed products take several panels as one *group*, where tiles
are narrow: a group is the outer loop, and the list of some rows is made once for all its panels::

              panel 0   panel 1   panel 2
            +---------+---------+---------+
        B:  |  1st    |  2nd    |  3rd    |  slice 0       dense:   slice > panel > rows > tile
            +---------+---------+---------+
            |  4th    |  5th    |  6th    |  slice 1       listed:  group > slice > rows > panel > tile
            +---------+---------+---------+

Dense tiles have nothing to keep from one panel to the next, and so let a slice serve all rows. Transposed products need
no slices: their depth is the rows of a block, which are few.

Rows come in whole tiles: buffers have room for the rows that the last tile computes beyond the end, and nobody reads
them. Sums are over ascending p always, so a row's result does not depend on the tile or the thread that computed it.
A single row may go by tiles of one row, which are kernels of their own: whoever has many rows need not compile them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmlp.kernels.instructions import advance, itemsize_of, lanes, pointer
from fastmlp.kernels.jit import ZERO, inline, kernel
from fastmlp.kernels.lists import backward_list, forward_list
from fastmlp.kernels.machine import MACHINE, SHAPES, Shape
from fastmlp.kernels.tiles import (
    dense_columns,
    dense_row,
    dense_rows,
    listed_columns,
    listed_row,
    listed_rows,
)

DENSE = SHAPES["dense", "rows"]
DENSE_COLUMNS = SHAPES["dense", "columns"]
LISTED = SHAPES["listed", "rows"]
LISTED_COLUMNS = SHAPES["listed", "columns"]
assert LISTED.rows == 2  # Their distance is the stride of A.
assert LISTED_COLUMNS.rows == 2  # What `turn_masks` prepares.

DEPTH = 1024
"""Rows of the right-hand matrix that a panel takes at a time: with 7 vectors across 448 KiB, which fit a level-2 cache.
The sums go on from what the rows before have left in C: in the same order, so with the same bits."""

LISTED_VECTORS = 448 // MACHINE.vector_bytes
"""Vectors across that a list is made once for (or a panel's, if it has more): `DEPTH` rows of them fit that cache."""
assert LISTED_COLUMNS.vectors <= LISTED_VECTORS

ROW_UNIT = int(np.lcm(DENSE.rows, LISTED.rows))
"""Threads share the rows of a batch in multiples of this, so that no tile is cut."""


@inline
def share_of_rows(n_rows, thread, threads):
    """The rows of a block that are a thread's: first, end."""
    units = -(-n_rows // ROW_UNIT)
    first = (units * thread // threads) * ROW_UNIT
    end = (units * (thread + 1) // threads) * ROW_UNIT
    return first, min(end, n_rows)


@inline
def extent(panel, n_panels, n_vectors):
    """The first vector of a panel, or of a group, and how many it has."""
    first = panel * n_vectors // n_panels
    return first, (panel + 1) * n_vectors // n_panels - first


def product_by_rows(name: str, tile: Any, shape: Shape) -> Any:
    """Make ``C[i, :] = initial + A[i, :depth] B[:depth, :]`` for the rows from `first_row` up to `last_row`."""

    def multiply(
        A_address, lda, B_address, ldb, initial_address, C_address, ldc, first_row, last_row, depth, n_vectors, like
    ):  # fmt: skip
        A, B = pointer(A_address, like), pointer(B_address, like)
        C, initial = pointer(C_address, like), pointer(initial_address, like)
        no_list = pointer(ZERO, np.int32(0))
        n_panels = -(-n_vectors // shape.vectors)
        for p in range(0, depth, DEPTH):
            n = min(DEPTH, depth - p)
            for panel in range(n_panels):
                v, count = extent(panel, n_panels, n_vectors)
                column = v * lanes(like)
                b = advance(B, p * ldb + column)
                for row in range(first_row, last_row, shape.rows):
                    a, c = advance(A, row * lda + p), advance(C, row * ldc + column)
                    start, ldi = (advance(initial, column), 0) if p == 0 else (c, ldc)
                    tile(count, a, lda, b, ldb, start, ldi, c, ldc, no_list, n)
        return 0

    return kernel(multiply, name)


multiply_rows = product_by_rows("multiply_rows", dense_rows, DENSE)
multiply_row = product_by_rows("multiply_row", dense_row, SHAPES["dense", "row"])


def product_by_listed_rows(name: str, tile: Any, shape: Shape) -> Any:
    """Make the same for an A with masks, given by the addresses of its rows, over the inputs that are not zero.

    Two rows may lie anywhere: the tile takes the distance between them for the stride.
    """

    def multiply(
        rows_address, masks_address, n_words, B_address, ldb, initial_address, C_address, ldc, first_row, last_row,
        n_vectors, indices_address, like,
    ):  # fmt: skip
        rows, B = pointer(rows_address, np.int64(0)), pointer(B_address, like)
        C, initial = pointer(C_address, like), pointer(initial_address, like)
        masks, indices = pointer(masks_address, np.uint64(0)), pointer(indices_address, np.int32(0))
        n_groups = -(-n_vectors // max(LISTED_VECTORS, shape.vectors))
        for group in range(n_groups):
            first, n_across = extent(group, n_groups, n_vectors)
            n_panels = -(-n_across // shape.vectors)
            for word in range(0, n_words, DEPTH // 64):
                end = min(word + DEPTH // 64, n_words)
                for row in range(first_row, last_row, shape.rows):
                    a = pointer(rows[row], like)
                    lda = (rows[row + 1] - rows[row]) // itemsize_of(like)
                    length = forward_list(masks, n_words, word, end, row, shape.rows, indices)
                    for panel in range(n_panels):
                        v, count = extent(panel, n_panels, n_across)
                        column = (first + v) * lanes(like)
                        b, c = advance(B, column), advance(C, row * ldc + column)
                        start, ldi = (advance(initial, column), 0) if word == 0 else (c, ldc)
                        tile(count, a, lda, b, ldb, start, ldi, c, ldc, indices, length)
        return 0

    return kernel(multiply, name)


multiply_listed_rows = product_by_listed_rows("multiply_listed_rows", listed_rows, LISTED)
multiply_listed_row = product_by_listed_rows("multiply_listed_row", listed_row, SHAPES["listed", "row"])


@kernel
def multiply_columns(A_address, lda, B_address, ldb, zeros_address, C_address, ldc, n_rows, depth, n_vectors, like):
    """``C[i, :] = A[:depth, i]ᵀ B[:depth, :]`` for the first `n_rows` rows of C; `zeros` are a row of B's length."""
    A, B, C, zeros = (
        pointer(A_address, like),
        pointer(B_address, like),
        pointer(C_address, like),
        pointer(zeros_address, like),
    )
    no_list = pointer(ZERO, np.int32(0))
    n_panels = -(-n_vectors // DENSE_COLUMNS.vectors)
    for panel in range(n_panels):
        v, count = extent(panel, n_panels, n_vectors)
        column = v * lanes(like)
        for row in range(0, n_rows, DENSE_COLUMNS.rows):
            dense_columns(
                count, advance(A, row), lda, advance(B, column), ldb, advance(zeros, column), 0,
                advance(C, row * ldc + column), ldc, no_list, depth,
            )  # fmt: skip
    return 0


@kernel
def multiply_listed_columns(
    rows_address, first_column, turned_address, n_rows_of_A, B_address, ldb, zeros_address, C_address, ldc, n_rows,
    n_vectors, indices_address, like,
):  # fmt: skip
    """`multiply_columns` for an A with turned masks, given by the addresses of its rows, over those that are not zero.

    The first row of C belongs to the column `first_column` of A, and the masks are those of its 64 columns.
    """
    A, B, C, zeros = (
        pointer(rows_address, like),
        pointer(B_address, like),
        pointer(C_address, like),
        pointer(zeros_address, like),
    )
    turned, indices = pointer(turned_address, np.uint8(0)), pointer(indices_address, np.int32(0))
    n_groups = -(-n_vectors // LISTED_VECTORS)
    for group in range(n_groups):
        first, n_across = extent(group, n_groups, n_vectors)
        n_panels = -(-n_across // LISTED_COLUMNS.vectors)
        for row in range(0, n_rows, LISTED_COLUMNS.rows):
            a = first_column + row
            length = backward_list(turned, (a & 63) >> 1, n_rows_of_A, indices)
            for panel in range(n_panels):
                v, count = extent(panel, n_panels, n_across)
                column = (first + v) * lanes(like)
                listed_columns(
                    count, A, a, advance(B, column), ldb, advance(zeros, column), 0,
                    advance(C, row * ldc + column), ldc, indices, length,
                )  # fmt: skip
    return 0
