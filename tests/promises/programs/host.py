"""What the programs of this folder share: they are hosts of the library, which tests start as processes of their own.

``net``, ``X``, ``y``: a small network and samples. `JOBS` are pieces of work, each a function that gives bytes, always
the same ones, whoever does it and whatever else is going on. Some use two threads, on whatever machine.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fastmlp
from fastmlp import network
from fastmlp.kernels import engine

network.available_cpus = engine.available_cpus = lambda: 2

rng = np.random.default_rng(0)
X = rng.normal(size=(400, 20)).astype(np.float32)
X *= rng.random(X.shape) < 0.3
y = rng.integers(0, 5, 400)
many_X = rng.normal(size=(10_000, 20)).astype(np.float32)  # Enough for two threads to predict.
net = fastmlp.MLP([20, 64, 64, 5])


def bits(net: fastmlp.MLP) -> bytes:
    """All parameters."""
    return net._parameters.tobytes()


def fit(dtype: str = "float32", epochs: int = 5, **options: Any) -> bytes:
    """Train a network of one's own."""
    own = fastmlp.MLP([20, 64, 64, 5], dtype=dtype, seed=1)
    history = own.fit(X, y, epochs=epochs, **options)
    return bits(own) + np.array(history.train_loss).tobytes()


def save_and_load() -> bytes:
    """Predict from a copy on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        net.save(path)
        return fastmlp.MLP.load(path).forward(X).tobytes()


def gradients() -> bytes:
    """Of the shared network."""
    return b"".join(part.tobytes() for part in net.gradients(X, y).weights)


JOBS: dict[str, Callable[[], bytes]] = {
    "fit with 1 thread": partial(fit, threads=1),
    "fit with 2 threads": partial(fit, threads=2),
    "fit with Adam and float64": partial(fit, "float64", optimizer=fastmlp.Adam(0.01), threads=2),
    "fit with all that fit can": partial(
        fit,
        threads=2,
        batch_size=300,
        l2=0.1,
        clip_norm=1.0,
        average=0.9,
        dropout=0.2,
        callbacks=[lambda history: False],
    ),
    "predict one row": lambda: net.predict(X[:1]).tobytes(),
    "predict many rows": lambda: net.predict(many_X).tobytes(),
    "forward": lambda: net.forward(X).tobytes(),
    "gradients": gradients,
    "save, load, forward": save_and_load,
    "a public kernel": lambda: fastmlp.kernels.affine_forward(X, net.weights[0], net.biases[0]).tobytes(),
}


def learn() -> dict[str, bytes]:
    """Do all jobs, alone, for others to compare with."""
    return {name: job() for name, job in JOBS.items()}


def work(known: dict[str, bytes]) -> bool:
    """Fit with 2 threads and predict, as a child must be able to; say whether the results are the known ones."""
    return all(JOBS[name]() == known[name] for name in ("fit with 2 threads", "predict one row", "predict many rows"))


def n_threads(at_most: int = 0) -> int:
    """Threads of this process, Python's or not; those whose work is over get a second to be gone."""
    latest = time.monotonic() + 1.0
    while (n := len(os.listdir("/proc/self/task"))) > at_most and time.monotonic() < latest:
        time.sleep(0.01)
    return n
