"""The minibatch loop: gather, forward, loss, backward, update, in one native call that does not hold the GIL.

One call takes many steps. With T threads, T of them run the same function: a thread does the rows of the batch that
are its share, through forward, loss and the backward pass down to the first layer's dZ; a barrier; then the rows of
the weights that are its share, dW and their update; a barrier. No two threads write to one place, every sum has one
order, and so the weights have the same bits whatever the number of threads.

A batch of more than `BLOCK_ROWS` rows is taken in blocks of that many: their gradients add up in the gradient buffer,
and the update is done with the last. So the buffers stay in the cache whatever the batch size.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import elementwise as e
from fastmlp.kernels.instructions import (
    address_of,
    advance,
    atomic_add,
    atomic_load,
    call,
    give_way,
    is_double,
    pointer,
    prefetch,
    real,
    scan_row,
    sum_of_squares,
)
from fastmlp.kernels.jit import FIRST, inline, kernel
from fastmlp.kernels.lists import lists_pay, turn_masks
from fastmlp.kernels.products import ROW_UNIT
from fastmlp.kernels.tiles import lanes

BLOCK_ROWS = 240
"""Rows of a batch that are worked on at once: a multiple of `ROW_UNIT` and of 8."""
assert BLOCK_ROWS % ROW_UNIT == 0
assert BLOCK_ROWS % 8 == 0

FORWARD_ROWS = 96
"""The same where nothing but a forward pass is done: fewer, so that they leave room for the weights (4 % faster)."""
assert FORWARD_ROWS <= BLOCK_ROWS

WEIGHT_ROWS = 16
"""Rows of a weight matrix that a thread takes at a time: enough that the update is one long loop, few enough that they
stay in the cache for it. It divides 64, so that a word of the masks serves a whole number of them."""

AHEAD = 8
"""Samples between the one that is copied and the one that is asked for from memory."""

SPINS = 4000
"""Looks at a barrier before a thread gives way to others."""


class Layer(NamedTuple):
    """A row of the table of layers: sizes, and offsets into the buffers, in elements.

    `weights`, `bias`: in the parameters. `Z`, `A`, `D`: in the workspace, what tells the activation's slope, the
    outputs (in one place unless the slope is told by the input, or dropout comes between), and their derivative.
    `transposed`: in the workspace, ``Wᵀ``. `stride` and `input_stride`: between rows of W, Z, A, D, and of the layer's
    input and Wᵀ. `activate`, `multiply_by_slope`, `takes_input`: of the activation; the first two are addresses, 0 for
    identity. `threshold`: of dropout, 0 without.
    """

    n_in: int
    n_out: int
    stride: int
    input_stride: int
    weights: int
    bias: int
    Z: int
    A: int
    D: int
    transposed: int
    activate: int
    multiply_by_slope: int
    takes_input: int
    threshold: int


FIELDS = len(Layer._fields)


class State(NamedTuple):
    """What the loop knows of a network, and the memory that it writes, given by its address here and below.

    Python writes it as one row of int64, and a kernel reads it from there: one argument instead of thirty, each of
    which would make a call dearer. Threads share the memory, but for the last three, of which each has a part.
    """

    layers: int  # int64 (n_layers, FIELDS)
    n_layers: int
    inputs: int  # Offset of the gathered X in the workspace.
    n_words: int  # Words of a row's mask: inputs / 64.
    loss: int
    bias: int
    input_scale: float  # The bits of these five.
    loss_low: float
    loss_high: float
    label_smoothing: float
    clip_norm: float
    workspace: int  # A row of zeros at 0; the gathered X; Z, A, D of the layers; transposed weights.
    masks: int  # uint64 (BLOCK_ROWS + MASK_SLACK, n_words)
    row_losses: int  # float64 (BLOCK_ROWS,)
    barrier: int  # int64 (2,), see `all_arrived`
    order: int  # int64 (BLOCK_ROWS,), for samples in their own order
    weight_rows: int  # Rows of dW, or db, before they are used.
    weight_rows_size: int
    indices: int  # int32, a list.
    indices_size: int
    turned: int  # uint8 (4 * BLOCK_ROWS,), the masks of 64 inputs, turned.
    parameters: int
    gradient: int
    slot1: int
    slot2: int
    n_pieces: int  # Of the weights, see `WEIGHT_ROWS`; a bias is one, too.
    weight_squares: int  # float64 (n_pieces,): each piece's sum of squares, for the L2 term; or none.
    gradient_squares: int  # The same of the gradient, for clipping; or none.
    average: int  # Of the parameters; or none.
    # The kernels that the loop is made of.
    gather: int
    forward: int
    loss_and_output_gradient: int
    backward_through_layers: int
    backward_to_weights: int
    drop: int
    update: int  # Of the optimizer; or none, to keep the gradient.
    update_piece: int
    update_clipped: int
    multiply_rows: int
    multiply_listed_rows: int
    multiply_columns: int
    multiply_listed_columns: int


class Samples(NamedTuple):
    """Where X and y lie, whatever kind of arrays they are. Written by Python as one row of int64, like `State`.

    X is an array, or `fastmlp.sparse.SparseRows`; then its first three fields mean nothing.
    """

    X: int
    X_is_uint8: int
    X_stride: int  # Bytes.
    y: int
    orders: int  # int64 (n_orders, n_samples)
    n_orders: int
    n_samples: int
    weights: int  # float64 (n_samples,), or none.
    values: int  # Of sparse rows.
    columns: int  # int32, as many.
    starts: int  # int64 (n_samples + 1,), or none.
    y_stride: int  # Bytes.


class Memory(NamedTuple):
    """The same as pointers, for one thread; made at the start of a call."""

    layers: Any
    parameters: Any
    gradient: Any
    slot1: Any
    slot2: Any
    workspace: Any
    masks: Any
    row_losses: Any
    weight_rows: Any
    indices: Any
    turned: Any
    order: Any


MASK_SLACK = 8
"""Rows of masks beyond a block's last row that a tile or a byte of a list may read."""


