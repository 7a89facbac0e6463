"""One call of fit or partial_fit with a stochastic solver: what scikit-learn's classes do between two epochs.

The steps themselves are those of `fastmlp.training.EpochLoop`, which calls a `Run` back after every epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from fastmlp.checks import smoothed
from fastmlp.divergence import DivergenceError
from fastmlp.estimators.samples import EncodedSamples, as_targets, warn
from fastmlp.estimators.solver import RunSchedule, SolverState, checksum, chosen_schedule
from fastmlp.network import MLP
from fastmlp.optimizers import SGD, check_epsilon
from fastmlp.parameters import aligned_copy
from fastmlp.recipe import Callback, History, Progress, Recipe, TrainingState, check_dropout
from fastmlp.report import epochs_bar, print_line
from fastmlp.training import EpochLoop

Array = NDArray[Any]

NOT_FINITE_WEIGHTS = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)
"""scikit-learn's words, by which its users recognise this."""

SMALLEST_RATE = 1e-6
"""With learning_rate='adaptive': where the rate is not above it, training stops."""


class SampleOrders:
    """Draws the orders of the epochs as scikit-learn does: each is a shuffle of the one before.

    It stands where `fastmlp.recipe.TrainingState` has a NumPy generator. That one can draw the order of a half-done
    epoch again; here nobody goes on with one, so `state` is nothing.
    """

    def __init__(self, random_state: Callable[[], np.random.RandomState], n_samples: int) -> None:
        self.random_state = random_state
        self.order = np.arange(n_samples)
        self.bit_generator = SimpleNamespace(state=None)

    def permuted(self, orders: Array, axis: int, out: Array) -> Array:
        """Draw one order after the other into the rows of `out`."""
        for row in out:
            shuffled = np.arange(len(row))
            self.random_state().shuffle(shuffled)
            self.order = row[:] = self.order[shuffled]
        return out


