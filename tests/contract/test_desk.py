"""The desk on a real ledger: objects and deployments, and what it tells about the instance."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from desk_asker import COMMIT, Asker, ask, fill, spec
from ledger_fixture import administer
from records import admitted, closed, opened, settled

from pyfi_hpc.model.effects import AskDesk
from pyfi_hpc.model.events import SharesChanged, SocketsChanged

__all__ = ["ask", "fill"]

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


def test_weights_of_shares_are_kept_and_the_broker_is_told(ask: Asker) -> None:
    """Set weights, one of them twice: the broker hears all of them before the answer, and reads them when it starts."""
    assert ask("share", kind="project", name="bio", weight=3) == {"kind": "project", "name": "bio", "weight": 3.0}
    ask("share", kind="user", name="ada", weight=0.5)
    ask("share", kind="project", name="bio", weight=2.0)
    weights = {("project", "bio"): 2.0, ("user", "ada"): 0.5}
    assert ask.told[0] == SharesChanged(weights)
    assert ask.ledger.weights() == weights
    for wrong in ({"weight": 0}, {"weight": float("nan")}, {"weight": -1}, {"weight": "2"}, {"kind": "node"}):
        assert ask.refused("share", **({"kind": "project", "name": "bio", "weight": 1} | wrong))["fix"]
    assert ask.ledger.weights() == weights
