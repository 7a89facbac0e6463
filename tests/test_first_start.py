"""The first start: a second process compiles some of the kernels, and nothing that befalls it matters."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmlp.kernels import cache as disk
from fastmlp.kernels import first_start
from fastmlp.kernels.native import Kernel, activation_kernels

pytestmark = pytest.mark.skipif(os.name != "posix", reason="its false Pythons are scripts")

FLOAT32 = np.dtype(np.float32)
KEYS = [part.key for name in ("relu", "elu") for part in activation_kernels(name)]

TAKES_THE_LAST = """
import json, os, sys, time
from pathlib import Path
folder, dtype, taken, keys = json.loads(sys.argv[3])
Path({told!r}).write_text(str(os.getpid()))
Path(taken, keys[-1]).touch()
{then}
"""
"""A second process that takes a kernel and does not compile it."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new cache, here and in children: where its kernels will be."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    disk.cache_folder.cache_clear()
    folder = disk.cache_folder()
    assert folder is not None
    yield folder
    disk.cache_folder.cache_clear()


def compile_all(cpus: int = 2) -> list[str]:
    """Compile kernels that this process does not have, and give the names of those that were compiled here."""
    here: list[str] = []
    save = disk.save

    def note(name: str, body: bytes) -> None:
        here.append(name)
        save(name, body)

    kernels = [Kernel(key) for key in KEYS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "save", note)
        first_start.compile_together(kernels, FLOAT32, cpus)
        assert all(each.address(FLOAT32) for each in kernels)
    return here


def false_python(folder: Path, then: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a script in the place of Python; give where it will say its number."""
    script, program, told = folder / "python-false", folder / "program.py", folder / "told"
    program.write_text(TAKES_THE_LAST.format(told=str(told), then=then))
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{program}' \"$@\"\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return told


def wait_for(path: Path) -> None:
    latest = time.monotonic() + 60
    while not path.exists() and time.monotonic() < latest:
        time.sleep(0.01)


@pytest.fixture
def after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process take nothing before the second one has taken the last."""
    take = first_start.take

    def take_late(taken: str, key: str) -> bool:
        wait_for(Path(taken, KEYS[-1]))
        return take(taken, key)

    monkeypatch.setattr(first_start, "take", take_late)


def is_gone(told: Path) -> bool:
    try:
        os.kill(int(told.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.usefixtures("after_the_other")
def test_the_second_process_compiles_from_the_end_on(cache: Path) -> None:
    here = compile_all()
    files = {f"{key}_float32.kernel" for key in KEYS}
    assert {path.name for path in cache.iterdir()} == files | {"float32.begun"}
    assert f"{KEYS[-1]}_float32.kernel" not in here
    assert set(here) < files
    assert compile_all() == []


def test_one_process_alone_on_one_cpu_or_later(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_start.subprocess, "Popen", lambda *arguments, **options: pytest.fail("was started"))
    assert len(compile_all(cpus=1)) == len(KEYS)
    assert compile_all(cpus=2) == []  # The cache is there.


@pytest.mark.usefixtures("after_the_other")
@pytest.mark.parametrize("then", ["", "sys.exit(3)", "os.abort()", "time.sleep(600)"])
def test_what_the_second_process_leaves_is_compiled_here(
    then: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = false_python(tmp_path, then, monkeypatch)
    monkeypatch.setattr(first_start, "PATIENCE", 0.5)
    assert sorted(compile_all()) == sorted(f"{key}_float32.kernel" for key in KEYS)
    assert is_gone(told)


def test_one_that_cannot_be_started_is_done_without(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    assert len(compile_all()) == len(KEYS)


def test_an_interruption_ends_it(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = false_python(tmp_path, "time.sleep(600)", monkeypatch)

    def interrupted(taken: str, key: str) -> bool:
        wait_for(Path(taken, KEYS[-1]))
        raise KeyboardInterrupt

    monkeypatch.setattr(first_start, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compile_all()
    assert is_gone(told)


def test_a_first_start_is_the_first_in_a_dtype(cache: Path) -> None:
    Kernel(KEYS[0]).address(FLOAT32)  # As when `predict` comes before any fit.
    for dtype in (FLOAT32, np.dtype(np.float64)):
        assert first_start.is_first_start(dtype)
        assert not first_start.is_first_start(dtype)


def test_what_is_in_memory_asks_no_file(cache: Path) -> None:
    """Every fit asks for its kernels: those of small networks must not wait for a disk each time."""
    kernels = [Kernel(key) for key in KEYS]
    assert not any(each.is_linked(FLOAT32) for each in kernels)
    first_start.compile_together(kernels, FLOAT32, cpus=1)
    assert all(each.is_linked(FLOAT32) for each in kernels)
    shutil.rmtree(cache)
    first_start.compile_together(kernels, FLOAT32, cpus=2)
    assert not cache.exists()


@pytest.mark.parametrize("executable", ["", None, "/usr/bin/uwsgi", "/opt/blender"])
def test_no_program_but_python_is_started(executable: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    assert not first_start.is_first_start(FLOAT32)
    assert not cache.exists()


def test_no_frozen_program_is_started(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not first_start.is_first_start(FLOAT32)


def test_no_folder_no_first_start(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    assert not first_start.is_first_start(FLOAT32)


def test_another_cache_s_process_takes_nothing(tmp_path: Path) -> None:
    """One with other sources, another Numba, or another folder would compile what nobody loads."""
    first_start.compile_from_the_end("another folder", "float32", str(tmp_path), KEYS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("after_the_other")
def test_nothing_is_imported_from_the_working_directory(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path] + [tmp_path])  # A slip that Python bears.
    assert len(compile_all()) < len(KEYS)
    assert not (tmp_path / "imported").exists()


def test_no_process_may_be_started(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no processes here")

    monkeypatch.setattr(first_start.subprocess, "Popen", refuse)
    assert len(compile_all()) == len(KEYS)


def test_a_slow_one_that_has_taken_nothing_is_not_waited_for(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python-slow"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(first_start, "PATIENCE", 600.0)
    started = time.monotonic()
    assert len(compile_all()) == len(KEYS)
    assert time.monotonic() - started < 60


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    task = json.dumps(["another folder", "float32", str(tmp_path / "taken"), []])
    code = f"import os; os._exit = print; from fastmlp.kernels import first_start as f; f.help_out({task!r})"
    code += "; import time; time.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment) as child:
        assert child.stdin is not None
        child.stdin.close()
        latest = time.monotonic() + 60
        while (tmp_path / "taken").exists() and time.monotonic() < latest:
            time.sleep(0.01)
        child.kill()
    assert not (tmp_path / "taken").exists()
