"""Tasks and jobs for people: lists, one call with everything about it, the graph around it.

Rows of the ledger are batches; tasks are cut out here, newest first, and only as many as are shown. A task
that has no outcome is PENDING, or RUNNING where the broker's live view says so.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from struct import unpack_from
from typing import Any

import msgspec
import sqlalchemy as sa

from pyfi_hpc.errors import NotFound, UsageError
from pyfi_hpc.ledger.queries import load
from pyfi_hpc.ledger.reading import gaps, value_at
from pyfi_hpc.model.budgets import BUDGETS, cause_of, report, told
from pyfi_hpc.model.ids import task_name
from pyfi_hpc.model.states import Cause, TaskState

Row = dict[str, Any]

QUERIES = load("reports.sql")
#: batches, and tasks, that are read at once
_PAGE = 200
_PAGE_TASKS = 5000
_TOP = 2**62
_edges = msgspec.msgpack.Decoder(list[tuple[int, int, int, int]])
_outputs = msgspec.msgpack.Decoder(list[tuple[int, bytes, bytes]])
_error = msgspec.msgpack.Decoder(list[Any])
#: arguments and results over it are left out of the picture of a call
SHOWN_BYTES_MAX = 1 << 20
#: dependents looked at for one call
_DEPENDENTS_MAX = 1000
GRAPH_TASKS_MAX = 500


def query(connection: sa.Connection, name: str, **values: Any) -> list[Row]:
    """Rows of a named statement as dicts, with bytes as ``bytes``."""
    rows = connection.exec_driver_sql(QUERIES[name], values).mappings()
    return [{k: bytes(v) if isinstance(v, memoryview) else v for k, v in row.items()} for row in rows]


def open_batches(connection: sa.Connection, job: int | None = None) -> list[Row]:
    """Batches with unfinished tasks, newest first."""
    merged: list[tuple[int, int]] = []
    for row in query(connection, "closed"):
        if merged and row["lo"] <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], row["hi"]))
        else:
            merged.append((row["lo"], row["hi"]))
    holes = gaps(merged)
    return query(connection, "open_batches", lo=[lo for lo, _ in holes], hi=[hi for _, hi in holes], job=job)


def list_calls(
    connection: sa.Connection,
    view: Mapping[str, Any],
    *,
    unfinished: bool = False,
    job: int | None = None,
    state: str = "",
    limit: int = 50,
    offset: int = 0,
) -> Row:
    """One page of tasks, newest first: ``{"rows": [...], "total": n}``.

    Cost: what is shown and, with a state, a byte per final task that is passed over.
    """
    wanted = _states(state)
    if wanted and min(wanted) < TaskState.COMPLETED:
        unfinished = True
    batches = iter(open_batches(connection, job)) if unfinished else _all_batches(connection, job)
    tasks = _tasks(connection, view, batches, unfinished, wanted)
    offset = max(0, offset)
    rows = list(islice(tasks, offset, offset + max(0, min(limit, 1000))))
    return {"rows": rows, "total": _total(connection, view, unfinished, job, wanted)}


def one_call(connection: sa.Connection, view: Mapping[str, Any], job: int, index: int) -> Row:
    """Everything about one task: attempts with causes, code, arguments, result, what it needs and feeds.

    Raises
    ------
    NotFound
    """
    batch, offset = _locate(connection, job, index)
    place = {"job": job, "batch": batch["batch"], "offset": offset}
    final = query(connection, "outcome_of", **place)
    outcome = final[0] if final else None
    found = _describe(_heads(connection, [batch])[batch["batch"]], index, outcome, view)
    data = query(connection, "payload_of", job=job, batch=batch["batch"])[0]
    found["arguments"] = _shown(value_at(offset, data["offsets"], data["payload"]))
    found["attempts"] = [_attempt(row) for row in query(connection, "attempts_of", **place)]
    if outcome:
        value = value_at(offset - outcome["lo"], outcome["offsets"], outcome["payload"])
        completed = found["state"] == "COMPLETED"
        found["result"] = _shown(value) if completed else None
        found["error"] = None if completed else _decoded_error(value)
        if outcome["grant_id"]:
            mine = {key: found[key] for key in ("node", "rank", "attempt", "started", "ended", "duration_s")}
            more = {"outcome": found["state"], "epoch": outcome["epoch"], "error": found["error"]}
            found["attempts"].append(mine | more)
    found["budgets"] = _budgets(found, view)
    found["parents"] = [task_name(j, i) for j, i in _parents(connection, job, batch["batch"], offset)]
    found["children"] = [task_name(j, i) for j, i in _children(connection, job, index)]
    return found


def graph(connection: sa.Connection, view: Mapping[str, Any], job: int, index: int) -> Row:
    """The tasks that a call is linked with, both ways: ``{"tasks": {id: row}, "edges": [[from, to]]}``."""
    seen: dict[tuple[int, int], Row] = {}
    edges: set[tuple[str, str]] = set()
    todo = [(job, index)]
    while todo and len(seen) < GRAPH_TASKS_MAX:
        key = todo.pop(0)
        if key in seen:
            continue
        batch, offset = _locate(connection, *key)
        final = query(connection, "outcome_of", job=key[0], batch=batch["batch"], offset=offset)
        head = _heads(connection, [batch])[batch["batch"]]
        seen[key] = _describe(head, key[1], final[0] if final else None, view)
        parents = _parents(connection, key[0], batch["batch"], offset)
        children = _children(connection, *key)
        edges.update((task_name(*parent), task_name(*key)) for parent in parents)
        edges.update((task_name(*key), task_name(*child)) for child in children)
        todo += [other for other in (*parents, *children) if other not in seen]
    tasks = {row["id"]: row for row in seen.values()}
    return {"tasks": tasks, "edges": sorted(map(list, edges)), "cut": bool(todo)}


def output(connection: sa.Connection, job: int, index: int) -> Row:
    """Standard output and error of a task, of its last attempt and of each that failed before."""
    batch, offset = _locate(connection, job, index)
    place = {"job": job, "batch": batch["batch"]}
    attempts = []
    for row in query(connection, "attempts_of", **place, offset=offset):
        stdout, stderr = _cut_output(row["outputs"], offset)
        cause = Cause(row["cause"]).name
        attempts.append({"attempt": row["attempt"], "outcome": cause, "stdout": stdout, "stderr": stderr})
    final = query(connection, "outcome_of", **place, offset=offset)
    if final:
        stdout, stderr = b"", b""
        for row in query(connection, "outputs_of", **place):
            out, err = _cut_output(row["outputs"], offset)
            stdout, stderr = stdout + out, stderr + err
        state = TaskState(final[0]["states"][offset - final[0]["lo"]]).name
        attempts.append({"attempt": final[0]["attempt"], "outcome": state, "stdout": stdout, "stderr": stderr})
    last = attempts[-1] if attempts else {"stdout": b"", "stderr": b""}
    return {
        "id": task_name(job, index), "final": bool(final), "stdout": last["stdout"], "stderr": last["stderr"],
        "attempts": attempts,
    }  # fmt: skip


def list_jobs(
    connection: sa.Connection,
    view: Mapping[str, Any],
    *,
    jobs: Sequence[int] | None = None,
    owner: str | None = None,
    unfinished: bool = False,
    limit: int = 50,
    offset: int = 0,
) -> Row:
    """Jobs, newest first, with how many of their tasks are in each state."""
    if unfinished:
        open_jobs = {batch["job"] for batch in open_batches(connection)}
        jobs = sorted(open_jobs if jobs is None else open_jobs & set(jobs))
    wanted = {"wanted": None if jobs is None else list(jobs), "owner": owner}
    rows = query(connection, "jobs", **wanted, limit=max(0, min(limit, 1000)), offset=max(0, offset))
    by_job = {row["job"]: row for row in rows}
    for row in rows:
        row.update(states={}, started=None, ended=None)
    for final in query(connection, "job_states", jobs=list(by_job)):
        _count_outcome(by_job[final["job"]], final)
    for row in rows:
        _add_live(row, view)
    return {"rows": rows, "total": query(connection, "jobs_total", **wanted)[0]["count"]}


def parse_task(text: Any) -> tuple[int, int]:
    """``J.i`` or ``J`` (its first task) as numbers.

    Raises
    ------
    UsageError
    """
    job, _, index = str(text).partition(".")
    if job.isdecimal() and (index or "0").isdecimal() and max(len(job), len(index)) < 19:
        return int(job), int(index or 0)
    raise UsageError(f"{str(text)!r} is not the id of a call", fix="ids look like 12.0: job and index")


# --- tasks of batches -------------------------------------------------------------------------------


def _all_batches(connection: sa.Connection, job: int | None) -> Iterator[Row]:
    before = (_TOP, 0)
    while True:
        page = query(
            connection, "batches_before", before_job=before[0], before_first=before[1], limit=_PAGE,
            job_from=job or 0, job_to=job or _TOP,
        )  # fmt: skip
        yield from page
        if len(page) < _PAGE:
            return
        before = (page[-1]["job"], page[-1]["first"])


def _tasks(
    connection: sa.Connection,
    view: Mapping[str, Any],
    batches: Iterator[Row],
    unfinished: bool,
    wanted: frozenset[TaskState],
) -> Iterator[Row]:
    """Tasks from the last to the first; heads and outcomes are read page by page."""
    while page := _some(batches):
        heads = _heads(connection, page)
        outcomes: dict[int, list[Row]] = {}
        for row in query(connection, "outcomes", **_keys(page)):
            outcomes.setdefault(row["batch"], []).append(row)
        for batch in page:
            head = heads[batch["batch"]]
            places = _places(batch["count"], outcomes.get(batch["batch"], ()))
            for offset in range(batch["count"] - 1, -1, -1):
                outcome = places.get(offset)
                if outcome and (unfinished or (wanted and _state_of(outcome, offset) not in wanted)):
                    continue
                row = _describe(head, batch["first"] + offset, outcome, view)
                if not outcome and wanted and TaskState[row["state"]] not in wanted:
                    continue
                yield row


def _some(batches: Iterator[Row]) -> list[Row]:
    """The next few batches: of large ones fewer."""
    page: list[Row] = []
    tasks = 0
    while len(page) < _PAGE and tasks < _PAGE_TASKS and (batch := next(batches, None)) is not None:
        page.append(batch)
        tasks += batch["count"]
    return page


def _places(count: int, outcomes: Sequence[Row]) -> dict[int, Row]:
    return {offset: row for row in outcomes for offset in range(row["lo"], row["lo"] + row["count"])}


def _state_of(outcome: Row, offset: int) -> TaskState:
    return TaskState(outcome["states"][offset - outcome["lo"]])


def _keys(batches: Sequence[Row]) -> dict[str, list[int]]:
    return {"jobs": [b["job"] for b in batches], "batches": [b["batch"] for b in batches]}


def _heads(connection: sa.Connection, batches: Sequence[Row]) -> dict[int, Row]:
    return {row["batch"]: row for row in query(connection, "batch_heads", **_keys(batches))}


def _describe(head: Row, index: int, outcome: Row | None, view: Mapping[str, Any]) -> Row:
    """One task as people see it."""
    offset = index - head["first"]
    row: Row = {
        "id": task_name(head["job"], index), "job": head["job"], "index": index, "name": head["name"],
        "socket": head["socket"], "owner": head["owner"], "submitted": head["opened_at"],
        "repository": head["repository"], "commit": head["commit"], "module": head["module"],
        "environment": head["environment"], "priority": head["priority"], "retries": head["retries"],
        "time_limit_s": head["time_limit_s"], "reason": "",
    }  # fmt: skip
    if outcome is None:
        state, node, reason = _live_state(head, offset, view)
        nothing = dict.fromkeys(("rank", "attempt", "started", "ended", "duration_s"))
        return row | nothing | {"state": state.word, "code": state.code, "node": node, "reason": reason}
    place = offset - outcome["lo"]
    state = _state_of(outcome, offset)
    ran = bool(outcome["grant_id"] and outcome["started"])
    started = unpack_from("<d", outcome["started"], 8 * place)[0] if ran else None
    duration = unpack_from("<f", outcome["durations"], 4 * place)[0] if ran and outcome["durations"] else None
    ended = outcome["settled_at"] if started is None or duration is None else started + duration
    return row | {
        "state": state.name, "code": state.code, "node": outcome["node"], "rank": outcome["rank"],
        "attempt": outcome["attempt"], "started": started, "ended": ended, "duration_s": duration,
    }  # fmt: skip


def _live_state(head: Row, offset: int, view: Mapping[str, Any]) -> tuple[TaskState, str, str]:
    """State, node and reason of a task that is not final, as far as the broker told."""
    running = view.get("running") or {}
    node = running.get((head["batch"], offset))
    if node is not None:
        return TaskState.RUNNING, node, ""
    job = (view.get("jobs") or {}).get(head["job"]) or {}
    if not running and job.get("running") and not job.get("pending") and not job.get("blocked"):
        return TaskState.RUNNING, "", ""
    return TaskState.PENDING, "", job.get("reason", "")


def _total(
    connection: sa.Connection,
    view: Mapping[str, Any],
    unfinished: bool,
    job: int | None,
    wanted: frozenset[TaskState],
) -> int:
    span = {"job_from": job or 0, "job_to": job or _TOP}
    if unfinished and wanted:
        tasks = _tasks(connection, view, iter(open_batches(connection, job)), True, wanted)
        return sum(1 for _ in tasks)
    if unfinished:
        batches = open_batches(connection, job)
        final = query(connection, "final_total", **_keys(batches))[0]["total"]
        return int(sum(batch["count"] for batch in batches) - final)
    if wanted:
        rows = query(connection, "states", **span)
        return sum(row["states"].count(state) for row in rows for state in wanted)
    return int(query(connection, "task_total", **span)[0]["total"])


def _states(text: str) -> frozenset[TaskState]:
    """States that a word or Slurm's two letters name."""
    if not text:
        return frozenset()
    found = {state for state in TaskState if text.upper() in (state.word, state.code, state.name)}
    if not found:
        words = ", ".join(dict.fromkeys(state.word for state in TaskState))
        raise UsageError(f"{text!r} is not a state", fix=f"states are {words}")
    if TaskState.BLOCKED in found or TaskState.PENDING in found:
        found |= {TaskState.BLOCKED, TaskState.PENDING}
    return frozenset(found)


