"""Addresses of repositories: read once into one canonical form, then compared with the allow and deny lists.

Pure: no file system, no git. An address that could mean something else to git (an option, a helper such as
``ext::``, another protocol, a user with a password) is refused here, before any process starts
(RELIABILITY 5.3, point 6)::

    what the user types                     canonical text
    https://Git.Example.org:443/g/r.git/    https://git.example.org/g/r
    git@host:g/r.git                        ssh://git@host/g/r
    /home/me/repo   ./repo   ~/repo         the path itself (the caller resolves links)
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pyfi_hpc.errors import RepositoryRefused, SettingsError

ADDRESS_CHARS_MAX = 1024

_DEFAULT_PORT = {"https": 443, "ssh": 22}
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_PATH = re.compile(r"[A-Za-z0-9._~+@,=/-]+")
_SCP = re.compile(r"(?:(?P<user>[^@/:]+)@)?(?P<host>[^/:@]+|\[[0-9A-Fa-f:.]+\]):(?P<path>.*)", re.S)
_FIX = {
    "address": "use https://host/path, ssh://user@host/path or a folder",
    "revision": "use a branch, a tag or a commit",
}
#: a password, or a token as user: shown to nobody, written down nowhere
_SECRET = re.compile(r"(?<!ssh:)//[^/]*@|//[^/]*:[^/]*@")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a repository is, in canonical form.

    ``scheme`` is ``https``, ``ssh`` or ``local``. ``port`` is 0 for the scheme's default. ``path`` begins
    with a slash, has no trailing slash and no ``.git`` for URLs; ``git_suffix`` remembers whether it had one,
    because a plain file server insists on the real name.
    """

    scheme: str
    host: str
    port: int
    path: str
    user: str = ""
    git_suffix: bool = False

    @property
    def is_local(self) -> bool:
        return self.scheme == "local"

    @property
    def text(self) -> str:
        """The canonical address: equal for every spelling of the same repository."""
        if self.is_local:
            return self.path
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        return f"{self.scheme}://{user}{host}{port}{self.path}"

    @property
    def fetch_text(self) -> str:
        """What git is given."""
        return self.text + (".git" if self.git_suffix else "")

    @property
    def base_name(self) -> str:
        """The last part of the path without ``.git``: the default name of a processor."""
        name = self.path.rstrip("/").rsplit("/", 1)[-1]
        return name.removesuffix(".git") or name


def parse_address(text: str) -> Address:
    """Read what a user typed: an https or ssh URL, ``user@host:path``, or a local path.

    Raises
    ------
    RepositoryRefused
        The text is empty, too long, looks like an option, holds control characters, names another protocol
        or a transport helper, carries a password, or its host, port or path is not plain.
    """
    _refuse_unprintable(text)
    if "://" in text:
        return _parse_url(text)
    first = text.split("/", 1)[0]
    if "::" in first and not first.startswith("["):
        raise _refused(text, "it names a transport helper, which would run a command")
    scp = _SCP.fullmatch(text) if ":" in first else None
    if scp is None:
        return Address(scheme="local", host="", port=0, path=text)
    user, host = scp["user"] or "", scp["host"]
    return _address(text, "ssh", user, host, "", "/" + scp["path"].lstrip("/"))


def check_allowed(address: Address, *, allow: Iterable[str], deny: Iterable[str], own: bool = False) -> None:
    """Refuse a repository that a deny pattern matches, or that no allow pattern matches.

    Parameters
    ----------
    address : Address
        A local address must hold the real absolute path, links resolved.
    allow, deny : iterable of str
        ``[scheme://]host[:port]/path`` or an absolute local path. ``*`` stands for any text (in a host: not
        for a slash). Without a scheme every scheme and port is meant; with one, its default port. Deny
        patterns ignore the case of the path, because some hosts do.
    own : bool
        The local repository belongs to the owner of the instance: allowed unless denied.

    Raises
    ------
    RepositoryRefused
        Not allowed; names the patterns and how to add one.
    SettingsError
        A pattern cannot be read.
    """
    allow, deny = tuple(allow), tuple(deny)
    for pattern in deny:
        if _matches(pattern, address, "deny", ignore_case=True):
            raise RepositoryRefused(
                f"the repository {address.text} is denied by the pattern {pattern!r}",
                where="the setting deny (PYFI_DENY or config.toml)", fix="ask the owner of the instance",
            )  # fmt: skip
    if (address.is_local and own) or any(_matches(p, address, "allow", ignore_case=False) for p in allow):
        return
    listed = ", ".join(repr(p) for p in allow) or "empty"
    whose = " and does not belong to you" if address.is_local else ""
    raise RepositoryRefused(
        f"the repository {address.text} is not on the allow list{whose}",
        where=f"the setting allow (PYFI_ALLOW or config.toml) is: {listed}",
        fix=f'add the pattern "{address.text}" (or one with *) to allow',
    )


def check_revision(text: str) -> str:
    """Return a branch, tag, commit or ``HEAD~2`` unchanged, or refuse what git could take for an option.

    Raises
    ------
    RepositoryRefused
        It begins with a dash, or holds anything that is not part of a revision's name.
    """
    if not text or len(text) > 255 or text.startswith("-") or ".." in text or "@{" in text:
        raise _refused(text, "that is not the name of a revision", what="revision")
    if not re.fullmatch(r"[A-Za-z0-9._/@+~^=-]+", text):
        raise _refused(text, "a revision's name has letters, digits and . _ / @ + ~ ^ = -", what="revision")
    return text


