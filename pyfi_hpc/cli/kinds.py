"""What the command line knows of each kind of object: its flags, the columns of its list.

The ledger knows the fields; here stand the letters that people type for them (the seed's own where it had
any). Any other field can be given with ``--set FIELD=VALUE``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class Flag:
    """An option of ``add`` and ``update`` and the field that it gives."""

    names: tuple[str, ...]
    field: str
    help: str = ""
    kind: Any = str
    required: bool = False
    #: the field only steers how the object is made: hooks in ``adding`` take it
    extra: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object."""

    help: str
    columns: tuple[str, ...]
    flags: tuple[Flag, ...] = ()
    #: made by the system: there is no `add`
    listed_only: bool = False
    #: has a name of its own
    named: bool = True


def _flag(*names: str, field: str = "", **more: Any) -> Flag:
    return Flag(names, field or names[-1].lstrip("-").replace("-", "_"), **more)


_COUNT = click.IntRange(0)
_QUEUE = _flag("-q", "--queue", help="Queue that its tasks wait in; default: one of its own name.")
_PROCESSOR = _flag("-pn", "--processor", required=True)

KINDS: dict[str, Kind] = {
    "processor": Kind(
        "deployed code: a repository, a commit and a module",
        ("name", "repository", "module", "commit", "concurrency", "status", "requested_status"),
        (
            _flag(
                "-g",
                "--gitrepo",
                field="repository",
                required=True,
                help="Address or path of the git repository.",
            ),
            _flag("-m", "--module", help="Dotted name of the module."),
            _flag("-t", "--task", help="A function that becomes the socket NAME.function at once.", extra=True),
            _flag("-b", "-br", "--branch"),
            _flag("--commit", help="Commit or tag; default: the branch's head.", extra=True),
            _flag(
                "-c",
                "--concurrency",
                kind=_COUNT,
                help="Calls that may run at once in each of its sockets; 0: no limit.",
            ),
            _flag("-r", "--retries", kind=_COUNT),
            _flag("-h", "--hostname", help="Place it on this node too (makes a deployment).", extra=True),
            _flag("--allow-dirty", kind=bool, help="A snapshot of a working tree with changes.", extra=True),
        ),
    ),
    "socket": Kind(
        "the durable entry of a function: what clients call by name",
        ("name", "processor", "function", "queue", "concurrency", "priority", "status"),
        (
            _PROCESSOR,
            _flag("-t", "--task", field="function", required=True, help="Function of the processor's module."),
            _QUEUE,
            _flag(
                "-c",
                "--concurrency",
                kind=_COUNT,
                help="Calls that may run at once; 0: what the processor says.",
            ),
            _flag("--priority", kind=int),
            _flag("--needs", help="What each call needs: 'cores=4 gpus=0.5 memory=2G ranks=8 license:1 label=x'."),
            _flag("-i", "--interval", kind=float, help="Call it every so many seconds.", extra=True),
        ),
    ),
    "outlet": Kind(
        "a socket on the processor's function (older word)",
        (),
        (
            _flag("-q", "--queue"),
            _PROCESSOR,
            _flag("-t", "--task", field="function", help="Default: the processor's only function."),
        ),
    ),
    "queue": Kind(
        "where the tasks of sockets wait, in order",
        ("name", "kind", "priority", "length_max", "expires_s", "status"),
        (
            _flag("-t", "--type", field="kind", kind=click.Choice(["direct", "topic", "fanout"])),
            _flag("--priority", kind=int),
            _flag("--length", field="length_max", kind=_COUNT, help="Tasks that may wait; 0: no limit."),
            _flag(
                "--expires",
                field="expires_s",
                kind=float,
                help="Seconds after which a waiting task is not run; 0: never.",
            ),
        ),
    ),
    "plug": Kind(
        "a link from a socket's result, or its error, to another socket",
        ("name", "kind", "source", "target", "queue", "argument"),
        (
            _flag("-s", "--source", help="Socket whose result goes out."),
            _flag("-t", "--target", help="Socket that receives it."),
            _flag("-q", "--queue"),
            _flag(
                "-pn",
                "--processor",
                help="Its only socket is the source; the reader of -q the target.",
                extra=True,
            ),
            _flag("--type", field="kind", kind=click.Choice(["RESULT", "ERROR"])),
            _flag("--argument", help="Parameter that it fills."),
        ),
    ),
    "argument": Kind(
        "one parameter of a function; with -p a plug is aimed at it",
        ("name", "function", "position", "kind"),
        (
            _flag("-t", "--task", field="function", required=True),
            _flag("-a", "--argument", field="name", required=True),
            _flag("--position", kind=_COUNT),
            _flag("-p", "--plug", help="Plug that fills it.", extra=True),
        ),
    ),
    "task": Kind(
        "one function of a processor's module",
        ("name", "processor", "module", "function", "status"),
        (
            _PROCESSOR,
            _flag("-m", "--module"),
            _flag("-f", "--function", help="Its name in the module; default: the last part of the name."),
        ),
    ),
    "node": Kind(
        "a machine",
        ("name", "hostname", "cores", "gpus", "scheduler", "status", "seen_at"),
        (
            _flag("-h", "--hostname", help="Its host name; default: its name."),
            _flag("--scheduler"),
            _flag("--network"),
            _flag("--cores", kind=_COUNT),
        ),
    ),
    "agent": Kind(
        "the daemon of one node",
        ("name", "node", "allocation", "rank_count", "status"),
        (_flag("-nd", "--node", required=True),),
    ),
    "scheduler": Kind(
        "a named placement policy over nodes",
        ("name", "strategy", "network", "status"),
        (_flag("-s", "--strategy", kind=click.Choice(["BALANCED", "EFFICIENT"])), _flag("--network")),
    ),
    "network": Kind(
        "the top of a grouping of schedulers and nodes",
        ("name", "description", "status"),
        (_flag("--description"),),
    ),
    "deployment": Kind(
        "so many cores of a node for a processor",
        ("name", "processor", "node", "cores", "status"),
        (
            _flag("-pn", "--processor", required=True),
            _flag("-h", "--hostname", field="node", help="The node, by its name or host name."),
            _flag("-c", "--cores", kind=click.IntRange(1)),
        ),
    ),
    "schedule": Kind(
        "calls of a socket at set times",
        ("name", "socket", "cron", "interval_s", "next_at", "enabled"),
        (
            _flag("-s", "--socket", required=True),
            _flag("--cron"),
            _flag("-i", "--interval", field="interval_s", kind=float),
        ),
    ),
    "user": Kind(
        "somebody who may use the instance",
        ("name", "email", "uid", "status"),
        (_flag("-e", "--email"), _flag("--uid", kind=int)),
    ),
    "role": Kind("a set of privileges", ("name", "description"), (_flag("--description"),)),
    "privilege": Kind(
        "a right of a user or a role",
        ("name", "user", "role", "verb", "kind", "pattern", "revoked"),
        (
            _flag("-u", "--user"),
            _flag("-r", "--role"),
            _flag("--kind", help="Kind of object; default: every kind."),
            _flag("--pattern", help="Names of objects; default: *."),
            _flag("--revoked", kind=bool),
        ),
    ),
    "log": Kind(
        "a line that somebody wrote about an object",
        ("id", "at", "kind", "object", "source", "text"),
        (
            _flag("--kind"),
            _flag("-o", "--object"),
            _flag("--source"),
            _flag("-t", "--text", required=True),
            _flag("--public", kind=bool),
        ),
        named=False,
    ),
    "allocation": Kind(
        "one granted Slurm job",
        ("name", "state", "partition", "account", "node_count", "rank_count"),
        listed_only=True,
    ),
    "rank": Kind(
        "one MPI process: a core or a GPU",
        ("name", "agent", "number", "core", "pid", "status"),
        listed_only=True,
    ),
    "code": Kind(
        "one version of a processor's code",
        ("id", "processor", "commit", "module", "environment", "dirty", "created"),
        listed_only=True,
        named=False,
    ),
    "event": Kind(
        "something that happened to an object",
        ("id", "at", "name", "kind", "object", "owner", "note"),
        listed_only=True,
        named=False,
    ),
    "flow": Kind("a saved graph of calls", ("name", "description", "owner", "lastupdated"), (_flag("--description"),)),
    "login": Kind("a public key of a user", ("name", "user", "expires_at", "enabled"), listed_only=True),
}

#: the seed's other words
SAME = {"worker": "rank"}


def plural(kind: str) -> str:
    return "codes" if kind == "code" else "switches" if kind.endswith("ch") else f"{kind}s"
