"""What a run of training is: its recipe, which stays as it is, and its state and history, which do not.

The loop (`fastmlp.training`), the engines and the checkpoints know a run by these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.optimizers import Optimizer, Schedule, check_epsilon, check_optimizer, check_schedule
from fastmlp.parameters import are_like
from fastmlp.spec import NetworkSpec, check_count, check_flag, check_number, shown

Array = NDArray[Any]


@dataclass
class History:
    """What a run of `fastmlp.MLP.fit` measured: lists with one entry an epoch.

    Attributes
    ----------
    train_loss : list of float
        The loss over the epoch's samples, each taken in the forward pass of its own step, before the update.
        Reduced over the samples as the network's ``reduction`` says; with it, the batches' L2 terms. Sample weights
        count within a batch: an epoch's mean weighs its batches by their numbers of samples, as scikit-learn's does,
        and leaves out those whose samples weigh nothing.
    validation_loss, validation_accuracy : list of float
        After the epoch, on ``validation_data``; empty without it (accuracy: also for regression).
    learning_rate : list of float
        Of the epoch's last step.
    seconds : list of float
        In the training steps alone. Epochs that ran in one engine call share its time evenly.
    compile_seconds : float
        Compiling, loading from the cache, or waiting for other processes that compile, before the first step.

    Examples
    --------
    >>> sorted(History().to_dict())
    ['learning_rate', 'seconds', 'train_loss', 'validation_accuracy', 'validation_loss']
    """

    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    compile_seconds: float = 0.0

    def __repr__(self) -> str:
        """Give the last epoch alone: in a notebook, the lists would fill pages."""
        last = ", ".join(f"{name} {values[-1]:.6g}" for name, values in self.to_dict().items() if values)
        return f"History of {len(self.train_loss)} epochs" + (f", of the last: {last}" if last else "")

    def to_dict(self) -> dict[str, list[float]]:
        """Give the lists by name, as copies.

        Returns
        -------
        dict of str to list of float
            ``train_loss``, ``validation_loss``, ``validation_accuracy``, ``learning_rate`` and ``seconds``.
        """
        names = ("train_loss", "validation_loss", "validation_accuracy", "learning_rate", "seconds")
        return {name: list(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class Recipe:
    """How to train: what stays the same during a run. `fastmlp.MLP.fit` says what it means, `make_recipe` checks it.

    `loss_factor` multiplies the losses that are reported, but for the L2 term; `loss_cap` is the most that one
    probability counts in a reported cross-entropy. The steps do not depend on them.
    """

    epochs: int
    batch_size: int
    optimizer: Optimizer
    schedule: Schedule
    shuffle: bool
    l2: float = 0.0
    loss_factor: float = 1.0
    loss_cap: float = np.inf
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    average: float | None = None
    dropout: tuple[float, ...] = ()


def make_recipe(
    spec: NetworkSpec,
    n_samples: int,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer | str,
    schedule: Schedule | str,
    shuffle: bool,
    l2: float,
    label_smoothing: float,
    clip_norm: float | None,
    average: float | None,
    dropout: float | Sequence[float],
) -> Recipe:
    """Check the arguments of `fastmlp.MLP.fit` that say how to train, and gather them in a `Recipe`."""
    optimizer = check_optimizer(optimizer)
    check_epsilon(optimizer, spec.dtype)
    label_smoothing = check_number("label_smoothing", label_smoothing, minimum=0.0, below=1.0)
    if label_smoothing and not spec.is_classifier:
        raise ValueError(f"label_smoothing must be 0 for loss {spec.loss!r}, got {label_smoothing:g}")
    batch_size = min(check_count("batch_size", batch_size), n_samples)
    return Recipe(
        epochs=check_count("epochs", epochs),
        batch_size=batch_size,
        optimizer=optimizer,
        schedule=check_schedule(schedule),
        shuffle=check_flag("shuffle", shuffle) and batch_size < n_samples,  # In one batch, the order does not matter.
        l2=check_number("l2", l2, minimum=0.0),
        label_smoothing=label_smoothing,
        clip_norm=None if clip_norm is None else check_number("clip_norm", clip_norm, above=0.0),
        average=None if average is None else check_number("average", average, above=0.0, below=1.0),
        dropout=check_dropout(dropout, spec.n_layers - 1),
    )


def check_dropout(dropout: Any, n_hidden: int) -> tuple[float, ...]:
    """Return the rate of each hidden layer, or an empty tuple if all are 0."""
    is_array = isinstance(dropout, np.ndarray) and dropout.ndim > 0
    is_list = isinstance(dropout, Sequence) and not isinstance(dropout, str)
    given = list(dropout) if is_array or is_list else None
    if given is not None and len(given) != n_hidden:
        raise ValueError(f"dropout must give one rate for each of the {n_hidden} hidden layers, got {len(given)}")
    rates = [check_number("dropout", rate, minimum=0.0, below=1.0) for rate in ([dropout] if given is None else given)]
    if given is None:
        rates *= n_hidden
    return tuple(rates) if any(rates) else ()


@dataclass
class TrainingState:
    """Where a run stands.

    Attributes
    ----------
    rng : numpy.random.Generator
        Draws the orders of the samples. Between runs of `EpochLoop` it stands at the start of the current epoch, so a
        half-done epoch can draw its order again.
    slots : list of ndarray
        The optimizer's buffers.
    epoch, batch, step : int
        Epochs done, batches done of the next one, steps done in all.
    loss_sum, seconds : float
        What the half-done epoch has gathered: the sum of its samples' losses, and its time.
    n_counted : int
        The samples of that sum: those of all its batches but the ones without weight.
    history : History
        Of the epochs done.
    dropout_seed : int
        Of the units that dropout leaves out, see `fastmlp.dropout`.
    unaveraged : ndarray or None
        With ``average``, the network holds the average, and the weights that the optimizer changes are here.
    is_over : bool
        Whether a callback ended the run.
    run : dict
        What the run is, from `fastmlp.resuming.describe_run`: a checkpoint goes on with no other.
    """

    rng: np.random.Generator
    slots: list[Array]
    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    n_counted: int = 0
    history: History = field(default_factory=History)
    dropout_seed: int = 0
    unaveraged: Array | None = None
    is_over: bool = False
    run: dict[str, Any] = field(default_factory=dict)


def check_state(state: Any) -> None:
    """Raise ValueError if something else was given in the place of a state."""
    if state is not None and not isinstance(state, TrainingState):
        raise ValueError(f"state must come from MLP.training_state, got {shown(state)}")


def check_fitting_state(state: TrainingState, recipe: Recipe, parameters: Array, n_samples: int) -> None:
    """Raise ValueError if a run cannot go on from `state`: the optimizer's buffers, the data or the average differ."""
    buffers = state.slots if state.unaveraged is None else [*state.slots, state.unaveraged]
    if not are_like(parameters, buffers) or len(state.slots) != recipe.optimizer.n_slots:
        raise ValueError("state must come from a run of this network with this optimizer")
    if state.batch * recipe.batch_size >= n_samples:
        raise ValueError(
            f"state must come from a run on these {n_samples} samples with this batch_size, "
            f"got {state.batch} batches of {recipe.batch_size} done in an epoch"
        )
    if recipe.average is None and state.unaveraged is not None:
        raise ValueError("average must be given again: the state comes from a run with it, got None")


