"""What a report and a trace tell of a job: slices on ranks, where rank-seconds went, the page, the events."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfi_hpc.cli import page as page_module
from pyfi_hpc.cli import timeline as t
from pyfi_hpc.cli.markup import lasting, ticks
from pyfi_hpc.cli.page import figures, page
from pyfi_hpc.cli.spans import Span, _merged, read_spans
from pyfi_hpc.cli.timeline import build, functions, grid, histogram, quantile, rows_of, slowest, spent
from pyfi_hpc.cli.trace import events, text
from pyfi_hpc.model.states import Cause, TaskState

HEAD = {"job": 7, "name": "", "socket": "m.f", "owner": "ada", "tasks": 4, "done": True}


def span(
    first: int, rank: int, *times: tuple[float, float], state: TaskState = TaskState.COMPLETED, **more: Any
) -> Span:
    """Tasks from ``first`` on with their starts and durations."""
    starts, durations = array("d", (start for start, _ in times)), array("f", (seconds for _, seconds in times))
    given = {"attempt": 1, "node": "n1", "socket": "m.f", **more}
    return Span(
        first, len(times), given["attempt"], given["node"], rank, bytes([state]) * len(times), starts, durations,
        given["socket"],
    )  # fmt: skip


def attempt(index: int, rank: int, ended: float, cause: Cause = Cause.ERROR, limit_s: float = 0.0) -> list[Any]:
    return [index, 1, int(cause), "n1", rank, ended, limit_s, "m.f"]


def of(found: t.Timeline, number: int = 0) -> list[tuple[int, float, float, str]]:
    return [(one.index, one.start, one.end, one.word) for one in found.lanes[number].slices]


# --- the timeline -------------------------------------------------------------------------------------


def test_where_each_rank_second_went() -> None:
    """Two ranks, every kind of time once; together they are ranks times the length of the job."""
    spans = [
        span(0, 0, (102.0, 3.0), (106.0, 1.0)),
        span(2, 0, (107.0, 0.5), state=TaskState.FAILED),
        span(3, 1, (100.5, 9.5), attempt=2),
    ]
    found = build(100.0, spans, [attempt(3, 1, 100.5)])
    assert (found.start, found.end, found.rank_seconds) == (100.0, 110.0, 20.0)
    assert spent(found) == {
        "completed": 13.5, "failed": 0.5, "lost": 0.5, "startup": 2.0, "waiting": 1.0, "after": 2.5
    }  # fmt: skip
    assert sum(spent(found).values()) == found.rank_seconds
    assert found.states == {"COMPLETED": 3, "FAILED": 1}
    assert found.causes == {"ERROR": 1}


def test_a_failed_attempt_begins_as_early_as_is_possible() -> None:
    """Behind what ran before it on its rank, behind its submission, not longer ago than its limit and the grace."""
    done = span(0, 0, (100.0, 2.0), (110.0, 5.0))
    assert of(build(99.0, [done], [attempt(5, 0, 109.0)]))[1] == (5, 102.0, 109.0, "ERROR")
    assert of(build(99.0, [done], [attempt(5, 0, 109.0, Cause.TIME_LIMIT, 1.0)]))[1][1:3] == (106.0, 109.0)
    assert of(build(99.0, [done], [attempt(5, 1, 100.0)]), 1) == [(5, 99.0, 100.0, "ERROR")]
    # told while the next task ran already
    assert of(build(99.0, [done], [attempt(5, 0, 110.5)]))[1] == (5, 102.0, 110.0, "ERROR")
    # one after the other in one gap
    both = build(99.0, [done], [attempt(5, 0, 105.0), attempt(6, 0, 109.0)])
    assert [row[1:3] for row in of(both)[1:3]] == [(102.0, 105.0), (105.0, 109.0)]


def test_attempts_without_a_rank_or_too_late() -> None:
    """A lost node names no rank; an outcome of a grant that was taken back took nothing from this job."""
    rows = [attempt(0, -1, 105.0, Cause.NODE_FAIL), attempt(1, 0, 106.0, Cause.STALE)]
    found = build(100.0, [span(0, 0, (106.0, 1.0))], rows)
    assert of(found) == [(0, 106.0, 107.0, "COMPLETED")]
    assert [(node, one.word) for node, one in found.nowhere] == [("n1", "NODE_FAIL")]
    assert found.causes == {"NODE_FAIL": 1, "STALE": 1}


def test_what_never_ran_and_clocks_that_differ() -> None:
    """Cancelled tasks have no slice; a node whose clock is behind moves the beginning; overlaps count once."""
    states = bytes([TaskState.CANCELLED, TaskState.SKIPPED])
    never = Span(9, 2, 0, "", -1, states, array("d", [0, 0]), array("f", [0, 0]), "m.f")
    found = build(100.0, [span(0, 0, (99.5, 2.0), (101.0, 1.0)), never], [])
    assert found.states == {"COMPLETED": 2, "CANCELLED": 1, "SKIPPED": 1}
    assert (found.start, len(found.lanes)) == (99.5, 1)
    assert spent(found)["completed"] == 2.5 == found.rank_seconds
    empty = build(100.0, [never], [])
    assert (empty.lanes, empty.rank_seconds, sum(spent(empty).values())) == ([], 0.0, 0.0)


_time = st.floats(0, 1e4, allow_nan=False)


@given(
    st.lists(st.tuples(st.integers(0, 3), _time, st.floats(0, 100)), max_size=30),
    st.lists(
        st.tuples(st.integers(-1, 3), _time, st.sampled_from(list(Cause)), st.sampled_from([0.0, 5.0])), max_size=10
    ),
)
def test_nothing_is_lost_or_counted_twice(ran: list[Any], failed: list[Any]) -> None:
    """Whatever the times: all rank-seconds are told, columns are shares, a trace has no two slices at once."""
    spans = [span(at, rank, (1e5 + start, seconds)) for at, (rank, start, seconds) in enumerate(ran)]
    rows = [attempt(at, rank, 1e5 + end, cause, limit) for at, (rank, end, cause, limit) in enumerate(failed)]
    found = build(1e5, spans, sorted(rows, key=lambda row: row[5]))
    told = spent(found)
    assert min(told.values()) >= 0
    assert sum(told.values()) == pytest.approx(found.rank_seconds)
    busy, _ = grid(found, found.lanes, 7)
    assert all(0 <= share <= 1 for share in busy)
    ends: dict[tuple[int, int], float] = {}
    for event in events(HEAD, found):
        if event["ph"] == "X":
            row = event["pid"], event["tid"]
            assert event["ts"] >= ends.get(row, 0.0) - 1e-6 and event["dur"] >= 0
            ends[row] = event["ts"] + event["dur"]
    assert page(HEAD, found, {}, 0.0)


def test_how_busy_ranks_were() -> None:
    """Shares of columns, also of tasks over several and of several in one; where something failed."""
    spans = [span(0, 0, (0.0001, 4.9999), (6.0, 1.0)), span(2, 1, (5.0, 5.0), state=TaskState.FAILED)]
    found = build(0.0001, spans, [])
    busy, failed = grid(found, found.lanes[:1], 10)
    assert [round(share, 3) for share in busy] == [1, 1, 1, 1, 1, 0, 1, 0, 0, 0]
    assert not any(failed)
    both, failed = grid(found, found.lanes, 2)
    assert [round(share, 2) for share in both] == [0.5, 0.6]
    assert failed == [False, True]


def test_functions_and_the_slowest() -> None:
    """Counts and times of final attempts; failed attempts are not among them."""
    late = span(3, 1, (1.0, 4.0), state=TaskState.TIMEOUT, socket="m.g")
    spans = [span(0, 0, (1.0, 1.0), (2.0, 2.0), (4.0, 3.0)), late]
    found = build(0.5, spans, [attempt(9, 1, 30.0)])
    g, f = sorted(functions(found), key=lambda row: row.socket, reverse=True)
    assert (f.count, f.not_completed, f.total_s, f.mean_s, f.median_s, f.p95_s, f.max_s) == (3, 0, 6, 2, 2, 3, 3)
    assert (g.socket, g.count, g.not_completed, g.max_s) == ("m.g", 1, 1, 4)
    assert [one.index for _, one in slowest(found, 2)] == [3, 2]
    assert histogram(found) == [(0.5, 1.0, 1), (1.0, 2.0, 1), (2.0, 5.0, 2)]
    assert [quantile([1.0, 2.0, 3.0, 4.0], share) for share in (0.0, 0.25, 0.5, 0.95, 1.0)] == [1, 1, 2, 4, 4]


def test_rows_of_many_ranks() -> None:
    """Neighbours share a row, none is left out."""
    lanes = [t.Lane("n", rank) for rank in range(10)]
    rows = rows_of(lanes, 4)
    assert [len(group) for _, group in rows] == [3, 3, 3, 1]
    assert [lane for _, group in rows for lane in group] == lanes
    assert rows[0][0] == "n 0 to n 2"
    assert rows_of([], 4) == []


# --- the page -----------------------------------------------------------------------------------------


def many(ranks: int, tasks: int) -> t.Timeline:
    """So many tasks of uneven length in turn, some of which fail."""
    spans = []
    for at in range(tasks):
        state = TaskState.FAILED if at % 97 == 5 else TaskState.COMPLETED
        start = 1e9 + at // ranks * 10 + at % 3
        spans.append(span(at, at % ranks, (start, 1 + at % 7), state=state, socket=f"m.f{at % 12}"))
    return build(1e9, spans, [attempt(3, 0, 1e9 + 15.0)])


def well_formed(content: str) -> ElementTree.Element:
    """As XML, so that every tag is closed and everything is quoted."""
    body = re.sub(r'<meta [^>]*"|<!DOCTYPE html>\n', lambda m: m[0] + "/" if m[0][1] == "m" else "", content)
    return ElementTree.fromstring(body)


@pytest.mark.parametrize(("ranks", "tasks", "size_max"), [(1, 1, 30_000), (20, 1500, 400_000), (300, 30_000, 300_000)])
def test_a_page_of_any_job_is_small(ranks: int, tasks: int, size_max: int) -> None:
    """HTML that is well formed, with nothing from outside and no script."""
    content = page({**HEAD, "tasks": tasks}, many(ranks, tasks), {}, 1e9)
    assert len(content.encode()) < size_max
    assert [heading.text for heading in well_formed(content).iter("h2")][:3] == [
        "What each rank-second went to", "What each rank did", "Busy ranks over time"
    ]  # fmt: skip
    assert not re.search(r"<script|https?:|@import|url\(|src=|href=", content)


def test_few_tasks_are_drawn_one_by_one_and_many_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bar names its task; beyond the limit it is shades for each rank."""
    found = many(3, 30)
    assert page(HEAD, found, {}, 1e9).count("attempt 1\n") == 31
    monkeypatch.setattr(page_module, "SLICES_DRAWN_MAX", 30)
    shades = page(HEAD, found, {}, 1e9)
    assert "attempt 1\n" not in shades and 'class="s8"' in shades and 'path class="bad"' in shades


