"""The command line: its options, and what a run trains, writes and prints."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_line import SMALL, call, history_of, summary_of

import fastmlp
from fastmlp.folder import find_mistakes
from fastmlp.options import Options, make_optimizer, parse_options
from fastmlp.train import has_learnt_nothing, r2_score

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
    notes = fastmlp.MLP.load(out / "model.safetensors").notes
    assert notes == {"class_names": ["0", "1", "2", "3"], "image_shape": [4, 4], "feature_names": None}

    lines = capsys.readouterr()
    assert lines.err == ""
    assert "200 training and 60 test samples of 4 classes; network 16-8-4 (relu), 172 parameters, float32" in lines.out
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


@pytest.mark.parametrize("can_be_learnt", [True, False])
def test_a_run_that_learnt_nothing_says_so(
    can_be_learnt: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sign of the feature is the class; where it is left out, every sample is taken for the same class."""
    path = tmp_path / "signs.csv"
    rows = [
        f"{a if can_be_learnt else 1.0},{'yes' if a > 0 else 'no'}" for a in np.random.default_rng(0).normal(size=300)
    ]
    path.write_text("\n".join(["feature,sign", *rows]))
    assert call("--dataset", path, "--target", "sign", *SMALL) == 0
    said = "it seems to have learnt nothing: to answer always with one class would be as good"
    assert (said in capsys.readouterr().out) != can_be_learnt


def test_who_is_always_right_has_learnt_something() -> None:
    """In a small test part, all samples may be of one class."""
    data: Any = SimpleNamespace(y_test=np.array([1, 1, 1, 1]))
    assert not has_learnt_nothing({"test_accuracy": 1.0, "test_r2": None}, data)
    assert has_learnt_nothing({"test_accuracy": 0.75, "test_r2": None}, data)
    assert r2_score(np.array([1.0, 2.0]), np.array([3.0, 3.0])) is None


def test_a_regression_has_no_accuracy(values: Path, tmp_path: Path, engine: str) -> None:
    out = tmp_path / "run"
    assert (
        call("--dataset", values, "--target", "y", "--hidden", "none", "--lr", 0.05, "--engine", engine, "--out", out)
        == 0
    )
    summary = summary_of(out)
    assert (summary["loss"], summary["layer_sizes"], summary["test_accuracy"]) == ("squared_error", [2, 1], None)
    assert summary["test_loss"] < 0.5  # the variance of y is 5
    data = fastmlp.load_dataset(values, target="y")
    explained = 1 - 2 * summary["test_loss"] / data.y_test.var()
    assert summary["test_r2"] == pytest.approx(explained, abs=1e-6)
    assert {row["test_accuracy"] for row in history_of(out)} == {""}
    assert not (out / "misclassified.png").exists()


def test_counts_may_be_integers(tmp_path: Path, engine: str) -> None:
    path, out = tmp_path / "counts.csv", tmp_path / "run"
    path.write_text("a,y\n" + "".join(f"{i / 30},{i // 3}\n" for i in range(60)))
    arguments = ("--dataset", path, "--target", "y", "--loss", "poisson", "--hidden", "4", "--out", out)
    assert call(*arguments, "--epochs", 2, "--engine", engine, "--quiet") == 0
    assert summary_of(out)["loss"] == "poisson"
    assert call("--resume", out, "--epochs", 3, "--quiet") == 0


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
    mistakes = find_mistakes(net, data)
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
    assert find_mistakes(net, perfect) is None


def test_without_matplotlib_the_run_says_so_and_goes_on(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "curves.png").write_bytes(b"of an earlier run")
    (out / "checkpoint.safetensors").write_bytes(b"of an earlier run")
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


def test_names_of_features_never_fill_the_models_header(tmp_path: Path, engine: str) -> None:
    """It has room for a million bytes, and a letter may take fourteen."""
    for n, are_saved in ((200, True), (1000, False)):
        names = [f"{k:03}" + "𝒳" * 245 for k in range(n)]
        row = ",".join("1" if k % 2 else "0" for k in range(n))
        path, out = tmp_path / f"{n}.csv", tmp_path / f"run{n}"
        path.write_text(",".join(names) + ",y\n" + f"{row},a\n{row},b\n" * 20, encoding="utf-8")
        assert call("--dataset", path, "--target", "y", *SMALL, "--engine", engine, "--out", out, "--quiet") == 0
        assert fastmlp.MLP.load(out / "model.safetensors").notes["feature_names"] == (names if are_saved else None)
