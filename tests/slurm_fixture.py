"""Fixtures: instances on the cluster's login node; `site` is started once for all tests that need one running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from slurm_cluster import Cluster
from slurm_site import Site

from pyfi_hpc.hosts import allocation, instance


def _sit_down(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as a person on the login node."""
    for name, value in (site.cluster.env | site.environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(site.cluster.shared)


def _leave(site: Site) -> None:
    """Whatever happened in a test: nothing of the instance stays."""
    site.close()
    instance.stop(site.settings, lambda: None)
    site.remove()


@pytest.fixture
def person(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A person on the login node whose instance has never run; everything of it is gone after the test."""
    site = Site(cluster, "fresh")
    _sit_down(site, monkeypatch)
    try:
        yield site
        site.down()
    finally:
        _leave(site)


@pytest.fixture(scope="session")
def _lab(_slurm: Cluster) -> Iterator[Site]:
    site = Site(_slurm, "lab")
    with pytest.MonkeyPatch.context() as monkeypatch:
        _sit_down(site, monkeypatch)
        yield site
        _leave(site)


@pytest.fixture
def site(cluster: Cluster, _lab: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An instance with ledger and broker where nodes reach them, the naps deployed, no task and no allocation."""
    _sit_down(_lab, monkeypatch)
    if instance.find(_lab.settings, "broker") is None:
        settings = allocation.reachable(_lab.settings)
        instance.start_ledger(settings)
        instance.start_broker(settings)
        _lab.deploy_naps()
    yield _lab
    if instance.find(_lab.settings, "broker") is not None:
        _lab.cancel_all()
    _lab.close()
    allocation.end(_lab.settings, 0.0)
