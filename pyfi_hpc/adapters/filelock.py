"""A lock between processes of one user: an empty file, held by ``flock``.

The kernel lets go when the process ends, however it ends: no stale locks, nothing to clean up.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyfi_hpc.errors import TransientError

_POLL_S = 0.05


@contextmanager
def hold(
    path: Path, *, timeout_s: float, what: str, progress: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock file ``path``; its folder must exist.

    Parameters
    ----------
    timeout_s : float
        Seconds to wait for another holder.
    what : str
        What the lock guards, for the message.

    Raises
    ------
    TransientError
        Another process held it all the time.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline, told = time.monotonic() + timeout_s, False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            if not told and progress is not None:
                progress(f"waiting for another process that works on {what}")
                told = True
            if time.monotonic() > deadline:
                raise TransientError(
                    f"another process has worked on {what} for over {timeout_s:.0f} s",
                    where=str(path), fix="try again when it is finished",
                )  # fmt: skip
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def take(path: Path) -> int | None:
    """Take a lock file that goes away when its holder ends in order; its folder must exist.

    Returns
    -------
    int or None
        A descriptor: unlink the file, then close it, to let go. None: another process holds it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)  # its holder removed it between our two looks


def text(path: Path) -> str:
    """What its holder wrote there; "" where it has just gone."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
