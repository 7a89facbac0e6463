"""The minibatch loop: gather, forward, loss, backward, update, in one native call that does not hold the GIL.

One call takes many steps. With T threads, T of them run the same function: a thread does the rows of the batch that
are its share, through forward, loss and the backward pass down to the first layer's dZ; a barrier; then the pieces of
the weights that are its share, dW and their update; a barrier. Where a layer's dW is summed in halves
(`fastmlp.kernels.weights`), each of two threads makes the sum over its own rows before the first of these barriers. No
two threads write to one place, every sum has one order, and so the weights have the same bits whatever the number of
threads.

Most of the memory belongs to the first layer, and what one core writes and another reads has to pass between their
caches. So where there are many inputs, they are cut in two *parts*, and two threads have one each: its columns of X,
its rows of W, and the sums of ``X W`` over its inputs, for all rows of the batch. A barrier; the sums are added up, and
the rows are shared as above. The barrier after the update is not needed then: until the next sums are added, a thread
reads nothing that another writes, and writes nothing that another still reads: these sums have their own memory.

A batch of more than `BLOCK_ROWS` rows is taken in blocks of that many: their gradients add up in the gradient buffer,
and the update is done with the last. So the buffers stay in the cache whatever the batch size.
"""

from __future__ import annotations

import numpy as np

from fastmlp.kernels.constants import KEY, L2, LOSS_SCALE, N_CONSTANTS, SCALE, SOFTMAX_CROSS_ENTROPY
from fastmlp.kernels.dropout import drop_units, key_of_row
from fastmlp.kernels.instructions import (
    address_of,
    advance,
    atomic_add,
    atomic_load,
    call,
    lanes,
    pointer,
    rest,
)
from fastmlp.kernels.jit import ZERO, inline, kernel
from fastmlp.kernels.products import ROW_UNIT, share_of_rows
from fastmlp.kernels.readers import (
    array_at,
    has_one_output,
    is_sparse,
    layer_at,
    owns_parts,
    part_at,
    samples_at,
    state_at,
)
from fastmlp.kernels.records import LAYER_BYTES, PART_BYTES, SAMPLE, STATE
from fastmlp.kernels.rows import add_vectors, dots_of_rows
from fastmlp.kernels.sizes import BLOCK_ROWS
from fastmlp.kernels.weights import USE, sum_halves

assert BLOCK_ROWS % ROW_UNIT == 0
assert BLOCK_ROWS % 8 == 0

FORWARD_ROWS = 96
"""Rows of a block in `forward_all`: fewer than `BLOCK_ROWS`, so that they leave room for the weights (4 % faster)."""
assert FORWARD_ROWS <= BLOCK_ROWS

SPINS = 200_000
"""Looks at a barrier before a thread rests: 0.1 ms, longer than it waits where all run."""


CALLED_OFF = 0
"""What `wait_for_all` returns if Python was interrupted before it had started all the threads."""


@inline
def wait_for_all(barrier, threads, n_waits):
    """The barrier: wait until all threads are here. `n_waits` is how often they have waited before; return that + 1.

    The barrier is two numbers: how often a thread has come to it, and whether the work is called off.
    """
    if threads > 1:
        counter = pointer(barrier, np.int64(0))
        off = advance(counter, 1)
        atomic_add(counter, 1)
        spins = 0
        while atomic_load(counter) < threads * (n_waits + 1):
            if atomic_load(off) != 0:
                return np.int64(CALLED_OFF)
            spins += 1
            if spins > SPINS:
                rest()
    return n_waits + 1


@inline
def shares(net, n_rows, thread, threads):
    """What is a thread's of the products with the inputs: first part, end part, first row, end row."""
    if owns_parts(net, threads):
        return net.n_parts * thread // threads, net.n_parts * (thread + 1) // threads, np.int64(0), n_rows
    begin, end = share_of_rows(n_rows, thread, threads)
    return np.int64(0), net.n_parts, begin, end


