"""What the broker knows live, as plain values for the desk: jobs, nodes, counts."""

from __future__ import annotations

from typing import Any

import msgspec

from pyfi_hpc._version import __version__
from pyfi_hpc.core import explain, health
from pyfi_hpc.core.jobs import Job
from pyfi_hpc.core.state import State
from pyfi_hpc.model.budgets import told
from pyfi_hpc.model.ids import GrantId
from pyfi_hpc.model.states import TaskState

SHARES = "shares"


def view(s: State, now: float) -> dict[str, Any]:
    """Cost: a count over one byte per open task, and some microseconds per job and node."""
    return {
        "epoch": s.epoch,
        "budgets": told(s.limits.budgets),
        "jobs": {job.id: _job(s, job, now) for job in s.book.jobs.values()},
        "nodes": [
            {
                "name": node.name,
                "allocation": node.allocation,
                "cores": node.cores,
                "ranks": node.rank_count,
                "capacity": node.capacity,
                "outstanding": node.outstanding,
                "running": len(node.running),
                "draining": node.draining,
                "load": node.load,
                "memory_bytes": node.memory_bytes,
                "has": msgspec.to_builtins(node.stock.inventory),
                "given": {
                    "ranks": node.stock.ranks,
                    "memory_bytes": node.stock.memory_bytes,
                    "gpus": node.stock.gpu_thousandths / 1000,
                    "named": {name: count for name, count in node.stock.named.items() if count},
                },
                "lease_s": round(node.lease_until - now, 3),
                **health.told(s, node, now),
            }
            for node in s.nodes.by_name.values()
        ],
        #: (batch, offset) -> node, as of each node's last beat
        "running": {
            (grant.batch.id, offset): node.name
            for node in s.nodes.by_name.values()
            for number, offset in node.running
            if (grant := node.grants.get(GrantId(number)))
        },
        "open_tasks": s.book.open_count,
        "ready_tasks": s.queue.ready,
        "payload_bytes": s.payload_bytes,
        "clients": len(s.clients.by_peer),
        "ledger_down": s.ledger_down,
        "recovering": bool(s.recover_until),
        "counts": {name: getattr(s.counts, name) for name in s.counts.__slots__},
    }


def without_ledger(s: State, verb: str, now: float) -> tuple[bool, bytes]:
    """The answer to a verb of the desk while the ledger is away: what is known here, or that it has to wait."""
    if verb != "info":
        what = f"the ledger is away: {s.ledger_down}"
        fix = "it is tried again all the time; `pyfi info` shows when it is back"
        return False, _encode({"code": "ledger_unavailable", "what": what, "where": "the broker", "fix": fix})
    broker = {name: value for name, value in view(s, now).items() if name != "running"}
    return True, _encode({"version": __version__, "ledger": {}, "objects": {}, "broker": broker})


def shares(s: State, _verb: str, _body: bytes, _now: float, _out: Any) -> tuple[bool, bytes]:
    """The verb ``shares``: all accounts, what they have used, and what is wanted and got as parts of one."""
    table = s.queue.shares
    projects = list(table.projects.values())
    total_s = sum(map(table.used_s, projects)) or 1.0
    weights = sum(project.weight for project in projects)
    rows: list[dict[str, Any]] = []
    for project in projects:
        of_users = sum(account.weight for account in project.accounts.values())
        for account in project.accounts.values():
            used_s = table.used_s(account)
            rows.append({
                "project": project.name, "user": account.name, "project_weight": project.weight,
                "user_weight": account.weight, "used_s": used_s, "got": used_s / total_s,
                "wanted": project.weight / weights * account.weight / of_users, "running": account.granted,
                "waits": account.lines > 0,
            })  # fmt: skip
    rows.sort(key=lambda row: -row["used_s"])
    return True, _encode({"shares": rows, "half_life_s": s.limits.share_half_life_s})


def _job(s: State, job: Job, now: float) -> dict[str, Any]:
    states = {state.name: sum(batch.states.count(state) for batch in job.batches) for state in _OPEN}
    following = sum(batch.following() for batch in job.batches)  # granted, and cannot run yet
    states["BLOCKED"] += following
    states["RUNNING"] -= following
    return {
        "open": job.open,
        "count": job.count,
        "closed": job.closed,
        "blocked": states["BLOCKED"],
        "pending": states["PENDING"],
        "running": states["RUNNING"],
        "reason": explain.job_reason(s, job, states["PENDING"], states["BLOCKED"], now),
    }


_OPEN = (TaskState.BLOCKED, TaskState.PENDING, TaskState.RUNNING)


_encode = msgspec.msgpack.Encoder().encode
