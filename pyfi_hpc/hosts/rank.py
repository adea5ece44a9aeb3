"""The rank's host: finds its place, picks adapters, builds the machine, runs the loop.

    python -m pyfi_hpc.hosts.rank --instance I [--replace RANK --core C]

Slurm sends TERM to every process of a job: a rank ignores it, because the agent decides what to finish. It
ends when the agent says so, or is gone.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyfi_hpc.adapters import launcher, mpi, node, surroundings
from pyfi_hpc.adapters.child import Runners
from pyfi_hpc.adapters.clock import SystemClock
from pyfi_hpc.adapters.signals import SignalPort
from pyfi_hpc.adapters.unix_line import AgentPort
from pyfi_hpc.core.rank import RankMachine
from pyfi_hpc.errors import MpiMissing, PyfiError, SiteError
from pyfi_hpc.hosts import daemon, mpi_runner
from pyfi_hpc.loop import Loop
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.settings import Settings, private_folder
from pyfi_hpc.wire import codec

log = logging.getLogger("pyfi_hpc.rank")

#: the agent and its ranks are started side by side: so long a rank waits for its agent, seconds
_AGENT_S = 60.0


def main() -> None:
    parser = daemon.arguments("rank")
    parser.add_argument(
        "--replace", type=int, help="number of the rank that died and whose place this one takes"
    )
    parser.add_argument("--core", type=int, default=-1, help="core of the replaced rank")
    options = parser.parse_args()
    signals = SignalPort()  # handlers, not SIG_IGN: runners would inherit that
    with suppress(MpiMissing):  # for what runners start on several ranks
        os.environ.setdefault("PYFI_MPIEXEC", launcher.find_mpiexec())
    settings = daemon.load(options)
    os.environ[surroundings.STEPS] = surroundings.whose_steps(settings)
    _start_log(settings, -1 if options.replace is None else options.replace)
    try:
        private_folder(settings.scratch / f"pyfi-{os.getuid()}")
        private_folder(settings.run_dir)
        runners = Runners(Limits(), settings.run_dir, adopt=True)
        if options.replace is None:
            rank, size, local_rank, local_size, world_id, problem = _start_mpi(runners)
            core = mpi.bind(local_rank, local_size)
            runners.pin_mpi(core)
            _start_log(settings, rank)
            if problem:
                log.warning("no MPI: %s", problem)
        else:  # it has a world of its own, in which there is nobody else
            rank, size, world_id, core = options.replace, 1, "", mpi.bind_to(options.core)
        run(settings, runners, RankMachine(Limits(), rank, size, os.getpid(), core, world_id=world_id), signals)
        code = 0
    except PyfiError as error:
        log.error("%s", error)
        code = error.exit_code
    except Exception:
        log.exception("the rank cannot go on")
        code = 1
    sys.stderr.flush()
    os._exit(code)  # no MPI_Finalize: it waits for all other ranks, also for dead ones


def _start_mpi(runners: Runners) -> list[Any]:
    limits, limit_s = Limits(), mpi.start_limit_s()

    def body(read_fd: int, write_fd: int, board_fd: int, parent: int) -> None:
        mpi_runner.serve(read_fd, write_fd, board_fd, parent, limits, limit_s)

    return runners.start_mpi(body, limit_s)


def run(settings: Settings, runners: Runners, machine: RankMachine, signals: SignalPort) -> None:
    """Serve until the agent says stop or is gone.

    Raises
    ------
    SiteError
        The agent of this node did not open its socket in time.
    """
    try:
        point = _wait_for(node.meeting_point(settings))
        agent = AgentPort(point, codec.TO_RANK, Limits().message_bytes_max)
        log.info("rank on %s, cores %s", node.name(), sorted(os.sched_getaffinity(0)))
        try:
            Loop(machine, SystemClock(), [agent, runners, signals], agent, doer=runners).run()
        finally:
            agent.close()
    finally:
        runners.close()
        log.info("rank ended")


def _wait_for(point: Path) -> Path:
    until = time.monotonic() + _AGENT_S
    while not point.exists():
        if time.monotonic() > until:
            raise SiteError(
                f"the agent of {node.name()} did not open its socket within {_AGENT_S:.0f} s",
                where=str(point),
                fix="see the agent's log",
            )  # fmt: skip
        time.sleep(0.02)
    return point


def _start_log(settings: Settings, rank: int) -> None:
    """To standard error, which the launcher gathers: a file per rank would be thousands."""
    logging.basicConfig(
        stream=sys.stderr, force=True,
        level=settings.log_level.upper(),
        format=f"%(asctime)s.%(msecs)03d %(levelname).1s rank={rank} %(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )


if __name__ == "__main__":
    main()
