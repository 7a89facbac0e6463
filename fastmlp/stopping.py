"""Signals that are noted instead of obeyed at once, so that a run, or an import, is first left in a whole state."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a flag and calls `then`; the second does what it always does.

    Does nothing in any thread but the main one, where Python does not set handlers. Nor within another `StopRequest`,
    which is the one that is asked then. Nor in the child of a fork, which has no run to end.

    Attributes
    ----------
    by : str
        Who asked: ``"Ctrl-C"`` or ``"SIGTERM"``; empty if nobody did.
    """

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.by = ""
        self._then = then
        self._number = 0
        self._process = 0
        self._handlers: dict[int, Any] = {}
        self._before: dict[int, Any] = {}  # The first ones: a handler that is set meanwhile may call ours.

    def __enter__(self) -> StopRequest:
        self.watch()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def watch(self) -> None:
        """Begin to note signals."""
        if threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            for number in (signal.SIGTERM, signal.SIGINT):
                handler = signal.getsignal(number)
                other = getattr(handler, "__self__", None)
                is_watched = isinstance(other, StopRequest) and other._process == self._process
                # None was set by C code, and could not be put back. A script's background job ignores Ctrl-C.
                if handler not in (None, signal.SIG_IGN) and not is_watched:
                    self._handlers[number] = handler
                    self._before.setdefault(number, handler)
                    signal.signal(number, self._ask)

    def release(self) -> None:
        """Put the handlers back."""
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._ask:  # A callback may have set another.
                signal.signal(number, handler)
        self._handlers = {}

    def hand_on(self) -> None:
        """Let the signal that was noted do what it does without this; if that is not to end the run, forget it."""
        number, self._number, self.by = self._number, 0, ""
        call_handler(signal.getsignal(number), number, sys._getframe())

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # A worker that a callback has forked: it must not outlive its SIGTERM.
            self.release()
            signal.raise_signal(number)
            return
        if number not in self._handlers:  # Called by a handler that was set meanwhile, when it is not ours any more.
            call_handler(self._before[number], number, frame)
            return
        self.by = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        self._number = number
        self.release()
        self._then()


@contextmanager
def signals_held() -> Iterator[None]:
    """Within it, signals whose handlers are Python's are noted, each once; the handlers are called at its end.

    Around the compiling of a kernel, a second or two: where a handler raises, as a timeout or Ctrl-C does, Numba is
    left half imported, and cannot be imported a second time; and what is raised in LLVM's callbacks is lost. Does
    nothing in any thread but the main one, where handlers run.
    """
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    noted: list[int] = []
    process = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # The child of a fork by another thread, which imports nothing.
            handlers[number](number, frame)
        elif number not in noted:
            noted.append(number)

    if threading.current_thread() is threading.main_thread():
        handlers |= {n: handler for n in signal.valid_signals() if callable(handler := signal.getsignal(n))}
    interruption = None
    try:
        for held in handlers:
            signal.signal(held, note)
        yield
    finally:
        waiting = True
        while waiting:
            try:
                for held, handler in handlers.items():
                    if signal.getsignal(held) is note:
                        signal.signal(held, handler)
                waiting = False
            except BaseException as error:  # noqa: PERF203 - Of a handler that is back, while others are not.
                interruption = error
        with ExitStack() as calls:  # All are called, whether one raises or not.
            for come in reversed(noted):
                calls.callback(handlers[come], come, sys._getframe())
        if interruption is not None:
            raise interruption


def call_handler(handler: Any, number: int, frame: FrameType | None) -> None:
    """Do what a handler does: a function is called, because raising the signal again would wake an event loop again."""
    if callable(handler):
        handler(number, frame)
    else:
        signal.signal(number, handler)
        signal.raise_signal(number)
