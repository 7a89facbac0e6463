"""The memory of the loop: how a network's workspace is laid out, and what a call needs, ready for the kernels."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.constants import bits, loss_constants
from fastmlp.kernels.records import STATE, Layer, Part, SampleAddresses, State
from fastmlp.kernels.sizes import BLOCK_ROWS, LOSS_MEMORY, MASK_SLACK, TURNED_SIZE, WEIGHT_ROWS, has_few_weights
from fastmlp.parameters import ParameterLayout, aligned_zeros, padded
from fastmlp.sparse import Inputs, SparseRows
from fastmlp.spec import BACKWARD_TAKES_INPUT, NetworkSpec

Array = NDArray[Any]

PARTS = 2
"""Parts of the inputs, where there are many: so many threads can have one each to themselves. The sums of the first
layer are made part by part whatever the number of threads, so that the weights have the same bits."""
PART_INPUTS = 128
"""Inputs that are worth a part: with fewer, two threads are as fast when they share the rows."""

FIELD_NUMBERS = STATE._asdict()


class Scratch:
    """Memory of one call that means nothing after it, and the `State` that says where it is."""

    def __init__(self, network: dict[str, int], sizes: dict[str, tuple[int, str]]) -> None:
        self.arrays: dict[str, Array] = {}
        self.state = np.zeros(len(State._fields), dtype=np.int64)
        self.address = address(self.state)
        self.takes_single_rows = False  # Whether the state has the kernels for those.
        self.samples = np.zeros(len(SampleAddresses._fields), dtype=np.int64)
        self.set(**network, samples=address(self.samples))
        self.allocate(sizes)

    def allocate(self, sizes: dict[str, tuple[int, str]]) -> None:
        """Make arrays of zeros, in the place of those of the same names, and write to the state where they are."""
        arrays = {name: aligned_zeros(size, dtype) for name, (size, dtype) in sizes.items()}
        self.arrays.update(arrays)
        self.set(**{name: address(array) for name, array in arrays.items() if name in FIELD_NUMBERS})

    def set(self, **fields: int) -> None:
        """Write fields of the state."""
        for name, value in fields.items():
            self.state[FIELD_NUMBERS[name]] = value


class Plan:
    """Where everything of a network is: the table of its layers, the parts of its inputs, the workspace.

    One serves all networks of a specification, see `plan_of`.

    Parameters
    ----------
    layout : ParameterLayout
        The network and where its parameters stand.

    Attributes
    ----------
    layers : ndarray (n_layers, fields of `Layer`)
        The table that kernels read.
    parts : list of Part
        Without the addresses, which every `Scratch` has of its own.
    dropped : list of int
        Each layer's `A` with dropout.
    sums_size : int
        Elements of the sums of dW over half of the rows.
    activations : tuple of str
        Each layer's; of the last one only if it is not a part of the loss.
    spare : dict of (str, int) to list of Scratch
        By the kind of samples and threads: memory that no call is using now.
    """

    def __init__(self, layout: ParameterLayout) -> None:
        self.layout, self.activations = layout, activations_of(layout.spec)
        self.spare: defaultdict[tuple[str, int], list[Scratch]] = defaultdict(list)
        spec = layout.spec
        itemsize = np.dtype(spec.dtype).itemsize
        end = max(layout.row_strides)  # Behind a row of zeros as long as any.

        def reserve(size: int) -> int:
            nonlocal end
            start, end = end, end + padded(size, itemsize)
            return start

        layers = []
        parts = parts_of(spec.layer_sizes[0], itemsize)
        self.sums_size = 0
        for layer, (n_in, n_out) in enumerate(zip(spec.layer_sizes, spec.layer_sizes[1:], strict=False)):
            stride = layout.row_strides[layer]
            name = self.activations[layer]
            takes_input = name in BACKWARD_TAKES_INPUT
            Z = reserve(BLOCK_ROWS * stride)
            layers.append(
                Layer(
                    n_in=n_in,
                    n_out=n_out,
                    stride=stride,
                    input_stride=layout.row_strides[layer - 1] if layer else 0,  # See `Part`.
                    weights=layout.weight_offsets[layer],
                    bias=layout.bias_offsets[layer],
                    Z=Z,
                    A=reserve(BLOCK_ROWS * stride) if takes_input else Z,
                    D=reserve(BLOCK_ROWS * stride),
                    transposed=reserve(stride * layout.row_strides[layer - 1]) if layer else 0,
                    activate=0,  # Written when memory is allocated, for that is when kernels are compiled.
                    multiply_by_slope=0,
                    takes_input=takes_input,
                    threshold=0,
                    sums=self.sums_size,
                )
            )
            # Wherever `weights.middle_of` says so of any rows, there must be room: for whole pieces, and the bias.
            if (layer > 0 or len(parts) == 1) and has_few_weights(n_in, n_out, BLOCK_ROWS):
                self.sums_size += (-(-n_in // WEIGHT_ROWS) * WEIGHT_ROWS + 1) * stride
        # Behind all else: memory that is never touched without dropout.
        dropped = [reserve(BLOCK_ROWS * layer.stride) if layer.Z == layer.A else layer.A for layer in layers]
        if len(parts) == 1:
            parts = [parts[0]._replace(Z=layers[0].Z)]
        else:
            parts = [part._replace(Z=reserve(BLOCK_ROWS * layers[0].stride)) for part in parts]
        self.layers, self.parts, self.dropped = np.array(layers, dtype=np.int64), parts, dropped
        self._workspace_size = end

    def allocate(self, kind: str, threads: int, kernels: dict[str, int]) -> Scratch:
        """Make the memory of a call on samples of a kind; `kernels` are the addresses of those that it always takes."""
        spec, n_parts = self.layout.spec, len(self.parts)
        dtype = spec.dtype
        rows_size = WEIGHT_ROWS * max(self.layout.row_strides)
        n_words = sum(part.n_words for part in self.parts)
        indices_size = max(n_words * 64, BLOCK_ROWS)
        loss, low, high = loss_constants(spec.loss, spec.loss_parameter)
        n_pieces = sum(-(-n_in // WEIGHT_ROWS) + spec.bias for n_in in spec.layer_sizes[:-1])
        network = {
            "layers": address(self.layers),
            "n_layers": len(self.layers),
            "n_parts": n_parts,
            "loss": loss,
            "bias": spec.bias,
            "input_scale": bits(spec.input_scale),
            "loss_low": bits(low),
            "loss_high": bits(high),
            "weight_rows_size": rows_size,
            "sums_size": self.sums_size,
            "indices_size": indices_size,
            "n_pieces": n_pieces,
            **kernels,
        }
        sizes = {
            "workspace": (self._workspace_size, dtype),
            "row_losses": (BLOCK_ROWS, "float64"),
            "loss_memory": (threads * LOSS_MEMORY, "float64"),
            "doubts": (n_parts * BLOCK_ROWS, "float64"),
            "barrier": (8, "int64"),
            "order": (BLOCK_ROWS, "int64"),
            "squares_of_weights": (n_pieces, "float64"),
            "squares_of_gradient": (n_pieces, "float64"),
            "weight_rows": (threads * rows_size, dtype),
        }
        by_kind = {
            "dense": {
                "inputs": (BLOCK_ROWS * sum(part.stride for part in self.parts), dtype),
                "row_addresses": (n_parts * (BLOCK_ROWS + 1), "int64"),
                "masks": ((BLOCK_ROWS + MASK_SLACK) * n_words, "uint64"),
                "indices": (threads * indices_size, "int32"),
                "turned": (threads * TURNED_SIZE, "uint8"),
            },
            "sparse": {
                "entry_bounds": (2 * BLOCK_ROWS, "int64"),
                "entry_values": (0, dtype),  # As many as the samples need, see `_make_room`.
                "column_ends": (threads * (spec.layer_sizes[0] + 1), "int32"),
            },
        }
        scratch = Scratch(network, sizes | by_kind[kind] | {"parts": (n_parts * len(Part._fields), "int64")})
        parts = [self._locate_part(number, scratch) for number in range(n_parts)]
        if threads == 1:  # No other thread still reads what these hold from the step before.
            bottom = Layer(*map(int, self.layers[0]))
            parts = [part._replace(Z=Z) for part, Z in zip(parts, (bottom.Z, bottom.D), strict=False)]
        scratch.arrays["parts"][:] = np.ravel(parts)
        return scratch

    def _locate_part(self, number: int, scratch: Scratch) -> Part:
        """Say where the memory of a part of the inputs is."""
        part, before = self.parts[number], self.parts[:number]
        arrays, itemsize = scratch.arrays, np.dtype(self.layout.spec.dtype).itemsize
        part = part._replace(doubts=address(arrays["doubts"]) + number * BLOCK_ROWS * 8)
        if "inputs" not in arrays:
            return part
        n_words = sum(each.n_words for each in before)
        return part._replace(
            X=address(arrays["inputs"]) + BLOCK_ROWS * sum(each.stride for each in before) * itemsize,
            row_addresses=address(arrays["row_addresses"]) + number * (BLOCK_ROWS + 1) * 8,
            masks=address(arrays["masks"]) + (BLOCK_ROWS + MASK_SLACK) * n_words * 8,
        )


PLANS: WeakValueDictionary[NetworkSpec, Plan] = WeakValueDictionary()


def plan_of(layout: ParameterLayout) -> Plan:
    """Give the plan of a network, for all of its specification: they share the memory that no call is using.

    So of 10,000 small networks, each has little more than its parameters.
    """
    plan = PLANS.get(layout.spec)
    if plan is None:
        plan = PLANS[layout.spec] = Plan(layout)
    return plan


def parts_of(n_in: int, itemsize: int) -> list[Part]:
    """Cut the inputs into parts: as many pieces of the weights in each."""
    n_pieces = -(-n_in // WEIGHT_ROWS)
    count = PARTS if n_in >= PARTS * PART_INPUTS else 1
    edges = [min(n_pieces * number // count * WEIGHT_ROWS, n_in) for number in range(count + 1)]
    words = [-(-(end - first) // 64) for first, end in pairwise(edges)]
    return [
        Part(
            first=first, n_in=end - first, n_words=n_words, stride=padded(end - first, itemsize),
            X=0, row_addresses=0, masks=0, doubts=0, Z=0,
        )
        for (first, end), n_words in zip(pairwise(edges), words, strict=True)
    ]  # fmt: skip


def activations_of(spec: NetworkSpec) -> tuple[str, ...]:
    """Each layer's activation; of the last one only if it is not a part of the loss."""
    return (*spec.activations, "identity" if spec.loss_takes_logits else spec.output_activation)


def address(array: Array) -> int:
    """Where an array's memory begins; the caller keeps it alive."""
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def addresses(X: SparseRows) -> tuple[int, int, int]:
    """Where the parts of sparse samples are; the caller keeps them alive."""
    return address(X.values), address(X.columns), address(X.starts)


def kind_of(X: Inputs) -> str:
    """Whether samples are dense or sparse."""
    return "sparse" if isinstance(X, SparseRows) else "dense"
