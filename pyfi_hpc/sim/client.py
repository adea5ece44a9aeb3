"""A client's process: the shipping conversation under the virtual clock, and a line to the broker.

It keeps what it was told: which batches were acknowledged, which results came. Both must never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyfi_hpc.client.answers import encode_body
from pyfi_hpc.client.conversation import Conversation
from pyfi_hpc.client.sinks import Pending, Sink, Submission, Waiter
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.packed import offsets_of, pick
from pyfi_hpc.sim.failure import Violation
from pyfi_hpc.sim.hosts import SPINS_MAX
from pyfi_hpc.sim.network import Line

if TYPE_CHECKING:
    from pyfi_hpc.sim.cluster import Cluster

#: nobody gives up in an imagined cluster: everything heals
_TIMEOUT_S = 1e6


class Watch(Sink):
    """Results of one job on their way to the client's memory."""

    def __init__(self, client: ClientHost, total: int = -1) -> None:
        super().__init__(total)
        self.client = client
        self.error: BaseException | None = None

    def settle(self, pieces: Sequence[m.Range]) -> None:
        for piece in pieces:
            for k in range(piece.count):
                self.client.learn((self.job, piece.first + k), (piece.states[k], pick(piece.offsets, piece.payload, k)))

    def fail(self, error: BaseException, lost: bool) -> None:
        self.error = error


