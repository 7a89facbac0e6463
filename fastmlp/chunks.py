"""Samples in a file larger than memory: a `numpy.memmap` is read in chunks, and shuffled chunk by chunk.

Rows that are gathered at random from a mapping of the whole file touch all of its pages, and the memory of the process
grows with the file. So consecutive rows are copied to memory, a chunk at a time, and the pages of the mapping are given
back. An epoch takes the chunks in an order drawn anew, and the rows of each chunk in an order drawn anew. A chunk holds
whole batches, but for the one that holds the rest; that one is the last of the epoch, and lies each time in another
place of the file. So every batch is in one chunk, and an engine takes a chunk for samples like any others.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CHUNK_BYTES = 64 << 20
"""Bytes of a chunk: samples with their targets, weights and order. A batch may need more."""


def is_mapped(array: Any) -> bool:
    """Whether an array is a mapped file that is read in chunks: one that is smaller is taken like any array."""
    return isinstance(array, np.memmap) and array.nbytes > CHUNK_BYTES


@final
@dataclass(frozen=True)
class MappedRows:
    """The rows of an array that is, or belongs to, a mapped file: copied to memory when they are asked for.

    Attributes
    ----------
    array : ndarray (n_samples, ...)
        Samples, targets or weights as a user gave them.
    convert : callable, optional
        ``convert(rows, first)`` gives rows as the engines take them; `first` is the number of the first of them. If
        None, they are taken as they are.
    """

    array: Array
    convert: Callable[[Array, int], Array] | None = None

    def __len__(self) -> int:
        return len(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array."""
        return self.array.shape

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory: as it is in the file, or as it is converted, whichever is more."""
        return max(self.array[:1].nbytes, self.read(0, 1).nbytes)

    def read(self, first: int, end: int) -> Array:
        """Copy the rows first ... end to memory."""
        rows = np.array(self.array[first:end], order="C")
        give_back(self.array)
        return self.converted(rows, first)

    def converted(self, rows: Array, first: int) -> Array:
        """Convert rows, of which `first` is the number of the first."""
        return rows if self.convert is None else self.convert(rows, first)

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Read all rows in order, in blocks, each with the number of its first row.

        They are small: what is computed of them needs memory, too.
        """
        n_rows = max(1, CHUNK_BYTES // 16 // self.row_bytes)
        for first in range(0, len(self), n_rows):
            yield first, self.read(first, first + n_rows)


def give_back(array: Array) -> None:
    """Give the pages that were touched back to the system, if they are a file's: it can read them again."""
    mapping: Any = array
    while isinstance(mapping, np.ndarray):
        mapping = mapping.base
    # Pages of a mapping that is copied on writing ("c") may hold what the file does not.
    if isinstance(mapping, mmap.mmap) and getattr(array, "mode", "c") != "c" and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Chunk:
    """What an engine call takes its samples from: a chunk of a file or, of an array, all samples.

    Its batches are those from `first_batch` up to `end` of the epoch, or span of epochs; `orders` are of its rows.
    """

    X: Any
    y: Any
    sample_weight: Any
    orders: NDArray[np.int64]
    first_batch: int
    end: int


class ChunkReader:
    """Gives the batches of an epoch, in chunks.

    Parameters
    ----------
    X, y, sample_weight : MappedRows
        The samples; the weights may be None.
    batch_size : int
        Samples of a batch.
    """

    def __init__(self, X: MappedRows, y: Any, sample_weight: Any, batch_size: int) -> None:
        self.columns: tuple[MappedRows, ...]
        self.columns = (X, y) if sample_weight is None else (X, y, sample_weight)
        self.n_samples, self.batch_size = len(X), batch_size
        row_bytes = np.int64(0).nbytes + sum(rows.row_bytes for rows in self.columns)
        self.chunk_batches = max(1, CHUNK_BYTES // row_bytes // batch_size)
        self.chunk_rows = self.chunk_batches * batch_size
        self.seed: int | None = None
        self.starts: NDArray[np.int64] = np.empty(0, np.int64)
        self.current: Chunk | None = None

    def draw_orders(self, rng: np.random.Generator, n_epochs: int, n_samples: int) -> NDArray[np.int64]:
        """Draw the order of an epoch; with 0, take that of the file. Give the chunks' first rows.

        Of the generator it takes one number, a seed: where a half-done epoch goes on, no chunk need be drawn before.
        """
        self.current = None
        self.seed = int(rng.integers(1 << 63)) if n_epochs else None
        self.starts = np.arange(0, self.n_samples, self.chunk_rows, dtype=np.int64)
        if self.seed is not None:
            shuffler = np.random.default_rng(self.seed)
            rest = self.n_samples - self.starts[-1]
            place = shuffler.integers(len(self.starts))  # Of the chunk of the rest, which is the last of the epoch.
            others = np.delete(np.arange(len(self.starts), dtype=np.int64), place) * self.chunk_rows
            others[place:] -= self.chunk_rows - rest
            self.starts = np.append(shuffler.permutation(others), place * self.chunk_rows)
        return self.starts

    def chunk_of(self, batch: int) -> Chunk:
        """Give the chunk that has this batch of the epoch; it stays in memory until another one is asked for."""
        number = batch // self.chunk_batches
        first_batch = number * self.chunk_batches
        if self.current is None or self.current.first_batch != first_batch:
            self.current = None  # Before the next one is read: one chunk at a time.
            is_last = number == len(self.starts) - 1
            n_rows = self.n_samples - number * self.chunk_rows if is_last else self.chunk_rows
            first = int(self.starts[number])
            X, y, *weights = (rows.read(first, first + n_rows) for rows in self.columns)
            order = np.arange(n_rows, dtype=np.int64)
            if self.seed is not None:
                order = np.random.default_rng([self.seed, number]).permutation(order)
            end = first_batch + -(-n_rows // self.batch_size)
            self.current = Chunk(X, y, weights[0] if weights else None, order[None], first_batch, end)
        return self.current
