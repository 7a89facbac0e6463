"""`MLPClassifier` and `MLPRegressor` as scikit-learn's users know them: parameters, attributes, errors, warnings."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import sklearn.neural_network as theirs
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor

X_iris, y_iris = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])
BOTH = (MLPClassifier, MLPRegressor)


@pytest.fixture
def _may_not_converge() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def fitted(kind: Any = MLPClassifier, **parameters: Any) -> Any:
    """Fit an estimator to the irises, shortly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kind(**{"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0, **parameters}).fit(X_iris, y_iris)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([MLPClassifier(max_iter=60), MLPRegressor(max_iter=60)])
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


# --- Parameters and attributes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_every_parameter_of_scikit_learn_with_its_default_and_in_its_place(name: str) -> None:
    ours = inspect.signature(getattr(fastmlp, name)).parameters
    for parameter in inspect.signature(getattr(theirs, name)).parameters.values():
        assert ours[parameter.name].default == parameter.default
        assert ours[parameter.name].kind == parameter.kind


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("kind", BOTH)
def test_every_attribute_of_scikit_learn(kind: Any, solver: str) -> None:
    ours, other = fitted(kind, solver=solver), fitted(getattr(theirs, kind.__name__), solver=solver)
    # scikit-learn's regressor has a partial_fit with lbfgs, too, by an oversight: it is a fit that begins from coefs_.
    public = {name for name in (*vars(other), *dir(other)) if not name.startswith("_")} - {"partial_fit"}
    assert {name for name in public if not hasattr(ours, name)} == set()
    assert hasattr(ours, "partial_fit") == (solver != "lbfgs")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hidden_layer_sizes": -1}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": (5, 0)}, r"hidden_layer_sizes must be > 0, got \[5, 0\]"),
        ({"hidden_layer_sizes": (5, 2.5)}, r"hidden_layer_sizes must be whole numbers, got \[5, 2.5\]"),
        ({"activation": "ghost"}, "activation"),
        ({"activation": ("relu", "tanh")}, "activation must name one function for each of the 1 hidden layers, got 2"),
        ({"solver": "ghost"}, "solver"),
        ({"alpha": -1}, "alpha"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": "ghost"}, "learning_rate"),
        ({"learning_rate_init": 0}, "learning_rate_init"),
        ({"momentum": 2}, "momentum"),
        ({"validation_fraction": 1}, "validation_fraction"),
        ({"n_iter_no_change": 0}, "n_iter_no_change"),
        ({"shuffle": "no"}, "shuffle"),
        ({"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
        ({"threads": 0}, "threads"),
        ({"dropout": 1.0}, "dropout"),
        ({"max_time": 0}, "max_time"),
        ({"callbacks": [3]}, r"callbacks\[0\] must be callable, got 3"),
        ({"init": "ghost"}, "init"),
        ({"init": (1, 2, 3)}, r"init must be 'glorot', 'he' or a pair \(coefs, intercepts\)"),
        ({"early_stopping_metric": "ghost"}, "early_stopping_metric"),
        ({"solver": "lbfgs", "clip_norm": 1.0}, "clip_norm must be left out with solver='lbfgs'"),
    ],
)
@pytest.mark.parametrize("kind", BOTH)
def test_wrong_parameters_are_refused_by_fit(kind: Any, parameters: dict[str, Any], message: str) -> None:
    estimator = kind(**{"hidden_layer_sizes": (8,), **parameters})
    with pytest.raises(ValueError, match=message):
        estimator.fit(X_iris, y_iris)


def test_an_empty_validation_set_is_refused_in_the_name_of_the_estimator() -> None:
    with pytest.raises(ValueError, match=r"^test_size=0.0 should be either positive") as refused:
        MLPRegressor(early_stopping=True, validation_fraction=0.0).fit(X_iris, y_iris)
    assert "train_test_split" not in str(refused.value)


def test_parameters_that_become_wrong_later_are_refused() -> None:
    reg = MLPRegressor(hidden_layer_sizes=(3,)).partial_fit(X_iris, y_iris).partial_fit(X_iris, y_iris)
    for _ in range(2):
        with pytest.raises(ValueError, match="alpha"):
            reg.set_params(alpha=-1.0).partial_fit(X_iris, y_iris)
    reg.set_params(alpha=0.0).partial_fit(X_iris, y_iris)
    reg.alpha = "much"
    with pytest.raises(ValueError, match="alpha"):
        pickle.loads(pickle.dumps(reg)).partial_fit(X_iris, y_iris)


def test_import_without_scikit_learn_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import fastmlp\n"
        "try: from fastmlp import MLPClassifier\n"
        "except ImportError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "MLPClassifier and MLPRegressor need scikit-learn: pip install 'fastmlp[sklearn]'\n"


# --- The weights ------------------------------------------------------------------------------------------------------


def forward(estimator: Any, X: np.ndarray) -> np.ndarray:
    """The outputs of a ReLU network by its coefs_ and intercepts_, by hand."""
    A = X
    for W, b in zip(estimator.coefs_[:-1], estimator.intercepts_[:-1], strict=True):
        A = np.maximum(A @ W + b, 0.0)
    return A @ estimator.coefs_[-1] + estimator.intercepts_[-1]


def test_coefs_are_live() -> None:
    reg = fitted(MLPRegressor, hidden_layer_sizes=(8, 6))
    before = reg.predict(X_iris)
    np.testing.assert_allclose(before, forward(reg, X_iris).ravel(), rtol=1e-10)
    reg.coefs_[0] *= 2.0  # In place.
    reg.intercepts_[1][3] = 4.0
    np.testing.assert_allclose(reg.predict(X_iris), forward(reg, X_iris).ravel(), rtol=1e-10)
    coefs = reg.coefs_
    coefs[1] = np.full((8, 6), 0.25)  # Another array in the list's place.
    np.testing.assert_allclose(reg.predict(X_iris), forward(reg, X_iris).ravel(), rtol=1e-10)
    coefs[1][0, 0] = 3.0
    coefs[2] = np.ones((6, 1))
    np.testing.assert_allclose(reg.predict(X_iris), forward(reg, X_iris).ravel(), rtol=1e-10)
    reg.coefs_ = [np.array(W) + 1.0 for W in reg.coefs_]  # Another list.
    np.testing.assert_allclose(reg.predict(X_iris), forward(reg, X_iris).ravel(), rtol=1e-10)
    reg.coefs_ = [np.ones((4, 3)), np.ones((3, 2)), np.ones((2, 1))]  # Another network.
    reg.intercepts_ = [np.zeros(3), np.ones(2), np.zeros(1)]
    np.testing.assert_allclose(reg.predict(X_iris), forward(reg, X_iris).ravel(), rtol=1e-10)
    assert not np.allclose(before, reg.predict(X_iris))


def test_training_begins_from_what_was_put_into_coefs() -> None:
    clf = fitted(solver="sgd", warm_start=True, learning_rate_init=1e-12, momentum=0, alpha=0)
    clf.coefs_[0] = np.full((4, 8), 0.5)
    clf.partial_fit(X_iris, y_iris)
    np.testing.assert_allclose(clf.coefs_[0], 0.5, rtol=1e-9)


@pytest.mark.usefixtures("_may_not_converge")
def test_first_weights_of_ones_own() -> None:
    rng = np.random.default_rng(0)
    init = ([rng.normal(size=(4, 8)), rng.normal(size=(8, 3))], [rng.normal(size=8), rng.normal(size=3)])
    clf = MLPClassifier((8,), solver="sgd", learning_rate_init=1e-12, init=init, max_iter=1, alpha=0).fit(
        X_iris, y_iris
    )
    for mine, given in zip(clf.coefs_ + clf.intercepts_, init[0] + init[1], strict=True):
        np.testing.assert_allclose(mine, given, rtol=1e-9)
    with pytest.raises(ValueError, match=r"^init's coefs\[0\] must be \(4, 9\), got \(4, 8\)"):
        clf.set_params(hidden_layer_sizes=(9,)).fit(X_iris, y_iris)


@pytest.mark.usefixtures("_may_not_converge")
def test_first_weights_by_he_and_by_glorot() -> None:
    X = np.zeros((2, 300))
    for init, bound in (("he", np.sqrt(6 / 300)), ("glorot", np.sqrt(6 / 500))):
        reg = MLPRegressor(hidden_layer_sizes=(200,), init=init, max_iter=1, alpha=0, learning_rate_init=1e-15).fit(
            X, [0.0, 0.0]
        )
        assert 0.99 * bound < np.abs(reg.coefs_[0]).max() <= bound * (1 + 1e-9)
        assert np.abs(reg.coefs_[0]).mean() == pytest.approx(bound / 2, rel=0.02)
        assert bool(np.abs(reg.intercepts_[0]).max() < 1e-9) == (init == "he")


# --- Labels and inputs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [y_iris, NAMES[y_iris], NAMES.astype(object)[y_iris], y_iris * 5 - 3])
def test_labels_come_back_as_they_were(labels: np.ndarray) -> None:
    clf = MLPClassifier((10,), solver="lbfgs", random_state=0, max_iter=200, tol=1e-3).fit(X_iris, labels)
    np.testing.assert_array_equal(clf.classes_, np.unique(labels))
    predicted = clf.predict(X_iris)
    assert predicted.dtype == clf.classes_.dtype
    assert (predicted == labels).mean() > 0.95
    np.testing.assert_array_equal(clf.classes_[clf.predict_proba(X_iris).argmax(axis=1)], predicted)


def test_two_words_and_a_single_one() -> None:
    two = NAMES[np.minimum(y_iris, 1)]
    clf = MLPClassifier((10,), solver="lbfgs", random_state=0, tol=1e-3).fit(X_iris, two)
    assert (clf.predict(X_iris) == two).all()
    np.testing.assert_allclose(clf.predict_proba(X_iris).sum(axis=1), 1.0)
    one = MLPClassifier((3,), solver="lbfgs").fit(X_iris, np.full(150, "iris"))
    assert set(one.predict(X_iris)) == {"iris"}


@pytest.mark.usefixtures("_may_not_converge")
def test_several_labels() -> None:
    X, Y = make_multilabel_classification(80, random_state=0)
    clf = MLPClassifier(max_iter=100, learning_rate_init=0.01, random_state=0).fit(X, Y)
    assert clf.predict(X).shape == Y.shape
    np.testing.assert_array_equal(clf.predict(X), clf.predict_proba(X) > 0.5)
    assert clf.score(X, Y) > 0.8
    from_sparse = MLPClassifier(max_iter=100, learning_rate_init=0.01, random_state=0).fit(X, sparse.csr_array(Y))
    np.testing.assert_array_equal(from_sparse.predict(X).toarray(), clf.predict(X))


@pytest.mark.parametrize("kind", BOTH)
def test_float32_in_float32_out(kind: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for solver in ("adam", "lbfgs"):
            estimator = kind(hidden_layer_sizes=(5,), solver=solver, max_iter=3).fit(X_iris.astype(np.float32), y_iris)
            assert {array.dtype for array in estimator.coefs_ + estimator.intercepts_} == {np.dtype("float32")}
            outputs = estimator.predict_proba if kind is MLPClassifier else estimator.predict
            assert outputs(X_iris.astype(np.float32)).dtype == np.float32
            assert outputs(X_iris).dtype == np.float32  # The network's, where scikit-learn gives float64.
        assert (
            kind(hidden_layer_sizes=(5,), max_iter=3, dtype="float32").fit(X_iris, y_iris).coefs_[0].dtype == np.float32
        )
        assert kind(hidden_layer_sizes=(5,), max_iter=3).fit(X_iris.astype(int), y_iris).coefs_[0].dtype == np.float64


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("kind", BOTH)
def test_frames(kind: Any, library: str) -> None:
    frames = pytest.importorskip(library)
    columns = ["a", "b", "c", "d"]
    frame = frames.DataFrame(dict(zip(columns, X_iris.T, strict=True)))
    target = frames.Series(NAMES[y_iris] if kind is MLPClassifier else y_iris)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator = kind(hidden_layer_sizes=(5,), max_iter=3, early_stopping=True).fit(frame, target)
        estimator.predict(frame)
    if library == "pandas":
        assert list(estimator.feature_names_in_) == columns
        with pytest.raises(ValueError, match="feature names"):
            estimator.predict(frame[columns[::-1]])
        with pytest.warns(UserWarning, match="valid feature names"):
            estimator.predict(X_iris)


def test_layouts_in_memory() -> None:
    reg = fitted(MLPRegressor)
    expected = reg.predict(X_iris)
    for X in (np.asfortranarray(X_iris), np.repeat(X_iris, 2, axis=0)[::2], X_iris.tolist(), X_iris.astype("f4")):
        np.testing.assert_allclose(reg.predict(X), expected, rtol=1e-5)
    assert reg.predict(X_iris[:1]).shape == (1,)
    assert MLPRegressor(hidden_layer_sizes=(5,), solver="lbfgs", tol=1).fit(X_iris, X_iris[:, :2]).predict(
        X_iris
    ).shape == (150, 2)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.array([[1.0, 2.0, np.nan, 4.0]]), "Input X contains NaN"),
        (np.array([[1.0, 2.0, np.inf, 4.0]]), "Input X contains infinity"),
        (sparse.csr_array([[1.0, np.nan, 0.0, 4.0]]), "Input X contains NaN"),
        (sparse.csr_array(np.zeros((2, 3))), "X has 3 features, but MLPClassifier is expecting 4"),
        (np.zeros((2, 3)), "X has 3 features, but MLPClassifier is expecting 4"),
        (np.zeros((0, 4)), r"Found array with 0 sample\(s\)"),
        (np.zeros(4), "Expected 2D array, got 1D array"),
        (np.array([["a", "b", "c", "d"]]), "string"),
        (np.zeros((1, 4), complex), "Complex data not supported"),
    ],
)
def test_what_predict_refuses_it_refuses_in_scikit_learns_words(X: np.ndarray, message: str) -> None:
    clf = fitted()
    for method in (clf.predict, clf.predict_proba):
        with pytest.raises(ValueError, match=message):
            method(X)
    with pytest.raises(ValueError, match=message):
        fitted(theirs.MLPClassifier).predict(X)


