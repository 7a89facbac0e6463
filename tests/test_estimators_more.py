"""What the estimators have beyond scikit-learn's: each against its definition."""

from __future__ import annotations

import copy
import pickle
import time
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from irises import X_iris, X_train, X_val, assert_same_weights, make, y_iris, y_train, y_val
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, log_loss, r2_score
from tqdm import tqdm

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def as_network(estimator: Any, **parameters: Any) -> fastmlp.MLP:
    """An `MLP` with the weights of a fitted estimator of the irises."""
    net = fastmlp.MLP([4, *(len(b) for b in estimator.intercepts_)], dtype="float64", **parameters)
    net.set_parameters(estimator.coefs_, estimator.intercepts_)
    return net


# --- Weights of classes and samples -----------------------------------------------------------------------------------


@pytest.mark.parametrize("class_weight", ["balanced", {0: 2.0, 2: 0.5}])
def test_class_weight_is_a_sample_weight(class_weight: Any) -> None:
    X, y = X_iris[:120], y_iris[:120]  # 50, 50 and 20.
    factors = np.array([120 / (3 * n) for n in (50, 50, 20)] if class_weight == "balanced" else [2.0, 1.0, 0.5])
    own = np.random.default_rng(0).uniform(0.5, 2.0, 120)
    for sample_weight in (None, own):
        weighted = factors[y] * (1.0 if sample_weight is None else own)
        assert_same_weights(
            make(class_weight=class_weight).fit(X, y, sample_weight), make().fit(X, y, sample_weight=weighted)
        )


def test_classes_without_weight() -> None:
    nothing = "must be > 0 for at least one sample, got zeros$"
    with pytest.raises(ValueError, match="^class_weight " + nothing):
        make(class_weight=dict.fromkeys(range(3), 0)).fit(X_iris, y_iris)
    clf = make(class_weight={0: 0}).fit(X_iris, y_iris)
    before = copy.deepcopy(clf)
    with pytest.raises(ValueError, match="^the product of sample_weight and class_weight " + nothing):
        clf.fit(X_iris, y_iris, sample_weight=(y_iris == 0).astype(float))
    with pytest.raises(ValueError, match="^class_weight " + nothing):
        clf.partial_fit(X_iris[y_iris == 0], y_iris[y_iris == 0])
    assert_same_weights(clf, before)
    assert clf.loss_ == before.loss_


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_weights_that_nothing_can_be_divided_by(kind: Any) -> None:
    for names in (("sample_weight",), ("sample_weight_val", "X_val", "y_val")):
        given = dict(zip(names, (np.full(150, 1e-310), X_iris, y_iris), strict=False))
        with pytest.raises(ValueError, match=f"^{names[0]} must be > 0 for at least one sample, got zeros$"):
            make(kind).fit(X_iris, y_iris, **given)


def test_class_weight_of_a_class_that_a_fold_lacks() -> None:
    X, y = X_iris[y_iris < 2], y_iris[y_iris < 2]
    folds = (make(class_weight=weights).fit(X, y) for weights in ({0: 1.0, 1: 3.0, 2: 5.0}, {0: 1.0, 1: 3.0}))
    assert_same_weights(*folds)


def test_class_weight_and_partial_fit() -> None:
    factors = {0: 2.0, 1: 1.0, 2: 0.5}
    weights = np.array(list(factors.values()))[y_iris]
    one = make(class_weight=factors).partial_fit(X_iris, y_iris, classes=[0, 1, 2])
    assert_same_weights(one, make().partial_fit(X_iris, y_iris, weights, classes=[0, 1, 2]))
    one.partial_fit(X_iris[:50], y_iris[:50])  # All of one class.
    with pytest.raises(ValueError, match="class_weight must be of labels in y, got 7"):
        make(class_weight={7: 1.0}).fit(X_iris, y_iris)
    with pytest.raises(ValueError, match=r"class_weight\[0\] must be >= 0, got -1"):
        make(class_weight={0: -1.0}).fit(X_iris, y_iris)
    with pytest.raises(ValueError, match="class_weight must not be 'balanced' for partial_fit"):
        make(class_weight="balanced").partial_fit(X_iris, y_iris, classes=[0, 1, 2])


