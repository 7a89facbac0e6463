"""Threads that run one native call together, and none of which outlives it, whatever interrupts Python meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

START_SECONDS = 1.0
"""How long a thread may take to begin, once it was made."""


class Helper(threading.Thread):
    """A thread whose work can be waited for, however often its start and the waiting are interrupted.

    `join` cannot do that: until Python 3.13, when it is interrupted it takes the thread for stopped ever after.
    """

    begun = ended = False

    def __init__(self, work: Callable[[int], int], number: int) -> None:
        super().__init__(target=work, args=(number,))
        self.latest_start = time.monotonic() + START_SECONDS

    def run(self) -> None:
        """Do the work."""
        self.begun = True
        try:
            super().run()
        finally:
            self.ended = True

    def wait(self) -> None:
        """Wait for the end of the work; not for one that has not begun, and will not, its start being interrupted."""
        while not self.ended and (self.begun or time.monotonic() < self.latest_start):
            time.sleep(0)


def run_together(work: Callable[[int], int], threads: int, call_off: Callable[[], None]) -> int:
    """Run ``work(t)`` on `threads` threads, ``work(0)`` on this one, and give what that returns.

    Whatever happens here meanwhile (Ctrl-C, no more threads to be had), no thread runs on when this returns: `call_off`
    makes the others give up waiting.
    """
    helpers: list[Helper] = []
    try:
        for t in range(1, threads):
            helpers.append(Helper(work, t))
            helpers[-1].start()
        return work(0)
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
