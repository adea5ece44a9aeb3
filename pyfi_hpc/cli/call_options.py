"""Options of a call in the shell: what ``task run``, ``map`` and ``xargs`` share with ``Executor.with_options``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def call_options(command: F) -> F:
    """Each comes to the command under the name that ``with_options`` has for it."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def on_hold(job: int) -> str:
    """What is said of a job that was submitted with ``--hold``."""
    return f"on hold until `pyfi release {job}`"


_OPTIONS = (
    click.option("--retries", type=click.IntRange(0, 1000), default=0, help="Tries after one that failed."),
    click.option("--priority", type=int, default=0, help="Higher runs first."),
    click.option("--project", default="", metavar="NAME", help="Whose share of the ranks it uses: see `pyfi shares`."),
    click.option("--preemptible", is_flag=True, help="May be ended for a higher priority, and is run again then."),
    click.option("--hold", is_flag=True, help="Nothing starts before `pyfi release JOB`."),
    click.option(
        "--size", type=click.FloatRange(0.0), default=0.0, metavar="NUMBER",
        help="How large each is, in any measure: times are learned apart for each power of two.",
    ),
    click.option("--needs", default="", metavar="TEXT", help="Of each: 'cores=4 gpus=0.5 memory=2G ranks=8'."),
)  # fmt: skip
