"""The first start: while this process compiles kernels, a second one compiles others, and keeps them on disk.

Compiling takes seconds, Numba does it on one core, and the kernels are compiled each by itself. So of the list of those
that are needed this process takes the first that is left, and the other one the last. To take one is to make a file of
its name, which only one process can. At the end this process waits for the other, and loads what that has compiled; and
whatever goes wrong there, it compiles what it does not find.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastmlp.kernels.jit import KERNELS, Kernel, cache_folder, cache_key

PATIENCE = 60.0
"""Seconds after which the second process is taken to hang: it has had as long as this one, and needs a few."""

PROGRAM = """
import json, sys
sys.path[:], *arguments = json.loads(sys.argv[1])
from fastmlp.kernels import first_start
first_start.help_out(*arguments)
"""


def compile_together(addresses: Sequence[Kernel], entries: Sequence[Kernel], dtype: np.dtype, cpus: int) -> None:
    """Compile the kernels, or load them: some are called by address, others by Python; on a first start, with help."""
    jobs = {f"{kernel.key} {use}": (kernel, use) for use in USES for kernel in (addresses, entries)[use == "entry"]}
    if cpus > 1 and is_first_start():
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as taken:
            arguments = [sys.path, cache_key(), dtype.name, taken, list(jobs)]
            second = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, json.dumps(arguments)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )  # fmt: skip
            try:
                for job, (kernel, use) in jobs.items():
                    if take(taken, job):
                        getattr(kernel, use)(dtype)
                second.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                pass
            finally:
                second.kill()
                second.wait()
    for kernel, use in jobs.values():
        getattr(kernel, use)(dtype)


USES = ("address", "entry")
"""The methods of `Kernel` that compile."""


def is_first_start() -> bool:
    """Whether this process begins the cache, and could start another Python: of many that start at once, one does."""
    folder = cache_folder()
    is_python = Path(sys.executable or "").name.startswith("python") and not getattr(sys, "frozen", False)
    if folder is None or not is_python:
        return False
    try:
        folder.mkdir(parents=True)
    except OSError:  # It is there, or cannot be.
        return False
    return True


def take(taken: str, job: str) -> bool:
    """Take a job, unless the other process has it."""
    try:
        Path(taken, job).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def help_out(key: str, dtype: str, taken: str, jobs: list[str]) -> None:
    """Be the second process: compile from the end of the list on, for the same cache only."""
    import fastmlp.kernels  # noqa: F401 - Makes all kernels.

    if cache_key() == key:
        for job in reversed(jobs):
            if take(taken, job):
                name, use = job.split()
                getattr(KERNELS[name], use)(np.dtype(dtype))
    os._exit(0)  # Numba takes a while to go.
