"""What a run that diverges leaves: the best weights so far, and an error that says when it was and what to try."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.optimizers import Optimizer

Array = NDArray[Any]


class DivergenceError(FloatingPointError):
    """Training stopped because the loss, a parameter or an output is not a finite number any more.

    Attributes
    ----------
    keeps_first : bool
        Whether the network has the weights that the run began with: none since were better.

    Examples
    --------
    >>> import fastmlp
    >>> net = fastmlp.MLP([1, 1], loss="squared_error", engine="numpy")
    >>> try:
    ...     net.fit([[1.0]], [1.0], epochs=1000, optimizer=fastmlp.SGD(10.0))
    ... except fastmlp.DivergenceError as error:
    ...     print(str(error).split(":")[0])
    ...     print(error.keeps_first)
    training diverged in epoch 31, batch 1 of 1
    True
    """

    keeps_first = False


class BestSoFar:
    """The weights that a run falls back on.

    Weights are judged by the validation loss or, without it, by two training losses, of which the worse counts: the
    mean of the epoch that they come from, and that of the first step that begins with them. The mean alone would not
    do: it is of the weights that the epoch went through, and the last step may have spoilt them. The step alone would
    not do: it is one batch's, unless that is all samples. The weights of the beginning have one epoch's mean, the one
    that begins with them; with validation data they are evaluated if the run diverges, and not before.

    Parameters
    ----------
    buffers : list of ndarray
        What the run changes: the parameters, and with an average the ones behind it.
    epoch : int
        How many are done.
    n_batches : int
        Of an epoch.
    """

    def __init__(self, buffers: list[Array], epoch: int, n_batches: int) -> None:
        self.n_batches = n_batches
        self.began = self.epoch = epoch
        self.first = self.buffers = [buffer.copy() for buffer in buffers]
        self.loss = np.inf
        self.candidate: tuple[list[Array], int, float] | None = None

    def offer(self, buffers: list[Array], epoch: int, train_loss: float, validation_loss: float | None) -> None:
        """Take the weights after an epoch for the best, if they are; without validation, the next step will tell."""
        copies = [buffer.copy() for buffer in buffers]
        if validation_loss is not None:
            self._take(copies, epoch, validation_loss)
            return
        if not np.isfinite(self.loss):
            self.loss = train_loss
        self.candidate = copies, epoch, train_loss

    def judge(self, first_loss: float) -> None:
        """Judge the weights that were offered last by the loss of the first step that began with them.

        It is on the scale of an epoch's loss.
        """
        if self.candidate is not None:
            buffers, epoch, train_loss = self.candidate
            self._take(buffers, epoch, float(np.maximum(train_loss, first_loss)) if self.n_batches > 1 else first_loss)
            self.candidate = None

    def put_back(self, buffers: list[Array], evaluate: Callable[[], tuple[float, float | None]] | None) -> None:
        """Copy the best weights to the run's buffers; `evaluate` gives the validation loss of what is in these."""
        if evaluate is not None and self.epoch > self.began:
            copy_to(buffers, self.first)
            if evaluate()[0] < self.loss:
                self.buffers, self.epoch = self.first, self.began
        copy_to(buffers, self.buffers)

    def _take(self, buffers: list[Array], epoch: int, loss: float) -> None:
        if loss <= self.loss and loss < np.inf:  # Nor if it is NaN.
            self.buffers, self.epoch, self.loss = buffers, epoch, loss

    def __str__(self) -> str:
        if self.epoch == self.began:
            return "the weights it began with"
        return f"the weights of epoch {self.epoch}, the best so far"


def copy_to(arrays: list[Array], others: list[Array]) -> None:
    """Copy other arrays to these."""
    for array, other in zip(arrays, others, strict=True):
        array[:] = other


def what_is_wrong(loss: float, last_loss: float) -> str:
    """Say what is not finite after a step with this loss, and the last one that was, if there is one."""
    what = "a weight or an output is not finite" if np.isfinite(loss) else f"the loss is {loss:g}"
    return what + (f", the last finite loss was {last_loss:g}" if np.isfinite(last_loss) else "")


def divergence_error(
    losses: NDArray[np.float64], last_loss: float, first_step: int, n_batches: int, kept: BestSoFar,
    optimizer: Optimizer,
) -> DivergenceError:  # fmt: skip
    """Say where a run diverged, in the last of these steps, and what to try."""
    epoch, batch = divmod(first_step + len(losses) - 1, n_batches)
    error = DivergenceError(
        f"training diverged in epoch {epoch + 1}, batch {batch + 1} of {n_batches}: "
        f"{what_is_wrong(losses[-1], last_loss)}; "
        f"the network keeps {kept}; try a learning_rate below {optimizer.learning_rate:g}, a warm-up, "
        f"or inputs scaled to about [-1, 1]"
    )
    error.keeps_first = kept.epoch == kept.began
    return error
