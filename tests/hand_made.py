"""A network with weights that paper and pencil can follow, and what it makes of two samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmlp import MLP


def hand_made(engine: str, loss: str = "squared_error", **options: Any) -> MLP:
    """Two inputs, two hidden ReLU units, two outputs."""
    net = MLP([2, 2, 2], loss=loss, **{"dtype": "float64", "engine": engine, **options})
    net.set_parameters([[[1.0, -1.0], [2.0, 1.0]], [[1.0, 0.0], [-1.0, 2.0]]], [[0.5, -0.5], [0.0, 1.0]])
    return net


X = np.array([[1.0, 0.0], [-1.0, 2.0]])
"""Two samples."""
Z = np.array([[1.5, 1.0], [1.0, 6.0]])
"""Its outputs for them. Before the ReLU: (1.5, -1.5) and (3.5, 2.5); after it (1.5, 0) and (3.5, 2.5)."""
