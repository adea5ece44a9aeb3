"""Slurm as a batch system, by fake commands: what is asked, what is understood, with and without accounting."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyfi_hpc.adapters import batch, slurm
from pyfi_hpc.adapters.slurm_batch import SlurmBatch
from pyfi_hpc.errors import SettingsError, SlurmBusy, UsageError
from pyfi_hpc.hosts import allocation, pools
from pyfi_hpc.model.allocations import AllocationRequest, Note, Pool, mark_of
from pyfi_hpc.settings import Settings, load

Fake = Callable[[str, str], Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Makes a command of this name and bash text, first on PATH; gives the file that its calls are written to."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name: str, text: str) -> Path:
        calls = tmp_path / f"{name}.calls"
        (folder / name).write_text(f'#!/bin/bash\necho "$*" >> {calls}\n{text}\n')
        (folder / name).chmod(0o755)
        return calls

    return make


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(home=tmp_path / "home", instance="i")


def test_status_is_one_command_for_all(fake: Fake) -> None:
    """Jobs that were asked after and jobs with a mark, in one call; others are left out; times become UTC."""
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 3600))
    calls = fake("squeue", f"""cat <<END
7|RUNNING|9:58|2026-01-02T03:04:05|n[1-2]|pyfi:ab:p|None
8|PENDING|10:00|{start}||pyfi:ab:p|Priority
9|FAILED|0:00|N/A|n1|(null)|NonZeroExitCode
10|PENDING|10:00|N/A||(null)|Resources
END""")
    runs, waits, ended = SlurmBatch().status({"7", "9"})
    assert (runs.key, runs.phase, runs.left_s, runs.nodes, runs.mark) == ("7", "runs", 598.0, ("n1", "n2"), "pyfi:ab:p")
    assert (waits.key, waits.words) == ("8", "PENDING (Priority)")
    assert waits.start_at == pytest.approx(time.time() + 3600, abs=5)
    assert (ended.key, ended.phase, ended.words) == ("9", "ended", "FAILED (NonZeroExitCode)")
    assert len(calls.read_text().splitlines()) == 1


def test_a_cluster_is_named_to_each_command(fake: Fake) -> None:
    """--cluster reaches sbatch, squeue, scancel and sacct; keys carry it, and agents are told it."""
    west = batch.system("slurm@west")
    calls = [
        fake("sbatch", "cat >/dev/null; echo '41;west'"),
        fake("squeue", "echo CLUSTER: west; echo '41|RUNNING|9:58|N/A|n1|pyfi:ab:p|None'"),
        fake("scancel", ""), fake("sacct", "echo '41|COMPLETED|0:0|None'"),
    ]  # fmt: skip
    request = AllocationRequest(cluster="west", mark="pyfi:ab:p")
    assert west.submit(request) == "41@west"
    assert [job.key for job in west.status((), 5.0)] == ["41@west"]
    west.cancel("41@west", only_waiting=True)
    assert west.ends(["41@west"]) == {"41@west": "COMPLETED, exit code 0:0"}
    assert all("--clusters=west" in file.read_text() for file in calls)
    assert calls[2].read_text().split() == ["--quiet", "--clusters=west", "--state=PENDING", "41"]
    script = slurm.render_sbatch(request)
    assert 'export PYFI_ALLOCATION="$SLURM_JOB_ID"@west\n' in script
    assert "#SBATCH --comment=pyfi:ab:p\n" in script


def test_how_jobs_ended_by_accounting(fake: Fake) -> None:
    """sacct's words, for all jobs in one call."""
    calls = fake("sacct", "echo '7|NODE_FAIL|1:0|None'; echo '8|CANCELLED by 0|0:15|None'; echo '9|FAILED|2:0|Bad'")
    assert SlurmBatch().ends(["7", "8", "9"]) == {
        "7": "NODE_FAIL, exit code 1:0", "8": "CANCELLED by 0, exit code 0:15", "9": "FAILED, exit code 2:0 (Bad)",
    }  # fmt: skip
    assert "--jobs=7,8,9" in calls.read_text()


def test_a_site_without_accounting_is_asked_once(fake: Fake) -> None:
    """"Slurm accounting storage is disabled": nothing is known, no error, and it is not asked again."""
    calls = fake("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    system = SlurmBatch()
    assert system.ends(["7"]) == {} and system.ends(["8"]) == {}
    assert len(calls.read_text().splitlines()) == 1


def test_accounting_that_is_only_slow_is_asked_again(fake: Fake) -> None:
    fake("sacct", "echo 'sacct: error: Unable to contact slurmdbd' >&2; exit 1")
    with pytest.raises(SlurmBusy):
        SlurmBatch().ends(["7"])


@pytest.mark.parametrize("name", ["lsf", "pbs@west", ""])
def test_unknown_systems_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no batch system"):
        batch.system(name)


def test_a_pool_is_stored_and_read(settings: Settings) -> None:
    """All fields survive; a damaged file names itself; a name that is a path is refused."""
    request = AllocationRequest(nodes=2, home=Path("/a/home"), extra=("--exclusive",), modules=("x",), time="10")
    pool = Pool(name="p", request=request, min=1, max=3, idle_s=9.5, added=12.0)
    pools.store(settings, pool)
    assert pools.stored(settings) == {"p": pool}
    (settings.instance_dir / "pools" / "p.json").write_text("{")
    with pytest.raises(SettingsError, match="cannot be read"):
        pools.stored(settings)
    with pytest.raises(UsageError, match="cannot name"):
        pools.find(settings, "../p")


def test_a_log_keeps_its_newer_half(settings: Settings) -> None:
    """A pool's log is bounded; the last line is always there."""
    pools.store(settings, Pool(name="p", request=AllocationRequest()))
    for number in range(4000):
        pools.write_log(settings, "p", f"{number} " + "x" * 100)
    lines = pools.log(settings, "p")
    assert lines[-1].startswith("3999 ") and 1000 < len(lines) < 3000


def test_the_end_also_finds_what_nobody_noted(fake: Fake, settings: Settings) -> None:
    """`pyfi down` with a pool: a job with its mark that was never noted is ended, a stranger's is not."""
    pools.store(settings, Pool(name="p", request=AllocationRequest()))
    mine, other = mark_of(pools.tag(settings), "p"), mark_of("0123456789ab", "p")
    calls = fake("scancel", "")
    fake("squeue", f"""grep -q 50 {calls} 2>/dev/null && exit
echo '50|PENDING|10:00|N/A||{mine}|Priority'; echo '51|PENDING|10:00|N/A||{other}|Priority'""")
    assert allocation.end(settings, 5.0) == ["50"]
    assert calls.read_text().split() == ["--quiet", "50"]


def test_why_in_slurms_words_and_ours(fake: Fake, settings: Settings) -> None:
    """A noted allocation: who asked for it, Slurm's reason, what it means, when it starts; others are not known."""
    allocation.note(settings, Note("8", pool="p", at=time.time() - 60))
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 3600))
    fake("squeue", f"echo '8|PENDING|10:00|{start}||(null)|QOSMaxJobsPerUserLimit'")
    told = allocation.why(settings, "8")
    assert told is not None
    assert told["because"] == [
        "the pool p has asked for it 60 s ago",
        "Slurm says: PENDING (QOSMaxJobsPerUserLimit), which means: you run as many jobs of this QOS as you may",
        f"Slurm expects its start at {start.replace('T', ' ')}",
    ]
    fake("squeue", "exit 1")
    told = allocation.why(settings, "8")
    assert told is not None and "Slurm does not tell: Slurm refused" in told["because"][-1]
    assert allocation.why(settings, "9") is None
