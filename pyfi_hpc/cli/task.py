"""``pyfi task``: run one function, show a function or a task, cancel a task."""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

import click

from pyfi_hpc.cli import parse
from pyfi_hpc.cli.call_options import call_options, on_hold
from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.output import plain


@click.group()
def task() -> None:
    """Run one function; show or cancel a task."""


@task.command()
@click.option("-s", "--socket", required=True, help="Socket to call, such as hello.square.")
@click.option("-d", "--data", help="Arguments: a JSON or Python literal. A list: one by one; an object: by name.")
@click.option("-nd", "--no-data", is_flag=True, help="Call it without arguments; standard input is not read.")
@click.option("-f", "--format", "form", type=click.Choice(["raw", "json"]), default="raw", help="json: quote text too.")
@click.option("-n", "--name", default="", help="Name of the job, for people.")
@click.option("--time", "time_limit", metavar="TIME", help="Time limit: 90s, 5m, 1:00:00.")
@call_options
@pass_context
def run(
    context: Context, /, socket: str, data: str | None, no_data: bool, form: str, **options: Any
) -> None:
    """Call a function and print its result. Without -d, standard input as a whole is its one argument.

    With --hold it prints the id of the task and ends; `pyfi wait JOB --output -` prints the result later.

    \b
      pyfi task run -s hello.square -d 7
      echo "HI THERE!" | pyfi task run -s sample.do_something | pyfi task run -s sample.do_this
    """
    positional, named = _arguments(data, no_data)
    future = context.executor.with_options(**options).submit(socket, *positional, **named)
    if options["hold"]:
        click.echo(f"Submitted task {future.id}. {on_hold(future.job).capitalize()}.")
        return
    try:
        value = future.result()
    except KeyboardInterrupt:
        future.cancel()
        raise
    except Exception as error:
        if not hasattr(error, "task"):
            raise
        raise SystemExit(tell_failed(error)) from None
    print_value(value, form)


@task.command()
@click.argument("name", required=False)
@click.option("-n", "--name", "named", help="The same as the argument.")
@reads
@pass_context
def show(context: Context, name: str | None, named: str | None) -> None:
    """Show a function by its name (PROCESSOR.function), or a task by its id (J.i)."""
    from pyfi_hpc.cli.calls import show_call
    from pyfi_hpc.cli.objects import show_object

    wanted = name or named
    if not wanted:
        raise click.UsageError("which? Give the name of a function or the id of a task")
    if wanted.replace(".", "").isdigit():
        show_call(context, wanted)
    else:
        show_object(context, "function", wanted)


@task.command()
@click.argument("ids", nargs=-1, required=True)
@click.pass_context
def cancel(ctx: click.Context, ids: tuple[str, ...]) -> None:
    """End tasks (J.i) or whole jobs (J); the same as `pyfi cancel`."""
    from pyfi_hpc.cli.jobs import cancel as command

    ctx.invoke(command, ids=ids)


def tell_failed(error: BaseException) -> int:
    """The remote traceback of a task on standard error; nothing on standard output. The exit code is 1."""
    cause = error.__cause__
    remote = getattr(error, "traceback_text", "") or (str(cause) if cause is not None else "")
    if remote.strip():
        print(remote.strip("\n").strip('"').strip(), file=sys.stderr)
    last = "".join(traceback.format_exception_only(error)).splitlines()[0]
    said = getattr(error, "what", "") or last
    if said.strip() not in remote:
        print(f"error: {said}", file=sys.stderr)
    task_id = getattr(error, "task", "")
    print(f"task {task_id} failed; `pyfi ls call --id {task_id}` shows every attempt", file=sys.stderr)
    return 1


def print_value(value: Any, form: str) -> None:
    """A result on standard output: text and bytes as they are, anything else as JSON."""
    if isinstance(value, bytes) and form == "raw":
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
    elif isinstance(value, str) and form == "raw":
        print(value)
    else:
        print(json.dumps(plain(value), ensure_ascii=False))


def _arguments(data: str | None, no_data: bool) -> tuple[list[Any], dict[str, Any]]:
    if no_data:
        return [], {}
    if data is not None:
        return parse.arguments(data)
    if sys.stdin.isatty():
        raise click.UsageError("no data: say -d DATA, -nd for none, or send it to standard input")
    return [_standard_input()], {}


def _standard_input() -> str | bytes:
    """All of it but the newline that ends its last line, as in the shell's ``$(...)``."""
    content = sys.stdin.buffer.read()
    try:
        return content.decode().removesuffix("\n")
    except UnicodeDecodeError:
        return content
