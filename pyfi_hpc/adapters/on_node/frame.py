"""How a step is run: its arguments come on standard input, secrets among them, and data behind them if it takes any.

It prints an empty line every two seconds, so that both sides notice when the other has gone, and at last its answer::

    PYFI {"done": {...}}      PYFI {"failed": "what", "where": "...", "fix": "...", "refused": false}
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

_BEAT_S = 2.0
_TAIL_LINES = 12
#: of a file of /proc
_BYTES_MAX = 1 << 20
#: end with us when nobody listens any more
_children: list[subprocess.Popen[bytes]] = []


class Problem(Exception):
    """What went wrong, where, and what to do: for the person who adds the node."""

    def __init__(self, what: str, where: str = "", fix: str = "", refused: bool = False) -> None:
        super().__init__(what)
        self.told = {"failed": what, "where": where, "fix": fix, "refused": refused}


def main(steps: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Run the step that standard input names."""
    stdin = sys.stdin.buffer
    words = json.loads(stdin.readline())
    threading.Thread(target=_beat, daemon=True).start()
    answer: dict[str, Any]
    try:
        answer = {"done": steps[words.pop("step")](stdin, **words)}
    except Problem as problem:
        answer = problem.told
    except OSError as error:
        answer = _of(error).told
    sys.stdout.write(f"\nPYFI {json.dumps(answer)}\n")
    sys.stdout.flush()


def _beat() -> None:
    while True:
        time.sleep(_BEAT_S)
        try:
            os.write(1, b"\n")
        except OSError:
            for child in list(_children):
                with contextlib.suppress(OSError):
                    os.killpg(child.pid, signal.SIGKILL)
            os._exit(1)


def _of(error: OSError) -> Problem:
    what, where = error.strerror or str(error), str(error.filename or "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem(f"no room left: {what}", where, "make room there, or name another folder with --home")
    return Problem(what, where, "see who owns that, or name another folder with --home")


# --- programs -----------------------------------------------------------------------------------------


def run(command: list[str], environment: dict[str, str], limit_s: float, what: str) -> None:
    """Run an installer to its end; its last lines where it fails."""
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd="/",
        start_new_session=True,
    )  # fmt: skip
    _children.append(child)
    try:
        said = child.communicate(timeout=limit_s)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise Problem(f"{what}: no end within {limit_s:.0f} s", command[0], "see the node's load and network") from None
    finally:
        _children.remove(child)
    if child.returncode:
        lines = [line for line in said.splitlines() if line.strip()][-_TAIL_LINES:]
        full = "o space left" in said or "quota exceeded" in said
        fix = "make room, or name another folder with --home" if full else "correct it on that node, then try again"
        text = "no room left while installing" if full else what
        raise Problem(text + "; its last lines:\n" + "\n".join(f"    {line}" for line in lines), command[0], fix)


def answers(command: list[str], limit_s: float = 60.0) -> str | None:
    """What a program printed; None where it failed or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def processes() -> Iterator[tuple[int, str]]:
    """(pid, command line) of this user's processes but this one."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == os.getuid():
                    line = proc(int(name), "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
                    if line:  # a process that only waits to be collected has none
                        yield int(name), line


def proc(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read(_BYTES_MAX)


def wait(done: Callable[[], object], limit_s: float) -> None:
    until = time.monotonic() + limit_s
    while not done() and time.monotonic() < until:
        time.sleep(0.05)


# --- files --------------------------------------------------------------------------------------------


def private(folder: str) -> str:
    """A folder of ours that nobody else may enter."""
    os.makedirs(folder, 0o700, exist_ok=True)
    if os.stat(folder).st_uid != os.getuid():
        raise Problem("the folder belongs to somebody else", folder, "name another one with --home")
    os.chmod(folder, 0o700)
    return folder


def write(file: str, value: object) -> None:
    """JSON, written beside and renamed; nobody else may read it."""
    fresh = f"{file}.{os.getpid()}"
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as out:
        json.dump(value, out)
    os.replace(fresh, file)


def copy(stdin: IO[bytes], file: str, size: int) -> None:
    """So many bytes of standard input into a file."""
    left = size
    with open(file, "wb") as out:
        while left:
            piece = stdin.read(min(left, 1 << 20))
            if not piece:
                raise Problem("the connection ended within the file", file, "try again")
            out.write(piece)
            left -= len(piece)
