"""What a step is told in numbers: the constants of its loss, its optimizer and its batch; and what these are called."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastmlp.optimizers import SGD, Adam, Optimizer, RMSprop
from fastmlp.recipe import batch_totals
from fastmlp.spec import NetworkSpec

FUSED_ACTIVATIONS = "softmax", "sigmoid"
"""The activations that are a part of the loss in training, and kernels of their own in prediction. Not exp: that is
NumPy's there, for ours ends where 2 ** n is no exponent any more."""

SOFTMAX_CROSS_ENTROPY, SIGMOID_CROSS_ENTROPY, POISSON, CLIPPED_ERROR, SLOPED_ERROR = range(5)
"""The codes of the losses, by which a kernel knows those of values; `loss_constants` says which is which."""

RATE, DECAY, DECOUPLED_DECAY, BETA1, BETA2, EPSILON, ROOT_SCALE, SCALE, LOSS_SCALE, L2, KEEP, KEY = range(12)
"""The constants of a step: where they stand in its row (BETA1 is SGD's momentum, too, and BETA2 RMSprop's ρ). See
`step_constants`, and `fastmlp.kernels.updates`."""
N_CONSTANTS = 12


def bits(value: float) -> int:
    """The bits of a float64, as an integer."""
    return int(np.float64(value).view(np.int64))


def loss_constants(loss: str, parameter: float | None) -> tuple[int, float, float]:
    """Give a loss's code and the two constants that `fastmlp.kernels.losses.values_loss_rows` takes."""
    value = parameter or 0.0
    constants: dict[str, tuple[int, float, float]] = {
        "softmax_cross_entropy": (SOFTMAX_CROSS_ENTROPY, 0.0, np.inf),  # The cap, see `Recipe.loss_cap`.
        "sigmoid_cross_entropy": (SIGMOID_CROSS_ENTROPY, 0.0, np.inf),
        "poisson": (POISSON, 0.0, 0.0),
        "squared_error": (CLIPPED_ERROR, -np.inf, np.inf),
        "huber": (CLIPPED_ERROR, -value, value),
        "absolute_error": (SLOPED_ERROR, -1.0, 1.0),
        "quantile": (SLOPED_ERROR, -value, 1.0 - value),
    }
    return constants[loss]


def update_of(optimizer: Optimizer) -> str:
    """Give the name of the kernel of an optimizer's update."""
    if isinstance(optimizer, SGD):
        if not optimizer.momentum:
            return "sgd"
        return "sgd_nesterov" if optimizer.nesterov else "sgd_momentum"
    if isinstance(optimizer, Adam):  # AdamW is one.
        return "adam"
    assert isinstance(optimizer, RMSprop)
    return "rmsprop"


def step_constants(optimizer: Optimizer, first_step: int, learning_rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give, for each step, the constants that the kernel of the optimizer's update takes."""
    constants = np.zeros((len(learning_rates), N_CONSTANTS))
    constants[:, RATE] = learning_rates
    if isinstance(optimizer, SGD):
        constants[:, DECAY] = optimizer.weight_decay
        constants[:, BETA1] = optimizer.momentum
    elif isinstance(optimizer, Adam):
        t = np.arange(first_step + 1, first_step + len(learning_rates) + 1, dtype=np.float64)
        constants[:, RATE] = learning_rates / (1.0 - optimizer.beta1**t)
        constants[:, ROOT_SCALE] = 1.0 / np.sqrt(1.0 - optimizer.beta2**t)
        constants[:, BETA1], constants[:, BETA2] = optimizer.beta1, optimizer.beta2
        constants[:, EPSILON] = optimizer.epsilon
        if optimizer.epsilon_hat:
            constants[:, EPSILON] *= constants[:, ROOT_SCALE]
        if optimizer.name == "adamw":
            constants[:, DECOUPLED_DECAY] = learning_rates * optimizer.weight_decay
        else:
            constants[:, DECAY] = optimizer.weight_decay
    else:
        assert isinstance(optimizer, RMSprop)
        constants[:, DECAY] = optimizer.weight_decay
        constants[:, BETA2] = optimizer.rho
        constants[:, EPSILON] = optimizer.epsilon
    return constants


def batch_scales(
    spec: NetworkSpec,
    sample_weight: NDArray[np.float64] | None,
    orders: NDArray[np.int64],
    batch_size: int,
    first_batch: int,
    n_steps: int,
) -> NDArray[np.float64]:
    """Give what multiplies the sum of a batch's losses, for each step; 0 if the batch has no weight."""
    totals = batch_totals(sample_weight, orders, batch_size, first_batch, n_steps)
    numerator = totals if spec.reduction == "sum" else 1.0
    scales: NDArray[np.float64] = np.divide(numerator, totals, out=np.zeros(n_steps), where=totals > 0)
    return scales
