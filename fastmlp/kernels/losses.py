"""Losses, each formula once, for a row or for a run of values; and what a step makes of them.

The formulas are those of `fastmlp.reference.losses`. A softmax goes row by row or, of few classes, class by class. The
losses of values are computed without a sum in the loop, so that it is vector code.
"""

from __future__ import annotations

import math

import numpy as np

from fastmlp.kernels.activations import relu_value, sigmoid_value
from fastmlp.kernels.constants import CLIPPED_ERROR, POISSON, SIGMOID_CROSS_ENTROPY
from fastmlp.kernels.exponentials import exp_negative, exp_value, expm1_value, log1p_of_fraction, log_from_one
from fastmlp.kernels.instructions import address_of, advance, call, lanes, pointer, real
from fastmlp.kernels.jit import inline, kernel
from fastmlp.kernels.machine import lanes_of
from fastmlp.kernels.readers import layer_at, samples_at, state_at
from fastmlp.kernels.records import LAYER_BYTES
from fastmlp.kernels.rows import (
    max_of_rows,
    multiply_rows_by,
    row_max,
    row_sum,
    scale_row,
    shift_row,
    subtract_from_rows,
    sum_of_rows,
    transpose_square,
)
from fastmlp.kernels.sizes import LOSS_MEMORY, VALUES_AT_ONCE

# --- Softmax: rows of logits, and classes -----------------------------------------------------------------------------


@inline
def exp_below_max(P, n):
    """``P = exp(P)`` for the n elements of whole rows, from each of which its row's maximum has been subtracted."""
    for i in range(n):
        P[i] = exp_negative(P[i])


@kernel
def softmax_outputs(Z_address, n_rows, n, stride, like):
    """The softmax of rows of n logits, in place, with zeros as padding: ``P = exp(Z - max Z) / Σ``."""
    P = pointer(Z_address, like)
    for row in range(n_rows):
        p = advance(P, row * stride)
        shift_row(p, n, row_max(p, n), p)
    exp_below_max(P, n_rows * stride)
    for row in range(n_rows):
        p = advance(P, row * stride)
        scale_row(p, n, real(1.0, like) / row_sum(p, n))
    return 0


@kernel
def sigmoid_outputs(Z_address, n_rows, n, stride, like):
    """The sigmoid of rows of n logits, in place."""
    rows = pointer(Z_address, like)
    for i in range(n_rows * stride):
        rows[i] = sigmoid_value(rows[i])
    return 0


SOFTMAX_ROWS = 32
"""Rows whose softmax is taken together; whole vectors."""
FEW_CLASSES = 32
"""Classes up to which many rows are taken class by class; it decides on the order of their sum, too. Ten classes take
half of the time, and the more there are, the less is gained."""
MANY_ROWS = 8
"""So many rows; a step of 2-8-2 on four takes 1.07 to 1.1 of the time if those go class by class."""
assert SOFTMAX_ROWS % lanes_of(32) == 0
assert FEW_CLASSES % lanes_of(32) == 0
assert 3 * SOFTMAX_ROWS + lanes_of(32) ** 2 + FEW_CLASSES * SOFTMAX_ROWS <= LOSS_MEMORY


