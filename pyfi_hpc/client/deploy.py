"""From a repository's address to a deployment that can be registered; the broker is not asked here.

    address -> allowed? -> mirror -> commit -> checkout -> environment -> functions -> DeploymentSpec

Each step leaves something complete in the cache or nothing, and finds what is there: deploying an unchanged
commit again builds nothing (about 0.1 s). Nothing is registered unless all of it succeeded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pyfi_hpc.adapters import discovery, environment, git
from pyfi_hpc.adapters.worktree import WorkTree, find_worktree, snapshot, unknown_revision
from pyfi_hpc.errors import DirtyTree, ModuleFailed, NotFound, UsageError
from pyfi_hpc.model.deployment import CodeSpec, DeploymentSpec, SocketSpec
from pyfi_hpc.model.repositories import Address, check_allowed, check_revision, parse_address
from pyfi_hpc.settings import Settings, private_folder

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_CHANGES_SHOWN = 10

Progress = Callable[[str], None]


def prepare(
    settings: Settings,
    source: str | os.PathLike[str],
    *,
    commit: str | None = None,
    module: str | None = None,
    name: str | None = None,
    functions: Iterable[str] | None = None,
    allow_dirty: bool = False,
    owner_uid: int | None = None,
    permit: Callable[[str], object] | None = None,
    progress: Progress | None = None,
) -> DeploymentSpec:
    """Make everything that running the code of a repository needs, on this machine.

    Parameters
    ----------
    source : str or path
        An https or ssh address, or a folder: a repository of this user, or a folder inside one.
    commit : str, optional
        Branch, tag or commit; by default HEAD.
    module : str, optional
        Dotted name; by default that of ``pyfi.toml``, else the only module, else the folder's namesake.
    name : str, optional
        Name of the processor; by default that of ``pyfi.toml``, else of the folder or repository.
    functions : iterable of str, optional
        Functions that become sockets; by default those of ``pyfi.toml``, else all public ones.
    allow_dirty : bool
        Deploy a snapshot of a working tree with changes. Only a copy is committed: the user's tree, index and
        branches stay as they are.
    owner_uid : int, optional
        The owner of the instance, whose own repositories are allowed; by default the current user.
    permit : callable, optional
        Asked, before anything is fetched, whether the instance lets this address be deployed: the broker's lists
        decide, and it writes down what it refuses.
    progress : callable, optional
        Told in a few words what happens.

    Raises
    ------
    RepositoryRefused
        Not on the allow list, denied, or an address that git could misunderstand.
    NotFound
        No such folder, revision or sub-folder.
    DirtyTree
        There are changes and ``allow_dirty`` is not given; lists them.
    CloneFailed, EnvironmentFailed, ModuleFailed
        With the last words of git, of the installer or of the import. Nothing half made stays.
    """
    told = progress or (lambda _: None)
    permitted = permit or (lambda _: None)
    fetched = _fetch(settings, os.fspath(source), commit, allow_dirty, owner_uid, permitted, told)
    address, full, subdir, checkout, tree, dirty = fetched
    manifest = discovery.read_manifest(checkout)
    folder_name = subdir.rsplit("/", 1)[-1] or address.base_name
    processor = _processor_name(name or manifest.name, folder_name)

    recipe = environment.read_recipe(checkout, tree)
    env = environment.ensure(settings.cache_dir, recipe, told)
    root = discovery.import_root(checkout)
    chosen = module or manifest.module or discovery.choose_module(root, folder_name)
    workdir = discovery.import_folder(root, chosen, env, recipe)
    found = discovery.list_public(workdir, chosen, env, checkout.parent, told)
    wanted = list(functions) if functions is not None else list(manifest.functions) or list(found)
    _check_functions(wanted, found, chosen)

    code = CodeSpec(
        repository=address.text, commit=full, subdir=subdir, module=chosen, environment=env.key,
        python=str(env.python), workdir=str(workdir), dirty=dirty,
    )  # fmt: skip
    sockets = [SocketSpec(f"{processor}.{item}", item, found[item]) for item in wanted]
    return DeploymentSpec(processor, code, sockets, build_s=env.build_s, built=env.build_s > 0)


def send_to_nodes(
    settings: Settings,
    desk: Callable[[str, dict[str, Any]], Any],
    ask: Callable[[str, bool], str] | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Send what was just registered to nodes over ssh that do not see this home; what went wrong, in words.

    The deployment holds without it: on such a node a task says what is missing, and `pyfi node sync` sends it.
    """
    from pyfi_hpc.hosts import ssh_notes

    if not any(note.own for note in ssh_notes.noted(settings)):
        return []
    from pyfi_hpc.hosts import ssh_nodes

    told = progress or (lambda _: None)
    results = ssh_nodes.deployed(settings, desk, ask, lambda host, text: told(f"{host}: {text}"))
    return [
        f"the code was not sent to {one.host}: {one.error.what}; `pyfi node sync {one.host}` sends it"
        for one in results
        if one.error is not None
    ]


