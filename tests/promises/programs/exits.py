"""End in the middle of a fit, in a way that is the first argument, with so many threads, after so many seconds.

Print when the end began, and the seconds for which the main thread had then waited for a CPU.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import host
from children import waited_for_cpu

way, threads, wait = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
host.fit(threads=threads)
net = host.fastmlp.MLP([20, 64, 64, 5])
began = time.monotonic()


def over() -> bool:
    """Whether it is time to end; say so if it is."""
    if time.monotonic() < began + wait:
        return False
    print(time.monotonic(), waited_for_cpu(), flush=True)
    return True


def fail(_) -> None:
    """A callback that raises."""
    if over():
        raise RuntimeError("stop here")


def interrupt() -> None:
    """Press Ctrl-C in a while."""
    while not over():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)


def fit(**options) -> None:
    """Fit, for much longer than anyone will wait."""
    net.fit(host.X, host.y, epochs=10**9, threads=threads, **options)


if way == "callback":
    fit(callbacks=[fail])
elif way == "progress":
    fit(progress=fail)
elif way == "interrupt":
    threading.Thread(target=interrupt, daemon=True).start()
    fit()
else:
    threading.Thread(target=fit, daemon=True).start()
    while not over():
        time.sleep(0.001)
    if way == "exit":
        sys.exit(5)
    raise RuntimeError("stop here")
