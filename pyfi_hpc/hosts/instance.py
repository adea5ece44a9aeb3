"""An instance on this machine: started and stopped as one thing.

The broker and the agent are daemons of their own; whoever starts them may log out. Stopping asks the
broker first, then ends what is left by its pid, and only processes that are ours beyond doubt.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyfi_hpc.adapters import pidfile
from pyfi_hpc.adapters.pidfile import Daemon
from pyfi_hpc.adapters.slurm import AllocationRequest, Submitted, render_sbatch
from pyfi_hpc.errors import BrokerHeld, PyfiError, SiteError, from_code
from pyfi_hpc.hosts import allocation
from pyfi_hpc.ledger import embedded
from pyfi_hpc.settings import Settings, private_folder

_READY_S = 60.0
_END_S = 8.0
#: allocations whose agents were told to end have so long before scancel, seconds
_ALLOCATION_END_S = 10.0

#: daemons that this process started: to be collected when they end, if it lives so long
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class Part:
    """What was started, for people: name, what about it, seconds that it took."""

    name: str
    text: str
    seconds: float


def start_ledger(settings: Settings) -> Part:
    """Start the embedded Postgres, or only name the one that was given by URL."""
    begun = time.monotonic()
    if settings.ledger:
        return Part("ledger", "Postgres by URL", 0.0)
    server = embedded.start(settings)
    return Part("ledger", f"PostgreSQL {server.version}, private socket", time.monotonic() - begun)


def start_broker(settings: Settings) -> Part:
    """Start the broker as a daemon and wait until it serves.

    Raises
    ------
    BrokerHeld
        One of this instance runs already.
    PyfiError
        It could not start; its own words.
    """
    begun = time.monotonic()
    running = find(settings, "broker")
    if running is not None:
        raise BrokerHeld(
            f"instance {settings.instance!r} is running already", where=f"broker pid {running.pid} on {running.host}",
            fix="use it, or stop it with `pyfi down`",
        )  # fmt: skip
    ours, theirs = os.pipe()
    extra = ["--ready-fd", str(theirs)]
    child = _spawn(settings, "broker", extra, (theirs,))
    os.close(theirs)
    said = _first_words(ours, _READY_S)
    if said != "ready":
        child.wait()
        raise _why(said, settings)
    from pyfi_hpc.adapters import access

    return Part("broker", f"{access.read(settings).endpoint}, CURVE on", time.monotonic() - begun)


def start_agent(settings: Settings, ranks: int | None) -> Part:
    """Start the agent of this node as a daemon; its ranks follow."""
    begun = time.monotonic()
    _spawn(settings, "agent", ["--ranks", str(ranks)] if ranks else [], ())
    return Part("agent", socket.gethostname(), time.monotonic() - begun)


def start_allocation(
    settings: Settings, request: AllocationRequest, tell: Callable[[Part], None] = lambda part: None
) -> Submitted:
    """Ask Slurm for an allocation whose agents join this instance; start its ledger and broker where needed.

    Parameters
    ----------
    request : AllocationRequest
        ``home``, ``python`` and ``instance`` are filled in: those of this process.
    tell : callable
        Is told each part that was started here.

    Raises
    ------
    UsageError, SettingsError
        A request that cannot be; a broker that listens where nodes cannot reach it.
    SlurmRefused, SlurmBusy, SlurmMissing
        With Slurm's own words; what was started here is stopped again.
    BrokerHeld
        A broker in the allocation is wanted, and one runs.

    Notes
    -----
    With ``broker="job"`` nothing is started here: broker and ledger begin with the allocation.
    """
    request = replace(
        request, home=settings.home, instance=settings.instance, python=request.python or sys.executable
    )
    render_sbatch(request)  # what is wrong in it is told before anything is started
    started = False
    if request.broker == "here":
        if find(settings, "broker") is None:
            settings = allocation.reachable(settings)
            started = True
    try:
        if started:
            tell(start_ledger(settings))
            tell(start_broker(settings))
        elif request.broker == "here":
            allocation.check_broker(settings)
        return allocation.request(settings, request)
    except BaseException:
        if started:
            stop(settings, lambda: None)
        raise


def wait_for_ranks(settings: Settings, ask_nodes: Callable[[], Any], wanted: int, limit_s: float) -> int:
    """Wait until so many ranks have joined; how many there are.

    Parameters
    ----------
    ask_nodes : callable
        Asks the broker for its live nodes: ``[{"ranks": n, ...}]``.

    Raises
    ------
    SiteError
        They did not join in time, or the agent ended; with the last lines of its log.
    """
    deadline = time.monotonic() + limit_s
    while True:
        joined: int = sum(node["ranks"] for node in ask_nodes())
        if joined >= wanted:
            return joined
        if time.monotonic() > deadline:
            raise SiteError(
                f"{joined} of {wanted} ranks joined within {limit_s:.0f} s", where=str(settings.log_dir),
                fix="the last lines there say:\n" + _last_lines(settings),
            )  # fmt: skip
        time.sleep(0.02)


def _last_lines(settings: Settings) -> str:
    lines = []
    for file in sorted(settings.log_dir.glob("*")):
        if not file.name.startswith("broker"):
            lines += [f"    {file.name}: {line}" for line in file.read_text(errors="replace").splitlines()[-5:]]
    return "\n".join(lines)


def _spawn(settings: Settings, host: str, extra: list[str], keep: Sequence[int]) -> subprocess.Popen[bytes]:
    private_folder(settings.home)
    private_folder(settings.instance_dir)
    private_folder(settings.log_dir)
    command = [
        sys.executable, "-m", f"pyfi_hpc.hosts.{host}", "--instance", settings.instance, "--home", str(settings.home),
        *extra,
    ]  # fmt: skip
    environment = {**os.environ, **_as_environment(settings)}
    with open(settings.log_dir / f"{host}.out", "ab") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=keep, start_new_session=True,
            env=environment, cwd="/",
        )  # fmt: skip
    _children[:] = [old for old in _children if old.poll() is None] + [child]
    return child


def _as_environment(settings: Settings) -> dict[str, str]:
    """What the daemon cannot know from its flags; the ledger's URL may hold a password: never in arguments."""
    names = {name: str(getattr(settings, name)) for name in ("scratch", "bind", "ledger", "pg_bin")}
    names["budgets"] = ",".join(settings.budgets)
    return {"PYFI_" + name.upper(): value for name, value in names.items() if value}