class Run:
    """What happens between the epochs: the curves, the learning rate, validation, stopping, what is printed."""

    def __init__(
        self,
        estimator: Any,
        net: MLP,
        solver: SolverState,
        samples: EncodedSamples,
        held_out: EncodedSamples | None,
        random_state: Callable[[], np.random.RandomState],
        callbacks: Sequence[Callback],
        incremental: bool,
        threads: int | None,
    ) -> None:
        self.estimator = estimator
        self.net = net
        self.solver = solver
        self.samples = samples
        self.held_out = held_out
        self.callbacks = callbacks
        self.incremental = incremental
        self.random_state = random_state
        self.threads = threads
        self.recipe = self.make_recipe()
        self.threads_of_steps = net.threads(self.recipe.batch_size, threads)
        self.started = time.perf_counter()
        self.stopped_by = ""
        self.bar: Any = None
        if held_out is not None and estimator.validation_scores_ is None:
            estimator.validation_scores_, estimator.validation_loss_curve_ = [], []
            estimator.best_validation_score_ = -np.inf
        if not estimator.early_stopping and estimator.best_loss_ is None:  # The last fit was with early stopping.
            estimator.best_loss_ = np.inf

    def make_recipe(self) -> Recipe:
        """Say what is to be done."""
        e, net, solver, samples = self.estimator, self.net, self.solver, self.samples
        batch_size = self.batch_size()
        optimizer = solver.optimizer
        if solver.decays_by_alpha:
            optimizer = replace(optimizer, weight_decay=float(e.alpha))  # type: ignore[call-arg]
        check_epsilon(optimizer, net.spec.dtype)
        return Recipe(
            epochs=1 if self.incremental else int(e.max_iter),
            batch_size=batch_size,
            optimizer=optimizer,
            schedule=RunSchedule(solver=solver, chosen=chosen_schedule(solver.schedule), epochs=int(e.max_iter)),
            # One batch has no order; but a generator that others share must stand where scikit-learn leaves it.
            shuffle=bool(e.shuffle) and (len(samples) > batch_size or not isinstance(e.random_state, Integral)),
            l2=0.0 if solver.decays_by_alpha else float(e.alpha),
            loss_factor=loss_factor(net),
            loss_cap=loss_cap(net),
            label_smoothing=e.label_smoothing,
            clip_norm=e.clip_norm,
            average=e.average,
            dropout=check_dropout(e.dropout, net.spec.n_layers - 1),
        )

    def train(self) -> None:
        """Take the steps, and leave the estimator with what they came to."""
        e, net, solver, samples, recipe = self.estimator, self.net, self.solver, self.samples, self.recipe
        targets: Any = smoothed(as_targets(samples.Y, net.spec.dtype), e.label_smoothing)
        orders: Any = SampleOrders(self.random_state, len(samples))
        # Drawn only where it is needed: the stream of a run without dropout is scikit-learn's.
        dropout_seed = int(self.random_state().randint(1 << 31)) if recipe.dropout else 0
        state = TrainingState(orders, solver.slots, step=solver.step, dropout_seed=dropout_seed)
        if e.average is not None:
            is_own = solver.unaveraged is not None and solver.average == checksum(net._parameters)
            state.unaveraged = aligned_copy(solver.unaveraged if is_own else net._parameters)  # type: ignore[arg-type]
        if e.early_stopping and e.n_iter_ > 0 and e.best_validation_score_ == -np.inf:
            self.judge_start()
        e.n_iter_ = 0
        if not e.early_stopping:
            solver.best = None  # Of earlier calls that had it, or were broken off.
        elif solver.best is None or not self.incremental:
            solver.best = net._parameters.copy()
        if e.progress:
            self.bar = epochs_bar(recipe.epochs, "epochs")
        try:
            EpochLoop(
                net._engine, net._parameters, samples.X, targets, True, recipe, state,
                self.threads_of_steps,
                sample_weight=samples.weights,
                evaluate=None if self.held_out is None else self.evaluate,
                callbacks=(self.end_epochs, *self.callbacks),
                progress=self.between_calls if e.progress or e.max_time else None,
                ahead=self.ahead,
            ).run()  # fmt: skip
        except KeyboardInterrupt:
            warn("Training interrupted by user.", UserWarning)
        except DivergenceError as error:
            if not e.early_stopping:
                self.end_epochs(state.history)
                why = str(error)
                if isinstance(e.solver, str):  # Whose rate is that parameter; `learning_rate` is the schedule.
                    why = why.replace("a learning_rate below", "a learning_rate_init below")
                raise ValueError(f"{NOT_FINITE_WEIGHTS} ({why})") from None
            self.end_epoch_without_loss()
        finally:
            solver.step, solver.epochs = state.step, solver.epochs + state.epoch
            solver.unaveraged = state.unaveraged
            if e.average is not None:
                solver.average = checksum(net._parameters)
            if self.bar is not None:
                self.bar.close()
        self.end_epochs(state.history)  # If it was stopped between two calls.
        if not e.loss_curve_ and state.batch:  # Stopped within the first epoch.
            e.loss_ = np.float64(state.loss_sum / max(1, state.n_counted))
        if solver.best is not None and (e.stopped_ or not self.incremental):
            net._parameters[:], solver.best, solver.unaveraged = solver.best, None, None
        if self.stopped_by:
            warn(
                f"Stochastic Optimizer: {self.stopped_by} and the optimization hasn't converged yet.",
                ConvergenceWarning,
            )

    def judge_start(self) -> None:
        """Take the weights of an earlier fit for the best so far, where these samples have not judged any."""
        loss, score = self.evaluate()
        if np.isfinite(loss) and score is not None and np.isfinite(score):
            self.estimator.best_validation_score_, self.estimator._lowest_validation_loss = score, loss

    def batch_size(self) -> int:
        """Give the size of a batch, at most all samples."""
        asked, n_samples = self.estimator.batch_size, len(self.samples)
        if asked == "auto":
            return min(200, n_samples)
        if asked > n_samples:
            warn("Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", UserWarning)
        return min(int(asked), n_samples)

    # --- Between two epochs -------------------------------------------------------------------------------------------

    def ahead(self) -> int:
        """Say how many epochs must pass before anything can happen between them: those of Python's time are saved."""
        e = self.estimator
        by_epoch = e.verbose or e.progress or self.callbacks or self.held_out is not None
        if by_epoch or self.solver.schedule in ("invscaling", "adaptive"):
            return 1
        return int(min(e.n_iter_no_change - e._no_improvement_count + 1, e.max_iter))

    def end_epochs(self, history: History) -> bool:
        """Enter the epochs that are over, and say whether to stop."""
        # An evaluation that was interrupted leaves an epoch without validation: that one is not over.
        n_epochs = len(history.train_loss if self.held_out is None else history.validation_loss)
        answers = [self.end_epoch(history, epoch) for epoch in range(self.estimator.n_iter_, n_epochs)]
        return any(answers)

    def end_epoch(self, history: History, epoch: int) -> bool:
        """Enter an epoch that is over, and say whether to stop."""
        e = self.estimator
        e.n_iter_ += 1
        e.t_ += len(self.samples)
        e.loss_ = np.float64(history.train_loss[epoch])
        e.loss_curve_.append(e.loss_)
        if e.verbose:
            print_line(f"Iteration {e.n_iter_}, loss = {e.loss_:.8f}")
        if self.held_out is not None:
            self.enter_validation(history.validation_loss[epoch], history.validation_accuracy[epoch])
        if not e.early_stopping:
            self.count_no_improvement(-e.loss_, -e.best_loss_)
            e.best_loss_ = min(e.best_loss_, e.loss_)
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {e.loss_:.4g}", refresh=False)
            self.bar.update(e.n_iter_ - self.bar.n)
        solver = self.solver
        if isinstance(solver.optimizer, SGD) and solver.schedule == "invscaling":
            solver.set_learning_rate(solver.optimizer.learning_rate / (e.t_ + 1) ** solver.power_t)
        if e._no_improvement_count > e.n_iter_no_change and self.is_over():
            e.stopped_, self.stopped_by = True, ""
            return True
        if not self.incremental and e.n_iter_ == e.max_iter:
            self.stopped_by = f"Maximum iterations ({e.max_iter}) reached"
        return False

    def count_no_improvement(self, value: float, best: float) -> None:
        """Count the epochs whose value is not better than the best one by `tol`; a NaN begins the count anew."""
        e = self.estimator
        e._no_improvement_count = e._no_improvement_count + 1 if value < best + e.tol else 0

    def is_over(self) -> bool:
        """Without improvement: stop, or go on with a smaller learning rate."""
        e, solver = self.estimator, self.solver
        what = "Validation " + e.early_stopping_metric if e.early_stopping else "Training loss"
        adapts = isinstance(solver.optimizer, SGD) and solver.schedule == "adaptive"
        verdict = "Learning rate too small. Stopping." if adapts else "Stopping."
        is_over = not adapts or solver.learning_rate <= SMALLEST_RATE
        if not is_over:
            solver.set_learning_rate(solver.learning_rate / 5.0)
            e._no_improvement_count = 0
            verdict = f"Setting learning rate to {solver.learning_rate:f}"
        if e.verbose:
            print_line(
                f"{what} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} consecutive epochs. {verdict}"
            )
        return is_over

    def evaluate(self) -> tuple[float, float | None]:
        """Loss and score of the validation samples."""
        held_out, net = self.held_out, self.net
        assert held_out is not None
        outputs = net._engine.raw_outputs(net._parameters, held_out.X, self.threads)
        losses = net._engine.row_losses(outputs, as_targets(held_out.Y, net.spec.dtype))
        loss = float(np.average(losses, weights=held_out.weights)) * loss_factor(net)
        return loss, self.estimator._score_outputs(outputs, held_out.Y, held_out.weights)

    def enter_validation(self, loss: float, score: float) -> None:
        """Enter loss and score, and keep the weights if they are the best."""
        e, curve = self.estimator, self.estimator.validation_loss_curve_
        if e.verbose:
            print_line(f"Validation score: {score:f}")
        value, best = score, e.best_validation_score_
        if e.early_stopping_metric == "loss":
            value, best = -loss, -e._lowest_validation_loss
        e._lowest_validation_loss = min(e._lowest_validation_loss, loss)
        e.validation_scores_.append(score)
        curve.append(loss)
        if e.early_stopping:
            self.count_no_improvement(value, best)
        if value > best:
            e.best_validation_score_ = score
            if self.solver.best is not None:
                self.solver.best[:] = self.net._parameters

    def end_epoch_without_loss(self) -> None:
        """Enter an epoch whose loss is not finite: nothing that follows can be better than what is there."""
        e = self.estimator
        e.loss_ = np.float64("nan")
        e.loss_curve_.append(e.loss_)
        for curve in (e.validation_scores_, e.validation_loss_curve_):
            curve.append(float("nan"))
        e.n_iter_ += 1
        e.stopped_ = True
        self.stopped_by = f"The loss is not finite since iteration {e.n_iter_}"

    def between_calls(self, at: Progress) -> bool:
        """Move the bar on, and say whether the time is over."""
        e = self.estimator
        if self.bar is not None:
            self.bar.update(at.samples / len(self.samples) - self.bar.n)
        seconds = time.perf_counter() - self.started - at.history.compile_seconds
        if e.max_time is None or seconds < e.max_time:
            return False
        self.stopped_by = f"max_time ({e.max_time:g} s) reached"
        return True


def loss_factor(net: MLP) -> float:
    """Give what makes the network's loss scikit-learn's: its squared error is the mean over the outputs."""
    return 1.0 / net.spec.layer_sizes[-1] if net.spec.loss == "squared_error" else 1.0


def loss_cap(net: MLP) -> float:
    """Give the most that a probability counts in scikit-learn's cross-entropy, which takes none below the dtype's ε."""
    return -float(np.log(np.finfo(net.spec.dtype).eps))
