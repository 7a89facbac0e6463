"""What is saved, and how a run is resumed. Files are safetensors with JSON metadata: data, never code.

A model file holds the network; a checkpoint is the same file with the optimizer's buffers and the position of the run
added, so that every checkpoint is also a model. `save_network` writes both, `SavedNetwork` reads both. Files are
written beside their target, synced and renamed, so that nobody ever finds half of one.

The metadata hold a ``format_version``. Of old and new files:

- A file of an older version is read, now and later. Fields that it does not have get the value that they stood for.
- A field of the metadata that this fastmlp does not know is passed over: so a newer one may add fields, under the same
  version, that can be done without. Every array must be known.
- Anything else that a newer fastmlp writes gets a new version. A file of a version that this one does not know is
  refused, with the advice to upgrade.

Version 1 had the history of a checkpoint in the metadata. In version 2 it is arrays, so that the metadata stay short
however long the run: `fastmlp.tensorfile` reads no header of more than 1 MiB.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fastmlp.checks import explaining_lack_of_memory
from fastmlp.files import write_atomically
from fastmlp.parameters import ParameterLayout
from fastmlp.recipe import History, TrainingState
from fastmlp.spec import DTYPES, NetworkSpec, check_count, check_name, check_number, make_spec, shown
from fastmlp.tensorfile import MAX_HEADER, Entry, TensorFile, parse_json

Array = NDArray[Any]
FilePath = str | os.PathLike[str]

FORMAT_VERSION = 2
MAX_COUNT = 1 << 53
"""Epochs, batches or steps that a file can claim: far more than any run has, and the kernels count in 64 bits."""


class ModelFileError(ValueError):
    """A file is not a model that this version can read; the message says what is wrong with it."""


def save_network(
    path: FilePath, spec: NetworkSpec, weights: list[Array], biases: list[Array], seed: int, fits: int,
    notes: dict[str, Any], state: TrainingState | None = None,
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
    notes : dict
        Anything JSON can hold, given back by `SavedNetwork`.
    state : TrainingState, optional
        Makes the file a checkpoint.

    Raises
    ------
    ValueError
        If the file could not be read again: a parameter is not finite, or the notes are too long, or no object of JSON.
    OSError
        If the file cannot be written; it names `path`, and an earlier file there is unharmed.
    """
    name = check_path(path)
    for what, arrays in (("weights", weights), ("biases", biases)):
        for i, array in enumerate(arrays):
            if not np.isfinite(array).all():  # It could not be read again, and an earlier file would be gone.
                raise ValueError(f"{what}[{i}] must be finite to be saved, got {array[~np.isfinite(array)][0]}")
    tensors = {f"weights.{i}": np.ascontiguousarray(W) for i, W in enumerate(weights)}
    tensors |= {f"biases.{i}": np.ascontiguousarray(b) for i, b in enumerate(biases)}
    header: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "spec": asdict(spec),
        "seed": seed,
        "fits": fits,
        "notes": check_notes(notes),
    }
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
            "n_counted": state.n_counted,
            "compile_seconds": float(state.history.compile_seconds),
            "dropout_seed": state.dropout_seed,
            "is_over": state.is_over,
            "run": state.run,
        }
        tensors |= {f"history.{name}": np.array(values, float) for name, values in state.history.to_dict().items()}
    data = save(tensors, metadata={"fastmlp": json.dumps(header)})
    if (length := int.from_bytes(data[:8], "little")) > MAX_HEADER:
        raise ValueError(f"notes must leave the file a header of <= {MAX_HEADER} bytes, got {length}")
    try:
        write_atomically(Path(name), data)
    except OSError as error:  # It names the temporary file, which means nothing to the user.
        raise OSError(error.errno, error.strerror, name) from None


def check_path(path: Any) -> str:
    """Return a path as a string, or raise ValueError."""
    if not isinstance(path, str | bytes | os.PathLike):
        raise ValueError(f"path must be a path, got {shown(path)}")
    name = os.fsdecode(path)
    if "\0" in name or not os.path.basename(os.path.abspath(name)):
        raise ValueError(f"path must be the path of a file, got {shown(path)}")
    return name


def check_notes(notes: Any) -> dict[str, Any]:
    """Return notes as they will be read again, or raise ValueError."""
    try:
        text = json.dumps(notes)
    except (TypeError, ValueError, RecursionError) as error:  # The second: of what holds itself.
        raise ValueError(f"notes must be what JSON can hold, got: {error}") from None
    for name in names_in(notes):
        if not isinstance(name, str):  # It would come back as one.
            raise ValueError(f"notes must have names that are strings, got {shown(name)}")
    return parse_json("notes", text)


