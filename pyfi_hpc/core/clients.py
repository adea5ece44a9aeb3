"""Client sessions: who is connected, what they watch, and how much was pushed to each.

A client that does not read is sent nothing more once its window is full; it is told so when the window
opens and reads the rest from the ledger. So a slow client costs the broker a bounded amount of memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pyfi_hpc.core.jobs import Job
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.ids import JobId, Peer
from pyfi_hpc.model.messages import Range, Resolved


@dataclass(slots=True, eq=False)
class Client:
    peer: Peer
    user: str
    name: str
    heard_at: float
    pushed_bytes: int = 0
    consumed_bytes: int = 0
    watched: set[JobId] = field(default_factory=set)
    #: jobs whose last batch has not come
    submitting: set[JobId] = field(default_factory=set)
    #: jobs with results that were not pushed because the window was full
    lagging: set[JobId] = field(default_factory=set)


class ClientTable:
    def __init__(self, window_bytes_max: int) -> None:
        self.by_peer: dict[Peer, Client] = {}
        self._window_bytes_max = window_bytes_max

    def push(self, job: Job, piece: Range, out: Effects) -> None:
        """Send results to all who watch the job, after the commit of their records."""
        size = len(piece.payload) + len(piece.states) + 64
        for peer in sorted(job.watchers):  # in the same order in every run
            client = self.by_peer.get(peer)
            if client is None:
                job.watchers.discard(peer)
            elif client.pushed_bytes - client.consumed_bytes + size > self._window_bytes_max and client.pushed_bytes:
                client.lagging.add(job.id)
            else:
                client.pushed_bytes += size
                out.send(peer, Resolved(job.id, [piece]))

    def consumed(self, client: Client, payload_bytes: int, out: Effects) -> None:
        """The window moved: an empty Resolved tells the client to read what it missed."""
        client.consumed_bytes = max(client.consumed_bytes, min(payload_bytes, client.pushed_bytes))
        if client.lagging and client.pushed_bytes - client.consumed_bytes < self._window_bytes_max // 2:
            for job in client.lagging:
                out.send(client.peer, Resolved(job, []))
            client.lagging.clear()
