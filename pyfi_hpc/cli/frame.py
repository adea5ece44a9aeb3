"""What ``pyfi top`` shows at one moment: asked of the broker, as text for any terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyfi_hpc.cli.context import Context
from pyfi_hpc.cli.info import state_of, troubles
from pyfi_hpc.cli.jobs import summary
from pyfi_hpc.errors import PyfiError

#: jobs that are shown: those that have not ended, then the newest that have
JOBS_MAX = 30
#: cells of a strip; of more ranks each cell stands for several
STRIP_MAX = 48
#: a broker that is silent for longer is shown as away, seconds
_ANSWER_S = 3.0
_PARTS = "░▁▂▃▄▅▆▇█"


@dataclass(slots=True)
class Frame:
    """``problem``: why the broker could not be asked; then the rest is empty."""

    at: float
    instance: str
    address: str = ""
    problem: str = ""
    unfinished: int = 0
    ready: int = 0
    settled: int = 0
    #: since the frame before; None: there was none of the same broker
    settled_per_s: float | None = None
    epoch: int = 0
    ledger: str = ""
    nodes: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)

    def title(self) -> str:
        """One line about the whole."""
        if self.problem:
            return f"{self.instance}  {self.problem}"
        rate = "" if self.settled_per_s is None else f"  {self.settled_per_s:,.0f} tasks/s"
        ranks = sum(node["ranks"] for node in self.nodes)
        busy = sum(busy_ranks(node) for node in self.nodes)
        tasks = f"{self.unfinished:,} unfinished, {self.ready:,} ready{rate}"
        return f"{self.instance}  {self.address}  epoch {self.epoch}{self.ledger}  {busy}/{ranks} ranks busy  {tasks}"


def look(context: Context, before: Frame | None) -> Frame:
    """Ask the broker. Cost: two questions, some milliseconds."""
    now, instance = time.time(), context.settings.instance
    try:
        found = context.session.ask("info", {}, _ANSWER_S, repeat=True)["broker"]
        rows = [] if found["ledger_down"] else _jobs(context)
    except (PyfiError, TimeoutError) as error:
        return Frame(now, instance, problem=str(error).splitlines()[0])
    frame = Frame(
        now, instance, context.session.address, "", found["open_tasks"], found["ready_tasks"],
        found["counts"]["settled"], None, found["epoch"],
        f"  ledger DOWN: {found['ledger_down']}" if found["ledger_down"] else "", found["nodes"], rows,
    )  # fmt: skip
    if before is not None and before.epoch == frame.epoch and frame.at > before.at:
        frame.settled_per_s = (frame.settled - before.settled) / (frame.at - before.at)
    return frame


def _jobs(context: Context) -> list[dict[str, Any]]:
    def ask(unfinished: bool) -> list[dict[str, Any]]:
        body = {"unfinished": unfinished, "limit": JOBS_MAX}
        return context.session.ask("jobs", body, _ANSWER_S, repeat=True)["rows"]  # type: ignore[no-any-return]

    found = {row["job"]: row for row in ask(True)}
    if len(found) < JOBS_MAX:
        for row in ask(False):
            found.setdefault(row["job"], row)
    rows = sorted(found.values(), key=lambda row: (row["done"], -row["job"]))
    return [summary(row) for row in rows[:JOBS_MAX]]


def busy_ranks(node: Mapping[str, Any]) -> int:
    return min(int(node["running"]), int(node["ranks"]))


def strip(node: Mapping[str, Any]) -> str:
    """A cell for each rank: busy, idle, or resting (``x``); of many ranks how many of each cell's are busy.

    >>> strip({"ranks": 3, "running": 2, "resting": [{"rank": 7}]})
    '██░x'
    """
    ranks, busy = int(node["ranks"]), busy_ranks(node)
    resting = len([rest for rest in node["resting"] if rest["rank"] >= 0])
    if ranks + resting <= STRIP_MAX:
        return "█" * busy + "░" * (ranks - busy) + "x" * resting
    cells = []
    for cell in range(STRIP_MAX):
        lo, hi = ranks * cell / STRIP_MAX, ranks * (cell + 1) / STRIP_MAX
        share = min(1.0, max(0.0, (busy - lo) / (hi - lo)))
        cells.append(_PARTS[round(share * (len(_PARTS) - 1))])
    return "".join(cells)


def node_cells(node: Mapping[str, Any]) -> tuple[str, ...]:
    """As ``NODE_TITLES``."""
    memory = f"{node['memory_bytes'] / 2**30:.1f} GiB"
    state = "; ".join([state_of(dict(node)), *troubles(node)])
    ranks = f"{busy_ranks(node)}/{node['ranks']}"
    return str(node["name"]), ranks, strip(node), str(node["outstanding"]), f"{node['load']:.2f}", memory, state


NODE_TITLES = ("NODE", "BUSY", "RANKS", "HELD", "LOAD", "MEMORY", "STATE")


class Tails:
    """New lines of the instance's logs, of all hosts that share its home.

    Parameters
    ----------
    folder : Path
    first : int
        Lines of each file at the first look.
    """

    def __init__(self, folder: Path, first: int = 20) -> None:
        self._folder, self._first = folder, first
        self._read: dict[Path, int] = {}

    def lines(self) -> list[str]:
        """What was written since the last look, by file; a line that is not complete waits."""
        found: list[str] = []
        for file in sorted(self._folder.glob("*.log")):
            try:
                found += [f"{file.stem}: {line}" for line in self._new(file)]
            except OSError:  # it has gone, or may not be read
                continue
        return found

    def _new(self, file: Path) -> list[str]:
        size, at = file.stat().st_size, self._read.get(file)
        first = at is None
        begin = max(0, size - (1 << 16)) if at is None or at > size else at
        with file.open("rb") as stream:
            stream.seek(begin)
            data = stream.read(1 << 20)
        end = data.rfind(b"\n") + 1
        self._read[file] = begin + end
        lines = data[:end].decode(errors="backslashreplace").splitlines()
        return lines[-self._first :] if first else lines
