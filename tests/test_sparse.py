"""Sparse samples: SciPy's matrices train, and predict, what the same numbers in an array do, bit for bit."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fastmlp import MLP, SGD, Adam, DivergenceError

sp = pytest.importorskip("scipy.sparse")

Array = np.ndarray
RNG = np.random.default_rng(0)
N, N_FEATURES = 300, 280  # Two parts of the inputs.
DENSE = RNG.normal(size=(N, N_FEATURES)) * (RNG.random((N, N_FEATURES)) < 0.05)
DENSE[7] = DENSE[N - 1] = 0.0
DENSE[:, 32:48] = DENSE[:, N_FEATURES - 1] = 0.0
Y = RNG.integers(3, size=N)
KINDS = ["csr_matrix", "csr_array", "csc_matrix", "csc_array", "coo_matrix", "coo_array"]


def network(engine: str, **options: Any) -> MLP:
    return MLP([N_FEATURES, 20, 3], **{"dtype": "float64", "engine": engine, **options})


def assert_same_network(one: MLP, other: MLP) -> None:
    for a, b in zip([*one.weights, *one.biases], [*other.weights, *other.biases], strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_as_the_array_does(engine: str, kind: str) -> None:
    X = getattr(sp, kind)(DENSE)
    sparse, dense = network(engine), network(engine)
    a = sparse.fit(X, Y, epochs=3, batch_size=32, optimizer=Adam(0.01), validation_data=(X[:50].copy(), Y[:50])
                   if kind.startswith("csr") else (X, Y))  # fmt: skip
    b = dense.fit(DENSE, Y, epochs=3, batch_size=32, optimizer=Adam(0.01),
                  validation_data=(DENSE[:50], Y[:50]) if kind.startswith("csr") else (DENSE, Y))  # fmt: skip
    assert_same_network(sparse, dense)
    assert a.train_loss == b.train_loss
    assert a.validation_loss == b.validation_loss


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [1, 5, 64, 280])
def test_batches_threads_and_dtypes(batch_size: int, dtype: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmlp.network.available_cpus", lambda: threads)
    sparse, dense = network("numba", dtype=dtype), network("numba", dtype=dtype)
    sparse.fit(sp.csr_matrix(DENSE), Y, epochs=2, batch_size=batch_size, threads=threads)
    dense.fit(DENSE, Y, epochs=2, batch_size=batch_size, threads=1)
    assert_same_network(sparse, dense)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("widths", [[], [150, 20], [33]])
def test_widths(widths: list[int], dtype: str) -> None:
    """A tile has eight vectors at most; a network may have no hidden layer."""
    pair = [MLP([N_FEATURES, *widths, 3], dtype=dtype) for _ in range(2)]
    for net, X in zip(pair, (sp.csr_array(DENSE), DENSE), strict=True):
        net.fit(X, Y, epochs=2, batch_size=50, optimizer=SGD(0.05, momentum=0.9))
    assert_same_network(*pair)
    assert_array_equal(pair[0].forward(sp.csr_array(DENSE)), pair[1].forward(DENSE))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"sample_weight": RNG.random(N)},
        {"l2": 0.1},
        {"clip_norm": 0.1},
        {"dropout": 0.3},
        {"average": 0.9, "label_smoothing": 0.1},
        {"optimizer": SGD(0.1, weight_decay=0.01)},
    ],
    ids="-".join,
)
def test_what_a_step_may_do_besides(options: Any, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmlp.network.available_cpus", lambda: threads)
    sparse, dense = network("numba"), network("numba")
    for batch_size in (40, 250):
        arguments = {"epochs": 2, "batch_size": batch_size, **options}
        a = sparse.fit(sp.csr_array(DENSE), Y, threads=threads, **arguments)
        b = dense.fit(DENSE, Y, threads=1, **arguments)
        assert_same_network(sparse, dense)
        assert a.train_loss == b.train_loss


def test_weights_that_are_not_finite_are_found() -> None:
    net = network("numba")
    net.fit(sp.csr_array(DENSE), Y, epochs=1)
    with pytest.raises(DivergenceError):
        net.fit(sp.csr_array(1e200 * DENSE), Y, epochs=3, optimizer=SGD(1e200))


def test_everything_else_takes_sparse_samples(engine: str) -> None:
    net, X = network(engine), sp.csr_array(DENSE)
    for method in (net.forward, net.predict, net.predict_proba):
        assert_array_equal(method(X), method(DENSE))
    assert net.loss(X, Y) == net.loss(DENSE, Y)
    assert net.accuracy(X, Y) == net.accuracy(DENSE, Y)
    for a, b in zip(net.gradients(X, Y).weights, net.gradients(DENSE, Y).weights, strict=True):
        assert_array_equal(a, b)
    assert_array_equal(net.predict(X[3:4]), net.predict(DENSE[3:4]))


def test_calls_of_more_and_more_samples() -> None:
    """The memory of the first calls is too small for the entries of the next."""
    net, X = network("numba"), sp.csr_array(DENSE)
    for n in (1, 2, 30, 299):
        assert_array_equal(net.forward(X[:n]), net.forward(DENSE[:n]))
        a, b = net.gradients(X[:n], Y[:n]), net.gradients(DENSE[:n], Y[:n])
        assert_array_equal(a.weights[0], b.weights[0])


def test_forward_on_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmlp.kernels.engine.FORWARD_WORK", 10_000)
    net = network("numba")
    assert_array_equal(net.forward(sp.csr_array(DENSE)), net.forward(DENSE))


def test_sparse_and_dense_by_turns(engine: str) -> None:
    """The memory of the calls is used again: what one leaves there must not be another's samples."""
    net, other = network(engine), network(engine)
    X = sp.csr_array(DENSE)
    for part in (slice(0, 300), slice(100, 130), slice(40, 260), slice(7, 8)):
        assert_array_equal(net.forward(X[part]), other.forward(DENSE[part]))
        assert_array_equal(net.forward(DENSE[part] + 1.0), other.forward(DENSE[part] + 1.0))
        net.fit(X[part], Y[part], epochs=1, batch_size=50)
        other.fit(DENSE[part], Y[part], epochs=1, batch_size=50)
        assert_same_network(net, other)


