"""Dropout: the masks of `fastmlp.dropout`, computed where they are multiplied by."""

from __future__ import annotations

import numpy as np

from fastmlp.kernels.instructions import advance, call, pointer, real
from fastmlp.kernels.jit import inline, kernel

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@inline
def key_of_row(key, row):
    """The key of a step as it would be if `row` were the first row of the batch."""
    return key + np.int64(GOLDEN) * row


@kernel
def drop(A_address, n_rows, stride, key, layer, threshold, like):
    """Multiply the rows of A, or of dA, by their masks; `fastmlp.dropout.masks` has the formulas.

    `key` is `key_of_row` of the first of these rows.
    """
    limit = np.uint32(threshold)
    scale = real(4294967296.0 / (4294967296.0 - threshold), like)
    for row in range(n_rows):
        a = advance(pointer(A_address, like), row * stride)
        x64 = np.uint64(key) + GOLDEN * np.uint64((layer << 32) + row)
        x64 = (x64 ^ (x64 >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x64 = (x64 ^ (x64 >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x64 = x64 ^ (x64 >> np.uint64(31))
        low, high = np.uint32(x64 & np.uint64(0xFFFFFFFF)), np.uint32(x64 >> np.uint64(32))
        for unit in range(stride):
            x = np.uint32(np.uint32(unit) * np.uint32(0x9E3779B9) + low)
            x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D) + high)
            x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
            x = np.uint32(x ^ (x >> np.uint32(16)))
            a[unit] = a[unit] * scale if x >= limit else real(0.0, like)
    return 0


@inline
def drop_units(net, layer, number, rows_address, begin, end, key, like):
    """Multiply the rows begin ... end of a layer's outputs, or of their derivative, by the masks of dropout."""
    call(net.drop, (rows_address, end - begin, layer.stride, key_of_row(key, begin), number, layer.threshold, like))
