"""Promise 4: processes fork, are pooled, serve and end, after a fit and in the middle of one."""

import importlib.util
import os
import random
import signal
import socket
import sys
import threading
import time

import children
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs os.fork, and to count threads in /proc")


@pytest.mark.parametrize("host", ["serial", "parallel"])
def test_forks_after_a_fit_and_in_the_midst_of_one(promise, count, host):
    n = count(8, 200)
    layer = {"NUMBA_THREADING_LAYER": "omp"} if host == "parallel" else {}
    after, amid = map(int, children.run("forks.py", n, host, seconds=60 + 2 * n, **layer).split())
    with promise(f"4 a fork after a fit with 2 threads, {host} host: the child fits and predicts", n):
        assert after == n
    with promise(f"4 a fork while other threads are in fits, {host} host: the child fits and predicts", n):
        assert amid == n


def test_forks_while_another_thread_compiles(promise, count, tmp_path):
    amid = 0
    for number in range(count(3, 30)):
        cold = str(tmp_path / f"cold{number}")
        with promise("4 a fork while another thread compiles: the child compiles, too"):
            amid += children.run("fork_cold.py", 0.1 + 0.1 * (number % 5), NUMBA_CACHE_DIR=cold) == "True\n"
    assert amid > 0


@pytest.mark.parametrize("how", ["fork", "forkserver", "spawn", "loky"])
def test_worker_processes(promise, count, how):
    if how == "loky" and importlib.util.find_spec("joblib") is None:
        pytest.skip("needs joblib")
    n = count(8, 100)
    with promise(f"4 workers of {'joblib (loky)' if how == 'loky' else f'multiprocessing ({how})'}: right results", n):
        assert children.run("pools.py", how, n, seconds=60 + n) == f"{n}\n"


def test_a_pre_fork_server(promise, count):
    n, deaths = count(100, 2000), 2
    server = children.start("server.py", 4)
    answers = []
    try:
        port = int(server.stdout.readline())

        def ask(request):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(f"{request}\n".encode())
                return connection.makefile().readline()

        def client(first):
            for number in range(first, n, 8):
                answers.append(ask(number))
                if number < deaths:
                    assert ask("die") == ""

        clients = [threading.Thread(target=client, args=(first,)) for first in range(8)]
        for each in clients:
            each.start()
        for each in clients:
            each.join(60 + n)
    finally:
        server.send_signal(signal.SIGTERM)
    with promise("4 answers of a pre-fork server of 4 workers, two of them replaced: right results", n):
        assert answers == ["right\n"] * n
        assert children.end_of(server, 10).split() == [str(deaths), "1"]


WAYS = {"callback": 1, "progress": 1, "interrupt": -signal.SIGINT, "exit": 5, "raise": 1}
"""Ways to end in the middle of a fit, and the status that Python gives them."""


def seconds_to_the_end(way, threads, wait):
    """End a process in the middle of a fit; check how it ended, and say how long after the exception that was.

    Time for which its main thread was ready and other programs had the CPUs is not counted.
    """
    child = children.start("exits.py", way, threads, wait)
    timer = threading.Timer(30, children.kill, [child])
    timer.start()
    began, waited = map(float, child.stdout.readline().split())
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    ended = time.monotonic()
    waited = children.waited_for_cpu(child.pid) - waited
    timer.cancel()
    _, errors = child.communicate()
    assert child.returncode == WAYS[way], errors
    assert errors.count("Traceback") == (way != "exit"), errors
    assert way == "exit" or errors.rstrip().endswith(("KeyboardInterrupt", "RuntimeError: stop here")), errors
    return ended - began - waited


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_an_exception_in_a_fit_ends_the_process_at_once(promise, count, way, threads):
    draw = random.Random(f"{way} {threads}")
    for _ in range(count(1, 50)):
        with promise(f"4 the end of the process within 0.5 s of an exception in a fit with {threads} threads"):
            # A machine that is shared can stand still at any moment: a slow end has to be slow again and again.
            attempts = (seconds_to_the_end(way, threads, draw.uniform(0.0, 0.3)) for _ in range(3))
            assert any(seconds < 0.5 for seconds in attempts)


def test_threads_that_outlive_the_main_one(promise, count):
    """Python waits for threads that are no daemons: they may fit and predict with two threads to their end."""
    code = (
        "import host, threading\n"
        "known = host.learn()\n"
        "def work():\n"
        "    threading.main_thread().join()\n"
        "    assert host.work(known)\n"
        "    print('right ', end='', flush=True)\n"
        "for _ in range(2): threading.Thread(target=work).start()\n"
    )
    for _ in range(count(2, 50)):
        with promise("4 fits and predictions of threads that outlive the main one: right results", 2):
            assert children.run(code).split() == ["right", "right"]


def test_no_thread_is_left(promise, count):
    code = (
        "import contextlib, host\n"
        # Numba imports it where it is installed, and its BLAS keeps threads of its own.
        "with contextlib.suppress(ImportError): import scipy.linalg\n"
        "before = host.n_threads()\n"
        "for _ in range(5): host.learn()\n"
        "assert host.n_threads(before) == before\n"
    )
    for _ in range(count(1, 20)):
        with promise("4 no thread is left after fits and predictions with 2 threads"):
            assert children.run(code) == ""


def test_two_threads_beside_busy_processes(promise, count):
    """They wait for each other at every step, and others must not have a turn of milliseconds each time."""
    code = (
        "import os, subprocess, sys, time\n"
        "import fastmlp, numpy as np\n"
        "rng = np.random.default_rng(0)\n"
        "X, y = rng.normal(size=(4000, 100)).astype(np.float32), rng.integers(0, 3, 4000)\n"
        "network = fastmlp.MLP([100, 100, 3])\n"
        "def seconds(threads):\n"
        "    began = time.perf_counter()\n"
        "    network.fit(X, y, epochs=15, batch_size=200, threads=threads)\n"
        "    return time.perf_counter() - began\n"
        "seconds(2)\n"
        "loops = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in os.sched_getaffinity(0)]\n"
        "try:\n"
        "    time.sleep(0.3)\n"
        "    print(min(seconds(2) for _ in range(3)) / max(seconds(1) for _ in range(3)))\n"
        "finally:\n"
        "    for each in loops: each.kill(); each.wait()\n"
    )
    for _ in range(count(1, 20)):
        with promise("4 two threads take less than 5 times as long as one where all CPUs are busy"):
            assert float(children.run(code)) < 5.0
