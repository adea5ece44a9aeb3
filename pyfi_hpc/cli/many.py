"""Running many tasks as one job from the shell: what ``map`` and ``xargs`` share.

Read, submit, and with ``--wait`` follow to the end; with ``--output`` each result becomes a line of JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import FileIO
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pyfi_hpc.cli.call_options import call_options, on_hold
from pyfi_hpc.cli.context import Context
from pyfi_hpc.cli.follow import Follower, Tally
from pyfi_hpc.cli.output import print_json
from pyfi_hpc.cli.progress import Progress, progress_option
from pyfi_hpc.cli.results import Describe, ResultLines, check_output, error_words, opened, output_options
from pyfi_hpc.errors import SiteError, UsageError
from pyfi_hpc.model.states import TaskState

if TYPE_CHECKING:
    from pyfi_hpc.cli.stream import Call, CallStream
    from pyfi_hpc.model.messages import Range

F = TypeVar("F", bound=Callable[..., Any])
#: tasks whose errors are shown at the end
_FAILURES_SHOWN = 3


def many_options(command: F) -> F:
    """Options of a command that runs many tasks."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return progress_option(command)


_OPTIONS = (
    click.option("--wait", is_flag=True, help="Wait until all tasks have ended; exit 1 if one failed."),
    output_options,
    click.option("-P", "--at-once", type=click.IntRange(1), metavar="N", help="At most N of them run at once."),
    call_options,
)


