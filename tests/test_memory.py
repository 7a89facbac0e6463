"""No kernel touches memory beyond its buffers: here, each ends where the operating system stops the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import cases
import pytest

CODE = """
overrun = False
import ctypes, mmap
import numpy as np
import fastmlp
from fastmlp import network, parameters
from fastmlp.kernels import engine, memory, public

libc, page = ctypes.CDLL(None), mmap.PAGESIZE
regions = []  # Kept for the life of the process.

def at_the_edge(n, dtype):
    n_bytes = n * np.dtype(dtype).itemsize
    room = -(-n_bytes // page) * page
    regions.append(mmap.mmap(-1, room + page))
    begin = ctypes.addressof(ctypes.c_char.from_buffer(regions[-1]))
    assert libc.mprotect(ctypes.c_void_p(begin + room), ctypes.c_size_t(page), 0) == 0
    return np.frombuffer(regions[-1], dtype, n, room - n_bytes)

def copied(array):
    copy = at_the_edge(array.size, array.dtype).reshape(array.shape)
    copy[...] = array
    return copy

if overrun:
    ctypes.memset(at_the_edge(3, "f4").ctypes.data, 0, 13)  # A byte too many: it must not live to tell.
for module in (parameters, memory, public):
    assert hasattr(module, "aligned_zeros")
    module.aligned_zeros = at_the_edge
made = len(regions)
fastmlp.MLP([1, 1])
assert len(regions) > made  # The networks' memory is such, too.
network.available_cpus = lambda: 3
rng, slow = np.random.default_rng(0), fastmlp.SGD(1e-9)
SIZES = [1, 1], [3, 17, 2], [64, 33, 16, 10], [130, 257, 5], [256, 9, 4], [1100, 7, 65], [20, 33, 1], [9, 20, 600]
for dtype in ("float32", "float64"):
    engine.STEP_WORK_FOR_TWO = 0 if dtype == "float32" else np.inf  # Whether dW is summed in halves.
    for sizes in SIZES:
        loss = "squared_error" if sizes[-1] in (1, 600) else "softmax_cross_entropy"
        for n, batch_size in ((5, 1), (97, 7), (265, 264), (550, 528)):
            for density in (0.2, 1.0):
                X = copied((rng.normal(size=(n, sizes[0])) * (rng.random((n, sizes[0])) < density)).astype(dtype))
                y = copied(rng.integers(sizes[-1], size=n))
                records = at_the_edge(n, [("x", dtype, sizes[:1]), ("label", "u1")])["x"]  # Strides of 4 k + 1 bytes.
                records[...] = X
                if loss == "squared_error":
                    y = copied(rng.normal(size=(n, sizes[-1])).astype(dtype))
                net = fastmlp.MLP(sizes, dtype=dtype, activation="gelu", loss=loss)
                options = {"optimizer": "adam", "l2": 0.1, "clip_norm": 1.0, "average": 0.9, "dropout": 0.2}
                for threads in (1, 2, 3):
                    net.fit(X, y, epochs=1, batch_size=batch_size, threads=threads, optimizer=slow)
                    net.fit(X, y, epochs=1, batch_size=batch_size, threads=threads, **options)
                net.forward(X), net.forward(X[::-1]), net.forward(records), net.forward(records[::-1])
                net.predict(X[-1:]), net.predict(X[:1]), net.gradients(X, y)
            pixels = copied(rng.integers(256, size=(n, sizes[0])).astype(np.uint8))
            net.fit(pixels, y, epochs=1, batch_size=batch_size, optimizer=slow)
            net.forward(pixels), net.predict(pixels[-1:])
    A = rng.normal(size=(7, 19)).astype(dtype)
    fastmlp.kernels.affine_backward(A, A.T.copy(), A @ A.T)
    fastmlp.kernels.affine_forward(A, A.T.copy())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
@pytest.mark.parametrize("environment", cases.VECTORS)
def test_nothing_is_touched_beyond_a_buffer(environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-c", CODE], env={**os.environ, **environment}, check=True, timeout=300)


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_what_is_touched_beyond_a_buffer_is_found() -> None:
    code = CODE.replace("overrun = False", "overrun = True")
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=300).returncode == -signal.SIGSEGV
