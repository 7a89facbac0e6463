"""Lists of what is not zero, for the listed tiles of the input layer.

When a batch is gathered, each of its rows gets a mask: one bit an input, 64 inputs a word, set where the input is not
zero. From the masks come two kinds of list, each in ascending order:

- *forward*, for a few rows of the batch: the inputs that any of these rows has. Their masks are or-ed, and the set bits
  written out.
- *backward*, for four adjacent inputs (half a byte): the rows that have any of the four. For this, a word of the masks
  of eight rows, 8 x 64 bits, is turned into 16 bytes, one for each four inputs, whose bit r says "row r has one".

Set bits are written out a byte at a time: a table gives, for each of the 256 bytes, the positions of its set bits, and
eight positions are stored at once though only the first few count. For 16 bits that takes 2 ns, where AVX-512's
compressing store, one instruction, takes 30 (both measured on Zen 4).
"""

from __future__ import annotations

import numpy as np

from fastmlp.kernels.instructions import advance, expand8, pointer_to
from fastmlp.kernels.jit import inline

POSITIONS = np.zeros(256 * 8, dtype=np.uint8)
"""From 8 b: the positions of the set bits of b, ascending, then zeros."""
COUNTS = np.zeros(256, dtype=np.uint8)
"""How many bits of b are set."""
for _byte in range(256):
    _set = [bit for bit in range(8) if _byte >> bit & 1]
    POSITIONS[8 * _byte : 8 * _byte + len(_set)] = _set
    COUNTS[_byte] = len(_set)

LIST_SLACK = 8
"""Elements that a list needs beyond its longest: eight are stored at a time."""


@inline
def forward_list(masks, n_words, first_word, last_word, first_row, n_rows, indices):
    """Write to `indices` every input, of the words from `first_word` up to `last_word`, that any of `n_rows` rows has.

    Return how many.
    """
    length = 0
    positions, counts = pointer_to(POSITIONS), pointer_to(COUNTS)
    for w in range(first_word, last_word):
        word = masks[first_row * n_words + w]
        for r in range(1, n_rows):
            word |= masks[(first_row + r) * n_words + w]
        base = w * 64
        while word != 0:
            byte = np.int64(word & np.uint64(255))
            expand8(advance(indices, length), advance(positions, byte * 8), base)
            length += np.int64(counts[byte])
            word >>= np.uint64(8)
            base += 8
    return length


@inline
def turn_masks(masks, n_words, w, n_rows, turned):
    """Turn word `w` of the masks of `n_rows` rows into bytes: ``turned[16 r8 + g]`` is for rows 8 r8 ... 8 r8 + 7.

    Bit r of it says whether row ``8 r8 + r`` has any of the inputs ``64 w + 4 g ... 64 w + 4 g + 3``. `masks` must be
    zero up to the next multiple of eight rows.
    """
    ones = np.uint64(0x1111111111111111)
    low = np.uint64(0x0F0F0F0F0F0F0F0F)
    for r8 in range((n_rows + 7) >> 3):
        first = np.uint64(0)  # Each half-byte: rows 0-3 for its four inputs.
        second = np.uint64(0)  # Rows 4-7.
        for r in range(4):
            a = masks[(8 * r8 + r) * n_words + w]
            b = masks[(8 * r8 + 4 + r) * n_words + w]
            a |= a >> np.uint64(1)
            a |= a >> np.uint64(2)
            b |= b >> np.uint64(1)
            b |= b >> np.uint64(2)
            first |= (a & ones) << np.uint64(r)
            second |= (b & ones) << np.uint64(r)
        even = (first & low) | ((second & low) << np.uint64(4))  # Bytes of the groups 0, 2, 4, ...
        odd = ((first >> np.uint64(4)) & low) | (second & ~low)  # Of 1, 3, 5, ...
        for g in range(0, 16, 2):
            turned[16 * r8 + g] = np.uint8(even & np.uint64(255))
            turned[16 * r8 + g + 1] = np.uint8(odd & np.uint64(255))
            even >>= np.uint64(8)
            odd >>= np.uint64(8)


@inline
def backward_list(turned, group, n_rows, indices):
    """Write to `indices` every row that has any of the four inputs of `group`; return how many."""
    length = 0
    positions, counts = pointer_to(POSITIONS), pointer_to(COUNTS)
    for r8 in range((n_rows + 7) >> 3):
        byte = np.int64(turned[16 * r8 + group])
        expand8(advance(indices, length), advance(positions, byte * 8), 8 * r8)
        length += np.int64(counts[byte])
    return length
