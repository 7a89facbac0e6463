"""How many CPUs a process may use: those of its affinity, and no more than a container's share of time is worth."""

from __future__ import annotations

import _thread
import functools
import math
import os
import sys
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """Count the CPUs that this process may use."""
    # Under gevent and eventlet, threads take turns on one: they would wait for each other for ever.
    if not isinstance(_thread.start_new_thread, BuiltinFunctionType):
        return 1
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cpus, cpu_quota())))


def is_worker() -> bool:
    """Whether `multiprocessing` has started this process, as `concurrent.futures` and joblib do.

    Then it is likely one of several that share the CPUs. Two threads of each wait for each other at every step: in two
    workers on two CPUs, eight fits took 2.0 to 4.4 instead of 1.4 s; beside two busy processes, 6.8 instead of 3.3 s.
    """
    process: Any = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


@functools.cache
def cpu_quota() -> float:
    """Give the seconds of CPU time that the process's control groups may use in a second; inf without a limit.

    It is read once: a limit that changes while the process runs is not noticed.

    Containers (``docker run --cpus=2``) and services have such a limit on Linux. They see all CPUs; with a thread on
    each, the time is used up at once, and all of them stand still for the rest of each tenth of a second. The files are
    described in https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and, for version 1, in
    https://docs.kernel.org/scheduler/sched-bwc.html.
    """
    quota = math.inf
    try:
        for line in OWN_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            top = CGROUPS / "cpu" if controllers else CGROUPS
            own = top / path.lstrip("/")
            for folder in [own, *own.parents]:  # A limit is also one of all groups within.
                quota = min(quota, quota_of(folder))
                if folder == top:
                    break
    except (OSError, ValueError, ArithmeticError):  # There are none, or of another kind.
        pass
    return quota


def quota_of(folder: Path) -> float:
    """Read the limit of one control group, of either version."""
    if (folder / "cpu.max").exists():
        quota, period = (folder / "cpu.max").read_text().split()
    elif (folder / "cpu.cfs_quota_us").exists():
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    else:
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)
