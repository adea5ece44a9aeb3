"""Results of a job as lines of JSON, one a task, in order or as they come.

    {"index": 0, "id": "17.0", "args": [7], "state": "COMPLETED", "result": 49, "duration_s": 3.1e-06, "attempt": 1}
    {"index": 1, "id": "17.1", "args": ["x"], "state": "FAILED", "error": {"type": "TypeError", ...}, ...}

Each task has one line. ``args`` and ``kwargs`` are there only when the job was submitted by this command. How long a
task ran is not told with its result: the desk is asked for whatever has arrived meanwhile, so one question serves many.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pyfi_hpc.cli.output import plain
from pyfi_hpc.errors import SiteError
from pyfi_hpc.model.states import TaskState

if TYPE_CHECKING:
    from pyfi_hpc.cli.context import Context
    from pyfi_hpc.cli.stream import Call
    from pyfi_hpc.model.messages import Range

F = TypeVar("F", bound=Callable[..., Any])
#: more fields of a line, from the state of the task and its encoded result or error
Describe = Callable[[TaskState, bytes], dict[str, Any]]


def output_options(command: F) -> F:
    """Options of a command that can write such lines."""
    unordered = click.option("--unordered", is_flag=True, help="With --output: lines as tasks end, not in order.")
    return click.option(
        "-o", "--output", metavar="FILE", type=click.Path(allow_dash=True, dir_okay=False),
        help="Wait, and write a line of JSON for each task to FILE; - is standard output.",
    )(unordered(command))  # fmt: skip


def check_output(output: str | None, unordered: bool) -> None:
    if unordered and output is None:
        raise click.UsageError("--unordered is about the lines of --output FILE")


class ResultLines:
    """Writes results and lets go of them.

    Parameters
    ----------
    job : callable
        The job's id, which is known once there is a result.
    kept : dict, optional
        Calls by index; each is taken out when its line is written.
    describe : callable, optional
        More fields of a line.
    """

    def __init__(
        self, context: Context, job: Callable[[], int], file: io.FileIO, kept: dict[int, Call] | None = None,
        describe: Describe | None = None,
    ) -> None:  # fmt: skip
        self._context, self._job, self._file, self._describe = context, job, file, describe
        self._kept = {} if kept is None else kept

    def write(self, pieces: Sequence[Range]) -> None:
        """Cost: one question to the desk, and some 10 us a task.

        Raises
        ------
        SiteError
            They cannot be written.
        """
        from pyfi_hpc.client.feed import offsets_of

        job = self._job()
        ran = self._ran(job, pieces)
        lines = []
        for piece in pieces:
            offsets = offsets_of(piece.offsets)
            for at, state in enumerate(piece.states):
                index = piece.first + at
                data = piece.payload[offsets[at] : offsets[at + 1]]
                lines.append(self._line(job, index, TaskState(state), data, ran.get(index)))
        write_all(self._file, b"".join(lines))

    def _line(self, job: int, index: int, state: TaskState, data: bytes, ran: tuple[float, int] | None) -> bytes:
        line: dict[str, Any] = {"index": index, "id": f"{job}.{index}"}
        args, kwargs = self._kept.pop(index, ((), {}))
        if args:
            line["args"] = list(args)
        if kwargs:
            line["kwargs"] = kwargs
        line["state"] = state.name
        line |= {"result": _value(data)} if state is TaskState.COMPLETED else {"error": _error(data)}
        if self._describe is not None:
            line |= self._describe(state, data)
        line["duration_s"], line["attempt"] = ran or (None, None)
        # a file name that is not UTF-8 stays what it is: backslashreplace writes what JSON reads back
        return _text(line).encode("utf-8", "backslashreplace") + b"\n"

    def _ran(self, job: int, pieces: Sequence[Range]) -> dict[int, tuple[float, int]]:
        """Seconds and attempt of each task that ran."""
        from pyfi_hpc.cli.spans import read_spans

        found: dict[int, tuple[float, int]] = {}
        for span in read_spans(self._context.ask, job, [(piece.first, piece.first + piece.count) for piece in pieces]):
            for at, (started, seconds) in enumerate(zip(span.started, span.durations, strict=True)):
                if started:
                    found[span.first + at] = (_round(seconds), span.attempt)
        return found


def _text(line: dict[str, Any]) -> str:
    try:
        return json.dumps(line, ensure_ascii=False, default=plain)
    except TypeError:  # a key that JSON has not
        return json.dumps(plain(line), ensure_ascii=False)


def opened(path: str) -> io.FileIO:
    """A file for lines, ``-`` is standard output.

    Raises
    ------
    SiteError
    """
    if path == "-":
        sys.stdout.flush()
        return open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)
    try:
        return open(path, "wb", buffering=0)
    except OSError as error:
        raise cannot_write(path, error) from None


def write_all(file: io.FileIO, data: bytes) -> None:
    """Write it without a buffer, so that what cannot be written is known here.

    Raises
    ------
    SiteError
    """
    left = memoryview(data)
    try:
        while left:
            left = left[file.write(left) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_write(file.name, error) from None


def cannot_write(path: object, error: OSError) -> SiteError:
    where = "standard output" if isinstance(path, int) else str(path)
    return SiteError(f"cannot write: {error.strerror or error}", where=where)


def _value(data: bytes) -> Any:
    from pyfi_hpc.runner.payload import decode_value

    return decode_value(data)


def _error(data: bytes) -> dict[str, str]:
    from pyfi_hpc.runner.payload import decode_error

    try:
        failure = decode_error(data)
    except ValueError:
        return {"type": "", "message": "its error cannot be read"}
    return {"type": failure.type_name, "message": failure.message}


def error_words(data: bytes) -> str:
    """An error in one line."""
    from pyfi_hpc.cli.output import one_line

    error = _error(data)
    return one_line(f"{error['type']}: {error['message']}".strip(": ").split("\n")[0])


def _round(seconds: float) -> float:
    """The ledger keeps 24 bits of a duration: what more digits would say was not measured."""
    return float(f"{seconds:.6g}")
