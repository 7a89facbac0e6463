"""Optimizers and schedules: against steps worked by hand, and on convex problems whose solution is known."""

from __future__ import annotations

import math
from dataclasses import asdict
from decimal import Decimal
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fastmlp import (
    MLP,
    SGD,
    Adam,
    AdamW,
    Constant,
    Cosine,
    Exponential,
    InverseScaling,
    OneCycle,
    RMSprop,
    Step,
)
from fastmlp.optimizers import OPTIMIZERS, SCHEDULES, Optimizer, Schedule, check_optimizer, check_schedule

Array = np.ndarray

# --- Steps by hand ----------------------------------------------------------------------------------------------------

# The loss is w²/2, so the gradient is w itself, and w begins at 1. Each entry follows from the update's definition as
# PyTorch documents it; torch.optim of PyTorch 2 gives the same digits for all three steps.
HAND_WORKED = [
    # g = w, w -= 0.1 g
    (SGD(0.1), [0.9, 0.81, 0.729]),
    # v = 1, w = 1 - 0.1; v = 0.9 + 0.9 = 1.8, w = 0.9 - 0.18; v = 1.62 + 0.72 = 2.34, w = 0.72 - 0.234
    (SGD(0.1, momentum=0.9), [0.9, 0.72, 0.486]),
    # v = 1, w = 1 - 0.1 (1 + 0.9); v = 0.9 + 0.81 = 1.71, w = 0.81 - 0.1 (0.81 + 1.539);
    # v = 1.539 + 0.5751 = 2.1141, w = 0.5751 - 0.1 (0.5751 + 1.90269)
    (SGD(0.1, momentum=0.9, nesterov=True), [0.81, 0.5751, 0.327321]),
    # g = w + 0.5 w, w *= 1 - 0.15
    (SGD(0.1, weight_decay=0.5), [0.85, 0.7225, 0.614125]),
    # v = 1.5, w = 1 - 0.15; v = 0.75 + 1.275 = 2.025, w = 0.85 - 0.2025; v = 1.0125 + 0.97125 = 1.98375
    (SGD(0.1, momentum=0.5, weight_decay=0.5), [0.85, 0.6475, 0.449125]),
    # v = g = 1.5, w = 1 - 0.1 (1.5 + 0.75); g = 1.1625, v = 0.75 + 1.1625 = 1.9125, w = 0.775 - 0.1 (1.1625 + 0.95625);
    # g = 0.8446875, v = 0.95625 + 0.8446875 = 1.8009375, w = 0.563125 - 0.1 (0.8446875 + 0.90046875)
    (SGD(0.1, momentum=0.5, nesterov=True, weight_decay=0.5), [0.775, 0.563125, 0.388609375]),
    # m = 1/2, v = 1/4, corrected by 1 - 1/2 and 1 - 3/4 to 1 and 1: w = 1 - 0.1 / (1 + 0.5) = 14/15.
    # m = 1/4 + 7/15 = 43/60, v = 3/16 + 49/225 = 1459/3600, corrected by 3/4 and 7/16 to 43/45 and 1459/1575.
    (
        Adam(0.1, beta1=0.5, beta2=0.75, epsilon=0.5),
        [14 / 15, 14 / 15 - 0.1 * (43 / 45) / (math.sqrt(1459 / 1575) + 0.5), 0.8043514665377766],
    ),
    # The same moments' roots take the 0.5 uncorrected: w = 1 - 0.1 (0.5 / 0.5) 0.5 / (0.5 + 0.5). Then g = 0.95,
    # m = 0.725, v = 0.1875 + 0.225625 = 0.413125.
    (
        Adam(0.1, beta1=0.5, beta2=0.75, epsilon=0.5, epsilon_hat=True),
        [0.95, 0.95 - 0.1 * math.sqrt(7 / 16) / 0.75 * 0.725 / (math.sqrt(0.413125) + 0.5), 0.8360992489665668],
    ),
    # g = 1.5, corrected moments 1.5 and 2.25: w = 1 - 0.15 / (1.5 + 0.5).
    # g = 1.3875, m = 0.375 + 0.69375 = 1.06875, v = 0.421875 + 0.25 · 1.92515625 = 0.9031640625: 1.425 and 2.064375.
    (
        Adam(0.1, beta1=0.5, beta2=0.75, epsilon=0.5, weight_decay=0.5),
        [0.925, 0.925 - 0.1425 / (math.sqrt(2.064375) + 0.5), 0.7797413665324279],
    ),
    # w = 0.95 - 0.1 / 1.5 = 53/60, the gradient having been taken before the decay.
    # g = 53/60, m = 1/4 + 53/120 = 83/120, v = 3/16 + 2809/14400 = 5509/14400, corrected to 83/90 and 5509/6300.
    (
        AdamW(0.1, beta1=0.5, beta2=0.75, epsilon=0.5, weight_decay=0.5),
        [53 / 60, 0.95 * 53 / 60 - 0.1 * (83 / 90) / (math.sqrt(5509 / 6300) + 0.5), 0.6749655792734361],
    ),
    # s = 0.25, w = 1 - 0.1 / (0.5 + 0.5); s = 0.1875 + 0.2025 = 0.39
    (RMSprop(0.1, rho=0.75, epsilon=0.5), [0.9, 0.9 - 0.09 / (math.sqrt(0.39) + 0.5), 0.750397165843352]),
    # g = 1.5, s = 0.5625, w = 1 - 0.15 / (0.75 + 0.5); g = 1.32, s = 0.421875 + 0.4356 = 0.857475
    (
        RMSprop(0.1, rho=0.75, epsilon=0.5, weight_decay=0.5),
        [0.88, 0.88 - 0.132 / (math.sqrt(0.857475) + 0.5), 0.7084759982450329],
    ),
]


