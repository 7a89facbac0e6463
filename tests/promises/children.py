"""Programs that tests start as processes of their own, to see them live, end and die."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"


def start(program: str, *arguments: object, **environment: str | None) -> subprocess.Popen[str]:
    """Start a file of `PROGRAMS`, or code that may import them; None takes a variable out of the environment."""
    given = {**os.environ, **environment}
    given["PYTHONPATH"] = os.pathsep.join([str(PROGRAMS), *filter(None, [given.get("PYTHONPATH")])])
    what = [str(PROGRAMS / program)] if program.endswith(".py") else ["-c", program]
    return subprocess.Popen(
        [sys.executable, "-W", "error", *what, *map(str, arguments)],
        env={name: value for name, value in given.items() if value is not None},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def end_of(child: subprocess.Popen[str], seconds: float) -> str:
    """Wait so long for the end, which must be a good one; give what it printed."""
    try:
        output, errors = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        output, errors = child.communicate()
        raise AssertionError(f"still running after {seconds:g} s: {output}{errors}") from None
    assert child.returncode == 0, f"status {child.returncode}: {output}{errors}"
    assert errors == "", errors
    return output


def run(program: str, *arguments: object, seconds: float = 120.0, **environment: str | None) -> str:
    """Start one and wait for its end."""
    return end_of(start(program, *arguments, **environment), seconds)
