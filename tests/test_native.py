"""Machine code without Numba: what is kept of a kernel, what it calls, and what Python may give to it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from inspect import signature
from pathlib import Path

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest

from fastmlp.kernels import cache, jit, native
from fastmlp.kernels.cache import Compiled
from fastmlp.kernels.instructions import call
from fastmlp.kernels.machine import detect_machine
from fastmlp.kernels.native import Kernel
from fastmlp.kernels.objects import calls_of

FLOAT32 = np.dtype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new cache."""
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    return tmp_path


def halve_negative(kernel: Kernel) -> list[float]:
    """What the kernel of leaky_relu makes of three numbers."""
    A = np.array([-100.0, 0.0, 2.0], FLOAT32)
    assert kernel.run(FLOAT32, A.__array_interface__["data"][0], A.size) == 0
    return [float(a) for a in A]


CODE = """
declare double @exp2(double)
declare i64 @some_function(i64)
define i64 @fastmlp_a(i64 %a, double %x) {
  %y = call double @exp2(double %x)
  %n = fptosi double %y to i64
  %b = call i64 @some_function(i64 %n)
  ret i64 %b
}
"""


TRIPLES = {
    "x86_64-unknown-linux-gnu": True,
    "aarch64-unknown-linux-gnu": True,
    "x86_64-pc-windows-msvc-elf": True,  # What llvmlite makes of Windows'.
    "x86_64-pc-windows-msvc": False,
    "arm64-apple-darwin22.6.0": True,
    "x86_64-apple-darwin22.6.0": True,
}


@pytest.mark.parametrize("triple", TRIPLES)
def test_what_an_object_file_calls(triple: str) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(CODE)
    module.triple = triple
    calls = calls_of(llvm.Target.from_triple(triple).create_target_machine().emit_object(module))
    assert calls == (["exp2", "some_function"] if TRIPLES[triple] else None)


def test_what_kernels_call_is_kept_with_them() -> None:
    """LLVM ends the process if something is not there."""
    # Its arguments are of all kinds but arrays.
    compiled = native.compiler().compile_kernel("losses.loss_rows", FLOAT32)
    assert compiled.calls == ["log"]  # That of the Poisson deviance.
    assert set(calls_of(compiled.entry) or []) == {compiled.symbol, *native.PYTHON_CALLS}


def test_a_kernel_is_what_was_packed() -> None:
    for calls in ([], ["log", "memset"], None):
        compiled = Compiled("name", calls, b"\n1 2\n\0", b"3\n")
        assert Compiled.unpack(compiled.pack()) == compiled


def test_one_that_calls_what_is_not_here_is_compiled_anew(folder: Path) -> None:
    right = halve_negative(Kernel("activations.leaky_relu"))
    assert right == pytest.approx([-1.0, 0.0, 2.0])
    (path,) = folder.iterdir()
    body = cache.load(path.name)
    assert body is not None
    compiled = Compiled.unpack(body)
    elsewhere = compiled._replace(calls=["a_function_of_nobody"]).pack()
    cache.save(path.name, elsewhere)
    assert halve_negative(Kernel("activations.leaky_relu")) == right
    assert cache.load(path.name) not in (None, elsewhere)


@pytest.mark.parametrize("calls", [["a_function_of_nobody"], None], ids=["missing", "unknown"])
def test_numba_is_imported_for_what_may_not_be_here(calls: list[str] | None, tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, fastmlp.kernels; from fastmlp.kernels import cache; said = 'numba' in sys.modules\n"
        "fastmlp.kernels.relu(np.ones(1)); print(said, 'numba' in sys.modules, cache.cache_folder())"
    )

    def run() -> str:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
        assert done.stderr == ""
        before, after, folder = done.stdout.split()
        assert before == "False"
        return after if after == "False" else folder

    folder = Path(run())
    assert run() == "False"
    name = "activations.relu_float64.kernel"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "cache_folder", lambda: folder)
        body = cache.load(name)
        assert body is not None
        cache.save(name, Compiled.unpack(body)._replace(calls=calls).pack())
    assert run() == str(folder)
    assert run() == ("False" if calls else str(folder))  # The one that misses something was compiled anew.


