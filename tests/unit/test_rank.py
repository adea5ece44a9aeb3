"""The rank's machine, told stories: events in, then exactly these messages and actions."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyfi_hpc.core.rank import AGENT, RankMachine
from pyfi_hpc.errors import RemoteProtocolError
from pyfi_hpc.model.effects import Effects, GivePermits, KillRunner, StartRunner, TakePermits, WriteRunner
from pyfi_hpc.model.events import PermitsTaken, Received, RunnerExited, RunnerSpoke, Signalled, Unreachable
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.messages import Beat, Bundle, Done, Kill, RankBeat, RankReady, Stop
from pyfi_hpc.model.states import Cause
from pyfi_hpc.runner.payload import decode_error
from pyfi_hpc.sim.runners import in_blocks

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


def test_the_end_of_an_allocation_is_no_crash() -> None:
    """Slurm's TERM ends the runner first, then reaches the rank: preempted, if the agent has not said stop by then."""
    s = Story()
    s.running(1, 2)
    term = RunnerExited(1, -15, "signal 15")
    assert s.turn(term) == []
    assert s.turn(Signalled("stop")) == []
    assert s.after(0.5) == []
    assert s.after(0.6) == ["start 2 m", "done 1 10+1 PREEMPTED"]


def test_the_agents_stop_ends_a_rank_whose_runner_is_gone() -> None:
    """TERM to all, then the agent's stop: nothing is reported, the rank ends at once."""
    s = Story()
    s.running(1, 2)
    s.turn(Signalled("stop"), RunnerExited(1, -15, "signal 15"))
    assert s.hear(Stop(drain=False)) == []
    assert s.machine.stopped


def test_a_function_that_ends_itself_by_term_crashes() -> None:
    """The same signal from inside, the rank hears nothing: a crash, told a second later."""
    s = Story()
    s.running(1, 1)
    assert s.turn(RunnerExited(1, -15, "signal 15")) == []
    assert s.after(1.1) == ["done 1 10+1 CRASH"]


def test_a_bundle_runs() -> None:
    """Start, import, run, results in one read become one message; the runner stays for the next bundle."""
    s = Story()
    s.running(1, 3)
    assert s.say(1, done(1, 0), done(1, 1, 1, ERROR), done(1, 2)) == ["done 1 10+3 NONE,ERROR,NONE"]
    assert s.payloads == [b"r", ERROR, b"r"]
    assert s.bundle(2, 2) == ["write 1 run 2 first=50 x2"]
    assert s.say(1, done(2, 0)) == ["done 2 10+1 NONE"]
    assert s.say(1, done(2, 1)) == ["done 2 11+1 NONE"]


def test_answers_in_blocks() -> None:
    """A block over the ends of two bundles, with a task that is skipped between: each task gets its own result."""
    s = Story()
    s.running(1, 4)
    s.bundle(2, 2)
    s.hear(Kill(bundle=1, lo=12, count=1, cause=Cause.CANCELLED))
    s.taken(1, 5)
    frames = [done(1, 0, result=b"a"), done(1, 1, result=b"bb"), done(1, 3, result=b"c"), done(2, 0, result=b"dd")]
    (block,) = in_blocks(frames)
    assert block[:2] == ["returned", 4]
    assert s.say(1, block) == ["done 1 10+4 NONE,NONE,CANCELLED,NONE", "done 2 10+1 NONE"]
    assert [p for p in s.payloads if len(p) < 3] == [b"a", b"bb", b"c", b"dd"]
    assert s.say(1, *in_blocks([done(2, 1)])) == ["done 2 11+1 NONE"]


def test_two_bundles_are_written_ahead() -> None:
    """The third waits until the first is done; results of two bundles in one read are two messages."""
    s = Story()
    s.running(1, 1)
    assert s.bundle(2) == ["write 1 run 2 first=50 x1"]
    assert s.bundle(3) == []
    assert s.say(1, done(1, 0), done(2, 0)) == [
        "write 1 run 3 first=50 x1",
        "done 1 10+1 NONE",
        "done 2 10+1 NONE",
    ]


