"""What a function can know of its end: pyfi_task.remaining(), on_end() and Continue, in real runner processes."""

from __future__ import annotations

import math
import time

from rank_rig import Rig, rig

from pyfi_hpc.model.states import Cause
from pyfi_hpc.runner.payload import decode_value, encode_value

__all__ = ["rig"]

_CODE = """
import os, threading, time
import pyfi_task

def left():
    return pyfi_task.remaining(), pyfi_task.remaining()

def loop(n, state=0):
    while state < n:
        state += 1
        time.sleep(0.05)
        if pyfi_task.remaining() < 0.5:
            return pyfi_task.Continue(state)
    return state

def loop_over(n, pause, state=None):
    i, total = state or (0, 0)
    return pyfi_task.Continue((i + 1, total + i)) if i < n else total

def cannot(n):
    return pyfi_task.Continue(n)

def unsendable(state=None):
    return pyfi_task.Continue(lambda: 0)

def warned(before_s, seconds):
    seen = []
    pyfi_task.on_end(lambda: seen.append(pyfi_task.remaining()), before_s=before_s)
    pyfi_task.on_end(lambda: 1 / 0, before_s=before_s)
    time.sleep(seconds)
    return seen

def quick(path):
    pyfi_task.on_end(lambda: open(path, "w").close(), before_s=0.1)

def idle(path):
    time.sleep(0.5)
    return os.path.exists(path), threading.active_count()
"""


def _with_code(rig: Rig) -> Rig:
    (rig.folder / "work" / "ends.py").write_text(_CODE)
    return rig


def test_remaining_is_the_earlier_of_walltime_and_time_limit(rig: Rig) -> None:
    """Neither, each alone, both; and it passes."""
    _with_code(rig)
    assert rig.one("left", module="ends").value == (math.inf, math.inf)
    for limit, ends_in, most in ((0.0, 100.0, 100.0), (50.0, 0.0, 50.0), (50.0, 100.0, 50.0), (50.0, 20.0, 20.0)):
        ends_at = time.monotonic() + ends_in if ends_in else 0.0
        first, second = rig.one("left", module="ends", limit=limit, ends_at=ends_at).value
        assert most - 5.0 < second < first <= most


def test_a_loop_goes_on_from_its_state(rig: Rig) -> None:
    """Continue before the end; the next attempt gets the state as keyword and the answer is that of one run."""
    _with_code(rig)
    leg = rig.one("loop", 40, module="ends", ends_at=time.monotonic() + 1.5)
    assert leg.cause is Cause.CONTINUED
    reached = decode_value(leg.payload)
    assert 5 < reached < 30 and 0.5 < leg.duration < 1.5
    assert rig.one("loop", 40, module="ends", state=leg.payload).value == 40
    state, legs = b"", 0
    while (task := rig.one("loop_over", 5, 0, module="ends", state=state)).cause is Cause.CONTINUED:
        state, legs = task.payload, legs + 1
    assert (task.value, legs) == (10, 5)


def test_a_state_that_cannot_be_kept_is_an_error(rig: Rig) -> None:
    """A function without `state`, and a state that cannot be sent: told at once, not at the next attempt."""
    _with_code(rig)
    task = rig.one("cannot", 1, module="ends")
    assert task.failure.type_name == "TypeError" and "def f(..., state=None)" in task.failure.message
    assert rig.one("unsendable", module="ends").failure.type_name == "Unserialisable"
    # a state that it does not take is a plain error of the call
    assert rig.one("left", module="ends", state=encode_value(3)).failure.type_name == "TypeError"


def test_a_callback_before_the_end(rig: Rig) -> None:
    """So long before it, at once where that is past, never where there is none; an error in it is printed."""
    _with_code(rig)
    task = rig.one("warned", 1.0, 1.5, module="ends", ends_at=time.monotonic() + 2.0)
    (left,) = task.value
    assert 0.5 < left <= 1.0 and b"ZeroDivisionError" in task.err
    (left,) = rig.one("warned", 60.0, 0.3, module="ends", limit=20.0).value
    assert 19.0 < left <= 20.0
    assert rig.one("warned", 1.0, 0.1, module="ends").value == []


def test_a_callback_does_not_outlive_its_task(rig: Rig) -> None:
    """The task ends before: its callback is not called while the next one runs."""
    _with_code(rig)
    path = str(rig.folder / "called")
    rig.one("quick", path, module="ends", limit=0.3)
    assert rig.one("idle", path, module="ends").value == (False, 1)
