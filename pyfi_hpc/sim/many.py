"""Many seeds, on all cores: each run is a process's own, and results come in the order of the seeds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context

from pyfi_hpc.sim.failure import Violation
from pyfi_hpc.sim.run import Result, run_seed

#: fewer seeds are run here: processes cost more than they save
_ALONE_MAX = 32
#: seeds that a process takes at once
_AT_ONCE = 8

#: what broke, and the task that it is about
Problem = tuple[str, tuple[int, int] | None]


def run_seeds(seeds: Sequence[int]) -> Iterator[tuple[int, Result | Problem]]:
    """Each seed with its result, or with what it broke.

    Cost: 0.1 to 0.3 s of one core a seed.
    """
    alone = len(seeds) <= _ALONE_MAX
    pool = nullcontext() if alone else ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"))
    with pool as workers:
        found = map(_run, seeds) if workers is None else workers.map(_run, seeds, chunksize=_AT_ONCE)
        yield from zip(seeds, found, strict=True)


def _run(seed: int) -> Result | Problem:
    try:
        return run_seed(seed)
    except Violation as problem:
        return str(problem), problem.task
