"""What we rely on in Slurm and MPI, and our batch script's whole life, on a real cluster of four nodes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import Cluster, missing, remove_remains

from pyfi_hpc.adapters import slurm
from pyfi_hpc.adapters.slurm import AllocationRequest
from pyfi_hpc.errors import SlurmRefused

pytestmark = pytest.mark.slurm

#: an MPI rank that says who it is, then goes on until the file `stop` is there; survivors then meet
_RANK = """
import os, sys, time
from mpi4py import MPI
world = MPI.COMM_WORLD
print("rank", world.rank, "of", world.size, "on", MPI.Get_processor_name(), flush=True)
while not os.path.exists("stop"):
    time.sleep(0.05)
alive = [int(n) for n in open("stop").read().split()]
part = world.Create_group(world.group.Incl(alive))
print("sum", part.allreduce(world.rank), flush=True)
part.Free()
os._exit(0)  # MPI_Finalize would wait for the dead
"""

#: stands for our hosts until they are there: says what it is and hears, and never ends by itself
_HOST = f"""#!{sys.executable}
import os, signal, sys

def hear(number, frame):
    print(name, "heard", signal.Signals(number).name, flush=True)
    sys.exit()

env = os.environ
name = sys.argv[2].split(".")[-1] + " " + env["SLURM_PROCID"]
signal.signal(signal.SIGUSR1, hear)
signal.signal(signal.SIGTERM, hear)
print(
    name, "of", env["SLURM_NTASKS"], "on", env["SLURMD_NODENAME"] + ",", env.get("PYFI_SLURM_RANKS"),
    "ranks a node, ends", env.get("SLURM_JOB_END_TIME"), "GPUs", env.get("CUDA_VISIBLE_DEVICES"), flush=True,
)
while True:
    signal.pause()
"""


@pytest.fixture
def login(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process as on a login node: a fresh folder of the cluster, with the stand-in for our hosts."""
    folder = cluster.shared / f"login{time.monotonic_ns()}"
    folder.mkdir()
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    (folder / "host").write_text(_HOST)
    (folder / "host").chmod(0o755)
    return folder


def _wait_for(file: Path, pattern: str, count: int = 1, timeout: float = 60) -> list[str]:
    """The lines of a job's output that match, once there are so many."""
    deadline = time.monotonic() + timeout
    while True:
        text = file.read_text() if file.exists() else ""
        found = [line for line in text.splitlines() if re.search(pattern, line)]
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, f"{len(found)} of {count} lines match {pattern!r} in:\n{text}"
        time.sleep(0.05)


def _ranks(cluster: Cluster, node: str, text: str = "hosts.rank") -> list[int]:
    """The processes of ranks on a node, without the srun that started them."""
    return [
        pid for pid in cluster.node_pids(node, text) if "srun" not in Path(f"/proc/{pid}/comm").read_text()
    ]


def test_nodes_are_machines_of_their_own(cluster: Cluster) -> None:
    """Looks around on two nodes: own name, own /tmp, each other and this machine by name, the repository."""
    first, second = cluster.nodes[:2]
    assert cluster.run_on(first, ["hostname"]).strip() == first
    cluster.run_on(first, ["touch", "/tmp/mark"])
    assert "mark" not in cluster.run_on(second, ["ls", "/tmp"])
    assert not Path("/tmp/mark").exists()
    for name in (*cluster.nodes, cluster.head):
        assert cluster.run_on(second, ["getent", "hosts", name])
        assert cluster.run(["getent", "hosts", name]).stdout
    assert cluster.run_on(second, ["ls", str(Path(__file__).parent)])
    command = "import socket; socket.create_connection(('{}', {}), 5).close()"
    with socket.create_server((cluster.host_address, 0)) as server:
        text = command.format(cluster.host_address, server.getsockname()[1])
        cluster.run_on(first, [sys.executable, "-c", text])


def test_sbatch_runs_a_small_script(cluster: Cluster) -> None:
    """Submits a script of one line on two nodes; it ends well and its output is in the shared folder."""
    job = cluster.sbatch("#!/bin/bash\nsrun -N2 -n2 hostname\n", "-N2")
    assert cluster.wait_job(job, "COMPLETED", "FAILED") == "COMPLETED"
    assert sorted((cluster.shared / f"slurm-{job}.out").read_text().split()) == cluster.nodes[:2]


