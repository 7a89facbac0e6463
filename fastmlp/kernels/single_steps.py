"""Single steps on batches that come one by one: one short native call each, with all but the samples set up before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.constants import N_CONSTANTS
from fastmlp.kernels.memory import address
from fastmlp.kernels.native import kernel

if TYPE_CHECKING:
    from fastmlp.kernels.engine import Engine
    from fastmlp.recipe import Recipe, TrainingState

Array = NDArray[Any]

TAKE_STEP, TRAIN_STEPS = kernel("loop.take_step"), kernel("loop.train_steps")
UINT8, INT64 = np.dtype(np.uint8), np.dtype(np.int64)

STEPS_AHEAD = 100
"""The constants of so many steps are made at once, which takes as long as for one."""

BOUNDS = {"sigmoid_cross_entropy": (0.0, 1.0), "poisson": (0.0, np.finfo(np.float64).max)}
"""What the targets of a loss must lie between; those of the others must be finite."""
FINITE = -np.finfo(np.float64).max, np.finfo(np.float64).max


class SingleSteps:
    """Steps on dense batches of one size, without sample weights, by one thread: `Engine.single_steps` makes it.

    One call at a time: it has memory of its own, and the addresses of what it was made for.
    """

    def __init__(
        self,
        engine: Engine,
        parameters: Array,
        state: TrainingState,
        recipe: Recipe,
        average: Array | None,
    ) -> None:
        spec, dtype, n = engine.layout.spec, engine.dtype, recipe.batch_size
        self._dtype, self._lets_go = dtype, n > engine.rows_of_short_steps
        X, orders = np.empty((n, spec.layer_sizes[0]), dtype), np.arange(n)[None]
        is_softmax = spec.loss == "softmax_cross_entropy"
        self._y_dtype = INT64 if is_softmax else dtype
        y = np.empty(n if is_softmax else (n, spec.layer_sizes[-1]), self._y_dtype)
        self._scratch = engine.allocate("dense", 1)
        layers = engine.set_up_steps(self._scratch, parameters, state, X, y, orders, recipe, None, average)
        self._loss = np.empty(1)
        self._memory = parameters, state.slots, average, orders, y, layers  # Whose addresses are kept.
        self._arguments = address(y) if is_softmax else 0, *BOUNDS.get(spec.loss, FINITE), address(self._loss)
        self._take_step, self._train_steps = TAKE_STEP.entry(dtype), TRAIN_STEPS.address(dtype)
        self._engine, self._state, self._recipe = engine, state, recipe
        self._look_ahead(recipe.optimizer.learning_rate)

    def take(self, X: Array, y: Array, learning_rate: float) -> float | None:
        """Take a step and give its loss; None, and no step, if X or y is not what the network takes as it is."""
        if not (type(X) is np.ndarray and (X.dtype is self._dtype or X.dtype is UINT8) and X.ndim == 2):
            return None
        if not (type(y) is np.ndarray and y.dtype is self._y_dtype and 0 < y.ndim <= 2):
            return None
        ahead = self._state.step - self._first
        if not 0 <= ahead < STEPS_AHEAD or learning_rate != self._learning_rate:
            self._look_ahead(learning_rate)
            ahead = 0
        constants = self._constants_place + 8 * N_CONSTANTS * ahead
        is_taken = self._take_step(
            self._lets_go, self._scratch.place, self._train_steps, constants, X, X.itemsize, y, y.ndim, *self._arguments
        )
        if not is_taken:
            return None
        self._state.step += 1
        return float(self._loss[0])

    def _look_ahead(self, learning_rate: float) -> None:
        """Make the constants of the next steps."""
        self._first, self._learning_rate = self._state.step, learning_rate
        is_sum = self._engine.layout.spec.reduction == "sum"
        rates = np.full(STEPS_AHEAD, learning_rate)
        scales = np.full(STEPS_AHEAD, 1.0 if is_sum else 1.0 / self._recipe.batch_size)
        self._constants = self._engine.constants_of_steps(self._state, self._recipe, rates, scales)
        self._constants_place = address(self._constants)
