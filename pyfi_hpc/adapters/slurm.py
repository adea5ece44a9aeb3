"""Slurm: what its commands print, one function that runs them, and who a process is inside.

Pure: `parse_sbatch`, `parse_squeue`, `parse_duration`, `expand_nodes`; the script is in `slurm_script`.
Outside: `submit`, `cancel`, `queue`, `time_left`, `own_time_left`, `node_addresses`, each one command with a limit.
`environment` is the only place that reads SLURM_* variables. Slurm's commands are used, not its API: they are
at every site, of any version.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pyfi_hpc.adapters import batch_command
from pyfi_hpc.adapters.batch_command import COMMAND_S_MAX, Kind
from pyfi_hpc.adapters.slurm_script import AllocationRequest, render_sbatch
from pyfi_hpc.errors import SiteError, SlurmBusy, SlurmMissing, SlurmRefused, TransientError

__all__ = [
    "AllocationRequest", "QueueEntry", "SlurmEnvironment", "Submitted", "cancel", "ends", "environment",
    "expand_nodes", "jobs", "node_addresses", "own_time_left", "parse_duration", "parse_sacct", "parse_sbatch",
    "parse_squeue", "queue",
    "render_sbatch", "submit", "time_left",
]  # fmt: skip

#: states in which a job has or will have nodes
ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "COMPLETING", "SIGNALING", "REQUEUED")


@dataclass(frozen=True, slots=True)
class Submitted:
    """Answer of `submit`: Slurm's job id (None in a dry run), the script, and what Slurm said."""

    slurm_job_id: int | None
    script: str
    words: str


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """One allocation as ``squeue`` shows it."""

    slurm_job_id: int
    #: PENDING, RUNNING, COMPLETING, COMPLETED, TIMEOUT ...
    state: str
    #: why it is pending, or why it ended
    reason: str
    nodes: tuple[str, ...]
    #: seconds until the walltime; None where there is none
    left_s: float | None
    #: Slurm's guess of the start, as ISO time; empty where it has none
    start: str
    #: the job's comment; empty where it has none
    mark: str = ""


@dataclass(frozen=True, slots=True)
class SlurmEnvironment:
    """Who this process is in its allocation."""

    slurm_job_id: int
    #: how often Slurm has started this job again; identity of an allocation is (id, restarts)
    restarts: int
    step: str
    #: this node's Slurm name
    node: str
    #: all nodes of the allocation at its start
    nodes: tuple[str, ...]
    #: ranks on each node, as the script's request has it
    ranks_per_node: int
    #: rank over all nodes, and on this node, of this process in its step
    rank: int
    local_rank: int
    #: count of CPUs that Slurm gave on this node
    cpus: int
    #: when the walltime ends, unix time; None where there is none
    end_s: float | None


def parse_sbatch(text: str) -> int:
    """The job id in the answer of ``sbatch --parsable``: ``ID`` or ``ID;CLUSTER``, after any site's greeting.

    Raises
    ------
    SlurmRefused
        There is none.
    """
    for line in reversed(text.splitlines()):
        if found := re.fullmatch(r"(\d+)(;\S*)?", line.strip()):
            return int(found[1])
    raise SlurmRefused("sbatch did not answer with a job id", where=text.strip()[-500:] or "(no output)")


_SQUEUE_FORMAT = "%i|%T|%L|%S|%N|%k|%r"


def parse_squeue(text: str) -> list[QueueEntry]:
    """Entries from ``squeue -h -o '%i|%T|%L|%S|%N|%k|%r'``; other lines, a site's notices, are left out."""
    entries = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|", 6)]
        if len(fields) == 7 and fields[0].isdigit():
            job, state, left, start, nodes, mark, reason = fields
            entries.append(
                QueueEntry(
                    slurm_job_id=int(job),
                    state=state,
                    reason="" if reason == "None" else reason,
                    nodes=expand_nodes(nodes),
                    left_s=parse_duration(left),
                    start="" if start == "N/A" else start,
                    mark="" if mark == "(null)" else mark,
                )
            )
    return entries


