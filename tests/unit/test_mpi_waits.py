"""How MPI waits, which is chosen before it starts. That it is quicker so is measured: perf/questions/gangs.py."""

from __future__ import annotations

import os

import pytest

from pyfi_hpc.adapters import mpi

_SLEEPS, _POLLS = "MPIR_CVAR_ENABLE_HEAVY_YIELD", "MPIR_CVAR_POLLS_BEFORE_YIELD"


@pytest.fixture(autouse=True)
def said_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (_SLEEPS, _POLLS):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("ranks", "cores", "sleeps"),
    [(8, {0, 1}, True), (2, {0, 1}, False), (4, {3}, False), (1, {0}, False)],
)
def test_ranks_that_outnumber_cores_sleep(
    monkeypatch: pytest.MonkeyPatch, ranks: int, cores: set[int], sleeps: bool
) -> None:
    """Not so where each is bound to one: that may well be its own."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("MPI_LOCALNRANKS", str(ranks))
    mpi._share_cores()
    assert (os.environ.get(_SLEEPS) == "1") is sleeps


def test_what_the_user_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the environment that MPI starts with."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("MPI_LOCALNRANKS", "8")
    monkeypatch.setenv(_SLEEPS, "0")
    mpi._share_cores()
    assert os.environ[_SLEEPS] == "0"
