"""PBS as a batch system (``ports.BatchSystem``): OpenPBS, PBS Professional.

Pure: ``parse_qstat``; the script is in ``pbs_script``. Outside: one command each, with a time limit; a status takes
two, ``qselect`` for this person's jobs and ``qstat`` for those.
"""

from __future__ import annotations

import getpass
import re
import time
from collections.abc import Collection, Sequence

from pyfi_hpc.adapters import batch_command
from pyfi_hpc.adapters.batch_command import COMMAND_S_MAX, Kind
from pyfi_hpc.adapters.pbs_script import render_pbs
from pyfi_hpc.adapters.slurm import parse_duration
from pyfi_hpc.errors import PbsBusy, PbsMissing, PbsRefused
from pyfi_hpc.model.allocations import AllocationRequest, JobSeen

#: PBS's letters
STATES = {
    "Q": "queued", "H": "held", "W": "waits for its time", "T": "moving", "S": "suspended", "R": "running",
    "E": "exiting", "B": "array running", "M": "moved", "F": "finished", "X": "expired", "C": "completed",
}  # fmt: skip
_WAITS, _RUNS = "QHWT", "RESBU"
#: what commands say of a job that has ended
_GONE = re.compile(r"unknown job|has finished", re.I)
_TRIES = 3

_KIND = Kind(
    name="PBS", missing=PbsMissing, busy=PbsBusy, refused=PbsRefused,
    busy_words=re.compile(r"cannot connect|connection (refused|timed out)|timed? ?out|temporarily", re.I),
    inside="PBS_", keep="PBS_SERVER", look="qstat -u $USER",
)  # fmt: skip


class Pbs:
    """PBS's default server."""

    def script(self, request: AllocationRequest) -> str:
        return render_pbs(request)

    def submit(self, request: AllocationRequest) -> str:
        answer = _run(["qsub"], render_pbs(request))
        for line in reversed(answer.splitlines()):
            if found := re.fullmatch(r"(\d+)(\.[\w.-]+)?", line.strip()):
                return found[1]
        raise PbsRefused("qsub did not answer with a job id", where=answer.strip()[-500:] or "(no output)")

    def check(self, request: AllocationRequest) -> str:
        """PBS cannot check a request without taking it."""
        render_pbs(request)
        return ""

    def status(self, keys: Collection[str], limit_s: float = COMMAND_S_MAX) -> list[JobSeen]:
        for left in reversed(range(_TRIES)):
            listed = _run(["qselect", "-u", getpass.getuser()], limit_s=limit_s).split()
            try:
                text = _run(["qstat", "-f", *listed], limit_s=limit_s) if listed else ""
            except PbsRefused as error:
                # one of them has ended between the two commands
                if not left or not _GONE.search(error.what):
                    raise
                continue
            return [job for job in parse_qstat(text, time.time()) if job.mark or job.key in keys]
        raise AssertionError("the last try returns or raises")

    def cancel(self, key: str, *, only_waiting: bool = False) -> None:
        """PBS cannot tell ``only_waiting``: a job that begins in this very moment is ended."""
        try:
            _run(["qdel", key])
        except PbsRefused as error:
            if not _GONE.search(error.what):
                raise

    def ends(self, keys: Collection[str]) -> dict[str, str]:
        """From the server's history, where it keeps one."""
        try:
            text = _run(["qstat", "-x", "-f", *keys]) if keys else ""
        except (PbsRefused, PbsBusy):
            return {}
        return {job.key: job.words for job in parse_qstat(text, time.time()) if job.phase == "ended"}


def parse_qstat(text: str, now: float) -> list[JobSeen]:
    """Jobs from ``qstat -f``; ``now`` is UTC.

    Long values go on in lines that begin with a tab.
    """
    found = []
    for part in re.split(r"^Job Id: *", re.sub(r"\n\t", "", text), flags=re.M)[1:]:
        head, _, rest = part.partition("\n")
        number = re.match(r"\d+", head.strip())
        fields = dict(re.findall(r"^ +([\w.]+) = (.*)$", rest, re.M))
        letter = fields.get("job_state", "")
        if number and letter:
            found.append(_seen(number[0], letter, fields, now))
    return found


def _seen(key: str, letter: str, fields: dict[str, str], now: float) -> JobSeen:
    phase = "waits" if letter in _WAITS else "runs" if letter in _RUNS else "ended"
    mark = re.search(r"(?:^|,)PYFI_MARK=([^,]*)", fields.get("Variable_List", ""))
    limit_s = parse_duration(fields.get("Resource_List.walltime", ""))
    used_s = parse_duration(fields.get("resources_used.walltime", "")) or 0.0
    reason = fields.get("comment", "") if phase == "waits" else ""
    if phase == "ended" and "Exit_status" in fields:
        reason = f"exit status {fields['Exit_status']}"
    start = fields.get("estimated.start_time", "") if phase == "waits" else ""
    return JobSeen(
        key=key,
        phase=phase,  # type: ignore[arg-type]  # one of three words
        state=STATES.get(letter, letter),
        reason=reason,
        left_s=None if limit_s is None else max(0.0, limit_s - used_s),
        start_at=_utc(start, now),
        mark=mark[1] if mark else "",
        nodes=tuple(dict.fromkeys(re.findall(r"(?:^|\+)\(?([\w.-]+)/", fields.get("exec_host", "")))),
    )


def _utc(start: str, now: float) -> float | None:
    """PBS tells ``Thu Jan  1 12:00:00 2026`` in local time; None for none, and for one that has passed."""
    try:
        at = float(start) if start.isdigit() else time.mktime(time.strptime(start))
    except (ValueError, OverflowError):
        return None
    return at if at > now else None


def _run(command: Sequence[str], script: str = "", limit_s: float = COMMAND_S_MAX) -> str:
    return batch_command.run(_KIND, command, script, limit_s)
