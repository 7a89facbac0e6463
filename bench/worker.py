"""One contender in a process of its own, which `compare.py` starts and tells over a pipe, line by line, what to do."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from processes import stay_on

if TYPE_CHECKING:
    from contenders import Contender


def serve(name: str, quick: bool, answer: Callable[..., None]) -> None:
    """Do what each line of standard input says: the name of a workload, to prepare for it, or "turn"."""
    from contenders import CONTENDERS
    from workloads import find_workload, load_samples, score

    for line in sys.stdin:
        if line != "turn\n":
            work = find_workload(line.strip(), quick)
            samples = load_samples(work)
            contender = CONTENDERS[name](work, samples)
            started = time.perf_counter()
            take_turn(contender)
            answer(first_seconds=time.perf_counter() - started)
        else:
            started, others = time.perf_counter(), seconds_of_others()
            seconds, loss = take_turn(contender)
            others, wall = seconds_of_others() - others, time.perf_counter() - started
            predictions = contender.predict(samples.X_test)
            answer(
                seconds=seconds, loss=loss, score=score(work, predictions, samples.y_test), wall=wall, others=others,
            )  # fmt: skip


def take_turn(contender: Contender) -> tuple[float, float]:
    """Give the seconds of an epoch or a call, and the loss of the last epoch or step."""
    work = contender.work
    if work.kind == "predict":
        X = contender.samples.X_test[: work.rows]
        started = time.perf_counter()
        for _ in range(work.calls):
            contender.predict(X)
        return (time.perf_counter() - started) / work.calls, 0.0
    contender.restart()
    if work.kind == "step":
        samples, size = contender.samples, work.batch_size
        firsts = range(0, len(samples.X) - size + 1, size)
        batches = [(samples.X[first : first + size], samples.y[first : first + size]) for first in firsts]
        started = time.perf_counter()
        for i in range(work.calls):
            loss = contender.learn(*batches[i % len(batches)])
        return (time.perf_counter() - started) / work.calls, loss
    started = time.perf_counter()
    loss = contender.train()
    return (time.perf_counter() - started) / work.epochs, loss


def seconds_of_others() -> float:
    """Count the CPU seconds that other processes have had on our CPUs, since some moment, divided by our CPUs."""
    try:
        cpus = os.sched_getaffinity(0)
        with open("/proc/stat") as file:
            fields = [line.split() for line in file if line.startswith("cpu")]
    except (AttributeError, OSError):
        return 0.0  # Not Linux.
    busy = 0
    for cpu, user, nice, system, _idle, _iowait, irq, softirq, steal, *_ in fields:
        if cpu[3:] and int(cpu[3:]) in cpus:
            busy += sum(map(int, (user, nice, system, irq, softirq, steal)))
    return (busy / os.sysconf("SC_CLK_TCK") - time.process_time()) / len(cpus)


def run_once(name: str, work_name: str, seed: int, answer: Callable[..., None]) -> None:
    """Train from nothing until the accuracy is reached."""
    from contenders import CONTENDERS
    from workloads import TARGET_ACCURACY, find_workload, load_samples

    work = find_workload(work_name)
    accuracy, epochs = CONTENDERS[name](work, load_samples(work), seed).train_until(TARGET_ACCURACY)
    answer(score=accuracy, epochs=epochs)


def main() -> None:
    """Take a contender, its CPUs, and "full", "quick" or, for a whole process, a workload and a seed as arguments."""
    name, cpus, *how = sys.argv[1:]
    stay_on(cpus)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print must not come between the answers.

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    if len(how) == 1:
        serve(name, how == ["quick"], answer)
    else:
        run_once(name, how[0], int(how[1]), answer)


if __name__ == "__main__":
    main()
