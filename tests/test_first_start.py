"""The first start: other processes compile some of the kernels, and nothing that befalls them matters."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastmlp.kernels import cache as disk
from fastmlp.kernels import first_start, jit, native
from fastmlp.kernels.native import Kernel, activation_kernels

pytestmark = pytest.mark.skipif(os.name != "posix", reason="its false Pythons are scripts")

FLOAT32 = np.dtype(np.float32)
KEYS = [part.key for name in ("relu", "elu") for part in activation_kernels(name)]
FILES = [f"{key}_float32.kernel" for key in KEYS]

CLAIMS_THE_LAST = """
import fcntl, json, os, sys, time
from pathlib import Path
folder, dtype, keys = json.loads(sys.argv[3])
claim = open(f"{{folder}}/{{keys[-1]}}_{{dtype}}.claim", "wb")
fcntl.flock(claim, fcntl.LOCK_EX)
Path({told!r}).write_text(str(os.getpid()))
{then}
"""
"""A second process that claims a kernel and does not compile it."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new cache, here and in children: where its kernels will be. Nothing has been waited for yet."""
    monkeypatch.setattr(native, "others", native.Others())
    monkeypatch.setattr(disk, "keeps", True)
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
    program.write_text(CLAIMS_THE_LAST.format(told=str(told), then=then))
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{program}' \"$@\"\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return told


def wait_for(*paths: Path) -> None:
    latest = time.monotonic() + 60
    while not any(path.exists() for path in paths) and time.monotonic() < latest:
        time.sleep(0.001)