def names_in(value: Any) -> Iterator[Any]:
    """Give all names of all dictionaries in what JSON can hold."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from names_in(part)


class SavedNetwork:
    """What a file held: `spec`, `parameters`, `seed`, `fits`, `notes`, and `state` if it is a checkpoint.

    `parameters` is the flat buffer, and `weights` and `biases` are its views. No memory is allocated for arrays before
    the whole of the file's header has been checked; the arrays are then read into the memory that they stay in.
    """

    def __init__(self, path: FilePath) -> None:
        path = check_path(path)
        if not os.path.exists(path):
            raise FileNotFoundError(f"no model file at {path}")
        if os.path.isdir(path):
            raise ModelFileError(
                f"{path} must be a regular file, got a folder; a run's network is its model.safetensors"
            )
        try:
            file = TensorFile(path)
        except (OSError, ValueError) as error:
            raise ModelFileError(f"{path} is not a readable safetensors file: {error}") from None
        with file:
            if "fastmlp" not in file.metadata:
                raise ModelFileError(f"{path} has no fastmlp metadata: it is not a fastmlp model")
            try:
                header = parse_json("the fastmlp metadata", file.metadata["fastmlp"])
                version = field(header, "format_version", int)
                if version <= FORMAT_VERSION:
                    self._read(file, header)
            except MemoryError:  # Some are a ValueError, too. The file may be sound.
                raise
            except (OSError, ValueError, RecursionError) as error:
                raise ModelFileError(f"{path} is not a whole fastmlp model: {error}") from None
        if version > FORMAT_VERSION:
            raise ModelFileError(
                f"{path} has format version {shown(version)}, "
                f"this fastmlp reads up to {FORMAT_VERSION}: upgrade fastmlp"
            )

    def _read(self, file: TensorFile, header: dict[str, Any]) -> None:
        """Check everything, then read the arrays."""
        check_count("format_version", header["format_version"])
        self.spec = read_spec(field(header, "spec", dict))
        self.seed = check_count("seed", field(header, "seed", int), minimum=0)
        self.fits = check_count("fits", field(header, "fits", int), minimum=0)
        self.notes: dict[str, Any] = field(header, "notes", dict, {})
        self.state = read_state(field(header, "state", dict)) if "state" in header else None

        layout, unread = ParameterLayout(self.spec), dict(file.entries)
        for i, (n_in, n_out) in enumerate(pairwise(self.spec.layer_sizes)):
            expect(unread, f"weights.{i}", (n_in, n_out), self.spec.dtype)
            if self.spec.bias:
                expect(unread, f"biases.{i}", (n_out,), self.spec.dtype)
        if self.state is not None:
            slots = [f"slots.{i}" for i in range(sum(name.startswith("slots.") for name in unread))]
            unaveraged = ["unaveraged"] if "unaveraged" in unread else []
            curves = [name for name in CURVES if header["format_version"] > 1]
            for name in slots + unaveraged:
                expect(unread, name, (layout.size,), self.spec.dtype)
            for name in curves:
                expect(unread, f"history.{name}", None, "float64")
        if unread:
            raise ValueError(f"arrays must all be of this network, got {shown(min(unread))} too")

        self.parameters = read_parameters(file, layout)
        self.weights, self.biases = layout.weights(self.parameters), layout.biases(self.parameters)
        if self.state is not None:
            self.state.slots = [read_flat(file, name, layout) for name in slots]
            self.state.unaveraged = read_flat(file, "unaveraged", layout) if unaveraged else None
            for name in curves:
                curve = np.empty(file.entries[f"history.{name}"].shape)
                file.read(f"history.{name}", curve, refuse=None)
                setattr(self.state.history, name, curve.tolist())
            check_history(self.state)


CURVES = tuple(History().to_dict())
"""The lists of a history."""

KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def field(fields: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """Return a field of the metadata; raise ValueError if it is of another kind, or missing and without a default."""
    value = fields.get(name, default)
    if value is None:
        raise ValueError(f"{name} must be there, got {'null' if name in fields else 'nothing'}")
    if kind is float and type(value) is int and abs(value) < 1 << 1023:  # JSON's 1 is a number like 1.0.
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{name} must be {KINDS[kind]}, got {shown(value)}")
    return value


def expect(unread: dict[str, Entry], name: str, shape: tuple[int, ...] | None, dtype: str) -> None:
    """Take an array off those that are not asked for; raise ValueError if it is not there or another one."""
    entry = unread.pop(name, None)
    if entry is None:
        raise ValueError(f"array {name} must be there, got nothing")
    if entry.dtype != dtype or (entry.shape != shape and (shape is not None or len(entry.shape) != 1)):
        raise ValueError(
            f"array {name} must be {shown(shape or 'one row')} of {dtype}, got {entry.shape} of {entry.dtype}"
        )


def read_spec(fields: dict[str, Any]) -> NetworkSpec:
    """Build a `NetworkSpec` from the header's fields."""
    names = {name: field(fields, name, str) for name in ("output_activation", "loss", "reduction", "dtype")}
    check_name("dtype", names["dtype"], DTYPES)
    has_parameter = fields.get("loss_parameter") is not None  # Missing before there was a loss that has one.
    return make_spec(
        field(fields, "layer_sizes", list), field(fields, "activations", list), bias=field(fields, "bias", bool),
        input_scale=field(fields, "input_scale", float), **names,
        loss_parameter=field(fields, "loss_parameter", float) if has_parameter else None,
    )  # fmt: skip


