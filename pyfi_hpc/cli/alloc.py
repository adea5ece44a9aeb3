"""``pyfi alloc``: pools of allocations that are asked for as the backlog wants them, and given back when idle."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import click

from pyfi_hpc.cli import parse
from pyfi_hpc.cli.context import Context, lists, pass_context, reads
from pyfi_hpc.cli.output import Column, bold, duration, fancy, one_line, print_json, rows
from pyfi_hpc.cli.slurm import request_options
from pyfi_hpc.errors import PyfiError

_POOLS = (
    Column("NAME", "name"),
    Column("SYSTEM"),
    Column("MIN", right=True),
    Column("MAX", right=True),
    Column("RUN", right=True),
    Column("WAIT", right=True),
    Column("RANKS", right=True),
    Column("STATE"),
    Column("WHY", lambda row: row["why"][-1] if row["why"] else "", cut=True),
)
#: the broker answers in milliseconds
_ASK_S = 5.0


@click.group()
def alloc() -> None:
    """Ask for allocations as the backlog wants them, and give idle ones back.

    \b
      pyfi alloc add --max 4 -N 2 --ntasks-per-node=8 -t 1:00:00 -p short
      pyfi alloc ls        pyfi alloc why short        pyfi alloc log short
    """


@alloc.command()
@click.argument("name", required=False)
@click.option("--min", "least", type=click.IntRange(0), default=0, show_default=True, help="There are always so many.")
@click.option("--max", "most", type=click.IntRange(1), default=1, show_default=True, help="Never more than so many.")
@click.option("--idle", default="60", show_default=True, metavar="TIME", help="Given back after so long without work.")
@click.option(
    "--worth", default="30", show_default=True, metavar="TIME",
    help="Another one is asked for if so much work is left for each rank when it starts.",
)  # fmt: skip
@click.option("--batch", type=click.Choice(["slurm", "pbs"]), default="slurm", show_default=True)
@request_options
@click.option("--dry-run", is_flag=True, help="Tell what would be done now, and the script; submit nothing.")
@reads
@pass_context
def add(
    context: Context, /, name: str | None, least: int, most: int, idle: str, worth: str, batch: Literal["slurm", "pbs"],
    dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Store a pool, or change it; its allocations are asked for as long as the instance runs."""
    from pyfi_hpc.adapters import batch as batches
    from pyfi_hpc.cli.slurm import request_of
    from pyfi_hpc.cli.up import Teller
    from pyfi_hpc.hosts import instance, pools
    from pyfi_hpc.model.allocations import Pool

    if least > most:
        raise click.UsageError(f"--min {least} is more than --max {most}")
    settings = context.settings
    request = request_of(context, **options)
    if not options["output"]:
        request = replace(request, output=str(settings.log_dir / "pyfi-%j.out"))
    name = name or re.sub(r"[^A-Za-z0-9_-]", "-", request.partition) or "default"
    known = pools.stored(settings).get(pools.check_name(name))
    pool = Pool(
        name=name, request=request, batch=batch, min=least, max=most, idle_s=parse.seconds(idle),
        worth_s=parse.seconds(worth), added=known.added if known else time.time(),
    )  # fmt: skip
    batches.system(pool.system).script(request)  # what is wrong in it is told before anything is started
    if dry_run:
        _rehearse(context, pool)
        return
    tell = Teller(context)
    instance.reach(settings, tell.part)
    pools.store(settings, pool)
    tell.part(instance.start_elastic(settings))
    with suppress(PyfiError):  # the next question tells it too; until then what needs the pool may be refused
        context.session.ask("backlog", {"shapes": pools.shapes(pools.stored(settings))}, timeout=_ASK_S)
    if context.json:
        print_json({"pool": name, "changed": known is not None, "parts": tell.parts})
    else:
        text = f"{least} to {most} allocations of {pool.ranks} ranks from {pool.system}"
        click.echo(f"pool {name} is {'changed' if known else 'stored'}: {text}.   watch: pyfi alloc why {name}")


def _rehearse(context: Context, pool: Any) -> None:
    from pyfi_hpc.hosts.rehearsal import rehearse

    found = rehearse(context.settings, pool, lambda: context.session.ask("backlog", {}, timeout=_ASK_S))
    if context.json:
        print_json({"pool": pool.name, "why": found.why, "submits": found.submits, "script": found.script,
                    "words": found.words})  # fmt: skip
        return
    click.echo(found.script, nl=False)
    for line in found.why:
        click.echo(f"{pool.name}: {one_line(line)}", err=True)
    click.echo(f"{pool.name}: {found.submits} would be submitted now", err=True)
    click.echo(f"{one_line(found.words)}  Nothing submitted.".strip(), err=True)


@alloc.command()
@lists
@pass_context
def ls(context: Context) -> None:
    """List the pools: how many allocations run and wait, and what was decided last."""
    from pyfi_hpc.hosts import instance, pools

    alive = instance.find(context.settings, instance.ELASTIC) is not None
    found = [_row(context, pool, alive) for pool in pools.stored(context.settings).values()]
    rows(context, "pools", _POOLS, found, process=alive)
    if found and not alive and not context.json:
        click.echo("no process asks for allocations here: `pyfi alloc start`", err=True)