@pytest.fixture
def after_the_other(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process compile nothing before the second one has begun with the last."""
    link = Kernel.link_unless_claimed

    def link_late(self: Kernel, dtype: np.dtype) -> bool:
        is_false = Path(sys.executable).name == "python-false"
        last = cache / f"{KEYS[-1]}_float32.kernel"
        wait_for(*([tmp_path / "told"] if is_false else [last, last.with_suffix(".kernel.claim")]))
        return link(self, dtype)

    monkeypatch.setattr(Kernel, "link_unless_claimed", link_late)


def is_gone(told: Path) -> bool:
    try:
        os.kill(int(told.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.usefixtures("after_the_other")
def test_the_second_process_compiles_from_the_end_on(cache: Path) -> None:
    here = compile_all()
    assert {path.name for path in cache.iterdir()} - {f"{FILES[-1]}.claim"} == {*FILES, "float32.begun"}
    assert FILES[-1] not in here
    assert set(here) < set(FILES)
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
    monkeypatch.setattr(native, "PATIENCE", 0.5)
    assert sorted(compile_all()) == sorted(FILES)
    assert is_gone(told)


def test_one_that_cannot_be_started_is_done_without(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    assert len(compile_all()) == len(KEYS)


def test_an_interruption_ends_it(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = false_python(tmp_path, "time.sleep(600)", monkeypatch)

    def interrupted(self: Kernel, dtype: np.dtype) -> bool:
        wait_for(told)
        raise KeyboardInterrupt

    monkeypatch.setattr(Kernel, "link_unless_claimed", interrupted)
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


def test_another_cache_s_process_compiles_nothing(cache: Path) -> None:
    """One with other sources, another Numba, or another folder would compile what nobody loads."""
    first_start.compile_from_the_end("another folder", "float32", KEYS)
    assert not cache.exists()


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
    monkeypatch.setattr(native, "PATIENCE", 600.0)
    started = time.monotonic()
    assert len(compile_all()) == len(KEYS)
    assert time.monotonic() - started < 60


def test_it_ends_with_the_process_that_started_it() -> None:
    code = (
        "import sys, time; from fastmlp.kernels import first_start as f; "
        "f.compile_from_the_end = lambda *_: (print('begun', flush=True), time.sleep(600)); f.help_out(sys.argv[1])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(["", "float32", []])], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=environment,
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        child.stdin.close()
        assert child.wait(60) == 0


# --- Claims -----------------------------------------------------------------------------------------------------------


@contextmanager
def elsewhere(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run code in another process, and wait for its first line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline()
        try:
            yield child
        finally:
            child.kill()


HOLD = """
import time
from contextlib import ExitStack
from fastmlp.kernels import cache
with ExitStack() as claims:
    print(all([claims.enter_context(cache.claim(name)) for name in {names}]), flush=True)
    time.sleep(600)
"""


def test_a_claim_is_one_process_s_at_a_time_until_it_dies(cache: Path) -> None:
    with elsewhere(HOLD.format(names=["one"])) as child:
        with disk.claim("one") as one, disk.claim("other") as other:
            assert (one, other) == (False, True)
        os.kill(child.pid, signal.SIGSTOP)
        with disk.claim("one") as one:
            assert not one
        child.kill()
        child.wait()
        with disk.claim("one") as one:
            assert one
    assert list(cache.iterdir()) == []


def test_what_others_hold_is_waited_for_once_and_then_compiled_here(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen processes, as many as there are kernels: patience is for all of them together."""
    monkeypatch.setattr(native, "PATIENCE", 4.0)
    with elsewhere(HOLD.format(names=FILES)):
        started = time.monotonic()
        assert sorted(compile_all(cpus=1)) == sorted(FILES)
    assert 4.0 <= time.monotonic() - started < 4.0 * len(FILES)


def test_others_stand_still_when_nothing_new_is_theirs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, others = 100.0, native.Others()
    monkeypatch.setattr(native, "others", others)
    monkeypatch.setattr(native.time, "monotonic", lambda: now)

    def answers() -> list[bool]:
        """Look every half of the time that patience lasts."""
        nonlocal now
        said = []
        for _ in range(4):
            said.append(others.stand_still())
            now += native.PATIENCE / 2
        return said

    assert answers() == [False, False, False, True]
    cache.mkdir(parents=True)
    (cache / "theirs.kernel").touch()
    assert answers() == [False, False, False, True]
    Kernel(KEYS[0]).address(FLOAT32)  # Which is this one's.
    assert answers() == [True, True, True, True]
    now += 3600.0
    assert answers() == [False, False, False, True]


def test_a_signal_s_handler_does_not_wait_for_what_it_has_interrupted(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_kernel, inner = jit.compile_kernel, []

    def interrupted(key: str, dtype: np.dtype) -> Any:
        if not inner:
            inner.append(Kernel(key))
            assert inner[0].address(dtype)  # As the handler's call would, in this thread.
        return compile_kernel(key, dtype)

    monkeypatch.setattr(jit, "compile_kernel", interrupted)
    started = time.monotonic()
    assert Kernel(KEYS[0]).address(FLOAT32)
    assert time.monotonic() - started < native.PATIENCE


def test_who_keeps_nothing_claims_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else processes on a full disk would compile the same, one after the other."""
    with elsewhere(HOLD.format(names=FILES[:1])):
        with pytest.warns(RuntimeWarning, match="at each start, because it may not"):
            disk.keep_nothing("it may not")
        started = time.monotonic()
        assert Kernel(KEYS[0]).address(FLOAT32)
        assert time.monotonic() - started < native.PATIENCE


def test_nobody_here_waits_with_a_thread_that_waits(cache: Path) -> None:
    """Others use what is in the cache, and fork; and Ctrl-C ends the wait."""
    Kernel(KEYS[1]).address(FLOAT32)
    with elsewhere(HOLD.format(names=FILES[:1])) as child, ThreadPoolExecutor() as threads:
        waiting = threads.submit(Kernel(KEYS[0]).address, FLOAT32)
        while native.others.looked < 0.0:
            time.sleep(0.001)
        started = time.monotonic()
        assert Kernel(KEYS[1]).address(FLOAT32)
        if (number := os.fork()) == 0:
            os._exit(0)
        os.waitpid(number, 0)
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            Kernel(KEYS[0]).address(FLOAT32)
        assert time.monotonic() - started < 15.0
        assert not waiting.done()
        child.kill()
        assert waiting.result(timeout=60)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_no_file_can_be_locked_all_may_compile(number: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk.fcntl, "flock", refuse)
    with disk.claim("one") as first, disk.claim("one") as second:
        assert (first, second) == (True, True)
    monkeypatch.setattr(sys, "platform", "win32")
    with disk.claim("one") as first, disk.claim("one") as second:
        assert (first, second) == (True, True)


def test_where_nothing_can_be_written_all_may_compile(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    with disk.claim("one") as first, disk.claim("one") as second:
        assert (first, second) == (True, True)


def test_what_another_process_made_meanwhile_is_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Kernel(KEYS[0]).address(FLOAT32)
    content = (cache / FILES[0]).read_bytes()
    (cache / FILES[0]).unlink()
    monkeypatch.setattr(disk, "is_locked_elsewhere", lambda _: bool((cache / FILES[0]).write_bytes(content)) and False)
    monkeypatch.setattr(Kernel, "_compile", lambda *_: pytest.fail("was compiled"))
    assert Kernel(KEYS[0]).address(FLOAT32)
