"""What a run shows: a bar, plain lines, or both, while it trains, a table at its end, and two pictures.

The text goes to standard output in ASCII, the bar to standard error. The pictures are drawn with Matplotlib's objects,
without pyplot and its global state, and come back as the bytes of a PNG; Matplotlib is imported only then.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fastmlp.recipe import History, Progress

Array = NDArray[Any]

# Two colours that colour-blind readers tell apart (M. Okabe, K. Ito, "Color universal design", 2008), and greys.
TRAIN, TEST, QUIET, RULE = "#D55E00", "#0072B2", "#8a8a8a", "#e3e3e3"
DPI = 150
BAR = "{desc} |{bar}| {rate_noinv_fmt}, {remaining} left"


class Reporter:
    """Prints the progress of one run: a bar if standard error is a terminal, and a line an epoch.

    Where both are the same terminal, the bar stands for the lines.

    Parameters
    ----------
    quiet : bool
        Print nothing at all.

    Attributes
    ----------
    closed : bool
        Whether whoever read standard output has gone, as ``| head`` does; nothing is printed then.
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.closed = False
        self._bar: Any = None
        self._waits = True
        self._n_samples = 0

    def say(self, text: str) -> None:
        """Print a line, at once."""
        if self.quiet or self.closed:
            return
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        if self._bar is not None:
            self._bar.clear()  # the line takes its place, and the bar goes on below
        try:
            print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
        except OSError as error:
            drop_stdout()
            # How Windows says that nobody reads any more.
            if not isinstance(error, BrokenPipeError) and not (sys.platform == "win32" and error.errno == errno.EINVAL):
                raise
            self.closed = True
        if self._bar is not None:
            self._bar.refresh()

    def begin(self, n_samples: int, epochs: int, done: int) -> None:
        """Show the bar, with `done` of the ``epochs * n_samples`` samples of the run behind it."""
        self._n_samples = n_samples
        if not self.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.monitor_interval = 0  # no thread that watches the bar
            size: dict[str, Any] = {"dynamic_ncols": True}
            try:
                known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
            except OSError:
                known = False
            if not known:  # in some containers a terminal has no columns, and tqdm would show none
                size = {"ncols": 80, "nrows": 24}
            self._bar = tqdm(
                total=epochs * n_samples, initial=done, desc="preparing", bar_format=BAR, unit=" samples",
                unit_scale=True, file=sys.stderr, **size,
            )  # fmt: skip

    def progress(self, progress: Progress) -> None:
        """Move the bar."""
        if self._bar is None:
            return
        if self._waits:
            self._bar.unpause()  # the time before the first step went into compiling
            self._waits = False
        running = min(progress.epoch + 1, progress.epochs)
        self._describe(running, progress.epochs, progress.loss, progress.history)
        self._bar.update(progress.samples - self._bar.n)

    def _describe(self, epoch: int, epochs: int, loss: float, history: History) -> None:
        text = f"epoch {epoch}/{epochs}  loss {decimals(loss)}"
        if history.validation_accuracy:
            text += f"  accuracy {percent(history.validation_accuracy[-1])}"
        self._bar.set_description_str(text, refresh=False)

    def epoch(self, history: History, epochs: int) -> None:
        """Print the line of an epoch, or bring the bar up to date with it; both, if the text goes to a file."""
        if self._bar is not None:
            self._describe(len(history.train_loss), epochs, history.train_loss[-1], history)
            if sys.stdout is None or sys.stdout.isatty():
                return
        n = len(history.train_loss)
        text = f"epoch {n:{len(str(epochs))}}/{epochs}  train loss {decimals(history.train_loss[-1])}"
        text += f"  test loss {decimals(history.validation_loss[-1])}"
        if history.validation_accuracy:
            text += f"  test accuracy {percent(history.validation_accuracy[-1]):>8}"
        seconds = history.seconds[-1]
        self.say(f"{text}  {duration(seconds)}  {self._n_samples / max(seconds, 1e-9):,.0f} samples/s")

    def end(self) -> None:
        """Leave the bar as it is and go on below it."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None

    def table(self, summary: dict[str, Any], n_test: int, folder: str | None, files: Sequence[str]) -> None:
        """Print what came out: the closing table."""
        rows = []
        accuracy = summary["test_accuracy"]
        if accuracy is not None:
            rows.append(("test accuracy", percent(accuracy), f"{round((1 - accuracy) * n_test):,} of {n_test:,} wrong"))
        if summary["test_r2"] is not None:
            rows.append(("test R^2", f"{summary['test_r2']:.4f}", "of the variance explained"))
        rows.append(
            ("test loss", f"{decimals(summary['test_loss'])}", f"{decimals(summary['train_loss'])} in training")
        )
        threads = f"{summary['threads']} thread{'s' * (summary['threads'] > 1)}"
        speed = f"{summary['samples_per_second']:,.0f} samples/s, {threads}, engine {summary['engine']}"
        rows.append(("training", duration(summary["train_seconds"]), speed))
        rows.append(("compiling", duration(summary["compile_seconds"]), ""))
        width = max(len(value) for _, value, _ in rows)
        lines = [f"{name:<13}  {value:>{width}}  {rest}".rstrip() for name, value, rest in rows]
        if folder is not None:
            lines.append(f"{'files':<13}  {', '.join(files)} in {folder}")
        self.say("\n" + "\n".join(lines))


def drop_stdout() -> None:
    """Point standard output at nothing, so that Python's last flush cannot fail."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file: somebody captures the output
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)


