"""Promise 2: model files and checkpoints are data, never code, and a damaged one is refused and harms nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import damage
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fastmlp
from fastmlp import MLP, Adam, ModelFileError
from fastmlp.checkpoint import SavedNetwork
from fastmlp.options import UsageError, parse_options
from fastmlp.tensorfile import TensorFile

ALLOWANCE = damage.ALLOWANCE


def run_damage(kind: str, seed: int, tries: int) -> dict[str, Any]:
    """Load so many damaged files in a child process, where a crash would be seen."""
    done = subprocess.run(
        [sys.executable, damage.__file__, kind, str(seed), str(tries)],
        capture_output=True, text=True, timeout=60 + tries / 50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stderr[-2000:]}"
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize(("kind", "share"), [("model", 0.6), ("checkpoint", 0.4)])
def test_damaged_files(kind: str, share: float, promise: Any, count: Any) -> None:
    tries = round(share * count(10_000, 500_000))
    for seed in range(0, tries, 10_000):
        n = min(10_000, tries - seed)
        with promise(f"2 a damaged {kind} file is refused, or is valid; code, other files, memory: none", n):
            report = run_damage(kind, seed, n)
            assert report["wrong"] == []
            # The damage is neither trivial nor without effect.
            assert report["refused"] > n / 2
            assert report["loaded"] > n / 50
            assert report["kinds of refusal"] > 40
            assert report["slowest"] < 5


@pytest.mark.parametrize(
    ("name", "number", "sound"),
    [
        ("weights.0", np.nan, False), ("weights.1", np.inf, False), ("biases.0", -np.inf, False),
        ("slots.0", np.nan, False), ("slots.1", np.nan, False), ("slots.1", np.inf, True),  # A square that grew so.
        ("history.validation_loss", np.nan, True), ("history.train_loss", np.inf, True),
    ],
)  # fmt: skip
def test_numbers_that_are_none(
    name: str, number: float, sound: bool, checkpoints: list[bytes], tmp_path: Path, promise: Any
) -> None:
    path = tmp_path / "run.safetensors"
    header, _, arrays = damage.opened(checkpoints[0])
    begin, end = header[name]["data_offsets"]
    wide = 4 if header[name]["dtype"] == "F32" else 8
    for at in (begin, begin + (end - begin) // 2 // wide * wide):
        if name.startswith("slots") and at > begin:
            at = begin + wide  # In the middle there may be padding.
        changed = arrays[:at] + struct.pack("<f" if wide == 4 else "<d", number) + arrays[at + wide :]
        path.write_bytes(damage.written(header, changed))
        with promise("2 NaN and infinity are refused where no run leaves them"):
            if sound:
                SavedNetwork(path)
            else:
                refused(path, f"array {name} must hold numbers that can be computed with, got {number}")


def with_header(text: str, arrays: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + arrays


def test_what_is_wrong_is_named(checkpoints: list[bytes], tmp_path: Path, promise: Any) -> None:
    """Each rule by itself: damage at random may break several at once, or give something that is valid by chance."""
    path = tmp_path / "run.safetensors"

    def forged(change: Callable[[dict[str, Any], dict[str, Any]], object], rule: str) -> None:
        header, metadata, arrays = damage.opened(checkpoints[0])
        change(header, metadata)
        header["__metadata__"]["fastmlp"] = json.dumps(metadata)
        path.write_bytes(damage.written(header, arrays))
        with promise("2 each rule of the format, broken by itself, is named"):
            refused(path, rule)

    forged(lambda h, m: h["slots.0"].update(data_offsets=h["slots.1"]["data_offsets"]), "must begin at byte")
    forged(lambda h, m: h["weights.0"].update(shape=[24]), "array weights.0 must be (4, 6) of float32")
    forged(lambda h, m: h["weights.0"].update(shape=[6, 4]), "array weights.0 must be (4, 6) of float32, got (6, 4)")
    forged(lambda h, m: h["weights.0"].update(shape=[2, 6], dtype="F64"), "array weights.0 must be (4, 6) of float32")
    forged(lambda h, m: h["slots.0"].update(dtype="I32"), "array 'slots.0' must have a dtype of F32, F64, got 'I32'")
    forged(lambda h, m: h.update({"../x": h.pop("slots.1")}), "arrays must all be of this network, got '../x' too")
    forged(lambda h, m: h.update({"slots.2": h.pop("slots.0")}), "array slots.0 must be there, got nothing")
    forged(lambda h, m: m["state"].update(epoch=2), "must have one entry for each of the 2 epochs, got 3")
    forged(lambda h, m: m["state"].update(step=2**60), "step must be <= 9007199254740992, got 1152921504606846976")
    forged(lambda h, m: m["state"].update(batch=-1), "batch must be >= 0, got -1")
    forged(lambda h, m: m["state"]["rng"].update(bit_generator="MT19937"), "rng.bit_generator must be one of PCG64")
    forged(lambda h, m: m["state"]["rng"]["state"].update(inc=2), "rng.inc must be odd, got 2")
    forged(lambda h, m: m["state"]["rng"].update(uinteger=2**32), "rng.uinteger must be >= 0 and < 4294967296")
    forged(lambda h, m: m["state"].update(is_over=1), "is_over must be true or false, got 1")
    forged(lambda h, m: m["state"].update(loss_sum=10**400), "loss_sum must be a number, got 1000")

    header, _, arrays = damage.opened(checkpoints[0])
    text = json.dumps(header)
    deep = "[" * 200_000 + "]" * 200_000
    for broken, rule in (
        (text.replace('"weights.0":', '"weights.1": {}, "weights.0":', 1), "the name 'weights.1' more than once"),
        (text.replace('\\"seed\\":', '\\"seed\\": 0, \\"seed\\":', 1), "the name 'seed' more than once"),
        (text[:-1] + ', "x": ' + deep + "}", "the header must be JSON, got: maximum recursion depth exceeded"),
        (text + " " * (1 << 20), "the header must be <= 1048576 bytes, got "),
    ):
        path.write_bytes(with_header(broken, arrays))
        with promise("2 each rule of the format, broken by itself, is named"):
            refused(path, rule)
    path.write_bytes(checkpoints[0] + b"\0")
    with promise("2 each rule of the format, broken by itself, is named"):
        refused(path, "the arrays must end with the file")


# --- Any bytes, any JSON: hypothesis ----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["relu", "mean", "float32"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=12,
)


def loads_or_is_refused(path: Path) -> None:
    """Load a file. `MLP.load` gives a valid network or raises ModelFileError, which names the file, on one line."""
    try:
        damage.load_checkpoint(path)
    except ModelFileError as error:
        message = str(error)
        assert message.startswith(str(path))
        assert "\n" not in message
        assert len(message) < 600


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return damage.sound_checkpoints(tmp_path_factory.mktemp("sound"))


def test_any_json_in_any_field(checkpoints: list[bytes], tmp_path: Path, promise: Any, count: Any) -> None:
    path = tmp_path / "run.safetensors"

    @settings(max_examples=count(1000, 50_000), deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        header, metadata, arrays = damage.opened(data.draw(st.sampled_from(checkpoints)))
        tree = data.draw(st.sampled_from([metadata, {k: v for k, v in header.items() if k != "__metadata__"}]))
        container, key = data.draw(st.sampled_from(damage.places(tree)))
        container[key] = data.draw(JSON)
        if tree is metadata:
            header["__metadata__"]["fastmlp"] = json.dumps(metadata)
        else:
            header.update(tree)
        path.write_bytes(damage.written(header, arrays))
        with promise("2 any JSON in any field of a checkpoint (hypothesis)"), np.errstate(all="ignore"):
            loads_or_is_refused(path)

    check()


def test_any_bytes(tmp_path: Path, promise: Any, count: Any) -> None:
    path = tmp_path / "net.safetensors"

    @settings(max_examples=count(500, 20_000), deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=300), st.booleans())
    def check(data: bytes, with_length: bool) -> None:
        path.write_bytes((struct.pack("<Q", len(data)) if with_length else b"") + data)
        with promise("2 any bytes (hypothesis)"), pytest.raises(ModelFileError):
            MLP.load(path, engine="numpy")

    check()


def test_forged_options_of_a_run(tmp_path: Path, promise: Any, count: Any) -> None:
    """What ``--resume`` reads is refused in one line, or is what the command line could have said."""
    path, rng = tmp_path / "checkpoint.safetensors", random.Random(0)
    net = MLP([4, 5, 3], engine="numpy")
    options = dataclasses.asdict(parse_options(["--hidden=5", "--lr=0.05", "--threads=2"]))
    net.notes = {"n_train": 20, "options": options}
    net.save(path, net.training_state(Adam()))
    header, metadata, arrays = damage.opened(path.read_bytes())
    accepted, messages = 0, []
    for _ in range(count(300, 10_000)):
        forged = json.loads(json.dumps(metadata))
        damage.damage_tree(forged["notes"], rng)
        header["__metadata__"]["fastmlp"] = json.dumps(forged)
        path.write_bytes(damage.written(header, arrays))
        with promise("2 forged options of a run are refused, or could have been given"):
            try:
                resumed = parse_options(["--resume", str(tmp_path)])
            except (UsageError, ValueError) as error:
                messages.append(str(error))
            else:
                accepted += 1
                assert type(resumed.epochs) is type(resumed.batch_size) is type(resumed.seed) is int
                assert type(resumed.dataset) is type(resumed.optimizer) is type(resumed.schedule) is str
    assert accepted > 30
    assert len(messages) > 30
    assert not any("\n" in message for message in messages)


# --- Code -------------------------------------------------------------------------------------------------------------


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def bombs(made: Path) -> dict[str, bytes]:
    """Give files that run code where they are unpickled."""
    found = {f"pickle, protocol {p}": pickle.dumps(Bomb(made), p) for p in range(pickle.HIGHEST_PROTOCOL + 1)}
    header = json.dumps({"__metadata__": {"fastmlp": json.dumps({"format_version": 1, "spec": {}})}}).encode()
    found["a pickle behind a header"] = struct.pack("<Q", len(header)) + header + pickle.dumps(Bomb(made))
    return found


def test_no_file_is_unpickled(tmp_path: Path, promise: Any) -> None:
    path, made = tmp_path / "net.safetensors", tmp_path / "made"
    with zipfile.ZipFile(tmp_path / "torch", "w") as archive:  # As torch.save packs one.
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(made), 2))
    files = {**bombs(made), "an archive of a pickle": (tmp_path / "torch").read_bytes()}
    for data in files.values():
        path.write_bytes(data)
        with promise("2 a model file that would run code runs none"):
            with pytest.raises(ModelFileError):
                MLP.load(path, engine="numpy")
            assert not made.exists()
    pickle.loads(pickle.dumps(Bomb(made)))
    assert made.exists()  # The bombs are live.


def test_what_cannot_be_read_is_not_waited_for(tmp_path: Path, promise: Any) -> None:
    """A pipe that nobody writes to, a device without an end."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes on this system")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/tty"), tmp_path):
        if path.exists():
            with (
                promise("2 pipes, devices and folders are refused"),
                pytest.raises(ModelFileError, match="regular file"),
            ):
                MLP.load(path, engine="numpy")


