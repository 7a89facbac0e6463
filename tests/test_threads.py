"""What threads must never do: run on after an interruption, lose their memory, or change a bit of the result."""

import _thread
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

import fastmlp
from fastmlp import network
from fastmlp.cpus import available_cpus
from fastmlp.kernels import engine

rng = np.random.default_rng(0)
X = rng.normal(size=(2000, 50)).astype(np.float32)
y = rng.integers(0, 5, 2000)


def living_threads():
    """Count the threads that run, those that `threading` does not know included."""
    return _thread._count()


@pytest.fixture
def two_cpus(monkeypatch):
    """Let fit have two threads, on whatever machine."""
    monkeypatch.setattr("fastmlp.network.available_cpus", lambda: 2)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that interrupts")
# What Python swallows is a warning of pytest's.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_fit_leaves_no_thread_behind(two_cpus):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    net = fastmlp.MLP([50, 64, 5])
    net.fit(X, y, epochs=1, threads=2)
    before = living_threads()
    old = signal.signal(signal.SIGALRM, interrupt)
    caught = 0
    try:
        for _ in range(30):
            # An interruption can fall where Python itself swallows it (a weak reference's callback): the timer repeats.
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.002, 0.02), 0.2)
            try:
                net.fit(X, y, epochs=1_000_000, threads=2, callbacks=[lambda history: False])
            except KeyboardInterrupt:
                caught += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        caught += 1
    finally:
        signal.signal(signal.SIGALRM, old)
    assert caught > 0
    latest = time.monotonic() + 1.0  # Their work is over; Python may be still at putting a thread away.
    while living_threads() > before and time.monotonic() < latest:
        time.sleep(0.001)
    assert living_threads() == before
    assert np.isfinite(net.fit(X, y, epochs=1, threads=2).train_loss[0])


def test_a_thread_that_cannot_be_started_stops_the_others(monkeypatch):
    from fastmlp.kernels import threads

    start, ended = _thread.start_new_thread, []

    def fail_at_the_second(run, arguments):
        if started.is_set():
            raise RuntimeError("can't start new thread")
        started.set()
        return start(lambda *given: (run(*given), ended.append(True)), arguments)

    started, called_off = threading.Event(), threading.Event()
    monkeypatch.setattr(threads._thread, "start_new_thread", fail_at_the_second)
    with pytest.raises(RuntimeError, match="can't start"):
        threads.run_together(lambda t: called_off.wait(20), 3, called_off.set)
    assert called_off.is_set()
    latest = time.monotonic() + 10.0
    while not ended and time.monotonic() < latest:
        time.sleep(0.001)
    assert ended == [True]


@pytest.mark.parametrize(
    ("dtype", "batch_size", "threads"),
    [("float32", 40, 1), ("float32", 50, 2), ("float64", 25, 2), ("float32", 200, 2), ("float32", 300, 3)],
)
def test_a_step_has_the_threads_that_it_is_worth(monkeypatch, dtype, batch_size, threads):
    """Two from half a million multiply-adds on, one more for each million; of 11,000 a sample; float64 counts twice."""
    monkeypatch.setattr("fastmlp.network.available_cpus", lambda: 3)
    assert fastmlp.MLP([100, 100, 10], dtype=dtype).threads(batch_size) == threads


