"""Runs one command of a batch system: a time limit, no secrets in its environment, its own words in the error."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from pyfi_hpc.errors import PyfiError

#: seconds for one command; a loaded controller takes several, slurm.conf's MessageTimeout is 10 by default
COMMAND_S_MAX = 30.0
#: never in a batch system's copy of the environment; the broker reads them from PYFI_HOME
_SECRETS = ("PYFI_LEDGER", "PGPASSWORD")


@dataclass(frozen=True, slots=True)
class Kind:
    """A batch system: its name, its errors, and how its commands say that they have not been heard."""

    name: str
    missing: type[PyfiError]
    busy: type[PyfiError]
    refused: type[PyfiError]
    busy_words: re.Pattern[str]
    #: variables that describe the job that this process is in, and the one that must stay
    inside: str
    keep: str
    #: the command that lists a person's jobs
    look: str


def run(kind: Kind, command: Sequence[str], script: str = "", limit_s: float = COMMAND_S_MAX) -> str:
    """Run one command; returns what it printed on both outputs.

    Raises
    ------
    PyfiError
        ``kind.missing``: it is not there. ``kind.busy``: no answer; a submission may have arrived all the same.
        ``kind.refused``: with its own words.
    """
    # inside another job these variables would describe that one
    drop = (kind.inside, *_SECRETS)
    env = {k: v for k, v in os.environ.items() if not k.startswith(drop) or k == kind.keep}
    line = shlex.join(command)
    try:
        done = subprocess.run(
            command, input=script, text=True, errors="replace", capture_output=True, timeout=limit_s,
            env=env, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise kind.missing(where=f"looked for {command[0]} on PATH") from error
    except subprocess.TimeoutExpired as error:
        raise kind.busy(
            f"no answer from {kind.name} in {limit_s:.0f} s", where=line,
            fix=f"a submission may have arrived all the same: look at {kind.look}, then try again",
        ) from error  # fmt: skip
    if done.returncode == 0:
        return done.stdout + done.stderr
    words = re.sub(rf"^{command[0]}: (error: )?", "", done.stderr.strip(), flags=re.M)
    error_kind = kind.busy if kind.busy_words.search(words) else kind.refused
    raise error_kind(f"{kind.name} refused: {words or f'exit status {done.returncode}, no words'}", where=line)
