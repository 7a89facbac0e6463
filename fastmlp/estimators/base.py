"""What both estimators share: parameters and their rules, the network behind ``coefs_``, fit and forward pass."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from joblib.parallel import get_active_backend
from numpy.typing import NDArray
from sklearn import config_context, get_config
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, InvalidParameterError, Options, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from fastmlp import reference
from fastmlp.checks import all_finite, check_callbacks, copy_checked
from fastmlp.estimators.lbfgs import fit_lbfgs
from fastmlp.estimators.run import NOT_FINITE_WEIGHTS, Run
from fastmlp.estimators.samples import EncodedSamples, as_inputs, checked_weights
from fastmlp.estimators.solver import make_solver
from fastmlp.network import MLP
from fastmlp.optimizers import Optimizer, Schedule
from fastmlp.recipe import Callback
from fastmlp.shapes import InvalidInputsError
from fastmlp.sparse import SparseRows, is_sparse
from fastmlp.spec import ACTIVATIONS, DTYPES, check_name, dtype_name, make_spec

Array = NDArray[Any]


STOCHASTIC_SOLVERS = "sgd", "adam", "adamw", "rmsprop"

OUTPUT_NAMES = {"softmax_cross_entropy": "softmax", "sigmoid_cross_entropy": "logistic", "poisson": "exp"}
"""What ``out_activation_`` is after a fit, by the loss; with all others, it is ``"identity"``."""

CURVES = (
    "loss_curve_", "best_loss_", "validation_scores_", "validation_loss_curve_", "best_validation_score_", "stopped_",
)  # fmt: skip
"""The attributes that lbfgs does not make."""

LISTS_OF_EPOCHS = "loss_curve_", "validation_scores_", "validation_loss_curve_"
"""Those of them that have a number an epoch, which a pickle holds as arrays."""

SETTABLE_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": reference.identity,
    "logistic": reference.sigmoid,
    "softmax": reference.softmax,
    "tanh": reference.tanh,
    "relu": reference.relu,
    "exp": np.exp,
}
"""What a user may make it, as in scikit-learn."""


def require_stochastic(estimator: Any) -> bool:
    """Return True; raise AttributeError, as for a method that is not there, if the solver has no `partial_fit`."""
    if not isinstance(estimator.solver, Optimizer) and estimator.solver not in STOCHASTIC_SOLVERS:
        raise AttributeError(f"partial_fit needs a stochastic solver, got solver={estimator.solver!r}")
    return True


class Built(NamedTuple):
    """The network behind an estimator's ``coefs_``.

    Attributes
    ----------
    net : MLP
        The network.
    views : tuple of ndarray
        What ``coefs_`` and ``intercepts_`` hold, unless a user has put something else there.
    made_for : tuple
        The estimator's activations and loss when the network was made.
    """

    net: MLP
    views: tuple[Array, ...]
    made_for: tuple[Any, ...]

    def holds(self, arrays: Sequence[Any]) -> bool:
        """Whether these are the views, so that the network has what they hold."""
        return len(arrays) == len(self.views) and all(map(operator.is_, arrays, self.views))

    def has_shapes(self, shapes: list[tuple[int, ...]]) -> bool:
        """Whether the views have these shapes."""
        return shapes == [view.shape for view in self.views]


class BaseMLP(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types.
    """The base of `MLPClassifier` and `MLPRegressor`; not for use by itself."""

    _parameter_constraints: dict[str, Any] = {  # noqa: RUF012 - scikit-learn reads it from the class.
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({"logistic", *ACTIVATIONS}), "array-like"],
        "solver": [StrOptions({"lbfgs", *STOCHASTIC_SOLVERS}), Optimizer],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive", "cosine", "one_cycle"}), Schedule],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "early_stopping_metric": [StrOptions({"score", "loss"})],
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "average": [Interval(Real, 0, 1, closed="neither"), None],
        "init": [StrOptions({"glorot", "he"}), "array-like"],
        "dtype": "no_validation",  # Checked by `_input_dtypes`.
        "threads": [Interval(Integral, 1, None, closed="left"), None],
        "progress": ["boolean"],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "callbacks": ["array-like", None],
    }

    label_smoothing = 0.0  # A parameter of the classifier alone.
    best_loss_: float | None
    best_validation_score_: float | None
    validation_scores_: list[float] | None
    validation_loss_curve_: list[float] | None
    stopped_: bool
    _fitted_loss: tuple[str, float | None]
    """The loss, and its parameter, that the network behind ``coefs_`` was fitted with last."""

    # --- Fitting ------------------------------------------------------------------------------------------------------

    def _store(self, arguments: dict[str, Any]) -> None:
        """Store the arguments of ``__init__``, its ``locals()``, and do nothing else: scikit-learn wants it so."""
        for name, value in arguments.items():
            if name != "self":
                setattr(self, name, value)

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Any:
        """Train the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} (n_samples, n_features)
            float32 stays float32, all else becomes float64, unless `dtype` says otherwise. Sparse matrices are
            trained on by rows, as CSR is, and never made dense.
        y : array-like (n_samples,) or (n_samples, n_outputs)
            Classes, or an indicator matrix of labels; for a regressor, values.
        sample_weight : array-like (n_samples,), optional
            Weights >= 0.
        X_val, y_val : array-like, optional
            Samples to validate on after every epoch, instead of a part of X.
        sample_weight_val : array-like (n_samples_val,), optional
            Their weights in score and loss.

        Returns
        -------
        estimator
            Itself.

        Raises
        ------
        ValueError
            If a parameter or the data do not fit, or the weights do not stay finite.
        """
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), incremental=False)

    @available_if(require_stochastic)  # type: ignore[untyped-decorator]
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Any:
        """Train for one pass over the data, going on from where the last call stopped, with the optimizer's state.

        With ``early_stopping=True`` it needs `X_val` and `y_val`: once they have not improved for `n_iter_no_change`
        calls, the best weights are put back, ``stopped_`` becomes True, and further calls change nothing.

        Parameters
        ----------
        X, y, sample_weight, X_val, y_val, sample_weight_val
            As in `fit`.

        Returns
        -------
        estimator
            Itself.
        """
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val), incremental=True)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, validation: Any, incremental: bool, classes: Any = None
    ) -> Any:  # fmt: skip
        before = dict(self.__dict__)
        try:
            net, train = self._prepare(X, y, sample_weight, validation, incremental, classes)
        except BaseException:  # It stays what it was.
            self.__dict__.update(before)
            for name in self.__dict__.keys() - before.keys():
                del self.__dict__[name]
            raise
        del before  # The old network's memory is not needed any more.
        train()
        if not np.isfinite(net._parameters).all():
            raise ValueError(NOT_FINITE_WEIGHTS)
        return self

    def _prepare(
        self, X: Any, y: Any, sample_weight: Any, validation: Any, incremental: bool, classes: Any
    ) -> tuple[MLP, Callable[[], None]]:
        """Check all that was given, and make the network if it is new; give this, and what trains it."""
        self._validate_params()
        if incremental:
            self._learn_classes(y, classes)
        hidden = self._hidden_sizes()
        if self.solver == "lbfgs":
            self._refuse_with_lbfgs(validation)
        is_first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        if not is_first:
            self._refuse_to_go_on(hidden)
        X, y = self._validated(X, y, is_first)
        Y = self._encode(y, learn=not incremental and not self.warm_start)
        weights = self._sample_weights(sample_weight, X, y, incremental)
        # To seed one takes longer than a small step, which may need none.
        random_state = functools.cache(lambda: check_random_state(self.random_state))
        if is_first:
            self._initialise((X.shape[1], *hidden, self._count_outputs(Y)), X.dtype.name, random_state())
        fitted_loss = self._loss_of_network()
        self._fitted_loss = self._loss()
        net = self._network()
        samples = self._samples(net, X, Y, weights)
        held_out = self._held_out(net, validation)
        callbacks = check_callbacks(self.callbacks or ())
        if self.solver == "lbfgs":
            return net, functools.partial(fit_lbfgs, self, net, samples, callbacks)
        if self._fitted_loss != fitted_loss:
            self._begin_curves()  # What was reached by another loss is no measure for this one.
        return net, self._prepare_stochastic(net, samples, held_out, random_state, callbacks, incremental)

    def _prepare_stochastic(
        self,
        net: MLP,
        samples: EncodedSamples,
        held_out: EncodedSamples | None,
        random_state: Callable[[], np.random.RandomState],
        callbacks: Sequence[Callback],
        incremental: bool,
    ) -> Callable[[], None]:
        is_users = held_out is not None
        if self.early_stopping and held_out is None:
            if incremental:
                raise ValueError("partial_fit does not support early_stopping=True without X_val and y_val")
            samples, held_out = self._split(samples, random_state())
        if not hasattr(self, "validation_loss_curve_"):  # It goes on from what lbfgs has found, or scikit-learn.
            self._begin_curves()
        last_was_partial = getattr(self, "_last_was_partial", False)
        if incremental and self.early_stopping and last_was_partial and self.stopped_:
            return lambda: None
        was_users, self._judged_by_users = getattr(self, "_judged_by_users", False), is_users
        # What was best before was judged by other samples; but scikit-learn's own splits go on from one to the next.
        if (is_users or was_users) and not (incremental and last_was_partial):
            self.best_validation_score_, self._lowest_validation_loss = -np.inf, np.inf
            if self.early_stopping:
                self._no_improvement_count = 0
        self._optimizer = make_solver(self, net, incremental)
        self._last_was_partial, self.stopped_ = incremental, False
        return Run(
            self, net, self._optimizer, samples, held_out, random_state, callbacks, incremental, self._threads()
        ).train

    def _validate_params(self) -> None:
        """Check the parameters as scikit-learn does, but not again what has not changed: 0.2 ms of `partial_fit`."""
        if get_config()["skip_parameter_validation"]:
            return
        values = [self.__dict__.get(name) for name in self._parameter_constraints]
        checked = self.__dict__.get("_checked", ())
        if len(values) != len(checked) or not all(map(operator.is_, values, checked)):
            super()._validate_params()
            self._checked = values

    def _learn_classes(self, y: Any, classes: Any) -> None:
        """Take the classes that the first call of partial_fit is given; a regressor has none."""

    def _hidden_sizes(self) -> tuple[int, ...]:
        sizes = self.hidden_layer_sizes
        sizes = tuple(sizes) if hasattr(sizes, "__iter__") else (sizes,)
        if not all(isinstance(size, Integral) and not isinstance(size, bool) for size in sizes):
            raise InvalidParameterError(f"hidden_layer_sizes must be whole numbers, got {list(sizes)}")
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {list(sizes)}")
        return sizes

    def _refuse_with_lbfgs(self, validation: Any) -> None:
        """Raise ValueError for what only minibatches can do."""
        given = {"dropout": np.any(self.dropout), "clip_norm": self.clip_norm, "average": self.average}
        given |= {"label_smoothing": self.label_smoothing, "X_val": validation[0] is not None}
        for name, is_given in given.items():
            if is_given:
                raise ValueError(f"{name} must be left out with solver='lbfgs'")

    def _validated(self, X: Any, y: Any, is_first: bool) -> tuple[Any, Any]:
        """Give X and y as scikit-learn's validation leaves them.

        It takes longer than a step with a small batch. Plain arrays of the right shape and dtype pass it unchanged if
        they are finite, which the sum of a finite one nearly always is.
        """
        dtypes = self._input_dtypes(is_first)
        if (
            not is_first
            and type(X) is type(y) is np.ndarray
            and X.ndim == 2
            and X.dtype == dtypes
            and X.flags.c_contiguous
            and X.shape[1] == self.n_features_in_
            and y.ndim in (1, 2)
            and 0 < len(X) == len(y)
            and y.size > 0
            and y.dtype.kind in "fiu"
            and not hasattr(self, "feature_names_in_")
        ):
            with np.errstate(over="ignore", invalid="ignore"):
                if np.isfinite(X.sum()) and np.isfinite(y.sum()):
                    return X, y
        return validate_data(  # type: ignore[no-any-return]
            self, X, y, accept_sparse="csr", multi_output=True, y_numeric=self._is_regressor, reset=is_first,
            dtype=dtypes, order="C",
        )  # fmt: skip

    def _refuse_to_go_on(self, hidden: tuple[int, ...]) -> None:
        """Raise ValueError if training cannot go on from ``coefs_``."""
        if len(hidden) != len(self.coefs_) - 1:
            raise ValueError(
                f"hidden_layer_sizes must be {len(self.coefs_) - 1} numbers for training to go on, got {len(hidden)}"
            )
        own = self._output_name()
        if self.out_activation_ != own:
            raise ValueError(f"out_activation_ must be {own!r} for training to go on, got {self.out_activation_!r}")
        if self._output_name(self._loss()) != own:
            raise ValueError(f"loss must keep the output activation {own!r} of the fit that goes on")

    def _input_dtypes(self, is_first: bool) -> Any:
        """Give the dtypes that X may keep; it becomes the first where it has none of them."""
        if not is_first:
            return self._dtype_of_coefs()
        if self.dtype is not None:
            return np.dtype(check_name("dtype", dtype_name(self.dtype), DTYPES))
        return (np.float64, np.float32)

    def _sample_weights(self, sample_weight: Any, X: Any, y: Any, incremental: bool) -> Array | None:
        """Give the weights of the samples, of the user's and of the classes', or None if they are all one."""
        if sample_weight is None:
            return None
        return checked_weights("sample_weight", sample_weight, X)

    def _samples(self, net: MLP, X: Any, Y: Array, weights: Array | None, what: str = "y") -> EncodedSamples:
        """Give X, which `validate_data` has checked, as the engine takes it, with its encoded targets."""
        n_outputs, spec = self._count_outputs(Y), net.spec
        if n_outputs != spec.layer_sizes[-1]:
            raise ValueError(f"{what} must have {spec.layer_sizes[-1]} outputs as before, got {n_outputs}")
        if X.shape[1] != spec.layer_sizes[0]:  # As `n_features_in_` may say, after a `fit` that failed.
            raise ValueError(f"X must have {spec.layer_sizes[0]} features as coefs_[0] has rows, got {X.shape[1]}")
        inputs = as_inputs(X, np.dtype(spec.dtype))
        # A view: a callback may change the shape of the user's own.
        return EncodedSamples(inputs if isinstance(inputs, SparseRows) else inputs.view(), Y, weights)

    def _split(self, samples: EncodedSamples, random_state: Any) -> tuple[EncodedSamples, EncodedSamples]:
        """Set samples aside for validation, the same ones as scikit-learn does."""
        rows = np.arange(len(samples))
        with config_context(skip_parameter_validation=True):  # Its error would name a function that nobody called.
            train, held_out = train_test_split(
                rows, random_state=random_state, test_size=self.validation_fraction, stratify=self._strata(samples.Y)
            )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        weights = samples.weights
        if weights is not None and not (weights[train].any() and weights[held_out].any()):
            raise ValueError("sample_weight must be > 0 for a sample of the training and the validation set, got zeros")
        return samples.take(train), samples.take(held_out)

    def _strata(self, Y: Array) -> Array | None:
        return None

    def _held_out(self, net: MLP, validation: Any) -> EncodedSamples | None:
        """Check the user's own validation samples."""
        X, y, sample_weight = validation
        if (X is None) != (y is None):
            raise ValueError("X_val and y_val must be given together")
        if X is None:
            if sample_weight is not None:
                raise ValueError("sample_weight_val must come with X_val and y_val")
            return None
        try:
            X, y = self._validated(X, y, is_first=False)
        except ValueError as error:  # scikit-learn names them as if they were those of `fit`.
            raise ValueError(f"X_val and y_val: {error}") from None
        weights = None if sample_weight is None else checked_weights("sample_weight_val", sample_weight, X)
        if len(y) < 2 and self._is_regressor and self.early_stopping and self.early_stopping_metric == "score":
            raise ValueError("X_val must have at least 2 samples for R², or early_stopping_metric be 'loss', got 1")
        samples = self._samples(net, X, self._encode(y, learn=False, what="y_val"), weights, "y_val")
        if not all_finite(samples.X, 1.0):  # scikit-learn has looked before it was converted, or was told not to.
            raise ValueError(f"X_val must be finite, and not too large for {net.spec.dtype}")
        return samples

    # --- The network --------------------------------------------------------------------------------------------------

    def _initialise(self, layer_sizes: tuple[int, ...], dtype: str, random_state: Any) -> None:
        """Make a new network, with weights as scikit-learn draws them, and forget what was learnt."""
        loss = self._loss()
        net = self._build(layer_sizes, dtype, loss)
        self.out_activation_, self._fitted_loss = self._output_name(loss), loss
        self.n_iter_ = self.t_ = 0
        self.n_outputs_ = layer_sizes[-1]
        self.n_layers_ = len(layer_sizes)
        self.coefs_, self.intercepts_ = list(net.weights), list(net.biases)
        self._built = Built(net, (*self.coefs_, *self.intercepts_), self._made_for())
        self._draw_weights(net, random_state)
        self.__dict__.pop("_optimizer", None)
        self._begin_curves()
        if self.solver == "lbfgs":  # Which makes none.
            for name in (*CURVES, "_no_improvement_count", "_lowest_validation_loss"):
                del self.__dict__[name]

    def _begin_curves(self) -> None:
        """Make the attributes of `CURVES`, and begin to count the epochs without improvement."""
        self.stopped_ = False
        self._no_improvement_count = 0
        self.loss_curve_: list[float] = []
        self.best_loss_ = None if self.early_stopping else np.inf
        self.validation_scores_ = [] if self.early_stopping else None
        self.validation_loss_curve_ = [] if self.early_stopping else None
        self.best_validation_score_ = -np.inf if self.early_stopping else None
        self._lowest_validation_loss = np.inf

    def _draw_weights(self, net: MLP, random_state: Any) -> None:
        """Draw weights and biases, or copy the user's.

        ``glorot``: uniform within ``sqrt(6 / (n_in + n_out))`` (2 instead of 6 with the logistic function), biases
        too: scikit-learn's way, in its order of draws. ``he``: uniform within ``sqrt(6 / n_in)``, biases zero.
        """
        if not isinstance(self.init, str):
            try:
                coefs, intercepts = self.init
            except (TypeError, ValueError):
                raise ValueError("init must be 'glorot', 'he' or a pair (coefs, intercepts)") from None
            copy_checked("init's coefs", coefs, net.weights)
            if intercepts is not None:
                copy_checked("init's intercepts", intercepts, net.biases)
            return
        # The last layer's are drawn as if it had the activation of the layer before.
        names = net.spec.activations or (self.activation,)
        for layer, (W, b) in enumerate(zip(net.weights, net.biases, strict=True)):
            is_logistic = names[min(layer, len(names) - 1)] in ("sigmoid", "logistic")
            if self.init == "he":
                bound = np.sqrt(6.0 / W.shape[0])
                W[:] = random_state.uniform(-bound, bound, W.shape)
                continue
            bound = np.sqrt((2.0 if is_logistic else 6.0) / sum(W.shape))
            W[:] = random_state.uniform(-bound, bound, W.shape)
            b[:] = random_state.uniform(-bound, bound, b.shape)

    def _made_for(self) -> tuple[Any, ...]:
        """Give what decides of which kind the network is: activations, which may change at any time, and the loss."""
        names = self.activation if isinstance(self.activation, str) else tuple(self.activation)
        return names, self._loss_of_network()

    def _loss_of_network(self) -> tuple[str, float | None]:
        """Give the loss, and its parameter, of the last fit; of an estimator that was put together by hand, its own."""
        fitted: tuple[str, float | None] | None = self.__dict__.get("_fitted_loss")
        return fitted or self._loss()

    def _output_name(self, loss: tuple[str, float | None] | None = None) -> str:
        """Give the output activation of a loss, by default the network's own, whatever ``out_activation_`` is."""
        return OUTPUT_NAMES.get((loss or self._loss_of_network())[0], "identity")

    def _build(self, layer_sizes: tuple[int, ...], dtype: str, loss: tuple[str, float | None]) -> MLP:
        names = [self.activation] * (len(layer_sizes) - 2) if isinstance(self.activation, str) else self.activation
        names = ["sigmoid" if name == "logistic" else name for name in names]
        spec = make_spec(layer_sizes, names, None, loss[0], "mean", True, 1.0, dtype, loss[1])
        return MLP._from_spec(spec)

    def _network(self) -> MLP:
        """Give the network with the parameters that ``coefs_`` and ``intercepts_`` hold.

        These are lists of views of its memory. What a user has put in a view's place is copied into it here.
        """
        try:
            coefs, intercepts = cast(Any, self.coefs_), self.intercepts_
        except AttributeError:
            check_is_fitted(self)
            raise
        made_for, read = self._made_for(), (list(coefs), list(intercepts))
        built: Built | None = self.__dict__.get("_built")
        if built is not None and built.made_for != made_for:
            built = None
        if built is not None and built.holds((*coefs, *intercepts)):
            return built.net
        coefs = [W.toarray() if is_sparse(W) else W for W in coefs]  # A user's.
        shapes = [np.shape(array) for array in (*coefs, *intercepts)]
        reuses = built is not None and built.has_shapes(shapes)
        net = cast(Built, built).net if reuses else self._build_of_shapes(shapes, len(coefs))
        net.set_parameters(coefs, intercepts)
        weights, biases = net.weights, net.biases
        self._put_views("coefs_", read[0], weights)
        self._put_views("intercepts_", read[1], biases)
        self._built = Built(net, (*weights, *biases), made_for)  # In one go: other threads may be here, too.
        return net

    def _build_of_shapes(self, shapes: list[tuple[int, ...]], n_layers: int) -> MLP:
        """Make a network for coefficients, and then intercepts, of these shapes: for another one than was fitted."""
        if n_layers == 0 or [len(shape) for shape in shapes] != [2] * n_layers + [1] * (len(shapes) - n_layers):
            raise ValueError(f"coefs_ must be matrices and intercepts_ vectors, got shapes {shapes}")
        n_features = getattr(self, "n_features_in_", shapes[0][0])  # It may be put together by hand.
        if shapes[0][0] != n_features:
            raise ValueError(f"coefs_[0] must have {n_features} rows, one a feature, got {shapes[0][0]}")
        sizes = (shapes[0][0], *(shape[0] for shape in shapes[n_layers:]))
        return self._build(sizes, self._dtype_of_coefs().name, self._loss_of_network())

    def _put_views(self, name: str, read: list[Any], views: Sequence[Array]) -> None:
        """Put views in the place of the arrays that were read, in the list that the user may hold.

        But not over what another thread has put there meanwhile.
        """
        held = self.__dict__.get(name)
        if not isinstance(held, list):
            setattr(self, name, list(views))
            return
        for i, (old, view) in enumerate(zip(read, views, strict=True)):
            if i < len(held) and held[i] is old:
                held[i] = view

    def _dtype_of_coefs(self) -> np.dtype[Any]:
        dtype = np.result_type(*self.coefs_)
        return dtype if dtype.name in DTYPES else np.dtype(np.float64)

    def _threads(self) -> int | None:
        """Give what the user asks for, or 1 in a worker of joblib, which has a CPU to itself; None is free choice."""
        if self.threads is None and get_active_backend()[0].nesting_level:
            return 1
        return self.threads  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        """Give what a pickle holds: the weights once, and the optimizer's state only where training is to go on."""
        state = dict(super().__getstate__())
        for name in ("_built", "_checked"):
            state.pop(name, None)
        has_ended = self.early_stopping and state.get("stopped_", False)  # Further calls of partial_fit do nothing.
        if not self.warm_start and (has_ended or not state.get("_last_was_partial", False)):
            state.pop("_optimizer", None)
        for name in ("coefs_", "intercepts_"):
            if isinstance(state.get(name), list):  # Without the padding of their rows: equal models are equal bytes.
                state[name] = [np.ascontiguousarray(array) for array in state[name]]
        for name in LISTS_OF_EPOCHS:  # A number by itself takes 20 bytes.
            if isinstance(state.get(name), list) and all(isinstance(value, float) for value in state[name]):
                state[name] = np.array(state[name], dtype=np.float64)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what a pickle, or a copy, holds."""
        lists = {name: list(state[name]) for name in LISTS_OF_EPOCHS if isinstance(state.get(name), np.ndarray)}
        super().__setstate__({**state, **lists})

    # --- Prediction ---------------------------------------------------------------------------------------------------

    def _forward(self, X: Any, method_name: Literal["raw_outputs", "outputs", "classes"] = "raw_outputs") -> Array:
        """Call a method of the engine on X."""
        net = self._network()
        parameters = net._parameters
        method: Callable[..., Array] = getattr(net._engine, method_name)
        # scikit-learn's validation takes longer than a small network. A plain array, or CSR matrix, of numbers of the
        # right shape passes it unchanged if it is finite, which is found out on the way.
        if (
            (type(X) is np.ndarray or getattr(X, "format", None) == "csr")
            and X.ndim == 2
            and X.dtype.kind in "fiu"
            and X.shape[1] == net.spec.layer_sizes[0]
            and X.shape[0] > 0
            and not hasattr(self, "feature_names_in_")
        ):
            try:
                return method(parameters, as_inputs(X, parameters.dtype), 1 if X.shape[0] == 1 else self._threads())
            except ValueError:  # Its own, or an `InvalidInputsError`: scikit-learn says below what is wrong with X.
                pass
        X = validate_data(self, X, accept_sparse="csr", reset=False)
        if X.shape[1] != net.spec.layer_sizes[0]:
            raise ValueError(f"X must have {net.spec.layer_sizes[0]} features as coefs_[0] has rows, got {X.shape[1]}")
        try:
            return method(parameters, as_inputs(X, parameters.dtype), self._threads())
        except InvalidInputsError:
            raise ValueError(f"X must be finite, and not too large for {parameters.dtype}") from None

    def _outputs(self, X: Any) -> Array:
        """Give the outputs after ``out_activation_``, which a user may have changed."""
        name = self.__dict__.get("out_activation_")
        if name is None or name == self._output_name():
            return self._forward(X, "outputs")
        return SETTABLE_ACTIVATIONS[check_name("out_activation_", name, SETTABLE_ACTIVATIONS)](self._forward(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