@pytest.mark.parametrize("begins", [False, True])
def test_an_interruption_of_the_start_is_one(begins, monkeypatch):
    """Whether the thread has been made by then or not, and so will begin or not."""
    from fastmlp.kernels import threads

    start, done = _thread.start_new_thread, []

    def interrupted(run, arguments):
        if begins:
            start(run, arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(threads._thread, "start_new_thread", interrupted)
    monkeypatch.setattr(threads, "START_SECONDS", 0.2)
    with pytest.raises(KeyboardInterrupt):
        threads.run_together(done.append, 2)
    assert done == [1] * begins


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_a_helper_begins_on_another_cpu_than_its_maker_s_and_may_then_use_all(monkeypatch):
    from fastmlp.kernels import threads

    running_on, _ = threads.functions_of_c()
    set_affinity, allowed, before = os.sched_setaffinity, os.sched_getaffinity(0), running_on()
    began_on, works_on = [], []

    def widen(process, cpus):
        began_on.append(os.sched_getaffinity(process))
        set_affinity(process, cpus)

    monkeypatch.setattr(os, "sched_setaffinity", widen)
    for number in range(50):
        threads.run_together(lambda t: t and works_on.append(os.sched_getaffinity(0)), 2)
        assert works_on[number] == allowed
        if len(allowed) > 1:
            assert began_on[number] < allowed
            if running_on() == before:  # This thread may have been moved.
                assert before not in began_on[number]
        before = running_on()
    assert len(works_on) == 50
    assert os.sched_getaffinity(0) == allowed


def test_threads_where_none_can_be_placed(monkeypatch):
    from fastmlp.kernels import threads

    done = []
    monkeypatch.setattr(threads, "functions_of_c", lambda: None)
    threads.run_together(done.append, 3)
    assert sorted(done) == [0, 1, 2]


def test_the_work_is_called_off_even_if_that_is_interrupted():
    from fastmlp.kernels import threads

    def work(t):
        if t == 0:
            raise KeyboardInterrupt
        seen.append(called_off.wait(2))

    def call_off():
        calls.append(True)
        if len(calls) == 1:
            raise KeyboardInterrupt
        called_off.set()

    called_off, calls, seen = threading.Event(), [], []
    with pytest.raises(KeyboardInterrupt):
        threads.run_together(work, 3, call_off)
    assert seen == [True, True]


def test_a_thread_that_begins_late_is_waited_for(monkeypatch):
    from fastmlp.kernels import threads

    start, done = _thread.start_new_thread, []

    def start_late(run, arguments):
        return start(lambda: (time.sleep(0.1), run(*arguments)), ())

    monkeypatch.setattr(threads, "START_SECONDS", 0.05)
    monkeypatch.setattr(threads._thread, "start_new_thread", start_late)
    threads.run_together(done.append, 3)
    assert sorted(done) == [0, 1, 2]


def test_the_error_of_a_helper_stops_the_others_and_is_raised():
    from fastmlp.kernels.threads import run_together

    def work(t):
        if t == 2:
            raise MemoryError("no room")
        assert called_off.wait(20)

    called_off = threading.Event()
    with pytest.raises(MemoryError, match="no room"):
        run_together(work, 3, called_off.set)


def test_an_exception_that_hits_a_helper_before_its_first_instruction(monkeypatch):
    """Until Python 3.11, one that is meant for the thread that makes it can: nobody must wait for it then."""
    from fastmlp.kernels import threads

    start = _thread.start_new_thread

    def begin_with_an_exception(run, arguments):
        def begin():
            with contextlib.suppress(StopIteration):
                arguments[0].throw(TimeoutError("enough"))

        assert run is next
        return start(begin, ())

    called_off = threading.Event()
    monkeypatch.setattr(threads._thread, "start_new_thread", begin_with_an_exception)
    with pytest.raises(TimeoutError, match="enough"):
        threads.run_together(lambda t: called_off.wait(20), 2, called_off.set)
    assert called_off.is_set()


def test_a_helper_that_was_never_started_holds_nothing(monkeypatch):
    from fastmlp.kernels import threads

    class Memory:
        pass

    def fail(*arguments):
        raise RuntimeError("can't start new thread")

    memory, calls = Memory(), []
    gone = weakref.ref(memory)
    monkeypatch.setattr(threads._thread, "start_new_thread", fail)
    gc.disable()
    try:
        with pytest.raises(threads.NoThreadError):
            threads.run_together(lambda t, memory=memory: None, 2, lambda: calls.append(True))
        del memory
        assert gone() is None
    finally:
        gc.enable()
    n_calls = len(calls)
    gc.collect()
    assert len(calls) == n_calls


def test_a_network_so_large_that_a_sample_is_worth_two_threads(monkeypatch):
    from fastmlp.kernels import engine

    expected = fastmlp.MLP([50, 64, 5]).forward(X[:3])
    monkeypatch.setattr(engine, "available_cpus", lambda: 3)
    monkeypatch.setattr(engine, "FORWARD_WORK", 100)
    net = fastmlp.MLP([50, 64, 5])
    for n_samples in (1, 2, 3):
        np.testing.assert_array_equal(net.forward(X[:n_samples]), expected[:n_samples])


def test_predict_of_threads_that_find_no_memory(two_cpus, monkeypatch):
    from fastmlp.kernels import Engine, engine

    def fail(*arguments):
        raise MemoryError("no room")

    monkeypatch.setattr(engine, "available_cpus", lambda: 2)
    net = fastmlp.MLP([50, 61, 5])
    many_X = rng.normal(size=(20_000, 50)).astype(np.float32)
    with monkeypatch.context() as without_memory:
        without_memory.setattr(Engine, "allocate", fail)
        with pytest.raises(MemoryError, match="no room"):
            net.predict(many_X)
    np.testing.assert_array_equal(net.predict(many_X), [net.predict(x[None])[0] for x in many_X])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sizes", [[20, 256, 10], [20, 300, 256, 10], [20, 100, 64, 257, 3], [20, 245]])
def test_padding_stays_zero_whatever_the_strides(two_cpus, sizes, threads):
    X = rng.normal(size=(300, 20)).astype(np.float32)
    y = rng.integers(0, sizes[-1], 300)
    net = fastmlp.MLP(sizes)
    net.fit(X, y, epochs=3, batch_size=50, optimizer=fastmlp.Adam(0.01), threads=threads)
    rest = net._parameters.copy()
    for view in (*net._layout.weights(rest), *net._layout.biases(rest)):
        view[:] = 0
    assert not rest.any()


def test_padding_stays_zero_with_narrower_vectors():
    code = (
        "import numpy as np, fastmlp; rng = np.random.default_rng(0)\n"
        "net = fastmlp.MLP([20, 100, 64, 32, 10])\n"
        "net.fit(rng.normal(size=(100, 20)), rng.integers(0, 10, 100), epochs=2)\n"
        "rest = net._parameters.copy()\n"
        "for view in (*net._layout.weights(rest), *net._layout.biases(rest)): view[:] = 0\n"
        "assert not rest.any()\n"
    )
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)


