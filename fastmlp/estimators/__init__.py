"""The scikit-learn face: `MLPClassifier` and `MLPRegressor`, over the network and the training loop of `fastmlp.MLP`.

They take scikit-learn's parameters, and more, and give scikit-learn's attributes; what they do is to validate, to
encode labels, and to hand over. Given the same ``random_state`` they draw the same initial weights, validation samples
and orders as scikit-learn's classes do, so their losses and coefficients agree with those up to rounding.
"""

from __future__ import annotations

try:
    import sklearn  # noqa: F401
except ModuleNotFoundError:
    raise ImportError("MLPClassifier and MLPRegressor need scikit-learn: pip install 'fastmlp[sklearn]'") from None

from fastmlp.estimators.classifier import MLPClassifier
from fastmlp.estimators.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
