"""The worked examples print the figures they are known by; nets of their family agree with a loop written by hand."""

import contextlib
import functools
import importlib.util
import io
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import fastmlp

EXAMPLES = Path(__file__).parents[1] / "examples"
ENGINES = ("numpy", "numba")
XOR = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
XOR_1 = np.hstack([XOR, np.ones((4, 1))])  # with an input that is always 1, in place of a bias


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def run(name, engine):
    """Give the figures that an example returns, and the text that it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        figures = load(name).main(engine=engine)
    return figures, printed.getvalue()


def rows(text, first, count):
    """Give the `count` lines of a printed table below the line that starts with `first`, as lists of words."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(first)) + 1
    return [line.split() for line in lines[start : start + count]]


# --- The same nets by hand: plain NumPy, shares nothing with fastmlp --------------------------------------------------

FUNCTIONS = {
    "sigmoid": (lambda Z: 1 / (1 + np.exp(-Z)), lambda A: A * (1 - A)),
    "tanh": (np.tanh, lambda A: 1 - A**2),
}


def gradients_by_hand(weights, biases, X, y, hidden, output, loss):
    """Give the summed loss of a batch, the output, and the summed gradients of every layer's weights and bias."""
    activations = [X]
    for layer, (W, b) in enumerate(zip(weights, biases, strict=True)):
        f, _ = FUNCTIONS[output if layer == len(weights) - 1 else hidden]
        activations.append(f(activations[-1] @ W + b))
    A = activations[-1]
    if loss == "squared_error":
        value = 0.5 * np.sum((A - y) ** 2)
        dZ = (A - y) * FUNCTIONS[output][1](A)
    else:
        value = -np.sum(y * np.log(A) + (1 - y) * np.log(1 - A))
        dZ = A - y
    dW, db = [], []
    for layer in range(len(weights) - 1, -1, -1):
        dW.insert(0, activations[layer].T @ dZ)
        db.insert(0, dZ.sum(axis=0))
        if layer > 0:
            dZ = (dZ @ weights[layer].T) * FUNCTIONS[hidden][1](activations[layer])
    return value, A, dW, db


def train_by_hand(weights, biases, X, y, rate, epochs, batch_size, hidden, output, loss, bias=True, mean=False):
    """Give the summed loss of each epoch, each batch's before its update; `weights` and `biases` are changed."""
    losses = []
    for _ in range(epochs):
        total = 0.0
        for start in range(0, len(X), batch_size):
            batch = slice(start, start + batch_size)
            value, _, dW, db = gradients_by_hand(weights, biases, X[batch], y[batch], hidden, output, loss)
            total += value
            step = rate / len(X[batch]) if mean else rate
            for layer in range(len(weights)):
                weights[layer] -= step * dW[layer]
                if bias:
                    biases[layer] -= step * db[layer]
        losses.append(total)
    return np.array(losses)


