"""Model files: what is saved comes back, bit for bit, and nothing else passes for a model."""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, save_file

import fastmlp
from fastmlp import MLP, SGD, Adam, ModelFileError, files
from fastmlp.checkpoint import SavedNetwork


def trained(engine: str, **options: Any) -> MLP:
    rng = np.random.default_rng(0)
    net = MLP([4, 6, 3], ["gelu"], **{"seed": 5, "engine": engine, **options})
    y = rng.integers(3, size=20) if net.spec.loss == "softmax_cross_entropy" else rng.uniform(size=(20, 3))
    net.fit(rng.normal(size=(20, 4)), y, epochs=2, batch_size=8)
    return net


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "float64", "bias": False},
        {"loss": "squared_error", "output_activation": "sigmoid", "reduction": "sum"},
        {"loss": "sigmoid_cross_entropy", "input_scale": 1 / 255},
    ],
    ids=repr,
)
def test_round_trip(engine: str, options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    net = trained(engine, **options)
    net.save(path)
    back = MLP.load(path, engine=engine)
    assert back.spec == net.spec
    assert back.seed == net.seed
    for a, b in zip([*back.weights, *back.biases], [*net.weights, *net.biases], strict=True):
        assert a.dtype == b.dtype
        assert_array_equal(a, b)
    X = np.random.default_rng(1).normal(size=(7, 4))
    assert_array_equal(back.forward(X), net.forward(X))
    # A further fit of the loaded network is a further fit of the saved one.
    y = np.eye(3)[[0, 1, 2, 0, 1, 2, 0]]
    for n in (net, back):
        n.fit(X, y, epochs=2, batch_size=3)
    assert_array_equal(back.weights[0], net.weights[0])


def test_engines_read_each_others_files(tmp_path: Path) -> None:
    for ours, theirs in (("numba", "numpy"), ("numpy", "numba")):
        net = trained(ours)
        net.save(str(tmp_path / "net.safetensors"))
        back = MLP.load(str(tmp_path / "net.safetensors"), engine=theirs)
        for a, b in zip(back.weights, net.weights, strict=True):
            assert_array_equal(a, b)


def test_any_safetensors_reader_can_read_it(tmp_path: Path) -> None:
    net = trained("numpy")
    net.save(tmp_path / "net.safetensors")
    tensors = load_file(tmp_path / "net.safetensors")
    assert sorted(tensors) == ["biases.0", "biases.1", "weights.0", "weights.1"]
    assert_array_equal(tensors["weights.0"], net.weights[0])


def test_state_and_notes_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 4)), rng.integers(3, size=20)
    net = MLP([4, 6, 3], engine="numpy")
    state = net.training_state(Adam())
    net.fit(X, y, epochs=2, optimizer=Adam(), validation_data=(X, y), state=state)
    net.notes = {"data": "ünit", "n": [1, 2.5, None]}
    net.save(tmp_path / "run.safetensors", state)
    saved = SavedNetwork(tmp_path / "run.safetensors")
    assert saved.notes == {"data": "ünit", "n": [1, 2.5, None]}
    assert saved.fits == 1
    back = saved.state
    assert back is not None
    assert (back.epoch, back.batch, back.step) == (2, 0, 2)
    assert back.history == state.history
    assert back.rng.bit_generator.state == state.rng.bit_generator.state
    assert len(back.slots) == 2
    for a, b in zip(back.slots, state.slots, strict=True):
        assert a.dtype == b.dtype
        assert_array_equal(a, b)
    loaded = MLP.load(tmp_path / "run.safetensors", engine="numpy")
    assert loaded.notes == net.notes
    loaded.save(tmp_path / "run.safetensors")
    saved = SavedNetwork(tmp_path / "run.safetensors")
    assert (saved.state, saved.notes) == (None, net.notes)


ENDLESS: dict[str, Any] = {}
ENDLESS["itself"] = ENDLESS


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ([1, 2], "notes must be a JSON object, got [1, 2]"),
        ({"a": {1, 2}}, "notes must be what JSON can hold, got: Object of type set is not JSON serializable"),
        ({1: "a"}, "notes must have names that are strings, got 1"),
        ({"a": [{"b": 1, None: 2}]}, "notes must have names that are strings, got None"),
        (ENDLESS, "notes must be what JSON can hold, got: Circular reference detected"),
    ],
)
def test_notes_that_could_not_be_read_again_are_refused(notes: Any, message: str, tmp_path: Path) -> None:
    net = MLP([2, 2], engine="numpy")
    net.notes = notes
    for write in (
        lambda: net.save(tmp_path / "net.safetensors"),
        lambda: net.fit(np.eye(2), [0, 1], epochs=1, checkpoint=tmp_path),
    ):
        with pytest.raises(ValueError, match=r"^notes must") as error:
            write()
        assert str(error.value) == message
    assert os.listdir(tmp_path) == []


