"""The first start in a dtype: processes that need the same kernels share the work, and one is started to help.

Compiling takes seconds, Numba does it on one core, and the kernels are compiled each by itself. So each process takes
the next kernel that no other is compiling, and waits for the others' at the end (`fastmlp.kernels.cache.claim`): a pool
of processes that starts cold compiles each kernel once. The very first one starts a second Python, which begins at the
end of the list. Whatever goes wrong in another process, this one compiles what it does not find.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np

from fastmlp.kernels.cache import cache_folder
from fastmlp.kernels.native import Kernel, kernel

HELPER_SOURCE = """
import sys
sys.path[:] = sys.argv[2:]  # First of all: nothing is to be imported from the working directory.
from fastmlp.kernels import first_start
first_start.help_out(sys.argv[1])
"""


def compile_together(kernels: Sequence[Kernel], dtype: np.dtype, cpus: int) -> None:
    """Compile the kernels, or load them; on a first start, with help."""
    if all(each.is_linked(dtype) for each in kernels):
        return
    with helped(kernels, dtype) if is_first_start(dtype) and cpus > 1 else nullcontext():
        of_others = [each for each in kernels if not each.link_unless_claimed(dtype)]
        for each in of_others:
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


@contextmanager
def helped(kernels: Sequence[Kernel], dtype: np.dtype) -> Iterator[None]:
    """Have a second process that compiles, too; none where none can be started."""
    task = json.dumps([str(cache_folder()), dtype.name, [each.key for each in kernels]])
    second = None
    with suppress(Exception):  # Not all hosts let a library start processes, and what they raise then is theirs.
        second = subprocess.Popen(
            [sys.executable, "-c", HELPER_SOURCE, task, *(path for path in sys.path if isinstance(path, str))],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )  # fmt: skip
    try:
        yield
    finally:
        if second is not None and second.stdin is not None:
            second.kill()
            second.wait()
            second.stdin.close()


def help_out(task: str) -> None:
    """Be the second process, for as long as the first one lives."""
    folder, dtype, keys = json.loads(task)
    threading.Thread(target=end_with_the_other, daemon=True).start()
    compile_from_the_end(folder, dtype, keys)
    os._exit(0)  # Numba takes a while to go.


def end_with_the_other() -> None:
    """Wait for the end of the other process, which holds the other end of this one's input."""
    sys.stdin.read()
    os._exit(0)


def compile_from_the_end(folder: str, dtype: str, keys: Sequence[str]) -> None:
    """Compile what the other process does not, if its cache is this one's."""
    if str(cache_folder()) == folder:
        for key in reversed(keys):
            kernel(key).link_unless_claimed(np.dtype(dtype))
