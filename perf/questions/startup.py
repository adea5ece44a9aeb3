"""How long does ``pyfi up`` take on a prepared machine, the first time and again, and how long does a rank?

The command as people type it, until it returns: ledger, broker, agent, ranks joined. The first time makes the ledger's
database too. A rank: from the start of an agent until its one rank has joined, MPI included.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import bench
from bench import Plan
from figure import Figure

from pyfi_hpc import settings as settings_module
from pyfi_hpc.adapters import launcher
from pyfi_hpc.hosts import instance

_MPI = "from mpi4py import MPI; MPI.COMM_WORLD.Barrier()"


def ask(plan: Plan) -> Iterator[Figure]:
    firsts, agains, ideal = [], [], []
    with bench.home_folder() as home:
        os.environ.update(PYFI_HOME=home, PYFI_INSTANCE="perf")
        for _ in range(plan.runs):
            settings = settings_module.load()
            try:
                firsts.append(_pyfi("up", "--ranks", str(plan.ranks)))
                _pyfi("down")
                agains.append(_pyfi("up", "--ranks", str(plan.ranks)))
                ideal.append(bench.timed(lambda: _mpi(plan.ranks)))
            finally:
                bench.remove(settings)
    yield Figure("pyfi up, the first time", tuple(firsts), "s", False, 0, 3, tuple(ideal), "ideal: mpiexec alone")
    yield Figure("pyfi up, again", tuple(agains), "s", False, 0, 3, tuple(ideal), "ideal: mpiexec alone")
    yield _ranks(plan)


def _ranks(plan: Plan) -> Figure:
    ideal = []
    with bench.fresh_instance(0) as settings:

        def one() -> float:
            ideal.append(bench.timed(lambda: _mpi(1)))
            seconds = bench.timed(lambda: bench.add_agent(settings, 1))
            agent = bench.daemon_process(settings, "agent")
            agent.send_signal(signal.SIGTERM)
            bench.until(lambda: not bench.live_nodes() and not instance.find(settings, "agent"), 20, "the agent ends")
            return seconds

        return Figure("agent and rank start", plan.times(one), "s", False, 0, 0, tuple(ideal), "ideal: mpiexec alone")


def _pyfi(*words: str) -> float:
    command = [sys.executable, "-m", "pyfi_hpc.cli.main", *words]
    return bench.timed(lambda: subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL))


def _mpi(ranks: int) -> None:
    """The launcher, and Python with MPI."""
    command = launcher.step_command(launcher.find_mpiexec(), ranks, [sys.executable, "-c", _MPI])
    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
