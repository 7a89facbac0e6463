"""Activations, losses and optimizer updates: each formula once, for one element or one row, and the loops over them.

The same functions serve the public kernels and the minibatch loop. They are plain loops over contiguous memory, which
LLVM turns into vector code; exp and expm1 are written out so that it can (the C library's would be called element by
element).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastmlp.kernels.constants import (
    CLIPPED_ERROR,
    DECAY,
    EPSILON,
    FIRST,
    POISSON,
    RATE,
    ROOT_SCALE,
    SECOND,
    SHRINK,
    SIGMOID_CROSS_ENTROPY,
)
from fastmlp.kernels.instructions import address_of, advance, fma, is_double, pointer, polynomial, power_of_two, real
from fastmlp.kernels.jit import inline, kernel, scalar
from fastmlp.kernels.memory import VALUES_AT_ONCE
from fastmlp.kernels.rows import row_max, row_sum, scale_row, shift_row

# --- exp and expm1 ----------------------------------------------------------------------------------------------------

LOG2_E = math.log2(math.e)
LN2_HIGH = 0.693145751953125  # The first 16 bits of ln 2: n * LN2_HIGH is exact.
LN2_LOW = 1.42860682030941723212e-6  # The rest.
LOWEST_FLOAT = -87.0  # From here down, exp is taken as 0; it is under 2e-38.
LOWEST_DOUBLE = -708.0
HIGHEST_FLOAT = 88.37  # Below 127.5 ln 2 (and 1023.5 ln 2), so that n is an exponent.
HIGHEST_DOUBLE = 709.43
SHIFT_FLOAT = 1.5 * 2.0**23  # A number added to this is rounded to a whole one, which the last bits of the sum hold.
SHIFT_DOUBLE = 1.5 * 2.0**52


EXP_TERMS = [1.0 / math.factorial(k) for k in range(13, 1, -1)]
exp_polynomial = polynomial(tuple(EXP_TERMS[-6:]), tuple(EXP_TERMS))
"""``(exp(r) - 1 - r) / r²``: Taylor's."""


@scalar
def expm1_parts(x):
    """The pair ``(2 ** n, exp(r) - 1)`` with ``x = n ln 2 + r``, ``|r| <= ln(2) / 2`` [Cody, Waite 1980].

    The Taylor polynomial has an error below half a unit in the last place over that range: degree 7 in float32
    (0.35 ** 7 / 8! = 2e-8), 13 in float64.
    """
    shifted = fma(x, real(LOG2_E, x), real(SHIFT_DOUBLE if is_double(x) else SHIFT_FLOAT, x))
    n = shifted - real(SHIFT_DOUBLE if is_double(x) else SHIFT_FLOAT, x)
    r = fma(n, real(-LN2_HIGH, x), x)
    r = fma(n, real(-LN2_LOW, x), r)
    p = exp_polynomial(r)
    p = fma(p * r, r, r)
    return power_of_two(shifted), p


@scalar
def lowest(x):
    """Where exp begins to count as zero."""
    return real(LOWEST_DOUBLE, x) if is_double(x) else real(LOWEST_FLOAT, x)


@scalar
def exp_negative(x):
    """``exp(x)`` for x <= 0."""
    scale, p = expm1_parts(lowest(x) if x < lowest(x) else x)
    y = fma(scale, p, scale)
    return real(0.0, x) if x <= lowest(x) else y  # NaN survives: no comparison with it is true.


@scalar
def exp_value(x):
    """``exp(x)``, infinite where 2 ** n is no exponent of the dtype any more."""
    highest = real(HIGHEST_DOUBLE, x) if is_double(x) else real(HIGHEST_FLOAT, x)
    scale, p = expm1_parts(highest if x > highest else (lowest(x) if x < lowest(x) else x))
    y = fma(scale, p, scale)
    y = real(0.0, x) if x <= lowest(x) else y
    return real(np.inf, x) if x > highest else y


@scalar
def expm1_negative(x):
    """``exp(x) - 1`` for x <= 0, without cancellation near zero."""
    scale, p = expm1_parts(lowest(x) if x < lowest(x) else x)
    return fma(scale, p, scale - real(1.0, x))


ARTANH_TERMS = [1.0 / k for k in range(33, 0, -2)]
artanh_polynomial = polynomial(tuple(ARTANH_TERMS[-8:]), tuple(ARTANH_TERMS))
"""``artanh(s) / s`` in ``s²``."""


