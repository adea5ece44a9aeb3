"""The batch script of an allocation under PBS, as text: one agent on each node, which starts the ranks there.

Pure: a request in, the script out. Written for OpenPBS and PBS Professional (``-l select``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from pyfi_hpc.errors import UsageError
from pyfi_hpc.model.allocations import HERE, AllocationRequest, check_values, parse_time

#: older servers take no longer name
_NAME_MAX = 15


def render_pbs(request: AllocationRequest) -> str:
    """The batch script of an allocation under PBS.

    Raises
    ------
    UsageError
        A count below one, a line break in a value, or what PBS has no word for.

    Notes
    -----
    The script holds names and paths only. Keys come from the access file in PYFI_HOME.
    """
    walltime_s = _check(request)
    options = "\n".join(f"#PBS {option}" for option in _options(request, walltime_s))
    modules = f"module load {shlex.join(request.modules)}\n" if request.modules else ""
    shell = "#!/bin/bash -l" if request.modules else "#!/bin/bash"
    home = shlex.quote(str(request.home)) if request.home else "${PYFI_HOME:-$HOME/.local/state/pyfi}"
    python = shlex.quote(request.python) if request.python else "${PYFI_PYTHON:-python3}"
    drain = f"timeout --foreground --signal=USR1 {walltime_s - request.drain_s} " if walltime_s else ""
    where = f"instance={shlex.quote(request.instance)}\nhome={home}\npython={python}\nranks={request.ntasks_per_node}\n"
    return f"{shell}\n{_HEAD}{options}\n\n{modules}{where}{_STEPS.replace('@DRAIN', drain)}"


def _check(request: AllocationRequest) -> int:
    """The walltime in seconds; 0: the site's default."""
    check_values(request)
    if request.broker == "job":
        raise UsageError("under PBS the broker runs here, not in the job", where="--broker")
    for option, value, fix in (
        ("--qos", request.qos, "name the queue with -p"),
        ("--reservation", request.reservation, "name its queue with -p"),
        ("--cluster", request.cluster, "name the queue and server with -p QUEUE@SERVER"),
    ):
        if value:
            raise UsageError(f"PBS has no {option}", where=HERE, fix=fix)
    for option in request.extra:
        if not option.startswith("-"):
            raise UsageError(f"{option!r} is not a qsub option", where=HERE, fix="write it as '-l name=value'")
        if option.startswith("--"):
            raise UsageError(f"qsub has no option {option!r}", where=HERE, fix="memory and such: -C mem=8gb:ngpus=1")
    for path in (str(request.home or ""), request.python) if request.nodes > 1 else ():
        if re.search(r"[^\w./@%+=:,~-]", path):
            raise UsageError(
                f"the path {path!r} cannot be passed to other nodes", where=HERE,
                fix="use one of letters, digits, dots, dashes and slashes, or ask for one node",
            )  # fmt: skip
    if not request.time:
        return 0
    walltime_s = parse_time(request.time)
    if walltime_s is None:
        raise UsageError(f"the walltime {request.time!r} is not understood", where="--time", fix="such as 1:00:00")
    if walltime_s <= request.drain_s:
        raise UsageError(
            f"a walltime of {walltime_s} s ends before any task: agents drain {request.drain_s} s before its end",
            where=HERE, fix="ask for more time, several minutes at least",
        )  # fmt: skip
    return walltime_s


def _options(request: AllocationRequest, walltime_s: int) -> Iterator[str]:
    ranks = request.ntasks_per_node
    chunk = [f"select={request.nodes}:ncpus={ranks * (request.cpus_per_task or 1)}:mpiprocs={ranks}"]
    if request.gpus_per_node:
        chunk.append(f"ngpus={request.gpus_per_node}")
    if request.constraint:
        chunk.append(request.constraint)
    yield "-N " + re.sub(r"[^A-Za-z0-9_-]", "-", f"pyfi-{request.instance}")[:_NAME_MAX]
    yield "-l " + ":".join(chunk)
    if request.nodes > 1:
        yield "-l place=scatter"  # one agent on each node, so one chunk on each
    if walltime_s:
        minutes, seconds = divmod(walltime_s, 60)
        yield f"-l walltime={minutes // 60}:{minutes % 60:02}:{seconds:02}"
    if request.partition:
        yield f"-q {shlex.quote(request.partition)}"
    if request.account:
        yield f"-A {shlex.quote(request.account)}"
    yield "-j oe"
    yield f"-o {shlex.quote(output_of(request.output))}"
    yield from request.extra
    if request.mark:
        yield f"-v PYFI_MARK={request.mark}"


def output_of(path: str, number: str = "") -> str:
    """The file of a job's output: PBS knows no ``%j``, so the folder is named, and PBS names the file by the id."""
    folder = path.rpartition("/")[0] or "."
    return f"{folder}/{number}.OU" if number else f"{folder}/"


_HEAD = """\
# An allocation for pyfi_hpc: an agent on each node, which starts the ranks there. 'pyfi alloc add --batch pbs'
# submits such a script; so can you, with qsub, whose own options win over the lines here.
"""

_STEPS = """\
# What agents call their allocation.
export PYFI_ALLOCATION=${PBS_JOBID%%.*}
own=$(hostname)

# On another node by PBS's own way, so that PBS ends what runs there; else by ssh. What MPI would read of PBS is taken
# away: an agent starts the ranks of its own node only. Some time before the walltime it hears USR1, and drains.
run_agent() {
  local host=$1 way=()
  local words=(env -u PBS_NODEFILE -u PBS_ENVIRONMENT -u PBS_JOBID -u PBS_JOBCOOKIE PYFI_ALLOCATION="$PYFI_ALLOCATION"
    @DRAIN"$python" -m pyfi_hpc.hosts.agent --instance "$instance" --home "$home" --ranks "$ranks")
  if [[ ${host%%.*} == "${own%%.*}" ]]; then exec "${words[@]}"; fi
  if command -v pbs_tmrsh >/dev/null; then way=(pbs_tmrsh "$host"); else way=(ssh -o BatchMode=yes "$host"); fi
  exec "${way[@]}" "${words[@]}"
}
agents=()
for host in $(sort -u "$PBS_NODEFILE"); do
  run_agent "$host" &
  agents+=($!)
done
trap 'kill -TERM "${agents[@]}" 2>/dev/null' TERM
trap 'kill -USR1 "${agents[@]}" 2>/dev/null' USR1

# The job ends when the agents end: drained, given back, told by 'pyfi down', or lost. A signal ends a wait early.
code=0
for agent in "${agents[@]}"; do
  while kill -0 "$agent" 2>/dev/null; do wait "$agent"; done
  wait "$agent"
  ended=$?
  # 124: it drained before the walltime. A signal is no failure of the allocation: others took its tasks.
  (( ended == 0 || ended == 124 || ended > 128 )) || code=$ended
done
exit "$code"
"""