def test_a_job_of_which_nothing_ran() -> None:
    """Also without a single final task there is a page."""
    content = page({**HEAD, "done": False}, build(1e9, [], []), {}, 1e9)
    assert "No task of this job has run yet" in content and "not ended" in content
    well_formed(content)


def test_names_from_users_are_text() -> None:
    """Markup, control characters and what steers terminals in names and errors do nothing."""
    found = build(1e9, [span(0, 0, (1e9 + 1, 1.0), state=TaskState.FAILED, socket="<script>", node='"><b>')], [])
    content = page({**HEAD, "name": "</title><script>&\x1b[0m\0"}, found, {0: "FAILED <img src=x>\x07"}, 1e9)
    well_formed(content)
    assert "<script" not in content and "<img" not in content and "\x1b" not in content and "\0" not in content


def test_figures_are_plain() -> None:
    """The same as the page tells, for programs."""
    found = figures(HEAD, many(4, 40))
    assert json.loads(json.dumps(found)) == found
    assert found["rank_seconds"] == pytest.approx(sum(found["spent_s"].values()))
    assert (found["ranks"], found["states"]["COMPLETED"], len(found["slowest"])) == (4, 39, 20)


@pytest.mark.parametrize("length", [0.0, 1e-6, 0.03, 1.0, 14.9, 59.0, 100.0, 3600.0, 1e5, 1e9])
def test_ticks_are_few_and_round(length: float) -> None:
    """From 0 on, inside of the job, at most nine."""
    found = ticks(length)
    assert found[0] == 0.0 and len(found) <= 9 and found[-1] <= length * (1 + 1e-9)
    assert length == 0.0 or len(found) >= 3


