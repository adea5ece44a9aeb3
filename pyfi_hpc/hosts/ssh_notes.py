"""Which nodes were added over ssh: ``INSTANCE/ssh_nodes``, one file each; whoever stops the instance finds them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pyfi_hpc.adapters.access import write_json
from pyfi_hpc.adapters.ssh_target import Login
from pyfi_hpc.errors import NotFound
from pyfi_hpc.settings import Settings, private_folder


@dataclass(frozen=True, slots=True)
class Note:
    """What must be known to end a node's agent and to remove it."""

    name: str  #: of the node
    login: Login
    python: str  #: runs the steps there
    agent_python: str
    base: str
    home: str
    own: bool  #: the home is the node's own: it does not see that of the instance
    venv: str  #: name of the virtual environment; empty: the instance's own Python is seen there
    ranks: int
    at: float = 0.0
    problem: str = ""  #: why it could not be ended


def noted(settings: Settings) -> list[Note]:
    """Nodes that were added over ssh and not removed."""
    found = []
    for file in sorted(_folder(settings).glob("[!.]*.json")):
        try:
            words = json.loads(file.read_text())
            found.append(Note(**{**words, "login": Login(**words["login"])}))
        except (OSError, ValueError, TypeError, KeyError):
            continue  # of another version, or damaged: nothing that could be ended by it
    return found


def find(settings: Settings, names: Sequence[str]) -> list[Note]:
    """Those of these hosts or nodes.

    Raises
    ------
    NotFound
        No node of that name was added over ssh.
    """
    notes = noted(settings)
    found = []
    for name in names:
        note = next((note for note in notes if name in (note.login.host, note.name)), None)
        if note is None:
            there = ", ".join(note.name for note in notes) or "none"
            what = f"no node {name!r} was added over ssh"
            raise NotFound(what, where=str(_folder(settings)), fix=f"there are: {there}")
        found.append(note)
    return found


def write(settings: Settings, note: Note) -> None:
    private_folder(_folder(settings))
    write_json(_folder(settings) / f"{note.name}.json", asdict(note))


def forget(settings: Settings, note: Note) -> None:
    (_folder(settings) / f"{note.name}.json").unlink(missing_ok=True)


def _folder(settings: Settings) -> Path:
    return settings.instance_dir / "ssh_nodes"
