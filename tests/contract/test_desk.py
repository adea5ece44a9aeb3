"""The desk on a real ledger: objects, deployments, and what it tells about jobs and tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from struct import unpack
from typing import Any

import msgspec
import pytest
from ledger_fixture import administer
from records import admitted, closed, failed, opened, settled

from pyfi_hpc.ledger import spans
from pyfi_hpc.ledger.front_desk import FrontDesk
from pyfi_hpc.ledger.postgres import PostgresLedger
from pyfi_hpc.model.deployment import CodeSpec, DeploymentSpec, SocketSpec
from pyfi_hpc.model.effects import AskDesk
from pyfi_hpc.model.events import AskAnswered, SocketsChanged
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.model.states import Cause, TaskState

COMMIT = "a" * 40


@dataclass
class Asker:
    """Asks the desk as the loop does, and keeps what it tells the broker besides the answer."""

    desk: FrontDesk
    ledger: PostgresLedger
    user: str = "ada"
    told: list[Any] = field(default_factory=list)

    def __call__(self, verb: str, view: Any = None, user: str = "", **body: Any) -> Any:
        ok, answer = self.ask(verb, view, user, body)
        assert ok, answer
        return answer

    def refused(self, verb: str, user: str = "", **body: Any) -> Any:
        ok, answer = self.ask(verb, None, user, body)
        assert not ok, answer
        assert set(answer) == {"code", "what", "where", "fix"}
        return answer

    def ask(self, verb: str, view: Any, user: str, body: Any) -> tuple[bool, Any]:
        query = AskDesk(b"peer", "client", user or self.user, 7, verb, msgspec.msgpack.encode(body), view)  # type: ignore[arg-type]
        *self.told, answer = self.desk(query)
        assert isinstance(answer, AskAnswered)
        assert (answer.peer, answer.request) == (b"peer", 7)
        return answer.ok, msgspec.msgpack.decode(answer.body)


@pytest.fixture
def ask(ledger_url: str) -> Iterator[Asker]:
    ledger = PostgresLedger(ledger_url)
    desk = FrontDesk(ledger_url, ledger.numbers)
    yield Asker(desk, ledger)
    desk.close()
    ledger.close()


@pytest.fixture
def fill(ledger_url: str) -> Iterator[Callable[..., None]]:
    """Commits records to the ledger that the desk reads."""
    ledger = PostgresLedger(ledger_url)
    ledger.take_over("here")
    seqs = iter(range(1, 1000))

    def commit(*records: Any) -> None:
        ledger.commit(list(records), next(seqs))

    yield commit
    ledger.close()


def spec(*functions: str, commit: str = COMMIT, name: str = "digits") -> Any:
    code = CodeSpec("/home/ada/digits", commit, "", "digits", "env1", "/e/bin/python", "/c/digits")
    sockets = [SocketSpec(f"{name}.{f}", f, ["x", "*rest", "**more"]) for f in functions]
    return msgspec.to_builtins(DeploymentSpec(name, code, sockets, 1.5, True))


# --- deploying --------------------------------------------------------------------------------------


def test_a_deployment_makes_processor_code_and_sockets(ask: Asker) -> None:
    """Deploy two functions: the broker is told both sockets before the answer goes out."""
    answer = ask("deploy", **spec("fit", "best"))
    assert answer["sockets"] == ["digits.fit", "digits.best"]
    assert answer["changed"]
    assert isinstance(ask.told[0], SocketsChanged)
    fit = {s.name: s for s in ask.told[0].sockets}["digits.fit"]
    assert (fit.processor, fit.function, fit.enabled, fit.mount.code) == (
        "digits",
        "fit",
        True,
        answer["code"],
    )
    assert (fit.mount.commit, fit.mount.python, fit.mount.workdir) == (COMMIT, "/e/bin/python", "/c/digits")
    assert ask.ledger.deployed({answer["code"]}) == (ask.told[0].sockets, [ask.told[0].sockets[0].mount])
    found = ask("get", kind="processor", name="digits")
    assert found["sockets"] == ["digits.fit", "digits.best"]
    assert [e["name"] for e in found["events"]] == ["deployed"]
    arguments = ask("ls", kind="arguments", filters={"function": "digits.fit"})["rows"]
    arguments.sort(key=lambda a: a["position"])
    assert [(a["name"], a["position"], a["kind"]) for a in arguments] == [
        ("digits.fit.x", 0, ""), ("digits.fit.*rest", 1, "*"), ("digits.fit.**more", 2, "**")
    ]  # fmt: skip


def test_a_refused_repository_is_written_down(ask: Asker) -> None:
    """Ask to deploy what the broker's lists forbid: refused whatever the client says, an event, no secret in it."""
    ask.desk.allow, ask.desk.deny = ("https://git.example.org/group/*",), ("*/group/secret*",)
    ask("permit", repository="https://git.example.org/group/good")
    bad = spec("fit")
    bad["code"]["repository"] = "https://git.example.org/group/Secret"
    answer = ask.refused("deploy", **bad)
    assert answer["code"] == "repository_refused" and "is denied by the pattern" in answer["what"]
    for text in ("https://elsewhere.example.org/r", "ext::sh -c true", "http://token@git.example.org/group/good"):
        ask.refused("permit", repository=text)
    assert ask("ls", kind="processors")["rows"] == []
    events = ask("ls", kind="events")["rows"]
    assert [(e["name"], e["kind"], e["owner"]) for e in events] == [("refused", "repository", "ada")] * 4
    notes = " ".join(e["note"] for e in events)
    assert all(word in notes for word in ("group/Secret", "elsewhere", "ext::sh", "only https and ssh"))
    assert "token" not in notes


