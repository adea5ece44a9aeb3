"""What a process of a step is before it is the program: takes the cores and GPUs of its rank, then becomes that.

Started by a launcher on whatever node as ``python -I -S bound.py PLACE PROGRAM [ARGUMENT ...]``; PLACE is JSON: the
step's token, the runner's mark, the variables that may tell the process's number, the folder that was asked for, that
of the function, and for each rank its cores and what its CUDA_VISIBLE_DEVICES says. The launcher does not bind: Slurm
would choose among all cores of the allocation, of which others have tasks.

The token stays in the environment of all that the program starts. So an agent finds what a step has left on its node,
also where the launcher could end nothing any more (adapters/surroundings.py). The standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
#: exit codes for what never ran, as env(1) and the shell have them
_NO_FOLDER, _CANNOT_RUN, _NOT_FOUND = 125, 126, 127


def main(place: str, argv: list[str]) -> None:
    token, mark, names, asked, usual, table = json.loads(place)
    found = [os.environ[name] for name in names.split() if name in os.environ]
    cores, gpus = table[int(found[0]) if found else 0]
    if cores or names:  # without cores of its own, any: what the launcher chose may be another's
        try:
            os.sched_setaffinity(0, cores or range(os.cpu_count() or 1))
        except OSError as error:
            print(f"pyfi: cannot use the cores {cores} of {_node()}: {error.strerror}", file=sys.stderr)
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    os.environ["PYFI_STEP"] = token
    os.environ.pop("PYFI_RUNNER", None)
    if mark:
        os.environ["PYFI_RUNNER"] = mark
    if names and "SLURM_PROCID" not in names:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # with the launcher's process on this node
    _go_to(asked, usual)
    sys.stderr.flush()
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        _give_up(f"node {_node()} has no program {argv[0]}", _NOT_FOUND)
    except OSError as error:
        _give_up(f"{argv[0]} cannot be run on {_node()}: {error.strerror}", _CANNOT_RUN)


def _go_to(asked: str, usual: str) -> None:
    """Another node may lack the function's own folder, but what was asked for has to be there."""
    try:
        os.chdir(asked or usual)
    except OSError as error:
        if asked:
            _give_up(f"node {_node()} cannot enter {asked}: {error.strerror}", _NO_FOLDER)
        import tempfile

        os.chdir(tempfile.gettempdir())


def _give_up(text: str, code: int) -> None:
    print(text, file=sys.stderr, flush=True)
    os._exit(code)


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename.partition(".")[0]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
