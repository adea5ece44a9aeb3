"""How far a job is: a bar on a terminal, a dated line every ten seconds elsewhere, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, TypeVar

import click

from pyfi_hpc.cli.failure import coloured
from pyfi_hpc.cli.output import duration

F = TypeVar("F", bound=Callable[..., Any])

LINE_EVERY_S = 10.0
MODES = ("auto", "bar", "line", "none")


def progress_option(command: F) -> F:
    return click.option(
        "--progress", type=click.Choice(MODES), default="auto", show_default=True,
        help="How to show progress; auto: a bar on a terminal, else a line every 10 s.",
    )(command)  # fmt: skip


class Progress:
    """Shows done and total of something; a context manager.

    Parameters
    ----------
    label : str
        What it is, in a word or two.
    mode : str
        One of ``MODES``.
    clock : callable
        Seconds, monotonic; only tests give another.
    """

    def __init__(
        self,
        label: str,
        mode: str = "auto",
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._label = label
        terminal = self._stream.isatty() and coloured_or_plain(self._stream)
        self.mode = ("bar" if terminal else "line") if mode == "auto" else mode
        self._clock = clock
        self._begun = self._told = clock()
        self._first = -1
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self.mode == "bar":
            self._bar = _bar(self._stream)
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=None, rate="", left="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._begun

    def update(self, done: int, total: int, failed: int = 0) -> None:
        """``total`` -1: not known yet."""
        now = self._clock()
        if self._first < 0:
            self._first = done  # what was done before we looked says nothing about the speed
        rate = (done - self._first) / max(now - self._begun, 1e-9)
        left = (total - done) / rate if rate > 0 and total >= 0 else None
        if self._bar is not None:
            words = f"failed {failed}" if failed else ""
            self._bar.update(
                self._task,
                completed=done,
                total=total if total >= 0 else None,
                rate=f"{rate:.0f}/s {words}".rstrip(),
                left=f"eta {duration(left)}" if left is not None and done < total else "",
            )
        elif self.mode == "line" and now - self._told >= LINE_EVERY_S:
            self._told = now
            print(line(self._label, done, total, failed, rate, left), file=self._stream, flush=True)


def line(label: str, done: int, total: int, failed: int, rate: float, left: float | None) -> str:
    """``12:04:10 map 812/10000 8% 231/s eta 0:40``"""
    parts = [time.strftime("%H:%M:%S"), label, f"{done}/{total if total >= 0 else '?'}"]
    if total > 0:
        parts.append(f"{100 * done // total}%")
    if failed:
        parts.append(f"failed={failed}")
    parts.append(f"{rate:.0f}/s")
    if left is not None and done < total:
        parts.append(f"eta {duration(left)}")
    return " ".join(parts)


def coloured_or_plain(stream: IO[str]) -> bool:
    """A terminal on which the cursor can move; NO_COLOR only takes the colours."""
    import os

    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _bar(stream: IO[str]) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(file=stream, no_color=None if coloured(stream) else True, highlight=False)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[left]}"),
    )  # fmt: skip
    return Bar(*columns, console=console, refresh_per_second=8)
