"""Holds: nothing of a job that is on hold starts until its owner releases it.

A job is put on hold when it is submitted or later. Its ready tasks leave the queue, so they count for nothing in the
backlog, in shares and in turns; what becomes ready or comes back meanwhile stays PENDING and outside. What nodes were
given and have not started is asked back; what runs goes on. Whether a job is on hold is in the ledger (HoldChanged), so
a restart does not release it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from pyfi_hpc.core import admit
from pyfi_hpc.core.jobs import Batch, Job
from pyfi_hpc.core.nodes import Node
from pyfi_hpc.core.settle import runs
from pyfi_hpc.core.state import State
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.ids import GrantId, JobId
from pyfi_hpc.model.messages import Preempt
from pyfi_hpc.model.records import HoldChanged
from pyfi_hpc.model.states import TaskState

HOLD, RELEASE = "job_hold", "job_release"
VERBS = (HOLD, RELEASE)


class _Asked(msgspec.Struct):
    job: int


def asked(s: State, verb: str, body: bytes, user: str, now: float, out: Effects) -> tuple[bool, bytes]:
    """The verbs ``job_hold`` and ``job_release``. To hold twice is to hold once."""
    try:
        number = _asked.decode(body).job
    except (msgspec.MsgspecError, ValueError):
        return False, _wrong("usage_error", "the request names no job", verb)
    job = s.book.jobs.get(JobId(number))
    if job is None:
        return False, _wrong("not_found", f"there is no unfinished job {number}", verb, "`pyfi queue -u` lists them")
    if job.owner != user:
        return False, _wrong("refused", f"job {number} belongs to somebody else", verb)
    changed = job.on_hold != (verb == HOLD)
    if changed:
        (_hold if verb == HOLD else _release)(s, job, now, out)
    running = sum(_running(node, job) for node in s.nodes.by_name.values())
    told = {"job": job.id, "on_hold": job.on_hold, "changed": changed, "running": running, "open": job.open}
    return True, _encode(told)


def take_back(s: State, nodes: Iterable[Node], out: Effects, job: Job | None = None) -> None:
    """Ask nodes for what they have not started of jobs on hold. Cost: a look at each of their grants."""
    for node in nodes:
        for grant in node.grants.values():
            if grant.batch.job.on_hold and job in (None, grant.batch.job):
                out.send(node.peer, Preempt(grant.id, grant.lo, grant.count, False))


def _hold(s: State, job: Job, now: float, out: Effects) -> None:
    s.emit(HoldChanged(job.id, job.holds, True, now + s.utc_offset), out)
    s.queue.withdraw(job)
    take_back(s, s.nodes.by_name.values(), out, job)


def _release(s: State, job: Job, now: float, out: Effects) -> None:
    s.emit(HoldChanged(job.id, job.holds, False, now + s.utc_offset), out)
    for batch in job.batches:
        if batch.trouble:
            _enqueue_troubled(s, batch)
        else:
            admit.enqueue_pending(s, batch)


def _enqueue_troubled(s: State, batch: Batch) -> None:
    """What has failed before is tried elsewhere, as it would have been."""
    assert batch.trouble is not None
    pending = [offset for offset, state in enumerate(batch.states) if state == TaskState.PENDING]
    for lo, hi in runs([offset for offset in pending if offset not in batch.trouble]):
        s.queue.push(batch, lo, hi)
    for offset in pending:
        if offset in batch.trouble:
            s.queue.push_retry(batch, offset)


def _running(node: Node, job: Job) -> int:
    """How many tasks of a job ran there when it was heard last."""
    grants = (node.grants.get(GrantId(number)) for number, _ in node.running)
    return sum(grant is not None and grant.batch.job is job for grant in grants)


def _wrong(code: str, what: str, where: str, fix: str = "") -> bytes:
    return _encode({"code": code, "what": what, "where": where, "fix": fix})


def _encode(values: dict[str, Any]) -> bytes:
    return _encoder.encode(values)


_encoder = msgspec.msgpack.Encoder()
_asked = msgspec.msgpack.Decoder(_Asked)