def test_mpi_ranks_survive_a_rank_and_a_node(cluster: Cluster, login: Path) -> None:
    """16 ranks on 4 nodes; one is killed and one node set DOWN; the other 11 meet in a group of their own."""
    (login / "rank.py").write_text(_RANK)
    script = (
        "#!/bin/bash\n#SBATCH --no-kill --nodes=4 --ntasks-per-node=4 --output=out\n"
        f"srun --mpi=pmi2 --no-kill --kill-on-bad-exit=0 --wait=0 {sys.executable} rank.py\n"
    )
    job = cluster.sbatch(script, f"--chdir={login}")
    started = _wait_for(login / "out", r"^rank \d+ of 16", 16, timeout=60)
    assert sorted({line.split()[-1] for line in started}) == cluster.nodes
    victim = next(int(line.split()[1]) for line in started if line.endswith(cluster.nodes[1]))
    for pid in _ranks(cluster, cluster.nodes[1], "rank.py"):
        if f"SLURM_PROCID={victim}\0" in Path(f"/proc/{pid}/environ").read_text():
            os.kill(pid, signal.SIGKILL)
    cluster.node_down(cluster.nodes[3])
    lost = {victim} | {int(line.split()[1]) for line in started if line.endswith(cluster.nodes[3])}
    deadline = time.monotonic() + 15
    while _ranks(cluster, cluster.nodes[3], "rank.py") and time.monotonic() < deadline:
        time.sleep(0.05)
    alive = sorted(set(range(16)) - lost)
    assert len(alive) == 11
    (login / "stop.new").write_text(" ".join(map(str, alive)))
    (login / "stop.new").rename(login / "stop")
    assert set(_wait_for(login / "out", "^sum", 11)) == {f"sum {sum(alive)}"}
    cluster.wait_job(job, "COMPLETED", "FAILED")


def test_allocation_lives_through_losses_and_drains(cluster: Cluster, login: Path) -> None:
    """Our script with stand-ins: a rank killed, a node DOWN, a broken rank step, USR1 as before the walltime."""
    request = AllocationRequest(
        nodes=4, ntasks_per_node=4, time="3", drain_s=30, python=str(login / "host"), home=login
    )
    job = slurm.submit(request).slurm_job_id
    assert job is not None
    out = login / f"pyfi-{job}.out"
    assert "4 ranks a node, ends 1" in _wait_for(out, r"^agent \d of 4", 4)[0]
    _wait_for(out, r"^rank \d+ of 16", 16)
    entry = slurm.queue([job, 999])[job]
    assert (entry.state, entry.nodes) == ("RUNNING", tuple(cluster.nodes))
    assert 0 < (slurm.time_left(job) or 0) <= 180

    os.kill(_ranks(cluster, cluster.nodes[2])[0], signal.SIGKILL)
    cluster.node_down(cluster.nodes[3])
    _wait_for(out, f"Node failure on {cluster.nodes[3]}")
    assert [len(_ranks(cluster, node)) for node in cluster.nodes[:3]] == [4, 4, 3]

    for node in cluster.nodes[:3]:
        for pid in _ranks(cluster, node):
            os.kill(pid, signal.SIGKILL)
    _wait_for(out, r"^rank \d+ of 12", 12)  # a new step on the three nodes that are left
    assert all(len(_ranks(cluster, node, "hosts.agent")) >= 1 for node in cluster.nodes[:3])

    cluster.run(["scancel", "--batch", "--signal=USR1", str(job)])
    assert len(_wait_for(out, r"^agent \d heard SIGUSR1", 3)) == 3
    assert cluster.wait_job(job, "COMPLETED", "FAILED", "TIMEOUT") == "COMPLETED"


def test_broker_in_the_job(cluster: Cluster, login: Path) -> None:
    """Our script with the broker inside: started again when killed, and told to end after the agents."""
    job = slurm.submit(
        AllocationRequest(nodes=2, time="5", broker="job", python=str(login / "host"), home=login)
    ).slurm_job_id
    assert job is not None
    out = login / f"pyfi-{job}.out"
    _wait_for(out, "^agent 1 of 2")
    _wait_for(out, "^broker")
    (broker,) = cluster.node_pids(cluster.nodes[0], "hosts.broker")
    os.kill(broker, signal.SIGKILL)
    _wait_for(out, "^broker .* ranks a node", 2)
    cluster.run(["scancel", "--batch", "--signal=USR1", str(job)])
    _wait_for(out, r"^agent \d heard SIGUSR1", 2)
    _wait_for(out, "^broker.*heard SIGTERM")
    assert cluster.wait_job(job, "COMPLETED", "FAILED") == "COMPLETED"


def test_rank_step_that_cannot_start_ends_the_job(cluster: Cluster, login: Path) -> None:
    """An MPI plugin that the site lacks: the output says so, the agents are ended and the job fails."""
    request = AllocationRequest(nodes=1, time="5", mpi="nosuch", python=str(login / "host"), home=login)
    job = slurm.submit(request).slurm_job_id
    assert job is not None
    out = login / f"pyfi-{job}.out"
    _wait_for(out, "giving up", timeout=40)
    assert cluster.wait_job(job, "COMPLETED", "FAILED") == "FAILED"
    assert _wait_for(out, "nosuch")


