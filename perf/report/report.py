"""One result file as one page of HTML: tables, plots, nothing from outside. Needs matplotlib.

    python perf/report/report.py A.json A.html
"""

from __future__ import annotations

import html
import io
import json
import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402  the backend is chosen first

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
td, th { padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
td:first-child, th:first-child, td.text { text-align: left }
.bad { color: #b00020; font-weight: bold } .good { color: #1b7a3d } .quiet { color: #777 }
"""
Row = dict[str, Any]


def page(found: dict[str, Any]) -> str:
    figures = list(found["figures"].values())
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    parts = [
        f"<!doctype html><meta charset=utf-8><title>pyfi_hpc figures, {_text(found['commit'])}</title>",
        f"<style>{_STYLE}</style><h1>pyfi_hpc figures</h1>",
        f"<p>{_text(found['machine']['text'])}; commit {_text(found['commit'])}; seed {found['seed']}; "
        f"{_text(found['time'])}{'; <b>quick: small sizes</b>' if found['quick'] else ''}<br>",
        f"<span class=quiet>{_text(versions)}</span></p>", *_plots(figures), *_table(figures), *_peers(figures),
    ]  # fmt: skip
    parts += [f"<p class=bad>{_text(name)}: {_text(why)}</p>" for name, why in found.get("failures", {}).items()]
    return "\n".join(parts) + "\n"


# --- plots --------------------------------------------------------------------------------------------------


def _plots(figures: list[Row]) -> Iterator[str]:
    lengths = _series(figures, "length/")
    if lengths:
        axes = _axes("Throughput against task length", "task length, us", "tasks/s")
        for name, rows in lengths.items():
            _line(axes, rows, name, 1e6)
        ideal = sorted({(1e6 * row["x"], row["ideal"][0]) for rows in lengths.values() for row in rows if row["ideal"]})
        axes.plot(*zip(*ideal, strict=True), "k--", linewidth=1, label="ideal")
        axes.set(xscale="log", yscale="log")
        yield _drawn(axes)
    for prefix, title, x, y, log in (
        ("ranks", "Efficiency against ranks, tasks of 10 ms that wait", "ranks", "%", False),
        ("queue", "Memory of the broker against queue length", "queued tasks", "MB", True),
        ("decision/queued", "Decision of the broker against queue length", "queued tasks", "us", True),
        ("decision/ranks", "Decision of the broker against ranks", "ranks", "us", True),
    ):
        for rows in _series(figures, prefix).values():
            axes = _axes(title, x, y)
            _line(axes, rows, "", 1.0)
            most = max(max(row["runs"]) for row in rows)
            axes.set_ylim(0, 105 if y == "%" else 1.1 * most)
            axes.set_xscale("log", base=10 if log else 2)
            yield _drawn(axes)


def _series(figures: list[Row], prefix: str) -> dict[str, list[Row]]:
    """The curves whose name begins so, by the rest of it."""
    found: dict[str, list[Row]] = {}
    for row in figures:
        if row["series"].startswith(prefix):
            found.setdefault(row["series"].removeprefix(prefix), []).append(row)
    return {name: sorted(rows, key=lambda row: row["x"]) for name, rows in found.items()}


def _axes(title: str, x: str, y: str) -> Any:
    axes = pyplot.figure(figsize=(7, 3.6)).add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return axes


def _line(axes: Any, rows: list[Row], label: str, scale: float) -> None:
    """Medians, with the smallest and largest run as bars."""
    low = [row["median"] - min(row["runs"]) for row in rows]
    high = [max(row["runs"]) - row["median"] for row in rows]
    where = [scale * row["x"] for row in rows]
    axes.errorbar(where, [row["median"] for row in rows], (low, high), marker="o", capsize=3, label=label)


def _drawn(axes: Any) -> str:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8)
    axes.figure.tight_layout()
    file = io.StringIO()
    axes.figure.savefig(file, format="svg")
    pyplot.close(axes.figure)
    svg = file.getvalue()
    return "<div>" + svg[svg.index("<svg") :] + "</div>"


# --- tables -------------------------------------------------------------------------------------------------


def _table(figures: list[Row]) -> Iterator[str]:
    yield "<h2>Figures</h2><table>" + _cells(
        "th", "figure", "median", "unit", "min .. max", "runs", "ideal", "floor", "to reach", ""
    )
    for row in figures:
        if row["quiet"]:
            continue
        ideal = _short(statistics.median(row["ideal"])) if row["ideal"] else ""
        yield _cells(
            "td", _text(row["name"]), _short(row["median"]), _text(row["unit"]), _spread(row), len(row["runs"]), ideal,
            _bar(row, "floor", "bad"), _bar(row, "reach", "quiet"), _text(row["note"]),
        )  # fmt: skip
    yield "</table>"


def _peers(figures: list[Row]) -> Iterator[str]:
    """One row a peer, one column a question."""
    columns = _series(figures, "peers/")
    if not columns:
        return
    cells = {(row["name"].partition(": ")[2], name): row for name, rows in columns.items() for row in rows}
    yield "<h2>The same work through others</h2><table>"
    yield _cells("th", "", *(f"{_text(name)}<br>{_text(rows[0]['unit'])}" for name, rows in columns.items()))
    for peer in dict.fromkeys(peer for peer, _ in cells):
        shown = []
        for name in columns:
            row = cells.get((peer, name))
            shown.append(f"{_short(row['median'])}<br><span class=quiet>{_spread(row)}</span>" if row else "-")
        yield _cells("td", _text(peer), *shown)
    yield "</table><p>Who keeps work through kill -9 of its coordinator:</p><table>"
    for row in columns.get("kept after kill -9", []):
        yield f"<tr><td>{_text(row['name'].partition(': ')[2])}</td><td class=text>{_text(row['note'])}</td></tr>"
    yield "</table>"


def _bar(row: Row, name: str, otherwise: str) -> str:
    bar = row[name]
    if not bar:
        return ""
    reached = row["median"] >= bar if row["most"] else row["median"] <= bar
    sign = "&ge;" if row["most"] else "&le;"
    return f"<span class={'good' if reached else otherwise}>{sign} {_short(bar)} {'&#10003;' if reached else ''}</span>"


def _cells(kind: str, *values: object) -> str:
    return "<tr>" + "".join(f"<{kind}>{value}</{kind}>" for value in values) + "</tr>"


def _spread(row: Row) -> str:
    return f"{_short(min(row['runs']))} .. {_short(max(row['runs']))}"


def _short(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.0f}" if size >= 100 else f"{value:.3g}"


def _text(value: object) -> str:
    return html.escape(str(value))


def main(words: Iterable[str]) -> int:
    source, target = words
    Path(target).write_text(page(json.loads(Path(source).read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