@kernel
def forward(state, begin, end, key, like):
    """All layers for the rows begin ... end, from the sums over the parts of the inputs on.

    A cross-entropy's activation is part of the loss, and not done here. `key` is that of the block's first row
    (`key_of_row`), for dropout.
    """
    net = state_at(state)
    workspace = pointer(net.workspace, like)
    parameters = pointer(net.parameters, like)
    width = lanes(like)
    add_parts(net, begin, end, like)
    multiply_rows = net.multiply_row if end - begin == 1 and net.multiply_row != 0 else net.multiply_rows
    X = workspace
    for number in range(net.n_layers):
        layer = layer_at(net.layers + number * LAYER_BYTES)
        Z, A = advance(workspace, layer.Z), advance(workspace, layer.A)
        W, b = advance(parameters, layer.weights), advance(parameters, layer.bias)
        if has_one_output(layer):
            w = advance(workspace, layer.transposed)
            dots_of_rows(Z, layer.stride, X, layer.input_stride, begin, end, w, layer.n_in, b[0])
        elif number > 0:
            call(
                multiply_rows,
                (
                    address_of(X), layer.input_stride, address_of(W), layer.stride, address_of(b), address_of(Z),
                    layer.stride, begin, end, layer.n_in, -(-layer.n_out // width), like,
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
def add_parts(net, begin, end, like):
    """Make the first layer's Z of the sums over the parts of the inputs; and begin the rows' losses.

    A NaN or infinity in X makes the row's loss NaN, even where an activation would hide it.
    """
    layer, part = layer_at(net.layers), part_at(net.parts)
    losses, first = pointer(net.row_losses, 0.0), begin * layer.stride
    Z = advance(pointer(net.workspace, like), layer.Z + first)
    sums = advance(pointer(net.workspace, like), part.Z + first)
    for row in range(begin, end):
        losses[row] = pointer(part.doubts, 0.0)[row]
    for number in range(1, net.n_parts):
        part = part_at(net.parts + number * PART_BYTES)
        for row in range(begin, end):
            losses[row] += pointer(part.doubts, 0.0)[row]
        add_vectors(Z, sums, advance(pointer(net.workspace, like), part.Z + first), (end - begin) * layer.stride)
        sums = Z


@kernel
def backward_through_layers(state, begin, end, key, like):
    """From the last layer's dA down to the first layer's dZ: times the activation's slope, then ``dX = dY Wᵀ``."""
    net = state_at(state)
    workspace = pointer(net.workspace, like)
    width = lanes(like)
    for number in range(net.n_layers - 1, -1, -1):
        layer = layer_at(net.layers + number * LAYER_BYTES)
        D = advance(workspace, layer.D)
        at, n = begin * layer.stride, (end - begin) * layer.stride
        D_address = address_of(advance(D, at))
        if layer.threshold != 0:
            drop_units(net, layer, number, D_address, begin, end, key, like)
        if layer.multiply_by_slope != 0:
            call(layer.multiply_by_slope, (D_address, address_of(advance(workspace, at + layer.Z)), n, like))
        if number > 0:
            transposed = address_of(advance(workspace, layer.transposed))
            dX = address_of(advance(workspace, layer_at(net.layers + (number - 1) * LAYER_BYTES).D))
            call(
                net.multiply_rows,
                (
                    address_of(D), layer.stride, transposed, layer.input_stride, net.workspace, dX, layer.input_stride,
                    begin, end, layer.n_out, -(-layer.n_in // width), like,
                ),
            )  # fmt: skip
    return 0


@kernel
def train_steps(state, constants_address, batch_size, first_batch, losses_address, n_steps, thread, threads, like):
    """Take the steps; return how many losses were written: of a last one that is not finite, the step is not taken.

    Every one of `threads` threads calls this once, with its own number.

    `constants` is float64 (n_steps, N_CONSTANTS), `losses` float64 (n_steps,), written. A block of rows has barriers::

        before             what all threads have done by then                          where
        forward            each the sums of ``X W`` over its part of the inputs        threads have parts
        the loss           their rows' losses and dZ: all stop at a NaN together       always
        the next gather    the gradients of their pieces of the weights, their update  threads share rows, or clip
        the next step      the update of clipped gradients, which waits for their norm threads share rows, and clip

    A barrier that is called off ends the call; the step then does not count.
    """
    net = state_at(state)
    samples = samples_at(net.samples)
    losses, row_losses = pointer(losses_address, 0.0), pointer(net.row_losses, 0.0)
    n_batches = -(-samples.n_samples // batch_size)
    has_parts, clips = owns_parts(net, threads), net.gradient_squares != 0
    is_gathered = False  # What the next step needs: if all samples are one block, they stay there in one order.
    if thread == 0:
        call(net.prepare_weights, (state, like))
    n_waits = wait_for_all(net.barrier, threads, ZERO)
    if n_waits == CALLED_OFF:
        return 0
    for step in range(n_steps):
        epoch = (first_batch + step) // n_batches
        first = (first_batch + step) % n_batches * batch_size
        n_batch = min(batch_size, samples.n_samples - first)
        constants = constants_address + step * N_CONSTANTS * 8
        scale = pointer(constants, 0.0)[SCALE]
        if scale == 0.0:  # A batch without weight.
            losses[step] = 0.0
            continue
        order = samples.orders + (epoch % samples.n_orders * samples.n_samples + first) * 8
        loss = 0.0
        for block in range(0, n_batch, BLOCK_ROWS):
            n_rows = min(BLOCK_ROWS, n_batch - block)
            rows = order + block * 8
            first_part, end_part, begin, end = shares(net, n_rows, thread, threads)
            if not is_gathered:
                call(net.gather, (state, rows, first_part, end_part, begin, end, n_rows, like))
                if is_sparse(net):
                    call(net.sort_entries, (state, begin, end, thread, like))
                is_gathered = n_rows == samples.n_samples and samples.n_orders == 1
            call(net.multiply_inputs, (state, first_part, end_part, begin, end, thread, like))
            if has_parts:
                n_waits = wait_for_all(net.barrier, threads, n_waits)
                if n_waits == CALLED_OFF:
                    return step
                begin, end = share_of_rows(n_rows, thread, threads)
            if block == 0:  # Between two barriers: before the first, another thread may still update its weights.
                loss = l2_loss(net, pointer(constants, 0.0)[L2])

            key = key_of_row(pointer(constants, np.int64(0))[KEY], block)
            call(net.forward, (state, begin, end, key, like))
            call(net.loss_and_output_gradient, (state, rows, begin, end, scale, thread, like))
            call(net.backward_through_layers, (state, begin, end, key, like))
            sum_halves(net, state, n_rows, thread, threads, True, like)
            n_waits = wait_for_all(net.barrier, threads, n_waits)
            if n_waits == CALLED_OFF:
                return step

            for row in range(n_rows):  # Each thread sums all rows, in one order: all come to the same loss.
                loss += row_losses[row] * pointer(constants, 0.0)[LOSS_SCALE]
            if not np.isfinite(loss):
                losses[step] = loss
                return step + 1
            sum_halves(net, state, n_rows, thread, threads, False, like)
            is_first, is_last = np.int64(block == 0), np.int64(block + n_rows == n_batch)
            call(net.backward_to_weights, (state, n_rows, USE, is_first, is_last, constants, thread, threads, like))
            if clips or not has_parts:
                n_waits = wait_for_all(net.barrier, threads, n_waits)
                if n_waits == CALLED_OFF:
                    return step
        if clips:
            call(net.update_clipped, (state, constants, thread, threads, like))
            if not has_parts:
                n_waits = wait_for_all(net.barrier, threads, n_waits)
                if n_waits == CALLED_OFF:
                    return step
        losses[step] = loss
    return n_steps


@inline
def l2_loss(net, l2):
    """``½ l2 Σ W²``, from the sums of squares of the pieces."""
    total = 0.0
    if net.weight_squares != 0:
        for piece in range(net.n_pieces):
            total += pointer(net.weight_squares, 0.0)[piece]
    return total * (0.5 * l2)


@kernel
def take_step(
    state, train_steps, constants, X_array, X_itemsize, y_array, y_ndim, targets_address, low, high, losses_address,
    like,
):  # fmt: skip
    """Take one step on a batch that has just come; Python has written to the state all but where X is.

    `train_steps` is the address of that kernel, `constants` that of the step's. y is of int64 if the loss takes
    classes, else of the dtype, from `low` to `high`; it has `y_ndim` dimensions, one or two. It is copied to `targets`,
    where nobody else can change it: classes are used as indices.
    Return whether X and y are what the network takes. If X is not finite, the loss is NaN.
    """
    net = state_at(state)
    samples = pointer(net.samples, np.int64(0))
    n_samples, n_in = samples[SAMPLE.n_samples], layer_at(net.layers).n_in
    n_out = layer_at(net.layers + (net.n_layers - 1) * LAYER_BYTES).n_out
    X, y = array_at(X_array), array_at(y_array)
    shape, strides = pointer(X.shape, np.int64(0)), pointer(X.strides, np.int64(0))
    y_shape, y_strides = pointer(y.shape, np.int64(0)), pointer(y.strides, np.int64(0))
    if shape[0] != n_samples or shape[1] != n_in or (n_in > 1 and strides[1] != X_itemsize) or y_shape[0] != n_samples:
        return np.int64(0)
    samples[SAMPLE.X], samples[SAMPLE.X_is_uint8] = X.data, np.int64(X_itemsize == 1)
    samples[SAMPLE.X_stride] = strides[0]
    if net.loss == SOFTMAX_CROSS_ENTROPY:
        if y_ndim != 1:
            return np.int64(0)
        classes = pointer(targets_address, np.int64(0))
        for row in range(n_samples):
            label = pointer(y.data + row * y_strides[0], np.int64(0))[0]
            if label < 0 or label >= n_out:
                return np.int64(0)
            classes[row] = label
    else:
        if (1 if y_ndim == 1 else y_shape[1]) != n_out:
            return np.int64(0)
        values = pointer(targets_address, like)
        for row in range(n_samples):
            for j in range(n_out):
                value = pointer(y.data + row * y_strides[0] + (j * y_strides[1] if j > 0 else 0), like)[0]
                if not low <= value <= high:
                    return np.int64(0)
                values[row * n_out + j] = value
    return call(
        train_steps, (state, constants, n_samples, ZERO, losses_address, np.int64(1), ZERO, np.int64(1), like)
    )  # fmt: skip


@kernel
def forward_all(state, parameters_array, X_array, X_itemsize, outputs_array, classes_array, activate, like):
    """Write the outputs for all samples of X to `outputs` or, unless it is empty, their argmax to `classes`.

    `activate` is the address of the kernel of an activation that the loss does in training, or 0 without.

    Of sparse samples Python has written where they are; of X only its length counts then. Else X has two dimensions,
    and may have any stride between samples.
    Return whether that is what the network takes, and is finite.
    """
    parameters = array_at(parameters_array).data
    pointer(state, np.int64(0))[STATE.parameters] = parameters
    net = state_at(state)
    X, outputs, classes = array_at(X_array), array_at(outputs_array), array_at(classes_array)
    shape, strides = pointer(X.shape, np.int64(0)), pointer(X.strides, np.int64(0))
    n_samples, writes_classes = shape[0], pointer(classes.shape, np.int64(0))[0] > 0
    n_in, are_sparse = layer_at(net.layers).n_in, is_sparse(net)
    is_side_by_side = n_in == 1 or strides[1] == X_itemsize
    if not (are_sparse or (n_samples > 0 and shape[1] == n_in and is_side_by_side)):
        return np.int64(0)
    last = layer_at(net.layers + (net.n_layers - 1) * LAYER_BYTES)
    workspace, order = pointer(net.workspace, like), pointer(net.order, np.int64(0))
    row_losses = pointer(net.row_losses, 0.0)
    samples = pointer(net.samples, np.int64(0))
    samples[SAMPLE.X], samples[SAMPLE.X_is_uint8] = X.data, np.int64(X_itemsize == 1)
    samples[SAMPLE.X_stride] = strides[0]
    for number in range(net.n_layers):
        layer = layer_at(net.layers + number * LAYER_BYTES)
        if has_one_output(layer):
            W = advance(pointer(parameters, like), layer.weights)
            w = advance(workspace, layer.transposed)
            for i in range(layer.n_in):  # Not by `transpose_weights`, a kernel that only training needs.
                w[i] = W[i * layer.stride]
    doubt = 0.0
    for block in range(0, n_samples, FORWARD_ROWS):
        n_rows = min(FORWARD_ROWS, n_samples - block)
        for row in range(n_rows):
            order[row] = block + row
        # The rows beyond need not be cleared: what a tile reads there changes nothing but its rows that nobody reads.
        call(net.gather, (state, net.order, ZERO, net.n_parts, ZERO, n_rows, ZERO, like))
        call(net.multiply_inputs, (state, ZERO, net.n_parts, ZERO, n_rows, ZERO, like))
        call(net.forward, (state, ZERO, n_rows, ZERO, like))
        if activate != 0:
            call(activate, (address_of(advance(workspace, last.A)), n_rows, last.n_out, last.stride, like))
        for row in range(n_rows):
            doubt += row_losses[row]
            a = advance(workspace, last.A + row * last.stride)
            if writes_classes:
                best = 0
                for j in range(1, last.n_out):
                    if a[j] > a[best]:
                        best = j
                pointer(classes.data, np.int64(0))[block + row] = best
            else:
                for j in range(last.n_out):
                    pointer(outputs.data, like)[(block + row) * last.n_out + j] = a[j]
    return np.int64(doubt == 0.0)
