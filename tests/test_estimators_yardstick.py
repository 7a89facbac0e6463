"""scikit-learn's own tests of its two classes, as they are installed with it, run on ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

import sklearn.neural_network as theirs

CONFTEST = """
import pytest

@pytest.fixture
def global_random_seed():
    return 42
"""

PRIVATE = "test_gradient"
"""The one of their tests that calls a private method; `test_gradients.py` has what it is about."""


def test_their_tests_pass(tmp_path: Path) -> None:
    source = Path(theirs.__file__).parent / "tests" / "test_mlp.py"
    if not source.exists():
        pytest.skip("this scikit-learn was installed without its tests")
    text = source.read_text(encoding="utf-8")
    ours = text.replace("from sklearn.neural_network import MLP", "from fastmlp import MLP")
    assert ours != text
    assert f"def {PRIVATE}()" in text
    (tmp_path / "test_mlp.py").write_text(ours, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    options = "-q", "-p", "no:cacheprovider", "-c", "none.ini", "--deselect", f"test_mlp.py::{PRIVATE}"
    (tmp_path / "none.ini").write_text("[pytest]\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout
    assert "1 deselected" in run.stdout
