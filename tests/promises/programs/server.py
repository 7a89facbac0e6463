"""A pre-fork server like gunicorn: the parent loads the model and predicts, then forks workers and looks after them.

The workers accept connections on one socket. A request is a line with the number of a job of `host.JOBS`, or "die"; the
answer says whether the result was the known one. A worker that dies is replaced. SIGTERM ends workers and parent.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import warnings

import host

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


def serve(listener: socket.socket, known: dict[str, bytes]) -> None:
    """Answer requests for ever."""
    jobs = list(host.JOBS)
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            request = stream.readline().strip()
            if request == "die":
                os._exit(1)
            name = jobs[int(request) % len(jobs)]
            stream.write("right\n" if host.JOBS[name]() == known[name] else f"wrong: {name}\n")


def terminate(number: int, frame: object) -> None:
    raise SystemExit


def start_worker(listener: socket.socket, known: dict[str, bytes]) -> int:
    """Fork a worker."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        serve(listener, known)
    return child


n_workers = int(sys.argv[1])
known = host.learn()  # With two threads, too.
listener = socket.create_server(("127.0.0.1", 0), backlog=64)
signal.signal(signal.SIGTERM, terminate)
workers = {start_worker(listener, known) for _ in range(n_workers)}
print(listener.getsockname()[1], flush=True)
died = 0
try:
    while True:
        dead, _ = os.wait()
        died += 1
        workers.remove(dead)
        workers.add(start_worker(listener, known))
finally:
    for worker in workers:
        os.kill(worker, signal.SIGTERM)
    for worker in workers:
        os.waitpid(worker, 0)
    listener.close()
    print(died, host.n_threads(1))
