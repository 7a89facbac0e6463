"""Online learning: training on batches that come one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.checks import all_finite, check_targets, check_weight_values, not_finite_error, smoothed
from fastmlp.chunks import is_mapped
from fastmlp.divergence import DivergenceError, what_is_wrong
from fastmlp.engines import SingleSteps
from fastmlp.network import DEFAULT_OPTIMIZER, MLP
from fastmlp.optimizers import Optimizer
from fastmlp.parameters import aligned_copy
from fastmlp.recipe import make_recipe
from fastmlp.sparse import Inputs, SparseRows
from fastmlp.spec import check_count, check_number, shown

Array = NDArray[Any]


class OnlineTrainer:
    """Trains a network on batches as they come, a step each, with an optimizer whose state goes on from step to step.

    For streams, and for loops of your own: what `MLP.fit` does anew for every call is done once here, so that a step of
    a small network takes some microseconds. Steps have the bits of those that one `fit` takes, of the same batches in
    the same order, if they are of one size. A trainer keeps the memory of a call to itself, 0.2 MB for 4-32-16-4. Its
    pickle, or a copy by `copy.deepcopy`, has the network and the optimizer's state, and goes on with the same bits.

    Parameters
    ----------
    net : MLP
        The network that is trained, from its current parameters on. Nothing else should train it meanwhile.
    optimizer : Optimizer or str
        As in `MLP.fit`. Default: SGD(0.1, momentum=0.9).
    l2, label_smoothing, clip_norm, average, dropout
        As in `MLP.fit`. With `average`, the weights that are trained stand apart from those of the network: what is
        written into these between two steps does not reach them, and fades from the average.
    threads : int, default 1
        Never more than the CPUs that the process may use. They are started anew for each step: two were faster than one
        where a step takes 2 ms, and slower where it takes 0.7.

    Attributes
    ----------
    net : MLP
        The network; it cannot be replaced.
    steps : int
        Steps taken. Where a Ctrl-C, or a timeout, breaks off a step with several threads, sample weights or sparse
        samples, the weights may have taken one more.
    learning_rate : float
        That of the next step, at first the optimizer's. It may be changed at any time.

    Raises
    ------
    ValueError
        If an argument does not fit.

    Notes
    -----
    A loss of your own needs no more than its derivative G by the outputs, as of a policy gradient. The derivative of
    `squared_error` is ``outputs - y``. So a network with this loss and ``reduction="sum"`` takes the step of yours,
    but for rounding, towards the targets ``net.forward(X) - G``; not with `dropout` or `average`, where a step has
    other outputs than `forward`. Where outputs are 100,000 times as large as G, float32 keeps two digits of it: use
    float64. `MLP.gradients` gives your gradients likewise.

    Examples
    --------
    >>> import fastmlp
    >>> net = fastmlp.MLP([2, 8, 2], seed=0)
    >>> trainer = fastmlp.OnlineTrainer(net, fastmlp.Adam(0.01))
    >>> losses = [trainer.step([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]) for _ in range(300)]
    >>> losses[0] > 0.5 > 0.1 > losses[-1]
    True
    """

    __slots__ = (
        "_average", "_last_loss", "_learning_rate", "_net", "_prepared", "_recipe", "_smooths_targets", "_state",
        "_threads", "_trained",
    )  # fmt: skip

    def __init__(
        self,
        net: MLP,
        optimizer: Optimizer | str = DEFAULT_OPTIMIZER,
        *,
        l2: float = 0.0,
        label_smoothing: float = 0.0,
        clip_norm: float | None = None,
        average: float | None = None,
        dropout: float | Sequence[float] = 0.0,
        threads: int = 1,
    ) -> None:
        if not isinstance(net, MLP):
            raise ValueError(f"net must be an MLP, got {shown(net)}")
        self._net = net
        self._recipe = make_recipe(
            net.spec, 1, 1, 1, optimizer, "constant", False, l2, label_smoothing, clip_norm, average, dropout
        )
        self._threads = net.threads(1, check_count("threads", threads))
        self._learning_rate = self._recipe.optimizer.learning_rate
        # Of classes, the engines smooth what they stand for.
        self._smooths_targets = self._recipe.label_smoothing > 0.0 and net.spec.loss == "sigmoid_cross_entropy"
        self._last_loss = np.nan
        self._state = net.training_state(self._recipe.optimizer)
        if self._recipe.average is not None:
            self._state.unaveraged = aligned_copy(net._parameters)
        net._fits += 1
        self._begin()

    def _begin(self) -> None:
        """Take the network's memory, and the state's, as they are from now on."""
        # With an average, the optimizer changes other weights than those that the network holds.
        self._trained, self._average = self._net._parameters, None
        if self._state.unaveraged is not None:
            self._trained, self._average = self._state.unaveraged, self._net._parameters
        self._prepared: list[SingleSteps] = []  # One at most, but where several threads take steps at once.

    def __getstate__(self) -> dict[str, Any]:
        """Give what a pickle or a copy holds: all but what `_begin` makes."""
        return {
            name: getattr(self, name) for name in self.__slots__ if name not in ("_average", "_prepared", "_trained")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take it; the kernels want buffers that begin on a cache line, and no copy may have those of another."""
        for name, value in state.items():
            setattr(self, name, value)
        held, self._threads = self._state, self._net.threads(1, self._threads)
        unaveraged = None if held.unaveraged is None else aligned_copy(held.unaveraged)
        self._state = replace(held, slots=[aligned_copy(slot) for slot in held.slots], unaveraged=unaveraged)
        self._begin()

    def __repr__(self) -> str:
        return f"OnlineTrainer({self._net!r}, {self._recipe.optimizer!r}), {self.steps} steps taken"

    @property
    def net(self) -> MLP:
        """The network."""
        return self._net

    @property
    def steps(self) -> int:
        """How many steps have been taken."""
        return self._state.step

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = check_number("learning_rate", value, above=0.0)

    def step(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Take one step of the optimizer, on one batch.

        Parameters
        ----------
        X : array_like or sparse matrix (n_samples, n_features)
            As in `MLP.fit`. Arrays of the network's dtype, or uint8, need no conversion, and y of int64 or of the
            network's dtype likewise.
        y : array_like
            As in `MLP.fit`.
        sample_weight : array_like (n_samples,), optional
            As in `MLP.fit`; but they may all be 0: the step changes nothing then, and counts.

        Returns
        -------
        float
            The loss of the batch before the step, as the network's `reduction` says, with the term of `l2`.

        Raises
        ------
        ValueError
            If an argument does not fit, or is not finite; no step has been taken then.
        DivergenceError
            If the loss is not finite; no step has been taken.
        """
        loss = self._take_prepared(X, y) if sample_weight is None and not self._smooths_targets else None
        if loss is None:
            loss = self._take_checked(X, y, sample_weight)
        if not isfinite(loss):
            self._raise_divergence(X, loss)
        self._last_loss = loss
        return loss

    def _take_prepared(self, X: Any, y: Any) -> float | None:
        """Take a step with what an earlier one has set up, if that fits X and y as they are."""
        try:
            prepared = self._prepared.pop()  # No other thread has it until it is put back.
        except IndexError:
            return None
        loss = prepared.take(X, y, self._learning_rate)
        if loss is None or isfinite(loss):  # Else NaN may be left in its memory.
            self._prepared.append(prepared)
        return loss

    def _take_checked(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None) -> float:
        """Check what was given, and take a step with it, whatever it is."""
        net, state, engine = self.net, self._state, self.net._engine
        inputs = self._check_inputs(X)
        n = inputs.shape[0]
        weights = None if sample_weight is None else check_weight_values(sample_weight, n)
        targets = check_targets(net.spec, y, n, "y")
        targets = cast(Array, smoothed(targets, self._recipe.label_smoothing))
        recipe = replace(self._recipe, batch_size=n)
        may_be_prepared = self._threads == 1 and weights is None and not isinstance(inputs, SparseRows)
        loss = self._take_prepared(inputs, targets) if may_be_prepared else None
        if loss is None:
            engine.compile(inputs, recipe)
            if may_be_prepared and not self._prepared:
                prepared = engine.single_steps(self._trained, state, recipe, self._average)
                if prepared is not None:
                    self._prepared = [prepared]
                    loss = self._take_prepared(inputs, targets)
        if loss is None:
            rates, orders = np.array([self._learning_rate]), np.arange(n, dtype=np.int64)[None]
            losses = engine.train_steps(
                self._trained, state, inputs, targets, orders, recipe, 0, rates, self._threads, weights, self._average
            )
            loss = float(losses[0])
            state.step += isfinite(loss)
        return loss

    def _check_inputs(self, X: Any) -> Inputs:
        """Check X, which is a batch even if it is a large file."""
        return cast(Inputs, self.net._check_inputs(np.asarray(X) if is_mapped(X) else X))

    def _raise_divergence(self, X: Any, loss: float) -> NoReturn:
        """Say why a loss is not finite."""
        inputs = self._check_inputs(X)
        if not all_finite(inputs, self.net.spec.input_scale):
            raise not_finite_error("X", inputs, scale=self.net.spec.input_scale)
        raise DivergenceError(
            f"training diverged in step {self.steps + 1}: {what_is_wrong(loss, self._last_loss)}; "
            f"try a learning_rate below {self._learning_rate:g}, or inputs scaled to about [-1, 1]"
        )
