"""Parts of steps that need no process: what is asked for, what srun is told, and what it says when it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyfi_hpc.client.options import DEFAULT
from pyfi_hpc.core import gangs, placing
from pyfi_hpc.core.held import HeldGrant, Piece
from pyfi_hpc.core.nodes import Node
from pyfi_hpc.errors import UsageError
from pyfi_hpc.model import messages as m
from pyfi_hpc.model import terms
from pyfi_hpc.model.ids import NodeName, Peer
from pyfi_hpc.runner import step


def test_a_step_is_asked_for_by_option_or_text() -> None:
    """The same terms either way; one rank if none is said; they survive the wire."""
    made = terms.make(ranks=4, cores=2, launch="step")
    assert terms.read("ranks=4 cores=2 step") == terms.read("launch=step ranks=4 cores=2") == made
    assert terms.decode(terms.encode(made)).step
    assert terms.read("step").ranks == 1
    assert not terms.read("ranks=4").step
    assert terms.words(made) == "4 ranks for a step of its own, each with 2 cores"
    assert terms.words(terms.read("step")) == "1 rank for a step of its own, each with 1 core"
    assert DEFAULT.but(launch="step", ranks=3).terms == terms.encode(terms.make(launch="step", ranks=3))


def test_what_a_step_cannot_be() -> None:
    """Another launch, ranks with a part of a GPU each, several ways."""
    for wrong in ({"launch": "mpi"}, {"launch": "step", "ranks": 2, "gpus": 0.5}):
        with pytest.raises(UsageError):
            DEFAULT.but(**wrong)
    with pytest.raises(UsageError, match="one way"):
        DEFAULT.but(launch="step", otherwise=[{"cores": 2}])
    with pytest.raises(ValueError, match="a step has ranks"):
        terms.decode(terms.encode(terms.Terms(step=True)))


@pytest.mark.parametrize(
    ("allocation", "world"), [("", "n1/x"), ("71", "71"), ("71@east", "71@east"), ("71.pbs-server", "n1/x")]
)
def test_only_slurm_starts_a_step_on_several_nodes(allocation: str, world: str) -> None:
    """Its allocations are numbers; elsewhere each node is for itself, and it does not matter who left an MPI world."""
    node = Node(NodeName("n1/x"), Peer(b"p"), "i", allocation, 4, 0.0, 0.0, rank_count=4)
    node.worlds = {"w": 3}
    assert gangs.worlds_of(node, terms.read("ranks=2 step")) == {world: 4}
    assert gangs.worlds_of(node, terms.read("ranks=2")) == {"w": 3}


def test_a_step_is_known_by_the_grant_of_its_leader() -> None:
    """On all of its nodes, and not by the attempt: one that was not charged has the same number again."""
    tokens = []
    for grant, leader in ((71, 0), (72, 71), (90, 0)):
        gang = m.Gang("", 1, 2, leader)
        item = m.Item(grant, 1, 1, 0, 0, 1, 1, 1, "f", 0.0, b"", b"", gang=gang)
        held = HeldGrant(item, bytearray(1), bytearray(1), 1)
        tokens.append(placing.token(placing.Placement(held, Piece(held, 0, 1), terms.read("step"), [])))
    assert tokens == ["71", "71", "90"]


def test_what_srun_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of the host file for each rank, and nothing of the step that we are in but where the cluster is."""
    inherited = {
        "SLURM_JOB_ID": "71", "SLURM_NTASKS": "6", "SLURM_CPU_BIND": "x", "SLURM_CONF": "/c", "PYFI_SLURM_MPI": "pmix",
        "SLURMD_NODENAME": "n1",
    }  # fmt: skip
    for name, value in inherited.items():
        monkeypatch.setenv(name, value)
    seats = [("n1", [[0], [1], [2]], []), ("n2", [[0]], [])]
    command, variables, number = step._launcher(seats, str(tmp_path))
    assert number == "SLURM_PROCID"
    assert command[0] == "srun"
    for option in ("--jobid=71", "--overlap", "--mpi=pmix", "--nodes=2", "--ntasks=4", "--distribution=arbitrary"):
        assert option in command
    assert Path(variables["SLURM_HOSTFILE"]).read_text() == "n1\nn1\nn1\nn2\n"
    assert {name for name in variables if name.startswith("SLURM")} == {"SLURM_CONF", "SLURM_HOSTFILE"}


def test_without_a_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank needs none; several are an error in plain words."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("PYFI_MPIEXEC", raising=False)
    assert step._launcher([("", [[3]], [])], str(tmp_path))[0] == []
    with pytest.raises(RuntimeError, match="neither srun nor mpiexec"):
        step._launcher([("", [[3], [4]], [])], str(tmp_path))


def test_what_srun_refuses_is_told_from_programs_that_fail() -> None:
    """Only where nothing was started."""
    busy = (
        "srun: Job 71 step creation temporarily disabled, retrying (Requested nodes are busy)\n"
        "srun: error: Unable to create step for job 71: Requested nodes are busy\n"
    )
    assert "Unable to create step" in step._refused(busy)
    assert not step._refused("srun: error: n1: task 0: Exited with exit code 3\n")
    assert not step._refused("no such case\nsrun: error: n1: tasks 0-1: Exited with exit code 3\n")
    assert not step._refused("")


def test_how_a_program_ended_in_words() -> None:
    """Its exit code or signal, and the end of standard error."""
    assert step.Finished(["a", "b"], 2, "", "").story() == "exit code 2: a b"
    assert step.Finished(["a"], -9, "", "x\ny\n").story() == "killed by signal 9: y\nstandard error ended with:\nx\ny"
    with pytest.raises(RuntimeError, match="exit code 1: y"):
        step.Finished(["a"], 1, "", "y").check_returncode()
