"""Progress where there is no terminal, and what a job's row says."""

from __future__ import annotations

import io
import re

from pyfi_hpc.cli.jobs import summary
from pyfi_hpc.cli.progress import Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_dated_line_every_ten_seconds() -> None:
    """Twenty-five seconds of updates in a log file give two lines."""
    clock, log = Clock(), io.StringIO()
    with Progress("map", "auto", log, clock) as shown:
        for second in range(26):
            clock.now = float(second)
            shown.update(second * 10, 400, failed=1 if second > 15 else 0)
    first, second = log.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d map 100/400 25% 10/s eta 0:30", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d map 200/400 50% failed=1 10/s eta 0:20", second)


def test_the_speed_counts_from_when_we_looked() -> None:
    """A job that was half done before says nothing about its speed now."""
    clock, log = Clock(), io.StringIO()
    with Progress("job 3", "line", log, clock) as shown:
        shown.update(500, 1000)
        clock.now = 10.0
        shown.update(600, 1000)
    assert log.getvalue().rstrip().endswith("job 3 600/1000 60% 10/s eta 0:40")


def test_none_is_silent() -> None:
    """Nothing at all, however long it takes."""
    clock, log = Clock(), io.StringIO()
    with Progress("map", "none", log, clock) as shown:
        clock.now = 100.0
        shown.update(1, 2)
    assert log.getvalue() == ""


def job(states: dict[str, int], done: bool = False, **more: object) -> dict[str, object]:
    row = {"job": 4, "name": "", "socket": "s.f", "owner": "me", "tasks": 10, "states": states, "done": done}
    return {**row, "reason": "", "started": None, "ended": None, "opened_at": 1.0, **more}


def test_a_job_s_row() -> None:
    """Slurm's letters for the whole job, the worst end first, the reason in brackets."""
    waiting = summary(job({"PENDING": 10}, reason="Resources"))
    assert (waiting["code"], waiting["reason"], waiting["name"], waiting["time_s"]) == (
        "PD",
        "(Resources)",
        "s.f",
        0,
    )
    running = summary(job({"PENDING": 5, "RUNNING": 2, "COMPLETED": 3}, started=100.0), now=160.0)
    assert (running["code"], running["ranks"], running["done"], running["time_s"]) == ("R", 2, 3, 60.0)
    assert summary(job({"COMPLETED": 10}, True))["code"] == "CD"
    failed = summary(job({"COMPLETED": 7, "FAILED": 1, "SKIPPED": 2}, True, started=5.0, ended=9.0))
    assert (failed["code"], failed["fail"], failed["time_s"]) == ("F", 3, 4.0)
    assert summary(job({"COMPLETED": 7, "CANCELLED": 3}, True))["code"] == "CA"
