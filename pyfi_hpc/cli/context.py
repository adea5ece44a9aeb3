"""What every command gets: the settings, the connection to the instance, how output is wanted."""

from __future__ import annotations

import configparser
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pyfi_hpc.errors import SettingsError

if TYPE_CHECKING:
    from pyfi_hpc.client.executor import Executor
    from pyfi_hpc.client.session import Session
    from pyfi_hpc.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Context:
    """Global options of one command line; settings and session are made when first asked for."""

    flags: dict[str, str | None] = field(default_factory=dict)
    ini: str | None = None
    debug: bool = False
    json: bool = False
    header: bool = True

    @cached_property
    def settings(self) -> Settings:
        from pyfi_hpc import settings

        from_file = read_ini(Path(self.ini)) if self.ini else {}
        found = settings.load(**{**from_file, **{name: v for name, v in self.flags.items() if v is not None}})
        for name in from_file:
            if self.flags.get(name) is None:
                found.origin[name] = str(self.ini)  # type: ignore[index]  # ours alone so far
        return found

    @cached_property
    def session(self) -> Session:
        from pyfi_hpc.client.session import Session

        return Session(self.settings)

    @cached_property
    def executor(self) -> Executor:
        from pyfi_hpc.client.executor import Executor

        return Executor(session=self.session)

    def change(self, **flags: str) -> None:
        """Settings that a command itself decides, as if they were flags."""
        self.flags.update(flags)
        self.__dict__.pop("settings", None)

    def ask(self, verb: str, body: dict[str, Any] | None = None, *, reads: bool = True) -> Any:
        """Ask the broker's desk; what only reads is asked again after a lost connection."""
        return self.session.ask(verb, body or {}, repeat=reads)

    def permit(self, repository: str) -> None:
        """Raise what the broker says against deploying this repository."""
        self.ask("permit", {"repository": repository})

    def close(self) -> None:
        if "session" in self.__dict__:
            self.session.close()


pass_context = click.make_pass_decorator(Context, ensure=True)


def reads(command: F) -> F:
    """The option of every command that reads: ``--json``."""
    return _switch(command, "--json", "json", True, "Print one JSON object.")


def lists(command: F) -> F:
    """Options of every command that prints a table."""
    return reads(_switch(command, "--noheader", "header", False, "No line of column names."))


def _switch(command: F, flag: str, name: str, meaning: bool, text: str) -> F:
    """A flag that is kept in the context; no command needs it as an argument."""

    def take(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            setattr(ctx.ensure_object(Context), name, meaning)

    return click.option(flag, f"_{name}", is_flag=True, is_eager=True, expose_value=False, callback=take, help=text)(
        command
    )


def read_ini(file: Path) -> dict[str, Any]:
    """Settings of a file given with ``--ini``: TOML, or the sections of an ini file one after the other.

    Raises
    ------
    SettingsError
        It cannot be read, or names a setting that does not exist.
    """
    from pyfi_hpc.settings import Settings

    known = [field.name for field in fields(Settings) if field.name != "origin"]
    try:
        text = file.read_text()
    except OSError as error:
        raise SettingsError(f"cannot read the settings: {error.strerror}", where=str(file)) from None
    try:
        values = tomllib.loads(text)
    except ValueError:
        values = _read_sections(text, file)
    for name in values:
        if name not in known:
            raise SettingsError(
                f"unknown setting {name!r}", where=str(file), fix="the settings are: " + ", ".join(known)
            )
    return values


def _read_sections(text: str, file: Path) -> dict[str, Any]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text if text.lstrip().startswith("[") else f"[pyfi]\n{text}")
    except configparser.Error as error:
        raise SettingsError(f"cannot read the settings: {str(error).splitlines()[0]}", where=str(file)) from None
    return {name: value for section in parser.sections() for name, value in parser[section].items()}
