"""`MLP`: a network as its users hold it. It checks what they give it and hands over to an engine and the loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.checkpoint import SavedNetwork, check_notes, save_network
from fastmlp.checks import (
    ParameterViews,
    Samples,
    all_finite,
    are_scaled_pixels,
    check_callbacks,
    check_inputs,
    check_targets,
    check_targets_and_weights,
    check_validation_data,
    compute_by_blocks,
    copy_checked,
    explaining_lack_of_memory,
    not_finite_error,
    smoothed,
    warn_user,
)
from fastmlp.chunks import MappedRows
from fastmlp.cpus import available_cpus, is_worker
from fastmlp.divergence import DivergenceError
from fastmlp.engines import make_engine
from fastmlp.optimizers import SGD, Optimizer, Schedule
from fastmlp.parameters import CACHE_LINE, ParameterLayout, aligned_copy, initialise, stream
from fastmlp.recipe import (
    Callback,
    History,
    ProgressCallback,
    Recipe,
    TrainingState,
    check_fitting_state,
    check_state,
    make_recipe,
)
from fastmlp.resuming import Checkpoints, check_checkpoint, describe_run, find_checkpoint, prepare_folder
from fastmlp.shapes import InvalidInputsError
from fastmlp.spec import ENGINES, INITIALISERS, NetworkSpec, check_count, check_name, check_number, make_spec, shown
from fastmlp.training import EpochLoop

Array = NDArray[Any]

DEFAULT_OPTIMIZER = SGD(learning_rate=0.1, momentum=0.9)

SCALE_OF_BYTES = 0.01
"""A network whose `input_scale` is smaller may be for pixels as bytes: the first floats it is given are looked at."""


@dataclass(frozen=True)
class Gradients:
    """Derivatives of the loss by the parameters, layer by layer.

    Attributes
    ----------
    weights : list of ndarray (n_in, n_out)
        By the weights, of the network's dtype.
    biases : list of ndarray (n_out,)
        By the biases; empty without biases.
    """

    weights: list[Array]
    biases: list[Array]


class MLP:
    """A multi-layer perceptron.

    Parameters
    ----------
    layer_sizes : sequence of int
        Units a layer, inputs first, outputs last: ``[784, 100, 64, 32, 10]``.
    activation : str or sequence of str, default "relu"
        One name for all hidden layers, or one a layer: ``relu``, ``sigmoid``, ``tanh``, ``identity``,
        ``leaky_relu``, ``elu``, ``gelu``, ``silu``, ``softplus``.
    output_activation : str, optional
        Follows from the loss: ``softmax`` for softmax_cross_entropy, ``sigmoid`` for sigmoid_cross_entropy, ``exp`` for
        poisson, ``identity`` for the others; with these any activation can be named.
    loss : str, default "softmax_cross_entropy"
        ``softmax_cross_entropy`` (classes), ``sigmoid_cross_entropy`` (binary, multilabel); for values, summed over the
        outputs, ``squared_error`` (½ (ŷ − y)²), ``absolute_error``, ``huber``, ``quantile``, and ``poisson``, half the
        deviance of counts. `fastmlp.reference` has the formulas.
    reduction : {"mean", "sum"}
        Of the loss over the samples of a batch.
    bias : bool, default True
        Whether layers add a bias.
    init : str, optional
        ``he_normal``, ``he_uniform``, ``glorot_normal`` or ``glorot_uniform``; by default, layer by layer, He's before
        the ReLU family and Glorot's before the others, as softmax. Arrays are set with `set_parameters`.
    input_scale : float, default 1.0
        X is multiplied by it in the kernels; 1/255 lets pixels stay uint8 in memory. Saved with the model.
    dtype : {"float32", "float64"}
        Of the parameters and of all arithmetic.
    seed : int, default 0
        Of the initial weights and of the shuffling.
    engine : {"numba", "numpy"}
        Compiled kernels, or the plain NumPy of `fastmlp.reference`.
    loss_parameter : float, optional
        Of huber, δ > 0 (default 1); of quantile, the level in (0, 1) (default 0.5). None for every other loss.

    Attributes
    ----------
    notes : dict
        What JSON can hold, under names that are strings; empty at first. `save` writes it with the network, and `load`
        gives it back. A run of ``python -m fastmlp.train`` leaves ``class_names``, ``feature_names`` there.

    Raises
    ------
    ValueError
        If an argument is not one of the above; the message reads name, rule, value.

    Notes
    -----
    Any number of threads may call the methods of a network at once, and the process may fork at any time. Predictions
    during a `fit` are of weights between two states. Two fits of one network at once mix their updates, which nobody
    wants: give each its own network (``copy.deepcopy`` makes one). To replace the weights of a network that others use,
    give them another network: while `set_parameters` copies, they may predict with some of the old and some of the new.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    >>> net = MLP([2, 8, 2], activation="tanh", dtype="float64", seed=1)
    >>> history = net.fit(X, y, epochs=200, batch_size=4)
    >>> net.predict(X).tolist()
    [0, 1, 1, 0]
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        activation: str | Sequence[str] = "relu",
        output_activation: str | None = None,
        loss: str = "softmax_cross_entropy",
        reduction: str = "mean",
        bias: bool = True,
        init: str | None = None,
        input_scale: float = 1.0,
        dtype: Any = "float32",
        seed: int = 0,
        engine: str = "numba",
        loss_parameter: float | None = None,
    ) -> None:
        spec = make_spec(
            layer_sizes, activation, output_activation, loss, reduction, bias, input_scale, dtype, loss_parameter
        )  # fmt: skip
        if not isinstance(init, str | None):
            raise ValueError(f"init must be a name, got {type(init).__name__}; arrays go through set_parameters")
        if init is not None:
            check_name("init", init, INITIALISERS)
        self.seed = check_count("seed", seed, minimum=0)
        self._build(spec, engine)
        with explaining_lack_of_memory(spec):
            initialise(self._layout, self._parameters, init, self.seed)

    def _build(self, spec: NetworkSpec, engine: str, parameters: Array | None = None) -> None:
        check_name("engine", engine, ENGINES)
        self._layout = ParameterLayout(spec)
        self._chooses_class = spec.loss == "softmax_cross_entropy"  # `spec` is a call, which takes time.
        with explaining_lack_of_memory(spec):
            self._parameters = self._layout.allocate() if parameters is None else parameters
        self._engine = make_engine(engine, self._layout)
        self._awaits_floats = spec.input_scale < SCALE_OF_BYTES  # See `_check_inputs`.
        self._dtype_as_is = self._dtype_of_quick_calls()
        self.notes: dict[str, Any] = {}
        self._fits = 0

    def __setstate__(self, state: Any) -> None:
        """Take what a pickle or a copy holds; the kernels want parameters that begin on a cache line."""
        fields, slots = state if isinstance(state, tuple) else (state, None)  # A subclass may have slots.
        for name, value in {**(fields or {}), **(slots or {})}.items():
            setattr(self, name, value)
        held = self._parameters  # Of a mapped file (joblib), or of another machine, it may be anything.
        if held.ctypes.data % CACHE_LINE or not held.flags.writeable or held.dtype != self.spec.dtype:
            self._parameters = aligned_copy(held)
        self._dtype_as_is = self._dtype_of_quick_calls()

    def _dtype_of_quick_calls(self) -> Any:
        """Give the object that is the dtype of nearly all arrays of the network's dtype, see `_of_samples`."""
        return np.dtype(self.spec.dtype) if self._engine.finds_not_finite and not self._awaits_floats else None

    def __repr__(self) -> str:
        return self.spec.as_call(self._engine.name)

    @property
    def spec(self) -> NetworkSpec:
        """The network as data; the engine's memory follows from it, so it cannot be replaced."""
        return self._layout.spec

    # --- Parameters ---------------------------------------------------------------------------------------------------

    @property
    def weights(self) -> ParameterViews:
        """The weights, ``(n_in, n_out)`` arrays, layer by layer.

        They are views: to write into one changes the network. To assign another array to an element, or a list of
        arrays to all, copies them there. Their rows may lie apart: ``W.ravel()`` and ``W.reshape(-1)`` may be copies.
        """
        return ParameterViews("weights", self._layout.weights(self._parameters))

    @weights.setter
    def weights(self, arrays: Sequence[ArrayLike]) -> None:
        self.weights[:] = arrays

    @property
    def biases(self) -> ParameterViews:
        """The biases, ``(n_out,)`` arrays, layer by layer; an empty list with ``bias=False``. Views, like `weights`."""
        return ParameterViews("biases", self._layout.biases(self._parameters))

    @biases.setter
    def biases(self, arrays: Sequence[ArrayLike]) -> None:
        self.biases[:] = arrays

    def set_parameters(self, weights: Sequence[ArrayLike], biases: Sequence[ArrayLike] | None = None) -> None:
        """Copy the given weights and biases into the network.

        Parameters
        ----------
        weights : sequence of array_like
            One ``(n_in, n_out)`` array a layer.
        biases : sequence of array_like, optional
            One ``(n_out,)`` array a layer; zeros if None. None or empty with ``bias=False``.

        Raises
        ------
        ValueError
            If a count or a shape does not match, or a value is not finite. The network is then unchanged.

        Examples
        --------
        >>> net = MLP([2, 1], loss="squared_error")
        >>> net.set_parameters([[[1.0], [2.0]]], [[0.5]])
        >>> net.predict([[1.0, 1.0]]).tolist()
        [[3.5]]
        """
        fresh = self._layout.allocate()
        copy_checked("weights", weights, self._layout.weights(fresh))
        if biases is not None:
            copy_checked("biases", biases, self._layout.biases(fresh))
        self._parameters[:] = fresh

    # --- Inference ----------------------------------------------------------------------------------------------------

    def forward(self, X: Any) -> Array:
        """Compute the network's output, after the output activation.

        Parameters
        ----------
        X : array_like or sparse matrix (n_samples, n_features)
            Any real dtype; uint8 is converted in the kernels. A matrix or array of `scipy.sparse` becomes CSR, and
            the work is that of its entries. A `numpy.memmap` of more than 64 MB is read in chunks.

        Returns
        -------
        ndarray (n_samples, n_outputs)
            Of the network's dtype: probabilities for the two cross-entropies, values for the other losses.

        Raises
        ------
        ValueError
            If X is not a finite numeric array of that shape.
        """
        return self._of_samples(X, self._engine.outputs)

    def predict(self, X: Any) -> Array:
        """Predict the class of each sample, or its values.

        Parameters
        ----------
        X : array_like (n_samples, n_features)
            As in `forward`.

        Returns
        -------
        ndarray
            softmax_cross_entropy: class indices ``(n_samples,)``. sigmoid_cross_entropy: 0 or 1, ``(n_samples,)``
            with one output, else ``(n_samples, n_outputs)``. Other losses: values ``(n_samples, n_outputs)``.

        Raises
        ------
        ValueError
            As `forward`.
        """
        if self._chooses_class:
            return self._of_samples(X, self._engine.classes)
        if not self.spec.is_classifier:
            return self.forward(X)
        return self._decide(self._of_samples(X, self._engine.raw_outputs))

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes (after softmax) or of the labels (after sigmoid).

        Parameters
        ----------
        X : array_like (n_samples, n_features)
            As in `forward`.

        Returns
        -------
        ndarray (n_samples, n_outputs)
            In [0, 1].

        Raises
        ------
        ValueError
            If the loss is not a cross-entropy, whose outputs are no probabilities; and as `forward`.
        """
        self._require_classifier("predict_proba")
        return self.forward(X)

    def loss(self, X: Any, y: ArrayLike) -> float:
        """Compute the loss over all samples, reduced as the network's `reduction` says.

        Parameters
        ----------
        X : array_like (n_samples, n_features)
            As in `forward`.
        y : array_like
            As in `fit`.

        Returns
        -------
        float
            Of the parameters as they are, without a term of L2.

        Raises
        ------
        ValueError
            If X or y does not fit, or is not finite.
        """
        inputs = self._check_inputs(X)
        return self._loss(self._raw_outputs(inputs), self._check_targets(y, len(inputs)))

    def accuracy(self, X: Any, y: ArrayLike) -> float:
        """Compute the fraction of samples whose prediction is right, in [0, 1]; with several labels, all must be right.

        Parameters
        ----------
        X : array_like (n_samples, n_features)
            As in `forward`.
        y : array_like
            As in `fit`.

        Returns
        -------
        float
            Of the samples, each of which counts alike.

        Raises
        ------
        ValueError
            If the loss is not a cross-entropy, or X or y does not fit, or is not finite.
        """
        self._require_classifier("accuracy")
        inputs = self._check_inputs(X)
        return self._accuracy(self._raw_outputs(inputs), self._check_targets(y, len(inputs)))

    def gradients(self, X: Any, y: ArrayLike) -> Gradients:
        """Compute the derivative of `loss` by every parameter.

        Parameters
        ----------
        X : array_like (n_samples, n_features)
            As in `forward`, but a `numpy.memmap` is read as a whole.
        y : array_like
            As in `fit`.

        Returns
        -------
        Gradients
            ``.weights`` and ``.biases``, shaped like the network's.

        Raises
        ------
        ValueError
            If X or y does not fit, or is not finite.

        Examples
        --------
        A step of gradient descent, by hand:

        >>> net = MLP([2, 1], loss="squared_error", dtype="float64")
        >>> net.set_parameters([[[1.0], [2.0]]], [[0.5]])
        >>> gradients = net.gradients([[1.0, 1.0]], [3.0])  # The output is 3.5, so dY = 0.5 and dW = Xᵀ dY.
        >>> gradients.weights[0].tolist(), gradients.biases[0].tolist()
        ([[0.5], [0.5]], [0.5])
        >>> for W, dW in zip(net.weights, gradients.weights):
        ...     W -= 0.1 * dW
        """
        inputs = self._check_inputs(np.asarray(X) if isinstance(X, np.memmap) else X)
        assert not isinstance(inputs, MappedRows)
        loss, flat = self._engine.gradient_function(self._parameters, inputs, self._check_targets(y, len(inputs)))()
        if not np.isfinite(loss) and not all_finite(inputs, self.spec.input_scale):
            raise not_finite_error("X", inputs)
        return Gradients(self._layout.weights(flat), self._layout.biases(flat))

    # --- Training -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        epochs: int = 10,
        batch_size: int = 100,
        optimizer: Optimizer | str = DEFAULT_OPTIMIZER,
        schedule: Schedule | str = "constant",
        shuffle: bool = True,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        threads: int | None = None,
        callbacks: Sequence[Callback] = (),
        progress: ProgressCallback | None = None,
        state: TrainingState | None = None,
        sample_weight: ArrayLike | None = None,
        l2: float = 0.0,
        label_smoothing: float = 0.0,
        clip_norm: float | None = None,
        average: float | None = None,
        dropout: float | Sequence[float] = 0.0,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = 1.0,
        resume: bool = False,
    ) -> History:
        """Train by minibatches, going on from the current parameters.

        Parameters
        ----------
        X : array_like or sparse matrix (n_samples, n_features)
            Any real dtype; uint8 stays uint8 in memory, everything else becomes the network's dtype. Sparse as in
            `forward`. A `numpy.memmap` of more than 64 MB is read in chunks of that much, or of a batch if that is
            more: each epoch shuffles the chunks and the rows of each chunk, not all rows. Shuffle samples that are
            sorted before they are written.
        y : array_like
            softmax_cross_entropy: class indices ``(n_samples,)`` or one-hot rows. sigmoid_cross_entropy: targets in
            [0, 1], ``(n_samples, n_outputs)``, or ``(n_samples,)`` with one output. Other losses: values, likewise;
            for poisson >= 0.
        epochs : int, default 10
            Passes over the data.
        batch_size : int, default 100
            Samples a step; 1 is online, `n_samples` or more is full-batch learning. The last batch may be shorter.
        optimizer : Optimizer or str
            `SGD`, `Adam`, `AdamW` or `RMSprop`; a fresh state at each call. Default: SGD(0.1, momentum=0.9).
        schedule : Schedule or str, default "constant"
            Factor of the learning rate over the run, with its defaults if named.
        shuffle : bool, default True
            Draw a new order of all samples each epoch, unless one batch takes them all.
        validation_data : (X, y), optional
            Evaluated after each epoch.
        threads : int, optional
            None takes what is fastest for this network, and 1 in a process that `multiprocessing` or joblib has
            started. Never more than the CPUs that the process may use. The result is the same, bit for bit, whatever
            the number. The NumPy engine leaves threads to its BLAS.
        callbacks : sequence of callable
            Each called with the `History` after each epoch; a true answer stops the run.
        progress : callable, optional
            Called with a `Progress` about ten times a second; a true answer stops the run.
        state : TrainingState, optional
            Of a run to go on with, whose parameters the network has: same data, optimizer and batch size, but perhaps
            another learning rate or schedule. Brought up to date; but a Ctrl-C without `checkpoint` may leave it some
            steps behind the weights.
        sample_weight : array_like (n_samples,), optional
            Weights >= 0 of the samples: a batch's loss is ``Σ wᵢ lᵢ / Σ wᵢ``, or ``Σ wᵢ lᵢ`` with ``reduction="sum"``.
            A batch whose weights are all 0 changes no parameter, but counts as a step.
        l2 : float, default 0.0
            Adds ``½ l2 Σ W²`` over the weights, not the biases, to each batch's loss, divided as its losses are: with
            ``reduction="mean"`` by the number of samples, or by the sum of their weights. scikit-learn's `alpha`.
        label_smoothing : float, default 0.0
            e in [0, 1): classes are learnt as ``(1 - e) onehot + e / n_classes``, labels as ``(1 - e) y + e / 2``. In
            the training alone: validation is on the targets as they are.
        clip_norm : float, optional
            Scale each step's gradient, that of the L2 term included, down to this 2-norm if its own is greater, over
            all parameters together, as ``torch.nn.utils.clip_grad_norm_`` does.
        average : float, optional
            Decay in (0, 1) of a moving average of all parameters, ``a += (1 - decay) (w - a)`` after every step whose
            batch has a weight, a being w after the run's first step. The network holds the average: callbacks and
            validation see it, and it stays.
        dropout : float or sequence of float, default 0.0
            Rate in [0, 1) of the hidden units that each step leaves out, each sample its own, one rate or one a layer.
            The others are multiplied by ``1 / (1 - rate)``. In the training alone.
        checkpoint : str or path, optional
            Folder, made if missing, whose ``checkpoint.safetensors`` is replaced as the run goes and at its end; when a
            run begins, one that is there moves to the folder's ``previous``; with a `state` that has taken steps, it is
            taken for an earlier one of this run. Ctrl-C and SIGTERM wait for a checkpoint,
            in the main thread, and then do what they always do. (Handlers that C code has installed, as `faulthandler`
            does, are not put back.)
        checkpoint_every : float, default 1.0
            Epochs from one checkpoint to the next, > 0; 0.25 is four an epoch. Each is written at the first step at or
            beyond its point, or later where writing would take more than 5 % of the time.
        resume : bool, default False
            Go on from the checkpoint in the folder, if there is one: the network takes its parameters, and ends with
            the bits, and the history, of the run that was never stopped. All that decides what is learnt must be what
            it was, but for `epochs`, which may be more (and then stretches the schedules that depend on it). Of the
            data only the shape is compared. A run that was over, or that a callback stopped, trains nothing. Callbacks
            are called again for the epochs since the checkpoint. The network takes the checkpoint's `notes` if it has
            none of its own.

        Returns
        -------
        History
            One entry an epoch, those before the checkpoint included.

        Raises
        ------
        ValueError
            If an argument does not fit, or the checkpoint is one of another run; nothing has changed then. But a
            factor of a schedule is looked at before its step; and NaN in a mapped file where it is met, when `state`
            and `checkpoint` have gone on.
        OSError
            If a checkpoint cannot be written; the one before is whole.
        DivergenceError
            If the loss, a weight or an output is not finite any more; the network keeps the best weights so far, those
            after the epoch that the message names. They are judged by the validation loss; without `validation_data`,
            by the training loss of the epoch or of the step after it, whichever is worse.
        """
        inputs = self._check_inputs(X)
        targets, weights = check_targets_and_weights(self.spec, inputs, y, sample_weight)
        recipe = make_recipe(
            self.spec, len(inputs), epochs, batch_size, optimizer, schedule, shuffle, l2, label_smoothing, clip_norm,
            average, dropout,
        )  # fmt: skip
        targets = smoothed(targets, recipe.label_smoothing)
        callbacks = check_callbacks(callbacks)
        if progress is not None and not callable(progress):
            raise ValueError(f"progress must be callable, got {shown(progress)}")
        n_threads = self.threads(recipe.batch_size, threads)
        evaluate = self._check_validation(validation_data, n_threads)
        run: dict[str, Any] = {}
        if checkpoint is not None or state is not None:  # These cannot be put back when the steps meet a NaN.
            if not isinstance(inputs, MappedRows) and not all_finite(inputs, self.spec.input_scale):
                raise not_finite_error("X", inputs, scale=self.spec.input_scale)
            run = describe_run(
                self._engine.name, recipe, len(inputs), isinstance(inputs, MappedRows), sample_weight is not None,
                evaluate is not None,
            )  # fmt: skip
        state, checkpoints = self._begin_or_go_on(recipe, run, state, checkpoint, checkpoint_every, resume)
        is_new = state.step == 0  # A run that goes on is not another one.
        self._fits += is_new
        try:
            with checkpoints or nullcontext():
                EpochLoop(
                    self._engine, self._parameters, inputs, targets, self.spec.reduction == "mean", recipe, state,
                    n_threads, sample_weight=weights, evaluate=evaluate, callbacks=callbacks, progress=progress,
                    checkpoints=checkpoints,
                ).run()  # fmt: skip
        except MemoryError:
            self._fits -= is_new and state.step == 0
            raise
        except DivergenceError:
            # The kernels make the loss NaN where they meet a NaN or an infinity in X: that saves a pass over X.
            if all_finite(inputs, self.spec.input_scale):
                raise
            self._fits -= is_new
            raise not_finite_error("X", inputs, scale=self.spec.input_scale) from None
        return state.history

    def _check_validation(
        self, data: tuple[Any, Any] | None, threads: int
    ) -> Callable[[], tuple[float, float | None]] | None:
        """Give what evaluates the network on validation data: their loss, and the accuracy if there is one."""
        if data is None:
            return None
        X, y = check_validation_data(data)
        inputs = self._check_inputs(X, "validation X")
        if not all_finite(inputs, self.spec.input_scale):
            raise not_finite_error("validation X", inputs, scale=self.spec.input_scale)
        targets = self._check_targets(y, len(inputs), "validation y")

        def evaluate() -> tuple[float, float | None]:
            with np.errstate(over="ignore", invalid="ignore"):  # Divergence is reported as an error.
                outputs = self._raw_outputs(inputs, threads)
                accuracy = self._accuracy(outputs, targets) if self.spec.is_classifier else None
                return self._loss(outputs, targets), accuracy

        return evaluate

    def _begin_or_go_on(
        self, recipe: Recipe, run: dict[str, Any], state: TrainingState | None, checkpoint: Any, every: float,
        resume: bool,
    ) -> tuple[TrainingState, Checkpoints | None]:  # fmt: skip
        """Give the state of a new run, of the one to go on with, or of the checkpoint's; and what writes checkpoints.

        Whatever is wrong is said before anything has changed. `run` is what `describe_run` gives.
        """
        every = check_number("checkpoint_every", every, above=0.0)
        folder = check_checkpoint(checkpoint, resume, state)
        if folder is not None:
            check_notes(self.notes)
        saved = find_checkpoint(folder, self.spec, self.seed, run) if folder is not None and resume else None
        if saved is not None:
            state = saved.state
        if state is not None:
            check_fitting_state(state, recipe, self._parameters, run["n_samples"])
        if folder is not None:
            prepare_folder("checkpoint", folder)

        if saved is not None:
            self._parameters[:] = saved.parameters
            self._fits, self.notes = saved.fits, self.notes or saved.notes
        if state is None:
            state = self.training_state(recipe.optimizer)
        else:
            state.slots = [aligned_copy(slot) for slot in state.slots]
            state.is_over = state.is_over and saved is not None
        state.run = run
        if recipe.average is not None:
            state.unaveraged = aligned_copy(self._parameters if state.unaveraged is None else state.unaveraged)
        if folder is None:
            return state, None
        save, saved_step = partial(self.save, state=state), state.step if saved else None
        return state, Checkpoints(folder, every, save, state.step == 0 and saved is None, saved_step)

    def training_state(self, optimizer: Optimizer) -> TrainingState:
        """Make the state in which a run of `fit` begins: given to it, it holds all that a run must remember.

        Parameters
        ----------
        optimizer : Optimizer
            The one that `fit` will be given.

        Returns
        -------
        TrainingState
            ``fit(state=)`` goes on from it, up to `epochs` in all, and leaves it where it has come to.

        Examples
        --------
        >>> net = MLP([2, 8, 2], seed=0)
        >>> state = net.training_state(SGD(0.1))
        >>> X, y = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]
        >>> for epochs in (50, 100):
        ...     history = net.fit(X, y, epochs, optimizer=SGD(0.1), state=state)
        >>> state.epoch, len(history.train_loss)
        (100, 100)
        """
        slots = [self._layout.allocate() for _ in range(optimizer.n_slots)]
        # Each fit of a network draws orders of its own: a second fit must not repeat the first one's.
        orders = np.random.default_rng(stream(self.seed, "orders", self._fits))
        dropout_seed = stream(self.seed, "dropout", self._fits).generate_state(1, np.uint64)[0]
        return TrainingState(orders, slots, dropout_seed=int(dropout_seed))

    def threads(self, batch_size: int, threads: int | None = None) -> int:
        """Say how many threads `fit` uses.

        Parameters
        ----------
        batch_size : int
            As in `fit`, but for that of a batch larger than all samples, of which `fit` takes their number.
        threads : int, optional
            As in `fit`.

        Returns
        -------
        int
            At least one, and never more than the CPUs that the process may use.

        Raises
        ------
        ValueError
            If one of them is not a whole number >= 1.
        """
        batch_size, limit = check_count("batch_size", batch_size), available_cpus()
        if threads is None:
            return self._engine.choose_threads(batch_size, 1 if is_worker() else limit)
        return min(check_count("threads", threads), limit)

    # --- Files --------------------------------------------------------------------------------------------------------

    def save(
        self,
        path: str | os.PathLike[str],
        state: TrainingState | None = None,
    ) -> None:
        """Write the network to a safetensors file, all its configuration and its `notes` with it.

        Parameters
        ----------
        path : str or path
            Replaced only when the new file is whole.
        state : TrainingState, optional
            Makes the file a checkpoint that `fit` can go on from.

        Raises
        ------
        ValueError
            If a parameter is not finite, `notes` are not what JSON can hold, or an argument is not what it must be.
        OSError
            If the file cannot be written.
        """
        check_state(state)
        save_network(path, self.spec, self.weights, self.biases, self.seed, self._fits, self.notes, state)

    @classmethod
    def load(cls, path: str | os.PathLike[str], engine: str = "numba") -> MLP:
        """Read a network that `save` wrote.

        Parameters
        ----------
        path : str or path
            The file.
        engine : {"numba", "numpy"}
            As in the constructor.

        Returns
        -------
        MLP
            With equal parameters.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ModelFileError
            If it is not a model, whatever it is: the message names the file and what is wrong with it.
        MemoryError
            If there is too little memory for it.

        Examples
        --------
        >>> import tempfile
        >>> net = MLP([2, 8, 2], seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     net.save(f"{folder}/net.safetensors")
        ...     same = MLP.load(f"{folder}/net.safetensors")
        >>> bool((same.weights[0] == net.weights[0]).all())
        True
        """
        return cls._from_saved(SavedNetwork(path), engine)

    @classmethod
    def _from_spec(cls, spec: NetworkSpec) -> MLP:
        """Make a network whose parameters are all zero."""
        net = cls.__new__(cls)
        net.seed = 0
        net._build(spec, "numba")
        return net

    @classmethod
    def _from_saved(cls, saved: SavedNetwork, engine: str) -> MLP:
        net = cls.__new__(cls)
        net._build(saved.spec, engine, saved.parameters)  # Whose memory is the network's from now on.
        net.seed, net._fits, net.notes = saved.seed, saved.fits, saved.notes
        return net

    # --- What the methods above are made of ---------------------------------------------------------------------------

    def _of_samples(self, X: Any, compute: Callable[..., Array]) -> Array:
        """Check X and compute what one of the engine's methods gives for its samples."""
        # What the engine may take as it is: a single sample is predicted in 2 µs, and the full check takes 1.3.
        if type(X) is np.ndarray and X.dtype is self._dtype_as_is and X.ndim == 2:
            try:
                return compute(self._parameters, X)
            except (InvalidInputsError, MemoryError):  # Not `contextlib.suppress`, which takes 0.4 µs.
                pass
        return compute_by_blocks(compute, self._parameters, self._check_inputs(X))

    def _check_inputs(self, X: Any, what: str = "X") -> Samples:
        inputs = check_inputs(self.spec, X, what, self._engine.finds_not_finite)
        if self._awaits_floats and isinstance(inputs, np.ndarray) and inputs.dtype != np.uint8:
            self._awaits_floats = False
            self._dtype_as_is = self._dtype_of_quick_calls()
            if are_scaled_pixels(X):
                warn_user(
                    f"{what} is within 0 to 1, and this network multiplies it by its input_scale, "
                    f"{self.spec.input_scale:.4g}: if that was for pixels from 0 to 255, give it those"
                )
        return inputs

    def _check_targets(self, y: ArrayLike, n_samples: int, what: str = "y") -> Array:
        return check_targets(self.spec, y, n_samples, what)

    def _require_classifier(self, what: str) -> None:
        if not self.spec.is_classifier:
            raise ValueError(f"{what} needs a cross-entropy loss, this network has loss {self.spec.loss!r}")

    def _raw_outputs(self, X: Samples, threads: int | None = None) -> Array:
        return compute_by_blocks(self._engine.raw_outputs, self._parameters, X, threads)

    def _decide(self, Z: Array) -> Array:
        """Class indices, or 0/1 labels, from the logits."""
        if self.spec.loss == "softmax_cross_entropy":
            classes: Array = Z.argmax(axis=1)
            return classes
        labels = (Z > 0).astype(np.int64)
        return labels[:, 0] if labels.shape[1] == 1 else labels

    def _loss(self, outputs: Array, y: Array) -> float:
        total = float(self._engine.row_losses(outputs, y).sum())
        return total * (1.0 / len(y) if self.spec.reduction == "mean" else 1.0)

    def _accuracy(self, Z: Array, y: Array) -> float:
        true = y if y.ndim == 1 else y > 0.5  # Labels may be probabilities.
        right = self._decide(Z).reshape(len(y), -1) == true.reshape(len(y), -1)
        return float(right.all(axis=1).mean())
