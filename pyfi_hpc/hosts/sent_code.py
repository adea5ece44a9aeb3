"""Deployed code for a node with a home of its own: the files of each version, which it may have no way to fetch."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

from pyfi_hpc.adapters import git
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.hosts.node_calls import Node
from pyfi_hpc.model.repositories import parse_address
from pyfi_hpc.settings import Settings

#: versions that are sent, the newest first; what is older and still in the queue is fetched by the node, or fails there
CODES_MAX = 100
_SEND_S = 1200.0


def send(
    settings: Settings, node: Node, home: str, desk: Callable[[str, dict[str, Any]], Any],
    tell: Callable[[str, str], None],
) -> int:  # fmt: skip
    """Send what the node has not got; how many versions.

    Files of a version that this machine has not got (it was deployed from elsewhere) are left out.
    """
    rows = desk("ls", {"kind": "code", "limit": CODES_MAX})["rows"]
    there = set(node.call("codes", home=home, instance=settings.instance)["codes"]) if rows else set()
    count = 0
    for row in rows:
        if row["id"] in there:
            continue
        folder = _files(settings, row)
        if folder is None:
            tell(node.remote.host, f"{row['repository']} @ {row['commit'][:7]} is not on this machine: not sent")
            continue
        tell(node.remote.host, f"sending {row['repository']} @ {row['commit'][:7]}")
        about = {name: row[name] for name in ("repository", "commit", "subdir", "module")} | {"tree": folder.name}
        at = {"home": home, "instance": settings.instance, "number": row["id"]}
        node.call("code", _SEND_S, partial(_pack, folder), about=about, **at)
        count += 1
    return count


def _files(settings: Settings, row: dict[str, Any]) -> Path | None:
    """The folder with the files of a version, named by its tree."""
    def quiet(text: str) -> None:
        pass

    try:
        with git.open_mirror(settings.cache_dir, parse_address(row["repository"]), quiet) as mirror:
            if not mirror.keeps(row["commit"]):
                return None
            return git.checkout(mirror, row["commit"], row["subdir"], quiet)[0]
    except PyfiError:
        return None


def _pack(folder: Path, out: IO[bytes]) -> None:
    with tarfile.open(fileobj=out, mode="w|") as archive:
        archive.add(folder, ".", filter=_without_byte_code)


def _without_byte_code(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return None if "__pycache__" in entry.name.split("/") else entry
