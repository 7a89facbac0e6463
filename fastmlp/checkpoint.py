"""What is saved, and how a run is resumed. Files are safetensors with JSON metadata: data, never code.

A model file holds the network; a checkpoint is the same file with the optimizer's buffers and the position of the run
added, so that every checkpoint is also a model. `save_network` writes both, `SavedNetwork` reads both. Files are
written beside their target, synced and renamed, so that nobody ever finds half of one.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import secrets
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fastmlp.spec import NetworkSpec, check_count, make_spec
from fastmlp.training import History, TrainingState

if sys.platform != "win32":
    import fcntl

Array = NDArray[Any]
Path_ = str | os.PathLike[str]

FORMAT_VERSION = 1


class ModelFileError(ValueError):
    """A file is not a model that this version can read; the message says what is wrong with it."""


def save_network(
    path: Path_, spec: NetworkSpec, weights: list[Array], biases: list[Array], seed: int, fits: int,
    state: TrainingState | None = None, notes: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write a network, and the state of its training if given, to `path`.

    Parameters
    ----------
    path : str or path
        The file, replaced if it exists.
    spec : NetworkSpec
        The network.
    weights, biases : list of ndarray
        Its parameters.
    seed, fits : int
        The network's seed, and how often it has been fitted.
    state : TrainingState, optional
        Makes the file a checkpoint.
    notes : dict, optional
        Anything JSON can hold, given back by `SavedNetwork`.

    Raises
    ------
    OSError
        If the file cannot be written; it names `path`, and an earlier file there is unharmed.
    """
    tensors = {f"weights.{i}": np.ascontiguousarray(W) for i, W in enumerate(weights)}
    tensors |= {f"biases.{i}": np.ascontiguousarray(b) for i, b in enumerate(biases)}
    header: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "spec": asdict(spec),
        "seed": seed,
        "fits": fits,
    }
    header["notes"] = notes or {}
    if state is not None:
        tensors |= {f"slots.{i}": slot for i, slot in enumerate(state.slots)}
        if state.unaveraged is not None:
            tensors["unaveraged"] = state.unaveraged
        header["state"] = {
            "rng": state.rng.bit_generator.state,
            "epoch": state.epoch,
            "batch": state.batch,
            "step": state.step,
            "loss_sum": float(state.loss_sum),
            "seconds": float(state.seconds),
            "history": asdict(state.history),
            "dropout_seed": state.dropout_seed,
            "is_over": state.is_over,
            "run": state.run,
        }
    data = save(tensors, metadata={"fastmlp": json.dumps(header)})
    try:
        write_atomically(Path(path), data)
    except OSError as error:  # It names the temporary file, which means nothing to the user.
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, flush it to the disk, and rename it to `path`.

    Whenever the process is killed or the power fails, `path` is the old file or the new one, whole.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            with suppress(OSError):  # Some network file systems have no locks.
                lock(file)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):  # It may be renamed already, or the folder be gone.
            os.unlink(temporary)
        raise


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk: without it a power failure may undo a rename. Windows cannot, and need not."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # How some network file systems say that they cannot.
            raise
    finally:
        os.close(descriptor)


def lock(file: BinaryIO) -> None:
    """Hold a file as long as it is open, and the process alive; raise OSError if somebody else holds it.

    On Windows, an open file is held anyway: nobody can remove it.
    """
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files beside `path` whose writers were killed; those that are being written are held."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with suppress(OSError):
            with open(leftover, "r+b") as file:
                lock(file)
            os.unlink(leftover)


class SavedNetwork:
    """What a file held: `spec`, `weights`, `biases`, `seed`, `fits`, `notes`, and `state` if it is a checkpoint."""

    def __init__(self, path: Path_) -> None:
        path = os.fspath(path)
        if not os.path.exists(path):
            raise FileNotFoundError(f"no model file at {path}")
        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads((file.metadata() or {}).get("fastmlp", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelFileError(f"{path} is not a readable safetensors file: {error}") from None
        if not isinstance(header, dict):
            raise ModelFileError(f"{path} has no fastmlp metadata: it is not a fastmlp model")
        version = header.get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise ModelFileError(
                f"{path} has format version {version!r}, this fastmlp reads up to {FORMAT_VERSION}: upgrade fastmlp"
            )
        try:
            fields = header["spec"]
            self.spec = make_spec(
                fields["layer_sizes"], fields["activations"], fields["output_activation"], fields["loss"],
                fields["reduction"], fields["bias"], fields["input_scale"], fields["dtype"],
                fields.get("loss_parameter"),
            )  # fmt: skip
            self.weights = [tensors[f"weights.{i}"] for i in range(self.spec.n_layers)]
            self.biases = [tensors[f"biases.{i}"] for i in range(self.spec.n_layers)] if self.spec.bias else []
            n_in, n_out = self.spec.layer_sizes[:-1], self.spec.layer_sizes[1:]
            if [W.shape for W in self.weights] != list(zip(n_in, n_out, strict=True)):
                raise ValueError(f"the weights' shapes are not those of layer_sizes {list(self.spec.layer_sizes)}")
            if self.biases and [b.shape for b in self.biases] != [(n,) for n in n_out]:
                raise ValueError(f"the biases' shapes are not those of layer_sizes {list(self.spec.layer_sizes)}")
            self.seed = check_count("seed", header["seed"], minimum=0)
            self.fits = check_count("fits", header["fits"], minimum=0)
            self.notes: dict[str, Any] = header.get("notes", {})
            self.state = read_state(header["state"], tensors) if "state" in header else None
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{path} is not a whole fastmlp model: {error!r}") from None


def read_state(fields: dict[str, Any], tensors: dict[str, Array]) -> TrainingState:
    """Build a `TrainingState` from a header's fields."""
    rng = np.random.default_rng()
    rng.bit_generator.state = fields["rng"]
    n_slots = sum(name.startswith("slots.") for name in tensors)
    return TrainingState(
        rng=rng,
        slots=[tensors[f"slots.{i}"] for i in range(n_slots)],
        epoch=fields["epoch"],
        batch=fields["batch"],
        step=fields["step"],
        loss_sum=fields["loss_sum"],
        seconds=fields["seconds"],
        history=History(**fields["history"]),
        dropout_seed=fields.get("dropout_seed", 0),
        is_over=fields.get("is_over", False),
        run=fields.get("run", {}),
        unaveraged=tensors.get("unaveraged"),
    )
