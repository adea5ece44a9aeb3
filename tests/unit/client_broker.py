"""A small broker for the client's tests: the protocol over a real CURVE ROUTER, tasks run in its own thread.

It keeps jobs in memory, runs each task when its producers are there, pushes results and serves pages. Its
knobs lose, delay and refuse things on purpose. It is no model of the real broker's inside.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import zmq

from pyfi_hpc.client.feed import offsets_of, pack
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import PROTOCOL_VERSION
from pyfi_hpc.model.states import TaskState
from pyfi_hpc.runner.payload import decode_call, encode_error, encode_failure, encode_value
from pyfi_hpc.wire.codec import TO_BROKER, decode, encode

FINAL = TaskState.COMPLETED


def echo(*args, **kwargs):
    return args[0] if len(args) == 1 and not kwargs else [list(args), kwargs] if kwargs else list(args)


def fail(*texts):
    raise ValueError(texts[-1])


FUNCTIONS = {
    "t.echo": echo, "t.add": lambda *a: sum(a), "t.fail": fail, "t.join": lambda *a: "+".join(map(str, a)),
    "t.total": lambda values, *more: sum(values) + sum(more), "t.never": None, "t.size": lambda v: len(v),
    "t.blob": lambda n: b"x" * n, "t.square": lambda x: x * x, "t.text": lambda *a: repr(a),
}  # fmt: skip


@dataclass
class _Job:
    id: int
    key: bytes
    submits: dict[int, m.Submit] = field(default_factory=dict)
    socket: list[str] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    needs: dict[int, dict[int, tuple[int, int]]] = field(default_factory=dict)
    states: list[int] = field(default_factory=list)
    results: list[bytes] = field(default_factory=list)
    total: int = -1
    shape: bytes = b""
    name: str = ""
    watchers: set[bytes] = field(default_factory=set)
    pushed: int = 0


class Broker:
    """Start with ``start``; what it should do wrong is set while it runs."""

    def __init__(self, home: Path, instance: str = "default", heartbeat_s: float = 0.05) -> None:
        self.file = home / instance / "access.json"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.heartbeat_s = heartbeat_s
        self.version = PROTOCOL_VERSION
        self.denied: m.Denied | None = None
        self.silent = False  #: reads nothing, says nothing
        self.lose_accepted = 0  #: so many Accepted are not sent
        self.lose_resolved = 0
        self.refuse: list[m.Refused] = []  #: the next submits get these, key and number filled in
        self.hold = False  #: accepts, runs nothing
        self.window = 1 << 60
        self.page_ranges = 3
        self.range_tasks = 1000
        self.payload_bytes_max = 8 << 20
        self.heard: list[Any] = []
        self.answers: dict[str, Any] = {}
        self.jobs: dict[int, _Job] = {}
        self.keys: dict[bytes, _Job] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._keys = zmq.curve_keypair()
        self._client = zmq.curve_keypair()

    def start(self) -> Broker:
        self._stop.clear()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait(5)
        return self

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(5)

    def restart(self) -> None:
        """As after a crash: jobs are remembered, connections are not; the port is another one."""
        self.stop()
        for job in self.jobs.values():
            job.watchers.clear()
        self.start()

    def count(self, kind: type) -> int:
        return sum(type(message) is kind for message in self.heard)

    def _run(self, ready: threading.Event) -> None:
        context = zmq.Context()
        router = context.socket(zmq.ROUTER)
        router.linger = 0
        router.curve_server = True
        router.curve_publickey, router.curve_secretkey = self._keys
        port = router.bind_to_random_port("tcp://127.0.0.1")
        self._write_access(port)
        self._router, self._peers, self._out = router, {}, {}
        ready.set()
        try:
            while not self._stop.is_set():
                self._advance()
                if self.silent or not router.poll(5):
                    self._stop.wait(0.002)
                    continue
                peer, frame = router.recv_multipart()
                for message in decode(frame, TO_BROKER):
                    self._handle(peer, message)
        finally:
            router.close(0)
            context.term()

    def _write_access(self, port: int) -> None:
        content = {
            "version": 1, "instance": self.file.parent.name, "host": "127.0.0.1", "port": port,
            "broker_public": self._keys[0].decode(), "client_public": self._client[0].decode(),
            "client_secret": self._client[1].decode(), "agent_public": "", "agent_secret": "",
        }  # fmt: skip
        new = self.file.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps(content))
        new.replace(self.file)

    def _send(self, peer: bytes, message: m.Message) -> None:
        self._out.setdefault(peer, []).append(message)

    def _advance(self) -> None:
        if not self.hold:
            for job in list(self.jobs.values()):
                self._work(job)
        if not self.silent:
            out, self._out = self._out, {}
            for peer, messages in out.items():
                self._router.send_multipart([peer, encode(messages)])

    def _handle(self, peer: bytes, message: Any) -> None:
        self.heard.append(message)
        if isinstance(message, m.Hello):
            if self.denied is not None:
                self._send(peer, self.denied)
                return
            self._peers[peer] = [0, 0]
            self._send(peer, m.Welcome(self.version, 1, self.payload_bytes_max, self.heartbeat_s, 5.0))
        elif peer not in self._peers:
            self._send(peer, m.Unknown())
        else:
            getattr(self, "_on_" + type(message).__name__.lower())(peer, message)

    def _on_beat(self, peer: bytes, message: m.Beat) -> None:
        self._send(peer, m.Beat(message.counter))

    def _on_consumed(self, peer: bytes, message: m.Consumed) -> None:
        state = self._peers[peer]
        state[1] = message.payload_bytes
        assert message.payload_bytes <= state[0], "consumed more than was pushed"
        for job in self.jobs.values():
            if job.pushed < 0 and peer in job.watchers and state[0] - state[1] < self.window // 2:
                job.pushed = 0
                self._send(peer, m.Resolved(job.id, []))

    def _on_submit(self, peer: bytes, message: m.Submit) -> None:
        if self.refuse:
            refused = self.refuse.pop(0)
            self._send(peer, msgspec.structs.replace(refused, key=message.key, number=message.number))
            return
        job = self.keys.get(message.key)
        if job is None:
            job = self.keys[message.key] = self.jobs[len(self.jobs) + 1] = _Job(
                len(self.jobs) + 1, message.key
            )
            job.shape, job.name = message.shape, message.name
        if message.number not in job.submits:
            if message.number != len(job.submits):
                self._send(
                    peer,
                    m.Refused(message.key, message.number, "ledger_unavailable", "out of order", "", 0.02),
                )
                return
            assert message.first == len(job.payloads)
            job.submits[message.number] = message
            self._admit(job, message)
        if message.watch:
            job.watchers.add(peer)
        if self.lose_accepted:
            self.lose_accepted -= 1
            return
        self._send(peer, m.Accepted(message.key, message.number, job.id))

    def _admit(self, job: _Job, message: m.Submit) -> None:
        offsets = offsets_of(message.offsets)
        first = len(job.payloads)
        for i in range(message.count):
            job.payloads.append(message.payload[offsets[i] : offsets[i + 1]])
            job.socket.append(message.socket)
            job.states.append(0)
            job.results.append(b"")
        for offset, slot, producer, index in msgspec.msgpack.decode(message.edges) if message.edges else []:
            assert producer == 0 or producer in self.jobs, "the producer was not accepted"
            job.needs.setdefault(first + offset, {})[slot] = (producer or job.id, index)
        if message.last:
            job.total = len(job.payloads)

    def _work(self, job: _Job) -> None:
        done = [i for i, state in enumerate(job.states) if state < FINAL and self._run_task(job, i)]
        if done and job.pushed >= 0:
            self._push(job, done)

    def _run_task(self, job: _Job, index: int) -> bool:
        inputs = []
        for slot, (producer, at) in sorted(job.needs.get(index, {}).items()):
            assert slot == len(inputs), "slots are numbered without gaps"
            state = self.jobs[producer].states[at]
            if state < FINAL:
                return False
            if state != FINAL:
                job.states[index] = TaskState.SKIPPED
                job.results[index] = encode_failure("", "", f"task {producer}.{at} did not complete")
                return True
            inputs.append(self.jobs[producer].results[at])
        name = job.socket[index]
        if name == "t.never":
            return False
        try:
            args, kwargs = decode_call(job.payloads[index], inputs)
            job.results[index] = encode_value(FUNCTIONS[name](*args, **kwargs))
            job.states[index] = FINAL
        except Exception as error:
            job.results[index] = encode_error(error)
            job.states[index] = TaskState.FAILED
        return True

    def _push(self, job: _Job, indexes: list[int]) -> None:
        for lo, hi in _runs(indexes, self.range_tasks):
            piece = self._range(job, lo, hi)
            for peer in list(job.watchers):
                if self.lose_resolved:
                    self.lose_resolved -= 1
                    continue
                size = len(piece.payload) + len(piece.states) + 64
                state = self._peers.get(peer)
                if state is None:
                    continue
                if state[0] - state[1] + size > self.window and state[0]:
                    job.pushed = -1
                    continue
                state[0] += size
                self._send(peer, m.Resolved(job.id, [piece]))

    def _range(self, job: _Job, lo: int, hi: int) -> m.Range:
        offsets, payload = pack(job.results[lo:hi])
        return m.Range(lo, hi - lo, bytes(job.states[lo:hi]), offsets, payload)

    def _on_watch(self, peer: bytes, message: m.Watch) -> None:
        job = self.jobs.get(message.job)
        if job is None:
            self._send(peer, m.Page(message.job, False, [], (0, -1), False, -1))
            return
        if message.live:
            job.watchers.add(peer)
        runs = [
            (a, b)
            for a, b in _runs([i for i, s in enumerate(job.states) if s >= FINAL], 7)
            if a > message.cursor[1]
        ]
        page, rest = runs[: self.page_ranges], runs[self.page_ranges :]
        cursor = (1, page[-1][0]) if page else message.cursor
        ranges = [self._range(job, a, b) for a, b in page]
        self._send(peer, m.Page(job.id, True, ranges, cursor, bool(rest), job.total, job.shape, job.name))

    def _on_cancel(self, peer: bytes, message: m.Cancel) -> None:
        job = self.jobs[message.job]
        end = len(job.states) if message.count < 0 else message.first + message.count
        ended = [i for i in range(message.first, end) if job.states[i] < FINAL]
        for i in ended:
            job.states[i] = TaskState.CANCELLED
        if message.count < 0:
            job.total = len(job.states)
        self._push(job, ended)
        self._send(peer, m.Cancelled(message.request, len(ended)))

    def _on_ask(self, peer: bytes, message: m.Ask) -> None:
        answer = self.answers.get(
            message.verb, {"code": "not_found", "what": f"no verb {message.verb}", "fix": "ask"}
        )
        if answer is None:
            return
        ok = not (isinstance(answer, dict) and "code" in answer)
        if callable(answer):
            answer = answer(msgspec.msgpack.decode(message.body))
        self._send(peer, m.Answer(message.request, ok, msgspec.msgpack.encode(answer)))


def _runs(indexes: list[int], longest: int = 1000) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for i in indexes:
        if runs and runs[-1][1] == i and i - runs[-1][0] < longest:
            runs[-1] = (runs[-1][0], i + 1)
        else:
            runs.append((i, i + 1))
    return runs
