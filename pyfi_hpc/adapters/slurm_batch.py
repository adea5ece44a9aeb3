"""Slurm as a batch system for elastic allocations (``ports.BatchSystem``), and its reasons in plain words."""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import datetime

from pyfi_hpc.adapters import slurm
from pyfi_hpc.adapters.batch_command import COMMAND_S_MAX
from pyfi_hpc.adapters.slurm import QueueEntry
from pyfi_hpc.errors import SlurmMissing, SlurmRefused
from pyfi_hpc.model.allocations import AllocationRequest, JobSeen, key_of, number_of

#: what squeue's REASON means, for those that people meet most
REASONS = {
    "Resources": "nodes for it are not free yet",
    "Priority": "other jobs go first",
    "Dependency": "it waits for another job",
    "BeginTime": "its start time has not come",
    "Licenses": "a licence is not free",
    "ReqNodeNotAvail": "a node that it asks for is down, drained or reserved",
    "PartitionNodeLimit": "it asks for more nodes than its partition gives to one job",
    "PartitionTimeLimit": "it asks for more time than its partition gives",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive",
    "AssocGrpCpuLimit": "your account has all cores that it may have at once",
    "AssocMaxJobsLimit": "your account runs as many jobs as it may",
    "QOSMaxJobsPerUserLimit": "you run as many jobs of this QOS as you may",
    "QOSMaxCpuPerUserLimit": "you have all cores that this QOS gives to one person",
    "QOSMaxSubmitJobPerUserLimit": "you have submitted as many jobs of this QOS as you may",
    "QOSGrpCpuLimit": "this QOS has all cores that it may have at once",
    "JobHeldUser": "you hold it (`scontrol release`)",
    "JobHeldAdmin": "the site holds it",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its QOS is not valid",
    "launch failed requeued held": "its start failed on a node, and Slurm holds it",
}
_WAITS = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
_RUNS = ("CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "COMPLETING", "SIGNALING", "RESIZING", "STAGE_OUT")


class SlurmBatch:
    """Slurm, or one of several clusters by its name."""

    def __init__(self, cluster: str = "") -> None:
        self._cluster = cluster
        #: False: the site has said that it keeps no accounts, and is not asked again
        self._accounts = True

    def script(self, request: AllocationRequest) -> str:
        return slurm.render_sbatch(request)

    def submit(self, request: AllocationRequest) -> str:
        job = slurm.submit(request).slurm_job_id
        assert job is not None
        return key_of(str(job), self._cluster)

    def check(self, request: AllocationRequest) -> str:
        return slurm.submit(request, dry_run=True).words.strip()

    def status(self, keys: Collection[str], limit_s: float = COMMAND_S_MAX) -> list[JobSeen]:
        entries = slurm.jobs(self._cluster, limit_s)
        seen = [_seen(entry, self._cluster) for entry in entries]
        return [job for job in seen if job.mark or job.key in keys]

    def cancel(self, key: str, *, only_waiting: bool = False) -> None:
        slurm.cancel(int(number_of(key)), self._cluster, only_waiting=only_waiting)

    def ends(self, keys: Collection[str]) -> dict[str, str]:
        if not self._accounts or not keys:
            return {}
        try:
            found = slurm.ends([int(number_of(key)) for key in keys], self._cluster)
        except (SlurmRefused, SlurmMissing):
            self._accounts = False
            return {}
        return {key_of(str(job), self._cluster): words for job, words in found.items()}


def _seen(entry: QueueEntry, cluster: str) -> JobSeen:
    phase = "waits" if entry.state in _WAITS else "runs" if entry.state in _RUNS else "ended"
    return JobSeen(
        key=key_of(str(entry.slurm_job_id), cluster),
        phase=phase,  # type: ignore[arg-type]  # one of three words
        state=entry.state,
        reason=entry.reason.strip("()") if phase != "runs" else "",
        left_s=entry.left_s,
        start_at=_utc(entry.start) if phase == "waits" else None,
        mark=entry.mark,
        nodes=entry.nodes,
    )


def _utc(start: str) -> float | None:
    """Slurm tells local times of this machine; None for none, and for one that has passed without a start."""
    try:
        at = datetime.fromisoformat(start).timestamp()
    except ValueError:
        return None
    return at if at > time.time() else None
