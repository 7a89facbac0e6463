"""The package as a whole: what importing it costs, what it offers, and that its examples are true."""

from __future__ import annotations

import doctest
import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastmlp

PROJECT = Path(__file__).parent.parent
HEAVY = ("numba", "llvmlite", "scipy", "matplotlib", "tensorflow", "tensorflow_datasets", "pandas", "sklearn", "tqdm")


def imported_by(code: str) -> set[str]:
    """Names of the heavy modules that a fresh interpreter has loaded after `code`."""
    script = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import fastmlp",
        "import fastmlp; fastmlp.SGD(0.1); fastmlp.OneCycle(); fastmlp.History()",
        "import fastmlp; fastmlp.reference.relu",
        "import fastmlp; fastmlp.MLP([2, 3, 2], engine='numpy').fit([[0.0, 1.0]], [1], epochs=1)",
        "import fastmlp; fastmlp.load_dataset",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(code: str) -> None:
    assert imported_by(code) == set()


def test_numba_comes_with_what_must_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And SciPy with Numba, where it is installed; with nothing else."""
    compiler = {"numba", "llvmlite"} | ({"scipy"} if importlib.util.find_spec("scipy") else set())
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    code = "import fastmlp; fastmlp.kernels.relu(fastmlp.MLP([2, 3, 2], activation='identity').forward([[0.0, 1.0]]))"
    assert imported_by(code) == compiler
    assert imported_by(code) == {"llvmlite"}
    monkeypatch.undo()
    k = "import numpy as np; from fastmlp import kernels; Z = np.ones((2, 2)); kernels."
    for code in (
        "import fastmlp; net = fastmlp.MLP([2, 2]); net.fit([[0.0, 1.0]], [1], epochs=1); net.predict([[0.0, 1.0]])",
        f"{k}softmax_cross_entropy(Z, np.array([0, 1]))",  # Calls a function of the C library.
        f"{k}adam_update(Z, Z, Z, Z, 1, 0.1)",
    ):
        imported_by(code)
        assert imported_by(code) == {"llvmlite"}


def test_public_names() -> None:
    assert set(fastmlp.__all__) == {
        "MLP", "OnlineTrainer", "Gradients", "History", "Progress", "DivergenceError", "ModelFileError", "SGD", "Adam",
        "AdamW", "RMSprop", "Schedule", "Constant", "Step", "Exponential", "Cosine", "OneCycle", "InverseScaling",
        "load_dataset", "Dataset", "kernels", "reference", "__version__",
    }  # fmt: skip
    for name in fastmlp.__all__:
        assert getattr(fastmlp, name) is not None
    assert {"MLPClassifier", "MLPRegressor"} <= set(dir(fastmlp)) - set(fastmlp.__all__)
    with pytest.raises(AttributeError, match=r"^module 'fastmlp' has no attribute 'MPL'$"):
        fastmlp.MPL  # noqa: B018


def test_version_is_the_projects() -> None:
    (version,) = re.findall(r'^version = "(.*)"$', (PROJECT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert fastmlp.__version__ == version


def modules() -> list[str]:
    """All modules; without scikit-learn, all but the estimators, which need it."""
    names = [module.name for module in pkgutil.walk_packages(fastmlp.__path__, "fastmlp.")]
    has_sklearn = importlib.util.find_spec("sklearn") is not None
    return [name for name in names if has_sklearn or not name.startswith("fastmlp.estimators")]


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(fastmlp.__path__[0]) / "py.typed").exists()


@pytest.mark.parametrize("name", ["fastmlp", *modules()])
def test_examples_in_docstrings(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("name", modules())
def test_every_module_says_what_it_is_for(name: str) -> None:
    assert importlib.import_module(name).__doc__


INT32_BY_DEFAULT = """
import numpy as np
import fastmlp
from fastmlp import chunks

of_64_bits = np.arange

def arange(*arguments, dtype=None):
    numbers = of_64_bits(*arguments, dtype=dtype)
    return numbers.astype(np.int32) if dtype is None and numbers.dtype == np.int64 else numbers

rng, chunks.CHUNK_BYTES = np.random.default_rng(0), 1 << 12
X, y = rng.normal(size=(300, 6)), rng.integers(0, 3, 300)
mapped = np.memmap(PATH, X.dtype, "w+", shape=X.shape)
mapped[:] = X

def results():
    net = fastmlp.MLP([6, 8, 3], seed=0, dtype="float64")
    yield net.fit(X, y, 2, 32, validation_data=(X, y)).validation_loss
    yield net.fit(mapped, y, 2, 16).train_loss
    yield net.loss(X, y), net.gradients(X, y).weights[0].sum()
    trainer = fastmlp.OnlineTrainer(net)
    yield [trainer.step(X[:20], y[:20], weights) for weights in (None, None, np.ones(20))]
    yield fastmlp.kernels.softmax_cross_entropy(X, y)[0], fastmlp.kernels.squared_error(X, X[::-1])[0]

expected = list(results())
np.arange = arange
assert list(results()) == expected
print("equal")
"""


def test_integers_of_32_bits_by_default(tmp_path: Path) -> None:
    """As NumPy 1 has them on Windows: kernels must not be given any, which they would read beyond the end."""
    code = INT32_BY_DEFAULT.replace("PATH", repr(str(tmp_path / "X")))
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True).stdout == "equal\n"
