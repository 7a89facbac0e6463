"""The printed and drawn report: what it says, and that its pictures hold the curves and images they are given."""

from __future__ import annotations

import errno
import io
import json
import math
import re
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from fastmlp import MLP, folder, report
from fastmlp.recipe import History, Progress


def make_history(n_epochs: int, accuracy: bool = True) -> History:
    epochs = np.arange(1, n_epochs + 1)
    return History(
        train_loss=(0.5 / epochs).tolist(),
        validation_loss=(0.2 / np.sqrt(epochs)).tolist(),
        validation_accuracy=(1 - 0.07 / epochs).tolist() if accuracy else [],
        learning_rate=(0.1 / epochs).tolist(),
        seconds=[0.2] * n_epochs,
    )


def make_summary(history: History, **changes: object) -> dict:
    n = len(history.train_loss)
    return {
        "dataset": "mnist", "layer_sizes": [784, 100, 10], "epochs": n, "epochs_done": n, "stopped": False,
        "batch_size": 100, "optimizer": "sgd", "learning_rate": 0.1, "schedule": "one_cycle", "threads": 1,
        "engine": "numpy", "train_loss": history.train_loss[-1] if n else None,
        "test_loss": history.validation_loss[-1] if n else None,
        "test_accuracy": history.validation_accuracy[-1] if history.validation_accuracy else None,
        "test_r2": None, "train_seconds": 2.0, "compile_seconds": 0.25, "samples_per_second": 300_000.0, **changes,
    }  # fmt: skip


def read_png(content: bytes) -> np.ndarray:
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return matplotlib.image.imread(io.BytesIO(content))[:, :, :3]


def ink(picture: np.ndarray, colour: str) -> np.ndarray:
    """Where a picture has the colour."""
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.abs(picture - wanted).max(axis=2) < 0.02