# --- Writing ----------------------------------------------------------------------------------------------------------


def test_parameters_that_could_not_be_read_again_are_refused(tmp_path: Path) -> None:
    net, path = MLP([2, 3, 1], loss="squared_error"), tmp_path / "net.safetensors"
    net.save(path)
    before = path.read_bytes()
    net.biases[1][0] = np.nan
    with pytest.raises(ValueError, match=r"^biases\[1\] must be finite to be saved, got nan$"):
        net.save(path)
    assert path.read_bytes() == before


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    net = trained("numpy")
    net.save(path)
    before = path.read_bytes()
    net.weights[0][:] = 0

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            net.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net.safetensors"]
    net.save(path)
    assert path.read_bytes() != before


@pytest.mark.parametrize("refusals", [2, 9])
def test_a_renaming_that_is_refused_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    """On Windows: who scans a new file for viruses may hold it for a moment."""
    path, tries, rename = tmp_path / "net.safetensors", [0], os.replace

    def refuse(source: Any, target: Any) -> None:
        tries[0] += 1
        if tries[0] <= refusals:
            raise PermissionError(errno.EACCES, "Access is denied", os.fspath(source))
        rename(source, target)

    monkeypatch.setattr(files, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(files.os, "replace", refuse)
    if refusals < 4:
        trained("numpy").save(path)
        assert MLP.load(path, engine="numpy").spec.layer_sizes == (4, 6, 3)
    else:
        with pytest.raises(PermissionError):
            trained("numpy").save(path)
        assert tries == [4]
        assert os.listdir(tmp_path) == []


def test_a_write_reaches_the_disk_before_and_after_the_renaming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file first, then its name in the folder: after a power failure there is the old file or the whole new one."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def syncing(descriptor: int) -> None:
        fsync(descriptor)
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    def replacing(source: Any, target: Any) -> None:
        replace(source, target)
        done.append("rename")

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    trained("numpy").save(tmp_path / "net.safetensors")
    assert done == ["file", "rename", "folder"]


@pytest.mark.parametrize(("number", "matters"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced(
    number: int, matters: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, fsync = trained("numpy"), os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) if matters else nullcontext():
        net.save(tmp_path / "net.safetensors")
    assert os.listdir(tmp_path) == ["net.safetensors"]


def test_a_file_system_without_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(file: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files, "lock", failing)
    trained("numpy").save(tmp_path / "net.safetensors")
    (tmp_path / ".net.safetensors.left").write_bytes(b"half")
    files.remove_leftovers(tmp_path / "net.safetensors")  # Somebody may be writing it.
    assert sorted(os.listdir(tmp_path)) == [".net.safetensors.left", "net.safetensors"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    net = trained("numpy")
    missing = tmp_path / "missing" / "net.safetensors"
    with pytest.raises(FileNotFoundError) as error:
        net.save(missing)
    assert str(error.value) == f"[Errno 2] No such file or directory: '{missing}'"
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match=r"(?i)directory") as refusal:
        net.save(folder)
    assert (refusal.value.filename, refusal.value.filename2) == (str(folder), None)
    assert os.listdir(tmp_path) == ["folder"]


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    trained("numpy").save(tmp_path / "net.safetensors")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "net.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


# --- Reading what is no model -----------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    trained("numpy").save(path)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the configuration inside a model file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["fastmlp"])
    change(header)
    save_file(load_file(path), path, metadata={"fastmlp": json.dumps(header)})


def refused(path: Path) -> str:
    with pytest.raises(ModelFileError) as error:
        MLP.load(path, engine="numpy")
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_there_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^no model file at .*nothing.safetensors$"):
        MLP.load(tmp_path / "nothing.safetensors")


def test_truncated_files(model: Path) -> None:
    data = model.read_bytes()
    for n in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        model.write_bytes(data[:n])
        assert "is not a readable safetensors file" in refused(model)


def test_foreign_files(model: Path, tmp_path: Path) -> None:
    model.write_bytes(b"PK\x03\x04" + bytes(1000))
    assert "is not a readable safetensors file" in refused(model)
    assert "must be a regular file, got a folder; a run's network is its model.safetensors" in refused(tmp_path)
    save_file({"weights.0": np.zeros((2, 2))}, model)
    assert refused(model).endswith("has no fastmlp metadata: it is not a fastmlp model")
    save_file({"weights.0": np.zeros((2, 2))}, model, metadata={"fastmlp": "{not json"})
    assert "is not a whole fastmlp model: the fastmlp metadata must be JSON" in refused(model)


def test_newer_files(model: Path) -> None:
    rewrite(model, lambda header: header.update(format_version=3))
    assert refused(model).endswith("has format version 3, this fastmlp reads up to 2: upgrade fastmlp")
    rewrite(model, lambda header: header.update(format_version=0))
    assert refused(model).endswith("is not a whole fastmlp model: format_version must be >= 1, got 0")
    rewrite(model, lambda header: header.pop("format_version"))
    assert refused(model).endswith("is not a whole fastmlp model: format_version must be there, got nothing")


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("spec"),
        lambda header: header.pop("seed"),
        lambda header: header["spec"].pop("loss"),
        lambda header: header["spec"].update(loss="hinge"),
        lambda header: header["spec"].update(layer_sizes=[4, 7, 3]),
        lambda header: header["spec"].update(layer_sizes=[4, 6, 3, 3], activations=["relu", "relu"]),
        lambda header: header["spec"].update(layer_sizes="463"),
        lambda header: header["spec"].update(activations=None),
        lambda header: header.update(seed=-1),
        lambda header: header.update(state={}),
        lambda header: header.update(state=[]),
    ],
)
def test_damaged_configurations(model: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    rewrite(model, change)
    assert "is not a whole fastmlp model" in refused(model)


def test_a_missing_array(model: Path) -> None:
    data = model.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    tensors = load_file(model)
    del tensors["biases.1"]
    save_file(tensors, model, metadata=metadata)
    assert "is not a whole fastmlp model" in refused(model)


def test_unknown_engine(model: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^engine must be one of numba, numpy, got 'nunba' \(did you mean 'numba'\?\)$"
    ):
        MLP.load(model, engine="nunba")
    assert "engine='numba'" in repr(MLP.load(model))


def test_a_checkpoint_is_also_a_model(tmp_path: Path) -> None:
    net = trained("numpy")
    net.save(tmp_path / "run.safetensors", net.training_state(SGD(0.1, momentum=0.9)))
    assert_array_equal(MLP.load(tmp_path / "run.safetensors", engine="numpy").weights[0], net.weights[0])


# --- What stands at the path ------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="needs links, pipes and permissions")
def test_links_permissions_and_pipes_stay(tmp_path: Path) -> None:
    net, other = MLP([2, 3], seed=1), MLP([2, 3], seed=2)
    file, link, pipe = tmp_path / "v7", tmp_path / "current", tmp_path / "pipe"
    net.save(file)
    file.chmod(0o600)
    link.symlink_to(file.name)
    other.save(link)
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o600
    assert_array_equal(MLP.load(file).weights[0], other.weights[0])
    os.mkfifo(pipe)
    with pytest.raises(OSError, match=r"not a regular file: .*pipe"):
        net.save(pipe)
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "pipe", "v7"]


def test_paths(tmp_path: Path) -> None:
    net = MLP([2, 3])
    net.save(os.fsencode(tmp_path / "bytes"))
    assert_array_equal(MLP.load(tmp_path / "bytes").weights[0], net.weights[0])
    for call in (net.save, MLP.load):
        with pytest.raises(ValueError, match=r"^path must be a path, got 7$"):
            call(7)
        for path in ("a\0b", "/"):
            with pytest.raises(ValueError, match=r"^path must be the path of a file, got '"):
                call(path)


def test_a_file_system_without_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    for seed in range(2):
        MLP([2, 3], seed=seed).save(tmp_path / "model")
    assert_array_equal(MLP.load(tmp_path / "model").weights[0], MLP([2, 3], seed=1).weights[0])


def test_a_checkpoint_from_before_batches_without_weight_were_counted(tmp_path: Path) -> None:
    """Each of its batches counted."""
    X, y = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 3
    arguments: dict[str, Any] = {"epochs": 2, "batch_size": 4, "optimizer": SGD(0.1), "checkpoint": tmp_path}
    whole = MLP([2, 3]).fit(X, y, **{**arguments, "checkpoint": None})
    MLP([2, 3]).fit(X, y, **arguments, progress=lambda progress: progress.step == 7)
    path = tmp_path / "checkpoint.safetensors"
    rewrite(path, lambda header: header["state"].pop("n_counted"))
    assert MLP([2, 3]).fit(X, y, **arguments, resume=True).train_loss == whole.train_loss


def test_lack_of_memory_is_not_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MLP([2, 3]).save(tmp_path / "model")

    def fail(*arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("fastmlp.parameters.ParameterLayout.allocate", fail)
    with pytest.raises(MemoryError) as error:
        MLP.load(tmp_path / "model")
    assert not isinstance(error.value, fastmlp.ModelFileError)
