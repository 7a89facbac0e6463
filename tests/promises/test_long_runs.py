"""Promise 7: memory does not grow with the number of fits, nor with a mapped file, and its lack is survived."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fastmlp import MLP, SGD, Adam, DivergenceError, chunks, training

Array = np.ndarray

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or limits the address space")


def in_a_process(code: str, *arguments: object, timeout: float = 600) -> Any:
    """Run code in a process of its own, and give what its last line says, in JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)], capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- Many fits --------------------------------------------------------------------------------------------------------

FITS = """
import ctypes, gc, json, sys
import numpy as np
import fastmlp

libc = ctypes.CDLL(None)
which, n_fits = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
X, y = rng.normal(size=(60, 64)).astype("f4"), rng.integers(3, size=60)
optimizers = [fastmlp.SGD(0.001, momentum=0.9), fastmlp.Adam(), fastmlp.AdamW(), fastmlp.RMSprop()]
options = [{}, {"l2": 0.1, "sample_weight": np.ones(60)}, {"dropout": 0.2, "clip_norm": 1.0, "average": 0.9}]
net = fastmlp.MLP([64, 10, 3])

def fit(i):
    n_in, width = 64, 10
    if which == "new":
        n_in, width = 1 + i % 64, 1 + i * 7 % 61
        made = fastmlp.MLP([n_in, width, 3], ["relu", "tanh", "gelu"][i % 3], dtype=["float32", "float64"][i % 2])
    else:
        made = net
    made.fit(
        X[:, :n_in], y, 1, 1 + i % 60, optimizers[i % 4], threads=1 + i % 2, validation_data=(X[:, :n_in], y),
        **options[i % 3],
    )

def resident():  # Without what the C library keeps for later: how much that is depends on what the compiler has freed.
    gc.collect()
    getattr(libc, "malloc_trim", bool)(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

for i in range(1000):
    fit(i)
before = resident()
for i in range(n_fits):
    fit(i)
print(json.dumps((resident() - before) / 1e6))
"""


@linux_only
@pytest.mark.parametrize("which", ["same", "new"])
def test_many_fits_do_not_grow_the_process(which: str, promise: Any, count: Callable[[int, int], int]) -> None:
    n_fits = count(10_000, 100_000)
    with promise(f"7 consecutive fits of {'one network' if which == 'same' else 'new networks'}: < 5 MB", n_fits):
        assert in_a_process(FITS, which, n_fits, timeout=300 if n_fits == 10_000 else 3000) < 5.0


# --- Files larger than memory -----------------------------------------------------------------------------------------

MAPPED = """
import json, os, sys
import numpy as np
import fastmlp

path, n_bytes, width = sys.argv[1], int(sys.argv[2]), 1024
n_samples = n_bytes // (4 * width)
for name, size in (("X", 4 * width), ("y", 8), ("w", 4)):
    with open(f"{path}/{name}", "wb") as file:
        file.truncate(n_samples * size)
with open(f"{path}/w", "r+b") as file:
    file.write(np.ones(1000, "f4").tobytes())
X = np.memmap(f"{path}/X", "f4", "r", shape=(n_samples, width))
y = np.memmap(f"{path}/y", "i8", "r")
w = np.memmap(f"{path}/w", "f4", "r")
net = fastmlp.MLP([width, 4, 2])
net.fit(np.zeros((1000, width), "f4"), np.zeros(1000, int), epochs=1, batch_size=500, sample_weight=np.ones(1000))
file = os.open(f"{path}/X", os.O_RDONLY)

def spare_the_cache(progress):  # 20 GB of zeros are not worth the machine's memory.
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024

before = peak()
history = net.fit(X, y, epochs=1, batch_size=500, sample_weight=w, progress=spare_the_cache)
assert np.isfinite(history.train_loss[0])
print(json.dumps([(peak() - before) / 1e6, n_samples, history.seconds[0]]))
"""


@linux_only
def test_the_peak_does_not_depend_on_the_length_of_a_mapped_file(tmp_path: Path, promise: Any) -> None:
    peaks = []
    for size in (1 << 30, 20 << 30):
        with promise("7 a sparse numpy.memmap, 1 GB then 20 GB: the same peak of memory"):
            peak, *_ = in_a_process(MAPPED, tmp_path, size, timeout=300)
            peaks.append(peak)
            assert peak < 4e-6 * chunks.CHUNK_BYTES
            assert abs(peak - peaks[0]) < 16


