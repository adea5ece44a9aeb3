"""The command ``pyfi``: global options, one module per command loaded when it is used, errors and exit codes.

=====  ==========================================================
  0    fine
  1    a task failed or was cancelled
  2    usage: the command line or the request is wrong
  3    not found
  4    no instance reached
  5    refused
  6    site problem: something is missing on this machine
 124   waited too long
 130   interrupted
=====  ==========================================================
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from pyfi_hpc._version import __version__
from pyfi_hpc.cli import failure
from pyfi_hpc.cli.commands import COMMANDS, SECTIONS
from pyfi_hpc.cli.context import Context
from pyfi_hpc.cli.group import LazyGroup

#: as a shell tells of a process that SIGPIPE ended: the reader of our output has gone
_PIPE_CLOSED = 141


def load(name: str) -> click.Command | None:
    """The command of a name, from its module."""
    place = COMMANDS.get(name)
    if place is None:
        return None
    command: click.Command = getattr(import_module(f"pyfi_hpc.cli.{place[0]}"), place[1])
    return command


class Commands(LazyGroup):
    """All commands, in sections."""

    def __init__(self, **more: Any) -> None:
        super().__init__(make=load, names=list(COMMANDS), **more)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), place[2]) for name, place in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            value = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Python would complain at exit about what it cannot flush
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(_PIPE_CLOSED)
        return value


@click.command(cls=Commands, context_settings={"max_content_width": 110})
@click.option("--instance", metavar="NAME", help="Name of the instance (PYFI_INSTANCE).")
@click.option("--home", metavar="DIR", help="Folder of all state (PYFI_HOME).")
@click.option(
    "-d",
    "--ledger",
    "--db",
    metavar="URL",
    help="URL of the ledger's Postgres (PYFI_LEDGER); default: the embedded one.",
)
@click.option("-i", "--ini", metavar="FILE", help="File of settings: name = value; wins over PYFI_ variables.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="pyfi", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, /, ini: str | None, debug: bool, **flags: str | None) -> None:
    """Durable Python tasks on the ranks of this machine or of a Slurm allocation.

    \b
      pyfi up                                 start an instance here
      pyfi deploy PATH_OR_URL                 make the functions of a git repository callable
      pyfi task run -s NAME.function -d 7     call one
      pyfi map NAME.function 1-1000 --wait    call it for each of many
      pyfi down                               stop everything
    """
    context = ctx.ensure_object(Context)
    context.ini, context.flags, context.debug = ini, flags, debug
    ctx.call_on_close(context.close)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line in this process; its exit code. Errors are told on standard error."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    # here already, because a wrong option may stand before it
    context = Context(json="--json" in words)
    try:
        code = cli.main(words, "pyfi", standalone_mode=False, obj=context)
    except Exception as error:
        return failure.tell(error, context.json, context.debug)
    except KeyboardInterrupt:
        return failure.tell(click.Abort(), context.json, context.debug)
    return code if isinstance(code, int) else 0


def main() -> None:
    sys.exit(run())


if __name__ == "__main__":
    main()
