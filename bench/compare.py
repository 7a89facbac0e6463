"""The race: fastmlp against NumPy, scikit-learn, PyTorch and JAX, whichever is installed.

    python bench/compare.py --work mnist,wide --threads 1,2 --peers numpy,jax --rounds 7

Each contender is a process of its own, bound to as many CPUs as it may use threads. fastmlp and a peer take turns, never
both at once, so that both meet the same machine; a figure is the ratio of the peer's time to fastmlp's, of the minima and
of the medians. Every turn begins with the same weights, so every turn is the same work, and the losses show that all
learn the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from contenders import CONTENDERS
from workloads import WORKLOADS, Workload, find_workload

HERE = Path(__file__).resolve().parent
SETTLE_SECONDS = 0.05
"""Pause before each turn: threads of the other contender may spin for a while after its last one."""


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

    @property
    def ratio(self) -> float:
        """Of the minima: how many times as long as fastmlp the peer takes."""
        return min(self.theirs) / min(self.ours)

    @property
    def median_ratio(self) -> float:
        """Of the medians."""
        return statistics.median(self.theirs) / statistics.median(self.ours)


# --- Processes --------------------------------------------------------------------------------------------------------


class Worker:
    """One contender in its process, ready for its turns."""

    def __init__(self, contender: str, work: Workload, threads: int, isa: str | None, quick: bool) -> None:
        self.contender = contender
        self.process = start_process(contender, work, threads, isa, "quick" if quick else "full")
        self.versions: dict[str, str] = {}

    def wait_until_ready(self) -> None:
        """Wait for the first turn, which compiles and is not counted."""
        hello = self.read()
        self.versions, self.first_seconds = hello["versions"], hello["first_seconds"]

    def turn(self) -> dict[str, Any]:
        """Let it take a turn."""
        time.sleep(SETTLE_SECONDS)
        assert self.process.stdin is not None
        self.process.stdin.write("turn\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """Read an answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.contender} ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def start_process(contender: str, work: Workload, threads: int, isa: str | None, how: str) -> subprocess.Popen[str]:
    """Start `contenders.py` with the threads pinned before anything is imported."""
    cpus = ",".join(map(str, chosen_cpus(threads)))
    command = [sys.executable, str(HERE / "contenders.py"), contender, work.name, cpus, how]
    environment = {**os.environ, **thread_settings(threads), **isa_settings(isa)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def chosen_cpus(threads: int) -> list[int]:
    """Choose the last CPUs: the first ones serve most interrupts."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(threads))
    return sorted(os.sched_getaffinity(0))[-threads:]


def thread_settings(threads: int) -> dict[str, str]:
    """Environment that pins every library's pool."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


HASWELL = (
    "+64bit,+avx,+avx2,+bmi,+bmi2,+cmov,+cx16,+cx8,+f16c,+fma,+fsgsbase,+fxsr,+invpcid,+lzcnt,+mmx,+movbe,+pclmul,"
    "+popcnt,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave,+xsaveopt"
)


def isa_settings(isa: str | None) -> dict[str, str]:
    """Environment that keeps every library to an instruction set."""
    if isa is None:
        return {}
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    beyond = [f for f in __cpu_dispatch__ if (f.startswith("AVX512") or f == "X86_V4") and __cpu_features__.get(f)]
    return {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": HASWELL,
        "NPY_DISABLE_CPU_FEATURES": " ".join(beyond),
        "OPENBLAS_CORETYPE": "Haswell",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }


# --- Races ------------------------------------------------------------------------------------------------------------


def race(work: Workload, threads: int, peers: list[str], rounds: int, isa: str | None, quick: bool) -> list[Result]:
    """Let fastmlp and each peer take turns, `rounds` times."""
    peers = [peer for peer in peers if CONTENDERS[peer].supports(work)]
    if work.kind == "start":
        return race_processes(work, threads, peers, rounds, isa)
    workers: dict[str, Worker] = {}
    for name in ["fastmlp", *peers]:
        workers[name] = Worker(name, work, threads, isa, quick)
        try:
            workers[name].wait_until_ready()  # One after the other: their first turns must not disturb each other.
        except RuntimeError as error:
            print(f"  {error}: left out", file=sys.stderr)
            del workers[name]
    results = [Result(work.name, threads, peer) for peer in peers if peer in workers]
    for _ in range(rounds):
        for result in results:
            result.our_answer, result.their_answer = workers["fastmlp"].turn(), workers[result.peer].turn()
            result.ours.append(result.our_answer["seconds"])
            result.theirs.append(result.their_answer["seconds"])
    for worker in workers.values():
        VERSIONS.update(worker.versions)
        worker.close()
    return results


def race_processes(work: Workload, threads: int, peers: list[str], rounds: int, isa: str | None) -> list[Result]:
    """Race whole processes, from start to accuracy; round n has seed n."""
    run_process("fastmlp", work, threads, isa, seed=0)  # Fills fastmlp's cache and the system's.
    results = [Result(work.name, threads, peer) for peer in peers]
    for seed in range(rounds):
        for result in results:
            result.our_answer = run_process("fastmlp", work, threads, isa, seed)
            result.their_answer = run_process(result.peer, work, threads, isa, seed)
            result.ours.append(result.our_answer["seconds"])
            result.theirs.append(result.their_answer["seconds"])
    return results


def run_process(contender: str, work: Workload, threads: int, isa: str | None, seed: int) -> dict[str, Any]:
    """Time one process."""
    started = time.perf_counter()
    process = start_process(contender, work, threads, isa, str(seed))
    output, _ = process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"{contender} ended with status {process.returncode}")
    return {**json.loads(output), "seconds": seconds}


