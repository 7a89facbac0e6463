"""What comes of a race, and how it is written: lines, the README's table, the words on the machine."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import textwrap
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contenders import CONTENDERS
from workloads import WORKLOADS

README = Path(__file__).resolve().parent.parent / "README.md"
README_MARKS = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"


@dataclass
class Result:
    """What came of fastmlp against one peer at one workload. Times are in seconds an epoch, a call or a process."""

    work: str
    threads: int
    peer: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    our_answer: dict[str, Any] = field(default_factory=dict)
    their_answer: dict[str, Any] = field(default_factory=dict)
    wall: float = 0.0
    others: float = 0.0

    def add(self, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        """Enter a round."""
        self.our_answer, self.their_answer = ours, theirs
        self.ours.append(ours["seconds"])
        self.theirs.append(theirs["seconds"])
        self.wall += ours.get("wall", 0.0) + theirs.get("wall", 0.0)
        self.others += ours.get("others", 0.0) + theirs.get("others", 0.0)

    @property
    def ratio(self) -> float:
        """Of the minima: how many times as long as fastmlp the peer takes."""
        return min(self.theirs) / min(self.ours)

    @property
    def median_ratio(self) -> float:
        """Of the medians."""
        return statistics.median(self.theirs) / statistics.median(self.ours)

    @property
    def disturbance(self) -> float:
        """Part of the time on their CPUs that other processes had: above a few percent, figures mean little."""
        return self.others / self.wall if self.wall else 0.0


def machine() -> str:
    """Describe the machine in one line."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        flags = next(line for line in lines if line.startswith("flags"))
        model += " with AVX-512" if " avx512f" in flags else " with AVX2" if " avx2" in flags else ""
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} CPUs"


def caption(peers: list[str], isa: str | None) -> str:
    """Say when, where and with what the figures were measured."""
    packages = dict.fromkeys(package for peer in ("fastmlp", *peers) for package in CONTENDERS[peer].packages)
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    limit = ", all kept to AVX2" if isa else ""
    return f"{date.today()}, {machine()}{limit}; Python {platform.python_version()}, {versions}"


def readable(seconds: float) -> str:
    """Seconds in a unit that suits them."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def plain(ratio: float) -> str:
    """Write a ratio with as many digits as mean something."""
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def report(result: Result) -> str:
    """Put one race in a line."""
    ours, theirs = result.our_answer, result.their_answer
    learnt = "  ".join(
        f"{what} {ours[what]:.4g} : {theirs[what]:.4g}" for what in ("loss", "score", "epochs") if what in ours
    )
    disturbed = f"  DISTURBED: others had {result.disturbance:.0%} of the CPUs" if result.disturbance > 0.05 else ""
    return (
        f"  {result.work:14} {result.threads} thread{'s' if result.threads > 1 else ' '}  {result.peer:14}"
        f" minima {result.ratio:6.2f}  medians {result.median_ratio:6.2f}"
        f"  {readable(min(result.ours)):>8} : {readable(min(result.theirs)):8}"
        f"  {learnt}{disturbed}"
    )


def markdown(results: list[Result]) -> str:
    """Make the table: a row for each workload and thread count, a column for each peer."""
    peers = list(dict.fromkeys(result.peer for result in results))
    rows: dict[tuple[str, int], dict[str, Result]] = {}
    for result in results:
        rows.setdefault((result.work, result.threads), {})[result.peer] = result
    lines = [
        f"| work | threads | fastmlp | {' | '.join(CONTENDERS[peer].title for peer in peers)} |",
        f"|---|---|---|{'---|' * len(peers)}",
    ]
    for (name, threads), row in rows.items():
        ours = readable(min(min(result.ours) for result in row.values()))
        cells = [f"{plain(row[peer].ratio)}×" if peer in row else "" for peer in peers]
        lines.append(f"| {WORKLOADS[name].title} | {threads} | {ours} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_readme(results: list[Result], measured: str) -> None:
    """Put the table between the marks in README.md."""
    text = README.read_text()
    begin, end = README_MARKS
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"{README.name} must have {begin} and {end} once each")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    note = "fastmlp's own time, and how many times as long each peer takes for the same work: ratios of the minima of"
    note += f" interleaved turns. Measured {measured}."
    README.write_text(f"{before}{begin}\n\n{markdown(results)}\n\n{textwrap.fill(note, 120)}\n\n{end}{after}")
