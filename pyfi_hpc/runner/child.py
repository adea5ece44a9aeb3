"""The runner: calls one module's functions in the user's own environment, one task after the other.

Started by a rank as ``ENV/bin/python -I -X faulthandler child.py`` with three pipes. Stands on the ground: the
standard library, msgspec, and the files beside it. A frame is a little-endian length of 4 bytes and a
msgpack list::

    child -> rank   ready pid version utc | broken error
                    done run index cause started_utc duration_s result stdout stderr
    rank -> child   run number job first attempt grant function offsets payload inputs
                    skip run lo hi | stop

The third pipe holds permits, a byte each: the runner takes one before it starts a task. A task that is skipped is
passed over without one, and without an answer. The rank takes permits back from the same pipe; the first one that
it writes after that says that the inbox is to be read first, because it holds what is to be skipped.

Each task is answered at once, with one write (1 to 2 us): so the rank knows which task ran when the runner
died, and a long task never holds up the result of a short one. Standard output and error are memory files
shared with the rank; after each task what is in them is that task's.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import importlib
import io
import os
import resource
import select
import signal
import struct
import sys
import types
from collections import deque
from operator import attrgetter
from time import perf_counter, time
from typing import Any, NoReturn

try:
    import msgspec
except ImportError:  # told in plain words: the text goes to the rank with the exit code
    sys.exit("the environment lacks msgspec, which every runner needs")

# as in model.states.Cause
RETURNED, ERROR = 0, 1
_PR_SET_PDEATHSIG = 1
_IOLBF = 1
_U32 = struct.Struct("<I")
#: for one read; malloc asks the kernel for anything larger, and gives it back, each time
_READ_BYTES = 64 << 10
#: a permit, and one before which the inbox is to be read
_PERMIT, _LOOK_FIRST = b"\1", b"\2"
#: while short tasks follow each other the inbox is looked at this often, seconds
_LOOK_S = 0.001


def main() -> None:
    """``child.py READ_FD WRITE_FD PERMIT_FD PARENT WORKDIR MODULE OUTPUT_MAX RESULT_MAX``, sizes in bytes."""
    read_fd, write_fd, permit_fd, parent, workdir, module, output_max, result_max = sys.argv[1:]
    _die_with(int(parent))
    # a handler, not SIG_IGN: what functions start would inherit that
    signal.signal(signal.SIGUSR1, _for_the_agent)
    inbox, outbox = _Inbox(_out_of_reach(int(read_fd))), _Outbox(_out_of_reach(int(write_fd)))
    permits = _out_of_reach(int(permit_fd))
    payload = _load_payload()
    _settle_streams()
    tasks = _task_module()
    sys.argv = [module]
    sys.path.insert(0, workdir)
    try:
        code = importlib.import_module(module)
    except BaseException as error:  # also a module that calls sys.exit
        outbox.put(["broken", payload.encode_error(error, skip=1)])
        _flush()
        os._exit(1)
    gc.collect()
    gc.freeze()  # what the import made stays: later collections need not look at it
    outbox.put(["ready", os.getpid(), sys.version.split()[0], time()])
    Runner(code, payload, tasks, inbox, outbox, permits, int(output_max), int(result_max)).serve()


class Task(msgspec.Struct, frozen=True):
    """What user code can know about the call that runs; the attempt and the grant fence its own files."""

    job: int
    index: int
    attempt: int
    grant: int

    def __str__(self) -> str:
        return f"{self.job}.{self.index}"


class Runner:
    """Takes runs from the inbox and answers each of their tasks."""

    def __init__(
        self, code: types.ModuleType, payload: Any, tasks: Any, inbox: _Inbox, outbox: _Outbox, permits: int,
        output_max: int, result_max: int,
    ) -> None:  # fmt: skip
        self._code, self._payload, self._inbox, self._outbox = code, payload, inbox, outbox
        #: a pipe that does not block: see the beginning of this file
        self._permits = permits
        self._has_permit = False
        self._tasks = tasks
        self._stdout, self._stderr = _Output(1, output_max), _Output(2, output_max)
        self._result_max = result_max
        self._pid = os.getpid()
        self._runs: deque[list[Any]] = deque()
        #: run -> ranges that are not to be started
        self._skips: dict[int, list[tuple[int, int]]] = {}
        self._stop = False

    def serve(self) -> None:
        """Run until told to stop or the rank is gone."""
        while not self._stop:
            if self._runs:
                self._run(self._runs.popleft())
            else:
                self._take(block=True)

    def _take(self, block: bool) -> None:
        """Take what the rank wrote."""
        for frame in self._inbox.frames(block):
            if frame is None:
                os._exit(0)
            kind = frame[0]
            if kind == "run":
                self._runs.append(frame)
            elif kind == "skip":
                self._skips.setdefault(frame[1], []).append((frame[2], frame[3]))
            elif kind == "stop":
                self._stop = True

    def _run(self, frame: list[Any]) -> None:
        _, number, job, first, attempt, grant, name, offsets, data, inputs = frame
        bounds = struct.unpack(f"<{len(offsets) // 4}I", offsets)
        environ = os.environ
        environ["PYFI_ATTEMPT"], environ["PYFI_GRANT"] = str(attempt), str(grant)
        looked = ended = perf_counter()
        for i in range(len(bounds) - 1):
            if ended - looked > _LOOK_S:
                self._take(block=False)
                looked = ended
            if not self._may_start(number, i):
                continue
            environ["PYFI_TASK"] = f"{job}.{first + i}"
            self._tasks.task = Task(job, first + i, attempt, grant)
            started, begin = time(), perf_counter()
            cause, result = self._call(name, data[bounds[i] : bounds[i + 1]], inputs[i] if inputs else ())
            ended = perf_counter()
            self._tasks.task = None
            out, err = self._outputs()
            self._outbox.put(["done", number, i, cause, started, ended - begin, result, out, err])
        self._skips.pop(number, None)

    def _may_start(self, number: int, index: int) -> bool:
        """Take the permit for a task, waiting for one; False: the task is to be skipped."""
        while not (self._skips and self._is_skipped(number, index)):
            if self._has_permit:
                self._has_permit = False
                return True
            try:
                permit = os.read(self._permits, 1)
            except BlockingIOError:
                self._inbox.wait(self._permits)
                self._take(block=False)
                continue
            except OSError as error:
                _end(_CLOSED.format(error))
            if permit == _PERMIT:
                return True
            if permit != _LOOK_FIRST:
                os._exit(0)  # the rank is gone
            # from now on a task starts, whichever comes first among those that are not to be skipped
            self._has_permit = True
            self._take(block=False)
        return False

    def _is_skipped(self, number: int, index: int) -> bool:
        return any(lo <= index < hi for lo, hi in self._skips.get(number, ()))

    def _call(self, name: str, data: bytes, inputs: Any) -> tuple[int, bytes]:
        payload = self._payload
        try:
            function = attrgetter(name)(self._code)
            args, kwargs = payload.decode_call(data, inputs)
            value = function(*args, **kwargs)
        except BaseException as error:  # sys.exit in a task fails the task, not the runner
            self._end_copies()
            return ERROR, payload.encode_error(error, skip=1)
        self._end_copies()
        try:
            result = payload.encode_value(value)
        except Exception as error:
            return ERROR, payload.encode_failure("pyfi_hpc.errors", "Unserialisable", str(error))
        if len(result) > self._result_max:
            what = f"result: {len(result):,} bytes are over the limit of {self._result_max:,}"
            return ERROR, payload.encode_failure("pyfi_hpc.errors", "TooLarge", what)
        return RETURNED, result

    def _end_copies(self) -> None:
        if os.getpid() != self._pid:  # the function forked and came back in the child as well
            os._exit(0)

    def _outputs(self) -> tuple[bytes | None, bytes | None]:
        _flush()
        return self._stdout.take(), self._stderr.take()


# --- pipes ----------------------------------------------------------------------------------------------


class _Inbox:
    """Frames from the rank."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._buffer = bytearray()

    def wait(self, other: int) -> None:
        """Until there is something here or in another pipe."""
        both = select.poll()
        both.register(self._fd, select.POLLIN)
        both.register(other, select.POLLIN)
        both.poll()

    def frames(self, block: bool) -> list[Any]:
        """The frames that are there, with ``block`` at least one; the last is None when the rank is gone."""
        found: list[Any] = []
        while self._poll.poll(None if block and not found else 0):
            data = os.read(self._fd, _READ_BYTES)
            if not data:
                return [*found, None]
            self._buffer += data
            _cut(self._buffer, found)
        return found


