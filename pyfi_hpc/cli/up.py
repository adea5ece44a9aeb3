"""``pyfi up``: an instance on this machine, or an allocation of Slurm for it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.output import print_json
from pyfi_hpc.cli.slurm import slurm_options
from pyfi_hpc.errors import BrokerHeld

if TYPE_CHECKING:
    from pyfi_hpc.hosts.spawn import Part

#: seconds for the ranks to join: MPI over a loaded machine is slow to start
JOIN_S = 60.0


@click.command()
@click.option("-n", "--ranks", type=click.IntRange(1, 4096), help="Ranks to start here; default: one per usable core.")
@click.option("--bind", metavar="ADDR", help="Address that the broker listens on; default 127.0.0.1.")
@click.option("--resource", "resources", multiple=True, metavar="NAME:COUNT", help="What the nodes have, for --needs.")
@click.option("--label", "labels", multiple=True, metavar="NAME", help="What the nodes are, for --needs.")
@slurm_options
@reads
@pass_context
def up(
    context: Context, /, ranks: int | None, bind: str | None, slurm: bool, resources: tuple[str, ...],
    labels: tuple[str, ...], **request: Any,
) -> None:  # fmt: skip
    """Start the instance: ledger, broker, agent and ranks here, or with --slurm an allocation of ranks.

    \b
      pyfi up                                          one rank per core of this machine
      pyfi up --slurm -N 2 --ntasks-per-node=4 -t 10:00
    """
    if bind:
        context.change(bind=bind)
    # agents, also those that Slurm starts, read them from their environment
    for name, words in (("PYFI_RESOURCES", resources), ("PYFI_LABELS", labels)):
        if words:
            os.environ[name] = ",".join(words)
    if slurm:
        from pyfi_hpc.cli.slurm import submit

        submit(context, ranks, **request)
        return
    given = next((name for name, value in request.items() if value and value != "here"), None)
    if given:
        raise click.UsageError(f"--{given.replace('_', '-')} is for an allocation: say --slurm too")
    start_here(context, ranks)


def start_here(context: Context, ranks: int | None) -> None:
    """Start everything, telling each part when it is ready; what was started is stopped if one cannot be."""
    from pyfi_hpc.adapters import node
    from pyfi_hpc.hosts import allocation, instance
    from pyfi_hpc.hosts.pools import stored

    settings = context.settings
    wanted = ranks or len(node.usable_cores())
    begun = time.monotonic()
    tell = Teller(context)
    tell("instance", f"{settings.instance}   (state {settings.instance_dir})")
    if running := instance.find(settings, "broker"):
        raise BrokerHeld(
            f"instance {settings.instance!r} is running already",
            where=f"broker pid {running.pid} on {running.host}",
            fix="use it, or stop it with `pyfi down`",
        )
    pools = bool(stored(settings))
    if pools:  # whose nodes are to reach the broker
        settings = allocation.reachable(settings)
    try:
        instance.start(settings, wanted, tell.part)
        if pools:
            tell.part(instance.start_elastic(settings))
        joined = instance.wait_for_ranks(settings, lambda: live_nodes(context), wanted, JOIN_S)
        tell("ranks", f"{joined} of {wanted} joined", time.monotonic() - begun)
    except BaseException:
        context.close()
        instance.stop(settings, lambda: None)
        raise
    tell.end(time.monotonic() - begun)


def live_nodes(context: Context) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = context.ask("info")["broker"]["nodes"]
    return found


class Teller:
    """Lines of what is ready, with seconds; one object at the end with ``--json``."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.parts: list[dict[str, Any]] = []

    def __call__(self, name: str, text: str, seconds: float | None = None) -> None:
        self.parts.append({"part": name, "text": text, "seconds": seconds and round(seconds, 3)})
        if not self._context.json:
            tail = f"{seconds:8.1f} s" if seconds is not None else ""
            click.echo(f"{name:9} {text:50}{tail}".rstrip())

    def part(self, part: Part) -> None:
        self(part.name, part.text, part.seconds)

    def end(self, seconds: float) -> None:
        if self._context.json:
            name = self._context.settings.instance
            print_json({"instance": name, "parts": self.parts, "ready_s": round(seconds, 3)})
        else:
            click.echo(f"ready in {seconds:.1f} s.   try: pyfi deploy PATH   watch: pyfi top   stop: pyfi down")
