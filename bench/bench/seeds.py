"""The default recipe over five seeds: each test accuracy, and the mean.

python bench/seeds.py                              # seeds 0 to 4
python bench/seeds.py 5-14 --schedule cosine       # other seeds, other options of fastmlp.train
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

from fastmlp import train


def test_accuracy(seed: int, arguments: list[str]) -> float:
    """Run the command line with one seed and read its summary."""
    with tempfile.TemporaryDirectory() as out:
        status = train.main(["--quiet", "--seed", str(seed), "--out", out, *arguments])
        if status:
            sys.exit(status)
        return float(json.loads((Path(out) / "summary.json").read_text())["test_accuracy"])


def main(arguments: list[str]) -> None:
    """Print the table."""
    seeds = "0-4" if not arguments or arguments[0].startswith("-") else arguments.pop(0)
    first, _, last = seeds.partition("-")
    accuracies = []
    for seed in range(int(first), int(last or first) + 1):
        accuracies.append(test_accuracy(seed, arguments))
        print(f"seed {seed:3d}   test accuracy {accuracies[-1]:.2%}", flush=True)
    print(f"mean of {len(accuracies):2d}      {statistics.mean(accuracies):.3%}")


if __name__ == "__main__":
    main(sys.argv[1:])
