"""Slurm: the text of a batch script, the meaning of what its commands print, and one function that runs them.

Pure: `render_sbatch`, `parse_sbatch`, `parse_squeue`, `parse_duration`, `expand_nodes`.
Outside: `submit`, `cancel`, `queue`, `time_left`, each one command with a time limit. `environment` is the
only place that reads SLURM_* variables. Slurm's commands are used, not its API: they are at every site, of
any version.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pyfi_hpc.errors import SlurmBusy, SlurmMissing, SlurmRefused, UsageError

#: seconds for one command; a loaded controller takes several, slurm.conf's MessageTimeout is 10 by default
COMMAND_S_MAX = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationRequest:
    """What to ask Slurm for. Empty or None means: leave it to the site's default."""

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


# --- text out --------------------------------------------------------------------------------------


def render_sbatch(request: AllocationRequest) -> str:
    """The batch script of an allocation: agents and ranks as two steps side by side.

    Raises
    ------
    UsageError
        A count below one, a line break in a value, or an extra option that is not one.

    Notes
    -----
    The script holds names and paths only: Slurm keeps it in its state folder and shows it to others. Keys
    come from the access file in PYFI_HOME.
    """
    _check(request)
    options = "\n".join(_options(request))
    modules = f"\nmodule load {shlex.join(request.modules)}\n" if request.modules else ""
    # a login shell knows the module command
    shell = "#!/bin/bash -l" if request.modules else "#!/bin/bash"
    in_job = request.broker == "job"
    return "".join((
        f"{shell}\n{_HEAD}{options}\n", modules, _where(request), _BROKER if in_job else "",
        _STEPS.replace("@MPI", request.mpi), _BROKER_END if in_job else "", _END,
    ))  # fmt: skip


_HERE = "the request for an allocation"


def _check(request: AllocationRequest) -> None:
    for name in ("nodes", "ntasks_per_node", "cpus_per_task", "gpus_per_node", "drain_s"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}, must be at least 1", where=_HERE)
    for name in request.__slots__:
        value = getattr(request, name)
        for text in value if isinstance(value, tuple) else (str(value),):
            if not text.isprintable():
                raise UsageError(f"{name} has a line break or control character: {text!r}", where=_HERE)
    for option in request.extra:
        if not option.startswith("-"):
            raise UsageError(
                f"{option!r} is not an sbatch option", where=_HERE, fix="write it as --name=value"
            )
    if not re.fullmatch(r"[\w.-]+", request.mpi):
        raise UsageError(f"{request.mpi!r} is not an MPI plugin", where=_HERE, fix="see srun --mpi=list")


def _options(request: AllocationRequest) -> Iterator[str]:
    given: dict[str, object] = {
        "job-name": f"pyfi-{request.instance}",
        "nodes": request.nodes,
        "ntasks-per-node": request.ntasks_per_node,
        "cpus-per-task": request.cpus_per_task,
        "gpus-per-node": request.gpus_per_node,
        "time": request.time,
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "constraint": request.constraint,
        "reservation": request.reservation,
        "output": request.output,
    }
    for name, value in given.items():
        if value:
            yield f"#SBATCH --{name}={shlex.quote(str(value))}"
    yield from (f"#SBATCH {option}" for option in request.extra)
    yield _OPTIONS.replace("@DRAIN", str(request.drain_s))


def _where(request: AllocationRequest) -> str:
    home = shlex.quote(str(request.home)) if request.home else "${PYFI_HOME:-$HOME/.local/state/pyfi}"
    if request.home is None and request.instance == "default":
        instance = "${PYFI_INSTANCE:-default}"
    else:
        instance = shlex.quote(request.instance)
    python = f"python={shlex.quote(request.python)}\n" if request.python else _PYTHON
    return f"\ninstance={instance}\nhome={home}\n{python}"


_HEAD = """\
# An allocation for pyfi_hpc: agents and ranks, two steps side by side. 'pyfi up --slurm' submits such a
# script; so can you, with sbatch, whose own options win over the lines here.
"""

_OPTIONS = """\
# The loss of a node ends neither the allocation nor what runs on the others.
#SBATCH --no-kill
# An allocation that is preempted, or loses its first node, comes back by itself: the ledger kept its tasks.
# One that drained at its walltime has ended well and does not.
#SBATCH --requeue
#SBATCH --open-mode=append
# This shell hears USR1 @DRAIN s before the walltime and tells the agents to drain.
#SBATCH --signal=B:USR1@@DRAIN"""

_PYTHON = """\
python=${PYFI_PYTHON:-$SLURM_SUBMIT_DIR/.venv/bin/python}
[[ -x $python ]] || python=$(command -v python3) || { echo "pyfi: no python3; set PYFI_PYTHON" >&2; exit 1; }
"""

_BROKER = """\

# The broker, on this first node. It starts again from the ledger if it dies, and ends with the agents.
run_broker() {
  trap 'ending=yes; kill "$broker"' TERM
  until "$python" -m pyfi_hpc.hosts.broker --instance "$instance" --home "$home" & broker=$!
    wait "$broker" || [[ -n ${ending:-} ]]
  do
    sleep 2
  done
  wait "$broker"
}
run_broker &
broker_loop=$!
"""