def read_state(fields: dict[str, Any]) -> TrainingState:
    """Build a `TrainingState` from the header's fields, without the arrays."""
    run = field(fields, "run", dict, {})  # Missing, like `is_over`, before `fit` wrote checkpoints.
    before = field(fields, "batch", int) * field(run, "batch_size", int, 0)  # Every batch counted once.
    counts: dict[str, Any] = {
        name: check_count(name, field(fields, name, int), minimum=0) for name in ("epoch", "batch", "step")
    }
    counts["n_counted"] = check_count("n_counted", field(fields, "n_counted", int, before), minimum=0)
    for name, count in counts.items():
        if count > MAX_COUNT:
            raise ValueError(f"{name} must be <= {MAX_COUNT}, got {shown(count)}")
    dropout_seed = field(fields, "dropout_seed", int, 0)  # Missing before there was dropout.
    if not 0 <= dropout_seed < 1 << 64:
        raise ValueError(f"dropout_seed must be of 64 bits, got {shown(dropout_seed)}")
    history = History()
    curves = field(fields, "history", dict, {})  # Of format version 1.
    for name in curves.keys() & set(CURVES):
        setattr(history, name, [field({name: value}, name, float) for value in field(curves, name, list)])
    history.compile_seconds = read_seconds({**curves, **fields}, "compile_seconds")
    return TrainingState(
        rng=read_generator(field(fields, "rng", dict)),
        slots=[],
        **counts,
        loss_sum=field(fields, "loss_sum", float),
        seconds=read_seconds(fields, "seconds"),
        history=history,
        dropout_seed=dropout_seed,
        is_over=field(fields, "is_over", bool, False),
        run=run,
    )


def read_seconds(fields: dict[str, Any], name: str) -> float:
    """Return a time of the header's."""
    return check_number(name, field(fields, name, float), minimum=0.0)


def read_generator(fields: dict[str, Any]) -> np.random.Generator:
    """Make the random generator that stood so, or raise ValueError."""
    named = {f"rng.{name}": value for name, value in {**fields, **field(fields, "state", dict)}.items()}
    check_name("rng.bit_generator", field(named, "rng.bit_generator", str), ("PCG64",))
    limits = {"rng.state": 1 << 128, "rng.inc": 1 << 128, "rng.has_uint32": 2, "rng.uinteger": 1 << 32}
    for name, limit in limits.items():
        if not 0 <= field(named, name, int) < limit:
            raise ValueError(f"{name} must be >= 0 and < {limit}, got {shown(named[name])}")
    if named["rng.inc"] % 2 == 0:
        raise ValueError(f"rng.inc must be odd, got {named['rng.inc']}")
    rng = np.random.Generator(np.random.PCG64(0))
    rng.bit_generator.state = fields
    return rng


def check_history(state: TrainingState) -> None:
    """Raise ValueError if the history is not that of so many epochs. The evaluation of the last may be missing."""
    for name, curve in state.history.to_dict().items():
        if len(curve) != state.epoch and (not name.startswith("validation") or len(curve) > state.epoch):
            raise ValueError(
                f"history.{name} must have one entry for each of the {state.epoch} epochs, got {len(curve)}"
            )


def allocate(layout: ParameterLayout) -> Array:
    """Allocate a flat buffer."""
    with explaining_lack_of_memory(layout.spec):
        return layout.allocate()


def read_parameters(file: TensorFile, layout: ParameterLayout) -> Array:
    """Read the weights and biases into a new flat buffer."""
    flat = allocate(layout)
    for kind, views in (("weights", layout.weights(flat)), ("biases", layout.biases(flat))):
        for i, view in enumerate(views):
            file.read(f"{kind}.{i}", view)
    return flat


def read_flat(file: TensorFile, name: str, layout: ParameterLayout) -> Array:
    """Read an array that is a whole flat buffer: the optimizer's, in which a square may have grown infinite."""
    flat = allocate(layout)
    file.read(name, flat, refuse=np.isnan)
    if any(view.any() for view in layout.padding(flat)):
        raise ValueError(f"array {name} must be zero between the rows, got other numbers")
    return flat
