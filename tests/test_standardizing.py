"""Standardised columns: the figures, the network that takes them raw, and the command line's option."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, call, history_of, one_error, stop_after, summary_of
from numpy.testing import assert_allclose, assert_array_equal

import fastmlp
from fastmlp.standardizing import standardize

RNG = np.random.default_rng(0)
N = 300
YEAR, RATE, AREA = RNG.integers(1950, 2020, N), RNG.uniform(0, 1e-3, N), RNG.uniform(2e4, 9e4, N)
PRICE = 3e3 * (YEAR - 1950) + 2e8 * RATE + 4 * AREA
"""Columns that no gradient descent can do with as they are."""


@pytest.fixture
def houses(tmp_path: Path) -> Path:
    """A table for a regression."""
    path = tmp_path / "houses.csv"
    rows = zip(YEAR, RATE, AREA, PRICE, strict=True)
    path.write_text("year,rate,area,price\n" + "".join(f"{y},{r:.7f},{a:.1f},{p:.1f}\n" for y, r, a, p in rows))
    return path


@pytest.fixture
def flats(tmp_path: Path) -> Path:
    """A table for two classes."""
    path = tmp_path / "flats.csv"
    names = np.where(np.median(PRICE) < PRICE, "dear", "cheap")
    rows = zip(YEAR, RATE, AREA, names, strict=True)
    path.write_text("year,rate,area,kind\n" + "".join(f"{y},{r:.7f},{a:.1f},{k}\n" for y, r, a, k in rows))
    return path


def test_figures_by_hand() -> None:
    """The first column has mean 3 and deviation 2; the others are constant, or vary by less than can be divided by."""
    train = np.array([[1.0, 0.1, 1e-38], [5.0, 0.1, 0.0], [1.0, 0.1, 0.0], [5.0, 0.1, 0.0]], np.float32)
    test = np.array([[4.0, 1.1, 1.0]], np.float32)
    found = standardize(train, test)
    assert_array_equal(train[:, :2], [[-1, 0], [1, 0], [-1, 0], [1, 0]])
    assert_array_equal(test, [[0.5, 0.0, 0.0]])
    assert_array_equal(found.mean, [3.0, np.float32(0.1), 0.0])
    assert_array_equal(found.deviation, [2.0, np.inf, np.inf])
    assert found.far_from_zero("float32").tolist() == []


def test_columns_of_which_float32_keeps_few_digits() -> None:
    """The third column is constant; the fourth, of times in milliseconds, became so in float32."""
    train = np.array([[0.0, 1e6, 1e6, 1.7e12], [1.0, 1e6 + 1.0, 1e6, 1.7e12 + 10_000.0]], np.float32)
    found = standardize(train, train.copy())
    assert found.far_from_zero("float32").tolist() == [1, 3]


def test_a_constant_column_has_no_weights(engine: str) -> None:
    """Nothing was learnt of it, so no value of it may change an answer."""
    X = np.stack([np.arange(20.0), np.full(20, -3.3e7)], axis=1).astype(np.float32)
    y = np.full((20, 1), 7.0, np.float32)
    net, raw = fastmlp.MLP([2, 5, 1], loss="squared_error", engine=engine), X.copy()
    inputs, outputs = standardize(X, X.copy()), standardize(y, y.copy())
    before = net.predict(X)
    inputs.fold_into_inputs(net)
    assert not net.weights[0][1].any()
    assert_allclose(net.predict(raw), before, rtol=1e-4, atol=1e-5)
    outputs.fold_into_outputs(net)
    assert_array_equal(net.predict(raw * 2), 7.0)


def test_a_constant_stays_exactly_zero_in_many_rows() -> None:
    """The mean of many equal numbers, summed one by one, is not always that number."""
    train = np.full((100_001, 1), 0.1, np.float32)
    standardize(train, train[:1].copy())
    assert not train.any()


@pytest.mark.parametrize("sizes", [[3, 5, 4, 2], [3, 2]], ids=str)
def test_folded_networks_take_and_give_raw_columns(sizes: list[int], engine: str) -> None:
    raw_X, raw_y = np.stack([YEAR, RATE, AREA], axis=1), np.stack([PRICE, -RATE], axis=1)
    X, y = raw_X.astype(np.float32), raw_y.astype(np.float32)
    net = fastmlp.MLP(sizes, ["tanh"] * (len(sizes) - 2), loss="squared_error", dtype="float64", engine=engine)
    inputs, outputs = standardize(X, X[:1].copy()), standardize(y, y[:1].copy())
    expected = net.predict((raw_X - raw_X.mean(axis=0)) / raw_X.std(axis=0))
    inputs.fold_into_inputs(net)
    outputs.fold_into_outputs(net)
    assert_allclose((net.predict(raw_X) - raw_y.mean(axis=0)) / raw_y.std(axis=0), expected, atol=1e-5)


def test_a_regression_learns_and_gives_raw_values(houses: Path, tmp_path: Path, engine: str) -> None:
    out = tmp_path / "run"
    arguments = ("--dataset", houses, "--target", "price", "--engine", engine, "--epochs", 30, "--out", out)
    assert call(*arguments, "--standardize", "--quiet") == 0
    data = fastmlp.load_dataset(houses, target="price")
    net = fastmlp.MLP.load(out / "model.safetensors")
    residuals = data.y_test - net.predict(data.X_test)[:, 0]
    summary = summary_of(out)
    assert summary["test_r2"] == pytest.approx(1 - residuals.var() / data.y_test.var(), abs=1e-3)
    assert summary["test_r2"] > 0.98
    assert summary["standardize"] is True
    assert net.notes == {"class_names": None, "image_shape": None, "feature_names": ["year", "rate", "area"]}
    # The losses are of standardised values: ½ mean r² / s².
    loss = 0.5 * np.mean(residuals**2) / data.y_train.var()
    assert summary["test_loss"] == float(history_of(out)[-1]["test_loss"]) == pytest.approx(loss, rel=1e-3)


def test_what_float32_loses_is_told_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The scores are those of the network that is saved, on the table's own rows."""
    path, out = tmp_path / "late.csv", tmp_path / "run"
    late = 1.7e9 + 3 * np.arange(200)  # Of which float32 tells six numbers apart.
    path.write_text("a,t,y\n" + "".join(f"{k % 2},{t:.0f},{k % 2 / 4 + k / 20:.4f}\n" for k, t in enumerate(late)))
    arguments = ("--dataset", path, "--target", "y", "--epochs", 50, "--batch-size", 10, "--standardize", "--out", out)
    assert call(*arguments) == 0
    told = "'t': so far from zero, for how little it varies, that float32 keeps few of its digits; "
    assert told + "use --dtype float64\n" in capsys.readouterr().out
    data = fastmlp.load_dataset(path, target="y")
    y, predicted = data.y_test.astype(float), fastmlp.MLP.load(out / "model.safetensors").predict(data.X_test)[:, 0]
    r2 = 1 - np.sum((y - predicted) ** 2) / np.sum((y - y.mean()) ** 2)
    assert summary_of(out)["test_r2"] == pytest.approx(r2, abs=1e-9)
    trained = 1 - 2 * summary_of(out)["test_loss"] * data.y_train.var() / y.var()
    assert abs(r2 - trained) > 1e-3

    assert call(*arguments[:-1], tmp_path / "exact", "--dtype", "float64") == 0
    assert "so far from zero" not in capsys.readouterr().out
    exact, data = summary_of(tmp_path / "exact"), fastmlp.load_dataset(path, target="y", dtype="float64")
    net = fastmlp.MLP.load(tmp_path / "exact" / "model.safetensors")
    assert net.spec.dtype == "float64"
    residuals = net.predict(data.X_test)[:, 0] - data.y_test
    assert np.mean(residuals**2) / data.y_train.var() == pytest.approx(2 * exact["test_loss"], rel=1e-6)
    assert exact["test_r2"] > r2