_STEPS = """\

# One lost task or node must not end a step: without the last three, srun ends all the others.
step=(srun --overlap --no-kill --kill-on-bad-exit=0 --wait=0)
# What a step does not learn by itself: the ranks on each node, and the end of the walltime (new Slurm tells).
export PYFI_SLURM_RANKS=$SLURM_NTASKS_PER_NODE
ends=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e)
export SLURM_JOB_END_TIME=${SLURM_JOB_END_TIME:-$(date --date="$ends" +%s 2>/dev/null)}

# Step 1: one agent per node. It holds the leases and the outcomes, and knows no MPI.
"${step[@]}" --mpi=none --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 \\
  "$python" -m pyfi_hpc.hosts.agent --instance "$instance" --home "$home" --slurm &
agents=$!
trap 'echo "pyfi: draining before the walltime"; kill -USR1 "$agents"' USR1
trap 'kill -TERM "$agents"' TERM

# Step 2: the ranks, one per core or GPU. A broken rank step is started again on the nodes that are left;
# the agents live on. Five failures at once are no accident: say so and end.
run_ranks() {
  local failures=0 nodes began
  while kill -0 "$agents" 2>/dev/null; do
    began=$SECONDS
    nodes=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%D)
    nodes=${nodes:-$SLURM_NNODES}
    "${step[@]}" --mpi=@MPI --nodes="$nodes" --ntasks=$((nodes * PYFI_SLURM_RANKS)) \\
      --ntasks-per-node="$PYFI_SLURM_RANKS" ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} \\
      "$python" -m pyfi_hpc.hosts.rank --instance "$instance" --home "$home"
    echo "pyfi: the rank step ended with $?"
    (( SECONDS - began < 30 )) && failures=$((failures + 1)) || failures=0
    if (( failures == 5 )); then
      echo "pyfi: the rank step fails at its start, see above; giving up" >&2
      kill -TERM "$agents"
      return 1
    fi
    sleep "$failures"
  done
}
run_ranks &
ranks=$!

# The job ends when the agents end: drained, told by 'pyfi down', or lost. A signal ends a wait early.
while kill -0 "$agents" 2>/dev/null; do wait "$agents"; done
wait "$agents"
code=$?
# An agent that was killed, or whose node was lost, is no failure of the allocation: others took its tasks.
(( code > 128 )) && code=0
kill -0 "$ranks" 2>/dev/null || wait "$ranks" || code=1
"""

_BROKER_END = """\
kill -TERM "$broker_loop"
wait "$broker_loop"
"""

_END = """\
exit "$code"
"""


# --- text in ---------------------------------------------------------------------------------------


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


_SQUEUE_FORMAT = "%i|%T|%L|%S|%N|%r"


def parse_squeue(text: str) -> list[QueueEntry]:
    """Entries from ``squeue -h -o '%i|%T|%L|%S|%N|%r'``; other lines, a site's notices, are left out."""
    entries = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|", 5)]
        if len(fields) == 6 and fields[0].isdigit():
            job, state, left, start, nodes, reason = fields
            entries.append(
                QueueEntry(
                    slurm_job_id=int(job),
                    state=state,
                    reason="" if reason == "None" else reason,
                    nodes=expand_nodes(nodes),
                    left_s=parse_duration(left),
                    start="" if start == "N/A" else start,
                )
            )
    return entries


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


# --- commands --------------------------------------------------------------------------------------


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
    script = render_sbatch(request)
    if dry_run:
        return Submitted(None, script, _run(["sbatch", "--test-only"], script))
    answer = _run(["sbatch", "--parsable"], script)
    return Submitted(parse_sbatch(answer), script, answer)


def cancel(slurm_job_id: int) -> None:
    """End an allocation; one that has ended already is no error."""
    _run(["scancel", "--quiet", str(slurm_job_id)])


def queue(slurm_job_ids: Iterable[int]) -> dict[int, QueueEntry]:
    """The state of allocations in one command; those that Slurm has forgotten are left out.

    Cost: one request to the controller however many there are; ask every 15 s at most.
    """
    wanted = set(slurm_job_ids)
    if not wanted:
        return {}
    # by user, not by id: with one unknown id squeue fails
    text = _run(["squeue", "--noheader", "--me", "--states=all", f"--format={_SQUEUE_FORMAT}"])
    return {entry.slurm_job_id: entry for entry in parse_squeue(text) if entry.slurm_job_id in wanted}


def time_left(slurm_job_id: int) -> float | None:
    """Seconds until the allocation's walltime; None where it has none or has ended."""
    entry = queue([slurm_job_id]).get(slurm_job_id)
    return entry.left_s if entry and entry.state == "RUNNING" else None


_BUSY = re.compile(r"unable to contact|socket timed out|temporarily|connection refused|zero bytes", re.I)
#: never in Slurm's copy of the environment; the broker reads them from PYFI_HOME
_SECRETS = ("PYFI_LEDGER", "PGPASSWORD")


def _run(command: Sequence[str], script: str = "") -> str:
    """Run one Slurm command; returns what it printed on both outputs."""
    # inside another job the SLURM_ variables would describe that one
    drop = ("SLURM_", *_SECRETS)
    env = {k: v for k, v in os.environ.items() if not k.startswith(drop) or k == "SLURM_CONF"}
    line = shlex.join(command)
    try:
        done = subprocess.run(
            command, input=script, text=True, errors="replace", capture_output=True, timeout=COMMAND_S_MAX,
            env=env, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise SlurmMissing(where=f"looked for {command[0]} on PATH") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmBusy(
            f"no answer from Slurm in {COMMAND_S_MAX:.0f} s", where=line,
            fix="a submission may have arrived all the same: look at squeue --me, then try again",
        ) from error  # fmt: skip
    if done.returncode == 0:
        return done.stdout + done.stderr
    words = re.sub(rf"^{command[0]}: (error: )?", "", done.stderr.strip(), flags=re.M)
    kind = SlurmBusy if _BUSY.search(words) else SlurmRefused
    raise kind(f"Slurm refused: {words or f'exit status {done.returncode}, no words'}", where=line)
