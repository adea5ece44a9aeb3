"""Nodes, agents and allocations as the broker has seen them, written down when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from pyfi_hpc.ledger.models import Agent, Allocation, Node


def see(session: Session, nodes: Iterable[Mapping[str, Any]], owner: str) -> None:
    """Bring the rows of live nodes up to date and mark the others: a node without agent is ``down``.

    ``nodes`` are those of ``core.view``: name (with its allocation after a slash), cores, ranks, draining.
    """
    now = datetime.now(UTC)
    live: set[int] = set()
    for seen in nodes:
        host = str(seen["name"]).split("/")[0]
        node = session.scalar(sa.select(Node).where(Node.name == host))
        if node is None:
            node = Node(name=host, owner=owner, hostname=host)
            session.add(node)
        node.cores, node.seen_at = seen["cores"], now
        node.status = "quarantined" if seen.get("quarantined") else "draining" if seen["draining"] else "up"
        allocation = _allocation(session, str(seen["allocation"]), owner)
        session.flush()
        agent = session.scalar(sa.select(Agent).where(Agent.name == seen["name"]))
        if agent is None:
            agent = Agent(name=seen["name"], owner=owner, node_id=node.id)
            session.add(agent)
        agent.rank_count, agent.status = seen["ranks"], node.status
        agent.allocation_id = allocation.id if allocation else None
        session.flush()
        live.add(agent.id)
    gone = sa.update(Agent).where(Agent.id.notin_(live), Agent.status != "down")
    session.execute(gone.values(status="down"))
    with_agent = sa.select(Agent.node_id).where(Agent.status != "down")
    ever = sa.select(Agent.node_id)
    down = sa.update(Node).where(Node.id.in_(ever), Node.id.notin_(with_agent), Node.status != "down")
    session.execute(down.values(status="down"))
    with_allocation = sa.select(Agent.allocation_id).where(Agent.status != "down", Agent.allocation_id.isnot(None))
    ended = sa.update(Allocation).where(Allocation.state == "ACTIVE", Allocation.id.notin_(with_allocation))
    session.execute(ended.values(state="ENDED"))


def _allocation(session: Session, name: str, owner: str) -> Allocation | None:
    if not name:
        return None
    found = session.scalar(sa.select(Allocation).where(Allocation.name == name))
    if found is None:
        found = Allocation(name=name, owner=owner)
        session.add(found)
    found.state = "ACTIVE"
    return found
