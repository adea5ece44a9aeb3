"""A rank's machine with real runner processes, and a list in place of the agent."""

from __future__ import annotations

import ctypes
import select
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pyfi_hpc.adapters.child import Runners
from pyfi_hpc.core.rank import AGENT, RankMachine
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.events import Received
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.messages import Bundle, Done
from pyfi_hpc.model.states import Cause
from pyfi_hpc.runner.payload import Failure, decode_error, decode_value, encode_call

FUNCTIONS = """
import ctypes, os, signal, subprocess, sys, time
import pyfi_task

def add(a, b=1): return a + b
def nap(s): time.sleep(s); return s
def note(path, k, s):
    with open(path, "ab", 0) as file: file.write(b"%d " % k)
    until = time.perf_counter() + s
    while time.perf_counter() < until: pass
    return k
def who(): return os.getpid()
def env(name): return os.environ.get(name)
def token(): return str(pyfi_task.current()), env("PYFI_TASK"), env("PYFI_ATTEMPT"), env("PYFI_GRANT")
def threads(): return os.environ["OMP_NUM_THREADS"], os.environ.get("PMI_RANK"), os.environ.get("PYFI_LEDGER")
def where(): return os.getcwd()
def leave(code): print("bye", flush=True); os._exit(code)
def quit(code): sys.exit(code)
def segfault(): print("before"); ctypes.string_at(0)
def fork_and_return(): return "parent" if os.fork() else "child"
def fork_and_stay(s): return "parent" if os.fork() else time.sleep(s)
def close_high(n):
    fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd))
    os.close(fds[-n]); return fds[-n]
def fork_and_raise():
    if os.fork() == 0: raise SystemExit(3)
    time.sleep(0.05); return "parent"
def grandchild(path):
    p = subprocess.Popen(["sleep", "300"]); open(path, "w").write(str(p.pid)); return 1
def daemon_then_die(path):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open(path, "w").write(str(os.getpid())); time.sleep(300)
        os._exit(0)
    while not os.path.exists(path) or not open(path).read(): time.sleep(0.01)
    os._exit(9)
def stubborn(): signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)
def hold_gil(): ctypes.PyDLL(None).sleep(60)
def close_all(): os.closerange(3, 1 << 20); return 1
def close_some(): os.closerange(0, 3); return os.open("/dev/null", os.O_RDONLY)
def steal_stdout(path):
    f = os.open(path, os.O_RDWR | os.O_CREAT); os.write(f, b"precious"); os.dup2(f, 1); return 1
def flood(n):
    block = b"x" * (1 << 20)
    print("head"); sys.stdout.flush()
    for _ in range(n): os.write(1, block); time.sleep(0.001)  # no faster than a rank that waits for its core can look
    print("tail")
def speak(): print("h\\u00e9llo \\udc80"); sys.stdout.buffer.write(b"\\xff\\n"); spoken()
def spoken(): sys.stdout.flush(); print("err", file=sys.stderr); os.system("echo sub")
def lambdas(): return [1, {"f": lambda: 0}]
def big(n): return b"x" * n
def twice(v): return [v, v]
class Odd(Exception):
    def __init__(self): self.lock = __import__("threading").Lock(); super().__init__(self.lock)
def odd(): raise Odd()
def bad(): raise ValueError("wrong", 3)
def deep(): return deep()
def interrupt(): raise KeyboardInterrupt
"""

_PR_SET_CHILD_SUBREAPER = 36


