"""The rank takes permits back before it ends or hands back a task: what has begun is never guessed."""

from __future__ import annotations

from rank_story import Story, done

from pyfi_hpc.model.messages import Kill
from pyfi_hpc.model.states import Cause
from pyfi_hpc.runner.payload import decode_error


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


def test_what_has_begun_before_the_one_that_is_ended_is_not_handed_back() -> None:
    """The rank thinks that the first of four runs; the third does and is ended, so the second had its end: it stays."""
    s = Story()
    s.running(1, 4)
    assert s.hear(Kill(bundle=1, lo=11, count=1, cause=Cause.RELEASED)) == ["take permits 1"]
    assert s.hear(Kill(bundle=1, lo=12, count=2, cause=Cause.CANCELLED)) == []
    assert s.taken(1, 1) == ["kill 1 soft"]
    assert s.say(1, done(1, 0), done(1, 1)) == ["done 1 10+2 NONE,NONE"]
    assert s.exit(1, "signal 15") == ["done 1 12+2 CANCELLED,CANCELLED"]
