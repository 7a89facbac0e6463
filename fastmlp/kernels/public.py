"""The kernels as functions on arrays: the public names, checks, and memory that the compiled code can use.

Every public function here has the signature and the meaning of its twin in `fastmlp.reference`, whose docstring it
shows. The compiled code is that of the minibatch loop; what is added is a copy where an argument's layout asks for it,
because tiles read and write whole vectors: padded rows, and whole tiles of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import reference
from fastmlp.kernels.constants import loss_constants, step_constants, update_of
from fastmlp.kernels.machine import SHAPES, lanes_of
from fastmlp.kernels.memory import address
from fastmlp.kernels.native import kernel
from fastmlp.kernels.sizes import LOSS_MEMORY
from fastmlp.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from fastmlp.parameters import aligned_zeros, padded
from fastmlp.shapes import (
    check_affine,
    check_backward,
    check_class_targets,
    check_forward,
    check_out,
    check_real,
    check_softmax,
    check_update,
    check_value_targets,
    reduction_factor,
)
from fastmlp.spec import check_count, check_flag, check_number

Array = NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])


def twin(function: Function) -> Function:
    """Show the docstring of the function of the same name in `fastmlp.reference`."""
    function.__doc__ = getattr(reference, function.__name__).__doc__
    return function


DENSE, DENSE_COLUMNS = SHAPES["dense", "rows"], SHAPES["dense", "columns"]

# --- The affine layer -------------------------------------------------------------------------------------------------


def in_whole_tiles(A: Array, dtype: np.dtype[Any], tile_rows: int = 1) -> Array:
    """Copy a matrix to one whose rows are padded with zeros, and are as many as whole tiles have."""
    n_rows, n_columns = A.shape
    rows, stride = -(-n_rows // tile_rows) * tile_rows, padded(n_columns, dtype.itemsize)
    copy = aligned_zeros(rows * stride, dtype.name).reshape(rows, stride)
    copy[:n_rows, :n_columns] = A
    return copy


def product(A: Array, B: Array, initial: Array, n_rows: int, depth: int, by_columns: bool = False) -> Array:
    """Give ``initial + A B``, or with `by_columns` ``initial + Aᵀ B``, of matrices in whole tiles, padded likewise."""
    tile_rows = (DENSE_COLUMNS if by_columns else DENSE).rows
    stride = B.shape[1]
    C = aligned_zeros(-(-n_rows // tile_rows) * tile_rows * stride, B.dtype.name).reshape(-1, stride)
    addresses = address(A), A.shape[1], address(B), stride, address(initial), address(C), stride
    n_vectors = stride // lanes_of(B.dtype.itemsize * 8)
    if by_columns:
        kernel("products.multiply_columns").run(B.dtype, *addresses, n_rows, depth, n_vectors)
    else:
        kernel("products.multiply_rows").run(B.dtype, *addresses, 0, n_rows, depth, n_vectors)
    return C


@twin
def affine_forward(X: Array, W: Array, b: Array | None = None, out: Array | None = None) -> Array:
    """See `twin`."""
    check_affine(X, W, b)
    check_out(out, (X.shape[0], W.shape[1]), W.dtype)
    if not W.size:  # A tile has at least one row and one column.
        return reference.affine_forward(X, W, b, out)
    padded_W = in_whole_tiles(W, W.dtype)
    initial = aligned_zeros(padded_W.shape[1], W.dtype.name)
    if b is not None:
        initial[: len(b)] = b
    tiles_of_X = in_whole_tiles(X, W.dtype, DENSE.rows)
    Y = product(tiles_of_X, padded_W, initial, len(X), W.shape[0])[: len(X), : W.shape[1]]
    if out is None:
        return np.ascontiguousarray(Y)
    out[...] = Y
    return out


@twin
def affine_backward(X: Array, W: Array, dY: Array) -> tuple[Array, Array, Array]:
    """See `twin`."""
    check_affine(X, W, None, dY)
    if not W.size:
        return reference.affine_backward(X, W, dY)
    n_samples, (n_in, n_out) = len(X), W.shape
    D = in_whole_tiles(dY, W.dtype, DENSE.rows)
    no_bias = aligned_zeros(max(D.shape[1], padded(n_in, W.dtype.itemsize)), W.dtype.name)
    dX = product(D, in_whole_tiles(W.T, W.dtype), no_bias, n_samples, n_out)
    # A tile by columns reads whole tiles across, of the columns of X: the padding has them, as in the loop.
    dW = product(in_whole_tiles(X, W.dtype), D, no_bias, n_in, n_samples, by_columns=True)
    ones = np.ones((n_samples, DENSE_COLUMNS.rows), W.dtype)
    db = product(ones, D, no_bias, 1, n_samples, by_columns=True)
    return (
        np.ascontiguousarray(dX[:n_samples, :n_in]),
        np.ascontiguousarray(dW[:n_in, :n_out]),
        db[0, :n_out].copy(),
    )


def flat(array: Array) -> Array:
    """Copy an array to one row: of NumPy's own class, whatever the array's class makes of such a copy."""
    return np.array(array, order="C").reshape(-1)


# --- Activations ------------------------------------------------------------------------------------------------------


def activation(name: str, Z: Array, out: Array | None) -> Array:
    """Run one activation on an array of any shape and layout."""
    A = flat(check_forward(Z, out))
    if name != "identity":
        kernel(f"activations.{name}").run(Z.dtype, address(A), A.size)
    if out is None:
        return A.reshape(Z.shape)
    out[...] = A.reshape(Z.shape)
    return out


def activation_backward(name: str, dA: Array, kept: Array, kept_name: str = "A") -> Array:
    """Run one activation's backward on arrays of any shape and layout."""
    saved = flat(check_backward(dA, kept, kept_name))
    dZ = flat(dA)
    if name != "identity":
        kernel(f"activations.{name}_slope").run(dA.dtype, address(dZ), address(saved), dZ.size)
    return dZ.reshape(dA.shape)


