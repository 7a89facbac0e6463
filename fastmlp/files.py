"""Files that are whole, or not there: written beside their place and renamed, whenever the process is killed."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

PAUSES = (0.01, 0.1, 0.5) if sys.platform == "win32" else ()
"""Seconds after which a renaming that was refused is tried again."""


def rename(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename a file, in the place of what is there.

    On Windows, a virus scanner or an indexer may hold a new file for some milliseconds, and refuse that meanwhile.
    """
    for pause in PAUSES:
        try:
            os.replace(source, target)
            return
        except PermissionError:  # noqa: PERF203 - It is what the loop is for.
            time.sleep(pause)
    os.replace(source, target)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, flush it to the disk, and rename it to `path`.

    Whenever the process is killed or the power fails, `path` is the old file or the new one, whole. A symbolic link
    stays, and so do the file's permissions; a device or a pipe is not replaced.
    """
    path, mode = Path(os.path.realpath(path)), None
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # A folder is what the renaming refuses.
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            if mode is not None and sys.platform != "win32":  # There it could be read-only, and so not be renamed.
                with suppress(OSError):  # Some file systems have no permissions that one could change.
                    os.chmod(temporary, stat.S_IMODE(mode))
            with suppress(OSError):  # Some network file systems have no locks.
                lock(file)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):  # It may be renamed already, or the folder be gone.
            os.unlink(temporary)
        raise


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk: without it a power failure may undo a rename. Windows cannot, and need not."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # How some network file systems say that they cannot.
            raise
    finally:
        os.close(descriptor)


def lock(file: BinaryIO) -> None:
    """Hold a file as long as it is open, and the process alive; raise OSError if somebody else holds it.

    On Windows, an open file is held anyway: nobody can remove it.
    """
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files beside `path` whose writers were killed; those that are being written are held."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with suppress(OSError):
            with open(leftover, "r+b") as file:
                lock(file)
            os.unlink(leftover)
