"""Rank processes started by mpiexec and alone, with this test in the place of their agent."""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyfi_hpc.adapters import launcher, node
from pyfi_hpc.adapters.unix_line import RanksPort
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.messages import Beat, Bundle, Done, RankReady, Stop
from pyfi_hpc.runner.payload import decode_value, encode_call
from pyfi_hpc.settings import Settings
from pyfi_hpc.wire import codec


class Agent:
    """The agent's port at the meeting point; it beats."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(instance="t", home=folder / "home", scratch=folder)
        self.environment = dict(os.environ, PYFI_SCRATCH=str(folder), PYTHONWARNINGS="")
        self.port = RanksPort(node.meeting_point(self.settings), codec.FROM_RANK, Limits().message_bytes_max)
        self.folder = folder
        (folder / "code").mkdir()
        (folder / "code" / "m.py").write_text(
            "import os, time\ndef f(x): return os.getpid(), x\nsleep = time.sleep\n"
        )
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ready: dict[int, RankReady] = {}
        self.peers: dict[int, Peer] = {}
        self.got: list[Any] = []
        self.beat_at = 0.0
        self.beating = True

    def start(self, count: int = 0, *more: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "pyfi_hpc.hosts.rank",
            "--instance",
            "t",
            "--home",
            str(self.settings.home),
            *more,
        ]
        if count:
            command = launcher.step_command(launcher.find_mpiexec(), count, command)
        process = subprocess.Popen(command, env=self.environment, start_new_session=True)
        self.processes.append(process)
        return process

    def until(self, condition: Any, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            if self.beating and time.monotonic() > self.beat_at:
                self.beat_at = time.monotonic() + 0.5
                for rank in self.peers:
                    self.send(rank, Beat(counter=1))
            select.select([self.port.waitable], [], [], 0.02)
            for event in self.port.receive():
                message = event.message
                if isinstance(message, RankReady):
                    self.ready[message.rank], self.peers[message.rank] = message, event.peer
                self.got.append(message)

    def send(self, rank: int, message: Any) -> None:
        self.port.send(self.peers[rank], [message])

    def run(self, rank: int, number: int, function: str, value: Any) -> None:
        payload = encode_call((value,))
        self.send(rank, Bundle(
            bundle=number, grant=1, batch=1, job=1, first=0, lo=0, count=1, attempt=1, python=sys.executable,
            workdir=str(self.folder / "code"), module="m", function=function, time_limit_s=0.0,
            offsets=struct.pack("<2I", 0, len(payload)), payload=payload,
        ))  # fmt: skip

    def result(self, number: int) -> Any:
        self.until(lambda: any(isinstance(m, Done) and m.bundle == number for m in self.got))
        done = next(m for m in self.got if isinstance(m, Done) and m.bundle == number)
        return decode_value(done.outcome.payload)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        self.port.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    yield agent
    agent.close()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_two_ranks_by_mpiexec(agent: Agent) -> None:
    """Each says its number and core, runs a call in its own process, ignores TERM, and ends alone
    when told."""
    step = agent.start(2)
    agent.until(lambda: len(agent.ready) == 2)
    assert [(r.rank, r.world) for _, r in sorted(agent.ready.items())] == [(0, 2), (1, 2)]
    cores = [r.core for r in agent.ready.values()]
    assert len(set(cores)) == 2 or cores == [-1, -1] or len(os.sched_getaffinity(0)) == 1
    for rank in (0, 1):
        os.kill(agent.ready[rank].pid, signal.SIGTERM)
        agent.run(rank, rank + 1, "f", rank)
    answers = [agent.result(1), agent.result(2)]
    assert [x for _, x in answers] == [0, 1]
    assert answers[0][0] != answers[1][0]
    agent.send(0, Stop(drain=False))
    agent.until(lambda: gone(agent.ready[0].pid))
    assert not gone(agent.ready[1].pid)
    agent.run(1, 3, "f", 5)
    assert agent.result(3)[1] == 5
    agent.send(1, Stop(drain=True))
    agent.until(lambda: step.poll() is not None)
    assert not list(agent.settings.run_dir.glob("runner-*"))


def test_a_replacement_takes_the_number(agent: Agent) -> None:
    """A rank started alone says the number and core that it was given."""
    core = min(os.sched_getaffinity(0))
    agent.start(0, "--replace", "7", "--core", str(core))
    agent.until(lambda: 7 in agent.ready)
    assert (agent.ready[7].world, agent.ready[7].core) == (1, core)
    agent.run(7, 1, "f", 1)
    assert agent.result(1)[1] == 1


def test_a_killed_rank_leaves_no_runner(agent: Agent) -> None:
    """SIGKILL of the rank in the middle of a task: its runner is gone too."""
    process = agent.start(0, "--replace", "0")
    agent.until(lambda: 0 in agent.ready)
    agent.run(0, 1, "f", 1)
    runner = agent.result(1)[0]
    agent.run(0, 2, "sleep", 60)
    process.kill()
    agent.until(lambda: gone(runner))


def test_a_silent_agent_ends_the_rank(agent: Agent) -> None:
    """No beat for a lease: the rank kills its runner and ends by itself."""
    process = agent.start(0, "--replace", "0")
    agent.until(lambda: 0 in agent.ready)
    agent.run(0, 1, "f", 1)
    runner = agent.result(1)[0]
    agent.run(0, 2, "sleep", 60)
    agent.beating = False
    agent.until(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert gone(runner)


def test_mpi_that_does_not_start_ends_the_rank() -> None:
    """One of two ranks never joins MPI: the other, which would wait for ever, is ended by the alarm."""
    code = (
        "import os, sys, time\n"
        "from pyfi_hpc.adapters import mpi\n"
        "if os.environ['PMI_RANK'] == '0': time.sleep(4); sys.exit(0)\n"
        "print('joins', flush=True); mpi.join(1.5); print('joined', flush=True)\n"
    )
    command = launcher.step_command(launcher.find_mpiexec(), 2, [sys.executable, "-c", code])
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "joins" in done.stdout
    assert "joined" not in done.stdout
    assert time.monotonic() - began < 15
