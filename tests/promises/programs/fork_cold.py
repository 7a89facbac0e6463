"""Fork while another thread compiles: Numba's lock must not be held in the child for ever."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings

import numpy as np

import fastmlp
from fastmlp.kernels.cache import cache_folder

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
X, W = np.eye(4), np.arange(12.0).reshape(4, 3)


def multiply() -> None:
    assert (fastmlp.kernels.affine_forward(X, W) == W).all()


thread = threading.Thread(target=multiply)
thread.start()
time.sleep(float(sys.argv[1]))
amid = thread.is_alive()
child = os.fork()
if child == 0:
    multiply()
    os._exit(0)
thread.join()
assert os.waitpid(child, 0)[1] == 0
assert cache_folder() is not None
print(amid)
