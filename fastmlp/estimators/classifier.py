"""`MLPClassifier`: labels in, labels out."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import compute_sample_weight
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels

from fastmlp.checks import divisible
from fastmlp.estimators.base import BaseMLP, require_stochastic
from fastmlp.estimators.samples import flattened
from fastmlp.spec import check_number

Array = NDArray[Any]


def unknown_classes(what: str, classes: Array, known: Array) -> str:
    """Say it in scikit-learn's words."""
    return f"`{what}` has classes not in `self.classes_`. `self.classes_` has {known}. '{what}' has {classes}."


def places_of(y: Array, known: Array) -> Array | None:
    """Give the places of labels among classes; None if one is not there, or the classes do not ascend."""
    places: Array = known.searchsorted(y)
    return places if (known.take(places, mode="clip") == y).all() else None


class MLPClassifier(ClassifierMixin, BaseMLP):  # type: ignore[misc]  # scikit-learn has no types.
    """A multi-layer perceptron that classifies, in the place of ``sklearn.neural_network.MLPClassifier``.

    The cross-entropy is minimised: after softmax for three or more classes, after the logistic function for two
    classes and for several labels. All parameters of scikit-learn's class are here, with its defaults; those from
    `early_stopping_metric` on, and the values marked with "also", are not in scikit-learn.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int, default (100,)
        Units of the hidden layers.
    activation : str or sequence of str, default "relu"
        ``identity``, ``logistic``, ``tanh``, ``relu``; also ``sigmoid`` (which is ``logistic``), ``leaky_relu``,
        ``elu``, ``gelu``, ``silu``, ``softplus``, and a sequence, one a hidden layer.
    solver : str or Optimizer, default "adam"
        ``lbfgs``, ``sgd``, ``adam``; also ``adamw``, ``rmsprop`` and an object such as
        ``fastmlp.AdamW(0.001, weight_decay=0.1)``, which then has the learning rate, too.
    alpha : float, default 0.0001
        Strength of the L2 term, ``alpha / 2 * sum(W ** 2)`` over a batch's number of samples. No biases. With
        ``adamw`` the decoupled weight decay instead, of biases, too.
    batch_size : int or "auto", default "auto"
        Samples a step; "auto" is 200, or all if there are fewer.
    learning_rate : str or Schedule, default "constant"
        ``constant``; for ``sgd`` ``invscaling`` (after an epoch ``learning_rate_init / (t_ + 1) ** power_t``) and
        ``adaptive`` (divided by 5 instead of stopping, down to 1e-6); also ``cosine``, ``one_cycle`` and a schedule
        object such as ``fastmlp.Cosine(warmup=1)``, over `max_iter` epochs, for every solver but ``lbfgs``.
    learning_rate_init : float, default 0.001
        The rate, or the largest one of a schedule.
    power_t : float, default 0.5
        Of ``invscaling``.
    max_iter : int, default 200
        Epochs; for ``lbfgs`` iterations.
    shuffle : bool, default True
        Draw a new order of the samples each epoch.
    random_state : int, RandomState or None
        Of the initial weights, the validation samples and the orders.
    tol : float, default 0.0001
        Less improvement than this is none. For ``lbfgs``: the largest component of the gradient to stop at.
    verbose : bool, default False
        Print the loss of every epoch.
    warm_start : bool, default False
        A further `fit` goes on from the weights, and from the optimizer's moments.
    momentum, nesterovs_momentum : float, default 0.9, and bool, default True
        Of ``sgd``.
    early_stopping : bool, default False
        Validate on a part of the samples, or on `X_val`, stop when that has not improved, and keep the best weights.
    validation_fraction : float, default 0.1
        How much to set aside.
    beta_1, beta_2, epsilon : float, default 0.9, 0.999, 1e-8
        Of ``adam`` and ``adamw``; `epsilon` of ``rmsprop``, too.
    n_iter_no_change : int or inf, default 10
        Epochs without improvement before it stops.
    max_fun : int, default 15000
        Evaluations of the loss for ``lbfgs``.
    early_stopping_metric : {"score", "loss"}
        What of the validation samples decides.
    dropout : float or sequence of float, default 0.0
        Probability that a hidden unit is left out in a step; one for all layers, or one a layer.
    clip_norm : float, optional
        Largest 2-norm of a step's gradient.
    average : float, optional
        Decay of an exponential moving average of the weights, which is what the fit leaves.
    init : {"glorot", "he"} or pair of sequences of array, default "glorot"
        How weights are drawn, or the first ``(coefs, intercepts)``. "glorot" is scikit-learn's way.
    dtype : {"float32", "float64"}, optional
        Of the network; by default that of X where it is one of these, else float64.
    threads : int, optional
        At most so many; by default what is fastest, and 1 in a worker of joblib or `multiprocessing`. ``lbfgs``
        takes 1.
    progress : bool, default False
        Show a bar.
    max_time : float, optional
        Seconds after which the training stops; compiling, at the first start, does not count.
    callbacks : sequence of callable, optional
        Each is called after every epoch with the `fastmlp.History` so far, whose ``validation_accuracy`` is the score;
        a true answer stops the training.
    class_weight : dict, list of dict or "balanced", optional
        Factor of the sample weights by class, 1 for a class that is not named; a dict a label for several labels. It
        may name classes that y lacks, as a fold may, if it names all that y has.
        Samples that `fit` holds out have it in their score and loss, too; those of `X_val` have `sample_weight_val`.
    label_smoothing : float, default 0.0
        Part of the targets that is spread over all classes.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
        The labels.
    loss_, best_loss_ : float
        Of the last epoch and the smallest; `best_loss_` is None with early stopping.
    loss_curve_ : list of float
        Of every epoch, with the L2 term.
    validation_scores_, validation_loss_curve_ : list of float or None
        Of the validation samples after every epoch.
    best_validation_score_ : float or None
        That of the weights that were kept.
    t_ : int
        Samples seen.
    coefs_, intercepts_ : list of ndarray
        Weights ``(n_in, n_out)`` and biases ``(n_out,)``, layer by layer. They are the network's memory: writing into
        them, or putting other arrays into the lists, changes predictions.
    n_features_in_, feature_names_in_ : int, ndarray
        Of X in the first `fit`.
    n_iter_, n_layers_, n_outputs_ : int
        Epochs of the last call; layers, inputs included; outputs.
    out_activation_ : str
        ``softmax`` or ``logistic``.
    stopped_ : bool
        Whether training ended because there was no improvement. After ``lbfgs``, there is neither this nor a curve.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(hidden_layer_sizes=(10,), solver="lbfgs", random_state=0).fit(X, y)
    >>> bool(clf.score(X, y) > 0.95)
    True
    """

    _parameter_constraints = {  # noqa: RUF012
        **BaseMLP._parameter_constraints,
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }
    _is_regressor = False
    loss = "log_loss"
    classes_: Array

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: int = 15000,
        early_stopping_metric: str = "score",
        dropout: Any = 0.0,
        clip_norm: float | None = None,
        average: float | None = None,
        init: Any = "glorot",
        dtype: Any = None,
        threads: int | None = None,
        progress: bool = False,
        max_time: float | None = None,
        callbacks: Any = None,
        class_weight: Any = None,
        label_smoothing: float = 0.0,
    ) -> None:
        self._store(locals())

    @available_if(require_stochastic)  # type: ignore[untyped-decorator]
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        classes: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> MLPClassifier:
        """Train for one pass over the data, going on from where the last call stopped, with the optimizer's state.

        With ``early_stopping=True`` it needs `X_val` and `y_val`: once they have not improved for `n_iter_no_change`
        calls, the best weights are put back, ``stopped_`` becomes True, and further calls change nothing.

        Parameters
        ----------
        X, y, sample_weight, X_val, y_val, sample_weight_val
            As in `fit`.
        classes : array-like (n_classes,), optional
            All labels that will ever come; needed in the first call.

        Returns
        -------
        MLPClassifier
            Itself.
        """
        validation = X_val, y_val, sample_weight_val
        return self._fit(X, y, sample_weight, validation, incremental=True, classes=classes)  # type: ignore[no-any-return]

    def _learn_classes(self, y: Any, classes: Any) -> None:
        if _check_partial_fit_first_call(self, classes):
            is_multilabel = type_of_target(y).startswith("multilabel")
            binarizer = LabelBinarizer().fit(y if is_multilabel else classes)
            if len(np.setdiff1d(binarizer.classes_, self.classes_)):
                raise ValueError(unknown_classes("y", binarizer.classes_, self.classes_))
            self._label_binarizer = binarizer

    # --- Prediction ---------------------------------------------------------------------------------------------------

    def predict(self, X: Any) -> Array:
        """Predict the labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} (n_samples, n_features)
            As in `fit`.

        Returns
        -------
        ndarray (n_samples,) or (n_samples, n_outputs)
            Of `classes_`, or 0 and 1 for several labels.
        """
        name = self.__dict__.get("out_activation_")
        if name is not None and name != self._output_name():
            outputs = self._outputs(X)
            given: Array = self._label_binarizer.inverse_transform(outputs[:, 0] if outputs.shape[1] == 1 else outputs)
            return given
        if name == "softmax":
            labels: Array = np.asarray(self._label_binarizer.classes_).take(self._forward(X, "classes"))
            return labels
        Z = self._forward(X)
        binarizer = self._label_binarizer
        if binarizer.y_type_ == "binary":
            classes = np.asarray(binarizer.classes_)  # They may be a file's, mapped.
            return classes.take(np.minimum(Z[:, 0] > 0, len(classes) - 1))
        if binarizer.y_type_ == "multilabel-indicator" and not binarizer.sparse_input_:
            return (Z > 0).astype(int)  # As below, without the checks, which take longer than a small network.
        return binarizer.inverse_transform(Z, threshold=0.0)  # type: ignore[no-any-return]

    def predict_proba(self, X: Any) -> Array:
        """Predict the probabilities of the labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} (n_samples, n_features)
            As in `fit`.

        Returns
        -------
        ndarray (n_samples, n_classes)
            Ordered as `classes_`.
        """
        P = self._outputs(X)
        return np.hstack([1 - P, P]) if P.shape[1] == 1 else P

    def predict_log_proba(self, X: Any) -> Array:
        """Predict the logarithms of the probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} (n_samples, n_features)
            As in `fit`.

        Returns
        -------
        ndarray (n_samples, n_classes)
            ``log(predict_proba(X))``, but finite where a probability is too small for its dtype, unless a user has set
            another ``out_activation_``.
        """
        P = self.predict_proba(X)
        if self.out_activation_ != self._output_name():
            return np.log(P)
        with np.errstate(divide="ignore"):
            log_P: Array = np.log(P)
        is_lost = np.less(P, np.finfo(P.dtype).tiny)
        return np.where(is_lost, self._log_proba_of_logits(X), log_P) if is_lost.any() else log_P

    def _log_proba_of_logits(self, X: Any) -> Array:
        Z = self._forward(X)
        if self.out_activation_ == "softmax":
            Z -= Z.max(axis=1, keepdims=True)
            return Z - np.log(np.exp(Z).sum(axis=1, keepdims=True))  # type: ignore[no-any-return]
        of_ones = -np.logaddexp(0, -Z)
        return np.hstack([-np.logaddexp(0, Z), of_ones]) if Z.shape[1] == 1 else of_ones

    # --- Labels -------------------------------------------------------------------------------------------------------

    def _encode(self, y: Any, learn: bool, what: str = "y") -> Array:
        """Give y as the engine takes it: class indices for softmax, else 0 and 1 as float rows."""
        if y.ndim == 2 and y.shape[1] == 1:
            y = flattened(y)
        if learn or not hasattr(self, "classes_"):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_classes(y, what)
        kind = self._label_binarizer.y_type_
        if kind == "multilabel-indicator":
            labels = self._label_binarizer.transform(y)
            return np.asarray(labels != 0, dtype=np.float64)  # A mask's 255 is a label, too.
        if y.ndim != 1:
            raise ValueError(f"{what} must be labels (n_samples,) as in the first fit, got shape {y.shape}")
        indices = self._indices_of(y)
        return indices if kind == "multiclass" else indices.astype(np.float64)[:, None]

    def _indices_of(self, y: Array) -> Array:
        """Give the places of labels among the classes, which may not ascend: a user may have renamed some in place."""
        known = self._label_binarizer.classes_
        places = places_of(y, known)
        if places is None:
            order = known.argsort()
            places = order[known.searchsorted(y, sorter=order)]
        return places

    def _check_classes(self, y: Array, what: str) -> None:
        known = self._label_binarizer.classes_  # Those of the fit, whatever has been assigned to `classes_` since.
        # What scikit-learn does takes longer than a step with a small batch. If y is plain, and all of it is known, it
        # would find nothing.
        if (
            not self.warm_start
            and y.ndim == 1
            and y.dtype.kind == known.dtype.kind
            and y.dtype.kind in "biufU"
            and places_of(y, known) is not None
        ):
            return
        classes = unique_labels(y)
        if self.warm_start and what == "y":
            if set(classes) != set(known):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {known}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, known, assume_unique=True)):
            raise ValueError(unknown_classes(what, classes, known))

    def _count_outputs(self, Y: Array) -> int:
        return len(self._label_binarizer.classes_) if Y.ndim == 1 else int(Y.shape[1])

    def _loss(self) -> tuple[str, float | None]:
        is_multiclass = self._label_binarizer.y_type_ == "multiclass"
        return "softmax_cross_entropy" if is_multiclass else "sigmoid_cross_entropy", None

    def _strata(self, Y: Array) -> Array | None:
        """Give what the validation samples are stratified by: the label, for two classes, as in scikit-learn."""
        return Y.astype(bool) if Y.ndim == 2 and Y.shape[1] == 1 else None

    def _sample_weights(self, sample_weight: Any, X: Any, y: Any, incremental: bool) -> Array | None:
        weights = super()._sample_weights(sample_weight, X, y, incremental)
        if self.class_weight is None:
            return weights
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight must not be 'balanced' for partial_fit, which sees a part of the classes; give a dict"
            )
        of_classes: Array
        if isinstance(self.class_weight, dict) and y.ndim == 1:  # A batch of partial_fit may lack some classes.
            classes = self._label_binarizer.classes_.tolist()
            unknown = [label for label in self.class_weight if label not in classes]
            if unknown and not set(classes) <= set(self.class_weight):  # Else y may be a fold without a rare class.
                raise ValueError(f"class_weight must be of labels in y, got {unknown[0]!r}")
            factors = np.array(
                [
                    check_number(f"class_weight[{label!r}]", self.class_weight.get(label, 1.0), minimum=0.0)
                    for label in classes
                ]
            )
            of_classes = factors[self._indices_of(y)]
        else:
            of_classes = compute_sample_weight(self.class_weight, y)
        if not np.isfinite(of_classes).all():
            raise ValueError(f"class_weight must be finite, got {of_classes[~np.isfinite(of_classes)][0]:g}")
        if (of_classes < 0).any():
            raise ValueError(f"class_weight must be >= 0, got {of_classes.min():g}")
        with np.errstate(over="ignore"):
            weights = of_classes if weights is None else weights * of_classes
        what = "class_weight" if sample_weight is None else "the product of sample_weight and class_weight"
        return divisible(what, weights)

    def _score_outputs(self, Z: Array, Y: Array, weights: Array | None) -> float:
        """Accuracy of the logits."""
        if not np.isfinite(Z).all():
            return float("nan")
        if len(self._label_binarizer.classes_) == 1:  # Whatever the network says, there is no other label.
            return 1.0
        right = Z.argmax(axis=1) == Y if Y.ndim == 1 else ((Z > 0) == Y).all(axis=1)
        return float(np.average(right, weights=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
