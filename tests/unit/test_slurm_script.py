"""The Slurm edge without Slurm: the script's text, the parsers, and fake commands on PATH."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pyfi_hpc.adapters import slurm
from pyfi_hpc.adapters.slurm import AllocationRequest, render_sbatch
from pyfi_hpc.errors import SlurmBusy, SlurmMissing, SlurmRefused, UsageError
from pyfi_hpc.hosts import allocation
from pyfi_hpc.settings import load

#: puts a command of this name and bash text first on PATH; returns its folder
Fake = Callable[[str, str], Path]
_SLURM = Path(__file__).parents[2] / "slurm"
_COMMON = {
    "cpu.sbatch": AllocationRequest(nodes=2, ntasks_per_node=4, time="1:00:00"),
    "gpu.sbatch": AllocationRequest(
        nodes=1, ntasks_per_node=4, gpus_per_node=4, cpus_per_task=8, time="1:00:00"
    ),
    "broker-in-job.sbatch": AllocationRequest(nodes=2, ntasks_per_node=4, time="1:00:00", broker="job"),
}


@pytest.mark.parametrize("name", _COMMON)
def test_shipped_script_is_what_render_prints(name: str) -> None:
    """The files in slurm/ equal the rendered text; PYFI_TEST_BLESS=1 writes them anew."""
    if os.environ.get("PYFI_TEST_BLESS"):
        (_SLURM / name).write_text(render_sbatch(_COMMON[name]))
    assert (_SLURM / name).read_text() == render_sbatch(_COMMON[name])
    assert {file.name for file in _SLURM.glob("*.sbatch")} == set(_COMMON)


@pytest.mark.parametrize("name", _COMMON)
def test_script_is_valid_bash(name: str) -> None:
    """bash parses each script without running it."""
    subprocess.run(["bash", "-n", str(_SLURM / name)], check=True, timeout=10)


def test_every_option_reaches_the_script() -> None:
    """One request with all fields: each shows up once, quoted where it has a blank."""
    text = render_sbatch(
        AllocationRequest(
            instance="mine",
            nodes=3,
            ntasks_per_node=8,
            time="2-0",
            partition="debug",
            account="my project",
            qos="low",
            constraint="a&b",
            reservation="r1",
            extra=("--mem=0", "--exclusive"),
            modules=("python/3.12",),
            drain_s=120,
            mpi="cray_shasta",
            home=Path("/a b/home"),
            python="/opt/py/bin/python",
            output="/logs/%j.out",
        )  # fmt: skip
    )
    for line in (
        "#!/bin/bash -l", "#SBATCH --job-name=pyfi-mine", "#SBATCH --nodes=3", "#SBATCH --ntasks-per-node=8",
        "#SBATCH --time=2-0", "#SBATCH --partition=debug", "#SBATCH --account='my project'",
        "#SBATCH --qos=low", "#SBATCH --constraint='a&b'", "#SBATCH --reservation=r1",
        "#SBATCH --mem=0", "#SBATCH --exclusive",
        "#SBATCH --signal=B:USR1@120", "#SBATCH --output=/logs/%j.out", "module load python/3.12",
        "instance=mine", "home='/a b/home'", "python=/opt/py/bin/python",
    ):  # fmt: skip
        assert text.splitlines().count(line) == 1, line
    assert "--mpi=cray_shasta" in text


def test_script_takes_no_command_from_a_value() -> None:
    """Values with shell characters are run through bash: they stay values."""
    request = AllocationRequest(home=Path("/tmp/$(touch evil)`id`"), python="py; thon", modules=())
    where = [line for line in render_sbatch(request).splitlines() if line.startswith(("home=", "python="))]
    script = "\n".join(where) + '\nprintf "%s|%s" "$home" "$python"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=10, check=True)
    assert done.stdout == "/tmp/$(touch evil)`id`|py; thon"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (AllocationRequest(nodes=0), "nodes is 0"),
        (AllocationRequest(account="a\n#SBATCH --uid=0"), "account has a line break"),
        (AllocationRequest(extra=("--mem=0\nrm -r x",)), "extra has a line break"),
        (AllocationRequest(extra=("mem=0",)), "not an sbatch option"),
        (AllocationRequest(mpi="pmi2; id"), "not an MPI plugin"),
        (AllocationRequest(extra=("--gpus=4",)), "different numbers of GPUs"),
        (AllocationRequest(extra=("-G4",)), "different numbers of GPUs"),
    ],
)
def test_bad_request_is_refused(request_: AllocationRequest, words: str) -> None:
    """Counts below one, line breaks and non-options raise a UsageError that names the field."""
    with pytest.raises(UsageError, match=words):
        render_sbatch(request_)


@pytest.mark.parametrize(
    ("text", "job"), [("12345\n", 12345), ("77;north\n", 77), ("Welcome to 3 nodes!\n812345\n", 812345)]
)
def test_parse_sbatch(text: str, job: int) -> None:
    """The id is found alone, with a cluster's name, and below a site's greeting."""
    assert slurm.parse_sbatch(text) == job


def test_parse_sbatch_without_id() -> None:
    """An answer without an id is refused and shown."""
    with pytest.raises(SlurmRefused, match="come back tomorrow"):
        slurm.parse_sbatch("come back tomorrow")


def test_parse_squeue() -> None:
    """A running, a pending and an array entry, and a notice: fields, times and node lists."""
    text = (
        "site notice: maintenance | tuesday\n"
        "7|RUNNING|9:58|2026-01-02T03:04:05|n[1-2,4]|pyfi:ab:small|None\n"
        "8|PENDING|UNLIMITED|N/A||(null)|(Nodes required | are DOWN)\n"
        "9_[1-5]|PENDING|1:00|N/A||(null)|None\n"
    )
    running, pending = slurm.parse_squeue(text)
    start, nodes = "2026-01-02T03:04:05", ("n1", "n2", "n4")
    assert running == slurm.QueueEntry(7, "RUNNING", "", nodes, 598.0, start, "pyfi:ab:small")
    assert pending == slurm.QueueEntry(8, "PENDING", "(Nodes required | are DOWN)", (), None, "")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("n1", ("n1",)),
        ("n[08-10],x", ("n08", "n09", "n10", "x")),
        ("r[1-2]c[0,3]", ("r1c0", "r1c3", "r2c0", "r2c3")),
        ("a[1]b-login,c", ("a1b-login", "c")),
    ],
)
def test_expand_nodes(text: str, names: tuple[str, ...]) -> None:
    """Ranges, zero padding, lists and two dimensions expand in Slurm's order."""
    assert slurm.expand_nodes(text) == names


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("59", 59), ("1:00", 60), ("2:00:01", 7201), ("1-0:00:00", 86400), ("NOT_SET", None)],
)
def test_parse_duration(text: str, seconds: float | None) -> None:
    """Slurm's notations of time become seconds; its words become None."""
    assert slurm.parse_duration(text) == seconds


