"""What is raced: networks, data and recipes, each the row of a table. Every contender gets exactly the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastmlp

Array = np.ndarray

LAYER_SIZES = (784, 100, 64, 32, 10)
TARGET_ACCURACY = 0.982
PLAIN_SGD = fastmlp.SGD(0.1)


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    Attributes
    ----------
    name, title : str
        For the command line, and for people.
    kind : {"train", "step", "predict", "start"}
        A turn is `epochs` epochs from the initial parameters; or `calls` single steps from there, on batches that come
        one by one; or `calls` calls of predict; or a whole process that trains with the default recipe until the test
        accuracy is reached.
    data : str
        A name of `DATA`.
    layer_sizes, activation, loss, dtype
        The network. The loss is "softmax_cross_entropy" or "squared_error".
    batch_size, optimizer, schedule
        How it is trained.
    epochs, calls : int
        Length of a turn.
    rows : int, optional
        Only the first rows of the data, for training and for predict.
    quick_epochs, quick_calls, quick_rows : int, optional
        Instead, for a quick race.
    """

    name: str
    title: str
    kind: str = "train"
    data: str = "mnist"
    layer_sizes: tuple[int, ...] = LAYER_SIZES
    activation: str = "relu"
    loss: str = "softmax_cross_entropy"
    dtype: str = "float32"
    batch_size: int = 100
    optimizer: fastmlp.SGD | fastmlp.Adam = PLAIN_SGD
    schedule: str = "constant"
    epochs: int = 1
    calls: int = 1
    rows: int | None = None
    quick_epochs: int | None = None
    quick_calls: int | None = None
    quick_rows: int | None = None


WORKLOADS = {
    work.name: work
    for work in (
        Workload("mnist", "MNIST epoch, plain SGD"),
        Workload("momentum", "MNIST epoch, momentum", optimizer=fastmlp.SGD(0.05, momentum=0.9)),
        Workload("adam", "MNIST epoch, Adam", optimizer=fastmlp.Adam(0.001)),
        Workload("dense", "MNIST epoch, no zeros in the input", data="standardised mnist"),
        Workload("float64", "MNIST epoch, float64", dtype="float64"),
        Workload(
            "small16", "4-32-16-4 tanh, 150 rows, batch 16", data="four values", layer_sizes=(4, 32, 16, 4),
            activation="tanh", loss="squared_error", batch_size=16, epochs=1000, quick_epochs=200,
        ),
        Workload(
            "small150", "4-32-16-4 tanh, 150 rows, batch 150", data="four values", layer_sizes=(4, 32, 16, 4),
            activation="tanh", loss="squared_error", batch_size=150, epochs=10_000, quick_epochs=1000,
        ),
        Workload(
            "wide", "784-1024-1024-10, batch 128", layer_sizes=(784, 1024, 1024, 10), batch_size=128,
            rows=12_800, quick_rows=3_840,
        ),
        Workload(
            "step16", "a step of 4-32-16-4 tanh, batch 16", kind="step", data="four values", layer_sizes=(4, 32, 16, 4),
            activation="tanh", loss="squared_error", batch_size=16, calls=5000, quick_calls=1000,
        ),
        Workload("predict1", "predict, one row", kind="predict", rows=1, calls=5000),
        Workload("predict10k", "predict, 10,000 rows", kind="predict", rows=10_000, calls=10, quick_calls=5),
        Workload(
            "start", "process start to 98.2 % on MNIST", kind="start", schedule="one_cycle", epochs=10,
            optimizer=fastmlp.SGD(0.1, momentum=0.9, weight_decay=2e-4),
        ),
    )
}  # fmt: skip


def find_workload(name: str, quick: bool = False) -> Workload:
    """Give a workload by name; ``sweep-WIDTH-BATCH`` are those of the sweep."""
    if match := re.fullmatch(r"sweep-(\d+)-(\d+)", name):
        return sweep_workload(int(match[1]), int(match[2]))
    work = WORKLOADS[name]
    if not quick:
        return work
    lengths = {f: getattr(work, f"quick_{f}") or getattr(work, f) for f in ("epochs", "calls", "rows")}
    return Workload(**{**vars(work), **lengths})


