"""What the kernels need to know of the CPU, and the shapes of the tiles that its registers hold."""

from __future__ import annotations

import os
from typing import NamedTuple

import llvmlite.binding as llvm


class Machine(NamedTuple):
    """What the kernels need to know of the CPU.

    Attributes
    ----------
    vector_bytes : int
        Bytes of the widest vector register that is worth using.
    registers : int
        How many of them there are.
    fused : bool
        Whether it has a fused multiply-add.
    """

    vector_bytes: int
    registers: int
    fused: bool


def numba_setting(name: str) -> str | None:
    """One of Numba's settings, from the environment: Numba itself is imported only where it has to compile."""
    return os.environ.get(f"NUMBA_{name}")


NO_COMPILER = (
    "engine 'numba' needs Numba's optimising compiler, which NUMBA_DISABLE_JIT and NUMBA_OPT=0 turn off: "
    "unset them, or use 'numpy'"
)


def detect_machine() -> Machine:
    """Read the CPU that Numba compiles for: the host, or what the environment says.

    That is NUMBA_CPU_NAME, NUMBA_CPU_FEATURES, and NUMBA_ENABLE_AVX, with which Numba takes from the host what begins
    with avx.
    """
    features = numba_setting("CPU_FEATURES")
    if features is None:
        if numba_setting("CPU_NAME") == "generic":
            features = ""
        else:
            without = "avx" if (numba_setting("ENABLE_AVX") or "1").strip() == "0" else " "
            host = llvm.get_host_cpu_features().items()
            features = ",".join(f"+{name}" for name, has in host if has and not name.startswith(without))
    has = set(features.split(","))
    if {"+avx512f", "+avx512bw", "+avx512vl", "+avx512dq"} <= has:
        return Machine(vector_bytes=64, registers=32, fused=True)
    if {"+avx2", "+fma"} <= has:
        return Machine(vector_bytes=32, registers=16, fused=True)
    if "+neon" in has or "aarch64" in llvm.get_default_triple() or "arm64" in llvm.get_default_triple():
        return Machine(vector_bytes=16, registers=32, fused=True)
    # SSE2 and everything else: LLVM makes these legal on any target.
    return Machine(vector_bytes=16, registers=16, fused=False)


MACHINE = detect_machine()


class Shape(NamedTuple):
    """Rows of a kind of tile, and the most vectors across."""

    rows: int
    vectors: int


SHAPES_BY_REGISTERS: dict[int, dict[tuple[str, str], Shape]] = {
    32: {
        ("dense", "rows"): Shape(6, 4),
        ("dense", "columns"): Shape(8, 3),
        ("listed", "rows"): Shape(2, 7),
        ("listed", "columns"): Shape(2, 7),
        ("dense", "row"): Shape(1, 14),
        ("listed", "row"): Shape(1, 14),
        ("packed", "row"): Shape(1, 14),
    },
    16: {
        ("dense", "rows"): Shape(4, 3),
        ("dense", "columns"): Shape(4, 3),
        ("listed", "rows"): Shape(2, 5),
        ("listed", "columns"): Shape(2, 5),
        ("dense", "row"): Shape(1, 13),
        ("listed", "row"): Shape(1, 13),
        ("packed", "row"): Shape(1, 13),
    },
}
"""The shapes, by the size of the register file and by kind (`fastmlp.kernels.tiles` says what the kinds are).

Dense tiles are as square as fits, for the fewest loads; those by columns have a number of rows that divides the 16 that
`fastmlp.kernels.weights` takes at a time. Listed tiles are flat and wide: the fewer rows share a list, the shorter it
is (of MNIST's pixels 19 % are not zero, 29 % in the union of two digits, 35 % of three), and two rows are enough for
the loads not to hold up the multiplications. Tiles of a single row are for single samples, and packed ones:
13 vectors of AVX2 in float32, or of AVX-512 in float64, are a layer of 100 units. So its list is read once, and a row
of W from its beginning to its end (of 20,000 sparse samples in float64, 0.91 to 0.95 of the time on Zen 4, and kept to
AVX2 there 0.84)."""

SHAPES = SHAPES_BY_REGISTERS[MACHINE.registers]


def lanes_of(bits: int) -> int:
    """Lanes of a vector of float32 or float64."""
    return MACHINE.vector_bytes * 8 // bits
