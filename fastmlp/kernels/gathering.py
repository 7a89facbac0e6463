"""Gathering: the samples of a batch, found wherever they lie, with masks, and copied to the workspace if need be.

A mask says which inputs of a row are not zero, a bit each. Listed tiles read only those, from wherever the row lies: so
samples that need no conversion stay where they are, unless they have few inputs, or so few zeros that dense tiles are
faster, which want all rows in one stride. Not to copy them leaves the level-2 cache to the weights.

Of the memory in `fastmlp.kernels.records.Part` this writes the gathered X, the addresses of its rows, the masks and
doubts, and the sums of the parts of the inputs.
"""

from __future__ import annotations

import numpy as np

from fastmlp.kernels.instructions import (
    LINE_BYTES,
    address_of,
    advance,
    call,
    itemsize_of,
    lanes,
    pointer,
    prefetch,
    real,
)
from fastmlp.kernels.jit import inline, kernel
from fastmlp.kernels.lists import lists_pay
from fastmlp.kernels.products import LISTED, LISTED_COLUMNS
from fastmlp.kernels.readers import layer_at, part_at, samples_at, state_at
from fastmlp.kernels.records import PART_BYTES
from fastmlp.kernels.rows import scan_row, take_row
from fastmlp.kernels.sizes import MASK_SLACK

AHEAD = 4
"""Samples between the one that is read and the one that is asked for from memory. (Sparse ones, too: with 8, fit and
predict of 20,000 × 10,000 at 0.5 % took as long.)"""

CONFLICTING_STRIDE = 1024
"""Samples that lie a multiple of so many bytes apart fall into few sets of the cache: they are copied."""

IN_PLACE_INPUTS = 64
"""Inputs of samples that are worth leaving in place: few are copied as fast as they are read."""


@kernel
def gather(state, order_address, first_part, end_part, begin, end, n_rows, like):
    """Make the samples ``order[begin:end]`` the rows begin ... end: converted and scaled, or in place; with masks.

    This is done for the inputs of the parts first_part ... end_part. Whoever does the last of the block's `n_rows`
    clears the masks beyond it.
    """
    net = state_at(state)
    samples, order = samples_at(net.samples), pointer(order_address, np.int64(0))
    scale = real(net.input_scale, like)
    is_uint8 = samples.X_is_uint8 != 0
    itemsize, line = 1 if is_uint8 else itemsize_of(like), LINE_BYTES // itemsize_of(like)
    in_place = (
        not is_uint8
        and net.input_scale == 1.0
        and layer_at(net.layers).n_in >= IN_PLACE_INPUTS
        and layer_at(net.layers).n_in % LISTED_COLUMNS.rows == 0  # Else dW's last tile would read beyond the sample.
        and samples.X_stride % CONFLICTING_STRIDE != 0
        and samples.X_stride % itemsize == 0  # Tiles take the distance between samples in numbers.
    )
    last = part_at(net.parts + (end_part - 1) * PART_BYTES)
    first_byte = part_at(net.parts + first_part * PART_BYTES).first * itemsize
    end_byte = (last.first + last.n_in) * itemsize
    for row in range(begin, end):
        prefetch(pointer(samples.y + order[row] * samples.y_stride, np.uint8(0)))  # The loss will want it.
        # The samples lie anywhere in memory: ask for one that will be wanted soon while this one is read.
        ahead = pointer(samples.X + order[min(row + AHEAD, end - 1)] * samples.X_stride, np.uint8(0))
        # Also for a line more: the sample may not begin with one.
        for byte in range(first_byte, end_byte + LINE_BYTES - 1, LINE_BYTES):
            prefetch(advance(ahead, byte))
        for number in range(first_part, end_part):
            part = part_at(net.parts + number * PART_BYTES)
            address = samples.X + order[row] * samples.X_stride + part.first * itemsize
            x = advance(pointer(part.X, like), row * part.stride)
            mask = advance(pointer(part.masks, np.uint64(0)), row * part.n_words)
            n_lines = part.n_in // line
            if is_uint8:
                pixels = pointer(address, np.uint8(0))
                is_finite = take_row(pixels, scale, x, n_lines, mask) & take_rest(pixels, scale, x, part.n_in, mask)
            else:
                values = pointer(address, like)
                is_finite = scan_row(values, n_lines, mask) if in_place else take_row(values, scale, x, n_lines, mask)
                is_finite &= take_rest(values, scale, x, part.n_in, mask)
            pointer(part.row_addresses, np.int64(0))[row] = address if in_place else address_of(x)
            pointer(part.doubts, 0.0)[row] = 0.0 if is_finite else np.nan
    for number in range(first_part, end_part):
        part = part_at(net.parts + number * PART_BYTES)
        masks, addresses = pointer(part.masks, np.uint64(0)), pointer(part.row_addresses, np.int64(0))
        if in_place and not lists_pay(masks, part.n_words, begin, end, part.n_in):
            for row in range(begin, end):
                x, values = advance(pointer(part.X, like), row * part.stride), pointer(addresses[row], like)
                for j in range(part.n_in):
                    x[j] = values[j]
                addresses[row] = address_of(x)
        if end == n_rows:
            for i in range(n_rows * part.n_words, (n_rows + MASK_SLACK) * part.n_words):
                masks[i] = np.uint64(0)
        if end % LISTED.rows != 0:  # The last of an odd number of rows is its own neighbour in the tile.
            addresses[end] = addresses[end - 1]
    return 0


