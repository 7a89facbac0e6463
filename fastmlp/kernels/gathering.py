"""Gathering: the samples of a batch, copied from wherever they lie to the rows of the workspace, with masks.

Of the memory in `fastmlp.kernels.records.State` this writes the gathered X, the masks, and the beginning of the rows'
losses. A mask says which inputs of a row are not zero, a bit each.
"""

from __future__ import annotations

import numpy as np

from fastmlp.kernels.instructions import advance, is_double, pointer, prefetch, real, scan_row
from fastmlp.kernels.jit import inline, kernel
from fastmlp.kernels.records import layer_at, samples_at, state_at

AHEAD = 8
"""Samples between the one that is copied and the one that is asked for from memory."""

MASK_SLACK = 8
"""Rows of masks beyond a block's last row that a tile or a byte of a list may read; they say that nothing is there."""


@kernel
def gather(place, samples_place, order_place, begin, end, n_rows, like):
    """Copy the samples ``order[begin:end]`` to the rows begin ... end: converted, scaled, with masks.

    Whoever copies the last of the block's `n_rows` clears the rows beyond it, whose masks a tile or a list may read.
    """
    net, samples, order = state_at(place), samples_at(samples_place), pointer(order_place, np.int64(0))
    layer = layer_at(net.layers)
    n_in, stride, n_words = layer.n_in, layer.input_stride, net.n_words
    X = advance(pointer(net.workspace, like), net.inputs)
    masks, losses = pointer(net.masks, np.uint64(0)), pointer(net.row_losses, 0.0)
    scale = real(net.input_scale, like)
    sample_bytes = n_in if samples.X_is_uint8 != 0 else n_in * (8 if is_double(like) else 4)
    for row in range(begin, end):
        x = advance(X, row * stride)
        prefetch(pointer(samples.y + order[row] * samples.y_stride, np.uint8(0)))  # The loss will want it.
        address = samples.X + order[row] * samples.X_stride
        # The samples lie anywhere in memory: ask for one that will be wanted soon while this one is copied.
        ahead = pointer(samples.X + order[min(row + AHEAD, end - 1)] * samples.X_stride, np.uint8(0))
        for line in range(0, sample_bytes, 64):
            prefetch(advance(ahead, line))
        if samples.X_is_uint8 != 0:
            pixels = pointer(address, np.uint8(0))
            for j in range(n_in):
                x[j] = real(pixels[j], like) * scale
        else:
            values = pointer(address, like)
            for j in range(n_in):
                x[j] = values[j] * scale
        is_finite = scan_row(x, n_words, advance(masks, row * n_words))
        # The row's loss begins here: a NaN or infinity in X makes it NaN, even where an activation would hide it.
        losses[row] = 0.0 if is_finite else np.nan
    if end == n_rows:
        clear_rows(X, masks, n_words, stride, n_rows, n_rows + MASK_SLACK, like)
    return 0


@kernel
def gather_sparse(place, samples_place, order_place, begin, end, n_rows, like):
    """The same for sparse samples: of a row, only what the sample before has left is cleared."""
    net, samples, order = state_at(place), samples_at(samples_place), pointer(order_place, np.int64(0))
    stride, n_words = layer_at(net.layers).input_stride, net.n_words
    X = advance(pointer(net.workspace, like), net.inputs)
    masks, losses = pointer(net.masks, np.uint64(0)), pointer(net.row_losses, 0.0)
    scale = real(net.input_scale, like)
    values, columns = pointer(samples.values, like), pointer(samples.columns, np.int32(0))
    starts = pointer(samples.starts, np.int64(0))
    clear_rows(X, masks, n_words, stride, begin, end + MASK_SLACK if end == n_rows else end, like)
    for row in range(begin, end):
        x, mask = advance(X, row * stride), advance(masks, row * n_words)
        for k in range(starts[order[row]], starts[order[row] + 1]):
            j = np.int64(columns[k])
            x[j] += values[k] * scale
            mask[j >> 6] |= np.uint64(1) << np.uint64(j & 63)
        losses[row] = 0.0
    return 0


@inline
def clear_rows(X, masks, n_words, stride, begin, end, like):
    """Make rows of the gathered X zero, eight inputs at a time, where their masks say that they are not.

    No mask is cleared without its row: `gather_sparse` trusts that what has no mask is zero.
    """
    for row in range(begin, end):
        for word in range(n_words):
            bits = masks[row * n_words + word]
            masks[row * n_words + word] = np.uint64(0)
            x = advance(X, row * stride + word * 64)
            while bits != 0:
                if bits & np.uint64(255) != 0:
                    for j in range(8):
                        x[j] = real(0.0, like)
                bits >>= np.uint64(8)
                x = advance(x, 8)
