"""How much is worked on at once: the numbers that the kernels and Python's side share."""

from __future__ import annotations

BLOCK_ROWS = 264
"""Rows of a batch that are worked on at once: a multiple of `fastmlp.kernels.products.ROW_UNIT` and of 8."""

MASK_SLACK = 8
"""Rows of masks beyond a block's last row that a tile or a byte of a list may read; to tiles, they must say that
nothing is there."""

TURNED_BYTES = 4
"""Bytes of turned masks (`fastmlp.kernels.lists`) for each row: 32 for eight rows."""
TURNED_SIZE = TURNED_BYTES * BLOCK_ROWS
"""Those of a block, of each thread."""

WEIGHT_ROWS = 16
"""Rows of a weight matrix in a piece: enough that the update is one long loop, few enough that they stay in the cache
for it. It divides 64, so that a word of the masks serves a whole number of pieces, and is whole tiles."""

VALUES_AT_ONCE = 512
"""Outputs that `fastmlp.kernels.losses.values_loss_rows` takes at once."""
LOSS_MEMORY = 4 * VALUES_AT_ONCE
"""The float64 of memory that a loss needs, of each thread and whatever the dtype."""

HALVES_PAY = 4
"""Where the weights are fewer than one in so many of the elements of X and dY, two threads exchange sums faster than
rows (measured: 0.80 to 0.87 of the time; where they are 0.4 or 0.5 of them nothing was gained, or some was lost)."""


def has_few_weights(n_in: int, n_out: int, n_rows: int) -> bool:
    """Whether two threads exchange a layer's sums of dW faster than rows of its X and dY."""
    return HALVES_PAY * n_in * n_out < n_rows * (n_in + n_out)
