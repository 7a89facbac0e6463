"""The optimizer behind `solver`, what it must remember from one call to the next, and the schedule of its rate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from fastmlp.network import MLP
from fastmlp.optimizers import SGD, Adam, AdamW, Cosine, OneCycle, Optimizer, RMSprop, Schedule
from fastmlp.parameters import aligned_copy, are_like

Array = NDArray[Any]


def checksum(array: Array) -> int:
    """Give a number that tells whether an array is still what it was."""
    return crc32(array.data)


@dataclass
class SolverState:
    """What an optimizer must remember to go on: kept between calls, with `warm_start` and `partial_fit`.

    Attributes
    ----------
    optimizer : Optimizer
        Its constants.
    slots : list of ndarray
        Its buffers.
    learning_rate : float
        The current one.
    schedule, power_t
        The estimator's `learning_rate` and `power_t` when it was made: as in scikit-learn, `partial_fit` keeps them.
    step, epochs : int
        Steps taken, and epochs of this fit or of these calls of partial_fit.
    best : ndarray, optional
        The best weights so far, with early stopping.
    unaveraged : ndarray, optional
        With a moving average, the weights that the optimizer changes.
    average : int
        A checksum of the averaged weights that belong to them: if a user has changed those, it goes on from them.
    decays_by_alpha : bool
        Whether it is AdamW by its name, whose decoupled decay is the estimator's `alpha`.
    """

    optimizer: Optimizer
    slots: list[Array]
    learning_rate: float
    schedule: Any
    power_t: float
    step: int = 0
    epochs: int = 0
    best: Array | None = None
    unaveraged: Array | None = None
    average: int = 0
    decays_by_alpha: bool = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what a pickle or a copy holds; the kernels want the buffers to start on a cache line."""
        self.__dict__.update(state)
        self.slots = [aligned_copy(slot) for slot in self.slots]
        for name in ("best", "unaveraged"):
            held = getattr(self, name)
            setattr(self, name, None if held is None else aligned_copy(held))

    def set_learning_rate(self, rate: float) -> None:
        """Change the rate. scikit-learn's velocity has the rate inside, ours is multiplied by it at each step."""
        if isinstance(self.optimizer, SGD) and self.slots and rate != self.learning_rate:
            self.slots[0] *= self.learning_rate / rate
        self.learning_rate = rate

    def fits(self, net: MLP) -> bool:
        """Whether its buffers are like the network's: a user may have put another network into ``coefs_``."""
        buffers = [*self.slots, *(each for each in (self.best, self.unaveraged) if each is not None)]
        return are_like(net._parameters, buffers)

    def goes_on_with(self, optimizer: Optimizer) -> bool:
        """Whether its buffers are those that this optimizer needs."""
        return type(self.optimizer) is type(optimizer) and len(self.slots) == optimizer.n_slots


def make_optimizer(estimator: Any) -> Optimizer:
    """Make the optimizer that an estimator's parameters describe."""
    e, rate = estimator, float(estimator.learning_rate_init)
    if isinstance(e.solver, Optimizer):
        return e.solver
    if e.solver == "sgd":
        momentum = min(float(e.momentum), float(np.nextafter(1.0, 0.0)))  # scikit-learn allows 1.
        return SGD(rate, momentum=momentum, nesterov=bool(e.nesterovs_momentum and momentum > 0))
    if e.solver == "rmsprop":
        return RMSprop(rate, epsilon=float(e.epsilon))
    constants: dict[str, Any] = {"beta1": float(e.beta_1), "beta2": float(e.beta_2), "epsilon": float(e.epsilon)}
    if e.solver == "adamw":
        return AdamW(rate, **constants)
    return Adam(rate, **constants, epsilon_hat=True)  # scikit-learn's form.


def make_solver(estimator: Any, net: MLP, incremental: bool) -> SolverState:
    """Give the state of the last call, if training goes on from it, or that of a new run."""
    e, held = estimator, estimator.__dict__.get("_optimizer")  # Perhaps scikit-learn's: some take over its attributes.
    goes_on = isinstance(held, SolverState) and held.fits(net) and (incremental or e.warm_start)
    if goes_on and incremental:
        return held  # type: ignore[no-any-return]
    optimizer = make_optimizer(e)
    rate = optimizer.learning_rate
    if goes_on and held.goes_on_with(optimizer):  # The moments stay, and the learning rate begins anew.
        slots = held.slots
        if isinstance(optimizer, SGD):  # A velocity may be scaled in place.
            slots = [aligned_copy(slot) for slot in slots]
        solver: SolverState = replace(held, optimizer=optimizer, slots=slots, epochs=0)
        solver.set_learning_rate(rate)
        solver.schedule, solver.power_t = e.learning_rate, float(e.power_t)
    else:
        slots = net.training_state(optimizer).slots
        solver = SolverState(optimizer, slots, rate, e.learning_rate, float(e.power_t))
    solver.decays_by_alpha = e.solver == "adamw"
    return solver


@dataclass(frozen=True, kw_only=True)
class RunSchedule(Schedule):
    """The rate that the run has come to or, where a schedule was chosen, that schedule's over `max_iter` epochs."""

    solver: SolverState
    chosen: Schedule | None
    epochs: int

    def factors(self, first_step: int, n_steps: int, steps_per_epoch: int, epochs: int) -> NDArray[np.float64]:
        """Give the factors of some steps, counted from the run's first."""
        if self.chosen is None:
            return np.full(n_steps, self.solver.learning_rate / self.solver.optimizer.learning_rate)
        first = first_step - self.solver.step + self.solver.epochs * steps_per_epoch
        return self.chosen.factors(first, n_steps, steps_per_epoch, max(self.epochs, self.solver.epochs + 1))


def chosen_schedule(learning_rate: Any) -> Schedule | None:
    """Give the schedule of the learning rate that was chosen, or None where it changes between epochs only."""
    if isinstance(learning_rate, Schedule):
        if type(learning_rate) is Schedule:
            raise ValueError("learning_rate must be a schedule such as fastmlp.Cosine(), got the bare Schedule()")
        return learning_rate
    kinds: dict[str, type[Schedule]] = {"cosine": Cosine, "one_cycle": OneCycle}
    return kinds[learning_rate]() if learning_rate in kinds else None
