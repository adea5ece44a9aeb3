"""Which address of this machine compute nodes can reach.

A login node has several: of the outer network, of the cluster's, of containers. The kernel knows by which of
them it would talk to a compute node; that is where the nodes' answers come back to.
"""

from __future__ import annotations

import ipaddress
import socket

from pyfi_hpc.adapters import access, slurm
from pyfi_hpc.errors import SettingsError, SiteError, TransientError
from pyfi_hpc.settings import Settings

#: any port: connecting a UDP socket sends nothing
_PORT = 9
#: nodes that are tried; names of others may not resolve here
_NODES_TRIED = 8


def for_nodes() -> str:
    """An address of this machine for compute nodes: the one that it would talk to them from.

    Where Slurm tells no node whose name resolves here, what this machine's own name stands for.

    Cost: one ``sinfo``.

    Raises
    ------
    SettingsError
        There are only loopback addresses.
    """
    try:
        nodes = slurm.node_addresses(_NODES_TRIED)
    except (SiteError, TransientError):
        nodes = []  # whoever needs Slurm itself is told by the next command
    for name in (*nodes, socket.gethostname()):
        address = _source_towards(name)
        if address and not is_loopback(address):
            return address
    raise SettingsError(
        "no address of this machine was found that compute nodes reach", where=f"host {socket.gethostname()}",
        fix="name one with --bind or PYFI_BIND, or run the broker in the allocation: --broker=job",
    )  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether nobody else can reach this; ``host`` is a name or an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_here(host: str) -> bool:
    """Whether it is an address of this machine, or a name for one."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(place)
    except OSError:
        return False
    return True


def _source_towards(name: str) -> str:
    """Our address in a connection to that host; empty where its name does not resolve, or no way leads there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((name, _PORT))
            return str(probe.getsockname()[0])
        except OSError:
            return ""


def check_reachable(settings: Settings, by: str, fix: str) -> None:
    """See that the broker listens where others can reach it: ``by`` whom, and what to do else.

    Raises
    ------
    SettingsError
        It listens on loopback.
    """
    found = access.read(settings)
    if is_loopback(found.host):
        raise SettingsError(
            f"the broker of instance {settings.instance!r} listens where {by} cannot reach it",
            where=found.endpoint, fix=f"`pyfi down`, then {fix}",
        )  # fmt: skip
