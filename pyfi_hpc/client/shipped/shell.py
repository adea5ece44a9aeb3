"""What ``pyfi xargs`` runs on the ranks: one program for each task, without a shell; with a step on each of its ranks.

This file is deployed as any other code is: it becomes a git repository and runs in an environment of its own.
It stands on the standard library.
"""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

#: of each output the first and the last so many bytes are kept: together less than the runner keeps of a task
HALF_BYTES = 60 << 10
#: last lines of standard error in the error of a program that failed, and their length together
LINES_SHOWN, CHARACTERS_SHOWN = 10, 2000
#: exit codes for what never ran, as env(1) and the shell have them
NO_FOLDER, CANNOT_RUN, NOT_FOUND = 125, 126, 127
_READ_BYTES = 1 << 16
#: how often to look whether the program has ended while its outputs stay open, seconds
_LOOK_S = 0.2


class ProgramFailed(Exception):
    """A program ended with another exit code than 0, was killed, or could not be started."""

    def __init__(self, exit_code: int, text: str) -> None:
        super().__init__(exit_code, text)
        self.exit_code, self.text = exit_code, text

    def __str__(self) -> str:
        return self.text


def run(argv: Sequence[str], cwd: str = "", env: Mapping[str, str] | None = None) -> int:
    """Run a program to its end; what it writes is what the task wrote.

    Parameters
    ----------
    argv : list of str
        The program and its arguments; found by the node's PATH.
    cwd : str
        The folder that it runs in; by default the task's.
    env : dict, optional
        Variables besides those of the rank.

    Returns
    -------
    int
        Its exit code: 0.

    Raises
    ------
    ProgramFailed
        With the exit code and the last lines of standard error. A signal n is 128 + n, as in the shell.
    """
    if cwd and not os.path.isdir(cwd):
        raise ProgramFailed(NO_FOLDER, f"node {_node()} does not see the folder {cwd}")
    task = sys.modules.get("pyfi_task")
    if task is not None and task.hosts():
        return _on_all_ranks(task.step, list(argv), cwd, env or {})
    try:
        process = subprocess.Popen(
            list(argv), cwd=cwd or None, env=_environment(env or {}), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    except FileNotFoundError:
        raise ProgramFailed(NOT_FOUND, f"node {_node()} has no program {argv[0]}") from None
    except (OSError, ValueError) as error:
        text = f"{argv[0]} cannot be run: {getattr(error, 'strerror', None) or error}"
        raise ProgramFailed(CANNOT_RUN, text) from None
    last = _pass_on(process)
    code = process.wait()
    if code:
        raise ProgramFailed(code if code > 0 else 128 - code, _story(argv, code, last))
    return 0


def _on_all_ranks(step: Any, argv: list[str], cwd: str, env: Mapping[str, str]) -> int:
    """Run a program as a step on the ranks of the task."""
    more = {"VIRTUAL_ENV": None, "PATH": _environment({}).get("PATH", os.defpath), **env}
    done = step(argv, cwd=cwd or None, env=more)
    code = done.returncode
    if code:
        raise ProgramFailed(code if code > 0 else 128 - code, _story(argv, code, done.stderr.encode()))
    return 0


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """The rank's, without the virtual environment that this file runs in: `python` is the user's own."""
    env = dict(os.environ)
    own = env.pop("VIRTUAL_ENV", None)
    if own:
        folders = env.get("PATH", "").split(os.pathsep)
        env["PATH"] = os.pathsep.join(folder for folder in folders if folder != os.path.join(own, "bin"))
    return env | dict(more)


def _pass_on(process: subprocess.Popen[bytes]) -> bytes:
    """Pass on what the program writes, in bounded memory; the end of its standard error.

    What it leaves running in the background may hold the pipes open: that is not waited for.
    """
    out, err = _Kept(1), _Kept(2)
    assert process.stdout is not None and process.stderr is not None
    with process.stdout, process.stderr, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, out)
        selector.register(process.stderr, selectors.EVENT_READ, err)
        while selector.get_map():
            ready = selector.select(_LOOK_S)
            for key, _ in ready:
                data = os.read(key.fd, _READ_BYTES)
                if data:
                    key.data.add(data)
                else:
                    selector.unregister(key.fileobj)
            if not ready and process.poll() is not None:
                break
    out.end()
    err.end()
    return bytes(err.last)


class _Kept:
    """One output: its beginning goes out at once, of the rest only the end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._room = HALF_BYTES
        self._left_out = 0
        self._tail = bytearray()
        #: the last bytes of all
        self.last = bytearray()

    def add(self, data: bytes) -> None:
        head, rest = data[: self._room], data[self._room :]
        self._room -= len(head)
        _write(self._fd, head)
        self._tail += rest
        cut = len(self._tail) - HALF_BYTES
        if cut > 0:
            self._left_out += cut
            del self._tail[:cut]
        self.last += data[-CHARACTERS_SHOWN:]
        del self.last[:-CHARACTERS_SHOWN]

    def end(self) -> None:
        if self._left_out:
            _write(self._fd, f"\n[... {self._left_out} bytes left out ...]\n".encode())
        _write(self._fd, self._tail)


def _write(fd: int, data: bytes | bytearray) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _story(argv: Sequence[str], code: int, stderr: bytes) -> str:
    """``exit code 2: tar: x: Cannot open``, then the lines before that one."""
    how = f"exit code {code}" if code > 0 else f"killed by signal {-code} ({_signal_name(-code)})"
    lines = [line.rstrip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    if not lines:
        return f"{how}: {shlex.join(argv)[:CHARACTERS_SHOWN]}"
    shown = lines[-LINES_SHOWN:]
    before = "\n".join(["", "standard error ended with:", *shown]) if len(shown) > 1 else ""
    return f"{how}: {shown[-1]}{before}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _node() -> str:
    return socket.gethostname()
