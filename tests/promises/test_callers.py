"""Promise 3: any number of threads may call at once, and the host's own ways are left alone."""

import copy
import importlib.util
import sys
import threading

import children
import numpy as np
import pytest

import fastmlp

rng = np.random.default_rng(0)
X = rng.normal(size=(600, 20)).astype(np.float32)
y = rng.integers(0, 5, 600)
many_X = rng.normal(size=(20_000, 20)).astype(np.float32)  # Enough for two threads to predict.


linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and CPUs to choose from")


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch):
    """Let the library have two threads, on whatever machine."""
    monkeypatch.setattr("fastmlp.network.available_cpus", lambda: 2)
    monkeypatch.setattr("fastmlp.kernels.engine.available_cpus", lambda: 2)


def together(*works, seconds=120):
    """Do all at once, each in a thread; give what they return, or raise the first error."""
    results, errors = [None] * len(works), []
    start = threading.Barrier(len(works))

    def do(number, work):
        try:
            start.wait()
            results[number] = work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=do, args=each, daemon=True) for each in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
    return results


def fitted(seed, epochs=10, **options):
    """Train a network of one's own; give its bits and its losses."""
    net = fastmlp.MLP([20, 64, 64, 5], seed=seed)
    history = net.fit(X, y, epochs=epochs, **options)
    return net._parameters.tobytes(), history.train_loss


WAYS = [
    {"threads": 1},
    {"threads": 2},
    {"threads": 2, "optimizer": fastmlp.Adam(0.01)},
    {"threads": 1, "batch_size": 400, "l2": 0.1},
    {"threads": 2, "clip_norm": 0.5, "average": 0.9},
    {"threads": 1, "dropout": 0.5, "optimizer": "rmsprop"},
]


def test_fits_of_different_networks_at_once(promise, count):
    alone = [fitted(seed, **way) for seed, way in enumerate(WAYS)]
    for _ in range(count(10, 200)):
        with promise("3 fits of different networks at once: the bits of each alone", len(WAYS)):
            assert together(*[lambda s=s, way=way: fitted(s, **way) for s, way in enumerate(WAYS)]) == alone


def test_predictions_on_one_network_at_once(promise, count):
    net = fastmlp.MLP([20, 64, 64, 5])
    parts = [X[:1], X[:97], X, many_X, X[5:6], many_X]
    alone = [net.predict_proba(part) for part in parts]
    for _ in range(count(30, 1000)):
        with promise("3 predictions on one network at once: the bits of each alone", len(parts)):
            results = together(*[lambda part=part: net.predict_proba(part) for part in parts])
            for result, expected in zip(results, alone, strict=True):
                np.testing.assert_array_equal(result, expected)


def test_a_fit_beside_predictions_from_a_copy(promise, count, tmp_path):
    net = fastmlp.MLP([20, 64, 64, 5])
    net.save(tmp_path / "model.safetensors")
    copied = copy.deepcopy(net)
    expected, alone = net.forward(X), fitted(0, epochs=60, threads=2)

    def predict(model):
        for _ in range(50):
            np.testing.assert_array_equal(model().forward(X), expected)

    for _ in range(count(5, 100)):
        with promise("3 a fit beside predictions from saved copies: the bits of each alone"):
            fit, *_ = together(
                lambda: fitted(0, epochs=60, threads=2),
                lambda: predict(lambda: fastmlp.MLP.load(tmp_path / "model.safetensors")),
                lambda: predict(lambda: copied),
            )
            assert fit == alone


def test_predictions_on_a_network_that_is_being_fitted(promise, count):
    alone = fitted(0, epochs=30, threads=2)
    for _ in range(count(5, 100)):
        net, over = fastmlp.MLP([20, 64, 64, 5]), threading.Event()

        def fit(net=net, over=over):
            try:
                return net._parameters.tobytes(), net.fit(X, y, epochs=30, threads=2).train_loss
            finally:
                over.set()

        def predict(net=net, over=over):
            while not over.is_set():
                assert np.isin(net.predict(X), range(5)).all()  # Of weights between two states, but a class.
                assert np.isfinite(net.loss(X, y))

        with promise("3 predictions on a network in a fit: no crash, and the fit's bits"):
            (_, losses), *_ = together(fit, predict, predict)
            assert (net._parameters.tobytes(), losses) == alone


def test_two_fits_of_one_network(promise, count):
    """Their updates mix, as documented; nothing is broken by it."""
    for round_ in range(count(10, 200)):
        net, twin = fastmlp.MLP([20, 64, 64, 5]), fastmlp.MLP([20, 64, 64, 5])
        weights, biases = [w.copy() for w in net.weights], [b.copy() for b in net.biases]
        fits = [lambda net=net, threads=threads: net.fit(X, y, epochs=20, threads=threads) for threads in (1, 2)]
        with promise("3 two fits of one network at once: no crash, and the network stays whole"):
            for history in together(*fits):
                assert np.isfinite(history.train_loss).all()
            rest = net._parameters.copy()
            for view in (*net._layout.weights(rest), *net._layout.biases(rest)):
                assert np.isfinite(view).all()
                view[:] = 0
            assert not rest.any()  # The padding.
            for each in (net, twin):
                each._fits = 0
                each.set_parameters(weights, biases)
                each.fit(X, y, epochs=2, threads=1 + round_ % 2)
            assert net._parameters.tobytes() == twin._parameters.tobytes()


@linux
def test_a_pool_of_16_callers_under_each_threading_layer(promise, count):
    seconds = count(60, 300)
    layers = ["omp", "workqueue"] + ["tbb"] * (importlib.util.find_spec("tbb") is not None)
    # All layers at the same time: the more callers there are for the CPUs, the better.
    hosts = {layer: children.start("pool.py", layer, seconds, NUMBA_THREADING_LAYER=layer) for layer in layers}
    for layer, host in hosts.items():
        done, *wrong = children.end_of(host, seconds + 120).split(maxsplit=1)
        with promise(f"3 calls in a pool of 16 threads for {seconds} s, host on Numba's {layer}", int(done)):
            assert int(done) > 16
            assert not wrong


@linux
def test_no_setting_of_the_process_is_changed(promise):
    with promise("3 no setting of Numba, NumPy, Python or the environment is changed"):
        assert children.run("settings.py") == ""


@linux
@pytest.mark.skipif("len(os.sched_getaffinity(0)) < 2", reason="needs two CPUs")
def test_a_python_thread_keeps_its_speed_beside_a_fit(promise, count):
    with promise("3 a Python thread beside a fit keeps 80 % of its speed"):
        assert float(children.run("beside.py", count(8, 30))) >= 0.8
