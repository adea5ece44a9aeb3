"""``pyfi up --slurm``: ask Slurm for an allocation whose agents join this instance."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pyfi_hpc.cli.context import Context
from pyfi_hpc.cli.output import print_json
from pyfi_hpc.errors import SettingsError, SiteError

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--slurm",), {"is_flag": True, "help": "Ask Slurm for an allocation; the options below are sbatch's."}),
    (("-N", "--nodes"), {"type": click.IntRange(1), "help": "Nodes; one agent on each. Default 1."}),
    (("--ntasks-per-node",), {"type": click.IntRange(1), "help": "Ranks on each node. Default 1."}),
    (("-c", "--cpus-per-task"), {"type": click.IntRange(1), "help": "Cores of each rank."}),
    (("-t", "--time"), {"default": "", "help": "Walltime, such as 10:00 or 1-00:00:00."}),
    (("-p", "--partition"), {"default": ""}),
    (("-A", "--account"), {"default": ""}),
    (("-q", "--qos"), {"default": ""}),
    (("-C", "--constraint"), {"default": ""}),
    (("--reservation",), {"default": ""}),
    (("--gres",), {"default": "", "help": "Such as gpu:2."}),
    (("--gpus-per-node",), {"type": click.IntRange(1)}),
    (("--mem",), {"default": "", "help": "Memory of each node."}),
    (("-o", "--output"), {"default": "", "help": "File of the job's output. Default pyfi-%j.out."}),
    (
        ("--sbatch",),
        {
            "multiple": True,
            "metavar": "OPTION",
            "help": "Any further sbatch option, such as --sbatch=--exclusive.",
        },
    ),
    (
        ("--module",),
        {"multiple": True, "metavar": "NAME", "help": "Environment module that the job loads first."},
    ),
    (("--mpi",), {"default": "", "help": "Slurm's MPI plugin: see srun --mpi=list. Default pmi2."}),
    (
        ("--broker",),
        {
            "type": click.Choice(["here", "job"]),
            "default": "here",
            "help": "Where the broker runs: on this machine, or in the allocation.",
        },
    ),
    (("--dry-run",), {"is_flag": True, "help": "Print the script and let Slurm check it; submit nothing."}),
)


def slurm_options(command: F) -> F:
    for flags, attributes in reversed(_OPTIONS):
        command = click.option(*flags, **attributes)(command)
    return command


def submit(context: Context, ranks: int | None, *, dry_run: bool, broker: str, **options: Any) -> None:
    """Render the script, start the broker where that is wanted, submit."""
    from pyfi_hpc.adapters import slurm
    from pyfi_hpc.cli.up import Teller, start_server
    from pyfi_hpc.hosts import instance

    if ranks:
        raise click.UsageError("with --slurm the ranks are --nodes times --ntasks-per-node; leave -n out")
    request = request_of(context, broker, **options)
    if dry_run:
        _dry_run(context, slurm.render_sbatch(request), request)
        return
    slurm.render_sbatch(request)  # a wrong request is told before anything is started
    tell = Teller(context)
    started = broker == "here" and instance.find(context.settings, "broker") is None
    if started:
        if not context.settings.bind:
            context.change(bind=reachable_address())
        start_server(context, tell)
    elif broker == "here":
        _refuse_loopback(context)
    try:
        answer = slurm.submit(request)
    except BaseException:
        if started:
            instance.stop(context.settings, lambda: None)
        raise
    if context.json:
        print_json({"slurm_job_id": answer.slurm_job_id, "instance": request.instance, "parts": tell.parts})
    else:
        click.echo(f"Submitted batch job {answer.slurm_job_id}")


def request_of(context: Context, broker: str, **options: Any) -> Any:
    """The request for what was given on the command line; what was not given is left to the site."""
    from pyfi_hpc.adapters.slurm import AllocationRequest

    gres, mem, sbatch = options.pop("gres"), options.pop("mem"), options.pop("sbatch")
    extra = [f"--{name}={value}" for name, value in (("gres", gres), ("mem", mem)) if value]
    given = {name: value for name, value in options.items() if value and name != "module"}
    return AllocationRequest(
        instance=context.settings.instance,
        home=context.settings.home,
        python=sys.executable,
        broker="job" if broker == "job" else "here",
        extra=(*extra, *sbatch),
        modules=tuple(options["module"]),
        **given,
    )


def reachable_address() -> str:
    """An address of this machine that other nodes can connect to.

    Raises
    ------
    SettingsError
        It has only loopback addresses.
    """
    import psutil

    try:
        by_name = socket.gethostbyname(socket.gethostname())
    except OSError:
        by_name = "127.0.0.1"
    if not by_name.startswith("127."):
        return by_name
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return address.address
    raise SettingsError(
        "this machine has no address that nodes could reach", fix="say --bind ADDR, or --broker=job"
    )


def _refuse_loopback(context: Context) -> None:
    address = context.session.address
    if address.startswith(("tcp://127.", "tcp://[::1]", "tcp://localhost")):
        raise SettingsError(
            "the broker listens where nodes cannot reach it", where=address,
            fix="`pyfi down`, then `pyfi up --slurm ...` again, or start it with `pyfi up --bind ADDR`",
        )  # fmt: skip


def _dry_run(context: Context, script: str, request: Any) -> None:
    from pyfi_hpc.adapters import slurm

    words, missing = "", ""
    try:
        words = slurm.submit(request, dry_run=True).words.strip()
    except SiteError as error:
        missing = error.what
        if error.code != "slurm_missing":
            click.echo(script, nl=False)
            raise
    if context.json:
        print_json(
            {"script": script, "slurm": words or missing, "command": shlex.join(["sbatch", "--test-only"])}
        )
        return
    click.echo(script, nl=False)
    click.echo(f"{words or missing}  Nothing submitted.", err=True)
