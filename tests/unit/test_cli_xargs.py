"""Command lines of ``pyfi xargs``: where items go, what cannot be one, where and with what programs run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyfi_hpc.cli.xargs import ARGUMENT_BYTES_MAX, command_lines, environment, folder
from pyfi_hpc.errors import UsageError


@pytest.mark.parametrize(
    ("command", "count", "lines"),
    [
        ("gzip -k", 1, ["gzip -k a", "gzip -k b", "gzip -k c"]),
        ("gzip -k {}", 1, ["gzip -k a", "gzip -k b", "gzip -k c"]),
        ("mv {} {}.old", 1, ["mv a a.old", "mv b b.old", "mv c c.old"]),
        ("rm", 2, ["rm a b", "rm c"]),
        ("cp {} there", 2, ["cp a b there", "cp c there"]),
        ("{} --version", 1, ["a --version", "b --version", "c --version"]),
    ],
)
def test_where_items_go(command: str, count: int, lines: list[str]) -> None:
    """In place of the mark, as words of their own or inside one; else last. Empty items are passed over."""
    found = command_lines(command.split(), iter(["a", "", "b", "c"]), count, "{}")
    assert [" ".join(argv) for argv in found] == lines


def test_items_are_never_quoting() -> None:
    """Spaces, quotes, dollars and marks inside an item are that item's."""
    items = ["a b", "'x'", "$(x)", "{}", "-rf"]
    assert [argv[1] for argv in command_lines(["p"], iter(items), 1, "{}")] == items
    assert list(command_lines(["p", "%", "{}"], iter(["i"]), 1, "%")) == [["p", "i", "{}"]]


@pytest.mark.parametrize(
    ("command", "items", "count", "mark", "told"),
    [
        (["mv", "{}.a"], ["a"], 2, "{}", "2 items cannot"),
        (["p"], ["a"], 1, "", "empty"),
        (["p"], ["a\0b"], 1, "{}", "item 1 holds a NUL"),
        (["p"], ["x", "a" * (ARGUMENT_BYTES_MAX + 1)], 1, "{}", "item 2 is longer"),
    ],
)
def test_what_cannot_be_run(command: list[str], items: list[str], count: int, mark: str, told: str) -> None:
    """Refused here, before anything is submitted for it."""
    with pytest.raises(UsageError, match=told) as raised:
        list(command_lines(command, iter(items), count, mark))
    assert raised.value.fix


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a value, or the one that it has here; one that is not there is refused."""
    monkeypatch.setenv("HERE", "x=y")
    assert environment(["HERE", "A=1=2", "B="]) == {"HERE": "x=y", "A": "1=2", "B": ""}
    for wrong in ("NOT_HERE_AT_ALL", "=1", ""):
        with pytest.raises(UsageError, match="no variable"):
            environment([wrong])


def test_the_folder_has_its_user_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link stays a link if the shell says so; a PWD that is another folder, or none, does not count."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "link")
    monkeypatch.setenv("PWD", str(tmp_path / "link"))
    assert folder(None) == str(tmp_path / "link")
    for other in ("/", "link", "/nowhere"):
        monkeypatch.setenv("PWD", other)
        assert folder(None) == os.path.realpath(tmp_path / "real")
    assert folder(".") == os.path.abspath(".")
    with pytest.raises(UsageError, match="no folder"):
        folder("nowhere")
