"""What must not happen to the users of an estimator, whatever they give it, change in it, or do beside it."""

from __future__ import annotations

import itertools
import pickle
import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

import joblib
from irises import X_iris, X_train, X_val, assert_same_weights, make, y_iris, y_train, y_val
from scipy.sparse import csr_array
from sklearn import config_context, neural_network
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.metrics import log_loss, r2_score

import fastmlp
from fastmlp import SGD, MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_other_targets_than_those_of_the_fit_are_refused() -> None:
    clf = make(max_iter=2).fit(X_iris, y_iris)
    one_hot = np.eye(3, dtype=int)[y_iris]
    with pytest.raises(ValueError, match=r"y must be labels \(n_samples,\) as in the first fit, got shape \(150, 3\)"):
        clf.partial_fit(X_iris, one_hot)
    with pytest.raises(ValueError, match="y_val must be labels"):
        make(max_iter=2).fit(X_iris, y_iris, X_val=X_iris, y_val=one_hot, sample_weight_val=np.ones(150))
    clf.classes_ = np.array([2, 1, 0])  # Which changes nothing: labels are encoded as in the fit.
    expected = make(max_iter=2).fit(X_iris, y_iris).partial_fit(X_iris, y_iris)
    assert_same_weights(clf.partial_fit(X_iris, y_iris), expected)
    assert clf.predict(X_iris).tolist() == expected.predict(X_iris).tolist()


@pytest.mark.parametrize("kind", [np.asarray, csr_array])
def test_coefs_must_fit_the_features(kind: Any) -> None:
    clf = make(max_iter=2).fit(kind(X_iris), y_iris)
    clf.coefs_[0] = np.zeros((3, 8))
    for call in (lambda: clf.predict_proba(kind(X_iris)), lambda: clf.partial_fit(kind(X_iris), y_iris)):
        with pytest.raises(ValueError, match=r"coefs_\[0\] must have 4 rows, one a feature, got 3"):
            call()
    clf.coefs_[0] = None
    with pytest.raises(ValueError, match="coefs_ must be matrices and intercepts_ vectors, got shapes"):
        clf.predict(X_iris)


def test_a_subclass_may_have_parameters_of_its_own() -> None:
    class Narrow(MLPClassifier):
        def __init__(self, n_units: int = 7, random_state: Any = None) -> None:
            self.n_units = n_units
            super().__init__(hidden_layer_sizes=(n_units,), max_iter=3, random_state=random_state)

    clf = clone(Narrow(5, random_state=0)).fit(X_iris, y_iris)
    assert clf.coefs_[0].shape == (4, 5)
    assert clf.get_params() == {"n_units": 5, "random_state": 0}


def test_first_predictions_of_many_threads() -> None:
    data = pickle.dumps(make(max_iter=2).fit(X_iris, y_iris))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            for _ in range(100):
                clf = pickle.loads(data)
                assert len({P.tobytes() for P in pool.map(clf.predict_proba, [X_iris] * 8)}) == 1
                clf.intercepts_[-1][:] = [0, 50, 0]
                assert set(clf.predict(X_iris)) == {1}
    finally:
        sys.setswitchinterval(interval)


def test_a_loss_that_is_changed_afterwards() -> None:
    y = X_iris[:, 0]
    reg = make(MLPRegressor, loss="squared_error").fit(X_iris, y)
    expected = reg.predict(X_iris)
    reg.set_params(loss="poisson", loss_parameter=3.0)
    for each in (reg, pickle.loads(pickle.dumps(reg))):
        np.testing.assert_array_equal(each.predict(X_iris), expected)
        with pytest.raises(ValueError, match="loss must keep the output activation 'identity'"):
            each.set_params(loss_parameter=None).partial_fit(X_iris, np.abs(y))
    # Where training goes on, it does so with the new one, pickled or not.
    reg = make(MLPRegressor, loss="quantile", loss_parameter=0.1, warm_start=True, max_iter=200).fit(X_iris, y)
    reg.set_params(loss_parameter=0.9)
    copied = pickle.loads(pickle.dumps(reg)).fit(X_iris, y)
    assert_same_weights(reg.fit(X_iris, y), copied)
    assert (y < reg.predict(X_iris)).mean() > 0.7


