"""``pyfi xargs``: a program for each line, as xargs(1) and GNU parallel do, as durable tasks on the ranks."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

import click

from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.items import between_nuls, lines_of
from pyfi_hpc.cli.many import Many, many_options
from pyfi_hpc.errors import UsageError

if TYPE_CHECKING:
    from pyfi_hpc.cli.stream import Call
    from pyfi_hpc.model.states import TaskState

#: Linux takes no longer argument (MAX_ARG_STRLEN); items of one program together stay below what all systems take
ARGUMENT_BYTES_MAX, ITEMS_MAX = (128 << 10) - 1, 10_000


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="PROGRAM [ARGUMENT|{}]...")
@click.option("-n", "--max-args", type=click.IntRange(1, ITEMS_MAX), default=1, show_default=True, metavar="N",
              help="Items for each program.")  # fmt: skip
@click.option("-0", "--null", is_flag=True, help="Items end with NUL, as after `find -print0`; else each line is one.")
@click.option("-a", "--arg-file", type=click.File("rb"), default="-", metavar="FILE",
              help="Read items from FILE; default: standard input.")  # fmt: skip
@click.option("-I", "--replace", default="{}", show_default=True, metavar="TEXT", help="What items take the place of.")
@click.option("-C", "--chdir", metavar="DIR", help="Folder that the programs run in; default: this one.")
@click.option("-E", "--env", "variables", multiple=True, metavar="NAME[=VALUE]",
              help="A variable for the programs; without a value the one it has here.")  # fmt: skip
@click.option("--name", default="", help="Name of the job; default: the program's.")
@click.option("--time-limit", "--time", "time_limit", metavar="TIME", help="Of each program: 90s, 5m, 1:00:00.")
@click.option("--ranks", type=click.IntRange(1), metavar="N",
              help="Run each program on N ranks, as a step of its own: an MPI program is one world there.")  # fmt: skip
@click.option("--launch", type=click.Choice(["step"]), help="How programs of several ranks start; step: as above.")
@click.option("--dry-run", is_flag=True, help="Print the command lines and run nothing.")
@many_options
@reads
@pass_context
def xargs(
    context: Context,
    /,
    command: tuple[str, ...],
    max_args: int,
    null: bool,
    arg_file: IO[bytes],
    replace: str,
    chdir: str | None,
    variables: tuple[str, ...],
    name: str,
    ranks: int | None,
    launch: str | None,
    dry_run: bool,
    **given: Any,
) -> None:
    """Run a program for each item, as tasks of one job. Without --wait it is safe to log out.

    Items are lines; empty ones are passed over, and nothing in them is quoting. They take the place of {}, else they
    come last. No shell is involved unless you say `sh -c`. Options after PROGRAM are the program's.

    \b
      ls *.fastq | pyfi xargs --wait gzip -k {}
      find . -name '*.png' -print0 | pyfi xargs -0 -n 20 -P 4 optipng
      seq 100 | pyfi xargs --wait --retries 1 --time-limit 5m ./simulate --seed={} --output run{}.nc
      ls *.toml | pyfi xargs --wait --ranks 16 ./solver {}
      pyfi xargs -a cases.txt sh -c 'tr a-z A-Z < "$1" > "$1.up"' sh {}
    """
    items = between_nuls(arg_file) if null else lines_of(arg_file)
    lines = command_lines(command, items, max_args, replace)
    if dry_run:
        for argv in lines:
            click.echo(shlex.join(argv))
        return
    given["needs"] = _needs(given["needs"], ranks, launch)
    where = {"cwd": folder(chdir), "env": environment(variables)}
    many = Many(context, f"xargs {os.path.basename(command[0])}", **given, describe=_exit_code)
    many.run(_socket(context), name or os.path.basename(command[0]), _calls(lines, where))


def command_lines(command: Sequence[str], items: Iterator[str], count: int, mark: str) -> Iterator[list[str]]:
    """The words of each program.

    >>> list(command_lines(["cp", "{}", "{}.old"], iter(["a", "b"]), 1, "{}"))
    [['cp', 'a', 'a.old'], ['cp', 'b', 'b.old']]
    >>> list(command_lines(["rm"], iter("abc"), 2, "{}"))
    [['rm', 'a', 'b'], ['rm', 'c']]

    Raises
    ------
    UsageError
        Several items cannot go into one word; an item cannot be an argument of a program.
    """
    if not mark:
        raise UsageError("the text that items take the place of cannot be empty", where="xargs", fix="leave -I out")
    inside = [word for word in command if mark in word and word != mark]
    if inside and count > 1:
        raise UsageError(
            f"{count} items cannot take the place of {mark} in {inside[0]!r}", where="xargs",
            fix=f"write -n 1, or {mark} as a word of its own",
        )  # fmt: skip
    words = list(command) if inside or mark in command else [*command, mark]
    checked = _checked(items)
    while taken := list(islice(checked, count)):
        yield [part for word in words for part in (taken if word == mark else [word.replace(mark, taken[0])])]


def _checked(items: Iterator[str]) -> Iterator[str]:
    for number, item in enumerate(items, 1):
        if "\0" in item:
            raise UsageError(f"item {number} holds a NUL", where="xargs", fix="say -0 if items end with NUL")
        if len(os.fsencode(item)) > ARGUMENT_BYTES_MAX:
            raise UsageError(
                f"item {number} is longer than {ARGUMENT_BYTES_MAX} bytes: no program takes it", where="xargs",
                fix="items are lines, or with -0 what lies between NULs",
            )  # fmt: skip
        if item:
            yield item


def folder(given: str | None) -> str:
    """The folder that programs run in, as its user names it: other nodes may know the link, not what is behind it."""
    if given is not None:
        if not os.path.isdir(given):
            raise UsageError(f"there is no folder {given}", where="--chdir")
        return os.path.abspath(given)
    here, named = os.getcwd(), os.environ.get("PWD", "")
    try:
        same = os.path.isabs(named) and os.path.samefile(named, here)
    except OSError:
        same = False
    return named if same else here


def environment(given: Sequence[str]) -> dict[str, str]:
    """Variables for the programs.

    Raises
    ------
    UsageError
        One has no value here.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or (not equals and name not in os.environ):
            raise UsageError(f"there is no variable {name!r} here", where=f"--env {text}", fix="write NAME=VALUE")
        found[name] = value if equals else os.environ[name]
    return found


