"""Sparse samples: gathered as they are, and the first layer's products over the entries that they have.

A batch's entries (value, column) are copied to the workspace, row by row, and X is never made dense. Of the memory in
`fastmlp.kernels.records.State` this writes the entries, where each row's begin and end, their copies by column and
where each column's end; of that in `Part`, the sums of the parts of the inputs.

- ``Z = X W + b``: a row of Z is b and the sum of the rows of W that the sample's columns name, times its values.
  The entries are finite: that was seen to when they became `SparseRows`.
- ``dW = Xᵀ dZ``: a row of dW is the like sum of rows of dZ, over the entries of a column. For this each thread sorts
  the entries of its rows by column. A column's sum goes through the threads' parts one after the other, which is
  through the rows in ascending order whatever the number of threads.

Both are sums in the order of the dense products, without the terms that are zero, and so have the same bits; but where
the dW of dense samples is summed in halves (`fastmlp.kernels.weights`), that of sparse ones is not.
"""

from __future__ import annotations

import numpy as np

from fastmlp.kernels.gathering import AHEAD
from fastmlp.kernels.instructions import advance, lanes, pointer, prefetch, real
from fastmlp.kernels.jit import inline, kernel
from fastmlp.kernels.machine import SHAPES
from fastmlp.kernels.products import extent
from fastmlp.kernels.readers import layer_at, part_at, samples_at, state_at
from fastmlp.kernels.records import PART_BYTES
from fastmlp.kernels.tiles import packed_row

PACKED = SHAPES["packed", "row"]


@kernel
def gather_sparse(state, order_address, first_part, end_part, begin, end, n_rows, like):
    """Copy the entries of the samples ``order[begin:end]`` to those of the rows begin ... end, scaled."""
    net = state_at(state)
    samples, order = samples_at(net.samples), pointer(order_address, np.int64(0))
    starts, bounds = pointer(samples.starts, np.int64(0)), pointer(net.entry_bounds, np.int64(0))
    scale = real(net.input_scale, like)
    row_start = 0
    for row in range(begin):  # Other threads copy these.
        row_start += starts[order[row] + 1] - starts[order[row]]
    for row in range(begin, end):
        first = starts[order[row]]
        n = starts[order[row] + 1] - first
        prefetch(pointer(samples.y + order[row] * samples.y_stride, np.uint8(0)))  # The loss will want it.
        # The samples lie anywhere in memory: ask for one that will be wanted soon while this one is copied.
        ahead = order[min(row + AHEAD, end - 1)]
        for k in range(starts[ahead], starts[ahead + 1], 8):
            prefetch(advance(pointer(samples.values, like), k))
            prefetch(advance(pointer(samples.columns, np.int32(0)), k))
        values = advance(pointer(samples.values, like), first)
        columns = advance(pointer(samples.columns, np.int32(0)), first)
        to_values = advance(pointer(net.entry_values, like), row_start)
        to_columns = advance(pointer(net.entry_columns, np.int32(0)), row_start)
        for k in range(n):
            to_values[k] = values[k] * scale
        for k in range(n):
            to_columns[k] = columns[k]
        bounds[2 * row], bounds[2 * row + 1] = row_start, row_start + n
        row_start += n
    return 0


