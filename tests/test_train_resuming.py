"""The command line: a folder that holds a run, stopping, and going on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import COMMAND, SMALL, call, history_of, one_error, start, stop_after, summary_of, write_idx

import fastmlp
from fastmlp import folder, reference, report, resuming
from fastmlp.checkpoint import SavedNetwork
from fastmlp.folder import FILES
from fastmlp.stopping import StopRequest

# --- A folder that holds a run ----------------------------------------------------------------------------------------


def test_a_new_run_sets_the_earlier_one_aside(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folder, "draw_curves", lambda *_: b"")  # which takes most of the time
    out = tmp_path / "run"
    arguments = ("--dataset", digits, *SMALL, "--engine", "numpy", "--out", out)

    def contents(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    told = f"the files of the earlier run in {out} are now in {out / 'previous'}"
    assert call(*arguments) == 0
    assert told not in capsys.readouterr().out
    first = contents(out)
    (out / "notes.txt").write_text("mine")
    assert call(*arguments, "--seed", 1) == 0
    assert capsys.readouterr().out.splitlines().count(told) == 1
    assert contents(out / "previous") == first
    assert summary_of(out)["seed"] == 1
    assert (out / "notes.txt").read_text() == "mine"

    # Even one that is stopped at once, without a word; and what was there is replaced, whatever it was.
    (out / "curves.png").unlink()
    second = {name: content for name, content in contents(out).items() if name != "notes.txt"}
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, patch)
        assert call(*arguments, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert contents(out / "previous") == second

    # A run that goes on is the same run.
    assert call("--resume", out) == 0
    assert told not in capsys.readouterr().out
    assert contents(out / "previous") == second
    # One that goes on elsewhere is not the run that is there.
    assert call("--resume", out / "previous", "--epochs", 4, "--out", tmp_path / "other", "--quiet") == 0
    there = contents(tmp_path / "other")
    assert call("--resume", out, "--epochs", 4, "--out", tmp_path / "other", "--quiet") == 0
    assert contents(tmp_path / "other" / "previous") == there
    # What stands in the way of the files that are set aside is lost, and that is said.
    assert call(*arguments) == 0
    assert f"{told}, in place of those that were there\n" in capsys.readouterr().out


def test_a_new_run_sets_the_earlier_one_aside_with_its_first_checkpoint(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    arguments = ("--dataset", digits, *SMALL, "--engine", "numpy", "--out", out, "--quiet")
    assert call(*arguments) == 0
    saved = (out / resuming.CHECKPOINT).read_bytes()
    found = []
    monkeypatch.setattr(resuming, "WRITING_SHARE", 1.0)
    monkeypatch.setattr(
        report.Reporter, "progress",
        lambda self, now: found.append((now.epoch, {path.name for path in out.iterdir() if path.is_file()})),
    )  # fmt: skip
    assert call(*arguments) == 0
    assert next(names for epoch, names in found if epoch == 0) == set(FILES)
    assert {frozenset(names) for epoch, names in found if epoch == 2} == {frozenset({resuming.CHECKPOINT})}
    assert (out / "previous" / resuming.CHECKPOINT).read_bytes() == saved


def test_an_earlier_run_that_cannot_be_set_aside_is_left_alone(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ("--dataset", digits, *SMALL, "--engine", "numpy", "--out", out, "--quiet")
    assert call(*arguments) == 0
    (out / "previous").write_text("a file")
    before = (out / "model.safetensors").read_bytes()
    assert call(*arguments, "--seed", 1) == 2
    assert "out must be a writable folder" in one_error(capsys)
    assert (out / "model.safetensors").read_bytes() == before


# --- Stopping and going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 20, 33])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_run_that_goes_on_ends_like_one_that_never_stopped(
    steps: int, optimizer: str, digits: Path, tmp_path: Path, engine: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(folder, "draw_curves", lambda *_: b"")  # which takes most of the time
    monkeypatch.setattr(folder, "draw_misclassified", lambda **_: b"")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = ("--dataset", digits, *SMALL, "--engine", engine, "--optimizer", optimizer)
    assert call(*arguments, "--out", whole) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_after(steps, patch)
        assert call(*arguments, "--out", parts) == 0
    stopped = summary_of(parts)
    assert stopped["stopped"] is True
    assert stopped["epochs_done"] == pytest.approx(steps / 20, abs=1e-3)
    assert len(history_of(parts)) == steps // 20
    told = f"stopped by Ctrl-C after {steps / 20:g} of 3 epochs; go on with --resume {parts}"
    assert capsys.readouterr().out.splitlines()[-1] == told
    data = fastmlp.load_dataset(digits, raw=True)
    net = fastmlp.MLP.load(parts / "model.safetensors", engine=engine)
    assert net.loss(data.X_test, data.y_test) == stopped["test_loss"]

    assert call("--resume", parts) == 0
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    timed = ("seconds",)
    for ours, theirs in zip(history_of(parts), history_of(whole), strict=True):
        assert {k: v for k, v in ours.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}
    timed = ("train_seconds", "compile_seconds", "samples_per_second")
    ours, theirs = summary_of(parts), summary_of(whole)
    assert {k: v for k, v in ours.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}


def test_a_finished_run_goes_on_to_more_epochs_elsewhere(digits: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ("--dataset", digits, *SMALL, "--engine", "numpy", "--schedule", "constant", "--quiet")
    assert call(*arguments, "--out", first) == 0
    assert (
        call("--resume", first, "--epochs", 5, "--out", second, "--quiet", "--batch-size", 10, "--activation", "relu")
        == 0
    )
    assert call(*arguments, "--epochs", 5, "--out", tmp_path / "whole") == 0
    assert (second / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert summary_of(first)["epochs_done"] == 3
    assert call("--resume", first, "--epochs", 4, "--lr", "1e-12", "--weight-decay", 0, "--quiet") == 0  # into `first`
    assert summary_of(first)["learning_rate"] == 1e-12
    assert float(history_of(first)[3]["learning_rate"]) == 1e-12


def test_a_run_that_was_killed_before_its_last_files_gets_them(digits: Path, tmp_path: Path, engine: str) -> None:
    out, other = tmp_path / "run", tmp_path / "other"
    arguments = ("--dataset", digits, *SMALL, "--engine", engine, "--quiet")
    assert call(*arguments, "--out", out) == 0
    expected = {path.name: path.read_bytes() for path in out.iterdir()}
    for name in expected.keys() - {resuming.CHECKPOINT}:
        (out / name).rename(out / f".{name}.0123456789abcdef")  # Killed while it was written.
    assert call("--resume", out, "--quiet") == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == expected  # The times too: nothing was trained.
    # In another folder, what is there is set aside first.
    assert call(*arguments, "--seed", 1, "--out", other) == 0
    assert call("--resume", out, "--out", other, "--quiet") == 0
    assert (other / "model.safetensors").read_bytes() == expected["model.safetensors"]
    assert json.loads((other / "previous" / "summary.json").read_text())["seed"] == 1


def test_a_checkpoint_is_written_as_the_run_goes(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = []
    monkeypatch.setattr(resuming, "WRITING_SHARE", 1.0)
    monkeypatch.setattr(
        report.Reporter, "progress",
        lambda self, now: epochs.extend(
            [SavedNetwork(path).state.epoch for path in (tmp_path / "run").glob("checkpoint.*")]  # type: ignore[union-attr]
        ),
    )  # fmt: skip
    assert call("--dataset", digits, *SMALL, "--engine", "numpy", "--out", tmp_path / "run", "--quiet") == 0
    assert sorted(set(epochs)) == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--hidden 9 --epochs 9", "hidden must stay 8 when a run is resumed, got 9"),
        ("--activation tanh --epochs 9", "activation must stay relu when a run is resumed, got tanh"),
        ("--dtype float64 --epochs 9", "dtype must stay float32 when a run is resumed, got float64"),
        ("--batch-size 5 --epochs 9", "batch_size must stay 10 when a run is resumed, got 5"),
        ("--optimizer adam --epochs 9", "optimizer must stay sgd when a run is resumed, got adam"),
        ("--seed 2 --epochs 9", "seed must stay 0 when a run is resumed, got 2"),
        ("--epochs 2", "epochs must be >= 3 to go on with this run, got 2"),
        ("--momentum 0 --epochs 9", "momentum must stay > 0 when a run is resumed, got 0"),
    ],
)
def test_what_cannot_change_when_a_run_goes_on(
    arguments: str, message: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert call("--dataset", digits, *SMALL, "--engine", "numpy", "--out", out, "--quiet") == 0
    before = (out / "model.safetensors").read_bytes()
    assert call("--resume", out, *arguments.split()) == 2
    assert one_error(capsys) == message
    assert (out / "model.safetensors").read_bytes() == before


def test_options_of_zero_are_kept(digits: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = ("--dataset", digits, *SMALL, "--engine", "numpy", "--quiet", "--schedule", "constant")
    zeros = ("--momentum", 0, "--weight-decay", 0, "--seed", 0)
    assert call(*arguments, *zeros, "--out", whole) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_after(25, patch)
        assert call(*arguments, *zeros, "--out", parts) == 0
    assert call("--resume", parts, "--quiet") == 0
    assert summary_of(parts)["weight_decay"] == summary_of(parts)["momentum"] == 0.0
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_the_data_may_have_moved_but_not_their_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, table, moved = tmp_path / "run", tmp_path / "t.csv", tmp_path / "elsewhere" / "t.csv"
    rows = "".join(f"{i},{'abc'[i % 3]}\n" for i in range(30))
    table.write_text("x,y\n" + rows)
    arguments = ("--dataset", table, "--target", "y", *SMALL, "--engine", "numpy", "--out", out, "--quiet")
    assert call(*arguments) == 0
    moved.parent.mkdir()
    os.replace(table, moved)
    epochs = summary_of(out)["epochs"]
    assert call("--resume", out, "--epochs", epochs + 1, "--dataset", moved, "--quiet") == 0
    renamed = moved.with_name("u.csv")
    renamed.write_text(moved.read_text())
    assert call("--resume", out, "--epochs", epochs + 2, "--dataset", renamed, "--quiet") == 2
    assert one_error(capsys) == f"dataset must stay {moved} when a run is resumed, got {renamed}"
    moved.write_text("x,y\n" + rows.replace("1", "2"))
    assert call("--resume", out, "--epochs", epochs + 2, "--quiet") == 2
    assert one_error(capsys) == f"dataset must be the one that the run in {str(out)!r} began with, got other data"
    moved.write_text("x,y\n" + rows.replace("a", "z"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert call("--resume", out, "--epochs", epochs + 2, "--quiet") == 2
    assert one_error(capsys) == (
        f"dataset must have the classes that the run in {str(out)!r} began with, ['a', 'b', 'c'], got ['b', 'c', 'z']"
    )
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_other_data_and_other_files_are_refused_when_a_run_goes_on(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert call("--dataset", digits, *SMALL, "--engine", "numpy", "--out", out, "--quiet") == 0
    assert call("--resume", out, "--epochs", 5, "--dataset", "mnist") == 2
    assert one_error(capsys) == f"dataset must stay {digits} when a run is resumed, got mnist"
    for part in ("images-idx3", "labels-idx1"):
        path = digits / f"train-{part}-ubyte"
        write_idx(
            path, np.frombuffer(path.read_bytes(), np.uint8)[-160:].reshape((10, 4, 4) if "3" in part else (-1,))[:10]
        )
    assert call("--resume", out, "--epochs", 5) == 2
    assert one_error(capsys) == f"dataset must be the one that the run in {str(out)!r} began with, got other data"
    saved = SavedNetwork(out / resuming.CHECKPOINT)
    net = fastmlp.MLP._from_saved(saved, "numpy")
    assert saved.state is not None
    del saved.state.history.validation_loss[1:]
    net.save(out / resuming.CHECKPOINT, saved.state)
    assert call("--resume", out, "--epochs", 5) == 2
    assert one_error(capsys) == (
        f"resume must be a folder that fastmlp.train wrote, got {str(out)!r}, where evaluations are missing"
    )
    os.replace(out / "model.safetensors", out / resuming.CHECKPOINT)
    assert call("--resume", out, "--epochs", 5) == 2
    assert one_error(capsys) == f"resume must be a folder that fastmlp.train wrote, got {str(out)!r}"
    (out / resuming.CHECKPOINT).write_bytes(b"garbage")
    assert call("--resume", out, "--epochs", 5) == 2
    assert "is not a readable safetensors file" in one_error(capsys)


def test_the_second_signal_does_what_it_always_does() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert stop.by == ""
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.by == "SIGTERM"
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with StopRequest():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    """Shells begin a script's background jobs so: Ctrl-C is not meant for them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.by == ""
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("quiet", [False, True])
def test_a_stop_while_compiling_is_answered_at_once(
    quiet: bool, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = []

    def interrupted(*_: object) -> None:
        capsys.readouterr()
        os.kill(os.getpid(), signal.SIGINT)
        answers.append(capsys.readouterr().out)

    monkeypatch.setattr(reference.Engine, "compile", interrupted)
    arguments = ("--dataset", digits, "--hidden", 8, "--batch-size", 1, "--engine", "numpy")
    assert call(*arguments, *["--quiet"][: int(quiet)]) == 0
    assert answers == ["" if quiet else "stopping after compilation and the first step; Ctrl-C again stops at once\n"]
    printed = capsys.readouterr().out
    assert printed == "" if quiet else printed.endswith("stopped by Ctrl-C after 0.005 of 10 epochs\n")


@pytest.mark.parametrize(
    "module",
    ["csv", "numpy", "fastmlp.options", "fastmlp.datasets", "fastmlp.datasets.idx", "fastmlp.network", "llvmlite"],
)
def test_a_stop_in_the_first_moments_is_one_line(module: str, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "interrupted_train.py").write_text(
        "import runpy, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        # From within the exec of a string, as it may hit a dataclass; Python is apt to kill itself then.
        f"        if name == {module!r}: exec('signal.raise_signal(signal.SIGINT)')\n"
        "sys.meta_path.insert(0, Finder())\n"
        "runpy.run_module('fastmlp.train', run_name='__main__')\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "interrupted_train", "--dataset", digits],
        capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "fastmlp.train: error: interrupted\n")


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_stops_a_process_and_keeps_what_it_learnt(
    number: signal.Signals, name: str, digits: Path, tmp_path: Path, engine: str
) -> None:
    out = tmp_path / "run"
    run = start(["--dataset", digits, "--hidden", 8, "--epochs", 1_000_000, "--engine", engine, "--out", out])
    assert run.stdout is not None
    while not run.stdout.readline().startswith("epoch "):
        assert run.poll() is None
    sent = time.monotonic()
    run.send_signal(number)
    printed, errors = run.communicate(timeout=30)
    assert time.monotonic() - sent < 10
    assert run.returncode == 0
    assert errors == ""
    assert re.search(rf"\nstopped by {name} after \d+(\.\d+)? of 1000000 epochs; go on with --resume ", printed)
    summary = summary_of(out)
    assert summary["stopped"] is True
    assert 0 < summary["epochs_done"] < 1_000_000
    assert {"model.safetensors", "history.csv", "curves.png"} <= {path.name for path in out.iterdir()}


def test_a_reader_that_leaves_does_not_break_the_run(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = start(["--dataset", digits, *SMALL[:-1], 300, "--engine", "numpy", "--out", out])
    assert run.stdout is not None
    run.stdout.readline()
    run.stdout.close()  # as `| head -1` does
    assert run.stderr is not None
    assert run.stderr.read() == ""
    run.stderr.close()
    assert run.wait(timeout=30) == 0
    assert summary_of(out)["epochs_done"] == 300


def test_without_files_a_reader_that_leaves_ends_the_run(digits: Path) -> None:
    run = start(["--dataset", digits, "--hidden", 8, "--epochs", 1_000_000, "--engine", "numpy"])
    assert run.stdout is not None
    run.stdout.readline()
    run.stdout.close()
    assert run.stderr is not None
    assert run.stderr.read() == ""
    run.stderr.close()
    assert run.wait(timeout=30) == 0


def test_a_terminal_gets_a_bar(digits: Path) -> None:
    pty = pytest.importorskip("pty", reason="needs a terminal of POSIX")
    ours, theirs = pty.openpty()
    command = [*COMMAND, "--dataset", digits, *SMALL, "--engine", "numpy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True) as run:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # how Linux ends the reading when the other side is closed
                break
            if not piece:
                break
            shown += piece
        assert run.stdout is not None
        printed = run.stdout.read()
    os.close(ours)
    assert run.returncode == 0
    assert re.search(r"epoch 3/3  loss \d\.\d{4}  accuracy \d+\.\d\d % \|.+\| .*samples/s", shown.decode())
    assert printed.count("epoch ") == 3  # the file gets the lines, too; the table follows them
    assert "test accuracy" in printed