def one_weight(engine: str, dtype: str = "float64") -> MLP:
    """A network whose loss on X = [[1]], y = [0] is w²/2, with w = 1."""
    net = MLP([1, 1], loss="squared_error", bias=False, dtype=dtype, engine=engine)
    net.set_parameters([[[1.0]]])
    return net


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-14), ("float32", 1e-6)])
@pytest.mark.parametrize(("optimizer", "expected"), HAND_WORKED, ids=lambda value: repr(value)[:60])
def test_fit_takes_the_steps_worked_by_hand(
    engine: str, optimizer: Optimizer, expected: list[float], dtype: str, tolerance: float
) -> None:
    net = one_weight(engine, dtype)
    seen = []
    net.fit(
        [[1.0]], [0.0], epochs=3, batch_size=1, optimizer=optimizer,
        callbacks=[lambda history: seen.append(float(net.weights[0][0, 0]))],
    )  # fmt: skip
    assert_allclose(seen, expected, rtol=tolerance)


def test_the_learning_rate_follows_the_schedule(engine: str) -> None:
    # Rates 0.5, 0.25, 0.125: w = 1/2, then 1/2 · 3/4 = 3/8, then 3/8 · 7/8 = 21/64.
    net = one_weight(engine)
    history = net.fit([[1.0]], [0.0], epochs=3, batch_size=1, optimizer=SGD(0.5), schedule=Step(step_size=1, gamma=0.5))
    assert net.weights[0][0, 0] == 21 / 64
    assert history.learning_rate == [0.5, 0.25, 0.125]


def test_momentum_weighs_past_gradients_by_past_velocity_not_by_past_rates(engine: str) -> None:
    # As in PyTorch, the rate multiplies the velocity on use: v = 1, w = 1 - 0.5; v = 0.5 + 0.5, w = 0.5 - 0.05.
    net = one_weight(engine)
    net.fit(
        [[1.0]], [0.0], epochs=2, batch_size=1, optimizer=SGD(0.5, momentum=0.5),
        schedule=Step(step_size=1, gamma=0.1),
    )  # fmt: skip
    assert net.weights[0][0, 0] == pytest.approx(0.45, rel=1e-15)


