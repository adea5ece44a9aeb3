"""The host of elastic allocations: runs the batch system's commands, asks the broker, keeps what was decided.

    python -m pyfi_hpc.hosts.elastic --instance I

It runs where the instance was started, because there are the batch system's commands. Nothing is lost with it: pools
and notes are files, all else is in the batch system's queue.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from pyfi_hpc.adapters import batch, filelock, pidfile
from pyfi_hpc.adapters.asking import Asker
from pyfi_hpc.adapters.batch_command import COMMAND_S_MAX
from pyfi_hpc.adapters.clock import SystemClock
from pyfi_hpc.adapters.signals import SignalPort
from pyfi_hpc.core.elastic import Elastic
from pyfi_hpc.errors import PyfiError, Refused
from pyfi_hpc.hosts import allocation, daemon, pools
from pyfi_hpc.loop import Loop
from pyfi_hpc.model import elastic as e
from pyfi_hpc.model.allocations import AllocationRequest, Note, Pool, mark_of, number_of
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.events import Signalled
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.messages import Message
from pyfi_hpc.settings import Settings

log = logging.getLogger("pyfi_hpc.elastic")

NAME = "elastic"
#: a broker that lives answers in milliseconds
_ASK_S = 5.0
#: lines of an allocation's output that are told where it came to nothing
_LINES = 3


@dataclass(slots=True)
class WriteState:
    """What a pool has come to, for people and for the next process."""

    pool: str
    told: dict[str, Any]


class Hands:
    """Does one thing after the other in a thread of its own: what it waits for may hang. A port for what came of it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asker = Asker(settings, NAME)
        self._todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._done: deque[Any] = deque()
        self.waitable = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="hands", daemon=True)
        self._thread.start()

    # --- the loop's side ---

    def do(self, action: Any) -> None:
        self._todo.put(action)

    def receive(self) -> list[Any]:
        with suppress(BlockingIOError):
            os.eventfd_read(self.waitable)
        return [self._done.popleft() for _ in range(len(self._done))]

    def send(self, peer: Peer, messages: Sequence[Message]) -> bool:
        """The machine of elastic allocations has no peers: whatever it were to send reaches nobody."""
        return False

    def close(self, limit_s: float) -> None:
        """What is under way is waited for: a submission must be noted."""
        self._todo.put(None)
        self._thread.join(limit_s)
        self._asker.close()

    # --- the thread ---

    def _run(self) -> None:
        while (action := self._todo.get()) is not None:
            if pidfile.down_asked(self._settings):
                self._tell(Signalled("stop"))
                return
            try:
                _WAYS[type(action)](self, action)
            except Exception:
                # a bug, or a disk that is full: without it the machine would wait for its answer for ever
                log.exception("! %s failed; ending", type(action).__name__)
                self._tell(Signalled("stop"))
                return

    def _tell(self, event: Any) -> None:
        self._done.append(event)
        os.eventfd_write(self.waitable, 1)

    def _ask_backlog(self, action: e.AskBacklog) -> None:
        shapes: list[Any] = []
        try:
            found = read(self._settings)
            shapes = pools.shapes(found.pools)
            self._tell(found)
        except PyfiError as error:
            log.warning("! %s", error)
        try:
            answer = self._asker.ask("backlog", {"shapes": shapes}, _ASK_S)
            self._tell(e.BacklogTold(msgspec.msgpack.decode(answer, type=e.Backlog)))
        except (PyfiError, msgspec.MsgspecError) as error:
            self._tell(e.BacklogTold(None, words_of(error)))

    def _read_status(self, action: e.ReadStatus) -> None:
        try:
            self._tell(e.StatusRead(action.system, batch.system(action.system).status(action.keys, COMMAND_S_MAX)))
        except PyfiError as error:
            self._tell(e.StatusRead(action.system, None, words_of(error)))

    def _submit(self, action: e.Submit) -> None:
        pool = action.pool
        try:
            key = batch.system(pool.system).submit(marked(self._settings, pool))
        except PyfiError as error:
            self._tell(e.SubmitEnded(pool.name, pool.system, "", words_of(error), unsure=error.transient))
            return
        allocation.note(self._settings, Note(key, pool.system, pool.name, pool.ranks, at=time.time()))
        self._tell(e.SubmitEnded(pool.name, pool.system, key))

    def _note(self, action: e.NoteJob) -> None:
        allocation.note(self._settings, action.note)

    def _forget(self, action: e.ForgetJob) -> None:
        allocation.forget(self._settings, action.key)

    def _cancel(self, action: e.Cancel) -> None:
        try:
            batch.system(action.system).cancel(action.key, only_waiting=action.only_waiting)
        except PyfiError as error:
            log.warning("! %s could not be ended: %s", action.key, error)

    def _give_back(self, action: e.GiveBack) -> None:
        try:
            self._asker.ask("give_back", {"allocation": action.key}, _ASK_S)
        except PyfiError as error:
            log.warning("! %s could not be given back: %s", action.key, error)

    def _read_ends(self, action: e.ReadEnds) -> None:
        told: dict[str, str] = {}
        with suppress(PyfiError):
            told = batch.system(action.system).ends(action.keys)
        said = {key: self._last_lines(key) for key in action.keys}
        self._tell(e.EndsRead({key: "; ".join(filter(None, (told.get(key, ""), said[key]))) for key in action.keys}))

    def _last_lines(self, key: str) -> str:
        """The end of a job's output, where it was written to our folder: what agents and ranks said before it ended."""
        number = number_of(key)
        for file in (self._settings.log_dir / f"pyfi-{number}.out", *self._settings.log_dir.glob(f"{number}*.OU")):
            with suppress(OSError):
                lines = file.read_text(errors="replace").splitlines()
                if lines:
                    return "its output ends with: " + " / ".join(lines[-_LINES:])[-500:]
        return ""

    def _write(self, action: WriteState) -> None:
        pools.write_state(self._settings, action.pool, action.told)

    def _log(self, action: e.Tell) -> None:
        log.info("= %s: %s", action.pool, action.text)
        at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        pools.write_log(self._settings, action.pool, f"{at} {action.text}")