def _cut(buffer: bytearray, found: list[Any]) -> None:
    at = 0
    with memoryview(buffer) as view:
        while len(view) - at >= 4:
            end = at + 4 + _U32.unpack_from(view, at)[0]
            if len(view) < end:
                break
            found.append(_decode(view[at + 4 : end]))
            at = end
    del buffer[:at]


class _Outbox:
    """Frames to the rank, each with one write."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = bytearray(4096)

    def put(self, frame: list[Any]) -> None:
        buffer = self._buffer
        _encode_into(frame, buffer, 4)
        _U32.pack_into(buffer, 0, len(buffer) - 4)
        try:
            written = os.write(self._fd, buffer)
            while written < len(buffer):
                written += os.write(self._fd, memoryview(buffer)[written:])
        except OSError as error:
            _end(_CLOSED.format(error))
        if len(buffer) > 1 << 16:
            self._buffer = bytearray(4096)


_CLOSED = "the runner cannot go on: {}; did the function close file descriptors?"


def _end(reason: str) -> NoReturn:
    try:
        os.write(2, reason.encode() + b"\n")
    finally:
        os._exit(70)


def _out_of_reach(fd: int) -> int:
    """Move a pipe to a high number, not inherited by programs: code that guesses numbers does not hit it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    high = min(4096, soft if soft > 0 else 1024) - 16
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(high, 3))
    os.close(fd)
    return moved


