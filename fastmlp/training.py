"""The epoch-level loop: draw the order, take the steps, keep the history, evaluate, call back, stop.

An engine takes the steps, many in one call; Python comes back between the calls, about ten times a second, for the
progress bar, for Ctrl-C and for the callbacks. All that a run must remember to go on exactly where it stopped is in
`TrainingState`.

The epochs whose orders are drawn together are a *span*: one or, where epochs are short and Python has nothing to do
between them, several, so that a call may go on from one epoch to the next. A call never goes beyond its span.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fastmlp.chunks import Chunk, ChunkReader, MappedRows
from fastmlp.divergence import BestSoFar, copy_to, divergence_error
from fastmlp.optimizers import Schedule
from fastmlp.recipe import Callback, Progress, ProgressCallback, Recipe, TrainingState, batch_totals
from fastmlp.sparse import Inputs

if TYPE_CHECKING:
    from fastmlp.engines import Engine
    from fastmlp.resuming import Checkpoints

Array = NDArray[Any]

CALL_SECONDS = 0.1
"""Time that an engine call is to take: short enough for a smooth bar and a prompt Ctrl-C."""
MOST_MORE = 64.0
"""How many times as many steps as the call before it a call takes at most: the first one, of one step, tells the time
of a step well enough for that."""

ORDERS_ELEMENTS = 1 << 18
"""Most elements of the orders of a span of several epochs (2 MiB)."""


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
        Called with a `Progress` between engine calls; a true answer stops the run, even within an epoch.
    ahead : callable, optional
        Says how many epochs may pass before `evaluate` and the callbacks have to be called again, instead of one.
    checkpoints : Checkpoints, optional
        Written between engine calls, and at the end.

    Raises
    ------
    DivergenceError
        If a loss or a parameter is not finite. The parameters are then the best so far, those after the epoch that
        the message names; `fastmlp.divergence.BestSoFar` says how they are judged. Of several short epochs that ran in
        one call, and well, only the last counts.
    """
    n_samples = X.shape[0]
    n_batches = -(-n_samples // recipe.batch_size)
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
    most_steps, longest_span = 1, recipe.epochs
    while state.epoch < recipe.epochs and not stop:
        # The orders of a span, and the copies of the parameters that it needs to go back, take little memory.
        is_large = reader is not None or parameters.size > ORDERS_ELEMENTS
        span = 1 if is_large else max(1, min(recipe.epochs - state.epoch, ORDERS_ELEMENTS // n_samples, longest_span))
        if evaluate or callbacks:
            span = 1 if ahead is None else max(1, min(span, ahead()))
        go_back = remember(buffers, state) if span > 1 and ahead is None else None
        rng_state, loss_before = state.rng.bit_generator.state, last_loss
        orders = draw(state.rng, span if recipe.shuffle else 0, n_samples)
        first_epoch = state.epoch

        while state.epoch < first_epoch + span and not stop:
            position = (state.epoch - first_epoch) * n_batches + state.batch
            started = time.perf_counter()
            chunk = reader.chunk_of(position) if reader else Chunk(X, y, sample_weight, orders, 0, span * n_batches)
            n_steps = min(most_steps, chunk.end - position)
            if checkpoints is not None:
                n_steps = checkpoints.cut(state.step, n_steps)
            factors = checked_factors(recipe.schedule, state.step, n_steps, n_batches, recipe.epochs)
            losses = engine.train_steps(
                trained, state, chunk.X, chunk.y, chunk.orders, recipe, position - chunk.first_batch,
                recipe.optimizer.learning_rate * factors, threads, chunk.sample_weight, average,
            )  # fmt: skip
            counts: NDArray[np.bool_] | bool = True
            if chunk.sample_weight is not None:
                which = recipe.batch_size, position - chunk.first_batch, len(losses)
                counts = batch_totals(chunk.sample_weight, chunk.orders, *which) > 0.0
            del chunk  # Before the next one is read: one chunk of a file is in memory.
            elapsed = time.perf_counter() - started
            finite = losses[np.isfinite(losses)]
            last_loss = finite[-1] if len(finite) else last_loss
            best.judge(float(losses[0]) * (1.0 if mean_reduction else n_samples / recipe.batch_size))
            if len(finite) < len(losses):
                break
            most_steps = max(1, int(n_steps * min(MOST_MORE, CALL_SECONDS / max(elapsed, 1e-9))))
            enter_steps(state, recipe, n_samples, mean_reduction, losses, counts, factors, elapsed)
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
                longest_span, last_loss, stop = 1, loss_before, False
                continue
            best.put_back(buffers, evaluate)
            step = first_epoch * n_batches + position
            raise divergence_error(losses, last_loss, step, n_batches, best, recipe.optimizer)
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
        state.loss_sum, state.seconds, state.n_counted = was.loss_sum, was.seconds, was.n_counted
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


def enter_steps(
    state: TrainingState, recipe: Recipe, n_samples: int, mean_reduction: bool, losses: NDArray[np.float64],
    counts: NDArray[np.bool_] | bool, factors: NDArray[np.float64], elapsed: float,
) -> None:  # fmt: skip
    """Enter steps that were taken: share their losses and time out among their epochs, and finish those that are over.

    `losses` and `factors`, the schedule's, are those of the steps, which took `elapsed` seconds together. `counts` says
    whose batch has a weight: an epoch's mean is over the samples of these.
    """
    n_steps, n_batches = len(losses), -(-n_samples // recipe.batch_size)
    batches = np.arange(state.batch, state.batch + n_steps)
    is_last = batches % n_batches == n_batches - 1
    sizes = np.where(is_last, n_samples - (n_batches - 1) * recipe.batch_size, recipe.batch_size) * counts
    # What the first epoch has so far is the first to be added: the last bits do not depend on where a call ended.
    epochs, sums, n_samples_of = np.zeros(1 + n_steps, dtype=np.int64), np.empty(1 + n_steps), np.empty(1 + n_steps)
    epochs[1:], sums[0], n_samples_of[0] = batches // n_batches, state.loss_sum, state.n_counted
    with np.errstate(over="ignore"):  # What diverges is reported as an error; a warning would come before it.
        sums[1:] = losses * sizes if mean_reduction else losses
    n_samples_of[1:] = sizes
    loss_sums, n_counted = np.bincount(epochs, weights=sums), np.bincount(epochs, weights=n_samples_of)
    seconds = np.bincount(epochs[1:]) * (elapsed / n_steps)
    seconds[0] += state.seconds

    done, history = int(is_last.sum()), state.history
    history.train_loss += (loss_sums[:done] / (n_counted[:done] if mean_reduction else 1)).tolist()
    history.learning_rate += (recipe.optimizer.learning_rate * factors[is_last]).tolist()
    history.seconds += seconds[:done].tolist()
    state.loss_sum, state.seconds = float(loss_sums[done:].sum()), float(seconds[done:].sum())
    state.n_counted = int(n_counted[done:].sum())
    state.epoch += done
    state.batch = (state.batch + n_steps) % n_batches
    state.step += n_steps


def describe(state: TrainingState, recipe: Recipe, n_samples: int, n_batches: int, mean_reduction: bool) -> Progress:
    """Say where the run stands."""
    if state.batch == 0:
        loss = state.history.train_loss[-1]
    elif mean_reduction:
        loss = state.loss_sum / max(1, state.n_counted)
    else:
        loss = state.loss_sum * n_samples / (state.batch * recipe.batch_size)
    return Progress(
        epoch=state.epoch,
        epochs=recipe.epochs,
        step=state.step,
        n_steps=recipe.epochs * n_batches,
        samples=state.epoch * n_samples + state.batch * recipe.batch_size,
        loss=float(loss),
        history=state.history,
    )
