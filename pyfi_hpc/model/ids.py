"""Identifiers: each kind its own type, all of them plain integers or text on the wire.

Users see a job as ``J`` and its tasks as ``J.i``; batches and grants stay inside.
"""

from __future__ import annotations

from typing import NewType

#: what one request submitted; dense, from 1
JobId = NewType("JobId", int)
#: tasks of one job and one socket that travel together; dense over the whole ledger, from 1
BatchId = NewType("BatchId", int)
#: position of a task in its job, from 0
TaskIndex = NewType("TaskIndex", int)
#: the right of a node to run a range of a batch: epoch in the high 24 bits, a counter in the low 39
GrantId = NewType("GrantId", int)
#: incarnation of the broker on its ledger, from 1
Epoch = NewType("Epoch", int)
#: row of a socket, of a code version
SocketId = NewType("SocketId", int)
CodeId = NewType("CodeId", int)
#: a machine, by its Slurm name
NodeName = NewType("NodeName", str)
#: name that a port gave to a connection
Peer = NewType("Peer", bytes)
#: what an agent calls its broker
BROKER = Peer(b"broker")

_COUNTER_BITS = 39


def first_grant(epoch: Epoch) -> GrantId:
    """The first grant of an epoch; 2**39 grants fit into one, and ids never repeat across epochs."""
    return GrantId((epoch << _COUNTER_BITS) + 1)


def epoch_of(grant: GrantId) -> Epoch:
    return Epoch(grant >> _COUNTER_BITS)


def task_name(job: int, index: int) -> str:
    return f"{job}.{index}"
