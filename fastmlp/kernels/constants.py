"""What a step is told in numbers: the constants of its loss, its optimizer and its batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels import elementwise as e
from fastmlp.kernels.jit import Kernel
from fastmlp.optimizers import SGD, Adam, Optimizer, RMSprop
from fastmlp.spec import NetworkSpec


def bits(value: float) -> int:
    """The bits of a float64, as an integer."""
    return int(np.float64(value).view(np.int64))


def loss_constants(loss: str, parameter: float | None) -> tuple[int, float, float]:
    """Give a loss's code and the two constants that `fastmlp.kernels.elementwise.values_loss_rows` takes."""
    value = parameter or 0.0
    constants: dict[str, tuple[int, float, float]] = {
        "softmax_cross_entropy": (e.SOFTMAX_CROSS_ENTROPY, 0.0, np.inf),  # The cap, see `Recipe.loss_cap`.
        "sigmoid_cross_entropy": (e.SIGMOID_CROSS_ENTROPY, 0.0, np.inf),
        "poisson": (e.POISSON, 0.0, 0.0),
        "squared_error": (e.CLIPPED_ERROR, -np.inf, np.inf),
        "huber": (e.CLIPPED_ERROR, -value, value),
        "absolute_error": (e.SLOPED_ERROR, -1.0, 1.0),
        "quantile": (e.SLOPED_ERROR, -value, 1.0 - value),
    }
    return constants[loss]


def update_of(optimizer: Optimizer) -> Kernel:
    """Give the kernel of an optimizer's update."""
    if isinstance(optimizer, SGD):
        if not optimizer.momentum:
            return e.sgd
        return e.sgd_nesterov if optimizer.nesterov else e.sgd_momentum
    return e.adam if isinstance(optimizer, Adam) else e.rmsprop


def step_constants(optimizer: Optimizer, first_step: int, learning_rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give, for each step, the constants that the kernel of the optimizer's update takes."""
    constants = np.zeros((len(learning_rates), e.N_CONSTANTS))
    constants[:, e.RATE] = learning_rates
    constants[:, e.SHRINK] = 1.0
    if isinstance(optimizer, SGD):
        constants[:, e.DECAY] = optimizer.weight_decay
        constants[:, e.FIRST] = optimizer.momentum
    elif isinstance(optimizer, Adam):
        t = np.arange(first_step + 1, first_step + len(learning_rates) + 1, dtype=np.float64)
        constants[:, e.RATE] = learning_rates / (1.0 - optimizer.beta1**t)
        constants[:, e.ROOT_SCALE] = 1.0 / np.sqrt(1.0 - optimizer.beta2**t)
        constants[:, e.FIRST], constants[:, e.SECOND] = optimizer.beta1, optimizer.beta2
        constants[:, e.EPSILON] = optimizer.epsilon
        if optimizer.epsilon_hat:
            constants[:, e.EPSILON] *= constants[:, e.ROOT_SCALE]
        if optimizer.name == "adamw":
            constants[:, e.SHRINK] = 1.0 - learning_rates * optimizer.weight_decay
        else:
            constants[:, e.DECAY] = optimizer.weight_decay
    else:
        assert isinstance(optimizer, RMSprop)
        constants[:, e.DECAY] = optimizer.weight_decay
        constants[:, e.SECOND] = optimizer.rho
        constants[:, e.EPSILON] = optimizer.epsilon
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
    n_samples = orders.shape[1]
    firsts = np.arange(0, n_samples, batch_size)
    epochs, batches = np.divmod(np.arange(first_batch, first_batch + n_steps), len(firsts))
    if sample_weight is None:
        totals = np.minimum(batch_size, n_samples - firsts)[batches]
    else:
        rows = [orders[epoch % len(orders)] for epoch in range(epochs[0], epochs[-1] + 1)]
        totals = np.array([np.add.reduceat(sample_weight[row], firsts) for row in rows])[epochs - epochs[0], batches]
    numerator = totals.astype(np.float64) if spec.reduction == "sum" else 1.0
    scales: NDArray[np.float64] = np.divide(numerator, totals, out=np.zeros(n_steps), where=totals > 0)
    return scales
