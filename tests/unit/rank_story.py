"""Tells the rank's machine events and gives what it did, in short words."""

from __future__ import annotations

import struct
from typing import Any

from pyfi_hpc.core.rank import AGENT, RankMachine
from pyfi_hpc.model.effects import Effects, GivePermits, KillRunner, StartRunner, TakePermits, WriteRunner
from pyfi_hpc.model.events import PermitsTaken, Received, RunnerExited, RunnerSpoke
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.messages import Beat, Bundle, Done, RankBeat, RankReady
from pyfi_hpc.model.states import Cause

ERROR = b"\x95\xa1m\xa1T\xa1x\xa0\xc0"


class Story:
    """Tells the machine events and gives what it did, in short words."""

    def __init__(self, **limits: Any) -> None:
        self.machine = RankMachine(Limits(**limits), rank=1, world=2, pid=7, core=0, import_limit_s=10.0)
        self.now = 100.0
        self.outcomes: dict[int, list[tuple[int, Cause]]] = {}
        self.errors: list[bytes] = []
        self.payloads: list[bytes] = []
        #: run -> permits that were given with it
        self.permits: dict[int, int] = {}
        assert self.turn() == ["ready rank=1"]
        assert self.hear(Beat(counter=1)) == ["beat"]

    def turn(self, *events: Any) -> list[str]:
        out = Effects()
        for event in events:
            self.machine.handle(event, self.now, out)
        self.machine.advance(self.now, out)
        assert not out.records
        assert not out.messages
        assert self.machine.stopped or self.machine.wake_at() > self.now, "no busy waiting"
        return [self._say(x) for x in (*out.actions, *(message for _, message in out.at_once))]

    def hear(self, message: Any) -> list[str]:
        return self.turn(Received(AGENT, "agent", "", message))

    def say(self, runner: int, *frames: list[Any]) -> list[str]:
        return self.turn(RunnerSpoke(runner, list(frames)))

    def taken(self, runner: int, count: int) -> list[str]:
        return self.turn(PermitsTaken(runner, count))

    def exit(self, runner: int, how: str = "exit code 1", **more: Any) -> list[str]:
        return self.turn(RunnerExited(runner, 1, how, **more))

    def after(self, seconds: float) -> list[str]:
        """Time passes; the agent's beats come so that silence is no part of the story."""
        self.now += seconds
        return [w for w in self.hear(Beat(counter=2)) if w != "beat"]

    def bundle(
        self, number: int, count: int = 1, module: str = "m", limit: float = 0.0, lo: int = 10
    ) -> list[str]:
        return self.hear(
            Bundle(
                bundle=number, grant=5, batch=6, job=7, first=50, lo=lo, count=count, attempt=1, python="py",
                workdir="w", module=module, function="f", time_limit_s=limit,
                offsets=struct.pack(f"<{count + 1}I", *range(count + 1)), payload=b"p" * count,
            )
        )  # fmt: skip

    def running(self, number: int = 1, count: int = 1, **more: Any) -> None:
        """Bundle 1 runs in runner 1 as run 1."""
        assert self.bundle(number, count, **more) == ["start 1 m"]
        assert self.say(1, ["ready", 9, "3.11", 5000.0]) == [f"write 1 run 1 first=50 x{count}"]

    def _say(self, x: Any) -> str:
        if isinstance(x, StartRunner):
            return f"start {x.runner} {x.module}"
        if isinstance(x, KillRunner):
            return f"kill {x.runner} {'hard' if x.hard else 'soft'}"
        if isinstance(x, TakePermits):
            return f"take permits {x.runner}"
        if isinstance(x, GivePermits):
            return f"give permits {x.runner} x{x.count}"
        if isinstance(x, WriteRunner):
            f = x.frame
            if f[0] == "run":
                self.permits[f[1]] = x.permits
                return f"write {x.runner} run {f[1]} first={f[3]} x{len(f[7]) // 4 - 1}"
            return f"write {x.runner} " + " ".join(map(str, f))
        if isinstance(x, Done):
            o = x.outcome
            assert (o.grant, o.batch, o.attempt, o.rank) == (5, 6, 1, 1)
            assert len(o.started) == 8 * o.count == 8 * len(o.causes) == 2 * len(o.durations)
            ends = struct.unpack(f"<{o.count + 1}I", o.offsets)
            self.errors += [o.payload[a:b] for a, b, c in zip(ends, ends[1:], o.causes, strict=False) if c]
            self.payloads += [o.payload[a:b] for a, b in zip(ends, ends[1:], strict=False)]
            seen = self.outcomes.setdefault(x.bundle, [])
            seen += [(o.lo + i, Cause(c)) for i, c in enumerate(o.causes)]
            return f"done {x.bundle} {o.lo}+{o.count} " + ",".join(Cause(c).name for c in o.causes)
        if isinstance(x, RankReady):
            return f"ready rank={x.rank}"
        assert isinstance(x, RankBeat)
        return "beat"


def done(run: int, index: int, cause: int = 0, result: bytes = b"r") -> list[Any]:
    return ["done", run, index, cause, 5000.0, 0.25, result, None, None]
