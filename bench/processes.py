"""The processes of a race: their threads and instruction set are settled before anything is imported in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

SETTLE_SECONDS = 0.2
"""Pause before each turn: threads of the other contender spin for a while after its last one, OpenBLAS's for 0.12 s."""


@dataclass(frozen=True)
class Conditions:
    """What holds for a whole race."""

    threads: int
    rounds: int
    isa: str | None = None
    quick: bool = False


def start(script: str, contender: str, conditions: Conditions, *how: str) -> subprocess.Popen[str]:
    """Start a script of this folder: it is given the contender, the CPUs to stay on, and `how`."""
    cpus = ",".join(map(str, chosen_cpus(conditions.threads)))
    command = [sys.executable, str(ROOT / "bench" / script), contender, cpus, *how]
    environment = {**os.environ, **thread_settings(conditions.threads), **isa_settings(conditions.isa)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen[str], question: str) -> dict[str, Any]:
    """Send a line to a process and wait for the answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert isinstance(process.args, list)
    process.stdin.write(f"{question}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args[2]} ended with status {process.wait()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def in_turn(pair: tuple[str, str], number: int) -> tuple[str, ...]:
    """Give both contenders in the order of a round: each begins every other one."""
    return pair[::-1] if number % 2 else pair


def stay_on(cpus: str) -> None:
    """Keep this process on the CPUs that `start` has given it: before it imports libraries, which count them then."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})


def chosen_cpus(threads: int) -> list[int]:
    """Choose the last CPUs: the first ones serve most interrupts."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(threads))
    return sorted(os.sched_getaffinity(0))[-threads:]


def thread_settings(threads: int) -> dict[str, str]:
    """Environment that pins every library's pool."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


HASWELL = (
    "+64bit,+avx,+avx2,+bmi,+bmi2,+cmov,+cx16,+cx8,+f16c,+fma,+fsgsbase,+fxsr,+invpcid,+lzcnt,+mmx,+movbe,+pclmul,"
    "+popcnt,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave,+xsaveopt"
)


def isa_settings(isa: str | None) -> dict[str, str]:
    """Environment that keeps every library to an instruction set: none, or "avx2"."""
    if isa is None:
        return {}
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    beyond = [f for f in __cpu_dispatch__ if (f.startswith("AVX512") or f == "X86_V4") and __cpu_features__.get(f)]
    return {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": HASWELL,
        "NPY_DISABLE_CPU_FEATURES": " ".join(beyond),
        "OPENBLAS_CORETYPE": "Haswell",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        # PyTorch takes what it has compiled for one instruction set for another, and then trains to NaN.
        "TORCHINDUCTOR_CACHE_DIR": os.path.join(tempfile.gettempdir(), f"torchinductor_{isa}"),
    }
