"""A copy of this process that goes on with a function of ours: what it has imported need not be imported again."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


class Forked:
    """A child process that runs a function and ends.

    To be made while this process has one thread. The child is a session of its own, works in ``folder``, and has
    nothing of our handling of signals.

    Parameters
    ----------
    body : callable
        What it does; whatever it returns or raises, the child ends with it.
    stdin, stdout, stderr : int
        Descriptors that take the place of ours there.
    folder : Path
    environment : dict of str to str
        Set in addition.
    """

    def __init__(
        self, body: Callable[[], None], stdin: int, stdout: int, stderr: int, folder: Path, environment: dict[str, str]
    ) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.setsid()
            _reset_signals()
            for place, descriptor in enumerate((stdin, stdout, stderr)):
                os.dup2(descriptor, place)
            os.chdir(folder)
            os.environ.update(environment)
            body()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> int:
        """Its exit code; negative: the signal that ended it."""
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            return 0  # somebody else has waited for it
        return os.waitstatus_to_exitcode(status)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