def test_lengths_in_words() -> None:
    """Three digits and the unit that fits."""
    lengths = [0, 1.2e-5, 9.999e-4, 0.0345, 0.9996, 5.64, 99.96, 3599.6, 7322, 90061, float("inf")]
    words = ["0 s", "12 µs", "1 ms", "34.5 ms", "1 s", "5.64 s", "1:40 min", "1:00:00 h", "2:02:02 h"]
    words += ["1 d 1:01 h", "∞"]
    assert [lasting(length) for length in lengths] == words


# --- the trace ----------------------------------------------------------------------------------------


def test_a_trace_has_a_row_for_each_rank_and_a_slice_for_each_task() -> None:
    """Names of nodes and ranks; microseconds from the submission on; what failed is marked."""
    spans = [
        span(0, 0, (101.0, 0.5)), span(1, 1, (100.25, 2.0), state=TaskState.TIMEOUT),
        span(2, 0, (100.0, 1.0), node="n2"),
    ]  # fmt: skip
    found = build(100.0, spans, [attempt(0, 0, 100.5), attempt(4, -1, 103.0, Cause.NODE_FAIL)])
    listed = json.loads(b"".join(text(events(HEAD, found))))["traceEvents"]
    rows = {(e["pid"], e["tid"]): e["args"]["name"] for e in listed if e["name"] == "thread_name"}
    assert rows == {(1, 1): "rank 0", (1, 2): "rank 1", (2, 1): "rank 0"}
    nodes = {e["pid"]: e["args"]["name"] for e in listed if e["name"] == "process_name"}
    assert nodes == {1: "node n1", 2: "node n2"}
    slices = [(e["name"], e["pid"], e["tid"], e["ts"], e["dur"], e["args"]["task"]) for e in listed if e["ph"] == "X"]
    assert slices == [
        ("m.f (attempt failed: ERROR)", 1, 1, 0.0, 500_000.0, "7.0"),
        ("m.f", 1, 1, 1_000_000.0, 500_000.0, "7.0"),
        ("m.f (TIMEOUT)", 1, 2, 250_000.0, 2_000_000.0, "7.1"),
        ("m.f", 2, 1, 0.0, 1_000_000.0, "7.2"),
    ]
    marks = [(e["name"], e["ts"]) for e in listed if e["ph"] == "i"]
    assert marks == [("m.f (attempt failed: NODE_FAIL)", 3_000_000.0)]