# --- one task ---------------------------------------------------------------------------------------


def _locate(connection: sa.Connection, job: int, index: int) -> tuple[Row, int]:
    rows = query(connection, "locate", job=job, index=index)
    if not rows or index - rows[0]["first"] >= rows[0]["count"]:
        raise NotFound(f"there is no call {task_name(job, index)}", fix="`pyfi ls calls` lists the latest")
    return rows[0] | {"job": job}, index - rows[0]["first"]


def _parents(connection: sa.Connection, job: int, batch: int, offset: int) -> list[tuple[int, int]]:
    rows = query(connection, "edges_of", job=job, batch=batch)
    edges = _edges.decode(rows[0]["edges"]) if rows else []
    # producer 0 is the job itself
    return list(dict.fromkeys((producer or job, index) for at, _, producer, index in edges if at == offset))


def _children(connection: sa.Connection, job: int, index: int) -> list[tuple[int, int]]:
    found: dict[tuple[int, int], None] = {}
    for row in query(connection, "dependents", job=job, limit=_DEPENDENTS_MAX):
        for offset, _, producer, at in _edges.decode(row["edges"]):
            if (producer or row["job"], at) == (job, index):
                found[row["job"], row["first"] + offset] = None
    return sorted(found)


def _attempt(row: Row) -> Row:
    return {
        "attempt": row["attempt"], "outcome": Cause(row["cause"]).name, "node": row["node"],
        "rank": row["rank"], "epoch": row["epoch"], "started": None, "ended": row["failed_at"],
        "duration_s": None,
        "error": None if row["cause"] == Cause.CONTINUED else _decoded_error(row["error"]),  # that is a state
    }  # fmt: skip