def test_the_same_deployment_again_changes_nothing(ask: Asker) -> None:
    """Deploy twice: one code version, the same socket numbers."""
    first = ask("deploy", **spec("fit"))
    sockets = ask.told[0].sockets
    second = ask("deploy", **spec("fit"))
    assert (second["code"], second["changed"]) == (first["code"], False)
    assert ask.told[0].sockets == sockets
    assert ask("ls", kind="code")["total"] == 1


def test_a_function_that_is_gone_keeps_its_socket_disabled(ask: Asker) -> None:
    """A new commit lacks a function, the next has it again; a socket that its owner disabled stays so."""
    ask("deploy", **spec("fit", "best"))
    ask("update", kind="socket", name="digits.fit", values={"enabled": False})
    answer = ask("deploy", **spec("fit", commit="b" * 40))
    assert answer["missing"] == ["digits.best"]
    state = {s.name: (s.enabled, s.mount.commit) for s in ask.told[0].sockets}
    assert state == {"digits.fit": (False, "b" * 40), "digits.best": (False, "b" * 40)}
    assert ask("get", kind="socket", name="digits.best")["status"] == "missing"
    ask("deploy", **spec("fit", "best", commit="c" * 40))
    assert {s.name: s.enabled for s in ask.told[0].sockets} == {"digits.fit": False, "digits.best": True}


def test_a_deployment_that_fails_leaves_nothing(ask: Asker) -> None:
    """Somebody else's processor, a socket of another processor, a request that is no deployment."""
    ask("deploy", **spec("fit"))
    assert ask.refused("deploy", user="eve", **spec("fit"))["code"] == "refused"
    taken = spec("fit", "new", name="digits2")
    taken["sockets"][0]["name"] = "digits.fit"
    assert "another processor" in ask.refused("deploy", **taken)["what"]
    assert ask.told == []
    assert "not a deployment" in ask.refused("deploy", name="x")["what"]
    assert [p["name"] for p in ask("ls", kind="processors")["rows"]] == ["digits"]
    assert ask("ls", kind="sockets")["total"] == 1


# --- objects ----------------------------------------------------------------------------------------


def test_objects_are_added_shown_changed_and_deleted(ask: Asker) -> None:
    """The verbs of the command line on a queue, with its references and its events."""
    made = ask("add", kind="queue", values={"name": "night", "kind": "TOPIC", "length_max": "100"})
    assert (made["kind"], made["length_max"], made["owner"]) == ("topic", 100, "ada")
    assert ask("update", kind="queues", name="night", values={"priority": 3})["priority"] == 3
    found = ask("get", kind="queue", name="night")
    assert found["lastupdated"] > found["created"] > 1e9
    assert [e["name"] for e in found["events"]] == ["updated", "added"]
    ask("delete", kind="queue", name=made["id"])
    assert ask("ls", kind="queue") == {"rows": [], "total": 0}


@pytest.mark.parametrize(
    "kind",
    ["network", "scheduler", "node", "allocation", "processor", "queue", "flow", "user", "role", "privilege"],
)
def test_every_simple_kind_can_be_added(ask: Asker, kind: str) -> None:
    """A name is enough for objects that belong to nothing."""
    ask("add", kind=kind, values={"name": "one"})
    assert ask("get", kind=kind, name="one")["name"] == "one"


