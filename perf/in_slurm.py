"""Ranks of the allocation that the suite runs in (perf/slurm.sbatch), as many of them as a question wants.

Two job steps as in slurm/cpu.sbatch: an agent on each node, and the ranks. Ledger and broker run beside the suite, on
the allocation's first node.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pyfi_hpc.settings import Settings

#: set by perf/slurm.sbatch: the home of the instances, which all nodes see; prepared where there is a network
SHARED = "PYFI_PERF_SHARED"
_END_S = 30.0


def inside() -> bool:
    return bool(os.environ.get(SHARED))


def rank_counts(largest: int) -> list[int]:
    """One rank, twice as many and so on, and all; only what spreads evenly over the nodes."""
    nodes = int(os.environ["SLURM_NNODES"])
    doubled = [1 << k for k in range(largest.bit_length()) if 1 << k < largest]
    return [ranks for ranks in [*doubled, largest] if ranks <= nodes or ranks % nodes == 0]


@contextmanager
def steps(settings: Settings, ranks: int) -> Iterator[None]:
    """So many ranks and the agents of their nodes; they are told to end after it."""
    nodes = min(ranks, int(os.environ["SLURM_NNODES"]))
    each = ranks // nodes
    about = ["--instance", settings.instance, "--home", str(settings.home)]
    environment = os.environ | {"PYFI_SLURM_RANKS": str(each)}
    parts = [
        ("none", 1, [sys.executable, "-m", "pyfi_hpc.hosts.agent", *about, "--slurm"]),
        ("pmi2", each, [sys.executable, "-m", "pyfi_hpc.hosts.rank", *about]),
    ]
    running = []
    try:
        for mpi, on_node, words in parts:
            step = ["srun", "--overlap", "--no-kill", "--kill-on-bad-exit=0", "--wait=0", f"--mpi={mpi}"]
            # both on the same nodes, the first ones
            step += ["--relative=0", f"--nodes={nodes}", f"--ntasks={nodes * on_node}"]
            step += [f"--ntasks-per-node={on_node}"]
            running.append(subprocess.Popen([*step, *words], env=environment, stdin=subprocess.DEVNULL))
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
