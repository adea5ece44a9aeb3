"""A broker that waits: for the ledger to be free, while it disturbs nobody.

::

    pyfi broker --standby -> waits -----------------> takes over, is the broker
                               |  looks twice a second      (the same process: what it needs is loaded already)
                               +-- told to end, or the instance is going down -> ends

What it looks at is in ``ledger/pulse.py``. It has a file of its own in ``pids``, and no port before it has won.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from collections.abc import Callable
from dataclasses import replace

from pyfi_hpc.adapters import access, address, pidfile
from pyfi_hpc.adapters.signals import SignalPort
from pyfi_hpc.errors import LedgerUnavailable, PyfiError, SettingsError
from pyfi_hpc.hosts.brokers import STANDBY
from pyfi_hpc.ledger import embedded
from pyfi_hpc.ledger.pulse import Lookout
from pyfi_hpc.settings import Settings

log = logging.getLogger("pyfi_hpc.broker")


def wait(settings: Settings, signals: SignalPort, waiting: Callable[[], None], successor: bool = False) -> bool:
    """Wait until the ledger needs a broker; False: told to end.

    Parameters
    ----------
    waiting : callable
        Called once it is certain that it waits.
    successor : bool
        Of a broker that is being restarted: others let it go first.
    """
    pidfile.claim(settings, f"{STANDBY}-{os.getpid()}")
    lookout = Lookout(embedded.url(settings), successor=successor)
    told = away = False
    try:
        while not pidfile.down_asked(settings):
            try:
                if lookout.vacant():
                    log.info("= the ledger is free, or its holder frozen: taking over")
                    return True
                away = False
                if not told:
                    log.info("standby of instance %s waits", settings.instance)
                    waiting()
                    told = True
            except LedgerUnavailable as error:
                if not away:
                    log.warning("! the ledger is away: %s", error)
                away = True
                _try_to_revive(settings)
            if select.select([signals.waitable], [], [], lookout.pause())[0] and signals.receive():
                break
        return False
    finally:
        lookout.close()


def revive(settings: Settings) -> None:
    """Start the embedded ledger again if it was killed, unless the instance is going down.

    Raises
    ------
    PyfiError
        It does not start.
    """
    if not pidfile.down_asked(settings) and embedded.revive(settings):
        log.warning("= the ledger's Postgres was killed and has been started again")


def _try_to_revive(settings: Settings) -> None:
    try:
        revive(settings)
    except PyfiError as error:
        log.warning("! the ledger's server could not be started: %s", error)


def reachable(settings: Settings) -> Settings:
    """The settings with the address to listen on: the given one, else where the broker was, as far as that is here."""
    if settings.bind:
        return settings
    last = access.read(settings).host if settings.access_file.exists() else ""
    elsewhere = any(d.name == "broker" and d.host != socket.gethostname() for d in pidfile.daemons(settings))
    if not elsewhere and (not last or address.is_loopback(last)):
        return settings
    if not elsewhere and address.is_here(last):
        return replace(settings, bind=last)
    try:
        return replace(settings, bind=address.for_nodes())
    except SettingsError as error:
        log.warning("! listening on loopback: %s", error)
        return settings
