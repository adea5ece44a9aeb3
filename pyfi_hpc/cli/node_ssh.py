"""``pyfi node add``, ``rm`` and ``sync``: nodes over ssh."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from pyfi_hpc.cli import failure, parse
from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.output import print_json
from pyfi_hpc.errors import LoginRefused

if TYPE_CHECKING:
    from pyfi_hpc.adapters.ssh_target import Ask
    from pyfi_hpc.hosts.ssh_nodes import Result

#: a host or more has failed; what was done on the others stays
_SITE_PROBLEM = 6


@click.command()
@click.option("--ssh", "over_ssh", is_flag=True, required=True, help="The way to reach them; there is no other yet.")
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@click.option("-n", "--ranks", type=click.IntRange(1, 4096), help="Ranks on each; default: one per usable core there.")
@click.option("--python", metavar="PATH", default="", help="Python there for the virtual environment, 3.11 or newer.")
@click.option("--home", "base", metavar="DIR", help="Folder on the nodes for all that is put there; default ~/.pyfi.")
@click.option("-u", "--user", default="", help="User name there.")
@click.option("-p", "--port", type=click.IntRange(1, 65535), help="Port of sshd.")
@click.option("-J", "--jump", metavar="HOST", default="", help="Go through this host, or several: A,B.")
@click.option("-i", "--identity", metavar="FILE", default="", help="Private key.")
@click.option("--via", type=click.Choice(["paramiko", "ssh"]), default="paramiko", show_default=True,
              help="A connection of our own, or the system's ssh.")  # fmt: skip
@click.option("--control", metavar="SOCKET", default="", help="With --via ssh: an OpenSSH connection that you opened.")
@click.option("--accept-host-key", "accept", metavar="SHA256:...", multiple=True,
              help="Take, and write down, the unknown host key with exactly this fingerprint.")  # fmt: skip
@click.option("--resource", "resources", multiple=True, metavar="NAME:COUNT", help="What each has, for --needs.")
@click.option("--label", "labels", multiple=True, metavar="NAME", help="What each is, for --needs.")
@click.option("--dry-run", is_flag=True, help="Connect and look; put nothing there.")
@reads
@pass_context
def add(
    context: Context, /, over_ssh: bool, hosts: tuple[str, ...], ranks: int | None, python: str, base: str | None,
    user: str, port: int | None, accept: tuple[str, ...], resources: tuple[str, ...], labels: tuple[str, ...],
    dry_run: bool, **way: str,
) -> None:  # fmt: skip
    """Install pyfi_hpc on hosts over ssh and start an agent with its ranks on each.

    \b
      pyfi up --bind 192.0.2.10             listen where they reach the broker
      pyfi node add --ssh n1 n2 --ranks 8   hosts, or aliases of ~/.ssh/config
      pyfi node rm n1                       let what runs there end, then remove it
    """
    from pyfi_hpc.adapters.ssh_target import Login, split
    from pyfi_hpc.hosts import ssh_nodes
    from pyfi_hpc.hosts.ssh_add import BASE, Wish

    if way["via"] == "ssh" and accept:
        raise click.UsageError("with --via ssh the host's key is ssh's business: `ssh HOST` once shows it")
    if way["via"] != "ssh" and way["control"]:
        raise click.UsageError("--control is for --via ssh")
    logins = []
    for host in dict.fromkeys(hosts):
        own_user, name, own_port = split(host)
        logins.append(Login(name, own_user or user, own_port or port or 0, **way))
    own = {name: ",".join(words) for name, words in (("resources", resources), ("labels", labels)) if words}
    wish = Wish(ranks or 0, python, base or BASE, frozenset(accept), own)
    context.ask("info")  # nothing is done for an instance that is not there
    tell = Lines(context.json)
    if dry_run:
        results = ssh_nodes.check(context.settings, logins, wish, asker(), tell)
    else:
        results = ssh_nodes.add(context.settings, logins, wish, context.ask, asker(), tell)
    finish(context, results, _found if dry_run else _joined)


@click.command()
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@click.option("--drain", metavar="TIME", default="60s", show_default=True, help="What runs there has so long to end.")
@click.option("--purge", is_flag=True, help="Remove code, environments and the installation as well.")
@click.option("--forget", is_flag=True, help="Connect to nobody: the host is gone for good.")
@reads
@pass_context
def rm(context: Context, hosts: tuple[str, ...], drain: str, purge: bool, forget: bool) -> None:
    """Take hosts out that were added over ssh: drain, end agent and ranks, remove keys and logs."""
    from pyfi_hpc.hosts import ssh_nodes

    results = ssh_nodes.remove(
        context.settings, hosts, parse.seconds(drain), purge, forget, asker(), Lines(context.json)
    )
    finish(context, results, _removed)


@click.command()
@click.argument("hosts", nargs=-1, metavar="[HOST...]")
@reads
@pass_context
def sync(context: Context, hosts: tuple[str, ...]) -> None:
    """Send deployed code, and the broker's address, to nodes that do not see this home; all where none is named."""
    from pyfi_hpc.hosts import ssh_nodes

    results = ssh_nodes.sync(context.settings, hosts, context.ask, asker(), Lines(context.json))
    finish(context, results, lambda about: f"{about['sent']} versions sent")


def finish(context: Context, results: Sequence[Result], text: Callable[[dict[str, Any]], str]) -> None:
    """A line for each host, then what went wrong; exit code 6 if anything did."""
    failed = [result for result in results if result.error is not None]
    if context.json:
        print_json({"nodes": [_plain(result) for result in results]})
    else:
        width = max((len(result.host) for result in results), default=0)
        for result in results:
            said = text(result.about) if result.error is None else "FAILED"
            click.echo(f"{result.host.ljust(width)}  {said:50}{result.seconds:8.1f} s")
        for result in failed:
            assert result.error is not None
            click.echo(f"\n{result.host}:", err=True)
            failure.tell(result.error, False, context.debug)
    if failed:
        click.get_current_context().exit(_SITE_PROBLEM)


def _plain(result: Result) -> dict[str, Any]:
    error = result.error
    told = error and {"code": error.code, "what": error.what, "where": error.where, "fix": error.fix}
    return {"host": result.host, **result.about, "seconds": round(result.seconds, 3), "error": told}


def _joined(about: dict[str, Any]) -> str:
    return f"node {about['node']}, {about['ranks']} ranks joined"


def _found(about: dict[str, Any]) -> str:
    home = "sees this home" if about["shared_home"] else "a home of its own"
    return f"node {about['node']}, {about['ranks']} ranks, {about['python']}, {home}"


def _removed(about: dict[str, Any]) -> str:
    if "forgotten" in about:
        return "forgotten; nothing was done there"
    kept = f"; kept {about['kept']}" if about["kept"] else ""
    killed = f", {about['killed']} processes killed" if about["killed"] else ""
    return f"node {about['node']} {'ended' if about['found'] else 'had ended'}{killed}{kept}"


class Lines:
    """What is being done on which host, on standard error."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def __call__(self, host: str, text: str) -> None:
        if not self._quiet:
            print(f"  {host}: {text}", file=sys.stderr, flush=True)


def asker() -> Ask | None:
    """Asks whoever sits at the terminal, one question at a time; None where nobody does.

    What is typed is not shown, kept or logged.
    """
    if not sys.stdin.isatty():
        return None
    lock = threading.Lock()

    def ask(question: str, visible: bool) -> str:
        import getpass

        with lock:
            try:
                return input(question) if visible else getpass.getpass(question)
            except (EOFError, KeyboardInterrupt):
                raise LoginRefused("nobody answered", where=question.strip()) from None

    return ask
