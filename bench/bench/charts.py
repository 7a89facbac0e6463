"""The pictures of a race: bars of the ratios, and the map of a sweep."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from contenders import CONTENDERS
from matplotlib.ticker import LogLocator, NullLocator
from results import Result, plain
from workloads import WORKLOADS

COLOURS = {
    "numpy": "#4477aa", "numpy-engine": "#99bbdd", "sklearn": "#ee9944", "torch": "#cc4455", "torch-compile": "#e69aa5",
    "jax": "#44aa88",
}  # fmt: skip


def draw_ratios(results: list[Result], path: Path, caption: str) -> None:
    """Draw a bar for each race, workloads from top to bottom, thread counts side by side."""
    threads = sorted({result.threads for result in results})
    works = list(dict.fromkeys(result.work for result in results))
    peers = [peer for peer in COLOURS if any(result.peer == peer for result in results)]
    ratios = {(result.work, result.threads, result.peer): result.ratio for result in results}
    thickness = 0.8 / len(peers)
    figure, axes = plt.subplots(
        1, len(threads), figsize=(3.0 + 4.2 * len(threads), 1.6 + len(works) * (0.2 + 0.15 * len(peers))),
        sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, n in zip(axes[0], threads, strict=True):
        for i, peer in enumerate(peers):
            bars = [(y, ratios[work, n, peer]) for y, work in enumerate(works) if (work, n, peer) in ratios]
            places = [y - 0.4 + (i + 0.5) * thickness for y, _ in bars]
            drawn = axis.barh(
                places, [ratio - 1.0 for _, ratio in bars], 0.9 * thickness, left=1.0, color=COLOURS[peer],
                label=CONTENDERS[peer].title,
            )  # fmt: skip
            axis.bar_label(drawn, [plain(ratio) for _, ratio in bars], padding=3, fontsize=7, color="#444444")
        axis.axvline(1.0, color="#222222", linewidth=1.0)
        axis.set_xscale("log")
        axis.set_xlim(min(0.9, 0.8 * min(ratios.values())), 1.6 * max(ratios.values()))
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter("{x:g}×")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(f"{n} thread{'s' if n > 1 else ''}", fontsize=10)
        axis.set_xlabel("time of the peer / time of fastmlp", fontsize=9)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0][0].set_yticks(range(len(works)), [WORKLOADS[work].title for work in works], fontsize=9)
    axes[0][0].set_ylim(len(works) - 0.5, -0.5)
    figure.suptitle("How many times as long each takes", fontsize=12)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(peers), fontsize=9, frameon=False, title=caption,
        title_fontsize=7,
    )  # fmt: skip
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_sweep(ratios: dict[int, list[list[float]]], sizes: tuple[int, ...], path: Path, caption: str) -> None:
    """Draw a map for each thread count: NumPy's time by fastmlp's, over widths (upwards) and batch sizes."""
    figure, axes = plt.subplots(
        1, len(ratios), figsize=(1.2 + 5.0 * len(ratios), 5.2), squeeze=False, layout="constrained"
    )
    for axis, (threads, table) in zip(axes[0], ratios.items(), strict=True):
        axis.imshow(np.log2(table), cmap="RdYlGn", vmin=-3, vmax=3, origin="lower")
        for (y, x), ratio in np.ndenumerate(table):
            colour = "white" if abs(np.log2(ratio)) > 2.2 else "black"
            axis.text(x, y, plain(ratio), ha="center", va="center", fontsize=9, color=colour)
        axis.set_xticks(range(len(sizes)), [str(n) for n in sizes])
        axis.set_yticks(range(len(sizes)), [str(n) for n in sizes])
        axis.set_xlabel("batch size")
        axis.set_ylabel("width of the layers")
        axis.set_title(f"{threads} thread{'s' if threads > 1 else ''}", fontsize=10)
    figure.suptitle("Time of NumPy / time of fastmlp, networks width-width-10, dense inputs", fontsize=11)
    figure.supxlabel(caption, fontsize=7)
    figure.savefig(path, dpi=130)
    plt.close(figure)
