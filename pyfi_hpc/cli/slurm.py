"""``pyfi up --slurm``: ask Slurm for an allocation whose agents join this instance."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pyfi_hpc.cli.context import Context
from pyfi_hpc.cli.output import print_json
from pyfi_hpc.errors import SlurmMissing

if TYPE_CHECKING:
    from pyfi_hpc.adapters.slurm import AllocationRequest

F = TypeVar("F", bound=Callable[..., Any])

Options = tuple[tuple[tuple[str, ...], dict[str, Any]], ...]

#: what is asked of a batch system
_REQUEST: Options = (
    (("-N", "--nodes"), {"type": click.IntRange(1), "help": "Nodes; one agent on each. Default 1."}),
    (("--ntasks-per-node",), {"type": click.IntRange(1), "help": "Ranks on each node. Default 1."}),
    (("-c", "--cpus-per-task"), {"type": click.IntRange(1), "help": "Cores of each rank."}),
    (("-t", "--time"), {"default": "", "help": "Walltime, such as 10:00 or 1-00:00:00."}),
    (("-p", "--partition"), {"default": ""}),
    (("-A", "--account"), {"default": ""}),
    (("-q", "--qos"), {"default": ""}),
    (("-C", "--constraint"), {"default": ""}),
    (("--reservation",), {"default": ""}),
    (("-M", "--cluster"), {"default": "", "help": "One of several clusters of the site."}),
    (("--gres",), {"default": "", "help": "Such as gpu:2."}),
    (("--gpus-per-node",), {"type": click.IntRange(1), "help": "GPUs of each node."}),
    (("-G", "--gpus"), {"type": click.IntRange(1), "help": "GPUs of all nodes together, as many on each."}),
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
)
_UP: Options = (
    (("--slurm",), {"is_flag": True, "help": "Ask Slurm for an allocation; the options below are sbatch's."}),
    *_REQUEST,
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
    """The options of ``pyfi up``."""
    return _with(_UP, command)


def request_options(command: F) -> F:
    """The options that `request_of` takes."""
    return _with(_REQUEST, command)


def _with(options: Options, command: F) -> F:
    for flags, attributes in reversed(options):
        command = click.option(*flags, **attributes)(command)
    return command


def submit(context: Context, ranks: int | None, *, dry_run: bool, **options: Any) -> None:
    """Render the script, start the broker where that is wanted, submit."""
    from pyfi_hpc.cli.up import Teller
    from pyfi_hpc.hosts import instance

    if ranks:
        raise click.UsageError("with --slurm the ranks are --nodes times --ntasks-per-node; leave -n out")
    request = request_of(context, **options)
    if dry_run:
        _dry_run(context, request)
        return
    tell = Teller(context)
    answer = instance.start_allocation(context.settings, request, tell.part)
    if context.json:
        print_json({"slurm_job_id": answer.slurm_job_id, "instance": context.settings.instance, "parts": tell.parts})
    else:
        click.echo(f"Submitted batch job {answer.slurm_job_id}")


def request_of(context: Context, **options: Any) -> AllocationRequest:
    """The request for what was given on the command line; what was not given is left to the site."""
    from pyfi_hpc.adapters.slurm import AllocationRequest

    gres, mem, sbatch, modules = (options.pop(name) for name in ("gres", "mem", "sbatch", "module"))
    extra = [f"--{name}={value}" for name, value in (("gres", gres), ("mem", mem)) if value]
    options["gpus_per_node"] = _gpus_per_node(options.pop("gpus"), options["gpus_per_node"], options["nodes"] or 1)
    given = {name: value for name, value in options.items() if value}
    return AllocationRequest(
        instance=context.settings.instance,
        home=context.settings.home,
        python=sys.executable,
        extra=(*extra, *sbatch),
        modules=tuple(modules),
        **given,
    )


def _gpus_per_node(gpus: int | None, per_node: int | None, nodes: int) -> int | None:
    """Slurm alone may give three to one of two nodes and one to the other, and then starts no step on both."""
    if gpus is None:
        return per_node
    if per_node is not None:
        raise click.UsageError("--gpus and --gpus-per-node say the same: leave one of them out")
    if gpus % nodes:
        raise click.UsageError(f"{gpus} GPUs cannot be shared out evenly to {nodes} nodes: say --gpus-per-node")
    return gpus // nodes


def _dry_run(context: Context, request: AllocationRequest) -> None:
    """The script, and what Slurm says of it; without Slurm here, that."""
    from pyfi_hpc.adapters import slurm

    script = slurm.render_sbatch(request)
    if not context.json:
        click.echo(script, nl=False)
    try:
        words = slurm.submit(request, dry_run=True).words.strip()
    except SlurmMissing as error:
        words = error.what
    if context.json:
        print_json({"script": script, "slurm": words})
    else:
        click.echo(f"{words}  Nothing submitted.", err=True)
