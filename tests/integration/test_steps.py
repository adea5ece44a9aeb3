"""Programs on the ranks of a task, ``launch="step"``, on a real instance: ``mpiexec`` starts them on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from instance_fixture import Instance, instance_with, until

from pyfi_hpc.errors import TaskError

_CODE = '''
import os
import pyfi_task

def run(argv, **options):
    return pyfi_task.step(argv, **options)

def hosts():
    return pyfi_task.hosts(), os.getpid()

def gang(comm):
    return pyfi_task.step(["true"])

def raises(argv):
    pyfi_task.step(argv)
    raise ValueError("after it")

def nap(seconds):
    import time
    time.sleep(seconds)
'''

#: a program of MPI: each says its number and the sum of all
_SUM = """
import os
from mpi4py import MPI
comm = MPI.COMM_WORLD
os.write(1, b"sum %d of %d\\n" % (comm.allreduce(comm.Get_rank() + 1), comm.Get_size()))
"""


@pytest.fixture(scope="module")
def four(test_home: Path) -> Iterator[Instance]:
    gpus = ("GPU-a", "GPU-b", "GPU-c")
    with instance_with(test_home, "steps", 4, "steps", _CODE, gpus=gpus) as made:
        yield made


def call(four: Instance, name: str, *args: Any, retries: int = 0, **needs: Any) -> Any:
    with four.executor() as executor:
        options = executor.with_options(retries=retries, launch="step", **needs)
        return options.submit(f"steps.{name}", *args).result(60)


@contextmanager
def submitted(four: Instance, script: str, **options: Any) -> Iterator[Any]:
    """A step that runs; whatever happens it is ended."""
    with four.executor() as executor:
        future = executor.with_options(launch="step", **options).submit("steps.run", script)
        try:
            yield future
        finally:
            future.cancel()


def processes(mark: str) -> list[int]:
    """Who has this in its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def nothing_given(four: Instance) -> None:
    until(lambda: four.nodes()[0]["given"]["ranks"] == 0, 15.0, "its ranks are given back")


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_an_mpi_program_is_one_world_over_the_ranks(four: Instance, ranks: int) -> None:
    """Each process says the sum over all, and the function runs once."""
    found = call(four, "run", [sys.executable, "-c", _SUM], ranks=ranks)
    assert found["returncode"] == 0, found["stderr"]
    assert found["stdout"] == f"sum {ranks * (ranks + 1) // 2} of {ranks}\n" * ranks
    nothing_given(four)


def test_text_is_run_by_bash_on_each_rank(four: Instance) -> None:
    found = call(four, "run", 'x=3; echo "$((x + 1))"', ranks=3)
    assert (found["returncode"], found["stdout"]) == (0, "4\n" * 3)


def test_any_program(four: Instance) -> None:
    """A binary; node where it is installed."""
    assert call(four, "run", ["/bin/hostname"], ranks=2)["stdout"] == f"{os.uname().nodename}\n" * 2
    if shutil.which("node"):
        assert call(four, "run", ["node", "-e", "console.log(6 * 7)"], ranks=2)["stdout"] == "42\n" * 2


def test_hosts_are_those_of_the_ranks(four: Instance) -> None:
    """One function call, which knows where its ranks are; a plain call has none."""
    here = os.uname().nodename.partition(".")[0]
    assert call(four, "hosts", ranks=3)[0] == [here] * 3
    with four.executor() as executor:
        assert executor.submit("steps.hosts").result(30)[0] == []


def test_each_process_has_the_cores_of_its_rank(four: Instance) -> None:
    """With as many cores as two ranks have, each process is on its own; the runner's marks are not its own."""
    text = "taskset -cp $$ | sed 's/.*: //'; echo threads $OMP_NUM_THREADS; echo ${PYFI_STEP##*/}"
    lines = call(four, "run", text, ranks=2, cores=2)["stdout"].splitlines()
    assert lines.count("threads 2") == 2
    assert len({line for line in lines if line.isdigit() and len(line) > 6}) == 1


def test_what_it_writes_is_the_tasks_output(four: Instance) -> None:
    with four.executor() as executor:
        future = executor.with_options(ranks=2, launch="step").submit("steps.run", "echo out; echo err >&2")
        assert future.result(30)["stderr"] == "err\n" * 2
        told = str(four.output(future.id))
        assert "out" in told
        assert "err" in told