def test_an_activation_list_that_is_changed_in_place() -> None:
    clf = make(max_iter=2, activation=["relu"], init="he").fit(X_iris, y_iris)
    clf.activation[0] = "tanh"
    np.testing.assert_array_equal(clf.predict_proba(X_iris), pickle.loads(pickle.dumps(clf)).predict_proba(X_iris))


def test_weights_without_a_finite_sum() -> None:
    for weight in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"class_weight\[0\] must be finite"):
            make(class_weight={0: weight}).fit(X_iris, y_iris)
    with pytest.raises(ValueError, match=r"must have a finite sum, got 1e\+308"):
        make(class_weight={0: 1e308}).fit(X_iris, y_iris)
    with pytest.raises(ValueError, match=r"sample_weight must have a finite sum, got 1e\+308"):
        make().fit(X_iris, y_iris, np.full(150, 1e308))


PLAIN_SGD = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.1, "max_iter": 100}
"""Nothing of an earlier fit goes on but the weights."""


@pytest.mark.parametrize("metric", ["score", "loss"])
def test_a_warm_start_is_judged_by_its_own_validation_data(metric: str) -> None:
    clf = make(early_stopping=True, early_stopping_metric=metric, warm_start=True, **PLAIN_SGD)
    clf.fit(X_train, y_train, X_val=X_val, y_val=y_val)
    before = [W.copy() for W in clf.coefs_]
    wrong = (y_val + 1) % 3  # Whatever it learns of these, its score was better before.
    clf.fit(X_train, (y_train + 1) % 3, X_val=X_val, y_val=wrong)
    assert clf.best_validation_score_ == pytest.approx(clf.score(X_val, wrong))
    assert any((old != W).any() for W, old in zip(clf.coefs_, before, strict=True))


def test_equal_models_are_equal_bytes() -> None:
    clf = make(max_iter=2).fit(X_iris, y_iris)
    again = pickle.loads(pickle.dumps(clf))
    assert joblib.hash(again) == joblib.hash(clf)
    again.predict(X_iris)
    assert joblib.hash(again) == joblib.hash(clf)


def test_an_average_goes_on_from_what_was_written_into_coefs() -> None:
    clf = make(average=0.9, max_iter=3, learning_rate_init=1e-12).fit(X_iris, y_iris)
    clf.partial_fit(X_iris, y_iris)
    clf.coefs_[0][:] = 0
    clf.partial_fit(X_iris, y_iris)
    assert abs(clf.coefs_[0]).max() < 1e-9


def test_lbfgs_says_that_the_loss_is_not_finite() -> None:
    with pytest.warns(ConvergenceWarning, match="the loss is nan"):
        make(solver="lbfgs").fit(X_iris * 1e200, y_iris)


def test_a_first_call_of_partial_fit_that_is_refused_teaches_nothing() -> None:
    clf = make()
    before = pickle.dumps(clf)
    for X, classes in ((X_iris * np.nan, [0, 1, 2]), (X_iris[:5], [0, 1, 2]), (X_iris, [0, 1])):
        with pytest.raises(ValueError, match=r"NaN|inconsistent|not in"):
            clf.partial_fit(X, y_iris, classes=classes)
        with pytest.raises(NotFittedError):
            clf.predict(X_iris)
    assert pickle.dumps(clf) == before
    assert clf.partial_fit(X_iris, y_iris, classes=[0, 1, 2, 3]).classes_.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("metric", ["score", "loss"])
def test_a_warm_start_that_makes_it_worse_gives_back_the_weights_it_began_with(metric: str) -> None:
    clf = make(early_stopping=True, early_stopping_metric=metric, warm_start=True, **PLAIN_SGD)
    clf.fit(X_train, y_train, X_val=X_val, y_val=y_val)
    before, score = [W.copy() for W in clf.coefs_], clf.score(X_val, y_val)
    clf.fit(X_train, (y_train + 1) % 3, X_val=X_val, y_val=y_val)
    assert clf.validation_scores_[-1] < score == clf.best_validation_score_
    for W, kept in zip(clf.coefs_, before, strict=True):
        np.testing.assert_array_equal(W, kept)


def test_validation_samples_that_are_not_finite_are_refused_whatever_scikit_learn_is_told() -> None:
    clf = make(max_iter=2).fit(X_train, y_train)
    before, X = pickle.dumps(clf), X_val.copy()
    X[3, 1] = np.nan
    message = r"^X_val must be finite, and not too large for float64$"
    with config_context(assume_finite=True), pytest.raises(ValueError, match=message):
        clf.fit(X_train, y_train, X_val=X, y_val=y_val)
    assert pickle.dumps(clf) == before


