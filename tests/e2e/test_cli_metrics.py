"""`pyfi metrics` on a real instance: what Prometheus would read, and who may."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError

from prometheus_client.parser import text_string_to_metric_families
from pyfi_command import Pyfi

SAMPLE = "pyfi.processors.sample"


def values(text: str) -> dict[str, float]:
    """Samples by name, and node where there is one."""
    return {
        sample.name + (f" {sample.labels['node']}" if "node" in sample.labels else ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@contextmanager
def served(instance: Pyfi) -> Iterator[tuple[str, str]]:
    """The address and the token of a server that runs meanwhile."""
    command = [sys.executable, "-m", "pyfi_hpc.cli.main", "metrics", "--serve", "127.0.0.1:0"]
    with subprocess.Popen(command, env=instance.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = re.fullmatch(r"metrics at (http://\S+), token in (\S+)\n", process.stdout.readline())
            assert found
            with open(found[2]) as file:
                yield found[1], file.read()
        finally:
            process.terminate()


def asked(address: str, authorization: str) -> tuple[int, str]:
    """Status and text of what a server answers."""
    request = urllib.request.Request(address, headers={"Authorization": authorization})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, ""


def test_counts_follow_what_happens(instance: Pyfi) -> None:
    """A map of twenty: accepted and settled grow by as much; both ranks are there."""
    before = values(instance("metrics").stdout)
    instance("map", f"{SAMPLE}.square", "1-20", "--wait")
    after = values(instance("metrics").stdout)
    for name in ("pyfi_tasks_accepted_total", "pyfi_tasks_settled_total"):
        assert after[name] - before[name] == 20
    assert (after["pyfi_up"], after["pyfi_ledger_up"], after["pyfi_tasks_ready"]) == (1, 1, 0)
    assert [value for name, value in after.items() if name.startswith("pyfi_node_ranks ")] == [2]
    assert after["pyfi_ledger_bytes"] > 1e6


def test_only_the_token_opens_it(instance: Pyfi) -> None:
    """Over HTTP: 401 without it and with a wrong one; the counts with it."""
    with served(instance) as (address, token):
        for wrong in ("", "Bearer ", f"Bearer {token}x", f"Basic {token}", "Bearer \xff"):
            assert asked(address, wrong)[0] == 401
        status, text = asked(address, f"Bearer {token}")
        assert status == 200 and values(text)["pyfi_up"] == 1


def test_without_a_broker(instance: Pyfi) -> None:
    """Printing fails as every command does; a server says `pyfi_up 0` and goes on."""
    nowhere = Pyfi.__new__(Pyfi)
    nowhere.home, nowhere.environment = instance.home, {**instance.environment, "PYFI_INSTANCE": "nowhere"}
    nowhere("metrics", code=4)
    (instance.home / "home" / "nowhere").mkdir(mode=0o700)
    with served(nowhere) as (address, token):
        assert values(asked(address, f"Bearer {token}")[1]) == {"pyfi_up": 0}
    assert "no address to serve at" in instance("metrics", "--serve", "here", code=2).stderr