def test_each_dtype_has_its_own_files_in_the_cache():
    # Two processes that compile two dtypes at once must not write to one file.
    from fastmlp.kernels.cache import cache_folder
    from fastmlp.kernels.native import kernel

    for dtype in (np.dtype("float32"), np.dtype("float64")):
        kernel("updates.sgd").address(dtype)
    folder = cache_folder()
    assert folder is not None
    files = {path.name for path in folder.glob("updates.sgd_float*.kernel")}
    assert files == {"updates.sgd_float32.kernel", "updates.sgd_float64.kernel"}


@pytest.mark.parametrize(
    ("sizes", "n_samples", "lets_go"),
    [([784, 100, 64, 32, 10], 1, False), ([784, 100, 64, 32, 10], 16, True), ([1, 1], 1000, True)],
)
def test_a_short_call_does_not_give_other_threads_the_gil(sizes, n_samples, lets_go):
    """They would keep it for 5 ms, and a prediction takes 2 µs; of longer calls, threads make several at once."""
    net, samples = fastmlp.MLP(sizes, loss="squared_error"), np.ones((n_samples, sizes[0]), np.float32)
    net.predict(samples)
    turns, interval = [], sys.getswitchinterval()
    sys.setswitchinterval(10.0)  # Until this thread lets it go by itself.
    try:
        _thread.start_new_thread(turns.append, (1,))
        for _ in range(1000):
            net.predict(samples)
        assert bool(turns) == lets_go
    finally:
        sys.setswitchinterval(interval)
        while not turns:
            time.sleep(0.001)


def test_a_system_that_gives_no_more_threads(two_cpus, monkeypatch):
    from fastmlp.kernels import engine

    monkeypatch.setattr(engine, "available_cpus", lambda: 3)
    nets = [fastmlp.MLP([50, 64, 5]) for _ in range(2)]
    many_X, many_y = rng.normal(size=(20_000, 50)).astype(np.float32), rng.integers(5, size=20_000)
    monkeypatch.setattr(network, "available_cpus", lambda: 3)
    start, left = _thread.start_new_thread, [1]

    def start_one(*arguments):
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        return start(*arguments)

    predictions = []
    for net, starter in zip(nets, (start, start_one), strict=True):
        with monkeypatch.context() as patched:
            patched.setattr(_thread, "start_new_thread", starter)
            net.fit(many_X, many_y, epochs=1, batch_size=2000, threads=3)
            predictions.append(net.predict(many_X))
    assert left == []
    np.testing.assert_array_equal(*predictions)
    np.testing.assert_array_equal(nets[0].weights[0], nets[1].weights[0])


