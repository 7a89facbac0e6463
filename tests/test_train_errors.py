"""The command line: how it answers what the user got wrong, each in one line."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command_line import COMMAND, SMALL, call, one_error, write_idx

from fastmlp import resuming, train
from fastmlp.checkpoint import SavedNetwork
from fastmlp.options import spell


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--epochs 0", "epochs must be >= 1, got 0"),
        ("--epochs ten", "epochs must be a whole number, got 'ten'"),
        ("--epochs", "epochs must have a value, got none"),
        ("--epochs 2 -b", "batch_size must have a value, got none"),
        ("--lr", "learning_rate must have a value, got none"),
        ("--quiet=1", "quiet must have no value, got '1'"),
        ("--weight-decay -1e-3", "weight_decay must be >= 0, got -0.001"),
        ("--hidden -5,3", "hidden must be >= 1, got -5"),
        ("--epoch 3", "unknown argument '--epoch' (did you mean --epochs?)"),
        ("mnist", "unknown argument 'mnist'; --help lists the options"),
        ("--bogus", "unknown argument '--bogus'; --help lists the options"),
        ("--batch 3", "unknown argument '--batch' (did you mean --batch-size?)"),
        ("--dataset=", "dataset must not be empty, got ''"),
        ("--data-dir=", "data_dir must not be empty, got ''"),
        ("--out=", "out must not be empty, got ''"),
        ("--resume=", "resume must not be empty, got ''"),
        ("--hidden=", "hidden must be whole numbers or none, got ''"),
        ("-b 0", "batch_size must be >= 1, got 0"),
        ("--seed -1", "seed must be >= 0, got -1"),
        ("--threads 0", "threads must be >= 1, got 0"),
        ("--lr 0", "learning_rate must be > 0, got 0"),
        ("--lr -0.1", "learning_rate must be > 0, got -0.1"),
        ("--lr nan", "learning_rate must be finite, got nan"),
        ("--lr fast", "learning_rate must be a number, got 'fast'"),
        ("--momentum 1", "momentum must be < 1, got 1"),
        ("--weight-decay -1", "weight_decay must be >= 0, got -1"),
        ("--momentum 0.9 --optimizer adam", "momentum is an option of sgd only, got 0.9 with adam"),
        ("--hidden 5,0", "hidden must be >= 1, got 0"),
        ("--hidden 5,,5", "hidden must be a whole number, got ''"),
        ("--activation relu,tanh", "activation must name one function for each of the 3 hidden layers, got 2"),
        ("--optimizer adm", "optimizer must be one of sgd, adam, adamw, rmsprop, got 'adm' (did you mean 'adam'?)"),
        ("--engine numbo", "engine must be one of numba, numpy, got 'numbo' (did you mean 'numba'?)"),
        ("--dtype float16", "dtype must be one of float32, float64, got 'float16' (did you mean 'float64'?)"),
        ("--resume nowhere", "resume must be a folder with the checkpoint.safetensors of a run, got 'nowhere'"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments.split()) == 2
    assert one_error(capsys) == message


def test_what_a_checkpoint_holds_is_shown_on_one_line() -> None:
    assert [spell(("relu", "tanh")), spell(0.1), spell("a\n\x1b[2J")] == ["relu,tanh", "0.1", r"'a\n\x1b[2J'"]


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        ("--activation reul", "'relu'"),
        ("--loss square_error", "'squared_error'"),
        ("--schedule onecycle", "'one_cycle'"),
        ("--dataset mnits --engine numpy", "'mnist'"),
    ],
)
def test_an_unknown_name_gets_the_nearest_suggested(
    arguments: str, nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments.split()) == 2
    assert f"did you mean {nearest}?" in one_error(capsys)


def damage(digits: Path, kind: str) -> None:
    images, labels = digits / "train-images-idx3-ubyte", digits / "train-labels-idx1-ubyte"
    if kind == "truncated":
        images.write_bytes(images.read_bytes()[:-1])
    elif kind == "swapped":
        content = images.read_bytes()
        images.write_bytes(labels.read_bytes())
        labels.write_bytes(content)
    elif kind == "empty":
        images.write_bytes(b"")
    elif kind == "too few labels":
        write_idx(labels, np.zeros(10))
    elif kind == "missing":
        labels.unlink()


@pytest.mark.parametrize("kind", ["truncated", "swapped", "empty", "too few labels", "missing"])
def test_a_damaged_data_set_is_one_line(kind: str, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(digits, kind)
    assert call("--dataset", digits, "--engine", "numpy") == 2
    assert "train" in one_error(capsys)


@pytest.mark.parametrize(
    ("table", "arguments", "fragment"),
    [
        ("a,y\n1,0\nnan,1\n1,0\n", "--target y", "'a'"),
        ("a,y\n1,0\ninf,1\n1,0\n", "--target y", "'a'"),
        ("a,y\n1,0\n2,1\n3,0\n", "", "target"),
        ("a,y\n1,0\n2,1\n3,0\n", "--target z", "'z'"),
        ("a,y\n1,0\n2,0\n3,0\n", "--target y", "at least 2 classes, got 1"),
        ("a,y\n1,b\n2,c\n3,b\n", "--target y --loss poisson", "labels 'y' must be numbers, got 'b' in row 1"),
        ("a,y\n1,4\n2,c\n3,5\n", "--target y --loss poisson", "labels 'y' must be numbers, got 'c' in row 2"),
        ("a,y\n1,0\n2,1\n3,2\n4,1\n5,2\n6,0\n", "--target y --loss sigmoid_cross_entropy", "3 classes"),
        ("a,y\n1,0.5\n2,1.5\n3,0.5\n", "--target y --loss softmax_cross_entropy", "loss must be one of values"),
        ("a,y\n1,0.5\n2,1.5\n3,2.5\n", "--target y --loss sigmoid_cross_entropy", "must be in [0, 1]"),
        ("a,y\n", "--target y", "table.csv"),
        ("", "--target y", "table.csv"),
    ],
)
def test_a_bad_table_is_one_line(
    table: str, arguments: str, fragment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.csv").write_text(table)
    assert call("--dataset", tmp_path / "table.csv", "--engine", "numpy", *arguments.split()) == 2
    assert fragment in one_error(capsys)


def test_a_network_beyond_memory_is_one_line(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--dataset", digits, "--engine", "numpy", "--hidden", "10000000,10000000") == 2
    assert "memory" in one_error(capsys)


def test_divergence_is_one_line(values: Path, engine: str) -> None:
    arguments = ("--target", "y", "--lr", "1e9", "--schedule", "constant", "--engine", engine)
    done = subprocess.run([*COMMAND, "--dataset", values, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert re.match(r"fastmlp\.train: error: training diverged in epoch 2, .* try a learning_rate below", done.stderr)


def test_divergence_says_what_it_left(
    values: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ("--dataset", values, "--target", "y", "--hidden", "none", "--engine", "numpy", "--out", out, "--quiet")
    diverging = (*arguments, "--schedule", "constant", "--momentum", 0, "--epochs", 1000)
    assert call(*arguments) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert call(*diverging, "--lr", "1e300") == 2  # in the first epoch
    assert one_error(capsys).endswith(f"; nothing was written to {out}")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    monkeypatch.setattr(resuming, "WRITING_SHARE", 1.0)
    assert call(*diverging, "--lr", 10) == 2  # some epochs later
    told = re.search(
        r"keeps the weights it began with; .*; only the checkpoint of epoch (\d+) was written to (.*)",
        one_error(capsys),
    )
    assert told is not None
    assert told[2] == str(out)
    state = SavedNetwork(out / resuming.CHECKPOINT).state
    assert state is not None
    assert state.epoch == int(told[1]) > 0
    assert {path.name for path in out.iterdir()} == {resuming.CHECKPOINT, "previous"}


def test_a_run_that_diverges_does_not_cost_the_one_it_went_on_from(
    values: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resuming, "WRITING_SHARE", 1.0)
    out = tmp_path / "run"
    assert call("--dataset", values, "--target", "y", "--hidden", "none", "--epochs", 3, "--out", out, "--quiet") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert call("--resume", out, "--epochs", 1000, "--lr", 10, "--schedule", "constant", "--quiet") == 2
    assert one_error(capsys).endswith(
        f"keeps the weights it began with; try a learning_rate below 10, a warm-up, or inputs scaled to about [-1, 1]; "
        f"the checkpoint in {out} is again that of epoch 3, as before"
    )
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert call("--resume", out, "--epochs", 4, "--quiet") == 0


@pytest.mark.parametrize("setting", [{"NUMBA_DISABLE_JIT": "1"}, {"NUMBA_OPT": "0"}], ids=str)
def test_numba_without_its_compiler_is_one_line(setting: dict[str, str], digits: Path) -> None:
    command = [*COMMAND, "--dataset", digits, *SMALL]
    environment = os.environ | setting
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 2
    assert re.fullmatch(r"fastmlp\.train: error: .*NUMBA_DISABLE_JIT.*\n", done.stderr), done.stderr


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_unwritable_out_is_refused_before_anything_is_done(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(train, "load_data", lambda _: pytest.fail("the data were loaded"))
    assert call("--out", tmp_path / place) == 2
    assert one_error(capsys).startswith(f"out must be a writable folder, got {str(tmp_path / place)!r}: ")


@pytest.mark.parametrize("writer", ["fastmlp.checkpoint.write_atomically", "tempfile.TemporaryFile"])
def test_a_full_disk_is_one_line(
    writer: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, fail)
    assert call("--dataset", digits, *SMALL, "--engine", "numpy", "--out", tmp_path / "run") == 2
    assert "No space left on device" in one_error(capsys)


def test_a_full_disk_under_standard_output_is_one_line(digits: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [*COMMAND, "--dataset", digits, *SMALL, "--engine", "numpy"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_files_of_one_s_own_are_not_moved_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "history.csv"
    table.write_text("a,y\n" + "1,u\n2,v\n" * 10)
    monkeypatch.chdir(tmp_path)
    small = "--target y --hidden 3 --epochs 1 --engine numpy --quiet"
    assert call(*f"--dataset history.csv {small} --out .".split()) == 2
    assert one_error(capsys) == "out must be a new folder or that of a run, got '.', which holds history.csv alone"
    for lost in ("checkpoint.safetensors", "model.safetensors", "summary.json"):
        assert call(*f"--dataset history.csv {small} --out other".split()) == 0
        (tmp_path / "other" / lost).unlink()
    assert call(*f"--dataset history.csv {small} --out other --epochs 2".split()) == 0
    assert call(*["--resume", "other", "--epochs", "3", "--out", "."]) == 2
    assert one_error(capsys).startswith("out must be a new folder or that of a run, got '.'")
    assert table.read_text().startswith("a,y\n1,u")