# --- The examples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_chain_rule(engine):
    figures, text = run("chain_rule", engine)
    assert figures["forward"] == {"a": -1, "b": 3, "c": 4, "x": 2, "y": 7, "f": 14}
    assert figures["derivatives"] == {"a": 7, "b": 9, "c": 2, "x": 7, "y": 2}
    assert figures["layer"] == {"x": 7, "y": 2}
    table = {row[0]: row[-2:] for row in rows(text, "node", 6)}
    assert table == {
        "a": ["-1", "7"],
        "b": ["3", "9"],
        "c": ["4", "2"],
        "x": ["2", "7"],
        "y": ["7", "2"],
        "f": ["14", "1"],
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_affine_backward(engine):
    figures, text = run("affine_backward", engine)
    known = [["-0.57717814", "0.88948410", "-1.01146255"], ["-0.54347050", "0.86783399", "-1.09728643"]]
    np.testing.assert_allclose(figures["dX"], np.array(known, dtype=float), rtol=0, atol=5e-9)
    printed = text[text.index("dX = ") : text.index("dW = ")]
    assert printed.removeprefix("dX = ").replace("[", " ").replace("]", " ").split() == [*known[0], *known[1]]
    assert max(figures["errors"].values()) < 1e-8
    for refusal, shapes in zip(figures["refusals"], [("(2, 3)", "(2, 3)"), ("(2, 2)", "(1, 2)")], strict=True):
        assert refusal.startswith("ValueError: ")
        assert all(shape in refusal for shape in shapes)
        assert refusal in text


@pytest.mark.parametrize("engine", ENGINES)
def test_affine_backward_without_the_dropped_numbers(engine):
    """With dout drawn straight after X, against sums written out element by element."""
    np.random.seed(111)
    W, _, X, dout = np.random.randn(3, 2), np.random.randn(2), np.random.rand(2, 3), np.random.rand(2, 2)
    kernels = fastmlp.kernels if engine == "numba" else fastmlp.reference
    dX, dW, db = kernels.affine_backward(X, W, dout)
    for i in range(3):
        for n in range(2):
            assert dX[n, i] == pytest.approx(dout[n, 0] * W[i, 0] + dout[n, 1] * W[i, 1], rel=1e-14)
        for j in range(2):
            assert dW[i, j] == pytest.approx(X[0, i] * dout[0, j] + X[1, i] * dout[1, j], rel=1e-14)
    assert db.tolist() == pytest.approx((dout[0] + dout[1]).tolist(), rel=1e-14)
    assert dX[0, 0] == pytest.approx(-0.59898814, abs=5e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_delta_rule(engine):
    figures, text = run("delta_rule", engine)
    learnt, failed = figures["first input"]["outputs"], figures["exclusive or"]["outputs"]
    np.testing.assert_allclose(learnt, [0, 0, 1, 1], atol=0.02)
    np.testing.assert_allclose(failed, 0.5, atol=0.07)
    for name, targets in {"first input": [0, 0, 1, 1], "exclusive or": [0, 1, 1, 0]}.items():
        W, errors = delta_rule_by_hand(tuple(targets))
        np.testing.assert_allclose(figures[name]["errors"], errors, rtol=1e-9)
        np.testing.assert_allclose(figures[name]["outputs"], 1 / (1 + np.exp(-XOR_1 @ W)), rtol=1e-9)
        part = text[text.index(f"Target: {name}") :]
        assert [float(row[1]) for row in rows(part, "epoch", 5)] == [
            round(errors[epoch - 1], 6) for epoch in (1, 10, 100, 1_000, 10_000)
        ]
        assert [float(row[-1]) for row in rows(part, "input", 4)] == figures[name]["outputs"].round(4).tolist()
    assert "not linearly separable" in text


@functools.cache
def delta_rule_by_hand(targets):
    """Give the weights after 10,000 epochs of w += α y (1 - y) e x, and the mean of e² in each."""
    np.random.seed(3)
    w = (2 * np.random.random((3, 1)) - 1).ravel()
    errors = []
    for _ in range(10_000):
        total = 0.0
        for x, target in zip(XOR_1, targets, strict=True):
            y = 1 / (1 + np.exp(-(x @ w)))
            e = target - y
            w = w + 0.9 * y * (1 - y) * e * x
            total += e * e
        errors.append(total / 4)
    return w, np.array(errors)


@pytest.mark.parametrize("engine", ENGINES)
def test_xor_online(engine):
    figures, text = run("xor_online", engine)
    shown = load("xor_online").SHOWN
    targets = np.array([0.0, 1, 1, 0])
    for figure in figures.values():
        np.testing.assert_allclose(figure["outputs"][-1], targets, atol=0.02)
        np.testing.assert_allclose(figure["errors"], np.abs(targets - figure["outputs"]).mean(axis=1), rtol=1e-12)
    squared, entropy = figures["squared_error"], figures["sigmoid_cross_entropy"]
    assert squared["errors"][0] == entropy["errors"][0]  # one start
    assert (entropy["errors"][1:] < 0.5 * squared["errors"][1:]).all()  # learns faster, from the first row on
    table = [[float(word) for word in row] for row in rows(text, "epoch", len(shown))]
    np.testing.assert_allclose(table, np.column_stack([shown, squared["errors"], entropy["errors"]]), atol=5.001e-5)
    table = [[float(word) for word in row[-2:]] for row in rows(text, "input", 4)]
    np.testing.assert_allclose(table, np.column_stack([squared["outputs"][-1], entropy["outputs"][-1]]), atol=5.001e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("loss", ["squared_error", "sigmoid_cross_entropy"])
def test_xor_online_by_hand(engine, loss):
    """The first 1,000 epochs, at each of the epochs that the example shows."""
    np.random.seed(1)
    weights = [2 * np.random.random((3, 4)) - 1, 2 * np.random.random((4, 1)) - 1]
    biases = [np.zeros(4), np.zeros(1)]
    y = np.array([[0.0], [1], [1], [0]])
    shown = [epoch for epoch in load("xor_online").SHOWN if epoch <= 1_000]
    expected = []
    for done, epoch in zip([0, *shown], shown, strict=False):
        train_by_hand(weights, biases, XOR_1, y, 0.9, epoch - done, 1, "sigmoid", "sigmoid", loss, bias=False)
        expected.append(gradients_by_hand(weights, biases, XOR_1, y, "sigmoid", "sigmoid", loss)[1].ravel())
    figures, _ = run("xor_online", engine)
    np.testing.assert_allclose(figures[loss]["outputs"][: len(shown)], expected, rtol=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_xor_batch(engine):
    figures, text = run("xor_batch", engine)
    table = rows(text, "epoch", 10)
    assert [row[0] for row in table] == [str(epoch) for epoch in range(0, 10_000, 1_000)]
    assert [row[1] for row in table] == ["0.2563"] + 9 * ["0.2500"]
    assert [row[2] for row in table] == (
        ["0.2440", "0.1881", "0.0920", "0.0313", "0.0149", "0.0092", "0.0065", "0.0049", "0.0040", "0.0033"]
    )
    outputs = rows(text, "input", 4)
    assert [row[-2] for row in outputs] == 4 * ["0.50000000"]
    assert [row[-1] for row in outputs] == ["0.02224667", "0.94486905", "0.94514992", "0.06836053"]
    for net, column in [("single", 1), ("hidden", 2)]:
        assert [f"{error:.4f}" for error in figures[net]["errors"][::1_000]] == [row[column] for row in table]
        assert [f"{output:.8f}" for output in figures[net]["outputs"]] == [row[column - 3] for row in outputs]
        assert len(figures[net]["errors"]) == 10_000


# --- Other nets of this family ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Net:
    sizes: tuple
    seed: int
    epochs: int
    batch_size: int
    rate: float
    hidden: str = "sigmoid"
    output: str = "sigmoid"
    loss: str = "squared_error"
    bias: bool = True
    reduction: str = "sum"

    def __str__(self):
        parts = ["-".join(map(str, self.sizes)), self.hidden, self.output, self.loss, self.reduction]
        return f"{' '.join(parts)} batch {self.batch_size} seed {self.seed}{'' if self.bias else ' no bias'}"

    def problem(self):
        """Parity of the inputs (exclusive or with two): every corner of the cube; random initial parameters."""
        n_inputs, n_outputs = self.sizes[0], self.sizes[-1]
        X = np.array(list(np.ndindex(*n_inputs * [2])), dtype=float)
        parity = X.sum(axis=1, keepdims=True) % 2
        y = np.hstack([parity, X[:, :1]])[:, :n_outputs]
        rng = np.random.RandomState(self.seed)
        weights = [rng.randn(n_in, n_out) for n_in, n_out in zip(self.sizes, self.sizes[1:], strict=False)]
        biases = [rng.randn(n_out) if self.bias else np.zeros(n_out) for n_out in self.sizes[1:]]
        return X, y, weights, biases


NETS = [
    Net((2, 3, 1), seed=0, epochs=10_000, batch_size=4, rate=0.1),
    Net((2, 3, 1), seed=7, epochs=10_000, batch_size=4, rate=0.1, bias=False),
    Net((2, 5, 1), seed=1, epochs=10_000, batch_size=4, rate=0.1, hidden="tanh"),
    Net((2, 5, 1), seed=2, epochs=10_000, batch_size=4, rate=0.5, loss="sigmoid_cross_entropy", reduction="mean"),
    Net((3, 4, 1), seed=3, epochs=5_001, batch_size=8, rate=0.2, hidden="tanh", output="tanh", reduction="mean"),
    Net((2, 4, 3, 1), seed=4, epochs=10_000, batch_size=4, rate=0.1, hidden="tanh", bias=False),
    Net((2, 4, 3, 2), seed=5, epochs=5_001, batch_size=4, rate=0.3),
    Net((3, 4, 1), seed=6, epochs=2_001, batch_size=1, rate=0.9, bias=False),
    Net((3, 4, 1), seed=8, epochs=2_001, batch_size=1, rate=0.3, loss="sigmoid_cross_entropy"),
    Net((2, 4, 3, 1), seed=9, epochs=3_001, batch_size=1, rate=0.2, hidden="tanh"),
    Net((3, 4, 1), seed=10, epochs=3_001, batch_size=3, rate=0.3),  # 3 + 3 + 2 samples
    Net((3, 4, 1), seed=11, epochs=3_001, batch_size=3, rate=0.9, hidden="tanh", reduction="mean"),
]


@functools.cache
def result_by_hand(net):
    """Give the losses, reduced as the net's are over the epoch, and the final weights and biases."""
    X, y, weights, biases = net.problem()
    losses = train_by_hand(
        weights, biases, X, y, net.rate, net.epochs, net.batch_size, net.hidden, net.output, net.loss, net.bias,
        mean=net.reduction == "mean",
    )  # fmt: skip
    return losses / (len(X) if net.reduction == "mean" else 1), weights, biases


def build(net, engine):
    _, _, weights, biases = net.problem()
    mlp = fastmlp.MLP(
        net.sizes, net.hidden, net.output, net.loss, net.reduction, net.bias, dtype="float64", engine=engine
    )
    mlp.set_parameters(weights, biases if net.bias else None)
    return mlp


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("net", NETS, ids=str)
def test_training_by_hand(engine, net):
    X, y, *_ = net.problem()
    mlp = build(net, engine)
    history = mlp.fit(
        X, y, epochs=net.epochs, batch_size=net.batch_size, optimizer=fastmlp.SGD(net.rate), shuffle=False
    )
    losses, weights, biases = result_by_hand(net)
    assert losses[-1] < 0.9 * losses[0]  # it does learn
    np.testing.assert_allclose(history.train_loss[::1_000], losses[::1_000], rtol=0, atol=1e-9)
    for mine, theirs in zip([*mlp.weights, *mlp.biases], [*weights, *(biases if net.bias else [])], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("net", NETS, ids=str)
def test_gradients_by_hand(engine, net):
    X, y, weights, biases = net.problem()
    mlp = build(net, engine)
    value, output, dW, db = gradients_by_hand(weights, biases, X, y, net.hidden, net.output, net.loss)
    scale = 1 / len(X) if net.reduction == "mean" else 1
    gradients = mlp.gradients(X, y)
    np.testing.assert_allclose(mlp.forward(X), output, rtol=1e-13)
    assert mlp.loss(X, y) == pytest.approx(value * scale, rel=1e-13)
    for mine, theirs in zip([*gradients.weights, *gradients.biases], [*dW, *(db if net.bias else [])], strict=True):
        np.testing.assert_allclose(mine, theirs * scale, rtol=1e-12, atol=1e-15)


# --- MNIST, briefly ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_mnist(engine, tmp_path, capsys):
    picture = tmp_path / "curves.png"
    figures = load("mnist").main(engine=engine, epochs=1, samples=6_000, picture=str(picture))
    net, history = figures["net"], figures["history"]
    assert [W.shape for W in net.weights] == [(784, 100), (100, 64), (64, 32), (32, 10)]

    data = fastmlp.load_dataset("mnist")
    A = data.X_test
    for W, b in zip(net.weights, net.biases, strict=True):
        Z = A @ W + b
        A = np.maximum(Z, 0)
    accuracy = np.mean(Z.argmax(axis=1) == data.y_test)
    assert accuracy > 0.8
    assert history.validation_accuracy == pytest.approx([accuracy], abs=2e-4)  # two digits may tip over in rounding
    assert f"{history.validation_accuracy[0]:.2%}" in capsys.readouterr().out
    assert figures["train_accuracy"] == [net.accuracy(data.X_train[:6_000], data.y_train[:6_000])]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_mnist_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    picture = tmp_path / "curves.png"
    load("mnist").main(engine="numpy", epochs=1, samples=500, picture=str(picture))
    assert "matplotlib is not installed" in capsys.readouterr().out
    assert not picture.exists()


# --- As scripts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_script_runs_from_any_folder(name, tmp_path):
    arguments = ["--epochs", "1", "--samples", "1000"] if name == "mnist" else []
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    if name == "mnist":
        assert "mnist_curves.png" in done.stdout
        assert (tmp_path / "mnist_curves.png").exists()
    else:
        assert done.stdout == run(name, "numba")[1]


def test_readme_lists_every_example():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"]({path.name})" in text for path in EXAMPLES.glob("*.py"))


def test_the_readmes_first_programs():
    """XOR, and a step of backpropagation by hand, whose numbers are those of the comments."""
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    xor, by_hand = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[:2]
    names = {}
    exec(xor + by_hand, names)
    assert xor.endswith("print(net.predict(X))  # 0.02, 0.98, 0.98, 0.02\n")
    np.testing.assert_allclose(names["net"].predict(names["X"])[:, 0], [0.02, 0.98, 0.98, 0.02], atol=0.005)
    comments = {"A1": "0.5933, 0.5969", "A2": "0.7514, 0.7729", "loss": "0.2984", "dW2": "0.08217", "dW1": "0.0004386"}
    for name, numbers in comments.items():
        assert f" {numbers}\n" in by_hand
        expected = [float(number) for number in numbers.split(", ")]
        np.testing.assert_allclose(np.ravel(names[name])[: len(expected)], expected, rtol=2e-4)
