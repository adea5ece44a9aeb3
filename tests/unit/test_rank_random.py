"""The rank's machine and a runner that obeys the protocol, in any order in which they may hear of each other."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rank_story import ERROR, Story, done

from pyfi_hpc.core.rank import AGENT
from pyfi_hpc.model.effects import Effects, GivePermits, StartRunner, TakePermits, WriteRunner
from pyfi_hpc.model.events import PermitsTaken, Received, RunnerExited, RunnerSpoke
from pyfi_hpc.model.messages import Bundle, Kill
from pyfi_hpc.model.states import Cause
from pyfi_hpc.sim.runners import in_blocks


class Imagined:
    """A runner that obeys the protocol; a test decides when it goes on and when it is heard."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ready = self.dying = False
        self.inbox: list[list[Any]] = []
        #: True: the inbox is to be read first
        self.permits: list[bool] = []
        self.look_first = self.has_permit = False
        #: run, its first task, its end, the next position
        self.runs: list[list[int]] = []
        self.skips: set[tuple[int, int]] = set()
        self.running: tuple[int, int] | None = None
        #: tasks that it began, and what the rank has not heard
        self.began: list[int] = []
        self.spoken: list[list[Any]] = []

    def give(self, permits: int) -> None:
        for _ in range(permits):
            self.permits.append(self.look_first)
            self.look_first = False

    def take_back(self) -> PermitsTaken:
        taken, self.permits, self.look_first = len(self.permits), [], True
        return PermitsTaken(self.number, taken)

    def look(self) -> None:
        for frame in self.inbox:
            if frame[0] == "run":
                self.runs.append([frame[1], frame[3], len(frame[7]) // 4 - 1, 0])
            elif frame[0] == "skip":
                self.skips.update((frame[1], i) for i in range(frame[2], frame[3]))
            else:
                self.dying = True
        self.inbox = []

    def step(self) -> bool:
        """End what runs, or begin the next one; False: it waits."""
        if self.running is not None:
            self.spoken.append(done(*self.running))
            self.running = None
            return True
        if not self.runs:
            self.look()
        while self.runs:
            run, first, count, at = self.runs[0]
            if at == count:
                self.runs.pop(0)
                if not self.runs:
                    self.look()
            elif (run, at) in self.skips:
                self.runs[0][3] += 1
            elif not self.has_permit and not self.permits:
                if not self.inbox:
                    return False
                self.look()
            elif not self.has_permit and self.permits.pop(0):
                self.has_permit = True
                self.look()
            else:
                self.has_permit = False
                self.running = (run, at)
                self.began.append(first + at)
                self.runs[0][3] += 1
                return True
        return False


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_task_ends_exactly_once_in_order(data: st.DataObject) -> None:
    """Random bundles, kills, deaths, slow tasks and broken imports, and a rank that hears late: each task has one
    outcome, in order, begins once at most, and never if it was handed back."""
    s = Story(lease_s=1e9, heartbeat_s=1e8)
    runners: dict[int, Imagined] = {}
    counts: dict[int, int] = {}
    answers: list[PermitsTaken] = []
    began: list[int] = []

    def turn(*events: Any) -> None:
        out = Effects()
        for event in events:
            s.machine.handle(event, s.now, out)
        s.machine.advance(s.now, out)
        for action in out.actions:
            if isinstance(action, StartRunner):
                assert not any(r.running for r in runners.values()), "one active at a time"
                runners[action.runner] = Imagined(action.runner)
            elif action.runner in runners:
                runner = runners[action.runner]
                if isinstance(action, WriteRunner):
                    runner.inbox.append(action.frame)
                    runner.give(action.permits)
                elif isinstance(action, TakePermits):
                    answers.append(runner.take_back())
                elif isinstance(action, GivePermits):
                    runner.give(action.count)
                else:
                    runner.dying = True
        for _, message in out.at_once:
            s._say(message)

    def hear(runner: Imagined, count: int) -> None:
        frames, runner.spoken = runner.spoken[:count], runner.spoken[count:]
        if frames:
            turn(RunnerSpoke(runner.number, in_blocks(frames)))

    def die(runner: Imagined, status: int) -> None:
        hear(runner, len(runner.spoken))
        began.extend(runner.began)
        del runners[runner.number]
        turn(RunnerExited(runner.number, status, "it died"))

    def move() -> None:
        what = data.draw(st.sampled_from(["step"] * 6 + ["hear"] * 3 + ["answer"] * 3 + ["die", "slow"]))
        if what == "answer" and answers:
            turn(answers.pop(0))
        elif what == "slow":
            s.now += data.draw(st.sampled_from([0.03, 1.0, 20.0]))
            turn()
        if not runners:
            return
        runner = data.draw(st.sampled_from(list(runners.values())))
        if what == "hear":
            hear(runner, data.draw(st.integers(1, 3)))
        elif what == "die" or (runner.dying and data.draw(st.booleans())):
            die(runner, data.draw(st.sampled_from([1, -15])))
        elif what == "step" and runner.ready:
            for _ in range(data.draw(st.integers(1, 4))):
                runner.step()
        elif what == "step" and data.draw(st.integers(0, 4)) == 0:
            turn(RunnerSpoke(runner.number, [["broken", ERROR]]))
            runner.dying = True
        elif what == "step":
            runner.ready = True
            turn(RunnerSpoke(runner.number, [["ready", 1, "3", 5000.0]]))

    for _ in range(data.draw(st.integers(1, 60))):
        kind = data.draw(st.sampled_from(["bundle", "kill", "move", "move", "move", "move"]))
        if kind == "bundle":
            number, count = len(counts) + 1, data.draw(st.integers(1, 4))
            counts[number] = count
            turn(Received(AGENT, "agent", "", Bundle(
                number, 5, 6, 7, 100 * number + 10, 10, count, 1, "py", "w", data.draw(st.sampled_from("mmmn")), "f",
                data.draw(st.sampled_from([0.0, 5.0])), struct.pack(f"<{count + 1}I", *range(count + 1)),
                b"p" * count,
            )))  # fmt: skip
        elif kind == "kill" and counts:
            cause = data.draw(st.sampled_from([Cause.CANCELLED, Cause.RELEASED, Cause.RELEASED]))
            lo, count = data.draw(st.integers(10, 13)), data.draw(st.integers(-1, 3))
            number = data.draw(st.sampled_from(list(counts)))
            turn(Received(AGENT, "agent", "", Kill(bundle=number, lo=lo, count=count, cause=cause)))
        else:
            move()
    for _ in range(5000):
        if not s.machine._work:
            break
        if answers:
            turn(answers.pop(0))
        for runner in list(runners.values()):
            if runner.dying:
                die(runner, 1)
            elif not runner.ready:
                runner.ready = True
                turn(RunnerSpoke(runner.number, [["ready", 1, "3", 5000.0]]))
            else:
                runner.step()
                hear(runner, 9)
        s.now += 0.01
        turn()
    for runner in runners.values():
        began += runner.began
    assert len(set(began)) == len(began), "none begins twice"
    for number, count in counts.items():
        ended = s.outcomes.get(number, [])
        assert sorted(at for at, _ in ended) == list(range(10, 10 + count))
        in_order = [at for at, cause in ended if cause is not Cause.RELEASED]
        assert in_order == sorted(in_order)
        back = {100 * number + at for at, cause in ended if cause is Cause.RELEASED}
        assert not back & set(began), "handed back, and begun"
        ran = {100 * number + at for at, cause in ended if cause is Cause.NONE}
        assert ran <= set(began)
