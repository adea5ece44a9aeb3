"""Terms of a call: what it needs and how it may be treated, beyond priority and time limit.

They travel and are stored as one byte string, which is empty for the plain call: one core, nothing else. Equal terms
are equal bytes, so they tell request classes apart and are decoded once each.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta

#: of cores, ranks or GPUs that one task may ask for, and of a named resource
COUNT_MAX = 1 << 20
#: names of resources and labels, each
NAMES_MAX = 32
#: other ways to run one task
ALTERNATIVES_MAX = 8
#: bytes of encoded terms
TERMS_BYTES_MAX = 1 << 12

Amount = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Some = Annotated[int, Meta(ge=1, le=COUNT_MAX)]
#: bytes
Bytes = Annotated[int, Meta(ge=0, le=1 << 50)]
#: thousandths of a GPU
Share = Annotated[int, Meta(ge=0, le=1000 * 1024)]
Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,63}$")]


class Needs(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What each rank of a task needs, and how many ranks there are."""

    #: ranks of one MPI world that run the function together, over a communicator; 0: it runs alone, and without MPI
    ranks: Amount = 0
    cores: Some = 1
    memory_bytes: Bytes = 0
    #: whole ones, or a part of one
    gpu_thousandths: Share = 0
    #: other things of which a node has so many, by name, in order
    named: Annotated[tuple[tuple[Word, Some], ...], Meta(max_length=NAMES_MAX)] = ()
    #: what the node must be or have
    labels: Annotated[tuple[Word, ...], Meta(max_length=NAMES_MAX)] = ()
    #: nothing else runs on its nodes
    exclusive: bool = False
    #: as few of its ranks on one node as possible; else as many
    spread: bool = False
    #: the function runs once, and its ranks are for programs that it starts as steps of their own
    step: bool = False

    @property
    def members(self) -> int:
        """Ranks that run it."""
        return max(1, self.ranks)


class Terms(Needs, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """Needs, and the rest of what was agreed on."""

    #: threads that numeric libraries may start; 0: as many as cores
    threads: Amount = 0
    #: the first of these that can be met is as good
    alternatives: Annotated[tuple[Needs, ...], Meta(max_length=ALTERNATIVES_MAX)] = ()

    @property
    def ways(self) -> tuple[Needs, ...]:
        """All ways to run it, the preferred one first."""
        return (self, *self.alternatives)


PLAIN = Terms()
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Terms)


def encode(terms: Terms) -> bytes:
    """The bytes that travel; b"" for the plain call."""
    return b"" if terms == PLAIN else _encode(terms)


@lru_cache(maxsize=4096)
def decode(data: bytes) -> Terms:
    """The inverse. Cost: once for each different value.

    Raises
    ------
    ValueError
        They are malformed, or cannot be: see ``problem``.
    """
    if not data:
        return PLAIN
    if len(data) > TERMS_BYTES_MAX:
        raise ValueError(f"terms of {len(data)} bytes; the limit is {TERMS_BYTES_MAX}")
    try:
        terms = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"malformed terms: {error}") from None
    for way in terms.ways:
        if text := problem(way):
            raise ValueError(text)
    if terms.alternatives and any(way.ranks for way in terms.ways):
        raise ValueError("a task of several ranks has one way to run")
    return terms


@lru_cache(maxsize=4096)
def chosen(terms: Terms, way: Needs) -> bytes:
    """Terms that leave one way only."""
    fields = {name: getattr(way, name) for name in Needs.__struct_fields__}
    return encode(Terms(**fields, threads=terms.threads))


def problem(needs: Needs) -> str:
    """Why nothing could ever meet these needs; "" if something could."""
    gpus = needs.gpu_thousandths
    if gpus > 1000 and gpus % 1000:
        return f"{gpus / 1000:g} GPUs: ask for whole ones, or for a part of one"
    if needs.step and not needs.ranks:
        return "a step has ranks: ask for one at least"
    if needs.ranks and 0 < gpus < 1000:
        return "a part of a GPU for each of several ranks: ask for whole ones"
    names = [name for name, _ in needs.named]
    if names != sorted(set(names)):
        return "named resources come in order, each once"
    return ""