def test_update_kernels_change_parameters_and_slots(kernels: ModuleType) -> None:
    w, g, v = np.array([1.0, -2.0]), np.array([0.5, 1.0]), np.array([1.0, 0.0])
    kernels.sgd_update(w, g, v, 0.1, 0.5, False, 0.25)
    # g + w/4 = 0.75, 0.5; v = 0.5 + 0.75, 0.5
    assert v.tolist() == [1.25, 0.5]
    assert_allclose(w, [0.875, -2.05], rtol=1e-15)
    assert g.tolist() == [0.5, 1.0]

    w, m, v = np.array([1.0, -2.0]), np.array([0.5, 0.0]), np.array([0.25, 0.0])
    kernels.adam_update(w, g, m, v, 2, 0.1, 0.5, 0.75, 0.5)
    # m = 0.25 + 0.25, 0.5; v = 0.1875 + 0.0625, 0.25; corrected by 3/4 and 7/16: m 2/3, 2/3; v 4/7, 4/7
    assert m.tolist() == [0.5, 0.5]
    assert v.tolist() == [0.25, 0.25]
    step = 0.1 * (2 / 3) / (math.sqrt(4 / 7) + 0.5)
    assert_allclose(w, [1 - step, -2 - step], rtol=1e-15)

    w, s = np.array([1.0, -2.0]), np.array([0.25, 0.0])
    kernels.rmsprop_update(w, g, s, 0.1, 0.75, 0.5)
    # s = 0.1875 + 0.0625, 0.25
    assert s.tolist() == [0.25, 0.25]
    assert_allclose(w, [1 - 0.05, -2 - 0.1], rtol=1e-15)


def test_a_zero_parameter_with_zero_gradient_stays_zero(kernels: ModuleType) -> None:
    """The padding of the parameter buffer relies on it."""
    for dtype in ("float32", "float64"):
        w, g, a, b = (np.zeros(21, dtype=dtype) for _ in range(4))
        kernels.sgd_update(w, g, a, 0.1, 0.9, True, 0.1)
        kernels.adam_update(w, g, a, b, 1, 0.1, weight_decay=0.1)
        kernels.adam_update(w, g, a, b, 2, 0.1, weight_decay=0.1, decoupled=True)
        kernels.rmsprop_update(w, g, a, 0.1, weight_decay=0.1)
        for array in (w, g, a, b):
            assert_array_equal(array, 0)


# --- Convex problems --------------------------------------------------------------------------------------------------

SLOW_SCHEDULES = [
    Constant(),
    Step(step_size=30, gamma=0.3),
    Exponential(gamma=0.96),
    Cosine(),
    OneCycle(),
    InverseScaling(power=0.3),
    Cosine(warmup=10),
]


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.1),
        SGD(0.05, 0.9),
        SGD(0.05, 0.9, nesterov=True),
        Adam(0.05),
        AdamW(0.05, weight_decay=1e-4),
        RMSprop(0.02),
    ],
    ids=lambda optimizer: repr(optimizer)[:30],
)
@pytest.mark.parametrize("schedule", SLOW_SCHEDULES, ids=lambda schedule: repr(schedule)[:24])
def test_least_squares(engine: str, optimizer: Optimizer, schedule: Schedule) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    W, b = np.array([[1.5], [-2.0], [0.5]]), np.array([0.75])
    net = MLP([3, 1], loss="squared_error", dtype="float64", engine=engine)
    net.set_parameters([np.zeros((3, 1))], [np.zeros(1)])
    history = net.fit(X, X @ W + b, epochs=100, batch_size=16, optimizer=optimizer, schedule=schedule)
    # RMSprop at a constant rate keeps moving by about its rate; all others come closer.
    assert_allclose(net.weights[0], W, atol=0.03)
    assert_allclose(net.biases[0], b, atol=0.03)
    assert history.train_loss[-1] < 1e-3 * history.train_loss[0]


