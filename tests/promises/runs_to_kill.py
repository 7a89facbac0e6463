"""Runs that `test_resume` kills. A process imports everything once, and forks a child for each start of a run.

A child is a process like any other when it is killed; forking it takes milliseconds, where starting Python and loading
the kernels takes a second. It says where it is in memory that it shares with its parent.

``python runs_to_kill.py PLAN`` reads a plan, as `Plan` has it, and prints what happened, both as JSON.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastmlp import MLP, SGD, Adam, AdamW, RMSprop, checkpoint, resuming
from fastmlp.checkpoint import SavedNetwork

STARTING, STEPPING, WRITING, BETWEEN = range(4)
WHERE = {
    STARTING: "before the first step",
    STEPPING: "within the steps",
    WRITING: "while a checkpoint is written",
    BETWEEN: "between steps and checkpoint",
}

OPTIMIZERS = {
    "sgd": SGD(0.01, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "adam": Adam(0.001, weight_decay=1e-4),
    "adamw": AdamW(0.001),
    "rmsprop": RMSprop(0.0005),
}
DTYPES = ("float32", "float64")

RNG = np.random.default_rng(0)
N = 3000
X, Y = RNG.normal(size=(N, 40)), RNG.integers(10, size=N)
WEIGHTS = RNG.uniform(0.5, 2.0, size=N)
RECIPES: list[dict[str, Any]] = [
    {"epochs": 8, "schedule": "one_cycle", "dropout": 0.2, "validation_data": (X[:96], Y[:96])},
    {"epochs": 8, "average": 0.9, "l2": 1e-3, "sample_weight": WEIGHTS},
    {"epochs": 8, "clip_norm": 1.0, "label_smoothing": 0.1, "schedule": "cosine"},
    {"epochs": 120, "few": True, "average": 0.99, "dropout": [0.1, 0.0]},  # Several short epochs in one call.
]


@dataclass(frozen=True)
class Plan:
    """What is to be done: a case, and how often its run is to be stopped."""

    engine: str
    optimizer: str
    dtype: str
    threads: int
    recipe: int
    stops: int
    seed: int
    signal: int = 9  # SIGKILL, of which Windows has not even the name


class Run:
    """One case: how it begins, in this process or in a child, and how it ends when it is never stopped."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.arguments = {"batch_size": 32, "optimizer": OPTIMIZERS[plan.optimizer], "threads": plan.threads}
        self.arguments |= RECIPES[plan.recipe]
        self.n = 96 if self.arguments.pop("few", False) else N if plan.engine == "numba" else N // 6
        if "sample_weight" in self.arguments:
            self.arguments["sample_weight"] = WEIGHTS[: self.n]

    def network(self) -> MLP:
        # So wide that writing a checkpoint takes a while.
        return MLP([40, 192, 96, 10], dtype=self.plan.dtype, seed=self.plan.seed, engine=self.plan.engine)

    def warm_up(self) -> None:
        """Load the kernels, in one thread, so that children find them loaded and no thread is there when they fork."""
        arguments = {**self.arguments, "threads": 1, "epochs": 1}
        if "sample_weight" in arguments:
            arguments["sample_weight"] = WEIGHTS[:64]
        self.network().fit(X[:64], Y[:64], **arguments)

    def fit(self, net: MLP, **more: Any) -> None:
        net.fit(X[: self.n], Y[: self.n], **self.arguments, **more)

    def write_uninterrupted(self, path: Path) -> None:
        net = self.network()
        state = net.training_state(self.arguments["optimizer"])
        self.fit(net, state=state)
        net.save(path, state)

    def start(self, folder: Path, shared: mmap.mmap, every: float) -> int:
        """Fork a child that begins the run or goes on with it; give its process's number."""
        shared[:8] = bytes(8)
        child = os.fork()
        if child:
            return child
        try:
            self.watch(shared)
            self.fit(self.network(), checkpoint=folder, checkpoint_every=every, resume=True)
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(130 if signal.getsignal(signal.SIGINT) is signal.default_int_handler else 1)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def watch(self, shared: mmap.mmap) -> None:
        """Make this process say where it is."""

        def saying(where: int, do: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any, **named: Any) -> Any:
                shared[:8] = struct.pack("q", where)
                try:
                    return do(*arguments, **named)
                finally:
                    shared[:8] = struct.pack("q", BETWEEN)

            return wrapped

        kind = type(self.network()._engine)
        kind.train_steps = saying(STEPPING, kind.train_steps)
        checkpoint.write_atomically = saying(WRITING, checkpoint.write_atomically)


