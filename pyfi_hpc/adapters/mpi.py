"""MPI: who is where. The only file that imports mpi4py; ranks only, because the import starts MPI."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

#: what launchers tell each process without MPI: number, size, number on the node, size on the node
_LAUNCHERS = (
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
)


#: by it all ranks of a step that we start know that they are one world
WORLD = "PYFI_WORLD"
#: of messages that nobody sends
_NO_TAG = 32_000


@dataclass(frozen=True, slots=True)
class Place:
    """This process among its like.

    ``world`` is the communicator, None without MPI; ``problem`` then says why.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    world: Any = None
    problem: str = ""


def start_limit_s() -> float:
    """How long MPI may take to start in a step of this size: half a minute, and more for thousands of ranks."""
    sizes = [_number(size) for rank, size, _, _ in _LAUNCHERS if rank in os.environ]
    return 30.0 + 0.01 * max(sizes, default=1)


def join(limit_s: float) -> Place:
    """Start MPI and tell where we are; without an MPI library by what the launcher left in the environment.

    Collective over all processes of the step. MPI is never finalised: that would wait for every other rank,
    and a rank must be able to leave alone.

    Parameters
    ----------
    limit_s : float
        This process is ended by SIGALRM when MPI has not started by then.

    Notes
    -----
    MPI_Init waits for all ranks for ever, also for those that failed in it, and our steps are told not to end when
    a rank does: that would leave an allocation idle to its end. The signal's default action works inside MPI's
    code, a thread would not.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        return _join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _join() -> Place:
    _choose_network()
    try:
        import mpi4py

        mpi4py.rc.finalize = False
        mpi4py.rc.thread_level = "single"
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return _by_launcher(str(error))
    world = MPI.COMM_WORLD
    local = world.Split_type(MPI.COMM_TYPE_SHARED)
    return Place(world.Get_rank(), world.Get_size(), local.Get_rank(), local.Get_size(), world)


def world_id(place: Place) -> str:
    """What tells this MPI world from all others, by what started it; empty: there is none that others could join.

    Nothing is sent for it: MPI moves only while somebody calls it, and a rank that waits for work does not.
    """
    env = os.environ.get
    if place.world is None:
        return ""
    if "SLURM_STEP_ID" in os.environ:
        return f"{env('SLURM_JOB_ID')}.{env('SLURM_STEP_ID')}.{env('SLURM_RESTART_COUNT', '0')}"
    return env(WORLD, "")


def move(world: Any) -> None:
    """Let MPI go on with what it was told to send. Cost: some microseconds."""
    from mpi4py import MPI

    world.Iprobe(MPI.ANY_SOURCE, _NO_TAG)


def among(world: Any, roster: list[int], tag: int) -> Any:
    """A communicator among these ranks of a world, in this order. Collective over them, and nobody else.

    Cost: a millisecond for eight ranks of a node.
    """
    group = world.Get_group()
    part = group.Incl(roster)
    try:
        return world.Create_group(part, tag)
    finally:
        part.Free()
        group.Free()


def _choose_network() -> None:
    """Under Slurm, the libfabric module of MPICH's wheel instead of the UCX one.

    In MPICH 5.0.2 the UCX module publishes 4 KiB for an address that is shorter. What lies behind it on the heap goes
    along, in pieces of up to 1024 characters, and Slurm 22.05's pmi2 breaks on longer lines: whether MPI starts
    depended on what the heap held. Other builds of MPI have modules of their own and are left alone.
    """
    if "SLURM_STEP_ID" not in os.environ or "PMI_FD" not in os.environ:
        return
    import importlib.metadata  # costs as much as a tenth of a rank's start, and only Slurm's ranks need it

    try:
        importlib.metadata.distribution("mpich")
    except importlib.metadata.PackageNotFoundError:
        return
    os.environ.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")


def _by_launcher(problem: str) -> Place:
    for rank, size, local_rank, local_size in _LAUNCHERS:
        if rank in os.environ:
            numbers = [_number(name) for name in (rank, size, local_rank, local_size)]
            return Place(numbers[0], max(1, numbers[1]), numbers[2], max(1, numbers[3]), None, problem)
    return Place(0, 1, 0, 1, None, problem)


def _number(name: str) -> int:
    digits = os.environ.get(name, "0").partition("(")[0]  # Slurm writes "4(x2)" for two equal nodes
    return int(digits) if digits.isdigit() else 0


def bind(local_rank: int, local_size: int) -> int:
    """Bind this process, and all that it starts, to one of the cores it may use.

    Returns
    -------
    int
        The core; -1 where there are fewer cores than ranks: then the kernel shares them better than we would.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) == 1:
        return allowed[0]
    if local_size > len(allowed):
        return -1
    return bind_to(allowed[local_rank])


def bind_to(core: int) -> int:
    """Bind to this core; -1 where that is not possible, or ``core`` is negative."""
    try:
        os.sched_setaffinity(0, {core})
    except (OSError, ValueError, OverflowError):
        return -1
    return core
