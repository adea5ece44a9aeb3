"""What must hold after every fault, read from the ledger, the processes and what clients were told.

The numbers are those of the fault matrix: I1 and I2 keys, I3 ranges, I4 all final, I5 results for ever, I6 epochs, I7
attempts, I8 memory, I10 times (each test prints its own), I11 secrets; that no process is left is checked when
an instance is stopped (``Instance.down``). At the end of a session the whole ledger is replayed (`check_replay`).
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import psutil
from instance_fixture import Instance
from ledger_fixture import administer
from slurm_site import Site

from pyfi_hpc import attach
from pyfi_hpc.adapters import access as access_file
from pyfi_hpc.ledger import embedded
from pyfi_hpc.ledger.recorded import read_ledger
from pyfi_hpc.sim.commits import compare
from pyfi_hpc.sim.recording import replay

#: a broker that served thousands of short tasks has this much at most, bytes
_BROKER_BYTES = 400 << 20

_RULES = {
    "I2: a key opened two jobs": "SELECT owner, key, count(*) FROM job GROUP BY 1, 2 HAVING count(*) > 1",
    "I1: a job's batches are not 0, 1, 2, ...": """
        SELECT job, array_agg(number ORDER BY number) FROM task_batch
        GROUP BY job HAVING count(*) <> max(number) + 1 OR min(number) <> 0""",
    "I1: a job's tasks are not numbered without gaps": """
        SELECT job FROM (
            SELECT job, first, lag(first + count, 1, 0::bigint) OVER (PARTITION BY job ORDER BY number) AS due
            FROM task_batch) AS b WHERE first <> due""",
    "I3: two outcomes of one task": """
        SELECT job, batch, lo FROM (
            SELECT job, batch, lo, lag(lo + count, 1, 0) OVER (PARTITION BY job, batch ORDER BY lo) AS free
            FROM outcome_batch) AS o WHERE lo < free""",
    "I3: an outcome outside of its batch": """
        SELECT o.job, o.batch, o.lo FROM outcome_batch o LEFT JOIN task_batch b USING (job, batch)
        WHERE b.batch IS NULL OR o.lo + o.count > b.count""",
    "I4: a task that is not final": "SELECT id FROM task WHERE state IN ('PENDING', 'RUNNING') LIMIT 5",
    "I6: a commit of an epoch that was over": """
        SELECT a.epoch, b.epoch FROM (SELECT epoch, max(at) AS last FROM ledger_commit GROUP BY 1) a
        JOIN (SELECT epoch, min(at) AS first FROM ledger_commit GROUP BY 1) b ON b.epoch > a.epoch
        WHERE b.first < a.last""",
    "I7: an outcome of a grant of the future": """
        SELECT job, batch, lo FROM outcome_batch WHERE epoch > (SELECT max(epoch) FROM ledger_epoch)""",
    "I7: an attempt that failed and counts": """
        SELECT o.job, o.batch, a.lo FROM attempt_failed a JOIN outcome_batch o
        ON o.job = a.job AND o.batch = a.batch AND a.lo >= o.lo AND a.lo < o.lo + o.count
        WHERE a.grant_id = o.grant_id AND get_byte(o.states, a.lo - o.lo) = 3""",
}


def check(box: Instance | Site, told: dict[int, list[object]] | None = None, limit_s: float = 30.0) -> None:
    """Wait until all is final, then hold everything against the rules.

    Parameters
    ----------
    told : dict
        Job -> the results that a client has seen, in order; the ledger must say the same (I5).
    limit_s : float
        After the fault is healed all tasks are final within so long (I4).
    """
    url = embedded.connect_url(box.settings)
    final = "I4: a task that is not final"
    deadline = time.monotonic() + limit_s
    while administer(url, _RULES[final]) and time.monotonic() < deadline:
        time.sleep(0.05)
    # all that are broken, not the first: one explains the other
    broken = [f"{rule}: {found[:5]}" for rule, query in _RULES.items() if (found := administer(url, query))]
    assert not broken, "\n".join(broken)
    for job, results in (told or {}).items():
        again = list(attach(job, session=box.session).results(timeout=20))
        assert again == results, f"I5: job {job} changed"
    assert psutil.Process(box.pid("broker")).memory_info().rss < _BROKER_BYTES, "I8"
    no_secrets(box)


def check_replay(box: Instance) -> None:
    """After all faults of a session: a new broker decides the whole ledger again, and decides the same."""
    recorded = read_ledger(embedded.connect_url(box.settings))
    found = replay(recorded.records)["differences"] + compare(recorded)["differences"]
    assert not found, "\n".join(found[:20])


def no_secrets(box: Instance | Site) -> None:
    """I11: no key in arguments, environments or logs."""
    access = access_file.read(box.settings)
    secrets = [access.client_secret, access.agent_secret, (box.settings.instance_dir / "broker.key").read_text()]
    for pid in box.processes():
        for name in ("cmdline", "environ"):
            with suppress(OSError):
                text = Path(f"/proc/{pid}/{name}").read_text(errors="replace")
                assert not any(secret in text for secret in secrets), f"a key is in {name} of process {pid}"
    for file in box.settings.log_dir.glob("*.log"):
        text = file.read_text(errors="replace")
        assert not any(secret in text for secret in secrets), f"a key is in {file}"


class Stopwatch:
    """I10: says how long it took; printed, never asserted tightly."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def tell(self, what: str, goal_s: float) -> float:
        seconds = time.monotonic() - self._begun
        print(f"{what}: {seconds:.1f} s (goal {goal_s:g} s)")
        return seconds
