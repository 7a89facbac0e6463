"""Gathering: the samples of a batch, copied from wherever they lie to the rows of the workspace, with masks.

Of the memory in `fastmlp.kernels.records.State` this writes the gathered X, the masks, and the beginning of the rows'
losses. A mask says which inputs of a row are not zero, a bit each.
"""

from __future__ import annotations

import numpy as np

from fastmlp.kernels.instructions import advance, is_double, pointer, prefetch, real, scan_row
from fastmlp.kernels.jit import kernel
from fastmlp.kernels.records import layer_at, samples_at, state_at

AHEAD = 8
"""Samples between the one that is copied and the one that is asked for from memory."""

MASK_SLACK = 8
"""Rows of masks beyond a block's last row that a tile or a byte of a list may read; they say that nothing is there."""


@kernel
def gather(place, samples_place, order_place, begin, end, n_rows, like):
    """Copy the samples ``order[begin:end]`` to the rows begin ... end: converted, scaled, with masks.

    Whoever copies the last of the block's `n_rows` clears the masks beyond it.
    """
    net, samples, order = state_at(place), samples_at(samples_place), pointer(order_place, np.int64(0))
    layer = layer_at(net.layers)
    n_in, stride, n_words = layer.n_in, layer.input_stride, net.n_words
    X = pointer(net.inputs, like)
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
        for i in range(n_rows * n_words, (n_rows + MASK_SLACK) * n_words):
            masks[i] = np.uint64(0)
    return 0
