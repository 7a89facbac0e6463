"""Promise 5: whatever happens to the cache, the kernels are right, and one warning says what they cost."""

import compileall
import json
import os
import random
import shutil
import signal
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import children
import numpy as np
import pytest

import fastmlp
from fastmlp.kernels import cache
from fastmlp.kernels.native import Kernel

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's homes and permissions")

PROMISE = "5 kernels are right, with one warning at most: "
COLD = children.PROGRAMS / "cold.py"

X = np.linspace(-2.0, 2.0, 8, dtype=np.float32).reshape(2, 4)


def few(slope=0.01):
    """What three kernels give, see the program."""
    leaky = [np.where(Z > 0, Z, Z * Z.dtype.type(slope)) for Z in (X, X.astype(float))]
    return [float(x) for result in (*leaky, np.maximum(X, 0)) for x in result.ravel()]


def cold(which="few", before="", **options):
    """Use kernels in a process of their own, after some code; give what it says."""
    code = f"{before}\nfrom pathlib import Path\nexec(Path({str(COLD)!r}).read_text())"
    said = json.loads(children.run(code if before else "cold.py", which, **options))
    if which == "few":
        np.testing.assert_allclose(said["results"], few(), rtol=1e-6)
    return said


def compiles_with_a_warning(said, *parts):
    """Check that kernels were compiled, and that one warning says why they will be again."""
    assert said["compiled"] > 0
    (warning,) = said["warnings"]
    for part in ("fastmlp compiles its kernels at each start", *parts):
        assert part in warning
    assert "\n" not in warning


def is_silent(said, compiled):
    """Check that kernels were compiled, or that none was, and that nothing was said of it."""
    assert said["warnings"] == []
    assert (said["compiled"] > 0) == compiled


def holds(folder):
    """The permissions of a folder hold for children without powers."""
    code = f"import os; print(os.access({str(folder)!r}, os.W_OK))"
    return children.run(code, powers=False) == "False\n"


@pytest.fixture
def locked(tmp_path):
    """A way to make a folder, and what is in it, unwritable; undone in the end."""

    def lock(folder, mode=0o555):
        for path in (folder, *folder.rglob("*")):
            path.chmod(mode if path.is_dir() else mode & 0o666)
        if not holds(folder):
            pytest.skip("needs permissions that hold: an unprivileged user, or the right to give powers up")

    yield lock
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755)


def copy_package(folder):
    """Install the package in a folder."""
    shutil.copytree(Path(fastmlp.__file__).parent, folder / "fastmlp", ignore=shutil.ignore_patterns("__pycache__"))
    return {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


@linux
def test_read_only_site_packages(promise, tmp_path, locked):
    site, home = tmp_path / "site", tmp_path / "home"
    options = {**copy_package(site), "HOME": str(home), "XDG_CACHE_HOME": None, "NUMBA_CACHE_DIR": None}
    home.mkdir()
    locked(site)
    files = sorted(site.rglob("*"))
    with promise(PROMISE + "read-only site-packages", 2):
        is_silent(cold(powers=False, **options), compiled=True)
        is_silent(cold(powers=False, **options), compiled=False)
        assert sorted(site.rglob("*")) == files
        assert list(home.glob(".cache/fastmlp/kernels-*/*.kernel"))


def test_a_package_without_sources(promise, tmp_path):
    options = {**copy_package(tmp_path / "site"), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    compileall.compile_dir(tmp_path / "site", legacy=True, quiet=1)
    for source in tmp_path.glob("site/**/*.py"):
        source.unlink()
    with promise(PROMISE + "a package without sources, which cannot tell stale code"):
        compiles_with_a_warning(cold(**options), "sources")
        assert not (tmp_path / "cache").exists()


@linux
def test_unwritable_home(promise, tmp_path, locked):
    home = tmp_path / "home"
    home.mkdir()
    locked(home)
    options = {"HOME": str(home), "XDG_CACHE_HOME": None, "NUMBA_CACHE_DIR": None, "powers": False}
    with promise(PROMISE + "unwritable home"):
        compiles_with_a_warning(cold(**options), str(home), "Permission denied", "NUMBA_CACHE_DIR")
    with promise(PROMISE + "unwritable NUMBA_CACHE_DIR"):
        options["NUMBA_CACHE_DIR"] = str(home / "cache")
        compiles_with_a_warning(cold(**options), str(home / "cache"), "Permission denied")
    locked(home, 0o000)
    with promise(PROMISE + "a home that nobody may look into"):
        compiles_with_a_warning(cold(**options), str(home / "cache"), "Permission denied")


@linux
def test_a_cache_that_can_be_read_and_not_written_is_used(promise, tmp_path, locked):
    cold(NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    locked(tmp_path / "cache")
    with promise(PROMISE + "a cache that can only be read"):
        is_silent(cold(NUMBA_CACHE_DIR=str(tmp_path / "cache"), powers=False), compiled=False)


@linux
def test_homes_that_are_none(promise, tmp_path):
    (tmp_path / "file").touch()
    elsewhere = {"XDG_CACHE_HOME": None, "NUMBA_CACHE_DIR": None, "cwd": tmp_path}
    with promise(PROMISE + "a home below a file"):
        said = cold(**{**elsewhere, "HOME": str(tmp_path / "file" / "home")})
        compiles_with_a_warning(said, "Not a directory")
    with promise(PROMISE + "HOME unset, the home of the password file"):
        entry = "import pwd, types; pwd.getpwuid = lambda uid: types.SimpleNamespace(pw_dir='" + str(tmp_path) + "/me')"
        is_silent(cold(before=entry, HOME=None, **elsewhere), compiled=True)
        assert list(tmp_path.glob("me/.cache/fastmlp/kernels-*/*.kernel"))
    no_entry = "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown"
    of_old = "import platformdirs; platformdirs.user_cache_dir = lambda *_: '~/.cache/fastmlp'"
    for name, before, cache_home in [
        ("HOME unset, and no home in the password file", no_entry, None),
        ("HOME unset, and an older platformdirs", of_old, None),
        ("XDG_CACHE_HOME that is no path", no_entry, "relative"),
    ]:
        with promise(PROMISE + name):
            said = cold(before=before, HOME=None, **{**elsewhere, "XDG_CACHE_HOME": cache_home})
            compiles_with_a_warning(said, "no home folder", "NUMBA_CACHE_DIR")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "me"]  # Above all, no folder named "~".


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit of the size of files")
@pytest.mark.parametrize("room", [0, 1000])
def test_a_full_disk(promise, tmp_path, room):
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, resource.RLIM_INFINITY))"
    with promise(PROMISE + "a full disk"):
        compiles_with_a_warning(cold(before=limit, NUMBA_CACHE_DIR=str(tmp_path)), str(tmp_path), "too large")
    with promise(PROMISE + "a disk that was full"):
        is_silent(cold(NUMBA_CACHE_DIR=str(tmp_path)), compiled=True)
        is_silent(cold(NUMBA_CACHE_DIR=str(tmp_path)), compiled=False)
        assert all(path.name.endswith(".kernel") for path in tmp_path.glob("*/*"))  # No halves are left.