@inline
def state_at(place):
    """Read a `State`."""
    row, reals = pointer(place, np.int64(0)), pointer(place, 0.0)
    return State(
        row[0], row[1], row[2], row[3], row[4], row[5], reals[6], reals[7], reals[8], reals[9], reals[10], row[11],
        row[12], row[13], row[14], row[15], row[16], row[17], row[18], row[19], row[20], row[21], row[22], row[23],
        row[24], row[25], row[26], row[27], row[28], row[29], row[30], row[31], row[32], row[33], row[34], row[35],
        row[36], row[37], row[38], row[39], row[40], row[41],
    )  # fmt: skip


@inline
def samples_at(place):
    """Read a `Samples`."""
    row = pointer(place, np.int64(0))
    return Samples(
        row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9], row[10],
        row[11],
    )  # fmt: skip


@inline
def memory_of(net, like, thread):
    """Turn addresses into pointers; `like` has the dtype of the parameters."""
    return Memory(
        pointer(net.layers, np.int64(0)),
        pointer(net.parameters, like),
        pointer(net.gradient, like),
        pointer(net.slot1, like),
        pointer(net.slot2, like),
        pointer(net.workspace, like),
        pointer(net.masks, np.uint64(0)),
        pointer(net.row_losses, 0.0),
        advance(pointer(net.weight_rows, like), thread * net.weight_rows_size),
        advance(pointer(net.indices, np.int32(0)), thread * net.indices_size),
        advance(pointer(net.turned, np.uint8(0)), thread * 4 * BLOCK_ROWS),
        pointer(net.order, np.int64(0)),
    )


@inline
def layer_of(layers, number):
    """Read a row of the table of layers."""
    row = advance(layers, number * FIELDS)
    return Layer(
        row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9], row[10], row[11], row[12],
        row[13],
    )  # fmt: skip


@inline
def all_arrived(barrier, threads, arrived):
    """Wait until all threads have come here for the `arrived`-th time; or say that Python has called the work off.

    The barrier is two numbers: how often a thread has arrived, and whether the work is off, which it is when Python
    was interrupted before it had started all the threads.
    """
    if threads > 1:
        counter = pointer(barrier, np.int64(0))
        off = advance(counter, 1)
        atomic_add(counter, 1)
        spins = 0
        while atomic_load(counter) < threads * arrived:
            if atomic_load(off) != 0:
                return False
            spins += 1
            if spins > SPINS:
                give_way()
    return True