def test_a_trace_of_nothing() -> None:
    """It is JSON all the same."""
    assert json.loads(b"".join(text(events(HEAD, build(1.0, [], [])))))["traceEvents"] == []


# --- what the desk is asked ---------------------------------------------------------------------------


def test_pages_of_spans_are_read_to_the_end() -> None:
    """Stretches are merged; each page begins where the last one ended."""
    asked = []

    def ask(verb: str, body: dict[str, Any]) -> Any:
        asked.append((verb, body["job"], body["ranges"]))
        first = max(body["ranges"][0][0], 0)
        packed = array("d", [5.0]).tobytes(), array("f", [1.5]).tobytes()
        return {"rows": [[first, 1, 1, "n1", 0, b"\3", *packed, "m.f"]], "next": first + 1 if first < 2 else -1}

    found = list(read_spans(ask, 7, [(2, 4), (0, 1), (1, 2)]))
    times = [(one.first, list(one.started), list(one.durations)) for one in found]
    assert times == [(n, [5.0], [1.5]) for n in range(3)]
    assert asked == [("spans", 7, [[0, 4]]), ("spans", 7, [[1, 4]]), ("spans", 7, [[2, 4]])]
    assert _merged([(5, 6), (0, 2), (2, 3), (1, 2)]) == [(0, 3), (5, 6)]