def test_one_runner_is_active_at_a_time() -> None:
    """A bundle of another environment starts when the active one has nothing left, and not before."""
    s = Story()
    s.running(1, 1)
    assert s.bundle(2, module="other") == []
    assert s.bundle(3) == []  # behind the second: the order of arrival holds
    assert s.say(1, done(1, 0)) == ["start 2 other", "done 1 10+1 NONE"]
    assert s.say(2, ["ready", 9, "3.11", 5000.0]) == ["write 2 run 2 first=50 x1"]
    assert s.say(2, done(2, 0)) == ["write 1 run 3 first=50 x1", "done 2 10+1 NONE"]


def test_the_least_used_warm_runner_ends() -> None:
    """A fifth environment: the one unused for longest is told to stop, then killed if it does not."""
    s = Story(lease_s=100, heartbeat_s=50)
    for n, module in enumerate("mabc", 1):
        s.now += 1
        assert s.bundle(n, module=module) == [f"start {n} {module}"]
        s.say(n, ["ready", 9, "3.11", 5000.0])
        s.say(n, done(n, 0))
    assert s.bundle(5, module="d") == ["write 1 stop", "start 5 d"]
    assert s.after(1.9) == []
    assert s.after(0.2) == ["kill 1 hard"]
    assert s.exit(1) == []


def test_a_death_charges_the_head_only() -> None:
    """The second of three tasks dies: CRASH with its words and stderr; the third goes to a fresh runner."""
    s = Story()
    s.running(1, 3)
    s.bundle(2, 1)
    assert s.say(1, done(1, 0)) == ["done 1 10+1 NONE"]
    s.now += 2.0
    said = s.exit(1, "signal 11 (Segmentation fault)", stderr=b"in f")
    assert said[:2] == ["start 2 m", "done 1 11+1 CRASH"]
    failure = decode_error(s.errors[0])
    assert "signal 11" in failure.message
    assert failure.traceback_text == "in f"
    assert s.say(2, ["ready", 9, "3.11", 5000.0]) == [
        "write 2 run 3 first=52 x1",
        "write 2 run 4 first=50 x1",
    ]
    assert s.say(2, done(3, 0), done(4, 0)) == ["done 1 12+1 NONE", "done 2 10+1 NONE"]


def test_times_of_a_dead_task() -> None:
    """It began when the outcome before it came; UTC is learned from the runner's words."""
    s = Story()
    s.running(1, 2)
    s.say(1, done(1, 0))  # ended at 5000.25 UTC
    s.now += 3.0
    out = Effects()
    s.machine.handle(RunnerExited(1, -9, "signal 9", out_of_memory=True, stdout=b"o"), s.now, out)
    (outcome,) = [m.outcome for _, m in out.at_once if isinstance(m, Done)]
    assert outcome.causes == bytes([Cause.OUT_OF_MEMORY])
    assert struct.unpack("<d", outcome.started) == (5000.25,)
    assert struct.unpack("<f", outcome.durations) == (3.0,)
    assert msgspec.msgpack.decode(outcome.outputs) == [[11, b"o", b""]]


def test_time_limit() -> None:
    """Per task from the outcome before it: a soft signal, after the grace a hard one, TIME_LIMIT
    for the head."""
    s = Story(kill_grace_s=2.0, lease_s=100, heartbeat_s=50)
    assert s.bundle(1, 3, limit=5.0) == ["start 1 m"]
    assert s.after(8.0) == []  # importing is not charged
    s.say(1, ["ready", 9, "3.11", 5000.0])
    assert s.after(4.0) == []
    s.say(1, done(1, 0))
    assert s.after(4.9) == []
    assert s.machine.wake_at() == pytest.approx(s.now + 0.1)
    assert s.after(0.2) == ["take permits 1"]
    assert s.taken(1, 1) == ["kill 1 soft"]
    assert s.after(1.9) == []
    assert s.after(0.2) == ["kill 1 hard"]
    assert s.exit(1, "signal 9") == ["start 2 m", "done 1 11+1 TIME_LIMIT"]
    assert s.say(2, ["ready", 9, "3.11", 5000.0]) == ["write 2 run 2 first=52 x1"]


