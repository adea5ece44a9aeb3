"""Run one command to its end: always a time limit, bounded memory, and no process of it stays.

For git, installers and the look into a module. Nothing here knows what the command does.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STDOUT_BYTES_MAX = 64 << 20
STDERR_BYTES_KEPT = 64 << 10
_STEP_S = 0.1


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended. ``code`` is negative for a signal; ``timed_out`` means we ended it."""

    code: int
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    #: it wrote more than ``STDOUT_BYTES_MAX`` and was ended
    too_long: bool = False

    @property
    def fine(self) -> bool:
        return self.code == 0 and not self.timed_out and not self.too_long

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace")

    def last_lines(self, count: int) -> str:
        """The last lines of its standard error that say something."""
        lines = [line.rstrip() for line in self.stderr.decode("utf-8", "replace").splitlines()]
        return "\n".join([line for line in lines if line][-count:])


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout_s: float,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    merge: bool = False,
    file_bytes_max: int = 0,
) -> Finished:
    """Run ``argv`` in its own process group and wait for it.

    Parameters
    ----------
    timeout_s : float
        Seconds, > 0; then the whole group is killed.
    stdin : bytes, optional
        Written before reading starts: for commands that read all of it before they answer.
    merge : bool
        Standard output goes to standard error, so that ``last_lines`` shows both in order.
    file_bytes_max : int
        Largest file the command may write, 0 for no limit.

    Raises
    ------
    FileNotFoundError
        There is no such program.
    """
    if file_bytes_max:
        # Not preexec_fn: that may deadlock in a process with threads, and a client has threads.
        argv = ["/bin/sh", "-c", 'ulimit -f "$0"; exec "$@"', str(file_bytes_max // 512), *argv]
    process = subprocess.Popen(
        list(argv), env=dict(env), cwd=cwd, start_new_session=True, close_fds=True,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT if merge else subprocess.PIPE,
    )  # fmt: skip
    try:
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it ended early: its exit code tells
                process.stdin.write(stdin or b"")
                process.stdin.close()
        return _collect(process, time.monotonic() + timeout_s, merge)
    finally:
        _end_group(process)


def _collect(process: subprocess.Popen[bytes], deadline: float, merge: bool) -> Finished:
    out, err = bytearray(), bytearray()
    timed_out = too_long = False
    with selectors.DefaultSelector() as selector:
        for stream, buffer in ((process.stdout, err if merge else out), (process.stderr, err)):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ, buffer)
        while selector.get_map() and not timed_out and not too_long:
            # A grandchild may hold the pipe for ever: once the command has ended, take what is there and go.
            ended = _has_ended(process)
            ready = selector.select(0 if ended else min(_STEP_S, max(0.0, deadline - time.monotonic())))
            for key, _ in ready:
                if not _read(key, err):
                    selector.unregister(key.fileobj)
            if ended and not ready:
                break
            timed_out = not ended and time.monotonic() >= deadline
            too_long = len(out) > STDOUT_BYTES_MAX
    while not (timed_out or too_long or _has_ended(process)):  # it closed its output and goes on
        time.sleep(_STEP_S / 10)
        timed_out = time.monotonic() >= deadline
    _end_group(process)
    return Finished(process.returncode, bytes(out), bytes(err), timed_out, too_long)


def _read(key: selectors.SelectorKey, err: bytearray) -> bool:
    try:
        data = os.read(key.fd, 1 << 16)
    except BlockingIOError:
        return True
    buffer: bytearray = key.data
    buffer += data
    if buffer is err and len(err) > STDERR_BYTES_KEPT:
        del err[: len(err) - STDERR_BYTES_KEPT]
    return bool(data)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    # WNOWAIT leaves the process unreaped, so its group id stays ours until _end_group has used it.
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