_WAYS: dict[type, Callable[[Hands, Any], None]] = {
    e.AskBacklog: Hands._ask_backlog,
    e.ReadStatus: Hands._read_status,
    e.Submit: Hands._submit,
    e.NoteJob: Hands._note,
    e.ForgetJob: Hands._forget,
    e.Cancel: Hands._cancel,
    e.GiveBack: Hands._give_back,
    e.ReadEnds: Hands._read_ends,
    e.Tell: Hands._log,
    WriteState: Hands._write,
}


class Kept:
    """The machine, with its state written down when it has changed."""

    def __init__(self, hands: Hands, machine: Elastic) -> None:
        self._hands = hands
        self._machine = machine
        self._written: dict[str, dict[str, Any]] = {}
        self.stopped = False

    def handle(self, event: Any, now: float, out: Effects) -> None:
        self._machine.handle(event, now, out)

    def advance(self, now: float, out: Effects) -> None:
        self._machine.advance(now, out)
        self.stopped = self._machine.stopped
        for name in self._machine.pools:
            told = self._machine.told(name, now)
            if told != self._written.get(name):
                self._written[name] = told
                self._hands.do(WriteState(name, told))

    def wake_at(self) -> float:
        return self._machine.wake_at()


def words_of(error: Exception) -> str:
    """An error in one line."""
    return " ".join((error.what if isinstance(error, PyfiError) else str(error)).split())[:500]


def marked(settings: Settings, pool: Pool) -> AllocationRequest:
    """What is asked of the batch system for a pool."""
    return replace(pool.request, mark=mark_of(pools.tag(settings), pool.name))


def read(settings: Settings) -> e.PoolsRead:
    return e.PoolsRead(pools.stored(settings), allocation.noted(settings))


def saved(settings: Settings) -> dict[str, e.Saved]:
    found = {}
    for name in pools.stored(settings):
        with suppress(KeyError, TypeError, msgspec.MsgspecError):
            found[name] = msgspec.convert(pools.state(settings, name)["saved"], e.Saved)
    return found


def machine(settings: Settings, now: float) -> Elastic:
    """The machine of the stored pools."""
    pace = e.Pace.of(settings.batch_interval_s)
    return Elastic(pace, pools.tag(settings), read(settings), saved(settings), now, time.time())


def main() -> None:
    settings = daemon.load(daemon.arguments(NAME).parse_args())
    daemon.start_log(settings, NAME)
    try:
        run(settings)
    except PyfiError as error:
        daemon.fail(error, error.exit_code)
    except Exception:
        log.exception("this is a bug; pools and notes are files, and the next one goes on")
        raise


def run(settings: Settings) -> None:
    """Serve until told to stop, or until no pool and no allocation of one is left."""
    lock = settings.instance_dir / "elastic.lock"
    place = filelock.take(lock)
    if place is None:
        raise Refused(
            f"another process sees to the allocations of this instance, pid {filelock.text(lock) or 'unknown'}",
            where=str(lock), fix="one is enough: `pyfi alloc ls` shows what it does",
        )  # fmt: skip
    os.ftruncate(place, 0)
    os.write(place, b"%d" % os.getpid())
    pidfile.claim(settings, NAME)
    signals = SignalPort()
    clock = SystemClock()
    hands = Hands(settings)
    try:
        kept = Kept(hands, machine(settings, clock.monotonic()))
        log.info("elastic allocations of instance %s", settings.instance)
        Loop(kept, clock, [hands, signals], hands, doer=hands).run()
    finally:
        hands.close(COMMAND_S_MAX)
        pidfile.release(settings)
        lock.unlink(missing_ok=True)
        os.close(place)
        log.info("elastic allocations: ended")


if __name__ == "__main__":
    main()