def _needs(text: str, ranks: int | None, launch: str | None) -> str:
    """What each program needs: several ranks are for a step.

    Raises
    ------
    UsageError
        Several ranks are asked for, and no step.
    """
    from pyfi_hpc.model import terms

    if ranks or launch:
        text = " ".join([text, *([f"ranks={ranks}"] if ranks else []), "step"])
    try:
        asked = terms.read(text)
    except ValueError:
        return text  # told in the words of all options
    if asked.ranks and not asked.step:
        raise UsageError("a program is no function that ranks run together", where="--needs", fix="say --launch step")
    return text


def _socket(context: Context) -> str:
    from pyfi_hpc.cli.deploy import Steps
    from pyfi_hpc.client.shell import ensure

    def ask(verb: str, body: dict[str, Any], reads: bool = True) -> Any:
        return context.ask(verb, body, reads=reads)

    return ensure(context.settings, ask, context.permit, Steps(quiet=context.json))


def _calls(lines: Iterator[list[str]], where: dict[str, Any]) -> Iterator[Call]:
    given = {name: value for name, value in where.items() if value}
    return (((), {"argv": argv, **given}) for argv in lines)


def _exit_code(state: TaskState, data: bytes) -> dict[str, Any]:
    """The program's exit code; null: it was ended, or never ran."""
    from pyfi_hpc.model.states import TaskState
    from pyfi_hpc.runner.payload import decode_error, decode_value

    if state is TaskState.COMPLETED:
        return {"exit_code": decode_value(data)}
    try:
        failure = decode_error(data)
        args: Any = decode_value(failure.args) if failure.args is not None else ()
    except ValueError:
        return {"exit_code": None}
    told = failure.type_name == "ProgramFailed" and isinstance(args, tuple) and args
    return {"exit_code": args[0] if told else None}
