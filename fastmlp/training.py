"""The epoch-level loop: draw the order, take the steps, keep the history, evaluate, call back, stop.

An engine takes the steps, many in one call; Python comes back between such chunks, about ten times a second, for the
progress bar, for Ctrl-C and for the callbacks. All that a run must remember to go on exactly where it stopped is in
`TrainingState`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fastmlp.chunks import ChunkReader, MappedRows, Part
from fastmlp.divergence import BestSoFar, copy_to, diverged
from fastmlp.optimizers import Optimizer, Schedule, check_epsilon, check_optimizer, check_schedule
from fastmlp.sparse import Inputs
from fastmlp.spec import NetworkSpec, check_count, check_flag, check_number

if TYPE_CHECKING:
    from fastmlp.engines import Engine
    from fastmlp.resuming import Checkpoints

Array = NDArray[Any]

CHUNK_SECONDS = 0.1
"""Aim for the time of one engine call: short enough for a smooth bar and a prompt Ctrl-C."""

ORDERS_ELEMENTS = 1 << 18
"""Most elements of the orders drawn ahead, when several short epochs run in one engine call (2 MiB)."""


@dataclass
class History:
    """What a run of `fastmlp.MLP.fit` measured: lists with one entry an epoch.

    Attributes
    ----------
    train_loss : list of float
        The loss over the epoch's samples, each taken in the forward pass of its own step, before the update.
        Reduced over the samples as the network's ``reduction`` says; with it, the batches' L2 terms. Sample weights
        count within a batch: an epoch's mean weighs its batches by their numbers of samples, as scikit-learn's does.
    validation_loss, validation_accuracy : list of float
        After the epoch, on ``validation_data``; empty without it (accuracy: also for regression).
    learning_rate : list of float
        Of the epoch's last step.
    seconds : list of float
        In the training steps alone. Epochs that ran in one engine call share its time evenly.
    compile_seconds : float
        Compiling, or loading from the cache, before the first step.

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

    def to_dict(self) -> dict[str, list[float]]:
        """Give the lists by name, as copies."""
        names = ("train_loss", "validation_loss", "validation_accuracy", "learning_rate", "seconds")
        return {name: list(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class Recipe:
    """How to train: what stays the same during a run. Built by `make_recipe`; `fastmlp.MLP.fit` says what it means.

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
    given = list(dropout) if isinstance(dropout, Sequence | np.ndarray) and not isinstance(dropout, str) else None
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
        Draws the orders of the samples. Between calls of `train` it stands at the start of the current epoch, so a
        half-done epoch can draw its order again.
    slots : list of ndarray
        The optimizer's buffers.
    epoch, batch, step : int
        Epochs done, batches done of the next one, steps done in all.
    loss_sum, seconds : float
        What the half-done epoch has gathered: the sum of its samples' losses, and its time.
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
    notes : dict
        Whatever JSON can hold, to keep in the checkpoints.
    """

    rng: np.random.Generator
    slots: list[Array]
    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    history: History = field(default_factory=History)
    dropout_seed: int = 0
    unaveraged: Array | None = None
    is_over: bool = False
    run: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def check_state(state: TrainingState, recipe: Recipe, parameters: Array, n_samples: int) -> None:
    """Raise ValueError if a run cannot go on from `state`: the optimizer's buffers, the data or the average differ."""
    if [slot.shape for slot in state.slots] != [parameters.shape] * recipe.optimizer.n_slots:
        raise ValueError("state must come from a run of this network with this optimizer")
    if state.batch * recipe.batch_size >= n_samples:
        raise ValueError(
            f"state must come from a run on these {n_samples} samples with this batch_size, "
            f"got {state.batch} batches of {recipe.batch_size} done in an epoch"
        )
    if recipe.average is None and state.unaveraged is not None:
        raise ValueError("average must be given again: the state comes from a run with it, got None")


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for a progress bar: after `step` of `n_steps` steps, `loss` is the running epoch's mean."""

    epoch: int
    epochs: int
    step: int
    n_steps: int
    samples: int
    loss: float
    history: History


Callback = Callable[[History], Any]
ProgressCallback = Callable[[Progress], Any]


def train(
    engine: Engine,
    parameters: Array,
    X: Inputs | MappedRows,
    y: Array | MappedRows,
    mean_reduction: bool,
    recipe: Recipe,
    state: TrainingState,
    threads: int,
    sample_weight: NDArray[np.float64] | MappedRows | None = None,
    evaluate: Callable[[], tuple[float, float | None]] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: ProgressCallback | None = None,
    ahead: Callable[[], int] | None = None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Train until `recipe.epochs` are done or a callback asks to stop, changing `parameters` and `state` in place.

    Parameters
    ----------
    engine : Engine
        Takes the steps.
    parameters : ndarray
        The flat buffer.
    X : ndarray, SparseRows or MappedRows
        Samples as the engine takes them. Of mapped rows, which come from a file, it is given chunks; then `y` and
        `sample_weight` are mapped rows, too.
    y : ndarray or MappedRows
        Targets, likewise.
    mean_reduction : bool
        Whether the engine's losses are means over the batch (else sums).
    recipe : Recipe
        What to do.
    state : TrainingState
        Where to begin; on return, where the run stands.
    threads : int
        For the engine.
    sample_weight : ndarray (n_samples,) or MappedRows, optional
        Of the samples' losses.
    evaluate : callable, optional
        Gives validation loss and accuracy of the current parameters; called after each epoch.
    callbacks : sequence of callable
        Each is called with the history after each epoch; a true answer stops the run.
    progress : callable, optional
        Called with a `Progress` between chunks of steps; a true answer stops the run, even within an epoch.
    ahead : callable, optional
        Says how many epochs may pass before `evaluate` and the callbacks have to be called again, instead of one.
    checkpoints : Checkpoints, optional
        Written between chunks of steps, and at the end.

    Raises
    ------
    DivergenceError
        If a loss or a parameter is not finite. The parameters are then the best so far, those after the epoch that
        the message names; `fastmlp.divergence.BestSoFar` says how they are judged. Of several short epochs that ran in
        one call, and well, only the last counts.
    """
    n_samples = X.shape[0]
    n_batches = -(-n_samples // recipe.batch_size)
    last_size = n_samples - (n_batches - 1) * recipe.batch_size
    stop = state.is_over
    if state.epoch < recipe.epochs and not stop:
        started = time.perf_counter()
        engine.compile(cast(Inputs, X), recipe)  # Of mapped rows, too: how many there are is all that it asks.
        state.history.compile_seconds += time.perf_counter() - started
    if checkpoints is not None:
        checkpoints.begin(state.step, n_batches)

    reader = ChunkReader(X, y, sample_weight, recipe.batch_size) if isinstance(X, MappedRows) else None
    draw = draw_orders if reader is None else reader.draw_orders
    trained, average = (parameters, None) if state.unaveraged is None else (state.unaveraged, parameters)
    buffers = [trained] if average is None else [trained, average]
    best, last_loss = BestSoFar(buffers, state.epoch, n_batches), np.nan
    chunk, longest = 1, recipe.epochs
    while state.epoch < recipe.epochs and not stop:
        # Several epochs in one go where Python has nothing to do between them, and their orders, and the copies of the
        # parameters that a span needs to go back, take little memory.
        is_large = reader is not None or parameters.size > ORDERS_ELEMENTS
        span = 1 if is_large else max(1, min(recipe.epochs - state.epoch, ORDERS_ELEMENTS // n_samples, longest))
        if evaluate or callbacks:
            span = 1 if ahead is None else max(1, min(span, ahead()))
        go_back = remember(buffers, state) if span > 1 and ahead is None else None
        rng_state, loss_before = state.rng.bit_generator.state, last_loss
        orders = draw(state.rng, span if recipe.shuffle else 0, n_samples)
        first_epoch = state.epoch

        while state.epoch < first_epoch + span and not stop:
            position = (state.epoch - first_epoch) * n_batches + state.batch
            started = time.perf_counter()
            part = reader.part(position) if reader else Part(X, y, sample_weight, orders, 0, span * n_batches)
            n_steps = min(chunk, part.end - position)
            if checkpoints is not None:
                n_steps = checkpoints.cut(state.step, n_steps)
            factors = checked_factors(recipe.schedule, state.step, n_steps, n_batches, recipe.epochs)
            losses = engine.train_steps(
                trained, state, part.X, part.y, part.orders, recipe, position - part.first_batch,
                recipe.optimizer.learning_rate * factors, threads, part.sample_weight, average,
            )  # fmt: skip
            del part  # Before the next one is read: one chunk of a file is in memory.
            elapsed = time.perf_counter() - started
            finite = losses[np.isfinite(losses)]
            last_loss = finite[-1] if len(finite) else last_loss
            best.judge(float(losses[0]) * (1.0 if mean_reduction else n_samples / recipe.batch_size))  # As of an epoch.
            if len(finite) < len(losses):
                break
            chunk = max(1, int(n_steps * min(8.0, CHUNK_SECONDS / max(elapsed, 1e-9))))

            # Share losses and time out among the epochs that these steps belong to.
            steps = position + np.arange(n_steps)
            is_last = steps % n_batches == n_batches - 1
            sizes = np.where(is_last, last_size, recipe.batch_size)
            local_epochs = steps // n_batches - (state.epoch - first_epoch)
            with np.errstate(over="ignore"):  # What diverges is told by an error; a warning would come before it.
                sums = losses * sizes if mean_reduction else losses
            # The sum so far is the first to be added: the result's last bits do not depend on where a chunk ended.
            loss_sums = np.bincount(np.append(0, local_epochs), weights=np.append(state.loss_sum, sums))
            seconds = np.bincount(local_epochs) * (elapsed / n_steps)
            seconds[0] += state.seconds
            enter_in_history(state, recipe, loss_sums, n_samples if mean_reduction else 1, seconds, factors[is_last])
            state.step += n_steps
            state.batch = (position + n_steps) % n_batches
            if progress is not None:
                stop = bool(progress(describe(state, recipe, n_samples, n_batches, mean_reduction)))

            within_span = state.epoch < first_epoch + span  # At its end, the callbacks come first.
            if checkpoints is not None and within_span and checkpoints.is_due(state.step):
                if not np.isfinite(trained).all():
                    break
                drawn = state.rng.bit_generator.state
                rewind(state, rng_state, first_epoch, n_samples, recipe.shuffle)
                checkpoints.write(state.step)
                state.rng.bit_generator.state = drawn

        if len(finite) < len(losses) or not np.isfinite(trained).all():
            if go_back is not None:  # Take these epochs again, one by one: the best of them is wanted.
                go_back()
                longest, last_loss, stop = 1, loss_before, False
                continue
            copy_to(buffers, best.buffers)
            step = first_epoch * n_batches + position
            raise diverged(losses, last_loss, step, n_batches, str(best), recipe.optimizer)
        if state.epoch < first_epoch + span:  # Stopped within the span.
            rewind(state, rng_state, first_epoch, n_samples, recipe.shuffle)
        else:
            validation_loss = None
            if evaluate is not None:
                validation_loss, accuracy = evaluate()
                state.history.validation_loss.append(validation_loss)
                if accuracy is not None:
                    state.history.validation_accuracy.append(accuracy)
            if state.epoch < recipe.epochs:  # After the last one nothing can go wrong.
                best.offer(buffers, state.epoch, state.history.train_loss[-1], validation_loss)
            answers = [callback(state.history) for callback in callbacks]  # All are called, whatever the first says.
            state.is_over = any(answers)
            stop = stop or state.is_over
        if checkpoints is not None and checkpoints.is_due(state.step):
            checkpoints.write(state.step)
    if checkpoints is not None:
        checkpoints.write(state.step)


def rewind(state: TrainingState, rng_state: Any, first_epoch: int, n_samples: int, shuffle: bool) -> None:
    """Put the generator at the start of the current epoch, given where it stood at that of `first_epoch`."""
    state.rng.bit_generator.state = rng_state
    if shuffle and state.epoch > first_epoch:
        draw_orders(state.rng, state.epoch - first_epoch, n_samples)


def remember(buffers: list[Array], state: TrainingState) -> Callable[[], None]:
    """Give a function that puts a run back to where it stands now."""
    arrays = [*buffers, *state.slots]
    kept, was, rng_state = [array.copy() for array in arrays], replace(state), state.rng.bit_generator.state

    def go_back() -> None:
        copy_to(arrays, kept)
        state.rng.bit_generator.state = rng_state
        state.epoch, state.batch, state.step = was.epoch, was.batch, was.step
        state.loss_sum, state.seconds = was.loss_sum, was.seconds
        for values in (state.history.train_loss, state.history.learning_rate, state.history.seconds):
            del values[was.epoch :]

    return go_back


def checked_factors(
    schedule: Schedule, first_step: int, n_steps: int, n_batches: int, epochs: int
) -> NDArray[np.float64]:
    """Give a schedule's factors; raise ValueError if one would train uphill, or not at all."""
    with np.errstate(over="ignore", invalid="ignore"):
        factors = schedule.factors(first_step, n_steps, n_batches, epochs)
    wrong = ~(np.isfinite(factors) & (factors >= 0.0))
    if wrong.any():
        step = int(np.argmax(wrong))
        raise ValueError(
            f"schedule must give finite factors >= 0, got {factors[step]:g} at step {first_step + step + 1}"
        )
    return factors


def draw_orders(rng: np.random.Generator, n_epochs: int, n_samples: int) -> NDArray[np.int64]:
    """Draw the samples' orders of `n_epochs` epochs, one a row; with 0, one row in the order of the data.

    Rows are drawn one after the other from the generator's stream: it does not matter how they are grouped in calls.
    """
    in_order = np.arange(n_samples, dtype=np.int64)
    if n_epochs == 0:
        return in_order[None]
    orders = np.tile(in_order, (n_epochs, 1))
    return rng.permuted(orders, axis=1, out=orders)


def enter_in_history(
    state: TrainingState, recipe: Recipe, loss_sums: Array, divisor: int, seconds: Array, factors: Array
) -> None:
    """Enter the finished epochs, and begin the next.

    `loss_sums` and `seconds` are of each epoch that a chunk of steps belonged to; `factors` are the schedule's at the
    last step of each finished one.
    """
    done, history = len(factors), state.history
    history.train_loss += (loss_sums[:done] / divisor).tolist()
    history.learning_rate += (recipe.optimizer.learning_rate * factors).tolist()
    history.seconds += seconds[:done].tolist()
    state.epoch += done
    state.loss_sum, state.seconds = float(loss_sums[done:].sum()), float(seconds[done:].sum())


def describe(state: TrainingState, recipe: Recipe, n_samples: int, n_batches: int, mean_reduction: bool) -> Progress:
    """Say where the run stands."""
    if state.batch:
        loss = state.loss_sum / (state.batch * recipe.batch_size) if mean_reduction else state.loss_sum
    else:
        loss = state.history.train_loss[-1]
    return Progress(
        epoch=state.epoch,
        epochs=recipe.epochs,
        step=state.step,
        n_steps=recipe.epochs * n_batches,
        samples=state.epoch * n_samples + state.batch * recipe.batch_size,
        loss=float(loss),
        history=state.history,
    )
