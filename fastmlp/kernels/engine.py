"""The Numba engine: Python's side of the minibatch loop. It says what is to be done, starts the threads, and waits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.cpus import available_cpus
from fastmlp.dropout import step_keys, threshold
from fastmlp.kernels import constants as c
from fastmlp.kernels.constants import batch_scales, bits, step_constants, update_of
from fastmlp.kernels.first_start import compile_together
from fastmlp.kernels.memory import Scratch, address, addresses, kind_of, plan_of
from fastmlp.kernels.native import Kernel, activation_kernels, kernel
from fastmlp.kernels.prepared import GradientFunction, SingleSteps
from fastmlp.kernels.public import losses_of_rows
from fastmlp.kernels.records import LAYER, SAMPLE, SampleAddresses
from fastmlp.kernels.sizes import BLOCK_ROWS
from fastmlp.kernels.threads import NoThreadError, run_together
from fastmlp.parameters import ParameterLayout
from fastmlp.recipe import Recipe, TrainingState
from fastmlp.shapes import InvalidInputsError
from fastmlp.sparse import Inputs, SparseRows

Array = NDArray[Any]

FORWARD_KERNELS = {"forward": kernel("loop.forward"), "multiply_rows": kernel("products.multiply_rows")}
TRAINING_KERNELS = {
    "backward_through_layers": kernel("loop.backward_through_layers"),
    "backward_to_weights": kernel("weights.backward_to_weights"),
    "update_piece": kernel("weights.update_piece"),
    "prepare_weights": kernel("weights.prepare_weights"),
    "transpose_weights": kernel("weights.transpose_weights"),
    "multiply_columns": kernel("products.multiply_columns"),
}
"""The kernels that the loop calls by address, by their fields of `State`."""

FORWARD_KERNELS_BY_KIND = {
    "dense": {
        "gather": kernel("gathering.gather"),
        "multiply_inputs": kernel("gathering.multiply_inputs"),
        "multiply_listed_rows": kernel("products.multiply_listed_rows"),
    },
    "sparse": {"gather": kernel("sparse.gather_sparse"), "multiply_inputs": kernel("sparse.multiply_entries")},
}
TRAINING_KERNELS_BY_KIND = {
    "dense": {"multiply_listed_columns": kernel("products.multiply_listed_columns")},
    "sparse": {
        "sort_entries": kernel("sparse.sort_entries"),
        "multiply_sorted_entries": kernel("sparse.multiply_sorted_entries"),
    },
}
"""The kernels that differ with the kind of samples."""

SINGLE_ROW_KERNELS = {
    "multiply_row": kernel("products.multiply_row"),
    "multiply_listed_row": kernel("products.multiply_listed_row"),
}
"""The kernels for single rows, which not everyone has."""

FORWARD_ALL, TRAIN_STEPS = kernel("loop.forward_all"), kernel("loop.train_steps")
"""The kernels that the engine calls."""

SLOTS = {"sgd": 0, "sgd_momentum": 1, "sgd_nesterov": 1, "adam": 2, "rmsprop": 1}
"""How many buffers the kernels of the updates take, whatever an optimizer says."""

INT64 = np.dtype(np.int64)
NO_CLASSES = np.empty(0, INT64)
DENSE_ALONE, SPARSE_ALONE = ("dense", 1), ("sparse", 1)
"""The memory of a call without threads, see `fastmlp.kernels.memory.Plan`."""

STEP_WORK = 1_000_000
"""Multiply-adds of a step that are worth one of three threads or more, in float32; in float64 they take twice as long.
"""
STEP_WORK_FOR_TWO = 500_000
"""Multiply-adds of a step that is worth two threads, and then takes 0.6 to 0.96 of the time; with less, some take
longer."""
FORWARD_WORK = 20_000_000
"""Multiply-adds of a forward pass that are worth one more thread; it starts its threads anew."""
SHORT_WORK = 200_000
"""Multiply-adds of a forward pass of some 10 µs, which does not let Python's lock (the GIL) go. Another thread that
computes would take it, and give it back up to 5 ms later. Of longer calls, threads can make several at once."""
LAYER_WORK = 400
"""What a row of a layer takes besides, counted in multiply-adds: 10 to 20 ns, most of the time of a narrow network."""


class Engine:
    """Forward, gradients and training steps of one network; `fastmlp.reference.Engine` documents the methods.

    Parameters
    ----------
    layout : ParameterLayout
        The network and where its parameters stand.
    """

    name = "numba"
    finds_not_finite = True

    def __init__(self, layout: ParameterLayout) -> None:
        self.layout = layout
        self.dtype = np.dtype(layout.spec.dtype)
        self._plan = plan_of(layout)
        sizes = layout.spec.layer_sizes
        self._n_outputs = sizes[-1]
        self._work = sum(n_in * n_out for n_in, n_out in pairwise(sizes))  # Multiply-adds a sample.
        self._rows_for_two = 2 * FORWARD_WORK // self._work  # Fewer are one thread's, in a forward pass.
        self._forward_all: Any = None
        self._no_outputs = np.empty((0, self._n_outputs), self.dtype)
        self._rows_of_short_calls = SHORT_WORK // (self._work + LAYER_WORK * (len(sizes) - 1))
        self.rows_of_short_steps = self._rows_of_short_calls // 3  # Forward, dX, dW.
        self._spare, self._spare_dense = self._plan.spare, self._plan.spare[DENSE_ALONE]

    def __reduce__(self) -> Any:
        return Engine, (self.layout,)

    def choose_threads(self, batch_size: int, limit: int) -> int:
        """As many as have enough to do in a step."""
        work = batch_size * self._work * self.dtype.itemsize // 4
        return max(1, min(limit, max(work // STEP_WORK, 2 if work >= STEP_WORK_FOR_TWO else 1)))

    def sums_in_halves(self, batch_size: int) -> bool:
        """Whether dW is summed in halves where it may be, which is worth it for two threads.

        However many threads there are: the last bits of the weights depend on it, and so on the thresholds above.
        """
        return self.choose_threads(batch_size, 2) == 2

    def compile(self, X: Inputs, recipe: Recipe | None = None) -> None:
        """Compile the training loop for this dtype, or load it from the cache."""
        parts = list(self._training_kernels(X, recipe).values())
        for name in self._plan.activations:
            parts += activation_kernels(name)
        parts += {**FORWARD_KERNELS, **FORWARD_KERNELS_BY_KIND[kind_of(X)]}.values()
        compile_together([*parts, TRAIN_STEPS], self.dtype, available_cpus())

    def raw_outputs(self, parameters: Array, X: Inputs, threads: int | None = None) -> Array:
        """Compute the outputs: without their activation, where it is a part of the loss."""
        outputs = np.empty((X.shape[0], self._n_outputs), self.dtype)
        self._forward(parameters, X, outputs, NO_CLASSES, threads)
        return outputs

    def outputs(self, parameters: Array, X: Inputs, threads: int | None = None) -> Array:
        """Compute the outputs, with their activation."""
        name = self.layout.spec.output_activation
        if not self.layout.spec.loss_takes_logits or name not in c.FUSED_ACTIVATIONS:
            outputs = self.raw_outputs(parameters, X, threads)
            if name == "exp":
                with np.errstate(over="ignore"):
                    np.exp(outputs, out=outputs)
            return outputs
        outputs = np.empty((X.shape[0], self._n_outputs), self.dtype)
        activate = kernel(f"losses.{name}_outputs").address(self.dtype)
        self._forward(parameters, X, outputs, NO_CLASSES, threads, activate)
        return outputs

    def classes(self, parameters: Array, X: Inputs, threads: int | None = None) -> NDArray[np.int64]:
        """Compute the largest output of each sample."""
        classes = np.empty(len(X), INT64)
        self._forward(parameters, X, self._no_outputs, classes, threads)
        return classes

    def _forward(
        self,
        parameters: Array,
        X: Inputs,
        outputs: Array,
        classes: NDArray[np.int64],
        threads: int | None,
        activate: int = 0,
    ) -> None:
        """Write the outputs, or the classes, of X; raise `InvalidInputsError` if X is not finite.

        Also if X has the wrong width, or a row is not contiguous: the kernel checks both.
        """
        n_samples = len(X)
        if n_samples >= self._rows_for_two and threads != 1:
            self._forward_together(parameters, X, outputs, classes, threads, activate)
            return
        if type(X) is SparseRows:  # Not `isinstance`, which takes five times as long for an array.
            if X.n_columns != self.layout.spec.layer_sizes[0]:
                raise InvalidInputsError
            spare, rows = self._spare[SPARSE_ALONE], np.empty((n_samples, 0), self.dtype)
            scratch = self.take_scratch(*SPARSE_ALONE)
            self._make_room(scratch, X)
            scratch.samples[SAMPLE.values : SAMPLE.starts + 1] = addresses(X)
        else:
            spare, rows = self._spare_dense, X
            try:  # What `take_scratch` does, without a call that takes longer than a small layer.
                scratch = spare.pop()
            except IndexError:
                scratch = self.allocate(*DENSE_ALONE)
        if n_samples == 1 and not scratch.takes_single_rows:
            scratch.set(**{name: part.address(self.dtype) for name, part in SINGLE_ROW_KERNELS.items()})
            scratch.takes_single_rows = True
        lets_go = n_samples > self._rows_of_short_calls
        forward_all = self._forward_all
        if forward_all is None:  # Not a `cached_property`: before Python 3.12 it has a lock, which a fork would copy.
            forward_all = self._forward_all = FORWARD_ALL.entry(self.dtype)
        is_fit = forward_all(lets_go, scratch.address, parameters, rows, rows.itemsize, outputs, classes, activate)
        spare.append(scratch)
        if not is_fit:
            raise InvalidInputsError

    def _forward_together(
        self, parameters: Array, X: Inputs, outputs: Array, classes: NDArray[np.int64], limit: int | None, activate: int
    ) -> None:
        """Do the same on as many threads as have enough to do."""
        n, work = len(X), self._work_of(X) if isinstance(X, SparseRows) else len(X) * self._work
        threads = max(1, min(work // FORWARD_WORK, available_cpus(), limit or n, n))
        edges = [n * t // threads for t in range(threads + 1)]
        parts = [(X[a:b], outputs[a:b], classes[a:b]) for a, b in pairwise(edges)]
        try:
            run_together(lambda t: self._forward(parameters, *parts[t], threads=1, activate=activate), threads)
        except NoThreadError:
            self._forward(parameters, X, outputs, classes, threads=1, activate=activate)

    def _work_of(self, X: SparseRows) -> int:
        """Multiply-adds of a forward pass of sparse samples."""
        n_in, width, *_ = self.layout.spec.layer_sizes
        return X.n_entries * width + len(X) * (self._work - n_in * width)

    def row_losses(self, outputs: Array, y: Array) -> NDArray[np.float64]:
        """Compute the loss of each sample."""
        return losses_of_rows(self.layout.spec.loss, outputs, y, 1.0, self.layout.spec.loss_parameter)[0]

    def gradient_function(
        self,
        parameters: Array,
        X: Inputs,
        y: Array,
        sample_weight: NDArray[np.float64] | None = None,
        loss_cap: float = np.inf,
    ) -> GradientFunction:
        """Make what computes the loss and its derivative by every parameter, as often as it is called."""
        return GradientFunction(self, parameters, X, y, sample_weight, loss_cap)

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
        """Take one step for each learning rate."""
        scales = batch_scales(
            self.layout.spec, sample_weight, orders, recipe.batch_size, first_batch, len(learning_rates)
        )
        constants = self.constants_of_steps(state, recipe, learning_rates, scales)
        key = kind_of(X), threads
        scratch = self.take_scratch(*key)
        kept = self.set_up_steps(scratch, parameters, state, X, y, orders, recipe, sample_weight, average)
        memory = kept, parameters, X, y, orders, sample_weight, average
        try:
            return self._run(key, scratch, constants, recipe.batch_size, first_batch, memory)
        except NoThreadError:  # No step has been taken: one thread does the same.
            return self.train_steps(
                parameters, state, X, y, orders, recipe, first_batch, learning_rates, 1, sample_weight, average
            )

    def single_steps(
        self, parameters: Array, state: TrainingState, recipe: Recipe, average: Array | None = None
    ) -> SingleSteps:
        """Make what takes single steps on dense batches."""
        return SingleSteps(self, parameters, state, recipe, average)

    def constants_of_steps(
        self, state: TrainingState, recipe: Recipe, learning_rates: NDArray[np.float64], scales: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Give the constants of the steps to come; `scales` are from `batch_scales`."""
        constants = step_constants(recipe.optimizer, state.step, learning_rates)
        constants[:, c.SCALE], constants[:, c.L2] = scales, recipe.l2 * scales
        constants[:, c.LOSS_SCALE] = recipe.loss_factor * scales
        if recipe.dropout:
            constants[:, c.KEY] = step_keys(state.dropout_seed, state.step, len(learning_rates)).view(np.float64)
        constants[:, c.KEEP] = recipe.average or 0.0
        if state.step == 0:
            constants[0, c.KEEP] = 0.0
        return constants

    def set_up_steps(
        self,
        scratch: Scratch,
        parameters: Array,
        state: TrainingState,
        X: Inputs,
        y: Array,
        orders: NDArray[np.int64],
        recipe: Recipe,
        sample_weight: NDArray[np.float64] | None,
        average: Array | None,
    ) -> tuple[Array, ...]:
        """Say to the loop all that steps need but their constants; give what else the caller must keep alive."""
        slots = tuple(state.slots)  # Others may put other arrays into the list.
        if len(slots) != SLOTS[update_of(recipe.optimizer)]:
            raise ValueError(f"the optimizer's buffers must be as many as its kernel changes, got {len(slots)}")
        self._check_buffers(parameters, *slots, *(() if average is None else (average,)))
        slot1, slot2 = [*map(address, slots), 0, 0][:2]
        layers = self._layers_with_dropout(recipe.dropout) if recipe.dropout else self._plan.layers
        halves = self.sums_in_halves(recipe.batch_size)
        if halves and "sums" not in scratch.arrays:
            scratch.allocate({"sums": (2 * self._plan.sums_size, self.dtype.name)})
        if (recipe.batch_size > BLOCK_ROWS or recipe.clip_norm is not None) and "gradient" not in scratch.arrays:
            scratch.allocate({"gradient": (self.layout.size, self.dtype.name)})
        gradient = address(scratch.arrays["gradient"]) if "gradient" in scratch.arrays else 0
        self.set_up_training(
            scratch, parameters, X, y, orders, sample_weight, recipe, recipe.loss_cap, gradient=gradient,
            slot1=slot1, slot2=slot2, average=0 if average is None else address(average),
            layers=address(layers), halves=halves,
        )  # fmt: skip
        return layers, *slots

    def _run(
        self, key: tuple[str, int], scratch: Scratch, constants: Array, batch_size: int, first_batch: int, memory: Any
    ) -> NDArray[np.float64]:
        """Run the loop, a step for each row of its constants, and give the steps' losses."""
        losses = np.empty(len(constants))
        run, lets_go = TRAIN_STEPS.entry(self.dtype), True
        arguments = lets_go, scratch.address, address(constants), batch_size, first_batch, address(losses), len(losses)
        threads = key[1]
        # A thread that outlives an interrupted call must not find its memory gone: its function holds all of it.
        memory = memory, scratch, constants, losses

        def work(thread: int, memory: Any = memory) -> int:
            return run(*arguments, thread, threads)

        def call_off() -> None:
            scratch.arrays["barrier"][1] = 1

        done = run_together(work, threads, call_off)
        scratch.set(layers=address(self._plan.layers))
        if np.isfinite(losses[done - 1 : done]).all():
            self.give_back(*key, scratch)
        return losses[:done]

    def _layers_with_dropout(self, rates: tuple[float, ...]) -> NDArray[np.int64]:
        """The table of layers with dropout's thresholds, and with memory of its own for what it leaves."""
        layers = self._plan.layers.copy()
        for number, limit in enumerate(map(threshold, rates)):
            if limit:  # A layer without dropout is not copied to the other place.
                layers[number, LAYER.threshold], layers[number, LAYER.A] = limit, self._plan.dropped[number]
        return layers

    def _training_kernels(self, X: Inputs, recipe: Recipe | None) -> dict[str, Kernel]:
        """The kernels that the loop calls besides the forward pass's: for a recipe, or for gradients alone."""
        is_softmax = self.layout.spec.loss == "softmax_cross_entropy"
        # Of two processes that compile, one begins here, the other at the end: short kernels in the middle are best.
        parts = {"softmax_cross_entropy": kernel("losses.softmax_cross_entropy")} if is_softmax else {}
        parts |= {**TRAINING_KERNELS, **TRAINING_KERNELS_BY_KIND[kind_of(X)]}
        parts["loss_and_output_gradient"] = kernel("losses.classes_loss" if is_softmax else "losses.values_loss")
        if recipe is not None:
            if 1 in (recipe.batch_size, len(X) % recipe.batch_size):
                parts.update(SINGLE_ROW_KERNELS)
            parts["update"] = kernel(f"updates.{update_of(recipe.optimizer)}")
            if recipe.clip_norm is not None:
                parts["update_clipped"] = kernel("weights.update_clipped")
            if recipe.dropout:
                parts["drop"] = kernel("dropout.drop")
        return parts

    def set_up_training(
        self,
        scratch: Scratch,
        parameters: Array,
        X: Inputs,
        y: Array,
        orders: NDArray[np.int64],
        sample_weight: NDArray[np.float64] | None,
        recipe: Recipe | None,
        loss_cap: float,
        **fields: int,
    ) -> None:
        """Say to the loop where the samples are and what else it needs; the caller keeps the arrays alive."""
        self._check_samples(X, y, orders, sample_weight)
        n_orders = 1 if orders.ndim == 1 else len(orders)
        values = columns = starts = 0
        if isinstance(X, SparseRows):
            values, columns, starts = addresses(X)
            self._make_room(scratch, X)
        scratch.samples[:] = SampleAddresses(
            X=address(X) if isinstance(X, np.ndarray) else 0,
            X_is_uint8=X.dtype == np.uint8,
            X_stride=X.strides[0] if isinstance(X, np.ndarray) else 0,
            y=address(y),
            orders=address(orders),
            n_orders=n_orders,
            n_samples=len(X),
            weights=0 if sample_weight is None else address(sample_weight),
            values=values,
            columns=columns,
            starts=starts,
            y_stride=y.strides[0],
        )
        scratch.arrays["barrier"][:] = 0
        clips = recipe is not None and recipe.clip_norm is not None
        scratch.set(
            parameters=address(parameters),
            update=0,
            label_smoothing=bits(recipe.label_smoothing if recipe else 0.0),
            clip_norm=bits(recipe.clip_norm or 0.0 if recipe else 0.0),
            weight_squares=address(scratch.arrays["squares_of_weights"]) if recipe and recipe.l2 else 0,
            gradient_squares=address(scratch.arrays["squares_of_gradient"]) if clips else 0,
            **fields,
        )
        if self.layout.spec.is_classifier:
            scratch.set(loss_high=bits(loss_cap))
        scratch.set(**{name: part.address(self.dtype) for name, part in self._training_kernels(X, recipe).items()})

    def _check_buffers(self, *buffers: Array) -> None:
        """Raise ValueError if one is not like the parameters: the kernels are told where they are, and no more."""
        for each in buffers:
            if each.shape != (self.layout.size,) or each.dtype != self.dtype or not each.flags.carray:
                raise ValueError(
                    f"the optimizer's buffers must be like the network's, got {each.shape} of {each.dtype}, "
                    f"{'' if each.flags.carray else 'not '}contiguous and writable"
                )

    def _check_samples(
        self, X: Inputs, y: Array, orders: NDArray[np.int64], sample_weight: NDArray[np.float64] | None
    ) -> None:
        """Raise ValueError if these do not belong together; the values of y were looked at before.

        It is the last look: since the others, users' code may have run, and changed a shape or a dtype in place.
        """
        n, (n_in, *_, n_out) = orders.shape[-1], self.layout.spec.layer_sizes
        is_softmax = self.layout.spec.loss == "softmax_cross_entropy"
        shape_of_y, dtype_of_y = ((n,), INT64) if is_softmax else ((n, n_out), self.dtype)
        fits = X.shape == (n, n_in) and X.dtype in (self.dtype, np.uint8)
        fits = fits and y.shape == shape_of_y and y.dtype == dtype_of_y
        if sample_weight is not None:
            fits = fits and sample_weight.shape == (n,) and sample_weight.dtype == np.float64
        if not fits:
            raise ValueError(f"X must be ({n}, {n_in}) and y {shape_of_y} all the time, got {X.shape} and {y.shape}")

    def take_scratch(self, kind: str, threads: int) -> Scratch:
        """Scratch memory for one call: what an earlier call has given back, or new."""
        try:
            return self._spare[kind, threads].pop()
        except IndexError:
            return self.allocate(kind, threads)

    def give_back(self, kind: str, threads: int, scratch: Scratch) -> None:
        """Let other calls have this memory; not if a loss was not finite: NaN may be left where zeros must be."""
        self._spare[kind, threads].append(scratch)

    def _make_room(self, scratch: Scratch, X: SparseRows) -> None:
        """Give memory for sparse samples room for as many entries as any block of these has."""
        n = X.most(BLOCK_ROWS)
        if len(scratch.arrays["entry_values"]) < n:
            values, numbers = (n, self.dtype.name), (n, "int32")
            scratch.allocate(
                {"entry_values": values, "entry_columns": numbers, "sorted_values": values, "sorted_rows": numbers}
            )

    def allocate(self, kind: str, threads: int) -> Scratch:
        """Make scratch memory."""
        for layer, name in zip(self._plan.layers, self._plan.activations, strict=True):
            for field, part in zip((LAYER.activate, LAYER.multiply_by_slope), activation_kernels(name), strict=False):
                layer[field] = part.address(self.dtype)
        kernels_of_kind = {**FORWARD_KERNELS, **FORWARD_KERNELS_BY_KIND[kind]}
        addresses_of_them = {name: part.address(self.dtype) for name, part in kernels_of_kind.items()}
        return self._plan.allocate(kind, threads, addresses_of_them)
