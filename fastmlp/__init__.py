"""fastmlp: trains small multi-layer perceptrons on a CPU, with Numba kernels.

>>> import fastmlp
>>> data = fastmlp.load_dataset("mnist")  # doctest: +SKIP
>>> net = fastmlp.MLP([784, 100, 64, 32, 10])  # doctest: +SKIP
>>> history = net.fit(data.X_train, data.y_train, epochs=10)  # doctest: +SKIP

Nothing heavy is imported before it is used: Numba when a kernel has to be compiled, an optional package with what
needs it.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Where each public name lives; it is imported when it is first asked for.
_HOMES = {
    "MLP": "network",
    "Gradients": "network",
    "History": "recipe",
    "Progress": "recipe",
    "OnlineTrainer": "online",
    "DivergenceError": "divergence",
    "ModelFileError": "checkpoint",
    "SGD": "optimizers",
    "Adam": "optimizers",
    "AdamW": "optimizers",
    "RMSprop": "optimizers",
    "Schedule": "optimizers",
    "Constant": "optimizers",
    "Step": "optimizers",
    "Exponential": "optimizers",
    "Cosine": "optimizers",
    "OneCycle": "optimizers",
    "InverseScaling": "optimizers",
    "load_dataset": "datasets",
    "Dataset": "datasets",
}
_ROOMS = ("kernels", "reference")
# These need scikit-learn. They are not in __all__, so that "from fastmlp import *" does not.
_ESTIMATORS = ("MLPClassifier", "MLPRegressor")

__all__ = ["__version__", *_HOMES, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"fastmlp.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"fastmlp.{_HOMES[name]}"), name)
    if name in _ESTIMATORS:
        return getattr(importlib.import_module("fastmlp.estimators"), name)
    raise AttributeError(f"module 'fastmlp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*__all__, *_ESTIMATORS))