def test_objects_refer_to_each_other_by_name(ask: Asker) -> None:
    """Plug, schedule, deployment and agent name what they belong to; plugs go with their socket."""
    ask("deploy", **spec("fit", "best"))
    ask("add", kind="node", values={"name": "n1", "cores": 4})
    ask("add", kind="plug", values={"name": "p", "source": "digits.fit", "target": "digits.best"})
    ask("add", kind="schedule", values={"name": "s", "socket": "digits.fit", "cron": "* * * * *"})
    ask("add", kind="deployment", values={"name": "d", "processor": "digits", "node": "n1", "cores": 2})
    ask("add", kind="agent", values={"name": "a", "node": "n1"})
    plug = ask("get", kind="plug", name="p")
    assert (plug["source"], plug["target"], plug["queue"]) == ("digits.fit", "digits.best", "")
    found = ask("get", kind="socket", name="digits.fit")
    assert (found["targets"], found["schedules"]) == (["p"], ["s"])
    assert ask("get", kind="node", name="n1")["deployments"] == ["d"]
    ask("delete", kind="socket", name="digits.best")
    assert [s.name for s in ask.told[0].sockets] == ["digits.fit"]
    assert ask("ls", kind="plugs")["total"] == 0
    assert [q["name"] for q in ask("ls", kind="queues")["rows"]] == ["digits.fit"]


def test_a_socket_can_be_added_by_hand(ask: Asker) -> None:
    """The seed's command: add socket -n S -q Q -pn P -t f, with the older words for the kinds."""
    ask("deploy", **spec("fit"))
    ask("add", kind="outlet", values={"name": "S", "queue": "Q", "processor": "digits", "function": "score"})
    made = {s.name: s for s in ask.told[0].sockets}["S"]
    assert (made.function, made.mount.module) == ("score", "digits")
    assert [t["name"] for t in ask("ls", kind="tasks")["rows"]] == ["digits.fit", "digits.score"]


def test_bad_requests_say_what_where_and_how_to_fix(ask: Asker) -> None:
    """Unknown kinds, names, fields and words; wrong types; taken names; what is needed by others."""
    ask("deploy", **spec("fit"))
    assert ask.refused("ls", kind="gizmo")["code"] == "not_found"
    assert "kinds are" in ask.refused("ls", kind="gizmo")["fix"]
    assert ask.refused("get", kind="queue", name="none")["code"] == "not_found"
    assert "fields are" in ask.refused("add", kind="queue", values={"name": "x", "colour": 1})["fix"]
    assert "needs name" in ask.refused("add", kind="queue", values={})["what"]
    assert "needs node" in ask.refused("add", kind="agent", values={"name": "x"})["what"]
    assert "use direct or topic" in ask.refused("add", kind="queue", values={"name": "x", "kind": "odd"})["fix"]
    assert "type int" in ask.refused("update", kind="queue", name="digits.fit", values={"priority": "high"})["fix"]
    assert ask.refused("add", kind="queue", values={"name": "digits.fit"})["code"] == "usage_error"
    assert "already" in ask.refused("add", kind="queue", values={"name": "digits.fit"})["what"]
    assert ask.refused("delete", kind="queue", name="digits.fit")["code"] == "refused"
    assert ask.refused("delete", kind="processor", name="digits", user="eve")["code"] == "refused"
    assert ask.refused("add", kind="code", values={})["code"] == "usage_error"
    assert "no field 'id'" in ask.refused("update", kind="queue", name="digits.fit", values={"id": 5})["what"]
    for name in ("", "-x", "a b", "a\nb", "x" * 300, "a\0"):
        assert ask.refused("add", kind="queue", values={"name": name})["code"] == "usage_error"
    assert ask.refused("ls")["what"] == "the request lacks 'kind'"
    assert ask.refused("no such verb")["code"] == "not_found"
    *_, answer = ask.desk(AskDesk(b"", "client", "ada", 1, "ls", b"\xc1"))  # type: ignore[arg-type]
    assert not answer.ok


