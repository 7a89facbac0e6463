"""Promise 6: numbers that are not numbers are refused, and every array is taken as it is meant."""

import numpy as np
import pytest

import fastmlp


def test_a_not_finite_input_is_named_by_its_place(promise, count):
    rng = np.random.default_rng(0)
    for _ in range(count(100, 2000)):
        X, y = rng.normal(size=(20, 3)), rng.integers(0, 2, 20)
        row, column = rng.integers(20), rng.integers(3)
        X[row, column] = rng.choice([np.nan, np.inf, -np.inf])
        net = fastmlp.MLP([3, 4, 2])
        with (
            promise("6 NaN or infinity in X is refused"),
            pytest.raises(ValueError, match=rf"^X must be finite.*\[{row}, {column}\]"),
        ):
            net.fit(X, y, epochs=1)
