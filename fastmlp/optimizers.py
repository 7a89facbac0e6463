"""Optimizers and learning-rate schedules: small frozen dataclasses that only say what is to be done.

The arithmetic of an update is an engine's (`fastmlp.kernels`, `fastmlp.reference`); an optimizer here names it, holds
its constants and checks them. A schedule gives the factor by which the learning rate is multiplied at each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastmlp.spec import check_flag, check_name, check_number, shown


def keep_number(owner: Any, name: str, **bounds: float) -> None:
    """Check a field, a number, and keep it as a float: so 0.5 is the same whatever type it came in."""
    object.__setattr__(owner, name, check_number(name, getattr(owner, name), **bounds))


@dataclass(frozen=True)
class Optimizer:
    """What all optimizers share. Use one of `SGD`, `Adam`, `AdamW`, `RMSprop`.

    Parameters
    ----------
    learning_rate : float
        > 0.

    Raises
    ------
    ValueError
        If it is not a finite number above zero.
    """

    learning_rate: float

    name: ClassVar[str]

    def __post_init__(self) -> None:
        keep_number(self, "learning_rate", above=0.0)

    @property
    def n_slots(self) -> int:
        """How many buffers of the size of the parameters the update keeps between steps.

        Raises
        ------
        TypeError
            If this is not one of the optimizers, but their base.
        """
        raise TypeError(f"optimizer must be SGD, Adam, AdamW or RMSprop, got {type(self).__name__}")


@dataclass(frozen=True)
class SGD(Optimizer):
    r"""Stochastic gradient descent, with momentum and Nesterov's momentum as PyTorch defines them.

    .. math::
        g \leftarrow g + \lambda w, \quad v \leftarrow \mu v + g, \quad
        w \leftarrow w - \eta v \;\; (\text{Nesterov: } w - \eta (g + \mu v))

    Parameters
    ----------
    learning_rate : float, default 0.1
        :math:`\eta > 0`.
    momentum : float, default 0.0
        :math:`\mu` in [0, 1).
    nesterov : bool, default False
        Use Nesterov's form; needs a momentum above zero.
    weight_decay : float, default 0.0
        :math:`\lambda \ge 0`, added to the gradient of weights and biases alike.

    Raises
    ------
    ValueError
        If a parameter is not a finite number in its range, or `nesterov` is not a bool, 0 or 1, or without momentum.

    References
    ----------
    I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the importance of initialization and momentum in deep
    learning", ICML 2013; the form is that of ``torch.optim.SGD``.

    Examples
    --------
    >>> SGD(0.1, momentum=0.9).momentum
    0.9
    """

    learning_rate: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    name = "sgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        keep_number(self, "momentum", minimum=0.0, below=1.0)
        keep_number(self, "weight_decay", minimum=0.0)
        object.__setattr__(self, "nesterov", check_flag("nesterov", self.nesterov))
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov must come with momentum > 0, got momentum 0")

    @property
    def n_slots(self) -> int:
        """One velocity buffer, or none without momentum."""
        return 1 if self.momentum else 0


@dataclass(frozen=True)
class Adam(Optimizer):
    r"""Adam, its weight decay added to the gradient as in ``torch.optim.Adam``.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
        w \leftarrow w - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Parameters
    ----------
    learning_rate : float, default 0.001
        :math:`\eta > 0`.
    beta1, beta2 : float, default 0.9 and 0.999
        Decay of the first and of the second moment, in [0, 1).
    epsilon : float, default 1e-8
        Added to the root, > 0.
    weight_decay : float, default 0.0
        :math:`\lambda \ge 0`: :math:`g \leftarrow g + \lambda w`.
    epsilon_hat : bool, default False
        Take `epsilon` as the :math:`\hat\epsilon` of the efficient form at the end of the paper's section 2, as
        scikit-learn and TensorFlow do:
        :math:`w \leftarrow w - \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m}{\sqrt{v} + \hat\epsilon}`.

    Raises
    ------
    ValueError
        If a parameter is not a finite number in its range, or `epsilon_hat` is not a bool, 0 or 1.

    References
    ----------
    D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.

    Examples
    --------
    >>> Adam(0.01).beta2
    0.999
    """

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    epsilon_hat: bool = False

    name = "adam"

    def __post_init__(self) -> None:
        super().__post_init__()
        keep_number(self, "beta1", minimum=0.0, below=1.0)
        keep_number(self, "beta2", minimum=0.0, below=1.0)
        keep_number(self, "epsilon", above=0.0)
        keep_number(self, "weight_decay", minimum=0.0)
        object.__setattr__(self, "epsilon_hat", check_flag("epsilon_hat", self.epsilon_hat))

    @property
    def n_slots(self) -> int:
        """The two moments."""
        return 2


@dataclass(frozen=True)
class AdamW(Adam):
    r"""Adam with decoupled weight decay, as in ``torch.optim.AdamW``.

    The step of `Adam` follows after :math:`w \leftarrow (1 - \eta\lambda) w`.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon : float
        As in `Adam`.
    weight_decay : float, default 0.01
        :math:`\lambda \ge 0`.
    epsilon_hat : bool, default False
        As in `Adam`.

    Raises
    ------
    ValueError
        As in `Adam`.

    References
    ----------
    I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019.

    Examples
    --------
    >>> AdamW().weight_decay
    0.01
    """

    weight_decay: float = 0.01

    name = "adamw"


@dataclass(frozen=True)
class RMSprop(Optimizer):
    r"""RMSprop as in ``torch.optim.RMSprop``.

    .. math::
        s \leftarrow \rho s + (1 - \rho) g^2, \quad w \leftarrow w - \eta g / (\sqrt{s} + \epsilon)

    Parameters
    ----------
    learning_rate : float, default 0.001
        :math:`\eta > 0`.
    rho : float, default 0.99
        Decay of the mean square, in [0, 1).
    epsilon : float, default 1e-8
        Added to the root, > 0.
    weight_decay : float, default 0.0
        :math:`\lambda \ge 0`: :math:`g \leftarrow g + \lambda w`.

    Raises
    ------
    ValueError
        If a parameter is not a finite number in its range.

    References
    ----------
    T. Tieleman, G. Hinton, "Lecture 6.5: RMSprop", Coursera: Neural Networks for Machine Learning, 2012.

    Examples
    --------
    >>> RMSprop(0.01).rho
    0.99
    """

    learning_rate: float = 0.001
    rho: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    name = "rmsprop"

    def __post_init__(self) -> None:
        super().__post_init__()
        keep_number(self, "rho", minimum=0.0, below=1.0)
        keep_number(self, "epsilon", above=0.0)
        keep_number(self, "weight_decay", minimum=0.0)

    @property
    def n_slots(self) -> int:
        """The mean square."""
        return 1


OPTIMIZERS: dict[str, type[Optimizer]] = {kind.name: kind for kind in (SGD, Adam, AdamW, RMSprop)}
"""The optimizers by name."""


@dataclass(frozen=True)
class Schedule:
    """What all schedules share: a warm-up, then a curve.

    Parameters
    ----------
    warmup : float, default 0.0
        Epochs over which the factor rises linearly from zero. The curve goes on underneath: the factor is the
        curve's value times the warm-up's.

    Raises
    ------
    ValueError
        If `warmup` is not a finite number >= 0.

    References
    ----------
    P. Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017, section 2.2, on the warm-up.

    Examples
    --------
    A schedule of one's own is a subclass with a `curve`:

    >>> class Linear(Schedule):
    ...     def curve(self, t, epochs):
    ...         return 1.0 - t / epochs
    >>> Linear(warmup=1.0).factors(0, 4, steps_per_epoch=2, epochs=2).tolist()
    [0.5, 0.75, 0.5, 0.25]
    """

    warmup: float = field(default=0.0, kw_only=True)

    name: ClassVar[str]

    def __post_init__(self) -> None:
        keep_number(self, "warmup", minimum=0.0)

    def curve(self, t: NDArray[np.float64], epochs: int) -> NDArray[np.float64]:
        """Give the factor at time `t` (in epochs, from 0 to `epochs`), before the warm-up.

        Parameters
        ----------
        t : float64 ndarray (n_steps,)
            The times of some steps.
        epochs : int
            Of the run, >= 1.

        Returns
        -------
        float64 ndarray (n_steps,)
            The factors at these times, >= 0.

        Raises
        ------
        TypeError
            If the schedule has no curve of its own.
        """
        raise TypeError(f"schedule must be one of {', '.join(SCHEDULES)}, got {type(self).__name__}")

    def factors(self, first_step: int, n_steps: int, steps_per_epoch: int, epochs: int) -> NDArray[np.float64]:
        """Give what the learning rate is multiplied by in some steps.

        Step ``s`` is at time ``s / steps_per_epoch``; the warm-up counts steps from 1, so that no step is lost.

        Parameters
        ----------
        first_step : int
            The number of the first of them, from 0 on.
        n_steps : int
            How many there are.
        steps_per_epoch, epochs : int
            Of the whole run.

        Returns
        -------
        ndarray (n_steps,)
            Factors >= 0, in float64.
        """
        steps = np.arange(first_step, first_step + n_steps, dtype=np.float64)
        factors = self.curve(steps / steps_per_epoch, epochs)
        if self.warmup > 0.0:
            factors = factors * np.minimum(1.0, (steps + 1.0) / (self.warmup * steps_per_epoch))
        return factors


@dataclass(frozen=True)
class Constant(Schedule):
    """The learning rate as it is.

    Parameters
    ----------
    warmup : float, default 0.0
        As in `Schedule`.

    Raises
    ------
    ValueError
        As in `Schedule`.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, equation 5.41.

    Examples
    --------
    >>> Constant().factors(0, 2, steps_per_epoch=1, epochs=2).tolist()
    [1.0, 1.0]
    """

    name = "constant"

    def curve(self, t: NDArray[np.float64], epochs: int) -> NDArray[np.float64]:
        """Give ones, as many as `t` has entries: ``(n_steps,)`` as in `Schedule.curve`."""
        return np.ones_like(t)


@dataclass(frozen=True)
class Step(Schedule):
    """Multiply by `gamma` every `step_size` epochs.

    The factor at time `t`, in epochs, is ``gamma ** floor(t / step_size)``.

    Parameters
    ----------
    warmup : float, default 0.0
        As in `Schedule`.
    step_size : float, default 3.0
        Epochs between two steps, > 0.
    gamma : float, default 0.1
        Factor of each step, > 0.

    Raises
    ------
    ValueError
        If a parameter is not a finite number in its range.

    References
    ----------
    The form is that of ``torch.optim.lr_scheduler.StepLR``.

    Examples
    --------
    >>> Step(step_size=1, gamma=0.5).factors(0, 3, steps_per_epoch=1, epochs=3).tolist()
    [1.0, 0.5, 0.25]
    """

    step_size: float = 3.0
    gamma: float = 0.1

    name = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        keep_number(self, "step_size", above=0.0)
        keep_number(self, "gamma", above=0.0)

    def curve(self, t: NDArray[np.float64], epochs: int) -> NDArray[np.float64]:
        """Give ``gamma ** floor(t / step_size)``, ``(n_steps,)`` as in `Schedule.curve`."""
        return np.power(self.gamma, np.floor(t / self.step_size + 1e-9))  # 0.3 / 0.1 is less than 3.


@dataclass(frozen=True)
class Exponential(Schedule):
    """Multiply by `gamma` once an epoch, smoothly: a little at every step.

    The factor at time `t`, in epochs, is ``gamma ** t``. `Step` with ``step_size=1`` changes it between epochs only.

    Parameters
    ----------
    warmup : float, default 0.0
        As in `Schedule`.
    gamma : float, default 0.9
        Factor an epoch, > 0.

    Raises
    ------
    ValueError
        If a parameter is not a finite number in its range.

    References
    ----------
    At whole epochs it is ``torch.optim.lr_scheduler.ExponentialLR``.

    Examples
    --------
    >>> Exponential(gamma=0.25).factors(0, 3, steps_per_epoch=2, epochs=2).tolist()
    [1.0, 0.5, 0.25]
    """

    gamma: float = 0.9

    name = "exponential"

    def __post_init__(self) -> None:
        super().__post_init__()
        keep_number(self, "gamma", above=0.0)

    def curve(self, t: NDArray[np.float64], epochs: int) -> NDArray[np.float64]:
        """Give ``gamma ** t``, ``(n_steps,)`` as in `Schedule.curve`."""
        return np.power(self.gamma, t)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from one down to `final`.

    The factor at time `t`, in epochs, is ``final + (1 - final) (1 + cos(π t / epochs)) / 2``.

    Parameters
    ----------
    warmup : float, default 0.0
        As in `Schedule`.
    final : float, default 0.0
        The factor at the end, in [0, 1).

    Raises
    ------
    ValueError
        If a parameter is not a finite number in its range.

    References
    ----------
    I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, equation 5.

    Examples
    --------
    >>> Cosine().factors(0, 2, steps_per_epoch=1, epochs=2).round(3).tolist()
    [1.0, 0.5]
    """

    final: float = 0.0

    name = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        keep_number(self, "final", minimum=0.0, below=1.0)

    def curve(self, t: NDArray[np.float64], epochs: int) -> NDArray[np.float64]:
        """Give ``final + (1 - final) (1 + cos(π t / epochs)) / 2``, ``(n_steps,)`` as in `Schedule.curve`."""
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + np.cos(np.pi * t / epochs))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Rise along a cosine from `start` to one, then fall along a cosine to `final`: one cycle over the whole run.

    The factor at ``u = t / epochs``, the part of the run that is over, is
    ``start + (1 - start) (1 - cos(π u / rise)) / 2`` while ``u < rise``, and then
    ``final + (1 - final) (1 + cos(π (u - rise) / (1 - rise))) / 2``.

    Parameters
    ----------
    warmup : float, default 0.0
        As in `Schedule`; the cycle has a rise of its own.
    rise : float, default 0.3
        Part of the run that the rise takes, in (0, 1).
    start : float, default 0.04
        Factor of the first step, in [0, 1).
    final : float, default 0.0
        Factor at the end, in [0, 1).

    Raises
    ------
    ValueError
        If a parameter is not a finite number in its range.

    References
    ----------
    L. N. Smith, N. Topin, "Super-convergence: very fast training of neural networks using large learning rates",
    2018; cosines for its lines, as in ``torch.optim.lr_scheduler.OneCycleLR``.

    Examples
    --------
    >>> OneCycle(rise=0.5, start=0.0).factors(0, 4, steps_per_epoch=1, epochs=4).round(3).tolist()
    [0.0, 0.5, 1.0, 0.5]
    """

    rise: float = 0.3
    start: float = 0.04
    final: float = 0.0

    name = "one_cycle"

    def __post_init__(self) -> None:
        super().__post_init__()
        keep_number(self, "rise", above=0.0, below=1.0)
        keep_number(self, "start", minimum=0.0, below=1.0)
        keep_number(self, "final", minimum=0.0, below=1.0)

    def curve(self, t: NDArray[np.float64], epochs: int) -> NDArray[np.float64]:
        """Give the rise up to ``rise * epochs``, then the fall, ``(n_steps,)`` as in `Schedule.curve`."""
        u = t / epochs
        up = self.start + (1.0 - self.start) * 0.5 * (1.0 - np.cos(np.pi * u / self.rise))
        down = self.final + (1.0 - self.final) * 0.5 * (1.0 + np.cos(np.pi * (u - self.rise) / (1.0 - self.rise)))
        return np.where(u < self.rise, up, down)


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """Divide by ``(1 + t) ** power``, `t` in epochs: the factor is ``(1 + t) ** -power``.

    Parameters
    ----------
    warmup : float, default 0.0
        As in `Schedule`.
    power : float, default 0.5
        How fast the rate falls, > 0: with 1 it is half after one epoch, with 0.5 after three.

    Raises
    ------
    ValueError
        If a parameter is not a finite number in its range.

    References
    ----------
    H. Robbins, S. Monro, "A stochastic approximation method", Annals of Mathematical Statistics 22, 1951; the form is
    that of scikit-learn's ``learning_rate="invscaling"``, whose `t` counts samples.

    Examples
    --------
    >>> InverseScaling(power=1.0).factors(0, 2, steps_per_epoch=1, epochs=2).tolist()
    [1.0, 0.5]
    """

    power: float = 0.5

    name = "inverse_scaling"

    def __post_init__(self) -> None:
        super().__post_init__()
        keep_number(self, "power", above=0.0)

    def curve(self, t: NDArray[np.float64], epochs: int) -> NDArray[np.float64]:
        """Give ``(1 + t) ** -power``, ``(n_steps,)`` as in `Schedule.curve`."""
        return np.power(1.0 + t, -self.power)


SCHEDULES: dict[str, type[Schedule]] = {
    kind.name: kind for kind in (Constant, Step, Exponential, Cosine, OneCycle, InverseScaling)
}
"""The schedules by name."""


def check_optimizer(optimizer: Any) -> Optimizer:
    """Return an optimizer given as an object or, with its defaults, by name."""
    if isinstance(optimizer, str):
        return OPTIMIZERS[check_name("optimizer", optimizer, OPTIMIZERS)]()  # type: ignore[call-arg]
    if not isinstance(optimizer, Optimizer) or getattr(optimizer, "name", None) not in OPTIMIZERS:
        hint = call_hint(optimizer, OPTIMIZERS)
        raise ValueError(f"optimizer must be SGD, Adam, AdamW or RMSprop, got {shown(optimizer)}{hint}")
    return optimizer


def check_epsilon(optimizer: Optimizer, dtype: Any) -> None:
    """Raise ValueError if the optimizer's epsilon, where it has one, is 0 in the dtype of the parameters."""
    epsilon = getattr(optimizer, "epsilon", None)
    if epsilon is not None and np.dtype(dtype).type(epsilon) == 0:
        raise ValueError(f"epsilon must be > 0 in {np.dtype(dtype)}, got {epsilon:g}")


def check_schedule(schedule: Any) -> Schedule:
    """Return a schedule given as an object or, with its defaults, by name."""
    if isinstance(schedule, str):
        return SCHEDULES[check_name("schedule", schedule, SCHEDULES)]()
    if not isinstance(schedule, Schedule) or type(schedule) is Schedule:
        hint = call_hint(schedule, SCHEDULES)
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)} or a Schedule, got {shown(schedule)}{hint}")
    return schedule


def call_hint(given: Any, kinds: Mapping[str, type]) -> str:
    """Say how to make an object of the class that was given in the place of one."""
    return f" (did you mean {given.__name__}()?)" if isinstance(given, type) and given in kinds.values() else ""
