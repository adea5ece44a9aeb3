"""Loads the named statements of ``queries.sql``."""

from __future__ import annotations

import re
from importlib.resources import files


def load(file: str = "queries.sql") -> dict[str, str]:
    """The statements of a file in this folder by name: ``-- name: x`` starts one."""
    parts = re.split(r"^-- name: (\w+)$", text_of(file), flags=re.MULTILINE)[1:]
    names, bodies = parts[::2], parts[1::2]
    assert len(set(names)) == len(names), "a statement's name occurs twice"
    return {
        name: re.sub(r"^--.*\n", "", body, flags=re.MULTILINE).strip() for name, body in zip(names, bodies, strict=True)
    }


def text_of(file: str) -> str:
    """A file of SQL in this folder as it is."""
    return files(__package__).joinpath(file).read_text()
