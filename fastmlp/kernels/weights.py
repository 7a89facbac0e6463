"""From the derivatives of the outputs to new weights: ``dW = Xᵀ dY``, ``db = Σ dY``, and the optimizer's update.

Weights are taken in *pieces*: some rows of a layer's W, or its bias. A piece's gradient is computed, used for the
update while it is in the cache, and forgotten: dW is never written out as a whole, unless it has to be kept (more
blocks of the batch are to come, the gradient's norm is to be clipped, or it is the gradient that was asked for).
Each piece is one thread's, so that no two write to one place, and every sum has one order.

Where a layer has few weights, its dW is the sum of two: over each *half* of a block's rows. They are written out whole,
each by the thread that has these rows, if there are two threads; then a piece is one thread's again, which adds them.
Whether there are halves depends on the layer and the rows, and not on the threads.
"""

from __future__ import annotations

import math

import numpy as np

from fastmlp.kernels.constants import KEEP, L2
from fastmlp.kernels.gathering import takes_lists
from fastmlp.kernels.instructions import address_of, advance, call, lanes, pointer, prefetch, real
from fastmlp.kernels.jit import ZERO, inline, kernel
from fastmlp.kernels.lists import turn_masks
from fastmlp.kernels.machine import SHAPES, lanes_of
from fastmlp.kernels.products import share_of_rows
from fastmlp.kernels.readers import has_one_output, is_sparse, layer_at, owns_parts, part_at, state_at
from fastmlp.kernels.records import LAYER_BYTES, PART_BYTES
from fastmlp.kernels.rows import add_vectors, sum_of_rows, sum_of_squares, transpose_square, weighted_sum_of_rows
from fastmlp.kernels.sizes import TURNED_SIZE, WEIGHT_ROWS, has_few_weights

assert 64 % WEIGHT_ROWS == 0
assert WEIGHT_ROWS % SHAPES["dense", "columns"].rows == 0
assert WEIGHT_ROWS % lanes_of(32) == 0  # For `transpose_weights`.


few_weights = inline(has_few_weights)

USE = 2
"""In place of the number of a half of the rows, which are 0 and 1: see `backward_to_weights`."""