@twin
def identity(Z: Array, out: Array | None = None) -> Array:
    """See `twin`."""
    return activation("identity", Z, out)


@twin
def identity_backward(dA: Array, A: Array) -> Array:
    """See `twin`."""
    return activation_backward("identity", dA, A)


@twin
def relu(Z: Array, out: Array | None = None) -> Array:
    """See `twin`."""
    return activation("relu", Z, out)


@twin
def relu_backward(dA: Array, A: Array) -> Array:
    """See `twin`."""
    return activation_backward("relu", dA, A)


@twin
def leaky_relu(Z: Array, out: Array | None = None) -> Array:
    """See `twin`."""
    return activation("leaky_relu", Z, out)


@twin
def leaky_relu_backward(dA: Array, A: Array) -> Array:
    """See `twin`."""
    return activation_backward("leaky_relu", dA, A)


@twin
def elu(Z: Array, out: Array | None = None) -> Array:
    """See `twin`."""
    return activation("elu", Z, out)


@twin
def elu_backward(dA: Array, A: Array) -> Array:
    """See `twin`."""
    return activation_backward("elu", dA, A)


@twin
def sigmoid(Z: Array, out: Array | None = None) -> Array:
    """See `twin`."""
    return activation("sigmoid", Z, out)


@twin
def sigmoid_backward(dA: Array, A: Array) -> Array:
    """See `twin`."""
    return activation_backward("sigmoid", dA, A)


@twin
def tanh(Z: Array, out: Array | None = None) -> Array:
    """See `twin`."""
    return activation("tanh", Z, out)


@twin
def tanh_backward(dA: Array, A: Array) -> Array:
    """See `twin`."""
    return activation_backward("tanh", dA, A)


