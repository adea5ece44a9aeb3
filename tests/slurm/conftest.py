"""An instance on the cluster's login node, its code deployed once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from slurm_cluster import Cluster
from slurm_site import Site

from pyfi_hpc.hosts import allocation, instance


@pytest.fixture
def person(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A person on the login node whose instance does not run yet; everything of it is gone after the test."""
    site = Site(cluster, "lab")
    for name, value in (cluster.env | site.environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(cluster.shared)
    try:
        yield site
        site.down()
    finally:
        site.close()
        instance.stop(site.settings, lambda: None)
        site.remove()


@pytest.fixture
def site(person: Site) -> Site:
    """The same with ledger and broker running where nodes reach them, and the naps deployed."""
    settings = allocation.reachable(person.settings)
    instance.start_ledger(settings)
    instance.start_broker(settings)
    person.deploy_naps()
    return person


