"""The estimators against scikit-learn's own: the same losses and coefficients, epoch by epoch, within rounding."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import sklearn.neural_network as theirs
from scipy import sparse
from sklearn.datasets import load_digits, load_wine, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import fastmlp
from fastmlp.estimators import run

X_digits, y_digits = load_digits(return_X_y=True)
X_digits = X_digits[:420] / 16.0
y_digits = y_digits[:420]
X_labels, Y_labels = make_multilabel_classification(300, 12, n_classes=4, random_state=0)
X_labels = (X_labels - X_labels.mean(axis=0)) / X_labels.std(axis=0)
X_values, Y_values = make_regression(300, 8, n_targets=3, noise=5.0, random_state=0)
Y_values /= 50.0
counts = np.random.default_rng(0).poisson(np.exp(X_values[:, 0] / 2)).astype(float)

TASKS: dict[str, tuple[str, Any, Any, dict[str, Any]]] = {
    "classes": ("MLPClassifier", X_digits, y_digits, {}),
    "words": ("MLPClassifier", X_digits, np.array(list("klmnopqrst"), dtype=object)[y_digits], {}),
    "two classes": ("MLPClassifier", X_digits, y_digits > 4, {}),
    "labels": ("MLPClassifier", X_labels, Y_labels, {}),
    "values": ("MLPRegressor", X_values, Y_values[:, 0], {}),
    "values of three kinds": ("MLPRegressor", X_values, Y_values, {}),
    "counts": ("MLPRegressor", X_values, counts, {"loss": "poisson"}),
}
SOLVERS: dict[str, dict[str, Any]] = {
    "sgd": {"solver": "sgd", "momentum": 0, "learning_rate_init": 0.05},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.02},
    "nesterov": {"solver": "sgd", "learning_rate_init": 0.02},
    "adam": {"solver": "adam", "learning_rate_init": 0.01},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.2, "learning_rate_init": 0.2},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.02, "n_iter_no_change": 1},
}
COMMON: dict[str, Any] = {"hidden_layer_sizes": (12, 7), "batch_size": 64, "max_iter": 12, "alpha": 0.1}


def fit_both(task: str, dtype: Any = np.float64, sample_weight: Any = None, **parameters: Any) -> tuple[Any, Any]:
    """Fit our estimator and theirs with the same parameters."""
    kind, X, y, own = TASKS[task]
    pair = []
    for library in (fastmlp, theirs):
        estimator = getattr(library, kind)(**{"random_state": 3, **COMMON, **own, **parameters})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            pair.append(estimator.fit(X.astype(dtype), y, sample_weight=sample_weight))
    return pair[0], pair[1]


def assert_equal(ours: Any, other: Any, rtol: float = 1e-9, curves: bool = True) -> None:
    """Compare all that was learnt; `rtol` is relative to the largest of each array."""
    for mine, yours in zip(ours.coefs_ + ours.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_allclose(mine, yours, rtol=rtol, atol=rtol * np.abs(yours).max())
    assert ours.n_iter_ == other.n_iter_
    assert ours.loss_ == pytest.approx(other.loss_, rel=rtol)
    assert (ours.n_layers_, ours.n_outputs_, ours.out_activation_) == (
        other.n_layers_,
        other.n_outputs_,
        other.out_activation_,
    )
    if curves:
        np.testing.assert_allclose(ours.loss_curve_, other.loss_curve_, rtol=rtol)
        assert ours.t_ == other.t_


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", TASKS)
def test_every_step_is_scikit_learns_in_order(task: str, solver: str) -> None:
    ours, other = fit_both(task, shuffle=False, **SOLVERS[solver])
    assert_equal(ours, other)
    assert ours.best_loss_ == pytest.approx(other.best_loss_, rel=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", ["classes", "values of three kinds"])
def test_the_orders_and_the_first_weights_are_scikit_learns_too(task: str, solver: str) -> None:
    assert_equal(*fit_both(task, **SOLVERS[solver]))


@pytest.mark.parametrize("nesterovs_momentum", [False, True])
def test_a_momentum_of_one(nesterovs_momentum: bool) -> None:
    """No optimizer of ours has it: the estimators take the number before."""
    parameters = {"solver": "sgd", "momentum": 1.0, "learning_rate_init": 1e-3}
    assert_equal(*fit_both("classes", nesterovs_momentum=nesterovs_momentum, **parameters))


@pytest.mark.parametrize("solver", ["nesterov", "adam"])
@pytest.mark.parametrize("task", TASKS)
def test_sample_weights(task: str, solver: str) -> None:
    weights = np.random.default_rng(1).uniform(0.0, 3.0, len(TASKS[task][1]))
    weights[::7] = 0.0
    assert_equal(*fit_both(task, sample_weight=weights, **SOLVERS[solver]))


@pytest.mark.parametrize("task", ["classes", "two classes", "labels", "values of three kinds", "counts"])
def test_float32(task: str) -> None:
    ours, other = fit_both(task, dtype=np.float32, **SOLVERS["nesterov"])
    assert {array.dtype for array in ours.coefs_ + ours.intercepts_} == {np.dtype("float32")}
    assert_equal(ours, other, rtol=2e-4)


@pytest.mark.parametrize("form", ["csr_array", "csr_matrix", "csc_array", "csc_matrix"])
@pytest.mark.parametrize("solver", ["nesterov", "adam", "lbfgs"])
def test_sparse_samples(form: str, solver: str) -> None:
    X = getattr(sparse, form)(X_digits * (X_digits > 0.5))
    parameters = {"solver": "lbfgs", "max_iter": 5} if solver == "lbfgs" else SOLVERS[solver]
    pair = []
    for library in (fastmlp, theirs):
        estimator = library.MLPClassifier(**{"random_state": 3, **COMMON, **parameters})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            pair.append(estimator.fit(X, y_digits))
    assert_equal(*pair, rtol=1e-6 if solver == "lbfgs" else 1e-9, curves=solver != "lbfgs")
    np.testing.assert_allclose(pair[0].predict_proba(X), pair[1].predict_proba(X.toarray()), rtol=1e-5)
    np.testing.assert_array_equal(pair[0].predict(X), pair[1].predict(X))


def test_sparse_samples_with_early_stopping_and_in_float32() -> None:
    X = sparse.csr_array(X_digits * (X_digits > 0.5))
    for dtype, rtol in ((np.float64, 1e-9), (np.float32, 2e-4)):
        pair = []
        for library in (fastmlp, theirs):
            estimator = library.MLPClassifier(**{"random_state": 3, **COMMON, "early_stopping": True})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                pair.append(estimator.fit(X.astype(dtype), y_digits))
        assert_equal(*pair, rtol=rtol)
        np.testing.assert_allclose(pair[0].validation_scores_, pair[1].validation_scores_)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_activations_and_their_first_weights(activation: str) -> None:
    assert_equal(*fit_both("classes", activation=activation, **SOLVERS["nesterov"]))


@pytest.mark.parametrize("hidden", [(), 9, [9], np.array([9, 4])])
def test_hidden_layers(hidden: Any) -> None:
    for activation in ("relu", "logistic"):
        assert_equal(*fit_both("classes", hidden_layer_sizes=hidden, activation=activation, **SOLVERS["nesterov"]))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_early_stopping_sets_the_same_samples_aside(task: str, weighted: bool) -> None:
    weights = np.random.default_rng(1).uniform(0.5, 2.0, len(TASKS[task][1])) if weighted else None
    parameters = {**SOLVERS["adam"], "early_stopping": True, "n_iter_no_change": 2, "max_iter": 25, "tol": 0.01}
    ours, other = fit_both(task, sample_weight=weights, **parameters)
    assert_equal(ours, other)
    np.testing.assert_allclose(ours.validation_scores_, other.validation_scores_, rtol=1e-9)
    assert ours.best_validation_score_ == pytest.approx(other.best_validation_score_, rel=1e-9)
    assert ours.best_loss_ is other.best_loss_ is None


def test_early_stopping_with_one_class() -> None:
    pair = []
    for library in (fastmlp, theirs):
        estimator = library.MLPClassifier(random_state=6, early_stopping=True, n_iter_no_change=2, **COMMON)
        pair.append(estimator.fit(X_digits, np.full(len(X_digits), "one")))
    assert_equal(*pair)
    assert pair[0].validation_scores_ == pair[1].validation_scores_


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", ["classes", "two classes", "labels", "values", "counts"])
def test_lbfgs_begins_alike(task: str, weighted: bool) -> None:
    weights = np.random.default_rng(1).uniform(0.5, 2.0, len(TASKS[task][1])) if weighted else None
    ours, other = fit_both(task, sample_weight=weights, solver="lbfgs", activation="tanh", max_iter=6)
    assert_equal(ours, other, rtol=1e-6, curves=False)


def test_lbfgs_searches_alike_where_probabilities_come_close_to_zero() -> None:
    """The first trials on data that are not scaled are far away, and a probability of 1e-300 counts as one of 2e-16."""
    X, y = load_wine(return_X_y=True)
    for seed in range(2):
        pair = []
        for library in (fastmlp, theirs):
            clf = library.MLPClassifier((20,), solver="lbfgs", max_iter=5, random_state=seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                pair.append(clf.fit(X, y))
        assert_equal(*pair, rtol=1e-6, curves=False)


def test_partial_fit_goes_on_as_scikit_learns_does() -> None:
    for solver in ("nesterov", "adam", "invscaling"):
        pair = []
        for library in (fastmlp, theirs):
            estimator = library.MLPClassifier(random_state=3, **COMMON, **SOLVERS[solver])
            for part in range(3):
                rows = slice(100 * part, 100 * part + 100)
                estimator.partial_fit(X_digits[rows], y_digits[rows], classes=np.arange(10))
            pair.append(estimator)
        assert_equal(*pair)


X_small, y_small = X_digits[:4], Y_values[:4, 0]


REFUSED: dict[str, tuple[Any, Any]] = {
    "NaN": (np.where(X_small == X_small.max(), np.nan, X_small), y_small),
    "infinity": (np.where(X_small == X_small.max(), -np.inf, X_small), y_small),
    "NaN in y": (X_small, np.array([0.0, 1.0, np.nan, 2.0])),
    "a column less": (X_small[:, 1:], y_small),
    "one sample": (X_small[0], y_small),
    "three dimensions": (X_small[None], y_small),
    "none": (X_small[:0], y_small[:0]),
    "a target less": (X_small, y_small[1:]),
    "three dimensions in y": (X_small, y_small[:, None, None]),
    "complex": (X_small + 1j, y_small),
    "no dimension in y": (X_small, np.array(3.0)),
    "no column in y": (X_small, np.zeros((4, 0))),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_what_partial_fit_refuses(refused: str) -> None:
    """A second call looks at plain arrays itself, which is faster, and must refuse what scikit-learn does."""
    (X, y), messages = REFUSED[refused], []
    for library in (fastmlp, theirs):
        reg = library.MLPRegressor(hidden_layer_sizes=(3,), random_state=0).partial_fit(X_digits[:4], y_small)
        before = reg.coefs_[0].copy()
        with pytest.raises((ValueError, TypeError)) as caught:
            reg.partial_fit(X, y)
        np.testing.assert_array_equal(reg.coefs_[0], before)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    "change",
    [np.asfortranarray, lambda X: X[::-1], lambda X: X.astype(np.float32), lambda X: (16 * X).astype(int), list],
    ids=["columns", "backwards", "float32", "int", "list"],
)
def test_partial_fit_takes_arrays_of_any_kind(change: Any) -> None:
    """Those, too, that a second call does not take as they are."""
    ours, other = (
        library.MLPRegressor(hidden_layer_sizes=(3,), random_state=0)
        .partial_fit(X_digits[:4], y_small)
        .partial_fit(change(X_digits[4:8]), y_small)
        for library in (fastmlp, theirs)
    )
    np.testing.assert_allclose(ours.coefs_[0], other.coefs_[0], rtol=1e-9)


def test_partial_fit_after_fit_goes_on_with_the_moments() -> None:
    pair = fit_both("classes", **SOLVERS["adam"])
    for estimator in pair:
        estimator.partial_fit(X_digits[:80], y_digits[:80])
    assert_equal(*pair)


def test_warm_start_without_momentum() -> None:
    pair = fit_both("classes", warm_start=True, **SOLVERS["sgd"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for estimator in pair:
            estimator.fit(X_digits, y_digits)
    assert_equal(*pair)
    assert pair[0].n_iter_ == COMMON["max_iter"]
    assert len(pair[0].loss_curve_) == 2 * COMMON["max_iter"]


def test_another_activation_between_warm_starts_is_the_one_that_goes_on() -> None:
    pair = fit_both("classes", warm_start=True, **SOLVERS["sgd"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for estimator in pair:
            estimator.set_params(activation="tanh").fit(X_digits, y_digits)
    assert_equal(*pair)
    for estimator in pair:
        estimator.set_params(activation="logistic").partial_fit(X_digits, y_digits)
    assert_equal(*pair)
    np.testing.assert_allclose(pair[0].predict_proba(X_digits), pair[1].predict_proba(X_digits), rtol=1e-7)


@pytest.mark.parametrize("task", TASKS)
def test_predictions(task: str) -> None:
    X = TASKS[task][1]
    ours, other = fit_both(task, **SOLVERS["adam"])
    mine, yours = ours.predict(X), other.predict(X)
    assert mine.shape == yours.shape
    assert mine.dtype == yours.dtype
    if task.startswith(("values", "counts")):
        np.testing.assert_allclose(mine, yours, rtol=1e-7)
        return
    np.testing.assert_array_equal(mine, yours)
    np.testing.assert_allclose(ours.predict_proba(X), other.predict_proba(X), rtol=1e-7)
    np.testing.assert_allclose(ours.predict_log_proba(X), other.predict_log_proba(X), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("batch_size", [50, len(y_digits)])
def test_a_random_state_object_is_drawn_from_alike(batch_size: int, method: str) -> None:
    states = [np.random.RandomState(5), np.random.RandomState(5)]
    pair = []
    for library, state in zip((fastmlp, theirs), states, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            clf = library.MLPClassifier(random_state=state, **{**COMMON, "batch_size": batch_size})
            classes = {"classes": np.unique(y_digits)} if method == "partial_fit" else {}
            pair.append(getattr(clf, method)(X_digits, y_digits, **classes))
    assert_equal(*pair)
    assert states[0].randint(1 << 30) == states[1].randint(1 << 30)


def test_one_batch_needs_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.SampleOrders, "permuted", None)  # Nobody draws one.
    pair = []
    for library in (fastmlp, theirs):
        clf = library.MLPClassifier(random_state=5, **{**COMMON, "batch_size": len(y_digits)})
        for _ in range(3):
            clf.partial_fit(X_digits, y_digits, classes=np.unique(y_digits))
        pair.append(clf)
    assert_equal(*pair)


@pytest.mark.parametrize("task", ["classes", "two classes", "labels"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_loss_of_what_is_wrong_and_very_sure(task: str, dtype: Any) -> None:
    """Inputs that are not scaled: scikit-learn cuts off probabilities that are smaller than the dtype's epsilon."""
    X, y = TASKS[task][1:3]
    pair = []
    for library in (fastmlp, theirs):
        estimator = library.MLPClassifier(random_state=3, **{**COMMON, "max_iter": 3})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            pair.append(estimator.fit((1e3 * X).astype(dtype), y))
    assert max(pair[1].loss_curve_) > 3.0
    # Where theirs is log(1 - p), p close to 1, it has few digits.
    rtol = 1e-9 if dtype is np.float64 and task == "classes" else 1e-3
    np.testing.assert_allclose(pair[0].loss_curve_, pair[1].loss_curve_, rtol=rtol)


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    parameters = {**SOLVERS["adaptive"], "verbose": True, "early_stopping": True, "tol": 0.2}
    for library in (fastmlp, theirs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            library.MLPClassifier(random_state=3, **{**COMMON, **parameters}).fit(X_digits, y_digits)
        printed.append(capsys.readouterr().out.splitlines())
    same = [line for line in printed[1] if line.startswith(("Iteration", "Validation score:"))]
    assert [line for line in printed[0] if line.startswith(("Iteration", "Validation score:"))] == same
    assert len(printed[0]) == len(printed[1])


@pytest.mark.parametrize("name", ["identity", "logistic", "softmax", "tanh", "relu"])
@pytest.mark.parametrize("task", [task for task in TASKS if task != "counts"])
def test_another_output_activation_is_applied(task: str, name: str) -> None:
    """A way to logits, or to values in bounds, that people have found."""
    X = TASKS[task][1]
    pair = fit_both(task, **SOLVERS["adam"])
    for each in pair:
        each.out_activation_ = name
    methods = ["predict"] + ["predict_proba"] * (pair[0].__class__.__name__ == "MLPClassifier")
    for method in methods:
        mine, yours = (getattr(each, method)(X) for each in pair)
        assert mine.dtype == yours.dtype
        if mine.dtype.kind == "f":
            np.testing.assert_allclose(mine, yours, rtol=1e-6, atol=1e-12)
        else:
            np.testing.assert_array_equal(mine, yours)


def test_what_does_not_go_on_is_refused() -> None:
    clf = fastmlp.MLPClassifier((3,), max_iter=2, random_state=0)
    with pytest.warns(ConvergenceWarning):
        clf.fit(X_digits, y_digits)
    clf.out_activation_ = "identity"
    with pytest.raises(ValueError, match="out_activation_ must be 'softmax' for training to go on, got 'identity'"):
        clf.partial_fit(X_digits, y_digits)
    clf.out_activation_ = "softplus"
    with pytest.raises(ValueError, match=r"out_activation_ must be one of identity, .* got 'softplus'"):
        clf.predict(X_digits)
    clf.out_activation_ = "softmax"
    before = clf.coefs_[0].copy()
    with pytest.raises(ValueError, match="hidden_layer_sizes must be 1 numbers for training to go on, got 2"):
        clf.set_params(hidden_layer_sizes=(3, 4)).partial_fit(X_digits, y_digits)
    np.testing.assert_array_equal(clf.coefs_[0], before)


@pytest.mark.parametrize("first", ["fit", "partial_fit"])
@pytest.mark.parametrize(("before", "after"), [("constant", "invscaling"), ("invscaling", "constant")])
def test_partial_fit_keeps_the_schedule_that_it_began_with(before: str, after: str, first: str) -> None:
    losses = []
    for library in (fastmlp, theirs):
        reg = library.MLPRegressor(
            hidden_layer_sizes=(3,),
            solver="sgd",
            learning_rate_init=0.1,
            learning_rate=before,
            random_state=0,
            max_iter=3,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            getattr(reg, first)(X_values, Y_values[:, 0])
        reg.set_params(learning_rate=after, power_t=0.1)
        for _ in range(5):
            reg.partial_fit(X_values, Y_values[:, 0])
        losses.append(reg.loss_curve_)
    np.testing.assert_allclose(*losses, rtol=1e-9)


@pytest.mark.parametrize("parameters", [{"activation": 3}, {"max_iter": -2}, {"solver": "newton"}], ids=str)
def test_a_first_partial_fit_that_is_refused(parameters: dict[str, Any]) -> None:
    """Before classes are learnt, and after it the estimator is as it was: not fitted."""
    errors = []
    for library in (fastmlp, theirs):
        clf = library.MLPClassifier(**parameters)
        with pytest.raises((ValueError, AttributeError)) as caught:
            clf.partial_fit(X_digits, y_digits, classes=np.arange(10))
        with pytest.raises(NotFittedError):
            clf.predict(X_digits)
        errors.append(caught.type)
    assert errors[0] is errors[1]
    for library in (fastmlp, theirs):
        clf = library.MLPClassifier((3,))
        for _ in range(2):
            with pytest.raises(ValueError, match="classes"):
                clf.partial_fit(X_labels, Y_labels, classes=[0, 1])


@pytest.mark.parametrize("parameters", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
@pytest.mark.parametrize("task", ["classes", "values"])
def test_attributes_are_of_the_same_types(task: str, parameters: dict[str, Any]) -> None:
    ours, other = fit_both(task, **parameters)
    for name in vars(other):
        if name.endswith("_") and not name.startswith("_"):
            mine, yours = getattr(ours, name), getattr(other, name)
            assert type(mine) is type(yours), name
            if isinstance(mine, list):
                assert [type(each) for each in mine] == [type(each) for each in yours], name