def test_threads_that_are_none(monkeypatch):
    """As gevent's, which take turns on one thread: they would wait for each other at a barrier for ever."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr("fastmlp.cpus.cpu_quota", lambda: np.inf)
    assert available_cpus() == 2
    monkeypatch.setattr(_thread, "start_new_thread", lambda *arguments: pytest.fail("it would not return"))
    assert available_cpus() == 1
    net = fastmlp.MLP([50, 64, 5])
    X = rng.normal(size=(20_000, 50))
    net._engine.classes(net._parameters, X.astype(np.float32), 2)
    net.fit(X, rng.integers(5, size=20_000), epochs=1, batch_size=2000, threads=2)
    net.predict(X)


def test_a_network_is_freed_when_nobody_holds_it():
    """At once, and not when Python looks for cycles: it counts objects for that, and they are few."""
    net = fastmlp.MLP([50, 64, 5])
    net.fit(rng.normal(size=(100, 50)), rng.integers(5, size=100), epochs=1)
    net.predict(np.zeros((1, 50)))
    gone = weakref.ref(net._parameters.base)
    gc.disable()
    try:
        del net
        assert gone() is None
    finally:
        gc.enable()


def test_networks_of_a_shape_share_the_memory_of_calls():
    nets = [fastmlp.MLP([3, 43, 2], seed=seed) for seed in range(3)]
    x = np.ones((1, 3), dtype=np.float32)
    tracemalloc.start()
    try:
        nets[0].predict(x)
        first = tracemalloc.get_traced_memory()[0]
        for net in nets[1:]:
            net.predict(x)
        assert tracemalloc.get_traced_memory()[0] - first < 0.1 * first
    finally:
        tracemalloc.stop()
    for net in nets:
        other = fastmlp.MLP([3, 43, 2], engine="numpy")
        other.set_parameters(net.weights, net.biases)
        np.testing.assert_allclose(net.forward(x), other.forward(x), rtol=1e-5)
        np.testing.assert_allclose(nets[0].forward(x), nets[0].forward(np.vstack([x, x]))[:1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus"])
def test_what_overflows_in_one_network_does_not_reach_another(activation, dtype):
    """Its loss may be finite: infinity times the zeros of the padding is NaN in memory that they share."""
    options = {"loss": "squared_error", "output_activation": activation, "dtype": dtype}
    net, other, alone = (fastmlp.MLP([1, 1, 3], **options, engine=name) for name in ("numba", "numba", "numpy"))
    other.set_parameters([[[2.0]], [[-1.0, -1.0, -1.0]]])
    large, few, targets = [[float(np.finfo(dtype).max)]], rng.normal(size=(20, 1)), rng.uniform(size=(20, 3))
    assert np.isfinite(other.loss(large, targets[:1]))
    other.gradients(large, targets[:1])
    with contextlib.suppress(fastmlp.DivergenceError):
        other.fit(large, targets[:1], epochs=1, threads=1)
    net.fit(few, targets, epochs=1, batch_size=20, threads=1)
    assert np.isfinite(net._parameters).all()
    alone.fit(few, targets, epochs=1, batch_size=20)
    np.testing.assert_allclose(net.weights[1], alone.weights[1], rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_amid_the_first_prediction_of_another_thread_copies_no_lock(monkeypatch):
    """Which would never be given back in the child."""
    began, go_on = threading.Event(), threading.Event()

    def find_slowly(dtype, entry=engine.FORWARD_ALL.entry):
        began.set()
        go_on.wait(60)
        return entry(dtype)

    monkeypatch.setattr(engine, "FORWARD_ALL", SimpleNamespace(entry=find_slowly))
    thread = threading.Thread(target=fastmlp.MLP([50, 3, 5]).predict, args=(X,))
    thread.start()
    assert began.wait(60)
    if (child := os.fork()) == 0:
        signal.alarm(30)
        go_on.set()
        fastmlp.MLP([50, 4, 5]).predict(X)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    go_on.set()
    thread.join()
    assert status == 0
