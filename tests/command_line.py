"""What the tests of the command line share: how it is called, and what it leaves, read back."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import fastmlp
from fastmlp import report, train, training

COMMAND = (sys.executable, "-m", "fastmlp.train")
SMALL = ("--hidden", "8", "--batch-size", "10", "--epochs", "3")


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an array of bytes as an IDX file."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def call(*arguments: object) -> int:
    """Run the command in this process; give its status."""
    return train.main([str(argument) for argument in arguments])


def summary_of(out: Path) -> dict:
    """Read what a run says of itself."""
    return json.loads((out / "summary.json").read_text())


def history_of(out: Path) -> list[dict[str, str]]:
    """Read the figures of each epoch."""
    with open(out / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The single line on standard error."""
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert err.startswith("fastmlp.train: error: ")
    return err.removeprefix("fastmlp.train: error: ").rstrip("\n")


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a real SIGINT when a run has taken that many steps, one by one."""
    progress = report.Reporter.progress

    def interrupted(self: report.Reporter, now: fastmlp.Progress) -> None:
        progress(self, now)
        if now.step == steps:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    monkeypatch.setattr(report.Reporter, "progress", interrupted)


def start(arguments: Sequence[object]) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
