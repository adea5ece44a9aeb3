"""Groups whose commands are made or loaded when they are used."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import click


class LazyGroup(click.Group):
    """``names`` are known at once, ``make`` gives the command of a name, or None."""

    def __init__(self, *args: Any, make: Callable[[str], click.Command | None], names: list[str], **more: Any) -> None:
        super().__init__(*args, **more)
        self._make, self._names = make, names

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *self._names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.commands.get(cmd_name) or self._make(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            near = get_close_matches(name, self.list_commands(ctx), n=3)
            meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise click.UsageError(f"No such command {name!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)
