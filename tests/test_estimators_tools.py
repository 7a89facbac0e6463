"""The estimators inside scikit-learn's tools, in other processes, and from files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import joblib
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.ensemble import BaggingClassifier, VotingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import permutation_importance
from sklearn.linear_model import PoissonRegressor
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score, learning_curve
from sklearn.multioutput import ClassifierChain
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmlp import MLPClassifier, MLPRegressor

X, y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)


@pytest.fixture(autouse=True)
def _may_not_converge(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The environment reaches joblib's workers, the filter this process.
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def quick(kind: Any = MLPClassifier, **parameters: Any) -> Any:
    """An estimator that learns the irises in a few dozen epochs."""
    return kind(
        **{"hidden_layer_sizes": (10,), "max_iter": 60, "learning_rate_init": 0.02, "random_state": 0, **parameters}
    )


def test_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), quick()).fit(X, y)
    assert pipeline.score(X, y) > 0.95
    assert pipeline.set_params(mlpclassifier__max_iter=2)["mlpclassifier"].max_iter == 2


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_cross_validation_in_two_processes_as_in_one(kind: Any) -> None:
    pipeline = make_pipeline(StandardScaler(), quick(kind))
    scores = cross_val_score(pipeline, X, y, cv=3, n_jobs=2)
    np.testing.assert_array_equal(scores, cross_val_score(pipeline, X, y, cv=3))


def test_grid_search() -> None:
    grid = {"alpha": [1e-4, 100.0], "hidden_layer_sizes": [(10,), (6, 4)], "activation": ["relu", ("gelu",)][:1]}
    search = GridSearchCV(quick(), grid, cv=3, n_jobs=2).fit(X, y)
    assert search.best_params_["alpha"] == 1e-4
    assert search.score(X, y) > 0.9


def test_halving_search_over_epochs() -> None:
    search = HalvingGridSearchCV(
        quick(learning_rate_init=0.1),
        {"alpha": [1e-4, 1.0, 100.0]},
        resource="max_iter",
        max_resources=60,
        cv=3,
        random_state=0,
    ).fit(X, y)
    assert search.best_score_ > 0.9


def test_ensembles_and_calibration() -> None:
    assert BaggingClassifier(quick(), n_estimators=3, n_jobs=2, random_state=0).fit(X, y).score(X, y) > 0.9
    assert (
        VotingClassifier([("a", quick()), ("b", quick(activation="tanh"))], voting="soft").fit(X, y).score(X, y) > 0.9
    )
    calibrated = CalibratedClassifierCV(quick(), cv=3).fit(X, y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1.0)
    assert calibrated.score(X, y) > 0.9
    chain = ClassifierChain(quick(), order=[0, 1]).fit(X, np.stack([y > 0, y > 1], axis=1))
    assert chain.score(X, np.stack([y > 0, y > 1], axis=1)) > 0.85


def test_inspection() -> None:
    importances = permutation_importance(quick().fit(X, y), X, y, n_repeats=3, random_state=0).importances_mean
    assert importances[2:].max() > 0.1  # The petals tell the species.
    sizes, scores, _ = learning_curve(quick(), X, y, train_sizes=[30, 100], cv=3, shuffle=True, random_state=0)
    assert scores.shape == (2, 3)
    assert list(sizes) == [30, 100]


def test_joblib_files(tmp_path: Path) -> None:
    for kind in (MLPClassifier, MLPRegressor):
        estimator = quick(kind).fit(X, y)
        joblib.dump(estimator, tmp_path / "model.joblib")
        np.testing.assert_array_equal(joblib.load(tmp_path / "model.joblib").predict(X), estimator.predict(X))
        mapped = joblib.load(tmp_path / "model.joblib", mmap_mode="r")  # Read-only weights, as workers have them.
        np.testing.assert_array_equal(mapped.predict(X), estimator.predict(X))
        mapped.partial_fit(X, y)


def threads_asked_for(threads: int | None) -> Any:
    return MLPClassifier(threads=threads)._threads()


def test_one_thread_in_a_worker_of_joblib_unless_more_are_asked_for() -> None:
    assert threads_asked_for(None) is None
    for backend in ("loky", "threading"):
        parallel = joblib.Parallel(n_jobs=2, backend=backend)
        assert parallel(joblib.delayed(threads_asked_for)(n) for n in (None, None, 2)) == [1, 1, 2]
    assert threads_asked_for(None) is None


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_does_not_change_the_result(threads: int) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(500, 30)), rng.integers(3, size=500)
    one = quick(max_iter=3, threads=1).fit(X, y)
    other = quick(max_iter=3, threads=threads).fit(X, y)
    np.testing.assert_array_equal(one.coefs_[0], other.coefs_[0])


def test_poisson_without_hidden_work_is_a_poisson_regression() -> None:
    """One identity unit makes the network a generalised linear model, which PoissonRegressor solves exactly."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    counts = rng.poisson(np.exp(0.5 * X[:, 0] - 0.3 * X[:, 1] + 1))
    exact = PoissonRegressor(alpha=0, tol=1e-9, max_iter=1000).fit(X, counts)
    ours = MLPRegressor("poisson", (1,), "identity", solver="lbfgs", alpha=0, tol=1e-9, max_iter=2000, random_state=1)
    np.testing.assert_allclose(ours.fit(X, counts).predict(X), exact.predict(X), rtol=1e-4)
