"""The runner: calls one module's functions in the user's own environment, one task after the other.

Started by a rank as ``ENV/bin/python -I -X faulthandler child.py`` with two pipes and a board. Stands on the ground:
the standard library, msgspec, and the files beside it. A frame is a little-endian length of 4 bytes and a msgpack
list::

    child -> rank   ready pid version utc | broken error | look
                    done run index cause started_utc duration_s result stdout stderr
    rank -> child   run number job first attempt grant function offsets payload inputs time_limit_s ends_at state
                    and, where it has a step, what ``step.py`` calls its seats
                    skip run lo hi | go | stop

Permits and answers pass over the board (``board.py``). A task is started only with a permit; one that is skipped is
passed over without one, and without an answer. What returned a short result and printed nothing is answered on the
board; all else by ``done``, in its turn. So the rank knows which task ran when the runner died, and has every answer
before that one. ``look`` wakes it where it sleeps and at a run's end, so a long task never holds up the result of a
short one. ``go`` wakes a runner that waits for a permit.

Standard output and error are memory files shared with the rank; after each task what is in them is that task's.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import mmap
import os
import signal
import struct
import sys
import types
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from os import SEEK_END, lseek
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

try:
    import msgspec
except ImportError:  # told in plain words: the text goes to the rank with the exit code
    sys.exit("the environment lacks msgspec, which every runner needs")

if TYPE_CHECKING:
    from pyfi_hpc.runner.answers import Answers
    from pyfi_hpc.runner.ending import Ending
    from pyfi_hpc.runner.pipes import Inbox, Outbox
    from pyfi_hpc.runner.step import Step
    from pyfi_hpc.runner.streams import Output


def load(name: str) -> Any:
    """A file beside this one, of a package with a private name: ours is not installed in this environment."""
    package = sys.modules.setdefault("_pyfi_runner", types.ModuleType("_pyfi_runner"))
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    return importlib.import_module(f"_pyfi_runner.{name}")


pipes, streams = load("pipes"), load("streams")
answering = load("answers")
ending, stepping = load("ending"), load("step")
PERMIT, NONE = answering.PERMIT, answering.NONE
_LENGTH_MAX = load("board").LENGTH_MAX
# as in model.states.Cause
RETURNED, ERROR, CONTINUED = 0, 1, 13
_PR_SET_PDEATHSIG = 1
_MADV_WIPEONFORK = 18
_VARIABLE = b"PYFI_TASK"
#: bytes of its value: two numbers of 64 bits
_VALUE_MAX = 44


def main() -> None:
    """``child.py READ_FD WRITE_FD BOARD_FD PARENT WORKDIR MODULE OUTPUT_MAX RESULT_MAX``, sizes in bytes."""
    *descriptors, parent, workdir, module, output_max, result_max = sys.argv[1:]
    ends_with(int(parent))
    read_fd, write_fd, board_fd = map(int, descriptors)
    inbox, outbox = pipe_ends(read_fd, write_fd)
    payload = load("payload")
    outputs = output_files(int(output_max))
    current = Current()
    add_task_module(current)
    sys.argv = [module]
    sys.path.insert(0, workdir)
    try:
        code = importlib.import_module(module)
    except BaseException as error:  # also a module that calls sys.exit
        outbox.put(["broken", payload.encode_error(error, skip=1)])
        streams.flush()
        os._exit(1)
    gc.collect()
    gc.freeze()  # what the import made stays: later collections need not look at it
    outbox.put(["ready", os.getpid(), sys.version.split()[0], time()])
    answers = answering.Answers(board_fd, outbox)
    Runner(code, payload, current, inbox, answers, outputs, int(result_max)).serve()


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
        self, code: types.ModuleType, payload: Any, current: Current, inbox: Inbox, answers: Answers,
        outputs: tuple[Output, Output], result_max: int,
    ) -> None:  # fmt: skip
        self._code, self._payload, self._inbox, self._answers = code, payload, inbox, answers
        self._current, (self._stdout, self._stderr) = current, outputs
        self._variable = _Variable()
        self._result_max = result_max
        #: arguments that all calls get
        self._more: dict[str, Any] = {}
        #: 1 in this process, 0 in its copies
        self._own = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._own.madvise(_MADV_WIPEONFORK)
        self._own[0] = 1
        self._runs: deque[list[Any]] = deque()
        #: run -> ranges that are not to be started
        self._skips: dict[int, list[tuple[int, int]]] = {}
        self._stop = False

    def serve(self) -> None:
        """Run until told to stop or the rank is gone."""
        while not self._stop:
            self._take(block=not self._runs)
            if self._runs:
                self._run(self._runs.popleft())

    def _take(self, block: bool) -> None:
        """Take what the rank wrote."""
        if block:
            self._answers.tell()
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
        _, number, job, first, attempt, grant, name, offsets, data, inputs, limit_s, ends_at, state = frame[:13]
        bounds = struct.unpack(f"<{len(offsets) // 4}I", offsets)
        environ, find = os.environ, attrgetter(name)
        environ["PYFI_ATTEMPT"], environ["PYFI_GRANT"] = str(attempt), str(grant)
        answers, current, set_variable = self._answers, self._current, self._variable.of(job)
        current.begin(job, attempt, grant)
        current.ending.of_run(limit_s, ends_at)
        if not current.step.in_gang:
            current.step.seats = frame[13] if len(frame) > 13 else []
        end = current.ending
        ended = perf_counter()
        utc = time() - ended
        for i in range(len(bounds) - 1):
            if self._skips and self._is_skipped(number, i):
                continue
            if not answers.claim():
                if not self._may_start(number, i):
                    continue
                ended = perf_counter()  # it may have waited
                utc = time() - ended
            began = ended
            current.index = first + i
            end.began = began  # both clocks are CLOCK_MONOTONIC
            set_variable(first + i)
            cause, result = self._call(find, data[bounds[i] : bounds[i + 1]], inputs[i] if inputs else (), state)
            end.end()
            printed = self._printed()
            ended = perf_counter()
            if cause == RETURNED and printed is None and len(result) <= _LENGTH_MAX:
                answers.put(began + utc, ended - began, result)
            else:
                out, err = printed or (None, None)
                answers.pipe(["done", number, i, cause, began + utc, ended - began, result, out, err])
        current.index = None
        answers.end()
        answers.tell()
        self._skips.pop(number, None)

    def _may_start(self, number: int, index: int) -> bool:
        """Wait for a permit; False: the task is to be skipped."""
        while not self._is_skipped(number, index):
            found = self._answers.ask()
            if found == PERMIT:
                return True
            self._take(block=found == NONE)
        self._answers.end()
        return False

    def _is_skipped(self, number: int, index: int) -> bool:
        return any(lo <= index < hi for lo, hi in self._skips.get(number, ()))

    def _call(self, find: Callable[[Any], Any], data: bytes, inputs: Any, state: bytes) -> tuple[int, bytes]:
        payload = self._payload
        try:
            args, kwargs = payload.decode_call(data, inputs) if inputs else payload.decode_plain_call(data)
            if state:
                kwargs = {**kwargs, "state": payload.decode_value(state)}
            value = find(self._code)(*args, **kwargs, **self._more)
        except BaseException as error:  # sys.exit in a task fails the task, not the runner
            if not self._own[0]:
                os._exit(0)
            return ERROR, payload.encode_error(error, skip=1)
        if not self._own[0]:  # the function forked and came back in the copy as well
            os._exit(0)
        cause = RETURNED
        if type(value) is ending.Continue:
            if not ending.takes_state(find(self._code)):
                what = "the function returned Continue, and takes no argument state: write def f(..., state=None)"
                return ERROR, payload.encode_failure("builtins", "TypeError", what)
            cause, value = CONTINUED, value.state
        elif type(value) is stepping.Finished:
            value = value.as_dict()
        try:
            result = payload.encode_value(value)
        except Exception as error:
            return ERROR, payload.encode_failure("pyfi_hpc.errors", "Unserialisable", str(error))
        if len(result) > self._result_max:
            what = f"result: {len(result):,} bytes are over the limit of {self._result_max:,}"
            return ERROR, payload.encode_failure("pyfi_hpc.errors", "TooLarge", what)
        return cause, result

    def _printed(self) -> tuple[bytes | None, bytes | None] | None:
        """What the task wrote to standard output and error; None: nothing at all."""
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:  # the function closed it or put something of its own there
            streams.flush()
        try:
            # who writes there appends, whatever the position is
            if not lseek(self._stdout.fd, 0, SEEK_END) and not lseek(self._stderr.fd, 0, SEEK_END):
                return None
            return self._stdout.take(), self._stderr.take()
        except OSError as error:
            pipes.end(pipes.CLOSED.format(error))
            return None  # the process has ended


class Current:
    """The task that runs now, made when somebody asks."""

    index: int | None = None

    def __init__(self) -> None:
        self.ending: Ending = ending.Ending()
        self.step: Step = stepping.Step(self.token)

    def begin(self, job: int, attempt: int, grant: int) -> None:
        self._job, self._attempt, self.grant = job, attempt, grant

    def task(self) -> Task | None:
        index = self.index
        return None if index is None else Task(self._job, index, self._attempt, self.grant)

    def token(self) -> str:
        """As core/placing.py has it."""
        return "" if self.index is None else str(self.grant)


class _Variable:
    """PYFI_TASK in ``os.environ`` and in what programs inherit: there in memory of ours, so that no call changes it.

    Whoever sets or removes it gets his way until the next task; then it is put there again.
    """

    def __init__(self) -> None:
        self._entry = ctypes.create_string_buffer(_VARIABLE + b"=", len(_VARIABLE) + 1 + _VALUE_MAX)
        self._value = (ctypes.c_char * _VALUE_MAX).from_buffer(self._entry, len(_VARIABLE) + 1)
        self._putenv = ctypes.CDLL(None).putenv
        # what the process does at its very end may still read it
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._entry))

    def of(self, job: int) -> Callable[[int], None]:
        """A function that sets it for a task of this job."""
        environ, entries = os.environ, getattr(os.environ, "_data", None)
        if type(entries) is not dict:  # the function put something of its own there
            return lambda index: environ.__setitem__(_VARIABLE.decode(), f"{job}.{index}")
        value, putenv, head, last = self._value, self._putenv, b"%d." % job, None

        def set_variable(index: int) -> None:
            nonlocal last
            text = head + b"%d" % index
            if entries.get(_VARIABLE) is not last or last is None:
                putenv(self._entry)
            entries[_VARIABLE] = value.value = last = text

        return set_variable


# --- beginning ------------------------------------------------------------------------------------------


def ends_with(parent: int) -> None:
    """A dead rank leaves no runner behind; and USR1 ends none."""
    # a handler, not SIG_IGN: what functions start would inherit that
    signal.signal(signal.SIGUSR1, _for_the_agent)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we could say so
        os._exit(0)


def pipe_ends(read_fd: int, write_fd: int) -> tuple[Inbox, Outbox]:
    """The pipes, as descriptors that functions do not meet."""
    return pipes.Inbox(pipes.out_of_reach(read_fd)), pipes.Outbox(pipes.out_of_reach(write_fd))


def output_files(output_max: int) -> tuple[Output, Output]:
    """Standard output and error, which are memory files from the beginning."""
    found = streams.Output(1, output_max), streams.Output(2, output_max)
    streams.settle_streams()
    return found


def _for_the_agent(number: int, frame: object) -> None:
    """USR1: the allocation ends soon. `scancel --signal` tells every process of it; a function runs on all the same."""


def add_task_module(current: Current) -> None:
    """The module ``pyfi_task`` for user code: ``pyfi_task.current()`` is the task that runs now, or None; for the rest
    see ``ending.py`` and ``step.py``."""
    what = "The task that runs now: current(), remaining(), on_end(), step(), hosts(); Continue."
    module: Any = types.ModuleType("pyfi_task", what)
    module.Task = Task
    module.current = current.task
    module.remaining, module.on_end = current.ending.remaining, current.ending.on_end
    module.Continue = ending.Continue
    module.step, module.hosts = current.step.run, current.step.hosts
    sys.modules["pyfi_task"] = module


if __name__ == "__main__":
    main()
