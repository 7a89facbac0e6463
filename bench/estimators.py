"""The race of the estimators: `MLPClassifier` and `MLPRegressor` against scikit-learn's, with the same parameters.

    python bench/compare.py --estimators --threads 1,2 --rounds 5

Each library is a process of its own, bound to as many CPUs as it may use threads; they take turns. A turn is one fit,
round n with ``random_state=n``, and its score on test samples; then calls of predict with one row.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from processes import SETTLE_SECONDS, Conditions, ask, in_turn, start, stay_on

LIBRARIES = ("fastmlp", "sklearn.neural_network")
PREDICT_CALLS = 300

TO_THE_END = {"tol": 0.0, "n_iter_no_change": np.inf}
"""All epochs are done, so that every turn is the same work."""

TASKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # name: (title, estimator, parameters). The rest are the defaults: one hidden layer of 100 ReLU units.
    "mnist": ("MNIST, 60,000 × 784, float32, 5 epochs", "MLPClassifier", {"max_iter": 5, **TO_THE_END}),
    "digits": ("load_digits, 1,400 × 64, defaults", "MLPClassifier", {}),
    "tabular": ("regression, 20,000 × 50, 20 epochs", "MLPRegressor", {"max_iter": 20, **TO_THE_END}),
    "sparse": ("CSR, 20,000 × 10,000 at 0.5 %, 2 epochs", "MLPClassifier", {"max_iter": 2, **TO_THE_END}),
}
SOLVERS: dict[str, dict[str, Any]] = {"adam": {}, "sgd": {"learning_rate_init": 0.02}, "lbfgs": {}}
TASKS_OF_LBFGS = ("digits",)
"""Small ones: it takes all samples at every step."""


@dataclass
class Turns:
    """What came of one task with one solver and one number of threads; the lists hold a pair a round, ours first."""

    title: str
    solver: str
    threads: int
    seconds: list[tuple[float, float]] = field(default_factory=list)
    scores: list[tuple[float, float]] = field(default_factory=list)
    predict_seconds: list[tuple[float, float]] = field(default_factory=list)


# --- The data ---------------------------------------------------------------------------------------------------------


def load(task: str) -> tuple[Any, Any, Any, Any]:
    """Give X_train, y_train, X_test, y_test."""
    rng = np.random.default_rng(0)
    if task == "mnist":
        import fastmlp

        data = fastmlp.load_dataset("mnist")
        return data.X_train, data.y_train, data.X_test, data.y_test
    if task == "digits":
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        order = rng.permutation(len(X))
        X, y = X[order] / 16.0, y[order]
        return X[:1400], y[:1400], X[1400:], y[1400:]
    if task == "tabular":
        X = rng.normal(size=(25_000, 50))
        y = X[:, 0] + X[:, 1] * X[:, 2] + np.sin(2.0 * X[:, 3]) + np.abs(X[:, 4]) + 0.1 * rng.normal(size=25_000)
        return X[:20_000], y[:20_000], X[20_000:], y[20_000:]
    X, y = words_of_topics(rng, 25_000, 10_000, 50)
    return X[:20_000], y[:20_000], X[20_000:], y[20_000:]


def words_of_topics(rng: np.random.Generator, n_samples: int, n_words: int, length: int) -> tuple[Any, Any]:
    """Texts as counts of words: each is of one of ten topics, whose words differ; some words are frequent in all."""
    from scipy import sparse

    frequency = 1.0 / (np.arange(n_words) + 300.0)
    topics = [np.cumsum(frequency * rng.exponential(size=n_words)) for _ in range(10)]
    y = rng.integers(10, size=n_samples)
    draws = rng.uniform(size=(n_samples, length))
    words = np.stack([np.searchsorted(topics[k] / topics[k][-1], row) for k, row in zip(y, draws, strict=True)])
    rows = np.repeat(np.arange(n_samples), length)
    X = sparse.coo_array((np.ones(rows.size), (rows, words.ravel())), shape=(n_samples, n_words))
    return X.tocsr(), y


# --- One library, in a process of its own -----------------------------------------------------------------------------


def serve(library: str, cpus: str) -> None:
    """Answer each line of standard input, a task with its solver and seed, with the times and the score of a fit."""
    stay_on(cpus)
    import importlib

    from sklearn.exceptions import ConvergenceWarning

    warnings.simplefilter("ignore", ConvergenceWarning)
    module = importlib.import_module(library)
    loaded: dict[str, Any] = {}
    for line in sys.stdin:
        question = json.loads(line)
        task = question["task"]
        if task not in loaded:
            loaded = {task: load(task)}
        X, y, X_test, y_test = loaded[task]
        _, kind, parameters = TASKS[task]
        parameters = {**parameters, **SOLVERS[question["solver"]], "solver": question["solver"]}
        if question["seed"] is None:  # Compiles, and is not counted.
            X, y, parameters["max_iter"] = X[:1000], y[:1000], 1
        estimator = getattr(module, kind)(random_state=question["seed"], **parameters)
        started = time.perf_counter()
        estimator.fit(X, y)
        seconds = time.perf_counter() - started
        score = estimator.score(X_test, y_test)
        row = X_test[:1]
        started = time.perf_counter()
        for _ in range(PREDICT_CALLS):
            estimator.predict(row)
        predict_seconds = (time.perf_counter() - started) / PREDICT_CALLS
        print(json.dumps({"seconds": seconds, "scores": score, "predict_seconds": predict_seconds}), flush=True)


# --- The race ---------------------------------------------------------------------------------------------------------


def race(tasks: list[str], conditions: list[Conditions]) -> list[Turns]:
    """Let both libraries take turns at every task."""
    all_turns = []
    for each in conditions:
        processes = {library: start("estimators.py", library, each) for library in LIBRARIES}
        for task in tasks:
            for solver in SOLVERS:
                if solver == "lbfgs" and task not in TASKS_OF_LBFGS:
                    continue
                turns = Turns(TASKS[task][0], solver, each.threads)
                for seed in (None, *range(each.rounds)):
                    answers = {}
                    for library in in_turn(LIBRARIES, seed or 0):
                        time.sleep(SETTLE_SECONDS)
                        question = json.dumps({"task": task, "solver": solver, "seed": seed})
                        answers[library] = ask(processes[library], question)
                    if seed is not None:
                        for what in ("seconds", "scores", "predict_seconds"):
                            ours, theirs = (answers[library][what] for library in LIBRARIES)
                            getattr(turns, what).append((ours, theirs))
                print(report(turns), flush=True)
                all_turns.append(turns)
        for process in processes.values():
            process.communicate()
    return all_turns


def best(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Give the minima."""
    ours, theirs = zip(*pairs, strict=True)
    return min(ours), min(theirs)


