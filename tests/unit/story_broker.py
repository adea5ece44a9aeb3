"""Stories of the broker: its events in words, its effects in lines."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
from story import Teller, Words, read_span, span

from pyfi_hpc.core import explain
from pyfi_hpc.core.broker import Broker
from pyfi_hpc.core.view import view
from pyfi_hpc.ledger.memory import MemoryLedger, MemoryStore
from pyfi_hpc.model import effects as e
from pyfi_hpc.model import events as ev
from pyfi_hpc.model import messages as m
from pyfi_hpc.model import records as r
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.ids import Epoch, Peer
from pyfi_hpc.model.limits import PROTOCOL_VERSION
from pyfi_hpc.model.packed import failure, offsets_of
from pyfi_hpc.model.states import Cause, TaskState

MOUNT = m.Mount(1, "repository", "commit", "sample", "environment", "python", "workdir")
SOCKET = ev.SocketSpec(1, "sample.work", "sample", "work", MOUNT)


class BrokerTeller(Teller):
    """``broker with n1 (2 ranks), n2 (1 rank), c1``: nodes have said hello and told their capacity, clients hello."""

    scene = "broker"

    def set_scene(self, words: str) -> None:
        self._store = MemoryStore()
        self._seq = 0
        self._queries: list[Any] = []
        #: batch -> (job, first index); grant -> its name here, its item
        self._batches: dict[int, tuple[int, int]] = {}
        self._grants: dict[int, str] = {}
        self._items: dict[str, m.Item] = {}
        self._start()
        for who in words.removeprefix("broker").removeprefix(" with ").split(", "):
            name, _, ranks = who.strip().partition(" (")
            if name:
                self.tell([self._hears(name, self._hello(name, "1", int(ranks.split()[0]) if ranks else 0, []))])
            if ranks:
                count = int(ranks.split()[0])
                self.tell([self._hears(name, m.Capacity(count, count))])

    def _start(self) -> None:
        self._ledger = MemoryLedger(self._store)
        recovered = self._ledger.take_over("story")
        self.machine = Broker(self.limits, recovered, [SOCKET], [MOUNT], self.now, self.now)

    # --- events ---------------------------------------------------------------------------------------

    def event(self, who: str, words: Words) -> list[Any]:
        if who in ("ledger", "people", "loop", "broker"):
            return list(getattr(self, f"_{who}_{words.verb}")(words) or [])
        return [self._hears(who, getattr(self, f"_say_{words.verb}")(who, words))]

    def _hears(self, who: str, message: m.Message) -> ev.Received:
        role = "client" if who[0] in "cx" else "agent"
        return ev.Received(Peer(who.encode()), role, "eve" if who[0] == "x" else "ada", message)

    def _hello(self, who: str, incarnation: str, ranks: int, held: list[m.Held]) -> m.Hello:
        kind = "client" if who[0] in "cx" else "agent"
        name = who.partition("'")[0]  # n1' is another process of that name
        return m.Hello(PROTOCOL_VERSION, kind, name, incarnation + who[len(name):], ranks, ranks, "", held)

    def _say_Hello(self, who: str, w: Words) -> m.Message:
        held = [self._held(name) for name in w.get("holds").split(",") if name]
        hello = self._hello(who, w.get("life", "1"), w.number("ranks", 2), held)
        hello.version = w.number("version", PROTOCOL_VERSION)
        hello.ends_in_s = float(w.get("ends_in", "0"))
        return hello

    def _held(self, name: str) -> m.Held:
        i = self._items[name]
        takes = [
            (i.lo + at, slot, *value)
            for at, values in enumerate(i.inputs) for slot, value in enumerate(values) if not isinstance(value, bytes)
        ]  # fmt: skip
        return m.Held(i.grant, i.batch, i.lo, i.count, i.attempt, b"\x01" * i.count, takes)

    def _say_Submit(self, who: str, w: Words) -> m.Message:
        count, size = w.number("tasks", 1), w.number("bytes", 1)
        payload = offsets_of([b"x" * size] * count), b"x" * size * count
        edges = [
            (int(offset), slot, *map(int, task.split(".")))
            for needs in w.get("needs").split(",")
            if needs
            for offset, _, tasks in [needs.partition(":")]
            for slot, task in enumerate(tasks.split("+"))
        ]
        return m.Submit(
            w.alone[0].encode().ljust(16), w.number("number"), w.number("first"), count, w.get("last", "yes") == "yes",
            w.get("socket", "sample.work"), *payload, msgspec.msgpack.encode(edges) if edges else b"",
            w.number("priority"), w.number("retries"), float(w.get("time_limit", "0")), "", b"",
            w.number("cancel_on_failure"), bool(w.number("resend")), bool(w.number("watch", 1)),
            project=w.get("project"), at_once=w.number("at_once"), preemptible=bool(w.number("preemptible")),
            size=float(w.get("size", "0")), hold=bool(w.number("hold")),
        )  # fmt: skip

    def _say_Watch(self, who: str, w: Words) -> m.Message:
        return m.Watch(int(w.alone[0]))

    def _say_Cancel(self, who: str, w: Words) -> m.Message:
        if "." in w.alone[0]:
            return m.Cancel(9, *read_span(w.alone[0]))
        return m.Cancel(9, int(w.alone[0]), 0, -1)

    def _say_Ask(self, who: str, w: Words) -> m.Message:
        body = {"name": w.get("name"), "reason": w.get("reason"), "seconds": float(w.get("seconds", "60"))}
        body["job"] = w.number("job")
        return m.Ask(9, w.alone[0], msgspec.msgpack.encode(body))

    def _say_Consumed(self, who: str, w: Words) -> m.Message:
        return m.Consumed(int(w.alone[0]))

    def _say_Capacity(self, who: str, w: Words) -> m.Message:
        resting = [(int(rank), 60.0, "it fell") for rank in w.get("resting").split(",") if rank]
        return m.Capacity(w.number("tasks"), w.number("ranks", 2), bool(w.number("draining")), resting)

    def _say_Beat(self, who: str, w: Words) -> m.Message:
        running = []
        for text in w.get("runs").split(","):
            if text:
                name, _, index = text.partition(":")
                item = self._items[name]
                running.append((item.grant, int(index.partition(".")[2]) - item.first + item.lo))
        return m.Beat(1, running)

    def _say_Goodbye(self, who: str, w: Words) -> m.Message:
        return m.Goodbye(w.alone[0])

    def _say_Finished(self, who: str, w: Words) -> m.Message:
        """``Finished g1 1.0..2 CRASH rank=1 took=0.5``."""
        name, where, cause = w.alone
        item = self._items[name]
        _, first, count = read_span(where)
        data = b"result" if cause == "NONE" else failure("TaskLost", w.get("error", "signal 9"))
        data = w.get("state").encode() or data
        return m.Finished([m.Outcome(
            item.grant, item.batch, first - item.first + item.lo, count, item.attempt, w.number("rank"),
            bytes([Cause[cause]]) * count, bytes(8 * count), struct.pack("<f", float(w.get("took", "0"))) * count,
            offsets_of([data] * count), data * count,
        )])  # fmt: skip

    def _ledger_down(self, w: Words) -> list[Any]:
        return [ev.LedgerDown(w.alone[0])]

    def _ledger_up(self, w: Words) -> list[Any]:
        return [ev.LedgerUp(Epoch(w.number("epoch", 1)))]

    def _ledger_answers(self, w: Words) -> list[Any]:
        queries, self._queries = self._queries, []
        return [self._answer(query) for query in queries]

    def _answer(self, q: Any) -> Any:
        if isinstance(q, e.FindJob):
            return ev.JobFound(q.key, self._ledger.find_job(q.owner, q.key))
        if isinstance(q, e.ReadPayloads):
            return ev.PayloadsRead(self._ledger.payloads(q.batches))
        if isinstance(q, e.ReadValues):
            return ev.ValuesRead(q.wanted, self._ledger.values(q.wanted))
        if isinstance(q, e.ReadPage):
            page = self._ledger.page(q.job, q.cursor, q.bytes_max)
            if page is None:
                return ev.PageRead(q.peer, q.job, False, "", [], (0, -1), False, -1, b"", "")
            return ev.PageRead(
                q.peer, q.job, True, page.owner, page.ranges, page.cursor, page.more, page.total, page.shape, page.name
            )
        return ev.AskAnswered(q.peer, q.request, True, b"")

    def _loop_unreachable(self, w: Words) -> list[Any]:
        return [ev.Unreachable(Peer(w.alone[0].encode()))]

    def _loop_stop(self, w: Words) -> list[Any]:
        return [ev.Signalled("stop")]

    def _broker_restarts(self, w: Words) -> None:
        """Another process, on the same ledger: it knows nobody."""
        self._ledger.lose_session()
        self._queries = []
        self._start()

    def _people_queue(self, w: Words) -> None:
        """What `pyfi queue` says of waiting jobs."""

    def _people_nodes(self, w: Words) -> None:
        """What `pyfi info` says of nodes."""

    def _people_why(self, w: Words) -> None:
        """What `pyfi why` says of a job, a task or a node."""

    def shown(self, words: Words) -> list[str]:
        found = view(self.machine.state, self.now)
        if words.verb == "queue":
            names = ("blocked", "pending", "running", "reason")
            return [f"shown   job {n} " + " ".join(f"{k}={job[k]}" for k in names) for n, job in found["jobs"].items()]
        if words.verb == "nodes":
            return [self._node_shown(node) for node in found["nodes"]]
        return self._why_shown(words.alone[0]) if words.verb == "why" else []

    def _why_shown(self, name: str) -> list[str]:
        job, _, index = name.partition(".")
        wanted = {"node": name} if not job.isdigit() else {"job": int(job)} | ({"index": int(index)} if index else {})
        _, body = explain.asked(self.machine.state, explain.WHY, msgspec.msgpack.encode(wanted), self.now, None)
        found = msgspec.msgpack.decode(body)
        if "what" in found:
            return [f"shown   {found['what']}"]
        lines = []
        for one in found.get("nodes", [found]):
            name = one["name"] if "nodes" in found else f"{one['job']}.{one['index']} {one['state']} {one['reason']}"
            lines.append(f"shown   {name}" + ("" if one.get("start_s") is None else f" in {one['start_s']:.2f} s"))
            lines += [f"shown     {line}" for line in (*one["because"], *one["would"])]
        return lines

    def _node_shown(self, node: dict[str, Any]) -> str:
        text = f"shown   {node['name']} ranks={node['ranks']} outstanding={node['outstanding']}"
        if node["quarantined"]:
            text += f" quarantined until {node['quarantined_until']:.3f}: {node['quarantined']}"
        return text + "".join(f" rank {x['rank']} rests until {x['until']:.3f}: {x['reason']}" for x in node["resting"])

    # --- effects --------------------------------------------------------------------------------------

    def tell(self, events: list[Any]) -> Effects:
        out = super().tell(events)
        for record in out.records:
            if isinstance(record, r.BatchAdmitted):
                self._batches[record.batch] = (record.job, record.first)
        if out.records:
            self._seq += 1
            self._ledger.commit(out.records, self._seq)
        self._queries += out.queries
        return out

    def lines(self, out: Effects) -> list[str]:
        found = [f"at once {peer.decode()}: {self._message(message)}" for peer, message in out.at_once]
        found += [f"record  {self._record(record)}" for record in out.records]
        found += [f"to {peer.decode():5}{self._message(message)}" for peer, message in out.messages]
        found += [f"ask     {self._query(query)}" for query in out.queries]
        return [*found, "stopped"] if self.machine.stopped else found

    def _at(self, batch: int, lo: int, count: int) -> str:
        job, first = self._batches[batch]
        return span(first + lo, count, job)

    def _record(self, x: Any) -> str:
        match x:
            case r.JobOpened():
                return f"JobOpened {x.job} {_key(x.key)} of {x.owner}"
            case r.BatchAdmitted():
                what = self._at(x.batch, 0, x.count) if x.count else f"{x.job} without tasks"
                return f"BatchAdmitted {what}" + ("" if x.last else ", more follow")
            case r.OutcomeSettled():
                where = f" attempt {x.attempt} {x.node} rank {x.rank}" if x.grant else " unrun"
                (state,) = set(x.states)
                words = "" if state == TaskState.COMPLETED else f": {_error(x.offsets, x.payload)}"
                return f"OutcomeSettled {self._at(x.batch, x.lo, x.count)} {TaskState(state).name}{where}{words}"
            case r.AttemptFailed():
                where = f"{x.node} rank {x.rank}"
                return f"AttemptFailed {self._at(x.batch, x.offset, 1)} attempt {x.attempt} {x.cause.name} {where}"
        if isinstance(x, r.HoldChanged):
            return f"HoldChanged {x.job} {'on hold' if x.on_hold else 'released'}"
        if isinstance(x, r.DurationsLearned):
            return f"DurationsLearned socket {x.socket} code {x.code} size {x.size} completed {x.completed}"
        assert isinstance(x, r.BatchClosed)
        job, first = self._batches[x.batch]
        return f"BatchClosed {job}.{first}.."

    def _message(self, x: Any) -> str:
        name = type(x).__name__
        match x:
            case m.Grant():
                return "Grant " + ", ".join(map(self._item, x.items))
            case m.Kept():
                return "Kept " + ", ".join(f"{self._grants[g]} {self._in_grant(g, lo, n)}" for g, lo, n in x.ranges)
            case m.Cancel():
                count = "all" if x.count < 0 else self._in_grant(x.job, x.first, x.count)
                return f"Cancel {self._grants[x.job]} {count}"
            case m.Preempt():
                what = "runs too" if x.running else "unstarted"
                return f"Preempt {self._grants[x.grant]} {self._in_grant(x.grant, x.first, x.count)} {what}"
            case m.Accepted():
                return f"Accepted {_key(x.key)} batch {x.number} job {x.job}"
            case m.Refused():
                again = f" (again after {x.retry_after_s:g} s)" if x.retry_after_s >= 0 else ""
                return f"Refused {_key(x.key)} {x.code}: {x.what}{again}"
            case m.Resolved():
                return f"Resolved {', '.join(_range(x.job, piece) for piece in x.ranges) or f'{x.job}: read pages'}"
            case m.Page():
                known = ", ".join(_range(x.job, piece) for piece in x.ranges) or "nothing yet"
                return f"Page job {x.job} {f'of {x.total}: {known}' if x.known else 'unknown'}"
            case m.Rest():
                return f"Rest rank {x.rank} for {x.seconds:g} s: {x.reason}"
            case m.Denied():
                return f"Denied {x.code}: {x.what}"
            case m.Answer():
                body = msgspec.msgpack.decode(x.body) if x.body else ""
                return f"Answer {'ok' if x.ok else 'no'} {body}".rstrip()
        numbers = {m.Recall: "count", m.Cancelled: "count", m.Welcome: "epoch", m.Mount: "code", m.Stop: "drain"}
        return f"{name} {getattr(x, numbers[type(x)])}" if type(x) in numbers else name

    def _item(self, x: m.Item) -> str:
        name = self._grants.setdefault(x.grant, f"g{len(self._grants) + 1}")
        self._items[name] = x
        links = [value for values in x.inputs for value in values if not isinstance(value, bytes)]
        follows = "".join(f" after {self._grants[g]} {self._in_grant(g, lo, 1)}" for g, lo in links)
        more = (f" needs {x.needs_s:.3g} s" if x.needs_s else "") + (f" from {x.state.decode()}" if x.state else "")
        return f"{name} {span(x.first, x.count, x.job)} attempt {x.attempt}{follows}{more}"

    def _in_grant(self, grant: int, lo: int, count: int) -> str:
        item = self._items[self._grants[grant]]
        return span(item.first + lo - item.lo, count, item.job)

    def _query(self, x: Any) -> str:
        match x:
            case e.FindJob():
                return f"FindJob {_key(x.key)}"
            case e.ReadPayloads():
                return "ReadPayloads " + " ".join(f"{self._batches[b][0]}.{self._batches[b][1]}.." for b in x.batches)
            case e.ReadValues():
                return "ReadValues " + " ".join(f"{job}.{index}" for job, index in x.wanted)
            case e.ReadPage():
                return f"ReadPage job {x.job}"
        return f"AskDesk {x.verb}"


def _key(key: bytes) -> str:
    return key.decode().strip()


def _range(job: int, piece: m.Range) -> str:
    (state,) = set(piece.states)
    return f"{span(piece.first, piece.count, job)} {TaskState(state).name}"


def _error(offsets: bytes, payload: bytes) -> str:
    first = payload[: int.from_bytes(offsets[4:8], "little")]
    return str(msgspec.msgpack.decode(first)[2])