def parse_sacct(text: str) -> dict[int, str]:
    """How jobs ended, in words, from ``sacct -nPX -o JobID,State,ExitCode,Reason``."""
    found = {}
    for line in text.splitlines():
        fields = line.strip().split("|", 3)
        if len(fields) == 4 and fields[0].isdigit():
            job, state, code, reason = fields
            why = "" if reason in ("", "None") else f" ({reason})"
            found[int(job)] = f"{state}, exit code {code}{why}"
    return found


def parse_duration(text: str) -> float | None:
    """Seconds of Slurm's ``[D-][[HH:]MM:]SS``; None for its words UNLIMITED, INVALID, NOT_SET.

    >>> parse_duration("1-02:03:04"), parse_duration("9:59"), parse_duration("UNLIMITED")
    (93784.0, 599.0, None)
    """
    found = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text.strip())
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def expand_nodes(text: str) -> tuple[str, ...]:
    """The names in Slurm's list notation, in its order.

    >>> expand_nodes("n[01-03,7],login")
    ('n01', 'n02', 'n03', 'n7', 'login')
    """
    names: list[str] = []
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text.strip()):
        parts = re.split(r"(\[[^\]]*\])", item)
        choices = [_range(part) if part.startswith("[") else (part,) for part in parts]
        names += ("".join(chosen) for chosen in itertools.product(*choices))
    return tuple(names)


def _range(text: str) -> tuple[str, ...]:
    values: list[str] = []
    for part in text[1:-1].split(","):
        first, dash, last = part.partition("-")
        numbers = range(int(first), int(last) + 1) if dash else ()
        values += [str(number).zfill(len(first)) for number in numbers] if dash else [part]
    return tuple(values)


def environment(variables: Mapping[str, str] | None = None) -> SlurmEnvironment | None:
    """What Slurm tells this process; None outside an allocation.

    Parameters
    ----------
    variables
        Instead of this process's environment.
    """
    env = os.environ if variables is None else variables
    job = env.get("SLURM_JOB_ID", "")
    if not job.isdigit():
        return None

    def number(name: str, default: int = 0) -> int:
        # "4(x3)" in lists with one count per node: the first stands for all, we ask for the same on each
        found = re.match(r"\d+", env.get(name, ""))
        return int(found[0]) if found else default

    nodes = expand_nodes(env.get("SLURM_JOB_NODELIST", ""))
    return SlurmEnvironment(
        slurm_job_id=int(job),
        restarts=number("SLURM_RESTART_COUNT"),
        step=env.get("SLURM_STEP_ID", ""),
        node=env.get("SLURMD_NODENAME", ""),
        nodes=nodes,
        ranks_per_node=number("PYFI_SLURM_RANKS") or number("SLURM_NTASKS_PER_NODE", 1),
        rank=number("SLURM_PROCID"),
        local_rank=number("SLURM_LOCALID"),
        cpus=number("SLURM_CPUS_ON_NODE", 1),
        end_s=float(number("SLURM_JOB_END_TIME")) or None,
    )


def submit(request: AllocationRequest, *, dry_run: bool = False) -> Submitted:
    """Ask Slurm for an allocation.

    Parameters
    ----------
    dry_run
        Only let Slurm check it; its ``words`` then say when and where the job would start.

    Raises
    ------
    SlurmRefused
        Slurm's own words are in the message.
    SlurmBusy
        No answer in time. The job may exist all the same: ``squeue --me`` tells.
    """
    script, cluster = render_sbatch(request), _on(request.cluster)
    if dry_run:
        return Submitted(None, script, _run(["sbatch", "--test-only", *cluster], script))
    answer = _run(["sbatch", "--parsable", *cluster], script)
    return Submitted(parse_sbatch(answer), script, answer)