def test_a_time_limit_that_came_too_late_ends_nothing() -> None:
    """The head ended as its time was over, and the next one runs: it goes on, in its own time."""
    s = Story(lease_s=100, heartbeat_s=50)
    s.running(1, 3, limit=5.0)
    assert s.after(5.1) == ["take permits 1"]
    assert s.taken(1, 1) == ["give permits 1 x1"]
    assert s.say(1, done(1, 0)) == ["done 1 10+1 NONE"]
    assert s.after(4.9) == []
    assert s.after(0.2) == ["take permits 1"]
    assert s.taken(1, 1) == ["kill 1 soft"]
    assert s.exit(1, "signal 15") == ["start 2 m", "done 1 11+1 TIME_LIMIT"]


def test_a_signal_that_came_too_late_hits_nobody() -> None:
    """The one that runs ends by itself just before the signal: nothing else could begin, so the next runs elsewhere."""
    s = Story(lease_s=100, heartbeat_s=50)
    s.running(1, 2, limit=5.0)
    assert s.after(5.1) == ["take permits 1"]
    assert s.taken(1, 1) == ["kill 1 soft"]
    assert s.say(1, done(1, 0)) == ["done 1 10+1 NONE"]
    assert s.exit(1, "signal 15") == ["start 2 m"]
    assert s.say(2, ["ready", 9, "3.11", 5000.0]) == ["write 2 run 2 first=51 x1"]


def test_a_head_that_cannot_begin_is_ended_at_its_limit() -> None:
    """What ran before has left a runner that hangs: no permit of it is gone, and it is ended all the same."""
    s = Story(lease_s=100, heartbeat_s=50)
    s.running(1, 2, limit=5.0)
    assert s.after(5.1) == ["take permits 1"]
    assert s.taken(1, 2) == ["kill 1 soft"]
    assert s.exit(1, "signal 15") == ["start 2 m", "done 1 10+1 TIME_LIMIT"]


def test_a_module_that_fails() -> None:
    """Broken: ENVIRONMENT for all bundles of it that wait; another environment is not touched."""
    s = Story()
    assert s.bundle(1, 2) == ["start 1 m"]
    assert s.bundle(2, 1) == []
    assert s.bundle(3, 1, module="other") == []
    assert s.say(1, ["broken", ERROR]) == [
        "start 2 other", "done 1 10+2 ENVIRONMENT,ENVIRONMENT", "done 2 10+1 ENVIRONMENT",
    ]  # fmt: skip
    assert s.errors == [ERROR] * 3
    assert s.exit(1) == []


def test_an_import_that_dies_or_takes_for_ever() -> None:
    """Exit before ready, and the import's own limit: ENVIRONMENT that says which."""
    s = Story(lease_s=100, heartbeat_s=50)
    s.bundle(1)
    assert s.exit(1, "exit code 5") == ["done 1 10+1 ENVIRONMENT"]
    assert "before it could import m: exit code 5" in decode_error(s.errors[0]).message
    assert s.bundle(2) == ["start 2 m"]
    assert s.after(10.1) == ["kill 2 soft"]
    assert s.exit(2, "signal 15") == ["done 2 10+1 ENVIRONMENT"]
    assert "longer than 10 s" in decode_error(s.errors[1]).message


def test_killing_what_waits() -> None:
    """A bundle that is not written, or whose runner is not ready, ends at once and never runs."""
    s = Story()
    assert s.bundle(1, 2) == ["start 1 m"]
    assert s.hear(Kill(bundle=1, lo=0, count=-1, cause=Cause.CANCELLED)) == [
        "done 1 10+2 CANCELLED,CANCELLED"
    ]
    s.bundle(2, 3)
    assert s.hear(Kill(bundle=2, lo=11, count=1, cause=Cause.CANCELLED)) == []  # in order: behind task 10
    assert s.say(1, ["ready", 9, "3.11", 5000.0]) == ["write 1 skip 1 1 2", "write 1 run 1 first=50 x3"]
    assert s.permits == {1: 2}
    assert s.say(1, done(1, 0), done(1, 2)) == ["done 2 10+3 NONE,CANCELLED,NONE"]
    assert s.hear(Kill(bundle=9, lo=0, count=-1, cause=Cause.CANCELLED)) == []


