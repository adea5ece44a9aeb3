"""A node that is reached over ssh: its Python is found, and steps are run by it (``adapters/on_node``)."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from pyfi_hpc.adapters import on_node
from pyfi_hpc.errors import Refused, SiteError, UsageError
from pyfi_hpc.ports import Remote

PYTHON_MIN = (3, 11)
#: looked for on the node's PATH, in this order
_PYTHONS = "python3 python3.14 python3.13 python3.12 python3.11"
#: to be understood by any shell that a user may have there
_FIND = (
    "sh -c 'for p in %s; do "
    '"$p" -c "import sys; print(sys.version.split()[0] + chr(32) + sys.executable)" 2>/dev/null; done; :\''
)
_RUN = "import sys;b=sys.stdin.buffer;exec(b.read(int(b.readline())))"
#: makes modules of the files that are sent, in this order; then the last one is asked for the step
_UNPACK = b"""\
import json, types
for name, text in json.loads(b.readline()):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, 'exec'), module.__dict__)
sys.modules['pyfi_hpc.adapters.on_node.frame'].main(module.STEPS)
"""
_FILES = ("frame", "install", "agent")
_ANSWER = b"PYFI "
_FOUND = re.compile(r"(\d+\.\d+\.\d+)\S* (/.+)")
_PATH = re.compile(r"[A-Za-z0-9_./+-]+")
_FIND_S = 60.0


class Node:
    """A connection and the Python that runs steps there."""

    def __init__(self, remote: Remote, python: str = "") -> None:
        self.remote = remote
        self.python = python

    def find_python(self, wanted: str) -> None:
        """The first Python there that is new enough; ``wanted`` is a path or a name, or empty.

        Raises
        ------
        SiteError
            There is none; tells what there is.
        """
        if wanted and not _PATH.fullmatch(wanted):
            raise UsageError(f"{wanted!r} is not a path of a Python", where="--python", fix="without blanks and quotes")
        done = self.remote.run(_FIND % (wanted or _PYTHONS), None, _FIND_S)
        lines = done.stdout.decode(errors="replace").splitlines()
        found = [match.groups() for line in lines if (match := _FOUND.fullmatch(line.strip()))]
        for version, path in found:
            if tuple(map(int, version.split(".")))[:2] >= PYTHON_MIN:
                self.python = path
                return
        there = ", ".join(f"{path} is {version}" for version, path in dict.fromkeys(found))
        raise SiteError(
            f"no Python 3.11 or newer; {there or 'none was found'}",
            where=f"{self.remote.host}, looked for {wanted or _PYTHONS}",
            fix="install one there, or name it with --python PATH",
        )

    def call(
        self, step: str, limit_s: float = 60.0, data: Callable[[IO[bytes]], object] | None = None, **words: Any
    ) -> Any:
        """Run one step; its answer.

        Parameters
        ----------
        data : callable, optional
            Writes what the step reads behind its arguments.

        Raises
        ------
        SiteError
            In the step's own words.
        Refused
            An agent runs there already.
        HostUnreachable
        """
        with tempfile.TemporaryFile() as stdin:
            stdin.write(b"%d\n" % len(_UNPACK) + _UNPACK)
            for line in (_files(), {"step": step, **words}):
                stdin.write(json.dumps(line).encode() + b"\n")
            if data is not None:
                data(stdin)
            stdin.flush()
            stdin.seek(0)
            done = self.remote.run(f'{self.python} -I -c "{_RUN}"', stdin, limit_s, beats=True)
        answer = next((ln for ln in reversed(done.stdout.splitlines()) if ln.startswith(_ANSWER)), None)
        if answer is None:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise SiteError(
                f"the step {step!r} did not answer (exit code {done.code}): {said[-1] if said else 'no word'}",
                where=self.remote.host, fix=f"see what `ssh {self.remote.host} {self.python} -V` says",
            )  # fmt: skip
        told = json.loads(answer[len(_ANSWER) :])
        if "done" in told:
            return told["done"]
        kind = Refused if told.get("refused") else SiteError
        raise kind(told["failed"], where=f"{self.remote.host}: {told['where']}".rstrip(": "), fix=told["fix"])

    def close(self) -> None:
        self.remote.close()


def _files() -> list[tuple[str, str]]:
    folder = Path(on_node.__path__[0])
    return [(f"{on_node.__name__}.{name}", (folder / f"{name}.py").read_text()) for name in _FILES]