def test_a_file_cut_while_it_is_read(tmp_path: Path, promise: Any) -> None:
    """A reader that maps the file would be killed by SIGBUS."""
    path = tmp_path / "net.safetensors"
    for cut in (0, 4096, 500_000):
        MLP([1000, 200], engine="numpy").save(path)
        with promise("2 a file is cut while it is read"), TensorFile(str(path)) as file:
            os.truncate(path, cut)
            with pytest.raises(ValueError, match=r"^array weights\.0 must be whole, got the end of the file$"):
                file.read("weights.0", np.empty((1000, 200), np.float32))


# --- Memory -----------------------------------------------------------------------------------------------------------


def peak_of(load: Callable[[], object]) -> int:
    """Give the most memory that Python and NumPy had allocated at once while this was loaded."""
    tracemalloc.start()
    try:
        load()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def resident_peak() -> int:
    """Give the most memory that this process has had, where the system tells."""
    if not sys.platform.startswith("linux"):
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_memory_of_large_files(tmp_path: Path, promise: Any, count: Any) -> None:
    """The file's size and 64 MB hold for large files too, whole or damaged at their very end."""
    n = count(5000, 16_000)  # 100 MB, 1 GB.
    path = tmp_path / "net.safetensors"
    net = MLP([n, n], engine="numpy", loss="squared_error")
    state = net.training_state(Adam())
    del state.slots[1]  # The file is then twice the weights.
    net.save(path, state)
    del net, state
    size = path.stat().st_size
    name = "2 loading allocates no more than the file's size plus 64 MB, for large files"
    before = resident_peak()
    with promise(name):
        peak = peak_of(lambda: MLP.load(path, engine="numpy"))
        assert size < peak < size + ALLOWANCE
        assert resident_peak() - before < size + ALLOWANCE
    with path.open("r+b") as file:
        file.seek(size - 4)
        file.write(struct.pack("<f", np.nan))
    with promise(name):
        assert peak_of(lambda: refused(path, "must hold numbers that can be computed with, got nan")) < size + ALLOWANCE
    os.truncate(path, size - 1)
    with promise(name):
        assert peak_of(lambda: refused(path, "the arrays must end with the file")) < 1 << 20


