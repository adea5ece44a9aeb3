"""``pyfi down``: stop everything of the instance, here and in its allocations."""

from __future__ import annotations

import time

import click

from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.output import print_json
from pyfi_hpc.errors import SiteError

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
    from pyfi_hpc.cli.node_ssh import asker
    from pyfi_hpc.hosts import instance, ssh_notes

    begun = time.monotonic()
    alive = [daemon.name for daemon in pidfile.daemons(context.settings) if daemon.alive]
    stopped = list(dict.fromkeys([*alive, *instance.stop(context.settings, lambda: shutdown(context), asker())]))
    left = ssh_notes.noted(context.settings)
    if context.json:
        over_ssh = [{"node": note.name, "host": note.login.host, "problem": note.problem} for note in left]
        print_json({"instance": context.settings.instance, "stopped": stopped, "left": over_ssh})
    elif stopped:
        click.echo(f"stopped   {', '.join(stopped)}   {time.monotonic() - begun:.1f} s")
    else:
        click.echo(f"nothing of instance {context.settings.instance!r} was running here")
    if left:
        names = ", ".join(f"{note.name} ({note.problem})" for note in left)
        raise SiteError(
            f"these nodes were told to end by the broker, if it ran, but were not reached over ssh: {names}",
            where=str(context.settings.instance_dir / "ssh_nodes"),
            fix="`pyfi node rm HOST` ends what is left; with --forget where the host is gone for good",
        )


def shutdown(context: Context) -> None:
    """Ask the broker to end the agents everywhere, then itself."""
    from pyfi_hpc.errors import BrokerUnreachable

    try:
        context.session.ask("shutdown", {}, timeout=_ANSWER_S)
    except TimeoutError:
        raise BrokerUnreachable(f"the broker has not answered within {_ANSWER_S:.0f} s") from None
