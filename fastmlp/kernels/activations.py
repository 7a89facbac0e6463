"""Activations: each formula once, for one element, and the loops over it, which the loop and the public kernels share.

For each ``A = f(Z)`` there is the slope ``f'(Z)``, as a function of A or, where that does not determine it, of Z. The
formulas are those of `fastmlp.reference.activations`, written without branches, so that LLVM makes vector code of them.
"""

from __future__ import annotations

import math
from typing import Any

from fastmlp.kernels.exponentials import exp_negative, expm1_value, log1p_of_fraction
from fastmlp.kernels.instructions import fma, pointer, polynomial, real
from fastmlp.kernels.jit import kernel, scalar

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
    return relu_value(z) + expm1_value(real(0.0, z) if z > real(0.0, z) else z)


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
    m = expm1_value(real(-2.0, z) * abs(z))
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
"""The polynomial of `normal_tail`: a Chebyshev series over [-1, 1], of degree 11 in float32 and 24 in float64, written
out in powers. Its error is below 9e-9, and 6e-17: mostly the rounding of the coefficients."""
TAIL_END = 40.0
"""Beyond, the tail and the density count as zero in both dtypes."""


@scalar
def bell(z):
    """``exp(-½ z²)``."""
    return exp_negative(real(-0.5, z) * z * z)


@scalar
def normal_tail(z):
    """``Φ(-z)`` for z >= 0 with a small relative error, by ``½ exp(-½ z²) erfcx(x)`` with ``x = z / √2``.

    ``(1 + 2 x) erfcx(x)`` is nearly a constant over the half-axis: a polynomial in ``(x - 3) / (x + 3)`` (M. M.
    Shepherd, J. G. Laframboise, "Chebyshev approximation of (1 + 2x) exp(x²) erfc x in 0 ≤ x < ∞", Mathematics of
    Computation 36, 1981). The rounding of ``½ z²``, which the exponential would make large, is made up for where the
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
    return -expm1_value(-a)


def activation(name: str, value: Any, slope: Any) -> None:
    """Make the loops over an activation and its derivative: a kernel each, so that only those in use are compiled.

    In place always: LLVM guards vector code that reads here and writes there with a check that the two do not overlap,
    and falls back to scalar code, 10 times as slow, if they are one. Whether the output A determines the derivative
    or the input Z, `fastmlp.spec.BACKWARD_TAKES_INPUT` says.
    """

    def activate(A_address, n, like):
        """``A = f(A)`` for the n elements at an address."""
        A = pointer(A_address, like)
        for i in range(n):
            A[i] = value(A[i])
        return 0

    def multiply_by_slope(D_address, A_address, n, like):
        """``D *= f'``, which turns dA into dZ; A is the activation's output, or its input if that is what it takes."""
        D, A = pointer(D_address, like), pointer(A_address, like)
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
