"""The command line: what it trains, writes and prints, how it stops and goes on, and how it answers what is wrong."""

from __future__ import annotations

import csv
import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import fastmlp
from fastmlp import reference, report, resuming, train, training
from fastmlp.checkpoint import SavedNetwork
from fastmlp.options import Options, make_optimizer, parse_options
from fastmlp.stopping import StopRequest

COMMAND = (sys.executable, "-m", "fastmlp.train")
SMALL = ("--hidden", "8", "--batch-size", "10", "--epochs", "3")


@pytest.fixture(params=["numpy", "numba"])
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A folder of IDX files: 4 classes of 4 x 4 pixels, each with a bright row of its own in noise."""
    folder = tmp_path / "digits"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, n in (("train", 200), ("t10k", 60)):
        labels = rng.integers(0, 4, n)
        images = rng.integers(0, 140, (n, 4, 4))
        images[np.arange(n), labels] += 110
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture
def values(tmp_path: Path) -> Path:
    """A table for a regression: y = a - 2 b."""
    a, b = np.random.default_rng(1).normal(size=(2, 100)).round(3)
    path = tmp_path / "values.csv"
    path.write_text("a,b,y\n" + "".join(f"{p},{q},{p - 2 * q + 0.0001:.4f}\n" for p, q in zip(a, b, strict=True)))
    return path


def call(*arguments: object) -> int:
    return train.main([str(argument) for argument in arguments])


def summary_of(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text())


def history_of(out: Path) -> list[dict[str, str]]:
    with open(out / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


# --- What a run leaves ------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_files(digits: Path, tmp_path: Path, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "run"
    assert call("--dataset", digits, *SMALL, "--engine", engine, "--seed", 5, "--threads", 1, "--out", out) == 0
    files = {
        "model.safetensors",
        "checkpoint.safetensors",
        "history.csv",
        "curves.png",
        "misclassified.png",
        "summary.json",
    }
    assert {path.name for path in out.iterdir()} == files

    summary = summary_of(out)
    expected = {
        "dataset": str(digits), "layer_sizes": [16, 8, 4], "epochs": 3, "epochs_done": 3, "stopped": False,
        "batch_size": 10, "seed": 5, "dtype": "float32", "engine": engine, "threads": 1, "optimizer": "sgd",
        "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 2e-4, "schedule": "one_cycle",
        "loss": "softmax_cross_entropy", "n_train": 200, "n_test": 60, "version": fastmlp.__version__,
    }  # fmt: skip
    assert {name: summary[name] for name in expected} == expected
    assert isinstance(summary["epochs_done"], int)
    history = history_of(out)
    assert list(history[0]) == ["epoch", "train_loss", "test_loss", "test_accuracy", "learning_rate", "seconds"]
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    for name in ("train_loss", "test_loss", "test_accuracy"):
        assert summary[name] == float(history[-1][name])
    assert summary["train_seconds"] == pytest.approx(sum(float(row["seconds"]) for row in history))
    assert summary["samples_per_second"] == pytest.approx(600 / summary["train_seconds"])
    assert summary["compile_seconds"] >= 0

    data = fastmlp.load_dataset(digits)
    net = fastmlp.MLP.load(out / "model.safetensors", engine=engine)
    assert net.accuracy(fastmlp.load_dataset(digits, raw=True).X_test, data.y_test) == summary["test_accuracy"] > 0.5
    notes = SavedNetwork(out / "model.safetensors").notes
    assert (notes["class_names"], notes["image_shape"]) == (["0", "1", "2", "3"], [4, 4])

    lines = capsys.readouterr()
    assert lines.err == ""
    assert re.search(r"200 training and 60 test samples; network 16-8-4 \(relu\), 172 parameters, float32", lines.out)
    assert len(re.findall(r"^epoch \d/3  train loss", lines.out, re.MULTILINE)) == 3
    assert f"{round((1 - summary['test_accuracy']) * 60)} of 60 wrong" in lines.out
    assert str(out) in lines.out


def test_the_run_is_that_of_the_library(digits: Path, tmp_path: Path, engine: str) -> None:
    arguments = (
        "--optimizer",
        "adamw",
        "--lr",
        0.01,
        "--schedule",
        "cosine",
        "--dtype",
        "float64",
        "--activation",
        "tanh,elu",
    )
    assert call("--dataset", digits, "--hidden", "9,5", "-b", 7, "--epochs", 2, "--seed", 3, *arguments,
                "--engine", engine, "--out", tmp_path / "run", "--quiet") == 0  # fmt: skip
    data = fastmlp.load_dataset(digits, raw=True)
    net = fastmlp.MLP([16, 9, 5, 4], ["tanh", "elu"], input_scale=1 / 255, dtype="float64", seed=3, engine=engine)
    net.fit(data.X_train, data.y_train, 2, 7, fastmlp.AdamW(0.01), "cosine")
    saved = fastmlp.MLP.load(tmp_path / "run" / "model.safetensors", engine=engine)
    for ours, theirs in zip(saved.weights + saved.biases, net.weights + net.biases, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_regression_has_no_accuracy(values: Path, tmp_path: Path, engine: str) -> None:
    out = tmp_path / "run"
    assert (
        call("--dataset", values, "--target", "y", "--hidden", "none", "--lr", 0.05, "--engine", engine, "--out", out)
        == 0
    )
    summary = summary_of(out)
    assert (summary["loss"], summary["layer_sizes"], summary["test_accuracy"]) == ("squared_error", [2, 1], None)
    assert summary["test_loss"] < 0.5  # the variance of y is 5
    assert {row["test_accuracy"] for row in history_of(out)} == {""}
    assert not (out / "misclassified.png").exists()


def test_two_classes_may_have_one_sigmoid(tmp_path: Path, engine: str) -> None:
    X = np.random.default_rng(0).normal(size=(80, 2, 2)).astype(np.float32)
    np.savez(tmp_path / "two.npz", X=X, y=np.where(X[:, 0, 0] > 0, "plus", "minus"))
    arguments = ("--dataset", tmp_path / "two.npz", "--loss", "sigmoid_cross_entropy", "--engine", engine)
    assert call(*arguments, "--hidden", 4, "-b", 8, "--epochs", 2, "--out", tmp_path / "run") == 0
    summary = summary_of(tmp_path / "run")
    assert summary["layer_sizes"] == [4, 4, 1]
    assert summary["test_accuracy"] > 0.5


def test_quiet_prints_nothing(digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("--dataset", digits, *SMALL, "--engine", "numpy", "--quiet", "--out", tmp_path / "run") == 0
    assert capfd.readouterr() == ("", "")


def test_mistakes_are_the_most_confident_ones(digits: Path) -> None:
    data = fastmlp.load_dataset(digits, raw=True)
    net = fastmlp.MLP([16, 4], input_scale=1 / 255, engine="numpy")  # not trained: wrong about most
    mistakes = train.find_mistakes(net, data)
    assert mistakes is not None
    p = net.predict_proba(data.X_test)
    wrong = {i for i in range(60) if p[i].argmax() != data.y_test[i]}
    best = sorted(wrong, key=lambda i: -p[i].max())[:50]
    np.testing.assert_array_equal(mistakes["images"], data.X_test[best].reshape(-1, 4, 4))
    np.testing.assert_array_equal(mistakes["true"], data.y_test[best])
    np.testing.assert_array_equal(mistakes["predicted"], p[best].argmax(axis=1))
    np.testing.assert_array_equal(mistakes["confidence"], p[best].max(axis=1))
    assert mistakes["title"] == f"{len(wrong)} of 60 test images wrong"
    X = data.X_test
    net.set_parameters([np.eye(16)[:, :4]])
    perfect = fastmlp.Dataset(X, net.predict(X), X, net.predict(X), data.class_names, "x", 1 / 255, (4, 4))
    assert train.find_mistakes(net, perfect) is None


def test_without_matplotlib_the_run_says_so_and_goes_on(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "curves.png").write_bytes(b"of an earlier run")
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert call("--dataset", digits, *SMALL, "--engine", "numpy", "--out", out) == 0
    assert capsys.readouterr().out.count("pip install 'fastmlp[plot]'") == 1
    assert not (out / "curves.png").exists()
    assert (out / "summary.json").exists()


def test_a_run_in_another_thread_needs_no_signal_handlers(digits: Path) -> None:
    statuses: list[int] = []
    thread = threading.Thread(
        target=lambda: statuses.append(call("--dataset", digits, *SMALL, "--engine", "numpy", "--quiet"))
    )
    thread.start()
    thread.join()
    assert statuses == [0]


# --- Options ----------------------------------------------------------------------------------------------------------


def test_the_default_recipe() -> None:
    chosen = parse_options([])
    assert chosen == Options(activation=("relu",) * 3)
    assert (chosen.dataset, chosen.hidden, chosen.epochs, chosen.batch_size) == ("mnist", (100, 64, 32), 10, 100)
    assert (chosen.schedule, chosen.dtype, chosen.seed, chosen.engine) == ("one_cycle", "float32", 0, "numba")
    assert make_optimizer(chosen) == fastmlp.SGD(0.1, momentum=0.9, weight_decay=2e-4)


@pytest.mark.parametrize(
    ("arguments", "optimizer"),
    [
        ("--optimizer adam", fastmlp.Adam(0.001)),
        ("--optimizer adamw --weight-decay 0.5", fastmlp.AdamW(0.001, weight_decay=0.5)),
        ("--optimizer rmsprop --learning-rate 1e-2", fastmlp.RMSprop(0.01)),
        ("--lr=2 --momentum 0 --weight-decay 0", fastmlp.SGD(2.0)),
    ],
)
def test_optimizers_get_defaults_that_fit(arguments: str, optimizer: fastmlp.SGD) -> None:
    assert make_optimizer(parse_options(arguments.split())) == optimizer


def test_options_may_have_underscores() -> None:
    dashed = "--batch-size 7 --weight-decay=0.5 --learning-rate 2 --data-dir my_dir --dataset a_b-c.csv"
    underscored = "--batch_size 7 --weight_decay=0.5 --learning_rate 2 --data_dir my_dir --dataset a_b-c.csv"
    chosen = parse_options(underscored.split())
    assert chosen == parse_options(dashed.split())
    assert (chosen.batch_size, chosen.data_dir, chosen.dataset) == (7, "my_dir", "a_b-c.csv")


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for argument, text in (("--help", "--batch-size"), ("--version", fastmlp.__version__)):
        with pytest.raises(SystemExit) as stop:
            call(argument)
        assert stop.value.code == 0
        assert text in capsys.readouterr().out


def test_help_and_errors_do_not_wait_for_numba() -> None:
    script = (
        "import sys; from fastmlp.train import main\n"
        "assert main(['--epochs', '0']) == 2\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'numba', 'matplotlib', 'tqdm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


# --- What the user got wrong ------------------------------------------------------------------------------------------


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The single line on standard error."""
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert err.startswith("fastmlp.train: error: ")
    return err.removeprefix("fastmlp.train: error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--epochs 0", "epochs must be >= 1, got 0"),
        ("--epochs ten", "epochs must be a whole number, got 'ten'"),
        ("--epochs", "argument --epochs: expected one argument"),
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
        ("--resume nowhere", "no model file at nowhere/checkpoint.safetensors"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments.split()) == 2
    assert one_error(capsys) == message


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
        ("a,y\n1,0\n2,1\n3,0\n", "--target y --loss squared_error", "loss must be softmax_cross_entropy"),
        ("a,y\n1,0\n2,1\n3,2\n4,1\n5,2\n6,0\n", "--target y --loss sigmoid_cross_entropy", "3 classes"),
        ("a,y\n1,0.5\n2,1.5\n3,0.5\n", "--target y --loss softmax_cross_entropy", "loss must be squared_error"),
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
        r"weights of epoch (\d+), the best so far; .*; only the checkpoint of epoch (\d+) was written to (.*)",
        one_error(capsys),
    )
    assert told is not None
    assert 0 < int(told[1]) <= int(told[2])
    assert told[3] == str(out)
    state = SavedNetwork(out / resuming.CHECKPOINT).state
    assert state is not None
    assert state.epoch == int(told[2])
    assert {path.name for path in out.iterdir()} == {resuming.CHECKPOINT, "previous"}


