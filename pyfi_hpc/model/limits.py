"""Limits: every queue, batch, loop and payload has a name here and a sentence on what happens there."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyfi_hpc.model.budgets import BUDGETS, Budgets

#: raised when a message changes its meaning; peers of another version are refused by name
PROTOCOL_VERSION = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """What the machines are held to; tests make them small."""

    #: one task's arguments or result; over it: refused at submit, or the task fails with the reason
    payload_bytes_max: int = 8 << 20
    #: one message on a port; over it the connection is closed
    message_bytes_max: int = 64 << 20
    #: tasks in one batch; over it: refused
    batch_tasks_max: int = 65_536
    #: what clients aim at when they cut a map into batches
    batch_bytes_goal: int = 1 << 20
    #: all inputs of one task that come from other tasks; over it the task fails with the reason
    inputs_bytes_max: int = 48 << 20
    #: payload bytes of queued batches kept in the broker; beyond it they stay in the ledger until their turn
    queued_payload_bytes_max: int = 96 << 20
    #: results kept for tasks that wait for them; beyond it they are read from the ledger again
    value_bytes_max: int = 64 << 20
    #: tasks in one grant
    grant_tasks_max: int = 512
    #: payload bytes in one grant; a single bigger task still goes, alone
    grant_bytes_max: int = 1 << 20
    #: payload of unfinished grants that a node holds; a node that holds none gets one all the same
    node_bytes_max: int = 64 << 20
    #: a node's lease; a silent node's tasks go elsewhere after it, seconds
    lease_s: float = 5.0
    heartbeat_s: float = 1.0
    #: after a restart, agents have this long to say what they still run, seconds
    recover_s: float = 2.0
    #: failed attempts after which a task is not tried again, by cause
    budgets: Budgets = field(default_factory=lambda: BUDGETS)
    #: tasks that failed at a place and completed elsewhere, after which the place is quarantined
    quarantine_tasks: int = 3
    #: the first quarantine of a place; each that follows at once is twice as long, up to the second limit, seconds
    quarantine_s: float = 60.0
    quarantine_s_max: float = 3600.0
    #: a task that failed at a place waits for another place for so long, seconds
    elsewhere_s: float = 30.0
    #: of what an account has used half is forgotten in each, seconds
    share_half_life_s: float = 3600.0
    #: an account that comes back is at most so many seconds of all ranks ahead of those who have waited, or behind
    share_lead_s: float = 300.0
    #: rank-seconds that an account takes at once while another waits; at least one task
    share_turn_s: float = 1.0
    #: a task waits so long for a rank before preemptible tasks of a lower priority are ended for it, seconds
    preempt_after_s: float = 1.0
    #: results pushed to a client that has not confirmed them; beyond it the client reads them from the ledger
    client_window_bytes_max: int = 32 << 20
    #: a client that says nothing for so long is forgotten (its jobs are not), seconds
    client_silence_s: float = 60.0
    #: standard output or error kept per task: the first and the last half of it
    output_bytes_max: int = 128 << 10
    #: records waiting for the ledger; beyond it submissions are refused with "try again later"
    journal_bytes_max: int = 128 << 20
    #: keys of ended jobs remembered for submissions that are sent again
    ended_keys_max: int = 100_000
    #: work that an agent wants at hand beyond what its ranks run, seconds
    buffer_s: float = 0.05
    #: tasks that an agent holds at most, per rank
    capacity_per_rank_max: int = 4096
    #: work sent to a rank at once, seconds
    bundle_s: float = 0.004
    #: behind a bundle that is expected to take no longer another one waits at the rank, seconds: so a rank does not
    #: wait for its agent between two tasks. It is asked back as soon as a rank is idle
    behind_s: float = 0.25
    #: tasks sent to a rank at once
    bundle_tasks_max: int = 512
    #: before the end of its allocation a task is to have ended and its outcome to be on its way, seconds
    end_margin_s: float = 2.0
    #: what was learned of durations is written no more often, seconds
    learned_s: float = 10.0
    #: what a task returns Continue with; over it the task fails with the reason. Kept in the broker until it goes on
    state_bytes_max: int = 256 << 10
    #: a rank of a gang that ended badly: the others have so long to end too before they are ended, seconds
    mates_s: float = 1.0
    #: from the signal at the time limit to SIGKILL, seconds
    kill_grace_s: float = 2.0
