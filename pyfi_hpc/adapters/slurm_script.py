"""The batch script of an allocation, as text: agents and ranks, two steps side by side.

Pure: a request in, the script out. The files in ``slurm/`` are what it prints for the common cases.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from pyfi_hpc.errors import UsageError
from pyfi_hpc.model.allocations import AllocationRequest as AllocationRequest
from pyfi_hpc.model.allocations import parse_time as parse_time


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
    walltime = parse_time(request.time)
    if walltime is not None and walltime <= request.drain_s:
        raise UsageError(
            f"a walltime of {walltime} s ends before any task: agents drain {request.drain_s} s before its end",
            where=_HERE, fix="ask for more time, several minutes at least",
        )  # fmt: skip
    for option in request.extra:
        if not option.startswith("-"):
            raise UsageError(
                f"{option!r} is not an sbatch option", where=_HERE, fix="write it as --name=value"
            )
        if re.match(r"-G|--gpus\b(?!-)", option):
            raise UsageError(
                f"{option!r} may give nodes different numbers of GPUs, and then no step starts on all of them",
                where=_HERE, fix="say --gpus-per-node, or -G to pyfi itself",
            )  # fmt: skip
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
    if request.mark:  # last, so that it is what counts
        yield f"#SBATCH --comment={shlex.quote(request.mark)}"
    yield _OPTIONS.replace("@DRAIN", str(request.drain_s))


def _where(request: AllocationRequest) -> str:
    home = shlex.quote(str(request.home)) if request.home else "${PYFI_HOME:-$HOME/.local/state/pyfi}"
    if request.home is None and request.instance == "default":
        instance = "${PYFI_INSTANCE:-default}"
    else:
        instance = shlex.quote(request.instance)
    python = f"python={shlex.quote(request.python)}\n" if request.python else _PYTHON
    return f"\ninstance={instance}\nhome={home}\n{python}{_named(request)}"


def _named(request: AllocationRequest) -> str:
    """What agents call their allocation: with several clusters Slurm's id alone names two jobs."""
    return f'export PYFI_ALLOCATION="$SLURM_JOB_ID"@{shlex.quote(request.cluster)}\n' if request.cluster else ""


_HEAD = """\
# An allocation for pyfi_hpc: agents and ranks, two steps side by side. 'pyfi up --slurm' submits such a
# script; so can you, with sbatch, whose own options win over the lines here.
"""

_OPTIONS = """\
# The loss of a node ends neither the allocation nor what runs on the others.
#SBATCH --no-kill
# An allocation that is preempted, or loses its only node, comes back by itself: the ledger kept its tasks.
# One that drained at its walltime has ended well and does not; nor does one of several that loses the first.
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
  until "$python" -m pyfi_hpc.hosts.broker --instance "$instance" --home "$home" --in-job & broker=$!
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
# What a step does not learn by itself: the ranks on each node, how MPI starts, and the end of the walltime (new Slurm
# tells).
export PYFI_SLURM_RANKS=$SLURM_NTASKS_PER_NODE PYFI_SLURM_MPI=@MPI
ends=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e)
export SLURM_JOB_END_TIME=${SLURM_JOB_END_TIME:-$(date --date="$ends" +%s 2>/dev/null)}
# Both steps have all GPUs of the job on each node, by the same names: which of them a task sees, its agent says.
if [[ -n ${SLURM_GPUS_PER_TASK:-} ]]; then
  count=${SLURM_GPUS_PER_TASK##*:}
  step+=(--gres="gpu:${SLURM_GPUS_PER_TASK%"$count"}$((count * PYFI_SLURM_RANKS))")
fi
unset SLURM_GPUS_PER_TASK SLURM_NTASKS_PER_GPU SLURM_GPU_BIND SLURM_TRES_PER_TASK SLURM_TRES_BIND

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
    echo "pyfi: the rank step ended with $? (142: MPI did not start in time)"
    (( SECONDS - began < 60 )) && failures=$((failures + 1)) || failures=0
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