def decimals(loss: float) -> str:
    """Write a loss in a few characters, however large it is.

    >>> decimals(0.0123), decimals(4.7e50)
    ('0.0123', '4.700e+50')
    """
    return f"{loss:.4f}" if abs(loss) < 1e5 else f"{loss:.3e}"


def percent(fraction: float) -> str:
    """Write a fraction as a percentage."""
    return f"{100 * fraction:.2f} %"


def duration(seconds: float) -> str:
    """Write a time, in minutes from two of them on.

    >>> duration(0.0123), duration(9.87), duration(754)
    ('0.012 s', '9.87 s', '12 min 34 s')
    """
    if seconds >= 120:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.2f} s"


# --- Pictures ---------------------------------------------------------------------------------------------------------


def draw_curves(history: History, summary: dict[str, Any]) -> bytes:
    """Draw the loss and, for a classifier, the test accuracy against the epochs.

    Parameters
    ----------
    history : History
        Of the whole epochs.
    summary : dict
        As ``summary.json`` has it; a run that stopped within an epoch ends at ``epochs_done``.

    Returns
    -------
    bytes
        A PNG.
    """
    epochs = [float(n) for n in range(1, len(history.train_loss) + 1)]
    train, test, accuracy = list(history.train_loss), list(history.validation_loss), list(history.validation_accuracy)
    rates = list(history.learning_rate)
    if summary["epochs_done"] > len(epochs):
        epochs.append(summary["epochs_done"])
        train.append(summary["train_loss"])
        test.append(summary["test_loss"])
        accuracy.append(summary["test_accuracy"])
    classifies = summary["test_accuracy"] is not None
    figure = new_figure(10.0 if classifies else 7.5, 4.2)
    figure.set_layout_engine("constrained", rect=(0.0, 0.0, 1.0, 1.0 - 0.62 / figure.get_figheight()))
    panels = figure.subplots(1, 2 if classifies else 1, squeeze=False)[0]
    sizes = "-".join(str(size) for size in summary["layer_sizes"])
    data = os.path.basename(os.path.normpath(summary["dataset"]))
    result = f"{percent(accuracy[-1])} test accuracy" if classifies else f"test loss {test[-1]:.4g}"
    if summary["test_r2"] is not None:
        result = f"test R\u00b2 {summary['test_r2']:.4f}"
    room = 30 if classifies else 20
    headline(figure, f"{clipped(data, room)}, {clipped(sizes, room)}: {result}", describe_end(summary))

    loss = panels[0]
    style_panel(loss, "loss", epochs)
    if len(rates) > 1 and max(rates) > min(rates):
        hint_learning_rate(loss, epochs[: len(rates)], rates)
    lines = [(train, TRAIN, f"train {train[-1]:.3g}"), (test, TEST, f"test {test[-1]:.3g}")]
    positive = [value for value in train + test if value > 0]
    if len(positive) == len(train + test) and max(positive) > 5 * min(positive):
        set_logarithmic(loss, max(positive) / min(positive))
    for values, colour, _ in lines:
        draw_line(loss, epochs, values, colour)
    label_ends(loss, epochs[-1], [(values[-1], colour, text) for values, colour, text in lines])
    if classifies:
        panel = panels[1]
        style_panel(panel, "test accuracy, %", epochs)
        hundredths = [100 * value for value in accuracy]
        draw_line(panel, epochs, hundredths, TEST)
        low, high = panel.get_ylim()
        panel.set_ylim(low, min(high, 100.0) if max(hundredths) < 100 else 100.0 + 0.03 * (100.0 - low))
        label_ends(panel, epochs[-1], [(hundredths[-1], TEST, f"{hundredths[-1]:.2f} %")])
    return to_png(figure)


