"""All weights and biases of a network in one flat buffer.

One buffer makes the optimizers one loop, a copy one call, and a checkpoint one array. Each layer's weights are a
``(n_in, n_out)`` view of it whose rows are padded with zeros to whole cache lines, so that the kernels load and store
whole vectors; each bias is a view of one padded row::

    | W0 row 0 ...... 000 | W0 row 1 ...... 000 | ... | b0 ...... 000 | W1 row 0 . 000 | ...

The padding stays zero: its gradients are zero and every optimizer leaves a zero parameter with zero gradient alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.spec import RELU_FAMILY, NetworkSpec

CACHE_LINE = 64
"""Bytes. Rows start on a cache line, which is also the widest vector of the machines that we know."""

Array = NDArray[Any]


def padded(n: int, itemsize: int) -> int:
    """Elements a row of `n` elements takes: whole cache lines, and never a multiple of 1 KiB when it is long.

    Rows whose stride is a power of two fall into few sets of the cache, so that a column panel of the matrix evicts
    itself; one more cache line spreads them.
    """
    line = CACHE_LINE // itemsize
    lines = -(-n // line)
    if lines >= 16 and lines % 16 == 0:
        lines += 1
    return lines * line


def aligned_zeros(n: int, dtype: str) -> Array:
    """Allocate a one-dimensional array of `n` zeros that starts on a cache line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.zeros(n * itemsize + CACHE_LINE, dtype=np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + n * itemsize].view(dtype)


def aligned_copy(flat: Array) -> Array:
    """Copy a one-dimensional array, perhaps a file's, to memory that starts on a cache line."""
    copy = aligned_zeros(flat.size, flat.dtype.name)
    copy[:] = flat
    return copy


def are_like(parameters: Array, buffers: Iterable[Array]) -> bool:
    """Whether buffers have the shape and the dtype of a network's parameters, so that kernels may go over both."""
    return all(buffer.shape == parameters.shape and buffer.dtype == parameters.dtype for buffer in buffers)


class ParameterLayout:
    """Where each layer's weights and bias stand in the flat buffer.

    Attributes
    ----------
    row_strides : list of int
        Elements between two rows of a layer's weights.
    weight_offsets, bias_offsets : list of int
        First element of a layer's weights and of its bias.
    size : int
        Elements of the buffer.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        itemsize = np.dtype(spec.dtype).itemsize
        self.spec = spec
        self.row_strides: list[int] = []
        self.weight_offsets: list[int] = []
        self.bias_offsets: list[int] = []
        self.size = 0
        for n_in, n_out in zip(spec.layer_sizes, spec.layer_sizes[1:], strict=False):
            stride = padded(n_out, itemsize)
            self.row_strides.append(stride)
            self.weight_offsets.append(self.size)
            self.bias_offsets.append(self.size + n_in * stride)
            self.size += (n_in + 1) * stride

    def allocate(self) -> Array:
        """Allocate a buffer of zeros."""
        return aligned_zeros(self.size, self.spec.dtype)

    def weights(self, flat: Array) -> list[Array]:
        """View `flat` as weights: ``(n_in, n_out)`` arrays, layer by layer."""
        views = []
        for layer, (start, stop, stride) in enumerate(
            zip(self.weight_offsets, self.bias_offsets, self.row_strides, strict=True)
        ):
            n_out = self.spec.layer_sizes[layer + 1]
            views.append(flat[start:stop].reshape(-1, stride)[:, :n_out])
        return views

    def biases(self, flat: Array) -> list[Array]:
        """View `flat` as biases: ``(n_out,)`` arrays, layer by layer; none if the network has none."""
        if not self.spec.bias:
            return []
        return [flat[start : start + n] for start, n in zip(self.bias_offsets, self.spec.layer_sizes[1:], strict=True)]

    def padding(self, flat: Array) -> list[Array]:
        """View what of `flat` is neither weights nor biases, and must be zero."""
        views = []
        for layer, (start, stride) in enumerate(zip(self.weight_offsets, self.row_strides, strict=True)):
            n_out, bias = self.spec.layer_sizes[layer + 1], self.bias_offsets[layer]
            views.append(flat[start:bias].reshape(-1, stride)[:, n_out:])
            views.append(flat[bias + (n_out if self.spec.bias else 0) : bias + stride])
        return views


def default_initialiser(activation: str) -> str:
    """He's initialisation before the ReLU family, Glorot's before everything else."""
    return "he_normal" if activation in RELU_FAMILY else "glorot_normal"


STREAMS = ("weights", "orders", "dropout")


def stream(seed: int, use: str, fit: int = 0) -> np.random.SeedSequence:
    """Give the seed of what is drawn for one use.

    The streams of two uses must not be one: the order of the samples would follow from the weights. Nor may one be that
    of ``default_rng(seed)``, of which users make their data: the weights would be the data.
    """
    return np.random.SeedSequence(seed, spawn_key=(STREAMS.index(use), fit))


def initialise(layout: ParameterLayout, flat: Array, init: str | None, seed: int) -> None:
    r"""Draw all weights and set all biases to zero.

    ``he``: variance :math:`2 / n_{in}` [1]_; ``glorot``: variance :math:`2 / (n_{in} + n_{out})` [2]_. A uniform draw
    of variance :math:`v` is over :math:`\pm\sqrt{3v}`.

    Parameters
    ----------
    layout : ParameterLayout
        Where the layers stand.
    flat : ndarray
        The buffer, overwritten.
    init : str or None
        A name of `fastmlp.spec.INITIALISERS`, or None for each layer's default.
    seed : int
        Of the random generator. Draws are in float64 whatever the dtype, so both dtypes start alike.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", ICCV 2015.
    .. [2] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks",
       AISTATS 2010.
    """
    spec = layout.spec
    rng = np.random.default_rng(stream(seed, "weights"))
    flat[:] = 0
    for W, activation in zip(layout.weights(flat), (*spec.activations, spec.output_activation), strict=True):
        n_in, n_out = W.shape
        scheme, shape = (init or default_initialiser(activation)).split("_")
        variance = 2.0 / n_in if scheme == "he" else 2.0 / (n_in + n_out)
        if shape == "normal":
            W[:] = rng.normal(0.0, np.sqrt(variance), W.shape)
        else:
            limit = np.sqrt(3.0 * variance)
            W[:] = rng.uniform(-limit, limit, W.shape)
