"""Gathering: the samples of a batch, found wherever they lie, with masks, and copied to the workspace if need be.

A mask says which inputs of a row are not zero, a bit each. Listed tiles read only those, from wherever the row lies: so
samples that need no conversion stay where they are, unless so few of their inputs are zero that dense tiles are faster,
which want all rows in one stride. Not to copy them leaves the level-2 cache to the weights.

Of the memory in `fastmlp.kernels.records.State` this writes the gathered X, the places of its rows, the masks, and the
beginning of the rows' losses.
"""

from __future__ import annotations

import numpy as np

from fastmlp.kernels.instructions import address_of, advance, is_double, pointer, prefetch, real, scan_row
from fastmlp.kernels.jit import inline, kernel
from fastmlp.kernels.lists import lists_pay
from fastmlp.kernels.products import LISTED, LISTED_COLUMNS
from fastmlp.kernels.records import layer_at, samples_at, state_at

AHEAD = 8
"""Samples between the one that is read and the one that is asked for from memory."""

CONFLICTING_STRIDE = 1024
"""Samples that lie a multiple of so many bytes apart fall into few sets of the cache: they are copied."""

MASK_SLACK = 8
"""Rows of masks beyond a block's last row that a tile or a byte of a list may read; they say that nothing is there."""


@kernel
def gather(place, samples_place, order_place, begin, end, n_rows, like):
    """Make the samples ``order[begin:end]`` the rows begin ... end: converted and scaled, or in place; with masks.

    Whoever does the last of the block's `n_rows` clears the masks beyond it.
    """
    net, samples, order = state_at(place), samples_at(samples_place), pointer(order_place, np.int64(0))
    layer = layer_at(net.layers)
    n_in, stride, n_words = layer.n_in, layer.input_stride, net.n_words
    X = pointer(net.inputs, like)
    masks, losses = pointer(net.masks, np.uint64(0)), pointer(net.row_losses, 0.0)
    scale = real(net.input_scale, like)
    places, whole_words = pointer(net.row_places, np.int64(0)), n_in // 64
    in_place = (
        samples.X_is_uint8 == 0
        and net.input_scale == 1.0
        and n_in % LISTED_COLUMNS.rows == 0  # Else the last tile of dW would read beyond the sample.
        and samples.X_stride % CONFLICTING_STRIDE != 0
    )
    sample_bytes = n_in if samples.X_is_uint8 != 0 else n_in * (8 if is_double(like) else 4)
    for row in range(begin, end):
        x = advance(X, row * stride)
        prefetch(pointer(samples.y + order[row] * samples.y_stride, np.uint8(0)))  # The loss will want it.
        address = samples.X + order[row] * samples.X_stride
        # The samples lie anywhere in memory: ask for one that will be wanted soon while this one is read.
        ahead = pointer(samples.X + order[min(row + AHEAD, end - 1)] * samples.X_stride, np.uint8(0))
        for line in range(0, sample_bytes + 63, 64):  # One more, if the sample does not begin with a cache line.
            prefetch(advance(ahead, line))
        values = pointer(address, like)
        # Of a sample in place, only the last inputs are copied: the scan, of 64 at a time, would pass the row's end.
        first = whole_words * 64 if in_place else 0
        if samples.X_is_uint8 != 0:
            pixels = pointer(address, np.uint8(0))
            for j in range(n_in):
                x[j] = real(pixels[j], like) * scale
        else:
            for j in range(first, n_in):
                x[j] = values[j] * scale
        mask = advance(masks, row * n_words)
        is_finite = scan_row(values if in_place else x, whole_words, mask)
        is_finite &= scan_row(advance(x, whole_words * 64), n_words - whole_words, advance(mask, whole_words))
        places[row] = address if in_place else address_of(x)
        # The row's loss begins here: a NaN or infinity in X makes it NaN, even where an activation would hide it.
        losses[row] = 0.0 if is_finite else np.nan
    if in_place and not lists_pay(masks, n_words, begin, end, n_in):
        for row in range(begin, end):
            x, values = advance(X, row * stride), pointer(places[row], like)
            for j in range(n_in):
                x[j] = values[j]
            places[row] = address_of(x)
    if end == n_rows:
        for i in range(n_rows * n_words, (n_rows + MASK_SLACK) * n_words):
            masks[i] = np.uint64(0)
    if end % LISTED.rows != 0:  # The last of an odd number of rows is its own neighbour in the tile.
        places[end] = places[end - 1]
    return 0


@inline
def takes_lists(net, first_row, last_row, like):
    """Whether listed tiles do these rows: because it is faster, or because some of them have not been copied."""
    layer, places = layer_at(net.layers), pointer(net.row_places, np.int64(0))
    X = pointer(net.inputs, like)
    for row in range(first_row, last_row):
        if places[row] != address_of(advance(X, row * layer.input_stride)):
            return True
    return lists_pay(pointer(net.masks, np.uint64(0)), net.n_words, first_row, last_row, layer.n_in)