def mapped(path: Path, array: Array) -> Array:
    """Write an array to a file, and map it."""
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 20_000)


@pytest.fixture(params=["numba", "numpy"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def samples(n: int = 2_345, n_classes: int = 3) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 10))
    return X, np.argmax(X[:, :n_classes], axis=1)


def fitted(engine: str, X: Array, y: Array, dtype: str = "float64", **options: Any) -> list[Array]:
    """Give a small network's parameters after two epochs."""
    net = MLP([10, 8, 3], dtype=dtype, engine=engine, loss=options.pop("loss", "softmax_cross_entropy"))
    net.fit(X, y, epochs=2, optimizer=Adam(0.01), **options)
    return [*net.weights, *net.biases]


@pytest.mark.parametrize("batch_size", [8, 100, 3_000])
@pytest.mark.parametrize("file_dtype", ["f8", "f4", "f2", "u1", "i2", ">f4", "?"])
def test_in_the_order_of_the_file_it_trains_the_weights_of_the_array(
    engine: str, file_dtype: str, batch_size: int, small_chunks: None, tmp_path: Path, promise: Any
) -> None:
    X, y = samples()
    X = np.abs(10 * X).astype(file_dtype)
    weights = np.random.default_rng(1).uniform(size=len(X)).astype("f4")
    plain = fitted(engine, X, y, batch_size=batch_size, shuffle=False, sample_weight=weights)
    with promise("7 a numpy.memmap in chunks: the bits of the array"):
        files = [mapped(tmp_path / f"{i}.npy", array) for i, array in enumerate((X, y.astype("i2"), weights))]
        assert chunks.is_mapped(files[0])
        options: dict[str, Any] = {"batch_size": batch_size, "shuffle": False}
        for a, b in zip(fitted(engine, *files[:2], sample_weight=files[2], **options), plain, strict=True):
            assert_array_equal(a, b)
        for a, b in zip(fitted(engine, files[0], y, sample_weight=weights, **options), plain, strict=True):
            assert_array_equal(a, b)


def test_values_and_soft_labels_of_a_file(engine: str, small_chunks: None, tmp_path: Path, promise: Any) -> None:
    X, y = samples()
    for loss, targets in (("sigmoid_cross_entropy", np.eye(3)[y]), ("squared_error", X[:, :3])):
        options = {"loss": loss, "shuffle": False}
        options["label_smoothing"] = 0.1 if loss == "sigmoid_cross_entropy" else 0.0
        with promise("7 a numpy.memmap in chunks: the bits of the array"):
            files = mapped(tmp_path / f"{loss}.npy", X), mapped(tmp_path / f"{loss}_y.npy", targets)
            plain = fitted(engine, X, targets, **options)
            for a, b in zip(fitted(engine, *files, **options), plain, strict=True):
                assert_array_equal(a, b)