def test_pixels_are_scaled(engine: str) -> None:
    pixels = (255 * np.abs(DENSE)).clip(0, 255).astype(np.uint8)
    sparse, dense = network(engine, input_scale=1 / 255), network(engine, input_scale=1 / 255)
    sparse.fit(sp.csr_array(pixels), Y, epochs=1)
    dense.fit(pixels, Y, epochs=1)
    assert_same_network(sparse, dense)


def test_entries_of_one_place_add_up(engine: str) -> None:
    X = sp.csr_array(
        (np.array([1.0, 2.0, 0.0, 4.0]), np.array([3, 3, 0, 149]), np.array([0, 3, 3, 4])), (3, N_FEATURES)
    )
    net, dense = network(engine), np.zeros((3, N_FEATURES))
    dense[0, 3], dense[2, 149] = 3.0, 4.0
    assert_array_equal(net.forward(X), net.forward(dense))
    assert len(X.data) == 4  # The user's matrix is as it was.


def test_columns_in_any_order(engine: str) -> None:
    """Whatever SciPy believes of them: its flags are as old as the last look."""
    X = sp.csr_array(DENSE)
    assert X.has_canonical_format
    for row in range(N):
        here = slice(X.indptr[row], X.indptr[row + 1])
        X.indices[here], X.data[here] = X.indices[here][::-1].copy(), X.data[here][::-1].copy()
    shuffled, ordered, data = network(engine), network(engine), X.data.copy()
    shuffled.fit(X, Y, epochs=2)
    ordered.fit(DENSE, Y, epochs=2)
    assert_same_network(shuffled, ordered)
    assert_array_equal(X.data, data)


def test_samples_are_not_made_dense_as_a_whole() -> None:
    X = sp.random(4000, 30_000, density=1e-4, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    net = MLP([30_000, 4, 2])
    tracemalloc.start()
    net.fit(X, np.zeros(4000, int), epochs=1)
    net.predict(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 240 * 30_000 * 4 / 3  # Nor is what the kernels take at a time.


def csr(data: Any, indices: Any, indptr: Any) -> Any:
    X = sp.csr_matrix((2, N_FEATURES))
    X.data, X.indices, X.indptr = np.array(data), np.array(indices), np.array(indptr)
    return X


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (sp.csr_matrix((2, 3)), r"^X must be \(n_samples, 280\), got \(2, 3\)$"),
        (sp.csr_matrix((0, 280)), r"^X must have at least one sample, got \(0, 280\)$"),
        (csr([1.0, np.nan], [4, 5], [0, 1, 2]), r"^X must be finite, got nan at \[1, 5\]$"),
        (csr([1.0, 1e300], [4, 5], [0, 1, 2]), r"^X must not be too large for float32, got 1e\+300 at \[1, 5\]$"),
        (csr([1e308, 1e308], [4, 4], [0, 2, 2]), r"^X must not be too large for float32, got 1e\+308 at \[0, 4\]$"),
        (csr([3e38, 3e38], [4, 4], [0, 2, 2]), r"^X must be finite, got inf at \[0, 4\]$"),
        (csr([1j], [4], [0, 1, 1]), r"^X must be numeric, got dtype complex128$"),
        (csr([1.0], [280], [0, 1, 1]), r"^X must be a well-formed CSR matrix, got columns 280 to 280 of 280$"),
        (csr([1.0], [-1], [0, 1, 1]), r"^X must be a well-formed CSR matrix, got columns -1 to -1 of 280$"),
        (csr([1.0], [1], [0, 2, 1]), r"^X must be a well-formed CSR matrix, got row starts that do not ascend"),
        (csr([1.0], [1], [0, 1, 2]), r"^X must be a well-formed CSR matrix, got row starts that do not ascend"),
    ],
)
def test_what_is_refused(engine: str, X: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(engine, dtype="float32").predict(X)


def test_numbers_too_large_for_the_input_scale(engine: str) -> None:
    net = MLP([3, 2], input_scale=1e10, engine=engine)
    message = r"X must be finite when multiplied by input_scale, got 1.0\d*e\+30 at \[1, 2\]"
    with pytest.raises(ValueError, match=message):
        net.predict_proba(sp.csr_array(np.float32([[1, 0, 0], [0, 2, 1e30]])))


def test_what_a_callback_writes_to_the_indices_does_not_reach_the_kernels(engine: str) -> None:
    X, y = sp.random(50, 20, 0.3, "csr", rng=np.random.default_rng(0)), np.arange(50) % 2
    assert X.indices.dtype == np.int32
    nets = [MLP([20, 3, 2], engine=engine) for _ in range(2)]
    other = X.copy()
    expected = nets[0].fit(other, y, epochs=3, batch_size=10, validation_data=(other, y))
    history = nets[1].fit(
        X, y, epochs=3, batch_size=10, validation_data=(X, y), callbacks=[lambda history: X.indices.fill(10**8)]
    )
    assert_array_equal(nets[0].weights[0], nets[1].weights[0])
    assert history.validation_loss == expected.validation_loss
