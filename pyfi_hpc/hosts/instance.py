"""An instance on this machine: started and stopped as one thing.

The broker and the agent are daemons of their own; whoever starts them may log out. Stopping asks the
broker first, then ends what is left by its pid, and only processes that are ours beyond doubt.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pyfi_hpc.adapters import address, pidfile
from pyfi_hpc.adapters.pidfile import Daemon
from pyfi_hpc.adapters.slurm import AllocationRequest, Submitted, render_sbatch
from pyfi_hpc.errors import NotFound, PyfiError, SiteError
from pyfi_hpc.hosts import allocation, brokers, pools, ssh_notes
from pyfi_hpc.hosts.brokers import find as find
from pyfi_hpc.hosts.brokers import standbys
from pyfi_hpc.hosts.brokers import start_broker as start_broker
from pyfi_hpc.hosts.spawn import Part, end_child, spawn, tell_to_end
from pyfi_hpc.hosts.spawn import children as _children
from pyfi_hpc.ledger import embedded
from pyfi_hpc.model.allocations import key_of
from pyfi_hpc.settings import Settings

_END_S = 8.0
#: the elastic process has so long to begin, seconds
_BEGIN_S = 20.0
#: the host that sees to elastic allocations
ELASTIC = "elastic"
#: standbys of other hosts have so long to see that the instance goes down, seconds
_SEEN_S = 2.0
#: allocations whose agents were told to end have so long before scancel, seconds
_ALLOCATION_END_S = 10.0
#: the broker is told of an allocation within so long, or is not, seconds
_ANNOUNCE_S = 5.0

def start_ledger(settings: Settings) -> Part:
    """Start the embedded Postgres, or only name the one that was given by URL."""
    begun = time.monotonic()
    if settings.ledger:
        return Part("ledger", "Postgres by URL", 0.0)
    server = embedded.start(settings)
    return Part("ledger", f"PostgreSQL {server.version}, private socket", time.monotonic() - begun)


def start_agent(settings: Settings, ranks: int | None) -> Part:
    """Start the agent of this node as a daemon; its ranks follow."""
    begun = time.monotonic()
    spawn(settings, "agent", ["--ranks", str(ranks)] if ranks else [], ())
    return Part("agent", socket.gethostname(), time.monotonic() - begun)


def start(settings: Settings, ranks: int, tell: Callable[[Part], None]) -> None:
    """Start ledger, broker and, for ranks, the agent of this node: side by side, since most of it is loading code.

    Parameters
    ----------
    ranks : int
        0: no agent. Ranks join some time later.
    tell : callable
        Is told the ledger, then the broker, when they are ready; seconds count from the start of each.

    Raises
    ------
    BrokerHeld, PyfiError
        As ``start_ledger`` and ``start_broker``; then nothing but a ledger may be left.
    """
    with brokers.prepared(settings) as serve:
        agent = spawn(settings, "agent", ["--ranks", str(ranks), "--await-broker"], ()) if ranks else None
        try:
            tell(start_ledger(settings))
            tell(serve())
        except BaseException:
            if agent is not None:
                end_child(agent)
            raise


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
    started = request.broker == "here" and reach(settings, tell)
    try:
        answer = allocation.request(settings, request)
        if request.broker == "here":
            _announce(settings, key_of(str(answer.slurm_job_id), request.cluster), request)
        if request.broker == "here" and pools.stored(settings):
            tell(start_elastic(settings))
        return answer
    except BaseException:
        if started:
            stop(settings, lambda: None)
        raise


def _announce(settings: Settings, key: str, request: AllocationRequest) -> None:
    """The broker does not refuse calls that need what the allocation will have. If it does not hear of it, it may."""
    import msgspec

    from pyfi_hpc.adapters.asking import Asker  # brings ZeroMQ, which `pyfi up` can do without
    from pyfi_hpc.core.demand import shape_of

    asker = Asker(settings, "up")
    try:
        asker.ask("expect", {"allocation": key, "shape": msgspec.to_builtins(shape_of(request))}, _ANNOUNCE_S)
    except PyfiError:
        pass
    finally:
        asker.close()


def start_elastic(settings: Settings) -> Part:
    """See that the process runs that asks for the allocations of the stored pools; the broker runs already.

    Raises
    ------
    SiteError
        It has ended at once, or has not begun in time; the log tells why.
    """
    begun = time.monotonic()
    running = find(settings, ELASTIC)
    if running is None:
        child = spawn(settings, ELASTIC, [], ())
        while (running := find(settings, ELASTIC)) is None:
            if child.poll() is not None or time.monotonic() - begun > _BEGIN_S:
                raise SiteError(
                    "the process that asks for allocations has not begun", where=str(settings.log_dir / "elastic.log"),
                    fix="the last lines there tell why",
                )  # fmt: skip
            time.sleep(0.02)
    return Part(ELASTIC, f"pid {running.pid}, pools: {', '.join(pools.stored(settings)) or 'none'}",
                time.monotonic() - begun)  # fmt: skip


def stop_elastic(settings: Settings) -> Daemon:
    """End the elastic process of this host alone: allocations stay as they are.

    Raises
    ------
    NotFound
        None runs here.
    """
    running = find(settings, ELASTIC)
    if running is None:
        raise NotFound("no process asks for allocations here", fix="`pyfi alloc add` and `pyfi up` start one")
    tell_to_end(running)
    _end(running, time.monotonic() + _END_S)
    pidfile.forget(settings, running)
    return running


def reach(settings: Settings, tell: Callable[[Part], None] = lambda part: None) -> bool:
    """See that there is a broker that compute nodes reach; True: it was started here.

    Raises
    ------
    SettingsError
        It listens where nodes cannot reach it.
    """
    if find(settings, "broker") is not None:
        fix = "`pyfi up --slurm ...`: that listens on the cluster's network"
        address.check_reachable(settings, "compute nodes", fix)
        return False
    there = allocation.reachable(settings)
    try:
        start(there, 0, tell)
    except BaseException:
        stop(settings, lambda: None)
        raise
    return True


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


def stop(settings: Settings, shutdown: Callable[[], None], ask: Callable[[str, bool], str] | None = None) -> list[str]:
    """Stop everything of this instance: here, in its allocations, on nodes over ssh; names of what was stopped.

    Parameters
    ----------
    shutdown : callable
        Asks the broker to end the agents everywhere and then itself; may raise BrokerUnreachable.
    ask : callable, optional
        Asks a person where a node over ssh wants a password. What cannot be reached stays noted (``ssh_notes``).
    """
    stopped = []
    here = socket.gethostname()
    # first of all, so that no standby takes the end of the broker for its turn
    pidfile.ask_down(settings)
    if find(settings, ELASTIC) is not None:  # before the allocations end: it would ask for new ones
        stopped.append(stop_elastic(settings).name)
    frozen = [daemon for daemon in pidfile.daemons(settings) if daemon.name.startswith(pidfile.REPLACED)]
    for daemon in standbys(settings) + frozen:
        if daemon.alive:
            stopped.append(daemon.name)
            tell_to_end(daemon)
            _end(daemon, time.monotonic() + _END_S)
            pidfile.forget(settings, daemon)
    seen = time.monotonic() + _SEEN_S
    while standbys(settings) and time.monotonic() < seen:
        time.sleep(0.05)
    if any(d.name == "broker" and (d.alive or d.host != here) for d in pidfile.daemons(settings)):
        try:
            shutdown()
        except (PyfiError, TimeoutError):
            pass  # it hangs, or ended with its node: what is left of it is ended below
    stopped += [f"allocation {job}" for job in allocation.end(settings, _ALLOCATION_END_S)]
    if ssh_notes.noted(settings):
        from pyfi_hpc.hosts import ssh_nodes  # brings threads and more, and few have such nodes

        stopped += ssh_nodes.end(settings, ask)
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
            with suppress(ProcessLookupError):
                os.kill(daemon.pid, signal.SIGKILL)
            deadline = float("inf")
        elif not asked and time.monotonic() > deadline - _END_S / 2:
            tell_to_end(daemon)
            asked = True
        time.sleep(0.01)