def test_shipped_gpu_script(cluster: Cluster, login: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch slurm/gpu.sbatch with fewer cores: the command line wins, and every process sees the GPUs."""
    monkeypatch.setenv("PYFI_PYTHON", str(login / "host"))
    script = (Path(__file__).parents[2] / "slurm" / "gpu.sbatch").read_text()
    job = cluster.sbatch(script, f"--chdir={login}", "--cpus-per-task=1", "--ntasks-per-node=2")
    out = login / f"pyfi-{job}.out"
    for line in (*_wait_for(out, "^rank . of 2", 2), *_wait_for(out, "^agent 0 of 1")):
        assert line.endswith("GPUs 0,1,2,3")  # a rank takes its own by its local rank


def test_shipped_script_by_hand(cluster: Cluster, login: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch slurm/cpu.sbatch as a person types it: paths from PYFI_HOME and PYFI_PYTHON; then scancel."""
    monkeypatch.setenv("PYFI_PYTHON", str(login / "host"))
    monkeypatch.setenv("PYFI_HOME", str(login / "home"))
    script = Path(__file__).parents[2] / "slurm" / "cpu.sbatch"
    done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, timeout=20, check=True)
    job = int(done.stdout.split()[-1])
    out = login / f"pyfi-{job}.out"
    _wait_for(out, "^agent . of 2", 2)
    _wait_for(out, "^rank . of 8", 8)
    assert cluster.node_pids(cluster.nodes[0], f"--home {login / 'home'} --slurm")
    slurm.cancel(job)
    assert cluster.wait_job(job, "CANCELLED") == "CANCELLED"
    assert slurm.time_left(job) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"partition": "nosuch"}, "Invalid partition name specified"),
        ({"time": "soon"}, "Invalid --time specification"),
        ({"extra": ("--nosuch",)}, "unrecognized option '--nosuch'"),
    ],
)
def test_bad_option_shows_slurms_words(login: Path, options: dict[str, object], words: str) -> None:
    """Real sbatch refuses bad options; its own words are in our error, in a dry run too."""
    for dry_run in (False, True):
        with pytest.raises(SlurmRefused, match=re.escape(words)):
            slurm.submit(AllocationRequest(**options), dry_run=dry_run)  # type: ignore[arg-type]


def test_dry_run_submits_nothing(cluster: Cluster, login: Path) -> None:
    """A dry run tells where the job would start, and the queue stays empty."""
    answer = slurm.submit(AllocationRequest(nodes=4, ntasks_per_node=4), dry_run=True)
    assert "to start at" in answer.words
    assert answer.slurm_job_id is None
    assert cluster.run(["squeue", "-h"]).stdout == ""


def test_killed_slurmd_leaves_the_rank_alive(cluster: Cluster, login: Path) -> None:
    """SIGKILL of a slurmd: its rank lives on unseen by Slurm, and the node comes back with a new slurmd."""
    job = cluster.sbatch("#!/bin/bash\nsrun sleep 300\n", "-N1", f"-w{cluster.nodes[2]}", "--no-requeue")
    cluster.wait_job(job, "RUNNING")
    deadline = time.monotonic() + 10
    while not (sleepers := _ranks(cluster, cluster.nodes[2], "sleep 300")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    cluster.kill_slurmd(cluster.nodes[2])
    time.sleep(0.5)
    assert _ranks(cluster, cluster.nodes[2], "sleep 300") == sleepers
    cluster.node_resume(cluster.nodes[2])


def lives(pid: str) -> bool:
    """Whether it is there and no zombie that only waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_cluster_of_a_killed_process_leaves_nothing() -> None:
    """Kills a process that has a cluster: its machines die with it, the next start removes the rest."""
    if lacks := missing():
        pytest.skip("a Slurm cluster needs " + ", ".join(lacks))
    code = (
        "from slurm_cluster import Cluster\n"
        "with Cluster(nodes=1) as c:\n"
        "    print(c.tag, *(c.node_pids(n)[0] for n in (c.head, *c.nodes)), flush=True); input()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert owner.stdin
    assert owner.stdout
    tag, *inits = owner.stdout.readline().split()
    owner.kill()
    owner.wait(10)
    owner.stdin.close()
    owner.stdout.close()
    deadline = time.monotonic() + 30
    while any(lives(pid) for pid in inits) or os.path.exists(f"/sys/class/net/{tag}0"):
        assert time.monotonic() < deadline, "machines outlive the process that started them"
        time.sleep(0.05)
    remove_remains()
    assert tag not in Path("/etc/hosts").read_text()
    assert not list(Path("/var/tmp").glob(f"*{tag}*"))
