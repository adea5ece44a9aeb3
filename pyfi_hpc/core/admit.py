"""Admission: a submission becomes a job and a batch, once, and is acknowledged after the commit."""

from __future__ import annotations

from difflib import get_close_matches

import msgspec

from pyfi_hpc.core import fits, settle
from pyfi_hpc.core.graph import edges_of
from pyfi_hpc.core.jobs import Job
from pyfi_hpc.core.state import State
from pyfi_hpc.model.effects import Effects, FindJob
from pyfi_hpc.model.events import JobFound, SocketSpec
from pyfi_hpc.model.ids import BatchId, CodeId, JobId, Peer, SocketId
from pyfi_hpc.model.messages import Accepted, Refused, Submit
from pyfi_hpc.model.packed import largest, well_formed
from pyfi_hpc.model.records import BatchAdmitted, BatchClosed, HoldChanged, JobOpened
from pyfi_hpc.model.states import AT_ONCE_MAX, FIRST_FINAL, OnFailure, TaskState
from pyfi_hpc.model.terms import decode

#: asked of a client while the ledger is down or the broker is full, seconds
_RETRY_AFTER_S = 0.5
_LATER_FIX = "see `pyfi doctor`; this was not accepted, try again when the ledger is back"
#: names are compared with an unknown one while there are no more, which takes some ms
_COMPARED_MAX = 1000


def submit(s: State, peer: Peer, user: str, message: Submit, now: float, out: Effects) -> None:
    """Take one batch. Cost: some 10 us, and 0.1 us a task for the checks."""
    job_id = s.book.keys.get(message.key)
    if job_id is not None:
        _append(s, s.book.jobs[job_id], peer, user, message, now, out)
        return
    ended = s.book.ended.get(message.key)
    if ended is not None:
        out.send(peer, Accepted(message.key, message.number, ended[0]))
        return
    if message.resend or message.number:
        # The job may have ended before a restart, or all of its batches so far: only the ledger knows.
        waiting = s.looked_up.setdefault(message.key, [])
        waiting.append((peer, user, message))
        if len(waiting) == 1:
            out.queries.append(FindJob(user, message.key))
        return
    _open(s, peer, user, message, now, out)


def found(s: State, event: JobFound, now: float, out: Effects) -> None:
    """The ledger's answer for a submission that was sent again."""
    for peer, user, message in s.looked_up.pop(event.key, []):
        known, found = s.book.keys.get(event.key), event.found
        if known is None and found is not None and not found.closed:
            s.book.reopen(found)
            known = found.opened.job
        if known is not None:
            _append(s, s.book.jobs[known], Peer(peer), user, message, now, out)
        elif found is None:
            _open(s, Peer(peer), user, message, now, out)
        elif message.number < found.next_number:
            out.send(Peer(peer), Accepted(event.key, message.number, found.opened.job))
        else:
            text = f"job {found.opened.job} has its last batch; no other can be added"
            _refuse(s, Peer(peer), message, "job_closed", text, out)


def _open(s: State, peer: Peer, user: str, message: Submit, now: float, out: Effects) -> None:
    if message.number != 0 or message.first != 0:
        _refuse(s, peer, message, "protocol", "a job begins with batch 0", out)
        return
    socket = _check(s, peer, user, message, None, out)
    if socket is None:
        return
    if message.on_failure > max(OnFailure) or message.at_once > AT_ONCE_MAX:
        wrong = f"on_failure {message.on_failure} or at_once {message.at_once}"
        _refuse(s, peer, message, "protocol", f"{wrong} cannot be", out)
        return
    job_id = s.next_job
    s.next_job = JobId(job_id + 1)
    opened = JobOpened(
        job_id, message.key, user, message.name or socket.name, message.shape, message.on_failure,
        now + s.utc_offset, message.project, message.at_once,
    )  # fmt: skip
    s.emit(opened, out)
    if message.hold:
        s.emit(HoldChanged(job_id, 0, True, opened.opened_at), out)
    _admit(s, s.book.jobs[job_id], socket, peer, message, now, out)