def batch_totals(
    sample_weight: NDArray[np.float64] | None,
    orders: NDArray[np.int64],
    batch_size: int,
    first_batch: int,
    n_steps: int,
) -> NDArray[np.float64]:
    """Give the sum of the weights of the samples of each step's batch; without weights, their number.

    Parameters
    ----------
    sample_weight : ndarray (n_samples,), optional
        All samples' weights.
    orders : ndarray (n_epochs, n_samples) or (1, n_samples)
        As in `fastmlp.reference.Engine.train_steps`.
    batch_size, first_batch, n_steps : int
        Likewise.
    """
    n_samples = orders.shape[1]
    n_batches = -(-n_samples // batch_size)
    steps = np.arange(first_batch, first_batch + n_steps)
    if sample_weight is None:
        size_of_last = n_samples - (n_batches - 1) * batch_size
        return np.where(steps % n_batches == n_batches - 1, size_of_last, batch_size).astype(np.float64)
    totals = []
    for epoch in range(first_batch // n_batches, steps[-1] // n_batches + 1):
        # Not of the epoch's other batches: a call may be a millionth of an epoch.
        batches = steps[steps // n_batches == epoch] % n_batches
        rows = orders[epoch % len(orders), batches[0] * batch_size : (batches[-1] + 1) * batch_size]
        totals.append(np.add.reduceat(sample_weight[rows], np.arange(0, len(rows), batch_size)))
    return np.concatenate(totals)


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for a progress bar.

    Attributes
    ----------
    epoch, epochs : int
        Epochs done, and those of the run.
    step, n_steps : int
        Steps done, and those of the run.
    samples : int
        Samples that the steps have taken, each epoch's anew.
    loss : float
        The running epoch's so far; with ``reduction="sum"``, scaled to all samples. Between epochs, the last one's.
    history : History
        Of the epochs done.

    Examples
    --------
    >>> import fastmlp
    >>> def show(at: Progress) -> None:
    ...     print(f"{at.step} of {at.n_steps} steps, {at.samples} samples")
    >>> net = fastmlp.MLP([1, 2], engine="numpy")
    >>> history = net.fit([[0.0], [1.0], [2.0]], [0, 1, 1], epochs=1, batch_size=3, progress=show)
    1 of 1 steps, 3 samples
    """

    epoch: int
    epochs: int
    step: int
    n_steps: int
    samples: int
    loss: float
    history: History


Callback = Callable[[History], Any]
ProgressCallback = Callable[[Progress], Any]