class Many:
    """One job of many tasks, from the options of the command to its exit code."""

    def __init__(
        self, context: Context, title: str, *, wait: bool, output: str | None, unordered: bool, at_once: int | None,
        progress: str, describe: Describe | None = None, **options: Any,
    ) -> None:  # fmt: skip
        from pyfi_hpc.client.options import DEFAULT

        check_output(output, unordered)
        self._context, self._title = context, title
        self._wait, self._output, self._unordered = wait or output is not None, output, unordered
        self._progress = progress if self._wait else "none"
        self._describe = describe
        self._failures: list[str] = []
        self._options = DEFAULT.but(**options)
        self._at_once = 0
        if at_once:
            self.limit(at_once)

    def limit(self, count: int) -> None:
        """At most so many at once.

        Raises
        ------
        UsageError
            It was said twice, or is more than can be counted.
        """
        if self._at_once:
            raise UsageError(
                f"at most {self._at_once} and at most {count} at once",
                where=self._title, fix="say --at-once or %N once"
            )  # fmt: skip
        self._at_once, self._options = count, self._options.at_most(count)

    def run(self, socket: str, name: str, calls: Iterator[Call]) -> None:
        """Submit and follow; ends the command with 1 if a task failed."""
        from pyfi_hpc.cli.stream import CallStream

        with ExitStack() as files:
            file = files.enter_context(opened(self._output)) if self._output is not None else None
            stream = CallStream(self._context.session, socket, self._options.but(name=name), calls)
            if file is not None:
                stream.kept = {}
            tally, elapsed_s = self._follow(stream, file)
        if not self._wait:
            self._say_submitted(tally.job, stream.submitted)
            return
        self._sum_up(tally, socket, elapsed_s)
        raise SystemExit(1 if tally.failed else 0)

    def _follow(self, stream: CallStream, file: FileIO | None) -> tuple[Tally, float]:
        lines = None
        if file is not None:
            lines = ResultLines(self._context, lambda: stream.inbox.job, file, stream.kept, self._describe)

        def taken(pieces: list[Range]) -> None:
            if lines is not None:
                lines.write(pieces)
            self._note_failures(stream.inbox.job, pieces)

        follower = Follower(self._context.session, stream.inbox, taken, in_order=not self._unordered)

        def more() -> bool:
            if stream.has_room(follower.next):
                stream.submit_batch()
                return True
            return False

        with Progress(self._title, self._progress) as shown:
            try:
                while more():
                    follower.drain()
                if stream.exhausted and not stream.submitted:
                    raise UsageError("there is nothing to do: no inputs", where=self._title)
                tally = self._to_the_end(stream, follower, more, shown)
            except (KeyboardInterrupt, SiteError, BrokenPipeError):
                _say_it_goes_on(stream, self._output is not None)
                raise
        return tally, shown.elapsed_s

    def _to_the_end(
        self, stream: CallStream, follower: Follower, more: Callable[[], bool], shown: Progress
    ) -> Tally:
        """Of the job with ``--wait``, else of its submission."""
        if not self._wait:
            return _hand_over(stream, follower, more, self._options.hold)
        if self._options.hold:
            stream.session.wait_accepted(lambda: bool(stream.submission.job or stream.submission.error))
            print(f"job {stream.submission.job}: {on_hold(stream.submission.job)}", file=sys.stderr)
        return follower.run(shown, more=more)

    def _note_failures(self, job: int, pieces: list[Range]) -> None:
        """Keep how the first tasks that failed did."""
        from pyfi_hpc.client.feed import offsets_of

        for piece in pieces:
            if len(self._failures) == _FAILURES_SHOWN or piece.states.count(TaskState.COMPLETED) == piece.count:
                continue
            offsets = offsets_of(piece.offsets)
            for at, state in enumerate(piece.states):
                if state != TaskState.COMPLETED and len(self._failures) < _FAILURES_SHOWN:
                    error = error_words(piece.payload[offsets[at] : offsets[at + 1]])
                    self._failures.append(f"{job}.{piece.first + at}  {TaskState(state).name}  {error}".rstrip())

    def _say_submitted(self, job: int, count: int) -> None:
        if self._context.json:
            print_json({"job": job, "tasks": count})
        else:
            more = f" {on_hold(job).capitalize()}." if self._options.hold else ""
            click.echo(f"Submitted {self._title.split()[0]} {job} ({count} tasks).{more}")

    def _sum_up(self, tally: Tally, socket: str, elapsed_s: float) -> None:
        stream = sys.stderr if self._output == "-" else sys.stdout
        if not self._context.json:
            for line in self._failures:
                print(line, file=sys.stderr)
            if tally.failed > len(self._failures):
                print(f"and {tally.failed - len(self._failures)} more: pyfi ls calls -j {tally.job}", file=sys.stderr)
        if self._context.json:
            told = {
                "job": tally.job, "socket": socket, "tasks": tally.total, "states": tally.states,
                "failed": tally.failed, "elapsed_s": round(elapsed_s, 3),
            }  # fmt: skip
            print_json(told, stream)
            return
        counts = f"{tally.done}/{tally.total}  100%  failed={tally.failed}"
        speed = f"{elapsed_s:.1f} s  {tally.done / max(elapsed_s, 1e-9):.0f}/s"
        print(f"{self._title.split()[0]} {tally.job}  {socket}  {counts}  {speed}", file=stream)


def _hand_over(stream: CallStream, follower: Follower, more: Callable[[], bool], hold: bool) -> Tally:
    """Until all of it is in the ledger."""
    while not stream.exhausted:
        if hold:  # there are no results for which room would be kept
            stream.submit_batch()
        elif not more():  # full: results make room
            stream.inbox.wait(lambda: stream.inbox.has(follower.next), None, "room for more tasks")
        follower.drain()
    stream.session.wait_accepted(lambda: bool(stream.submission.job or stream.submission.error))
    stream.session.flush()
    if stream.submission.error is not None:
        raise stream.submission.error
    return follower.tally()


def _say_it_goes_on(stream: CallStream, with_output: bool) -> None:
    job = stream.submission.job
    if not (stream.exhausted and job):
        stream.stop()
        return
    again = f"`pyfi wait {job} --output FILE` writes its results, " if with_output else ""
    print(f"\njob {job} goes on; {again}`pyfi cancel {job}` ends it", file=sys.stderr)
