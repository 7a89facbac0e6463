"""Columns standardised for training, and the network that takes and gives them as they are.

The columns of a table may be years beside rates, and gradient descent does well on numbers around 1 only. So a run may
train on ``(x - m) / s``, column by column, with mean m and standard deviation s of the training samples. As the first
layer is affine, nobody who uses the network has to know::

    ((x - m) / s) W + b  =  x (W / s) + (b - m (W / s))

The values of a regression may be standardised likewise; then the last layer brings its outputs back to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fastmlp.network import MLP

SMALLEST_RANGE = 1e-30
"""Columns that vary by less count as constant: weights divided by that would leave the range of float32."""
FEW_DIGITS = 1e-3
"""Of a column whose deviation is smaller than its mean's last digit over this, the dtype keeps three digits or less."""
LARGEST_DIGIT = 1.0
"""Where the last digit is larger, not even whole numbers are told apart."""


@dataclass(frozen=True)
class Standardization:
    """What was done to some columns: ``standardised = (raw - mean) / deviation``.

    The deviation of a constant column is infinite. So it becomes zeros, whatever comes later, and its weights, of which
    nothing was learnt, zeros, too.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def fold_into_inputs(self, net: MLP) -> None:
        """Let a network that was trained on standardised inputs take them raw."""
        W = net.weights[0] / self.deviation[:, None]
        net.biases[0] = net.biases[0] - self.mean @ W
        net.weights[0] = W

    def fold_into_outputs(self, net: MLP) -> None:
        """Let a network that was trained on standardised values, without an output activation, give them raw."""
        scale = np.where(np.isinf(self.deviation), 0.0, self.deviation)
        net.weights[-1] = net.weights[-1] * scale
        net.biases[-1] = net.biases[-1] * scale + self.mean

    def far_from_zero(self, dtype: str) -> NDArray[np.int64]:
        """Give the numbers of the columns of which a dtype keeps few digits, the first being 0.

        A column may be constant because the dtype keeps none: such as times in milliseconds, of a minute, in float32.
        """
        last_digit = np.finfo(dtype).eps * np.abs(self.mean)
        allowed = np.where(np.isinf(self.deviation), LARGEST_DIGIT, FEW_DIGITS * self.deviation)
        return np.flatnonzero(last_digit > allowed)


def divide_by_mean(train: NDArray[np.floating], test: NDArray[np.floating]) -> float:
    """Divide the counts of both arrays in place by the mean of `train`, and give it; 1 if it is not above 0.

    A network whose output is ``exp(z)`` brings them back with ``log(mean)`` in its last bias.
    """
    mean = float(train.mean(dtype=np.float64))
    if not mean > 0.0:
        return 1.0
    for y in (train, test):
        y /= mean
    return mean


def standardize(train: NDArray[np.floating], test: NDArray[np.floating]) -> Standardization:
    """Standardise the columns of both arrays in place, by the figures of `train`."""
    lowest, highest = train.min(axis=0).astype(np.float64), train.max(axis=0).astype(np.float64)
    constant = highest - lowest < SMALLEST_RANGE
    mean = np.where(constant, lowest, train.mean(axis=0, dtype=np.float64))
    for X in (train, test):
        np.subtract(X, mean, out=X, casting="same_kind")
    variance = np.einsum("ij,ij->j", train, train, dtype=np.float64) / len(train)
    deviation = np.where(constant, np.inf, np.sqrt(variance))
    with np.errstate(over="ignore"):  # What is infinite then is refused, by name.
        for X in (train, test):
            np.divide(X, deviation, out=X, casting="same_kind")
    return Standardization(mean, deviation)
