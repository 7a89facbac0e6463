"""The minibatch loop: gather, forward, loss, backward, update, in one native call that does not hold the GIL.

One call takes many steps. With T threads, T of them run the same function: a thread does the rows of the batch that
are its share, through forward, loss and the backward pass down to the first layer's dZ; a barrier; then the rows of
the weights that are its share, dW and their update; a barrier. No two threads write to one place, every sum has one
order, and so the weights have the same bits whatever the number of threads.

A batch of more than `BLOCK_ROWS` rows is taken in blocks of that many: their gradients add up in the gradient buffer,
and the update is done with the last. So the buffers stay in the cache whatever the batch size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import carray

from fastmlp.kernels import elementwise as e
from fastmlp.kernels.instructions import (
    advance,
    atomic_add,
    atomic_load,
    give_way,
    nonzero64,
    pointer,
    pointer_from,
    real,
)
from fastmlp.kernels.jit import inline
from fastmlp.kernels.lists import turn_masks
from fastmlp.kernels.products import (
    ROW_UNIT,
    multiply_columns,
    multiply_listed_columns,
    multiply_listed_rows,
    multiply_rows,
)
from fastmlp.kernels.tiles import lanes

BLOCK_ROWS = 240
"""Rows of a batch that are worked on at once: a multiple of `ROW_UNIT` and of 8."""
assert BLOCK_ROWS % ROW_UNIT == 0
assert BLOCK_ROWS % 8 == 0

WEIGHT_ROWS = 16
"""Rows of a weight matrix that a thread takes at a time: enough that the update is one long loop, few enough that they
stay in the cache for it. It divides 64, so that a word of the masks serves a whole number of them."""

SPINS = 4000
"""Looks at a barrier before a thread gives way to others."""


class Layer(NamedTuple):
    """A row of the table of layers: sizes, and offsets into the buffers, in elements.

    `weights`, `bias`: in the parameters. `Z`, `A`, `D`: in the workspace, the rows before and after the activation (one
    place unless the derivative needs both), and their derivative. `transposed`: in the workspace, ``Wᵀ``. `stride` and
    `input_stride`: between rows of W, Z, A, D, and of the layer's input and Wᵀ.
    """

    n_in: int
    n_out: int
    stride: int
    input_stride: int
    weights: int
    bias: int
    activation: int
    Z: int
    A: int
    D: int
    transposed: int


N_IN, N_OUT, STRIDE, INPUT_STRIDE, WEIGHTS, BIAS, ACTIVATION, Z_AT, A_AT, D_AT, TRANSPOSED = range(len(Layer._fields))


class Network(NamedTuple):
    """The table of layers, and what the whole network has."""

    layers: Any  # int64 (n_layers, fields of Layer)
    inputs: int  # Offset of the gathered X in the workspace.
    n_words: int  # Words of a row's mask: inputs / 64.
    loss: int
    mean: bool
    bias: bool
    takes_input: Any  # bool (n_activations,): whether the derivative is told by Z.
    input_scale: float


class Buffers(NamedTuple):
    """Memory that the loop writes. Threads share it, but for `private`, of which each has a row."""

    parameters: Any
    gradient: Any
    slot1: Any
    slot2: Any
    workspace: Any  # Gathered inputs, Z, A, D, transposed weights, and a row of zeros at 0.
    masks: Any  # uint64 (BLOCK_ROWS + slack) * n_words
    row_losses: Any  # float64 (BLOCK_ROWS,)
    weight_rows: Any  # (threads, ...) rows of dW, or db, before they are used
    indices: Any  # int32 (threads, longest list)
    turned: Any  # uint8 (threads, ...) the masks of 64 inputs, turned
    barrier: Any  # int64 (2,)


class Samples(NamedTuple):
    """Where X and y lie in memory. Addresses, so that one compiled loop serves every kind of array."""

    X: int
    X_is_uint8: bool
    X_stride: int
    y: int
    orders: Any  # int64 (n_epochs or 1, n_samples)
    n_samples: int


class Steps(NamedTuple):
    """Which steps to take, and how."""

    optimizer: int
    constants: Any  # float64 (n_steps, N_CONSTANTS)
    batch_size: int
    first_batch: int


MASK_SLACK = 8
"""Rows of masks beyond a block's last row that a tile or a byte of a list may read."""


@inline
def wait_for_all(barrier, threads, arrived):
    """Wait until all threads have come here for the `arrived`-th time."""
    if threads > 1:
        counter = pointer(barrier, 0)
        atomic_add(counter, 1)
        spins = 0
        while atomic_load(counter) < threads * arrived:
            spins += 1
            if spins > SPINS:
                give_way()


