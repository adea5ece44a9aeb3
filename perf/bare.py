"""What do the bare parts of one call take on this machine, with nothing of ours between them?

    python perf/bare.py

A call goes client - broker - agent and back over two CURVE connections, agent - rank over a third one without,
rank - runner through a pipe, and waits for two commits. Each part here is a process that only sends back.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import bench
import psycopg2
import zmq
from bench import Figure

from pyfi_hpc.ledger import embedded
from pyfi_hpc.ledger.connection import connect
from pyfi_hpc.settings import Settings

_BYTES = b"x" * 200


@contextmanager
def round_trip(settings: Settings) -> Iterator[Callable[[int], float]]:
    """A function that measures so many calls' worth of bare parts: the median, milliseconds."""
    with ExitStack() as stack:
        line = stack.enter_context(_line("tcp://127.0.0.1:*", curve=True))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        local = stack.enter_context(_line(f"ipc://{folder}/bare", curve=False))
        pipe = stack.enter_context(_pipe())
        commit = stack.enter_context(_commit(settings))

        def call() -> None:
            line()
            commit()
            line()
            local()
            pipe()
            commit()

        yield lambda count: 1000 * statistics.median(bench.timed(call) for _ in range(count))


@contextmanager
def _line(endpoint: str, curve: bool) -> Iterator[Callable[[], Any]]:
    keys = (*zmq.curve_keypair(), *zmq.curve_keypair()) if curve else ()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_echo, args=(endpoint, keys, theirs), daemon=True)
    process.start()
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    if keys:
        dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = keys[0], keys[2], keys[3]
    dealer.connect(ours.recv())
    poller = zmq.Poller()
    poller.register(dealer, zmq.POLLIN)

    def there_and_back() -> None:
        dealer.send(_BYTES)
        assert poller.poll(10_000), "the echo is silent"
        dealer.recv()

    try:
        yield there_and_back
    finally:
        context.destroy(linger=0)
        process.terminate()
        process.join()


def _echo(endpoint: str, keys: tuple[bytes, ...], told: Any) -> None:
    router = zmq.Context().socket(zmq.ROUTER)
    if keys:
        router.curve_server, router.curve_publickey, router.curve_secretkey = 1, keys[0], keys[1]
    router.bind(endpoint)
    told.send(router.getsockopt_string(zmq.LAST_ENDPOINT))
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    while True:
        poller.poll()
        router.send_multipart(router.recv_multipart())


@contextmanager
def _pipe() -> Iterator[Callable[[], Any]]:
    down, up = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(down[1])
        while data := os.read(down[0], 4096):
            os.write(up[1], data)
        os._exit(0)

    def there_and_back() -> None:
        os.write(down[1], _BYTES)
        os.read(up[0], 4096)

    try:
        yield there_and_back
    finally:
        for end in (*down, *up):
            os.close(end)
        os.waitpid(child, 0)


@contextmanager
def _commit(settings: Settings) -> Iterator[Callable[[], Any]]:
    """A row of 200 bytes into a table of its own, durable."""
    connection = connect(embedded.connect_url(settings))
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE bare (row bytea)")
    row = psycopg2.Binary(_BYTES)
    try:
        yield lambda: cursor.execute("INSERT INTO bare VALUES (%s)", (row,))
    finally:
        cursor.execute("DROP TABLE bare")
        connection.close()


def main() -> int:
    print(f"{bench.machine()}, commit {bench.commit()}")
    with bench.fresh_instance(0) as settings, round_trip(settings) as measure:
        measure(100)
        runs = tuple(measure(200) for _ in range(5))
    print(Figure("bare parts of one call", runs, "ms", 0, False).line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