def refused(path: Path, rule: str) -> None:
    """Load a file that must be refused, for this reason."""
    with pytest.raises(ModelFileError) as error:
        MLP.load(path, engine="numpy")
    assert str(error.value).startswith(str(path))
    assert rule in str(error.value)


@pytest.mark.parametrize("sizes", [[10**9, 10**9], [2**31, 2**33], [10**18, 10**18], [1, 10**12, 1]])
@pytest.mark.parametrize("in_arrays", [False, True])
def test_sizes_beyond_any_memory(sizes: list[int], in_arrays: bool, tmp_path: Path, promise: Any) -> None:
    path = tmp_path / "net.safetensors"
    MLP([4] * len(sizes), engine="numpy").save(path)
    header, metadata, arrays = damage.opened(path.read_bytes())
    metadata["spec"]["layer_sizes"] = sizes
    header["__metadata__"]["fastmlp"] = json.dumps(metadata)
    end = 0
    for i, (n_in, n_out) in enumerate(pairwise(sizes) if in_arrays else ()):
        for name, shape in ((f"weights.{i}", [n_in, n_out]), (f"biases.{i}", [n_out])):
            begin, end = end, end + 4 * int(np.prod(shape, dtype=object))
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    path.write_bytes(damage.written(header, arrays))
    rule = "the arrays must end with the file" if in_arrays else "array weights.0 must be"
    with promise("2 sizes beyond any memory are refused before memory is asked for"):
        assert peak_of(lambda: refused(path, rule)) < 1 << 20


