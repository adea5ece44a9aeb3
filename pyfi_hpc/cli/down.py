"""``pyfi down``: stop everything of the instance on this machine, and its agents everywhere."""

from __future__ import annotations

import socket
import time

import click

from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.output import print_json

#: seconds for the broker to answer that it ends
_ANSWER_S = 8.0


@click.command()
@reads
@pass_context
def down(context: Context) -> None:
    """Stop the instance: ranks, agents, broker, ledger.

    Accepted tasks stay in the ledger and go on after `pyfi up`.
    """
    from pyfi_hpc.adapters import pidfile
    from pyfi_hpc.errors import BrokerUnreachable
    from pyfi_hpc.hosts import instance

    begun = time.monotonic()
    stopped = [daemon.name for daemon in pidfile.daemons(context.settings) if daemon.alive]
    if elsewhere := _broker_elsewhere(context):
        try:
            shutdown(context)
            stopped.append(f"broker on {elsewhere}")
        except BrokerUnreachable:
            click.echo(f"the broker on {elsewhere} does not answer", err=True)
    stopped = list(dict.fromkeys([*stopped, *instance.stop(context.settings, lambda: shutdown(context))]))
    if context.json:
        print_json({"instance": context.settings.instance, "stopped": stopped})
    elif stopped:
        click.echo(f"stopped   {', '.join(stopped)}   {time.monotonic() - begun:.1f} s")
    else:
        click.echo(f"nothing of instance {context.settings.instance!r} was running here")


def shutdown(context: Context) -> None:
    """Ask the broker to end the agents everywhere, then itself."""
    from pyfi_hpc.errors import BrokerUnreachable

    try:
        context.session.ask("shutdown", {}, timeout=_ANSWER_S)
    except TimeoutError:
        raise BrokerUnreachable(f"the broker has not answered within {_ANSWER_S:.0f} s") from None


def _broker_elsewhere(context: Context) -> str:
    """The host of a broker that was started from another machine with the same home."""
    from pyfi_hpc.adapters import pidfile

    here = socket.gethostname()
    hosts = [d.host for d in pidfile.daemons(context.settings) if d.name == "broker" and d.host != here]
    return hosts[0] if hosts else ""