VERSIONS: dict[str, str] = {}
"""Of the libraries that have raced."""


# --- What is shown ----------------------------------------------------------------------------------------------------


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


def readable(seconds: float) -> str:
    """Seconds in a unit that suits them."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def report(result: Result) -> str:
    """One line on one race."""
    ours, theirs = result.our_answer, result.their_answer
    return (
        f"{result.work:11} {result.threads} thread{'s' if result.threads > 1 else ' '} {result.peer:14}"
        f" ratio of minima {result.ratio:7.2f}, of medians {result.median_ratio:7.2f}"
        f"   {readable(min(result.ours)):>8} : {readable(min(result.theirs)):<8}"
        f"  loss {ours['loss']:.4f} : {theirs['loss']:.4f}  score {ours['score']:.4f} : {theirs['score']:.4f}"
    )


def markdown(results: list[Result]) -> str:
    """The table: a row for each workload and thread count, a column for each peer."""
    peers = list(dict.fromkeys(result.peer for result in results))
    rows: dict[tuple[str, int], dict[str, Result]] = {}
    for result in results:
        rows.setdefault((result.work, result.threads), {})[result.peer] = result
    lines = [
        f"| work | threads | fastmlp | {' | '.join(TITLES[peer] for peer in peers)} |",
        f"|---|---|---|{'---|' * len(peers)}",
    ]
    for (name, threads), row in rows.items():
        ours = min(min(result.ours) for result in row.values())
        cells = [f"{row[peer].ratio:.1f}×" if peer in row else "" for peer in peers]
        lines.append(f"| {WORKLOADS[name].title} | {threads} | {readable(ours)} | {' | '.join(cells)} |")
    return "\n".join(lines)


TITLES = {
    "numpy": "NumPy by hand",
    "numpy-engine": "NumPy engine",
    "sklearn": "scikit-learn",
    "torch": "PyTorch",
    "torch-compile": "PyTorch compiled",
    "jax": "JAX",
}


# --- The command line -------------------------------------------------------------------------------------------------


def main() -> None:
    """Race and report."""
    options = parse_options()
    print(f"{machine()}; Python {platform.python_version()}; instruction set {options.isa or 'all'}", flush=True)
    results: list[Result] = []
    for name in options.work:
        for threads in options.threads:
            for result in race(find_workload(name), threads, options.peers, options.rounds, options.isa, options.quick):
                print(report(result), flush=True)
                results.append(result)
    print(", ".join(f"{name} {version}" for name, version in VERSIONS.items()))
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results]))
    if options.markdown:
        print(markdown(results))


def parse_options() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    peers = [name for name in CONTENDERS if name != "fastmlp"]
    parser.add_argument("--work", default=",".join(WORKLOADS), help="workloads: %(default)s")
    parser.add_argument("--threads", default="1", help="thread counts: 1,2")
    parser.add_argument("--peers", default=",".join(peers), help="of %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--quick", action="store_true", help="shorter turns")
    parser.add_argument("--isa", choices=["avx2"], help="keep all to an instruction set")
    parser.add_argument("--markdown", action="store_true", help="print the table")
    parser.add_argument("--json", type=Path, help="write the raw times")
    options = parser.parse_args()
    for what, known in (("work", WORKLOADS), ("peers", CONTENDERS)):
        names = getattr(options, what).split(",")
        if unknown := [name for name in names if name not in known]:
            parser.error(f"{what} must be of {', '.join(known)}, got {unknown[0]}")
        setattr(options, what, names)
    options.threads = [int(n) for n in options.threads.split(",")]
    options.peers = [peer for peer in options.peers if installed(peer)]
    return options


def installed(peer: str) -> bool:
    """Whether the peer's library can be imported."""
    return all(importlib.util.find_spec(package) is not None for package in CONTENDERS[peer].packages)


if __name__ == "__main__":
    main()
