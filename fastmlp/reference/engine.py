"""The NumPy engine: the functions of this package, put together into a training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.dropout import masks, step_keys
from fastmlp.parameters import ParameterLayout
from fastmlp.recipe import Recipe, TrainingState
from fastmlp.reference import activations as f
from fastmlp.reference import losses
from fastmlp.reference.affine import affine_forward
from fastmlp.reference.updates import STEPS
from fastmlp.sparse import Inputs, SparseRows
from fastmlp.spec import BACKWARD_TAKES_INPUT

Array = NDArray[Any]

ROWS_MADE_DENSE = 1000
"""Rows of sparse samples that become dense at once in the forward pass."""

Activation = Callable[..., Array]
Backward = Callable[[Array, Array], Array]

ACTIVATIONS: dict[str, tuple[Activation, Backward]] = {
    "identity": (f.identity, f.identity_backward),
    "relu": (f.relu, f.relu_backward),
    "leaky_relu": (f.leaky_relu, f.leaky_relu_backward),
    "elu": (f.elu, f.elu_backward),
    "sigmoid": (f.sigmoid, f.sigmoid_backward),
    "tanh": (f.tanh, f.tanh_backward),
    "gelu": (f.gelu, f.gelu_backward),
    "silu": (f.silu, f.silu_backward),
    "softplus": (f.softplus, f.softplus_backward),
}
OUTPUT_ACTIVATIONS: dict[str, Activation] = {"softmax": losses.softmax, "sigmoid": f.sigmoid, "exp": np.exp}
"""The activations that are a part of the loss in training."""
LOSSES: dict[str, Callable[..., tuple[Array, Array]]] = {
    "softmax_cross_entropy": losses.softmax_cross_entropy_rows,
    "sigmoid_cross_entropy": losses.sigmoid_cross_entropy_rows,
    "squared_error": losses.squared_error_rows,
    "poisson": losses.poisson_rows,
    "absolute_error": losses.absolute_error_rows,
    "huber": losses.huber_rows,
    "quantile": losses.quantile_rows,
}


class Engine:
    """Forward, gradients and training steps of one network, on the flat parameter buffer.

    Parameters
    ----------
    layout : ParameterLayout
        The network and where its parameters stand.

    Attributes
    ----------
    name : str
        As `engine` in `fastmlp.MLP`.
    finds_not_finite : bool
        Whether it raises `fastmlp.shapes.InvalidInputsError`, or gives a loss of NaN, if X is not finite. If not, X has
        to be.
    """

    name = "numpy"
    finds_not_finite = False

    def __init__(self, layout: ParameterLayout) -> None:
        self.layout = layout
        self.spec = layout.spec

    def choose_threads(self, batch_size: int, limit: int) -> int:
        """One: the BLAS behind NumPy has threads of its own.

        Parameters
        ----------
        batch_size : int
            Samples a step.
        limit : int
            The most to choose.

        Returns
        -------
        int
            The threads that are fastest for `train_steps`, 1 to `limit`.
        """
        return 1

    def compile(self, X: Inputs, recipe: Recipe | None = None) -> None:
        """Do nothing: there is nothing to compile.

        Parameters
        ----------
        X : ndarray or SparseRows (n_samples, n_in)
            Samples like those to come: only their kind, and how many they are, count.
        recipe : Recipe, optional
            Of the steps to come; without it, there will be calls of `gradients` alone.
        """

    def raw_outputs(self, parameters: Array, X: Inputs, threads: int | None = None) -> Array:
        """Compute the outputs ``(n_samples, n_out)``: logits for a loss that does their activation itself.

        Parameters
        ----------
        parameters : ndarray (layout.size,)
            The flat buffer, of the network's dtype.
        X : ndarray or SparseRows (n_samples, n_in)
            Samples of that dtype, or an array of uint8; an array is in C order.
        threads : int, optional
            The most to use; None is all that are worth it. Not used here.

        Returns
        -------
        ndarray (n_samples, n_out)
            Of the network's dtype.
        """
        blocks = (
            [X]
            if isinstance(X, np.ndarray)
            else [X[i : i + ROWS_MADE_DENSE] for i in range(0, len(X), ROWS_MADE_DENSE)]
        )
        Z = np.concatenate([self._forward(parameters, self._scaled(block))[-1] for block in blocks])
        return Z if self.spec.loss_takes_logits else ACTIVATIONS[self.spec.output_activation][0](Z)

    def outputs(self, parameters: Array, X: Inputs, threads: int | None = None) -> Array:
        """Compute the outputs with their activation, the loss's part of it too: probabilities, or means.

        Parameters
        ----------
        parameters, X, threads
            As in `raw_outputs`.

        Returns
        -------
        ndarray (n_samples, n_out)
            Of the network's dtype.
        """
        Z = self.raw_outputs(parameters, X)
        if not self.spec.loss_takes_logits:
            return Z
        with np.errstate(over="ignore"):
            return OUTPUT_ACTIVATIONS[self.spec.output_activation](Z)

    def classes(self, parameters: Array, X: Inputs, threads: int | None = None) -> NDArray[np.intp]:
        """Compute the largest output of each sample.

        Parameters
        ----------
        parameters, X, threads
            As in `raw_outputs`.

        Returns
        -------
        ndarray of int (n_samples,)
            Its column; of equal outputs, the first.
        """
        classes: NDArray[np.intp] = self.raw_outputs(parameters, X).argmax(axis=1)
        return classes

    def row_losses(self, outputs: Array, y: Array) -> NDArray[np.float64]:
        """Compute the loss of each sample.

        Parameters
        ----------
        outputs : ndarray (n_samples, n_out)
            What `raw_outputs` gives.
        y : ndarray
            As in `gradient_function`.

        Returns
        -------
        float64 ndarray (n_samples,)
            Before the reduction.
        """
        return LOSSES[self.spec.loss](outputs, y, *self._loss_parameter)[0].astype(np.float64)

    def gradient_function(
        self,
        parameters: Array,
        X: Inputs,
        y: Array,
        sample_weight: NDArray[np.float64] | None = None,
        loss_cap: float = np.inf,
    ) -> Callable[[], tuple[float, Array]]:
        """Make what computes the loss and its derivative by every parameter, as often as it is called.

        Parameters
        ----------
        parameters, X
            As in `raw_outputs`. The parameters may change between two calls; the arrays must stay where they are.
        y : ndarray
            int64 classes ``(n_samples,)`` for softmax_cross_entropy, else ``(n_samples, n_out)`` of the network's
            dtype.
        sample_weight : float64 ndarray (n_samples,), optional
            Of the samples' losses; >= 0, with a sum above 0.
        loss_cap : float
            As in `Recipe`: of the loss, not of its derivative.

        Returns
        -------
        callable
            Of no arguments; one call at a time. It gives the loss of all samples, a float, reduced as the network's
            ``reduction`` says; and the gradient ``(layout.size,)``, a flat buffer in the layout of `parameters` and of
            the network's dtype. That tells nothing if the loss is not finite, and the next call may overwrite it.
        """
        total = X.shape[0] if sample_weight is None else sample_weight.sum()
        scale = float(1.0 / total) if self.spec.reduction == "mean" else 1.0

        def loss_and_gradient() -> tuple[float, Array]:
            flat = self.layout.allocate()
            with np.errstate(over="ignore", invalid="ignore"):
                return self._gradients(parameters, self._scaled(X), y, scale, flat, sample_weight, cap=loss_cap), flat

        return loss_and_gradient

    def single_steps(
        self, parameters: Array, state: TrainingState, recipe: Recipe, average: Array | None = None
    ) -> None:
        """Prepare single steps on dense batches, without sample weights and by one thread.

        Parameters
        ----------
        parameters, state, recipe, average
            As in `train_steps`.

        Returns
        -------
        fastmlp.engines.SingleSteps or None
            What takes them in less time than `train_steps`; None, as here, where nothing is to be gained.
        """

    def train_steps(
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
    ) -> NDArray[np.float64]:
        """Take ``len(learning_rates)`` steps, one minibatch each, changing `parameters` and the slots in place.

        Parameters
        ----------
        parameters : ndarray (layout.size,)
            The flat buffer.
        state : TrainingState
            Its slots, and how many steps were taken before in this run (Adam's bias correction counts them).
        X : ndarray or SparseRows (n_samples, n_in)
            All samples, as in `raw_outputs`. Only the batches become dense.
        y : ndarray
            Their targets, as in `gradient_function`.
        orders : int64 ndarray (n_epochs, n_samples) or (1, n_samples)
            Row e is the order of the samples in the e-th epoch of this call; a single row serves them all.
        recipe : Recipe
            What to do in a step.
        first_batch : int
            Batch of the first epoch to begin with.
        learning_rates : float64 ndarray (n_steps,)
            The rate of each step.
        threads : int
            Not used here.
        sample_weight : float64 ndarray (n_samples,), optional
            Of the samples' losses. A batch without weight has loss 0 and changes nothing, but is a step.
        average : ndarray (layout.size,), optional
            Changed after every step: the moving average of `parameters`.

        Returns
        -------
        float64 ndarray (n_done,)
            The reduced loss of each step, before its update. If a loss is not finite, it is the last, and its update
            has not been done.
        """
        n_samples, batch_size = X.shape[0], recipe.batch_size
        n_batches = -(-n_samples // batch_size)
        gradient = self.layout.allocate()
        losses = np.zeros(len(learning_rates))
        keys = step_keys(state.dropout_seed, state.step, len(losses))
        take_step = STEPS[recipe.optimizer.name]
        for i, learning_rate in enumerate(learning_rates):
            epoch, batch = divmod(first_batch + i, n_batches)
            order = orders[epoch % len(orders)]
            rows = order[batch * batch_size : (batch + 1) * batch_size]
            weight = None if sample_weight is None else sample_weight[rows]
            total = len(rows) if weight is None else weight.sum()
            if total == 0.0:
                continue
            scale = float(1.0 / total) if self.spec.reduction == "mean" else 1.0
            with np.errstate(over="ignore", invalid="ignore"):  # The loss tells what diverges, and the loop says so.
                loss = self._gradients(
                    parameters, self._scaled(X[rows]), y[rows], scale, gradient, weight, recipe.label_smoothing,
                    self._masks(keys[i], len(rows), recipe.dropout), recipe.loss_cap,
                )  # fmt: skip
                losses[i] = recipe.loss_factor * loss
                losses[i] += self._penalty(parameters, recipe.l2 * scale, gradient)
                if not np.isfinite(losses[i]):
                    return losses[: i + 1]
                if recipe.clip_norm is not None:
                    clip(gradient, recipe.clip_norm)
                take_step(recipe.optimizer, parameters, gradient, state.slots, state.step + i + 1, learning_rate)
                if recipe.average is not None and average is not None:
                    decay = average.dtype.type(recipe.average if state.step + i else 0.0)
                    average[:] = parameters + decay * (average - parameters)
        return losses

    @property
    def _loss_parameter(self) -> tuple[float, ...]:
        return () if self.spec.loss_parameter is None else (self.spec.loss_parameter,)

    def _scaled(self, X: Inputs) -> Array:
        X = X.to_dense() if isinstance(X, SparseRows) else X
        X = X.astype(self.spec.dtype, copy=False)
        return X if self.spec.input_scale == 1.0 else X * X.dtype.type(self.spec.input_scale)

    def _masks(self, key: np.uint64, n_rows: int, rates: tuple[float, ...]) -> list[Array]:
        """Give what multiplies each hidden layer's outputs; nothing without dropout."""
        widths = self.spec.layer_sizes[1:-1]
        return [masks(key, layer, n_rows, widths[layer], rate, self.spec.dtype) for layer, rate in enumerate(rates)]

    def _forward(
        self, parameters: Array, X: Array, dropout: Sequence[Array] = ()
    ) -> tuple[list[Array], list[Array], Array]:
        """Give every layer's input, what determines each hidden layer's slope (its Z or A), and the last layer's Z."""
        weights, biases = self.layout.weights(parameters), self.layout.biases(parameters)
        inputs, kept = [X], []
        for layer, W in enumerate(weights):
            Z = affine_forward(inputs[layer], W, biases[layer] if biases else None)
            if layer < len(weights) - 1:
                name = self.spec.activations[layer]
                takes_input = name in BACKWARD_TAKES_INPUT
                A = ACTIVATIONS[name][0](Z, out=None if takes_input else Z)
                kept.append(Z if takes_input else A)
                inputs.append(A * dropout[layer] if dropout else A)
        return inputs, kept, Z

    def _gradients(
        self,
        parameters: Array,
        X: Array,
        y: Array,
        scale: float,
        flat: Array,
        sample_weight: NDArray[np.float64] | None = None,
        smoothing: float = 0.0,
        dropout: Sequence[Array] = (),
        cap: float = np.inf,
    ) -> float:
        """Write the gradient of one batch into `flat`; return the loss. Both are times `scale`."""
        spec = self.spec
        inputs, kept, Z = self._forward(parameters, X, dropout)
        parameter = self._loss_parameter
        if spec.is_classifier:
            parameter = (cap, smoothing) if spec.loss == "softmax_cross_entropy" else (cap,)
        if spec.loss_takes_logits:
            row_losses, dZ = LOSSES[spec.loss](Z, y, *parameter)
        else:
            activation, backward = ACTIVATIONS[spec.output_activation]
            A = activation(Z)
            row_losses, dA = LOSSES[spec.loss](A, y, *parameter)
            dZ = backward(dA, Z if spec.output_activation in BACKWARD_TAKES_INPUT else A)
        if sample_weight is None:
            dZ *= dZ.dtype.type(scale)
        else:
            row_losses = row_losses * sample_weight
            dZ *= (scale * sample_weight)[:, None].astype(dZ.dtype)
        weights = self.layout.weights(parameters)
        dW, db = self.layout.weights(flat), self.layout.biases(flat)
        for layer in reversed(range(spec.n_layers)):
            np.matmul(inputs[layer].T, dZ, out=dW[layer])
            if db:
                np.sum(dZ, axis=0, out=db[layer])
            if layer:
                below = layer - 1
                dA = dZ @ weights[layer].T
                dZ = ACTIVATIONS[spec.activations[below]][1](dA * dropout[below] if dropout else dA, kept[below])
        return float(row_losses.sum(dtype=np.float64)) * scale

    def _penalty(self, parameters: Array, l2: float, gradient: Array) -> float:
        """Give ``½ l2 Σ W²`` over the weights, and add its derivative to the gradient."""
        squares = 0.0
        if l2:
            for W, dW in zip(self.layout.weights(parameters), self.layout.weights(gradient), strict=True):
                squares += float(np.square(W, dtype=np.float64).sum())
                dW += dW.dtype.type(l2) * W
        return 0.5 * l2 * squares


def clip(gradient: Array, norm: float) -> None:
    """Scale the gradient down to this 2-norm if its own is greater; the small number is PyTorch's."""
    factor = norm / (np.sqrt(np.square(gradient, dtype=np.float64).sum()) + 1e-6)
    if factor < 1.0:
        gradient *= gradient.dtype.type(factor)
