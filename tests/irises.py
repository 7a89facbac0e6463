"""What tests of the estimators share: the irises, scaled, and small estimators of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_iris

from fastmlp import MLPClassifier

X_iris, y_iris = load_iris(return_X_y=True)
X_iris = (X_iris - X_iris.mean(axis=0)) / X_iris.std(axis=0)
X_train, y_train, X_val, y_val = X_iris[::2], y_iris[::2], X_iris[1::2], y_iris[1::2]


def make(kind: Any = MLPClassifier, **parameters: Any) -> Any:
    return kind(
        **{"hidden_layer_sizes": (8,), "max_iter": 20, "random_state": 0, "learning_rate_init": 0.01, **parameters}
    )


def assert_same_weights(one: Any, other: Any) -> None:
    for mine, yours in zip(one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_allclose(mine, yours, rtol=1e-9, atol=1e-12)