@inline
def take_rest(values, scale, x, n, mask):
    """Do what `take_row` does with those of a sample's n values that do not fill a cache line, one by one.

    They are copied even if the sample stays in place: then nobody reads the copy.
    To scan them when they have been copied would be simpler, but slower: a vector that is read where smaller pieces
    have just been written has to wait for them.
    """
    line, zero = LINE_BYTES // itemsize_of(scale), real(0.0, scale)
    first, bits, is_finite = n // line * line, 0, True
    if first < n:
        for j in range(first, n):
            value = real(values[j], scale) * scale
            x[j] = value
            bits |= np.int64(value != zero) << (j - first)
            is_finite &= value * zero == zero
        bytes_of_mask = advance(pointer(address_of(mask), np.uint8(0)), first // 8)
        for k in range(line // 8):
            bytes_of_mask[k] = np.uint8(bits >> 8 * k)
    return is_finite


@inline
def takes_lists(part, first_row, last_row, like):
    """Whether listed tiles do these rows of a part: because it is faster, or because some have not been copied."""
    addresses, X = pointer(part.row_addresses, np.int64(0)), pointer(part.X, like)
    for row in range(first_row, last_row):
        if addresses[row] != address_of(advance(X, row * part.stride)):
            return True
    return lists_pay(pointer(part.masks, np.uint64(0)), part.n_words, first_row, last_row, part.n_in)


@kernel
def multiply_inputs(state, first_part, end_part, begin, end, thread, like):
    """The sums of the first layer's ``X W`` over the inputs of each part, for the rows; the first begin with b."""
    net = state_at(state)
    layer = layer_at(net.layers)
    workspace, parameters = pointer(net.workspace, like), pointer(net.parameters, like)
    indices = net.indices + thread * net.indices_size * 4
    multiply_rows, multiply_listed_rows = net.multiply_rows, net.multiply_listed_rows
    if end - begin == 1 and net.multiply_row != 0:
        multiply_rows, multiply_listed_rows = net.multiply_row, net.multiply_listed_row
    stride, n_vectors = layer.stride, -(-layer.n_out // lanes(like))
    for number in range(first_part, end_part):
        part = part_at(net.parts + number * PART_BYTES)
        W = address_of(advance(parameters, layer.weights + part.first * stride))
        initial = address_of(advance(parameters, layer.bias)) if number == 0 else net.workspace
        Z_address = address_of(advance(workspace, part.Z))
        if takes_lists(part, begin, end, like):
            call(
                multiply_listed_rows,
                (
                    part.row_addresses, part.masks, part.n_words, W, stride, initial, Z_address, stride, begin, end,
                    n_vectors, indices, like,
                ),
            )  # fmt: skip
        else:
            call(
                multiply_rows,
                (
                    part.X, part.stride, W, stride, initial, Z_address, stride, begin, end, part.n_in, n_vectors, like,
                ),
            )  # fmt: skip
    return 0
