"""Starting ranks without Slurm: ``mpiexec`` for a step of one MPI world, a plain process for one replacement.

MPICH's launcher ends all ranks when one dies unless told not to; so does Open MPI without ``continuous``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

from pyfi_hpc.adapters import mpi
from pyfi_hpc.errors import MpiMissing

#: flags by which the survivors of a rank's death live on, by what ``mpiexec --version`` calls itself
_SURVIVE = {
    "hydra": ["-disable-auto-cleanup", "-bind-to", "none"],
    "open": ["--runtime-options", "continuous", "--oversubscribe", "--bind-to", "none"],
}
#: Hydra sends USR1 to the survivors of a rank that died by a signal, and still ends them all when it sees the
#: signal: with this the survivors lived in 20 of 20 trials of SIGKILL, without it in 14
_SHIELD = {"hydra": ["sh", "-c", 'trap "" USR1; "$@"; exit 0', "rank"], "open": []}


def find_mpiexec() -> str:
    """The launcher of this environment, else the one on PATH.

    Raises
    ------
    MpiMissing
    """
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if not found:
        raise MpiMissing(where=f"{beside}, PATH")
    return found


def step_command(mpiexec: str, count: int, rank_command: list[str]) -> list[str]:
    """The command line that starts ``count`` ranks on this node."""
    said = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, timeout=20).stdout.lower()
    kind = "open" if "open mpi" in said or "openrte" in said or "prte" in said else "hydra"
    return [mpiexec, *_SURVIVE[kind], "-n", str(count), *_SHIELD[kind], *rank_command]


def start(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start in a process group of its own, so that a Ctrl-C at the terminal does not reach the ranks."""
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    environment[mpi.WORLD] = secrets.token_hex(8)
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    )