def test_numba_without_its_compiler_is_one_line(digits: Path) -> None:
    command = [*COMMAND, "--dataset", digits, *SMALL]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
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


# --- A folder that holds a run ----------------------------------------------------------------------------------------


def test_a_new_run_sets_the_earlier_one_aside(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "draw_curves", lambda *_: b"")  # which takes most of the time
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
    assert next(names for epoch, names in found if epoch == 0) == set(train.FILES)
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


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a real SIGINT when a run has taken that many steps, one by one."""
    progress = report.Reporter.progress

    def interrupted(self: report.Reporter, now: fastmlp.Progress) -> None:
        progress(self, now)
        if now.step == steps:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training, "CHUNK_SECONDS", 0.0)
    monkeypatch.setattr(report.Reporter, "progress", interrupted)


@pytest.mark.parametrize("steps", [1, 20, 33])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_run_that_goes_on_ends_like_one_that_never_stopped(
    steps: int, optimizer: str, digits: Path, tmp_path: Path, engine: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(train, "draw_curves", lambda *_: b"")  # which takes most of the time
    monkeypatch.setattr(train, "draw_misclassified", lambda **_: b"")
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
        ("--momentum 0 --epochs 9", "state must come from a run of this network with this optimizer"),
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
    assert answers == ["" if quiet else "stopping after compilation and the first step\n"]
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


def start(arguments: Sequence[object]) -> subprocess.Popen[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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
    assert "epoch" not in printed  # the bar stands for the lines; the table follows it
    assert "test accuracy" in printed
