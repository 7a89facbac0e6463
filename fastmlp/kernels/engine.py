"""The Numba engine: Python's side of the minibatch loop. It lays out the memory, starts the threads, and waits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from fastmlp.dropout import step_keys, threshold
from fastmlp.kernels import elementwise as e
from fastmlp.kernels import gathering, loop, products, sparse, weights
from fastmlp.kernels.first_start import compile_together
from fastmlp.kernels.gathering import MASK_SLACK
from fastmlp.kernels.jit import Kernel
from fastmlp.kernels.lists import TURNED_BYTES
from fastmlp.kernels.loop import BLOCK_ROWS
from fastmlp.kernels.records import SAMPLE, Layer, Part, Samples, State
from fastmlp.kernels.threads import run_together
from fastmlp.kernels.weights import WEIGHT_ROWS
from fastmlp.optimizers import SGD, Adam, Optimizer, RMSprop
from fastmlp.parameters import ParameterLayout, aligned_zeros, padded
from fastmlp.shapes import NotFiniteError
from fastmlp.sparse import Inputs, SparseRows
from fastmlp.spec import NetworkSpec
from fastmlp.training import Recipe, TrainingState, available_cpus

Array = NDArray[Any]

FORWARD_KERNELS = {"forward": loop.forward, "multiply_rows": products.multiply_rows}
TRAINING_KERNELS = {
    "backward_through_layers": loop.backward_through_layers,
    "backward_to_weights": weights.backward_to_weights,
    "update_piece": weights.update_piece,
    "prepare_weights": weights.prepare_weights,
    "transpose_weights": weights.transpose_weights,
    "multiply_columns": products.multiply_columns,
}
"""The kernels that the loop calls by address, by their fields of `State`."""

FORWARD_KERNELS_BY_KIND = {
    "dense": {
        "gather": gathering.gather, "multiply_inputs": gathering.multiply_inputs,
        "multiply_listed_rows": products.multiply_listed_rows,
    },
    "sparse": {"gather": sparse.gather_sparse, "multiply_inputs": sparse.multiply_entries},
}  # fmt: skip
TRAINING_KERNELS_BY_KIND = {
    "dense": {"multiply_listed_columns": products.multiply_listed_columns},
    "sparse": {
        "sort_entries": sparse.sort_entries, "multiply_sorted_entries": sparse.multiply_sorted_entries,
    },
}  # fmt: skip
"""Those that differ with the kind of samples."""

SINGLE_ROW_KERNELS = {"multiply_row": products.multiply_row, "multiply_listed_row": products.multiply_listed_row}
"""Those for single rows, which not everyone has."""

FORWARD_ALL = Kernel(
    loop.forward_all,
    lambda T, X_type: (
        types.int64, types.Array(X_type, 2, "A", readonly=True), types.Array(T, 2, "C"),
        types.Array(types.int64, 1, "C"),
    ),
)  # fmt: skip

INT64 = np.dtype(np.int64)
NO_CLASSES = np.empty(0, INT64)
DENSE_ALONE, SPARSE_ALONE = ("dense", 1), ("sparse", 1)
"""The memory of a call without threads, see `Engine._spare`."""

PARTS = 2
"""Parts of the inputs, where there are many: so many threads can have one each to themselves. The sums of the first
layer are made part by part whatever the number of threads, so that the weights have the same bits."""
PART_INPUTS = 128
"""Inputs that are worth a part: with fewer, two threads are as fast when they share the rows."""

STEP_WORK = 1_000_000
"""Multiply-adds of a step that are worth a thread, in float32; in float64 they take twice as long. With two threads,
steps of twice this take 0.74 to 0.97 of the time; with less, some take longer."""
FORWARD_WORK = 20_000_000
"""The same for a forward pass, which starts its threads anew."""


class Scratch:
    """Memory of one call that means nothing after it, and the `State` that says where it is."""

    def __init__(self, network: dict[str, int], sizes: dict[str, tuple[int, str]]) -> None:
        self.arrays: dict[str, Array] = {}
        self.state = np.zeros(len(State._fields), dtype=np.int64)
        self.place = address(self.state)
        self.parameters: Array | None = None
        self.spare: list[Scratch] = []  # Where it goes after the call.
        self.takes_single_rows = False  # Whether the state has the kernels for those.
        self.samples = np.zeros(len(Samples._fields), dtype=np.int64)
        self.set(**network, samples=address(self.samples))
        self.allocate(sizes)

    def allocate(self, sizes: dict[str, tuple[int, str]]) -> None:
        """Make arrays of zeros, in the place of those of the same names, and write to the state where they are."""
        arrays = {name: aligned_zeros(size, dtype) for name, (size, dtype) in sizes.items()}
        self.arrays.update(arrays)
        self.set(**{name: address(array) for name, array in arrays.items() if name in State._fields})

    def set(self, **fields: int) -> None:
        """Write fields of the state."""
        for name, value in fields.items():
            self.state[State._fields.index(name)] = value


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
        self._like = self.dtype.type(0)
        self._activations = activations_of(layout.spec)
        self._layers, self._parts, self._dropped, self._workspace_size = plan(layout)
        sizes = layout.spec.layer_sizes
        self._n_outputs = sizes[-1]
        self._work = sum(n_in * n_out for n_in, n_out in pairwise(sizes))  # Multiply-adds a sample.
        self._rows_for_two = 2 * FORWARD_WORK // self._work  # Fewer are one thread's, in a forward pass.
        self._no_outputs = np.empty((0, self._n_outputs), self.dtype)
        self._forward_entries: dict[Any, Any] = {}
        # By the kind of samples and threads: scratch memory that no call is using now.
        self._spare: dict[tuple[str, int], list[Scratch]] = {}

    def __reduce__(self) -> Any:
        return Engine, (self.layout,)

    def choose_threads(self, batch_size: int, limit: int) -> int:
        """As many as have enough to do in a step."""
        return max(1, min(limit, batch_size * self._work * self.dtype.itemsize // (4 * STEP_WORK)))

    def compile(self, X: Inputs, recipe: Recipe | None = None) -> None:
        """Compile the training loop for this dtype, or load it from the cache."""
        parts = list(self._training_kernels(X, recipe).values())
        for activation in filter(None, map(e.ACTIVATIONS.get, self._activations)):
            parts += activation.activate, activation.multiply_by_slope
        parts += {**FORWARD_KERNELS, **FORWARD_KERNELS_BY_KIND[kind_of(X)]}.values()
        compile_together(parts, [loop.train_steps], self.dtype, available_cpus())

    def forward(self, parameters: Array, X: Inputs, threads: int | None = None) -> Array:
        """Compute the outputs: without their activation, where it is a part of the loss."""
        outputs = np.empty((X.shape[0], self._n_outputs), self.dtype)
        self._forward(parameters, X, outputs, NO_CLASSES, threads)
        return outputs

    def classes(self, parameters: Array, X: Inputs, threads: int | None = None) -> NDArray[np.int64]:
        """Compute the largest output of each sample."""
        classes = np.empty(len(X), INT64)
        self._forward(parameters, X, self._no_outputs, classes, threads)
        return classes

    def _forward(
        self, parameters: Array, X: Inputs, outputs: Array, classes: NDArray[np.int64], threads: int | None
    ) -> None:
        n = len(X)
        if n < self._rows_for_two or threads == 1:
            is_finite = self._forward_part(parameters, X, outputs, classes)
        else:
            work_of_all = self._work_of(X) if isinstance(X, SparseRows) else n * self._work
            threads = max(1, min(work_of_all // FORWARD_WORK, threads or available_cpus()))
            edges = [n * t // threads for t in range(threads + 1)]
            parts = [(X[a:b], outputs[a:b], classes[a:b]) for a, b in pairwise(edges)]
            are_finite = [False] * threads

            def work(t: int) -> None:
                are_finite[t] = self._forward_part(parameters, *parts[t])

            run_together(work, threads)
            is_finite = all(are_finite)
        if not is_finite:
            raise NotFiniteError

    def _work_of(self, X: SparseRows) -> int:
        """Multiply-adds of a forward pass of sparse samples."""
        n_in, width, *_ = self.layout.spec.layer_sizes
        return X.n_entries * width + len(X) * (self._work - n_in * width)

    def _forward_part(self, parameters: Array, X: Inputs, outputs: Array, classes: NDArray[np.int64]) -> bool:
        """Write the outputs, or the classes, of X; say whether X is finite."""
        entry = self._forward_entries.get(X.dtype) or self._forward_entry(X.dtype)
        if type(X) is SparseRows:  # Not `isinstance`, which takes five times as long for an array.
            scratch, rows = self._take(SPARSE_ALONE, parameters), np.empty((len(X), 0), self.dtype)
            self._make_room(scratch, X)
            scratch.samples[SAMPLE.values : SAMPLE.starts + 1] = addresses(X)
        else:
            scratch, rows = self._take(DENSE_ALONE, parameters), X
        if len(rows) == 1 and not scratch.takes_single_rows:
            scratch.set(**{name: part.address(self.dtype) for name, part in SINGLE_ROW_KERNELS.items()})
            scratch.takes_single_rows = True
        doubt: float = entry(scratch.place, rows, outputs, classes)
        scratch.spare.append(scratch)
        return doubt == 0.0

    def _forward_entry(self, dtype: Any) -> Any:
        return self._forward_entries.setdefault(dtype, FORWARD_ALL.entry(self.dtype, dtype))

    def gradients(
        self, parameters: Array, X: Inputs, y: Array, sample_weight: NDArray[np.float64] | None = None
    ) -> tuple[float, Array]:
        """Loss and its derivative by every parameter."""
        gradient, losses, orders = self.layout.allocate(), np.empty(1), np.arange(len(X))
        constants = np.zeros((1, e.N_CONSTANTS))
        scales = batch_scales(self.layout.spec, sample_weight, orders[None], len(X), 0, 1)
        constants[:, e.SCALE] = constants[:, e.LOSS_SCALE] = scales[0]
        scratch = self._take((kind_of(X), 1), parameters)
        self._set_up_training(scratch, X, y, orders, sample_weight, None, gradient=address(gradient))
        run = loop.train_steps.entry(self.dtype)
        run(
            scratch.place, address(constants), len(X), 0, address(losses), 1, 0, 1,
            self._like,
        )  # fmt: skip
        scratch.spare.append(scratch)
        if not np.isfinite(losses[0]):
            gradient[:] = np.nan  # The loop stops before it: zeros would look like a minimum.
        return float(losses[0]), gradient

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
        n_steps, batch_size, slots = len(learning_rates), recipe.batch_size, state.slots
        constants = step_constants(recipe.optimizer, state.step, learning_rates)
        scales = batch_scales(self.layout.spec, sample_weight, orders, batch_size, first_batch, n_steps)
        constants[:, e.SCALE], constants[:, e.L2] = scales, recipe.l2 * scales
        constants[:, e.LOSS_SCALE] = recipe.loss_factor * scales
        constants[:, e.KEY] = step_keys(state.dropout_seed, state.step, n_steps).view(np.float64)
        constants[:, e.KEEP] = recipe.average or 0.0
        if state.step == 0:
            constants[0, e.KEEP] = 0.0
        losses = np.empty(n_steps)
        needs_gradient = batch_size > BLOCK_ROWS or recipe.clip_norm is not None
        gradient = self.layout.allocate() if needs_gradient else losses
        slot1, slot2 = [*map(address, slots), 0, 0][:2]
        scratch = self._take((kind_of(X), threads), parameters)
        layers = self._layers_with_dropout(recipe.dropout) if recipe.dropout else self._layers
        self._set_up_training(
            scratch, X, y, orders, sample_weight, recipe, gradient=address(gradient), slot1=slot1, slot2=slot2,
            average=0 if average is None else address(average), layers=address(layers),
        )  # fmt: skip
        run = loop.train_steps.entry(self.dtype)
        arguments = (
            scratch.place, address(constants), batch_size, first_batch, address(losses),
            n_steps,
        )  # fmt: skip
        # A thread that outlives an interrupted call must not find its memory gone: its function holds all of it.
        memory = (scratch, layers, parameters, slots, X, y, orders, sample_weight, average, constants, gradient, losses)

        def work(thread: int, memory: Any = memory) -> int:
            return run(*arguments, thread, threads, self._like)  # type: ignore[no-any-return]

        def call_off() -> None:
            scratch.arrays["barrier"][1] = 1

        done = run_together(work, threads, call_off)
        scratch.set(layers=address(self._layers))
        scratch.spare.append(scratch)
        return losses[:done]

    def _layers_with_dropout(self, rates: tuple[float, ...]) -> NDArray[np.int64]:
        """The table of layers with dropout's thresholds, and with places of their own for what it leaves."""
        layers = self._layers.copy()
        for number, limit in enumerate(map(threshold, rates)):
            if limit:  # A layer without dropout is not copied to the other place.
                layers[number, Layer._fields.index("threshold")] = limit
                layers[number, Layer._fields.index("A")] = self._dropped[number]
        return layers

    def _training_kernels(self, X: Inputs, recipe: Recipe | None) -> dict[str, Kernel]:
        """The kernels that the loop calls besides the forward pass's: for a recipe, or for gradients alone."""
        is_softmax = self.layout.spec.loss == "softmax_cross_entropy"
        parts = {**TRAINING_KERNELS, **TRAINING_KERNELS_BY_KIND[kind_of(X)]}
        parts["loss_and_output_gradient"] = loop.classes_loss if is_softmax else loop.values_loss
        if recipe is not None:
            if 1 in (recipe.batch_size, len(X) % recipe.batch_size):
                parts.update(SINGLE_ROW_KERNELS)
            parts["update"] = update_of(recipe.optimizer)
            if recipe.clip_norm is not None:
                parts["update_clipped"] = weights.update_clipped
            if recipe.dropout:
                parts["drop"] = e.drop
        return parts

    def _set_up_training(
        self,
        scratch: Scratch,
        X: Inputs,
        y: Array,
        orders: NDArray[np.int64],
        sample_weight: NDArray[np.float64] | None,
        recipe: Recipe | None,
        **fields: int,
    ) -> None:
        """Say to the loop where the samples are and what else it needs; the caller keeps the arrays alive."""
        n_orders = 1 if orders.ndim == 1 else len(orders)
        values = columns = starts = 0
        if isinstance(X, SparseRows):
            values, columns, starts = addresses(X)
            self._make_room(scratch, X)
        scratch.samples[:] = Samples(
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
        squares = scratch.arrays
        clips = recipe is not None and recipe.clip_norm is not None
        scratch.set(
            update=0,
            label_smoothing=bits(recipe.label_smoothing if recipe else 0.0),
            clip_norm=bits(recipe.clip_norm or 0.0 if recipe else 0.0),
            weight_squares=address(squares["squares_of_weights"]) if recipe and recipe.l2 else 0,
            gradient_squares=address(squares["squares_of_gradient"]) if clips else 0,
            **fields,
        )
        if self.layout.spec.is_classifier:
            scratch.set(loss_high=bits(recipe.loss_cap if recipe else np.inf))
        scratch.set(**{name: part.address(self.dtype) for name, part in self._training_kernels(X, recipe).items()})

    def _take(self, key: tuple[str, int], parameters: Array) -> Scratch:
        """Scratch memory for one call on these parameters: what an earlier call has given back to `spare`, or new."""
        try:
            scratch = self._spare[key].pop()
        except (KeyError, IndexError):
            scratch = self._allocate(*key)
            scratch.spare = self._spare.setdefault(key, [])
        if scratch.parameters is not parameters:
            scratch.parameters = parameters
            scratch.set(parameters=address(parameters))
        return scratch

    def _make_room(self, scratch: Scratch, X: SparseRows) -> None:
        """Give memory for sparse samples room for as many entries as any block of these has."""
        n = X.most(BLOCK_ROWS)
        if len(scratch.arrays["entry_values"]) < n:
            values, numbers = (n, self.dtype.name), (n, "int32")
            scratch.allocate(
                {"entry_values": values, "entry_columns": numbers, "sorted_values": values, "sorted_rows": numbers}
            )

    def _allocate(self, kind: str, threads: int) -> Scratch:
        spec, dtype = self.layout.spec, self.dtype.name
        n_parts = len(self._parts)
        for layer, name in zip(self._layers, self._activations, strict=True):
            if activation := e.ACTIVATIONS.get(name):
                kernels = activation.activate, activation.multiply_by_slope
                first = Layer._fields.index("activate")
                layer[first : first + 2] = [each.address(self.dtype) for each in kernels]
        rows_size = WEIGHT_ROWS * max(self.layout.row_strides)
        turned_size = TURNED_BYTES * BLOCK_ROWS
        n_words = sum(part.n_words for part in self._parts)
        indices_size = max(n_words * 64, BLOCK_ROWS)
        loss, low, high = loss_constants(spec.loss, spec.loss_parameter)
        n_pieces = sum(-(-n_in // WEIGHT_ROWS) + spec.bias for n_in in spec.layer_sizes[:-1])
        network = {
            "layers": address(self._layers),
            "n_layers": len(self._layers),
            "n_parts": n_parts,
            "loss": loss,
            "bias": spec.bias,
            "input_scale": bits(spec.input_scale),
            "loss_low": bits(low),
            "loss_high": bits(high),
            "weight_rows_size": rows_size,
            "indices_size": indices_size,
            "turned_size": turned_size,
            "n_pieces": n_pieces,
            **{
                name: part.address(self.dtype)
                for name, part in {**FORWARD_KERNELS, **FORWARD_KERNELS_BY_KIND[kind]}.items()
            },
        }
        sizes = {
            "workspace": (self._workspace_size, dtype),
            "row_losses": (BLOCK_ROWS, "float64"),
            "doubts": (n_parts * BLOCK_ROWS, "float64"),
            "barrier": (8, "int64"),
            "order": (BLOCK_ROWS, "int64"),
            "squares_of_weights": (n_pieces, "float64"),
            "squares_of_gradient": (n_pieces, "float64"),
            "weight_rows": (threads * rows_size, dtype),
        }
        by_kind = {
            "dense": {
                "inputs": (BLOCK_ROWS * sum(part.stride for part in self._parts), dtype),
                "row_places": (n_parts * (BLOCK_ROWS + 1), "int64"),
                "masks": ((BLOCK_ROWS + MASK_SLACK) * n_words, "uint64"),
                "indices": (threads * indices_size, "int32"),
                "turned": (threads * turned_size, "uint8"),
            },
            "sparse": {
                "entry_bounds": (2 * BLOCK_ROWS, "int64"),
                "entry_values": (0, dtype),  # As many as the samples need, see `_make_room`.
                "column_ends": (threads * (spec.layer_sizes[0] + 1), "int32"),
            },
        }
        scratch = Scratch(network, sizes | by_kind[kind] | {"parts": (n_parts * len(Part._fields), "int64")})
        parts = [self._place_part(number, scratch) for number in range(n_parts)]
        if threads == 1:  # No other thread still reads what these hold from the step before.
            bottom = Layer(*map(int, self._layers[0]))
            parts = [part._replace(Z=Z) for part, Z in zip(parts, (bottom.Z, bottom.D), strict=False)]
        scratch.arrays["parts"][:] = np.ravel(parts)
        return scratch

    def _place_part(self, number: int, scratch: Scratch) -> Part:
        """Say where the memory of a part of the inputs is."""
        part, before = self._parts[number], self._parts[:number]
        arrays, itemsize = scratch.arrays, self.dtype.itemsize
        part = part._replace(doubts=address(arrays["doubts"]) + number * BLOCK_ROWS * 8)
        if "inputs" not in arrays:
            return part
        n_words = sum(each.n_words for each in before)
        return part._replace(
            X=address(arrays["inputs"]) + BLOCK_ROWS * sum(each.stride for each in before) * itemsize,
            row_places=address(arrays["row_places"]) + number * (BLOCK_ROWS + 1) * 8,
            masks=address(arrays["masks"]) + (BLOCK_ROWS + MASK_SLACK) * n_words * 8,
        )


def plan(layout: ParameterLayout) -> tuple[NDArray[np.int64], list[Part], list[int], int]:
    """Lay out the workspace: give the table of layers, the parts, each layer's `A` with dropout, and the size."""
    spec = layout.spec
    itemsize = np.dtype(spec.dtype).itemsize
    end = max(layout.row_strides)  # Behind a row of zeros as long as any.

    def place(size: int) -> int:
        nonlocal end
        start, end = end, end + padded(size, itemsize)
        return start

    layers = []
    activations = activations_of(spec)
    for layer, (n_in, n_out) in enumerate(zip(spec.layer_sizes, spec.layer_sizes[1:], strict=False)):
        stride = layout.row_strides[layer]
        name = activations[layer]
        takes_input = name in e.ACTIVATIONS and e.ACTIVATIONS[name].takes_input
        Z = place(BLOCK_ROWS * stride)
        layers.append(
            Layer(
                n_in=n_in,
                n_out=n_out,
                stride=stride,
                input_stride=layout.row_strides[layer - 1] if layer else 0,  # See `Part`.
                weights=layout.weight_offsets[layer],
                bias=layout.bias_offsets[layer],
                Z=Z,
                A=place(BLOCK_ROWS * stride) if takes_input else Z,
                D=place(BLOCK_ROWS * stride),
                transposed=place(padded(n_out, itemsize) * layout.row_strides[layer - 1]) if layer else 0,
                activate=0,  # Written when memory is allocated, for that is when kernels are compiled.
                multiply_by_slope=0,
                takes_input=takes_input,
                threshold=0,
            )
        )
    # Behind all else: memory that is never touched without dropout.
    dropped = [place(BLOCK_ROWS * layer.stride) if layer.Z == layer.A else layer.A for layer in layers]
    parts = parts_of(spec.layer_sizes[0], itemsize)
    if len(parts) == 1:
        parts = [parts[0]._replace(Z=layers[0].Z)]
    else:
        parts = [part._replace(Z=place(BLOCK_ROWS * layers[0].stride)) for part in parts]
    return np.array(layers, dtype=np.int64), parts, dropped, end


def parts_of(n_in: int, itemsize: int) -> list[Part]:
    """Cut the inputs into parts: as many pieces of the weights in each."""
    n_pieces = -(-n_in // WEIGHT_ROWS)
    count = PARTS if n_in >= PARTS * PART_INPUTS else 1
    edges = [min(n_pieces * number // count * WEIGHT_ROWS, n_in) for number in range(count + 1)]
    words = [-(-(end - first) // 64) for first, end in pairwise(edges)]
    return [
        Part(
            first=first, n_in=end - first, n_words=n_words, stride=padded(end - first, itemsize),
            X=0, row_places=0, masks=0, doubts=0, Z=0,
        )
        for (first, end), n_words in zip(pairwise(edges), words, strict=True)
    ]  # fmt: skip


def activations_of(spec: NetworkSpec) -> tuple[str, ...]:
    """Each layer's activation; of the last one only if it is not a part of the loss."""
    return (*spec.activations, "identity" if spec.loss_takes_logits else spec.output_activation)


def kind_of(X: Inputs) -> str:
    """Whether samples are dense or sparse."""
    return "sparse" if isinstance(X, SparseRows) else "dense"


def address(array: Array) -> int:
    """Where an array's memory begins; the caller keeps it alive."""
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def addresses(X: SparseRows) -> tuple[int, int, int]:
    """Where the parts of sparse samples are; the caller keeps them alive."""
    return address(X.values), address(X.columns), address(X.starts)


def bits(value: float) -> int:
    """The bits of a float64, as an integer."""
    return int(np.float64(value).view(np.int64))


def loss_constants(loss: str, parameter: float | None) -> tuple[int, float, float]:
    """Give a loss's code and the two constants that `fastmlp.kernels.elementwise.values_loss_row` takes."""
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
