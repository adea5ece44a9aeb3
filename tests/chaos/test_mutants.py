"""The suite must be able to fail: builds without the fence, with the acknowledgement first, without keys are caught.

Each scenario is run with the product, where the rules hold, and with a mutant (``mutants/``, or a function of the
ledger replaced), where they must not.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from instance_fixture import Instance, gone, until
from invariants import check
from ledger_fixture import administer
from ledger_proxy import Proxy
from test_clients import jobs_of, line, said, submission

from pyfi_hpc.adapters.dealer import BROKER
from pyfi_hpc.ledger.embedded import EmbeddedServer
from pyfi_hpc.model import messages as m

_MUTANTS = Path(__file__).parent / "mutants"

#: as in functions.sql, without the lock and the comparison
_NO_FENCE = """
    CREATE OR REPLACE FUNCTION ledger_begin(
        p_class int, p_shard int, p_epoch bigint, p_seq bigint,
        p_jobs int, p_batches int, p_outcomes int, p_attempts int, p_lo bigint[], p_hi bigint[]
    ) RETURNS void LANGUAGE sql AS $$
        INSERT INTO ledger_commit (shard, epoch, seq, jobs, batches, outcomes, attempts, closed)
        VALUES (p_shard, p_epoch, p_seq, p_jobs, p_batches, p_outcomes, p_attempts, cardinality(p_lo));
        INSERT INTO closed_range SELECT * FROM unnest(p_lo, p_hi);
    $$"""


@pytest.fixture
def behind(
    instances: Callable[..., Instance], new_ledger: Callable[[], str], ledger_server: EmbeddedServer
) -> Iterator[tuple[Proxy, Instance]]:
    """An instance without ranks, not started, whose broker reaches its ledger through a proxy."""
    proxy = Proxy(new_ledger(), ledger_server.run)
    box = instances(ledger=proxy.url)
    yield proxy, box
    box.stop()
    proxy.close()


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """What is started inside is that mutant; an empty name is the product."""
    with pytest.MonkeyPatch.context() as patch:
        if name:
            patch.setenv("PYTHONPATH", str(_MUTANTS / name), prepend=os.pathsep)
        yield


@pytest.mark.parametrize("mutant", ["", "ack_first"])
def test_what_is_acknowledged_is_kept(behind: tuple[Proxy, Instance], mutant: str) -> None:
    """The broker dies as the commit of a submission leaves it: whoever was told "accepted" finds the job."""
    proxy, box = behind
    with mutated(mutant):
        box.start_broker()
    box.deploy(box.trouble())
    broker, key = box.pid("broker"), os.urandom(16)

    heard = threading.Event()

    def strike() -> None:
        heard.wait(2.0)  # what was sent before the commit arrives now
        os.kill(broker, signal.SIGKILL)

    proxy.struck = strike
    told = []
    with line(box) as port:
        proxy.arm(b"EXECUTE pyfi_job", "request")
        while not port.send(BROKER, [submission(key, 0, 3)]):
            pass
        deadline = time.monotonic() + 10
        while not gone(broker):
            assert time.monotonic() < deadline, "the commit did not come by"
            select.select([port.waitable], [], [], 0.02)
            told += [event.message for event in port.receive() if isinstance(event.message, m.Accepted)]
            if told:
                heard.set()
    box.start_broker()
    kept = jobs_of(box, key)
    if mutant:
        assert told and not kept, "this mutant must lose what it acknowledged"
    else:
        assert [message.job for message in told] == kept == []


@pytest.mark.parametrize("mutant", ["", "no_keys"])
def test_a_key_is_one_job(behind: tuple[Proxy, Instance], mutant: str) -> None:
    """A submission is sent twice, as after a lost answer: one job; without keys the rules see two."""
    _, box = behind
    with mutated(mutant):
        box.start_broker()
    box.start_agent(1)
    box.deploy(box.trouble())
    if mutant:
        administer(box.settings.ledger, "ALTER TABLE job DROP CONSTRAINT job_owner_key_key")
    message = submission(os.urandom(16), 0, 3)
    with line(box) as port:
        said(port, message, m.Accepted)
        message.resend = True
        said(port, message, m.Accepted)
    if mutant:
        with pytest.raises(AssertionError, match="I2: a key opened two jobs"):
            check(box)
    else:
        check(box)


@pytest.mark.parametrize("fenced", [True, False])
def test_no_commit_of_an_epoch_that_is_over(behind: tuple[Proxy, Instance], fenced: bool) -> None:
    """A submission's group is held up on its way until the next broker has committed: refused, or written unfenced."""
    proxy, box = behind
    box.start_broker()
    box.start_agent(1)
    box.deploy(box.trouble())
    running = box.executor().submit("trouble.wait", 8.0, "ran on")
    until(lambda: running.id and administer(box.settings.ledger, "SELECT 1 FROM job"), 10.0, "it is accepted")
    key = os.urandom(16)
    with line(box) as port:
        proxy.arm(b"EXECUTE pyfi_job", "late")
        while not port.send(BROKER, [submission(key, 0, 3)]):
            pass
        until(lambda: proxy.fired, 10.0, "the submission's group is on its way")
        box.kill(box.pid("broker"))
    box.start_broker()
    if not fenced:  # a start puts the functions in order
        administer(box.settings.ledger, _NO_FENCE)
    assert running.result(40) == "ran on"  # with a commit of the new epoch
    proxy.let_go()
    until(lambda: proxy.answers, 10.0, "the server has answered the late group")
    refused = b"PF001" in b"".join(proxy.answers)
    assert refused == fenced, proxy.answers
    if fenced:
        assert jobs_of(box, key) == []
        check(box)
    else:
        with pytest.raises(AssertionError, match="I6"):
            check(box, limit_s=1.0)
