"""What every test may ask for. What is not installed makes a test skip, and the reason names it.

``PYFI_TEST_REQUIRE=slurm`` (set in CI) turns the skip into a failure: a check that silently stops running
is worse than none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import slurm_cluster
from ledger_fixture import ledger_server, ledger_url, new_ledger  # noqa: F401  fixtures
from slurm_fixture import _lab, person, site  # noqa: F401  fixtures


@pytest.fixture(scope="session")
def _slurm() -> Iterator[slurm_cluster.Cluster]:
    if lacks := slurm_cluster.missing():
        reason = "a Slurm cluster needs " + ", ".join(lacks)
        if "slurm" in os.environ.get("PYFI_TEST_REQUIRE", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)
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