def _append(s: State, job: Job, peer: Peer, user: str, message: Submit, now: float, out: Effects) -> None:
    if job.owner != user:
        _refuse(s, peer, message, "refused", "this job belongs to somebody else", out)
    elif message.number < job.next_number:
        if message.watch:
            _watch(s, job, peer)
        out.send(peer, Accepted(message.key, message.number, job.id))
    elif job.closed or message.number != job.next_number or message.first != job.count:
        _refuse(s, peer, message, "protocol", f"batch {message.number} does not follow the last one of its job", out)
    else:
        socket = _check(s, peer, user, message, job, out)
        if socket is not None:
            _admit(s, job, socket, peer, message, now, out)


def _admit(s: State, job: Job, socket: SocketSpec, peer: Peer, message: Submit, now: float, out: Effects) -> None:
    batch_id = s.next_batch
    s.next_batch = BatchId(batch_id + 1)
    record = BatchAdmitted(
        batch_id, job.id, message.number, message.first, message.count, message.last, SocketId(socket.socket),
        CodeId(socket.mount.code), message.priority + socket.priority, message.retries, message.time_limit_s,
        message.offsets, message.payload, message.edges, message.terms or socket.terms, message.preemptible,
        message.size,
    )  # fmt: skip
    s.emit(record, out)
    s.close_before(job, out)
    s.counts.accepted += message.count
    batch = job.batches[-1]
    if s.payload_bytes + len(message.payload) <= s.limits.queued_payload_bytes_max:
        s.keep_payload(batch, message.offsets, message.payload)
    if message.edges:
        s.graph.admit(batch, edges_of(message.edges, job.id), out)
    enqueue_pending(s, batch)
    _note_submitter(s, job, peer)
    if message.watch:
        _watch(s, job, peer)
    out.send(peer, Accepted(message.key, message.number, job.id))
    if job.cancelled:
        settle.cancel(s, job, batch.first, batch.count, now, out)


def _note_submitter(s: State, job: Job, peer: Peer) -> None:
    """Who sends the job's batches: when it goes before the last one, somebody must end the job."""
    job.submitter = peer
    s.orphans.pop(job.id, None)
    client = s.clients.by_peer.get(peer)
    if client is not None:
        (client.submitting.discard if job.closed else client.submitting.add)(job.id)


def close(s: State, job: Job, out: Effects) -> None:
    """End a job whose client has gone before its last batch: an empty batch is the last one.

    What was admitted runs and is settled; whoever waits for the job is told that no more follows.
    """
    before = job.batches[-1]
    batch_id = s.next_batch
    s.next_batch = BatchId(batch_id + 1)
    record = BatchAdmitted(
        batch_id, job.id, job.next_number, job.count, 0, True, before.socket, before.code, 0, 0, 0.0, b"", b"", b""
    )
    s.emit(record, out)
    s.close_before(job, out)
    s.emit(BatchClosed(batch_id), out)


def enqueue_pending(s: State, batch: object) -> None:
    """Put all PENDING tasks of a batch into the queue, in runs."""
    states = batch.states  # type: ignore[attr-defined]
    lo = states.find(TaskState.PENDING)
    while lo >= 0:
        hi = lo
        while hi < len(states) and states[hi] == TaskState.PENDING:
            # a whole batch is one run: do not step through it
            if hi == lo and states.count(TaskState.PENDING, lo) == len(states) - lo:
                hi = len(states)
                break
            hi += 1
        s.queue.push(batch, lo, hi)  # type: ignore[arg-type]
        lo = states.find(TaskState.PENDING, hi)


def _watch(s: State, job: Job, peer: Peer) -> None:
    client = s.clients.by_peer.get(peer)
    if client is not None:
        client.watched.add(job.id)
        job.watchers.add(peer)


