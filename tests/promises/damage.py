"""Damages files on purpose and loads them: the child process of test_model_files.py and test_data_files.py.

    python damage.py model|checkpoint|idx|npz|csv SEED TRIES

Sound files are made first. Each try damages one of them, at random bytes or where it hurts, and loads it. Every load
must end in an error that names the file and what is wrong, on one line, or give something valid; it may open no other
file and run no code, and may allocate no more than the file's size and 64 MB. What was seen is printed as JSON: what
was not as it should be, under "wrong".
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import os
import random
import struct
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fastmlp import MLP, SGD, Adam, DivergenceError, ModelFileError, load_dataset
from fastmlp.checkpoint import SavedNetwork

ALLOWANCE = 64 << 20
RUNS_CODE = {"pickle.find_class", "exec", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "ctypes.dlopen"}

EVIL: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 2**31, 2**32 - 1, 2**53, 2**63, 2**64, 10**9, 10**30, -(10**30), 10**400,
    0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf"),
    "", "relu", "RELU", "float64", "F16", "../../etc/passwd", "a/b", "\0", "\n", "ü€😀", "x" * 5000,
    [], [0], [1, 1], [10**9, 10**9], [-3, -4], [2**32, 2**32, 2**32], [[1]], ["relu"], [None], [1.5], list(range(300)),
    {}, {"": 0}, {"__reduce__": ["os.system", "true"]}, {"a": {"a": {"a": 1}}},
]  # fmt: skip


# --- Damage to bytes --------------------------------------------------------------------------------------------------


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, add, repeat, clear or forge some bytes."""
    data = bytearray(data)
    at, n = rng.randrange(len(data)), rng.choice((1, 1, 2, 4, 8, 64))
    match rng.randrange(8):
        case 0 | 1:
            for _ in range(rng.choice((1, 1, 1, 3, 20))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 2:
            del data[at:]
        case 3:
            del data[at : at + n]
        case 4:
            data[at:at] = rng.randbytes(n)
        case 5:
            data[at : at + n] = data[:n]
        case 6:
            data[at : at + n] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * n
        case 7:  # A number where numbers stand, in either order.
            number = rng.choice((0, 1, 7, len(data), len(data) - 8, 1 << 20, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1))
            at = rng.choice((0, 0, 4, 8, 12, at))
            forged = struct.pack(rng.choice("<>") + "Q", number)[rng.choice((0, 4)) :]
            data[at : at + len(forged)] = forged
    return bytes(data)


# --- Damage to the tree of a header -----------------------------------------------------------------------------------


def places(tree: Any) -> list[tuple[Any, Any]]:
    """List every (container, key) of a tree."""
    found: list[tuple[Any, Any]] = []
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        found.append((tree, key))
        found += places(tree[key])
    return found


def damage_tree(tree: Any, rng: random.Random) -> None:
    """Change, drop, rename or add a value somewhere."""
    spots = places(tree)
    container, key = rng.choice(spots)
    match rng.randrange(6):
        case 0 | 1 | 2:
            container[key] = copy.deepcopy(rng.choice(EVIL))  # Whatever stands here twice could come to hold itself.
        case 3:
            del container[key]
        case 4 if isinstance(container, dict):
            container[
                rng.choice(("", "../x", "a/b", "weights.-1", "weights.99", "slots.0", "slots.7", "unaveraged"))
            ] = container.pop(key) if rng.random() < 0.5 else copy.deepcopy(container[key])
        case _:
            other, k = rng.choice(spots)
            container[key] = json.loads(json.dumps(other[k])) if len(json.dumps(other)) < 10_000 else 0


def written(header: dict[str, Any], arrays: bytes) -> bytes:
    """Write a safetensors file with this header, whatever it says."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + arrays


def opened(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Give a sound file's header, its metadata and the arrays' bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    return header, json.loads(header["__metadata__"]["fastmlp"]), data[end:]


def damaged_model(data: bytes, rng: random.Random) -> bytes:
    """Damage a model file or checkpoint."""
    if rng.random() < 0.3:
        return damaged_bytes(data, rng)
    header, metadata, arrays = opened(data)
    kind = rng.randrange(10)
    names = [name for name in header if name != "__metadata__"]
    if kind < 4:
        for _ in range(rng.choice((1, 1, 2))):
            damage_tree(metadata, rng)
    elif kind < 6:
        damage_tree({name: header[name] for name in names} if rng.random() < 0.8 else header, rng)
    elif kind == 6:  # A number in an array that is none, or a huge one.
        wide = rng.choice((4, 8))
        at = rng.randrange(len(arrays) // wide) * wide
        number = rng.choice((float("nan"), float("inf"), float("-inf"), 1e30, -1.0))
        arrays = arrays[:at] + struct.pack("<f" if wide == 4 else "<d", number) + arrays[at + wide :]
    elif kind == 7:  # Sizes beyond any memory, in the network and in the arrays alike.
        huge = rng.choice((10**6, 10**9, 2**31, 2**62))
        metadata["spec"]["layer_sizes"] = [huge] * len(metadata["spec"]["layer_sizes"])
        for name in names:
            header[name]["shape"] = [huge] * len(header[name]["shape"])
            if rng.random() < 0.5:
                header[name]["data_offsets"] = [0, huge**2 * 4]
    elif kind == 8:  # Arrays that overlap, leave gaps or are of another type.
        name = rng.choice(names)
        begin, end = header[name]["data_offsets"]
        shift = rng.choice((-8, -4, 4, 8, -begin, 10**12))
        header[name]["data_offsets"] = [begin + shift, end + rng.choice((0, shift))]
        header[name]["dtype"] = rng.choice(("F32", "F64", "F16", "I32", "BOOL", "F32"))
    else:
        text = json.dumps(metadata)
        deep = rng.choice((100, 900, 5000, 100_000))
        text = rng.choice((
            text[:-1] + ', "seed": 7}', text.replace('"spec"', '"seed": {"a": 1}, "spec"'), "[" * deep + "]" * deep,
            text[:-1] + ', "notes": ' + '{"a":' * deep + "1" + "}" * deep + "}", "null", "[]", "", text + text,
            text.replace("1", "1" * 5000), text.replace("0", "NaN"), text[:-1] + ', "future": [1, {"x": 2}]}',
        ))  # fmt: skip
        header["__metadata__"] = rng.choice(({"fastmlp": text}, {"fastmlp": text}, {"fastmlp": 1}, [text], {"x": text}))
        return written(header, arrays)
    if isinstance(header.get("__metadata__"), dict):
        header["__metadata__"]["fastmlp"] = json.dumps(metadata)
    return written(header, arrays)


# --- Sound files ------------------------------------------------------------------------------------------------------


def sound_models(folder: Path) -> list[bytes]:
    """Write networks of several kinds."""
    specs: list[dict[str, Any]] = [
        {"layer_sizes": [4, 6, 3]},
        {"layer_sizes": [40, 1], "loss": "huber", "dtype": "float64", "bias": False},
        {"layer_sizes": [3, 5, 5, 2], "activation": ["gelu", "tanh"], "loss": "sigmoid_cross_entropy"},
        {"layer_sizes": [100, 24, 10], "input_scale": 1 / 255},
    ]
    for i, spec in enumerate(specs):
        MLP(**spec, engine="numpy").save(folder / f"{i}")
    return [(folder / f"{i}").read_bytes() for i in range(len(specs))]


def sound_checkpoints(folder: Path) -> list[bytes]:
    """Write checkpoints at the end of an epoch and within one, and one in the form of format version 1."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 4)), rng.integers(0, 3, 20)
    found = []
    for optimizer, average, dtype, steps in (
        (Adam(), None, "float32", None), (SGD(0.1, momentum=0.9), 0.9, "float64", 3), (SGD(0.1), None, "float32", 1),
    ):  # fmt: skip
        net = MLP([4, 6, 3], engine="numpy", dtype=dtype)
        state = net.training_state(optimizer)
        net.fit(
            X, y, epochs=3, batch_size=4, optimizer=optimizer, average=average, state=state, validation_data=(X, y),
            progress=lambda at, steps=steps: steps is not None and at.step >= steps,
        )  # fmt: skip
        net.notes = {"n_train": 20, "options": {"hidden": [6]}}
        net.save(folder / "run", state)
        found.append((folder / "run").read_bytes())
    return [*found, as_version_1(found[0])]


def as_version_1(data: bytes) -> bytes:
    """Rewrite a checkpoint as fastmlp wrote it at first, without what was added since."""
    from safetensors.numpy import load, save

    _, metadata, _ = opened(data)
    arrays = load(data)
    metadata["format_version"] = 1
    state = metadata["state"]
    state["history"] = {"compile_seconds": state.pop("compile_seconds")}
    for name in [name for name in arrays if name.startswith("history.")]:
        state["history"][name.removeprefix("history.")] = arrays.pop(name).tolist()
    del metadata["spec"]["loss_parameter"], state["dropout_seed"]
    return bytes(save(arrays, metadata={"fastmlp": json.dumps(metadata)}))


def sound_idx(folder: Path) -> list[bytes]:
    """Make images, plain, compressed, and compressed in parts."""
    images = struct.pack(">IIII", 0x803, 30, 4, 5) + bytes(range(200)) * 3
    parts = b"".join(gzip.compress(images[i : i + 100], mtime=0) for i in range(0, len(images), 100))
    return [images, gzip.compress(images, mtime=0), parts]


def sound_npz(folder: Path) -> list[bytes]:
    """Make archives, stored and compressed, of several types and orders."""
    rng = np.random.default_rng(0)
    y = np.arange(40) % 3
    found = []
    for save, X, labels in (
        (np.savez, rng.normal(size=(40, 5)), y), (np.savez_compressed, np.asfortranarray(rng.normal(size=(40, 5))), y),
        (np.savez, rng.integers(0, 255, (40, 3, 3), np.uint8), np.array(["ant", "bee", "cow"])[y]),
        (np.savez_compressed, rng.normal(size=(40, 5)).astype(">f4"), y * 0.5),
    ):  # fmt: skip
        file = io.BytesIO()
        save(file, X=X, y=labels)
        found.append(file.getvalue())
    return found


def damaged_npz(data: bytes, rng: random.Random) -> bytes:
    """Damage an archive, or the header of an array in it."""
    if rng.random() < 0.5:
        return damaged_bytes(data, rng)
    archive = zipfile.ZipFile(io.BytesIO(data))
    members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    old, at = members[name], members[name].index(b"{")
    text = old[at : at + old[at:].index(b"}") + 1].decode()
    values = (
        "(-1,)", "(-40, -5)", "(10**9,)", "(1000000000, 1000000000)", "()", "(0,)", "(4611686018427387904, 4)",
        "(40,)", "'|O'", "'<f4'", "'<U100000'", "'|V0'", "'<c16'", "'<M8[s]'", "[('a', '<f8')]", "'<f99'", "[]",
        "None", "(" * 90, "__import__('os').system('true')",
    )  # fmt: skip
    shape, descr = text[text.index("(") : text.index(")") + 1], text.split(",")[0].split(": ")[1]
    text = text.replace(rng.choice((shape, descr, "True", "False", "'shape'", "'descr'")), rng.choice(values))
    header = text.encode() + b" " * 64 + b"\n"
    members[name] = old[:8] + struct.pack("<H", len(header)) + header + old[at + 118 :]
    file = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as made:
        warnings.simplefilter("ignore")  # Two members of one name are what is wanted.
        for member, content in members.items():
            made.writestr(member if rng.random() < 0.9 else rng.choice(("../X.npy", "/y.npy", "X")), content)
    return file.getvalue()


def sound_csv(folder: Path) -> list[bytes]:
    """Make tables of classes, names and values."""
    rows = np.random.default_rng(0).normal(size=(40, 3))
    return [
        (
            "a,b,c,target\n" + "".join(f"{r[0]:.3f},{r[1]:.3f},{r[2]:.3f},{label(i)}\n" for i, r in enumerate(rows))
        ).encode()
        for label in (lambda i: i % 3, lambda i: ("ant", "bee")[i % 2], lambda i: i / 7)
    ]


def damaged_csv(data: bytes, rng: random.Random) -> bytes:
    """Damage a table, or put something else into a cell."""
    if rng.random() < 0.5:
        return damaged_bytes(data, rng)
    cells = [line.split(b",") for line in data.splitlines()]
    row = rng.choice(cells)
    row[rng.randrange(len(row))] = rng.choice((
        b"", b"nan", b"inf", b"1e999", b"9" * 5000, b'"', b'"a\nb"', b"\0", b"\xff", b"=cmd|' /C calc'!A0", b"1_0",
        b"x" * 200_000, b"x" * 5000, "\u0663".encode(), b"target", b"a", b"../..", b"0x10", b"1,1",
    ))  # fmt: skip
    return rng.choice((b"\n", b"\r\n", b"\r", b"\n\n")).join(b",".join(row) for row in cells)


# --- One try ----------------------------------------------------------------------------------------------------------


def load_model(path: Path) -> None:
    """Load a model; it must be valid."""
    net = MLP.load(path, engine="numpy")
    check_network(net)


def check_network(net: MLP) -> None:
    sizes = net.spec.layer_sizes
    assert [W.shape for W in net.weights] == list(pairwise(sizes))
    assert all(np.isfinite(p).all() and p.dtype == net.spec.dtype for p in (*net.weights, *net.biases))
    assert not any(view.any() for view in net._layout.padding(net._parameters))
    assert net.forward(np.zeros((2, sizes[0]))).shape == (2, sizes[-1])


def load_checkpoint(path: Path) -> None:
    """Load a checkpoint and go on from it; that may be refused, or diverge."""
    net, saved = MLP.load(path, engine="numpy"), SavedNetwork(path)
    check_network(net)
    state, sizes = saved.state, net.spec.layer_sizes
    if state is None:
        return
    assert all(type(n) is int and n >= 0 for n in (state.epoch, state.batch, state.step, state.dropout_seed))
    assert all(type(x) is float for curve in state.history.to_dict().values() for x in curve)
    state.rng.permutation(3)
    optimizers = {0: SGD(0.1), 1: SGD(0.1, momentum=0.9)}
    y = np.zeros((20, sizes[-1])) if net.spec.loss != "softmax_cross_entropy" else np.arange(20) % sizes[-1]
    with contextlib.suppress(ValueError, DivergenceError):  # The file is sound, and may be of another run than this.
        net.fit(
            np.ones((20, sizes[0])), y, epochs=min(state.epoch, 2**40) + 1, batch_size=4, state=state,
            optimizer=optimizers.get(len(state.slots), Adam()), average=None if state.unaveraged is None else 0.9,
            progress=lambda _: True,
        )  # fmt: skip
    check_network(net)


def load_idx(path: Path) -> None:
    """Load a folder whose training images are this file."""
    data = load_dataset(path.parent, raw=True)
    assert data.X_train.dtype == np.uint8
    assert data.X_train.shape[0] == len(data.y_train) == 30


def load_table(path: Path) -> None:
    """Load an archive or a table."""
    data = load_dataset(path, raw=True, target=None if path.suffix == ".npz" else "target")
    assert np.isfinite(data.X_train).all()
    assert np.isfinite(data.y_train).all()


def labels_beside(folder: Path) -> None:
    """Write what belongs to the damaged images."""
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 30) + bytes(range(3)) * 10)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 2) + b"\0\1")
    (folder / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 2, 4, 5) + bytes(40))