def _refuse_unprintable(text: str) -> None:
    if not text.strip():
        raise _refused(text, "it is empty")
    if len(text) > ADDRESS_CHARS_MAX:
        raise _refused(text[:40] + "...", f"it is longer than {ADDRESS_CHARS_MAX} characters")
    if _CONTROL.search(text):
        raise _refused(text, "it holds control characters")
    if text.startswith("-"):
        raise _refused(text, "it begins with a dash; write ./ in front of a folder of that name")


def _parse_url(text: str) -> Address:
    scheme, rest = text.split("://", 1)
    scheme = scheme.lower()
    if scheme == "file":
        raise _refused(text, "file:// is not accepted; give the path itself")
    if scheme not in _DEFAULT_PORT:
        raise _refused(text, f"only https and ssh are accepted, not {scheme!r}")
    authority, slash, path = rest.partition("/")
    user, _, hostport = authority.rpartition("@")
    if user and (scheme == "https" or ":" in user):
        raise _refused(text, "it carries a user or a password", fix="use ssh with a key")
    if hostport.startswith("["):
        host, _, port = hostport.partition("]")
        host += "]"
        port = port.removeprefix(":")
    else:
        host, _, port = hostport.partition(":")
    return _address(text, scheme, user, host, port, slash + path)


def _address(text: str, scheme: str, user: str, host: str, port: str, path: str) -> Address:
    if user and not _USER.fullmatch(user):
        raise _refused(text, "the user's name is not plain")
    number = _port(text, port)
    return Address(
        scheme=scheme, host=_host(text, host), port=0 if number == _DEFAULT_PORT[scheme] else number,
        path=_path(text, path), user=user, git_suffix=path.rstrip("/").endswith(".git"),
    )  # fmt: skip


def _host(text: str, host: str) -> str:
    """Lower case, no trailing dot; a number in disguise (``2130706433``, ``0x7f.1``) is no host name."""
    if host.startswith("["):
        try:
            return ipaddress.IPv6Address(host.strip("[]")).compressed
        except ValueError:
            raise _refused(text, "the host is not an address") from None
    host = host.lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused(text, "the host's name has only letters, digits, dots and dashes")
    if labels[-1].isdigit() or labels[-1].startswith("0x"):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise _refused(text, "the host is neither a name nor an address") from None
    return host


def _port(text: str, port: str) -> int:
    if not port:
        return 0
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise _refused(text, "the port is not a number from 1 to 65535")
    return int(port)


def _path(text: str, path: str) -> str:
    parts = [part for part in path.split("/") if part]
    if not parts:
        raise _refused(text, "it names no repository on that host")
    if not _PATH.fullmatch(path):
        raise _refused(text, "its path has only letters, digits and . _ ~ + @ , = - /")
    # A part that begins with a dash would be an option of the program at the other end.
    if any(part in (".", "..") or part.startswith("-") for part in parts):
        raise _refused(text, "its path has a part that is '.', '..' or begins with a dash")
    path = "/" + "/".join(parts)
    return path.removesuffix(".git") if not path.endswith("/.git") else path


def _refused(text: str, why: str, *, what: str = "address", fix: str = "") -> RepositoryRefused:
    text = _SECRET.sub("//***@", text)
    return RepositoryRefused(f"the {what} {text!r} is refused: {why}", fix=fix or _FIX[what])


def _matches(pattern: str, address: Address, setting: str, *, ignore_case: bool) -> bool:
    if pattern.startswith("/"):
        return address.is_local and _like(pattern.rstrip("/") or "/", address.path, ignore_case)
    if address.is_local:
        return False
    scheme, host, port, path = _read_pattern(pattern, setting)
    if scheme and (scheme != address.scheme or port != address.port):
        return False
    if not scheme and port and port != (address.port or _DEFAULT_PORT[address.scheme]):
        return False
    return _like(host, address.host, True) and _like(path, address.path, ignore_case)


def _read_pattern(pattern: str, setting: str) -> tuple[str, str, int, str]:
    """``scheme`` is empty for any; ``port`` is 0 for the scheme's default (for any, without a scheme)."""
    found = re.fullmatch(
        r"(?:(?P<scheme>https|ssh)://)?(?:[A-Za-z0-9._-]+@)?(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9.*-]+)"
        r"(?::(?P<port>[0-9]+))?(?P<path>/[A-Za-z0-9._~+@,=/*-]*)",
        pattern,
    )
    if found is None:
        raise SettingsError(
            f"the repository pattern {pattern!r} cannot be read", where=f"the setting {setting}",
            fix="write it as https://git.example.org/group/*, git.example.org/group/* or /srv/repositories/*",
        )  # fmt: skip
    scheme, port = found["scheme"] or "", int(found["port"] or 0)
    if scheme and port == _DEFAULT_PORT[scheme]:
        port = 0
    path = re.sub("/+", "/", found["path"])
    path = (path.rstrip("/") or "/").removesuffix(".git")
    return scheme, found["host"].lower().strip("[]").removesuffix("."), port, path


def _like(pattern: str, text: str, ignore_case: bool) -> bool:
    expression = ".*".join(re.escape(piece) for piece in pattern.split("*"))
    return re.fullmatch(expression, text, re.S | (re.I if ignore_case else 0)) is not None
