"""Lists of what is not zero, for the listed tiles of the input layer.

When a batch is gathered, each of its rows gets a mask: one bit an input, 64 inputs a word, set where the input is not
zero. From the masks come two kinds of list, each in ascending order:

- *forward*, for a few rows of the batch: the inputs that any of these rows has. Their masks are or-ed, and the set bits
  written out.
- *backward*, for two adjacent inputs: the rows that have any of the two. For this, a word of the masks of eight rows,
  8 x 64 bits, is turned into 32 bytes, one for each two inputs, whose bit r says "row r has one".

Set bits are written out a byte at a time: a table gives, for each of the 256 bytes, the positions of its set bits, and
eight positions are stored at once though only the first few count. (That never passes the end of a list with room for
all positions: eight a byte.) For 16 bits that takes 2 ns, where AVX-512's
compressing store, one instruction, takes 30 (both measured on Zen 4).
"""

from __future__ import annotations

import numpy as np

from fastmlp.kernels.instructions import address_of, advance, count_ones, expand8, pointer, pointer_to
from fastmlp.kernels.jit import inline

POSITIONS = np.zeros(256 * 8, dtype=np.uint8)
"""From 8 b: the positions of the set bits of b, ascending, then zeros."""
COUNTS = np.zeros(256, dtype=np.uint8)
"""How many bits of b are set."""
for _byte in range(256):
    _set = [bit for bit in range(8) if _byte >> bit & 1]
    POSITIONS[8 * _byte : 8 * _byte + len(_set)] = _set
    COUNTS[_byte] = len(_set)

ONES = np.uint64(0x5555555555555555)
TWOS = np.uint64(0x3333333333333333)
FOURS = np.uint64(0x0F0F0F0F0F0F0F0F)
"""Every other field of one, two or four bits."""
EIGHTHS = np.uint64(0x0101010101010101)
"""The first bit of every byte."""

LISTS_PAY_BELOW = 2 / 3
"""Share of inputs that are not zero up to which the listed tiles are faster: above it, the lists of two rows hold
nearly all inputs, and dense tiles, which hold more rows, load less."""


@inline
def lists_pay(masks, n_words, first_row, last_row, n_in):
    """Whether few enough inputs of some rows are not zero."""
    ones = 0
    for i in range(first_row * n_words, last_row * n_words):
        ones += count_ones(masks[i])
    return ones < LISTS_PAY_BELOW * ((last_row - first_row) * n_in)


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
    """Turn word `w` of the masks of `n_rows` rows into bytes; bit r of one: row ``8 r8 + r`` has one of two inputs.

    The byte of the inputs ``64 w + 2 g`` and ``64 w + 2 g + 1`` is ``turned[32 r8 + byte_of(g)]``. `masks` must have
    memory up to the next multiple of eight rows; what is there does not matter.

    Two bits of each word, one for each pair of inputs, have room for two rows. So four words take the eight rows, and
    are then dealt out twice: fields of two bits to fields of four, those to bytes. Of pairs g = 0, 1, 2, ..., each with
    the rows whose bits it has, from the lowest on::

        four words      0: 01   1: 01   2: 01   3: 01 ...         and likewise of rows 23, 45, 67
        dealt once      0: 0123         2: 0123 ...               1: 0123         3: 0123 ...     and of rows 4567
        dealt twice     0: 01234567     4: 01234567 ...           and words of pairs 2, 6 ...; 1, 5 ...; 3, 7 ...
    """
    turned_words = pointer(address_of(turned), np.uint64(0))
    for r8 in range((n_rows + 7) >> 3):
        rows = advance(masks, 8 * r8 * n_words + w)
        even_03, odd_03 = deal(rows_of_pairs(rows, n_words, 0), rows_of_pairs(rows, n_words, 2), TWOS, 2)
        even_47, odd_47 = deal(rows_of_pairs(rows, n_words, 4), rows_of_pairs(rows, n_words, 6), TWOS, 2)
        turned_words[4 * r8], turned_words[4 * r8 + 2] = deal(even_03, even_47, FOURS, 4)
        turned_words[4 * r8 + 1], turned_words[4 * r8 + 3] = deal(odd_03, odd_47, FOURS, 4)
    if n_rows & 7 != 0:
        rows_of_last = np.uint64((1 << (n_rows & 7)) - 1) * EIGHTHS
        for k in range(4 * (n_rows >> 3), 4 * (n_rows >> 3) + 4):
            turned_words[k] &= rows_of_last


@inline
def rows_of_pairs(rows, n_words, r):
    """Give a word whose bits 2 g and 2 g + 1 say whether rows r and r + 1 have one of the inputs 2 g and 2 g + 1."""
    a, b = rows[r * n_words], rows[(r + 1) * n_words]
    return ((a | a >> np.uint64(1)) & ONES) | ((b | b << np.uint64(1)) & ~ONES)


@inline
def deal(a, b, mask, width):
    """Put the even fields of two words, of `width` bits each, side by side, and likewise the odd ones."""
    return (a & mask) | (b & mask) << np.uint64(width), (a >> np.uint64(width)) & mask | (b & ~mask)


@inline
def byte_of(pair):
    """Where a pair of inputs stands among the 32 bytes that `turn_masks` makes of a word: four words, dealt in turn."""
    return 8 * (pair & 3) + (pair >> 2)


@inline
def backward_list(turned, pair, n_rows, indices):
    """Write to `indices` every row that has any of the two inputs of `pair`; return how many."""
    length = 0
    positions, counts = pointer_to(POSITIONS), pointer_to(COUNTS)
    bytes_of_pair = advance(turned, byte_of(pair))
    for r8 in range((n_rows + 7) >> 3):
        byte = np.int64(bytes_of_pair[32 * r8])
        expand8(advance(indices, length), advance(positions, byte * 8), 8 * r8)
        length += np.int64(counts[byte])
    return length
