"""The object model: what people name, list and change. Small tables, ordinary SQLAlchemy.

::

    network --< scheduler --< node --- agent --< rank          allocation --< node
    processor --< code (one row per deployed version)          flow --< version
        |--< function --< argument                             user >--< role, privilege, login
        |--< socket >-- queue          socket --< schedule     event, log: of any object
        |--< deployment >-- node       socket --< plug >-- socket

Jobs, tasks and attempts are in ``tables``. PYFI's *task* is our ``function``, its *worker* our ``rank``, its
*outlet* a ``socket``: the older words are accepted as names of the kind (``registry.ALIASES``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from pyfi_hpc.ledger.tables import Base

_now = sa.func.clock_timestamp()


def _text(default: str = "", order: int = 0) -> Mapped[str]:
    return mapped_column(sa.Text, nullable=False, default=default, server_default=default, sort_order=order)


def _number(kind: type[sa.types.TypeEngine[Any]], default: float = 0) -> Mapped[Any]:
    return mapped_column(kind, nullable=False, default=default, server_default=sa.text(str(default)))


def _flag(default: bool, order: int = 0) -> Mapped[bool]:
    word = sa.text(str(default).lower())
    return mapped_column(sa.Boolean, nullable=False, default=default, server_default=word, sort_order=order)


def _to(table: str, required: bool = True, on_delete: str = "CASCADE") -> Mapped[Any]:
    """A reference; what belongs to something goes with it, anything else only loses the reference."""
    action = on_delete if required else "SET NULL"
    return mapped_column(sa.ForeignKey(f"{table}.id", ondelete=action), nullable=not required, index=True)


class Row:
    """A number that is never used again."""

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=False), primary_key=True, sort_order=-9)


class Named(Row):
    """What every object of PYFI has."""

    name: Mapped[str] = mapped_column(sa.Text, nullable=False, sort_order=-8)
    owner: Mapped[str] = _text(order=-7)
    status: Mapped[str] = _text("ready", order=-6)
    #: what somebody wants it to become; whoever is in charge of it acts and sets ``status``
    requested_status: Mapped[str] = _text(order=-5)
    enabled: Mapped[bool] = _flag(True, order=-4)
    created: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), nullable=False, server_default=_now, sort_order=8
    )
    lastupdated: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), nullable=False, server_default=_now, onupdate=_now, sort_order=9
    )

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Any, ...]:
        return sa.UniqueConstraint("name"), sa.CheckConstraint("name <> ''", name="name")


# --- machines ---------------------------------------------------------------------------------------


class Network(Named, Base):
    """The top of a grouping of schedulers and nodes."""

    __tablename__ = "network"
    description: Mapped[str] = _text()


class Scheduler(Named, Base):
    """A named placement policy over nodes."""

    __tablename__ = "scheduler"
    network_id: Mapped[int | None] = _to("network", required=False)
    strategy: Mapped[str] = _text("BALANCED")


class Allocation(Named, Base):
    """One granted Slurm job that agents run in; its name is Slurm's id."""

    __tablename__ = "allocation"
    state: Mapped[str] = _text("REQUESTED")
    partition: Mapped[str] = _text()
    account: Mapped[str] = _text()
    node_count: Mapped[int] = _number(sa.Integer)
    rank_count: Mapped[int] = _number(sa.Integer)
    walltime_s: Mapped[float] = _number(sa.Double)


class Node(Named, Base):
    """A machine, by its Slurm name."""

    __tablename__ = "node"
    network_id: Mapped[int | None] = _to("network", required=False)
    scheduler_id: Mapped[int | None] = _to("scheduler", required=False)
    hostname: Mapped[str] = _text()
    cores: Mapped[int] = _number(sa.Integer)
    gpus: Mapped[int] = _number(sa.Integer)
    memory_bytes: Mapped[int] = _number(sa.BigInteger)
    seen_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))


class Agent(Named, Base):
    """The daemon of one node in one allocation."""

    __tablename__ = "agent"
    node_id: Mapped[int] = _to("node")
    allocation_id: Mapped[int | None] = _to("allocation", required=False)
    rank_count: Mapped[int] = _number(sa.Integer)


