"""A recorded ledger: written as JSON lines, read again, and fed through the code that lives by it.

``replay`` goes three ways through a record. One applies every record in its order, as the live broker did when it
decided it. The second is a restart: the ledger in memory is filled, a broker takes it over and recovers. At up to
``CUTS_MAX`` places of the record, as if the broker had died there, and at the end, both must agree in every open job,
in every task's state (running and blocked count as pending: the ledger does not know them), in the attempts that were
charged, and in the next numbers; and a node that joins must be granted exactly the tasks that are ready, at the
attempt that comes next, with the arguments and results that are recorded. What is not compared: grants and leases,
which nobody records; order between priorities; how many tasks of a job run at once. A place within one group commit is
compared too, though no broker can die there: more than is needed, and harmless. The third lives through it all again,
see ``reliving``; a ledger that was read from Postgres has its group commits beside it, see ``commits``."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from pyfi_hpc.core.broker import Broker
from pyfi_hpc.core.graph import edges_of
from pyfi_hpc.core.jobs import JobBook
from pyfi_hpc.errors import UsageError
from pyfi_hpc.ledger.memory import MemoryLedger
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.budgets import BUDGETS, Budgets
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.events import PayloadsRead, Received, SocketSpec, ValuesRead
from pyfi_hpc.model.ids import BatchId, Peer
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits
from pyfi_hpc.model.records import (
    AttemptFailed,
    BatchAdmitted,
    BatchClosed,
    DurationsLearned,
    HoldChanged,
    JobOpened,
    OutcomeSettled,
    Record,
)
from pyfi_hpc.model.states import FIRST_FINAL, TaskState
from pyfi_hpc.sim import plenty
from pyfi_hpc.sim.reliving import relive, unlimited
from pyfi_hpc.sim.told import Told, malformed

#: restarts that are tried on the way to the end of a record
CUTS_MAX = 50
#: differences that are told
_DIFFERENCES_MAX = 100
_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (JobOpened, BatchAdmitted, OutcomeSettled, AttemptFailed, BatchClosed, HoldChanged, DurationsLearned)
}
_line = msgspec.json.Decoder(tuple[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode
_OPEN = bytes([0, 0, 0, *range(3, 256)])


def write(records: Sequence[Record], path: str) -> None:
    """One line a record, in the order of commits: its name and its fields; bytes in base64."""
    with open(path, "wb") as file:
        for record in records:
            file.write(_encode((type(record).__name__, record)) + b"\n")


def read(path: str) -> list[Record]:
    """Raises UsageError where the file is not such a record, or an empty one."""
    found: list[Record] = []
    fix = "make one with `pyfi sim --seed K --record FILE`"
    try:
        with open(path, "rb") as file:
            for line in file:
                name, fields = _line.decode(line)
                found.append(msgspec.json.decode(fields, type=_KINDS[name]))
    except (OSError, KeyError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path} is not a recorded ledger: {error}", fix=fix) from None
    if not found:
        raise UsageError(f"{path} is an empty record: there is nothing to replay", fix=fix)
    return found


def replay(records: Sequence[Record], budgets: Budgets = BUDGETS) -> dict[str, Any]:
    """What a record comes to, and every difference between it, a restart from it, and living through it again.

    Parameters
    ----------
    budgets : Budgets
        Those of the brokers that wrote it.
    """
    if broken := malformed(records):
        return {"records": len(records), "replayed": False, "differences": broken[:_DIFFERENCES_MAX]}
    records = unlimited(records)
    told = Told(records)
    found, again = _restarts(records, told), relive(records, budgets)
    differences = found.pop("differences") + again.pop("differences")
    tail = {"payload_digest": told.digest(), "differences": differences[:_DIFFERENCES_MAX]}
    return found | again | tail


def _restarts(records: Sequence[Record], told: Told) -> dict[str, Any]:
    book = JobBook(1 << 30)
    digest = hashlib.sha256()
    store, needs = MemoryLedger(), _Needs()
    differences: list[str] = []
    cuts = {len(records) * (k + 1) // CUTS_MAX for k in range(CUTS_MAX)} | {len(records)}
    granted = 0
    for position, record in enumerate(records, 1):
        _apply(book, record, differences)
        store.restore([record])
        needs.note(record)
        digest.update(_mark(book, record))
        if position in cuts:
            granted += _restart(store, book, needs, told, position, differences)
    states = Counter(
        TaskState(state).name for record in records if isinstance(record, OutcomeSettled) for state in record.states
    )
    tasks = sum(record.count for record in records if isinstance(record, BatchAdmitted))
    return {
        "records": len(records), "jobs": sum(isinstance(record, JobOpened) for record in records), "tasks": tasks,
        "final": dict(states.most_common()), "open": tasks - sum(states.values()), "grants_compared": granted,
        "restarts_compared": len(cuts - {0}), "state_digest": digest.hexdigest()[:16], "differences": differences,
    }  # fmt: skip


def _apply(book: JobBook, record: Record, differences: list[str]) -> None:
    try:
        book.apply(record)
    except (AssertionError, KeyError) as error:
        differences.append(f"{type(record).__name__} cannot follow what is before it: {error!r}")


def _mark(book: JobBook, record: Record) -> bytes:
    """The state after a record, as far as one record can change it."""
    batch = book.batches.get(getattr(record, "batch", BatchId(0)))
    states = bytes(batch.states) if batch is not None else b""
    return repr((type(record).__name__, book.open_count, len(book.jobs), len(book.batches))).encode() + states


def _restart(
    ledger: MemoryLedger, book: JobBook, needs: _Needs, told: Told, position: int, differences: list[str]
) -> int:
    """A broker recovers here; how many tasks it grants at once."""
    ledger.store.live = None
    recovered = ledger.take_over("replay")
    mount = m.Mount(0, "", "", "", "", "", "")
    sockets = {batch.socket: batch.code for batch in recovered.batches}
    mounts = {batch.code: msgspec.structs.replace(mount, code=batch.code) for batch in recovered.batches}
    specs = [SocketSpec(socket, f"s{socket}", "", "f", mounts[code]) for socket, code in sockets.items()]
    broker = Broker(Limits(), recovered, specs, list(mounts.values()), 0.0, 0.0)
    differences += [f"after record {position}: {text}" for text in _compare(book, broker.state.book)]
    granted = _grants(broker, ledger, told)
    ready = {
        (batch.job.id, batch.first + offset): batch.attempt(offset)
        for batch in book.batches.values()
        for offset, state in enumerate(batch.states)
        if state < FIRST_FINAL and needs.met(batch.id, offset)
    }
    for task in ready.keys() ^ granted.keys():
        kind = "is ready and not granted" if task in ready else "is granted and not ready"
        differences.append(f"after record {position}: task {task[0]}.{task[1]} {kind}")
    for task in ready.keys() & granted.keys():
        due, (attempt, as_told) = ready[task], granted[task]
        if due != attempt or not as_told:
            how = f"at attempt {attempt}, not {due}" if attempt != due else "with other arguments"
            differences.append(f"after record {position}: task {task[0]}.{task[1]} is granted {how}")
    return len(granted)


class _Needs:
    """Which results a task takes, and which of them are there: read from the records alone."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[int, int]] = {}
        self._of: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._takers: set[int] = set()
        self._completed: set[tuple[int, int]] = set()

    def note(self, record: Record) -> None:
        if isinstance(record, BatchAdmitted):
            self._first[record.batch] = (record.job, record.first)
            for offset, _, producer, index in edges_of(record.edges, record.job) if record.edges else ():
                self._of.setdefault((record.batch, offset), []).append((producer, index))
                self._takers.add(record.batch)
        elif isinstance(record, OutcomeSettled):
            job, first = self._first[record.batch]
            for at, state in enumerate(record.states):
                if state == TaskState.COMPLETED:
                    self._completed.add((job, first + record.lo + at))

    def met(self, batch: int, offset: int) -> bool:
        return batch not in self._takers or self._completed.issuperset(self._of.get((batch, offset), ()))