def _budgets(found: Row, view: Mapping[str, Any]) -> list[Row]:
    """What the failed attempts were counted against, each cause with its limit."""
    names = [attempt["outcome"] for attempt in found["attempts"]]
    counts: dict[Cause, int] = {cause: names.count(cause.name) for cause in Cause}
    last = cause_of(TaskState[found["state"]], found.get("error")) if found["attempt"] else None
    if last is not None:
        counts[last] += 1
    return report(view.get("budgets") or told(BUDGETS), counts, found["retries"])


def _decoded_error(data: bytes) -> Row | None:
    """The error as ``runner/payload.py`` packs it; what is not one is told as such, never raised."""
    if not data:
        return None
    try:
        module, kind, message, traceback = _error.decode(data)[:4]
        return {"module": module, "type": kind, "message": message, "traceback": traceback}
    except (msgspec.MsgspecError, ValueError):
        return {"module": "", "type": "", "message": "the error cannot be read", "traceback": ""}


def _cut_output(data: bytes, offset: int) -> tuple[bytes, bytes]:
    found = [(out, err) for at, out, err in (_outputs.decode(data) if data else ()) if at == offset]
    return b"".join(out for out, _ in found), b"".join(err for _, err in found)


def _shown(data: bytes) -> bytes | None:
    return data if len(data) <= SHOWN_BYTES_MAX else None