def test_every_row_is_taken_once_an_epoch_in_chunks_of_its_own(
    tmp_path: Path, small_chunks: None, promise: Any, count: Callable[[int, int], int]
) -> None:
    rng = np.random.default_rng(0)
    for _ in range(count(50, 500)):
        n, batch_size, shuffle = int(rng.integers(2_000, 9_000)), int(rng.integers(1, 700)), bool(rng.integers(4))
        X, numbers = np.arange(10 * n, dtype="f8").reshape(n, 10), np.arange(n)
        with promise("7 chunks and rows are shuffled, and each is taken once"):
            rows = chunks.MappedRows(X), chunks.MappedRows(numbers)
            reader = chunks.ChunkReader(*rows, None, batch_size)
            epochs = []
            for _ in range(2):
                reader.draw_orders(rng, int(shuffle), n)
                taken, firsts, batch, n_batches = [], [], 0, -(-n // batch_size)
                while batch < n_batches:
                    chunk = reader.chunk_of(batch)
                    assert_array_equal(chunk.X[:, 0], 10 * chunk.y)
                    in_order = chunk.y[chunk.orders[0]]
                    assert len(in_order) == min(n, chunk.end * batch_size) - chunk.first_batch * batch_size
                    assert in_order.max() - in_order.min() == len(in_order) - 1
                    taken.append(in_order)
                    firsts.append(in_order.min())
                    batch = chunk.end
                assert_array_equal(np.sort(np.concatenate(taken)), numbers)
                epochs.append(np.concatenate(taken))
            assert (epochs[0] == epochs[1]).all() == (not shuffle)
            assert shuffle or (epochs[0] == numbers).all()
            if shuffle and len(firsts) > 5:
                assert (np.diff(firsts) < 0).any()
                assert (np.diff(taken[0]) < 0).any()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_file_is_resumed_to_the_bit_on_any_number_of_threads(
    engine: str, threads: int, small_chunks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promise: Any
) -> None:
    monkeypatch.setattr("fastmlp.network.available_cpus", lambda: 2)
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    X, y = samples()
    file = mapped(tmp_path / "X.npy", X)  # 188 kB: ten chunks of 8 batches.
    nets = [MLP([10, 8, 3], engine=engine, dtype="float64") for _ in range(2)]
    options: dict[str, Any] = {"epochs": 3, "batch_size": 30, "optimizer": Adam(0.01), "average": 0.9, "dropout": 0.1}
    whole = nets[0].fit(file, y, **options)
    with promise("7 a run on a numpy.memmap resumes to the bit"):
        state = nets[1].training_state(options["optimizer"])
        for stop in (7, 60, 80, 81, 150):
            nets[1].fit(
                file, y, **options, threads=threads, state=state, progress=lambda at, stop=stop: at.step >= stop
            )
            nets[1].save(tmp_path / "run.safetensors", state)
        history = nets[1].fit(file, y, **options, threads=threads, state=state)
        assert history.train_loss == whole.train_loss
        for a, b in zip(nets[1].weights, nets[0].weights, strict=True):
            assert_array_equal(a, b)


def test_what_is_computed_of_a_file(engine: str, small_chunks: None, tmp_path: Path, promise: Any) -> None:
    X, y = samples()
    net = MLP([10, 8, 3], engine=engine)
    net.fit(X, y, epochs=1)
    for dtype in ("f4", "f8"):
        with promise("7 forward, predict, loss, accuracy, gradients of a numpy.memmap"):
            file, array = mapped(tmp_path / f"{dtype}.npy", X.astype(dtype)), X.astype(dtype)
            # The parts end elsewhere than a forward pass's blocks: single rows have tiles of their own.
            np.testing.assert_allclose(net.forward(file), net.forward(array), rtol=1e-5, atol=1e-7)
            assert_array_equal(net.predict(file), net.predict(array))
            assert net.loss(file, y) == pytest.approx(net.loss(array, y), rel=1e-6)
            assert net.accuracy(file, y) == net.accuracy(array, y)
            assert_array_equal(net.gradients(file, y).weights[0], net.gradients(array, y).weights[0])
            history = net.fit(file, y, epochs=1, validation_data=(file, y))
            assert history.validation_loss[0] == pytest.approx(net.loss(array, y), rel=1e-6)


@pytest.mark.parametrize("file_dtype", ["f8", "f4", "f2"])
def test_a_not_finite_value_in_a_file_is_named_and_nothing_has_changed(
    engine: str, file_dtype: str, small_chunks: None, tmp_path: Path, promise: Any, count: Callable[[int, int], int]
) -> None:
    rng = np.random.default_rng(0)
    for i in range(count(10, 100)):
        X, y = samples()
        X = X.astype(file_dtype)
        rows, column = np.sort(rng.integers(len(X), size=2)), rng.integers(10)
        X[rows, column] = np.nan
        with promise("7 NaN in a numpy.memmap: the first is named, nothing has changed"):
            file = mapped(tmp_path / f"{i}.npy", X)
            net, untouched = (MLP([10, 8, 3], engine=engine) for _ in range(2))
            with pytest.raises(ValueError, match=rf"^X must be finite, got nan at \[{rows[0]}, {column}\]$"):
                net.fit(file, y)
            with pytest.raises(ValueError, match=rf"^X must be finite, got nan at \[{rows[0]}, {column}\]$"):
                net.predict(file)
            with pytest.raises(ValueError, match=rf"^validation X must be finite, got nan at \[{rows[0]}, {column}\]$"):
                net.fit(samples()[0], y, validation_data=(file, y))
            for other in (net, untouched):
                other.fit(samples()[0], y, epochs=1)
            for a, b in zip(net.weights, untouched.weights, strict=True):
                assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": (2_000, 3)}, r"^y must hold classes 0 to 2, got 3$"),
        ({"y": (2_000, np.nan)}, r"^y must be finite, got nan at \[2000\]$"),
        ({"w": (2_000, np.nan)}, r"^sample_weight must be finite, got nan at \[2000\]$"),
        ({"w": (2_000, -1.0)}, r"^sample_weight must be >= 0, got -1$"),
        ({"w": (slice(None), 0.0)}, r"^sample_weight must be > 0 for at least one sample, got zeros$"),
        ({"X": slice(5)}, r"^X must be \(n_samples, 10\), got \(2345, 5\)$"),
        ({"y": slice(7, None)}, r"^y must have one entry for each of the 2345 samples of X, got shape \(2338,\)$"),
        ({"w": slice(7, None)}, r"^sample_weight must be \(2345,\), got \(2338,\)$"),
    ],
    ids=str,
)
def test_what_is_wrong_in_a_file_is_said_of_the_whole(
    engine: str, change: dict[str, Any], message: str, small_chunks: None, tmp_path: Path
) -> None:
    X, y = samples()
    arrays = {"X": X, "y": y, "w": np.ones(len(X))}
    for name, what in change.items():
        if isinstance(what, slice):
            arrays[name] = arrays[name][:, what] if name == "X" else arrays[name][what]
        else:
            arrays[name] = arrays[name].astype(float) if what[1] != 3 else arrays[name]
            arrays[name][what[0]] = what[1]
    files = {name: mapped(tmp_path / f"{name}.npy", array) for name, array in arrays.items()}
    with pytest.raises(ValueError, match=message):
        MLP([10, 8, 3], engine=engine).fit(files["X"], files["y"], sample_weight=files["w"])


