"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import slurm_cluster
from ledger_fixture import ledger_server, ledger_url, new_ledger  # noqa: F401  fixtures
from needed import need
from slurm_fixture import _lab, person, site  # noqa: F401  fixtures


@pytest.fixture(scope="session")
def _slurm() -> Iterator[slurm_cluster.Cluster]:
    need("slurm", "a Slurm cluster", slurm_cluster.missing())
    with slurm_cluster.Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(_slurm: slurm_cluster.Cluster) -> Iterator[slurm_cluster.Cluster]:
    """A real Slurm cluster, idle: four nodes with four cores each, started once for all tests in 1.5 s."""
    yield _slurm
    _slurm.reset()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the Slurm cluster; before ``-m`` selects."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("slurm")
