"""Objects by kind and name: add, list, show, change, delete. One set of functions for all kinds.

What a kind has is read from its model: plain columns take values, a reference ``processor_id`` is written and
shown as ``processor`` with a name. Times are seconds since 1970. Nothing here commits: the caller's
transaction does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import psycopg2.errors
import sqlalchemy as sa
from sqlalchemy.orm import Session

from pyfi_hpc.errors import NotFound, Refused, UsageError
from pyfi_hpc.ledger import models
from pyfi_hpc.ledger.calls import open_batches
from pyfi_hpc.ledger.fields import checked
from pyfi_hpc.ledger.models import Event, Named, Row
from pyfi_hpc.ledger.tables import Base

Values = Mapping[str, Any]

#: kinds of objects and their models
KINDS: dict[str, type[Row]] = {
    "network": models.Network,
    "scheduler": models.Scheduler,
    "allocation": models.Allocation,
    "node": models.Node,
    "agent": models.Agent,
    "rank": models.Rank,
    "processor": models.Processor,
    "code": models.Code,
    "function": models.Function,
    "argument": models.Argument,
    "queue": models.Queue,
    "socket": models.Socket,
    "plug": models.Plug,
    "schedule": models.Schedule,
    "deployment": models.Deployment,
    "flow": models.Flow,
    "version": models.Version,
    "user": models.User,
    "role": models.Role,
    "privilege": models.Privilege,
    "membership": models.Membership,
    "login": models.Login,
    "event": models.Event,
    "log": models.Log,
}
#: PYFI's older words
ALIASES = {"task": "function", "worker": "rank", "outlet": "socket"}
#: the broker and deployments write these
READ_ONLY = frozenset({"code", "event", "membership"})
_FIXED = frozenset({"id", "created", "lastupdated", "at", "owner", "code"})
_TABLES = {model.__tablename__: kind for kind, model in KINDS.items()}  # type: ignore[attr-defined]
ROWS_MAX = 1000


def kind_of(word: str) -> str:
    """The kind that a word names, in one or many: "processors", "tasks"."""
    for name in (word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ies") + "y"):
        name = ALIASES.get(name, name)
        if name in KINDS:
            return name
    raise NotFound(f"there is no kind of object named {word!r}", fix="kinds are: " + ", ".join(sorted(KINDS)))


def add(session: Session, kind: str, owner: str, values: Values) -> dict[str, Any]:
    """Make an object; it belongs to ``owner``.

    Raises
    ------
    UsageError
        An unknown field, a value of the wrong kind, something missing, or the name is taken.
    NotFound
        An object that a field names does not exist.
    """
    model = _writable(kind)
    values = _before_add(session, kind, owner, dict(values))
    row = model(**_columns(session, kind, values), **({"owner": owner} if _has_owner(model) else {}))
    missing = [
        _field(column.name) for column in _table(model).columns
        if not column.nullable and not column.server_default and not column.identity
        and getattr(row, column.name) in (None, "")
    ]  # fmt: skip
    if missing:
        raise UsageError(f"a {kind} needs {', '.join(missing)}", where=f"add {kind}")
    session.add(row)
    _flush(session, kind, str(values.get("name", "")))
    note(session, "added", kind, row, owner)
    return shown(session, kind, [row])[0]


def ls(session: Session, kind: str, filters: Values | None = None, limit: int = 100, offset: int = 0) -> dict[str, Any]:
    """Objects of a kind, ``{"rows": [...], "total": n}``, by name, or newest first where there is none.

    ``filters`` are fields with the value that they must have.
    """
    model = KINDS[kind]
    where = [getattr(model, name) == value for name, value in _columns(session, kind, filters or {}).items()]
    order = model.name if issubclass(model, Named) else sa.desc(model.id)
    total = session.scalar(sa.select(sa.func.count()).select_from(model).where(*where))
    page = sa.select(model).where(*where).order_by(order).limit(max(0, min(limit, ROWS_MAX))).offset(max(0, offset))
    return {"rows": shown(session, kind, list(session.scalars(page))), "total": total}


def find(session: Session, kind: str, name: str | int) -> Any:
    """The object of this name, or with this number.

    Raises
    ------
    NotFound
    """
    model = KINDS[kind]
    row: Row | None = None
    if issubclass(model, Named):
        row = session.scalar(sa.select(model).where(model.name == str(name)))
    if row is None and str(name).isdecimal() and len(str(name)) < 19:
        row = session.get(model, int(name))
    if row is None:
        raise NotFound(f"there is no {kind} named {str(name)!r}", fix=f"`pyfi ls {kind}s` lists what there is")
    return row


def get(session: Session, kind: str, name: str | int) -> dict[str, Any]:
    """One object with the names of what belongs to it, by kind, and its latest events."""
    row = find(session, kind, name)
    found = shown(session, kind, [row])[0]
    for other, model in KINDS.items():
        for column in _table(model).columns:
            if any(key.column.table is _table(type(row)) for key in column.foreign_keys):
                mine = sa.select(_label(model)).where(column == row.id).order_by(model.id).limit(ROWS_MAX)
                word = "sources" if column.name == "target_id" else "targets" if column.name == "source_id" else other
                names = list(session.scalars(mine))
                if names:
                    found[f"{word}s" if word == other else word] = names
    if isinstance(row, Named):
        events = sa.select(Event).where(Event.kind == kind, Event.object == row.name).order_by(Event.id.desc())
        found["events"] = shown(session, "event", list(session.scalars(events.limit(20))))
    return found


def update(session: Session, kind: str, owner: str, name: str | int, values: Values) -> dict[str, Any]:
    """Change fields of an object.

    Raises
    ------
    Refused
        It belongs to somebody else.
    UsageError, NotFound
    """
    _writable(kind)
    row = find(session, kind, name)
    check_owner(row, kind, owner)
    for column, value in _columns(session, kind, values).items():
        setattr(row, column, value)
    _flush(session, kind, str(values.get("name", name)))
    note(session, "updated", kind, row, owner, ", ".join(f"{k}={v}" for k, v in values.items())[:500])
    return shown(session, kind, [row])[0]


def delete(session: Session, kind: str, owner: str, name: str | int) -> dict[str, Any]:
    """Delete an object and what belongs to it; what happened stays in the ledger.

    Raises
    ------
    Refused
        It belongs to somebody else, something needs it, or it has tasks that are not finished.
    """
    _writable(kind)
    row = find(session, kind, name)
    check_owner(row, kind, owner)
    found = shown(session, kind, [row])[0]
    sockets = _sockets_of(session, row)
    _refuse_unfinished(session, kind, sockets)
    note(session, "deleted", kind, row, owner)
    session.delete(row)
    _flush(session, kind, str(name))
    # a queue that was made for a socket goes with it
    queues = sa.delete(models.Queue).where(
        models.Queue.name.in_([socket.name for socket in sockets]),
        ~sa.exists().where(models.Socket.queue_id == models.Queue.id),
    )
    session.execute(queues)
    return found


def shown(session: Session, kind: str, rows: list[Any]) -> list[dict[str, Any]]:
    """Rows as plain values; references as names. One query a reference, however many rows."""
    found = []
    columns = list(_table(KINDS[kind]).columns)
    names = {c.name: _names(session, c, rows) for c in columns if c.foreign_keys}
    for row in rows:
        one: dict[str, Any] = {"kind": kind} if "kind" not in columns else {}
        for column in columns:
            value = getattr(row, column.name)
            if column.name in names:
                one[_field(column.name)] = names[column.name].get(value, "")
            else:
                one[column.name] = value.timestamp() if isinstance(value, datetime) else value
        found.append(one)
    return found


def note(session: Session, what: str, kind: str, row: Any, owner: str, text: str = "") -> None:
    """Write an event about an object."""
    name = row.name if isinstance(row, Named) else str(row.id)
    session.add(Event(name=what, kind=kind, object=name, owner=owner, note=text))


def note_refusal(session: Session, kind: str, owner: str, text: str) -> None:
    """Write down what somebody was not allowed."""
    session.add(Event(name="refused", kind=kind, owner=owner, note=text))


def check_owner(row: Any, kind: str, owner: str) -> None:
    whose = getattr(row, "owner", "")
    if whose and whose != owner:
        raise Refused(f"the {kind} {row.name} belongs to {whose}", where=f"you are {owner}", fix=f"ask {whose}")


# --- helpers ----------------------------------------------------------------------------------------


def _columns(session: Session, kind: str, values: Values) -> dict[str, Any]:
    """Fields of a request as columns of the table, checked."""
    table = _table(KINDS[kind])
    found: dict[str, Any] = {}
    for name, value in values.items():
        column = table.columns.get(f"{name}_id")
        if column is not None:
            target = next(iter(column.foreign_keys)).column.table.name
            found[column.name] = find(session, _TABLES[target], value).id if value not in (None, "") else None
            continue
        column = table.columns.get(name)
        if column is None or name in _FIXED or column.foreign_keys:
            fields = ", ".join(_field(c.name) for c in table.columns if c.name not in _FIXED)
            raise UsageError(f"a {kind} has no field {name!r} that can be given", fix=f"fields are: {fields}")
        found[name] = checked(kind, column, value)
    return found


def _table(model: type[Any]) -> sa.Table:
    return Base.metadata.tables[model.__tablename__]


def _field(column: str) -> str:
    return column.removesuffix("_id")


def _label(model: type[Row]) -> Any:
    """What people call a row: its name, or its number where it has none."""
    return model.name if issubclass(model, Named) else sa.cast(model.id, sa.Text).label("name")


def _has_owner(model: type[Any]) -> bool:
    return "owner" in _table(model).columns


def _writable(kind: str) -> type[Row]:
    if kind in READ_ONLY:
        raise UsageError(f"a {kind} cannot be changed by hand", fix="`pyfi deploy` writes code, the broker events")
    return KINDS[kind]


def _names(session: Session, column: sa.Column[Any], rows: list[Any]) -> dict[int, str]:
    target = KINDS[_TABLES[next(iter(column.foreign_keys)).column.table.name]]
    ids = {getattr(row, column.name) for row in rows} - {None}
    if not ids:
        return {}
    rows_found = session.execute(sa.select(target.id, _label(target)).where(target.id.in_(ids)))
    return {key: name for key, name in rows_found}  # noqa: C416  Row is no pair for dict() to mypy


def _flush(session: Session, kind: str, name: str) -> None:
    try:
        session.flush()
    except sa.exc.IntegrityError as error:
        session.rollback()
        if isinstance(error.orig, psycopg2.errors.UniqueViolation):
            raise UsageError(
                f"there is a {kind} named {name!r} already", fix=f"take another name, or `pyfi update {kind}`"
            ) from None
        # 18 calls it a restrict violation, older ones a foreign key violation
        if isinstance(error.orig, (psycopg2.errors.ForeignKeyViolation, psycopg2.errors.RestrictViolation)):
            detail = error.orig.diag.message_detail or ""
            raise Refused(f"the {kind} {name} is needed: {detail}", fix="delete what needs it first") from None
        raise UsageError(f"the {kind} {name} cannot be so: {error.orig}") from None


def _before_add(session: Session, kind: str, owner: str, values: dict[str, Any]) -> dict[str, Any]:
    """A socket may name a function that is not registered yet, and gets a queue of its own."""
    if kind == "argument" and "function" in values and "." not in str(values.get("name", ".")):
        values["name"] = f"{values['function']}.{values['name']}"
    if kind != "socket" or not {"name", "processor", "function"} <= values.keys():
        return values
    processor = find(session, "processor", values["processor"])
    bare = str(values["function"])
    full = bare if bare.startswith(f"{processor.name}.") else f"{processor.name}.{bare}"
    if session.scalar(sa.select(models.Function).where(models.Function.name == full)) is None:
        function = models.Function(
            name=full, owner=owner, processor_id=processor.id, module=processor.module,
            function=full.removeprefix(f"{processor.name}."),
        )  # fmt: skip
        session.add(function)
    values["function"] = full
    queue = str(values.setdefault("queue", values["name"]))
    if session.scalar(sa.select(models.Queue).where(models.Queue.name == queue)) is None:
        session.add(models.Queue(name=queue, owner=owner))
    session.flush()
    return values


def _sockets_of(session: Session, row: Any) -> list[models.Socket]:
    if isinstance(row, models.Socket):
        return [row]
    column = {
        models.Processor: models.Socket.processor_id,
        models.Function: models.Socket.function_id,
        models.Queue: models.Socket.queue_id,
    }.get(type(row))
    return list(session.scalars(sa.select(models.Socket).where(column == row.id))) if column is not None else []


def _refuse_unfinished(session: Session, kind: str, sockets: list[models.Socket]) -> None:
    if not sockets:
        return
    ids = {socket.id for socket in sockets}
    waiting = [batch for batch in open_batches(session.connection()) if batch["socket_id"] in ids]
    if waiting:
        jobs = sorted({batch["job"] for batch in waiting})
        raise Refused(
            f"this {kind} has unfinished tasks, in {len(jobs)} jobs: {', '.join(map(str, jobs[:10]))}",
            fix="wait for them (`pyfi wait JOB`) or end them (`pyfi cancel JOB`)",
        )  # fmt: skip
