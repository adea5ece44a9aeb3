"""Solve the heat equation for several grids and materials, each on several ranks, with serial work in between.

    pyfi up && pyfi deploy examples/heat && python examples/heat/run.py --ranks 2

Each run is one task of so many ranks of one MPI world, with a communicator of its own; the serial task behind it
takes its result. All share the same ranks: while some solve, others analyse. On Slurm: `pyfi up --slurm -N 2 ...`.
"""

from __future__ import annotations

import argparse
import itertools

from pyfi_hpc import Executor


def main() -> None:
    """Run the sweep and compare with the exact answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2, help="Ranks of each run; default 2.")
    ranks = parser.parse_args().ranks
    sweep = list(itertools.product((24, 48, 96), (0.5, 1.0, 2.0)))
    with Executor() as executor:
        together = executor.with_options(ranks=ranks, name="heat")
        runs = [together.submit("heat.solve", cells, k, 0.02) for cells, k in sweep]
        found = [executor.submit("heat.half_life", run).result() for run in runs]
    print("cells  conductivity  ranks  steps  error      half-life, exact")
    for row in found:
        print(
            f"{row['cells']:5}  {row['conductivity']:12g}  {row['ranks']:5}  {row['steps']:5}  {row['error']:.2e}  "
            f"{row['half_life']:.6f}, {row['exact']:.6f}"
        )
    print(f"largest error of the finest grid: {max(row['error'] for row in found[-3:]):.1e}")


if __name__ == "__main__":
    main()