@pytest.mark.parametrize("bad", [X_val * np.nan, X_val[:, :2], X_val[:3]], ids=["NaN", "features", "samples"])
def test_errors_of_validation_data_say_so(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"^X_val and y_val: "):
        make(early_stopping=True).fit(X_train, y_train, X_val=bad, y_val=y_val)


def test_scores_of_float32_are_of_the_targets_as_they_are() -> None:
    X, y = X_iris.astype(np.float32), X_iris[:, 0] + 1e6  # In float32, a sixteenth is the smallest difference.
    reg = make(MLPRegressor, early_stopping=True, max_iter=1).fit(X, y, X_val=X, y_val=y)
    assert reg.validation_scores_[0] == r2_score(y, reg.predict(X).astype(np.float64))


def test_targets_and_samples_that_are_no_numbers() -> None:
    with pytest.raises(TypeError, match="y must be numeric, got dtype <U"):
        make(MLPRegressor).fit(X_iris, X_iris[:, 0].astype(str))
    with pytest.raises(TypeError, match="Sparse data was passed for y, but dense data is required"):
        make(MLPRegressor).fit(X_iris, csr_array(X_iris))
    clf = make(max_iter=2).fit(X_iris, y_iris)
    with pytest.raises(ValueError, match="strings"):
        clf.predict(X_iris.astype(str))
    with pytest.raises(ValueError, match="X must be numeric, got dtype datetime64"):
        clf.predict(np.zeros((2, 4), "datetime64[s]"))


def test_scikit_learns_switch_of_parameter_checks() -> None:
    with config_context(skip_parameter_validation=True):
        make(max_iter=2, alpha=np.float16(0.1), verbose=0).fit(X_iris, y_iris)
        make(max_iter=2, max_fun=-1).fit(X_iris, y_iris)


def test_the_state_is_not_pickled_where_nothing_goes_on() -> None:
    clf = make(early_stopping=True, n_iter_no_change=1, learning_rate_init=1e-9)
    while not getattr(clf, "stopped_", False):
        clf.partial_fit(X_train, y_train, classes=[0, 1, 2], X_val=X_val, y_val=y_val)
    again = pickle.loads(pickle.dumps(clf))
    assert "_optimizer" not in vars(again)
    assert_same_weights(again.partial_fit(X_train, y_train, X_val=X_val, y_val=y_val), clf)


def test_a_refused_fit_leaves_the_estimator_as_it_was() -> None:
    y = X_iris[:, 0]
    reg = make(MLPRegressor, loss="quantile").fit(X_iris, y)
    expected = reg.predict(X_iris)
    with pytest.raises(ValueError, match="loss_parameter"):
        reg.set_params(loss_parameter=2.0).fit(X_iris, y)
    np.testing.assert_array_equal(reg.set_params(loss_parameter=None).predict(X_iris), expected)
    reg = make(MLPRegressor, warm_start=True).fit(X_iris, y)
    curve = list(reg.loss_curve_)
    with pytest.raises(ValueError, match="y must have 1 outputs as before, got 2"):
        reg.set_params(loss="huber").fit(X_iris, X_iris[:, :2])
    assert reg.loss_curve_ == curve


def test_an_estimator_put_together_by_hand_predicts() -> None:
    fitted, by_hand = make(MLPRegressor).fit(X_iris, X_iris[:, 0]), make(MLPRegressor)
    for name in ("coefs_", "intercepts_", "n_features_in_", "out_activation_"):
        setattr(by_hand, name, getattr(fitted, name))
    np.testing.assert_array_equal(by_hand.predict(X_iris), fitted.predict(X_iris))


def test_alpha_counts_once_whatever_solver_goes_on() -> None:
    def squares(*steps: dict[str, Any]) -> float:
        clf = make(alpha=0)
        for step in steps:
            clf.set_params(**step)
            for _ in range(30):
                clf.partial_fit(X_iris, y_iris, classes=[0, 1, 2])
        return float(sum((W**2).sum() for W in clf.coefs_))

    adam, adamw, strong = {"solver": "adam"}, {"solver": "adamw"}, {"alpha": 10.0}
    assert squares(adam | strong, adamw) == squares(adam | strong, adam)
    assert squares(adamw | strong, adam) == squares(adamw | strong, adamw)
    assert squares(adamw, strong) < 0.5 * squares(adamw, {})