# --- standard output and error --------------------------------------------------------------------------


def _settle_streams() -> None:
    """Lines reach the file when they are complete, also those of C code, whatever the locale says."""
    for fd, name in ((1, "stdout"), (2, "stderr")):
        stream = io.TextIOWrapper(
            open(fd, "wb", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    libc = ctypes.CDLL(None)
    try:
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _IOLBF, ctypes.c_size_t(0))
    except ValueError:
        pass  # another libc keeps its stream under another name: C output then comes later


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # the function closed it or put something of its own there
            pass


class _Output:
    """The memory file behind standard output or error."""

    def __init__(self, fd: int, limit: int) -> None:
        self._fd, self._limit = fd, limit
        self._inode = os.fstat(fd).st_ino

    def take(self) -> bytes | None:
        """What a task wrote, and an empty file for the next one; None: nothing."""
        fd = self._fd
        try:
            info = os.fstat(fd)
            # the function may have put a file of its own here: never read or empty that
            if not info.st_size or info.st_ino != self._inode:
                return None
            data = self._read(info.st_size)
            os.ftruncate(fd, 0)
        except OSError:  # the function closed it
            return None
        return data

    def _read(self, size: int) -> bytes:
        if size <= self._limit:
            return os.pread(self._fd, size, 0)
        half = self._limit // 2
        note = f"\n[... {size - 2 * half} bytes left out ...]\n".encode()
        return os.pread(self._fd, half, 0) + note + os.pread(self._fd, half, size - half)


# --- beginning ------------------------------------------------------------------------------------------


def _die_with(parent: int) -> None:
    """A dead rank leaves no runner behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we could say so
        os._exit(0)


def _for_the_agent(number: int, frame: object) -> None:
    """USR1: the allocation ends soon. `scancel --signal` tells every process of it; a function runs on all the same."""


def _task_module() -> Any:
    """The module ``pyfi_task`` for user code: ``pyfi_task.current()`` is the task that runs now, or None."""
    module: Any = types.ModuleType("pyfi_task", "The task that runs now: pyfi_task.current().")
    module.Task = Task
    module.task = None
    module.current = lambda: module.task
    sys.modules["pyfi_task"] = module
    return module


def _load_payload() -> Any:
    """The files beside this one as a package of a private name: ours is not installed in this environment."""
    package = types.ModuleType("_pyfi_runner")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules[package.__name__] = package
    return importlib.import_module("_pyfi_runner.payload")


_decode = msgspec.msgpack.Decoder().decode
_encode_into = msgspec.msgpack.Encoder().encode_into

if __name__ == "__main__":
    main()
