"""What a deployment is: code at a commit with its environment, and the functions that become sockets.

Made by `client.deploy.prepare`, sent to the broker as it is, kept in the ledger, read by agents and runners.
"""

from __future__ import annotations

import msgspec


class CodeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a runner needs to start: equal specs mean the same code in the same environment."""

    #: canonical address: a URL, or the absolute path of a local repository
    repository: str
    #: full commit id
    commit: str
    #: folder inside the repository, "" for all of it
    subdir: str
    #: dotted name of the module that holds the functions
    module: str
    #: key of the environment, see ``adapters.environment``
    environment: str
    #: absolute path of the environment's python
    python: str
    #: absolute path of the folder that goes in front of ``sys.path``
    workdir: str
    #: the commit is a snapshot of a working tree with changes, it is on no branch
    dirty: bool = False


class SocketSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One public function of a processor."""

    #: ``PROCESSOR.function``
    name: str
    function: str
    #: names of its parameters in order; ``*args`` and ``**kwargs`` keep their stars
    parameters: list[str]


class DeploymentSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One processor with its sockets, ready to be registered."""

    name: str
    code: CodeSpec
    sockets: list[SocketSpec]
    #: seconds the environment took to build, 0 when it was there
    build_s: float
    #: whether the environment was built now
    built: bool