def test_validation_data_that_are_no_longer_given_do_not_judge() -> None:
    clf = make(early_stopping=True, warm_start=True, max_iter=30).fit(X_train, y_train, X_val=X_val, y_val=y_val)
    clf.best_validation_score_ = 2.0  # As if these had been easy: no score of a split of its own is as good.
    clf.fit(X_iris, y_iris)
    assert clf.best_validation_score_ == max(clf.validation_scores_[-clf.n_iter_ :])


def test_lists_and_indices_that_others_hold() -> None:
    clf = make(max_iter=2).fit(X_iris, y_iris)
    held = clf.coefs_
    again = pickle.loads(pickle.dumps(clf))
    held_again = again.coefs_
    for each, coefs in ((clf, held), (again, held_again)):
        coefs[0] = np.zeros((4, 8))
        each.predict(X_iris)
        coefs[0][:] = 1.0  # A view of the network by now.
        assert each.coefs_ is coefs
        np.testing.assert_array_equal(
            each.predict_proba(X_iris), pickle.loads(pickle.dumps(each)).predict_proba(X_iris)
        )
    sparse = csr_array(X_iris.astype(np.float32))
    assert sparse.indices.dtype == np.int32
    expected = make(max_iter=3).fit(sparse.copy(), y_iris)
    overwritten = make(max_iter=3, callbacks=[lambda history: sparse.indices.fill(1 << 28)]).fit(sparse, y_iris)
    assert_same_weights(overwritten, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("y", [y_iris, y_iris > 0, np.eye(3)[y_iris]], ids=["classes", "two classes", "labels"])
def test_logarithms_of_small_probabilities_are_finite(y: Any, dtype: str) -> None:
    """scikit-learn's are -inf: the probabilities are zero in their dtype."""
    clf = make(dtype=dtype).fit(X_iris, y)
    clf.coefs_[-1] *= 1e3
    log_P = clf.predict_log_proba(X_iris.astype(dtype))
    assert log_P.dtype == dtype
    assert np.isfinite(log_P).all()
    assert log_P.min() < -800.0
    P = clf.predict_proba(X_iris.astype(dtype))
    np.testing.assert_allclose(np.exp(log_P), P, rtol=1e-4, atol=1e-6)


def test_the_loss_of_a_first_epoch_that_is_stopped_is_of_the_samples_that_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = np.ones((1000, 4)), np.arange(1000) % 2
    clf = make(solver="sgd", learning_rate_init=1e-12, batch_size=1, shuffle=False, alpha=0, max_time=3.0)
    ticks = itertools.count()
    monkeypatch.setattr("fastmlp.estimators.run.time.perf_counter", lambda: float(next(ticks)) / 10)
    with pytest.warns(ConvergenceWarning, match="max_time"):
        clf.fit(X, y, sample_weight=1.0 - y)
    assert clf.n_iter_ == 0
    assert clf.loss_ == pytest.approx(-clf.predict_log_proba(X[:1])[0, 0], rel=1e-6)


def test_weights_of_zero_in_a_split_of_its_own() -> None:
    with pytest.raises(
        ValueError, match="sample_weight must be > 0 for a sample of the training and the validation set"
    ):
        make(early_stopping=True).fit(X_iris, y_iris, sample_weight=np.eye(1, 150)[0])


def test_labels_are_those_of_the_fit() -> None:
    clf = make().fit(X_iris, y_iris > 0)
    expected = clf.predict(X_iris)
    clf.classes_ = np.array(["no", "yes"])
    np.testing.assert_array_equal(clf.predict(X_iris), expected)


@pytest.mark.parametrize("parameters", [{}, {"average": 0.9}, {"early_stopping": True}])
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_another_network_in_coefs_begins_its_state_anew(kind: Any, parameters: dict[str, Any]) -> None:
    """The kernels would write beyond the buffers of the one before."""
    reg = kind(hidden_layer_sizes=(8,), random_state=0, **parameters)
    more = {"classes": [0, 1, 2]} if kind is MLPClassifier else {}
    own = {"X_val": X_val, "y_val": y_val} if "early_stopping" in parameters else {}
    reg.partial_fit(X_iris, y_iris, **more, **own)
    rng, n = np.random.default_rng(0), 4000
    n_out = reg.n_outputs_
    reg.coefs_ = [rng.normal(size=(4, n)) * 0.1, rng.normal(size=(n, n_out)) * 0.01]
    reg.intercepts_ = [np.zeros(n), np.zeros(n_out)]
    for _ in range(5):
        reg.partial_fit(X_iris, y_iris, **own)
    assert {slot.size for slot in reg._optimizer.slots} == {reg._network()._parameters.size}
    assert np.isfinite(reg.loss_)


def test_a_network_of_another_dtype_begins_its_state_anew() -> None:
    """Of 4080 units, float32 and float64 have equally many elements, padding included."""
    X, y = np.random.default_rng(0).normal(size=(40, 5)), np.arange(40) % 16
    clf = MLPClassifier((4080,), random_state=0, dtype="float32", warm_start=True, max_iter=2).fit(X, y)
    clf.coefs_, clf.intercepts_ = (
        [array.astype(float) for array in arrays] for arrays in (clf.coefs_, clf.intercepts_)
    )
    clf.set_params(activation="tanh").fit(X, y)
    assert {slot.dtype.name for slot in clf._optimizer.slots} == {"float64"}
    assert np.isfinite(clf.partial_fit(X, y).loss_)


@pytest.mark.parametrize("before", ["partial_fit", "a callback that raises"])
def test_a_fit_without_early_stopping_is_kept_whatever_was_best_before(before: str) -> None:
    def fail(history: Any) -> None:
        if len(history.train_loss) > 2:
            raise RuntimeError

    clf = make(early_stopping=True, warm_start=True, max_iter=10)
    if before == "partial_fit":
        clf.partial_fit(X_train, y_train, classes=[0, 1, 2], X_val=X_val, y_val=y_val)
    else:
        with pytest.raises(RuntimeError):
            clf.set_params(callbacks=[fail]).fit(X_iris, y_iris)
    first = [array.copy() for array in clf.coefs_]
    clf.set_params(early_stopping=False, callbacks=None).fit(X_iris, y_iris)
    assert not any(np.array_equal(a, b) for a, b in zip(first, clf.coefs_, strict=True))
    clf.set_params(learning_rate_init=1e-12, max_iter=1).fit(
        X_iris, y_iris
    )  # Whose loss is of the weights that it has.
    of_weights = 0.5 * clf.alpha / len(X_iris) * sum(np.sum(W**2) for W in clf.coefs_)
    assert clf.loss_ == pytest.approx(log_loss(y_iris, clf.predict_proba(X_iris)) + of_weights, rel=1e-6)


@pytest.mark.parametrize("make_X", [np.asarray, csr_array])
@pytest.mark.parametrize("method", ["predict", "partial_fit"])
def test_after_a_fit_that_failed_the_network_is_still_the_old_one(make_X: Any, method: str) -> None:
    """And wherever `n_features_in_` is another number, kernels would read columns from nowhere."""
    clf = make(max_iter=1).fit(make_X(X_iris), y_iris)
    before = clf.predict_proba(make_X(X_iris))
    other = make_X(np.hstack([X_iris, X_iris]))
    with pytest.raises(ValueError, match="sample_weight must be >= 0"):
        clf.fit(other, y_iris, sample_weight=-np.ones(150))
    assert clf.n_features_in_ == 4
    np.testing.assert_array_equal(clf.predict_proba(make_X(X_iris)), before)
    clf.n_features_in_ = 8
    with pytest.raises(ValueError, match=r"must have (4 features as coefs_\[0\] has|8 rows, one a feature)"):
        getattr(clf, method)(other, *([y_iris] if method == "partial_fit" else []))
    clf.n_features_in_ = 2_000_000
    with pytest.raises(ValueError, match=r"must have (4 features as coefs_\[0\] has|2000000 rows, one a feature)"):
        clf.predict(csr_array((2, 2_000_000)))


WRONG = [
    ({"dropout": [0.1, 0.2]}, {}, "dropout must give one rate for each of the 1 hidden layers, got 2"),
    ({"callbacks": [1]}, {}, r"callbacks\[0\] must be callable, got 1"),
    ({"init": ([np.zeros((4, 3))], [np.zeros(3)])}, {}, "init's coefs must be 2 arrays, one a layer, got 1"),
    ({"epsilon": 1e-60, "dtype": "float32"}, {}, "epsilon must be > 0 in float32, got 1e-60"),
    ({"learning_rate": fastmlp.Schedule()}, {}, "learning_rate must be a schedule such as fastmlp.Cosine()"),
    ({"class_weight": {0: None}}, {}, r"class_weight\[0\] must be a number, got None"),
    ({"class_weight": {0: "a"}}, {}, r"class_weight\[0\] must be a number, got 'a'"),
    ({"hidden_layer_sizes": True}, {}, r"hidden_layer_sizes must be whole numbers, got \[True\]"),
    ({}, {"X_val": X_iris[:, :2], "y_val": y_iris}, "X_val and y_val: X has 2 features"),
    ({}, {"X_val": X_iris, "y_val": y_iris + 7}, "`y_val` has classes not in"),
]


@pytest.mark.parametrize(("parameters", "arguments", "message"), WRONG, ids=lambda value: str(value)[:24])
def test_what_is_refused_leaves_an_estimator_as_it_was(
    parameters: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    fitted = make(max_iter=2, early_stopping=True).fit(X_iris, y_iris)
    went_on = make(max_iter=2, warm_start=True).fit(X_iris[:, ::-1], y_iris)
    slower = make(max_iter=2, warm_start=True, solver="sgd").fit(X_iris, y_iris).set_params(learning_rate_init=1e-4)
    is_for_new = "init" in parameters or "epsilon" in parameters  # Whose dtype is to be chosen, too.
    for clf in (make(), fitted, *([] if is_for_new else [went_on, slower])):
        clf.set_params(**parameters)
        before = pickle.dumps(clf)
        with pytest.raises(ValueError, match=message):
            clf.fit(X_iris, y_iris, **arguments)
        assert pickle.dumps(clf) == before


def test_r2_needs_two_samples() -> None:
    one = {"X_val": X_iris[:1], "y_val": y_iris[:1]}
    reg = MLPRegressor(hidden_layer_sizes=(5,), max_iter=3, early_stopping=True)
    with pytest.raises(ValueError, match="X_val must have at least 2 samples for R²"):
        reg.fit(X_iris, y_iris, **one)
    reg.set_params(early_stopping_metric="loss")
    with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
        reg.fit(X_iris, y_iris, **one)
    assert len(reg.validation_loss_curve_) == 3
    assert np.isnan(reg.validation_scores_).all()


def test_after_lbfgs_there_is_no_curve_of_an_earlier_fit() -> None:
    clf = make(max_iter=3, early_stopping=True).fit(X_iris, y_iris)
    clf.set_params(solver="lbfgs", early_stopping=False).fit(X_iris, y_iris)
    for name in ("loss_curve_", "validation_loss_curve_", "validation_scores_", "stopped_", "best_validation_score_"):
        assert not hasattr(clf, name)
    clf.set_params(solver="adam").fit(X_iris, y_iris)
    assert len(clf.loss_curve_) == 3


def test_classes_that_are_renamed_in_place() -> None:
    clf = make(max_iter=5).fit(X_iris, y_iris)
    twin = make(max_iter=5).fit(X_iris, y_iris)
    clf.classes_[0] = 100
    renamed = np.where(y_iris == 0, 100, y_iris)
    assert_same_weights(clf.partial_fit(X_iris, renamed), twin.partial_fit(X_iris, y_iris))
    assert set(clf.predict(X_iris)) <= {100, 1, 2}


def test_an_estimator_rebuilt_from_its_weights_needs_no_number_of_features() -> None:
    clf = make().fit(X_iris, y_iris)
    twin = make()
    for name in ("coefs_", "intercepts_", "n_layers_", "n_outputs_", "out_activation_", "_label_binarizer"):
        setattr(twin, name, getattr(clf, name))
    assert twin.predict(X_iris).tolist() == clf.predict(X_iris).tolist()


def test_labels_of_a_mapped_estimator_are_plain_arrays(tmp_path: Any) -> None:
    for y in (y_iris, y_iris > 0):
        joblib.dump(make(max_iter=2).fit(X_iris, y), tmp_path / "clf")
        assert type(joblib.load(tmp_path / "clf", mmap_mode="r").predict(X_iris)) is np.ndarray


@pytest.mark.parametrize("on", [2, 255, 5.0, -1])
@pytest.mark.parametrize("kind", [np.asarray, csr_array])
@pytest.mark.parametrize("parameters", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
def test_whatever_is_not_zero_marks_a_label(on: float, kind: Any, parameters: Any) -> None:
    """As the 255 of a mask does. The loss had no lower bound."""
    Y = np.column_stack([y_iris > 0, y_iris > 1])
    expected = make(max_iter=5, **parameters).fit(X_iris, Y.astype(int))
    clf = make(max_iter=5, **parameters).fit(X_iris, kind(Y * on))
    assert_same_weights(clf, expected)
    assert clf.loss_ == expected.loss_ >= 0.0
    assert clf.validation_scores_ == expected.validation_scores_ if "early_stopping" in parameters else True


@pytest.mark.parametrize("verbose", [False, True])
def test_what_diverges_leaves_the_curve_up_to_there(verbose: bool) -> None:
    reg = MLPRegressor(
        hidden_layer_sizes=(8,), solver="sgd", learning_rate_init=10.0, random_state=0, verbose=verbose, tol=0.0
    )
    with pytest.raises(ValueError, match=r"non-finite .* try a learning_rate_init below 10,") as error:
        reg.fit(X_iris, 10.0 * X_iris[:, 0])
    (epoch,) = re.findall(r"diverged in epoch (\d+)", str(error.value))
    assert len(reg.loss_curve_) == reg.n_iter_ == 5
    assert int(epoch) in (5, 6)  # The last loss, or what the weights then give.
    assert reg.loss_ == reg.loss_curve_[-1]
    assert np.isfinite(reg.loss_curve_).all()
    with pytest.raises(ValueError, match=r"try a learning_rate below 10,"):
        reg.set_params(solver=SGD(10.0)).fit(X_iris, 10.0 * X_iris[:, 0])


def test_pruned_coefs_may_be_sparse() -> None:
    clf = make(max_iter=2).fit(X_iris, y_iris)
    dense = clone(clf).fit(X_iris, y_iris)
    dense.coefs_ = [np.where(abs(W) > 0.3, W, 0.0) for W in dense.coefs_]
    clf.coefs_ = [csr_array(W) for W in dense.coefs_]
    assert clf.predict_proba(X_iris).tolist() == dense.predict_proba(X_iris).tolist()
    clf.coefs_[0] = csr_array(np.zeros((4, 8)))
    assert np.ptp(clf.predict_proba(X_iris), axis=0).max() < 1e-12


def test_samples_that_are_too_large_for_the_network_are_called_so() -> None:
    clf = make(max_iter=2).fit(X_iris.astype(np.float32), y_iris)
    with pytest.raises(ValueError, match=r"^X must be finite, and not too large for float32$"):
        clf.predict(np.full((1, 4), 1e39))


def test_what_scikit_learn_has_fitted_can_be_gone_on_with() -> None:
    theirs = neural_network.MLPClassifier((8,), max_iter=2, random_state=0).fit(X_iris, y_iris)
    clf = MLPClassifier(**theirs.get_params())
    vars(clf).update(vars(theirs))
    np.testing.assert_allclose(clf.predict_proba(X_iris), theirs.predict_proba(X_iris), rtol=1e-9)
    assert clf.partial_fit(X_iris, y_iris).loss_ < 1.2 * theirs.loss_
    clf.set_params(early_stopping=True, warm_start=True).fit(X_iris, y_iris)
    assert len(clf.validation_loss_curve_) == clf.n_iter_


@pytest.mark.parametrize("weights", [None, np.linspace(0.0, 3.0, len(y_val))])
def test_the_validation_loss_is_that_of_the_weighted_samples(weights: Any) -> None:
    clf = make(max_iter=2).fit(X_train, y_train, X_val=X_val, y_val=y_val, sample_weight_val=weights)
    expected = log_loss(y_val, clf.predict_proba(X_val), sample_weight=weights)
    assert clf.validation_loss_curve_[-1] == pytest.approx(expected, rel=1e-9)


def test_a_column_of_values_gets_the_warning_of_scikit_learn() -> None:
    reg = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2)
    with pytest.warns(DataConversionWarning, match="column-vector y"):
        reg.fit(X_iris, X_iris[:, :1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module=r"sklearn\.neural_network")
        reg.fit(X_iris, X_iris[:, :1])
