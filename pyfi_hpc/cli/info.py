"""``pyfi info``: the instance at a glance, and its settings with their origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import click

from pyfi_hpc.cli.context import Context, lists, pass_context
from pyfi_hpc.cli.output import Column, fancy, print_json, record, rows, shown

_NODES = (
    Column("NODE", "name"),
    Column("ALLOCATION"),
    Column("CORES", right=True),
    Column("RANKS", right=True),
    Column("RUNNING", right=True),
    Column("LOAD", lambda row: f"{row['load']:.2f}", right=True),
    Column("STATE", "state"),
    Column("REASON", lambda row: "; ".join(troubles(row)), cut=True),
)
_SETTINGS = (Column("SETTING", "name"), Column("VALUE"), Column("ORIGIN"))


@click.command()
@click.option("--settings", "only_settings", is_flag=True, help="Show each setting, its value and where it came from.")
@lists
@pass_context
def info(context: Context, only_settings: bool) -> None:
    """Show the instance: broker, ledger, nodes and ranks, counts of objects and tasks."""
    if only_settings:
        rows(context, "settings", _SETTINGS, list(_settings(context)))
        return
    answer = context.ask("info")
    standbys = _standbys(context)
    waiting = _allocations(context)
    over_ssh = _over_ssh(context, answer["broker"]["nodes"])
    if context.json:
        answer["allocations"] = waiting
        answer["pyfi_hpc"] = answer.pop("version")
        answer["standbys"] = standbys
        answer["ssh_nodes"] = over_ssh
        print_json({"instance": context.settings.instance, "address": context.session.address, **answer})
        return
    broker, ledger = answer["broker"], answer["ledger"]
    record(
        context,
        "instance",
        {
            "instance": f"{context.settings.instance}   (state {context.settings.instance_dir})",
            "broker": f"{context.session.address}, CURVE on, pyfi_hpc {answer['version']}, epoch {broker['epoch']}",
            "standby": ", ".join(f"pid {one['pid']} on {one['host']}, waiting" for one in standbys) or "none",
            "ledger": _ledger(ledger) + _trouble(broker),
            "objects": ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in answer["objects"].items())
            or "not known while the ledger is away",
            "tasks": f"{broker['open_tasks']} unfinished, {broker['ready_tasks']} ready, "
            f"{broker['counts']['settled']} settled since the broker's start",
            "clients": broker["clients"],
            **{f"allocation {one['allocation']}": f"{one['state']} {one['reason']}".rstrip() for one in waiting},
            **{f"ssh {one['host']}": f"{one['node']}, {one['state']} {one['problem']}".rstrip() for one in over_ssh},
        },
    )
    if fancy():
        click.echo()
    for node in broker["nodes"]:
        node["state"] = state_of(node)
    rows(context, "nodes", _NODES, broker["nodes"])


def _standbys(context: Context) -> list[dict[str, Any]]:
    from pyfi_hpc.hosts import brokers

    return [{"pid": one.pid, "host": one.host} for one in brokers.standbys(context.settings)]


def _allocations(context: Context) -> list[dict[str, Any]]:
    """What batch systems say of allocations that were asked for: one that never starts has no node to be seen by."""
    from pyfi_hpc.hosts import allocation

    return [
        {
            "allocation": one.note.key,
            "pool": one.note.pool,
            "state": one.seen.state if one.seen else "UNKNOWN",
            "reason": one.seen.reason if one.seen else one.trouble,
            "nodes": list(one.seen.nodes) if one.seen else [],
        }
        for one in allocation.entries(context.settings)
    ]


def _over_ssh(context: Context, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Nodes that were added over ssh, and whether they are there."""
    from pyfi_hpc.hosts import ssh_notes

    there = {node["name"] for node in nodes}
    return [
        {"host": one.login.host, "node": one.name, "via": one.login.via, "home": one.home, "ranks": one.ranks,
         "state": "joined" if one.name in there else "away", "problem": one.problem}
        for one in ssh_notes.noted(context.settings)
    ]  # fmt: skip


def state_of(node: dict[str, Any]) -> str:
    """One word for a live node."""
    return "quarantined" if node["quarantined"] else "draining" if node["draining"] else "up"


def troubles(node: Mapping[str, Any]) -> list[str]:
    """Why a node, or ranks of it, get no tasks, and until when."""
    found = []
    if node["quarantined"]:
        found.append(f"quarantined until {shown(node['quarantined_until'], 'at')}: {node['quarantined']}")
    for rest in node["resting"]:
        who = "no ranks" if rest["rank"] < 0 else f"rank {rest['rank']} rests"
        found.append(f"{who} until {shown(rest['until'], 'at')}: {rest['reason']}")
    return found


def _settings(context: Context) -> Any:
    for field in fields(context.settings):
        if field.name != "origin":
            value = getattr(context.settings, field.name)
            yield {
                "name": field.name,
                "value": _hidden(field.name, value),
                "origin": context.settings.origin.get(field.name, "default"),
            }


def _hidden(name: str, value: Any) -> Any:
    """The ledger's URL may hold a password."""
    if name == "ledger" and "@" in str(value):
        scheme, _, rest = str(value).partition("://")
        login, _, place = rest.rpartition("@")
        return f"{scheme}://{login.partition(':')[0]}:***@{place}" if ":" in login else value
    return list(value) if isinstance(value, tuple) else value if isinstance(value, float) else str(value)


def _ledger(ledger: dict[str, Any]) -> str:
    return f"PostgreSQL {ledger['postgres']}, {_bytes(ledger['bytes'])}" if ledger else "Postgres"


def _trouble(broker: dict[str, Any]) -> str:
    if broker["ledger_down"]:
        return f", DOWN: {broker['ledger_down']}"
    return ", recovering" if broker["recovering"] else ""


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
