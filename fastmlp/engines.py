"""What the loop and the network ask of an engine, and which engines there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmlp import reference
from fastmlp.parameters import ParameterLayout
from fastmlp.sparse import Inputs

if TYPE_CHECKING:
    from fastmlp.recipe import Recipe, TrainingState

Array = NDArray[Any]


class SingleSteps(Protocol):
    """What takes single steps on dense batches; one call at a time."""

    def take(self, X: Array, y: Array, learning_rate: float) -> float | None:
        """Take a step and give its loss; None, and no step, if X or y is not what the network takes as it is."""


class Engine(Protocol):
    """What the loop and the network ask of an engine; `fastmlp.reference.Engine` documents the methods."""

    name: str
    finds_not_finite: bool  # Whether it raises InvalidInputsError, or gives a loss of NaN, if X is not finite.

    def choose_threads(self, batch_size: int, limit: int) -> int: ...  # noqa: D102

    def compile(self, X: Inputs, recipe: Recipe | None = None) -> None: ...  # noqa: D102

    def raw_outputs(self, parameters: Array, X: Inputs, threads: int | None = None) -> Array: ...  # noqa: D102

    def outputs(self, parameters: Array, X: Inputs, threads: int | None = None) -> Array: ...  # noqa: D102

    def classes(self, parameters: Array, X: Inputs, threads: int | None = None) -> Array: ...  # noqa: D102

    def row_losses(self, outputs: Array, y: Array) -> NDArray[np.float64]: ...  # noqa: D102

    def gradient_function(  # noqa: D102
        self,
        parameters: Array,
        X: Inputs,
        y: Array,
        sample_weight: NDArray[np.float64] | None = None,
        loss_cap: float = np.inf,
    ) -> Callable[[], tuple[float, Array]]: ...

    def train_steps(  # noqa: D102
        self,
        parameters: Array,
        state: TrainingState,
        X: Inputs,
        y: Array,
        orders: NDArray[np.int64],
        recipe: Recipe,
        first_batch: int,
        learning_rates: NDArray[np.float64],
        threads: int,
        sample_weight: NDArray[np.float64] | None = None,
        average: Array | None = None,
    ) -> NDArray[np.float64]: ...

    def single_steps(  # noqa: D102
        self, parameters: Array, state: TrainingState, recipe: Recipe, average: Array | None = None
    ) -> SingleSteps | None: ...


def make_engine(name: str, layout: ParameterLayout) -> Engine:
    """Build an engine by name."""
    if name == "numpy":
        return reference.Engine(layout)
    from fastmlp import kernels

    return kernels.Engine(layout)
