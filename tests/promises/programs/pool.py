"""A host with a pool of 16 threads that all call the library, while its own code runs Numba's parallel loops.

Arguments: the threading layer, and for how many seconds.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import host
import numba
import numpy as np


@numba.njit(parallel=True)
def total(values):
    result = 0.0
    for i in numba.prange(len(values)):
        result += values[i]
    return result


layer, seconds = sys.argv[1], float(sys.argv[2])
known, ones = host.learn(), np.ones(100_000)
assert total(ones) == len(ones)
assert numba.threading_layer() == layer
before = host.n_threads()
end, done, wrong = time.monotonic() + seconds, [], []
barrier = threading.Barrier(16)


def call(number):
    """One of 16 callers."""
    draw = random.Random(number)
    barrier.wait()
    while time.monotonic() < end:
        name = draw.choice(list(host.JOBS))
        if host.JOBS[name]() != known[name]:
            wrong.append(name)
        done.append(name)


with ThreadPoolExecutor(16) as pool:
    calls = [pool.submit(call, number) for number in range(16)]
    while time.monotonic() < end:
        assert total(ones) == len(ones)  # From one thread: the workqueue layer allows no more.
        time.sleep(0.05)
    for each in calls:
        each.result()
assert host.n_threads(before) == before
print(len(done), *wrong)
