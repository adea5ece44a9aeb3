"""Functions that several ranks run together over a communicator of their own, on a real instance with MPI.

Four ranks on whatever cores there are: ``mpiexec`` starts them as one world.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from instance_fixture import Instance, instance_with, until

from pyfi_hpc.errors import TaskError, Unsatisfiable

_CODE = '''
import os, time
import pyfi_task

def ring(x, comm):
    """Every rank says its number to the next; the sum of all, and who there is."""
    rank, size = comm.Get_rank(), comm.Get_size()
    got = comm.sendrecv(rank, (rank + 1) % size, source=(rank - 1) % size)
    assert got == (rank - 1) % size
    return {"x": x, "size": size, "sum": comm.allreduce(rank), "pids": comm.allgather(os.getpid())}

def timed(seconds, comm):
    began = time.time()
    comm.Barrier()
    time.sleep(seconds)
    return began, time.time(), comm.Get_size()

def alone(seconds):
    began = time.time()
    time.sleep(seconds)
    return began, time.time()

def one_fails(which, comm):
    """One raises, the others wait for it for ever."""
    if comm.Get_rank() == which:
        raise ValueError(f"rank {which} is out of step")
    comm.Barrier()

def one_dies(folder, comm):
    """At the first try one rank ends without a word."""
    first = not os.path.exists(os.path.join(folder, "tried"))
    comm.Barrier()
    if first:
        if comm.Get_rank() == 1:
            open(os.path.join(folder, "tried"), "w").close()
            os._exit(3)
        comm.Barrier()
    return comm.Get_size()

def speak(comm):
    print("from", comm.Get_rank())

def in_legs(legs, comm, state=None):
    """Each leg adds up what all ranks say of it; all of them get the state of the leg before."""
    leg, total, tries = state or (0, 0, [])
    assert comm.allgather(state) == [state] * comm.Get_size()
    total += comm.allreduce(10 ** leg * (comm.Get_rank() + 1))
    tries = [*tries, pyfi_task.current().attempt]
    return pyfi_task.Continue((leg + 1, total, tries)) if leg + 1 < legs else (total, tries, comm.Get_size())
'''


@pytest.fixture(scope="module")
def four(test_home: Path) -> Iterator[Instance]:
    """Four ranks of one world. The last tests break it; it heals by itself."""
    with instance_with(test_home, "gangs", 4, "together", _CODE) as made:
        yield made


def call(four: Instance, name: str, *args: Any, **needs: Any) -> Any:
    with four.executor() as executor:
        return executor.with_options(**needs).submit(f"together.{name}", *args).result(60)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_a_function_gets_a_communicator_over_so_many_ranks(four: Instance, ranks: int) -> None:
    """They speak with each other, and each is a process of its own; what the first returns is the result."""
    found = call(four, "ring", "hello", ranks=ranks)
    assert (found["x"], found["size"], found["sum"]) == ("hello", ranks, ranks * (ranks - 1) // 2)
    assert len(set(found["pids"])) == ranks


def test_gangs_and_serial_tasks_share_the_ranks(four: Instance) -> None:
    """Many of both: no rank runs two at a time, so no more than four ranks work at any moment."""
    with four.executor() as executor:
        gangs = [executor.with_options(ranks=3).submit("together.timed", 0.05) for _ in range(10)]
        plain = [executor.submit("together.alone", 0.02) for _ in range(60)]
        runs = [gang.result(60) for gang in gangs] + [(*one.result(60), 1) for one in plain]
    for at, *_ in runs:
        assert sum(width for began, ended, width in runs if began <= at < ended) <= 4


def test_more_ranks_than_there_are_is_refused(four: Instance) -> None:
    """Of a world of four, five are refused at submit."""
    with four.executor() as executor, pytest.raises(Unsatisfiable, match="5 ranks of one MPI world"):
        executor.with_options(ranks=5).submit("together.ring", 1).result(20)


def test_what_a_gang_prints_is_kept(four: Instance) -> None:
    """The leader's output is the task's."""
    with four.executor() as executor:
        future = executor.with_options(ranks=2).submit("together.speak")
        future.result(30)
        assert "from 0" in str(four.output(future.id))


def test_a_result_is_an_argument_of_a_gang_and_its_result_one_of_others(four: Instance) -> None:
    with four.executor() as executor:
        first = executor.submit("together.alone", 0.0)
        middle = executor.with_options(ranks=2).submit("together.ring", first)
        last = executor.with_options(ranks=2).submit("together.ring", middle)
        assert last.result(30)["x"]["size"] == 2


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_gang_goes_on_from_its_state(four: Instance, ranks: int) -> None:
    """What returns Continue on all ranks is queued again with its state, which each rank gets; three legs, each an
    attempt that is charged to nobody, and the answer is that of one run. Serial calls beside it go on."""
    with four.executor() as executor:
        beside = executor.map("together.alone", [0.01] * 40)
        gang = executor.with_options(ranks=ranks, retries=0).submit("together.in_legs", 3)
        assert gang.result(60) == (111 * sum(range(1, ranks + 1)), [1, 2, 3], ranks)
        assert len(list(beside)) == 40
    told = four.ask("call", id=gang.id)
    assert [one["outcome"] for one in told["attempts"]] == ["CONTINUED", "CONTINUED", "COMPLETED"]
    until(lambda: four.nodes()[0]["given"]["ranks"] == 0, 10.0, "nothing is given away")


def test_one_that_fails_ends_the_others(four: Instance) -> None:
    """The error is that of the rank that raised; serial tasks go on; the next gang gets ranks again."""
    with pytest.raises(ValueError, match="rank 1 is out of step"):
        call(four, "one_fails", 1, ranks=3)
    assert call(four, "alone", 0.0)
    assert call(four, "ring", 1, ranks=4)["size"] == 4


def test_one_that_dies_costs_the_gang_and_no_rank(four: Instance, tmp_path: Path) -> None:
    """The gang is tried again whole; all ranks live on, and what runs beside it does too."""
    before = sorted(four.ranks())
    with four.executor() as executor:
        beside = executor.submit("together.alone", 3.0)
        gang = executor.with_options(ranks=3).submit("together.one_dies", str(tmp_path))
        assert gang.result(90) == 3
        assert beside.result(10)
    assert before


def test_a_killed_rank_costs_the_gang_only(four: Instance) -> None:
    """SIGKILL to a rank in the middle: the gang is tried again, with a world that was started anew."""
    with four.executor() as executor:
        gang = executor.with_options(ranks=4).submit("together.timed", 2.0)
        until(lambda: four.nodes()[0]["given"]["ranks"] == 4, 20.0, "it runs")
        time.sleep(0.5)
        os.kill(four.ranks()[0], signal.SIGKILL)
        assert gang.result(90)[2] == 4


def test_a_gang_is_cancelled_and_kept_to_its_time(four: Instance) -> None:
    """Cancel ends all of its ranks, so does the time limit."""
    with four.executor() as executor:
        gang = executor.with_options(ranks=2).submit("together.timed", 60.0)
        until(lambda: four.nodes()[0]["given"]["ranks"] == 2, 20.0, "it runs")
        assert gang.cancel()
        slow = executor.with_options(ranks=2, time_limit=1.0).submit("together.timed", 60.0)
        with pytest.raises(TaskError):
            slow.result(60)
    until(lambda: four.nodes()[0]["given"]["ranks"] == 0, 10.0, "nothing is given away")