def _row(context: Context, pool: Any, alive: bool) -> dict[str, Any]:
    from pyfi_hpc.hosts import pools

    state = pools.state(context.settings, pool.name)
    found = state.get("allocations", [])
    failures = state.get("saved", {}).get("failures", 0)
    return {
        "name": pool.name, "system": pool.system, "min": pool.min, "max": pool.max,
        "run": sum(bool(one["nodes"]) for one in found), "wait": sum(not one["nodes"] for one in found),
        "ranks": sum(one["ranks"] for one in found),
        "state": "paused" if pool.paused else "no process" if not alive else "backs off" if failures else "asks",
        "why": state.get("why", []), "allocations": found, "decided_at": state.get("decided_at"),
    }  # fmt: skip


@alloc.command()
@click.argument("what", metavar="NAME|ALLOCATION")
@reads
@pass_context
def why(context: Context, what: str) -> None:
    """Tell what a pool asks for and why, or why an allocation waits, in the batch system's own words."""
    from pyfi_hpc.cli.why import show_allocation
    from pyfi_hpc.hosts import instance, pools

    if what not in pools.stored(context.settings):
        show_allocation(context, what)
        return
    pool = pools.find(context.settings, what)
    alive = instance.find(context.settings, instance.ELASTIC) is not None
    row = _row(context, pool, alive)
    if context.json:
        print_json(row)
        return
    title = f"pool {what}  {row['state']}, {len(row['allocations'])} of {pool.min} to {pool.max} allocations"
    click.echo(bold(title) if fancy() else title)
    if row["decided_at"] is None:
        click.echo("  nothing has been decided yet")
    else:
        click.echo(f"  decided {duration(max(0.0, time.time() - row['decided_at']))} ago")
    for line in row["why"]:
        click.echo(f"  {one_line(line)}")
    for one in row["allocations"]:
        click.echo(f"  allocation {one['allocation']}: {one_line(one['words'])}")
    if not alive:
        click.echo("  no process asks for allocations here: `pyfi alloc start`")


@alloc.command()
@click.argument("name")
@click.option("-n", "count", type=click.IntRange(1), default=50, show_default=True, help="The last so many lines.")
@reads
@pass_context
def log(context: Context, name: str, count: int) -> None:
    """Print what a pool did and why; times are UTC. The log stays after `pyfi alloc rm`."""
    from pyfi_hpc.hosts import pools

    lines = pools.log(context.settings, pools.check_name(name))
    if not lines:
        pools.find(context.settings, name)
    if context.json:
        parts = [line.partition(" ") for line in lines[-count:]]
        print_json({"pool": name, "log": [{"time": at, "text": text} for at, _, text in parts]})
        return
    for line in lines[-count:]:
        click.echo(one_line(line))


@alloc.command()
@click.argument("name")
@reads
@pass_context
def rm(context: Context, name: str) -> None:
    """Forget a pool: what waits is ended, what runs finishes its tasks first."""
    from pyfi_hpc.hosts import allocation, instance, pools

    pools.remove(context.settings, name)
    left = [note.key for note in allocation.noted(context.settings) if note.pool == name]
    if left and instance.find(context.settings, "broker") is not None:
        instance.start_elastic(context.settings)  # it gives them back, and ends when nothing is left
    if context.json:
        print_json({"pool": name, "given_back": left})
    else:
        click.echo(f"pool {name} is removed" + (f"; given back: {', '.join(left)}" if left else ""))


@alloc.command()
@click.argument("name")
@reads
@pass_context
def pause(context: Context, name: str) -> None:
    """Ask for nothing more; allocations that are there go on, and are given back when idle."""
    _change(context, name, paused=True)


@alloc.command()
@click.argument("name")
@reads
@pass_context
def resume(context: Context, name: str) -> None:
    """Ask again, at once also after refusals."""
    _change(context, name, paused=False)


def _change(context: Context, name: str, *, paused: bool) -> None:
    from pyfi_hpc.hosts import instance, pools

    pool = replace(pools.find(context.settings, name), paused=paused)
    if not paused:  # counts as changed, so what was refused is tried at once
        pool = replace(pool, resumed=time.time())
    pools.store(context.settings, pool)
    if instance.find(context.settings, "broker") is not None:
        instance.start_elastic(context.settings)
    if context.json:
        print_json({"pool": name, "paused": paused})
    else:
        click.echo(f"pool {name} {'is paused' if paused else 'asks again'}")


@alloc.command()
@reads
@pass_context
def start(context: Context) -> None:
    """Start the process that asks for the allocations of the pools, if it has died. `pyfi up` does the same."""
    from pyfi_hpc.cli.up import Teller
    from pyfi_hpc.hosts import instance

    tell = Teller(context)
    instance.reach(context.settings, tell.part)
    tell.part(instance.start_elastic(context.settings))
    if context.json:
        print_json({"parts": tell.parts})
