"""Promise 1: resume is exact. Runs are killed, told to stop, and robbed of their disk; then they go on."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs_to_kill import DTYPES, OPTIMIZERS, RECIPES, Plan

from fastmlp import MLP, SGD, Progress, resuming
from fastmlp.cpus import available_cpus

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 and fork are of POSIX")


def plans(engine: str, threads: int, stops: int, how: int = Plan.signal) -> list[Plan]:
    """Every optimizer in both dtypes, each with another of the recipes on another number of threads."""
    cases = [(name, dtype) for name in OPTIMIZERS for dtype in DTYPES]
    return [
        Plan(engine, *case, threads, (i + i // 4 + threads) % len(RECIPES), stops, seed=i, signal=int(how))
        for i, case in enumerate(cases)
    ]


def carry_out(plans: list[Plan], folder: Path, timeout: float) -> list[dict[str, Any]]:
    """Have the runs stopped and gone on with, by a process of its own."""
    done = subprocess.run(
        [sys.executable, HERE / "runs_to_kill.py", folder], input=json.dumps([asdict(plan) for plan in plans]),
        stdout=subprocess.PIPE, text=True, timeout=timeout, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("engine", "threads"), [("numba", 1), ("numba", 2), ("numpy", 1)])
def test_a_killed_run_ends_like_one_that_was_never_stopped(
    engine: str, threads: int, tmp_path: Path, promise: Callable[..., Any], count: Callable[[int, int], int]
) -> None:
    if threads > available_cpus():
        pytest.skip(f"{threads} threads need as many CPUs, there is {available_cpus()}")
    stops = count(4, 60) if engine == "numba" else count(1, 15)
    chosen = plans(engine, threads, stops)
    name = f"1 kill -9, then the same bits: {engine}, {threads} thread{'s' * (threads > 1)}"
    for plan, found in zip(chosen, carry_out(chosen, tmp_path, 60 + 20 * stops), strict=True):
        with promise(name, stops):
            assert found["wrong"] == [], plan
        for place, n in found["stops"].items():
            with promise(f"1 ... of these, {place}", n):
                pass
        with promise("1 ... of these, gone on from within an epoch", found["resumed within an epoch"]):
            pass
        with promise("1 ... of these, half a file left behind, which the next run removed", found["left half a file"]):
            pass


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_a_checkpoint_and_then_does_what_it_always_does(
    how: signal.Signals, tmp_path: Path, promise: Callable[..., Any], count: Callable[[int, int], int]
) -> None:
    """There is no other checkpoint than the one that the signal waits for."""
    stops = count(2, 20)
    chosen = plans("numba", 1, stops, how)
    before_the_end = 0
    for plan, found in zip(chosen, carry_out(chosen, tmp_path, 60 + 20 * stops), strict=True):
        with promise(f"1 {how.name} leaves a checkpoint, then the same bits", stops):
            assert found["wrong"] == [], plan
        before_the_end += found["before the end"]
    assert before_the_end > 4 * stops  # Half of them: on a busy machine, a signal may come late.


# --- A disk that is full, and one that is gone ------------------------------------------------------------------------

OWN_DISK = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


@pytest.mark.parametrize(
    ("how", "reason"), [("limit", "File too large"), ("disk", "No space left on device")], ids=["limit", "disk"]
)
def test_a_full_disk_stops_the_run_and_leaves_the_checkpoint_before(
    how: str, reason: str, tmp_path: Path, promise: Callable[..., Any], count: Callable[[int, int], int]
) -> None:
    command = [sys.executable, str(HERE / "full_disk.py"), str(tmp_path), how]
    if how == "disk":
        mount = 'mount -t tmpfs -o size=300k none "$0"'
        tried = shutil.which("unshare") and subprocess.run(
            [*OWN_DISK, mount, tmp_path], capture_output=True, timeout=60
        )
        if not tried or tried.returncode:
            pytest.skip("mounting a small disk needs unshare(1) and user namespaces")
        command = [*OWN_DISK, f'{mount} && exec "$@"', str(tmp_path), *command]
    rng = random.Random(0)
    for step in (rng.randrange(20, 280) for _ in range(count(4, 40))):
        with promise(f"1 a full disk ({reason}): one error, and the last checkpoint goes on"):
            done = subprocess.run([*command, str(step)], capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            found = json.loads(done.stdout)
            assert found["message"] == f"checkpoint must be a writable folder, got {str(tmp_path)!r}: {reason}"
            assert set(found["left"]) <= {resuming.CHECKPOINT, "filler"}
            assert 0 < found["steps"] <= step
            assert found["is_same"]
        (tmp_path / resuming.CHECKPOINT).unlink(missing_ok=True)


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize("kept", [True, False])
def test_a_folder_that_vanishes_stops_the_run(
    engine: str, kept: bool, tmp_path: Path, promise: Callable[..., Any], count: Callable[[int, int], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(resuming, "WRITING_SHARE", 1.0)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(600, 10)), rng.integers(3, size=600)
    arguments: dict[str, Any] = {"epochs": 6, "batch_size": 10, "optimizer": SGD(0.05, momentum=0.9)}
    checkpoints: dict[str, Any] = {"checkpoint_every": 0.2, "resume": True}
    whole = MLP([10, 20, 3], engine=engine)
    expected = whole.fit(X, y, **arguments)
    for trial in range(count(5, 50)):
        folder, elsewhere = tmp_path / f"{trial}", tmp_path / f"{trial} moved"
        step = int(rng.integers(20, 300))

        def vanish(progress: Progress, folder: Path = folder, elsewhere: Path = elsewhere, step: int = step) -> None:
            if progress.step >= step and folder.exists():
                folder.rename(elsewhere)
                if not kept:
                    shutil.rmtree(elsewhere)

        with promise("1 a vanished folder: one error, and the last checkpoint, or the start, goes on"):
            with pytest.raises(OSError, match="checkpoint must be a writable folder") as error:
                MLP([10, 20, 3], engine=engine).fit(
                    X, y, **arguments, **checkpoints, checkpoint=folder, progress=vanish
                )
            told = f"checkpoint must be a writable folder, got {str(folder)!r}: No such file or directory"
            assert str(error.value) == told
            assert not folder.exists()
            assert elsewhere.exists() == kept
            net = MLP([10, 20, 3], engine=engine)
            history = net.fit(X, y, **arguments, **checkpoints, checkpoint=elsewhere)
            assert history.train_loss == expected.train_loss
            for a, b in zip(net.weights + net.biases, whole.weights + whole.biases, strict=True):
                np.testing.assert_array_equal(a, b)


# --- The command line -------------------------------------------------------------------------------------------------


def test_a_killed_command_goes_on_with_resume(
    tmp_path: Path, promise: Callable[..., Any], count: Callable[[int, int], int]
) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", X=rng.normal(size=(5000, 50)).astype(np.float32), y=rng.integers(5, size=5000))
    command = [sys.executable, "-m", "fastmlp.train", "--quiet", "--threads", "1"]
    begin = [*command, "--dataset", tmp_path / "data.npz", "--epochs", "60", "-b", "20", "--optimizer", "adam", "--out"]
    subprocess.run([*begin, tmp_path / "whole"], check=True, timeout=300)
    history = history_of(tmp_path / "whole")
    moments = random.Random(0)
    kills = 0
    while kills < count(3, 30):
        out = tmp_path / f"killed{kills}"
        arguments = [*begin, out]
        is_over = False
        before = kills
        while not is_over:
            run = subprocess.Popen(arguments)
            if kills < count(3, 30):
                while not (out / resuming.CHECKPOINT).exists() and run.poll() is None:
                    time.sleep(0.01)
                time.sleep(moments.uniform(0.0, 2.0))
                run.kill()
            is_over = run.wait(timeout=300) == 0
            kills += not is_over
            assert run.returncode in (0, -signal.SIGKILL)
            arguments = [*command, "--resume", out]
        with promise("1 the command killed with -9, then --resume: the same files", kills - before):
            model = "model.safetensors"
            assert (out / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()
            assert history_of(out) == history
            assert not list(out.glob(".*"))


def history_of(out: Path) -> list[dict[str, str]]:
    with open(out / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"]
    return rows