@scalar
def log1p_of_fraction(x):
    """``log(1 + x)`` for 0 <= x <= 1: ``2 artanh(s)`` with ``s = x / (2 + x)``, by its series in ``s² <= 1/9``.

    The first term left out is below half a unit in the last place: s¹⁷ / 17 in float32, s³⁵ / 35 in float64.
    """
    s = x / (real(2.0, x) + x)
    square = s * s
    return real(2.0, x) * s * artanh_polynomial(square)


# --- Activations: A = f(Z), and f'(Z) from A (or, where it does not determine it, from Z) -----------------------------

LEAKY_SLOPE = 0.01


@scalar
def relu_value(z):
    """``max(z, 0)``."""
    # The sum leaves nothing in memory as it is: LLVM would make a masked store of it, ten times as long with AVX2.
    return (real(0.0, z) if z < real(0.0, z) else z) + real(0.0, z)


@scalar
def relu_slope(a):
    """1 where a > 0, else 0."""
    return real(1.0, a) if a > real(0.0, a) else real(0.0, a)


@scalar
def leaky_relu_value(z):
    """``z``, or ``0.01 z`` below zero."""
    return z * leaky_relu_slope(z)


@scalar
def leaky_relu_slope(a):
    """1 where a > 0, else 0.01."""
    return real(1.0, a) if a > real(0.0, a) else real(LEAKY_SLOPE, a)


@scalar
def elu_value(z):
    """``z``, or ``exp(z) - 1`` below zero."""
    return relu_value(z) + expm1_negative(real(0.0, z) if z > real(0.0, z) else z)


@scalar
def elu_slope(a):
    """1 where a > 0, else ``a + 1``."""
    return real(1.0, a) if a > real(0.0, a) else a + real(1.0, a)


@scalar
def sigmoid_value(z):
    """``1 / (1 + exp(-z))`` by ``exp(-|z|)``, which cannot overflow."""
    e = exp_negative(-abs(z))
    return (real(1.0, z) if z >= real(0.0, z) else e) / (real(1.0, z) + e)


@scalar
def sigmoid_slope(a):
    """``a (1 - a)``."""
    return a * (real(1.0, a) - a)


@scalar
def tanh_value(z):
    """``|m| / (2 + m)`` with ``m = exp(-2 |z|) - 1``, and the sign of z."""
    m = expm1_negative(real(-2.0, z) * abs(z))
    t = abs(m) / (real(2.0, z) + m)
    return -t if z < real(0.0, z) else t


@scalar
def tanh_slope(a):
    """``1 - a²``."""
    return real(1.0, a) - a * a


TAIL_FLOAT = (
    7.73102422e-05, -9.25451669e-05, -0.000726453679, 0.00187507912, 0.00249911687, -0.0237635764, 0.0683165678,
    -0.119275275, 0.129644114, -0.0475621569, -0.135621069, 1.25300806,
)  # fmt: skip
TAIL_DOUBLE = (
    8.3937348586908774e-10, 9.8625335103455874e-10, -8.2175950587114546e-09, -1.3312919661038689e-08,
    4.1064013667940355e-08, 1.0183620603842738e-07, -1.4047654315428462e-07, -6.1660114603987257e-07,
    3.5576086684080595e-07, 3.4723709449771682e-06, -7.308281468783614e-07, -2.0100542268525612e-05,
    4.949196649968345e-06, 0.0001250993424583729, -0.00010515971958448065, -0.0007798322696543306,
    0.0018886903449991718, 0.0025293918156939696, -0.023770514917171338, 0.068308027344009897, -0.11927366341538638,
    0.12964515870275939, -0.047562294353449198, -0.13562110612458117, 1.2530080582697296,
)  # fmt: skip
tail_polynomial = polynomial(TAIL_FLOAT, TAIL_DOUBLE)
"""That of `normal_tail`; its error is below 5e-9, and 1e-17."""
TAIL_END = 40.0
"""Beyond, the tail and the density count as zero in both dtypes."""


@scalar
def bell(z):
    """``exp(-½ z²)``."""
    return exp_negative(real(-0.5, z) * z * z)