def _compare(book: JobBook, live: JobBook) -> list[str]:
    found = []
    for job_id in sorted(book.jobs.keys() | live.jobs.keys()):
        log, restarted = book.jobs.get(job_id), live.jobs.get(job_id)
        if log is None or restarted is None:
            if (log or restarted).open:  # type: ignore[union-attr]
                found.append(f"job {job_id} is known to one only")
        elif (log.count, log.open, log.next_number, log.closed) != (
            restarted.count, restarted.open, restarted.next_number, restarted.closed,
        ):  # fmt: skip
            told = f"{log.open} open of {log.count}, restarted {restarted.open} of {restarted.count}"
            found.append(f"job {job_id} has {told}")
    for batch_id in sorted(book.batches.keys() & live.batches.keys()):
        log_batch, batch = book.batches[batch_id], live.batches[batch_id]
        if log_batch.states.translate(_OPEN) != batch.states.translate(_OPEN):
            found.append(f"batch {batch_id} differs in its states")
        for offset, trouble in (log_batch.trouble or {}).items():
            if log_batch.states[offset] < FIRST_FINAL and (batch.trouble or {}).get(offset) != trouble:
                found.append(f"task {batch.job.id}.{batch.first + offset} differs in its attempts")
    return found


def _grants(broker: Broker, ledger: MemoryLedger, told: Told) -> dict[tuple[int, int], tuple[int, int]]:
    """One node with room for everything joins: task -> attempt of what it is granted, and whether it carries what is
    told of it."""
    granted: dict[tuple[int, int], tuple[int, int]] = {}
    peer = Peer(b"n1")
    events: list[Any] = [
        Received(peer, "agent", "", m.Hello(PROTOCOL_VERSION, "agent", "n1", "x", 1, 1)),
        Received(peer, "agent", "", m.Capacity(1 << 30, 1 << 20, worlds=plenty.WORLDS)),
    ]
    now = 0.0
    while events:
        now += 2.5  # the first round ends the recovery
        out = Effects()
        for event in events:
            broker.handle(event, now, out)
        plenty.give(broker)
        broker.advance(now, out)
        events = _answers(ledger, out)
        for _, message in out.messages:
            for item in message.items if isinstance(message, m.Grant) else ():
                for index, carries in enumerate(told.carries(item), item.first):
                    if carries < 2:  # else it is a follower, and not ready
                        granted[item.job, index] = item.attempt, carries
        node = broker.state.nodes.by_peer[peer]
        node.lease_until, node.outstanding_bytes = now + 100.0, 0
        if any(isinstance(message, m.Grant) for _, message in out.messages) and not events:
            events = [Received(peer, "agent", "", m.Beat(0))]
    return granted


def _answers(ledger: MemoryLedger, out: Effects) -> list[Any]:
    events: list[Any] = []
    for query in out.queries:
        if hasattr(query, "batches"):
            events.append(PayloadsRead(ledger.payloads(query.batches)))
        elif hasattr(query, "wanted"):
            events.append(ValuesRead(query.wanted, ledger.values(query.wanted)))
    return events
