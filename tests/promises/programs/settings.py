"""Does the library change a setting of the whole process? Print what is not as it was before all the jobs."""

from __future__ import annotations

import decimal
import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings

import numba
import numpy as np


def settings() -> dict[str, object]:
    """All that a program shares with the libraries in it."""
    state = np.random.get_state()
    return {
        "environment": dict(os.environ),
        "numba config": {name: str(getattr(numba.config, name)) for name in dir(numba.config) if name.isupper()},
        "numpy errors": np.geterr(),
        "numpy error callback": np.geterrcall(),
        "numpy printing": np.get_printoptions(),
        "numpy random": (state[0], state[1].tobytes(), *state[2:]),
        "random": random.getstate(),
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "warnings": list(warnings.filters),
        "show warnings": warnings.showwarning,
        "decimal": repr(decimal.getcontext()),
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "working folder": os.getcwd(),
        "affinity": os.sched_getaffinity(0),
        "nice": os.nice(0),
        "switch interval": sys.getswitchinterval(),
        "recursion limit": sys.getrecursionlimit(),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.gettrace(), sys.getprofile()),
        "garbage collection": (gc.isenabled(), gc.get_threshold()),
        "thread stack": threading.stack_size(),
        "path": list(sys.path),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
    }


def numba_threads() -> object:
    """Which threads Numba has started, and how many it would use; to ask for their number starts them."""
    try:
        return numba.threading_layer(), numba.get_num_threads()
    except ValueError:
        return "not started"


before = settings()
import host  # noqa: E402

known = host.learn()
changed = [name for name, value in settings().items() if value != before[name]]
if numba_threads() != "not started":
    changed.append("numba threads")
# A host that has its own way keeps it, too.
numba.set_num_threads(1)
np.seterr(all="raise", under="ignore")
random.seed(1)
np.random.seed(1)
before, threads = settings(), numba_threads()
wrong = [name for name, result in host.learn().items() if result != known[name]]
changed += [name for name, value in settings().items() if value != before[name]]
if numba_threads() != threads:
    changed.append("numba threads of a host that uses them")
print(*changed, *wrong, sep="\n", end="")
