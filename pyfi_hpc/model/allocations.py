"""Allocations: what is asked of a batch system, pools that are filled from the backlog, and what is seen of jobs.

An allocation is named by its **key**: the batch system's id, with ``@CLUSTER`` behind it where a cluster was named.
Agents say the same name to the broker. A **system** is a batch system, on one cluster of it where one was named:
``slurm``, ``slurm@west``, ``pbs``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pyfi_hpc.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationRequest:
    """What to ask a batch system for. Empty or None means: leave it to the site's default."""

    instance: str = "default"
    #: count of nodes; one agent on each
    nodes: int = 1
    #: count of ranks on each node: one per core, or one per GPU
    ntasks_per_node: int = 1
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    #: walltime in Slurm's notation: ``MM``, ``MM:SS``, ``HH:MM:SS``, ``D-HH`` ...
    time: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    reservation: str = ""
    #: one of several clusters of the site, as for ``sbatch --cluster``
    cluster: str = ""
    #: by this the job is known as ours in the batch system's queue
    mark: str = ""
    #: further sbatch options as they are, such as ``--mem=0``
    extra: tuple[str, ...] = ()
    #: environment modules that the job loads first
    modules: tuple[str, ...] = ()
    #: ``here``: the broker runs already; ``job``: on the first node of the allocation
    broker: Literal["here", "job"] = "here"
    #: seconds before the walltime at which agents stop to start tasks; Slurm may be up to 60 s early
    drain_s: int = 60
    #: Slurm's plugin that wires up the ranks; ``srun --mpi=list`` names the site's
    mpi: str = "pmi2"
    #: PYFI_HOME; None: taken from the environment of whoever calls sbatch
    home: Path | None = None
    #: the interpreter; empty: ``.venv`` where sbatch is called, else the first on PATH
    python: str = ""
    #: the job's output, with Slurm's ``%j``
    output: str = "pyfi-%j.out"


#: where bad values of a request stand, for people
HERE = "the request for an allocation"


def check_values(request: AllocationRequest) -> None:
    """See that counts are such, and that nothing could begin a line of its own in a script.

    Raises
    ------
    UsageError
    """
    for name in ("nodes", "ntasks_per_node", "cpus_per_task", "gpus_per_node", "drain_s"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}, must be at least 1", where=HERE)
    for name in request.__slots__:
        value = getattr(request, name)
        for text in value if isinstance(value, tuple) else (str(value),):
            if not text.isprintable():
                raise UsageError(f"{name} has a line break or control character: {text!r}", where=HERE)


def parse_time(text: str) -> int | None:
    """Seconds of a time limit as sbatch reads it; None for what only Slurm understands, and for nothing.

    >>> parse_time("10"), parse_time("10:30"), parse_time("1:00:00"), parse_time("2-12"), parse_time("soon")
    (600, 630, 3600, 216000, None)
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not found:
        return None
    days = found[1]
    numbers = [int(number) for number in found.groups()[1:] if number is not None]
    if days is not None:  # D-HH, D-HH:MM, D-HH:MM:SS
        scale: tuple[int, ...] = (3600, 60, 1)
    else:  # MM, MM:SS, HH:MM:SS
        scale = {1: (60,), 2: (60, 1), 3: (3600, 60, 1)}[len(numbers)]
    return 86400 * int(days or 0) + sum(a * b for a, b in zip(numbers, scale, strict=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Allocations of one kind that are asked for as the backlog wants them, and given back when idle."""

    name: str
    request: AllocationRequest
    batch: Literal["slurm", "pbs"] = "slurm"
    #: how many there are always, and at most
    min: int = 0
    max: int = 1
    #: an allocation without work for so long is given back, seconds
    idle_s: float = 60.0
    #: another one is asked for only if so many seconds of work are left for each rank when it starts
    worth_s: float = 30.0
    #: nothing more is asked for
    paused: bool = False
    #: when somebody last said that it is to ask again, UTC
    resumed: float = 0.0
    #: when it was added, UTC: the first pool asks first
    added: float = 0.0

    @property
    def system(self) -> str:
        return f"{self.batch}@{self.request.cluster}" if self.request.cluster else self.batch

    @property
    def ranks(self) -> int:
        return self.request.nodes * self.request.ntasks_per_node

    @property
    def usable_s(self) -> float:
        """Seconds of an allocation in which tasks may start."""
        walltime = parse_time(self.request.time)
        return float("inf") if walltime is None else max(0.0, walltime - self.request.drain_s)


@dataclass(slots=True)
class JobSeen:
    """One job as its batch system shows it."""

    key: str
    phase: Literal["waits", "runs", "ended"]
    #: the system's own word, such as PENDING or Q, and its reason
    state: str
    reason: str = ""
    #: seconds until the walltime; None: not told
    left_s: float | None = None
    #: expected start, UTC; None: not told
    start_at: float | None = None
    #: what `AllocationRequest.mark` was
    mark: str = ""
    nodes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        return f"{self.state} ({self.reason})" if self.reason else self.state


@dataclass(slots=True)
class Note:
    """An allocation that was asked for: kept in a file, so that it is found again."""

    key: str
    system: str = "slurm"
    #: name of its pool; empty: asked for with ``pyfi up --slurm``
    pool: str = ""
    ranks: int = 0
    #: ranks of it have been there
    joined: bool = False
    #: when it was asked for, UTC
    at: float = 0.0


def key_of(number: str, cluster: str = "") -> str:
    return f"{number}@{cluster}" if cluster else number


def number_of(key: str) -> str:
    """The batch system's own id."""
    return key.partition("@")[0]


def mark_of(instance: str, pool: str) -> str:
    """What jobs of a pool carry, so that they are known as ours though nobody noted them."""
    return f"pyfi:{instance}:{pool}"


def pool_of(mark: str, instance: str) -> str | None:
    """The pool of a mark; None: it is not of this instance."""
    head = mark_of(instance, "")
    return mark[len(head) :] if mark.startswith(head) else None