def test_eight_processes_that_start_cold_at_once(promise, count, is_nightly, tmp_path):
    which = "fit" if is_nightly else "few"  # A whole fit compiles for seconds.
    alone = cold(NUMBA_CACHE_DIR=str(tmp_path / "alone"))["compiled"]
    for number in range(count(2, 3)):
        folder = tmp_path / str(number)
        with promise(PROMISE + f"8 processes that start cold at once ({which} kernels)", 8):
            starting = [children.start("cold.py", which, NUMBA_CACHE_DIR=str(folder)) for _ in range(8)]
            said = [json.loads(children.end_of(each, 200)) for each in starting]
            assert all(each["warnings"] == [] for each in said)
            assert all(each["results"] == said[0]["results"] for each in said)
            if which == "few" and os.name == "posix":  # Each is compiled by one of them, and the others wait for it.
                assert sum(each["compiled"] for each in said) == alone
            last = cold(which, NUMBA_CACHE_DIR=str(folder))
            is_silent(last, compiled=False)
            assert last["results"] == said[0]["results"]
            assert all(path.suffix in (".kernel", ".begun") for path in folder.glob("*/*"))


# --- Damage -----------------------------------------------------------------------------------------------------------


def flip(content, draw):
    """One bit, anywhere."""
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


DAMAGE = {
    "empty": lambda content, draw: b"",
    "half": lambda content, draw: content[: len(content) // 2],
    "cut": lambda content, draw: content[: draw.randrange(len(content))],
    "a byte short": lambda content, draw: content[:-1],
    "longer": lambda content, draw: content + draw.randbytes(100),
    "a bit": flip,
    "zeros from somewhere": lambda content, draw: content[: (at := draw.randrange(len(content)))].ljust(at + 9, b"\0"),
    "anything": lambda content, draw: draw.randbytes(len(content)),
}


def test_a_damaged_file_is_never_run(promise, count, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    draw, dtype = random.Random(0), np.dtype("float32")
    make = partial(Kernel, "activations.leaky_relu")
    path = tmp_path / "activations.leaky_relu_float32.kernel"

    def right(kernel):
        A = X.copy()
        kernel.run(dtype, A.__array_interface__["data"][0], A.size)
        np.testing.assert_allclose(A, np.where(X > 0, X, X * np.float32(0.01)))

    right(make())
    other = tmp_path / "activations.leaky_relu_float64.kernel"
    make().address(np.dtype("float64"))
    damage = {**DAMAGE, "another kernel's": lambda content, draw: other.read_bytes()}
    for number in range(count(60, 1000)):
        how = list(damage)[number % len(damage)]
        whole = path.read_bytes()
        path.write_bytes(damage[how](whole, draw))
        cache.warned.clear()
        with promise(PROMISE + "a damaged file of the cache"):
            with pytest.warns(RuntimeWarning, match=r"^fastmlp compiles again what it kept in .*is damaged$") as said:
                right(make())
            assert len(said) == 1
            assert path.read_bytes() != b""
            right(make())  # From the file, which is whole again: a warning would be an error.
    with promise(PROMISE + "a folder in the place of a file of the cache"):
        path.unlink()
        path.mkdir()
        cache.warned.clear()
        with pytest.warns(RuntimeWarning, match="cannot be written"):
            right(make())
    with promise(PROMISE + "a cache that is deleted while it is in use"):
        shutil.rmtree(tmp_path)
        right(make())
        assert path.exists()


def test_many_damaged_files_are_one_warning(promise, tmp_path):
    options = {"NUMBA_CACHE_DIR": str(tmp_path)}
    cold(**options)
    paths = list(tmp_path.glob("*/*.kernel"))
    for path, how in zip(paths, ("empty", "half", "a bit"), strict=True):
        path.write_bytes(DAMAGE[how](path.read_bytes(), random.Random(0)))
    with promise(PROMISE + "every file of the cache damaged"):
        said = cold(**options)
        assert said["compiled"] > 0
        (warning,) = said["warnings"]
        assert "damaged" in warning
        is_silent(cold(**options), compiled=False)


# --- Upgrades ---------------------------------------------------------------------------------------------------------


def upgrade(site, new="0.02", old="0.01"):
    """Change a constant of the kernels, and neither the size nor the time of its file."""
    source = site / "fastmlp/kernels/activations.py"
    text, times = source.read_text(), (source.stat().st_atime_ns, source.stat().st_mtime_ns)
    assert f"LEAKY_SLOPE = {old}\n" in text
    source.write_text(text.replace(f"LEAKY_SLOPE = {old}\n", f"LEAKY_SLOPE = {new}\n"))
    os.utime(source, ns=times)


def results_of(slope, **options):
    """Use the kernels of a package, whose constant must be this."""
    said = json.loads(children.run("cold.py", "few", **options))
    np.testing.assert_allclose(said["results"], few(slope), rtol=1e-6)
    return said


def test_an_upgrade_of_fastmlp(promise, tmp_path):
    options = {**copy_package(tmp_path / "site"), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    with promise("5 an upgrade of fastmlp over an old cache: no stale code", 3):
        is_silent(results_of(0.01, **options), compiled=True)
        upgrade(tmp_path / "site")
        is_silent(results_of(0.02, **options), compiled=True)
        upgrade(tmp_path / "site", new="0.01", old="0.02")
        is_silent(results_of(0.01, **options), compiled=False)


def test_an_upgrade_of_fastmlp_under_a_running_program(promise, tmp_path):
    options = {**copy_package(tmp_path / "site"), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    results_of(0.01, NUMBA_CACHE_DIR=str(tmp_path / "other"), PYTHONPATH=options["PYTHONPATH"])
    for folder, is_cached in (("cache", False), ("other", True)):
        with promise("5 an upgrade of fastmlp under a running program: no stale code", 2):
            running = children.start("cold.py", "few", "wait", **{**options, "NUMBA_CACHE_DIR": str(tmp_path / folder)})
            assert running.stdout.readline() == "imported\n"
            upgrade(tmp_path / "site")
            said, errors = running.communicate("go on\n", timeout=100)
            if is_cached:
                np.testing.assert_allclose(json.loads(said)["results"], few(0.01), rtol=1e-6)
            else:
                assert "RuntimeError: fastmlp's files have changed since it was imported" in errors
            is_silent(results_of(0.02, **options), compiled=not is_cached)
            upgrade(tmp_path / "site", new="0.01", old="0.02")


def test_an_upgrade_of_what_compiles(promise, tmp_path):
    fake = "import llvmlite, numpy; {}.__version__ += '0'"
    cpu = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    others = {name: (fake.format(name), {}) for name in ("llvmlite", "numpy")} | {"CPU": ("", cpu)}
    site = tmp_path / "site"
    shutil.copytree(Path(find_spec("numba").origin).parent, site / "numba", ignore=shutil.ignore_patterns("tests"))
    with (site / "numba/_version.py").open("a") as version:
        version.write("# Another.\n")
    others["numba"] = ("", {"PYTHONPATH": str(site)})
    is_silent(cold(NUMBA_CACHE_DIR=str(tmp_path)), compiled=True)
    for name, (before, options) in others.items():
        with promise(f"5 another {name} over an old cache: no stale code"):
            is_silent(cold(before=before, NUMBA_CACHE_DIR=str(tmp_path), **options), compiled=True)
    with promise("5 the old cache is used again after all that"):
        is_silent(cold(NUMBA_CACHE_DIR=str(tmp_path)), compiled=False)