def spread(values: tuple[float, ...]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.4f}"


def cells(turns: Turns) -> list[str]:
    """Say what stands in a row of the table."""
    from results import plain, readable

    ours, theirs = best(turns.seconds)
    our_call, their_call = best(turns.predict_seconds)
    our_scores, their_scores = zip(*turns.scores, strict=True)
    return [
        turns.title, turns.solver, str(turns.threads), readable(ours), readable(theirs), f"{plain(theirs / ours)}×",
        spread(our_scores), spread(their_scores), f"{plain(their_call / our_call)}×",
    ]  # fmt: skip


def report(turns: Turns) -> str:
    """Put one race in a line."""
    title, solver, threads, ours, theirs, ratio, our_scores, their_scores, call = cells(turns)
    medians = [statistics.median(times) for times in zip(*turns.seconds, strict=True)]
    return (
        f"  {title:42} {solver:5} {threads} thread{'s' if turns.threads > 1 else ' '}  fit {ours:>8} : {theirs:8}"
        f"  minima {ratio:>6}  medians {medians[1] / medians[0]:5.1f}×  score {our_scores} : {their_scores}"
        f"  predict of a row {call:>5}"
    )


HEADER = (
    "fit", "solver", "threads", "fastmlp", "scikit-learn", "faster", "score", "scikit-learn's", "predict of a row",
)  # fmt: skip


def markdown(all_turns: list[Turns]) -> str:
    """Make the table."""
    rows = [HEADER, ["---"] * len(HEADER), *map(cells, all_turns)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(tasks: list[str], conditions: list[Conditions], with_table: bool) -> None:
    """Race and report: what `compare.py --estimators` does."""
    from results import caption

    print(f"{caption(['sklearn'], conditions[0].isa)}; load {os.getloadavg()[0]:.1f}", flush=True)
    all_turns = race(tasks, conditions)
    if with_table:
        print(f"\n{markdown(all_turns)}")


if __name__ == "__main__":
    serve(*sys.argv[1:])
