"""Getting in at a host over ssh, as ssh does: keys of the agent, key files, keyboard-interactive, password.

What a person types goes into that answer and nowhere else.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import paramiko
from paramiko.ssh_exception import AuthenticationException, BadAuthenticationType, SSHException

from pyfi_hpc.adapters.ssh_config import Place
from pyfi_hpc.adapters.ssh_target import Ask
from pyfi_hpc.errors import LoginRefused, PyfiError

#: wrong passwords before we give up, as ssh does
_TRIES = 3
#: ways that a host may want one after the other, such as a key and then a code
_STAGES_MAX = 4


class LogIn:
    """Getting in at one host, by what it allows, in ssh's order."""

    def __init__(self, transport: paramiko.Transport, place: Place, ask: Ask | None) -> None:
        self._transport, self._place, self._ask = transport, place, ask
        self._allowed: list[str] = []
        self._tried: list[str] = []
        self._failed: PyfiError | None = None
        self._in = False

    def run(self) -> None:
        self._try("none", lambda: self._transport.auth_none(self._place.user))
        used: set[bytes] = set()
        for _ in range(_STAGES_MAX):
            before = list(self._allowed)
            for method, ways in (
                ("publickey", self._by_keys), ("keyboard-interactive", self._by_questions),
                ("password", self._by_password),
            ):  # fmt: skip
                if not self._in and method in self._allowed:
                    ways(used)
                if self._allowed != before:
                    break
            if self._in:
                return
            if self._allowed == before:
                break
        raise self._failed or self._refused()

    def _refused(self) -> LoginRefused:
        p = self._place
        tried = ", ".join(self._tried[1:]) or "nothing: there is no key and nobody to be asked"
        return LoginRefused(
            f"{p.name} does not let {p.user} in; it takes {', '.join(self._allowed) or 'nothing more'}; tried: {tried}",
            where=f"{p.address} port {p.port}",
            fix=f"see that `ssh {p.name} true` works; --identity FILE, ssh-add, or --via ssh",
        )

    def _try(self, what: str, go: Any) -> bool:
        """One try; whether it was right, be it as one of several that are wanted."""
        self._tried.append(what)
        try:
            rest = go()
        except BadAuthenticationType as error:
            self._allowed = list(error.allowed_types)
            return False
        except AuthenticationException:
            if not self._transport.is_active():
                raise self._cut_off() from None
            return False
        except (SSHException, OSError, EOFError):
            if self._failed is not None:
                raise self._failed from None
            raise self._cut_off() from None
        self._allowed = list(rest or ())
        self._in = not rest
        return True

    def _cut_off(self) -> LoginRefused:
        return LoginRefused(
            f"{self._place.name} closed the connection after {len(self._tried) - 1} tries: "
            f"{', '.join(self._tried[1:]) or 'none'}",
            where=f"{self._place.address} port {self._place.port}",
            fix="name the right key with --identity: others of your agent were too many",
        )

    # --- ways ---------------------------------------------------------------------------------------

    def _by_keys(self, used: set[bytes]) -> None:
        for what, key in self._keys():
            blob = key.asbytes()
            if blob in used:
                continue
            used.add(blob)
            if self._try(what, partial(self._transport.auth_publickey, self._place.user, key)):
                return

    def _keys(self) -> Iterator[tuple[str, paramiko.PKey]]:
        files = [file for file in self._place.identities if file.is_file()]
        ours = {_public(file) for file in files} if self._place.only_identities else None
        agent = paramiko.Agent()
        try:
            for key in agent.get_keys():
                if ours is None or key.asbytes() in ours:
                    yield f"agent key {key.comment or key.get_name()}", key
            for file in files:
                if (loaded := self._load(file)) is not None:
                    yield f"key {file}", loaded
        finally:
            agent.close()

    def _load(self, file: Path) -> paramiko.PKey | None:
        try:
            return paramiko.PKey.from_path(file)
        except (TypeError, paramiko.PasswordRequiredException):
            pass  # it wants a passphrase
        except (ValueError, OSError, SSHException, paramiko.pkey.UnknownKeyType) as error:
            self._tried.append(f"{file} cannot be read: {said(error)}")
            return None
        if self._ask is None:
            self._tried.append(f"{file} has a passphrase, and nobody is there to be asked")
            return None
        try:
            word = self._ask(f"passphrase of {file}: ", False).encode()
            return paramiko.PKey.from_path(file, word)  # type: ignore[arg-type]  # bytes is what its library takes
        except (ValueError, TypeError, SSHException):
            self._tried.append(f"{file}: wrong passphrase")
            return None

    def _by_questions(self, _: set[bytes]) -> None:
        if self._ask is None:
            return

        def answer(title: str, text: str, questions: list[tuple[str, bool]]) -> list[str]:
            # in paramiko's thread: an error would end the connection and be lost
            try:
                intro = " ".join(filter(None, (title.strip(), text.strip())))
                head = f"{self._place.user}@{self._place.name}{': ' + intro if intro else ''}: "
                assert self._ask is not None
                return [self._ask(head + question, echo) for question, echo in questions]
            except PyfiError as error:
                self._failed = error
                return [""] * len(questions)

        for _try in range(_TRIES):
            right = self._try(
                "keyboard-interactive", lambda: self._transport.auth_interactive(self._place.user, answer)
            )
            if right or self._failed:
                return

    def _by_password(self, _: set[bytes]) -> None:
        for _try in range(_TRIES if self._ask else 0):
            assert self._ask is not None
            word = self._ask(f"{self._place.user}@{self._place.name}: password: ", False)
            if self._try("password", partial(self._transport.auth_password, self._place.user, word, fallback=False)):
                return


def _public(file: Path) -> bytes:
    """The public half of a key file, from the file beside it; empty where that is not there."""
    try:
        return base64.b64decode(Path(f"{file}.pub").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return b""


def said(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text or type(error).__name__).strip().splitlines()[0]