def where(shared: mmap.mmap) -> int:
    return int(struct.unpack("q", shared[:8])[0])


def wait_until(child: int, shared: mmap.mmap, is_there: Callable[[int], bool]) -> int | None:
    """Wait until the child is at a place; give its exit status if it ends before."""
    while not is_there(where(shared)):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.0002)
    return None


def contents(path: Path) -> dict[str, Any]:
    """All that a checkpoint holds but for the times, arrays as bytes."""
    saved = SavedNetwork(path)
    state = saved.state
    assert state is not None
    arrays = [*saved.weights, *saved.biases, *state.slots, *([] if state.unaveraged is None else [state.unaveraged])]
    lists = state.history.to_dict()
    assert len(lists.pop("seconds")) == state.epoch
    return {
        "arrays": [array.tobytes() for array in arrays], "rng": state.rng.bit_generator.state, "history": lists,
        "position": (state.epoch, state.batch, state.step, state.loss_sum, state.dropout_seed), "run": state.run,
        "spec": saved.spec, "seed": saved.seed, "fits": saved.fits,
    }  # fmt: skip


def kill_and_go_on(plan: Plan, folder: Path, shared: mmap.mmap) -> dict[str, Any]:
    """Stop a run at random moments, go on with it until it is over, and hold its end against that of one never stopped.

    If it is over before it was stopped often enough, another one is begun.
    """
    run, rng = Run(plan), random.Random(repr(plan))
    run.warm_up()
    started = time.perf_counter()
    run.write_uninterrupted(folder / "never_stopped")
    seconds = time.perf_counter() - started
    expected = contents(folder / "never_stopped")
    # SIGKILL: so many checkpoints that it often hits one. Otherwise none but those that the signal asks for.
    is_kill = plan.signal == Plan.signal
    resuming.WRITING_SHARE = 1.0 if is_kill else 0.05
    found: dict[str, Any] = {"stops": Counter(), "wrong": [], "resumed within an epoch": 0, "left half a file": 0,
                             "before the end": 0}  # fmt: skip
    runs, stops = 0, 0
    while stops < plan.stops:
        place = folder / f"run{runs}"
        runs += 1
        is_over = False
        while not is_over:
            child = run.start(place, shared, every=0.15 if is_kill else 1e9)
            status = None
            if stops < plan.stops:
                # Every second kill is to fall into the writing of a checkpoint, the others anywhere.
                in_writing = is_kill and stops % 2 == 1
                status = wait_until(child, shared, lambda place: place != STARTING)
                if status is None:
                    time.sleep(rng.uniform(0.0, 0.3 * seconds))
                    if in_writing:
                        status = wait_until(child, shared, lambda place: place == WRITING)
                        time.sleep(rng.uniform(0.0, 0.003))
                if status is None:
                    with suppress(ProcessLookupError):
                        os.kill(child, plan.signal)
            if status is None:
                _, status = os.waitpid(child, 0)
            is_over = status == 0
            if (os.WIFSIGNALED(status) and os.WTERMSIG(status) == plan.signal) or os.WEXITSTATUS(status) == 130:
                stops += 1
                found["stops"][WHERE[where(shared)]] += 1
                found["left half a file"] += len(list(place.glob(".*")))
                path = place / resuming.CHECKPOINT
                if path.exists():
                    epoch, batch, *_ = contents(path)["position"]
                    found["resumed within an epoch"] += batch > 0
                    found["before the end"] += epoch < run.arguments["epochs"]
                elif not is_kill:
                    found["wrong"].append(f"{place.name}: no checkpoint")
            elif not is_over:
                found["wrong"].append(f"{place.name}: exit status {status}")
                break
        if is_over:
            actual = contents(place / resuming.CHECKPOINT)
            found["wrong"] += [f"{place.name}: {name}" for name in expected if actual[name] != expected[name]]
            if os.listdir(place) != [resuming.CHECKPOINT]:
                found["wrong"].append(f"{place.name}: left {os.listdir(place)}")
        if found["wrong"]:
            break
    return found


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Shells start background jobs without.
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    for entry in json.load(sys.stdin):
        with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
            print(json.dumps(kill_and_go_on(Plan(**entry), Path(folder), shared)), flush=True)


if __name__ == "__main__":
    main()
