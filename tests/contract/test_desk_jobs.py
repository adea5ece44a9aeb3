"""What the desk of a real ledger tells about jobs and tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from struct import unpack
from typing import Any

import msgspec
import pytest
from desk_asker import COMMIT, Asker, ask, fill, spec
from records import admitted, closed, failed, opened, settled

from pyfi_hpc.ledger import spans
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.model.states import Cause, TaskState

__all__ = ["ask", "fill"]


def test_calls_are_listed_newest_first(ask: Asker, fill: Callable[..., None]) -> None:
    """Three jobs, one half done: order, totals, filters and pages of tasks."""
    fill(opened(1), admitted(1, 1, 0, 0, 3, False), admitted(2, 1, 1, 3, 3), settled(1, 1), closed(1))
    fill(opened(2), admitted(3, 2), settled(3, 2, 0, 1, TaskState.FAILED), settled(3, 2, 2, 1))
    page = ask("calls", limit=4)
    assert [row["id"] for row in page["rows"]] == ["2.2", "2.1", "2.0", "1.5"]
    assert page["total"] == 9
    assert [row["id"] for row in ask("calls", limit=4, offset=7)["rows"]] == ["1.1", "1.0"]
    unfinished = ask("calls", unfinished=True)
    assert [row["id"] for row in unfinished["rows"]] == ["2.1", "1.5", "1.4", "1.3"]
    assert unfinished["total"] == 4
    failed_ones = ask("calls", state="F")
    assert ([row["id"] for row in failed_ones["rows"]], failed_ones["total"]) == (["2.0"], 1)
    assert ask("ls", kind="calls", job=1, state="COMPLETED")["total"] == 3
    assert [row["id"] for row in ask("calls", job=2)["rows"]] == ["2.2", "2.1", "2.0"]
    done = page["rows"][0]
    assert (done["state"], done["code"], done["node"], done["rank"], done["attempt"]) == (
        "COMPLETED",
        "CD",
        "n1",
        5,
        2,
    )
    assert (done["started"], done["duration_s"], done["ended"]) == (100.25, 0.5, 100.75)
    assert "states are" in ask.refused("calls", state="odd")["fix"]
    assert ask("calls", job=99) == {"rows": [], "total": 0}


def test_what_runs_just_now_comes_from_the_broker(ask: Asker, fill: Callable[..., None]) -> None:
    """The ledger knows only what is final: running, pending and reasons come with the view."""
    fill(opened(1), admitted(1, 1, 0, 0, 4), settled(1, 1, 0, 1))
    live = {"jobs": {1: {"running": 1, "pending": 2, "blocked": 0, "reason": "Resources"}}}
    row = ask("jobs", view=live)["rows"][0]
    assert row["states"] == {"COMPLETED": 1, "RUNNING": 1, "PENDING": 2}
    assert (row["reason"], row["tasks"], row["done"]) == ("Resources", 4, False)
    live["running"] = {(1, 2): "n3"}  # type: ignore[dict-item]
    states = [(r["id"], r["state"], r["node"]) for r in ask("calls", view=live, unfinished=True)["rows"]]
    assert states == [("1.3", "PENDING", ""), ("1.2", "RUNNING", "n3"), ("1.1", "PENDING", "")]
    assert [r["id"] for r in ask("calls", view=live, state="R")["rows"]] == ["1.2"]
    assert ask("jobs")["rows"][0]["states"] == {"COMPLETED": 1, "PENDING": 3}


def test_one_call_shows_everything(ask: Asker, fill: Callable[..., None]) -> None:
    """Attempts with causes, code, arguments, result; an error is decoded; unknown ids are named."""
    ask("deploy", **spec("fit"))
    made = ask.told[0].sockets[0]
    batch = replace(admitted(1, 1), socket=made.socket, code=made.mount.code)
    error = msgspec.msgpack.encode(["builtins", "ValueError", "bad", "Traceback ...", None])
    wrong = replace(
        settled(1, 1, 0, 1, TaskState.FAILED), payload=error, offsets=offsets_of([error])
    )  # fmt: skip
    fill(opened(1), batch, failed(1, 1, 1, 1, Cause.NODE_FAIL), settled(1, 1, 1, 2), wrong)
    good = ask("call", id="1.1")
    assert (good["socket"], good["commit"], good["state"]) == ("digits.fit", COMMIT, "COMPLETED")
    assert (good["arguments"], good["result"], good["error"]) == (b"argument 1" * 2, b"result 1.1", None)
    assert [(a["attempt"], a["outcome"], a["node"]) for a in good["attempts"]] == [
        (1, "NODE_FAIL", "n2"),
        (2, "COMPLETED", "n1"),
    ]
    assert good["attempts"][0]["error"]["type"] == "ValueError"
    assert used(good) == {"node_fail": (1, 3)}
    bad = ask("call", id=1)
    assert (bad["id"], bad["state"], bad["result"]) == ("1.0", "FAILED", None)
    assert used(bad) == {"error": (1, batch.retries + 1)}, "the last attempt counts, too"
    changed = {"budgets": {"error": "retries", "node_fail": 7}}
    assert used(ask("call", view=changed, id="1.1")) == {"node_fail": (1, 7)}
    assert bad["error"] == {
        "module": "builtins",
        "type": "ValueError",
        "message": "bad",
        "traceback": "Traceback ...",
    }
    for odd in ("1.9", "7.0", "7"):
        assert ask.refused("call", id=odd)["code"] == "not_found"
    for odd in ("x", "1.x", "", "-1", "1.2.3", "9" * 30):
        assert ask.refused("call", id=odd)["code"] == "usage_error"


def used(call: Any) -> dict[str, tuple[int, int]]:
    """The budgets that a call has used something of: attempts and limit."""
    return {row["cause"]: (row["used"], row["limit"]) for row in call["budgets"] if row["used"]}


def test_the_graph_around_a_call(ask: Asker, fill: Callable[..., None]) -> None:
    """A diamond over two jobs: from any of its calls the whole of it is found, and nothing else."""
    fill(opened(1), admitted(1, 1, 0, 0, 3), settled(1, 1))
    fill(opened(2), admitted(2, 2, 0, 0, 2, False, edges=[(0, 0, 1, 0), (1, 0, 1, 0)]))
    fill(admitted(3, 2, 1, 2, 1, edges=[(0, 0, 0, 0), (0, 1, 0, 1)]))
    links = [["1.0", "2.0"], ["1.0", "2.1"], ["2.0", "2.2"], ["2.1", "2.2"]]
    for start in ("1.0", "2.1", "2.2"):
        found = ask("call", id=start, graph=True)["graph"]
        assert found["edges"] == links
        assert sorted(found["tasks"]) == ["1.0", "2.0", "2.1", "2.2"]
        assert not found["cut"]
    assert ask("call", id="2.2")["parents"] == ["2.0", "2.1"]
    assert ask("call", id="1.0")["children"] == ["2.0", "2.1"]
    assert ask("call", id="1.1", graph=True)["graph"]["edges"] == []


def test_output_of_a_task(ask: Asker, fill: Callable[..., None]) -> None:
    """Outputs of a message lie with its first range; those of failed attempts are kept, too."""
    outputs = msgspec.msgpack.encode([(0, b"zero", b""), (2, b"two", b"warn")])
    fill(
        opened(1),
        admitted(1, 1),
        settled(1, 1, 0, 1, outputs=outputs),
        settled(1, 1, 2, 1),
        failed(1, 1, 2, 1),
    )
    found = ask("output", id="1.2")
    assert (found["stdout"], found["stderr"], found["final"]) == (b"two", b"warn", True)
    assert [(a["attempt"], a["outcome"], a["stdout"]) for a in found["attempts"]] == [
        (1, "CRASH", b"out"), (2, "COMPLETED", b"two")
    ]  # fmt: skip
    waiting = ask("output", id="1.1")
    assert (waiting["final"], waiting["stdout"], waiting["attempts"]) == (False, b"", [])


def test_jobs_with_their_counts(ask: Asker, fill: Callable[..., None]) -> None:
    """Newest first; unfinished ones only; by owner; times of first start and last end."""
    fill(
        opened(1),
        admitted(1, 1),
        settled(1, 1),
        closed(1),
        opened(2, owner="eve"),
        admitted(2, 2, last=False),
    )
    rows = ask("jobs")["rows"]
    assert [(r["job"], r["owner"], r["tasks"], r["done"]) for r in rows] == [
        (2, "eve", 3, False),
        (1, "ada", 3, True),
    ]
    assert (rows[1]["states"], rows[1]["started"], rows[1]["ended"]) == ({"COMPLETED": 3}, 100.25, 2000.75)
    assert [r["job"] for r in ask("jobs", unfinished=True)["rows"]] == [2]
    assert [r["job"] for r in ask("ls", kind="jobs", owner="ada")["rows"]] == [1]
    assert ask("jobs", jobs=[1, 5])["total"] == 1


def test_spans_of_a_job(ask: Asker, fill: Callable[..., None]) -> None:
    """Ranges of final tasks in order with their packed times, all of them or those that touch some stretches."""
    fill(opened(1), admitted(1, 1, first=0, count=6, last=False), admitted(2, 1, number=1, first=6, count=3))
    fill(opened(2), admitted(3, 2, count=1), settled(3, 2, 0, 1))
    fill(settled(1, 1, 3, 2), settled(2, 1, 0, 3, TaskState.FAILED), settled(1, 1, 0, 2))
    page = ask("spans", job=1, ranges=[[0, 2**61]])
    assert [row[:5] for row in page["rows"]] == [[0, 2, 2, "n1", 5], [3, 2, 2, "n1", 5], [6, 3, 2, "n1", 5]]
    first, count, _, _, _, states, started, durations, socket = page["rows"][2]
    assert (states, socket) == (bytes([TaskState.FAILED]) * 3, "#7")
    assert unpack(f"<{count}d", started) == (100.25, 101.25, 102.25)
    assert unpack(f"<{count}f", durations) == (0.5, 0.5, 0.5)
    assert page["next"] == 9  # the end was not named, so nobody knows that nothing follows
    assert ask("spans", job=1, ranges=[[9, 2**61]]) == {"rows": [], "next": -1}
    some = ask("spans", job=1, ranges=[[1, 2], [4, 7]])
    assert [row[0] for row in some["rows"]] == [0, 3, 6]
    assert some["next"] == -1
    assert [row[0] for row in ask("spans", job=1, ranges=[[2, 3], [5, 6]])["rows"]] == []
    assert ask("spans", job=9, ranges=[[0, 5]])["rows"] == []
    for wrong in ([[1]], [["a", 2]], [[-1, 2]], [[0, 2**63]], [[0, 1]] * 10_001, [7]):
        assert "pairs of indexes" in ask.refused("spans", job=1, ranges=wrong)["what"]
    assert "lacks" in ask.refused("spans", job=1)["what"]


def test_spans_come_in_pages(ask: Asker, fill: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many tasks and ranges in one, but at least one range; the next page begins where it ended."""
    fill(opened(1), admitted(1, 1, count=9), *(settled(1, 1, lo, 3) for lo in (0, 3, 6)))
    for tasks, rows, expected in ((1, 9, [3, 3, 3]), (4, 9, [6, 3]), (99, 2, [6, 3]), (99, 3, [9])):
        monkeypatch.setattr(spans, "PAGE_TASKS_MAX", tasks)
        monkeypatch.setattr(spans, "PAGE_ROWS_MAX", rows)
        at, counts = 0, []
        while at >= 0:
            page = ask("spans", job=1, ranges=[[at, 9]])
            counts.append(sum(row[1] for row in page["rows"]))
            at = page["next"]
        assert counts == expected


def test_failed_attempts_of_a_job(ask: Asker, fill: Callable[..., None]) -> None:
    """With cause, place, end and the task's time limit, by their ends; only this job's."""
    lost = replace(failed(1, 1, 0, 2, Cause.NODE_FAIL), failed_at=1400.0, rank=-1)
    fill(opened(1), admitted(1, 1), failed(1, 1, 2), lost)
    fill(opened(2), admitted(2, 2), failed(2, 2, 1))
    assert ask("attempts", job=1) == {
        "rows": [
            [0, 2, Cause.NODE_FAIL, "n2", -1, 1400.0, 2.5, "#7"],
            [2, 1, Cause.CRASH, "n2", 4, 1500.5, 2.5, "#7"],
        ],
        "total": 2,
    }
    assert ask("attempts", job=9) == {"rows": [], "total": 0}
