"""Use kernels, few or all that a fit needs; print as JSON their results, the warnings, and how often Numba compiled.

Argument: which kernels. With a second one, say when the package is imported, and wait for a line before they are used.
"""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np
from numba.core import event

import fastmlp

X = np.linspace(-2.0, 2.0, 8, dtype=np.float32).reshape(2, 4)


def few() -> list[float]:
    """The results of three kernels that compile fast."""
    kernels = fastmlp.kernels
    results = [kernels.leaky_relu(X), kernels.leaky_relu(X.astype(float)), kernels.relu(X)]
    return [float(x) for result in results for x in result.ravel()]


def fit() -> list[float]:
    """The loss of a small run."""
    net = fastmlp.MLP([4, 8, 2])
    net.fit(X, [0, 1], epochs=3)
    return [net.loss(X, [0, 1])]


with warnings.catch_warnings(record=True) as caught, event.install_recorder("numba:compile") as compilations:
    warnings.simplefilter("always")
    fastmlp.kernels  # noqa: B018 - Imports it.
    if sys.argv[2:]:
        print("imported", flush=True)
        sys.stdin.readline()
    results = {"few": few, "fit": fit}[sys.argv[1]]()
said = [str(each.message) for each in caught]
print(json.dumps({"results": results, "warnings": said, "compiled": len(compilations.buffer) // 2}))
