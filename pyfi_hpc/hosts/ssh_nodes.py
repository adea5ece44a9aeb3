"""Nodes over ssh: added, brought up to date, removed; no Slurm, and nothing there but Python and sshd.

    connect -> Python? -> look -> package of this version -> keys, code -> agent -> it has joined

What was added stands in ``INSTANCE/ssh_nodes``, one file each, so that `end` finds it. Where a node sees the
instance's home (a shared file system), that is the agent's home too; else it gets one of its own, with the keys of
agents and nothing else, and the code that is deployed is sent there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pyfi_hpc.adapters import access, own_wheel
from pyfi_hpc.adapters.ssh_target import Ask, Login
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.hosts import sent_code, ssh_notes
from pyfi_hpc.hosts.node_calls import Node
from pyfi_hpc.hosts.ssh_add import Adding, Desk, Tell, Wish, check_broker, connect, take_away
from pyfi_hpc.hosts.ssh_notes import Note, noted
from pyfi_hpc.settings import Settings

#: hosts that are worked on at once
_AT_ONCE = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one host."""

    host: str
    note: Note | None = None
    error: PyfiError | None = None
    seconds: float = 0.0
    #: in words, for the table
    about: dict[str, Any] = field(default_factory=dict)


def add(
    settings: Settings, logins: Sequence[Login], wish: Wish, desk: Desk, ask: Ask | None, tell: Tell
) -> list[Result]:
    """Start agents on hosts, several at a time; what failed on one leaves the others as they are.

    Raises
    ------
    SettingsError
        The broker listens where no other host can reach it.
    SiteError
        No wheel of this package can be made.
    """
    check_broker(settings)
    wheel = own_wheel.make(settings.cache_dir)
    one = Adding(settings, wish, wheel, _locked(desk), ask, tell)
    return _each(logins, lambda login: one.add(login), lambda login: login.host)


def check(settings: Settings, logins: Sequence[Login], wish: Wish, ask: Ask | None, tell: Tell) -> list[Result]:
    """What `add` would find on the hosts; nothing is put there."""
    check_broker(settings)
    one = Adding(settings, wish, None, lambda verb, body: None, ask, tell)
    return _each(logins, lambda login: one.look(login), lambda login: login.host)


def remove(
    settings: Settings, hosts: Sequence[str], drain_s: float, purge: bool, forget: bool, ask: Ask | None, tell: Tell
) -> list[Result]:
    """End the agents of these nodes, what runs there may end within ``drain_s``, and take away what was put there.

    Raises
    ------
    NotFound
        No node of that name was added over ssh.
    """
    found = ssh_notes.find(settings, hosts)

    def one(note: Note) -> tuple[Note, dict[str, Any]]:
        if forget:
            ssh_notes.forget(settings, note)
            return note, {"forgotten": True}
        return note, _end(settings, note, drain_s, purge, ask, tell)

    return _each(found, one, lambda note: note.login.host)


def sync(settings: Settings, hosts: Sequence[str], desk: Desk, ask: Ask | None, tell: Tell) -> list[Result]:
    """Send what was deployed since, and the broker's address, to nodes with a home of their own.

    Parameters
    ----------
    hosts : sequence of str
        Empty: all.
    """
    found = ssh_notes.find(settings, hosts) if hosts else noted(settings)
    asked = _locked(desk)

    def one(note: Note) -> tuple[Note, dict[str, Any]]:
        if not note.own:
            return note, {"sent": 0}
        node = Node(connect(note.login, ask, frozenset()), note.python)
        try:
            node.call("place", home=note.home, instance=settings.instance, access=access.read(settings).for_agents())
            return note, {"sent": sent_code.send(settings, node, note.home, asked, tell)}
        finally:
            node.close()

    return _each(found, one, lambda note: note.login.host)


def deployed(settings: Settings, desk: Desk, ask: Ask | None, tell: Tell) -> list[Result]:
    """Send what has just been deployed to the nodes that do not see this home; costs nothing where there are none."""
    own = [note.name for note in noted(settings) if note.own]
    return sync(settings, own, desk, ask, tell) if own else []


def end(settings: Settings, ask: Ask | None) -> list[str]:
    """End what is left of all agents over ssh, as the instance goes down; names of the nodes.

    Keys and notes go with them. What cannot be reached stays noted, with the reason, for the next time.
    """
    notes = noted(settings)
    results = _each(notes, lambda n: (n, _end(settings, n, 0.0, False, ask, lambda host, text: None)), lambda n: n.name)
    for note, result in zip(notes, results, strict=True):
        if result.error is not None:
            ssh_notes.write(settings, replace(note, problem=result.error.what))
    return [f"node {note.name}" for note, result in zip(notes, results, strict=True) if result.error is None]


def _end(settings: Settings, note: Note, drain_s: float, purge: bool, ask: Ask | None, tell: Tell) -> dict[str, Any]:
    """End a node's agent, remove what was put there, and the note."""
    tell(note.login.host, f"connecting ({note.login.via})")
    node = Node(connect(note.login, ask, frozenset()), note.python)
    try:
        about = take_away(settings, node, note, drain_s, purge)
    finally:
        node.close()
    ssh_notes.forget(settings, note)
    return about


def _each(
    items: Sequence[T], work: Callable[[T], tuple[Note | None, dict[str, Any]]], name: Callable[[T], str]
) -> list[Result]:
    def one(item: T) -> Result:
        begun = time.monotonic()
        try:
            note, about = work(item)
            return Result(name(item), note, None, time.monotonic() - begun, about)
        except PyfiError as error:
            return Result(name(item), None, error, time.monotonic() - begun)

    if not items:
        return []
    with ThreadPoolExecutor(min(len(items), _AT_ONCE)) as pool:
        return list(pool.map(one, items))


def _locked(desk: Desk) -> Desk:
    lock = threading.Lock()

    def ask(verb: str, body: dict[str, Any]) -> Any:
        with lock:
            return desk(verb, body)

    return ask