# --- The network ------------------------------------------------------------------------------------------------------


def test_a_sequence_of_activations() -> None:
    clf = make(hidden_layer_sizes=(7, 6, 5), activation=("gelu", "logistic", "softplus")).fit(X_iris, y_iris)
    net = as_network(clf, activation=["gelu", "sigmoid", "softplus"])
    np.testing.assert_allclose(clf.predict_proba(X_iris), net.predict_proba(X_iris), rtol=1e-9)


@pytest.mark.parametrize("activation", ["leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid"])
def test_every_activation_learns(activation: str) -> None:
    clf = make(activation=activation, max_iter=150).fit(X_iris, y_iris)
    assert clf.score(X_iris, y_iris) > 0.9
    np.testing.assert_allclose(
        clf.predict_proba(X_iris), as_network(clf, activation=activation).predict_proba(X_iris), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("loss", "parameter", "minimiser"),
    [
        ("absolute_error", None, lambda y: np.median(y)),
        ("huber", 1e3, lambda y: np.mean(y)),
        ("huber", 1e-3, lambda y: np.median(y)),
        ("quantile", 0.9, lambda y: np.quantile(y, 0.9)),
        ("quantile", 0.2, lambda y: np.quantile(y, 0.2)),
    ],
)
def test_a_loss_is_known_by_the_constant_that_minimises_it(loss: str, parameter: float | None, minimiser: Any) -> None:
    y = np.random.default_rng(0).exponential(size=401)
    rate = 0.02 if parameter != 1e-3 else 20.0  # Huber's slope is the parameter.
    reg = MLPRegressor(
        loss=loss, loss_parameter=parameter, hidden_layer_sizes=(1,), activation="identity", solver="sgd", alpha=0,
        learning_rate_init=rate, learning_rate="cosine", max_iter=600, batch_size=401, tol=0, n_iter_no_change=np.inf,
        random_state=0,
    ).fit(np.zeros((401, 1)), y)  # fmt: skip
    assert reg.predict(np.zeros((1, 1)))[0] == pytest.approx(minimiser(y), abs=0.02)


def test_parameters_of_losses_are_checked() -> None:
    with pytest.raises(ValueError, match="loss_parameter must be < 1"):
        make(MLPRegressor, loss="quantile", loss_parameter=2.0).fit(X_iris, y_iris)
    with pytest.raises(ValueError, match="loss_parameter must be None for loss 'squared_error'"):
        make(MLPRegressor, loss_parameter=2.0).fit(X_iris, y_iris)


# --- Validation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_curves_of_ones_own_validation_samples(weighted: bool) -> None:
    weights = np.random.default_rng(0).uniform(0.0, 2.0, len(X_val)) if weighted else None
    clf = make().fit(X_train, y_train, X_val=X_val, y_val=y_val, sample_weight_val=weights)
    assert len(clf.validation_scores_) == len(clf.validation_loss_curve_) == clf.n_iter_ == 20
    P = clf.predict_proba(X_val)
    assert clf.validation_loss_curve_[-1] == pytest.approx(log_loss(y_val, P, sample_weight=weights), rel=1e-9)
    assert clf.validation_scores_[-1] == pytest.approx(accuracy_score(y_val, P.argmax(axis=1), sample_weight=weights))
    assert_same_weights(clf, make().fit(X_train, y_train))  # Nothing is set aside, and nothing stops.
    reg = make(MLPRegressor).fit(X_train, X_train[:, :2], X_val=X_val, y_val=X_val[:, :2], sample_weight_val=weights)
    error = np.average((reg.predict(X_val) - X_val[:, :2]) ** 2, axis=0, weights=weights).mean() / 2
    assert reg.validation_loss_curve_[-1] == pytest.approx(error, rel=1e-9)
    score = r2_score(X_val[:, :2], reg.predict(X_val), sample_weight=weights)
    assert reg.validation_scores_[-1] == pytest.approx(score, rel=1e-9)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_early_stopping_on_the_loss_gives_back_its_best_weights(kind: Any) -> None:
    y = y_val[::-1]  # What there is to learn does not help with these.
    estimator = make(kind, early_stopping=True, early_stopping_metric="loss", n_iter_no_change=3, max_iter=300)
    estimator.fit(X_train, y_train, X_val=X_val, y_val=y)
    curve = estimator.validation_loss_curve_
    assert estimator.stopped_
    best = int(np.argmin(curve))
    assert best < len(curve) - 1
    assert estimator.best_validation_score_ == estimator.validation_scores_[best]
    if kind is MLPClassifier:
        assert log_loss(y, estimator.predict_proba(X_val)) == pytest.approx(min(curve), rel=1e-9)
    else:
        assert np.mean((estimator.predict(X_val) - y) ** 2) / 2 == pytest.approx(min(curve), rel=1e-9)
    assert (np.array(curve[-4:]) > min(curve) - estimator.tol).all()