def test_weight_decay_gives_ridge_regression(engine: str) -> None:
    """With λ added to the gradient the minimum solves (XᵀX/n + λI) w = Xᵀy/n, the bias's column of ones included."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(40, 3)), rng.normal(size=40)
    net = MLP([3, 1], loss="squared_error", dtype="float64", engine=engine)
    net.fit(X, y, epochs=400, batch_size=40, optimizer=SGD(0.2, momentum=0.5, weight_decay=0.3))
    ones = np.column_stack([X, np.ones(40)])
    expected = np.linalg.solve(ones.T @ ones / 40 + 0.3 * np.eye(4), ones.T @ y / 40)
    assert_allclose([*net.weights[0][:, 0], net.biases[0][0]], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("optimizer", "tolerance"),
    [(SGD(1.0, 0.9), 1e-7), (Adam(0.05), 1e-4), (AdamW(0.05, weight_decay=0.0), 1e-4), (RMSprop(0.02), 1e-3)],
    ids=["SGD", "Adam", "AdamW", "RMSprop"],
)
def test_logistic_regression(engine: str, optimizer: Optimizer, tolerance: float) -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(80, 2))
    y = (X @ [1.0, -0.5] + rng.normal(size=80) > 0).astype(float)  # Noisy: not separable, so there is a minimum.
    ones = np.column_stack([X, np.ones(80)])
    w = np.zeros(3)
    for _ in range(20):  # Newton's method.
        p = 1 / (1 + np.exp(-ones @ w))
        w -= np.linalg.solve((ones.T * (p * (1 - p))) @ ones, ones.T @ (p - y))
    net = MLP([2, 1], loss="sigmoid_cross_entropy", dtype="float64", engine=engine)
    net.fit(X, y, epochs=400, batch_size=80, optimizer=optimizer, schedule="cosine")
    assert_allclose([*net.weights[0][:, 0], net.biases[0][0]], w, atol=tolerance)


# --- Schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # Four epochs of two steps: step s is at s/2 epochs.
        (Constant(), [1, 1, 1, 1, 1, 1, 1, 1]),
        (Step(step_size=1, gamma=0.5), [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        (Step(step_size=1.5, gamma=0.1), [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        (Exponential(gamma=0.25), [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128]),
        # (1 + cos(π s/8)) / 2; the odd ones by cos(π/8) = √(2 + √2)/2 and cos(π/4) = √2/2.
        (
            Cosine(),
            [1, 0.9619397662556434, 0.8535533905932737, 0.6913417161825449, 0.5,
             0.3086582838174551, 0.14644660940672624, 0.03806023374435663],
        ),
        (Cosine(final=0.5), [1, 0.9809698831278217, 0.9267766952966369, 0.8456708580912724, 0.75,
                             0.6543291419087276, 0.5732233047033631, 0.5190301168721783]),
        # Up over half of the run and down over the other half: four steps each, quarters of a half cosine.
        (OneCycle(rise=0.5, start=0.0), [0, 0.14644660940672624, 0.5, 0.8535533905932737, 1, 0.8535533905932737, 0.5,
                                         0.14644660940672624]),
        (OneCycle(rise=0.25, start=0.2, final=0.1), [0.2, 0.6, 1, 0.1 + 0.9 * 0.9330127018922193, 0.1 + 0.9 * 0.75,
                                                     0.55, 0.1 + 0.9 * 0.25, 0.1 + 0.9 * 0.0669872981077807]),
        (InverseScaling(power=1), [1, 2 / 3, 1 / 2, 2 / 5, 1 / 3, 2 / 7, 1 / 4, 2 / 9]),
        (InverseScaling(), [1 / math.sqrt(1 + s / 2) for s in range(8)]),
        # Two epochs of warm-up are four steps: 1/4, 2/4, 3/4, 4/4.
        (Constant(warmup=2), [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        (Step(warmup=1.5, step_size=1, gamma=0.5), [1 / 3, 2 / 3, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_factors(schedule: Schedule, expected: list[float]) -> None:
    assert_allclose(schedule.factors(0, 8, steps_per_epoch=2, epochs=4), expected, rtol=1e-14, atol=1e-16)
    # In pieces it is the same curve.
    pieces = [schedule.factors(first, n, 2, 4) for first, n in [(0, 3), (3, 1), (4, 4)]]
    assert_array_equal(np.concatenate(pieces), schedule.factors(0, 8, 2, 4))


def test_a_step_comes_at_its_point() -> None:
    factors = Step(step_size=0.1, gamma=0.5).factors(0, 5, steps_per_epoch=10, epochs=1)
    assert_array_equal(factors, [1, 0.5, 0.25, 0.125, 0.0625])  # 0.3 / 0.1 is less than 3, as floating-point numbers.


@pytest.mark.parametrize("schedule", [Cosine(), OneCycle(), OneCycle(rise=0.45), Exponential(), InverseScaling()])
def test_smooth_schedules_do_not_jump(schedule: Schedule) -> None:
    factors = schedule.factors(0, 3000, steps_per_epoch=1000, epochs=3)
    assert np.abs(np.diff(factors)).max() < 2e-3
    assert factors.max() == pytest.approx(1, abs=1e-6)


def test_defaults_by_name() -> None:
    assert [check_optimizer(name) for name in OPTIMIZERS] == [SGD(), Adam(), AdamW(), RMSprop()]
    assert [check_schedule(name) for name in SCHEDULES] == [
        Constant(), Step(), Exponential(), Cosine(), OneCycle(), InverseScaling(),
    ]  # fmt: skip
    assert list(OPTIMIZERS) == ["sgd", "adam", "adamw", "rmsprop"]
    assert list(SCHEDULES) == ["constant", "step", "exponential", "cosine", "one_cycle", "inverse_scaling"]


def test_learning_rate_comes_first_and_they_are_frozen() -> None:
    for kind in OPTIMIZERS.values():
        optimizer = kind(0.5)
        assert optimizer.learning_rate == 0.5
        with pytest.raises(AttributeError):
            optimizer.learning_rate = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("kind", [float, np.float32, Decimal, Fraction])
def test_numbers_of_any_type_are_kept_as_floats(kind: Any, engine: str) -> None:
    """So a run goes on with 0.5 that has begun with ``np.float32(0.5)``."""
    half = kind(0.5)
    optimizers = SGD(half, half, nesterov=np.True_), Adam(half, half, half), AdamW(half), RMSprop(half, half)
    assert optimizers == (SGD(0.5, 0.5, nesterov=True), Adam(0.5, 0.5, 0.5), AdamW(0.5), RMSprop(0.5, 0.5))
    for constants in map(asdict, (*optimizers, Step(half, half), Cosine(half), OneCycle(half), InverseScaling(half))):
        assert {type(value) for value in constants.values()} <= {float, bool}
    schedule, net = Cosine(warmup=half), MLP([2, 2], seed=0, engine=engine)
    history = net.fit(np.eye(2), [0, 1], epochs=2, optimizer=optimizers[0], schedule=schedule)
    twin = MLP([2, 2], seed=0, engine=engine)
    assert history.train_loss == twin.fit(np.eye(2), [0, 1], 2, 100, SGD(0.5, 0.5, True), Cosine(warmup=0.5)).train_loss


# --- Bad arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (SGD, {"learning_rate": 0}, "learning_rate must be > 0, got 0"),
        (SGD, {"learning_rate": -0.1}, "learning_rate must be > 0, got -0.1"),
        (SGD, {"learning_rate": math.nan}, "learning_rate must be finite, got nan"),
        (SGD, {"learning_rate": "fast"}, "learning_rate must be a number, got 'fast'"),
        (SGD, {"learning_rate": "0.1"}, "learning_rate must be a number, got '0.1'"),
        (Cosine, {"warmup": "1"}, "warmup must be a number, got '1'"),
        (SGD, {"momentum": 1.0}, "momentum must be < 1, got 1"),
        (SGD, {"momentum": -0.5}, "momentum must be >= 0, got -0.5"),
        (SGD, {"weight_decay": -1}, "weight_decay must be >= 0, got -1"),
        (SGD, {"nesterov": True}, "nesterov must come with momentum > 0, got momentum 0"),
        (SGD, {"nesterov": "yes"}, "nesterov must be True or False, got 'yes'"),
        (Adam, {"beta1": 1}, "beta1 must be < 1, got 1"),
        (Adam, {"beta1": -0.1}, "beta1 must be >= 0, got -0.1"),
        (Adam, {"beta2": 1}, "beta2 must be < 1, got 1"),
        (Adam, {"weight_decay": -1}, "weight_decay must be >= 0, got -1"),
        (Adam, {"epsilon_hat": "yes"}, "epsilon_hat must be True or False, got 'yes'"),
        (Adam, {"beta2": -0.1}, "beta2 must be >= 0, got -0.1"),
        (Adam, {"epsilon": 0}, "epsilon must be > 0, got 0"),
        (AdamW, {"weight_decay": math.inf}, "weight_decay must be finite, got inf"),
        (AdamW, {"learning_rate": 0}, "learning_rate must be > 0, got 0"),
        (RMSprop, {"rho": 1.5}, "rho must be < 1, got 1.5"),
        (RMSprop, {"rho": -0.5}, "rho must be >= 0, got -0.5"),
        (RMSprop, {"epsilon": -1}, "epsilon must be > 0, got -1"),
        (RMSprop, {"weight_decay": -1}, "weight_decay must be >= 0, got -1"),
        (Constant, {"warmup": -1}, "warmup must be >= 0, got -1"),
        (Step, {"step_size": 0}, "step_size must be > 0, got 0"),
        (Step, {"gamma": 0}, "gamma must be > 0, got 0"),
        (Exponential, {"gamma": -1}, "gamma must be > 0, got -1"),
        (Cosine, {"final": 1}, "final must be < 1, got 1"),
        (Cosine, {"final": -0.1}, "final must be >= 0, got -0.1"),
        (OneCycle, {"rise": 0}, "rise must be > 0, got 0"),
        (OneCycle, {"rise": 1}, "rise must be < 1, got 1"),
        (OneCycle, {"start": -0.1}, "start must be >= 0, got -0.1"),
        (OneCycle, {"start": 1}, "start must be < 1, got 1"),
        (OneCycle, {"final": -0.1}, "final must be >= 0, got -0.1"),
        (OneCycle, {"final": 1}, "final must be < 1, got 1"),
        (InverseScaling, {"power": 0}, "power must be > 0, got 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_bad_arguments(kind: type[Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="must") as error:
        kind(**arguments)
    assert str(error.value) == message


def test_unknown_optimizers_and_schedules() -> None:
    with pytest.raises(
        ValueError, match=r"^optimizer must be one of sgd, adam, adamw, rmsprop, got 'adm' \(did you mean 'adam'\?\)$"
    ):
        check_optimizer("adm")
    with pytest.raises(ValueError, match=r"^optimizer must be SGD, Adam, AdamW or RMSprop, got 0.1$"):
        check_optimizer(0.1)
    with pytest.raises(ValueError, match=r"got <class .* \(did you mean Adam\(\)\?\)$"):
        check_optimizer(Adam)
    with pytest.raises(ValueError, match=r"got <class 'int'>$"):
        check_optimizer(int)
    with pytest.raises(ValueError, match=r"^optimizer must be SGD, Adam, AdamW or RMSprop, got Optimizer"):
        check_optimizer(Optimizer(0.1))
    with pytest.raises(ValueError, match=r"^schedule must be one of .*, got 'cosin' \(did you mean 'cosine'\?\)$"):
        check_schedule("cosin")
    for schedule in (0.1, Cosine, Schedule()):
        with pytest.raises(ValueError, match=r"^schedule must be one of .* or a Schedule, got ") as error:
            check_schedule(schedule)
        assert str(error.value).endswith("(did you mean Cosine()?)") == (schedule is Cosine)


def test_little_decoupled_decay_is_not_lost_in_float32(kernels: ModuleType) -> None:
    """Nothing would be left of a factor ``1 - 2e-8``. Of one weight a step loses it all the same; not of many."""
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0.5, 1.0, 200_000), *rng.normal(size=(2, 200_000)), rng.uniform(0.5, 2.0, 200_000)]
    in_float32 = [array.astype("float32") for array in arrays]  # Parameters, gradients, moments.
    exact = [array.astype("float64") for array in in_float32]
    for each in (in_float32, exact):
        kernels.adam_update(*each, 1000, 1e-3, weight_decay=2e-5, decoupled=True)
    assert abs(float((in_float32[0] - exact[0]).mean())) < 0.1 * 2e-8 * 0.75


def test_flags_of_updates(kernels: ModuleType) -> None:
    arrays = [np.ones(3) for _ in range(4)]
    with pytest.raises(ValueError, match=r"^decoupled must be True or False, got 'no'$"):
        kernels.adam_update(*arrays, 1, 0.1, decoupled="no")


def test_a_schedule_s_own_parameters_come_first() -> None:
    assert Step(10, 0.5) == Step(step_size=10, gamma=0.5, warmup=0.0)
    assert Exponential(0.95) == Exponential(gamma=0.95)
    with pytest.raises(TypeError, match="positional"):
        Constant(10)  # type: ignore[call-arg, misc]