# --- as text --------------------------------------------------------------------------------------------

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def size_of(value: Any) -> int:
    """Bytes of a number or of text such as "512M" or "2.5G", in powers of 1024 as Slurm reads them.

    Raises
    ------
    ValueError
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(str(value).strip())
    if found is None:
        raise ValueError(f"{value!r} is not a size; write bytes, or text such as 512M or 2.5G")
    return int(float(found[1]) * 1024 ** _POWERS[found[2].upper()])


def words(needs: Needs) -> str:
    """Needs for people: "4 cores, 2 GPUs, 2 GiB"; "1 core" for plain ones."""
    each = [_many(needs.cores, "core")]
    if needs.gpu_thousandths:
        each.append(f"{needs.gpu_thousandths / 1000:g} GPU" + "s" * (needs.gpu_thousandths > 1000))
    if needs.memory_bytes:
        each.append(f"{needs.memory_bytes / 2**30:.3g} GiB")
    each += [f"{count} {name}" for name, count in needs.named]
    text = ", ".join(each)
    if needs.ranks:
        where = "for a step of its own" if needs.step else "of one MPI world"
        text = f"{needs.ranks} rank{'s' * (needs.ranks != 1 or not needs.step)} {where}, each with {text}"
    if needs.exclusive:
        text += ", nothing beside it"
    if needs.labels:
        text += " on a node that is " + " and ".join(needs.labels)
    return text


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def make(**values: Any) -> Terms:
    """Terms from what people say.

    Parameters
    ----------
    **values
        ``ranks``, ``cores``, ``threads``: whole numbers. ``gpus``: a whole number, or a part of one. ``memory``: bytes
        or "2G", for each rank. ``resources``: a map of names to whole numbers. ``labels``: names. ``exclusive``,
        ``spread``: true or false. ``launch``: "step", or "" for a gang. ``otherwise``: a list of maps of these, other
        ways to run it.

    Raises
    ------
    ValueError
        An unknown name, or a value that cannot be.
    """
    others = values.pop("otherwise", None) or ()
    if not isinstance(others, (list, tuple)):
        others = (others,)
    threads = _whole("threads", values.pop("threads", 0), 0)
    ways = [_needs(**way) for way in (values, *others)]
    fields = {name: getattr(ways[0], name) for name in Needs.__struct_fields__}
    terms = Terms(**fields, threads=threads, alternatives=tuple(ways[1:]))
    decode(encode(terms))
    return terms


def _needs(**values: Any) -> Needs:
    unknown = sorted(values.keys() - _KNOWN)
    if unknown:
        raise ValueError(f"nothing is known of {', '.join(unknown)}; there are " + ", ".join(sorted(_KNOWN)))
    labels = values.get("labels") or ()
    named = values.get("resources") or {}
    if not isinstance(named, dict):
        raise ValueError(f"resources cannot be {named!r}; write a map such as {{'license': 1}}")
    launch = values.get("launch") or ""
    if launch not in ("", "step"):
        raise ValueError(f"launch cannot be {launch!r}; it is 'step', or left out")
    ranks = _whole("ranks", values.get("ranks", 0), 0)
    return Needs(
        max(1, ranks) if launch else ranks, _whole("cores", values.get("cores", 1), 1),
        size_of(values.get("memory") or 0), _gpus(values.get("gpus", 0)),
        tuple(sorted((str(name), _whole(str(name), count, 1)) for name, count in named.items())),
        tuple(sorted(labels.split() if isinstance(labels, str) else map(str, labels))),
        bool(values.get("exclusive", False)), bool(values.get("spread", False)), bool(launch),
    )  # fmt: skip


_KNOWN = {"ranks", "cores", "memory", "gpus", "resources", "labels", "exclusive", "spread", "launch"}


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= COUNT_MAX:
        raise ValueError(f"{name} cannot be {value!r}; it is a whole number from {least} on")
    return value


def _gpus(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1024:
        raise ValueError(f"gpus cannot be {value!r}; it is a whole number, or a part of one such as 0.25")
    return round(1000 * value)


def read(text: str) -> Terms:
    """Terms from text: "cores=4 gpus=1 memory=2G license:1 label=bigmem exclusive | cores=16".

    Raises
    ------
    ValueError
    """
    ways = [_words(part) for part in text.split("|")]
    return make(**ways[0], otherwise=ways[1:]) if text.strip() else PLAIN


def _words(text: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for word in text.replace(",", " ").split():
        name, mark, value = word.partition("=")
        if mark and name in ("label", "labels"):
            values.setdefault("labels", []).append(value)
        elif mark and name == "launch":
            values[name] = value
        elif mark:
            values[name] = value if name == "memory" else _number(name, value)
        elif ":" in word:
            name, _, value = word.rpartition(":")
            values.setdefault("resources", {})[name] = _number(name, value)
        elif word == "step":
            values["launch"] = word
        elif word in ("exclusive", "spread"):
            values[word] = True
        else:
            raise ValueError(f"{word!r} says nothing; write such as cores=4, gpus=0.5, memory=2G, license:1, label=x")
    return values


def _number(name: str, value: str) -> float:
    try:
        return int(value) if value.isdigit() else float(value)
    except ValueError:
        raise ValueError(f"{name} cannot be {value!r}; it is a number") from None
