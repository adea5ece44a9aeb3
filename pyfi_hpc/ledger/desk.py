"""The desk: answers what people ask beside the hot path. A table of verbs at the end is its contents page.

A request and its answer are msgpack maps; times are seconds since 1970. A request that cannot be met is
answered with code, what, where and fix, never with an exception. Each verb is one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psycopg2
import sqlalchemy as sa
from sqlalchemy.orm import Session

from pyfi_hpc.errors import NotFound, PyfiError, RepositoryRefused, UsageError
from pyfi_hpc.ledger import calls, catalogue, deployments, registry, shares, spans
from pyfi_hpc.ledger.connection import unavailable
from pyfi_hpc.ledger.machines import see
from pyfi_hpc.ledger.tables import Base
from pyfi_hpc.model.deployment import DeploymentSpec
from pyfi_hpc.model.effects import AskDesk
from pyfi_hpc.model.events import AskAnswered, SharesChanged, SocketsChanged, SocketSpec
from pyfi_hpc.model.repositories import check_allowed, parse_address

log = logging.getLogger("pyfi_hpc.desk")
#: rows of each table in a dump
DUMP_ROWS_MAX = 10_000


@dataclass(slots=True)
class Request:
    """One verb on its way: the transaction, who asks, the arguments, and what the broker's machine knows."""

    session: Session
    user: str
    body: dict[str, Any]
    view: dict[str, Any]
    #: patterns of repositories that may be deployed, and that may not
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    #: the verb changed what the broker has to know of sockets
    changed: bool = False
    #: and of shares
    weighed: bool = False

    @property
    def connection(self) -> sa.Connection:
        return self.session.connection()

    def take(self, name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """An argument of the verb; without a default it is required."""
        value = self.body.get(name, default)
        if value is None and default is None and name not in _OPTIONAL:
            raise UsageError(f"the request lacks {name!r}")
        if value is not None and not isinstance(value, kind):
            wanted = getattr(kind, "__name__", "one of several types")
            raise UsageError(f"{name} cannot be {value!r}", fix=f"give a value of type {wanted}")
        return value


#: arguments that may be missing though they have no default
_OPTIONAL = frozenset({"job", "jobs", "owner"})


@dataclass(slots=True)
class Desk:
    """Callable: ``AskDesk`` to events. One thread at a time."""

    engine: sa.Engine
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    verbs: dict[str, Callable[[Request], Any]] = field(default_factory=lambda: dict(VERBS))

    def __call__(self, query: AskDesk) -> list[Any]:
        answer: Any
        events: list[Any] = []
        try:
            answer = self._answer(query, events)
            ok = True
        except PyfiError as error:
            ok, answer = False, _words(error)
        except sa.exc.DBAPIError as error:
            if not isinstance(error.orig, psycopg2.OperationalError | psycopg2.InterfaceError):
                log.exception("verb %s of %s", query.verb, query.user)
                ok, answer = (
                    False,
                    _words(PyfiError(f"the ledger refuses this: {error.orig}", where=query.verb)),
                )
            else:
                url = self.engine.url.render_as_string(hide_password=True)
                ok, answer = False, _words(unavailable(error.orig, url))
        except Exception as error:
            # a bug in one verb must not end the broker; who asked is told, and the log has the place
            log.exception("verb %s of %s", query.verb, query.user)
            ok, answer = False, _words(PyfiError(f"{type(error).__name__}: {error}", where=query.verb))
        body = msgspec.msgpack.encode(answer)
        return [*events, AskAnswered(query.peer, query.request, ok, body)]

    def _answer(self, query: AskDesk, events: list[Any]) -> Any:
        verb = self.verbs.get(query.verb)
        if verb is None:
            raise NotFound(f"the broker knows no verb {query.verb!r}", fix="use the same version on both sides")
        try:
            body = msgspec.msgpack.decode(query.body, type=dict[str, Any]) if query.body else {}
        except (msgspec.MsgspecError, ValueError) as error:
            raise UsageError(f"the request cannot be read: {error}", where=query.verb) from None
        with Session(self.engine, expire_on_commit=False) as session:
            request = Request(session, query.user, body, query.view or {}, self.allow, self.deny)
            answer = verb(request)
            if request.changed:
                session.flush()
                # before the answer, so that whoever deployed can submit when it is told so
                events.append(SocketsChanged(_sockets(session)))
            if request.weighed:
                events.append(SharesChanged(_weights(session)))
            session.commit()
        return answer


def _sockets(session: Session) -> list[SocketSpec]:
    """All of them as this transaction leaves them."""
    raw: Any = session.connection().connection
    with raw.cursor() as cursor:
        return catalogue.sockets(cursor)


def _weights(session: Session) -> dict[tuple[str, str], float]:
    raw: Any = session.connection().connection
    with raw.cursor() as cursor:
        return catalogue.weights(cursor)


def _words(error: PyfiError) -> dict[str, str]:
    return {"code": error.code, "what": error.what, "where": error.where, "fix": error.fix}


# --- objects ----------------------------------------------------------------------------------------

#: kinds that the broker's table of sockets follows from
_BEHIND_SOCKETS = frozenset({"processor", "socket", "function", "queue"})


def _ls(r: Request) -> Any:
    word = r.take("kind", str)
    if word.rstrip("s") == "call":
        return _calls(r)
    if word.rstrip("s") == "job":
        return _jobs(r)
    kind = registry.kind_of(word)
    _note_nodes(r, kind)
    filters = r.take("filters", dict, {})
    return registry.ls(r.session, kind, filters, r.take("limit", int, 100), r.take("offset", int, 0))


def _get(r: Request) -> Any:
    kind = registry.kind_of(r.take("kind", str))
    _note_nodes(r, kind)
    found = registry.get(r.session, kind, r.take("name", (str, int)))
    if kind == "node":
        found["live"] = [node for node in r.view.get("nodes", ()) if node["name"].split("/")[0] == found["name"]]
    return found


def _add(r: Request) -> Any:
    kind = registry.kind_of(r.take("kind", str))
    r.changed = kind in _BEHIND_SOCKETS
    return registry.add(r.session, kind, r.user, r.take("values", dict, {}))


def _update(r: Request) -> Any:
    kind = registry.kind_of(r.take("kind", str))
    r.changed = kind in _BEHIND_SOCKETS
    name, values = r.take("name", (str, int)), r.take("values", dict)
    return registry.update(r.session, kind, r.user, name, values)


def _delete(r: Request) -> Any:
    kind = registry.kind_of(r.take("kind", str))
    r.changed = kind in _BEHIND_SOCKETS
    return registry.delete(r.session, kind, r.user, r.take("name", (str, int)))


def _deploy(r: Request) -> Any:
    try:
        spec = msgspec.convert(r.body, DeploymentSpec)
    except msgspec.ValidationError as error:
        raise UsageError(f"this is not a deployment: {error}", fix="use the same version on both sides") from None
    _check_repository(r, spec.code.repository)
    r.changed = True
    return deployments.deploy(r.session, spec, r.user)


def _permit(r: Request) -> Any:
    """Asked before anything of a repository is fetched."""
    _check_repository(r, r.take("repository", str))
    return True


def _check_repository(r: Request, text: str) -> None:
    """By the lists of the broker, whatever the client's say; what is refused is an event.

    Whose a folder is shows where it lies, which may be another machine: the client looks at that.
    """
    try:
        address = parse_address(text)
        check_allowed(address, allow=r.allow, deny=r.deny, own=True)
    except RepositoryRefused as refusal:
        registry.note_refusal(r.session, "repository", r.user, refusal.what)
        r.session.commit()
        raise


def _note_nodes(r: Request, kind: str) -> None:
    """Agents say hello to the broker's memory; what people list is brought up to date when they look."""
    if kind in ("node", "agent", "allocation"):
        see(r.session, r.view.get("nodes", ()), r.user)


def _share(r: Request) -> Any:
    r.weighed = True
    weight = float(r.take("weight", (int, float)))
    return shares.put(r.connection, r.take("kind", str), r.take("name", str), weight)


# --- jobs and tasks ---------------------------------------------------------------------------------


def _calls(r: Request) -> Any:
    return calls.list_calls(
        r.connection, r.view, unfinished=r.take("unfinished", bool, False), job=r.take("job", int),
        state=r.take("state", str, ""), limit=r.take("limit", int, 50), offset=r.take("offset", int, 0),
    )  # fmt: skip


def _call(r: Request) -> Any:
    job, index = calls.parse_task(r.take("id", (str, int)))
    found = calls.one_call(r.connection, r.view, job, index)
    if r.take("graph", bool, False):
        found["graph"] = calls.graph(r.connection, r.view, job, index)
    return found


def _output(r: Request) -> Any:
    return calls.output(r.connection, *calls.parse_task(r.take("id", (str, int))))


def _jobs(r: Request) -> Any:
    return calls.list_jobs(
        r.connection, r.view, jobs=r.take("jobs", list), owner=r.take("owner", str),
        unfinished=r.take("unfinished", bool, False), limit=r.take("limit", int, 50),
        offset=r.take("offset", int, 0),
    )  # fmt: skip


def _spans(r: Request) -> Any:
    return spans.list_spans(r.connection, r.take("job", int), r.take("ranges", list))


def _attempts(r: Request) -> Any:
    return spans.list_attempts(r.connection, r.take("job", int))


# --- the instance -----------------------------------------------------------------------------------


def _dump(r: Request) -> Any:
    """All tables as plain values: no payloads, no results, and no secrets, because none are kept."""
    found: dict[str, Any] = {}
    for table in Base.metadata.sorted_tables:
        columns = [c for c in table.columns if not isinstance(c.type, sa.LargeBinary)]
        rows = r.connection.execute(sa.select(*columns).limit(DUMP_ROWS_MAX)).mappings()
        total = r.connection.scalar(sa.select(sa.func.count()).select_from(table))
        found[table.name] = {
            "rows": [{k: v.timestamp() if hasattr(v, "timestamp") else v for k, v in row.items()} for row in rows],
            "total": total,
        }
    return found


VERBS: dict[str, Callable[[Request], Any]] = {
    "ls": _ls,
    "get": _get,
    "add": _add,
    "update": _update,
    "delete": _delete,
    "deploy": _deploy,
    "permit": _permit,
    "share": _share,
    "calls": _calls,
    "call": _call,
    "output": _output,
    "jobs": _jobs,
    "spans": _spans,
    "attempts": _attempts,
    "dump": _dump,
}