def _why(said: str, settings: Settings) -> PyfiError:
    """The error of a broker that did not start, as it told it."""
    try:
        code, what, where, fix = json.loads(said)
    except ValueError:
        return SiteError(said or "the broker did not start", where=str(settings.log_dir / "broker.log"))
    return from_code(code, what, where or str(settings.log_dir / "broker.log"), fix)


def _first_words(descriptor: int, limit_s: float) -> str:
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        if not select.select([pipe], [], [], limit_s)[0]:
            return f"the broker did not answer within {limit_s:.0f} s"
        return (pipe.read(65536) or b"the broker ended at once").decode()


def find(settings: Settings, name: str) -> Daemon | None:
    """A live daemon of this instance on this host whose name begins so."""
    return next((d for d in pidfile.daemons(settings) if d.name.startswith(name) and d.alive), None)


def stop(settings: Settings, shutdown: Callable[[], None]) -> list[str]:
    """Stop everything of this instance: on this machine and in its allocations; names of what was stopped.

    Parameters
    ----------
    shutdown : callable
        Asks the broker to end the agents everywhere and then itself; may raise BrokerUnreachable.
    """
    stopped = []
    here = socket.gethostname()
    if any(d.name == "broker" and (d.alive or d.host != here) for d in pidfile.daemons(settings)):
        try:
            shutdown()
        except (PyfiError, TimeoutError):
            pass  # it hangs, or ended with its node: what is left of it is ended below
    stopped += [f"allocation {job}" for job in allocation.end(settings, _ALLOCATION_END_S)]
    deadline = time.monotonic() + _END_S
    for daemon in pidfile.daemons(settings):
        if daemon.host != here:
            if not allocation.noted(settings):  # what could have run there has ended
                pidfile.forget(settings, daemon)
            continue
        if daemon.alive:
            stopped.append(daemon.name)
            _end(daemon, deadline)
        pidfile.forget(settings, daemon)
    _children[:] = [child for child in _children if child.poll() is None]
    if not settings.ledger and embedded.status(settings) is not None:
        embedded.stop(settings)
        stopped.append("ledger")
    shutil.rmtree(settings.run_dir, ignore_errors=True)
    try:
        settings.run_dir.parent.rmdir()
    except OSError:
        pass  # other instances of this user live there, or there is none
    return stopped


def _end(daemon: Daemon, deadline: float) -> None:
    """Wait for a daemon that was asked to end; ask again by signal; end it."""
    asked = False
    while daemon.alive:
        if time.monotonic() > deadline:
            os.kill(daemon.pid, signal.SIGKILL)
            deadline = float("inf")
        elif not asked and time.monotonic() > deadline - _END_S / 2:
            os.kill(daemon.pid, signal.SIGTERM)
            asked = True
        time.sleep(0.01)
