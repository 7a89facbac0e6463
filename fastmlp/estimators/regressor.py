"""`MLPRegressor`: values in, values out."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import Interval, StrOptions

from fastmlp.estimators.base import BaseMLP
from fastmlp.estimators.samples import flattened
from fastmlp.sparse import is_sparse

Array = NDArray[Any]


class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]  # scikit-learn has no types.
    """A multi-layer perceptron that predicts values, in the place of ``sklearn.neural_network.MLPRegressor``.

    Parameters
    ----------
    loss : str, default "squared_error"
        ``squared_error`` (half of it), ``poisson`` (half the deviance; the outputs are exponentials); also
        ``absolute_error``, ``huber`` and ``quantile``. Of several outputs ``loss_`` is the sum, but the mean of
        squared errors, as in scikit-learn.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, \
shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction, \
beta_1, beta_2, epsilon, n_iter_no_change, max_fun, early_stopping_metric, dropout, clip_norm, average, init, dtype, \
threads, progress, max_time, callbacks
        As in `MLPClassifier`. The validation score is R².
    loss_parameter : float, optional
        ``huber``: where the loss becomes linear, default 1.0; ``quantile``: which one, in (0, 1), default 0.5.

    Attributes
    ----------
    loss_, best_loss_, loss_curve_, validation_scores_, validation_loss_curve_, best_validation_score_, t_, coefs_, \
intercepts_, n_features_in_, feature_names_in_, n_iter_, n_layers_, n_outputs_, stopped_
        As in `MLPClassifier`.
    out_activation_ : str
        ``identity`` or, for ``poisson``, ``exp``.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> reg = MLPRegressor(hidden_layer_sizes=(20,), solver="lbfgs", random_state=0).fit(X, X[:, 0] ** 2)
    >>> bool(reg.score(X, X[:, 0] ** 2) > 0.99)
    True
    """

    _parameter_constraints = {  # noqa: RUF012
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson", "absolute_error", "huber", "quantile"})],
        "loss_parameter": [Interval(Real, 0, None, closed="neither"), None],
    }
    _is_regressor = True

    def __init__(
        self,
        loss: str = "squared_error",
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
        loss_parameter: float | None = None,
    ) -> None:
        self._store(locals())

    def predict(self, X: Any) -> Array:
        """Predict the values.

        Parameters
        ----------
        X : {array-like, sparse matrix} (n_samples, n_features)
            As in `fit`.

        Returns
        -------
        ndarray (n_samples,) or (n_samples, n_outputs)
            Of the network's dtype.
        """
        outputs = self._outputs(X)
        return outputs.ravel() if outputs.shape[1] == 1 else outputs

    def _encode(self, y: Any, learn: bool, what: str = "y") -> Array:
        """Give y as rows of values."""
        if is_sparse(y):
            raise TypeError(
                f"Sparse data was passed for {what}, but dense data is required. "
                "Use '.toarray()' to convert to a dense numpy array."
            )
        if y.ndim == 2 and y.shape[1] == 1:
            y = flattened(y)
        if y.dtype.kind not in "biuf":
            raise TypeError(f"{what} must be numeric, got dtype {y.dtype}")
        if self.loss == "poisson" and np.min(y) < 0:
            raise ValueError(f"{what} must be >= 0 with loss='poisson', got {np.min(y):g}")
        return y.reshape(len(y), -1)  # type: ignore[no-any-return]

    def _count_outputs(self, Y: Array) -> int:
        return int(Y.shape[1])

    def _loss(self) -> tuple[str, float | None]:
        return self.loss, self.loss_parameter

    def _score_outputs(self, outputs: Array, Y: Array, weights: Array | None) -> float:
        """R² of the outputs: of a network's before an activation that is a part of the loss."""
        with np.errstate(over="ignore"):
            values = np.exp(outputs) if self.out_activation_ == "exp" else outputs
        if not np.isfinite(values).all() or len(Y) < 2:
            return float("nan")
        with np.errstate(over="ignore"):
            return float(r2_score(Y, values.astype(np.float64), sample_weight=weights))
