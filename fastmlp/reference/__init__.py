"""The whole of the numerics in plain NumPy: the oracle of the tests and the peer of the benchmarks.

Every public function here has a twin of the same name and signature in `fastmlp.kernels`. This is the one place where
a formula is written a second time, on purpose: it is meant to be read beside a textbook and to be right.

Shapes: ``X (n_samples, n_in)``, ``W (n_in, n_out)``, ``b (n_out,)``, ``Z`` before an activation and ``A`` after it
``(n_samples, n_out)``; ``dZ`` is the derivative of the loss by ``Z``, and so on. Dtype float32 or float64; `X` may also
be uint8 where it meets a `W`. No input is ever modified, except the arrays that an ``..._update`` is called to change.
"""

from fastmlp.reference.activations import (
    elu,
    elu_backward,
    gelu,
    gelu_backward,
    identity,
    identity_backward,
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    softplus,
    softplus_backward,
    tanh,
    tanh_backward,
)
from fastmlp.reference.affine import affine_backward, affine_forward
from fastmlp.reference.engine import Engine as Engine  # Not in `__all__`: it is not for users.
from fastmlp.reference.losses import (
    absolute_error,
    huber,
    poisson,
    quantile,
    sigmoid_cross_entropy,
    softmax,
    softmax_cross_entropy,
    squared_error,
)
from fastmlp.reference.updates import adam_update, rmsprop_update, sgd_update

__all__ = [
    "absolute_error",
    "adam_update",
    "affine_backward",
    "affine_forward",
    "elu",
    "elu_backward",
    "gelu",
    "gelu_backward",
    "huber",
    "identity",
    "identity_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "poisson",
    "quantile",
    "relu",
    "relu_backward",
    "rmsprop_update",
    "sgd_update",
    "sigmoid",
    "sigmoid_backward",
    "sigmoid_cross_entropy",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "softplus_backward",
    "squared_error",
    "tanh",
    "tanh_backward",
]
