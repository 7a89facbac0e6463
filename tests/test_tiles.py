"""Machine code: on every kind of machine the loop of a tile holds its sums in registers; nothing is stored by masks."""

import os
import re
import subprocess
import sys

import cases
import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from fastmlp.kernels import instructions, tiles
from fastmlp.kernels.machine import SHAPES, SHAPES_BY_REGISTERS, Machine

LINUX = "unknown-linux-gnu"
MACHINES = {
    "avx512": (f"x86_64-{LINUX}", "skylake-avx512", "", Machine(vector_bytes=64, registers=32, fused=True)),
    "avx2": (f"x86_64-{LINUX}", "haswell", "", Machine(vector_bytes=32, registers=16, fused=True)),
    "neon": (f"aarch64-{LINUX}", "generic", "+neon", Machine(vector_bytes=16, registers=32, fused=True)),
    "sse2": (f"x86_64-{LINUX}", "x86-64", "", Machine(vector_bytes=16, registers=16, fused=False)),
}
ELEMENTS = {"float32": (ir.FloatType(), 4), "float64": (ir.DoubleType(), 8)}
MULTIPLY = re.compile(r"(vfmadd|fmla|mulp)\w*\s")
STACK = re.compile(r"\(%r[sb]p|\[sp|\[x29")


def machine_code(machine, element, kind, shape):
    """Cross-compile one tile, as lines of assembly."""
    triple, cpu, features, properties = MACHINES[machine]
    kind_of_number, itemsize = ELEMENTS[element]
    module = ir.Module()
    module.triple = triple
    tile = tiles.emit_tile(module, kind_of_number, properties.vector_bytes // itemsize, *shape, kind)
    tile.linkage = "external"
    target = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=3)
    compiled = llvm.parse_assembly(str(module))
    passes = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(compiled, passes)
    return [line.strip() for line in target.emit_assembly(compiled).splitlines()]


def innermost_loop(lines):
    """The lines from the target of the one jump back to that jump."""
    places = {line.split(":")[0]: i for i, line in enumerate(lines) if re.match(r"\.LBB\w+:", line)}
    jumps = [
        (places[found[1]], i)
        for i, line in enumerate(lines)
        if (found := re.match(r"(?:j|b\.?|cbn?z).*?(\.LBB\w+)", line))
    ]
    backward = [(first, last) for first, last in jumps if first <= last]
    assert len(backward) == 1
    first, last = backward[0]
    return lines[first : last + 1]


@pytest.mark.parametrize("kind", SHAPES, ids="-".join)
@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_loop_multiplies_and_does_not_spill(machine, element, kind, monkeypatch):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    properties = MACHINES[machine][3]
    monkeypatch.setattr(instructions, "MACHINE", properties)
    monkeypatch.setattr(tiles, "SHAPES", SHAPES_BY_REGISTERS[properties.registers])
    shape = SHAPES_BY_REGISTERS[properties.registers][kind]
    loop = innermost_loop(machine_code(machine, element, kind, shape))
    multiplications = sum(bool(MULTIPLY.match(line)) for line in loop)
    assert multiplications % (shape.rows * shape.vectors) == 0  # LLVM may unroll the loop.
    assert multiplications > 0
    is_asking = any("prefetch" in line or line.startswith("prfm") for line in loop)
    assert is_asking == (kind in {("dense", "rows"), ("dense", "columns")})
    if properties.fused:  # Without, a product needs a register more, and SSE2 overwrites an operand: a few are spilled.
        assert not [line for line in loop if STACK.search(line)]


MASKED_STORES = """
from numba import float32, int64
from fastmlp.kernels import native

jit = native.compiler()
for name in ("relu", "leaky_relu", "elu"):
    dispatcher = jit.inline(jit.KERNELS[f"activations.{name}"])
    dispatcher.compile((int64, int64, float32))
    (assembly,) = dispatcher.inspect_asm().values()
    assert "ymm" in assembly, f"{name} is no vector code"
    assert "vmaskmov" not in assembly, name
"""


@cases.ON_X86
def test_activations_make_no_masked_stores() -> None:
    """With AVX2 they take ten times as long; LLVM makes them of numbers that are left as they are."""
    done = subprocess.run(
        [sys.executable, "-c", MASKED_STORES],
        env={**os.environ, **cases.AVX2},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