@inline
def share_of_rows(n_rows, thread, threads):
    """The rows of a block that are a thread's: first, end."""
    units = -(-n_rows // ROW_UNIT)
    first = (units * thread // threads) * ROW_UNIT
    end = (units * (thread + 1) // threads) * ROW_UNIT
    return first, min(end, n_rows)


@inline
def gather(net, buffers, samples, order, first, begin, end):
    """Copy the samples ``order[first + begin : first + end]`` to the rows begin ... end: converted, scaled, with masks."""
    n_in, stride = net.layers[0, N_IN], net.layers[0, INPUT_STRIDE]
    X = buffers.workspace
    like = X[0]
    scale = real(net.input_scale, like)
    for row in range(begin, end):
        sample = order[first + row]
        x = X[net.inputs + row * stride : net.inputs + row * stride + n_in]
        if samples.X_is_uint8:
            pixels = carray(pointer_from(samples.X + sample * samples.X_stride, np.uint8(0)), (n_in,))
            for j in range(n_in):
                x[j] = real(pixels[j], like) * scale
        else:
            values = carray(pointer_from(samples.X + sample * samples.X_stride, like), (n_in,))
            for j in range(n_in):
                x[j] = values[j] * scale
        for word in range(net.n_words):
            at = pointer(X, net.inputs + row * stride + word * 64)
            buffers.masks[row * net.n_words + word] = nonzero64(at)


@inline
def clear_masks(net, buffers, begin, end):
    """Say of rows beyond the batch that they have no inputs: the last tile and the last byte of a list touch them."""
    for i in range(begin * net.n_words, end * net.n_words):
        buffers.masks[i] = np.uint64(0)


@inline
def forward(net, buffers, begin, end, thread):
    """All layers for the rows begin ... end; the last layer's Z has no activation yet."""
    layers, workspace = net.layers, buffers.workspace
    width = lanes(workspace[0])
    indices = buffers.indices[thread]
    last = layers.shape[0] - 1
    for layer in range(last + 1):
        stride = layers[layer, STRIDE]
        W = pointer(buffers.parameters, layers[layer, WEIGHTS])
        b = pointer(buffers.parameters, layers[layer, BIAS])
        Z = pointer(workspace, layers[layer, Z_AT])
        n_vectors = -(-layers[layer, N_OUT] // width)
        input_stride = layers[layer, INPUT_STRIDE]
        if layer == 0:
            X = pointer(workspace, net.inputs)
            multiply_listed_rows(
                X, input_stride, buffers.masks, net.n_words, W, stride, b, Z, stride, begin, end, n_vectors, width,
                indices, pointer(indices, 0),
            )  # fmt: skip
        else:
            X = pointer(workspace, layers[layer - 1, A_AT])
            multiply_rows(
                X, input_stride, W, stride, b, Z, stride, begin, end, layers[layer, N_IN], n_vectors, width,
                pointer(indices, 0),
            )  # fmt: skip
        if layer < last:
            z = workspace[layers[layer, Z_AT] + begin * stride : layers[layer, Z_AT] + end * stride]
            a = workspace[layers[layer, A_AT] + begin * stride : layers[layer, A_AT] + end * stride]
            if layers[layer, ACTIVATION] != e.IDENTITY:
                e.activate(layers[layer, ACTIVATION], z, a)


@inline
def loss_and_last_gradient(net, buffers, samples, order, first, begin, end, scale):
    """The losses of the rows begin ... end, and dZ of the last layer, times `scale`: the division by the batch size."""
    workspace, last = buffers.workspace, net.layers.shape[0] - 1
    stride, n_out = net.layers[last, STRIDE], net.layers[last, N_OUT]
    activation = net.layers[last, ACTIVATION]
    like = workspace[0]
    scale = real(scale, like)
    for row in range(begin, end):
        sample = order[first + row]
        z = workspace[net.layers[last, Z_AT] + row * stride : net.layers[last, Z_AT] + (row + 1) * stride]
        d = workspace[net.layers[last, D_AT] + row * stride : net.layers[last, D_AT] + (row + 1) * stride]
        if net.loss == e.SOFTMAX_CROSS_ENTROPY:
            y = carray(pointer_from(samples.y, np.int64(0)), (samples.n_samples,))[sample]
            buffers.row_losses[row] = e.softmax_cross_entropy_row(z, n_out, y, scale, d)
        else:
            at = advance(pointer_from(samples.y, like), sample * n_out)
            targets = carray(at, (n_out,))
            if net.loss == e.SIGMOID_CROSS_ENTROPY:
                buffers.row_losses[row] = e.sigmoid_cross_entropy_row(z, n_out, targets, scale, d)
            else:
                a = workspace[net.layers[last, A_AT] + row * stride : net.layers[last, A_AT] + (row + 1) * stride]
                if activation != e.IDENTITY:
                    e.activate(activation, z[:n_out], a[:n_out])
                buffers.row_losses[row] = e.squared_error_row(a, n_out, targets, scale, d)
                if activation != e.IDENTITY:
                    e.multiply_by_slope(activation, d[:n_out], z[:n_out] if net.takes_input[activation] else a[:n_out])


@inline
def backward_through_layers(net, buffers, begin, end, thread):
    """``dX = dY Wᵀ``, times the activation's slope, from the last layer down to the first layer's dZ."""
    layers, workspace = net.layers, buffers.workspace
    width = lanes(workspace[0])
    zeros = pointer(workspace, 0)
    no_list = pointer(buffers.indices[thread], 0)
    for layer in range(layers.shape[0] - 1, 0, -1):
        below = layers[layer - 1, D_AT]
        stride = layers[layer, INPUT_STRIDE]
        multiply_rows(
            pointer(workspace, layers[layer, D_AT]), layers[layer, STRIDE],
            pointer(workspace, layers[layer, TRANSPOSED]), stride, zeros, pointer(workspace, below), stride,
            begin, end, layers[layer, N_OUT], -(-layers[layer, N_IN] // width), width, no_list,
        )  # fmt: skip
        activation = layers[layer - 1, ACTIVATION]
        if activation != e.IDENTITY:
            kept = layers[layer - 1, Z_AT] if net.takes_input[activation] else layers[layer - 1, A_AT]
            d = workspace[below + begin * stride : below + end * stride]
            e.multiply_by_slope(activation, d, workspace[kept + begin * stride : kept + end * stride])


@inline
def use_gradient(net, buffers, layer, row, n_rows, G, first_block, last_block, optimizer, constants):
    """Do with some rows of dW what is to be done: keep or add them in the gradient buffer, update the weights, or both.

    Rows with their padding are contiguous, here and in the parameters, so this is one loop over all of them.
    """
    stride = net.layers[layer, STRIDE]
    begin = net.layers[layer, WEIGHTS] + row * stride
    end = begin + n_rows * stride
    g = G[: n_rows * stride]
    if not (first_block and last_block) or optimizer == e.NO_UPDATE:
        kept = buffers.gradient[begin:end]
        if first_block:
            for i in range(kept.size):
                kept[i] = g[i]
        else:
            for i in range(kept.size):
                kept[i] += g[i]
        g = kept
    if last_block and optimizer != e.NO_UPDATE:
        m = buffers.slot1[begin:end] if buffers.slot1.size > 0 else buffers.slot1
        v = buffers.slot2[begin:end] if buffers.slot2.size > 0 else buffers.slot2
        e.update(optimizer, constants, buffers.parameters[begin:end], g, m, v)
        if layer > 0 and row < net.layers[layer, N_IN]:
            transpose_weights(net, buffers, layer, row, row + n_rows)  # dX of the next step needs them.


@inline
def backward_to_weights(net, buffers, n_rows, first_block, last_block, optimizer, constants, thread, threads):
    """``dW = Xᵀ dY`` and ``db = Σ dY`` of every layer over `n_rows` rows, and their use, for this thread's share."""
    layers, workspace = net.layers, buffers.workspace
    width = lanes(workspace[0])
    zeros = pointer(workspace, 0)
    G, turned, indices = buffers.weight_rows[thread], buffers.turned[thread], buffers.indices[thread]
    G_at, indices_at = pointer(G, 0), pointer(indices, 0)
    turned_word = -1
    unit = 0
    for layer in range(layers.shape[0] - 1, -1, -1):
        n_in, stride, input_stride = layers[layer, N_IN], layers[layer, STRIDE], layers[layer, INPUT_STRIDE]
        D = pointer(workspace, layers[layer, D_AT])
        n_vectors = -(-layers[layer, N_OUT] // width)
        A = net.inputs if layer == 0 else layers[layer - 1, A_AT]
        for row in range(0, n_in, WEIGHT_ROWS):
            unit += 1
            if unit % threads != thread:
                continue
            if layer == 0:
                if row // 64 != turned_word:
                    turned_word = row // 64
                    turn_masks(buffers.masks, net.n_words, turned_word, n_rows, turned)
                multiply_listed_columns(
                    pointer(workspace, A + row), input_stride, turned, row % 64 // 4, n_rows, D, stride, zeros, G_at,
                    stride, WEIGHT_ROWS, n_vectors, width, indices, indices_at,
                )  # fmt: skip
            else:
                multiply_columns(
                    pointer(workspace, A + row), input_stride, D, stride, zeros, G_at, stride, 0, WEIGHT_ROWS, n_rows,
                    n_vectors, width, indices_at,
                )  # fmt: skip
            use_gradient(
                net, buffers, layer, row, min(WEIGHT_ROWS, n_in - row), G, first_block, last_block, optimizer, constants
            )
        unit += 1
        if net.bias and unit % threads == thread:
            # The bias stands in the parameters as one more row of W, and its gradient is a sum over the samples.
            db = G[:stride]
            db[:] = 0
            for row in range(n_rows):
                at = layers[layer, D_AT] + row * stride
                d = workspace[at : at + stride]
                for j in range(stride):
                    db[j] += d[j]
            use_gradient(net, buffers, layer, n_in, 1, G, first_block, last_block, optimizer, constants)


@inline
def transpose_weights(net, buffers, layer, first_row, last_row):
    """Copy rows of a layer's W to columns of its Wᵀ in the workspace."""
    stride, input_stride = net.layers[layer, STRIDE], net.layers[layer, INPUT_STRIDE]
    W, T = net.layers[layer, WEIGHTS], net.layers[layer, TRANSPOSED]
    for j in range(net.layers[layer, N_OUT]):
        for i in range(first_row, last_row):
            buffers.workspace[T + j * input_stride + i] = buffers.parameters[W + i * stride + j]


def train_steps(net, buffers, samples, steps, losses, thread, threads):
    """Take ``losses.size`` steps. Every one of `threads` threads calls this once, with its own number."""
    arrived = 0
    n_batches = -(-samples.n_samples // steps.batch_size)
    if thread == 0:
        for layer in range(1, net.layers.shape[0]):
            transpose_weights(net, buffers, layer, 0, net.layers[layer, N_IN])
    arrived += 1
    wait_for_all(buffers.barrier, threads, arrived)
    for step in range(losses.size):
        epoch = (steps.first_batch + step) // n_batches
        first = (steps.first_batch + step) % n_batches * steps.batch_size
        order = samples.orders[epoch % samples.orders.shape[0]]
        n_batch = min(steps.batch_size, samples.n_samples - first)
        scale = 1.0 / n_batch if net.mean else 1.0
        constants = steps.constants[step]
        loss = 0.0
        for block in range(0, n_batch, BLOCK_ROWS):
            n_rows = min(BLOCK_ROWS, n_batch - block)
            begin, end = share_of_rows(n_rows, thread, threads)
            gather(net, buffers, samples, order, first + block, begin, end)
            if end == n_rows:
                clear_masks(net, buffers, n_rows, n_rows + MASK_SLACK)
            forward(net, buffers, begin, end, thread)
            loss_and_last_gradient(net, buffers, samples, order, first + block, begin, end, scale)
            backward_through_layers(net, buffers, begin, end, thread)
            arrived += 1
            wait_for_all(buffers.barrier, threads, arrived)
            for row in range(n_rows):  # Each thread sums all rows, in one order: all come to the same loss.
                loss += buffers.row_losses[row] * scale
            if not np.isfinite(loss):
                if thread == 0:
                    losses[step] = loss
                return step + 1
            backward_to_weights(
                net, buffers, n_rows, block == 0, block + n_rows == n_batch, steps.optimizer, constants, thread, threads
            )
            arrived += 1
            wait_for_all(buffers.barrier, threads, arrived)
        if thread == 0:
            losses[step] = loss
    return losses.size


def forward_all(net, buffers, samples, outputs):
    """The last layer's Z of all samples, in order, a block at a time, on one thread."""
    last = net.layers.shape[0] - 1
    stride, n_out = net.layers[last, STRIDE], net.layers[last, N_OUT]
    order = samples.orders[0]
    for block in range(0, samples.n_samples, BLOCK_ROWS):
        n_rows = min(BLOCK_ROWS, samples.n_samples - block)
        gather(net, buffers, samples, order, block, 0, n_rows)
        clear_masks(net, buffers, n_rows, n_rows + MASK_SLACK)
        forward(net, buffers, 0, n_rows, 0)
        for row in range(n_rows):
            at = net.layers[last, Z_AT] + row * stride
            outputs[block + row] = buffers.workspace[at : at + n_out]
