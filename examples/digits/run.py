"""Find the best model for handwritten digits on the idle ranks of the running instance.

    pyfi up && pyfi deploy examples/digits && python examples/digits/run.py

Several hundred models as one map over a part of the images; the best ten again over all images, in a funnel
that ends in the winner; then the winner's test. The same on Slurm: `pyfi up --slurm -N 2 ...`.
"""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from pyfi_hpc import Executor, functions, funnel

ALL_IMAGES = 1797
FINALISTS = 10


def main() -> None:
    """Run the selection and print the answer."""
    console = Console()
    started = time.perf_counter()
    with Executor() as executor:
        grid = executor.submit("digits.grid").result()
        columns = ("fits", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            scores = list(progress.track(executor.map("digits.fit", grid), total=len(grid)))
        finalists = sorted(scores, key=lambda score: -score["score"])[:FINALISTS]

        fit, best = functions("digits.fit", "digits.best")
        winner = funnel([fit(score["params"], ALL_IMAGES) for score in finalists])(best()).get()
        result = executor.submit("digits.final", winner).result()
    elapsed = time.perf_counter() - started

    params = dict(result["params"])
    print(f"best of {len(grid)}: {params.pop('model')}", ", ".join(f"{k}={v:.4g}" if isinstance(v, float)
          else f"{k}={v}" for k, v in params.items()))  # fmt: skip
    print(f"accuracy: {result['accuracy']:.2%} of {result['tested']} images it has not seen")
    console.print(_confusion(result["confusion"]))
    print(f"{len(grid) + FINALISTS + 3} tasks in {elapsed:.1f} s")


def _confusion(matrix: list[list[int]]) -> Table:
    """Rows: the digit that it is; columns: the digit that was found."""
    table = Table("", *(str(digit) for digit in range(10)), title="confusion matrix", box=None)
    for digit, row in enumerate(matrix):
        table.add_row(f"[bold]{digit}", *(str(count) if count else "[dim]." for count in row))
    return table


if __name__ == "__main__":
    main()