def describe_end(summary: dict[str, Any]) -> str:
    """Say in a few words how a run ended."""
    done = summary["epochs_done"]
    text = f"after {done:g} epoch{'s' * (done != 1)}"
    if summary["stopped"]:
        text = f"stopped after {done:g} of {summary['epochs']} epochs"
    optimizer = f"{summary['optimizer']}, learning rate {summary['learning_rate']:g} ({summary['schedule']})"
    return f"{text}, batch size {summary['batch_size']}, {optimizer}, {duration(summary['train_seconds'])} of training"


def draw_misclassified(
    images: Array, true: Array, predicted: Array, confidence: Array, class_names: Sequence[str], title: str
) -> bytes:
    """Draw up to 50 images, each with its true class, the predicted one and the network's confidence in it.

    Parameters
    ----------
    images : ndarray (n, height, width) or (n, height, width, channels)
        uint8 or float; the most telling first.
    true, predicted : ndarray of int (n,)
        Class indices.
    confidence : ndarray (n,)
        The probability that the network gave to its prediction.
    class_names : sequence of str
        What the indices stand for.
    title : str
        The headline.

    Returns
    -------
    bytes
        A PNG.
    """
    n = min(len(images), 50)
    columns = min(n, 10)
    rows = -(-n // columns)
    long_names = max(len(name) for name in class_names) > 2
    cell, side, above, top = 1.05, 0.86, 0.36 if long_names else 0.24, 0.72  # inches
    width, height = max(6.0, columns * cell + 0.1), top + rows * (side + above + 0.12)
    figure = new_figure(width, height)
    headline(figure, title, "the most confident mistakes first: true \u2192 predicted (probability)")
    # One axes for all, in inches from the top left: fifty axes and their layout would take a second.
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    for i in range(n):
        x, y = 0.05 + (i % columns) * cell, top + (i // columns) * (side + above + 0.12)
        before, after = shorten(class_names[true[i]]), shorten(class_names[predicted[i]])
        text = f"{before}{chr(10) if long_names else ' '}\u2192 {after} ({confidence[i]:.2f})"
        axes.text(
            x + cell / 2, y + above - 0.04, text, fontsize=6.5 if long_names else 8.5, color="#222222", ha="center",
            va="bottom", parse_math=False,
        )  # fmt: skip
        image = displayed(images[i])
        scale = side / max(image.shape[:2])
        half_width, half_height = scale * image.shape[1] / 2, scale * image.shape[0] / 2
        x, y = x + cell / 2, y + above + side / 2
        extent = (x - half_width, x + half_width, y + half_height, y - half_height)
        axes.imshow(image, cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest", extent=extent, aspect="auto")
    axes.set(xlim=(0.0, width), ylim=(height, 0.0))
    return to_png(figure)


def displayed(image: Array) -> Array:
    """Turn an image into what Matplotlib shows: grey levels or red, green and blue, from 0 to 1."""
    shown = image.astype(np.float64)
    if shown.ndim == 3 and shown.shape[2] != 3:
        shown = shown.mean(axis=2)
    if image.dtype == np.uint8:
        return shown / 255
    stretched: Array = (shown - shown.min()) / max(float(np.ptp(shown)), 1e-12)
    return stretched


def clipped(text: str, n: int) -> str:
    """Leave out the middle of a text of more than `n` characters."""
    return text if len(text) <= n else f"{text[: n // 2]}\u2026{text[-(n // 2 - 1) :]}"


def shorten(name: str) -> str:
    """Cut a class name to ten characters."""
    return name if len(name) <= 10 else name[:9] + "\u2026"


def epochs_bar(total: int, unit: str) -> Any:
    """Begin an estimator's bar, of so many epochs or iterations."""
    from tqdm import tqdm

    shape = "{l_bar}{bar}| {n:.1f}/{total} {unit} [{elapsed}<{remaining}{postfix}]"
    return tqdm(total=total, unit=unit, bar_format=shape)


def print_line(text: str) -> None:
    """Print a line of an estimator with `verbose`."""
    print(text)


def new_figure(width: float, height: float) -> Figure:
    """Make a figure that pyplot does not know of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure) -> bytes:
    """Render a figure."""
    file = io.BytesIO()
    with drawing_boxes():
        figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


@contextmanager
def drawing_boxes() -> Iterator[None]:
    """Let a name in a script that the font lacks be drawn as boxes, without a warning for each letter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def headline(figure: Figure, title: str, subtitle: str) -> None:
    """Put a title and a smaller line under it at the top left."""
    top = 1.0 - 0.13 / figure.get_figheight()
    under = 1.0 - 0.39 / figure.get_figheight()
    left = 0.12 / figure.get_figwidth()
    style: dict[str, Any] = {"ha": "left", "va": "top", "parse_math": False, "in_layout": False}
    figure.text(left, top, title, fontsize=12, weight="bold", color="#222222", **style)
    figure.text(left, under, subtitle, fontsize=8.5, color="#666666", **style)


def style_panel(axes: Axes, title: str, epochs: Sequence[float]) -> None:
    """Leave of the axes what serves to read the curve."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=10, color="#444444")
    axes.set_xlabel("epoch", fontsize=9, color="#444444")
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=8.5, labelcolor="#444444")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#bbbbbb")
    first, last = epochs[0], epochs[-1]
    span = last - first
    # The labels of the curves' ends stand to the right, inside the panel, where there are no epochs any more.
    axes.set_xlim((first - 0.03 * span, last + 0.27 * span) if span else (0.0, 2.0 * first))
    ticks = MaxNLocator(integer=True, nbins=7, steps=[1, 2, 5, 10]).tick_values(first, last)
    axes.set_xticks([tick for tick in ticks if first <= tick <= last] if span else [first])


def draw_line(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str) -> None:
    """Draw one curve, its points where they are few and its end always."""
    axes.plot(x, y, color=colour, linewidth=1.8, marker="o" if len(x) <= 20 else None, markersize=3.5)
    axes.plot(x[-1:], y[-1:], color=colour, marker="o", markersize=6, linestyle="none", clip_on=False, zorder=3)


def label_ends(axes: Axes, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write the text of each ``(value, colour, text)`` beside its point at `x`, pushed apart where they would touch."""
    to_points = 72.0 / DPI
    if len(ends) > 1:
        # Only when it has been drawn is it settled how high a value stands.
        with drawing_boxes():
            axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    heights = [axes.transData.transform((x, value))[1] * to_points for value, _, _ in ends]
    middle, gap = float(np.mean(heights)), 13.0
    for (value, colour, text), height in zip(ends, heights, strict=True):
        shift = 0.0
        if len(ends) == 2 and abs(heights[0] - heights[1]) < gap:
            upper = height > middle or (heights[0] == heights[1] and text == ends[0][2])
            shift = middle + (gap / 2 if upper else -gap / 2) - height
        axes.annotate(
            text, (x, value), xytext=(8, shift), textcoords="offset points", va="center", fontsize=9.5, weight="bold",
            color=colour, annotation_clip=False, parse_math=False,
        )  # fmt: skip


def hint_learning_rate(axes: Axes, epochs: Sequence[float], rates: Sequence[float]) -> None:
    """Shade the course of the learning rate in the background, without an axis of its own."""
    behind = axes.twinx()
    behind.set_zorder(axes.get_zorder() - 1)
    axes.patch.set_visible(False)
    behind.axis("off")
    behind.fill_between(epochs, rates, color="#f1f1f1", linewidth=0)
    behind.set_ylim(0.0, 3.2 * max(rates))
    peak = int(np.argmax(rates))
    behind.annotate(
        "learning rate", (epochs[peak], rates[peak]), xytext=(0, 3), textcoords="offset points", fontsize=7.5,
        color=QUIET, ha="left" if peak == 0 else "center",
    )  # fmt: skip


def set_logarithmic(axes: Axes, ratio: float) -> None:
    """Make the vertical axis logarithmic, with ticks at 1, 2 and 5 where it spans few powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 300 else (1.0,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
