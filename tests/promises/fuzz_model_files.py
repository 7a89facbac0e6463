"""Fuzzes what reads files, guided by coverage. Needs atheris, which is no dependency: ``pip install atheris``.

    python tests/promises/fuzz_model_files.py model|checkpoint|idx|npz|csv -max_total_time=600 [libFuzzer's options]

It begins with sound files made on the spot, and ends with the input that broke a rule of `damage.py`, if there is one.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import sys
import tempfile
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed: pip install atheris")

with atheris.instrument_imports(include=["fastmlp"]):
    import damage

    for module in ("idx", "tables"):
        importlib.import_module(f"fastmlp.datasets.{module}")

import numpy as np


def main() -> None:
    """Fuzz one kind of file."""
    kind = sys.argv.pop(1)
    name, make_sound, damage_it, load, error_type = damage.KINDS[kind]
    np.seterr(all="ignore")
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as temporary:
        folder, corpus = Path(temporary), Path(made) / "corpus"
        corpus.mkdir()
        for i, data in enumerate(make_sound(Path(made))):
            (corpus / str(i)).write_bytes(data)
        path = folder / name
        if kind == "idx":
            damage.labels_beside(folder)

        def one_input(data: bytes) -> None:
            path.write_bytes(data)
            try:
                load(path)
            except error_type as error:
                if "\n" in str(error):
                    raise RuntimeError("a message of several lines") from error

        def mutated(data: bytes, max_size: int, seed: int) -> bytes:
            """Damage a file where it hurts; libFuzzer's own bytes where it is no file any more."""
            rng = random.Random(seed)
            if rng.random() < 0.7:
                with contextlib.suppress(Exception):
                    return damage_it(data, rng)[:max_size]
            return bytes(atheris.Mutate(data, max_size))

        options = ["-max_len=20000", "-rss_limit_mb=1000", "-timeout=20", *sys.argv[1:]]
        atheris.Setup([sys.argv[0], *options, str(corpus)], one_input, custom_mutator=mutated)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