@kernel
def backward_to_weights(state, n_rows, half, is_first_block, is_last_block, constants, thread, threads, like):
    """``dW = Xᵀ dY`` and ``db = Σ dY`` of every layer over `n_rows` rows, and their use, for this thread's share.

    With `half` 0 or 1: only the sums over this half of the rows, in the layers that are summed in halves. One or two
    threads then do all pieces of them. With `half` = `USE`: everything else; only this takes the constants, and whether
    the block is the batch's first and its last. The gradient g of a piece, which is some rows of W or the bias, comes
    from

    - the two sums over halves, where they have been made;
    - of a bias, the sum of the rows of dY;
    - of a hidden layer, ``Aᵀ dY`` by tiles, A being its inputs (or, of one output, the rows of A times dY);
    - of the first layer, packed tiles over the sorted entries of sparse samples, or tiles over the gathered samples:
      listed ones where that pays.
    """
    net = state_at(state)
    workspace = pointer(net.workspace, like)
    dW = advance(pointer(net.weight_rows, like), thread * net.weight_rows_size)
    indices = net.indices + thread * net.indices_size * 4
    turned = advance(pointer(net.turned, np.uint8(0)), thread * TURNED_SIZE)
    # Of the part of the inputs that a piece belongs to, and of the word of its masks that was turned last.
    part, end_of_part, listed, turned_word = part_at(net.parts), 0, False, -1
    owns_rows = half != USE and threads <= 2
    piece_number = -1  # Counts the pieces of all layers.
    for number in range(net.n_layers - 1, -1, -1):
        layer = layer_at(net.layers + number * LAYER_BYTES)
        n_in, stride, input_stride = layer.n_in, layer.stride, layer.input_stride
        n_vectors = -(-layer.n_out // lanes(like))
        n_columns = n_vectors * lanes(like)
        n_pieces = -(-n_in // WEIGHT_ROWS)
        middle = middle_of(net, layer, number, n_rows)
        if half != USE and middle == 0:
            piece_number += n_pieces + net.bias
            continue
        first = middle if half == 1 else np.int64(0)
        n_summed = (middle if half == 0 else n_rows) - first
        D = advance(workspace, layer.D + first * stride)
        D_address = address_of(D)
        halves = advance(pointer(net.sums, like), layer.sums)
        for piece in range(n_pieces + net.bias):
            piece_number += 1
            if not (owns_rows or is_mine(net, number, piece_number, piece, n_pieces, thread, threads)):
                continue
            row = min(piece * WEIGHT_ROWS, n_in)
            n_piece = max(1, min(WEIGHT_ROWS, n_in - row))
            sums = advance(halves, piece * WEIGHT_ROWS * stride)
            g = dW if half == USE else advance(sums, half * net.sums_size)
            g_address = address_of(g)
            clear_columns(g, n_piece, n_columns, stride, like)
            if half == USE and middle > 0:
                add_vectors(g, sums, advance(sums, net.sums_size), n_piece * stride)
            elif piece == n_pieces:
                # The bias stands in the parameters as one more row of W, and its gradient is a sum over the samples.
                sum_of_rows(g, D, n_summed, stride, n_columns)
            elif number > 0:
                X = advance(workspace, layer_at(net.layers + (number - 1) * LAYER_BYTES).A + first * input_stride + row)
                if threads > 1 and not owns_rows:  # Another core's cache has half of the inputs of the next piece.
                    for i in range(n_summed):
                        prefetch(advance(X, i * input_stride + min(threads * WEIGHT_ROWS, n_in - 1 - row)))
                if has_one_output(layer):
                    weighted_sum_of_rows(g, stride, X, input_stride, n_summed, D, stride, n_piece)
                else:
                    call(
                        net.multiply_columns,
                        (
                            address_of(X), input_stride, D_address, stride, net.workspace, g_address, stride, n_piece,
                            n_summed, n_vectors, like,
                        ),
                    )  # fmt: skip
            elif is_sparse(net):
                call(net.multiply_sorted_entries, (state, row, n_piece, threads, g_address, like))
            else:
                if row >= end_of_part:
                    part = part_of(net, row)
                    end_of_part = part.first + part.n_in
                    listed = takes_lists(part, first, first + n_summed, like)
                    turned_word = -1
                row_of_part = row - part.first
                addresses = part.row_addresses + first * 8
                if not (owns_rows or owns_parts(net, threads)):  # As above.
                    for i in range(n_summed):
                        x = pointer(pointer(addresses, np.int64(0))[i], like)
                        prefetch(advance(x, min(row_of_part + WEIGHT_ROWS, part.n_in - 1)))
                if listed:
                    if row_of_part >> 6 != turned_word:
                        turned_word = row_of_part >> 6
                        masks = advance(pointer(part.masks, np.uint64(0)), first * part.n_words)
                        turn_masks(masks, part.n_words, turned_word, n_summed, turned)
                    call(
                        net.multiply_listed_columns,
                        (
                            addresses, row_of_part, address_of(turned), n_summed, D_address, stride, net.workspace,
                            g_address, stride, n_piece, n_vectors, indices, like,
                        ),
                    )  # fmt: skip
                else:
                    X_address = address_of(advance(pointer(part.X, like), first * part.stride + row_of_part))
                    call(
                        net.multiply_columns,
                        (
                            X_address, part.stride, D_address, stride, net.workspace, g_address, stride, n_piece,
                            n_summed, n_vectors, like,
                        ),
                    )  # fmt: skip
            if half == USE:
                use_gradient(
                    net, layer, state, number, piece_number, row, n_piece, dW, is_first_block, is_last_block, constants,
                    like,
                )  # fmt: skip
    return 0


@inline
def sum_halves(net, state, n_rows, thread, threads, are_own_rows, like):
    """Make the sums of dW over the halves of the rows that are this thread's.

    One or two threads make them of their own rows, before the barrier. Of more threads each has both halves of some
    pieces, and reads the rows of all: after the barrier.
    """
    if net.halves != 0 and are_own_rows == (threads <= 2):
        first, end = ZERO, np.int64(2)
        if are_own_rows:
            first, end = 2 * thread // threads, 2 * (thread + 1) // threads
        for half in range(first, end):
            call(net.backward_to_weights, (state, n_rows, half, ZERO, ZERO, ZERO, thread, threads, like))


@inline
def middle_of(net, layer, number, n_rows):
    """The first row of the second half of a block, where a layer's dW is summed in halves; else 0.

    Of the first layer, it must not be where threads have parts of the inputs, or the inputs are sparse.
    """
    may_be = net.halves != 0 and (number > 0 or (net.n_parts == 1 and not is_sparse(net)))
    middle = share_of_rows(n_rows, np.int64(1), np.int64(2))[0]
    return middle if may_be and few_weights(layer.n_in, layer.n_out, n_rows) else np.int64(0)


@inline
def is_mine(net, number, piece_number, piece, n_pieces, thread, threads):
    """Whether a piece of the weights is this thread's: one of a run of the first layer's, or of turns at the others.

    With sparse samples, whose columns may stand in the order of their frequency, it is turns in the first layer, too.
    """
    if number > 0 or is_sparse(net):
        return piece_number % threads == thread
    if piece == n_pieces:  # The bias goes with the first part of the inputs, whose sums begin with it.
        return thread == 0
    return n_pieces * thread // threads <= piece < n_pieces * (thread + 1) // threads


@inline
def part_of(net, row):
    """The part of the inputs that a row of the first W belongs to."""
    number = net.n_parts - 1
    while part_at(net.parts + number * PART_BYTES).first > row:
        number -= 1
    return part_at(net.parts + number * PART_BYTES)


@inline
def use_gradient(
    net, layer, state, number, piece_number, row, n_rows, g, is_first_block, is_last_block, constants, like
):  # fmt: skip
    """Do with a piece of dW what is to be done: keep or add it in the gradient buffer, update the weights, or both.

    Rows with their padding are contiguous, here and in the parameters, so this is one loop over all of them.
    """
    begin, n = layer.weights + row * layer.stride, n_rows * layer.stride
    if is_first_block == 0 or is_last_block == 0 or net.update == 0 or net.gradient_squares != 0:
        kept = advance(pointer(net.gradient, like), begin)
        if is_first_block != 0:
            for i in range(n):
                kept[i] = g[i]
        else:
            for i in range(n):
                kept[i] += g[i]
        g = kept
    if is_last_block != 0 and net.gradient_squares != 0:  # The update has to wait for the norm of the whole gradient.
        if row < layer.n_in:
            w, l2 = advance(pointer(net.parameters, like), begin), real(pointer(constants, 0.0)[L2], like)
            for i in range(n):
                g[i] += l2 * w[i]
        pointer(net.gradient_squares, 0.0)[piece_number] = sum_of_squares(g, n)
    elif is_last_block != 0 and net.update != 0:
        call(net.update_piece, (state, number, piece_number, row, n_rows, address_of(g), constants, like))


@kernel
def update_piece(state, number, piece_number, row, n_rows, g_address, constants_address, like):
    """Update some rows of a layer's weights, or its bias, by their gradient, and what depends on them."""
    net = state_at(state)
    layer = layer_at(net.layers + number * LAYER_BYTES)
    is_weights = row < layer.n_in
    begin, n = layer.weights + row * layer.stride, n_rows * layer.stride
    w = advance(pointer(net.parameters, like), begin)
    m, v = advance(pointer(net.slot1, like), begin), advance(pointer(net.slot2, like), begin)
    l2 = pointer(constants_address, 0.0)[L2] if is_weights and net.gradient_squares == 0 else 0.0
    call(net.update, (constants_address, l2, address_of(w), g_address, address_of(m), address_of(v), n, like))
    if net.average != 0:
        average = advance(pointer(net.average, like), begin)
        keep = real(pointer(constants_address, 0.0)[KEEP], like)
        for i in range(n):
            average[i] = w[i] + keep * (average[i] - w[i])
    if is_weights:
        if layer.transposed > 0:
            call(net.transpose_weights, (state, number, row, n_rows, like))  # dX of the next step needs them.
        if net.weight_squares != 0:
            pointer(net.weight_squares, 0.0)[piece_number] = sum_of_squares(w, n)
    return 0


@kernel
def update_clipped(state, constants, thread, threads, like):
    """Update this thread's share of the weights by the gradient in its buffer, scaled down to `clip_norm`."""
    net = state_at(state)
    total = 0.0
    for piece_number in range(net.n_pieces):
        total += pointer(net.gradient_squares, 0.0)[piece_number]
    factor = net.clip_norm / (math.sqrt(total) + 1e-6)  # The small number is PyTorch's.
    piece_number = -1
    for number in range(net.n_layers - 1, -1, -1):
        layer = layer_at(net.layers + number * LAYER_BYTES)
        n_pieces = -(-layer.n_in // WEIGHT_ROWS)
        for piece in range(n_pieces + net.bias):
            piece_number += 1
            if not is_mine(net, number, piece_number, piece, n_pieces, thread, threads):
                continue
            row = min(piece * WEIGHT_ROWS, layer.n_in)
            n_rows = max(1, min(WEIGHT_ROWS, layer.n_in - row))
            g = advance(pointer(net.gradient, like), layer.weights + row * layer.stride)
            if factor < 1.0:
                for i in range(n_rows * layer.stride):
                    g[i] *= real(factor, like)
            call(net.update_piece, (state, number, piece_number, row, n_rows, address_of(g), constants, like))
    return 0


@kernel
def prepare_weights(state, like):
    """Fill what is kept of the weights: Wᵀ, and the sums of squares in the order of the pieces."""
    net = state_at(state)
    piece_number = 0
    for number in range(net.n_layers - 1, -1, -1):
        layer = layer_at(net.layers + number * LAYER_BYTES)
        if layer.transposed > 0:
            call(net.transpose_weights, (state, number, ZERO, layer.n_in, like))
        if net.weight_squares != 0:
            for row in range(0, layer.n_in, WEIGHT_ROWS):
                w = advance(pointer(net.parameters, like), layer.weights + row * layer.stride)
                n = min(WEIGHT_ROWS, layer.n_in - row) * layer.stride
                pointer(net.weight_squares, 0.0)[piece_number] = sum_of_squares(w, n)
                piece_number += 1
            piece_number += net.bias  # Its square stays 0.
    return 0


@kernel
def transpose_weights(state, number, first_row, n_rows, like):
    """Copy rows of a layer's W to columns of its Wᵀ in the workspace.

    Whole squares are written. So beyond the rows there are zeros, up to the next multiple of the lanes: a piece that is
    not the last has no rows beyond. And beyond `n_out`, Wᵀ has rows of the padding of W.
    """
    net = state_at(state)
    layer = layer_at(net.layers + number * LAYER_BYTES)
    stride, input_stride = layer.stride, layer.input_stride
    W = advance(pointer(net.parameters, like), layer.weights + first_row * stride)
    T = advance(pointer(net.workspace, like), layer.transposed + first_row)
    zeros = pointer(net.workspace, like)
    for i in range(0, n_rows, lanes(like)):
        for j in range(0, layer.n_out, lanes(like)):
            square, turned = advance(W, i * stride + j), advance(T, j * input_stride + i)
            transpose_square(square, stride, n_rows - i, zeros, turned, input_stride)
    return 0


@inline
def clear_columns(G, n_rows, first, stride, like):
    """Zero the columns from `first` up to `stride`, which no tile writes, so that the padding of W stays zero."""
    for i in range(n_rows):
        for j in range(first, stride):
            G[i * stride + j] = real(0.0, like)
