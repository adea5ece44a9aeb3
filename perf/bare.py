"""What do the bare parts of one call take on this machine, with nothing of ours between them?

    python perf/bare.py

A call goes client - broker - agent and back over two CURVE connections, agent - rank over a Unix socket, rank - runner
through a pipe, and waits for two commits. Each part here is a process that only sends back.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import sys
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
        line = stack.enter_context(_line())
        local = stack.enter_context(_forked(*_socket_pair()))
        pipe = stack.enter_context(_forked(*_pipes()))
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
def _line() -> Iterator[Callable[[], Any]]:
    keys = (*zmq.curve_keypair(), *zmq.curve_keypair())
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_echo, args=(keys, theirs), daemon=True)
    process.start()
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
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


def _echo(keys: tuple[bytes, ...], told: Any) -> None:
    router = zmq.Context().socket(zmq.ROUTER)
    router.curve_server, router.curve_publickey, router.curve_secretkey = 1, keys[0], keys[1]
    router.bind("tcp://127.0.0.1:*")
    told.send(router.getsockopt_string(zmq.LAST_ENDPOINT))
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    while True:
        poller.poll()
        router.send_multipart(router.recv_multipart())


#: the end that is written to, and the one that is read from
_Ends = tuple[int, int]


def _pipes() -> tuple[_Ends, _Ends]:
    down, up = os.pipe(), os.pipe()
    return (down[1], up[0]), (up[1], down[0])


def _socket_pair() -> tuple[_Ends, _Ends]:
    ours, theirs = (end.detach() for end in socket.socketpair())
    return (ours, os.dup(ours)), (theirs, os.dup(theirs))


@contextmanager
def _forked(ours: _Ends, theirs: _Ends) -> Iterator[Callable[[], Any]]:
    child = os.fork()
    if not child:
        for end in ours:
            os.close(end)
        while data := os.read(theirs[1], 4096):
            os.write(theirs[0], data)
        os._exit(0)

    def there_and_back() -> None:
        os.write(ours[0], _BYTES)
        os.read(ours[1], 4096)

    try:
        yield there_and_back
    finally:
        for end in (*ours, *theirs):
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
