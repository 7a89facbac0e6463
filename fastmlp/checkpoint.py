"""What is saved, and how a run is resumed. Files are safetensors with JSON metadata: data, never code.

A model file holds the network; a checkpoint is the same file with the optimizer's buffers and the position of the run
added, so that every checkpoint is also a model. `save_network` writes both, `SavedNetwork` reads both. Files are
written beside their target and renamed, so that a reader never sees half of one.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fastmlp.spec import NetworkSpec, check_count, make_spec
from fastmlp.training import History, TrainingState

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
        }
    data = save(tensors, metadata={"fastmlp": json.dumps(header)})
    try:
        write_atomically(Path(path), data)
    except OSError as error:  # It names the temporary file, which means nothing to the user.
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, flush it to the disk, and rename it to `path`."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


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
        unaveraged=tensors.get("unaveraged"),
    )