def cancel(slurm_job_id: int, cluster: str = "", *, only_waiting: bool = False) -> None:
    """End an allocation; one that has ended already is no error."""
    pending = ["--state=PENDING"] if only_waiting else []
    _run(["scancel", "--quiet", *_on(cluster), *pending, str(slurm_job_id)])


def queue(slurm_job_ids: Iterable[int], limit_s: float = COMMAND_S_MAX) -> dict[int, QueueEntry]:
    """The state of allocations in one command; those that Slurm has forgotten are left out.

    Cost: one request to the controller however many there are; ask every 15 s at most.
    """
    wanted = set(slurm_job_ids)
    if not wanted:
        return {}
    return {entry.slurm_job_id: entry for entry in jobs("", limit_s) if entry.slurm_job_id in wanted}


def jobs(cluster: str = "", limit_s: float = COMMAND_S_MAX) -> list[QueueEntry]:
    """All jobs of this user that a cluster's queue shows, also those that have just ended; one command."""
    # by user, not by id: with one unknown id squeue fails
    command = ["squeue", "--noheader", "--me", "--states=all", *_on(cluster), f"--format={_SQUEUE_FORMAT}"]
    return parse_squeue(_run(command, limit_s=limit_s))


def ends(slurm_job_ids: Iterable[int], cluster: str = "") -> dict[int, str]:
    """How jobs ended, as Slurm's accounting tells.

    Raises
    ------
    SlurmRefused
        The site keeps no accounts.
    """
    listed = ",".join(map(str, slurm_job_ids))
    command = ["sacct", "--noheader", "--parsable2", "--allocations", *_on(cluster), f"--jobs={listed}"]
    return parse_sacct(_run([*command, "--format=JobID,State,ExitCode,Reason"]))


def time_left(slurm_job_id: int) -> float | None:
    """Seconds until the allocation's walltime; None where it has none or has ended."""
    entry = queue([slurm_job_id]).get(slurm_job_id)
    return entry.left_s if entry and entry.state == "RUNNING" else None


def own_time_left(utc: float) -> float:
    """Seconds until the walltime of the allocation that this process runs in; inf: it has none, or runs in none.

    Our batch script and new Slurm tell it in the environment; else Slurm is asked once, and without an answer there is
    no end that we know of.
    """
    here = environment()
    if here is None:
        return float("inf")
    if here.end_s is not None:
        return max(0.001, here.end_s - utc)
    if "SLURM_JOB_END_TIME" not in os.environ:
        with contextlib.suppress(SiteError, TransientError):
            left = time_left(here.slurm_job_id)
            return float("inf") if left is None else max(0.001, left)
    return float("inf")


def node_addresses(count_max: int) -> list[str]:
    """Where Slurm reaches compute nodes (NodeAddr: names or addresses); the first few."""
    text = _run(["sinfo", "--noheader", "--Node", "--format=%o"])
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))[:count_max]


def gives_gpus(node: str) -> bool:
    """Whether Slurm counts GPUs of this node, and so gives them out; also where it does not answer: who knows."""
    try:
        return "gpu" in _run(["sinfo", "--noheader", f"--nodes={node}", "--format=%G"])
    except (SiteError, TransientError):
        return True


_KIND = Kind(
    name="Slurm", missing=SlurmMissing, busy=SlurmBusy, refused=SlurmRefused,
    busy_words=re.compile(
        r"unable to contact|socket timed out|temporarily|connection refused|zero bytes", re.I
    ),
    inside="SLURM_", keep="SLURM_CONF", look="squeue --me",
)  # fmt: skip


def _run(command: Sequence[str], script: str = "", limit_s: float = COMMAND_S_MAX) -> str:
    """Run one Slurm command; returns what it printed on both outputs."""
    return batch_command.run(_KIND, command, script, limit_s)


def _on(cluster: str) -> list[str]:
    return [f"--clusters={cluster}"] if cluster else []