class ClientHost:
    """One client.

    Parameters
    ----------
    name : str
        In stories.
    """

    #: tests replace it
    resends_under_new_keys = False

    def __init__(self, world: Cluster, name: str = "c1") -> None:
        self.world = world
        self.name = name
        self.dead = False
        self.frozen = False
        #: (key, number) -> job, of what the broker acknowledged
        self.accepted: dict[tuple[bytes, int], int] = {}
        self.results: dict[tuple[int, int], tuple[int, bytes]] = {}
        self.refused: list[m.Refused] = []
        self.submissions: list[Submission] = []
        self.sinks: list[Watch] = []
        self._chance = world.chance(f"client {name}")
        self._talk = Conversation(name, name, _TIMEOUT_S, lambda tasks, size: None, world.limits)
        self._wake = float("inf")
        self._spins = 0
        self._requests = 0
        self._inbox: list[Any] = []
        self.line = Line(world.net, self, "client")
        world.clients.append(self)
        self._talk.connected("", world.now)
        self._round()

    # --- what its program does ------------------------------------------------------------------------

    def submit(self, payloads: list[str], edges: bytes = b"", **options: Any) -> Submission:
        """One job of one batch."""
        return self.submit_batches([payloads], [edges], **options)

    def submit_batches(
        self, batches: list[list[str]], edges: list[bytes], spacing_s: float = 0.0, last: bool = True, **options: Any
    ) -> Submission:
        """One job of several batches, sent one after the other; without ``last`` more may follow."""
        total = sum(map(len, batches)) if last else -1
        sink = Watch(self, total)
        submission = Submission(sink)
        submission.key = self._chance.randbytes(16)
        options.setdefault("name", f"{self.name}/{len(self.submissions)}")
        self.submissions.append(submission)
        self.sinks.append(sink)
        for number, (payloads, links) in enumerate(zip(batches, edges, strict=True)):
            closes = last and number == len(batches) - 1
            if spacing_s and number:
                self.world.after(spacing_s * number, self._send_batch, submission, payloads, links, closes, options)
            else:
                self.send_batch(submission, payloads, links, closes, **options)
        return submission

    def _send_batch(
        self, submission: Submission, payloads: list[str], edges: bytes, last: bool, options: dict[str, Any]
    ) -> None:
        self.send_batch(submission, payloads, edges, last, **options)

    def send_batch(
        self, submission: Submission, payloads: list[str], edges: bytes = b"", last: bool = True,
        socket: str = "sample.work", **options: Any,
    ) -> None:  # fmt: skip
        """The next batch of a job."""
        if self.dead:
            return
        parts = [text.encode() for text in payloads]
        message = m.Submit(
            submission.key, submission.next_number, submission.next_index, len(parts), last, socket,
            offsets_of(parts), b"".join(parts), edges, **options,
        )  # fmt: skip
        submission.next_number += 1
        submission.next_index += len(parts)
        self._talk.submit(Pending(submission, message), self.world.now)
        self._round()

    def attach(self, job: int) -> Watch:
        """Read a job of somebody else's from its start."""
        sink = Watch(self)
        self.sinks.append(sink)
        self._talk.watch(job, sink, self.world.now)
        self._round()
        return sink

    def cancel(self, job: int, first: int = 0, count: int = -1) -> None:
        self._requests += 1
        self._talk.ask(Waiter(m.Cancel(self._requests, job, first, count), True), self.world.now)
        self._round()

    def set_hold(self, job: int, on_hold: bool) -> None:
        self._requests += 1
        ask = m.Ask(self._requests, "job_hold" if on_hold else "job_release", encode_body({"job": job}))
        self._talk.ask(Waiter(ask, True), self.world.now)
        self._round()

    @property
    def unacknowledged(self) -> int:
        return sum(len(s.unacked) for s in self.submissions)

    @property
    def satisfied(self) -> bool:
        """Everything is acknowledged and every result is here."""
        return not self.unacknowledged and all(sink.feed.complete for sink in self.sinks if sink.error is None)

    def learn(self, task: tuple[int, int], value: tuple[int, bytes]) -> None:
        if self.results.setdefault(task, value) != value:
            raise Violation(f"the client was told {self.results[task]}, then {value}", task)

    # --- its process ----------------------------------------------------------------------------------

    def hear(self, messages: Sequence[Any]) -> None:
        """A frame of the broker."""
        if self.dead:
            return
        if self.frozen:
            self._inbox += messages
            return
        for message in messages:
            if isinstance(message, m.Accepted):
                self.accepted[message.key, message.number] = message.job
            elif isinstance(message, m.Refused):
                self.refused.append(message)
            self._talk.handle(message, self.world.now)
        self._round()

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        messages, self._inbox = self._inbox, []
        self.hear(messages)

    def kill(self) -> None:
        """Its futures are lost, its jobs are not."""
        if not self.dead:
            self.dead = True
            self.world.tell(self.name, "killed")
            self.line.tear(late_s=0.001)

    def _round(self) -> None:
        if self.dead or self.frozen:
            return
        talk, now = self._talk, self.world.now
        talk.advance(now)
        if talk.awakened:
            talk.awakened = False
            self._follow(moved_only=True)
        if talk.reconnect:
            self._follow(moved_only=False)
        if talk.out:
            messages, talk.out[:] = list(talk.out), []
            if self.resends_under_new_keys:
                messages = [self._rekeyed(message) for message in messages]
            self.line.send(messages)
        self._schedule(talk.wake_at(now))

    def _follow(self, moved_only: bool) -> None:
        """As ``client.session`` does: a fresh socket, to where the access file says."""
        if moved_only and self.line.address == self.world.net.access:
            return
        self.line.renew()
        self._talk.connected("", self.world.now)

    def _rekeyed(self, message: Any) -> Any:
        """A client that forgets under which key it sent a batch."""
        if isinstance(message, m.Submit) and message.resend and message.number == 0:
            message.key, message.resend = self._chance.randbytes(16), False
        return message

    def _schedule(self, wake: float) -> None:
        self._spins = self._spins + 1 if wake <= self.world.now else 0
        if self._spins > SPINS_MAX:
            raise Violation(f"{self.name} keeps a core busy: it wants to be woken at once, again and again")
        if wake < self._wake:
            self._wake = max(wake, self.world.now + 1e-6)
            self.world.at(self._wake, self._tick)

    def _tick(self) -> None:
        if not self.dead and self.world.now >= self._wake:
            self._wake = float("inf")
            self._round()
