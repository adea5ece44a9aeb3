"""Brokers of an instance on this host: started, put in each other's place, stopped."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pyfi_hpc.adapters import access, pidfile
from pyfi_hpc.adapters.pidfile import Daemon
from pyfi_hpc.errors import BrokerHeld, NotFound, PyfiError, Refused, SiteError, from_code
from pyfi_hpc.hosts.spawn import Part, spawn, tell_to_end
from pyfi_hpc.settings import Settings

_READY_S = 60.0
#: one that could not start has so long to log why, seconds
_LAST_WORDS_S = 5.0
#: a broker has so long to commit what it has and end, seconds
_END_S = 15.0
#: how the names of waiting brokers begin in ``pids``
STANDBY = "standby"


def start_broker(settings: Settings) -> Part:
    """Start the broker as a daemon and wait until it serves.

    Raises
    ------
    BrokerHeld
        One of this instance runs already.
    PyfiError
        It could not start; its own words.
    """
    with prepared(settings) as serve:
        return serve()


@contextmanager
def prepared(settings: Settings) -> Iterator[Callable[[], Part]]:
    """A broker as a daemon that loads while its ledger is seen to; calling what is given lets it serve, and waits.

    It ends if it was not let serve when the block ends.

    Raises
    ------
    BrokerHeld
        One of this instance runs already.
    PyfiError
        From the call: it could not start; its own words.
    """
    running = find(settings, "broker")
    if running is not None:
        raise BrokerHeld(
            f"instance {settings.instance!r} is running already", where=f"broker pid {running.pid} on {running.host}",
            fix="use it, or stop it with `pyfi down`",
        )  # fmt: skip
    begun = time.monotonic()
    theirs, ours = os.pipe()

    def serve() -> Part:
        os.write(ours, b"!")
        child.expect("ready")
        return Part("broker", f"{access.read(settings).endpoint}, CURVE on", time.monotonic() - begun)

    try:
        with _spawn_broker(settings, "--after-fd", str(theirs), keep=(theirs,)) as child:
            yield serve
    finally:
        os.close(theirs)
        os.close(ours)


def start_standby(settings: Settings) -> Part:
    """Start a broker as a daemon that waits until it is needed; where none serves, it does at once.

    Raises
    ------
    PyfiError
        It could not start; its own words.
    """
    begun = time.monotonic()
    with _spawn_broker(settings, "--standby") as child:
        said = child.expect("waiting", "ready")
    text = "waiting" if said == "waiting" else "no broker was there: it serves"
    return Part("standby", f"pid {child.pid} on {socket.gethostname()}, {text}", time.monotonic() - begun)


def restart_broker(settings: Settings) -> Part:
    """Put another broker in the place of the one that runs here: that commits what it has, answers, and ends.

    The new one is loaded before the old one is told to end, so nobody serves for some tenths of a second only.

    Raises
    ------
    NotFound
        None runs on this host.
    PyfiError
        The new one could not start: the old one serves on.
    """
    old = _running_broker(settings)
    seconds = 0.0  # unless the old one has gone meanwhile
    with _spawn_broker(settings, "--successor") as child:
        if child.expect("waiting", "ready") == "waiting":
            begun = time.monotonic()
            tell_to_end(old)
            child.expect("ready")
            seconds = time.monotonic() - begun
    _await_end(old)
    return Part("broker", f"{access.read(settings).endpoint}, pid {child.pid} for {old.pid}", seconds)


def stop_broker(settings: Settings) -> Daemon:
    """End the broker of this host alone: a standby takes over, or nobody does; ranks run on for some seconds.

    Raises
    ------
    NotFound
        None runs on this host.
    Refused
        It has not ended in time.
    """
    broker = _running_broker(settings)
    tell_to_end(broker)
    _await_end(broker)
    return broker


def standbys(settings: Settings) -> list[Daemon]:
    """Brokers of this instance that wait: those that live here, and those of other hosts as far as is known."""
    here = socket.gethostname()
    return [d for d in pidfile.daemons(settings) if d.name.startswith(STANDBY) and (d.alive or d.host != here)]


def stop_standbys(settings: Settings) -> list[Daemon]:
    """End the standbys of this host.

    Raises
    ------
    Refused
        One has not ended in time.
    """
    mine = [daemon for daemon in standbys(settings) if daemon.alive]
    for daemon in mine:
        tell_to_end(daemon)
    for daemon in mine:
        _await_end(daemon)
    return mine


def _running_broker(settings: Settings) -> Daemon:
    found = find(settings, "broker")
    if found is None:
        elsewhere = [d.host for d in pidfile.daemons(settings) if d.name == "broker" and d.host != socket.gethostname()]
        raise NotFound(
            f"no broker of instance {settings.instance!r} runs on this host", where=str(settings.instance_dir / "pids"),
            fix=f"go to {elsewhere[0]}" if elsewhere else "`pyfi broker start` starts one",
        )  # fmt: skip
    return found


def _await_end(daemon: Daemon) -> None:
    deadline = time.monotonic() + _END_S
    while daemon.alive:
        if time.monotonic() > deadline:
            raise Refused(
                f"{daemon.name} has not ended within {_END_S:.0f} s", where=f"pid {daemon.pid}",
                fix="`pyfi down` ends everything",
            )  # fmt: skip
        time.sleep(0.01)


def find(settings: Settings, name: str) -> Daemon | None:
    """A live daemon of this instance on this host whose name begins so."""
    return next((d for d in pidfile.daemons(settings) if d.name.startswith(name) and d.alive), None)


class Child:
    """A broker that this process has started, and what it tells."""

    def __init__(self, settings: Settings, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self._settings = settings
        self._process = process
        # unbuffered: the select below must see what was not read
        self._pipe = os.fdopen(descriptor, "rb", buffering=0)
        self.pid = process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()

    def expect(self, *words: str) -> str:
        """Its next word, one of these.

        Raises
        ------
        PyfiError
            It could not start; its own words.
        """
        said = f"the broker did not answer within {_READY_S:.0f} s"
        ready = bool(select.select([self._pipe], [], [], _READY_S)[0])
        if ready:
            said = self._pipe.readline().decode().strip() or "the broker ended at once"
        if said not in words:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_LAST_WORDS_S if ready else 0.0)
            self._process.kill()
            self._process.wait()
            raise _why(said, self._settings)
        return said


def _spawn_broker(settings: Settings, *extra: str, keep: tuple[int, ...] = ()) -> Child:
    ours, theirs = os.pipe()
    try:
        return Child(settings, spawn(settings, "broker", [*extra, "--ready-fd", str(theirs)], (theirs, *keep)), ours)
    finally:
        os.close(theirs)


def _why(said: str, settings: Settings) -> PyfiError:
    """The error of a broker that did not start, as it told it."""
    try:
        code, what, where, fix = json.loads(said)
    except ValueError:
        return SiteError(said or "the broker did not start", where=str(settings.log_dir / "broker.log"))
    return from_code(code, what, where or str(settings.log_dir / "broker.log"), fix)
