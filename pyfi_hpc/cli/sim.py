"""``pyfi sim``: the shipping machines in an imagined cluster, by seeds, at scale, or on what a ledger recorded."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from pyfi_hpc.cli.context import Context, pass_context, reads
from pyfi_hpc.cli.output import fancy, print_json
from pyfi_hpc.errors import UsageError

if TYPE_CHECKING:
    from pyfi_hpc.ledger.recorded import Recorded
    from pyfi_hpc.sim.many import Problem


@click.command()
@click.option("--seeds", type=click.IntRange(1), metavar="N", help="Run so many seeds; default 100.")
@click.option("--first", type=click.IntRange(0), default=0, metavar="K", help="The first of them; default 0.")
@click.option("--seed", type=click.IntRange(0), metavar="K", help="Run this one; if it fails, tell the task's story.")
@click.option("--story", metavar="J.I", help="With --seed: tell the story of this task.")
@click.option(
    "--record", type=click.Path(dir_okay=False), metavar="FILE", help="With --seed: write its ledger, JSON lines."
)
@click.option("--ranks", type=click.IntRange(1), metavar="N", help="A run without faults on so many ranks.")
@click.option("--tasks", type=click.IntRange(1), default=1_000_000, metavar="N", help="With --ranks; default 1000000.")
@click.option("--walltime", is_flag=True, help="What ends of allocations cost, for each seed.")
@click.option(
    "--replay", metavar="FILE|URL", is_flag=False, flag_value="",
    help="Decide a recorded ledger again: a FILE, a postgresql:// URL, or nothing for this instance's.",
)  # fmt: skip
@reads
@pass_context
def sim(
    context: Context, /, seeds: int | None, first: int, seed: int | None, story: str | None, record: str | None,
    ranks: int | None, tasks: int, walltime: bool, replay: str | None,
) -> None:  # fmt: skip
    """Run broker, agents and ranks in an imagined cluster with faults: exit 1 if a promise is broken.

    \b
      pyfi sim --seeds 1000              a thousand runs; one that fails says how to repeat it
      pyfi sim --seed 4711               that one
      pyfi sim --seed 4711 --story 3.0   everything that happened about a task
      pyfi sim --ranks 100000            a million tasks on a hundred thousand ranks
      pyfi sim --walltime --seeds 3      rank-seconds lost to ends of allocations, of which nobody said anything
      pyfi sim --replay                  this instance's ledger: would the broker decide the same again?
    """
    if (story or record) and seed is None:
        raise click.UsageError("--story and --record are about one run: say --seed too")
    chosen = [name for name, value in (("--seeds", seeds), ("--seed", seed), ("--ranks", ranks)) if value is not None]
    if len(chosen) + (replay is not None) > 1:
        raise click.UsageError("one of --seeds, --seed, --ranks and --replay")
    if walltime and (ranks or story or record or replay is not None):
        raise click.UsageError("--walltime goes with --seeds, --first and --seed")
    if walltime:
        _walltime(context, range(seed, seed + 1) if seed is not None else range(first, first + (seeds or 1)))
    elif replay is not None:
        _replay(context, replay)
    elif ranks:
        _scale(context, ranks, tasks)
    elif seed is not None:
        _one(context, seed, story, record)
    else:
        _many(context, first, seeds or 100)


def _many(context: Context, first: int, seeds: int) -> None:
    from pyfi_hpc.sim.many import run_seeds

    begun = time.monotonic()
    faults: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    failed: list[tuple[int, Problem]] = []
    for number, (seed, result) in enumerate(run_seeds(range(first, first + seeds))):
        if isinstance(result, tuple):
            failed.append((seed, result))
            if not context.json:
                _progress("")
                click.echo(f"seed {seed} FAILED: {result[0]}\n  repeat: pyfi sim --seed {seed}")
            continue
        faults += result.faults
        for name in ("tasks", "jobs", "attempts", "virtual_s", "steps"):
            totals[name] += getattr(result, name)
        if not context.json and number % 10 == 9:
            _progress(f"{number + 1} of {seeds} seeds, {totals['tasks']} tasks, {len(failed)} failed")
    wall_s = time.monotonic() - begun
    _progress("")
    if context.json:
        problems = [{"seed": seed, "what": what, "task": _name(task)} for seed, (what, task) in failed]
        values = {"seeds": seeds, "first": first, "failed": problems, "faults": dict(faults.most_common())}
        print_json(values | _rounded(totals) | {"wall_s": round(wall_s, 2)})
    else:
        for name, count in faults.most_common():
            click.echo(f"{count:8}  {name}")
        click.echo(
            f"{seeds} seeds: {totals['tasks']} tasks of {totals['jobs']} jobs in {totals['attempts']} attempts, "
            f"{totals['virtual_s']:.0f} virtual s, {wall_s:.1f} s"
        )
        if failed:
            _tell(failed[0][0], *failed[0][1])
            click.echo(f"{len(failed)} of {seeds} seeds FAILED", err=True)
    if failed:
        click.get_current_context().exit(1)


def _one(context: Context, seed: int, story: str | None, record: str | None) -> None:
    from pyfi_hpc.sim import run
    from pyfi_hpc.sim.failure import Violation
    from pyfi_hpc.sim.story import Story

    lines = Story() if story else None
    made = run.make(seed, lines)
    problem = None
    result = None
    try:
        result = made.go()
    except Violation as error:
        problem = error
    if record:
        from pyfi_hpc.sim.recording import write

        write(made.cluster.store.log, record)
    told = list(lines.of(*_task(story))) if lines and story else []
    if context.json:
        failed = problem and {"what": str(problem), "task": _name(problem.task)}
        values: dict[str, Any] = {"seed": seed, "failed": failed}
        if result:
            values |= {"tasks": result.tasks, "jobs": result.jobs, "attempts": result.attempts, "digest": result.digest}
            values |= {"virtual_s": round(result.virtual_s, 3), "steps": result.steps, "faults": dict(result.faults)}
        print_json(values | ({"story": told} if story else {}))
    else:
        for line in told:
            click.echo(line)
        if result:
            click.echo(
                f"seed {seed}: {result.tasks} tasks of {result.jobs} jobs in {result.attempts} attempts, "
                f"{result.virtual_s:.0f} virtual s, {sum(result.faults.values())} faults, ledger {result.digest}"
            )
    if problem:
        if not context.json:
            _tell(seed, str(problem), problem.task)
        click.get_current_context().exit(1)


def _tell(seed: int, what: str, task: tuple[int, int] | None) -> None:
    """The story of the guilty task."""
    from pyfi_hpc.sim.run import story_of

    click.echo(f"\nseed {seed} FAILED: {what}")
    if task is not None:
        for line in story_of(seed, *task)[0]:
            click.echo(line)
    click.echo(f"  repeat: pyfi sim --seed {seed}")


def _walltime(context: Context, seeds: range) -> None:
    from pyfi_hpc.sim import walltime

    rows = []
    for seed in seeds:
        rows.append(walltime.told(walltime.run(seed)))
        if not context.json:
            row = rows[-1]
            click.echo(
                f"seed {seed}: {row['lost_percent']:.2f} % of {row['granted_s']:,} rank-seconds lost to ends of "
                f"allocations, {row['worked_percent']:.1f} % worked; {row['tasks']} tasks in {row['attempts']} attempts"
            )
    if context.json:
        print_json({"seeds": rows})


def _scale(context: Context, ranks: int, tasks: int) -> None:
    from pyfi_hpc.sim.scale import run

    found = run(ranks, tasks, None if context.json else _progress)
    _progress("")
    if context.json:
        print_json(found)
    else:
        for name, value in found.items():
            click.echo(f"{name:24} {value:,}" if isinstance(value, int) else f"{name:24} {value:,.2f}")


def _replay(context: Context, source: str) -> None:
    from pyfi_hpc.model import budgets
    from pyfi_hpc.sim import commits, recording

    limits = budgets.read(context.settings.budgets)
    if source and "://" not in source:
        found = recording.replay(recording.read(source), limits)
    else:
        ledger = _from_ledger(context, source)
        found, beside = recording.replay(ledger.records, limits), commits.compare(ledger)
        # what was written first, as the rest may follow from it
        found |= beside | {"differences": beside["differences"] + found["differences"]}
    if context.json:
        print_json(found)
    else:
        differences = found.pop("differences")
        for name, value in found.items():
            click.echo(f"{name:32} {value}")
        click.echo(f"{'differences':32} {len(differences) or 'none: all decisions come out the same'}")
        for text in differences:
            click.echo(f"  {text}")
        found["differences"] = differences
    if found["differences"]:
        click.get_current_context().exit(1)


def _from_ledger(context: Context, url: str) -> Recorded:
    from pyfi_hpc.ledger import embedded
    from pyfi_hpc.ledger.connection import has_password, shown
    from pyfi_hpc.ledger.recorded import read_ledger

    if url and has_password(url):
        raise UsageError(
            "a password on a command line can be read by everybody on this machine", where=shown(url),
            fix="put the URL into PYFI_LEDGER and say --replay alone, or the password into ~/.pgpass; change it now",
        )  # fmt: skip
    return read_ledger(url or embedded.connect_url(context.settings))


def _task(name: str | None) -> tuple[int, int]:
    job, _, index = (name or "").partition(".")
    if not job.isdecimal() or not (index or "0").isdecimal():
        raise click.UsageError(f"{name!r} is not a task: say J.I")
    return int(job), int(index or 0)


def _name(task: tuple[int, int] | None) -> str | None:
    return f"{task[0]}.{task[1]}" if task else None


def _rounded(totals: Counter[str]) -> dict[str, Any]:
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in totals.items()}


def _progress(text: str) -> None:
    """On a terminal, one line that is written over."""
    if fancy() and sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", nl=False, err=True)
