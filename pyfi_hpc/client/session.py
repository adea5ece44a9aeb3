"""A session: one process's connection to the broker of one instance.

One background thread owns the ZeroMQ socket and the conversation; callers put commands into a queue and wake
the thread only when it sleeps. Everything queued since its last round goes as one frame, so a loop of calls
is sent in large pieces by itself while a lone call leaves at once.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import pwd
import secrets
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from pyfi_hpc import settings as settings_module
from pyfi_hpc.adapters.access import read
from pyfi_hpc.client.answers import encode_body
from pyfi_hpc.client.calls import Gatherer
from pyfi_hpc.client.conversation import Conversation
from pyfi_hpc.client.link import Link
from pyfi_hpc.client.room import Room
from pyfi_hpc.client.sinks import Inbox, Pending, Sink, Submission, Waiter
from pyfi_hpc.client.watching import RETAINED_BYTES_MAX
from pyfi_hpc.errors import (
    BrokerUnreachable,
    LocalProtocolError,
    PyfiError,
    RemoteProtocolError,
)
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.settings import Settings
from pyfi_hpc.wire.codec import TO_CLIENT, decode

logger = logging.getLogger("pyfi_hpc.client")


class Session:
    """A connection to an instance; made once per process by ``current``.

    Parameters
    ----------
    settings : Settings
        Which instance, and how long a silent broker is borne (``timeout_s``).
    limits : Limits, optional
        Only tests make them small.

    Raises
    ------
    BrokerUnreachable
        No such instance. A broker that does not answer shows at the first call that needs an answer.
    Refused, SettingsError
        The access file is not safe or damaged.
    """

    def __init__(self, settings: Settings, limits: Limits | None = None) -> None:
        self.settings = settings
        self._limits = limits or Limits()
        self._access = read(settings)
        self._setup()

    def _setup(self) -> None:
        """State of this process: made again in a forked child, which shares nothing with its parent."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._room = Room()
        self._requests = itertools.count(1)
        self._commands: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._calls: deque[Any] = deque()
        self._asleep = False
        self._stopping = self._stopped = False
        self._thread: threading.Thread | None = None
        self._gather = Gatherer(self._enter, self._room.give)
        self._ended_by: BaseException | None = None
        self._talk = self._new_talk()

    def _new_talk(self) -> Conversation:
        name = f"{_user()}@{socket.gethostname()}:{self._pid}"
        timeout_s = self.settings.timeout_s
        return Conversation(name, secrets.token_hex(8), timeout_s, self._room.give, self._limits)

    # --- what callers use ---

    def open(self, sink: Sink) -> Submission:
        """A new job; its batches follow through ``submit``."""
        return Submission(sink)

    def submit(self, submission: Submission, message: m.Submit) -> None:
        """Send one batch; blocks while too much is unacknowledged.

        Raises
        ------
        PyfiError
            The job was refused already, or the broker is silent for too long.
        """
        self.ready()
        pending = Pending(submission, message)
        self.reserve(message.count, pending.size)
        if submission.error is not None:
            self._room.give(message.count, pending.size)
            raise submission.error
        self.post(self._enter, pending)

    def reserve(self, tasks: int, size: int) -> None:
        """Take part of what may be unacknowledged; waits for room, except in the session's own thread."""
        self._room.take(tasks, size, threading.current_thread() is not self._thread)

    def call(self, call: Any) -> None:
        """Hand over a call that may travel with others; its room was reserved. See calls.Gatherer."""
        self._calls.append(call)
        if self._asleep:
            self._wake()
        if self._stopped:
            self._reject()

    def watch(self, job: int) -> Inbox:
        """Read a job from its start and go on as it runs."""
        self.ready()
        inbox = self.inbox()
        inbox.job = job
        self.post(self._watch, inbox)
        return inbox

    def inbox(self, retains: bool = False) -> Inbox:
        return Inbox(self.may_wait, retains=retains)

    def ask(
        self,
        verb: str,
        body: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        repeat: bool = False,
    ) -> Any:
        """Ask the broker's desk for anything that is not a submission.

        Parameters
        ----------
        verb : str
            One of the desk's verbs.
        body : dict, optional
            Its arguments: plain values, sent as msgpack.
        timeout : float, optional
            Seconds; None waits as long as the broker shows signs of life.
        repeat : bool
            Asking twice does no harm, so ask again if the connection is lost.

        Raises
        ------
        PyfiError
            The class that the broker named, with its words.
        BrokerUnreachable
            Silence for ``timeout_s``, or the connection was lost before the answer.
        TimeoutError
            No answer within ``timeout``.
        """
        return self._await(m.Ask(next(self._requests), verb, encode_body(body or {})), timeout, repeat)

    def cancel(self, job: int, first: int = 0, count: int = -1, timeout: float | None = None) -> int:
        """End tasks of a job; returns how many this request ended. ``count`` -1: all from ``first``."""
        return int(self._await(m.Cancel(next(self._requests), job, first, count), timeout, True))

    def set_hold(self, job: int, on_hold: bool, timeout: float | None = None) -> dict[str, Any]:
        """Put a job on hold, or release it; what the broker says of it then. Doing it twice does no harm."""
        answer: dict[str, Any] = self.ask("job_hold" if on_hold else "job_release", {"job": job}, timeout, repeat=True)
        return answer

    def cancel_later(self, submission: Submission) -> None:
        """End a job without waiting for the answer, as soon as its id is known."""
        if not self._stopped and self._pid == os.getpid():
            self.post(self._cancel_later, submission)

    def taken(self, size: int) -> None:
        """A slow reader took so many bytes of results."""
        watching = self._talk.watching
        with self._lock:
            before = watching.retained_bytes
            watching.taken_bytes += size
        if before > RETAINED_BYTES_MAX // 2 >= before - size:
            self.post(_nothing)

    def release(self, inbox: Inbox) -> None:
        """Results of this inbox do not shut the window any more: it is to be filled to its end."""
        self.post(self._release, inbox)

    @property
    def payload_bytes_max(self) -> int:
        """One task's arguments, bytes."""
        return self._talk.payload_bytes_max

    @property
    def address(self) -> str:
        return self._access.endpoint

    def may_wait(self, what: str) -> None:
        """Raise where waiting would never end: in a forked child, and in a future's callback."""
        if os.getpid() != self._pid:
            raise LocalProtocolError(
                "this future belongs to the process that this one was forked from",
                fix="wait there, or pyfi_hpc.attach() the job here",
            )
        if threading.current_thread() is self._thread:
            raise LocalProtocolError(
                f"waiting for {what} inside a future's callback would wait for ever",
                fix="wait in another thread, or chain the calls by passing the future as an argument",
            )

    def wait_accepted(self, known: Callable[[], bool]) -> None:
        """Wait until ``known``; asked again at every acknowledgement. Bounded by ``timeout_s`` of silence."""
        if known():
            return
        self.may_wait("an id")
        self._room.wait(known)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything submitted is acknowledged or refused; False: not within ``timeout``."""
        return self._room.wait_empty(timeout)

    def close(self) -> None:
        """Wait for acknowledgements (at most ``timeout_s``), then disconnect. Jobs go on."""
        thread = self._thread
        if thread is None or self._pid != os.getpid():
            return
        if threading.current_thread() is not thread:
            self.flush(self.settings.timeout_s)
        self._stopping = True
        self.post(_nothing)
        if threading.current_thread() is not thread:
            thread.join(self.settings.timeout_s)

    # --- how callers reach the thread ---

    def post(self, command: Callable[..., None], *args: Any) -> None:
        """Run a command in the session's thread, before its next round of messages."""
        self._commands.append((command, args))
        if self._asleep:
            self._wake()
        if self._stopped:
            self._reject()

    def ready(self) -> None:
        """The thread runs; started anew after a fork, a close or a refusal."""
        if self._pid != os.getpid():
            self._access = read(self.settings)
            self._setup()
        with self._lock:
            if self._thread is not None and not self._stopped:
                return
            if self._thread is not None:
                self._access = read(self.settings)
                self._room = Room()
                self._talk = self._new_talk()
                self._gather = Gatherer(self._enter, self._room.give)
                self._stopping = self._stopped = False
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            self._waker = ours
            self._thread = threading.Thread(
                target=self._run, args=(theirs,), name="pyfi-session", daemon=True
            )
            self._thread.start()
            _started.add(self)

    def _wake(self) -> None:
        self._asleep = False
        try:
            self._waker.send(b".")
        except OSError:  # full: it is awake anyway; closed: it has ended
            pass

    def _await(self, message: m.Message, timeout: float | None, repeat: bool) -> Any:
        self.ready()
        self.may_wait("an answer")
        waiter = Waiter(message, repeat)
        self.post(self._ask, waiter)
        try:
            return waiter.wait(timeout)
        except TimeoutError:
            self.post(self._talk.forget, waiter)
            raise

    # --- the thread ---

    def _enter(self, pending: Pending) -> None:
        pending.message.project = pending.message.project or self.settings.project
        self._talk.submit(pending, time.monotonic())

    def _cancel_later(self, submission: Submission) -> None:
        if submission.job:
            self._ask(Waiter(m.Cancel(next(self._requests), submission.job, 0, -1), True))
        elif submission.error is None:
            submission.listeners.append(self._cancel_later)

    def _release(self, inbox: Inbox) -> None:
        if inbox.retains:
            inbox.retains = False
            self._talk.watching.kept_bytes -= inbox.size

    def _watch(self, inbox: Inbox) -> None:
        self._talk.watch(inbox.job, inbox, time.monotonic())

    def _ask(self, waiter: Waiter) -> None:
        self._talk.ask(waiter, time.monotonic())

    def _run(self, wakened: socket.socket) -> None:
        link, waker = Link(wakened), self._waker
        error: BaseException = BrokerUnreachable("the session was closed", where=self._access.endpoint)
        try:
            link.connect(self._access)
            self._talk.connected(self._access.endpoint, time.monotonic())
            while not (self._stopping and not self._commands and not self._calls):
                self._round(link)
                if self._talk.fatal is not None:
                    raise self._talk.fatal
        except PyfiError as problem:
            error = problem
        except BaseException as problem:
            logger.exception("the client's session failed")
            error = problem
        finally:
            self._talk.end(error)
            self._gather.end(error)
            self._ended_by, self._stopped = error, True
            self._room.close()
            self._reject()
            link.close()
            wakened.close()
            waker.close()

    def _round(self, link: Link) -> None:
        talk = self._talk
        while self._commands:
            command, args = self._commands.popleft()
            command(*args)
        if self._calls:
            self._gather(self._calls)
        now = time.monotonic()
        talk.advance(now)
        if talk.awakened:
            talk.awakened = False
            self._follow(link, now, moved_only=True)
        if talk.reconnect:
            self._follow(link, now, moved_only=False)
        link.send(talk.out)
        self._asleep = True
        if self._commands or self._calls or self._stopping:
            self._asleep = False
        wait = self._asleep and not self._stopping
        frames = link.receive(talk.wake_at(now) - time.monotonic() if wait else 0.0)
        self._asleep = False
        for frame in frames:
            self._hear(frame)

    def _hear(self, frame: memoryview) -> None:
        now = time.monotonic()
        try:
            for message in decode(frame, TO_CLIENT):
                self._talk.handle(message, now)
        except RemoteProtocolError as error:
            logger.warning("dropped a message of the broker: %s", error)

    def _follow(self, link: Link, now: float, moved_only: bool) -> None:
        """The broker may have been started again elsewhere: its access file tells."""
        try:
            access = read(self.settings)
        except PyfiError as error:
            logger.debug("= no access file: %s", error)
            access = self._access
        if access == self._access and moved_only:
            return
        self._access = access
        link.connect(access)
        self._talk.connected(access.endpoint, now)

    def _reject(self) -> None:
        """The thread has ended: what was queued behind its back ends as everything else did."""
        error = self._ended_by or BrokerUnreachable("the session was closed", where=self._access.endpoint)
        while self._commands:
            command, args = self._commands.popleft()
            if command == self._enter:
                args[0].submission.error = error
                args[0].submission.sink.fail(error, False)
            elif command == self._ask:
                args[0].answer(error=error)
            elif command == self._watch:
                args[0].fail(error, False)
        while self._calls:
            self._calls.popleft().fail(error)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container whose passwd file lacks this user
        return str(os.getuid())


def _nothing() -> None:
    """A command whose only effect is a round."""


#: the default ones, by process and access file
_sessions: dict[tuple[int, str], Session] = {}
#: all that were started in this process
_started: weakref.WeakSet[Session] = weakref.WeakSet()
_sessions_lock = threading.Lock()


def current(instance: str | None = None) -> Session:
    """The session of this process with an instance; made at the first call, closed at exit.

    Raises
    ------
    BrokerUnreachable
        No such instance runs here; the text tells where it was looked for.
    """
    settings = settings_module.load(instance=instance)
    key = (os.getpid(), str(settings.access_file))
    with _sessions_lock:
        session = _sessions.get(key)
        if session is None:
            session = _sessions[key] = Session(settings)
        return session


def close_all() -> None:
    """Close the sessions of this process; each waits for what is not acknowledged."""
    _sessions.clear()
    for session in list(_started):
        session.close()


def _after_fork() -> None:
    # The parent may have held it at the fork; the child has no session of its own yet.
    global _sessions_lock
    _sessions_lock = threading.Lock()
    _sessions.clear()
    _started.clear()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(close_all)
