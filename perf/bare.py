"""What do the bare parts of one call take on this machine, with nothing of ours between them?

    python perf/bare.py

A call goes client - broker - agent and back over two CURVE connections, agent - rank over a Unix socket,
rank - runner through a pipe, and waits for two commits. Each part here is a process that only sends back.
"""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import random
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import bench
import figure
import psycopg2
import zmq
from figure import Figure

from pyfi_hpc.ledger import embedded
from pyfi_hpc.ledger.connection import connect
from pyfi_hpc.settings import Settings

#: arguments and envelope of a small call, bytes
CALL_BYTES = 200
#: of one task in a batch of small ones: number, argument, offset
TASK_BYTES = 12
#: larger rows go by COPY
_INSERT_BYTES_MAX = 32 << 10
#: larger messages are not copied on their way to ZeroMQ
_COPIED_BYTES_MAX = 64 << 10

Part = Callable[[bytes], Any]
_tables = itertools.count()


class Parts:
    """The bare parts; each sends so many bytes there and back, or makes them durable."""

    def __init__(self, line: Part, local: Part, pipe: Part, commit: Part) -> None:
        self._line, self._local, self._pipe, self._commit = line, local, pipe, commit

    def call(self, size: int = CALL_BYTES, kept: int | None = None) -> None:
        """One call or batch: to the broker and back, to the agent and back, to the rank and its runner, two commits,
        each of ``kept`` bytes where that is not all."""
        data = _data(size)
        self._line(data)
        self._commit(data[:kept])
        self.link(size, kept)

    def link(self, size: int = CALL_BYTES, kept: int | None = None) -> None:
        """One call whose argument the broker has: to the agent, the rank, its runner, and back; one commit."""
        data = _data(size)
        self._line(data)
        self._local(data)
        self._pipe(data)
        self._commit(data[:kept])

    def call_ms(self, count: int) -> float:
        """Median of so many calls."""
        return 1000 * statistics.median(bench.timed(self.call) for _ in range(count))

    def tasks_per_s(self, tasks: int, in_batch: int, size: int = TASK_BYTES) -> float:
        """Tasks in batches, one batch after the other."""
        batches = -(-tasks // in_batch)
        begun = time.perf_counter()
        for _ in range(batches):
            self.call(in_batch * size)
        return batches * in_batch / (time.perf_counter() - begun)


def _data(size: int) -> bytes:
    """Bytes that nothing can make smaller."""
    return _RANDOM[:size] if size <= len(_RANDOM) else random.Random(size).randbytes(size)


_RANDOM = random.Random(0).randbytes(16 << 20)


@contextmanager
def lanes(settings: Settings, count: int) -> Iterator[Callable[[int, int, int], float]]:
    """Large calls on so many sets of parts at once, so that no core waits while another part works: a function of
    calls, bytes of each, and bytes of those that are made durable; it tells calls a second."""
    with ExitStack() as stack:
        sets = [stack.enter_context(parts(settings)) for _ in range(count)]
        pool = stack.enter_context(ThreadPoolExecutor(count))

        def calls_per_s(calls: int, size: int, kept: int) -> float:
            each = -(-calls // count)

            def one(lane: Parts) -> None:
                for _ in range(each):
                    lane.call(size, kept)

            return each * count / bench.timed(lambda: list(pool.map(one, sets)))

        yield calls_per_s


@contextmanager
def parts(settings: Settings) -> Iterator[Parts]:
    """The parts, beside an instance whose Postgres takes the commits."""
    with ExitStack() as stack:
        line = stack.enter_context(_line())
        local = stack.enter_context(_forked(*_socket_pair()))
        pipe = stack.enter_context(_forked(*_pipes()))
        made = Parts(line, local, pipe, stack.enter_context(_commit(settings)))
        made.call_ms(20)
        yield made


@contextmanager
def _line() -> Iterator[Part]:
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

    def there_and_back(data: bytes) -> None:
        dealer.send(data, copy=len(data) < _COPIED_BYTES_MAX)
        assert poller.poll(10_000), "the echo is silent"
        dealer.recv(copy=len(data) < _COPIED_BYTES_MAX)

    try:
        yield there_and_back
    finally:
        context.destroy(linger=0)
        process.kill()
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
        peer, frame = router.recv_multipart(copy=False)
        router.send_multipart((peer, frame), copy=False)


#: the end that is written to, and the one that is read from
_Ends = tuple[int, int]


def _pipes() -> tuple[_Ends, _Ends]:
    down, up = os.pipe(), os.pipe()
    return (down[1], up[0]), (up[1], down[0])


def _socket_pair() -> tuple[_Ends, _Ends]:
    ours, theirs = (end.detach() for end in socket.socketpair())
    return (ours, os.dup(ours)), (theirs, os.dup(theirs))


@contextmanager
def _forked(ours: _Ends, theirs: _Ends) -> Iterator[Part]:
    child = os.fork()
    if not child:
        for end in ours:
            os.close(end)
        while size := int.from_bytes(os.read(theirs[1], 4), "little"):
            _write(theirs[0], _read(theirs[1], size))
        os._exit(0)

    def there_and_back(data: bytes) -> None:
        _write(ours[0], len(data).to_bytes(4, "little") + data)
        _read(ours[1], len(data))

    try:
        yield there_and_back
    finally:
        for end in (*ours, *theirs):
            os.close(end)
        os.waitpid(child, 0)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read(descriptor: int, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        found += os.read(descriptor, min(size - len(found), 1 << 16))
    return bytes(found)


@contextmanager
def _commit(settings: Settings) -> Iterator[Part]:
    """A row into a table of its own, durable; a large one as binary COPY, stored as it is."""
    connection = connect(embedded.connect_url(settings))
    cursor = connection.cursor()
    table = f"bare_{next(_tables)}"
    cursor.execute(f"CREATE TABLE {table} (row bytea); ALTER TABLE {table} ALTER row SET STORAGE EXTERNAL")

    def durable(data: bytes) -> None:
        if len(data) <= _INSERT_BYTES_MAX:
            cursor.execute(f"INSERT INTO {table} VALUES (%s)", (psycopg2.Binary(data),))
            return
        head = b"PGCOPY\n\xff\r\n\0" + bytes(8)
        row = struct.pack(">hi", 1, len(data)) + data + struct.pack(">h", -1)
        cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT binary)", io.BytesIO(head + row))

    try:
        yield durable
    finally:
        cursor.execute(f"DROP TABLE {table}")
        connection.close()


def main() -> int:
    with bench.fresh_instance(0) as settings, parts(settings) as bare:
        calls = tuple(bare.call_ms(200) for _ in range(5))
        tasks = tuple(bare.tasks_per_s(50_000, 2048) for _ in range(5))
    found = [
        Figure("bare parts of one call", calls, "ms", False),
        Figure("bare parts of batches of 2048", tasks, "tasks/s", True),
    ]
    print("\n".join(figure.table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