def test_killing_the_one_that_runs() -> None:
    """It is ended by signal and reported with the cause; those behind it run elsewhere."""
    s = Story()
    s.running(1, 3)
    assert s.hear(Kill(bundle=1, lo=10, count=1, cause=Cause.CANCELLED)) == ["take permits 1"]
    assert s.taken(1, 2) == ["kill 1 soft"]
    assert s.exit(1, "signal 15") == ["start 2 m", "done 1 10+1 CANCELLED"]
    assert decode_error(s.errors[0]).type_name == "TaskCancelled"
    assert s.say(2, ["ready", 9, "3.11", 5000.0]) == ["write 2 run 2 first=51 x2"]


def test_killing_one_behind_it() -> None:
    """Whether it has begun, the permits say: if not, it is skipped; if so, ended like any that runs."""
    for begun in (1, 2):
        s = Story()
        s.running(1, 3)
        assert s.hear(Kill(bundle=1, lo=11, count=1, cause=Cause.CANCELLED)) == ["take permits 1"]
        if begun == 1:
            assert s.taken(1, 2) == ["write 1 skip 1 1 2", "give permits 1 x1"]
            assert s.say(1, done(1, 0), done(1, 2)) == ["done 1 10+3 NONE,CANCELLED,NONE"]
        else:
            assert s.taken(1, 1) == ["kill 1 soft"]
            assert s.say(1, done(1, 0)) == ["done 1 10+1 NONE"]
            assert s.exit(1, "signal 15") == ["start 2 m", "done 1 11+1 CANCELLED"]


def test_handing_back() -> None:
    """RELEASED ends nothing that runs and hands back what waits behind it at once; a later CANCELLED ends it."""
    s = Story(lease_s=100, heartbeat_s=50)
    s.running(1, 2)
    assert s.permits == {1: 2}
    assert s.hear(Kill(bundle=1, lo=10, count=2, cause=Cause.RELEASED)) == ["take permits 1"]
    assert s.taken(1, 1) == ["write 1 skip 1 1 2", "done 1 11+1 RELEASED"]
    assert s.after(1.0) == []
    assert s.hear(Kill(bundle=1, lo=10, count=2, cause=Cause.CANCELLED)) == ["take permits 1"]
    assert s.taken(1, 0) == ["kill 1 soft"]
    assert s.exit(1, "signal 15") == ["done 1 10+1 CANCELLED"]


def test_what_has_begun_is_not_handed_back() -> None:
    """The rank thinks that the first of four runs; the permits say that the second has begun, and that stays."""
    s = Story()
    s.running(1, 4)
    assert s.hear(Kill(bundle=1, lo=11, count=3, cause=Cause.RELEASED)) == ["take permits 1"]
    assert s.taken(1, 2) == ["write 1 skip 1 2 4", "done 1 12+2 RELEASED,RELEASED"]
    assert s.say(1, done(1, 0), done(1, 1)) == ["done 1 10+2 NONE,NONE"]
    assert s.bundle(2) == ["write 1 run 2 first=50 x1"]


def test_handing_back_from_the_middle_of_a_line() -> None:
    """Another bundle is behind what is asked for: its permits are given again, and a third bundle waits meanwhile."""
    s = Story()
    s.running(1, 3)
    s.bundle(2, 2)
    assert s.hear(Kill(bundle=1, lo=11, count=2, cause=Cause.RELEASED)) == ["take permits 1"]
    assert s.hear(Kill(bundle=2, lo=11, count=1, cause=Cause.RELEASED)) == []
    assert s.say(1, done(1, 0)) == ["done 1 10+1 NONE"]
    assert s.bundle(3) == []
    assert s.taken(1, 4) == [
        "write 1 skip 1 1 3", "write 1 skip 2 1 2", "give permits 1 x1", "write 1 run 3 first=50 x1",
        "done 1 11+2 RELEASED,RELEASED", "done 2 11+1 RELEASED",
    ]  # fmt: skip
    assert s.say(1, done(2, 0), done(3, 0)) == ["done 2 10+1 NONE", "done 3 10+1 NONE"]


def test_what_a_dead_runner_has_left_is_handed_back() -> None:
    """It dies before the permits are counted: the head is charged, and what is asked for behind it never began."""
    s = Story()
    s.running(1, 3)
    assert s.hear(Kill(bundle=1, lo=10, count=3, cause=Cause.RELEASED)) == ["take permits 1"]
    assert s.exit(1) == ["done 1 10+3 CRASH,RELEASED,RELEASED"]
    assert s.taken(1, 2) == []


