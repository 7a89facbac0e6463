"""The Numba engine: Python's side of the minibatch loop. It lays out the memory, starts the threads, and waits."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels import elementwise as e
from fastmlp.kernels.jit import Kernel
from fastmlp.kernels.lists import LIST_SLACK
from fastmlp.kernels.loop import (
    BLOCK_ROWS,
    MASK_SLACK,
    WEIGHT_ROWS,
    Buffers,
    Layer,
    Network,
    Samples,
    Steps,
    forward_all,
    train_steps,
)
from fastmlp.kernels.products import DENSE_COLUMNS
from fastmlp.optimizers import SGD, Adam, Optimizer, RMSprop
from fastmlp.parameters import ParameterLayout, aligned_zeros, padded

Array = NDArray[Any]

TRAIN = Kernel(train_steps)
FORWARD = Kernel(forward_all)

WORK_PER_THREAD = 2_000_000
"""Multiply-adds of a step below which a second thread costs more than it brings: two barriers, 1 µs, and shared caches."""


class Scratch(NamedTuple):
    """The part of `Buffers` that means nothing between two calls."""

    workspace: Array
    masks: Array
    row_losses: Array
    weight_rows: Array
    indices: Array
    turned: Array
    barrier: Array


class Engine:
    """Forward, gradients and training steps of one network; `fastmlp.reference.Engine` documents the methods.

    Parameters
    ----------
    layout : ParameterLayout
        The network and where its parameters stand.
    """

    name = "numba"

    def __init__(self, layout: ParameterLayout) -> None:
        self.layout = layout
        self.dtype = np.dtype(layout.spec.dtype)
        self._network, self._workspace_size = plan(layout)
        self._nothing = aligned_zeros(0, layout.spec.dtype)
        self._spare: dict[int, list[Scratch]] = {}  # By threads: scratch memory that no call is using now.

    def __reduce__(self) -> Any:
        return Engine, (self.layout,)

    def choose_threads(self, batch_size: int, limit: int) -> int:
        """As many as have enough to do in a step."""
        sizes = self.layout.spec.layer_sizes
        work = batch_size * sum(n_in * n_out for n_in, n_out in zip(sizes, sizes[1:], strict=False))
        return max(1, min(limit, work // WORK_PER_THREAD))

    def compile(self, X: Array, optimizer: Optimizer | None = None) -> None:
        """Compile the training loop for this dtype, or load it from the cache."""
        scratch = self._allocate(1)
        buffers = Buffers(self._nothing, self._nothing, self._nothing, self._nothing, *scratch)
        samples = samples_of(X, X, np.zeros((1, 1), dtype=np.int64))
        TRAIN.entry(self.dtype, self._network, buffers, samples, Steps(0, np.zeros((0, 0)), 1, 0), np.zeros(0), 0, 1)

    def forward(self, parameters: Array, X: Array) -> Array:
        """Compute the last layer's ``Z (n_samples, n_out)``."""
        outputs = np.empty((len(X), self.layout.spec.layer_sizes[-1]), self.dtype)
        scratch = self._take(1)
        buffers = Buffers(parameters, self._nothing, self._nothing, self._nothing, *scratch)
        samples = samples_of(X, X, np.arange(len(X))[None])
        FORWARD(self.dtype, self._network, buffers, samples, outputs)
        self._spare[1].append(scratch)
        return outputs

    def gradients(self, parameters: Array, X: Array, y: Array) -> tuple[float, Array]:
        """Loss and its derivative by every parameter."""
        gradient = self.layout.allocate()
        scratch = self._take(1)
        buffers = Buffers(parameters, gradient, self._nothing, self._nothing, *scratch)
        steps = Steps(e.NO_UPDATE, np.zeros((1, e.N_CONSTANTS)), len(X), 0)
        losses = np.empty(1)
        TRAIN(self.dtype, self._network, buffers, samples_of(X, y, np.arange(len(X))[None]), steps, losses, 0, 1)
        self._spare[1].append(scratch)
        return float(losses[0]), gradient

    def train_steps(
        self,
        parameters: Array,
        slots: list[Array],
        X: Array,
        y: Array,
        orders: NDArray[np.int64],
        batch_size: int,
        first_batch: int,
        optimizer: Optimizer,
        first_step: int,
        learning_rates: NDArray[np.float64],
        threads: int,
    ) -> NDArray[np.float64]:
        """Take one step for each learning rate."""
        code, constants = step_constants(optimizer, first_step, learning_rates)
        gradient = self.layout.allocate() if batch_size > BLOCK_ROWS else self._nothing
        slot1, slot2 = [*slots, self._nothing, self._nothing][:2]
        scratch = self._take(threads)
        scratch.barrier[:] = 0
        losses = np.empty(len(learning_rates))
        arguments = (
            self._network,
            Buffers(parameters, gradient, slot1, slot2, *scratch),
            samples_of(X, y, orders),
            Steps(code, constants, batch_size, first_batch),
            losses,
        )
        run = TRAIN.entry(self.dtype, *arguments, 0, threads)
        helpers = [threading.Thread(target=run, args=(*arguments, t, threads)) for t in range(1, threads)]
        for helper in helpers:
            helper.start()
        done = run(*arguments, 0, threads)
        for helper in helpers:
            helper.join()
        self._spare[threads].append(scratch)
        return losses[:done]

    def _take(self, threads: int) -> Scratch:
        """Scratch memory for one call: what an earlier call has given back, or new."""
        try:
            return self._spare.setdefault(threads, []).pop()
        except IndexError:
            return self._allocate(threads)

    def _allocate(self, threads: int) -> Scratch:
        n_words = self._network.n_words
        # Whole tiles of rows, so up to a tile more than WEIGHT_ROWS.
        rows_size = (WEIGHT_ROWS + DENSE_COLUMNS.rows) * max(self.layout.row_strides)
        return Scratch(
            workspace=aligned_zeros(self._workspace_size, self.dtype.name),
            masks=np.zeros((BLOCK_ROWS + MASK_SLACK) * n_words, dtype=np.uint64),
            row_losses=np.zeros(BLOCK_ROWS),
            weight_rows=aligned_zeros(threads * rows_size, self.dtype.name).reshape(threads, rows_size),
            indices=np.zeros((threads, max(n_words * 64, BLOCK_ROWS) + LIST_SLACK), dtype=np.int32),
            turned=np.zeros((threads, 2 * BLOCK_ROWS), dtype=np.uint8),
            barrier=np.zeros(2, dtype=np.int64),
        )