def _fetch(
    settings: Settings,
    source: str,
    commit: str | None,
    allow_dirty: bool,
    owner_uid: int | None,
    permit: Callable[[str], object],
    told: Progress,
) -> tuple[Address, str, str, Path, str, bool]:
    """Address, commit, folder in the repository, checkout, its tree's id, whether it is a snapshot."""
    permit(source)
    address = parse_address(source)
    if commit is not None:
        check_revision(commit)
    worktree: WorkTree | None = None
    own = False
    if address.is_local:
        worktree = find_worktree(address.path)
        address = Address("local", "", 0, str(worktree.top))
        own = worktree.belongs_to(os.getuid() if owner_uid is None else owner_uid)
        permit(address.text)
    check_allowed(address, allow=settings.allow, deny=settings.deny, own=own)
    private_folder(settings.cache_dir)
    with git.open_mirror(settings.cache_dir, address, told) as mirror:
        dirty = False
        if worktree is None:
            full = _from_address(mirror, commit, told)
        else:
            full, dirty = _from_worktree(mirror, worktree, commit, allow_dirty, own)
        subdir = worktree.subdir if worktree else ""
        checkout, tree = git.checkout(mirror, full, subdir, told)
    return address, full, subdir, checkout, tree, dirty


def _from_address(mirror: git.Mirror, commit: str | None, told: Progress) -> str:
    if commit is not None and git.is_full(commit) and mirror.keeps(commit):
        return commit
    told(f"fetching {mirror.address.text}")
    mirror.fetch()
    full = mirror.resolve(commit or "HEAD")
    if full is None and commit is not None and git.is_full(commit):
        mirror.fetch_commit(commit)  # on no branch any more; some servers still give it
        full = mirror.resolve(commit)
    if full is None:
        raise unknown_revision(commit or "HEAD", mirror.address.text, mirror.refs())
    mirror.keep(full)
    return full


def _from_worktree(
    mirror: git.Mirror, worktree: WorkTree, commit: str | None, allow_dirty: bool, own: bool
) -> tuple[str, bool]:
    # Only an own repository is asked for changes: the question may run filters that its configuration names.
    changes = worktree.changes() if commit is None and own else []
    if changes and not allow_dirty:
        shown = "".join(f"\n    {item}" for item in changes[:_CHANGES_SHOWN])
        more = f"\n    and {len(changes) - _CHANGES_SHOWN} more" if len(changes) > _CHANGES_SHOWN else ""
        raise DirtyTree(
            f"the working tree has changes that are not committed:{shown}{more}", where=str(worktree.top),
            fix="commit them, or say --allow-dirty to deploy a snapshot of them",
        )  # fmt: skip
    head: str | None
    try:
        head = worktree.resolve(commit or "HEAD")
    except NotFound:
        if not changes:
            raise
        head = None  # everything is new: the snapshot is the first commit
    if head is not None and not mirror.keeps(head):
        mirror.fetch_commit(head, source=worktree.git_dir if worktree.bare else worktree.top, trust=own)
    if changes:
        return snapshot(mirror, worktree, head, changes), True
    assert head is not None
    return head, False


def _processor_name(given: str, folder_name: str) -> str:
    if given:
        if not _NAME.fullmatch(given):
            fix = "use letters, digits, dot, dash and underscore"
            raise UsageError(f"{given!r} is not a name for a processor", fix=fix)
        return given
    return re.sub(r"[^A-Za-z0-9_.-]", "-", folder_name).lstrip(".-")[:64] or "processor"


def _check_functions(wanted: list[str], found: dict[str, list[str]], module: str) -> None:
    public = ", ".join(found) or "none"
    for item in wanted:
        if item not in found:
            raise ModuleFailed(
                f"the module {module} has no public function {item!r}", where=module, fix=f"it has: {public}"
            )
    if not wanted:
        raise ModuleFailed(
            f"the module {module} defines no public function", where=module,
            fix="say --module NAME for another module; imported functions and names with _ do not count",
        )  # fmt: skip
