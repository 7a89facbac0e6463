"""One training step and one epoch on MNIST, Numba against NumPy: ``pytest bench/bench_training.py``.

NumPy runs twice: as `fastmlp.reference`, and by hand with every array allocated once (`contenders.NumPy`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from contenders import NumPy
from workloads import Samples, find_workload, load_samples, make_network

from fastmlp.engines import make_engine
from fastmlp.optimizers import Constant
from fastmlp.parameters import ParameterLayout
from fastmlp.recipe import Recipe

CONTENDERS = ("numba", "numpy", "numpy by hand")
WORKLOADS = ("mnist", "momentum", "adam", "dense", "float64")


@pytest.fixture(scope="module", params=WORKLOADS)
def raced(request: pytest.FixtureRequest) -> tuple[Any, Samples]:
    """Give a workload and its data."""
    work = find_workload(request.param)
    return work, load_samples(work)


@pytest.mark.benchmark(max_time=0.5)
@pytest.mark.parametrize("contender", CONTENDERS)
def test_step(contender: str, raced: tuple[Any, Samples], timed: Callable[..., None]) -> None:
    work, samples = raced
    group = f"one step of {work.batch_size}: {work.title}"
    order = np.random.default_rng(0).permutation(len(samples.X))[None]
    if contender == "numpy by hand":
        timed(group, NumPy(work, samples).step, order[0, : work.batch_size], work.optimizer.learning_rate)
        return
    net = make_network(work, engine="numpy")
    layout = ParameterLayout(net.spec)
    parameters = layout.allocate()
    for view, W in zip(layout.weights(parameters), net.weights, strict=True):
        view[:] = W
    state = net.training_state(work.optimizer)
    recipe = Recipe(1, work.batch_size, work.optimizer, Constant(), shuffle=True)
    rates = np.array([work.optimizer.learning_rate])
    timed(
        group, make_engine(contender, layout).train_steps, parameters, state, samples.X, samples.y, order, recipe, 0,
        rates, 1,
    )  # fmt: skip


@pytest.mark.benchmark(min_rounds=3, max_time=1.0)
@pytest.mark.parametrize("contender", CONTENDERS)
def test_epoch(contender: str, raced: tuple[Any, Samples], timed: Callable[..., None]) -> None:
    work, samples = raced
    group = f"one epoch: {work.title}"
    if contender == "numpy by hand":
        timed(group, NumPy(work, samples).train)
        return
    net = make_network(work, engine=contender)
    options = {"epochs": 1, "batch_size": work.batch_size, "optimizer": work.optimizer, "threads": 1}
    timed(group, net.fit, samples.X, samples.y, **options)
