"""How a run leaves checkpoints as it goes, and how it goes on from one that it left before it was stopped or killed.

`fastmlp.MLP.fit` hands a `Checkpoints` to the loop, which asks it at the end of each engine call whether one is due.
What a checkpoint holds, and how it is written and read, is in `fastmlp.checkpoint`.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from fastmlp.checkpoint import SavedNetwork
from fastmlp.files import remove_leftovers, rename
from fastmlp.recipe import Recipe, TrainingState, check_state
from fastmlp.spec import NetworkSpec, check_flag, shown
from fastmlp.stopping import StopRequest

CHECKPOINT = "checkpoint.safetensors"
"""Name of the file in the folder."""

WRITING_SHARE = 0.05
"""Most of a run's time that writing checkpoints may take: epochs can be shorter than it takes to write one safely."""


class Checkpoints:
    """Writes the checkpoints of one run as they fall due, and one before a Ctrl-C or a SIGTERM ends it.

    Parameters
    ----------
    folder : str
        Where `CHECKPOINT` is written.
    every : float
        Epochs from one to the next.
    save : callable
        Writes one to the path that it is given.
    is_new : bool
        Whether the run begins: a checkpoint that is in the folder is then another run's.
    saved_step : int, optional
        The step of the checkpoint in the folder that the run goes on from.
    """

    def __init__(
        self, folder: str, every: float, save: Callable[[str], None], is_new: bool, saved_step: int | None = None
    ) -> None:
        self._folder = folder
        self._path = os.path.abspath(os.path.join(folder, CHECKPOINT))  # Callbacks may go elsewhere.
        self._every = every
        self._save = save
        self._may_be_anothers = is_new
        self._stop = StopRequest()
        self._interval = self._due_step = math.inf
        self._free_at = -math.inf
        self._saved_step = saved_step

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.release()
        if self._stop.by:  # Asked when the last checkpoint was on its way.
            self._stop.hand_on()

    def begin(self, step: int, n_batches: int) -> None:
        """Begin after so many steps of a run, with so many an epoch; from now on, signals wait for a checkpoint."""
        self._interval = max(1.0, self._every * n_batches)
        self._plan(step)
        self._stop.watch()

    def _plan(self, step: int) -> None:
        # A millionth of a step against rounding: 30 times 0.1 is more than 3.
        self._due_step = ((step + 1e-6) // self._interval + 1.0) * self._interval - 1e-6

    def cut(self, step: int, n_steps: int) -> int:
        """Shorten a call of `n_steps` that would go beyond the next checkpoint, if that one may be written by now."""
        if time.monotonic() < self._free_at:
            return n_steps
        return math.ceil(min(float(n_steps), max(1.0, self._due_step - step)))

    def is_due(self, step: int) -> bool:
        """Whether to write one now."""
        return bool(self._stop.by) or (step >= self._due_step and time.monotonic() >= self._free_at)

    def write(self, step: int) -> None:
        """Write one, unless that of this step is there; then let a signal that waited for it do what it always does."""
        if step != self._saved_step:
            started = time.monotonic()
            with writing_to("checkpoint", self._folder):
                if self._may_be_anothers:
                    self._set_aside()
                self._save(self._path)
            now = time.monotonic()
            self._free_at = now + (now - started) * (1.0 / WRITING_SHARE - 1.0)
            self._saved_step = step
            self._plan(step)
        if self._stop.by:
            self._stop.hand_on()
            self._stop.watch()  # It did not end the run.

    def _set_aside(self) -> None:
        """Move a checkpoint that is there when a run begins, and so another run's, to ``previous``."""
        if os.path.lexists(self._path):
            previous = os.path.join(os.path.dirname(self._path), "previous")
            os.makedirs(previous, exist_ok=True)
            rename(self._path, os.path.join(previous, CHECKPOINT))
        self._may_be_anothers = False


@contextmanager
def writing_to(what: str, folder: str) -> Iterator[None]:
    """Make an OSError one line that says which argument's folder cannot be written to, and why."""
    try:
        yield
    except OSError as error:
        told = OSError(f"{what} must be a writable folder, got {folder!r}: {error.strerror or error}")
        told.errno = error.errno
        raise told from None


def check_checkpoint(checkpoint: Any, resume: bool, state: TrainingState | None) -> str | None:
    """Check the arguments of `fastmlp.MLP.fit` that say where a run goes on; return the folder of its checkpoints."""
    resume = check_flag("resume", resume)
    check_state(state)
    if checkpoint is None:
        if resume:
            raise ValueError("checkpoint must be the folder to go on from with resume=True, got None")
        return None
    if resume and state is not None:
        raise ValueError("state must be None with resume=True, which takes the checkpoint's, got a TrainingState")
    if not isinstance(checkpoint, str | os.PathLike) or not os.fspath(checkpoint):
        raise ValueError(f"checkpoint must be a folder, got {shown(checkpoint)}")
    return os.fsdecode(checkpoint)


def prepare_folder(what: str, folder: str) -> None:
    """Make the folder, write to it to see whether that can be done, and clear away what killed runs left half written.

    Raises
    ------
    OSError
        If it cannot be written to; the message names the argument `what`.
    """
    with writing_to(what, folder):
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"fastmlp")
        remove_leftovers(Path(folder, CHECKPOINT))