def test_a_program_that_fails(four: Instance) -> None:
    """Its exit code, or with ``check`` an error with the end of standard error; the ranks are free again."""
    script = "echo before >&2; echo 'no such case' >&2; exit 3"
    assert call(four, "run", script, ranks=1)["returncode"] == 3
    with four.executor() as executor, pytest.raises(RuntimeError, match="exit code 3: no such case"):
        executor.with_options(launch="step").submit("steps.run", script, check=True).result(30)
    assert call(four, "run", ["/no/such/program"], ranks=2)["returncode"] == 127
    with pytest.raises(ValueError, match="after it"):
        call(four, "raises", ["true"], ranks=4)
    nothing_given(four)


def test_a_gang_has_no_step(four: Instance) -> None:
    """A function that runs on each of its ranks is told what to say."""
    with four.executor() as executor, pytest.raises(RuntimeError, match='launch="step"'):
        executor.with_options(ranks=2).submit("steps.gang").result(60)


def test_each_process_has_the_gpus_of_its_rank(four: Instance) -> None:
    """One for each, or none."""
    text = "echo [$CUDA_VISIBLE_DEVICES]"
    assert len(set(call(four, "run", text, ranks=2, gpus=1)["stdout"].split())) == 2
    assert call(four, "run", text, ranks=2)["stdout"] == "[]\n" * 2


@pytest.mark.parametrize("how", ["time limit", "cancel", "kill runner", "kill rank"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_nothing_stays_of_a_step_that_is_ended(four: Instance, how: str, ranks: int) -> None:
    """Programs that ignore SIGTERM, in sessions of their own: none is left, and the ranks take other tasks."""
    mark = f"left-{how.replace(' ', '-')}-{ranks}"
    script = f"trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 300; :' {mark} & sh -c 'sleep 300; :' {mark}; wait"
    limit = {"time_limit": 2.0} if how == "time limit" else {}
    with submitted(four, script, ranks=ranks, **limit) as future:
        until(lambda: len(processes(mark)) >= 2 * ranks, 30.0, "it runs")
        if how == "cancel":
            assert future.cancel()
        elif how.startswith("kill"):
            before = set(processes(mark))
            for pid in runners():
                os.kill(pid if how == "kill runner" else parent(pid), signal.SIGKILL)
            until(lambda: not before & set(processes(mark)), 15.0, "they are gone, and it is tried again")
            future.cancel()
        else:
            with pytest.raises(TaskError):
                future.result(30)
        until(lambda: not processes(mark), 15.0, "nothing of it is left")
    nothing_given(four)
    with four.executor() as executor:
        plain = [executor.submit("steps.nap", 0.05) for _ in range(8)]
        assert [one.result(30) for one in plain] == [None] * 8


def runners() -> list[int]:
    """Of ranks, whatever they run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.endswith(b"runner/child.py") for word in words) and b"steps" in words:
                found.append(int(entry.name))
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("ranks", [1, 3])
def test_nothing_stays_when_the_agent_ends(four: Instance, number: signal.Signals, ranks: int) -> None:
    """It is killed, or told to stop: the step ends with it, and is tried again by the next agent."""
    mark = f"left-by-agent-{number.name}-{ranks}"
    script = f"trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 300; :' {mark} & sh -c 'sleep 300; :' {mark}; wait"
    with submitted(four, script, ranks=ranks) as future:
        until(lambda: len(processes(mark)) >= 2 * ranks, 30.0, "it runs")
        os.kill(four.pid("agent"), number)
        until(lambda: not processes(mark), 20.0, "nothing of it is left")
        four.start_agent(4)
        until(lambda: len(processes(mark)) >= 2 * ranks, 30.0, "it runs again")
        assert future.cancel()
        until(lambda: not processes(mark), 15.0, "nothing of it is left")
    nothing_given(four)


def test_a_step_goes_on_while_the_broker_starts_again(four: Instance, tmp_path: Path) -> None:
    """It is adopted: it runs once, and its result counts."""
    script = f"echo x >> {tmp_path}/ran; sleep 4; echo well"
    with submitted(four, script, ranks=2) as future:
        until(lambda: (tmp_path / "ran").exists(), 30.0, "it runs")
        four.restart_broker()
        assert future.result(60)["stdout"] == "well\n" * 2
    assert (tmp_path / "ran").read_text() == "x\n" * 2
    nothing_given(four)


def test_a_step_and_others_share_the_ranks(four: Instance) -> None:
    """Steps, gangs and plain tasks beside each other: all of them end well."""
    began = time.time()
    with four.executor() as executor:
        steps = [executor.with_options(ranks=k, launch="step").submit("steps.run", ["true"]) for k in (1, 2, 4, 3)]
        plain = [executor.submit("steps.nap", 0.02) for _ in range(40)]
        assert [one.result(60)["returncode"] for one in steps] == [0] * 4
        assert [one.result(60) for one in plain] == [None] * 40
    assert time.time() - began < 60