def test_a_file_that_diverges_leaves_the_best_weights(engine: str, small_chunks: None, tmp_path: Path) -> None:
    X, y = samples()
    net = MLP([10, 8, 3], engine=engine)
    before = net.loss(X, y)
    with pytest.raises(DivergenceError, match="training diverged"):
        net.fit(mapped(tmp_path / "X.npy", X), y, epochs=20, optimizer=SGD(1e30))
    assert net.loss(X, y) <= before


def test_pages_that_were_written_to_a_private_mapping_stay(small_chunks: None, tmp_path: Path, engine: str) -> None:
    X, y = samples()
    np.save(tmp_path / "X.npy", np.zeros_like(X))
    private = np.load(tmp_path / "X.npy", mmap_mode="c")
    private[:] = X
    options = {"shuffle": False}
    for a, b in zip(fitted(engine, private, y, **options), fitted(engine, X, y, **options), strict=True):
        assert_array_equal(a, b)
    assert_array_equal(private, X)


# --- Too little memory ------------------------------------------------------------------------------------------------

TOO_WIDE = """
import json, resource, sys
import numpy as np
import fastmlp

engine = sys.argv[1]
rng = np.random.default_rng(0)
X, y = rng.normal(size=(3000, 200)), rng.integers(5, size=3000)

def small():
    net = fastmlp.MLP([200, 20, 5], engine=engine)
    net.fit(X, y, epochs=1, optimizer="adam", threads=1)
    return net.weights[0].tobytes()

def refused(call):
    try:
        call()
    except MemoryError as error:
        assert str(error) and "\\n" not in str(error), repr(error)
        return str(error)
    raise AssertionError("it had the memory")

expected = small()
wide = fastmlp.MLP([200, 250_000, 5], engine=engine)  # 50 million weights: 200 MB, and 12 kB a sample's output.
wide.predict(X[:1])
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000,) * 2)
before = wide.weights[0][::1000].tobytes()
for sizes in ([200, 10**12, 5], [200, 3_000_000, 5], [10**18, 5], [200, 10**6, 10**6, 5]):
    message = refused(lambda: fastmlp.MLP(sizes, engine=engine))
    assert message.startswith(f"layer_sizes must make a network that fits in memory, got {sizes}: "), message
    assert small() == expected
for call in (
    lambda: wide.fit(X[:300], y[:300], epochs=1, optimizer="adam"),
    lambda: wide.fit(X[:300], y[:300], epochs=1, batch_size=300, average=0.9),
    lambda: fastmlp.MLP([200, 500, 5], engine=engine).forward(np.broadcast_to(X[:1], (50_000_000, 200))),
):
    refused(call)
    assert wide.weights[0][::1000].tobytes() == before
    assert wide._fits == 0
    assert small() == expected
wide.predict(X[:1])
print(json.dumps(7))
"""


@linux_only
def test_a_lack_of_memory_leaves_the_process_usable(engine: str, promise: Any) -> None:
    with promise("7 MemoryError: the process trains the same bits after it", 7):
        assert in_a_process(TOO_WIDE, engine, timeout=120) == 7
