"""The solver ``lbfgs``: SciPy's L-BFGS-B over the engine's gradients."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from fastmlp.estimators.run import loss_cap, loss_factor
from fastmlp.estimators.samples import EncodedSamples, as_targets, warn
from fastmlp.network import MLP
from fastmlp.recipe import Callback, History
from fastmlp.report import epochs_bar, print_line
from fastmlp.sparse import SparseRows

Array = NDArray[Any]


def fit_lbfgs(estimator: Any, net: MLP, samples: EncodedSamples, callbacks: Sequence[Callback]) -> None:
    """Minimise the loss over all samples at once, in float64 whatever the network's dtype: a line search needs it.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        Gets ``n_iter_`` and ``loss_``.
    net : MLP
        Where to begin; left with the weights that are found.
    samples : EncodedSamples
        To train on.
    callbacks : sequence of callable
        The estimator's.
    """
    e = estimator
    objective = Objective(net, samples, e.alpha)
    bar = epochs_bar(e.max_iter, "iterations") if e.progress else None
    history, started = History(), time.perf_counter()
    is_called_off = is_late = False

    def after_iteration(intermediate_result: Any) -> None:
        nonlocal is_called_off, is_late
        history.train_loss.append(float(intermediate_result.fun))
        if e.verbose:
            print_line(f"Iteration {len(history.train_loss)}, loss = {history.train_loss[-1]:.8f}")
        if bar is not None:
            bar.set_postfix_str(f"loss {history.train_loss[-1]:.4g}", refresh=False)
            bar.update()
        answers = [callback(history) for callback in callbacks]  # All are called.
        is_called_off = any(answers)
        is_late = e.max_time is not None and time.perf_counter() - started > e.max_time
        if is_called_off or is_late:
            raise StopIteration

    try:
        result = minimize(
            objective,
            net._parameters[positions(net)].astype(np.float64),
            method="L-BFGS-B",
            jac=True,
            callback=after_iteration,
            options={"maxfun": e.max_fun, "maxiter": e.max_iter, "gtol": e.tol},
        )
    finally:
        if bar is not None:
            bar.close()
    e.n_iter_ = min(int(result.nit), e.max_iter)
    e.loss_ = np.float64(result.fun)
    net._parameters[positions(net)] = result.x
    is_finite = np.isfinite(e.loss_)
    if not (result.status == 0 and is_finite) and not is_called_off:
        reason, advice = f"max_time ({e.max_time:g} s) reached" if is_late else f"status={result.status}", ""
        if not is_late:
            advice = f": {result.message if is_finite else f'the loss is {e.loss_:g}'}. "
            if e.n_iter_ == e.max_iter:
                advice += f"Increase the number of iterations to improve the convergence (max_iter={e.max_iter}). "
            advice += "You might also want to scale the data"
        warn(f"lbfgs failed to converge after {e.n_iter_} iteration(s) ({reason}){advice}", ConvergenceWarning)


class Objective:
    """Loss and gradient of a network, in float64, as a function of its parameters in the order of `positions`."""

    def __init__(self, net: MLP, samples: EncodedSamples, alpha: float) -> None:
        self.net = net if net.spec.dtype == "float64" else MLP._from_spec(replace(net.spec, dtype="float64"))
        X = samples.X
        if isinstance(X, SparseRows):
            X = replace(X, values=X.values.astype(np.float64, copy=False))
        else:
            X = X.astype(np.float64, copy=False).view()  # Whose shape no callback can change.
        self.net._engine.compile(X)
        # scikit-learn's value of the squared error is the mean over the outputs, its gradient that of the sum.
        self.loss_factor = loss_factor(net)
        self.parameters = self.net._parameters
        self.loss_and_gradient = self.net._engine.gradient_function(
            self.parameters, X, as_targets(samples.Y, "float64"), samples.weights, loss_cap(self.net)
        )
        self.positions = positions(self.net)
        self.n_weights = sum(W.size for W in net.weights)
        total = len(samples) if samples.weights is None else float(samples.weights.sum())
        self.l2 = alpha / total

    def __call__(self, x: Array) -> tuple[float, Array]:
        """Give the loss and its gradient at `x`."""
        self.parameters[self.positions] = x
        loss, flat = self.loss_and_gradient()
        gradient, weights = flat[self.positions], x[: self.n_weights]
        with np.errstate(over="ignore", invalid="ignore"):  # What is not finite is reported at the end.
            decayed = self.l2 * weights
            gradient[: self.n_weights] += decayed
            return self.loss_factor * loss + 0.5 * float(decayed @ weights), gradient


def positions(net: MLP) -> NDArray[np.int64]:
    """Where a network's parameters stand in its flat buffer, without the padding: all weights, then all biases."""
    numbers, layout = np.arange(net._layout.size), net._layout
    return np.concatenate([view.ravel() for view in (*layout.weights(numbers), *layout.biases(numbers))])