KINDS: dict[str, tuple[Any, ...]] = {
    "model": ("net.safetensors", sound_models, damaged_model, load_model, ModelFileError),
    "checkpoint": ("run.safetensors", sound_checkpoints, damaged_model, load_checkpoint, ModelFileError),
    "idx": ("train-images-idx3-ubyte", sound_idx, damaged_bytes, load_idx, ValueError),
    "npz": ("table.npz", sound_npz, damaged_npz, load_table, ValueError),
    "csv": ("table.csv", sound_csv, damaged_csv, load_table, ValueError),
}


class Watch:
    """Sees, by Python's audit events, which files are opened while `on`, and whether code is run."""

    def __init__(self) -> None:
        self.on, self.opened, self.ran = False, set(), set()  # type: ignore[var-annotated]
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event == "open":
            self.opened.add(os.path.basename(str(arguments[0])))
        elif self.on and event in RUNS_CODE:
            self.ran.add(event)


def run(kind: str, seed: int, tries: int) -> dict[str, Any]:
    """Try so often, and report."""
    name, make_sound, damage, load, error_type = KINDS[kind]
    warnings.simplefilter("error")
    np.seterr(all="ignore")  # A network of huge weights overflows: that is arithmetic.
    rng, watch, messages, wrong = random.Random(seed), Watch(), Counter(), []  # type: ignore[var-annotated]
    loaded = peak = 0
    slowest = 0.0
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as temporary:
        sound, folder = make_sound(Path(made)), Path(temporary)
        path = folder / name
        if kind == "idx":
            labels_beside(folder)
        for data in sound:  # They are sound, and this imports what is imported late.
            path.write_bytes(data)
            load(path)
        own = set(os.listdir(folder))
        # A table's error may name the column instead of the file.
        named = [str(path)] if error_type is ModelFileError else [str(folder), "column '", "labels '", "target "]
        tracemalloc.start()
        for i in range(tries):
            data = damage(rng.choice(sound), rng)
            path.write_bytes(data)
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            started, problem, watch.on = time.process_time(), "", True
            try:
                load(path)
                loaded += 1
            except error_type as error:
                message = str(error)
                if "\n" in message or len(message) > 600 or not any(part in message for part in named):
                    problem = f"a message that is not one clear line: {message[:300]!r}"
                messages[message.replace(str(path), "PATH")[:60]] += 1
            except BaseException as error:
                problem = repr(error)[:300]
            watch.on = False
            slowest = max(slowest, time.process_time() - started)
            used = tracemalloc.get_traced_memory()[1] - before
            peak = max(peak, used - len(data))
            if used > len(data) + ALLOWANCE:
                problem = f"allocated {used} bytes for a file of {len(data)}"
            if watch.ran or not watch.opened <= own:
                problem = f"ran {watch.ran}, opened {watch.opened - own}"
            watch.ran.clear()
            watch.opened.clear()
            if problem:
                wrong.append(f"try {i}: {problem}")
    return {
        "tried": tries, "loaded": loaded, "refused": sum(messages.values()), "kinds of refusal": len(messages),
        "peak beyond the file": peak, "slowest": slowest, "wrong": wrong[:20], "n_wrong": len(wrong),
        "messages": messages.most_common(400),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