@kernel
def softmax_cross_entropy(
    Z_address, n, classes_address, order_address, scale, D_address, stride, losses_address, begin, end, memory_address,
    like,
):  # fmt: skip
    """Add to `losses` those of rows: ``log Σ exp z - z[y]``; and write ``D = scale (softmax(Z) - onehot(y))``.

    A row's y is ``classes[order[row]]``. Rows are `stride` apart; the padding of D becomes zero, up to whole vectors.
    Of few classes, the rows are transposed, so that each class is a vector of m rows: those that there are, and zeros.
    A row has the same bits either way. `memory` (LOSS_MEMORY) is for zeros, maxima, sums, a square of D, and Zᵀ.
    """
    Z, D, losses = pointer(Z_address, like), pointer(D_address, like), pointer(losses_address, 0.0)
    classes, order = pointer(classes_address, np.int64(0)), pointer(order_address, np.int64(0))
    factor, width = real(scale, like), lanes(like)
    zeros = pointer(memory_address, like)
    maxima, sums = advance(zeros, SOFTMAX_ROWS), advance(zeros, 2 * SOFTMAX_ROWS)
    square = advance(zeros, 3 * SOFTMAX_ROWS)
    transposed = advance(square, width * width)
    for i in range(width):
        zeros[i] = real(0.0, like)
    for first in range(begin, end, SOFTMAX_ROWS):
        n_rows = min(SOFTMAX_ROWS, end - first)
        z, d = advance(Z, first * stride), advance(D, first * stride)
        m = -(-n_rows // width) * width  # Padded.
        by_classes = n <= FEW_CLASSES and n_rows >= MANY_ROWS
        # P has `size` elements; that of class j and row i is P[j * class_stride + i * row_stride].
        P, size, class_stride, row_stride = (
            (transposed, n * m, m, np.int64(1)) if by_classes else (d, n_rows * stride, np.int64(1), stride)
        )

        # P = exp(Z - max Z)
        if by_classes:
            for i in range(0, m, width):
                for j in range(0, n, width):
                    transpose_square(advance(z, i * stride + j), stride, n_rows - i, zeros, advance(P, j * m + i), m)
            max_of_rows(maxima, P, n, m, m)
            subtract_from_rows(P, maxima, n, m)
        else:
            for i in range(n_rows):
                row = advance(z, i * stride)
                shift_row(row, n, row_max(row, n), advance(P, i * stride))
        for i in range(n_rows):
            losses[first + i] -= np.float64(P[classes[order[first + i]] * class_stride + i * row_stride])
        exp_below_max(P, size)

        # P = scale (P / sum - onehot)
        if by_classes:
            sum_of_rows(sums, P, n, m, m)
        else:
            for i in range(n_rows):
                sums[i] = sum_of_row(advance(P, i * stride), n)
        for i in range(n_rows):
            losses[first + i] += log_from_one(np.float64(sums[i]))
            sums[i] = factor / sums[i]
        if by_classes:
            multiply_rows_by(P, sums, n, m)
        else:
            for i in range(n_rows):
                scale_row(advance(P, i * stride), n, sums[i])
        for i in range(n_rows):
            P[classes[order[first + i]] * class_stride + i * row_stride] -= factor

        # D = Pᵀ; of rows, P is D.
        if by_classes:
            for i in range(0, m, width):
                for j in range(0, n, width):
                    of_d, is_whole = advance(d, i * stride + j), i + width <= n_rows
                    to, distance = (of_d, stride) if is_whole else (square, width)
                    transpose_square(advance(P, j * m + i), m, n - j, zeros, to, distance)
                    if not is_whole:  # It would reach into rows that are another thread's.
                        for k in range((n_rows - i) * width):
                            of_d[k // width * stride + k % width] = square[k]
    return 0


@inline
def sum_of_row(p, n):
    """The sum of n elements, of few in the order of `sum_of_rows`."""
    if n > FEW_CLASSES:
        return row_sum(p, n)
    total = p[0]
    for j in range(1, n):
        total += p[j]
    return total


@inline
def smoothing_row(z, n, y, scale, smoothing, d):
    """What label smoothing adds to the softmax cross-entropy of a row, and to d: see `fastmlp.MLP.fit`."""
    share = real(smoothing, scale) * scale
    total = 0.0
    for j in range(n):
        total += np.float64(z[j])
        d[j] -= share / real(n, scale)
    d[y] += share
    return smoothing * (np.float64(z[y]) - total / n)


# --- Losses of values -------------------------------------------------------------------------------------------------

# Of n outputs a, or logits z, and targets y, the loss of each goes to `losses`, in float64, and its derivative, times
# `scale`, to d. No loop adds up anything, so all are vector code.


@inline
def sigmoid_cross_entropy_values(z, y, n, scale, cap, d, losses):
    """``max(z, 0) - y z + log(1 + exp(-|z|))``, and ``d = scale (sigmoid(z) - y)``.

    No loss counts more than `cap`; d is as without.
    """
    for i in range(n):
        loss = relu_value(z[i]) - y[i] * z[i] + log1p_of_fraction(exp_negative(-abs(z[i])))
        losses[i] = np.float64(cap if loss > cap else loss)
        d[i] = scale * (sigmoid_value(z[i]) - y[i])


FAR = 700.0
"""Where ``log(exp(z) / y)`` is more, the loss is exp(z) to the last bit, and the quotient may overflow."""


@inline
def poisson_values(z, y, n, scale, d, losses):
    """``y (t + exp(-t) - 1)`` with ``t = log(y / exp(z))``, or ``exp(z)`` where y is 0; and ``d = scale (exp(z) - y)``.

    In float64: the terms nearly cancel where exp(z) is nearly y.
    """
    for i in range(n):
        mean = exp_value(z[i])
        loss = np.float64(mean)
        if not y[i] <= real(0.0, scale) and loss != np.inf:  # NaN is not. And where the loss is infinite, d is.
            t = math.log(np.float64(y[i])) - np.float64(z[i])
            if not -t >= FAR:
                loss = np.float64(y[i]) * (t + expm1_value(-t))
        losses[i] = loss
        d[i] = scale * (mean - y[i])


@inline
def clipped_error_values(a, y, n, scale, low, high, d, losses):
    """``c (r - ½ c)``, ``r = a - y`` and c that clipped to [low, high], and ``d = scale c``.

    Huber's loss; with infinite bounds, half the squared error.
    """
    for i in range(n):
        r = a[i] - y[i]
        c = high if r > high else (low if r < low else r)
        losses[i] = np.float64(c) * (np.float64(r) - 0.5 * np.float64(c))
        d[i] = scale * c


@inline
def sloped_error_values(a, y, n, scale, low, high, d, losses):
    """``s r``, ``r = a - y``, s being `high` above 0, `low` below, and ``d = scale s``.

    The absolute error and the pinball loss.
    """
    zero = real(0.0, scale)
    for i in range(n):
        r = a[i] - y[i]
        s = high if r > zero else (low if r < zero else r)  # NaN must survive.
        losses[i] = np.float64(s) * np.float64(r)
        d[i] = scale * s


@inline
def losses_of_values(code, a, y, n, scale, low, high, d, losses):
    """The loss of each value, by its code: all but softmax_cross_entropy, whose targets are classes."""
    if code == SIGMOID_CROSS_ENTROPY:
        sigmoid_cross_entropy_values(a, y, n, scale, high, d, losses)
    elif code == POISSON:
        poisson_values(a, y, n, scale, d, losses)
    elif code == CLIPPED_ERROR:
        clipped_error_values(a, y, n, scale, low, high, d, losses)
    else:
        sloped_error_values(a, y, n, scale, low, high, d, losses)


LONG_ROW = 8
"""Outputs of a sample that make a loop long enough."""


@inline
def values_loss_rows(code, A, stride, n, targets, order, scale, low, high, D, losses, begin, end, memory):
    """Add to `losses` those of the rows begin ... end of n outputs, and write their derivatives, times `scale`, to D.

    A row's targets are the n from ``targets[n * order[row]]`` on. Rows of A and D are `stride` apart. Short rows are
    taken many at once, output by output: all rows' first, all rows' second. `memory` holds the losses, and then, of
    short rows, their outputs, targets and derivatives.
    """
    low, high = real(low, scale), real(high, scale)
    rest = pointer(address_of(advance(memory, VALUES_AT_ONCE)), scale)
    a, y, d = rest, advance(rest, VALUES_AT_ONCE), advance(rest, 2 * VALUES_AT_ONCE)
    if n >= LONG_ROW:
        for row in range(begin, end):
            for first in range(0, n, VALUES_AT_ONCE):
                count, offset = min(VALUES_AT_ONCE, n - first), row * stride + first
                of_row = advance(targets, order[row] * n + first)
                losses_of_values(code, advance(A, offset), of_row, count, scale, low, high, advance(D, offset), memory)
                losses[row] += row_sum(memory, count)
    else:
        for first in range(begin, end, VALUES_AT_ONCE // n):
            n_rows = min(VALUES_AT_ONCE // n, end - first)
            for j in range(n):
                for i in range(n_rows):
                    a[j * n_rows + i] = A[(first + i) * stride + j]
                    y[j * n_rows + i] = targets[order[first + i] * n + j]
            losses_of_values(code, a, y, n_rows * n, scale, low, high, d, memory)
            for j in range(n):
                for i in range(n_rows):
                    D[(first + i) * stride + j] = d[j * n_rows + i]
                    losses[first + i] += memory[j * n_rows + i]


# --- What the loop, and the public kernels, call ----------------------------------------------------------------------


@kernel
def classes_loss(state, order_address, begin, end, scale, thread, like):
    """The softmax cross-entropy of the rows begin ... end, and its derivative by the last layer's Z.

    The derivative is that of the batch's loss: `scale` is the division by the batch size, or by its weights. A sample's
    weight multiplies both.
    """
    net = state_at(state)
    samples, order = samples_at(net.samples), pointer(order_address, np.int64(0))
    last = layer_at(net.layers + (net.n_layers - 1) * LAYER_BYTES)
    stride, n_out = last.stride, last.n_out
    factor = scale if samples.weights == 0 else 1.0
    workspace, losses = pointer(net.workspace, like), pointer(net.row_losses, 0.0)
    A, D = advance(workspace, last.A), advance(workspace, last.D)
    classes = pointer(samples.y, np.int64(0))
    call(
        net.softmax_cross_entropy,
        (
            address_of(A), n_out, samples.y, order_address, factor, address_of(D), stride, net.row_losses, begin, end,
            net.loss_memory + thread * LOSS_MEMORY * 8, like,
        ),
    )  # fmt: skip
    for row in range(begin, end):
        if losses[row] > net.loss_high:  # The cap; a NaN stays.
            losses[row] = net.loss_high
    if net.label_smoothing != 0.0:
        for row in range(begin, end):
            a, d, y = advance(A, row * stride), advance(D, row * stride), classes[order[row]]
            losses[row] += smoothing_row(a, n_out, y, real(factor, like), net.label_smoothing, d)
    weigh_samples(samples, order, begin, end, scale, losses, D, n_out, stride, like)
    return 0


@kernel
def values_loss(state, order_address, begin, end, scale, thread, like):
    """A loss of values of the rows begin ... end, and its derivative: by Z if the loss has the activation, or by A."""
    net = state_at(state)
    samples, order = samples_at(net.samples), pointer(order_address, np.int64(0))
    last = layer_at(net.layers + (net.n_layers - 1) * LAYER_BYTES)
    stride, n_out = last.stride, last.n_out
    factor = real(scale if samples.weights == 0 else 1.0, like)
    workspace, losses = pointer(net.workspace, like), pointer(net.row_losses, 0.0)
    A, D = advance(workspace, last.A), advance(workspace, last.D)
    memory = advance(pointer(net.loss_memory, 0.0), thread * LOSS_MEMORY)
    for row in range(begin, end):  # The padding: NaN may be left there, where another network's outputs overflowed.
        for j in range(n_out, stride):
            D[row * stride + j] = real(0.0, like)
    values_loss_rows(
        net.loss, A, stride, n_out, pointer(samples.y, like), order, factor, net.loss_low, net.loss_high, D, losses,
        begin, end, memory,
    )  # fmt: skip
    weigh_samples(samples, order, begin, end, scale, losses, D, n_out, stride, like)
    return 0


@inline
def weigh_samples(samples, order, begin, end, scale, losses, D, n_out, stride, like):
    """Multiply losses of rows by the weights of their samples, and derivatives by these times `scale`.

    One of the two factors may be out of the range of float32, where their product is not.
    """
    if samples.weights != 0:
        for row in range(begin, end):
            weight, d = pointer(samples.weights, 0.0)[order[row]], advance(D, row * stride)
            losses[row] *= weight
            for j in range(n_out):
                d[j] *= real(scale * weight, like)


@kernel
def loss_rows(
    A_address, n, Y_address, order_address, scale, D_address, stride, losses_address, begin, end, memory_address, loss,
    low, high, like,
):  # fmt: skip
    """`values_loss_rows` for whoever has no network."""
    values_loss_rows(
        loss, pointer(A_address, like), stride, n, pointer(Y_address, like), pointer(order_address, np.int64(0)),
        real(scale, like), low, high, pointer(D_address, like), pointer(losses_address, 0.0), begin, end,
        pointer(memory_address, 0.0),
    )  # fmt: skip
    return 0
