"""Threads that run one native call together, and none of which outlives it, whatever interrupts Python meanwhile."""

from __future__ import annotations

import _thread
import ctypes
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class NoThreadError(RuntimeError):
    """The system gives no more threads; nothing has been done."""


START_SECONDS = 1.0
"""How long a thread may take to begin, once it was made, if its start was interrupted: it may never do."""

LOOKS, REST = 200, 5e-5
"""How often a thread looks whether another is done before it sleeps in between, and how many seconds."""


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
        self.placing = _thread.allocate_lock()
        self.may_run_on: set[int] = set()
        self.latest_start = 0.0

    def start(self) -> None:
        """Start it; if nothing interrupts that, the work is done, however late it begins."""
        self.latest_start = time.monotonic() + START_SECONDS
        run = self.run()
        next(run, None)
        with self.placing:  # It must not end before it is placed.
            try:
                thread = _thread.start_new_thread(next, (run, None))
            except RuntimeError as error:
                self.latest_start = 0.0
                raise NoThreadError(str(error)) from None
            self.will_begin = True
            self.may_run_on = place_elsewhere(thread)

    def run(self) -> Iterator[None]:
        """Do the work; if it fails, nobody must wait for this thread at a barrier.

        A generator, that stands within `try` when the thread begins: an exception that is meant for the thread that
        fits (`PyThreadState_SetAsyncExc`) may hit the new one before its first instruction, until Python 3.11.
        """
        try:
            yield
            with self.placing:
                self.begun = True
            if self.may_run_on:  # From now on, the system knows best: another process may come to this CPU.
                with suppress(OSError):
                    os.sched_setaffinity(0, self.may_run_on)
            self.work(self.number)
        except GeneratorExit:  # It was never started.
            raise
        except BaseException as error:
            self.error = error
            self.call_off()
        finally:
            self.ended = True

    def wait(self) -> None:
        """Wait for the end of the work; not for one that has not begun, and will not, its start being interrupted."""
        looks = 0
        while not self.ended and (self.will_begin or self.begun or time.monotonic() < self.latest_start):
            looks += 1
            time.sleep(0 if looks < LOOKS else REST)


@functools.cache
def functions_of_c() -> tuple[Any, Any] | None:
    """Give C's functions that tell the CPU that this thread runs on, and set those of a thread; None without them."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    try:
        c = ctypes.PyDLL(None)
        c.pthread_setaffinity_np.argtypes = ctypes.c_ulong, ctypes.c_size_t, ctypes.c_char_p
        return c.sched_getcpu, c.pthread_setaffinity_np
    except (OSError, AttributeError):
        return None


def place_elsewhere(thread: int) -> set[int]:
    """Have a new thread begin on another CPU than this one, if the process may use others; give all that it may use.

    Linux may begin a thread on its maker's CPU, and move it some milliseconds later when it is seen to wait. Until then
    the two take turns, or wait for each other at a barrier.
    """
    functions = functions_of_c()
    if functions is None:
        return set()
    running_on, keep_to = functions
    try:
        all_cpus = os.sched_getaffinity(0)
        others = all_cpus - {running_on()}
    except OSError:
        return set()
    if not others:
        return set()
    mask = sum(1 << cpu for cpu in others)
    n_bytes = -(-mask.bit_length() // 64) * 8
    keep_to(thread, n_bytes, mask.to_bytes(n_bytes, sys.byteorder))
    return all_cpus


def run_together(work: Callable[[int], T], threads: int, call_off: Callable[[], None] = lambda: None) -> T:
    """Run ``work(t)`` on `threads` threads, ``work(0)`` on this one, and give what that returns.

    Whatever happens here or there meanwhile (Ctrl-C, no more memory to be had, or threads: `NoThreadError`), no thread
    runs on when this returns, and the error is raised here: `call_off` makes the others give up waiting. (Of
    interruptions that follow each other within microseconds, one may fall between two of Python's instructions that
    wait: then a thread may run on for the rest of its work, in memory that it holds itself.)
    """
    helpers: list[Helper] = []
    failed = False
    try:
        for t in range(1, threads):
            helpers.append(Helper(work, t, call_off))
            helpers[-1].start()
        result = work(0)
    except BaseException:
        failed = True
        call_off()
        raise
    finally:
        interruption = None
        for helper in helpers:
            waiting = True
            while waiting:
                try:
                    if failed:
                        call_off()  # Again: the first time may have been interrupted, too.
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