@scalar
def normal_tail(z):
    """``Φ(-z)`` for z >= 0 with a small relative error, by ``½ exp(-½ z²) erfcx(x)`` with ``x = z / √2``.

    ``(1 + 2 x) erfcx(x)`` is nearly a constant over the half-axis: a polynomial in ``(x - 3) / (x + 3)`` [Shepherd,
    Laframboise 1981]. The rounding of ``½ z²``, which the exponential would make large, is made up for where the
    multiply-add is fused; where it is not, up to 300 units in the last place are left, far out.
    """
    x = z * real(math.sqrt(0.5), z)
    t = (x - real(3.0, z)) / (x + real(3.0, z))
    exponent = real(-0.5, z) * z * z
    rounding = fma(real(-0.5, z) * z, z, -exponent)
    half_bell = real(0.5, z) * bell(z)
    return fma(half_bell, rounding, half_bell) * tail_polynomial(t) / (real(1.0, z) + real(2.0, z) * x)


@scalar
def normal_cdf(z):
    """``Φ(z)``, with its precision in the lower tail."""
    distance = real(TAIL_END, z) if abs(z) > real(TAIL_END, z) else abs(z)
    tail = normal_tail(distance)
    return real(1.0, z) - tail if z > real(0.0, z) else tail


@scalar
def gelu_value(z):
    """``z Φ(z)``."""
    return z * normal_cdf(z)


@scalar
def gelu_slope(z):
    """``Φ(z) + z φ(z)``, from the input."""
    return normal_cdf(z) + z * bell(z) * real(1.0 / math.sqrt(2.0 * math.pi), z)


@scalar
def silu_value(z):
    """``z sigmoid(z)``."""
    return z * sigmoid_value(z)


@scalar
def silu_slope(z):
    """``s (1 + z (1 - s))``, from the input."""
    s = sigmoid_value(z)
    return s * (real(1.0, z) + z * (real(1.0, z) - s))


@scalar
def softplus_value(z):
    """``max(z, 0) + log(1 + exp(-|z|))``."""
    e = exp_negative(-abs(z))
    return (real(0.0, z) if z < real(0.0, z) else z) + log1p_of_fraction(e)


@scalar
def softplus_slope(a):
    """``sigmoid(z) = 1 - exp(-a)``."""
    return -expm1_negative(-a)


def activation(name: str, value: Any, slope: Any) -> None:
    """Make the loops over an activation and its derivative: a kernel each, so that only those in use are compiled.

    In place always: LLVM guards vector code that reads here and writes there with a check that the two do not overlap,
    and falls back to scalar code, 10 times as slow, if they are one. Whether the derivative is told by the output A or
    by the input Z, `fastmlp.kernels.constants.TAKES_INPUT` says.
    """

    def activate(A_place, n, like):
        """``A = f(A)`` for the n elements at an address."""
        A = pointer(A_place, like)
        for i in range(n):
            A[i] = value(A[i])
        return 0

    def multiply_by_slope(D_place, A_place, n, like):
        """``D *= f'``, which turns dA into dZ; A is the activation's output, or its input if that is what it takes."""
        D, A = pointer(D_place, like), pointer(A_place, like)
        for i in range(n):
            D[i] *= slope(A[i])
        return 0

    kernel(activate, name)
    kernel(multiply_by_slope, f"{name}_slope")


activation("relu", relu_value, relu_slope)
activation("leaky_relu", leaky_relu_value, leaky_relu_slope)
activation("elu", elu_value, elu_slope)
activation("sigmoid", sigmoid_value, sigmoid_slope)
activation("tanh", tanh_value, tanh_slope)
activation("gelu", gelu_value, gelu_slope)
activation("silu", silu_value, silu_slope)
activation("softplus", softplus_value, softplus_slope)


