"""A run whose disk is full from some step on: the script that `test_resume` starts where it may set limits and mount.

``python full_disk.py FOLDER limit|disk STEP`` fits with checkpoints in FOLDER. After that step no file may grow beyond
10 kB, or the disk that FOLDER is, a small one, is filled up. Prints as JSON what the run was stopped by, at which step
its last checkpoint stands, what lies in the folder, and whether the run that goes on ends as one that had room does.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from contextlib import suppress

import numpy as np

from fastmlp import MLP, Adam, Progress, resuming
from fastmlp.checkpoint import SavedNetwork

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(1000, 20)), RNG.integers(4, size=1000)
ARGUMENTS = {"epochs": 6, "batch_size": 20, "optimizer": Adam(0.01), "validation_data": (X[:50], Y[:50])}


def main() -> None:
    folder, how, step = sys.argv[1], sys.argv[2], int(sys.argv[3])
    filler = os.path.join(folder, "filler")
    is_full = False
    resuming.WRITING_SHARE = 1.0

    def fill(progress: Progress) -> None:
        nonlocal is_full
        if progress.step < step or is_full:
            return
        is_full = True
        if how == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        else:
            with suppress(OSError), open(filler, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    def make_room() -> None:
        if how == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        else:
            os.unlink(filler)

    def network() -> MLP:
        return MLP([20, 100, 4], engine="numpy")

    with_room = network()
    expected = with_room.fit(X, Y, **ARGUMENTS)
    checkpoints = {"checkpoint": folder, "checkpoint_every": 0.3, "resume": True}
    message = ""
    try:
        network().fit(X, Y, **ARGUMENTS, **checkpoints, progress=fill)
    except OSError as error:
        message = str(error)
    make_room()
    state = SavedNetwork(os.path.join(folder, resuming.CHECKPOINT)).state
    assert state is not None
    left = os.listdir(folder)
    net = network()
    history = net.fit(X, Y, **ARGUMENTS, **checkpoints)
    pairs = zip(net.weights + net.biases, with_room.weights + with_room.biases, strict=True)
    is_same = all(np.array_equal(a, b) for a, b in pairs) and history.train_loss == expected.train_loss
    print(json.dumps({"message": message, "steps": state.step, "left": left, "is_same": is_same}))


if __name__ == "__main__":
    main()
