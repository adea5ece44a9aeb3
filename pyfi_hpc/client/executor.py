"""The Executor: the tongue that Python programs speak already.

with Executor() as ex:
    print(sum(ex.map("hello.square", range(1000))))
    future = ex.submit("hello.square", 7)
    print(ex.submit("hello.square", future).result())      # the value passes from task to task
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterable
from typing import Any

from pyfi_hpc.client import session as session_module
from pyfi_hpc.client.arguments import Slots, encode_arguments
from pyfi_hpc.client.calls import CALL_BYTES, Future
from pyfi_hpc.client.mapping import MapResults, MapStream
from pyfi_hpc.client.options import DEFAULT, Options
from pyfi_hpc.client.session import Session
from pyfi_hpc.client.target import socket_name
from pyfi_hpc.errors import UsageError

__all__ = ["Executor", "Future"]


class Executor(concurrent.futures.Executor):
    """Runs functions of deployed code on the ranks of an instance.

    Parameters
    ----------
    instance : str, optional
        The instance's name; else ``PYFI_INSTANCE``, else the default one.
    session : Session, optional
        A connection of your own instead of the process's.
    **options
        As for ``with_options``.

    Raises
    ------
    BrokerUnreachable
        No such instance is running here.

    Notes
    -----
    Cost in this process: about 20 us for a call with its future, 5 us for an element of a map.
    """

    def __init__(
        self, instance: str | None = None, *, session: Session | None = None, **options: Any
    ) -> None:
        self._options = DEFAULT.but(**options) if options else DEFAULT
        self._session = session if session is not None else session_module.current(instance)
        self._session.ready()
        self._crowd: set[Future] = set()
        self._maps: set[MapStream] = set()
        self._closed: list[bool] = []

    @property
    def session(self) -> Session:
        return self._session

    def with_options(self, **options: Any) -> Executor:
        """The same executor for calls with other options; ``shutdown`` of either is that of both.

        Parameters
        ----------
        **options
            ``retries`` (of calls that raise), ``time_limit`` (seconds or text such as "5m" or "1:00:00"),
            ``priority`` (higher first), ``name`` (of the job, for people), ``size`` (how large each call is, in any
            measure of yours: how long calls take is learned apart for each power of two), ``project``,
            ``preemptible``, ``hold`` (nothing starts before ``Job.release`` or `pyfi release`), and what a call needs.

        Examples
        --------
        >>> ex.with_options(retries=2, time_limit="5m").submit("sim.run", 7)     # doctest: +SKIP
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._options = self._options.but(**options)
        return view

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future:
        """Call a socket; the future comes back at once, the call is in the ledger when its ``id`` is known.

        Parameters
        ----------
        fn
            A socket's name, a Socket, a function of ``functions``, or a plain function of a deployed module.
        *args, **kwargs
            Plain data and arrays; futures of other calls at any depth of lists, tuples and dict values.

        Raises
        ------
        UnknownSocket
            A function that cannot be deployed (a lambda, of ``__main__``); the text says how to deploy one.
        Unserialisable, TooLarge
            An argument cannot be sent; the text names it.
        """
        if self._closed:
            raise RuntimeError("cannot submit after shutdown")
        return submit_call(self._session, self._options, socket_name(fn), args, kwargs, self._crowd)

    def map(
        self, fn: Any, /, *iterables: Iterable[Any], timeout: float | None = None,
        chunksize: int | None = None, buffersize: int | None = None,
    ) -> MapResults:  # fmt: skip
        """Call a socket for each tuple of the iterables' elements; iterate over the results in order.

        Parameters
        ----------
        timeout : float, optional
            Seconds from now until which each result must be there.
        chunksize : int, optional
            Tasks in a batch; left out, it grows from 32 to 2048, at most about 1 MB.
        buffersize : int, optional
            Accepted as in Python 3.14; the look-ahead is bounded anyway.

        Returns
        -------
        MapResults
            An iterator; ``.id`` is the job's id. A call that raised raises where its result would be.
        """
        if self._closed:
            raise RuntimeError("cannot submit after shutdown")
        if not iterables:
            raise UsageError("map needs at least one iterable", fix="map(fn, range(10))")
        calls = zip(*iterables, strict=False)
        stream = MapStream(self._session, socket_name(fn), self._options, calls, chunksize)
        self._maps.add(stream)
        try:
            stream.fill()
        except BaseException:
            self._maps.discard(stream)
            raise
        return MapResults(stream, timeout, self._maps.discard)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; wait for those that were submitted, or cancel them.

        The connection stays for others of this process. Calls in the ledger go on, also with ``wait=False``.
        """
        self._closed.append(True)
        if cancel_futures:
            for stream in list(self._maps):
                stream.stop()
            for future in list(self._crowd):
                future.cancel()
        if wait:
            for stream in list(self._maps):
                stream.finish()
                self._maps.discard(stream)
            concurrent.futures.wait(list(self._crowd))
        self._session.flush(self._session.settings.timeout_s)


def submit_call(
    session: Session, options: Options, name: str, args: tuple[Any, ...], kwargs: dict[str, Any],
    crowd: set[Future] | None = None,
) -> Future:  # fmt: skip
    """One call through a session; shared by Executor and Socket."""
    session.ready()
    slots = Slots(session)
    payload = encode_arguments(args, kwargs, slots, session.payload_bytes_max, name)
    session.reserve(1, len(payload) + CALL_BYTES)
    future = Future(session, name, options, payload, slots.needs or None, crowd)
    session.call(future)
    return future
