"""Optimizer updates: one step over n parameters each; `w` and the slots `m`, `v` change in place.

All are given by address. The constants of a step (`fastmlp.kernels.constants`) are float64 and become the dtype of `w`
once, before the loop. For all optimizers, the gradient is ``g' = g + (DECAY + l2) w``. The formulas are those of
`fastmlp.reference.updates`.
"""

from __future__ import annotations

import math

from fastmlp.kernels.constants import BETA1, BETA2, DECAY, DECOUPLED_DECAY, EPSILON, RATE, ROOT_SCALE
from fastmlp.kernels.instructions import pointer, real
from fastmlp.kernels.jit import kernel, scalar


@scalar
def constant(constants_address, number, like):
    """A constant of the step, in the dtype of `like`."""
    return real(pointer(constants_address, 0.0)[number], like)


@kernel
def sgd(constants_address, l2, w_address, g_address, m_address, v_address, n, like):
    """``w -= RATE g'``."""
    w, g = pointer(w_address, like), pointer(g_address, like)
    rate, decay = constant(constants_address, RATE, like), real(pointer(constants_address, 0.0)[DECAY] + l2, like)
    for i in range(n):
        w[i] -= rate * (g[i] + decay * w[i])
    return 0


@kernel
def sgd_momentum(constants_address, l2, w_address, g_address, m_address, v_address, n, like):
    """``m = BETA1 m + g'``, ``w -= RATE m``."""
    w, g, m = pointer(w_address, like), pointer(g_address, like), pointer(m_address, like)
    rate, decay = constant(constants_address, RATE, like), real(pointer(constants_address, 0.0)[DECAY] + l2, like)
    beta1 = constant(constants_address, BETA1, like)
    for i in range(n):
        m[i] = beta1 * m[i] + (g[i] + decay * w[i])
        w[i] -= rate * m[i]
    return 0


@kernel
def sgd_nesterov(constants_address, l2, w_address, g_address, m_address, v_address, n, like):
    """``m = BETA1 m + g'``, ``w -= RATE (g' + BETA1 m)``."""
    w, g, m = pointer(w_address, like), pointer(g_address, like), pointer(m_address, like)
    rate, decay = constant(constants_address, RATE, like), real(pointer(constants_address, 0.0)[DECAY] + l2, like)
    beta1 = constant(constants_address, BETA1, like)
    for i in range(n):
        gradient = g[i] + decay * w[i]
        m[i] = beta1 * m[i] + gradient
        w[i] -= rate * (gradient + beta1 * m[i])
    return 0


@kernel
def adam(constants_address, l2, w_address, g_address, m_address, v_address, n, like):
    """``m = BETA1 m + (1 - BETA1) g'``, ``v = BETA2 v + (1 - BETA2) g'²``, ``w -= RATE m / s + DECOUPLED_DECAY w``.

    ``s = ROOT_SCALE √v + EPSILON``; RATE and ROOT_SCALE hold the corrections of the bias. The decay is not a factor
    ``1 - DECOUPLED_DECAY``, of which float32 would leave little.
    """
    w, g, m, v = pointer(w_address, like), pointer(g_address, like), pointer(m_address, like), pointer(v_address, like)
    rate, decay = constant(constants_address, RATE, like), real(pointer(constants_address, 0.0)[DECAY] + l2, like)
    beta1, beta2 = constant(constants_address, BETA1, like), constant(constants_address, BETA2, like)
    rest_of_beta1 = real(1.0 - pointer(constants_address, 0.0)[BETA1], like)
    rest_of_beta2 = real(1.0 - pointer(constants_address, 0.0)[BETA2], like)
    decoupled_decay = constant(constants_address, DECOUPLED_DECAY, like)
    root_scale, epsilon = constant(constants_address, ROOT_SCALE, like), constant(constants_address, EPSILON, like)
    for i in range(n):
        gradient = g[i] + decay * w[i]
        m[i] = beta1 * m[i] + rest_of_beta1 * gradient
        v[i] = beta2 * v[i] + rest_of_beta2 * gradient * gradient
        w[i] -= rate * m[i] / (root_scale * math.sqrt(v[i]) + epsilon) + decoupled_decay * w[i]
    return 0


@kernel
def rmsprop(constants_address, l2, w_address, g_address, m_address, v_address, n, like):
    """``m = BETA2 m + (1 - BETA2) g'²``, ``w -= RATE g' / (√m + EPSILON)``."""
    w, g, m = pointer(w_address, like), pointer(g_address, like), pointer(m_address, like)
    rate, decay = constant(constants_address, RATE, like), real(pointer(constants_address, 0.0)[DECAY] + l2, like)
    beta2, epsilon = constant(constants_address, BETA2, like), constant(constants_address, EPSILON, like)
    rest_of_beta2 = real(1.0 - pointer(constants_address, 0.0)[BETA2], like)
    for i in range(n):
        gradient = g[i] + decay * w[i]
        m[i] = beta2 * m[i] + rest_of_beta2 * gradient * gradient
        w[i] -= rate * gradient / (math.sqrt(m[i]) + epsilon)
    return 0