# --- Dropout ----------------------------------------------------------------------------------------------------------

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@kernel
def drop(A_place, n_rows, stride, key, layer, threshold, like):
    """Multiply the rows of A, or of dA, by their masks; `fastmlp.dropout.masks` has the formulas.

    `key` is the step's, as it would be if the first of the rows were the first of the batch.
    """
    limit = np.uint32(threshold)
    scale = real(4294967296.0 / (4294967296.0 - threshold), like)
    for row in range(n_rows):
        a = advance(pointer(A_place, like), row * stride)
        x64 = np.uint64(key) + GOLDEN * np.uint64((layer << 32) + row)
        x64 = (x64 ^ (x64 >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x64 = (x64 ^ (x64 >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x64 = x64 ^ (x64 >> np.uint64(31))
        low, high = np.uint32(x64 & np.uint64(0xFFFFFFFF)), np.uint32(x64 >> np.uint64(32))
        for unit in range(stride):
            x = np.uint32(np.uint32(unit) * np.uint32(0x9E3779B9) + low)
            x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D) + high)
            x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
            x = np.uint32(x ^ (x >> np.uint32(16)))
            a[unit] = a[unit] * scale if x >= limit else real(0.0, like)
    return 0


# --- Losses, row by row -----------------------------------------------------------------------------------------------


@inline
def exp_below_max(P, n):
    """``P = exp(P)`` for the n elements of whole rows, from each of which its row's maximum has been subtracted."""
    for i in range(n):
        P[i] = exp_negative(P[i])


@inline
def softmax_rows(Z, n, P, stride, n_rows):
    """The softmax of rows of n elements, `stride` apart, with zeros as padding: ``P = exp(Z - max Z) / Σ``."""
    for row in range(n_rows):
        z = advance(Z, row * stride)
        shift_row(z, n, row_max(z, n), advance(P, row * stride))
    exp_below_max(P, n_rows * stride)
    for row in range(n_rows):
        p = advance(P, row * stride)
        scale_row(p, n, real(1.0, p[0]) / row_sum(p, n))


@kernel
def softmax_outputs(place, n_rows, n, stride, like):
    """The softmax of rows of n logits, in place."""
    rows = pointer(place, like)
    softmax_rows(rows, n, rows, stride, n_rows)
    return 0


@kernel
def sigmoid_outputs(place, n_rows, n, stride, like):
    """The sigmoid of rows of n logits, in place."""
    rows = pointer(place, like)
    for i in range(n_rows * stride):
        rows[i] = sigmoid_value(rows[i])
    return 0


@inline
def softmax_cross_entropy_rows(Z, n, classes, order, scale, D, stride, losses, begin, end):
    """Add to `losses` those of the rows: ``log Σ exp z - z[y]``; and write ``D = scale (softmax(Z) - onehot(y))``.

    A row's y is ``classes[order[row]]``. Rows are `stride` apart, and the padding of D becomes zero.
    """
    for row in range(begin, end):
        z, d = advance(Z, row * stride), advance(D, row * stride)
        shift_row(z, n, row_max(z, n), d)
        losses[row] -= np.float64(d[classes[order[row]]])
    exp_below_max(advance(D, begin * stride), (end - begin) * stride)
    for row in range(begin, end):
        d = advance(D, row * stride)
        total = row_sum(d, n)
        losses[row] += math.log(np.float64(total))
        scale_row(d, n, scale / total)
        d[classes[order[row]]] -= scale


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


# The losses of values: of n outputs a, or logits z, and targets y, the loss of each goes to `losses`, in float64, and
# its derivative, times `scale`, to d. No loop adds up anything, so all are vector code.


@inline
def sigmoid_cross_entropy_values(z, y, n, scale, cap, d, losses):
    """``max(z, 0) - y z + log(1 + exp(-|z|))``, and ``d = scale (sigmoid(z) - y)``.

    No loss counts more than `cap`; d is as without.
    """
    for i in range(n):
        loss = relu_value(z[i]) - y[i] * z[i] + log1p_of_fraction(exp_negative(-abs(z[i])))
        losses[i] = np.float64(cap if loss > cap else loss)
        d[i] = scale * (sigmoid_value(z[i]) - y[i])


@inline
def poisson_values(z, y, n, scale, d, losses):
    """``y log(y / exp(z)) - y + exp(z)``, and ``d = scale (exp(z) - y)``."""
    for i in range(n):
        mean = exp_value(z[i])
        log_y = math.log(np.float64(y[i])) if y[i] > real(0.0, scale) else 0.0
        losses[i] = np.float64(y[i]) * (log_y - np.float64(z[i])) - np.float64(y[i]) + np.float64(mean)
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


SHORT_ROW = 8
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
    if n >= SHORT_ROW:
        for row in range(begin, end):
            for first in range(0, n, VALUES_AT_ONCE):
                count, place = min(VALUES_AT_ONCE, n - first), row * stride + first
                of_row = advance(targets, order[row] * n + first)
                losses_of_values(code, advance(A, place), of_row, count, scale, low, high, advance(D, place), memory)
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


# --- Optimizer updates ------------------------------------------------------------------------------------------------

# Each of the following is one step of an optimizer over n parameters: `w` and the slots `m`, `v` change in place. All
# are given by address. The constants are float64 and become the dtype of `w` once, before the loop. For all optimizers,
# the gradient is g' = g + (DECAY + l2) w.


@scalar
def constant(constants_place, number, like):
    """A constant of the step, in the dtype of `like`."""
    return real(pointer(constants_place, 0.0)[number], like)


@kernel
def sgd(constants_place, l2, w_place, g_place, m_place, v_place, n, like):
    """``w -= RATE g'``."""
    w, g = pointer(w_place, like), pointer(g_place, like)
    rate, decay = constant(constants_place, RATE, like), real(pointer(constants_place, 0.0)[DECAY] + l2, like)
    for i in range(n):
        w[i] -= rate * (g[i] + decay * w[i])
    return 0


@kernel
def sgd_momentum(constants_place, l2, w_place, g_place, m_place, v_place, n, like):
    """``m = FIRST m + g'``, ``w -= RATE m``."""
    w, g, m = pointer(w_place, like), pointer(g_place, like), pointer(m_place, like)
    rate, decay = constant(constants_place, RATE, like), real(pointer(constants_place, 0.0)[DECAY] + l2, like)
    first = constant(constants_place, FIRST, like)
    for i in range(n):
        m[i] = first * m[i] + (g[i] + decay * w[i])
        w[i] -= rate * m[i]
    return 0


@kernel
def sgd_nesterov(constants_place, l2, w_place, g_place, m_place, v_place, n, like):
    """``m = FIRST m + g'``, ``w -= RATE (g' + FIRST m)``."""
    w, g, m = pointer(w_place, like), pointer(g_place, like), pointer(m_place, like)
    rate, decay = constant(constants_place, RATE, like), real(pointer(constants_place, 0.0)[DECAY] + l2, like)
    first = constant(constants_place, FIRST, like)
    for i in range(n):
        gradient = g[i] + decay * w[i]
        m[i] = first * m[i] + gradient
        w[i] -= rate * (gradient + first * m[i])
    return 0


@kernel
def adam(constants_place, l2, w_place, g_place, m_place, v_place, n, like):
    """``m = FIRST m + (1 - FIRST) g'``, ``v = SECOND v + (1 - SECOND) g'²``, ``w = SHRINK w - RATE m / s``.

    ``s = ROOT_SCALE √v + EPSILON``; RATE and ROOT_SCALE hold the corrections of the bias.
    """
    w, g, m, v = pointer(w_place, like), pointer(g_place, like), pointer(m_place, like), pointer(v_place, like)
    rate, decay = constant(constants_place, RATE, like), real(pointer(constants_place, 0.0)[DECAY] + l2, like)
    first, second = constant(constants_place, FIRST, like), constant(constants_place, SECOND, like)
    rest_first = real(1.0 - pointer(constants_place, 0.0)[FIRST], like)
    rest_second = real(1.0 - pointer(constants_place, 0.0)[SECOND], like)
    shrink, epsilon = constant(constants_place, SHRINK, like), constant(constants_place, EPSILON, like)
    root_scale = constant(constants_place, ROOT_SCALE, like)
    for i in range(n):
        gradient = g[i] + decay * w[i]
        m[i] = first * m[i] + rest_first * gradient
        v[i] = second * v[i] + rest_second * gradient * gradient
        w[i] = shrink * w[i] - rate * m[i] / (root_scale * math.sqrt(v[i]) + epsilon)
    return 0


@kernel
def rmsprop(constants_place, l2, w_place, g_place, m_place, v_place, n, like):
    """``m = SECOND m + (1 - SECOND) g'²``, ``w -= RATE g' / (√m + EPSILON)``."""
    w, g, m = pointer(w_place, like), pointer(g_place, like), pointer(m_place, like)
    rate, decay = constant(constants_place, RATE, like), real(pointer(constants_place, 0.0)[DECAY] + l2, like)
    second, epsilon = constant(constants_place, SECOND, like), constant(constants_place, EPSILON, like)
    rest_second = real(1.0 - pointer(constants_place, 0.0)[SECOND], like)
    for i in range(n):
        gradient = g[i] + decay * w[i]
        m[i] = second * m[i] + rest_second * gradient * gradient
        w[i] -= rate * gradient / (math.sqrt(m[i]) + epsilon)
    return 0
