"""Functions that cost nothing or exactly what they are told, for measuring what everything else costs."""

from __future__ import annotations

import ctypes
import os
import time

# Linux wakes a sleeper up to 50 us late unless told otherwise (PR_SET_TIMERSLACK, in nanoseconds)
ctypes.CDLL(None).prctl(29, 1000)


def noop(value: object = None) -> object:
    return value


def meet(comm: object) -> int:
    """Nothing, on several ranks."""
    return comm.Get_size()  # type: ignore[attr-defined, no-any-return]


def wait(seconds: float, *others: object) -> float:
    """Take so long without a processor, as a task that waits for a file does; how long it really took."""
    begun = time.perf_counter()
    if seconds > 0:
        time.sleep(seconds)
    return time.perf_counter() - begun


def spin(seconds: float, *others: object) -> float:
    """Use so much time of a processor; how much it was."""
    begun = now = time.thread_time()
    while now - begun < seconds:
        now = time.thread_time()
    return now - begun


def count(*values: object) -> int:
    """Take the results of many calls."""
    return len(values)


def where(seconds: float) -> int:
    """Keep a rank for so long; which process it was."""
    time.sleep(seconds)
    return os.getpid()


def chunk(values: list[object]) -> list[object]:
    """Many calls in one."""
    return [noop(value) for value in values]


def mark(folder: str, number: int, seconds: float) -> int:
    """Take so long, then leave a byte in a file of its own: one for each time that it ran to its end."""
    time.sleep(seconds)
    with open(os.path.join(folder, str(number)), "ab") as file:
        file.write(b"x")
    return number
