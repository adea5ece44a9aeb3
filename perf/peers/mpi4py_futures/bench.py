"""mpi4py.futures: workers are the other ranks of one MPI world, started as its documentation says for clusters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peer import Peer, function, serve


class MpiPool(Peer):
    note = "MPICH, mpiexec -m mpi4py.futures; in memory"

    def start(self, workers: int, folder: str, postgres: str) -> None:
        from mpi4py.futures import MPIPoolExecutor

        self.pool = MPIPoolExecutor(workers)
        self.map("noop", range(100))

    def stop(self) -> None:
        self.pool.shutdown()

    def submit(self, name: str, *args: Any) -> Any:
        return self.pool.submit(function(name), *args)

    def map(self, name: str, items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(function(name), items))

    def map_chunks(self, items: list[Any], size: int) -> list[Any]:
        return list(self.pool.map(function("noop"), items, chunksize=size))


if __name__ == "__main__":
    if "PMI_RANK" in os.environ:
        serve(MpiPool())
    else:
        mpiexec = str(Path(sys.executable).parent / "mpiexec")
        ranks = str(1 + int(os.environ["PERF_PEER_WORKERS"]))
        os.execv(mpiexec, [mpiexec, "-n", ranks, sys.executable, "-m", "mpi4py.futures", __file__])
