"""Native calls that are made one by one, again and again, with all that stays the same set up before."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.constants import LOSS_SCALE, N_CONSTANTS, SCALE, batch_scales
from fastmlp.kernels.memory import Scratch, address, kind_of
from fastmlp.kernels.native import kernel
from fastmlp.sparse import Inputs
from fastmlp.spec import LOSSES

if TYPE_CHECKING:
    from fastmlp.kernels.engine import Engine
    from fastmlp.recipe import Recipe, TrainingState

Array = NDArray[Any]

TAKE_STEP, TRAIN_STEPS = kernel("loop.take_step"), kernel("loop.train_steps")
UINT8, INT64 = np.dtype(np.uint8), np.dtype(np.int64)

STEPS_AHEAD = 100
"""The constants of so many steps are made at once, in some 14 µs."""

LARGEST = float(np.finfo(np.float64).max)


class SingleSteps:
    """Steps on dense batches without sample weights, by one thread: `Engine.single_steps` makes it.

    One call at a time: it has memory of its own. What it sets up is for batches of one size; another size costs as much
    as some steps.
    """

    def __init__(
        self, engine: Engine, parameters: Array, state: TrainingState, recipe: Recipe, average: Array | None
    ) -> None:
        self._engine, self._parameters, self._state, self._average = engine, parameters, state, average
        self._recipe = recipe
        spec, self._dtype = engine.layout.spec, engine.dtype
        self._is_softmax = spec.loss == "softmax_cross_entropy"
        self._y_dtype = INT64 if self._is_softmax else self._dtype
        low, high = LOSSES[spec.loss].targets
        self._bounds = max(low, -LARGEST), min(high, LARGEST)  # Targets must be finite, too.
        self._scratch = engine.allocate("dense", 1)
        self._loss = np.empty(1)
        self._set_up(recipe.batch_size)
        self._look_ahead(recipe.optimizer.learning_rate)

    def take(self, X: Array, y: Array, learning_rate: float) -> float | None:
        """Take a step and give its loss; None, and no step, if X or y is not what the network takes as it is."""
        # Arrays that were unpickled have dtypes of their own, which are equal; and to compare takes longer.
        if not (type(X) is np.ndarray and X.ndim == 2 and (X.dtype is self._dtype or X.dtype in (self._dtype, UINT8))):
            return None
        if not (type(y) is np.ndarray and y.ndim in (1, 2) and (y.dtype is self._y_dtype or y.dtype == self._y_dtype)):
            return None
        n, ahead = len(X), self._state.step - self._first
        if n != self._n_rows:
            if n == 0:
                return None
            self._set_up(n)
            ahead = -1
        if not 0 <= ahead < STEPS_AHEAD or learning_rate != self._learning_rate:
            self._look_ahead(learning_rate)
            ahead = 0
        self._loss[0] = np.nan
        try:
            fits = self._take_step(
                self._lets_go, self._scratch.address, self._train_steps,
                self._constants_address + 8 * N_CONSTANTS * ahead, X, X.itemsize, y, y.ndim, *self._arguments,
            )  # fmt: skip
        finally:  # A Ctrl-C comes when the step has been taken.
            loss = float(self._loss[0])
            self._state.step += isfinite(loss)
        return loss if fits else None

    def _set_up(self, n: int) -> None:
        """Write to the state all that does not change from step to step, for batches of `n` samples."""
        engine, spec, dtype = self._engine, self._engine.layout.spec, self._dtype
        recipe, orders = replace(self._recipe, batch_size=n), np.arange(n, dtype=np.int64)[None]
        X = np.broadcast_to(np.zeros((), dtype), (n, spec.layer_sizes[0]))  # The kernel writes where X is.
        y = np.empty(n if self._is_softmax else (n, spec.layer_sizes[-1]), self._y_dtype)
        kept = engine.set_up_steps(
            self._scratch, self._parameters, self._state, X, y, orders, recipe, None, self._average
        )
        self._n_rows, self._lets_go = n, n > engine.rows_of_short_steps
        self._arguments = address(y), *self._bounds, address(self._loss)
        self._take_step, self._train_steps = TAKE_STEP.entry(dtype), TRAIN_STEPS.address(dtype)
        self._memory = orders, y, kept  # Whose addresses are in the state.

    def _look_ahead(self, learning_rate: float) -> None:
        """Make the constants of the next steps."""
        self._first, self._learning_rate = self._state.step, learning_rate
        is_sum = self._engine.layout.spec.reduction == "sum"
        rates = np.full(STEPS_AHEAD, learning_rate)
        scales = np.full(STEPS_AHEAD, 1.0 if is_sum else 1.0 / self._n_rows)
        self._constants = self._engine.constants_of_steps(self._state, self._recipe, rates, scales)
        self._constants_address = address(self._constants)


class GradientFunction:
    """Loss and gradient of the same samples, by one thread: `Engine.gradient_function` makes it.

    One call at a time: it has memory of its own, which it gives back at the end of its life.
    """

    _scratch: Scratch | None = None
    """The memory, ready for a call; None amid one, and after one that was interrupted or whose loss is not finite: then
    NaN may be left in it where zeros must be."""

    def __init__(
        self,
        engine: Engine,
        parameters: Array,
        X: Inputs,
        y: Array,
        sample_weight: NDArray[np.float64] | None,
        loss_cap: float,
    ) -> None:
        self._engine, self._parameters, self._loss_cap = engine, parameters, loss_cap
        self._n_samples, self._kind = len(X), kind_of(X)
        orders = np.arange(self._n_samples, dtype=INT64)
        self._samples = X, y, orders, sample_weight
        self._gradient, self._loss = engine.layout.allocate(), np.empty(1)
        self._constants = np.zeros((1, N_CONSTANTS))
        scale = batch_scales(engine.layout.spec, sample_weight, orders[None], self._n_samples, 0, 1)[0]
        self._constants[0, [SCALE, LOSS_SCALE]] = scale
        self._train_steps = TRAIN_STEPS.entry(engine.dtype)
        self._scratch = self._set_up()

    def _set_up(self) -> Scratch:
        """Take memory, and write there where everything is."""
        engine = self._engine
        scratch = engine.take_scratch(self._kind, 1)
        engine.set_up_training(
            scratch, self._parameters, *self._samples, recipe=None, loss_cap=self._loss_cap,
            gradient=address(self._gradient), halves=0,
        )  # fmt: skip
        return scratch

    def __call__(self) -> tuple[float, Array]:
        """Compute the loss and its derivative by every parameter, of what the parameters are now."""
        scratch, self._scratch = self._scratch or self._set_up(), None
        lets_go = self._n_samples > self._engine.rows_of_short_steps
        first_batch, n_steps, thread, threads = 0, 1, 0, 1
        self._train_steps(
            lets_go, scratch.address, address(self._constants), self._n_samples, first_batch, address(self._loss),
            n_steps, thread, threads,
        )  # fmt: skip
        loss = float(self._loss[0])
        if not isfinite(loss):  # The loop has stopped before the gradient: zeros would look like a minimum.
            return loss, np.full_like(self._gradient, np.nan)
        self._scratch = scratch
        return loss, self._gradient

    def __del__(self) -> None:
        if self._scratch is not None:
            self._engine.give_back(self._kind, 1, self._scratch)