def test_the_run_is_that_of_the_library_on_standardised_columns(flats: Path, tmp_path: Path, engine: str) -> None:
    out = tmp_path / "run"
    arguments = ("--dataset", flats, "--target", "kind", *SMALL, "--engine", engine, "--standardize", "--out", out)
    assert call(*arguments, "--lr", 0.05, "--schedule", "constant", "--quiet") == 0
    data = fastmlp.load_dataset(flats, target="kind")
    mean, deviation = data.X_train.mean(axis=0, dtype=float), data.X_train.std(axis=0, dtype=float)
    X_train, X_test = (data.X_train - mean) / deviation, (data.X_test - mean) / deviation
    net = fastmlp.MLP([3, 8, 2], engine=engine)
    net.fit(X_train, data.y_train, 3, 10, fastmlp.SGD(0.05, momentum=0.9, weight_decay=2e-4))
    saved = fastmlp.MLP.load(out / "model.safetensors")
    assert_allclose(saved.predict_proba(data.X_test), net.predict_proba(X_test), atol=1e-3)
    assert summary_of(out)["test_accuracy"] == net.accuracy(X_test, data.y_test) > 0.9
    assert summary_of(out)["test_r2"] is None


def test_without_it_nothing_is_learnt_and_a_line_says_so(
    houses: Path, flats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--dataset", flats, "--target", "kind", *SMALL) == 0
    assert "it seems to have learnt nothing: to answer always with one class would be as good; try --standardize, " in (
        capsys.readouterr().out
    )
    assert call("--dataset", houses, "--target", "price", *SMALL, "--optimizer", "adam") == 0
    assert "it seems to have learnt nothing: to answer always with the mean would be as good; try --standardize, " in (
        capsys.readouterr().out
    )
    assert call("--dataset", houses, "--target", "price", *SMALL) == 2
    assert one_error(capsys).endswith(" inputs scaled to about [-1, 1], as --standardize does")


def test_a_resumed_run_ends_with_the_same_bits(
    houses: Path, tmp_path: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts, plain = tmp_path / "whole", tmp_path / "parts", tmp_path / "plain"
    arguments = ("--dataset", houses, "--target", "price", *SMALL, "--engine", engine, "--quiet")
    assert call(*arguments, "--standardize", "--out", whole) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_after(31, patch)
        assert call(*arguments, "--standardize", "--out", parts) == 0
    assert call("--resume", parts, "--quiet") == 0
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()

    assert call(*arguments, "--lr", 1e-30, "--out", plain) == 0
    assert call("--resume", plain, "--standardize") == 2
    assert one_error(capsys) == "standardize must stay False when a run is resumed, got True"


def test_counts_stay_as_they_are(tmp_path: Path) -> None:
    path, out = tmp_path / "counts.csv", tmp_path / "run"
    path.write_text("a,y\n" + "".join(f"{1000 + i},{i // 3}\n" for i in range(60)))
    arguments = ("--dataset", path, "--target", "y", "--loss", "poisson", "--hidden", "4", "--standardize")
    assert call(*arguments, "--epochs", 50, "-b", 10, "--quiet", "--out", out) == 0
    predicted = fastmlp.MLP.load(out / "model.safetensors").predict([[1000.0], [1059.0]])
    assert predicted[0, 0] < 4 < 14 < predicted[1, 0] < 30


@pytest.mark.parametrize("kind", ["pixels", "images", "bytes"])
def test_images_are_refused(kind: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, what, way_out = digits, "images", ""
    if kind == "images":
        path = tmp_path / "images.npz"
        np.savez(path, X=np.ones((20, 2, 2)), y=np.arange(20) % 2)
    elif kind == "bytes":
        path, what = tmp_path / "ages.npz", "bytes (uint8), which count as pixels,"
        np.savez(path, X=np.ones((20, 2), np.uint8), y=np.arange(20) % 2)
        way_out = "; store them as int8 or as floats"
    assert call("--dataset", path, "--standardize", "--engine", "numpy") == 2
    assert one_error(capsys) == f"standardize must be for the columns of a table, got {what} in {path}{way_out}"


def test_advice_is_to_do_what_can_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of samples that say nothing: as a table, as a table that is standardised, as images; with labels of any kind."""
    labels = {"words": "ab", "numbers": "012", "values": ("0.5", "1.5")}
    for name, each in labels.items():
        rows = "".join(f"1,{each[i % len(each)]}\n" for i in range(60))
        (tmp_path / f"{name}.csv").write_text("x,y\n" + rows)
    np.savez(tmp_path / "images.npz", X=np.ones((60, 2, 2)), y=np.arange(60) % 2)
    words, numbers, values = (("--dataset", tmp_path / f"{name}.csv", "--target", "y", *SMALL) for name in labels)
    rest = "--optimizer adam, a smaller --lr, or more --epochs\n"
    for arguments, advice in (
        (words, "try --standardize, "),
        ((*words, "--standardize"), "try "),
        (("--dataset", tmp_path / "images.npz", *SMALL), "try inputs scaled to about [-1, 1], "),
        (numbers, "try --loss squared_error, if the labels are values, --standardize, "),
        (values, "try --standardize, "),
    ):
        assert call(*arguments, "--engine", "numpy") == 0
        assert advice + rest in capsys.readouterr().out
    assert call(*values, "--loss", "absolute_error", "--engine", "numpy") == 0
    assert "it seems to have learnt nothing" not in capsys.readouterr().out


@pytest.mark.parametrize("mean", [3, 150])
def test_counts_of_any_size(mean: int, tmp_path: Path, engine: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 2))
    y = rng.poisson(mean * np.exp(0.5 * X[:, 0]))
    path, out = tmp_path / "counts.csv", tmp_path / "run"
    path.write_text("a,b,y\n" + "".join(f"{a:.5f},{b:.5f},{n}\n" for (a, b), n in zip(X, y, strict=True)))
    arguments = ("--dataset", path, "--target", "y", "--loss", "poisson", "--engine", engine, "--epochs", 30)
    assert call(*arguments, "--hidden", 8, "-b", 20, "--lr", 0.01, "--standardize", "--out", out, "--quiet") == 0
    data = fastmlp.load_dataset(path, target="y", as_values=True)
    predicted = fastmlp.MLP.load(out / "model.safetensors").predict(data.X_test)[:, 0]
    assert predicted.mean() == pytest.approx(data.y_test.mean(), rel=0.2)
    assert summary_of(out)["test_r2"] > (0.4 if mean == 3 else 0.9)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy"])
def test_classes_written_with_a_decimal_point(
    loss: str, flats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = flats.read_text().replace(",dear", ",1.0").replace(",cheap", ",0.0")
    path = tmp_path / "floats.csv"
    path.write_text(text)
    arguments = ("--dataset", path, "--target", "kind", *SMALL, "--engine", "numpy", "--standardize")
    assert call(*arguments, "--loss", loss, "--out", tmp_path / "run") == 0
    assert "samples of 2 classes" in capsys.readouterr().out
    assert summary_of(tmp_path / "run")["test_accuracy"] > 0.7
    assert call(*arguments) == 0
    assert "which count as values; if they are classes: --loss softmax_cross_entropy" in capsys.readouterr().out


def test_soft_labels_and_what_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "soft.csv"
    arguments = ("--dataset", path, "--target", "y", *SMALL, "--engine", "numpy", "--loss", "sigmoid_cross_entropy")
    for highest, status in ((1.0, 0), (1.5, 2)):
        path.write_text("a,y\n" + "".join(f"{k % 7},{highest * (k % 4) / 3:.3f}\n" for k in range(60)))
        assert call(*arguments, "--standardize") == status
    assert "labels must be in [0, 1] for sigmoid_cross_entropy, got 0 to 1.5 in" in capsys.readouterr().err