def test_a_processor_with_unfinished_tasks_is_not_deleted(ask: Asker, fill: Callable[..., None]) -> None:
    """Deleting would strand its tasks: refused with the jobs' numbers until they are final."""
    ask("deploy", **spec("fit"))
    socket = ask.told[0].sockets[0].socket
    fill(opened(1), replace(admitted(1, 1), socket=socket))
    assert "1 jobs: 1" in ask.refused("delete", kind="processor", name="digits")["what"]
    fill(settled(1, 1), closed(1))
    ask("delete", kind="processor", name="digits")
    assert ask("calls")["rows"][0]["socket"] == f"#{socket}"


def test_lists_are_paged_and_filtered(ask: Asker) -> None:
    """0, 1, 10 and 11 rows in pages of 10: totals and pages are right."""
    for count in (0, 1, 10, 11):
        while ask("ls", kind="queue")["total"] < count:
            ask("add", kind="queue", values={"name": f"q{ask('ls', kind='queue')['total']:02}"})
        pages = [ask("ls", kind="queue", limit=10, offset=offset) for offset in (0, 10)]
        assert [page["total"] for page in pages] == [count, count]
        names = [row["name"] for page in pages for row in page["rows"]]
        assert names == [f"q{n:02}" for n in range(count)]
    assert ask("ls", kind="queue", filters={"name": "q03"})["total"] == 1


def test_nodes_are_written_down_as_the_broker_sees_them(ask: Asker) -> None:
    """Two agents of an allocation, one goes: its node is down; then the allocation ends."""

    def seen(name: str) -> dict[str, Any]:
        return {"name": f"{name}/77", "allocation": "77", "cores": 4, "ranks": 4, "draining": False}

    ask("ls", kind="nodes", view={"nodes": [seen("n1"), seen("n2")]})
    rows = ask("ls", kind="nodes", view={"nodes": [seen("n2")]})["rows"]
    assert [(row["name"], row["status"], row["cores"]) for row in rows] == [
        ("n1", "down", 4),
        ("n2", "up", 4),
    ]
    assert ask("ls", kind="allocations", view={"nodes": [seen("n2")]})["rows"][0]["state"] == "ACTIVE"
    assert ask("get", kind="node", name="n2", view={"nodes": [seen("n2")]})["live"][0]["ranks"] == 4
    assert ask("ls", kind="allocations", view={"nodes": []})["rows"][0]["state"] == "ENDED"


# --- jobs and tasks ---------------------------------------------------------------------------------


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


# --- the instance -----------------------------------------------------------------------------------


def test_info_and_dump(ask: Asker, fill: Callable[..., None]) -> None:
    """What the ledger is and what is in it, as plain values; payloads and results are left out."""
    ask("deploy", **spec("fit"))
    fill(opened(1), admitted(1, 1), settled(1, 1))
    info = ask("info", view={"epoch": 1})
    assert info["objects"]["socket"] == 1
    assert info["ledger"]["data_checksums"] == "on"
    assert info["broker"] == {"epoch": 1}
    dump = ask("dump")
    assert dump["processor"]["rows"][0]["name"] == "digits"
    assert dump["task_batch"]["total"] == 1
    assert "payload" not in dump["task_batch"]["rows"][0]


def test_a_desk_that_cannot_be_loaded_ends_no_broker(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module is broken, as after an installation below a running broker: who asks is told; info still answers."""
    monkeypatch.setitem(sys.modules, "pyfi_hpc.ledger.desk", None)
    assert "`pyfi broker restart`" in ask.refused("ls", kind="queue")["fix"]
    assert ask("info")["objects"]["queue"] == 0
    monkeypatch.undo()
    ask("ls", kind="queue")


def test_a_ledger_that_is_down_is_told(ask: Asker, ledger_url: str, ledger_server: Any) -> None:
    """Its database is gone in the middle: the answer says so, and the desk lives."""
    ask("ls", kind="queue")
    name = ledger_url.split("?")[0].rsplit("/", 1)[1]
    administer(ledger_server.url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    administer(ledger_server.url, f"ALTER DATABASE {name} RENAME TO away")
    try:
        assert ask.refused("ls", kind="queue")["code"] == "ledger_unavailable"
        info = ask("info", view={"epoch": 1})
        assert info["ledger"] == info["objects"] == {}
        assert info["broker"]["epoch"] == 1 and "does not take this now" in info["broker"]["ledger_down"]
    finally:
        administer(ledger_server.url, f"ALTER DATABASE away RENAME TO {name}")
    ask("ls", kind="queue")


# --- when and where tasks ran -------------------------------------------------------------------------


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
