"""Ctrl-C, SIGTERM and a run with checkpoints: it leaves one first, and then the signal does what it always does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from short_run import ARGUMENTS, X, Y, assert_same, network, saved_state

from fastmlp import History, Progress, training
from fastmlp.stopping import signals_held


def test_ctrl_c_leaves_a_checkpoint_first(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    whole, net = network(engine), network(engine)
    whole.fit(X, Y, **ARGUMENTS)

    def interrupt(progress: Progress) -> None:
        if progress.step == 13:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, Y, **ARGUMENTS, checkpoint=tmp_path, checkpoint_every=100, progress=interrupt)
    assert saved_state(tmp_path).step == 13
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    # In the same process, with the same network.
    net.fit(X, Y, **ARGUMENTS, checkpoint=tmp_path, resume=True)
    assert_same(net, whole)
    assert net._fits == 1


@pytest.mark.parametrize("stops", [False, True])
def test_a_programs_own_handler_is_called_after_the_checkpoint(
    stops: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    seen: list[tuple[int, int]] = []

    def handler(number: int, frame: Any) -> None:
        seen.append((number, saved_state(tmp_path).step))
        if stops:
            raise SystemExit(3)

    def ask(progress: Progress) -> None:
        if progress.step in (3, 16, 32):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        arguments: dict[str, Any] = {"checkpoint": tmp_path, "checkpoint_every": 100, "progress": ask}
        if stops:
            with pytest.raises(SystemExit):
                network("numpy").fit(X, Y, **ARGUMENTS, **arguments)
        else:
            assert len(network("numpy").fit(X, Y, **ARGUMENTS, **arguments).train_loss) == 4
        assert signal.getsignal(signal.SIGTERM) == handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [(signal.SIGTERM, step) for step in ([3] if stops else [3, 16, 32])]


def test_a_signal_during_the_last_checkpoint_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def interrupted(source: Any, target: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        network("numpy").fit(X, Y, **ARGUMENTS, checkpoint=tmp_path, checkpoint_every=100)
    assert saved_state(tmp_path).epoch == 4


def test_a_ctrl_c_while_compiling_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("numpy")
    monkeypatch.setattr(type(net._engine), "compile", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, Y, **ARGUMENTS, checkpoint=tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="event loops have no signal handlers there")
def test_an_event_loop_hears_of_a_signal_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    heard: list[int] = []

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: heard.append(1))

        def ask(progress: Progress) -> None:
            if progress.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        network("numpy").fit(X, Y, **ARGUMENTS, checkpoint=tmp_path, progress=ask)
        await asyncio.sleep(0.05)

    asyncio.run(main())
    assert heard == [1]


@pytest.mark.parametrize("when", ["during", "after"])
def test_a_handler_that_a_callback_sets_may_call_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(training, "CALL_SECONDS", 0.0)
    before, steps = signal.getsignal(signal.SIGINT), []

    def chain(progress: Progress) -> None:
        if progress.step == 2:
            earlier: Any = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, lambda *arguments: earlier(*arguments))
        if progress.step == 5 and when == "during":
            os.kill(os.getpid(), signal.SIGINT)
        steps.append(progress.step)

    try:
        if when == "after":
            network("numpy").fit(X, Y, **ARGUMENTS, checkpoint=tmp_path, progress=chain)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        else:
            with pytest.raises(KeyboardInterrupt):
                network("numpy").fit(X, Y, **ARGUMENTS, checkpoint=tmp_path, progress=chain)
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps[-1] == (5 if when == "during" else 32)


def test_handlers_that_a_callback_sets_stay(tmp_path: Path) -> None:
    def handler(number: int, frame: Any) -> None:
        pass

    before = signal.getsignal(signal.SIGTERM)
    try:
        set_it = [lambda history: signal.signal(signal.SIGTERM, handler) and None]
        network("numpy").fit(X, Y, **ARGUMENTS, checkpoint=tmp_path, callbacks=set_it)
        assert signal.getsignal(signal.SIGTERM) == handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_children_that_a_callback_forks_end_at_the_first_signal(how: signal.Signals, tmp_path: Path) -> None:
    """As ``multiprocessing.Pool`` asks its workers to: it would wait for ever for one that does not."""
    ends: list[int] = []

    def fork(history: History) -> None:
        child = os.fork()
        if child == 0:
            try:
                os.kill(os.getpid(), how)
            except KeyboardInterrupt:
                os._exit(130)
            os._exit(0)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    network("numpy").fit(X, Y, epochs=2, checkpoint=tmp_path, callbacks=[fork])
    assert ends == [130 if how == signal.SIGINT else -how] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fit_in_a_forked_child_leaves_its_own_checkpoint(tmp_path: Path) -> None:
    ends: list[int] = []

    def fork(history: History) -> None:
        child = os.fork()
        if child == 0:
            try:
                stop = {"progress": lambda progress: os.kill(os.getpid(), signal.SIGTERM)}
                network("numpy").fit(X, Y, **ARGUMENTS, checkpoint=tmp_path / "child", **stop)
            finally:
                os._exit(1)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    network("numpy").fit(X, Y, epochs=1, checkpoint=tmp_path, callbacks=[fork])
    assert ends == [-signal.SIGTERM]
    assert saved_state(tmp_path / "child").step == 1


def test_other_threads_leave_checkpoints_and_no_handlers(engine: str, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[Any] = []

    def look(history: History) -> None:
        seen.append(signal.getsignal(signal.SIGINT))

    arguments = {**ARGUMENTS, "checkpoint": tmp_path, "callbacks": [look]}
    thread = threading.Thread(target=network(engine).fit, args=(X, Y), kwargs=arguments)
    thread.start()
    thread.join()
    assert seen == [before] * 4
    assert saved_state(tmp_path).epoch == 4


# --- While Numba is imported ------------------------------------------------------------------------------------------


INTERRUPTED_IMPORTS = """
import signal, sys, threading, numpy as np
from fastmlp import kernels

def ring(*_):
    raise TimeoutError

class Bell:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("numba.") and threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGTERM)

signal.signal(signal.SIGTERM, ring)
sys.meta_path.insert(0, Bell())
try:
    kernels.relu(np.array([[-1.0, 2.0]]))
except TimeoutError:
    print("late")
print(kernels.relu(np.array([[-1.0, 2.0]])).tolist())
thread = threading.Thread(target=lambda: print(kernels.tanh(np.zeros((1, 1))).tolist()))
thread.start()
thread.join()
"""


def test_a_timeout_waits_for_the_import_of_numba(tmp_path: Path) -> None:
    """Which cannot be imported again where an exception has broken it off. With each of its modules, one comes."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORTS], env=environment, capture_output=True, text=True, check=False
    )
    assert run.stdout == "late\n[[0.0, 2.0]]\n[[0.0]]\n", run.stderr


def test_signals_that_were_held_are_all_handled_in_the_end() -> None:
    seen: list[int] = []

    def fail(number: int, frame: Any) -> None:
        seen.append(number)
        raise TimeoutError(number)

    def hold() -> None:
        with signals_held():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
            assert seen == []

    handlers = {number: signal.signal(number, fail) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(TimeoutError):
            hold()
        assert seen == [signal.SIGINT, signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is fail
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_that_is_forked_while_signals_are_held_obeys_them() -> None:
    before = signal.signal(signal.SIGTERM, lambda number, frame: os._exit(7))
    try:
        with signals_held():
            child = os.fork()
            if child == 0:
                signal.raise_signal(signal.SIGTERM)
                os._exit(0)  # It was noted, for a time that does not come.
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    finally:
        signal.signal(signal.SIGTERM, before)
