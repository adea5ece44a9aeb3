"""``pyfi deploy``: from a repository to sockets that can be called."""

from __future__ import annotations

import sys
import time

import click

from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.output import print_json


@click.command()
@click.argument("source", metavar="PATH_OR_URL")
@click.option("--commit", metavar="REV", help="Commit, tag or branch; default: HEAD.")
@click.option("-m", "--module", help="Dotted name of the module with the functions; default: what pyfi.toml says.")
@click.option("-n", "--name", help="Name of the processor; default: what pyfi.toml says, else the folder's.")
@click.option(
    "-f",
    "--function",
    "functions",
    multiple=True,
    help="A function to make callable; default: all public ones.",
)
@click.option("--allow-dirty", is_flag=True, help="Deploy a snapshot of a working tree with changes.")
@reads
@pass_context
def deploy(
    context: Context,
    source: str,
    commit: str | None,
    module: str | None,
    name: str | None,
    functions: tuple[str, ...],
    allow_dirty: bool,
) -> None:
    """Make the functions of a git repository callable, each as a socket NAME.function.

    \b
      pyfi deploy .
      pyfi deploy https://git.example.org/group/model --commit v1.2 --module model.run
    """
    import msgspec

    from pyfi_hpc.cli.node_ssh import asker
    from pyfi_hpc.client.deploy import prepare, send_to_nodes

    context.session.ask("info", {}, repeat=True)  # nothing is built for an instance that is not there
    tell = Steps(quiet=context.json)
    spec = prepare(
        context.settings, source, commit=commit, module=module, name=name, functions=functions or None,
        allow_dirty=allow_dirty, permit=context.permit, progress=tell,
    )  # fmt: skip
    answer = context.ask("deploy", msgspec.to_builtins(spec), reads=False)
    for problem in send_to_nodes(context.settings, context.ask, asker(), tell):
        click.echo(f"warning: {problem}", err=True)
    if context.json:
        print_json(
            {
                **answer,
                "environment": spec.code.environment,
                "build_s": spec.build_s,
                "dirty": spec.code.dirty,
            }
        )
        return
    built = f"built in {spec.build_s:.1f} s" if spec.built else "unchanged"
    sockets = ", ".join(socket.name for socket in spec.sockets)
    dirty = " (snapshot)" if spec.code.dirty else ""
    version = f"{spec.name} @ {spec.code.commit[:7]}{dirty}"
    click.echo(f"deployed  {version}  env {spec.code.environment[:8]} ({built})  sockets: {sockets}")
    for socket in answer.get("missing", ()):
        click.echo(f"warning: {socket} has no function any more; calls of it are refused", err=True)


class Steps:
    """What the preparation is doing, a line each on standard error with the seconds since its start."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._begun = time.monotonic()

    def __call__(self, text: str) -> None:
        if not self._quiet:
            print(f"  {time.monotonic() - self._begun:5.1f} s  {text}", file=sys.stderr)
