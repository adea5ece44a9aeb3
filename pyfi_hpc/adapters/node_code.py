"""Deployed code on a node that does not see the instance's home: its own checkout, its own environment.

What was sent over ssh (``pyfi node add``, ``pyfi node sync``) is used; else a repository with an address is fetched
from there, as at a deployment. Environments are built here, from the package index that this node is configured
with: a virtual environment of another machine would not run. ::

    HOME/INSTANCE/code/NUMBER.json    what was sent: repository, commit, folder in it, its tree
    HOME/cache/                       as on the instance's machine: see settings.py
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path

from pyfi_hpc.adapters import discovery, environment, git
from pyfi_hpc.errors import CloneFailed, EnvironmentFailed
from pyfi_hpc.model.effects import CheckCode
from pyfi_hpc.model.repositories import Address, parse_address
from pyfi_hpc.settings import Settings, private_folder

log = logging.getLogger("pyfi_hpc.agent")

#: files that nobody but the instance's machine can send have so long to arrive, seconds
_ARRIVES_S = 20.0
_LOOK_S = 0.1


class NodeCode:
    """Prepares code of mounts in this node's own home."""

    def __init__(self, settings: Settings) -> None:
        self._cache = settings.cache_dir
        self._sent = settings.instance_dir / "code"

    def prepare(self, wanted: CheckCode) -> tuple[str, str]:
        """The Python and the folder that the code runs with here; takes minutes where an environment is built.

        Raises
        ------
        CodeError, SiteError, TransientError
            It cannot be prepared here.
        """
        private_folder(self._cache)
        checkout, tree = self._files(wanted)
        recipe = environment.read_recipe(checkout, tree)
        env = environment.ensure(self._cache, recipe, self._tell)
        workdir = discovery.import_folder(discovery.import_root(checkout), wanted.module, env, recipe)
        return str(env.python), str(workdir)

    def _files(self, wanted: CheckCode) -> tuple[Path, str]:
        address = parse_address(wanted.repository)
        # what has just been deployed may be on its way
        until = time.monotonic() + (_ARRIVES_S if address.is_local else 0.0)
        while True:
            found = self._sent_files(wanted)
            if found is not None:
                return found
            if time.monotonic() >= until:
                break
            time.sleep(_LOOK_S)
        if address.is_local:
            what = f"the code {wanted.repository} @ {wanted.commit[:12]} was not sent to this node"
            raise EnvironmentFailed(what, where=str(self._sent), fix="`pyfi node sync` sends it")
        try:
            return self._fetched(address, wanted.commit)
        except CloneFailed:
            # what the ledger keeps is the address without .git, and a plain file server insists on it
            return self._fetched(replace(address, git_suffix=True), wanted.commit)

    def _fetched(self, address: Address, commit: str) -> tuple[Path, str]:
        with git.open_mirror(self._cache, address, self._tell) as mirror:
            if not mirror.keeps(commit):
                mirror.fetch()
                if mirror.resolve(commit) is None:
                    mirror.fetch_commit(commit)  # on no branch any more; some servers still give it
                mirror.keep(commit)
            return git.checkout(mirror, commit, "", self._tell)

    def _sent_files(self, wanted: CheckCode) -> tuple[Path, str] | None:
        try:
            about = json.loads((self._sent / f"{wanted.code}.json").read_text())
            folder = self._cache / "code" / about["tree"]
            return (folder, about["tree"]) if about["commit"] == wanted.commit and folder.is_dir() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _tell(self, text: str) -> None:
        log.info("= code: %s", text)