@pytest.mark.parametrize("kind", BOTH)
def test_not_fitted(kind: Any) -> None:
    with pytest.raises(NotFittedError, match=f"This {kind.__name__} instance is not fitted yet"):
        kind().predict(X_iris)


def test_targets_that_are_refused() -> None:
    with pytest.raises(ValueError, match="Unknown label type"):
        MLPClassifier().fit(X_iris, X_iris[:, 0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        MLPClassifier().fit(X_iris, y_iris[:3])
    with pytest.raises(ValueError, match="y must be >= 0 with loss='poisson', got -2"):
        MLPRegressor(loss="poisson").fit(X_iris, -y_iris)
    with pytest.raises(ValueError, match="sample_weight must be >= 0, got -1"):
        MLPClassifier().fit(X_iris, y_iris, sample_weight=np.full(150, -1.0))
    with pytest.raises(ValueError, match="sample_weight_val must be >= 0, got -1"):
        MLPClassifier().fit(X_iris, y_iris, X_val=X_iris, y_val=y_iris, sample_weight_val=np.full(150, -1.0))
    with pytest.warns(DataConversionWarning, match="column-vector"):
        MLPClassifier((3,), solver="lbfgs", tol=10.0).fit(X_iris, y_iris[:, None])


# --- Training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["sklearn", r"sklearn\.neural_network", theirs.MLPClassifier.__module__ + r"\Z"])
def test_filters_that_name_scikit_learn(module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for category in (ConvergenceWarning, DataConversionWarning):
            warnings.filterwarnings("ignore", category=category, module=module)
        MLPClassifier((5,), max_iter=3).fit(X_iris, y_iris[:, None])
        MLPClassifier((5,), solver="lbfgs", max_iter=3).fit(X_iris, y_iris)


def test_warnings_of_scikit_learn() -> None:
    with pytest.warns(ConvergenceWarning, match=r"Stochastic Optimizer: Maximum iterations \(3\) reached") as epochs:
        MLPClassifier((5,), max_iter=3).fit(X_iris, y_iris)
    words = (
        r"lbfgs failed to converge after 3 iteration.*Increase the number of iterations.*\(max_iter=3\).*scale the data"
    )
    with pytest.warns(ConvergenceWarning, match=words) as lbfgs:
        MLPClassifier((5,), solver="lbfgs", max_iter=3).fit(X_iris, y_iris)
    with pytest.warns(UserWarning, match="Got `batch_size` less than 1 or larger than sample size") as clipped:
        MLPClassifier((5,), batch_size=151, tol=10.0).fit(X_iris, y_iris)
    for warned in (epochs, lbfgs, clipped):
        assert [warning.filename for warning in warned] == [__file__]  # They point to the call of fit.


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_weights_that_do_not_stay_finite(solver: str) -> None:
    X = np.finfo(float).max * np.random.default_rng(0).uniform(size=(10, 2))
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        MLPRegressor(hidden_layer_sizes=(5,), solver=solver).fit(X, X[:, 0])


def test_divergence_with_early_stopping_keeps_the_best_weights() -> None:
    reg = MLPRegressor(
        hidden_layer_sizes=(50,),
        activation="identity",
        solver="sgd",
        learning_rate_init=1.0,
        early_stopping=True,
        random_state=0,
    )
    with pytest.warns(ConvergenceWarning, match="The loss is not finite since iteration"):
        reg.fit(X_iris, y_iris)
    assert np.isnan(reg.validation_scores_[-1])
    assert type(reg.validation_scores_[-1]) is float
    assert len(reg.loss_curve_) == len(reg.validation_scores_) == reg.n_iter_
    assert all(np.isfinite(W).all() for W in reg.coefs_)


def test_it_stops_when_there_is_no_improvement() -> None:
    for patience in (2, 5):
        clf = MLPClassifier((5,), tol=0.5, n_iter_no_change=patience, random_state=0).fit(X_iris, y_iris)
        best = np.minimum.accumulate(clf.loss_curve_)
        without = np.array(clf.loss_curve_[1:]) > best[:-1] - 0.5
        assert without[-patience - 1 :].all()
        assert clf.stopped_
        assert clf.n_iter_ < clf.max_iter
    with pytest.warns(ConvergenceWarning):
        clf = MLPClassifier((5,), tol=1e9, n_iter_no_change=np.inf, max_iter=30).fit(X_iris, y_iris)
    assert clf.n_iter_ == 30
    assert not clf.stopped_


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("kind", BOTH)
def test_epochs_that_run_together_are_the_same_epochs(kind: Any, solver: str) -> None:
    """Where nothing can happen between some epochs they are one call; a callback makes each a call of its own."""
    for patience, tol in ((1, 1e-2), (4, 1e-3), (10, 0.1)):
        parameters = {"solver": solver, "n_iter_no_change": patience, "tol": tol, "learning_rate_init": 0.02}
        one = fitted(kind, max_iter=200, **parameters)
        other = fitted(kind, max_iter=200, callbacks=[lambda history: None], **parameters)
        assert one.loss_curve_ == other.loss_curve_
        assert (one.n_iter_, one.stopped_, one.t_) == (other.n_iter_, True, other.t_)
        np.testing.assert_array_equal(one.coefs_[0], other.coefs_[0])


def test_early_stopping_gives_back_the_best_weights() -> None:
    X, y = X_iris / X_iris.max(axis=0), y_iris
    clf = MLPClassifier((8,), early_stopping=True, learning_rate_init=0.1, random_state=1, max_iter=80, tol=1e-3)
    clf.fit(X[::2], y[::2], X_val=X[1::2], y_val=y[1::2])
    assert clf.stopped_
    assert clf.validation_scores_[-1] < max(clf.validation_scores_) == clf.best_validation_score_
    assert clf.score(X[1::2], y[1::2]) == clf.best_validation_score_


def test_interrupted_training_is_kept() -> None:
    def interrupt(history: Any) -> None:
        if len(history.train_loss) == 4:
            raise KeyboardInterrupt

    for early_stopping in (False, True):
        clf = MLPClassifier((5,), callbacks=[interrupt], early_stopping=early_stopping, random_state=0)
        with pytest.warns(UserWarning, match="Training interrupted by user"):
            clf.fit(X_iris, y_iris)
        assert clf.n_iter_ == 4
        assert clf.predict(X_iris).shape == (150,)


@pytest.mark.usefixtures("_may_not_converge")
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_warm_start_goes_on(solver: str) -> None:
    clf = MLPClassifier((8,), solver=solver, max_iter=10, warm_start=True, random_state=0).fit(X_iris, y_iris)
    first, loss = clf.coefs_[0].copy(), clf.loss_
    clf.fit(X_iris, y_iris)
    assert clf.loss_ < loss
    assert clf.n_iter_ == 10
    assert not np.array_equal(clf.coefs_[0], first)
    with pytest.raises(
        ValueError, match="warm_start can only be used where `y` has the same classes as in the previous"
    ):
        clf.fit(X_iris, y_iris + 1)
    with pytest.raises(ValueError, match="X has 3 features"):
        clf.fit(X_iris[:, :3], y_iris)


@pytest.mark.usefixtures("_may_not_converge")
@pytest.mark.parametrize("kind", BOTH)
def test_what_may_change_between_warm_starts(kind: Any) -> None:
    changes = [
        {"solver": "adam"},
        {"early_stopping": True},
        {"solver": "sgd", "early_stopping": False},
        {"early_stopping": True, "early_stopping_metric": "loss"},
        {"solver": "lbfgs"},
    ]
    estimator = kind(hidden_layer_sizes=(8,), solver="lbfgs", max_iter=3, warm_start=True, random_state=0)
    estimator.fit(X_iris, y_iris)
    for change in changes:
        begin = estimator.coefs_[0].copy()
        estimator.set_params(**change).fit(X_iris, y_iris)
        assert np.abs(estimator.coefs_[0] - begin).max() < 1.0  # It went on from there.
    assert len(estimator.loss_curve_) == 12
    assert len(estimator.validation_scores_) == len(estimator.validation_loss_curve_) == 6


def test_partial_fit_and_its_classes() -> None:
    clf = MLPClassifier((8,), random_state=0)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        clf.partial_fit(X_iris, y_iris)
    clf.partial_fit(X_iris[:50], NAMES[y_iris[:50]], classes=NAMES)
    clf.partial_fit(X_iris[50:100], NAMES[y_iris[50:100]])
    assert set(clf.predict(X_iris)) <= set(NAMES)
    assert clf.predict_proba(X_iris).shape == (150, 3)
    for unknown in (["rosa", "setosa"], ["virginia", "setosa"], ["zoysia", "setosa"]):
        with pytest.raises(ValueError, match="`y` has classes not in"):
            clf.partial_fit(X_iris[:2], unknown)
    numbered = MLPClassifier((8,), random_state=0).partial_fit(X_iris, y_iris + 1.0, classes=[1.0, 2.0, 3.0])
    for unknown, words in (
        ([0.0, 1.0], "has classes not in"),
        ([3.0, 4.0], "has classes not in"),
        ([1.5, 2.0], "Unknown label"),
    ):
        with pytest.raises(ValueError, match=words):
            numbered.partial_fit(X_iris[:2], unknown)
    with pytest.raises(ValueError, match="is not the same as on last call"):
        clf.partial_fit(X_iris[:2], ["setosa"] * 2, classes=["setosa", "rosa"])
    with pytest.raises(AttributeError, match="partial_fit"):
        MLPClassifier(solver="lbfgs").partial_fit(X_iris, y_iris, classes=[0, 1, 2])
    reg = MLPRegressor(hidden_layer_sizes=(3,)).partial_fit(X_iris, y_iris)
    with pytest.raises(ValueError, match="y must have 1 outputs as before, got 2"):
        reg.partial_fit(X_iris, X_iris[:, :2])


def test_early_stopping_needs_samples_to_validate_on() -> None:
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        MLPRegressor(early_stopping=True).partial_fit(X_iris, y_iris)
    with pytest.raises(ValueError, match="The validation set is too small"):
        MLPRegressor(early_stopping=True).fit(X_iris[:2], y_iris[:2])
    with pytest.raises(ValueError, match="least populated"):
        MLPClassifier(early_stopping=True).fit(X_iris[:4], [0, 0, 0, 1])
    with pytest.raises(ValueError, match="X_val and y_val must be given together"):
        MLPRegressor().fit(X_iris, y_iris, X_val=X_iris)


# --- Copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
def test_clone_and_copies(kind: Any) -> None:
    estimator = fitted(kind, solver=fastmlp.AdamW(0.01), learning_rate=fastmlp.Cosine(warmup=1))
    assert clone(estimator).get_params() == estimator.get_params()
    assert not hasattr(clone(estimator), "coefs_")
    twin = copy.deepcopy(estimator)
    np.testing.assert_array_equal(twin.predict(X_iris), estimator.predict(X_iris))
    twin.coefs_[0][:] = 0
    assert not np.array_equal(twin.predict(X_iris), estimator.predict(X_iris))


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_pickle_holds_little_more_than_the_weights(kind: Any, solver: str) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(64, 100)), np.arange(64) % 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator = kind(
            hidden_layer_sizes=(100, 50), solver=solver, max_iter=3, early_stopping=True, validation_fraction=0.3
        ).fit(X, y)
    estimator.predict(X)
    size = sum(array.nbytes for array in estimator.coefs_ + estimator.intercepts_)
    assert len(pickle.dumps(estimator)) <= 1.1 * size
    loaded = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(loaded.predict(X), estimator.predict(X))
    loaded.coefs_[0][:] = 1.0
    assert not np.array_equal(loaded.predict(X), estimator.predict(X))


@pytest.mark.usefixtures("_may_not_converge")
def test_the_pickle_of_a_long_fit_of_the_default_network() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 64)).astype(np.float32), np.arange(200) % 10
    clf = MLPClassifier(max_iter=150, tol=0.0, n_iter_no_change=200, early_stopping=True).fit(X, y)
    assert len(clf.loss_curve_) == 150
    loaded = pickle.loads(pickle.dumps(clf))
    for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_"):
        assert type(getattr(loaded, name)) is list
        assert getattr(loaded, name) == getattr(clf, name)
        assert all(isinstance(value, float) for value in getattr(loaded, name))
    clf.set_params(early_stopping=False).fit(X, y)
    assert len(pickle.dumps(clf)) <= 1.1 * sum(array.nbytes for array in clf.coefs_ + clf.intercepts_)


@pytest.mark.usefixtures("_may_not_converge")
@pytest.mark.parametrize("parameters", [{"warm_start": True}, {}])
def test_what_is_to_go_on_is_pickled_with_the_optimizers_state(parameters: dict[str, Any]) -> None:
    clf = MLPClassifier((8,), max_iter=4, random_state=0, **parameters)
    go_on = "fit" if parameters else "partial_fit"
    clf.partial_fit(X_iris, y_iris, classes=[0, 1, 2]) if go_on == "partial_fit" else clf.fit(X_iris, y_iris)
    loaded = pickle.loads(pickle.dumps(clf))
    getattr(clf, go_on)(X_iris, y_iris)
    getattr(loaded, go_on)(X_iris, y_iris)
    for mine, other in zip(clf.coefs_, loaded.coefs_, strict=True):
        np.testing.assert_array_equal(mine, other)