class Rank(Named, Base):
    """One MPI process of an agent: one core or GPU."""

    __tablename__ = "rank"
    agent_id: Mapped[int] = _to("agent")
    number: Mapped[int] = _number(sa.Integer)
    core: Mapped[int] = _number(sa.Integer, -1)
    pid: Mapped[int] = _number(sa.Integer)


# --- code -------------------------------------------------------------------------------------------


class Processor(Named, Base):
    """Deployed code: a repository, a commit and a module. Its versions are rows of ``code``."""

    __tablename__ = "processor"
    repository: Mapped[str] = _text()
    branch: Mapped[str] = _text()
    module: Mapped[str] = _text()
    description: Mapped[str] = _text()
    #: calls that may run at once in each of its sockets; 0: no limit
    concurrency: Mapped[int] = _number(sa.Integer)
    retries: Mapped[int] = _number(sa.Integer)
    time_limit_s: Mapped[float] = _number(sa.Double)
    #: what its sockets call now
    code_id: Mapped[int | None] = mapped_column(
        sa.ForeignKey("code.id", ondelete="SET NULL", use_alter=True), index=True
    )


class Code(Row, Base):
    """One version of a processor's code with its environment; never changed, because tasks refer to it."""

    __tablename__ = "code"
    processor_id: Mapped[int | None] = _to("processor", required=False)
    repository: Mapped[str] = _text()
    commit: Mapped[str] = _text()
    subdir: Mapped[str] = _text()
    module: Mapped[str] = _text()
    environment: Mapped[str] = _text()
    python: Mapped[str] = _text()
    workdir: Mapped[str] = _text()
    dirty: Mapped[bool] = _flag(False)
    #: exact versions of the packages of the environment
    lock: Mapped[str] = _text()
    owner: Mapped[str] = _text()
    created: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), nullable=False, server_default=_now)


class Function(Named, Base):
    """One Python function of a processor (PYFI's task), named as its socket."""

    __tablename__ = "function"
    processor_id: Mapped[int] = _to("processor")
    module: Mapped[str] = _text()
    function: Mapped[str] = _text()


class Argument(Named, Base):
    """One parameter of a function; a plug can aim at it."""

    __tablename__ = "argument"
    function_id: Mapped[int] = _to("function")
    position: Mapped[int] = _number(sa.Integer)
    #: Python's kind of the parameter: "*args" and "**kwargs" keep their stars
    kind: Mapped[str] = _text()


# --- entries and links ------------------------------------------------------------------------------


class Queue(Named, Base):
    """Where the tasks of sockets wait, in order."""

    __tablename__ = "queue"
    kind: Mapped[str] = _text("direct")
    priority: Mapped[int] = _number(sa.Integer)
    #: tasks that may wait; 0: no limit
    length_max: Mapped[int] = _number(sa.BigInteger)
    #: a task that waited so long is not run any more; 0: never
    expires_s: Mapped[float] = _number(sa.Double)


class Socket(Named, Base):
    """The durable entry of a function: what clients call by name."""

    __tablename__ = "socket"
    processor_id: Mapped[int] = _to("processor")
    function_id: Mapped[int] = _to("function")
    queue_id: Mapped[int] = _to("queue", on_delete="RESTRICT")
    #: calls that may run at once; 0: what the processor says
    concurrency: Mapped[int] = _number(sa.Integer)
    priority: Mapped[int] = _number(sa.Integer)
    #: what a call needs that says nothing itself, as text: see model/terms.py
    needs: Mapped[str] = _text()


class Plug(Named, Base):
    """A directed link from a socket's result, or its error, to another socket."""

    __tablename__ = "plug"
    source_id: Mapped[int] = _to("socket")
    target_id: Mapped[int] = _to("socket")
    queue_id: Mapped[int | None] = _to("queue", required=False)
    argument_id: Mapped[int | None] = _to("argument", required=False)
    kind: Mapped[str] = _text("RESULT")