@kernel
def multiply_entries(state, first_part, end_part, begin, end, thread, like):
    """The sums of the first layer's ``X W`` over the inputs of each part, for the rows; the first begin with b."""
    net = state_at(state)
    layer = layer_at(net.layers)
    stride = layer.stride
    parameters, bounds = pointer(net.parameters, like), pointer(net.entry_bounds, np.int64(0))
    values, columns = pointer(net.entry_values, like), pointer(net.entry_columns, np.int32(0))
    n_vectors = -(-layer.n_out // lanes(like))
    n_panels = -(-n_vectors // PACKED.vectors)
    for panel in range(n_panels):
        v, count = extent(panel, n_panels, n_vectors)
        column = v * lanes(like)
        W = advance(parameters, layer.weights + column)
        for row in range(begin, end):
            first, last = bounds[2 * row], bounds[2 * row + 1]
            for number in range(first_part, end_part):
                part = part_at(net.parts + number * PART_BYTES)
                n = last - first
                if number + 1 < end_part:
                    n = 0
                    for k in range(first, last):
                        n += np.int64(columns[k] < part.first + part.n_in)
                initial = advance(parameters, layer.bias + column) if number == 0 else pointer(net.workspace, like)
                Z = advance(pointer(net.workspace, like), part.Z + row * stride + column)
                packed_row(
                    count, advance(values, first), 0, W, stride, initial, 0, Z, stride, advance(columns, first), n
                )
                first += n
    return 0


@kernel
def sort_entries(state, begin, end, thread, like):
    """Copy the entries of the rows begin ... end by column, as value and row; within a column the rows ascend.

    This is a counting sort. Afterwards the thread's part of `column_ends` says where its columns end, and first where
    they begin.
    """
    net = state_at(state)
    n_in = layer_at(net.layers).n_in
    bounds = pointer(net.entry_bounds, np.int64(0))
    values, columns = pointer(net.entry_values, like), pointer(net.entry_columns, np.int32(0))
    sorted_values, sorted_rows = pointer(net.sorted_values, like), pointer(net.sorted_rows, np.int32(0))
    begins = advance(pointer(net.column_ends, np.int32(0)), thread * (n_in + 1))
    ends = advance(begins, 1)
    first = bounds[2 * begin] if begin < end else 0
    last = bounds[2 * end - 1] if begin < end else 0
    for j in range(n_in + 1):
        begins[j] = 0
    for k in range(first, last):
        ends[columns[k]] += 1
    total = first
    begins[0] = first
    for j in range(n_in):  # The number of a column's entries becomes the index of the first.
        n = ends[j]
        ends[j] = total
        total += n
    for row in range(begin, end):
        for k in range(bounds[2 * row], bounds[2 * row + 1]):
            j = columns[k]
            at = ends[j]
            sorted_values[at], sorted_rows[at] = values[k], row
            ends[j] = at + 1  # And with the last entry it is the column's end.
    return 0


@inline
def prefetch_weights(net, begin, n, like):
    """Ask for n weights and their slots, which the next update will want: they are too many for the caches."""
    for k in range(begin, begin + n, 8):
        prefetch(advance(pointer(net.parameters, like), k))
        if net.slot1 != 0:
            prefetch(advance(pointer(net.slot1, like), k))
        if net.slot2 != 0:
            prefetch(advance(pointer(net.slot2, like), k))


@kernel
def multiply_sorted_entries(state, first_row, n_rows, threads, dW_address, like):
    """``dW = Xᵀ dZ`` of the first layer, for `n_rows` rows of dW from `first_row` on."""
    net = state_at(state)
    layer = layer_at(net.layers)
    stride = layer.stride
    next_row = min(first_row + threads * n_rows, layer.n_in - n_rows)
    zeros = pointer(net.workspace, like)
    values, rows = pointer(net.sorted_values, like), pointer(net.sorted_rows, np.int32(0))
    n_vectors = -(-layer.n_out // lanes(like))
    n_panels = -(-n_vectors // PACKED.vectors)
    for panel in range(n_panels):
        v, count = extent(panel, n_panels, n_vectors)
        D = advance(pointer(net.workspace, like), layer.D + v * lanes(like))
        for i in range(n_rows):
            if panel == 0:
                prefetch_weights(net, layer.weights + (next_row + i) * stride, stride, like)
            g = advance(pointer(dW_address, like), i * stride + v * lanes(like))
            initial = zeros
            for thread in range(threads):
                ends = advance(pointer(net.column_ends, np.int32(0)), thread * (layer.n_in + 1) + first_row + i)
                first = ends[0]
                n = ends[1] - first
                if n > 0 or thread == 0:
                    packed_row(
                        count, advance(values, first), 0, D, stride, initial, 0, g, stride, advance(rows, first), n
                    )  # fmt: skip
                    initial = g
    return 0