def test_a_runner_that_is_ended_starts_nothing_more() -> None:
    """What is asked for behind a task that ignores its signal is handed back at once."""
    s = Story(lease_s=100, heartbeat_s=50)
    s.running(1, 4)
    s.hear(Kill(bundle=1, lo=10, count=1, cause=Cause.CANCELLED))
    assert s.taken(1, 3) == ["kill 1 soft"]
    assert s.hear(Kill(bundle=1, lo=12, count=2, cause=Cause.RELEASED)) == ["done 1 12+2 RELEASED,RELEASED"]
    assert s.exit(1, "signal 9") == ["start 2 m", "done 1 10+1 CANCELLED"]
    assert s.say(2, ["ready", 9, "3.11", 5000.0]) == ["write 2 skip 2 1 3", "write 2 run 2 first=51 x3"]
    assert s.permits[2] == 1
    assert s.say(2, done(2, 0)) == ["done 1 11+1 NONE"]


def test_draining() -> None:
    """What runs is finished, all else handed back, idle runners are told to stop, then the rank stops."""
    s = Story()
    s.running(1, 2)
    s.bundle(2)
    s.bundle(3)
    assert s.hear(Stop(drain=True)) == ["take permits 1", "done 3 10+1 RELEASED"]
    assert s.taken(1, 2) == [
        "write 1 skip 1 1 2", "write 1 skip 2 0 1", "done 1 11+1 RELEASED", "done 2 10+1 RELEASED",
    ]  # fmt: skip
    assert s.bundle(4) == ["done 4 10+1 RELEASED"]
    assert s.say(1, done(1, 0)) == ["write 1 stop", "done 1 10+1 NONE"]
    assert not s.machine.stopped
    assert s.exit(1, "exit code 0") == []
    assert s.machine.stopped


@pytest.mark.parametrize("how", ["stop", "silence", "unreachable"])
def test_leaving(how: str) -> None:
    """Told to stop at once, agent silent for a lease, connection lost: runners are killed, nothing
    is reported."""
    s = Story(lease_s=5.0)
    s.running(1, 2)
    if how == "stop":
        said = s.hear(Stop(drain=False))
    elif how == "unreachable":
        said = s.turn(Unreachable(AGENT))
    else:
        s.now += 5.1
        said = [w for w in s.turn() if w != "beat"]
    assert said == ["kill 1 hard"]
    assert s.say(1, done(1, 0)) == []
    assert s.exit(1) == []
    assert s.machine.stopped


def test_greeting_until_the_agent_answers() -> None:
    """The connection is not there yet: RankReady is said again, without a busy loop; then beats
    each second."""
    machine = RankMachine(Limits(), 0, 1, 7, -1)
    out = Effects()
    machine.advance(10.0, out)
    machine.handle(Unreachable(AGENT), 10.0, out)
    assert machine.wake_at() == pytest.approx(10.02)
    machine.advance(10.03, out)
    machine.handle(Received(AGENT, "agent", "", Beat(counter=1)), 10.1, out)
    machine.advance(10.1, out)
    assert [type(m) for _, m in out.at_once] == [RankReady, RankReady, RankBeat]
    assert machine.wake_at() == pytest.approx(11.1)


def test_malformed_bundles_are_refused() -> None:
    """Offsets of another count of tasks, and messages that are not for a rank."""
    s = Story()
    bad = Bundle(1, 1, 1, 1, 0, 0, 2, 1, "p", "w", "m", "f", 0.0, b"\0" * 8, b"")
    for message in (bad, RankBeat(counter=1)):
        with pytest.raises(RemoteProtocolError):
            s.machine.handle(Received(AGENT, "agent", "", message), s.now, Effects())


def test_large_results_are_cut_into_messages() -> None:
    """Results over the goal of a message start a new one, so that no message grows without limit."""
    s = Story(batch_bytes_goal=100)
    s.running(1, 5)
    said = s.say(1, *[done(1, i, result=b"x" * 60) for i in range(5)])
    assert said == ["done 1 10+2 NONE,NONE", "done 1 12+2 NONE,NONE", "done 1 14+1 NONE"]


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
