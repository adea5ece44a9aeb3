"""The broker's host: picks adapters, builds the machine, runs the loop.

    python -m pyfi_hpc.hosts.broker --instance I [--bind ADDRESS] [--ledger URL] [--in-job]

With ``--in-job`` it runs on the first node of an allocation, and the embedded ledger with it: see ``hosts.in_job``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import socket

import msgspec
import zmq
from sqlalchemy.orm import Session

from pyfi_hpc.adapters import access as access_file
from pyfi_hpc.adapters import pidfile
from pyfi_hpc.adapters.access import Access
from pyfi_hpc.adapters.clock import SystemClock
from pyfi_hpc.adapters.router import Gatekeeper, RouterPort, Sentry, bind_tcp
from pyfi_hpc.adapters.signals import SignalPort
from pyfi_hpc.core.broker import Broker
from pyfi_hpc.errors import PyfiError, SettingsError, SiteError, StaleEpoch
from pyfi_hpc.hosts import daemon, in_job
from pyfi_hpc.ledger import deployments, embedded, schema
from pyfi_hpc.ledger.connection import make_engine
from pyfi_hpc.ledger.desk import Desk
from pyfi_hpc.ledger.postgres import PostgresLedger
from pyfi_hpc.ledger.writer import Writer
from pyfi_hpc.loop import Loop
from pyfi_hpc.model import budgets
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.settings import Settings
from pyfi_hpc.wire import codec

log = logging.getLogger("pyfi_hpc.broker")


def main() -> None:
    parser = daemon.arguments("broker")
    parser.add_argument("--bind", help="address to listen on; default 127.0.0.1")
    parser.add_argument("--ledger", help="URL of the ledger's Postgres; default: the embedded one")
    parser.add_argument("--in-job", action="store_true", help="in an allocation; the ledger starts and ends with it")
    parser.add_argument("--ready-fd", type=int, help="descriptor to write 'ready' to, or the error as JSON")
    options = parser.parse_args()
    settings = daemon.load(options)
    daemon.start_log(settings, "broker")
    try:
        if options.in_job:
            with in_job.ledger(settings) as settings:
                run(settings, options)
        else:
            run(settings, options)
    except PyfiError as error:
        _tell(options.ready_fd, json.dumps([error.code, error.what, error.where, error.fix]))
        daemon.fail(error, error.exit_code)
    except Exception:
        log.exception("this is a bug; the ledger makes it safe to end here")
        raise


def run(settings: Settings, options: argparse.Namespace) -> None:
    """Serve until told to stop, or until another broker has taken over."""
    if not zmq.has("curve"):
        raise SiteError("this libzmq has no CURVE: connections could not be encrypted", fix="install pyzmq's wheel")
    _raise_file_limit()
    limits = Limits(budgets=budgets.read(settings.budgets))
    clock = SystemClock()
    signals = SignalPort()
    url = embedded.connect_url(settings)
    schema.upgrade(url)
    ledger = PostgresLedger(url)
    recovered = ledger.take_over(f"{socket.gethostname()} pid {os.getpid()}")
    engine = make_engine(url)
    desk = Desk(engine)
    context = zmq.Context()
    access, secret = access_file.make(settings)
    gatekeeper = Gatekeeper(context, _principals(access))
    router, access = _bind(context, settings, access, secret, limits)
    port = RouterPort(router, codec.TO_BROKER)
    sentry = Sentry(router)
    with Session(engine) as session:
        mounts = deployments.mounts(session, {batch.code for batch in recovered.batches})
    machine = Broker(limits, recovered, desk.sockets().sockets, mounts, clock.monotonic(), clock.utc())
    journal = Writer(ledger, desk)
    mark = pidfile.claim(settings, "broker")
    log.info("broker of instance %s at %s, epoch %d", settings.instance, access.endpoint, recovered.epoch)
    log.info("= recovered jobs=%d batches=%d", len(recovered.jobs), len(recovered.batches))
    _tell(options.ready_fd, "ready")
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
        ledger.close()
        mark.unlink(missing_ok=True)
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
        access = msgspec.structs.replace(access, host=host, port=port)
        access_file.write(settings, access)
        return router, access
    raise AssertionError("port 0 is any free port")


def _tell(descriptor: int | None, text: str) -> None:
    if descriptor is not None:
        os.write(descriptor, text.encode())
        os.close(descriptor)


if __name__ == "__main__":
    main()
