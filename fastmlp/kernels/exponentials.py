"""exp, expm1, log1p and log written out, so that LLVM can make vector code of the loops that call them.

The C library's functions would be called element by element. The accuracy is that of the dtype.
"""

from __future__ import annotations

import math

import numpy as np

from fastmlp.kernels.instructions import exponent, fma, is_double, polynomial, power_of_two, real, significand
from fastmlp.kernels.jit import scalar

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
    """The pair ``(2 ** n, exp(r) - 1)`` with ``x = n ln 2 + r``, ``|r| <= ln(2) / 2``.

    The Taylor polynomial has an error below half a unit in the last place over that range: degree 7 in float32
    (0.35 ** 7 / 8! = 2e-8), 13 in float64. (W. J. Cody, W. Waite, "Software Manual for the Elementary Functions",
    Prentice-Hall 1980.)
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
def expm1_value(x):
    """``exp(x) - 1``, without cancellation near zero, for x up to where `exp_value` becomes infinite."""
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


@scalar
def log_from_one(x):
    """``log(x)`` for finite x >= 1; NaN if x is NaN."""
    log = fma(exponent(x), real(math.log(2.0), x), log1p_of_fraction(significand(x) - real(1.0, x)))
    return log + x * real(0.0, x)
