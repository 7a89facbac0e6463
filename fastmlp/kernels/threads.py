"""Threads that run one native call together, and none of which outlives it, whatever interrupts Python meanwhile."""

from __future__ import annotations

import _thread
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

START_SECONDS = 1.0
"""How long a thread may take to begin, once it was made, if its start was interrupted: it may never do."""


class Helper:
    """A thread whose work can be waited for, however often its start and the waiting are interrupted.

    It is started with what `threading.Thread` is made of. That class waits until the thread has begun, for 0.1 ms that
    this thread could work in; and an interruption leaves its waiting in disorder: an error about a lock that is not
    locked or, until Python 3.13, a `join` that takes the thread for stopped ever after.
    """

    will_begin = begun = ended = False
    error: BaseException | None = None

    def __init__(self, work: Callable[[int], Any], number: int, call_off: Callable[[], None]) -> None:
        self.work, self.number, self.call_off = work, number, call_off
        self.latest_start = time.monotonic() + START_SECONDS

    def start(self) -> None:
        """Start it; if nothing interrupts that, the work is done, however late it begins."""
        _thread.start_new_thread(self.run, ())
        self.will_begin = True

    def run(self) -> None:
        """Do the work; if it fails, nobody must wait for this thread at a barrier."""
        self.begun = True
        try:
            self.work(self.number)
        except BaseException as error:
            self.error = error
            self.call_off()
        finally:
            self.ended = True

    def wait(self) -> None:
        """Wait for the end of the work; not for one that has not begun, and will not, its start being interrupted."""
        while not self.ended and (self.will_begin or self.begun or time.monotonic() < self.latest_start):
            time.sleep(0)


def run_together(work: Callable[[int], T], threads: int, call_off: Callable[[], None] = lambda: None) -> T:
    """Run ``work(t)`` on `threads` threads, ``work(0)`` on this one, and give what that returns.

    Whatever happens here or there meanwhile (Ctrl-C, no more threads to be had, or memory), no thread runs on when this
    returns, and the error is raised here: `call_off` makes the others give up waiting.
    """
    helpers: list[Helper] = []
    try:
        for t in range(1, threads):
            helpers.append(Helper(work, t, call_off))
            helpers[-1].start()
        result = work(0)
    except BaseException:
        call_off()
        raise
    finally:
        interruption = None
        for helper in helpers:
            waiting = True
            while waiting:
                try:
                    helper.wait()
                    waiting = False
                except BaseException as error:  # noqa: PERF203 - Another Ctrl-C: first the thread, then the error.
                    interruption = error
        if interruption is not None:
            raise interruption
    for helper in helpers:
        if helper.error is not None:
            raise helper.error
    return result