def test_environment() -> None:
    """Variables as the agents' step of a real job has them; and none outside."""
    seen = slurm.environment({
        "SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "1", "SLURM_STEP_ID": "0", "SLURMD_NODENAME": "n2",
        "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS_PER_NODE": "1", "PYFI_SLURM_RANKS": "4",
        "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_CPUS_ON_NODE": "8",
        "SLURM_JOB_END_TIME": "1795200300",
    })  # fmt: skip
    assert seen == slurm.SlurmEnvironment(12, 1, "0", "n2", ("n1", "n2"), 4, 1, 0, 8, 1795200300.0)
    assert slurm.environment({"SLURM_CONF": "/etc/slurm.conf"}) is None


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def put(name: str, text: str) -> Path:
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
        return tmp_path

    return put


def test_submit_hands_over_the_script(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake sbatch keeps what it got: the script, no secret, no variable of an outer job."""
    monkeypatch.setenv("PYFI_LEDGER", "postgresql://me:secret@db/x")
    monkeypatch.setenv("SLURM_NTASKS", "99")
    keep = 'cd "${0%/*}"; cat >in; echo "$@" >args; env >env; echo "5;east"'
    folder = fake("sbatch", keep)
    answer = slurm.submit(_COMMON["cpu.sbatch"])
    assert answer.slurm_job_id == 5
    assert (folder / "in").read_text() == answer.script == render_sbatch(_COMMON["cpu.sbatch"])
    assert (folder / "args").read_text() == "--parsable\n"
    assert "secret" not in (folder / "env").read_text()
    assert "SLURM_NTASKS" not in (folder / "env").read_text()


def test_refusal_has_slurms_own_words(fake: Fake) -> None:
    """A fake sbatch that refuses: its words without the program's name, and the command."""
    fake("sbatch", "echo 'sbatch: error: invalid partition specified: nope' >&2; exit 1")
    with pytest.raises(SlurmRefused) as caught:
        slurm.submit(AllocationRequest(partition="nope"))
    assert str(caught.value).splitlines() == [
        "Slurm refused: invalid partition specified: nope", "  where: sbatch --parsable",
    ]  # fmt: skip


def test_busy_controller_can_be_tried_again(fake: Fake) -> None:
    """A socket timeout between sbatch and the controller is a SlurmBusy, which is transient."""
    fake("squeue", "echo 'slurm_load_jobs error: Socket timed out on send/recv operation' >&2; exit 1")
    with pytest.raises(SlurmBusy) as caught:
        slurm.queue([1])
    assert caught.value.transient


def test_silent_controller_is_given_up(fake: Fake) -> None:
    """A command that never answers is ended after the limit."""
    fake("squeue", "exec sleep 60")
    with pytest.raises(SlurmBusy, match="no answer"):
        slurm.queue([1], limit_s=0.2)


def test_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an empty PATH the error names the program it looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmMissing, match="sbatch"):
        slurm.submit(AllocationRequest())


def test_allocations_of_an_instance(fake: Fake, tmp_path: Path) -> None:
    """Those that were asked for and wait or run, with Slurm's reason; ended ones and another's are left out."""
    settings = load(home=tmp_path / "home", instance="i")
    (settings.instance_dir / "allocations").mkdir(parents=True)
    for job in (7, 8):
        (settings.instance_dir / "allocations" / f"{job}.json").write_text("{}")
    lines = ("7|PENDING|5:00|N/A|||Resources", "8|TIMEOUT|0:00|N/A|||", "9|RUNNING|5:00|N/A|n1||None")
    fake("squeue", "\n".join(f"echo '{line}'" for line in lines))
    (entry,) = allocation.entries(settings)
    assert entry.seen is not None
    assert (entry.note.key, entry.seen.words) == ("7", "PENDING (Resources)")


def test_queue_of_nothing_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ids no command is run: PATH is empty and nothing fails."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.queue([]) == {}
