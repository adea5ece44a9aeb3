"""One host on its way to being a node: looked at, our package and the keys put there, its agent started.

What fails half way is undone: nothing runs on there and no key stays. The virtual environment does, for the next time.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pyfi_hpc.adapters import access, address, own_wheel
from pyfi_hpc.adapters.on_node.install import ROOM_BYTES
from pyfi_hpc.adapters.own_wheel import Wheel
from pyfi_hpc.adapters.ssh_target import Ask, Login
from pyfi_hpc.errors import PyfiError, Refused, SiteError
from pyfi_hpc.hosts import sent_code, ssh_notes
from pyfi_hpc.hosts.node_calls import Node
from pyfi_hpc.hosts.ssh_notes import Note
from pyfi_hpc.ports import Remote
from pyfi_hpc.settings import Settings, private_folder

#: ranks have so long to join, seconds
JOIN_S = 60.0
#: agent and ranks have so long to end before they are killed, seconds
END_S = 10.0
#: an installation has so long, seconds; a little more than the step's own limit
_INSTALL_S = 1200.0
_REMOVE_S = 120.0
#: while ranks join: between two questions to the broker, and to the node whether the agent lives, seconds
_ASK_S = 0.1
_LOOK_S = 3.0
#: folder of all that we put on a node
BASE = "~/.pyfi"

#: asks the broker's desk: (verb, body)
Desk = Callable[[str, dict[str, Any]], Any]
#: is told what is being done: (host, text)
Tell = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted on each of the hosts."""

    ranks: int = 0  #: 0: one per usable core there
    python: str = ""
    base: str = BASE
    accept: frozenset[str] = frozenset()
    #: settings of these nodes alone, by name: ``resources``, ``labels``
    settings: Mapping[str, str] = field(default_factory=dict)


