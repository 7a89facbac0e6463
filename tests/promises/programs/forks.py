"""Fork after a fit with two threads, and while another thread is in a fit; the children work, and so does the parent.

Arguments: how many forks of each kind, and whether the host runs Numba's parallel loops on OpenMP, which do not survive
a fork: the library must not care.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import host
import numba
import numpy as np

# Newer Pythons warn of a fork beside threads. That it is fit to be done here is what is shown.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


def fork_and_work() -> bool:
    """Let a child work, and say whether all went well, within half a minute."""
    child = os.fork()
    if child == 0:
        try:
            status = 0 if host.work(known) else 3
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            status = 4
        os._exit(status)
    latest = time.monotonic() + 30.0
    while time.monotonic() < latest:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.002)
    for task in Path(f"/proc/{child}/task").iterdir():  # State, time on the CPU, and what the system waits for.
        print("a child hangs:", (task / "stat").read_text(), (task / "wchan").read_text(), file=sys.stderr, flush=True)
    os.kill(child, signal.SIGABRT)  # It says where it stands.
    os.waitpid(child, 0)
    return False


faulthandler.enable()
n, parallel = int(sys.argv[1]), sys.argv[2] == "parallel"
known = host.learn()
if parallel:

    @numba.njit(parallel=True)
    def total(values):
        result = 0.0
        for i in numba.prange(len(values)):
            result += values[i]
        return result

    assert total(np.ones(1000)) == 1000
after = sum(fork_and_work() for _ in range(n))

stop = threading.Event()
waits = random.Random(0)
histories = []


def fit_until_told(threads: int) -> None:
    net = host.fastmlp.MLP([20, 64, 64, 5], seed=1)
    histories.append(net.fit(host.X, host.y, epochs=10**9, threads=threads, progress=lambda progress: stop.is_set()))


fits = [threading.Thread(target=fit_until_told, args=(threads,)) for threads in (1, 2)]
for thread in fits:
    thread.start()
amid = 0
for _ in range(n):
    time.sleep(waits.uniform(0.0, 0.1))
    amid += fork_and_work()
stop.set()
for thread in fits:
    thread.join()
assert host.work(known)
assert len(histories) == 2
print(after, amid)
