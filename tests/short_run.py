"""A short run with checkpoints, and how to look at what it left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.testing import assert_array_equal

from fastmlp import MLP, Adam
from fastmlp.checkpoint import SavedNetwork
from fastmlp.recipe import TrainingState
from fastmlp.resuming import CHECKPOINT

Array = np.ndarray

RNG = np.random.default_rng(0)
N = 46
X, Y = RNG.normal(size=(N, 2)), RNG.integers(3, size=N)
WEIGHTS = RNG.uniform(0.5, 2.0, size=N)
ARGUMENTS: dict[str, Any] = {"epochs": 4, "batch_size": 6, "optimizer": Adam(0.01), "schedule": "one_cycle"}
"""Eight steps an epoch, the last one shorter."""


def network(engine: str, **options: Any) -> MLP:
    return MLP([2, 7, 5, 3], **{"activation": "tanh", "seed": 3, "engine": engine, **options})


def parameters(net: MLP) -> list[Array]:
    return [array.copy() for array in (*net.weights, *net.biases)]


def assert_same(actual: MLP, expected: MLP) -> None:
    for a, e in zip(parameters(actual), parameters(expected), strict=True):
        assert_array_equal(a, e)


def saved_state(folder: Path) -> TrainingState:
    state = SavedNetwork(folder / CHECKPOINT).state
    assert state is not None
    return state