class Schedule(Named, Base):
    """Calls of a socket at set times."""

    __tablename__ = "schedule"
    socket_id: Mapped[int] = _to("socket")
    cron: Mapped[str] = _text()
    interval_s: Mapped[float] = _number(sa.Double)
    next_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))


class Deployment(Named, Base):
    """So many cores of a node for a processor."""

    __tablename__ = "deployment"
    processor_id: Mapped[int] = _to("processor")
    node_id: Mapped[int | None] = _to("node", required=False)
    cores: Mapped[int] = _number(sa.Integer, 1)


class Flow(Named, Base):
    """A saved graph of calls; every save is a version."""

    __tablename__ = "flow"
    description: Mapped[str] = _text()


class Version(Named, Base):
    """One saved state of a flow."""

    __tablename__ = "version"
    flow_id: Mapped[int] = _to("flow")
    number: Mapped[int] = _number(sa.Integer)
    content: Mapped[dict[str, Any]] = mapped_column(JSONB, nullable=False, server_default=sa.text("'{}'"))


# --- people -----------------------------------------------------------------------------------------


class User(Named, Base):
    """Somebody who may use the instance. Nothing secret is kept: the keys of logins are public ones."""

    __tablename__ = "pyfi_user"
    email: Mapped[str] = _text()
    uid: Mapped[int] = _number(sa.BigInteger, -1)


class Role(Named, Base):
    """A set of privileges."""

    __tablename__ = "role"
    description: Mapped[str] = _text()


class Privilege(Named, Base):
    """The right of a user or a role to do ``verb`` with objects of a kind whose name matches ``pattern``."""

    __tablename__ = "privilege"
    user_id: Mapped[int | None] = _to("pyfi_user", required=False)
    role_id: Mapped[int | None] = _to("role", required=False)
    verb: Mapped[str] = _text()
    kind: Mapped[str] = _text("*")
    pattern: Mapped[str] = _text("*")
    revoked: Mapped[bool] = _flag(False)


class Membership(Row, Base):
    """A user has a role."""

    __tablename__ = "membership"
    __table_args__ = (sa.UniqueConstraint("user_id", "role_id"),)
    user_id: Mapped[int] = _to("pyfi_user")
    role_id: Mapped[int] = _to("role")


class Login(Named, Base):
    """A public key that a user's connections may come with."""

    __tablename__ = "login"
    user_id: Mapped[int] = _to("pyfi_user")
    public_key: Mapped[str] = _text()
    expires_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))


# --- what happened ----------------------------------------------------------------------------------


class Event(Row, Base):
    """Something that happened to an object: deployed, added, joined, ended."""

    __tablename__ = "event"
    at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), nullable=False, server_default=_now)
    name: Mapped[str] = _text()
    kind: Mapped[str] = _text()
    object: Mapped[str] = _text()
    owner: Mapped[str] = _text()
    note: Mapped[str] = _text()


class Log(Row, Base):
    """A line that somebody wrote about an object."""

    __tablename__ = "log"
    at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), nullable=False, server_default=_now)
    kind: Mapped[str] = _text()
    object: Mapped[str] = _text()
    source: Mapped[str] = _text()
    public: Mapped[bool] = _flag(False)
    owner: Mapped[str] = _text()
    text: Mapped[str] = _text()


_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "scheduler": {"strategy": ("BALANCED", "EFFICIENT")},
    "allocation": {"state": ("REQUESTED", "PENDING", "ACTIVE", "DRAINING", "ENDED")},
    "queue": {"kind": ("direct", "topic", "fanout")},
    "plug": {"kind": ("RESULT", "ERROR")},
}
#: columns that take one of a few words; also constraints of the tables
WORDS = _WORDS
for _table, _columns in _WORDS.items():
    for _column, _words in _columns.items():
        _list = ", ".join(f"'{word}'" for word in _words)
        Base.metadata.tables[_table].append_constraint(sa.CheckConstraint(f"{_column} IN ({_list})", name=_column))
