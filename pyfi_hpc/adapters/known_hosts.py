"""Which keys of a host are known: lines of ``known_hosts`` files, as sshd(8) describes them.

Names may be patterns, negated or hashed; a port other than 22 is part of the name: ``[host]:port``. Nothing is
ever added unless a person has named the fingerprint.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A line that is about a host: the key, and where the line stands."""

    kind: str
    key: bytes
    revoked: bool
    where: str


def name_of(host: str, port: int) -> str:
    return host if port == 22 else f"[{host}]:{port}"


def fingerprint(key: bytes) -> str:
    """As ``ssh-keygen -l`` shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def find(files: Sequence[Path], name: str) -> list[KnownKey]:
    """All lines about a host; a revoked key counts whatever else is said of it. Files that are not there are skipped.

    Lines with ``@cert-authority`` are left out: host certificates are not looked at.
    """
    found = []
    for file in files:
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for number, line in enumerate(lines, 1):
            words = line.split()
            marker = words.pop(0) if words and words[0].startswith("@") else ""
            if len(words) < 3 or words[0].startswith("#") or marker not in ("", "@revoked"):
                continue
            if _matches(words[0], name.lower()):
                found += _known(words, marker == "@revoked", f"{file}:{number}")
    return found


def add(file: Path, name: str, kind: str, key: bytes) -> None:
    """Write down a key that a person has accepted."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "rb+") as stream:
        before = stream.read()
        start = "" if not before or before.endswith(b"\n") else "\n"
        stream.write(f"{start}{name} {kind} {base64.b64encode(key).decode()}\n".encode())


def _known(words: list[str], revoked: bool, where: str) -> list[KnownKey]:
    try:
        return [KnownKey(words[1], base64.b64decode(words[2], validate=True), revoked, where)]
    except ValueError:
        return []  # a damaged line knows nothing


def _matches(patterns: str, name: str) -> bool:
    matched = False
    for pattern in patterns.split(","):
        negated = pattern.startswith("!")
        if _is(pattern.lstrip("!"), name):
            if negated:
                return False
            matched = True
    return matched


def _is(pattern: str, name: str) -> bool:
    if pattern.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part) for part in pattern[3:].split("|"))
        except ValueError:
            return False
        return hmac.compare_digest(hmac.new(salt, name.encode(), "sha1").digest(), digest)
    # brackets are part of a name here, not a set of characters
    return fnmatchcase(name, pattern.lower().replace("[", "[[]"))
