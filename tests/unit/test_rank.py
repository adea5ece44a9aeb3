"""The rank's machine, told stories: events in, then exactly these messages and actions."""

from __future__ import annotations

import struct

import msgspec
import pytest
from rank_story import ERROR, Story, done

from pyfi_hpc.core.rank import AGENT, RankMachine
from pyfi_hpc.errors import RemoteProtocolError
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.events import Received, RunnerExited, Signalled, Unreachable
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.messages import Beat, Bundle, Done, Kill, RankBeat, RankReady, Stop
from pyfi_hpc.model.states import Cause
from pyfi_hpc.runner.payload import decode_error
from pyfi_hpc.sim.runners import in_blocks


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