# --- Going on ---------------------------------------------------------------------------------------------------------


def describe_run(
    engine: str, recipe: Recipe, n_samples: int, is_mapped: bool, is_weighted: bool, is_validated: bool
) -> dict[str, Any]:
    """Give what a run is, besides its network, as JSON holds it: what must not change when it goes on."""
    described = {"engine": engine, "n_samples": n_samples, **fields_of(recipe)}
    for name in ("loss_factor", "loss_cap"):  # Of the estimators; `fit` never sets them.
        del described[name]
    for name, chosen in (("optimizer", recipe.optimizer), ("schedule", recipe.schedule)):
        described[name] = {"kind": type(chosen).__name__, **fields_of(chosen)}
    described["X"] = "mapped" if is_mapped else "in memory"  # It is shuffled in another way.
    described["sample_weight"] = "given" if is_weighted else None
    described["validation_data"] = "given" if is_validated else None
    as_json: dict[str, Any] = json.loads(json.dumps(described, default=without_address))
    return as_json


def fields_of(described: Any) -> dict[str, Any]:
    """Give a dataclass's fields as they are; `asdict` would copy them, and a user's own schedule may hold anything."""
    return {field.name: getattr(described, field.name) for field in fields(described)}


def without_address(value: Any) -> str:
    """Describe what JSON cannot hold, as a function, by what is the same in each process."""
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value))


def find_checkpoint(folder: str, spec: NetworkSpec, seed: int, run: dict[str, Any]) -> SavedNetwork | None:
    """Read the checkpoint in a folder; None if there is none.

    Raises
    ------
    ValueError
        If it is not one of this run: every argument must be what it was, but for `epochs`, which may be more.
    """
    path = os.path.join(folder, CHECKPOINT)
    if not os.path.lexists(path):
        return None
    saved = SavedNetwork(path)
    if saved.state is None or type(saved.state.run.get("epochs")) is not int:
        raise ValueError(f"checkpoint must hold a run that fit began, got {folder!r}, whose {CHECKPOINT} does not")
    check_same({**asdict(saved.spec), "seed": saved.seed}, {**asdict(spec), "seed": seed}, folder)
    before = saved.state.run["epochs"]
    if run["epochs"] < before:
        raise ValueError(f"epochs must be >= {before} to go on from {folder!r}, got {run['epochs']}")
    check_same({**saved.state.run, "epochs": run["epochs"]}, run, folder)
    saved.state.is_over = saved.state.is_over and run["epochs"] == before
    return saved


def check_same(before: dict[str, Any], now: dict[str, Any], folder: str, within: str = "") -> None:
    """Raise ValueError that names the first entry that is not what it was."""
    for name, value in now.items():
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            check_same(old, value, folder, f"{name}.")
        elif value != old:
            raise ValueError(f"{within}{name} must stay {old} to go on from {folder!r}, got {value}")
