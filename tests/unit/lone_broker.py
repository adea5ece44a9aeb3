"""The broker's machine alone under a virtual clock, for unit tests: nodes and clients are words of the test."""

from __future__ import annotations

from typing import Any

import msgspec

from pyfi_hpc.core.broker import Broker
from pyfi_hpc.core.view import view
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.events import Received, SocketSpec
from pyfi_hpc.model.ids import BatchId, Epoch, JobId, Peer
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits
from pyfi_hpc.model.packed import failure, offsets_of
from pyfi_hpc.model.records import OutcomeSettled, Record, Recovered
from pyfi_hpc.model.states import Cause, TaskState

MOUNT = m.Mount(1, "repository", "commit", "sample", "environment", "python", "workdir")
SOCKET = SocketSpec(1, "sample.work", "sample", "work", MOUNT)


class LoneBroker:
    """Events in, effects out; all records and messages are kept. UTC is the clock."""

    def __init__(self, limits: Limits | None = None, recovered: Recovered | None = None) -> None:
        self.now = 0.0
        self.records: list[Record] = []
        self.sent: list[tuple[str, m.Message]] = []
        recovered = recovered or Recovered(Epoch(1), JobId(1), BatchId(1))
        self.machine = Broker(limits or Limits(lease_s=1e9), recovered, [SOCKET], [MOUNT], 0.0, 0.0)

    def tell(self, event: Any) -> Effects:
        """One event, and what the loop does after each."""
        out = Effects()
        self.machine.handle(event, self.now, out)
        return self.advance(out)

    def advance(self, out: Effects | None = None) -> Effects:
        out = out or Effects()
        self.machine.advance(self.now, out)
        self.records += out.records
        self.sent += [(peer.decode(), message) for peer, message in [*out.at_once, *out.messages]]
        return out

    def wait(self, seconds: float) -> None:
        """Time passes; the machine is woken when it asked to be, and at the end."""
        end = self.now + seconds
        while (wake := self.machine.wake_at()) < end:
            self.now = max(self.now + 0.01, wake)
            self.advance()
        self.now = end
        self.advance()

    def say(self, peer: str, message: m.Message) -> Effects:
        role = "client" if peer.startswith("c") else "agent"
        return self.tell(Received(Peer(peer.encode()), role, "owner", message))

    def node(self, name: str, ranks: int = 2, allocation: str = "", capacity: int | None = None) -> None:
        """An agent joins; its peer is called as it is."""
        self.say(name, m.Hello(PROTOCOL_VERSION, "agent", name, f"{name}.{self.now}", ranks, ranks, allocation))
        self.say(name, m.Capacity(ranks if capacity is None else capacity, ranks))

    def client(self) -> None:
        """The client c1 is there: one that says nothing for a minute is forgotten."""
        self.say("c1", m.Hello(PROTOCOL_VERSION, "client", "somebody", "i"))

    def submit(self, count: int = 1, retries: int = 0) -> int:
        """Submit a job of so many tasks; its number."""
        self.client()
        job = int(self.machine.state.next_job)
        key = job.to_bytes(16, "big")
        submit = m.Submit(key, 0, 0, count, True, "sample.work", offsets_of([b"x"] * count), b"x" * count)
        submit.retries = retries
        self.say("c1", submit)
        return job

    def held(self, name: str) -> list[tuple[int, int]]:
        """(job, index) of the tasks that a node owes, in the order of its grants."""
        return [
            (grant.batch.job.id, grant.batch.first + grant.lo + at)
            for grant in self._grants(name)
            for at, left in enumerate(grant.left)
            if left
        ]

    def ended(self, name: str, task: tuple[int, int], cause: Cause = Cause.NONE, rank: int = 0, text: str = "") -> None:
        """A node tells how a task of its ended."""
        job, index = task
        for grant in self._grants(name):
            offset = index - grant.batch.first
            if grant.batch.job.id == job and grant.lo <= offset < grant.lo + grant.count:
                data = failure("TaskLost", text) if cause else b"result"
                outcome = m.Outcome(
                    grant.id, grant.batch.id, offset, 1, grant.attempt, rank, bytes([cause]), bytes(8), bytes(4),
                    offsets_of([data]), data,
                )  # fmt: skip
                self.say(name, m.Finished([outcome]))
                return
        raise AssertionError(f"{name} does not hold task {task}")

    def state(self, task: tuple[int, int]) -> TaskState | None:
        """The final state of a task, or None."""
        for record in self.records:
            if isinstance(record, OutcomeSettled) and record.job == task[0] and record.lo == task[1]:
                return TaskState(record.states[0])
        return None

    def error(self, task: tuple[int, int]) -> str:
        """The error text of a task that did not complete."""
        for record in self.records:
            if isinstance(record, OutcomeSettled) and (record.job, record.lo) == task:
                return str(msgspec.msgpack.decode(record.payload)[2])
        raise AssertionError(f"task {task} is not settled")

    def view(self) -> dict[str, Any]:
        """What the desk is given."""
        return view(self.machine.state, self.now)

    def _grants(self, name: str) -> list[Any]:
        nodes = self.machine.state.nodes.by_peer
        node = nodes.get(Peer(name.encode()))
        return list(node.grants.values()) if node else []
