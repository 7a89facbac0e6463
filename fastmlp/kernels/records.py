"""Records: rows of eight-byte fields that Python writes and kernels read by name.

A kernel gets the address of a record, one argument instead of thirty, each of which would make a call dearer. Reading a
field (``net.workspace``) is one load. Fields are whole numbers, addresses among them, or float64 where the annotation
says so.
"""

from __future__ import annotations

from typing import NamedTuple


class Layer(NamedTuple):
    """A row of the table of layers: sizes, and offsets into the buffers, in elements.

    `weights`, `bias`: in the parameters. `Z`, `A`, `D`: in the workspace, what determines the activation's slope,
    the outputs (in one place unless that is the input, or dropout comes between), and their derivative.
    `transposed`: in the workspace, ``Wᵀ``, which has `stride` rows; 0 for the first layer, without use. `stride` and
    `input_stride`: between rows of W, Z, A, D, and of the layer's input and Wᵀ; of X, `Part` tells. `activate`,
    `multiply_by_slope`, `takes_input`: of the activation; the first two are addresses, 0 for identity. `threshold`: of
    dropout, 0 without. `sums`: among the sums over half of the rows, where those of dW are.
    """

    n_in: int
    n_out: int
    stride: int
    input_stride: int
    weights: int
    bias: int
    Z: int
    A: int
    D: int
    transposed: int
    activate: int
    multiply_by_slope: int
    takes_input: int
    threshold: int
    sums: int


class Part(NamedTuple):
    """Some of the network's inputs: columns of X, rows of the first W, and the part of each sum of Z that is theirs.

    The memory of X, of the addresses and of the masks is not there with sparse samples (0).
    """

    first: int
    n_in: int
    n_words: int  # Of a row's mask.
    stride: int  # Between rows of X.
    X: int  # The gathered X.
    row_addresses: int  # int64 (BLOCK_ROWS + 1,): the addresses of its rows: in X, or where the sample lies.
    masks: int  # uint64 (BLOCK_ROWS + MASK_SLACK, n_words)
    doubts: int  # float64 (BLOCK_ROWS,): 0, or NaN if the row's inputs are not finite.
    Z: int  # In the workspace, the sums; with one part only, or one thread, in the place of the first layer's Z and D.


class State(NamedTuple):
    """What the loop knows of a network, and the memory that it writes, given by its address here and below.

    Threads share the memory, but for `weight_rows`, `loss_memory`, `indices`, `turned` and `column_ends`, of which each
    has a part.
    What dense samples need is not there with sparse ones (0), and the other way round.
    """

    layers: int  # `Layer` by `Layer`.
    n_layers: int
    parts: int  # `Part` by `Part`.
    n_parts: int
    loss: int
    bias: int
    input_scale: float
    loss_low: float
    loss_high: float
    label_smoothing: float
    clip_norm: float
    workspace: int  # A row of zeros at 0; Z, A, D of the layers; Wᵀ; the sums of the parts of the inputs.
    entry_values: int  # The gathered X, sparse: of the dtype, row by row.
    entry_columns: int  # int32, as many.
    entry_bounds: int  # int64 (BLOCK_ROWS, 2): the first of each row's entries, and the end. With dense samples none.
    sorted_values: int  # The same entries by column, of each thread's rows.
    sorted_rows: int  # int32, as many.
    column_ends: int  # int32 (n_in + 1,), see `fastmlp.kernels.sparse.sort_entries`
    row_losses: int  # float64 (BLOCK_ROWS,)
    loss_memory: int  # float64 (LOSS_MEMORY,), see `fastmlp.kernels.losses`.
    barrier: int  # int64 (2,), see `fastmlp.kernels.loop.wait_for_all`
    samples: int  # `SampleAddresses`: what Python does not write of it, `forward_all` and `take_step` do first of all.
    order: int  # int64 (BLOCK_ROWS,), for samples in their own order
    weight_rows: int  # Rows of dW, or db, before they are used.
    weight_rows_size: int
    halves: int  # Whether dW is summed over each half of the rows of a block by itself, see `fastmlp.kernels.weights`.
    sums: int  # These sums, of the first half and then of the second; or none. One of two threads writes one of them.
    sums_size: int  # Of a half's.
    indices: int  # int32, a list.
    indices_size: int
    turned: int  # uint8, the masks of 64 inputs, turned.
    parameters: int  # Python writes it for training, and `forward_all` before any other kernel reads it.
    gradient: int  # Or none, where no step needs it.
    slot1: int
    slot2: int
    n_pieces: int  # Of the weights, see `fastmlp.kernels.weights`; a bias is one, too.
    weight_squares: int  # float64 (n_pieces,): each piece's sum of squares, for the L2 term; or none.
    gradient_squares: int  # The same of the gradient, for clipping; or none.
    average: int  # Of the parameters; or none.
    # The kernels that the loop is made of.
    gather: int  # Of the kind of samples.
    forward: int
    loss_and_output_gradient: int
    softmax_cross_entropy: int  # Which that calls, if it is the loss.
    backward_through_layers: int
    backward_to_weights: int
    drop: int
    update: int  # Of the optimizer; or none, to keep the gradient.
    update_piece: int
    update_clipped: int
    prepare_weights: int
    transpose_weights: int
    multiply_inputs: int  # Of the kind of samples.
    multiply_rows: int
    multiply_listed_rows: int
    multiply_row: int  # These two for single rows; or none, where there are more.
    multiply_listed_row: int
    multiply_columns: int
    multiply_listed_columns: int
    sort_entries: int
    multiply_sorted_entries: int


class SampleAddresses(NamedTuple):
    """Where X and y lie, whatever kind of arrays they are.

    X is an array, or `fastmlp.sparse.SparseRows`; then its first three fields mean nothing.
    """

    X: int
    X_is_uint8: int
    X_stride: int  # Bytes.
    y: int
    y_stride: int  # Bytes.
    orders: int  # int64 (n_orders, n_samples)
    n_orders: int
    n_samples: int
    weights: int  # float64 (n_samples,), or none.
    values: int  # Of sparse rows.
    columns: int  # int32, as many.
    starts: int  # int64 (n_samples + 1,), or none.


class ArrayObject(NamedTuple):
    """What NumPy's C interface says of an array object, behind the header that every Python object has.

    `data`: the address of the first element. `shape` and `strides`: those of as many int64; strides are in bytes. A
    kernel reads them when the GIL may be gone, so no other thread must reshape the array in place meanwhile.
    """

    data: int
    n_dimensions: int  # Not read here; it stands between the others.
    shape: int
    strides: int


ARRAY_OFFSET = object.__basicsize__
"""The bytes of that header."""

LAYER_BYTES, PART_BYTES = 8 * len(Layer._fields), 8 * len(Part._fields)
SAMPLE, STATE = SampleAddresses(*range(len(SampleAddresses._fields))), State(*range(len(State._fields)))
LAYER = Layer(*range(len(Layer._fields)))
"""The number of each field, for those who write single ones."""