def _check(s: State, peer: Peer, user: str, message: Submit, job: Job | None, out: Effects) -> SocketSpec | None:
    """The socket of a submission that may come in; else it is refused and None."""
    limits = s.limits
    if s.ledger_down:
        _later(s, peer, message, s.ledger_down, out)
        return None
    if len(message.key) != 16 or not 0 < message.count <= limits.batch_tasks_max:
        text = f"a batch has 1 to {limits.batch_tasks_max} tasks and a key of 16 bytes"
        _refuse(s, peer, message, "protocol", text, out)
        return None
    if not well_formed(message.offsets, message.payload, message.count):
        _refuse(s, peer, message, "protocol", "offsets and payload do not fit together", out)
        return None
    if largest(message.offsets) > limits.payload_bytes_max:
        _refuse(
            s, peer, message, "too_large",
            f"the arguments of a task take {largest(message.offsets)} bytes; the limit is {limits.payload_bytes_max}",
            out, "pass a path to a file on a shared filesystem instead",
        )  # fmt: skip
        return None
    socket = s.sockets.get(message.socket) or s.by_function.get(message.socket)
    if socket is None:
        _refuse(
            s, peer, message, "unknown_socket", f"there is no socket {message.socket!r}", out,
            _similar(s, message.socket),
        )  # fmt: skip
        return None
    unmet = _unsatisfiable(s, message.terms or socket.terms)
    if unmet:
        _refuse(s, peer, message, *unmet, out)
        return None
    if not socket.enabled:
        _refuse(s, peer, message, "refused", f"the socket {message.socket!r} is disabled", out)
        return None
    if message.edges:
        problem = _edge_problem(s, user, message, job)
        if problem:
            _refuse(s, peer, message, "protocol", problem, out)
            return None
    return socket


def _unsatisfiable(s: State, data: bytes) -> tuple[str, str] | None:
    """Why what the tasks need can never be given, as code and text.

    Judged by the nodes that are here, those that were, those that were asked for (``pyfi up --slurm``) and those that
    may be (``pyfi alloc``): without any of them the task waits, the right one may come.
    """
    if not data:
        return None
    try:
        terms = decode(data)
    except ValueError as error:
        return "protocol", str(error)
    text = fits.too_much(terms.ways, s.shapes(), (*s.to_come, *s.expected.values()))
    return ("unsatisfiable", text) if text else None


def _edge_problem(s: State, user: str, message: Submit, job: Job | None) -> str:
    try:
        edges = edges_of(message.edges, job.id if job else 0)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        return f"malformed edges: {error}"
    own = job.id if job else 0
    slots: dict[int, int] = {}
    for offset, slot, producer, index in edges:
        # the slots of a task come in order, without holes: a hole would wait for ever, and a large one fills the memory
        if offset >= message.count or slot != slots.get(offset, 0):
            return f"edge ({offset}, {slot}, {producer}, {index}) is out of range or out of order"
        slots[offset] = slot + 1
        if producer == own and index >= message.first + offset:
            return f"task {message.first + offset} depends on task {index} of its job, which does not come before it"
        other = s.book.jobs.get(JobId(producer))
        if other is not None and other.owner != user:
            return f"job {producer} belongs to somebody else"
        if producer != own and producer >= s.next_job:
            return f"there is no job {producer}"
    return ""


def _similar(s: State, name: str) -> str:
    """How to go on: sockets of the same function, or of a name like this one."""
    function = name.rpartition(".")[2].rpartition(":")[2]
    near = sorted(known for known in s.sockets if known.rpartition(".")[2] == function)
    if not near and len(s.sockets) <= _COMPARED_MAX:
        near = get_close_matches(name, s.sockets, 3)
    if near:
        return "did you mean " + ", ".join(near[:5]) + "?"
    return "deploy its code with `pyfi deploy PATH`; `pyfi ls sockets` lists what there is"


def _refuse(s: State, peer: Peer, message: Submit, code: str, what: str, out: Effects, fix: str = "") -> None:
    s.counts.refused += 1
    out.send(peer, Refused(message.key, message.number, code, what, fix))


def _later(s: State, peer: Peer, message: Submit, what: str, out: Effects) -> None:
    out.reply(peer, Refused(message.key, message.number, "ledger_unavailable", what, _LATER_FIX, _RETRY_AFTER_S))


def is_final(state: int) -> bool:
    return state >= FIRST_FINAL