# --- Text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.000 s"), (0.25, "0.250 s"), (9.871, "9.87 s"), (119.0, "119.00 s"), (754.6, "12 min 34 s")],
)
def test_duration(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


def test_a_line_an_epoch_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = report.Reporter(quiet=False)
    reporter.begin(n_samples=60_000, epochs=10, done=0)
    reporter.epoch(make_history(2), epochs=10)
    reporter.end()
    out, err = capsys.readouterr()
    assert (
        out == "epoch  2/10  train loss 0.2500  test loss 0.1414  test accuracy  96.50 %  0.200 s  300,000 samples/s\n"
    )
    assert err == ""


def test_a_regression_has_no_accuracy_in_its_lines_and_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    history = make_history(1, accuracy=False)
    reporter = report.Reporter(quiet=False)
    reporter.epoch(history, epochs=1)
    reporter.table(make_summary(history, test_r2=0.93), n_test=10, folder=None, files=[])
    printed = capsys.readouterr().out
    assert "accuracy" not in printed
    assert "test R^2        0.9300  of the variance explained\n" in printed


def test_the_table_is_aligned_and_says_what_came_out(capsys: pytest.CaptureFixture[str]) -> None:
    history = make_history(10)
    summary = make_summary(history, test_accuracy=0.9831, test_loss=0.0612, train_loss=0.0081, threads=2)
    report.Reporter(quiet=False).table(summary, 10_000, "runs/1", ["model.safetensors", "summary.json"])
    assert capsys.readouterr().out.splitlines() == [
        "",
        "test accuracy  98.31 %  169 of 10,000 wrong",
        "test loss       0.0612  0.0081 in training",
        "training        2.00 s  300,000 samples/s, 2 threads, engine numpy",
        "compiling      0.250 s",
        "files          model.safetensors, summary.json in runs/1",
    ]


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    history = make_history(1)
    reporter = report.Reporter(quiet=True)
    reporter.begin(60, 1, 0)
    reporter.say("hello")
    reporter.epoch(history, 1)
    reporter.end()
    reporter.table(make_summary(history), 10, None, [])
    assert capsys.readouterr() == ("", "")


def test_what_the_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    report.Reporter(quiet=False).say("caf\u00e9.csv")
    assert stream.buffer.getvalue() == b"caf\\xe9.csv\n"  # type: ignore[attr-defined]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_epoch_loss_accuracy_and_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    reporter = report.Reporter(quiet=False)
    reporter.begin(n_samples=1000, epochs=4, done=500)
    history = make_history(2)
    reporter.progress(Progress(0, 4, step=6, n_steps=40, samples=600, loss=1.2, history=History()))
    time.sleep(0.11)  # the bar is drawn ten times a second at most
    reporter.progress(Progress(2, 4, step=25, n_steps=40, samples=2500, loss=0.1234, history=history))
    reporter.progress(Progress(4, 4, step=40, n_steps=40, samples=4000, loss=0.1111, history=history))
    reporter.epoch(make_history(4), epochs=4)
    reporter.end()
    reporter.end()
    lines = terminal.getvalue().split("\r")
    assert "preparing" in lines[1]
    assert re.search(r"epoch 3/4  loss 0\.1234  accuracy 96\.50 % \|#[#\d]+ +\| .*samples/s", lines[2]), lines[2]
    # The last one waits for the accuracy after the last epoch.
    assert re.search(r"epoch 4/4  loss 0\.1250  accuracy 98\.25 % \|#+\| .*samples/s", lines[-1]), lines[-1]
    assert lines[-1].endswith("\n")
    assert capsys.readouterr().out.count("epoch 4/4") == 1  # it is no terminal: it gets the line, too


def test_a_line_takes_the_place_of_the_bar_which_goes_on_below(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    reporter = report.Reporter(quiet=False)
    reporter.begin(n_samples=1000, epochs=4, done=0)
    shown = []
    monkeypatch.setattr("builtins.print", lambda *_, **__: shown.append(terminal.getvalue()))
    reporter.say("hello")
    assert re.search(r"preparing [^\r]+\r +\r$", shown[0]), shown  # the bar is wiped away before the line
    assert re.search(r"^\rpreparing [^\r]+$", terminal.getvalue().removeprefix(shown[0]))
    reporter.end()


# --- Pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_epochs", [1, 10, 200])
def test_the_curves_have_two_panels_at_150_dpi(n_epochs: int) -> None:
    history = make_history(n_epochs)
    content = report.draw_curves(history, make_summary(history))
    picture = read_png(content)
    assert picture.shape == (630, 1500, 3)  # 10 x 4.2 inches
    assert struct.pack(">IIB", 5906, 5906, 1) in content  # 5906 dots a metre
    left, right = picture[:, :700], picture[:, 850:]
    assert ink(left, report.TRAIN).sum() > 100
    assert ink(left, report.TEST).sum() > 100
    assert ink(right, report.TEST).sum() > 100
    assert not ink(right, report.TRAIN).any()
    # Nothing is cut off: the border is empty.
    for border in (picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]):
        assert (border > 0.98).all()


def test_the_losses_at_the_end_are_not_written_over_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(report, "to_png", figures.append)
    history = make_history(2000, accuracy=False)
    for losses, last in ((history.train_loss, 4.8e-14), (history.validation_loss, 6.6e-14)):
        losses[:] = [*np.geomspace(5, 3e-13, 280), *[last] * 1720]
    report.draw_curves(history, make_summary(history))
    figures[0].draw_without_rendering()
    boxes = [text.get_window_extent() for text in figures[0].axes[0].texts if text.get_text()[:4] in ("trai", "test")]
    assert len(boxes) == 2
    assert not boxes[0].overlaps(boxes[1])


def test_a_regression_has_one_panel() -> None:
    history = make_history(10, accuracy=False)
    assert read_png(report.draw_curves(history, make_summary(history))).shape == (630, 1125, 3)


def test_the_curve_rises_where_the_accuracy_does() -> None:
    history = make_history(50)
    history.validation_accuracy = [0.5] * 25 + [0.9] * 25
    picture = read_png(report.draw_curves(history, make_summary(history, test_accuracy=0.9)))
    rows, columns = np.nonzero(ink(picture[130:, 850:], report.TEST))
    step = np.bincount(columns).argmax()
    assert rows[columns < step - 10].min() > 300  # first at the foot of the panel, ...
    assert rows[columns > step + 10].max() < 100  # ... then at its top


def test_a_run_that_stopped_in_its_first_epoch_is_drawn_as_a_point() -> None:
    summary = make_summary(
        History(), epochs=10, epochs_done=0.42, stopped=True, train_loss=1.2, test_loss=0.6, test_accuracy=0.8
    )
    assert ink(read_png(report.draw_curves(History(), summary)), report.TEST).any()


def test_losses_of_zero_and_equal_ends_are_drawn() -> None:
    history = make_history(3)
    history.train_loss = history.validation_loss = [0.0, 0.0, 0.0]
    history.validation_accuracy = [1.0, 1.0, 1.0]
    picture = read_png(report.draw_curves(history, make_summary(history)))
    assert ink(picture[:, :750], report.TRAIN).any()  # its label is not under the other's


def test_a_name_that_the_font_lacks_is_drawn_without_a_warning() -> None:
    history = make_history(3)
    assert read_png(report.draw_curves(history, make_summary(history, dataset="猫.csv"))).any()


def test_a_closed_pipe_of_windows_ends_the_printing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which says EINVAL."""

    def refuse(text: str) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    reporter = report.Reporter(quiet=False)
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding="utf-8", write=refuse))
    monkeypatch.setattr(report, "drop_stdout", lambda: None)
    with pytest.raises(OSError, match="Invalid argument"):
        reporter.say("text")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        reporter.say("text")
    assert reporter.closed


@pytest.mark.parametrize("shape", [(28, 28), (32, 32, 3), (8, 8, 2)])
def test_the_page_of_mistakes_has_at_most_fifty(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    names = ["$x_{", "猫", *(f"class {i}" for i in range(8))]  # neither formulas nor glyphs that the font has

    def draw(n: int) -> np.ndarray:
        images = rng.integers(0, 256, (n, *shape)).astype(np.uint8)
        return read_png(
            report.draw_misclassified(images, np.arange(n) % 10, np.arange(n) % 7, rng.random(n), names, f"{n} wrong")
        )

    one, fifty, sixty = draw(1), draw(50), draw(60)
    assert fifty.shape == sixty.shape
    assert one.shape[0] < fifty.shape[0]


def test_an_image_is_shown_as_it_is() -> None:
    def black_box(image: list[list[int]]) -> tuple[int, int, int, int]:
        images = np.array([image], np.uint8)
        page = read_png(report.draw_misclassified(images, np.zeros(1, int), np.ones(1, int), np.ones(1), "01", ""))
        rows, columns = np.nonzero((page < 0.01).all(axis=2))
        return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1

    top, bottom, left, right = black_box([[255, 255], [255, 255]])  # ink is dark
    assert black_box([[0, 255], [0, 0]]) == pytest.approx((top, (top + bottom) / 2, (left + right) / 2, right), abs=1.5)


def test_matplotlib_is_used_without_global_state() -> None:
    pyplot_before = sys.modules.get("matplotlib.pyplot")
    history = make_history(2)
    report.draw_curves(history, make_summary(history))
    assert sys.modules.get("matplotlib.pyplot") is pyplot_before


def test_a_summary_is_json_whatever_the_figures_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = make_history(2)
    summary = make_summary(history, test_loss=math.inf, test_r2=np.float64("nan"))
    monkeypatch.setattr(folder, "find_mistakes", lambda net, data: None)
    out = folder.RunFolder(str(tmp_path), None, report.Reporter(quiet=True))
    out.write_files(MLP([2, 2]), SimpleNamespace(), history, summary)
    written = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert written == {**summary, "test_loss": None, "test_r2": None}


def test_long_names_and_large_losses_take_little_room() -> None:
    assert report.clipped("x" * 30, 30) == "x" * 30
    assert report.clipped("a" * 40 + "z" * 40, 30) == "a" * 15 + "\u2026" + "z" * 14
    assert report.decimals(99999.0) == "99999.0000"
    assert report.decimals(-4.675e50) == "-4.675e+50"
