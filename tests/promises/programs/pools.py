"""Worker processes of `multiprocessing`, however they are started, and of joblib, after a fit with two threads.

Argument: how they are started.
"""

from __future__ import annotations

import multiprocessing
import sys
import warnings

import host

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


def task(known: dict[str, bytes], net: host.fastmlp.MLP) -> bool:
    """Work, and predict with a network that came from the parent."""
    return host.work(known) and net.forward(host.X).tobytes() == known["forward"]


if __name__ == "__main__":
    how, n = sys.argv[1], int(sys.argv[2])
    known = host.learn()
    tasks = [(known, host.net)] * n
    if how == "loky":
        from joblib import Parallel, delayed
        from joblib.externals.loky import get_reusable_executor

        right = Parallel(n_jobs=2, backend="loky")(delayed(task)(*each) for each in tasks)
        get_reusable_executor().shutdown()
    else:
        with multiprocessing.get_context(how).Pool(2) as pool:
            right = pool.starmap(task, tasks, chunksize=1)
            pool.close()
            pool.join()
    print(sum(right))
