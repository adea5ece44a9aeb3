"""The broker's machine: admits, settles, grants; the handler table at the end is its contents page.

Pure: events and a time in, effects out. It sees agents, not ranks, and batches, not tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyfi_hpc.core import admit, backlog, dispatch, explain, gangs, health, holds, joining, recovery, settle
from pyfi_hpc.core.clients import Client, ClientTable
from pyfi_hpc.core.durations import Durations
from pyfi_hpc.core.graph import Graph
from pyfi_hpc.core.jobs import JobBook
from pyfi_hpc.core.nodes import Node, NodeTable
from pyfi_hpc.core.queue import ReadyQueue
from pyfi_hpc.core.shares import Shares
from pyfi_hpc.core.state import State
from pyfi_hpc.core.view import SHARES, shares, view, without_ledger
from pyfi_hpc.core.walltime import Walltimes
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import AskDesk, Effects, ReadPage
from pyfi_hpc.model.events import (
    AskAnswered,
    JobFound,
    LedgerDown,
    LedgerUp,
    PageRead,
    PayloadsRead,
    Received,
    SharesChanged,
    Signalled,
    SocketsChanged,
    SocketSpec,
    Unreachable,
    ValuesRead,
)
from pyfi_hpc.model.ids import CodeId, JobId, Peer
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits
from pyfi_hpc.model.records import Recovered
from pyfi_hpc.model.states import FIRST_FINAL, Cause, TaskState

#: results in one page of a job's outcomes
_PAGE_BYTES_MAX = 4 << 20


class Broker:
    """The machine of one broker on one ledger.

    Parameters
    ----------
    limits : Limits
    recovered : Recovered
        What the ledger holds of unfinished work.
    sockets : list of SocketSpec
    mounts : list of Mount
        Code of recovered tasks: their sockets may call newer code by now.
    now, utc : float
        Monotonic seconds and UTC at the start.
    weights : dict, optional
        Of shares, where they are not 1: see core/shares.py.
    """

    def __init__(
        self,
        limits: Limits,
        recovered: Recovered,
        sockets: list[SocketSpec],
        mounts: list[m.Mount],
        now: float,
        utc: float,
        weights: dict[tuple[str, str], float] | None = None,
    ) -> None:
        book, durations = JobBook(limits.ended_keys_max), Durations()
        queue = ReadyQueue(Shares(limits, durations))
        queue.shares.tell(now)
        queue.shares.weigh(weights or {})
        self.state = State(
            limits, recovered.epoch, recovered.next_job, recovered.next_batch, utc - now, book, queue,
            NodeTable(recovered.epoch), ClientTable(limits.client_window_bytes_max),
            Graph(book, limits.value_bytes_max), Walltimes(recovered.durations, now, limits.learned_s),
            durations=durations,
        )  # fmt: skip
        self.stopped = False
        self._stopping: tuple[Peer, int] | None = None
        self._stop_at = 0.0
        self._sweep_at = now
        self._rested_at = float("inf")
        self.state.mounts.update({CodeId(mount.code): mount for mount in mounts})
        self._set_sockets(sockets)
        self._unready = recovery.begin(self.state, recovered, now)

    # --- the loop's side ------------------------------------------------------------------------------

    def handle(self, event: Any, now: float, out: Effects) -> None:
        self.state.queue.shares.tell(now)
        if type(event) is Received:
            self._received(event, now, out)
        else:
            _EVENTS[type(event)](self, event, now, out)
        if self.state.to_wake:
            settle.wake(self.state, out)

    def advance(self, now: float, out: Effects) -> None:
        s = self.state
        s.queue.shares.tell(now)
        if self._unready.queries:
            out.queries += self._unready.queries
            self._unready.queries = []
        if s.recover_until and now >= s.recover_until:
            recovery.end(s, out)
        if now >= self._sweep_at:
            self._sweep_at = now + s.limits.heartbeat_s / 4
            self._sweep(now, out)
            settle.wake(s, out)
        if not s.ledger_down:
            for record in s.walltimes.due(now, now + s.utc_offset, s.limits.learned_s):
                s.emit(record, out)
        s.graph.shed()
        dispatch.fill(s, now, out)
        self._rested_at = s.health.next_until(now)
        settle.wake(s, out)
        if self._stopping and (not s.nodes.by_name or now >= self._stop_at):
            self._stop(out)

    def wake_at(self) -> float:
        s = self.state
        wake = self._stop_at if self._stopping else float("inf")
        if s.recover_until:
            wake = min(wake, s.recover_until)
        if s.queue.ready:
            wake = min(wake, self._rested_at)
        if s.preempting.since:
            wake = min(wake, s.preempting.look_at)
        if s.nodes.by_name:
            lease_end = min(node.lease_until for node in s.nodes.by_name.values())
            wake = min(wake, max(lease_end, self._sweep_at))
        if s.clients.by_peer or s.orphans:
            wake = min(wake, self._sweep_at + s.limits.client_silence_s / 4)
        return wake

    # --- messages -------------------------------------------------------------------------------------

    def _received(self, event: Received, now: float, out: Effects) -> None:
        kind = type(event.message)
        if kind is m.Hello:
            self._hello(event, now, out)
        elif event.role == "client":
            client = self.state.clients.by_peer.get(event.peer)
            if client is None:
                out.reply(event.peer, m.Unknown())
                return
            client.heard_at = now
            _FROM_CLIENT[kind](self, client, event.message, now, out)
        else:
            node = self.state.nodes.by_peer.get(event.peer)
            if node is None:
                out.reply(event.peer, m.Unknown())
                return
            _FROM_AGENT[kind](self, node, event.message, now, out)

    def _hello(self, event: Received, now: float, out: Effects) -> None:
        hello: m.Hello = event.message
        if hello.version != PROTOCOL_VERSION:
            text = f"this broker speaks protocol {PROTOCOL_VERSION}, {hello.name} speaks {hello.version}"
            out.reply(event.peer, m.Denied("version", text, "install the same version of pyfi_hpc on both sides"))
            return
        if any(len(held.left) != held.count for held in hello.held):
            out.reply(event.peer, m.Denied("protocol", f"{hello.name} tells grants that cannot be", "this is a bug"))
            return
        if event.role == "agent":
            if not joining.join(self.state, event.peer, hello, now, out):
                return
        else:
            self.state.clients.by_peer[event.peer] = Client(event.peer, event.user, hello.name, now)
        limits = self.state.limits
        welcome = m.Welcome(
            PROTOCOL_VERSION, self.state.epoch, limits.payload_bytes_max, limits.heartbeat_s, limits.lease_s
        )
        out.reply(event.peer, welcome)

    # --- clients --------------------------------------------------------------------------------------

    def _submit(self, client: Client, message: m.Submit, now: float, out: Effects) -> None:
        admit.submit(self.state, client.peer, client.user, message, now, out)

    def _watch(self, client: Client, message: m.Watch, now: float, out: Effects) -> None:
        job = self.state.book.jobs.get(JobId(message.job))
        if job is not None and message.live and job.owner == client.user:
            client.watched.add(job.id)
            job.watchers.add(client.peer)
        out.queries.append(ReadPage(client.peer, client.user, JobId(message.job), message.cursor, _PAGE_BYTES_MAX))

    def _cancel(self, client: Client, message: m.Cancel, now: float, out: Effects) -> None:
        job = self.state.book.jobs.get(JobId(message.job))
        count = 0
        if job is not None and job.owner == client.user:
            count = settle.cancel(self.state, job, message.first, message.count, now, out)
        out.send(client.peer, m.Cancelled(message.request, count))

    def _ask(self, client: Client, message: m.Ask, now: float, out: Effects) -> None:
        if message.verb == "shutdown":
            self._stopping = (client.peer, message.request)
            self._stop_at = now + self.state.limits.lease_s
            for node in self.state.nodes.by_name.values():
                # at once, like the answer: nothing stands behind it, and the ledger may be away
                out.reply(node.peer, m.Stop(False, "the instance is stopped"))
            return
        if message.verb in _ANSWERED_HERE:
            ok, body = _ANSWERED_HERE[message.verb](self.state, message.verb, message.body, now, out)
            out.reply(client.peer, m.Answer(message.request, ok, body))
            return
        if self.state.ledger_down:
            ok, body = without_ledger(self.state, message.verb, now)
            out.reply(client.peer, m.Answer(message.request, ok, body))
            return
        if message.verb in holds.VERBS:
            ok, body = holds.asked(self.state, message.verb, message.body, client.user, now, out)
            out.send(client.peer, m.Answer(message.request, ok, body))  # after the commit
            return
        query = AskDesk(client.peer, "client", client.user, message.request, message.verb, message.body)
        query.view = view(self.state, now)
        out.queries.append(query)

    def _client_beat(self, client: Client, message: m.Beat, now: float, out: Effects) -> None:
        out.reply(client.peer, m.Beat(message.counter))

    def _consumed(self, client: Client, message: m.Consumed, now: float, out: Effects) -> None:
        self.state.clients.consumed(client, message.payload_bytes, out)

    # --- agents ---------------------------------------------------------------------------------------

    def _finished(self, node: Node, message: m.Finished, now: float, out: Effects) -> None:
        node.recalled = False
        settle.finished(self.state, node, message.outcomes, now, out)

    def _gathered(self, node: Node, message: m.Gathered, now: float, out: Effects) -> None:
        gangs.gathered(self.state, node, message, now, out)

    def _agent_beat(self, node: Node, message: m.Beat, now: float, out: Effects) -> None:
        node.lease_until = now + self.state.limits.lease_s
        node.runs(message.running, now)
        self.state.queue.runs(node, now)
        node.load, node.memory_bytes, node.idle = message.load, message.memory_bytes, message.idle
        node.recalled = False
        out.reply(node.peer, m.Beat(message.counter))

    def _capacity(self, node: Node, message: m.Capacity, now: float, out: Effects) -> None:
        node.capacity, node.rank_count = message.tasks, message.rank_count
        node.draining = message.draining
        node.worlds = dict(message.worlds)
        node.short_until = now + message.short_s if message.short_s else 0.0
        if 0 < node.rank_count <= sum(node.worlds.values()):
            node.renewed_until = 0.0
        backlog.arrived(self.state, node.allocation)
        node.resting = [(rank, now + seconds, why) for rank, seconds, why in message.resting]
        health.ranks_rest(self.state, node, now, out)

    def _goodbye(self, node: Node, message: m.Goodbye, now: float, out: Effects) -> None:
        cause = Cause.WALLTIME if message.reason == "walltime" else Cause.PREEMPTED
        settle.lost(self.state, node, cause, now, out)

    # --- local events ---------------------------------------------------------------------------------

    def _unreachable(self, event: Unreachable, now: float, out: Effects) -> None:
        """The connection has gone. A node keeps its lease: it may be back on another one."""
        self._drop_client(event.peer, now)

    def _ledger_down(self, event: LedgerDown, now: float, out: Effects) -> None:
        self.state.ledger_down = event.reason or "no reason given"

    def _ledger_up(self, event: LedgerUp, now: float, out: Effects) -> None:
        self.state.ledger_down = ""
        self.state.epoch = event.epoch

    def _job_found(self, event: JobFound, now: float, out: Effects) -> None:
        admit.found(self.state, event, now, out)

    def _payloads_read(self, event: PayloadsRead, now: float, out: Effects) -> None:
        for batch_id, offsets, payload in event.rows:
            self.state.queue.loading.discard(batch_id)
            batch = self.state.book.batches.get(batch_id)
            if batch is not None and batch.open and batch.payload is None:
                self.state.keep_payload(batch, offsets, payload)

    def _values_read(self, event: ValuesRead, now: float, out: Effects) -> None:
        s = self.state
        for key in event.wanted:
            readers = s.graph.readers.pop(key, [])
            state, data = event.found.get(key, (-1, b""))
            if state == TaskState.COMPLETED:
                settle.arrived(s, key, data, readers)
                continue
            job = s.book.jobs.get(key[0])
            place = job.locate(key[1]) if job else None
            if state < 0 and job and place and place[0].states[place[1]] < FIRST_FINAL:
                job.waiters.setdefault(key[1], []).extend(readers)
            else:
                settle.skip(s, readers, f"{key[0]}.{key[1]}", data, now + s.utc_offset, out)

    def _page_read(self, event: PageRead, now: float, out: Effects) -> None:
        client = self.state.clients.by_peer.get(event.peer)
        if client is None:
            return
        known = event.known and event.owner == client.user
        total = event.total
        job = self.state.book.jobs.get(event.job)
        if job is not None and not job.closed:
            total = -1
        page = m.Page(
            event.job, known, event.ranges if known else [], event.cursor, event.more, total if known else -1,
            event.shape if known else b"", event.name if known else "",
        )  # fmt: skip
        out.send(event.peer, page)

    def _ask_answered(self, event: AskAnswered, now: float, out: Effects) -> None:
        out.send(event.peer, m.Answer(event.request, event.ok, event.body))

    def _sockets_changed(self, event: SocketsChanged, now: float, out: Effects) -> None:
        self._set_sockets(event.sockets)

    def _shares_changed(self, event: SharesChanged, now: float, out: Effects) -> None:
        self.state.queue.shares.weigh(event.weights)

    def _signalled(self, event: Signalled, now: float, out: Effects) -> None:
        """SIGTERM: the broker ends; agents and their tasks go on and find the next one."""
        self.stopped = True

    # --- helpers --------------------------------------------------------------------------------------

    def _set_sockets(self, sockets: list[SocketSpec]) -> None:
        s = self.state
        s.sockets = {spec.name: spec for spec in sockets}
        s.by_function = {f"{spec.mount.module}:{spec.function}": spec for spec in reversed(sockets)}
        for spec in sockets:
            s.functions[spec.socket] = spec
            s.mounts[spec.mount.code] = spec.mount  # type: ignore[index]
            s.queue.concurrency[spec.socket] = spec.concurrency  # type: ignore[index]

    def _sweep(self, now: float, out: Effects) -> None:
        """Nodes whose lease has ended, clients that have gone."""
        for node in [n for n in self.state.nodes.by_name.values() if now >= n.lease_until]:
            at_end = node.ends_at <= node.lease_until  # Slurm ended it, and it had no time to say so
            settle.lost(self.state, node, Cause.WALLTIME if at_end else Cause.NODE_FAIL, now, out)
        for job_id in [job for job, at in self.state.orphans.items() if now >= at]:
            del self.state.orphans[job_id]
            orphan = self.state.book.jobs.get(job_id)
            if orphan is not None and not orphan.closed and orphan.batches:
                admit.close(self.state, orphan, out)
        silent = now - self.state.limits.client_silence_s
        for client in [c for c in self.state.clients.by_peer.values() if c.heard_at < silent]:
            self._drop_client(client.peer, now)

    def _drop_client(self, peer: Peer, now: float) -> None:
        client = self.state.clients.by_peer.pop(peer, None)
        for job_id in client.watched if client else ():
            job = self.state.book.jobs.get(job_id)
            if job is not None:
                job.watchers.discard(peer)
        for job_id in client.submitting if client else ():
            job = self.state.book.jobs.get(job_id)
            if job is not None and job.submitter == peer and not job.closed:
                self.state.orphan(job_id, now)

    def _stop(self, out: Effects) -> None:
        assert self._stopping is not None
        peer, request = self._stopping
        out.reply(peer, m.Answer(request, True, b"\x80"))
        self._stopping = None
        self.stopped = True


_Handler = Callable[[Broker, Any, Any, float, Effects], None]

_FROM_CLIENT: dict[type, _Handler] = {
    m.Submit: Broker._submit,
    m.Watch: Broker._watch,
    m.Cancel: Broker._cancel,
    m.Ask: Broker._ask,
    m.Beat: Broker._client_beat,
    m.Consumed: Broker._consumed,
}

#: verbs that need no ledger
_ANSWERED_HERE = {
    health.RELEASE: health.asked, health.QUARANTINE: health.asked, explain.WHY: explain.asked, SHARES: shares,
    backlog.BACKLOG: backlog.asked, backlog.EXPECT: backlog.expect, backlog.GIVE_BACK: backlog.give_back,
}  # fmt: skip

_FROM_AGENT: dict[type, _Handler] = {
    m.Finished: Broker._finished,
    m.Gathered: Broker._gathered,
    m.Beat: Broker._agent_beat,
    m.Capacity: Broker._capacity,
    m.Goodbye: Broker._goodbye,
}

_EVENTS: dict[type, Callable[[Broker, Any, float, Effects], None]] = {
    Unreachable: Broker._unreachable,
    LedgerDown: Broker._ledger_down,
    LedgerUp: Broker._ledger_up,
    JobFound: Broker._job_found,
    PayloadsRead: Broker._payloads_read,
    ValuesRead: Broker._values_read,
    PageRead: Broker._page_read,
    AskAnswered: Broker._ask_answered,
    SocketsChanged: Broker._sockets_changed,
    SharesChanged: Broker._shares_changed,
    Signalled: Broker._signalled,
}