# --- jobs -------------------------------------------------------------------------------------------


def _count_outcome(row: Row, final: Row) -> None:
    for state in set(final["states"]):
        name = TaskState(state).name
        row["states"][name] = row["states"].get(name, 0) + final["states"].count(state)
    if final["started"]:
        first = unpack_from("<d", final["started"])[0]
        row["started"] = first if row["started"] is None else min(row["started"], first)
    row["busy_s"] = row.get("busy_s", 0.0) + sum(array("f", bytes(final["durations"])))
    row["ended"] = max(row["ended"] or 0.0, final["settled_at"])


def _add_live(row: Row, view: Mapping[str, Any]) -> None:
    """Running, pending and blocked tasks as the broker has them; without it what is not final is pending."""
    final = sum(row["states"].values())
    live = (view.get("jobs") or {}).get(row["job"])
    if live:
        for name, key in (("RUNNING", "running"), ("PENDING", "pending")):
            count = live[key] + (live["blocked"] if key == "pending" else 0)
            if count:
                row["states"][name] = count
        row["reason"] = live["reason"] if live["pending"] or live["blocked"] else ""
    else:
        if row["tasks"] > final:
            row["states"]["PENDING"] = row["tasks"] - final
        row["reason"] = ""
    row["done"] = bool(row["complete"] and row["tasks"] == final)
    if not row["done"]:
        row["ended"] = None