def plan(layout: ParameterLayout) -> tuple[Network, int]:
    """Lay out the workspace: give the table of the network, and how many elements the workspace takes."""
    spec = layout.spec
    itemsize = np.dtype(spec.dtype).itemsize
    n_words = -(-spec.layer_sizes[0] // 64)
    input_stride = padded(n_words * 64, itemsize)
    end = max(layout.row_strides)  # The row of zeros at 0.

    def place(size: int) -> int:
        nonlocal end
        start, end = end, end + padded(size, itemsize)
        return start

    inputs = place(BLOCK_ROWS * input_stride)
    layers = []
    activations = (*spec.activations, spec.output_activation)
    for layer, (n_in, n_out) in enumerate(zip(spec.layer_sizes, spec.layer_sizes[1:], strict=False)):
        stride = layout.row_strides[layer]
        name = activations[layer]
        Z = place(BLOCK_ROWS * stride)
        layers.append(
            Layer(
                n_in=n_in,
                n_out=n_out,
                stride=stride,
                input_stride=input_stride if layer == 0 else layout.row_strides[layer - 1],
                weights=layout.weight_offsets[layer],
                bias=layout.bias_offsets[layer],
                activation=e.ACTIVATIONS.index(name) if name in e.ACTIVATIONS else e.IDENTITY,
                Z=Z,
                A=place(BLOCK_ROWS * stride) if name in e.TAKES_INPUT else Z,
                D=place(BLOCK_ROWS * stride),
                transposed=place(n_out * layout.row_strides[layer - 1]) if layer else 0,
            )
        )
    network = Network(
        layers=np.array(layers, dtype=np.int64),
        inputs=inputs,
        n_words=n_words,
        loss=e.LOSSES.index(spec.loss),
        mean=spec.reduction == "mean",
        bias=spec.bias,
        takes_input=np.array([name in e.TAKES_INPUT for name in e.ACTIVATIONS]),
        input_scale=spec.input_scale,
    )
    place(64)  # Slack: the last tile of a layer may read beyond its last row.
    return network, end


def samples_of(X: Array, y: Array, orders: NDArray[np.int64]) -> Samples:
    """Say where X and y lie; the caller keeps them alive."""
    address = X.__array_interface__["data"][0]
    return Samples(address, X.dtype == np.uint8, X.strides[0], y.__array_interface__["data"][0], orders, len(X))


def step_constants(
    optimizer: Optimizer, first_step: int, learning_rates: NDArray[np.float64]
) -> tuple[int, NDArray[np.float64]]:
    """Give an optimizer's code and, for each step, the constants that `fastmlp.kernels.elementwise.update` takes."""
    constants = np.zeros((len(learning_rates), e.N_CONSTANTS))
    constants[:, e.RATE] = learning_rates
    constants[:, e.SHRINK] = 1.0
    if isinstance(optimizer, SGD):
        constants[:, e.DECAY] = optimizer.weight_decay
        constants[:, e.FIRST] = optimizer.momentum
        if not optimizer.momentum:
            return e.SGD, constants
        return e.SGD_NESTEROV if optimizer.nesterov else e.SGD_MOMENTUM, constants
    if isinstance(optimizer, Adam):
        t = np.arange(first_step + 1, first_step + len(learning_rates) + 1, dtype=np.float64)
        constants[:, e.RATE] = learning_rates / (1.0 - optimizer.beta1**t)
        constants[:, e.ROOT_SCALE] = 1.0 / np.sqrt(1.0 - optimizer.beta2**t)
        constants[:, e.FIRST], constants[:, e.SECOND] = optimizer.beta1, optimizer.beta2
        constants[:, e.EPSILON] = optimizer.epsilon
        if optimizer.name == "adamw":
            constants[:, e.SHRINK] = 1.0 - learning_rates * optimizer.weight_decay
        else:
            constants[:, e.DECAY] = optimizer.weight_decay
        return e.ADAM, constants
    assert isinstance(optimizer, RMSprop)
    constants[:, e.DECAY] = optimizer.weight_decay
    constants[:, e.SECOND] = optimizer.rho
    constants[:, e.EPSILON] = optimizer.epsilon
    return e.RMSPROP, constants
