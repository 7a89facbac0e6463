"""How fast is a Python thread beside a fit, on a CPU of its own? Print the ratio of the best round."""

from __future__ import annotations

import os
import sys
import threading
import time

import host
from children import waited_for_cpu

SECONDS = 0.3


def speed() -> float:
    """Turns of a Python loop a second of this thread; seconds when other programs have its CPU do not count."""
    turns, waited, end = 0, waited_for_cpu(), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        turns += 1
    return turns / (SECONDS - (waited_for_cpu() - waited))


def train() -> None:
    """Fit, on another CPU, until told to stop."""
    os.sched_setaffinity(0, {other})
    net = host.fastmlp.MLP([20, 64, 64, 5])
    net.fit(host.many_X, labels, epochs=10**9, threads=1, progress=lambda progress: count.append(1) or stop.is_set())


mine, other = sorted(os.sched_getaffinity(0))[:2]
labels = host.rng.integers(0, 5, len(host.many_X))
host.fit(threads=1)
os.sched_setaffinity(0, {mine})
alone, beside = [], []
for _ in range(int(sys.argv[1])):
    alone.append(speed())
    stop, count = threading.Event(), []
    thread = threading.Thread(target=train)
    thread.start()
    time.sleep(0.2)
    done = len(count)
    beside.append(speed())
    assert len(count) > done, "the fit stood still"
    stop.set()
    thread.join()
print(max(fast / free for fast, free in zip(beside, alone, strict=True)))