def test_early_stopping_with_partial_fit() -> None:
    clf = make(early_stopping=True, early_stopping_metric="loss", n_iter_no_change=3)
    y = y_val[::-1]
    calls = 0
    while not getattr(clf, "stopped_", False):
        clf.partial_fit(X_train, y_train, classes=[0, 1, 2], X_val=X_val, y_val=y)
        calls += 1
        assert calls < 300
    assert len(clf.validation_loss_curve_) == calls
    best = min(clf.validation_loss_curve_)
    assert log_loss(y, clf.predict_proba(X_val)) == pytest.approx(best, rel=1e-9)
    kept = clf.coefs_[0].copy()
    clf.partial_fit(X_train, y_train, X_val=X_val, y_val=y)
    np.testing.assert_array_equal(clf.coefs_[0], kept)
    with pytest.raises(ValueError, match="`y_val` has classes not in"):
        make().fit(X_train, y_train, X_val=X_val, y_val=y_val + 7)


# --- Going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd", "adam", "adamw", "rmsprop"])
def test_warm_start_keeps_the_optimizers_state(solver: str) -> None:
    """Ten and ten epochs are twenty, in the order of the data."""
    halves = make(solver=solver, warm_start=True, shuffle=False, max_iter=10).fit(X_iris, y_iris).fit(X_iris, y_iris)
    assert_same_weights(halves, make(solver=solver, shuffle=False).fit(X_iris, y_iris))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"solver": "sgd"}, {"solver": "adam"}),
        ({"solver": "adam"}, {"solver": "adamw"}),  # With as many buffers.
        ({"solver": "rmsprop"}, {"solver": "sgd"}),
        ({"solver": "sgd", "momentum": 0}, {"solver": "sgd", "momentum": 0.9}),
    ],
)
def test_warm_start_with_another_optimizer_begins_its_state_anew(before: Any, after: Any) -> None:
    first = make(**before, warm_start=True, shuffle=False).fit(X_iris, y_iris)
    anew = make(**after, shuffle=False, init=(copy.deepcopy(first.coefs_), copy.deepcopy(first.intercepts_)))
    assert_same_weights(first.set_params(**after).fit(X_iris, y_iris), anew.fit(X_iris, y_iris))