def test_settings_that_a_program_has_changed_are_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jit.has_settings_of_cache()
    monkeypatch.setattr("numba.config.CPU_NAME", "generic")
    cache.warned.clear()
    with pytest.warns(RuntimeWarning, match=r"^fastmlp compiles .* because numba\.config\.CPU_NAME was changed"):
        halve_negative(Kernel("activations.leaky_relu"))
    assert list(folder.iterdir()) == []
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert jit.has_settings_of_cache()


@pytest.mark.parametrize("name", [*cache.SETTINGS, *cache.MORE_SETTINGS])
def test_each_setting_of_numba_has_its_own_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = cache.cache_key.__wrapped__
    before = key()
    monkeypatch.setenv(f"NUMBA_{name}", "7")
    assert key() != before


@pytest.mark.parametrize("setting", ["ENABLE_AVX", "CPU_NAME"])
def test_tiles_are_for_the_registers_that_numba_may_use(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"NUMBA_{setting}", {"ENABLE_AVX": "0", "CPU_NAME": "generic"}[setting])
    assert detect_machine().vector_bytes == 16


def kernels_behind(name: str) -> list[str]:
    """The kernels that `call` may find at what a kernel knows by this name: a field of a record, or an argument."""
    others = {
        "activate": "softmax_outputs sigmoid_outputs",
        "gather": "gather_sparse",
        "loss_and_output_gradient": "classes_loss values_loss",
        "multiply_inputs": "multiply_entries",
    }
    found = {name, *others.get(name, "").split()}
    activations = [key for key in jit.KERNELS if key.startswith("activations.")]
    return [
        *(key for key in jit.KERNELS if key.rpartition(".")[2] in found),
        *(key for key in jit.KERNELS if name == "update" and key.startswith("updates.")),
        *(key for key in activations if name == ("multiply_by_slope" if key.endswith("_slope") else "layer.activate")),
    ]


def calls_in(source: Path) -> list[tuple[str, int]]:
    """What a file's functions call by address, and with how many arguments."""
    found = []
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "call":
            address, arguments = node.args
            assert isinstance(arguments, ast.Tuple)
            name = ast.unparse(address)
            found.append((name if name == "layer.activate" else name.rpartition(".")[2], len(arguments.elts)))
    return found


def test_kernels_that_are_called_by_address_take_as_many_arguments() -> None:
    """The call would go through with any number, and the kernel work on what is in the registers."""
    native.compiler()
    calls = [call for source in Path(jit.__file__).parent.glob("*.py") for call in calls_in(source)]
    assert len(calls) > 25
    for name, n_arguments in calls:
        behind = kernels_behind(name)
        assert behind, name
        for key in behind:
            assert len(signature(jit.KERNELS[key]).parameters) == n_arguments, (name, key)


def test_kernels_are_given_numbers_only() -> None:
    """A bool is a byte: where 64 bits are read, the others may be anything."""

    @numba.njit
    def calls_with_a_bool(n: int) -> int:
        return int(call(n, (n > 0,)))

    with pytest.raises(numba.TypingError, match="kernels take int64, float32 and float64, not bool"):
        calls_with_a_bool.compile((numba.int64,))


@pytest.mark.parametrize("arguments", [(), (0,), (0, 1, 2), (0, "1"), (0, 2**64), (0, None), (0, 1.5)])
def test_wrong_arguments_are_errors_of_python(arguments: tuple[object, ...]) -> None:
    with pytest.raises((TypeError, OverflowError)):
        native.kernel("activations.relu").run(FLOAT32, *arguments)


@pytest.mark.parametrize("arguments", [(), ("1", 0, 0), (None, 0, 0)])
def test_whether_the_gil_is_let_go_has_to_be_said(arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        native.kernel("activations.relu").entry(FLOAT32)(*arguments)


def test_a_warning_that_is_an_error_is_one_error(tmp_path: Path) -> None:
    """And not each fit's, for ever: what comes after it works."""
    code = (
        "import fastmlp, numpy as np\n"
        "for _ in range(2):\n"
        "    try: print(fastmlp.kernels.relu(np.array([[-1.0, 2.0]])).tolist())\n"
        "    except RuntimeWarning as warning: print(str(warning)[:16])\n"
    )
    (tmp_path / "file").touch()
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file" / "cache")}
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout == "fastmlp compiles\n[[0.0, 2.0]]\n", run.stderr
