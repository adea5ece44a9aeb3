"""What a question answers: figures with their spread, and what to hold them against; the standard library only."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure: the median of its runs, the spread, and what to hold it against."""

    name: str
    runs: tuple[float, ...]
    unit: str
    #: True: more is better
    most: bool
    #: what the project promises: not reached fails the run; 0: nothing is promised
    floor: float = 0.0
    #: what the project wants to reach: shown, fails nothing; 0: nothing is said
    reach: float = 0.0
    #: what the bare parts of it take here, measured in turn with the runs, or what is possible at all
    ideal: tuple[float, ...] = ()
    note: str = ""
    #: the curve that this is a point of, and where on it
    series: str = ""
    x: float = 0.0
    #: only a point of a curve: kept, not printed
    quiet: bool = False
    #: the file that asks
    question: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def failed(self) -> bool:
        """It has a floor and is below it."""
        return bool(self.floor) and not self.holds(self.floor)

    def holds(self, bar: float) -> bool:
        return self.median >= bar if self.most else self.median <= bar


def read(file: str | Path) -> dict[str, Any]:
    """A result file, its figures as such, by name."""
    found: dict[str, Any] = json.loads(Path(file).read_text())
    return found | {"figures": {name: from_json(values) for name, values in found["figures"].items()}}


def from_json(values: dict[str, Any]) -> Figure:
    known = {field.name for field in fields(Figure)}
    kept: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key in known}
    return Figure(**kept)


def write(file: str | Path, about: dict[str, Any], figures: Iterable[Figure]) -> None:
    """A result file: machine, commit, seed, versions; then each figure with its median and all runs."""
    rows = {figure.name: {"median": figure.median, **asdict(figure)} for figure in figures}
    Path(file).write_text(json.dumps(about | {"figures": rows}, indent=1) + "\n")


def table(figures: Iterable[Figure]) -> list[str]:
    """One line a figure: median, spread, number of runs, the ideal, the bars and whether they are reached."""
    lines = [f"{'figure':44} {'median':>9} {'unit':9} {'min .. max':>19} {'n':>2} {'ideal':>8}  bars"]
    question = None
    for figure in figures:
        if figure.quiet:
            continue
        if figure.question != question:
            question = figure.question
            lines.append(f"-- {question}")
        lines.append(_line(figure))
    return lines


def _line(figure: Figure) -> str:
    spread = f"{short(min(figure.runs))} .. {short(max(figure.runs))}"
    ideal = short(statistics.median(figure.ideal)) if figure.ideal else ""
    sign = ">=" if figure.most else "<="
    bars = []
    if figure.floor:
        bars.append(f"floor {sign} {short(figure.floor)}{'' if figure.holds(figure.floor) else ' NOT REACHED'}")
    if figure.reach:
        bars.append(f"reach {sign} {short(figure.reach)} {'reached' if figure.holds(figure.reach) else 'not yet'}")
    if figure.note:
        bars.append(f"({figure.note})")
    return (
        f"{figure.name:44} {short(figure.median):>9} {figure.unit:9} {spread:>19} {len(figure.runs):2} {ideal:>8}  "
        + "; ".join(bars)
    ).rstrip()


def short(value: float) -> str:
    """Three to four digits that matter, thousands with commas."""
    if value == 0:
        return "0"
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.0f}" if size >= 100 else f"{value:.3g}"
