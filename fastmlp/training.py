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
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from fastmlp.chunks import Chunk, ChunkReader, MappedRows
from fastmlp.divergence import BestSoFar, copy_to, divergence_error
from fastmlp.optimizers import Schedule
from fastmlp.recipe import Callback, Progress, ProgressCallback, Recipe, TrainingState, batch_totals
from fastmlp.shapes import InvalidInputsError
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

LARGE_WEIGHT, LAST_LOOK_ROWS = 1000.0, 64
"""Where a weight is larger at the end of a span, the outputs of so many samples are looked at."""


@dataclass(frozen=True)
class Span:
    """The epochs from `first_epoch` up to `end_epoch`, their orders, and where the generator stood before these."""

    first_epoch: int
    end_epoch: int
    orders: NDArray[np.int64]
    rng_state: Any


class Call(NamedTuple):
    """The steps of one engine call: the number of the first, from the run's beginning on, and their losses."""

    first_step: int
    losses: NDArray[np.float64]

    @property
    def is_finite(self) -> bool:
        """Whether all losses are: an engine stops at the first that is not."""
        return bool(np.isfinite(self.losses[-1]))


@dataclass(eq=False)
class EpochLoop:
    """The training of a network, from where `state` stands until `recipe.epochs` are done or a callback asks to stop.

    Parameters
    ----------
    engine : Engine
        Takes the steps.
    parameters : ndarray
        The flat buffer, changed in place.
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
        Where to begin; afterwards, where the run stands.
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
    """

    engine: Engine
    parameters: Array
    X: Inputs | MappedRows
    y: Array | MappedRows
    mean_reduction: bool
    recipe: Recipe
    state: TrainingState
    threads: int
    _: KW_ONLY
    sample_weight: NDArray[np.float64] | MappedRows | None = None
    evaluate: Callable[[], tuple[float, float | None]] | None = None
    callbacks: Sequence[Callback] = ()
    progress: ProgressCallback | None = None
    ahead: Callable[[], int] | None = None
    checkpoints: Checkpoints | None = None

    def __post_init__(self) -> None:
        X, parameters, state, recipe = self.X, self.parameters, self.state, self.recipe
        self.n_samples = X.shape[0]
        self.n_batches = -(-self.n_samples // recipe.batch_size)
        self.reader = None
        if isinstance(X, MappedRows):
            self.reader = ChunkReader(X, self.y, self.sample_weight, recipe.batch_size)
        # With an average, the optimizer changes other weights than those that the network holds.
        self.trained = parameters if state.unaveraged is None else state.unaveraged
        self.average = None if state.unaveraged is None else parameters
        self.buffers = [self.trained] if self.average is None else [self.trained, self.average]
        self.best = BestSoFar(self.buffers, state.epoch, self.n_batches)
        self.stop = state.is_over
        self.last_loss = np.nan
        self.most_steps = 1
        self.longest_span = recipe.epochs

    def run(self) -> None:
        """Train.

        Raises
        ------
        DivergenceError
            If a loss or a parameter is not finite, or at the end of a span an output. The parameters are then the best
            so far, those after the epoch that the message names; `fastmlp.divergence.BestSoFar` says how they are
            judged. Of several short epochs that ran in one call, and well, only the last counts.
        """
        if self.state.epoch < self.recipe.epochs and not self.stop:
            started = time.perf_counter()
            # Of mapped rows, too: how many there are is all that it asks.
            self.engine.compile(cast(Inputs, self.X), self.recipe)
            self.state.history.compile_seconds += time.perf_counter() - started
        if self.checkpoints is not None:
            self.checkpoints.begin(self.state.step, self.n_batches)
        n_evaluated, state = len(self.state.history.validation_loss), self.state
        if self.evaluate is not None and n_evaluated == state.epoch - 1 and state.batch == 0:
            self.end_epoch()  # Its evaluation was interrupted.
        while self.state.epoch < self.recipe.epochs and not self.stop:
            self.take_span()
        if self.checkpoints is not None:
            self.checkpoints.write(self.state.step)

    def take_span(self) -> None:
        """Train for a span of epochs, and do what is done at its end; or for a part of it, if the run is stopped."""
        state, n_epochs, loss_before = self.state, self.length_of_span(), self.last_loss
        go_back = remember(self.buffers, state) if n_epochs > 1 and self.ahead is None else None
        span = self.draw_span(n_epochs)
        try:
            call = self.take_calls(span)
        except BaseException:  # A Ctrl-C, or an error of `progress`: the state can be gone on from.
            self.rewind(span)
            raise

        if not (call.is_finite and self.is_sound()):
            if go_back is None:
                self.best.put_back(self.buffers, self.evaluate)
                raise divergence_error(
                    call.losses, self.last_loss, call.first_step, self.n_batches, self.best, self.recipe.optimizer
                )
            go_back()  # Take these epochs again, one by one: the best of them is wanted.
            self.longest_span, self.last_loss, self.stop = 1, loss_before, False
            return
        if state.epoch < span.end_epoch:  # Stopped within the span.
            self.rewind(span)
        else:
            self.end_epoch()
        if self.checkpoints is not None and self.checkpoints.is_due(state.step):
            self.checkpoints.write(state.step)

    def take_calls(self, span: Span) -> Call:
        """Make the engine calls of a span, and give the last: one whose loss is not finite, or that was to be it."""
        while True:
            call = self.take_steps(span)
            if self.stop or not call.is_finite or self.state.epoch == span.end_epoch:  # There the callbacks come first.
                return call
            if self.checkpoints is not None and self.checkpoints.is_due(self.state.step):
                if not np.isfinite(self.trained).all():
                    return call
                self.write_checkpoint_within(span)

    def is_sound(self) -> bool:
        """Whether the weights are finite and, where one is large, the outputs, too."""
        largest = max(self.trained.max(), -self.trained.min())
        return bool(np.isfinite(largest)) and (largest <= LARGE_WEIGHT or self.outputs_are_finite())

    def outputs_are_finite(self) -> bool:
        """Whether the outputs of some samples are finite: there may be no step to come whose loss would tell."""
        X = first_rows(self.X)
        if self.sample_weight is not None:  # Those without a weight may be anything.
            X = X[np.flatnonzero(first_rows(self.sample_weight))]
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                return len(X) == 0 or bool(np.isfinite(self.engine.outputs(self.parameters, X, 1)).all())
        except InvalidInputsError:  # A sample that no step has had so far is not finite.
            return False

    def length_of_span(self) -> int:
        """Say how many epochs are to be one span."""
        # Their orders, and the copies of the parameters that are needed to go back, are to take little memory.
        if self.reader is not None or self.parameters.size > ORDERS_ELEMENTS:
            n_epochs = 1
        else:
            n_epochs = min(self.recipe.epochs - self.state.epoch, ORDERS_ELEMENTS // self.n_samples, self.longest_span)
        if self.evaluate or self.callbacks:
            n_epochs = 1 if self.ahead is None else min(n_epochs, self.ahead())
        return max(1, n_epochs)

    def draw_span(self, n_epochs: int) -> Span:
        """Draw the orders of so many epochs."""
        state, rng_state = self.state, self.state.rng.bit_generator.state
        orders = self.draw_orders(n_epochs if self.recipe.shuffle else 0)
        return Span(state.epoch, state.epoch + n_epochs, orders, rng_state)

    def draw_orders(self, n_epochs: int) -> NDArray[np.int64]:
        """Draw the orders of the next epochs."""
        draw = draw_orders if self.reader is None else self.reader.draw_orders
        return draw(self.state.rng, n_epochs, self.n_samples)

    def take_steps(self, span: Span) -> Call:
        """Take the steps of one engine call: from the next one on, so many as take `CALL_SECONDS`, at most to the end.

        Returns
        -------
        Call
            If its last loss is not finite, its steps were not entered, but for the curve of an estimator.
        """
        state, recipe = self.state, self.recipe
        first_step = state.epoch * self.n_batches + state.batch
        position = first_step - span.first_epoch * self.n_batches
        started = time.perf_counter()
        chunk = self.chunk_of(position, span)
        n_steps = min(self.most_steps, chunk.end - position)
        if self.checkpoints is not None:
            n_steps = self.checkpoints.cut(state.step, n_steps)
        factors = checked_factors(recipe.schedule, state.step, n_steps, self.n_batches, recipe.epochs)
        losses = self.engine.train_steps(
            self.trained, state, chunk.X, chunk.y, chunk.orders, recipe, position - chunk.first_batch,
            recipe.optimizer.learning_rate * factors, self.threads, chunk.sample_weight, self.average,
        )  # fmt: skip
        which = recipe.batch_size, position - chunk.first_batch, len(losses)
        sizes = batch_totals(None, chunk.orders, *which)
        if chunk.sample_weight is not None:
            sizes *= batch_totals(chunk.sample_weight, chunk.orders, *which) > 0.0
        del chunk  # Before the next one is read: one chunk of a file is in memory.
        elapsed = time.perf_counter() - started

        finite = losses[np.isfinite(losses)]
        self.last_loss = finite[-1] if len(finite) else self.last_loss
        self.best.judge(float(losses[0]) * (1.0 if self.mean_reduction else self.n_samples / recipe.batch_size))
        if len(finite) < len(losses):  # The last; those before it were taken.
            if self.ahead is not None and len(finite):  # An estimator's curve shows them.
                self.enter_steps(finite, sizes[:-1], factors[: len(finite)], elapsed)
            return Call(first_step, losses)
        self.most_steps = max(1, int(n_steps * min(MOST_MORE, CALL_SECONDS / max(elapsed, 1e-9))))
        self.enter_steps(losses, sizes, factors, elapsed)
        if self.progress is not None:
            self.stop = bool(self.progress(self.describe()))
        return Call(first_step, losses)

    def chunk_of(self, position: int, span: Span) -> Chunk:
        """Give what holds the samples of a batch of the span, counted from its first."""
        if self.reader is not None:
            return self.reader.chunk_of(position)
        end = (span.end_epoch - span.first_epoch) * self.n_batches
        return Chunk(self.X, self.y, self.sample_weight, span.orders, 0, end)

    def write_checkpoint_within(self, span: Span) -> None:
        """Write a checkpoint within a span, with the generator where the current epoch begins."""
        assert self.checkpoints is not None
        drawn = self.state.rng.bit_generator.state
        self.rewind(span)
        self.checkpoints.write(self.state.step)
        self.state.rng.bit_generator.state = drawn

    def rewind(self, span: Span) -> None:
        """Put the generator at the start of the current epoch, which is within this span: a run goes on from there."""
        if span.rng_state is None:  # An estimator's generator does not go back, and nobody goes on with its run.
            return
        self.state.rng.bit_generator.state = span.rng_state
        if self.recipe.shuffle and self.state.epoch > span.first_epoch:
            self.draw_orders(self.state.epoch - span.first_epoch)

    def end_epoch(self) -> None:
        """Do what is done after an epoch, or at the end of a span: evaluate, remember the best weights, call back."""
        state, history = self.state, self.state.history
        validation_loss = None
        if self.evaluate is not None:
            validation_loss, accuracy = self.evaluate()
            history.validation_loss.append(validation_loss)
            if accuracy is not None:
                history.validation_accuracy.append(accuracy)
        if state.epoch < self.recipe.epochs:  # After the last one nothing can go wrong.
            self.best.offer(self.buffers, state.epoch, history.train_loss[-1], validation_loss)
        answers = [callback(history) for callback in self.callbacks]  # All are called, whatever the first says.
        state.is_over = any(answers)
        self.stop = self.stop or state.is_over

    def enter_steps(
        self, losses: NDArray[np.float64], sizes: NDArray[np.float64], factors: NDArray[np.float64], elapsed: float
    ) -> None:
        """Enter steps that were taken: share their losses and time among their epochs, and finish those that are over.

        `sizes` are the samples of their batches, 0 of one without weight: an epoch's mean is over these samples.
        `factors` are the schedule's; all steps took `elapsed` seconds together.
        """
        state, history, n_steps = self.state, self.state.history, len(losses)
        batches = np.arange(state.batch, state.batch + n_steps)
        epochs, is_last = batches // self.n_batches, batches % self.n_batches == self.n_batches - 1
        with np.errstate(over="ignore"):  # What diverges is reported as an error; a warning would come before it.
            sums = losses * sizes if self.mean_reduction else losses
        loss_sums = sum_by_epoch(epochs, sums, state.loss_sum)
        n_counted = sum_by_epoch(epochs, sizes, state.n_counted)
        seconds = sum_by_epoch(epochs, np.full(n_steps, elapsed / n_steps), state.seconds)

        done = int(is_last.sum())
        history.train_loss += (loss_sums[:done] / (n_counted[:done] if self.mean_reduction else 1)).tolist()
        history.learning_rate += (self.recipe.optimizer.learning_rate * factors[is_last]).tolist()
        history.seconds += seconds[:done].tolist()
        state.loss_sum, state.seconds = float(loss_sums[done:].sum()), float(seconds[done:].sum())
        state.n_counted = int(n_counted[done:].sum())
        state.epoch += done
        state.batch = (state.batch + n_steps) % self.n_batches
        state.step += n_steps

    def describe(self) -> Progress:
        """Say where the run stands."""
        state, recipe = self.state, self.recipe
        if state.batch == 0:
            loss = state.history.train_loss[-1]
        elif self.mean_reduction:
            loss = state.loss_sum / max(1, state.n_counted)
        else:
            loss = state.loss_sum * self.n_samples / (state.batch * recipe.batch_size)
        return Progress(
            epoch=state.epoch,
            epochs=recipe.epochs,
            step=state.step,
            n_steps=recipe.epochs * self.n_batches,
            samples=state.epoch * self.n_samples + state.batch * recipe.batch_size,
            loss=float(loss),
            history=state.history,
        )


def sum_by_epoch(epochs: NDArray[np.int64], values: NDArray[np.float64], carried: float) -> NDArray[np.float64]:
    """Sum values epoch by epoch, one after the other; the first epoch's sum begins with what it has carried over.

    So the last bits do not depend on where a call ended.
    """
    sums: Array = np.bincount(np.append(0, epochs), weights=np.append(carried, values))
    return sums


def first_rows(samples: Any) -> Any:
    """Give the first `LAST_LOOK_ROWS`."""
    return samples.read(0, LAST_LOOK_ROWS) if isinstance(samples, MappedRows) else samples[:LAST_LOOK_ROWS]


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
    if np.shape(factors) != (n_steps,):
        raise ValueError(f"schedule must give ({n_steps},) factors for so many steps, got {np.shape(factors)}")
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
    rng.permuted(orders, axis=1, out=orders)
    return orders