@inline
def share_of_rows(n_rows, thread, threads):
    """The rows of a block that are a thread's: first, end."""
    units = -(-n_rows // ROW_UNIT)
    first = (units * thread // threads) * ROW_UNIT
    end = (units * (thread + 1) // threads) * ROW_UNIT
    return first, min(end, n_rows)


@kernel
def gather(place, samples_place, order_place, begin, end, like):
    """Copy the samples ``order[begin:end]`` to the rows begin ... end: converted, scaled, with masks."""
    net, samples, order = state_at(place), samples_at(samples_place), pointer(order_place, np.int64(0))
    memory = memory_of(net, like, FIRST)
    layer = layer_of(memory.layers, FIRST)
    n_in, stride = layer.n_in, layer.input_stride
    scale = real(net.input_scale, like)
    if samples.starts != 0:
        gather_sparse(net, memory, samples, order, begin, end, scale, like)
        return 0
    sample_bytes = n_in if samples.X_is_uint8 != 0 else n_in * (8 if is_double(like) else 4)
    for row in range(begin, end):
        x = advance(memory.workspace, net.inputs + row * stride)
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
        is_finite = scan_row(x, net.n_words, advance(memory.masks, row * net.n_words))
        # The row's loss begins here: a NaN or infinity in X makes it NaN, even where an activation would hide it.
        memory.row_losses[row] = 0.0 if is_finite else np.nan
    return 0


@inline
def gather_sparse(net, memory, samples, order, begin, end, scale, like):
    """The same for sparse samples: of a row, only what the sample before has left is cleared."""
    stride = layer_of(memory.layers, FIRST).input_stride
    values, columns = pointer(samples.values, like), pointer(samples.columns, np.int32(0))
    starts = pointer(samples.starts, np.int64(0))
    clear_rows(net, memory, begin, end, like)
    for row in range(begin, end):
        x, mask = advance(memory.workspace, net.inputs + row * stride), advance(memory.masks, row * net.n_words)
        for k in range(starts[order[row]], starts[order[row] + 1]):
            j = np.int64(columns[k])
            x[j] += values[k] * scale
            mask[j >> 6] |= np.uint64(1) << np.uint64(j & 63)
        memory.row_losses[row] = 0.0


@inline
def clear_rows(net, memory, begin, end, like):
    """Make rows of the gathered X zero, eight inputs at a time, where their masks say that they are not.

    Rows beyond the batch must be so, too: the last tile and the last byte of a list touch them.
    """
    stride = layer_of(memory.layers, FIRST).input_stride
    for row in range(begin, end):
        for word in range(net.n_words):
            place = row * net.n_words + word
            bits = memory.masks[place]
            memory.masks[place] = np.uint64(0)
            x = advance(memory.workspace, net.inputs + row * stride + word * 64)
            while bits != 0:
                if bits & np.uint64(255) != 0:
                    for j in range(8):
                        x[j] = real(0.0, like)
                bits >>= np.uint64(8)
                x = advance(x, 8)


@kernel
def forward(place, begin, end, key, thread, like):
    """All layers for the rows begin ... end. A cross-entropy's activation is part of the loss, and not done here.

    `key` is that of the step, for dropout.
    """
    net = state_at(place)
    memory = memory_of(net, like, thread)
    workspace = memory.workspace
    width = lanes(like)
    X = advance(workspace, net.inputs)
    for number in range(net.n_layers):
        layer = layer_of(memory.layers, number)
        Z, A = advance(workspace, layer.Z), advance(workspace, layer.A)
        X_place, Z_place = address_of(X), address_of(Z)
        W = address_of(advance(memory.parameters, layer.weights))
        b = address_of(advance(memory.parameters, layer.bias))
        stride, n_vectors = layer.stride, -(-layer.n_out // width)
        if number == 0 and lists_pay(memory.masks, net.n_words, begin, end, layer.n_in):
            call(
                net.multiply_listed_rows,
                (
                    X_place, layer.input_stride, net.masks, net.n_words, W, stride, b, Z_place, stride, begin, end,
                    n_vectors, address_of(memory.indices), like,
                ),
            )  # fmt: skip
        else:
            call(
                net.multiply_rows,
                (
                    X_place, layer.input_stride, W, stride, b, Z_place, stride, begin, end, layer.n_in, n_vectors, like,
                ),
            )  # fmt: skip
        at, n = begin * layer.stride, (end - begin) * layer.stride
        if layer.activate != 0:
            active = Z
            if layer.takes_input != 0:  # Z is kept for the derivative.
                active = A
                for i in range(at, at + n):
                    A[i] = Z[i]
            call(layer.activate, (address_of(advance(active, at)), n, like))
        if layer.threshold != 0:
            if layer.takes_input == 0:
                for i in range(at, at + n):
                    A[i] = Z[i]
            drop_units(net, layer, number, address_of(advance(A, at)), begin, end, key, like)
        X = A
    return 0


@inline
def drop_units(net, layer, number, rows_place, begin, end, key, like):
    """Multiply the rows begin ... end of a layer's outputs, or of their derivative, by the masks of dropout."""
    key_of_begin = key + np.int64(e.GOLDEN) * begin
    call(net.drop, (rows_place, end - begin, layer.stride, key_of_begin, number, layer.threshold, like))


@kernel
def classes_loss(place, samples_place, order_place, begin, end, scale, like):
    """The softmax cross-entropy of the rows begin ... end, and its derivative by the last layer's Z.

    The derivative is that of the batch's loss: `scale` is the division by the batch size. A sample's weight multiplies
    both.
    """
    net, samples, order = state_at(place), samples_at(samples_place), pointer(order_place, np.int64(0))
    memory = memory_of(net, like, FIRST)
    last = layer_of(memory.layers, net.n_layers - 1)
    stride, n_out = last.stride, last.n_out
    scale = real(scale, like)
    A, D = advance(memory.workspace, last.A), advance(memory.workspace, last.D)
    classes = pointer(samples.y, np.int64(0))
    e.softmax_cross_entropy_rows(A, n_out, classes, order, scale, D, stride, memory.row_losses, begin, end)
    if net.label_smoothing != 0.0:
        for row in range(begin, end):
            a, d, y = advance(A, row * stride), advance(D, row * stride), classes[order[row]]
            memory.row_losses[row] += e.smoothing_row(a, n_out, y, scale, net.label_smoothing, d)
    weigh_samples(samples, order, begin, end, memory.row_losses, D, n_out, stride, like)
    return 0


@kernel
def values_loss(place, samples_place, order_place, begin, end, scale, like):
    """The same of a loss with values as targets; the derivative is by Z if the activation is a part of it, or by A."""
    net, samples, order = state_at(place), samples_at(samples_place), pointer(order_place, np.int64(0))
    memory = memory_of(net, like, FIRST)
    last = layer_of(memory.layers, net.n_layers - 1)
    stride, n_out = last.stride, last.n_out
    scale = real(scale, like)
    A, D = advance(memory.workspace, last.A), advance(memory.workspace, last.D)
    for row in range(begin, end):
        a, d = advance(A, row * stride), advance(D, row * stride)
        y = advance(pointer(samples.y, like), order[row] * n_out)
        memory.row_losses[row] += e.values_loss_row(net.loss, a, n_out, y, scale, net.loss_low, net.loss_high, d)
    weigh_samples(samples, order, begin, end, memory.row_losses, D, n_out, stride, like)
    return 0


@inline
def weigh_samples(samples, order, begin, end, losses, D, n_out, stride, like):
    """Multiply losses and derivatives of rows by the weights of their samples."""
    if samples.weights != 0:
        for row in range(begin, end):
            weight, d = pointer(samples.weights, 0.0)[order[row]], advance(D, row * stride)
            losses[row] *= weight
            for j in range(n_out):
                d[j] *= real(weight, like)


@kernel
def backward_through_layers(place, begin, end, key, thread, like):
    """From the last layer's dA down to the first layer's dZ: times the activation's slope, then ``dX = dY Wᵀ``."""
    net = state_at(place)
    memory = memory_of(net, like, thread)
    workspace = memory.workspace
    width = lanes(like)
    for number in range(net.n_layers - 1, -1, -1):
        layer = layer_of(memory.layers, number)
        D = advance(workspace, layer.D)
        at, n = begin * layer.stride, (end - begin) * layer.stride
        D_place = address_of(advance(D, at))
        if layer.threshold != 0:
            drop_units(net, layer, number, D_place, begin, end, key, like)
        if layer.multiply_by_slope != 0:
            call(layer.multiply_by_slope, (D_place, address_of(advance(workspace, at + layer.Z)), n, like))
        if number > 0:
            transposed = address_of(advance(workspace, layer.transposed))
            dX = address_of(advance(workspace, layer_of(memory.layers, number - 1).D))
            call(
                net.multiply_rows,
                (
                    address_of(D), layer.stride, transposed, layer.input_stride, net.workspace, dX, layer.input_stride,
                    begin, end, layer.n_out, -(-layer.n_in // width), like,
                ),
            )  # fmt: skip
    return 0


@inline
def use_gradient(net, memory, place, number, piece, row, n_rows, first_block, last_block, constants, thread, like):
    """Do with some rows of dW what is to be done: keep or add them in the gradient buffer, update the weights, or both.

    Rows with their padding are contiguous, here and in the parameters, so this is one loop over all of them.
    """
    layer = layer_of(memory.layers, number)
    n = n_rows * layer.stride
    g = memory.weight_rows
    if first_block == 0 or last_block == 0 or net.update == 0 or net.gradient_squares != 0:
        kept = advance(memory.gradient, layer.weights + row * layer.stride)
        if first_block != 0:
            for i in range(n):
                kept[i] = g[i]
        else:
            for i in range(n):
                kept[i] += g[i]
        g = kept
    if last_block != 0 and net.gradient_squares != 0:  # The update has to wait for the norm of the whole gradient.
        if row < layer.n_in:
            w = advance(memory.parameters, layer.weights + row * layer.stride)
            l2 = real(pointer(constants, 0.0)[e.L2], like)
            for i in range(n):
                g[i] += l2 * w[i]
        pointer(net.gradient_squares, 0.0)[piece] = sum_of_squares(g, n)
    elif last_block != 0 and net.update != 0:
        call(net.update_piece, (place, number, piece, row, n_rows, address_of(g), constants, thread, like))


@kernel
def update_piece(place, number, piece, row, n_rows, g_place, constants_place, thread, like):
    """Update some rows of a layer's weights, or its bias, by their gradient, and what depends on them."""
    net = state_at(place)
    memory = memory_of(net, like, thread)
    layer = layer_of(memory.layers, number)
    is_weights = row < layer.n_in
    begin, n = layer.weights + row * layer.stride, n_rows * layer.stride
    w = advance(memory.parameters, begin)
    m, v = address_of(advance(memory.slot1, begin)), address_of(advance(memory.slot2, begin))
    l2 = pointer(constants_place, 0.0)[e.L2] if is_weights and net.gradient_squares == 0 else 0.0
    call(net.update, (constants_place, l2, address_of(w), g_place, m, v, n, like))
    if net.average != 0:
        average, keep = pointer(net.average, like), real(pointer(constants_place, 0.0)[e.KEEP], like)
        for i in range(n):
            average[begin + i] = w[i] + keep * (average[begin + i] - w[i])
    if is_weights:
        if layer.transposed > 0:
            transpose_weights(memory, layer, row, n_rows)  # dX of the next step needs them.
        if net.weight_squares != 0:
            pointer(net.weight_squares, 0.0)[piece] = sum_of_squares(w, n)
    return 0


@kernel
def update_clipped(place, constants, thread, threads, like):
    """Update this thread's share of the weights by the gradient in its buffer, scaled down to `clip_norm`."""
    net = state_at(place)
    memory = memory_of(net, like, thread)
    total = 0.0
    for piece in range(net.n_pieces):
        total += pointer(net.gradient_squares, 0.0)[piece]
    factor = net.clip_norm / (math.sqrt(total) + 1e-6)  # The small number is PyTorch's.
    unit = -1
    for number in range(net.n_layers - 1, -1, -1):
        layer = layer_of(memory.layers, number)
        for piece in range(-(-layer.n_in // WEIGHT_ROWS) + net.bias):
            unit += 1
            if unit % threads != thread:
                continue
            row = min(piece * WEIGHT_ROWS, layer.n_in)
            n_rows = max(1, min(WEIGHT_ROWS, layer.n_in - row))
            g = advance(memory.gradient, layer.weights + row * layer.stride)
            if factor < 1.0:
                for i in range(n_rows * layer.stride):
                    g[i] *= real(factor, like)
            call(
                net.update_piece,
                (place, number, unit, row, n_rows, address_of(g), constants, thread, like),
            )
    return 0


@inline
def transpose_weights(memory, layer, first_row, n_rows):
    """Copy rows of a layer's W to columns of its Wᵀ in the workspace."""
    W = advance(memory.parameters, layer.weights + first_row * layer.stride)
    T = advance(memory.workspace, layer.transposed + first_row)
    for j in range(layer.n_out):
        for i in range(n_rows):
            T[j * layer.input_stride + i] = W[i * layer.stride + j]


@kernel
def backward_to_weights(place, n_rows, first_block, last_block, constants, thread, threads, like):
    """``dW = Xᵀ dY`` and ``db = Σ dY`` of every layer over `n_rows` rows, and their use, for this thread's share."""
    net = state_at(place)
    memory = memory_of(net, like, thread)
    workspace = memory.workspace
    width = lanes(like)
    listed = lists_pay(memory.masks, net.n_words, FIRST, n_rows, layer_of(memory.layers, FIRST).n_in)
    turned_word = -1
    unit = 0  # Counts the pieces of all layers.
    for number in range(net.n_layers - 1, -1, -1):
        layer = layer_of(memory.layers, number)
        X = advance(workspace, net.inputs if number == 0 else layer_of(memory.layers, number - 1).A)
        D = advance(workspace, layer.D)
        D_place, G = address_of(D), address_of(memory.weight_rows)
        n_vectors = -(-layer.n_out // width)
        n_pieces = -(-layer.n_in // WEIGHT_ROWS)
        for piece in range(n_pieces + net.bias):
            unit += 1
            if unit % threads != thread:
                continue
            row = min(piece * WEIGHT_ROWS, layer.n_in)
            n_weight_rows = max(1, min(WEIGHT_ROWS, layer.n_in - row))
            X_place, stride = address_of(advance(X, row)), layer.stride
            if threads > 1:
                ahead = advance(X, min(row + threads * WEIGHT_ROWS, layer.n_in - 1))
                for i in range(n_rows):
                    prefetch(advance(ahead, i * layer.input_stride))
            clear_columns(memory.weight_rows, n_weight_rows, n_vectors * width, stride, like)
            if piece == n_pieces:
                # The bias stands in the parameters as one more row of W, and its gradient is a sum over the samples.
                sum_of_rows(D, n_rows, n_vectors * width, stride, memory.weight_rows, like)
            elif number == 0 and listed:
                if row >> 6 != turned_word:
                    turned_word = row >> 6
                    turn_masks(memory.masks, net.n_words, turned_word, n_rows, memory.turned)
                call(
                    net.multiply_listed_columns,
                    (
                        X_place, layer.input_stride, address_of(memory.turned), (row & 63) >> 1, n_rows, D_place,
                        stride, net.workspace, G, stride, n_weight_rows, n_vectors, address_of(memory.indices), like,
                    ),
                )  # fmt: skip
            else:
                call(
                    net.multiply_columns,
                    (
                        X_place, layer.input_stride, D_place, stride, net.workspace, G, stride, n_weight_rows, n_rows,
                        n_vectors, like,
                    ),
                )  # fmt: skip
            use_gradient(
                net, memory, place, number, unit - 1, row, n_weight_rows, first_block, last_block, constants,
                thread, like,
            )  # fmt: skip
    return 0


@inline
def clear_columns(G, n_rows, first, stride, like):
    """Zero the columns from `first` up to `stride`, which no tile writes, so that the padding of W stays zero."""
    for i in range(n_rows):
        for j in range(first, stride):
            G[i * stride + j] = real(0.0, like)


@inline
def sum_of_rows(D, n_rows, n, stride, db, like):
    """``db = Σ D`` over the rows, for the first n columns: whole vectors. The padding beyond may hold anything."""
    for j in range(n):
        db[j] = real(0.0, like)
    for i in range(n_rows):
        for j in range(n):
            db[j] += D[i * stride + j]


@inline
def sum_weight_squares(net, memory):
    """Fill `weight_squares`, in the order in which `backward_to_weights` counts the pieces."""
    piece = 0
    for number in range(net.n_layers - 1, -1, -1):
        layer = layer_of(memory.layers, number)
        for row in range(0, layer.n_in, WEIGHT_ROWS):
            w = advance(memory.parameters, layer.weights + row * layer.stride)
            n = min(WEIGHT_ROWS, layer.n_in - row) * layer.stride
            pointer(net.weight_squares, 0.0)[piece] = sum_of_squares(w, n)
            piece += 1
        piece += net.bias  # Its square stays 0.


@kernel
def train_steps(
    place,
    samples_place,
    constants_place,
    batch_size,
    first_batch,
    losses_place,
    n_steps,
    thread,
    threads,
    like,
):
    """Take the steps; return how many were. Every one of `threads` threads calls this once, with its own number.

    `constants` is float64 (n_steps, N_CONSTANTS), `losses` float64 (n_steps,), written.
    """
    net, samples = state_at(place), samples_at(samples_place)
    memory = memory_of(net, like, thread)
    losses = pointer(losses_place, 0.0)
    arrived = np.int64(1)
    n_batches = -(-samples.n_samples // batch_size)
    if thread == 0:
        for number in range(1, net.n_layers):
            layer = layer_of(memory.layers, number)
            transpose_weights(memory, layer, FIRST, layer.n_in)
        if net.weight_squares != 0:
            sum_weight_squares(net, memory)
    if not all_arrived(net.barrier, threads, arrived):
        return 0
    for step in range(n_steps):
        epoch = (first_batch + step) // n_batches
        first = (first_batch + step) % n_batches * batch_size
        n_batch = min(batch_size, samples.n_samples - first)
        constants = constants_place + step * e.N_CONSTANTS * 8
        scale = pointer(constants, 0.0)[e.SCALE]
        if scale == 0.0:  # A batch without weight.
            losses[step] = 0.0
            continue
        order = samples.orders + (epoch % samples.n_orders * samples.n_samples + first) * 8
        loss, loss_scale = 0.0, pointer(constants, 0.0)[e.LOSS_SCALE]
        if net.weight_squares != 0:
            for piece in range(net.n_pieces):
                loss += pointer(net.weight_squares, 0.0)[piece]
            loss *= 0.5 * pointer(constants, 0.0)[e.L2]
        for block in range(0, n_batch, BLOCK_ROWS):
            n_rows = min(BLOCK_ROWS, n_batch - block)
            rows = order + block * 8
            begin, end = share_of_rows(n_rows, thread, threads)
            call(net.gather, (place, samples_place, rows, begin, end, like))
            if end == n_rows:
                clear_rows(net, memory, n_rows, n_rows + MASK_SLACK, like)
            key = pointer(constants, np.int64(0))[e.KEY] + np.int64(e.GOLDEN) * block
            call(net.forward, (place, begin, end, key, thread, like))
            call(net.loss_and_output_gradient, (place, samples_place, rows, begin, end, scale, like))
            call(net.backward_through_layers, (place, begin, end, key, thread, like))
            arrived += 1
            if not all_arrived(net.barrier, threads, arrived):
                return step
            for row in range(n_rows):  # Each thread sums all rows, in one order: all come to the same loss.
                loss += memory.row_losses[row] * loss_scale
            if not np.isfinite(loss):
                losses[step] = loss
                return step + 1
            is_first, is_last = np.int64(block == 0), np.int64(block + n_rows == n_batch)
            call(
                net.backward_to_weights,
                (place, n_rows, is_first, is_last, constants, thread, threads, like),
            )
            arrived += 1
            if not all_arrived(net.barrier, threads, arrived):
                return step
        if net.gradient_squares != 0:
            call(net.update_clipped, (place, constants, thread, threads, like))
            arrived += 1
            if not all_arrived(net.barrier, threads, arrived):
                return step
        losses[step] = loss
    return n_steps


def forward_all(place, samples_place, X, values, columns, starts, outputs, classes, like):
    """Write the outputs for all samples of X to `outputs` or, unless it is empty, their argmax to `classes`.

    Of sparse samples the addresses are given; of X only its length counts then.
    Return a number that is 0, or NaN if X is not finite.
    """
    net = state_at(place)
    memory = memory_of(net, like, FIRST)
    last = layer_of(memory.layers, net.n_layers - 1)
    n_samples = X.shape[0]
    samples = pointer(samples_place, np.int64(0))
    samples[0], samples[1], samples[2] = X.ctypes.data, np.int64(X.itemsize == 1), X.strides[0]
    samples[8], samples[9], samples[10] = values, columns, starts
    doubt = 0.0
    for block in range(0, n_samples, FORWARD_ROWS):
        n_rows = min(FORWARD_ROWS, n_samples - block)
        for row in range(n_rows):
            memory.order[row] = block + row
        call(net.gather, (place, samples_place, net.order, FIRST, n_rows, like))
        clear_rows(net, memory, n_rows, n_rows + MASK_SLACK, like)
        call(net.forward, (place, FIRST, n_rows, FIRST, FIRST, like))
        for row in range(n_rows):
            doubt += memory.row_losses[row]
            a = advance(memory.workspace, last.A + row * last.stride)
            if classes.size > 0:
                best = 0
                for j in range(1, last.n_out):
                    if a[j] > a[best]:
                        best = j
                classes[block + row] = best
            else:
                for j in range(last.n_out):
                    outputs[block + row, j] = a[j]
    return doubt