@twin
def gelu(Z: Array, out: Array | None = None) -> Array:
    """See `twin`."""
    return activation("gelu", Z, out)


@twin
def gelu_backward(dA: Array, Z: Array) -> Array:
    """See `twin`."""
    return activation_backward("gelu", dA, Z, "Z")


@twin
def silu(Z: Array, out: Array | None = None) -> Array:
    """See `twin`."""
    return activation("silu", Z, out)


@twin
def silu_backward(dA: Array, Z: Array) -> Array:
    """See `twin`."""
    return activation_backward("silu", dA, Z, "Z")


@twin
def softplus(Z: Array, out: Array | None = None) -> Array:
    """See `twin`."""
    return activation("softplus", Z, out)


@twin
def softplus_backward(dA: Array, A: Array) -> Array:
    """See `twin`."""
    return activation_backward("softplus", dA, A)


SOFTMAX_BYTES = 1 << 17
"""Bytes of the rows that `softmax` takes at a time, so that their copy with padding stays in the cache."""


@twin
def softmax(Z: Array, out: Array | None = None) -> Array:
    """See `twin`."""
    logits = check_softmax(Z, out).reshape(-1, Z.shape[-1])
    # Blocks are read and written in turn, so `out` may be Z, or no part of it.
    is_direct = out is not None and out.flags.c_contiguous and (out is Z or not np.may_share_memory(out, Z))
    P = out.reshape(logits.shape) if out is not None and is_direct else np.empty_like(logits)
    n_rows, n = logits.shape
    stride = padded(n, Z.itemsize)
    at_once = max(1, min(n_rows, SOFTMAX_BYTES // (stride * Z.itemsize)))
    block = aligned_zeros(at_once * stride, Z.dtype.name).reshape(at_once, stride)
    activate = kernel("losses.softmax_outputs")
    for first in range(0, n_rows, at_once):
        count = min(at_once, n_rows - first)
        block[:count, :n] = logits[first : first + count]
        activate.run(Z.dtype, address(block), count, n, stride)
        P[first : first + count] = block[:count, :n]
    if out is None:
        return P.reshape(Z.shape)
    if not is_direct:
        out[...] = P.reshape(Z.shape)
    return out


# --- Losses -----------------------------------------------------------------------------------------------------------


def run_loss(name: str, Z: Array, y: Array, reduction: str, parameter: float | None = None) -> tuple[float, Array]:
    """Run one loss on arrays of any layout; y is classes for the softmax cross-entropy, else values."""
    scale = reduction_factor(reduction, len(Z))
    losses, dZ = losses_of_rows(name, Z, y, scale, parameter)
    return float(losses.sum()) * scale, dZ


def losses_of_rows(
    name: str, Z: Array, y: Array, scale: float, parameter: float | None
) -> tuple[NDArray[np.float64], Array]:
    """Give the loss of each row, and its derivative times `scale`."""
    is_softmax = name == "softmax_cross_entropy"
    (n_rows, n), dtype = Z.shape, Z.dtype
    Z, y = in_whole_tiles(Z, dtype), flat(y).astype(np.int64 if is_softmax else dtype, copy=False)
    D, losses, order = np.empty_like(Z), np.zeros(n_rows), np.arange(n_rows, dtype=np.int64)
    memory = np.empty(LOSS_MEMORY)
    kernel("losses.softmax_cross_entropy" if is_softmax else "losses.loss_rows").run(
        dtype, address(Z), n, address(y), address(order), scale, address(D), Z.shape[1], address(losses), 0, n_rows,
        address(memory), *(() if is_softmax else loss_constants(name, parameter)),
    )  # fmt: skip
    return losses, np.ascontiguousarray(D[:, :n])


@twin
def softmax_cross_entropy(Z: Array, y: Array, reduction: str = "mean") -> tuple[float, Array]:
    """See `twin`."""
    return run_loss("softmax_cross_entropy", Z, check_class_targets(check_real(Z).shape, y), reduction)


@twin
def sigmoid_cross_entropy(Z: Array, y: Array, reduction: str = "mean") -> tuple[float, Array]:
    """See `twin`."""
    return run_loss("sigmoid_cross_entropy", Z, check_value_targets("Z", Z, y), reduction)


@twin
def squared_error(A: Array, y: Array, reduction: str = "mean") -> tuple[float, Array]:
    """See `twin`."""
    return run_loss("squared_error", A, check_value_targets("A", A, y), reduction)


@twin
def poisson(Z: Array, y: Array, reduction: str = "mean") -> tuple[float, Array]:
    """See `twin`."""
    return run_loss("poisson", Z, check_value_targets("Z", Z, y), reduction)


@twin
def absolute_error(A: Array, y: Array, reduction: str = "mean") -> tuple[float, Array]:
    """See `twin`."""
    return run_loss("absolute_error", A, check_value_targets("A", A, y), reduction)


@twin
def huber(A: Array, y: Array, delta: float = 1.0, reduction: str = "mean") -> tuple[float, Array]:
    """See `twin`."""
    delta = check_number("delta", delta, above=0.0)
    return run_loss("huber", A, check_value_targets("A", A, y), reduction, delta)


@twin
def quantile(A: Array, y: Array, level: float = 0.5, reduction: str = "mean") -> tuple[float, Array]:
    """See `twin`."""
    level = check_number("level", level, above=0.0, below=1.0)
    return run_loss("quantile", A, check_value_targets("A", A, y), reduction, level)


# --- Optimizer updates ------------------------------------------------------------------------------------------------


def run_update(
    optimizer: Optimizer,
    step: int,
    learning_rate: float,
    parameters: Array,
    gradients: Array,
    slots: dict[str, Array | None],
) -> None:
    """Run one update on arrays of any shape and layout, in place; `optimizer` holds all constants but the rate."""
    g = flat(check_update(optimizer, learning_rate, parameters, gradients, slots))
    check_count("step", step)
    w, dtype = flat(parameters), parameters.dtype
    if not w.size:
        return
    buffers = [slot for slot in slots.values() if slot is not None]
    copies = [flat(slot) for slot in buffers]
    constants = step_constants(optimizer, step - 1, np.array([learning_rate], np.float64))
    m, v = [*copies, w, w][:2]
    update = kernel(f"updates.{update_of(optimizer)}")
    update.run(dtype, address(constants), 0.0, *map(address, (w, g, m, v)), w.size)
    parameters[...] = w.reshape(parameters.shape)
    for slot, copy in zip(buffers, copies, strict=True):
        slot[...] = copy.reshape(slot.shape)


@twin
def sgd_update(
    parameters: Array,
    gradients: Array,
    velocity: Array | None,
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """See `twin`."""
    optimizer = SGD(1.0, momentum, nesterov, weight_decay)
    run_update(optimizer, 1, learning_rate, parameters, gradients, {"velocity": velocity} if momentum else {})


@twin
def adam_update(
    parameters: Array,
    gradients: Array,
    first_moment: Array,
    second_moment: Array,
    step: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    epsilon_hat: bool = False,
) -> None:
    """See `twin`."""
    kind = AdamW if check_flag("decoupled", decoupled) else Adam
    optimizer = kind(1.0, beta1, beta2, epsilon, weight_decay, epsilon_hat)
    slots: dict[str, Array | None] = {"first_moment": first_moment, "second_moment": second_moment}
    run_update(optimizer, step, learning_rate, parameters, gradients, slots)


@twin
def rmsprop_update(
    parameters: Array,
    gradients: Array,
    mean_square: Array,
    learning_rate: float,
    rho: float = 0.99,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """See `twin`."""
    optimizer = RMSprop(1.0, rho, epsilon, weight_decay)
    run_update(optimizer, 1, learning_rate, parameters, gradients, {"mean_square": mean_square})
