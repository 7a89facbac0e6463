"""Programs that tests start as processes of their own, to see them live, end and die."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastmlp

PROGRAMS = Path(__file__).parent / "programs"
PACKAGE = str(Path(fastmlp.__file__).parent.parent)


def without_powers() -> None:
    """Take from root, in a child, the power to read and write what its permissions forbid, whoever it becomes."""
    if os.geteuid() == 0:
        drop_from_bounding_set, override, read_search = 24, 1, 2
        libc = ctypes.CDLL(None)
        for capability in (override, read_search):
            libc.prctl(drop_from_bounding_set, capability, 0, 0, 0)


def waited_for_cpu(process: int | str = "self") -> float:
    """Seconds for which a process's main thread was ready, and others had the CPUs; 0 where Linux does not count."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except FileNotFoundError:
        return 0.0


def start(
    program: str, *arguments: object, cwd: Path | None = None, powers: bool = True, **environment: str | None
) -> subprocess.Popen[str]:
    """Start a file of `PROGRAMS`, or code that may import them; None takes a variable out of the environment.

    Without `powers`, permissions hold for root, too.
    """
    given = {**os.environ, **environment}
    given["PYTHONPATH"] = os.pathsep.join(
        filter(None, [environment.get("PYTHONPATH"), str(PROGRAMS), str(PROGRAMS.parent), PACKAGE])
    )
    what = [str(PROGRAMS / program)] if program.endswith(".py") else ["-c", program]
    return subprocess.Popen(
        [sys.executable, "-W", "error", *what, *map(str, arguments)],
        env={name: value for name, value in given.items() if value is not None},
        cwd=cwd, start_new_session=True, preexec_fn=None if powers else without_powers,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill(child: subprocess.Popen[str]) -> None:
    """Kill one, and its own children, which would hold its streams open."""
    if hasattr(os, "killpg"):
        os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()


def end_of(child: subprocess.Popen[str], seconds: float) -> str:
    """Wait so long for the end, which must be a good one; give what it printed."""
    try:
        output, errors = child.communicate(timeout=seconds)
    finally:
        if child.poll() is None:
            kill(child)
    assert child.returncode == 0, f"status {child.returncode}: {output}{errors}"
    assert errors == "", errors
    return output


def run(program: str, *arguments: object, seconds: float = 100.0, **options: Any) -> str:
    """Start one, see `start`, and wait for its end."""
    return end_of(start(program, *arguments, **options), seconds)