def test_headers_that_grow_when_they_are_parsed(tmp_path: Path, promise: Any) -> None:
    path = tmp_path / "net.safetensors"
    n = (1 << 20) - 100
    # Short texts of large values, at the bound; and files whose headers are as long as they say, and beyond it.
    for item in ('{"":{"":0}}', '{"":[]}', "[]", '"\u20ac\u20ac"', "[[[]]]", "1e9"):
        text = "[" + ",".join([item] * (n // (len(item.encode()) + 1))) + "]"
        for data in (text.encode(), ('{"a":' + text + "}").encode(), ('{"a":' + text + "}").encode() * 20):
            path.write_bytes(struct.pack("<Q", len(data)) + data)
            with promise("2 a header that grows when it is parsed stays within the bound"):
                assert peak_of(lambda: refused(path, "must")) < len(data) + ALLOWANCE


# --- Old and new files ------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_the_first_version(checkpoints: list[bytes], tmp_path: Path, promise: Any) -> None:
    """Without `loss_parameter`, `dropout_seed` and `unaveraged`, the history in the metadata: it resumes as the new."""
    paths = [tmp_path / "old.safetensors", tmp_path / "new.safetensors"]
    for path, data in zip(paths, (checkpoints[-1], checkpoints[0]), strict=True):
        path.write_bytes(data)
    assert '"format_version": 1' in json.dumps(damage.opened(checkpoints[-1])[1])
    with promise("2 files of the older format version are read"):
        weights = []
        for path in paths:
            net, state = MLP.load(path, engine="numpy"), SavedNetwork(path).state
            assert state is not None
            assert len(state.history.train_loss) == state.epoch == 3
            rng = np.random.default_rng(0)
            X, y = rng.normal(size=(20, 4)), rng.integers(0, 3, 20)
            net.fit(X, y, epochs=5, batch_size=4, optimizer=Adam(), state=state, validation_data=(X, y))
            assert len(state.history.validation_accuracy) == 5
            weights.append(net.weights[0])
        assert_array_equal(*weights)


def test_newer_files(checkpoints: list[bytes], tmp_path: Path, promise: Any) -> None:
    """Unknown fields are passed over; unknown arrays, and unknown versions, are not."""
    path = tmp_path / "run.safetensors"
    header, metadata, arrays = damage.opened(checkpoints[0])

    def write(**changes: Any) -> None:
        header["__metadata__"]["fastmlp"] = json.dumps(metadata | changes)
        path.write_bytes(damage.written(header, arrays))

    with promise("2 files of newer versions: read where they can be, refused with the advice to upgrade"):
        write(hardware={"cpu": "x"}, spec=metadata["spec"] | {"pruning": 0.5}, state=metadata["state"] | {"tau": 1})
        before = SavedNetwork(path)
        write()
        assert before.spec == SavedNetwork(path).spec
        write(format_version=99)
        refused(path, "has format version 99, this fastmlp reads up to 2: upgrade fastmlp")
        header["../ema.0"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        write()
        refused(path, "arrays must all be of this network, got '../ema.0' too")


def test_what_is_saved_can_be_read(tmp_path: Path, promise: Any) -> None:
    """The longest notes and histories are read again, or are not written."""
    net = MLP([2, 3, 2], engine="numpy")
    state = net.training_state(Adam())
    state.epoch = 300_000
    for name in ("train_loss", "learning_rate", "seconds", "validation_loss", "validation_accuracy"):
        setattr(state.history, name, [0.1, float("nan"), float("inf")] * 100_000)
    path = tmp_path / "run.safetensors"
    with promise("2 what is saved can be read"):
        net.notes = {"class_names": ["name"] * 100_000}
        net.save(path, state)
        net.notes = {"class_names": ["name"] * 1_000_000}
        back = SavedNetwork(path)
        assert back.state is not None
        assert_array_equal(back.state.history.validation_loss, state.history.validation_loss)
        with pytest.raises(ValueError, match=r"^notes must leave the file a header of <= 1048576 bytes, got \d+$"):
            net.save(path, state)
        assert len(SavedNetwork(path).notes["class_names"]) == 100_000


def test_the_error_is_public() -> None:
    assert issubclass(fastmlp.ModelFileError, ValueError)
    assert "ModelFileError" in fastmlp.__all__
