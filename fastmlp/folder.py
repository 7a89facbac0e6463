"""The folder of ``--out``: what a run of ``python -m fastmlp.train`` leaves in it, and when."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp.checkpoint import SavedNetwork
from fastmlp.divergence import DivergenceError
from fastmlp.files import remove_leftovers, rename, write_atomically
from fastmlp.report import Reporter, draw_curves, draw_misclassified
from fastmlp.resuming import CHECKPOINT, prepare_folder, writing_to

if TYPE_CHECKING:
    from fastmlp.datasets import Dataset
    from fastmlp.network import MLP
    from fastmlp.recipe import History

FILES = ("model.safetensors", CHECKPOINT, "history.csv", "summary.json", "curves.png", "misclassified.png")
"""What a run may leave in its folder."""


class RunFolder:
    """The folder that a run writes to.

    Parameters
    ----------
    out : str
        The folder, made if missing.
    resume : str, optional
        That of the run to go on with; perhaps the same.
    reporter : Reporter
        Told what the user should know.

    Raises
    ------
    OSError
        If it cannot be written to.
    ValueError
        If it holds files of such names, and no run.
    """

    def __init__(self, out: str, resume: str | None, reporter: Reporter) -> None:
        prepare_folder("out", out)
        held = [name for name in FILES if os.path.lexists(os.path.join(out, name))]
        if held and not {CHECKPOINT, "model.safetensors"} & set(held):  # Somebody's own: all runs leave these.
            raise ValueError(f"out must be a new folder or that of a run, got {out!r}, which holds {held[0]} alone")
        for name in FILES:
            remove_leftovers(Path(out, name))
        self.out = out
        self.reporter = reporter
        self.began_with: bytes | None = None
        if resume is not None and os.path.samefile(resume, out):
            self.began_with = Path(out, CHECKPOINT).read_bytes()
        self.is_taken = False

    def take(self) -> None:
        """Make room before the first file is written: those of another run go to ``previous``, in place of those there.

        A run that comes to nothing has then moved nothing.
        """
        if self.is_taken:
            return
        self.is_taken = True
        if self.began_with is not None or not any(os.path.lexists(os.path.join(self.out, name)) for name in FILES):
            return
        previous, replaced = os.path.join(self.out, "previous"), ""
        with writing_to("out", self.out):
            os.makedirs(previous, exist_ok=True)
            for name in reversed(FILES):  # Until the last, it can be seen to be that of a run.
                with suppress(FileNotFoundError):  # a file that the earlier run did not have
                    os.unlink(os.path.join(previous, name))
                    replaced = ", in place of those that were there"
                with suppress(FileNotFoundError):
                    rename(os.path.join(self.out, name), os.path.join(previous, name))
        self.reporter.say(f"the files of the earlier run in {self.out} are now in {previous}{replaced}")

    def what_is_left(self, error: DivergenceError) -> str:
        """Say what the folder holds of a run that diverged; if nothing since was better, what it held before."""
        if not self.is_taken:
            return f"nothing was written to {self.out}"
        if self.began_with is not None and error.keeps_first:
            self.write(CHECKPOINT, self.began_with)
        state = SavedNetwork(os.path.join(self.out, CHECKPOINT)).state
        epoch = 0 if state is None else state.epoch
        if self.began_with is not None and error.keeps_first:
            return f"the checkpoint in {self.out} is again that of epoch {epoch}, as before"
        return f"only the checkpoint of epoch {epoch} was written to {self.out}"

    def write_files(self, net: MLP, data: Dataset, history: History, summary: dict[str, Any]) -> list[str]:
        """Write what a run leaves besides its checkpoint, the most valuable first; return the names of all files."""
        with writing_to("out", self.out):
            net.save(os.path.join(self.out, "model.safetensors"))
        self.write("history.csv", history_table(history).encode())
        self.write("summary.json", summary_text(summary).encode())
        files = list(FILES[:4])
        for name in FILES[4:]:
            with suppress(OSError):  # a picture from before this run went on would belong to other weights
                os.unlink(os.path.join(self.out, name))
        try:
            self.write("curves.png", draw_curves(history, summary))
            files.append("curves.png")
            mistakes = find_mistakes(net, data)
            if mistakes is not None:
                self.write("misclassified.png", draw_misclassified(**mistakes))
                files.append("misclassified.png")
        except ImportError:
            self.reporter.say("no pictures: they need matplotlib (pip install 'fastmlp[plot]')")
        return files

    def write(self, name: str, content: bytes) -> None:
        """Write one file whole or not at all."""
        with writing_to("out", self.out):
            write_atomically(Path(self.out, name), content)


def summary_text(summary: dict[str, Any]) -> str:
    """Write the summary as JSON, which has no infinity: null stands for what is not finite."""
    values = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in summary.items()
    }
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def history_table(history: History) -> str:
    """Give the history as CSV, a line an epoch; the accuracy stays empty for a regression."""
    lists = history.to_dict()
    names = {"train_loss": "train_loss", "validation_loss": "test_loss", "validation_accuracy": "test_accuracy",
             "learning_rate": "learning_rate", "seconds": "seconds"}  # fmt: skip
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["epoch", *names.values()])
    for i in range(len(history.train_loss)):
        table.writerow([i + 1, *(repr(lists[name][i]) if lists[name] else "" for name in names)])
    return file.getvalue()


def find_mistakes(net: MLP, data: Dataset) -> dict[str, Any] | None:
    """Gather the images of the test set that the network is most confidently wrong about; None if there are none."""
    if data.image_shape is None or data.class_names is None:
        return None
    predicted, p = net.predict(data.X_test), net.predict_proba(data.X_test)
    if p.shape[1] == 1:
        p = np.hstack([1 - p, p])
    confidence = p[np.arange(len(p)), predicted]
    wrong = np.flatnonzero(predicted != data.y_test)
    if len(wrong) == 0:
        return None
    first = wrong[np.argsort(-confidence[wrong], kind="stable")[:50]]
    return {
        "images": data.X_test[first].reshape(-1, *data.image_shape),
        "true": data.y_test[first],
        "predicted": predicted[first],
        "confidence": confidence[first],
        "class_names": data.class_names,
        "title": f"{len(wrong):,} of {len(predicted):,} test images wrong",
    }