class Adding:
    """The steps for one host, with what they have in common."""

    def __init__(
        self, settings: Settings, wish: Wish, wheel: Wheel | None, desk: Desk, ask: Ask | None, tell: Tell
    ) -> None:
        self._settings, self._wish, self._wheel = settings, wish, wheel
        self._desk, self._ask, self._tell = desk, ask, tell
        self._access = access.read(settings)

    def look(self, login: Login) -> tuple[None, dict[str, Any]]:
        node, found = self._look(login)
        node.close()
        return None, self._about(node, found)

    def add(self, login: Login) -> tuple[Note, dict[str, Any]]:
        node, found = self._look(login)
        try:
            self._refuse_second(login, found)
            note = self._prepare(node, login, found)
            try:
                self._start(node, note)
            except Refused:
                raise  # somebody else's agent runs there: nothing of it is touched
            except BaseException:
                self._undo(node, note)
                raise
            ssh_notes.write(self._settings, note)
            return note, self._about(node, found)
        finally:
            node.close()

    def _look(self, login: Login) -> tuple[Node, dict[str, Any]]:
        self._tell(login.host, f"connecting ({login.via})")
        node = Node(connect(login, self._ask, self._wish.accept))
        try:
            node.find_python(self._wish.python)
            probe = private_folder(self._settings.instance_dir) / f".probe-{secrets.token_hex(8)}"
            probe.touch(0o600)
            try:
                package = {"python": sys.executable, "hash": own_wheel.package_hash()}
                found = node.call(
                    "look", base=self._wish.base, probe=str(probe), broker=[self._access.host, self._access.port],
                    package=None if self._wish.python else package,
                )  # fmt: skip
            finally:
                probe.unlink(missing_ok=True)
            if found["way"]:
                raise SiteError(
                    f"{found['hostname']} does not reach the broker: {found['way']}",
                    where=self._access.endpoint,
                    fix="open that port, or `pyfi down` and `pyfi up --bind ADDRESS` with an address it reaches",
                )
        except BaseException:
            node.close()
            raise
        return node, dict(found)

    def _about(self, node: Node, found: dict[str, Any]) -> dict[str, Any]:
        return {
            "node": found["hostname"], "python": node.python, "shared_home": found["shared"],
            "ranks": self._wish.ranks or found["cores"], "free_bytes": found["free"],
        }  # fmt: skip

    def _refuse_second(self, login: Login, found: dict[str, Any]) -> None:
        name = found["hostname"]
        there = next((n for n in self._desk("info", {})["broker"]["nodes"] if n["name"] == name), None)
        if there is not None:
            raise Refused(
                f"the node {name} has an agent of this instance already, with {there['ranks']} ranks", where=login.host,
                fix=f"`pyfi node rm {name}` ends one that was added over ssh; elsewhere `pyfi agent stop` there",
            )  # fmt: skip

    def _prepare(self, node: Node, login: Login, found: dict[str, Any]) -> Note:
        """Package, keys and code; the note of what was put there."""
        base, own = found["base"], not found["shared"]
        venv, python = "", sys.executable
        if not found["same_python"]:
            assert self._wheel is not None
            venv = f"{self._wheel.version}-{self._wheel.hash}-{found['tag']}"
            self._tell(login.host, f"pyfi_hpc {self._wheel.version} into {base}/venvs/{venv}")
            data = self._wheel.file.read_bytes()
            answer = node.call(
                "install", _INSTALL_S, lambda out: out.write(data), base=base, name=venv, size=len(data),
                wheel=self._wheel.file.name, extra="[mpi]", room=ROOM_BYTES,
            )  # fmt: skip
            python = answer["python"]
        tag = hashlib.sha256(self._access.broker_public.encode()).hexdigest()[:8]
        home = f"{base}/nodes/{self._settings.instance}-{tag}" if own else str(self._settings.home)
        note = Note(
            found["hostname"], login, node.python, python, base, home, own, venv,
            self._wish.ranks or found["cores"], time.time(),
        )  # fmt: skip
        if own:
            node.call("place", home=home, instance=self._settings.instance, access=self._access.for_agents())
            sent_code.send(self._settings, node, home, self._desk, self._tell)
        return note

    def _start(self, node: Node, note: Note) -> None:
        """Start the agent and wait until all its ranks have joined; its own words where they do not."""
        instance = self._settings.instance
        self._tell(note.login.host, f"starting {note.ranks} ranks")
        started = node.call(
            "start", python=note.agent_python, home=note.home, instance=instance, ranks=note.ranks, own=note.own,
            variables={f"PYFI_{name.upper()}": value for name, value in self._wish.settings.items()},
        )  # fmt: skip
        deadline, looked_at = time.monotonic() + JOIN_S, time.monotonic()
        while (joined := self._joined(note.name)) < note.ranks:
            now = time.monotonic()
            if now > deadline or now - looked_at > _LOOK_S:
                looked_at = now
                state = node.call("alive", pid=started["pid"], log=started["log"])
                if now > deadline or not state["alive"]:
                    why = "the agent has ended" if not state["alive"] else f"{joined} of {note.ranks} ranks joined"
                    raise SiteError(
                        f"{why} within {JOIN_S:.0f} s" if state["alive"] else why, where=started["log"],
                        fix="the last lines there say:\n" + "\n".join("    " + line for line in state["lines"]),
                    )  # fmt: skip
            time.sleep(_ASK_S)

    def _joined(self, name: str) -> int:
        nodes = self._desk("info", {})["broker"]["nodes"]
        return sum(node["ranks"] for node in nodes if node["name"] == name)

    def _undo(self, node: Node, note: Note) -> None:
        """Nothing of it runs on and no key stays; the virtual environment does, for the next time."""
        try:
            take_away(self._settings, node, note, 0.0, False)
        except PyfiError as error:
            self._tell(note.login.host, f"what was started there could not be ended: {error.what}")
            ssh_notes.write(self._settings, replace(note, problem=error.what))


def check_broker(settings: Settings) -> None:
    """Raises SettingsError where no other host can reach the broker, as ``address.check_reachable`` does."""
    fix = "`pyfi up --bind ADDRESS` with an address of this machine that they reach"
    address.check_reachable(settings, "other hosts", fix)


def take_away(settings: Settings, node: Node, note: Note, drain_s: float, purge: bool) -> dict[str, Any]:
    at: dict[str, Any] = {"home": note.home, "instance": settings.instance, "own": note.own}
    stopped = node.call("stop", drain_s + 3 * END_S, drain_s=drain_s, end_s=END_S, **at)
    removed = node.call("remove", _REMOVE_S, base=note.base, venv=note.venv, purge=purge, **at)
    return {"node": note.name, **stopped, **removed}


def connect(login: Login, ask: Ask | None, accept: frozenset[str]) -> Remote:
    if login.via == "ssh":
        from pyfi_hpc.adapters.ssh_system import SystemRemote

        return SystemRemote(login)
    # here, because it takes 0.2 s and only this wants it
    from pyfi_hpc.adapters.ssh import ParamikoRemote

    return ParamikoRemote(login, ask, accept)
