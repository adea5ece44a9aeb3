"""`pyfi top` on a real instance, on a screen without a terminal: what is shown, and what keys do."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pyfi_command import Pyfi
from textual.pilot import Pilot
from textual.widgets import DataTable, Log, Static

from pyfi_hpc.cli.context import Context
from pyfi_hpc.cli.dashboard import Dashboard
from pyfi_hpc.cli.frame import STRIP_MAX, Tails, strip

SAMPLE = "pyfi.processors.sample"


def of(instance: Pyfi, **flags: str) -> Context:
    home, scratch = str(instance.home / "home"), str(instance.home / "s")
    return Context(flags={"home": home, "scratch": scratch, "instance": "cli", **flags})


def watched(context: Context, story: Callable[[Dashboard, Pilot[None]], Awaitable[None]]) -> None:
    """Let a story happen before the screen."""

    async def run() -> None:
        app = Dashboard(context, 0.2)
        async with app.run_test(size=(140, 45)) as pilot:
            await story(app, pilot)

    try:
        asyncio.run(run())
    finally:
        context.close()


async def until(pilot: Pilot[None], what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        await pilot.pause(0.05)


def cells(app: Dashboard, table: str) -> list[list[str]]:
    found: DataTable[Any] = app.query_one(table, DataTable)
    return [[str(cell) for cell in found.get_row_at(at)] for at in range(found.row_count)]


def text(app: Dashboard, name: str) -> str:
    return str(app.query_one(name, Static).content)


def test_ranks_jobs_and_why(instance: Pyfi) -> None:
    """Both ranks are busy with a job of one at a time and another one; Enter tells why the first waits; keys work."""
    limited = re.search(r"\d+", instance("map", f"{SAMPLE}.wait", "60,61%1").stdout)
    other = re.search(r"\d+", instance("map", f"{SAMPLE}.wait", "60").stdout)
    assert limited and other

    async def story(app: Dashboard, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: any("██" in row for row in cells(app, "#nodes")))
        assert "2/2 ranks busy" in text(app, "#title")
        jobs = {row[0]: row for row in cells(app, "#jobs")}
        assert "(JobArrayTaskLimit)" in jobs[limited[0]]
        while cells(app, "#jobs")[app.query_one("#jobs", DataTable).cursor_row][0] != limited[0]:
            await pilot.press("down")
        await pilot.press("enter")
        await until(pilot, lambda: "at most 1 may" in text(app, "#why"))
        await until(pilot, lambda: "broker" in "".join(app.query_one("#log", Log).lines))
        await pilot.press("p")
        assert text(app, "#title").startswith("PAUSED")
        await pilot.press("p", "l")
        assert not app.query_one("#log").display
        for job in (limited[0], other[0]):
            await asyncio.to_thread(instance, "cancel", job)
        await until(pilot, lambda: {row[0]: row for row in cells(app, "#jobs")}[limited[0]][2] == "CA")
        # the job that was chosen still is, though the order has changed
        assert cells(app, "#jobs")[app.query_one("#jobs", DataTable).cursor_row][0] == limited[0]
        await pilot.press("q")

    watched(of(instance), story)


def test_one_frame_for_a_pipe(instance: Pyfi) -> None:
    """--once, and any pipe: a line about the whole, nodes and jobs as other commands print them."""
    instance("map", f"{SAMPLE}.square", "1-10", "--wait")
    for arguments in (["top", "--once"], ["top"]):
        title, *lines = instance(*arguments).stdout.splitlines()
        assert re.match(r"cli  tcp://\S+  epoch \d+  \d/2 ranks busy  ", title)
        assert lines[0].split("\t")[:3] == ["NODE", "BUSY", "RANKS"]
        assert re.search(r"\t[█░]{2}\t", lines[1])
        assert any(f"\t{SAMPLE}.square\tCD\t10\t10\t" in line for line in lines)


def test_a_broker_that_is_away(instance: Pyfi) -> None:
    """No instance: an error as of every command. One that goes away is missed in the title until it is back."""
    assert "nowhere" in instance("--instance", "nowhere", "top", code=4).stderr
    context = of(instance, timeout_s="1.0")

    async def story(app: Dashboard, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "ranks busy" in text(app, "#title"))
        await asyncio.to_thread(instance, "broker", "stop")
        await until(pilot, lambda: "ranks busy" not in text(app, "#title"))
        await asyncio.to_thread(instance, "broker", "start")
        await until(pilot, lambda: "2 ranks busy" in text(app, "#title"))

    watched(context, story)
    assert json.loads(instance("info", "--json").stdout)["broker"]["nodes"][0]["ranks"] == 2


def test_a_strip_of_many_ranks() -> None:
    """A cell for each, or for several."""
    assert strip({"ranks": 4, "running": 1, "resting": []}) == "█░░░"
    many = strip({"ranks": 960, "running": 490, "resting": []})
    assert (len(many), many.count("█"), many.count("░")) == (STRIP_MAX, 24, 23)
    assert strip({"ranks": 0, "running": 0, "resting": [{"rank": -1}]}) == ""


def test_new_lines_of_logs(tmp_path: Path) -> None:
    """The last ones at first, then what is new; a half line waits; a file that begins anew is read from its start."""
    file = tmp_path / "broker.log"
    file.write_text("".join(f"{n}\n" for n in range(50)))
    tails = Tails(tmp_path, first=2)
    assert tails.lines() == ["broker: 48", "broker: 49"]
    with file.open("a") as more:
        more.write("50\nhal")
    assert tails.lines() == ["broker: 50"]
    with file.open("a") as more:
        more.write("f\n")
    assert tails.lines() == ["broker: half"]
    file.write_text("new\n")
    assert tails.lines() == ["broker: new"]
    assert tails.lines() == []
