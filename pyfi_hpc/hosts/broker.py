"""The broker's host: picks adapters, builds the machine, runs the loop.

    python -m pyfi_hpc.hosts.broker --instance I [--bind ADDRESS] [--ledger URL] [--in-job | --standby | --successor]

With ``--in-job`` it runs on the first node of an allocation, and the embedded ledger with it: see ``hosts.in_job``.
With ``--standby`` it waits until the ledger needs a broker: see ``hosts.standby``.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import socket
from contextlib import suppress

import msgspec
import zmq

from pyfi_hpc.adapters import access as access_file
from pyfi_hpc.adapters import pidfile
from pyfi_hpc.adapters.access import Access
from pyfi_hpc.adapters.clock import SystemClock
from pyfi_hpc.adapters.router import Gatekeeper, RouterPort, Sentry, bind_tcp
from pyfi_hpc.adapters.signals import SignalPort
from pyfi_hpc.core.broker import Broker
from pyfi_hpc.errors import BrokerHeld, LedgerUnavailable, PyfiError, SettingsError, SiteError, StaleEpoch
from pyfi_hpc.hosts import daemon, in_job, standby
from pyfi_hpc.ledger import embedded, schema
from pyfi_hpc.ledger.front_desk import FrontDesk
from pyfi_hpc.ledger.postgres import PostgresLedger
from pyfi_hpc.ledger.writer import Writer
from pyfi_hpc.loop import Loop
from pyfi_hpc.model import budgets
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.records import Recovered
from pyfi_hpc.settings import Settings
from pyfi_hpc.wire import codec

log = logging.getLogger("pyfi_hpc.broker")


def main() -> None:
    parser = daemon.arguments("broker")
    parser.add_argument("--bind", help="address to listen on; default 127.0.0.1")
    parser.add_argument("--ledger", help="URL of the ledger's Postgres; default: the embedded one")
    parser.add_argument("--in-job", action="store_true", help="in an allocation; the ledger starts and ends with it")
    parser.add_argument("--standby", action="store_true", help="wait until the broker that serves has gone")
    parser.add_argument("--successor", action="store_true", help="a standby that others let go first")
    parser.add_argument("--after-fd", type=int, help="descriptor: serve once a byte comes, end when it is closed")
    parser.add_argument("--ready-fd", type=int, help="descriptor for lines: waiting, ready, or an error")
    options = parser.parse_args()
    settings = daemon.load(options)
    daemon.start_log(settings, "broker")
    teller = Teller(options.ready_fd)
    try:
        if not zmq.has("curve"):
            raise SiteError("this libzmq has no CURVE: connections could not be encrypted", fix="install pyzmq's wheel")
        if options.after_fd is not None and not os.read(options.after_fd, 1):
            return  # whoever has started this could not start its ledger, and has said so
        signals = SignalPort()
        pidfile.clear_down(settings)
        if options.standby or options.successor:
            _stand_by(settings, signals, teller, options.successor)
        elif options.in_job:
            with in_job.ledger(settings) as settings:
                serve(settings, signals, teller, *take(settings))
        else:
            serve(settings, signals, teller, *take(settings))
    except PyfiError as error:
        teller(json.dumps([error.code, error.what, error.where, error.fix]))
        daemon.fail(error, error.exit_code)
    except Exception:
        log.exception("this is a bug; the ledger makes it safe to end here")
        raise


def _stand_by(settings: Settings, signals: SignalPort, teller: Teller, successor: bool) -> None:
    """Wait for the ledger, serve once it is ours; of several standbys one wins, the others wait on."""
    try:
        while standby.wait(settings, signals, lambda: teller("waiting"), successor):
            try:
                taken = take(settings)
            except (BrokerHeld, LedgerUnavailable) as error:
                log.info("= not taken over: %s", error)
                continue
            serve(standby.reachable(settings), signals, teller, *taken)
            return
        log.info("standby ended")
    finally:
        pidfile.release(settings)


class Teller:
    """Tells whoever started this broker what has become of it, a line each; nobody may listen any more."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def __call__(self, text: str) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.write(self._descriptor, text.encode() + b"\n")

    def end(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def take(settings: Settings) -> tuple[str, PostgresLedger, Recovered]:
    """Become the one who may write; the ledger's URL, the ledger, and what it holds of unfinished work.

    Raises
    ------
    BrokerHeld
        Another one lives; nothing was touched.
    LedgerUnavailable
    """
    url = embedded.connect_url(settings)
    schema.ensure(url)
    ledger = PostgresLedger(url)
    return url, ledger, ledger.take_over(f"{socket.gethostname()} pid {os.getpid()}")


def serve(
    settings: Settings, signals: SignalPort, teller: Teller, url: str, ledger: PostgresLedger, recovered: Recovered
) -> None:
    """Serve until told to stop, or until another broker has taken over.

    Raises
    ------
    StaleEpoch
        Another one has taken over.
    """
    _raise_file_limit()
    limits = Limits(budgets=budgets.read(settings.budgets))
    clock = SystemClock()
    desk = FrontDesk(url, ledger.numbers, settings.allow, settings.deny)
    context = zmq.Context()
    access, secret = access_file.make(settings)
    gatekeeper = Gatekeeper(context, _principals(access))
    router, access = _bind(context, settings, access, secret, limits)
    port = RouterPort(router, codec.TO_BROKER)
    sentry = Sentry(router)
    sockets, mounts = ledger.deployed({batch.code for batch in recovered.batches})
    machine = Broker(limits, recovered, sockets, mounts, clock.monotonic(), clock.utc(), ledger.weights())
    journal = Writer(ledger, desk, lambda: standby.revive(settings))
    pidfile.claim(settings, "broker")
    log.info("broker of instance %s at %s, epoch %d", settings.instance, access.endpoint, recovered.epoch)
    log.info("= recovered jobs=%d batches=%d", len(recovered.jobs), len(recovered.batches))
    teller("ready")
    teller.end()
    try:
        Loop(machine, clock, [port, gatekeeper, sentry, signals], port, journal).run()
    except StaleEpoch as error:
        log.error("%s", error)
        raise
    finally:
        sentry.close()
        port.close()
        gatekeeper.close()
        context.destroy(linger=500)
        journal.close()
        # before the ledger is let go: the next broker writes files of the same name
        pidfile.release(settings)
        ledger.close()
        log.info("broker ended")


def _raise_file_limit() -> None:
    """A descriptor for each connection: agents, clients, and whoever only knocks."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _principals(access: Access) -> dict[str, str]:
    """Public key -> role:user. The instance is its owner's, so both keys act for the owner."""
    return {access.client_public: "client:owner", access.agent_public: "agent:owner"}


def _bind(
    context: zmq.Context[zmq.Socket[bytes]], settings: Settings, access: Access, secret: str, limits: Limits
) -> tuple[zmq.Socket[bytes], Access]:
    """Listen where this instance listened before, so that agents and clients find the broker again."""
    host = settings.bind or "127.0.0.1"
    last = access.port if access.host == host else 0
    for port in dict.fromkeys((last, 0)):
        try:
            router, port = bind_tcp(context, host, port, secret, access.broker_public, limits.message_bytes_max)
        except zmq.ZMQError as error:
            if port and error.errno == zmq.EADDRINUSE:
                log.warning("port %d is in use; taking another", port)
                continue
            raise SettingsError(
                f"cannot listen on {host}: {error}", where=settings.origin.get("bind", "--bind"),
                fix="give an address of this machine with --bind or PYFI_BIND",
            ) from None  # fmt: skip
        there = msgspec.structs.replace(access, host=host, port=port)
        if there != access:
            access_file.write(settings, there)
        return router, there
    raise AssertionError("port 0 is any free port")


if __name__ == "__main__":
    main()
