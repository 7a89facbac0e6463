"""The race: fastmlp against NumPy, scikit-learn, PyTorch and JAX, whichever is installed.

    python bench/compare.py --work mnist,wide --threads 1,2 --peers numpy,jax --rounds 7

Each contender is a process of its own, bound to as many CPUs as it may use threads. fastmlp and a peer take turns,
never both at once, so that both meet the same machine; a figure is the ratio of the peer's time to fastmlp's, of the
minima and of the medians. Every turn begins with the same weights, so every turn is the same work, and the losses and
scores show that all learn the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import estimators
from contenders import CONTENDERS
from processes import SETTLE_SECONDS, Conditions, ask, in_turn, start
from results import Result, caption, markdown, report, write_readme
from workloads import WORKLOADS, Workload

SWEEP_SIZES = (1, 4, 16, 64, 256, 1024, 4096)
QUICK_SWEEP_SIZES = (1, 16, 256, 4096)

WITHOUT_MEANING = {
    "estimators": ("sweep", "peers", "quick", "json", "chart", "write_readme"),
    "sweep": ("work", "peers", "json", "markdown", "write_readme"),
}
"""The options that say nothing to these races."""


# --- Processes --------------------------------------------------------------------------------------------------------


class Worker:
    """One contender in its process, which is told what to do over a pipe."""

    def __init__(self, contender: str, conditions: Conditions) -> None:
        self.process = start("worker.py", contender, conditions, "quick" if conditions.quick else "full")

    def prepare(self, work: str) -> dict[str, Any]:
        """Let it prepare for a workload, and take a first turn, which compiles and is not counted."""
        return ask(self.process, work)

    def turn(self) -> dict[str, Any]:
        """Let it take a turn."""
        time.sleep(SETTLE_SECONDS)
        return ask(self.process, "turn")

    def close(self) -> None:
        """End it."""
        self.process.communicate()


# --- Races ------------------------------------------------------------------------------------------------------------


def race(work: Workload, peers: list[str], conditions: Conditions) -> list[Result]:
    """Let fastmlp and each peer take turns."""
    peers = [peer for peer in peers if CONTENDERS[peer].supports(work)]
    if work.kind == "start":
        return race_processes(work, peers, conditions)
    workers: dict[str, Worker] = {}
    first_turns = []
    for name in ("fastmlp", *peers):
        worker = Worker(name, conditions)
        try:
            first_turns.append(f"{name} {worker.prepare(work.name)['first_seconds']:.2f} s")
            workers[name] = worker
        except RuntimeError as error:
            if name == "fastmlp":
                raise
            print(f"{error}, and is left out", file=sys.stderr)
    print(f"{work.title}: first turns, which compile: {', '.join(first_turns)}", flush=True)
    results = [Result(work.name, conditions.threads, peer) for peer in peers if peer in workers]
    for number in range(conditions.rounds):
        for result in results:
            turns = {name: workers[name].turn() for name in in_turn(("fastmlp", result.peer), number)}
            result.add(turns["fastmlp"], turns[result.peer])
    for worker in workers.values():
        worker.close()
    return results


def race_processes(work: Workload, peers: list[str], conditions: Conditions) -> list[Result]:
    """Race whole processes, from start to accuracy; the n-th round has seed n."""
    for contender in ("fastmlp", *peers):
        run_process(contender, work, conditions, seed=0)  # Fills the caches.
    results = [Result(work.name, conditions.threads, peer) for peer in peers]
    for seed in range(conditions.rounds):
        for result in results:
            order = in_turn(("fastmlp", result.peer), seed)
            turns = {name: run_process(name, work, conditions, seed) for name in order}
            result.add(turns["fastmlp"], turns[result.peer])
    return results


def run_process(contender: str, work: Workload, conditions: Conditions, seed: int) -> dict[str, Any]:
    """Time one process."""
    started = time.perf_counter()
    process = start("worker.py", contender, conditions, work.name, str(seed))
    output, _ = process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"{contender} ended with status {process.returncode}")
    return {**json.loads(output), "seconds": seconds}


def sweep(sizes: tuple[int, ...], conditions: Conditions) -> list[list[float]]:
    """Race NumPy over widths (rows) and batch sizes (columns); give the ratios of the minima."""
    workers = {name: Worker(name, conditions) for name in ("fastmlp", "numpy")}
    table = []
    for width in sizes:
        row = []
        for batch_size in sizes:
            result = Result(f"sweep-{width}-{batch_size}", conditions.threads, "numpy")
            for worker in workers.values():
                worker.prepare(result.work)
            for number in range(conditions.rounds):
                turns = {name: workers[name].turn() for name in in_turn(("fastmlp", "numpy"), number)}
                result.add(turns["fastmlp"], turns["numpy"])
            print(report(result), flush=True)
            row.append(result.ratio)
        table.append(row)
    for worker in workers.values():
        worker.close()
    return table


# --- The command line -------------------------------------------------------------------------------------------------


def main() -> None:
    """Race and report."""
    options = parse_options()
    if options.estimators:
        conditions = [Conditions(n, options.rounds, options.isa) for n in options.threads]
        estimators.main(options.work, conditions, options.markdown)
        return
    measured = caption(options.peers, options.isa)
    print(f"{measured}; load {os.getloadavg()[0]:.1f}", flush=True)
    conditions = [Conditions(n, options.rounds, options.isa, options.quick) for n in options.threads]
    if options.sweep:
        sizes = QUICK_SWEEP_SIZES if options.quick else SWEEP_SIZES
        tables = {each.threads: sweep(sizes, each) for each in conditions}
        if options.chart:
            from charts import draw_sweep

            draw_sweep(tables, sizes, options.chart, measured)
        return
    results: list[Result] = []
    for name in options.work:
        for each in conditions:
            for result in race(WORKLOADS[name], options.peers, each):
                print(report(result), flush=True)
                results.append(result)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results]))
    if options.markdown:
        print(f"\n{markdown(results)}\n\n{measured}")
    if options.write_readme:
        write_readme(results, measured)
    if options.chart:
        from charts import draw_ratios

        draw_ratios(results, options.chart, measured)


def parse_options() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    peers = [name for name in CONTENDERS if name != "fastmlp"]
    parser.add_argument("--work", help=f"workloads (default: all): {','.join(WORKLOADS)}")
    parser.add_argument("--threads", default="1", help="thread counts (default: 1)")
    parser.add_argument("--peers", help=f"peers (default: all): {','.join(peers)}")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: 5)")
    parser.add_argument("--quick", action="store_true", help="shorter turns")
    parser.add_argument("--isa", choices=["avx2"], help="keep all contenders to an instruction set")
    parser.add_argument("--markdown", action="store_true", help="print the table")
    parser.add_argument("--write-readme", action="store_true", help="write the table into README.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw times")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the ratios")
    parser.add_argument(
        "--sweep", action="store_true", help="race NumPy over widths and batch sizes, instead of --work"
    )
    parser.add_argument(
        "--estimators",
        action="store_true",
        help=f"race scikit-learn's estimators instead; --work is then of {','.join(estimators.TASKS)}",
    )
    options = parser.parse_args()
    for kind, names in WITHOUT_MEANING.items():
        given = [name for name in names if getattr(options, name)]
        if getattr(options, kind) and given:
            parser.error(f"--{given[0].replace('_', '-')} must be left out with --{kind}")
    works = list(estimators.TASKS if options.estimators else WORKLOADS)
    options.work, options.peers = options.work or ",".join(works), options.peers or ",".join(peers)
    for what, known in (("work", works), ("peers", peers)):
        names = getattr(options, what).split(",")
        if unknown := [name for name in names if name not in known]:
            parser.error(f"{what} must be of {', '.join(known)}, got {unknown[0]}")
        setattr(options, what, names)
    options.threads = [int(n) for n in options.threads.split(",")]
    options.peers = ["numpy"] if options.sweep else [peer for peer in options.peers if is_installed(peer)]
    return options


def is_installed(peer: str) -> bool:
    """Whether the peer's packages are."""
    try:
        return all(version(package) for package in CONTENDERS[peer].packages)
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