# --- Solvers and schedules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "optimizer"),
    [
        ("adamw", fastmlp.AdamW(0.01, weight_decay=0.3)),
        ("rmsprop", fastmlp.RMSprop(0.01)),
        (fastmlp.AdamW(0.02, weight_decay=0.3), fastmlp.AdamW(0.02, weight_decay=0.3)),
        (fastmlp.SGD(0.1, momentum=0.5, nesterov=True), fastmlp.SGD(0.1, momentum=0.5, nesterov=True)),
    ],
)
@pytest.mark.parametrize(
    ("learning_rate", "schedule"),
    [
        ("constant", "constant"),
        ("cosine", "cosine"),
        ("one_cycle", "one_cycle"),
        (fastmlp.Step(step_size=2, gamma=0.5, warmup=1), fastmlp.Step(step_size=2, gamma=0.5, warmup=1)),
    ],
)
def test_solvers_and_schedules_are_those_of_the_network(
    solver: Any, optimizer: Any, learning_rate: Any, schedule: Any
) -> None:
    first = make(max_iter=1, solver=fastmlp.SGD(1e-300), alpha=0).fit(X_iris, y_iris)  # The weights it begins with.
    clf = make(solver=solver, learning_rate=learning_rate, shuffle=False, batch_size=40, alpha=0.3).fit(X_iris, y_iris)
    net = as_network(first)
    l2 = 0.0 if solver == "adamw" else 0.3  # Of which alpha is the decoupled weight decay.
    net.fit(X_iris, y_iris, 20, 40, optimizer, schedule, shuffle=False, l2=l2)
    for mine, yours in zip(clf.coefs_ + clf.intercepts_, net.weights + net.biases, strict=True):
        np.testing.assert_allclose(mine, yours, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("y", [y_iris, y_iris > 0, np.stack([y_iris > 0, y_iris > 1], axis=1).astype(int)])
def test_smoothing_clipping_and_averaging_are_those_of_the_network(y: np.ndarray) -> None:
    more = {"label_smoothing": 0.2, "clip_norm": 0.05, "average": 0.9}
    first = make(max_iter=1, solver=fastmlp.SGD(1e-300), alpha=0).fit(X_iris, y)
    plain = make(solver=fastmlp.SGD(0.1), shuffle=False, batch_size=40, alpha=0).fit(X_iris, y)
    is_softmax = first.out_activation_ == "softmax"
    net = as_network(first, loss="softmax_cross_entropy" if is_softmax else "sigmoid_cross_entropy")
    for name in more:
        clf = make(solver=fastmlp.SGD(0.1), shuffle=False, batch_size=40, alpha=0, **{name: more[name]}).fit(X_iris, y)
        net.set_parameters(first.coefs_, first.intercepts_)
        net.fit(X_iris, y, 20, 40, fastmlp.SGD(0.1), shuffle=False, **{name: more[name]})
        for mine, yours in zip(clf.coefs_ + clf.intercepts_, net.weights + net.biases, strict=True):
            np.testing.assert_allclose(mine, yours, rtol=1e-9, atol=1e-12)
        assert not np.allclose(clf.coefs_[0], plain.coefs_[0], rtol=1e-4)


def test_the_average_goes_on_with_partial_fit_and_from_a_pickle() -> None:
    parameters = {"average": 0.9, "shuffle": False, "max_iter": 6}
    whole = make(**parameters).fit(X_iris, y_iris)
    parts = make(**parameters)
    for _ in range(6):
        parts = pickle.loads(pickle.dumps(parts.partial_fit(X_iris, y_iris, classes=[0, 1, 2])))
    assert_same_weights(parts, whole)


@pytest.mark.parametrize("dropout", [0.4, (0.0, 0.6)])
def test_dropout(dropout: Any) -> None:
    parameters = {"hidden_layer_sizes": (30, 20), "shuffle": False}
    clf = make(dropout=dropout, **parameters).fit(X_iris, y_iris)
    assert not np.allclose(clf.coefs_[0], make(**parameters).fit(X_iris, y_iris).coefs_[0])
    assert_same_weights(clf, make(dropout=dropout, threads=2, **parameters).fit(X_iris, y_iris))
    other = make(dropout=dropout, **{**parameters, "random_state": 1}).fit(X_iris, y_iris)
    assert not np.allclose(clf.coefs_[0], other.coefs_[0])
    # None is left out of a prediction: the estimator answers as the network of its weights.
    np.testing.assert_allclose(clf.predict_proba(X_iris), as_network(clf).predict_proba(X_iris), rtol=1e-9)
    patient = make(dropout=dropout, max_iter=150, n_iter_no_change=np.inf, **parameters)
    assert patient.fit(X_iris, y_iris).score(X_iris, y_iris) > 0.93
    with pytest.raises(ValueError, match="dropout must give one rate for each of the 2 hidden layers, got 1"):
        make(dropout=(0.5,), **parameters).fit(X_iris, y_iris)


def test_dropout_leaves_out_as_many_units_as_it_says() -> None:
    """With all weights 1, zero biases and x = 1, the loss of ``y = 0`` tells how many units there were."""
    n, rate = 400, 0.3
    init = ([np.ones((1, n)), np.ones((n, 1))], [np.zeros(n), np.zeros(1)])
    reg = MLPRegressor(
        hidden_layer_sizes=(n,), init=init, dropout=rate, solver=fastmlp.SGD(1e-12), max_iter=1, alpha=0, batch_size=1,
        random_state=0,
    ).fit(np.ones((200, 1)), np.zeros(200))  # fmt: skip
    # ŷ = (units that are left) / (1 - rate): mean n, variance n rate / (1 - rate); the loss is ŷ² / 2.
    expected = (n**2 + n * rate / (1 - rate)) / 2
    assert reg.loss_ == pytest.approx(expected, rel=0.02)


# --- While it runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks_see_the_history_and_may_stop(solver: str) -> None:
    seen = []

    def stop_after_five(history: fastmlp.History) -> bool:
        seen.append(list(history.train_loss))
        return len(seen) == 5

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Who stops it needs no warning.
        clf = make(solver=solver, callbacks=[stop_after_five], max_iter=50).fit(X_iris, y_iris)
    assert clf.n_iter_ == 5
    assert [len(losses) for losses in seen] == [1, 2, 3, 4, 5]
    assert seen[-1][-1] == clf.loss_


def test_max_time() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(4000, 100)), rng.integers(10, size=4000)
    clf = make(hidden_layer_sizes=(200,), max_time=0.3, max_iter=100_000, tol=0, n_iter_no_change=np.inf)
    clf.fit(X[:50], y[:50])  # Compiles.
    started = time.perf_counter()
    with pytest.warns(ConvergenceWarning, match=r"max_time \(0.3 s\) reached"):
        clf.fit(X, y)
    assert time.perf_counter() - started < 3.0
    assert clf.n_iter_ < 100_000
    assert np.isfinite(clf.loss_)
    with pytest.warns(ConvergenceWarning, match=r"after 1 iteration\(s\) \(max_time \(1e-09 s\) reached\)"):
        make(solver="lbfgs", max_time=1e-9).fit(X_iris, y_iris)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_max_time_does_not_count_the_compilation(monkeypatch: pytest.MonkeyPatch, solver: str) -> None:
    expected = make(solver=solver).fit(X_iris, y_iris).n_iter_
    is_compiled = []

    def slow_once(method: Any) -> Any:
        def run(*arguments: Any) -> Any:
            if not is_compiled:
                time.sleep(1.0)
                is_compiled.append(True)
            return method(*arguments)

        return run

    # What is called first compiles: without `compile`, the steps, or what is set up for gradients.
    for name in ("compile", "train_steps", "gradient_function"):
        monkeypatch.setattr(fastmlp.kernels.Engine, name, slow_once(getattr(fastmlp.kernels.Engine, name)))
    assert make(solver=solver, max_time=0.9).fit(X_iris, y_iris).n_iter_ == expected


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    make(progress=True).fit(X_iris, y_iris)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "20.0/20 epochs" in printed.err
    assert "loss" in printed.err
    clf = make(solver="lbfgs", progress=True, max_iter=7).fit(X_iris, y_iris)
    assert clf.n_iter_ == 7
    assert "7.0/7 iterations" in (printed := capsys.readouterr().err)
    assert f"loss {clf.loss_:.4g}" in printed


def test_progress_of_a_fit_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    at: list[float] = []

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> None:
            super().update(n)
            at.append(self.n)

    monkeypatch.setattr("tqdm.tqdm", Bar)
    clf = make(progress=True, warm_start=True, max_iter=4)
    for _ in range(2):
        clf.fit(X_iris, y_iris)
        assert at == sorted(at)
        assert at[-1] == 4
        at.clear()