class Rig:
    """The loop of a rank with a list in place of the agent."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.limits = Limits(lease_s=1000, **limits)
        self.folder = folder
        (folder / "work").mkdir()
        (folder / "work" / "functions.py").write_text(FUNCTIONS)
        self.runners = Runners(self.limits, folder, adopt=True)
        self.machine = RankMachine(self.limits, rank=3, world=4, pid=1, core=0, import_limit_s=5.0)
        self.sent: list[Any] = []
        self.bundles = 0
        self.poll = select.poll()
        self.poll.register(self.runners.waitable, select.POLLIN)

    def turn(self, events: list[Any]) -> None:
        out = Effects()
        for event in events:
            self.machine.handle(event, time.monotonic(), out)
        self.machine.advance(time.monotonic(), out)
        for action in out.actions:
            self.runners.do(action)
        for peer, message in out.at_once:
            assert peer == AGENT
            self.sent.append(message)

    def tell(self, message: Any) -> None:
        self.turn([Received(peer=AGENT, role="agent", user="", message=message)])

    def run(
        self, function: str, *calls: Any, module: str = "functions", limit: float = 0.0, **more: Any
    ) -> int:
        """Send one bundle with one task for each tuple of arguments; returns its number."""
        payloads = [encode_call(c if isinstance(c, tuple) else (c,)) for c in calls]
        self.bundles += 1
        values = {
            "bundle": self.bundles, "grant": 77, "batch": 5, "job": 9, "first": 20, "lo": 10,
            "count": len(calls),
            "attempt": 2, "python": sys.executable, "workdir": str(self.folder / "work"), "module": module,
            "function": function, "time_limit_s": limit, "offsets": offsets(payloads),
            "payload": b"".join(payloads),
        }  # fmt: skip
        self.tell(Bundle(**{**values, **more}))
        return self.bundles

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := min(until, self.machine.wake_at()) - time.monotonic()) or True:
            if time.monotonic() >= until:
                return
            self.poll.poll(max(left, 0) * 1000)
            self.turn(self.runners.receive())

    def spin_until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"not within {seconds} s"
            self.spin(0.01)

    def results(self, bundle: int, seconds: float = 20.0) -> list[Task]:
        """Wait for all outcomes of a bundle."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = [
                task for m in self.sent if isinstance(m, Done) and m.bundle == bundle for task in unpack(m)
            ]
            ran = [t.offset for t in found if t.cause != Cause.RELEASED]
            assert ran == sorted(ran), "what ran is told in order"
            found.sort(key=lambda t: t.offset)
            assert len({t.offset for t in found}) == len(found), "none twice"
            if bundle not in [w.bundle.bundle for w in self.machine._work]:
                return found
            self.spin(0.02)
        raise AssertionError(f"bundle {bundle} did not end: {self.sent}")

    def one(self, function: str, *args: Any, **more: Any) -> Task:
        (task,) = self.results(self.run(function, args, **more))
        return task


class Task:
    def __init__(
        self, offset: int, cause: Cause, payload: bytes, started: float, duration: float, outputs: Any
    ) -> None:
        self.offset, self.cause, self.payload = offset, cause, payload
        self.started, self.duration = started, duration
        self.out, self.err = outputs

    @property
    def value(self) -> Any:
        assert self.cause is Cause.NONE, self.failure
        return decode_value(self.payload)

    @property
    def failure(self) -> Failure:
        assert self.cause is not Cause.NONE
        return decode_error(self.payload)


def offsets(parts: list[bytes]) -> bytes:
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + len(part))
    return struct.pack(f"<{len(ends)}I", *ends)


def unpack(done: Done) -> list[Task]:
    o = done.outcome
    assert (o.grant, o.batch, o.attempt, o.rank) == (77, 5, 2, 3)
    n = o.count
    ends = struct.unpack(f"<{n + 1}I", o.offsets)
    outputs = {at: (out, err) for at, out, err in msgspec.msgpack.decode(o.outputs)} if o.outputs else {}
    started, durations = struct.unpack(f"<{n}d", o.started), struct.unpack(f"<{n}f", o.durations)
    return [
        Task(o.lo + i, Cause(o.causes[i]), o.payload[ends[i] : ends[i + 1]], started[i], durations[i],
             outputs.get(o.lo + i, (b"", b"")))
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, kill_grace_s=0.5)
    yield rig
    rig.runners.close()
    # a rank adopts what its runners leave; this process must not go on to adopt what later tests start
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("runner-")] == []
