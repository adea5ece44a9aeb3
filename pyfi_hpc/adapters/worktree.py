"""The user's own repository on this machine: where it is, whose it is, what is not committed.

Only reads: the user's index, tree, objects and branches are never written. A snapshot of uncommitted changes
is a commit in our mirror, built with an index of our own.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pyfi_hpc.adapters import command
from pyfi_hpc.adapters.git import QUICK_S, Mirror, refs_of
from pyfi_hpc.errors import CloneFailed, NotFound, SiteError
from pyfi_hpc.model.repositories import check_revision


@dataclass(frozen=True, slots=True)
class WorkTree:
    """A repository on this machine, and the folder in it that was named.

    ``top`` is the working tree's first folder, or the bare repository. ``git_dir`` holds objects and refs.
    """

    top: Path
    git_dir: Path
    subdir: str
    bare: bool

    def belongs_to(self, uid: int) -> bool:
        """Whether its folders are all this user's. Others could change what runs in this user's name."""
        return all(os.stat(folder).st_uid == uid for folder in (self.top, self.git_dir))

    def resolve(self, revision: str) -> str:
        """The full commit id of a branch, tag, commit or ``HEAD``.

        Raises
        ------
        NotFound
            There is none; names some branches and tags.
        """
        check_revision(revision)
        done = _read(self.top, "rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}")
        if done.fine:
            return done.text.strip()
        raise unknown_revision(revision, str(self.top), refs_of(self.git_dir, 8))

    def changes(self) -> list[str]:
        """Files under the folder that differ from HEAD or are new (and not ignored), relative to ``top``."""
        if self.bare:
            return []
        done = _read(
            self.top, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--",
            self.subdir or ".", timeout_s=120,
        )  # fmt: skip
        if not done.fine:
            raise CloneFailed(f"git status failed: {done.last_lines(3)}", where=str(self.top))
        # "XY name"; a name with a slash at its end is another repository inside this one.
        names = [entry[3:] for entry in done.stdout.decode("utf-8", "surrogateescape").split("\0") if entry]
        return [name for name in names if not name.endswith("/")]


def find_worktree(path: str) -> WorkTree:
    """The repository that holds a folder.

    Raises
    ------
    NotFound
        No such folder, or it is in no git repository.
    """
    folder = Path(os.path.realpath(os.path.expanduser(path)))
    if not folder.is_dir():
        raise NotFound(
            f"there is no folder {path}" if not folder.exists() else f"{path} is a file",
            where=str(folder), fix="give the folder of a git repository, or its https or ssh address",
        )  # fmt: skip
    # Reading where things are runs nothing of the repository: safe before its owner is known.
    done = _read(folder, "rev-parse", "--is-bare-repository", "--is-inside-work-tree", "--git-common-dir")
    if not done.fine:
        raise NotFound(
            f"{path} is not in a git repository", where=str(folder),
            fix="git init && git add . && git commit -m 'first version'",
        )  # fmt: skip
    bare, inside, git_dir = done.text.splitlines()
    common = Path(os.path.realpath(folder / git_dir))
    if bare == "true":
        return WorkTree(top=common, git_dir=common, subdir="", bare=True)
    if inside != "true":
        raise NotFound(f"{path} is the inside of a git repository", where=str(folder), fix="give its parent")
    top = Path(_read(folder, "rev-parse", "--show-toplevel").text.removesuffix("\n"))
    subdir = os.path.relpath(folder, top)
    return WorkTree(top=top, git_dir=common, subdir="" if subdir == "." else subdir, bare=False)


def unknown_revision(revision: str, where: str, refs: list[str]) -> NotFound:
    """The error for a revision that is not there; ``refs`` are some that are."""
    if revision == "HEAD":
        return NotFound("the repository has no commit yet", where=where, fix="git add . && git commit")
    known = ", ".join(refs) or "none"
    fix = f"use a commit, a branch or a tag; there are: {known}"
    return NotFound(f"there is no revision {revision!r}", where=where, fix=fix)


def snapshot(mirror: Mirror, tree: WorkTree, head: str | None, changes: list[str]) -> str:
    """A commit of the working tree's ``changes`` on top of ``head``, made in the mirror; its full id.

    The same content on the same ``head`` gives the same id: the date is that of ``head``, so nothing is
    built twice. The mirror must hold ``head``.
    """
    with tempfile.TemporaryDirectory(dir=mirror.path, prefix="snapshot-") as folder:
        env = {"GIT_INDEX_FILE": f"{folder}/index"}
        mirror.must("read-tree", head or "--empty", extra_env=env)
        names = b"".join(os.fsencode(name) + b"\0" for name in changes)
        mirror.must(
            "--work-tree", str(tree.top), "update-index", "--add", "--remove", "--replace", "-z", "--stdin",
            extra_env=env, stdin=names, timeout_s=120,
        )  # fmt: skip
        content = mirror.must("write-tree", extra_env=env).strip()
    date = mirror.must("show", "-s", "--format=%ct", head).strip() if head else "0"
    parts = {"NAME": "pyfi", "EMAIL": "pyfi@localhost", "DATE": f"@{date} +0000"}
    who = {f"GIT_{role}_{part}": parts[part] for role in ("AUTHOR", "COMMITTER") for part in parts}
    parent = ["-p", head] if head else []
    message = "Snapshot of a working tree with changes"
    commit = mirror.must("commit-tree", *parent, "-m", message, content, extra_env=who).strip()
    mirror.keep(commit)
    return commit


def _read(folder: Path, *args: str, timeout_s: float = QUICK_S) -> command.Finished:
    """A question to the user's own repository, with the user's own configuration (ignored files, filters)."""
    env = {name: value for name, value in os.environ.items() if not re.match("GIT_", name)}
    env |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    # Whose repository it is, is asked right after the first question and before any that could run filters.
    config = ("core.fsmonitor=false", "core.hooksPath=/dev/null", "safe.directory=*")
    argv = ["git", *(piece for item in config for piece in ("-c", item)), "-C", str(folder), *args]
    try:
        return command.run(argv, env=env, timeout_s=timeout_s)
    except FileNotFoundError as error:
        raise SiteError("git is not installed", fix="install git, or load your site's module") from error