def sweep_workload(width: int, batch_size: int) -> Workload:
    """Make a workload of one width on dense data, with so many steps that all around them takes little time."""
    parameters = width * width + 12 * width
    step_seconds = 30e-6 + parameters * (6 * batch_size / 60e9 + 20 / 10e9)  # NumPy's, roughly.
    steps = max(round(0.1 / step_seconds), min(10, round(2.0 / step_seconds)), 1)
    return Workload(
        f"sweep-{width}-{batch_size}", f"width {width}, batch {batch_size}", data="normal",
        layer_sizes=(width, width, 10), batch_size=batch_size, rows=min(steps, 1000) * batch_size,
        optimizer=fastmlp.SGD(0.001),
    )  # fmt: skip


@dataclass(frozen=True)
class Samples:
    """Training and test data, in the dtype of the workload; classes are int64."""

    X: Array
    y: Array
    X_test: Array
    y_test: Array


def load_samples(work: Workload) -> Samples:
    """Load or make the data of a workload."""
    X, y, X_test, y_test = DATA[work.data](work)
    values = np.int64 if work.loss == "softmax_cross_entropy" else work.dtype
    return Samples(
        np.ascontiguousarray(X[: work.rows], work.dtype), y[: work.rows].astype(values),
        np.ascontiguousarray(X_test, work.dtype), y_test.astype(values),
    )  # fmt: skip


def mnist(work: Workload) -> tuple[Array, Array, Array, Array]:
    """Load the digits, in [0, 1]."""
    data = fastmlp.load_dataset("mnist")
    return data.X_train, data.y_train, data.X_test, data.y_test


def standardised_mnist(work: Workload) -> tuple[Array, Array, Array, Array]:
    """Load the digits with mean 0 and variance 1, as PyTorch's examples feed them: no pixel is zero."""
    X, y, X_test, y_test = mnist(work)
    return (X - 0.1307) / 0.3081, y, (X_test - 0.1307) / 0.3081, y_test


def four_values(work: Workload) -> tuple[Array, Array, Array, Array]:
    """Draw 150 points of a smooth function from four values to four values."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1.0, 1.0, (150, 4))
    y = np.stack([X[:, 0] * X[:, 1], np.sin(3.0 * X[:, 2]), X[:, 3] ** 2, X.mean(axis=1)], axis=1)
    return X, y, X, y


def normal(work: Workload) -> tuple[Array, Array, Array, Array]:
    """Draw normal numbers in ten random classes."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((work.rows, work.layer_sizes[0]), dtype=np.float32)
    y = rng.integers(10, size=work.rows)
    return X, y, X[:100], y[:100]


DATA = {"mnist": mnist, "standardised mnist": standardised_mnist, "four values": four_values, "normal": normal}


def make_network(work: Workload, seed: int = 0, **options: Any) -> fastmlp.MLP:
    """Build the network as fastmlp's; all contenders begin with its parameters."""
    return fastmlp.MLP(
        work.layer_sizes, activation=work.activation, loss=work.loss, dtype=work.dtype, seed=seed, **options
    )


def initial_parameters(work: Workload, seed: int = 0) -> tuple[list[Array], list[Array]]:
    """Draw weights ``(n_in, n_out)`` and biases, layer by layer, as contiguous copies."""
    net = make_network(work, seed, engine="numpy")
    return [W.copy() for W in net.weights], [b.copy() for b in net.biases]


def learning_rates(work: Workload, n_samples: int, epoch: int) -> Array:
    """Give the learning rate of each step of an epoch."""
    from fastmlp.optimizers import SCHEDULES

    steps = -(-n_samples // work.batch_size)
    factors = SCHEDULES[work.schedule]().factors(epoch * steps, steps, steps, work.epochs)
    return work.optimizer.learning_rate * factors


def score(work: Workload, predictions: Array, y_test: Array) -> float:
    """Give the accuracy, or the mean squared error."""
    if work.loss == "softmax_cross_entropy":
        return float((predictions == y_test).mean())
    return float(((predictions - y_test) ** 2).mean())
