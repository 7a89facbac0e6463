"""The first start in a dtype: while this process compiles kernels, a second one compiles others, and keeps them.

Compiling takes seconds, Numba does it on one core, and the kernels are compiled each by itself. So of the list of those
that are needed this process takes the first that is left, and the other one the last. To take one is to make a file of
its name, which only one process can. At the end this process waits for the other, if that has taken any, and loads what
it has compiled. Whatever goes wrong there, it compiles what it does not find.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastmlp.kernels.cache import cache_folder
from fastmlp.kernels.native import Kernel, kernel

PATIENCE = 5.0
"""Seconds that the second process may take when this one is done; or twice what this one took, if that is more."""

PROGRAM = """
import sys
sys.path[:] = sys.argv[2:]  # First of all: nothing is to be imported from the working directory.
from fastmlp.kernels import first_start
first_start.help_out(sys.argv[1])
"""


def compile_together(kernels: Sequence[Kernel], dtype: np.dtype, cpus: int) -> None:
    """Compile the kernels, or load them; on a first start, with help."""
    if all(each.is_linked(dtype) for each in kernels):
        return
    if is_first_start(dtype) and cpus > 1:
        compile_with_help(kernels, dtype)
    for each in kernels:
        each.address(dtype)


def is_first_start(dtype: np.dtype) -> bool:
    """Whether this process is the first to train in a dtype, and could start another Python.

    Of many that start at once, one is: the one that makes a file in the cache.
    """
    folder = cache_folder()
    is_python = Path(sys.executable or "").name.startswith("python") and not getattr(sys, "frozen", False)
    if folder is None or not is_python:
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{dtype}.begun").touch(exist_ok=False)
    except OSError:  # It is there, or cannot be.
        return False
    return True


def compile_with_help(kernels: Sequence[Kernel], dtype: np.dtype) -> None:
    """Compile what the second process does not take, and give it time for the rest."""
    started = time.monotonic()
    try:
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    except OSError:
        return
    with folder as taken:
        task = json.dumps([str(cache_folder()), dtype.name, taken, [each.key for each in kernels]])
        try:
            second = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, task, *(path for path in sys.path if isinstance(path, str))],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )  # fmt: skip
        except Exception:  # Not all hosts let a library start processes, and what they raise then is theirs.
            return
        assert second.stdin is not None
        try:
            is_helping = False
            for each in kernels:
                if take(taken, each.key):
                    each.address(dtype)
                else:
                    is_helping = True
            if is_helping:
                second.wait(max(PATIENCE, 2.0 * (time.monotonic() - started)))
        except subprocess.TimeoutExpired:
            pass
        finally:
            second.kill()
            second.wait()
            second.stdin.close()


def take(taken: str, key: str) -> bool:
    """Take a kernel, unless the other process has it."""
    try:
        Path(taken, key).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # The folder has gone: compile, as if alone.
        return True
    return True


def help_out(task: str) -> None:
    """Be the second process, for as long as the first one lives."""
    folder, dtype, taken, keys = json.loads(task)
    threading.Thread(target=end_with_the_other, args=(taken,), daemon=True).start()
    compile_from_the_end(folder, dtype, taken, keys)
    os._exit(0)  # Numba takes a while to go.


def end_with_the_other(taken: str) -> None:
    """Wait for the end of the other process, which holds the other end of this one's input, and clear up after it."""
    sys.stdin.read()
    shutil.rmtree(taken, ignore_errors=True)
    os._exit(0)


def compile_from_the_end(folder: str, dtype: str, taken: str, keys: Sequence[str]) -> None:
    """Compile what the other process does not take, if its cache is this one's."""
    if str(cache_folder()) == folder:
        for key in reversed(keys):
            if take(taken, key):
                kernel(key).address(np.dtype(dtype))
