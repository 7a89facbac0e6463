"""Which units dropout leaves out: a function of numbers that both engines know, so that both draw the same.

There is no generator whose state would depend on who draws first. A step has a *key*, hashed from the seed and the
step's number; a row of a layer's units has one, hashed from the step's key, the layer and the row's place in the batch;
a unit is left out if the hash of its number and its row's key is below the rate. The 64-bit hash is that of SplitMix64
[1]_, the 32-bit one has the form and constants of the hash called lowbias32 [2]_, half of the key going in at the start
and half on the way.

References
----------
.. [1] G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
.. [2] C. Wellons, "Prospecting for hash functions", 2018.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ divided by the golden ratio: its multiples are far apart."""


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's hash of each element."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def step_keys(seed: int, first_step: int, n_steps: int) -> NDArray[np.uint64]:
    """Give the keys of the steps ``first_step ... first_step + n_steps - 1``."""
    steps = np.arange(first_step, first_step + n_steps, dtype=np.uint64)
    return mix(mix(np.array([seed], dtype=np.uint64)) + GOLDEN * steps)


def threshold(rate: float) -> int:
    """Give the number of 32 bits below which a hash leaves its unit out."""
    return min(round(rate * 2**32), 2**32 - 1)


def masks(key: np.uint64, layer: int, n_rows: int, n_units: int, rate: float, dtype: Any) -> NDArray[Any]:
    """Give what multiplies the outputs of a hidden layer: 0, or ``1 / (1 - rate)``, so that their mean stays.

    Parameters
    ----------
    key : uint64
        Of the step.
    layer : int
        0 is the first hidden layer.
    n_rows, n_units : int
        The batch's rows; the layer's units.
    rate : float
        Of units that are left out, in [0, 1).
    dtype : dtype
        Of the result.

    Returns
    -------
    ndarray (n_rows, n_units)
    """
    rows = np.arange(n_rows, dtype=np.uint64) + np.uint64(layer << 32)
    keys = mix(np.array([key]) + GOLDEN * rows)[:, None]
    x = np.arange(n_units, dtype=np.uint32) * np.uint32(0x9E3779B9) + keys.astype(np.uint32)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D) + (keys >> np.uint64(32)).astype(np.uint32)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    limit = threshold(rate)
    kept: NDArray[Any] = (x >= limit).astype(dtype)
    kept *= 2**32 / (2**32 - limit)
    return kept
