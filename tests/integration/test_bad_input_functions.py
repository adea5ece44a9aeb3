"""Functions that misbehave on real ranks: a clear end, readable output, and everybody else goes on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest
from instance_fixture import Instance, gone, until

from pyfi_hpc.errors import TaskFailed, TaskLost, TaskTimeout

WAIT_S = 30.0


@pytest.fixture(autouse=True)
def _all_goes_on(healthy: Instance) -> None:
    """After each test the instance serves with the same processes."""


def test_a_gigabyte_of_output(box: Instance) -> None:
    """1 GB to stdout: the task completes, the beginning and the end are kept, the rank's memory stays small."""
    rank = box.ranks()
    future = box.executor().submit("trouble.flood", 1 << 30)
    assert future.result(WAIT_S) == 1 << 30
    output = box.output(future.id)
    assert output["stdout"].startswith(b"xxx") and b"bytes left out" in output["stdout"]
    assert len(output["stdout"]) < 200_000
    assert all(psutil.Process(pid).memory_info().rss < 300 << 20 for pid in rank)


def test_exits(box: Instance) -> None:
    """os._exit and a segmentation fault: three attempts, then TaskLost says how; last words can be read."""
    lost, segfault = box.executor().submit("trouble.exit_now", 5), box.executor().submit("trouble.segfault")
    assert isinstance(error := lost.exception(WAIT_S), TaskLost), error
    assert "3 times" in error.what and "exit code 5" in error.what and error.task == lost.id
    assert b"last words" in box.output(lost.id)["stdout"]
    assert isinstance(error := segfault.exception(WAIT_S), TaskLost)
    assert "Segmentation fault" in error.what
    assert b"Fatal Python error" in box.output(segfault.id)["stderr"]


def test_a_poison_task_spares_the_others_of_its_map(box: Instance) -> None:
    """One element of a map kills its process each time: it is TaskLost, all others complete."""
    results = box.executor().map("trouble.die_if", range(40), [17] * 40, timeout=WAIT_S)
    assert [next(results) for _ in range(17)] == list(range(17))
    with pytest.raises(TaskLost, match="signal 9"):
        next(results)
    assert list(results) == list(range(18, 40))


def test_a_task_that_dies_once_is_tried_again(box: Instance, tmp_path: Path) -> None:
    """Death of the process at the first attempt only."""
    future = box.executor().submit("trouble.die_once", str(tmp_path))
    assert future.result(WAIT_S) == "lived"
    assert len(box.ask("call", id=future.id)["attempts"]) == 2


def test_fork_and_return(box: Instance) -> None:
    """The copy ends; the caller gets the parent's answer once."""
    futures = [box.executor().submit("trouble.fork_and_return") for _ in range(4)]
    assert [future.result(WAIT_S) for future in futures] == ["parent"] * 4


def test_sys_exit(box: Instance) -> None:
    """sys.exit fails the task and ends nobody: not the runner, not the caller."""
    error = box.executor().submit("trouble.sys_exit", "enough").exception(WAIT_S)
    assert isinstance(error, TaskFailed) and "SystemExit" in error.what and "enough" in error.what


def test_exceptions(box: Instance) -> None:
    """Payloads that cannot travel: type, message and traceback come, cut to a size."""
    ex = box.executor()
    odd, huge = ex.submit("trouble.raise_odd"), ex.submit("trouble.raise_huge", 50 << 20)
    loop, mute = ex.submit("trouble.raise_recursive"), ex.submit("trouble.raise_mute")
    deep = ex.submit("trouble.recurse")
    error = odd.exception(WAIT_S)
    assert isinstance(error, TaskFailed) and error.type_name == "trouble.Awkward"
    assert "raise Awkward" in error.traceback_text
    error = huge.exception(WAIT_S)
    assert type(error).__name__ in ("ValueError", "TaskFailed") and len(str(error)) < 1 << 20
    assert "[...]" in str(loop.exception(WAIT_S))
    assert "Mute" in str(mute.exception(WAIT_S))
    assert isinstance(deep.exception(WAIT_S), RecursionError)


def test_results_that_cannot_travel(box: Instance) -> None:
    """The place inside the result is named; over the limit both sizes are."""
    ex = box.executor()
    odd, loop = ex.submit("trouble.return_odd"), ex.submit("trouble.return_loop")
    big = ex.submit("trouble.return_big", 9 << 20)
    error = odd.exception(WAIT_S)
    assert isinstance(error, TaskFailed) and "result['bad'][2]" in error.what and "object" in error.what
    assert "over the limit" in str(big.exception(WAIT_S))
    assert loop.exception(WAIT_S) is not None


@pytest.mark.parametrize("function", ["forever", "stubborn", "hold_gil"])
def test_time_limit(box: Instance, function: str) -> None:
    """Never ends, ignores SIGTERM, holds the GIL: TaskTimeout at the limit and the grace; others go on."""
    args = () if function == "forever" else (60,)
    ex, began = box.executor(), time.monotonic()
    late = ex.with_options(time_limit=0.5).submit(f"trouble.{function}", *args)
    assert list(ex.map("trouble.same", range(50), timeout=10)) == list(range(50))
    error = late.exception(WAIT_S)
    assert isinstance(error, TaskTimeout) and "time limit of 0.5 s" in error.what
    assert time.monotonic() - began < 6.0
    assert late.status == "TIMEOUT"


def test_all_descriptors_closed(box: Instance) -> None:
    """The function closes the runner's own pipes: the process cannot go on, TaskLost."""
    error = box.executor().submit("trouble.close_all").exception(WAIT_S)
    assert isinstance(error, TaskLost) and "exit code 70" in error.what


def test_rubbish_in_all_descriptors(box: Instance) -> None:
    """The function writes rubbish into the runner's own pipe: the rank drops the runner and lives."""
    ranks = sorted(box.ranks())
    error = box.executor().submit("trouble.scribble").exception(WAIT_S)
    assert isinstance(error, TaskLost) and "runner's pipe" in error.what
    assert sorted(box.ranks()) == ranks


def test_memory_limit(box: Instance) -> None:
    """A limit that the function sets for itself: MemoryError, as itself."""
    assert isinstance(box.executor().submit("trouble.eat_memory", 1 << 30).exception(WAIT_S), MemoryError)


def test_text_that_is_not_text(box: Instance) -> None:
    """Bytes that are no UTF-8 on both streams come as they are, each on its own stream."""
    future = box.executor().submit("trouble.speak", b"caf\xe9 \xff\x00 end", b"err \xfe")
    future.result(WAIT_S)
    output = box.output(future.id)
    assert (output["stdout"], output["stderr"]) == (b"caf\xe9 \xff\x00 end", b"err \xfe")


@pytest.mark.parametrize("apart", [False, True])
def test_grandchildren_end_with_their_runner(box: Instance, apart: bool) -> None:
    """A sleeping process that the function left, also in a session of its own, ends when its runner does."""
    left = box.executor().submit("trouble.leave_grandchild", 600, apart).result(WAIT_S)
    for pid in box.runners():
        psutil.Process(pid).send_signal(signal.SIGKILL)
    until(lambda: gone(left), 5.0, "the grandchild has ended")
