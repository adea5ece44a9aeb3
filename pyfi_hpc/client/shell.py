"""The processor ``shell``: the function that ``pyfi xargs`` calls, deployed as any code is when it is first used.

Its code ships with this package (``shipped/``). It becomes a git repository in the home folder, named by a hash of
what is in it: so the processor's repository tells which version is deployed, and a newer package deploys a newer one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pyfi_hpc.adapters import git
from pyfi_hpc.client.deploy import Progress, prepare, send_to_nodes
from pyfi_hpc.errors import CloneFailed, NotFound, UsageError
from pyfi_hpc.settings import Settings, private_folder

PROCESSOR = "shell"
SOCKET = f"{PROCESSOR}.run"
_SOURCE = Path(__file__).with_name("shipped")
_FILES = ("pyfi.toml", "shell.py")


def ensure(
    settings: Settings, ask: Callable[..., Any], permit: Callable[[str], object], progress: Progress | None = None
) -> str:
    """The socket that runs programs; its code is deployed if it is not there, or is an older version.

    Raises
    ------
    UsageError
        The name of the processor is taken by other code.
    """
    name = f"{PROCESSOR}-{_version()}"
    try:
        found = ask("get", {"kind": "processor", "name": PROCESSOR})
    except NotFound:
        found = None
    known = Path(found["repository"]) if found else None
    if known is not None and known.name == name and found["code"]:
        return SOCKET
    if known is not None and not (known.parent.name == "repositories" and known.name.startswith(f"{PROCESSOR}-")):
        raise UsageError(
            f"the processor {PROCESSOR!r} is other code than that which runs programs", where=str(known),
            fix=f"deploy it under another name (`pyfi deploy --name`), then `pyfi delete processor {PROCESSOR}`",
        )  # fmt: skip
    folder = settings.home / "repositories" / name
    _make_repository(settings, folder)
    spec = prepare(settings, folder, name=PROCESSOR, permit=permit, progress=progress)
    ask("deploy", msgspec.to_builtins(spec), reads=False)
    for problem in send_to_nodes(settings, ask):
        warnings.warn(problem, stacklevel=2)
    return SOCKET


def _version() -> str:
    digest = hashlib.sha256()
    for name in _FILES:
        digest.update(name.encode() + b"\0" + (_SOURCE / name).read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _make_repository(settings: Settings, folder: Path) -> None:
    """A repository with one commit, complete or not there; the same files give the same commit."""
    if folder.exists():
        return
    private_folder(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as made:
        for name in _FILES:
            shutil.copyfile(_SOURCE / name, Path(made) / name)
        who = {"NAME": "pyfi", "EMAIL": "pyfi@localhost", "DATE": "@0 +0000"}
        env = {f"GIT_{role}_{part}": text for role in ("AUTHOR", "COMMITTER") for part, text in who.items()}
        message = "What pyfi xargs runs"
        for words in (["init", "-q", "--template="], ["add", *_FILES], ["commit", "-q", "-m", message]):
            done = git.hardened(settings.cache_dir, ["-C", made, *words], extra_env=env)
            if not done.fine:
                raise CloneFailed(f"git {words[0]} failed: {done.last_lines(3)}", where=made)
        try:
            os.rename(made, folder)
        except OSError:
            if not folder.exists():  # else somebody was faster, with the same files
                raise
