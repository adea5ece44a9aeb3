"""Mirrors of repositories and checkouts of single commits, through one hardened git command.

`hardened` is the only place that gives git an address or a revision from outside (RELIABILITY 5.3, point 6).
It reads no configuration but its own, has its own home folder, runs no hook, filter, helper or submodule,
follows no redirect and never asks. GitPython only lists the names in a mirror that is already here. ::

    cache/mirrors/NAME-HASH.git    bare; refs/heads, refs/tags as at the source, refs/pyfi/kept/COMMIT for
                                   every deployed commit, so that a force push does not take it away
    cache/code/TREE/               the files of one tree; commits that share the tree share the folder
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyfi_hpc.adapters import command
from pyfi_hpc.adapters.filelock import hold
from pyfi_hpc.errors import CloneFailed, NotFound, RepositoryRefused, SiteError, TooLarge
from pyfi_hpc.model.repositories import Address, check_revision

QUICK_S = 30.0
FETCH_S = 600.0
PACK_BYTES_MAX = 4 << 30
TREE_FILES_MAX = 100_000
TREE_BYTES_MAX = 2 << 30
#: variables of the caller that git may see: where programs, proxies, trust roots and the ssh agent are
_PASSED = (
    "PATH", "TMPDIR", "USER", "LOGNAME", "SSH_AUTH_SOCK", "KRB5CCNAME", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "http_proxy", "https_proxy", "HTTPS_PROXY",
    "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY",
)  # fmt: skip
_CONFIG = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.attributesFile=/dev/null",
    "http.followRedirects=false", "http.lowSpeedLimit=1000", "http.lowSpeedTime=60",
    "transfer.fsckObjects=true", "fetch.recurseSubmodules=false", "submodule.recurse=false",
    "credential.helper=", "gc.auto=0", "maintenance.auto=false", "protocol.version=2",
    "core.autocrlf=false", "advice.detachedHead=false",
)  # fmt: skip
_SSH = (
    "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=20 "
    "-o ClearAllForwardings=yes -o PermitLocalCommand=no"
)
_FULL = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HEAD = "refs/pyfi/HEAD"


def hardened(
    cache_dir: Path,
    args: Sequence[str],
    *,
    protocols: str = "none",
    timeout_s: float = QUICK_S,
    extra_env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> command.Finished:
    """Run git with nothing but our own configuration.

    Parameters
    ----------
    protocols : str
        What it may fetch with: ``https:ssh``, ``file``, or none.

    Raises
    ------
    SiteError
        git is not installed.
    """
    home = cache_dir / "git-home"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    env = {name: os.environ[name] for name in _PASSED if name in os.environ}
    env |= {
        "HOME": str(home), "XDG_CONFIG_HOME": str(home), "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "SSH_ASKPASS": "true",
        "GIT_ALLOW_PROTOCOL": protocols, "GIT_SSH_COMMAND": _SSH, "GIT_SSH_VARIANT": "ssh",
        "GIT_LFS_SKIP_SMUDGE": "1", "GIT_OPTIONAL_LOCKS": "0",
    }  # fmt: skip
    env |= extra_env or {}
    argv = ["git", *(piece for item in _CONFIG for piece in ("-c", item)), *args]
    limit = PACK_BYTES_MAX if protocols != "none" else 0
    try:
        return command.run(argv, env=env, timeout_s=timeout_s, stdin=stdin, file_bytes_max=limit)
    except FileNotFoundError as error:
        raise SiteError("git is not installed", fix="install git, or load your site's module") from error


@dataclass(frozen=True, slots=True)
class Mirror:
    """The bare copy of one repository. Made by `open_mirror`, which holds its lock meanwhile."""

    address: Address
    cache_dir: Path
    path: Path

    def fetch(self) -> None:
        """Bring branches, tags and HEAD up to date; only what is new travels.

        Raises
        ------
        CloneFailed
            With git's own last words.
        """
        refs = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", f"+HEAD:{_HEAD}")
        self._fetched(self._fetch(self.address.fetch_text, refs, protocols="https:ssh", prune=True))

    def fetch_commit(self, commit: str, *, source: Path | None = None, trust: bool = True) -> None:
        """Bring one commit and keep it.

        Parameters
        ----------
        commit : str
            Full commit id.
        source : Path, optional
            Local repository to take it from, instead of the mirror's address.
        trust : bool
            False when the local repository is another user's: git then wants to be told that this is meant.
        """
        refs = (f"{commit}:refs/pyfi/kept/{commit}",)
        if source is None:
            self._fetched(self._fetch(self.address.fetch_text, refs, protocols="https:ssh"))
            return
        extra: dict[str, str] = {}
        if not trust:
            # The other side is a child process that takes safe.directory from a file only.
            config = self.cache_dir / "git-home" / f"trust-{os.getpid()}"
            quoted = str(source).replace("\\", "\\\\").replace('"', '\\"')
            config.write_text(f'[safe]\n\tdirectory = "{quoted}"\n\tdirectory = "{quoted}/.git"\n')
            extra["GIT_CONFIG_GLOBAL"] = str(config)
        try:
            self._fetched(self._fetch(str(source), refs, protocols="file", extra_env=extra))
        finally:
            if not trust:
                config.unlink()

    def resolve(self, revision: str) -> str | None:
        """The full commit id of a branch, tag or abbreviated id in this mirror, or None."""
        check_revision(revision)
        name = _HEAD + revision[4:] if re.match(r"HEAD\b", revision) else revision
        found = self.git("rev-parse", "--verify", "--quiet", "--end-of-options", name + "^{commit}")
        commit = found.text.strip()
        if not found.fine or not _FULL.fullmatch(commit):
            return None
        # A full id means itself, never a branch that somebody named like it.
        return commit if not is_full(revision) or commit == revision else None

    def keep(self, commit: str) -> None:
        """Protect a commit in this mirror for good."""
        self.must("update-ref", f"refs/pyfi/kept/{commit}", commit)

    def keeps(self, commit: str) -> bool:
        return self.git("rev-parse", "--verify", "--quiet", f"refs/pyfi/kept/{commit}").fine

    def tree_of(self, commit: str, subdir: str) -> str:
        """The id of the tree at ``subdir`` of a commit.

        Raises
        ------
        NotFound
            That commit has no such folder.
        """
        found = self.git("rev-parse", "--verify", "--quiet", f"{commit}:{subdir}")
        tree = found.text.strip()
        if not found.fine or self.must("cat-file", "-t", tree).strip() != "tree":
            raise NotFound(
                f"the commit {commit[:12]} has no folder {subdir!r}", where=self.address.text,
                fix="give another --commit, or commit the folder first",
            )  # fmt: skip
        return tree

    def refs(self, count: int = 8) -> list[str]:
        """Names of some branches and tags, for messages."""
        return refs_of(self.path, count)

    def git(self, *args: str, extra_env: Mapping[str, str] | None = None) -> command.Finished:
        return hardened(self.cache_dir, ["--git-dir", str(self.path), *args], extra_env=extra_env)

    def must(self, *args: str, extra_env: Mapping[str, str] | None = None, stdin: bytes | None = None,
             timeout_s: float = QUICK_S) -> str:  # fmt: skip
        """Run git in this mirror and return its output; anything but success is a `CloneFailed`."""
        argv = ["--git-dir", str(self.path), *args]
        done = hardened(self.cache_dir, argv, extra_env=extra_env, stdin=stdin, timeout_s=timeout_s)
        if not done.fine:
            raise CloneFailed(
                f"git {args[0]} failed: {done.last_lines(3) or 'no word from it'}", where=str(self.path),
                fix="see the message; when the mirror is damaged, remove that folder",
            )  # fmt: skip
        return done.text

    def _fetch(self, source: str, refs: Sequence[str], *, protocols: str, prune: bool = False,
               extra_env: Mapping[str, str] | None = None) -> command.Finished:  # fmt: skip
        options = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head",
                   "--update-shallow", *(["--prune"] if prune else [])]  # fmt: skip
        argv = ["--git-dir", str(self.path), *options, "--", source, *refs]
        return hardened(self.cache_dir, argv, protocols=protocols, timeout_s=FETCH_S, extra_env=extra_env)

    def _fetched(self, done: command.Finished) -> None:
        if done.fine:
            return
        why = done.last_lines(4) or f"exit status {done.code}"
        why = f"no answer in {FETCH_S:.0f} s" if done.timed_out else why
        raise CloneFailed(
            f"git could not fetch {self.address.text}: {why}", where=self.address.text,
            fix="check the address, that the host's key is in known_hosts (ssh), and your access to it",
        )  # fmt: skip


@contextmanager
def open_mirror(cache_dir: Path, address: Address, progress: Callable[[str], None]) -> Iterator[Mirror]:
    """The mirror of a repository, made empty when it is not there yet, and its lock for the time of use."""
    digest = hashlib.sha256(address.text.encode()).hexdigest()[:12]
    base = re.sub(r"[^A-Za-z0-9._-]", "-", address.base_name)[:40]
    mirror = Mirror(address, cache_dir, cache_dir / "mirrors" / f"{base}-{digest}.git")
    mirror.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = mirror.path.with_suffix(".lock")
    with hold(lock, timeout_s=FETCH_S, what=f"the mirror of {address.text}", progress=progress):
        if not (mirror.path / "HEAD").exists():
            mirror.must("init", "--quiet", "--bare", "--template=", str(mirror.path))
        yield mirror


def checkout(mirror: Mirror, commit: str, subdir: str, progress: Callable[[str], None]) -> tuple[Path, str]:
    """The folder with the files of a commit (of its ``subdir``), and the id of their tree.

    Not ``git archive``: its export attributes leave files out and change others; here every file is exactly
    the committed one. Written beside and renamed, so that the folder is complete or not there.

    Raises
    ------
    RepositoryRefused
        The commit has submodules there.
    TooLarge
        Over ``TREE_FILES_MAX`` files or ``TREE_BYTES_MAX`` bytes.
    """
    tree = mirror.tree_of(commit, subdir)
    folder = mirror.cache_dir / "code" / tree
    if folder.is_dir():
        return folder, tree
    _check_contents(mirror, tree, commit)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with hold(folder.parent / ".lock", timeout_s=FETCH_S, what="the checkouts", progress=progress):
        for left in folder.parent.glob(".new-*"):  # of a process that died: we hold the lock
            shutil.rmtree(left)
        fresh = folder.parent / f".new-{tree}"
        index = {"GIT_INDEX_FILE": str(fresh / ".index")}
        (fresh / "files").mkdir(parents=True)
        mirror.must("read-tree", tree, extra_env=index)
        files = str(fresh / "files")
        mirror.must("--work-tree", files, "checkout-index", "--all", extra_env=index, timeout_s=FETCH_S)
        if not folder.is_dir():
            os.rename(fresh / "files", folder)
        shutil.rmtree(fresh)
    return folder, tree


def is_full(revision: str) -> bool:
    """Whether it is a full commit id."""
    return _FULL.fullmatch(revision) is not None


def refs_of(git_dir: Path, count: int) -> list[str]:
    """Names of some branches and tags of a repository on this machine, read by GitPython."""
    import git  # here, because it takes 0.1 s and only an error message wants it

    with git.Repo(git_dir) as repository:
        branches = [head.name for head in repository.heads]
        tags = [tag.name for tag in repository.tags]
    return branches[:count] + tags[-count:]


def _check_contents(mirror: Mirror, tree: str, commit: str) -> None:
    files = size = 0
    submodules = []
    for entry in mirror.must("ls-tree", "-r", "-l", "-z", tree).split("\0")[:-1]:
        about, name = entry.split("\t", 1)
        mode, _, _, length = about.split()
        if mode == "160000":
            submodules.append(name)
        files += 1
        size += int(length) if length.isdigit() else 0
    if submodules:
        raise RepositoryRefused(
            f"the commit {commit[:12]} has submodules, which are not fetched: {', '.join(submodules[:5])}",
            where=mirror.address.text, fix="put the code into the repository, or name it in requirements.txt",
        )  # fmt: skip
    if files > TREE_FILES_MAX or size > TREE_BYTES_MAX:
        raise TooLarge(
            f"the commit {commit[:12]} has {files:,} files of {size / 1e6:,.0f} MB together",
            where=mirror.address.text,
            fix=f"at most {TREE_FILES_MAX:,} files and {TREE_BYTES_MAX / 1e6:,.0f} MB; deploy a sub-folder",
        )  # fmt: skip
