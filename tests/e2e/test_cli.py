"""The command line on a real instance, as people and their scripts use it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pyfi_command import ROOT, Pyfi

SAMPLE = "pyfi.processors.sample"


def rows(instance: Pyfi, *arguments: str) -> list[dict[str, str]]:
    """A listing as it comes in a pipe."""
    title, *lines = instance(*arguments).stdout.splitlines()
    return [dict(zip(title.split("\t"), line.split("\t"), strict=True)) for line in lines]


def answer(instance: Pyfi, *arguments: str) -> Any:
    """The object that --json prints."""
    found = json.loads(instance(*arguments, "--json").stdout)
    assert found["version"] == 1
    return found


# --- calls --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "data", "printed"),
    [
        ("square", "7", "49\n"),
        ("add", "[3, 4.5]", "7.5\n"),
        ("add", '{"number": 3, "other": 4}', "7\n"),
        ("do_something", "['some data']", "do_something(some data)\n"),
        ("echo", "text", "text\n"),
        ("echo", "[[1, {'a': (2, None)}]]", '[1, {"a": [2, null]}]\n'),
    ],
)
def test_one_call(instance: Pyfi, function: str, data: str, printed: str) -> None:
    """Data is JSON or a literal; text is printed as it is, anything else as JSON."""
    assert instance("task", "run", "--socket", f"{SAMPLE}.{function}", "--data", data).stdout == printed


def test_text_as_json(instance: Pyfi) -> None:
    """-f json quotes text too."""
    assert instance("task", "run", "-s", f"{SAMPLE}.echo", "-d", "a", "-f", "json").stdout == '"a"\n'


def test_the_shell_pipelines_of_the_seed(instance: Pyfi) -> None:
    """Aliases, pipes, text added on the way, and tee into two processors at once."""
    alias = f"""shopt -s expand_aliases
    alias {SAMPLE}.do_something="pyfi task run -s {SAMPLE}.do_something"
    alias {SAMPLE}.do_this="pyfi task run -s {SAMPLE}.do_this"
    """
    line = f'echo "HI THERE!" | {SAMPLE}.do_something | echo "$(cat -) add some text" | {SAMPLE}.do_this'
    assert instance.shell(f"{alias}\n{line}") == "do_this(do_something(HI THERE!) add some text)\n"
    tee = f'echo "HI THERE!" | tee >({SAMPLE}.do_something) >({SAMPLE}.do_this) >/dev/null; wait'
    printed = instance.shell(f"{alias}\n{tee} | cat")
    assert sorted(printed.splitlines()) == ["do_something(HI THERE!)", "do_this(HI THERE!)"]


def test_standard_input_is_passed_whole(instance: Pyfi) -> None:
    """Blank lines and indents stay; only the newline that ends the text is the pipe's."""
    assert instance("task", "run", "-s", f"{SAMPLE}.echo", data="a\n\n  b\n\n").stdout == "a\n\n  b\n\n"


def test_a_failing_step_ends_a_pipeline(instance: Pyfi) -> None:
    """Nothing on standard output, the remote traceback on standard error, exit code 1."""
    done = instance("task", "run", "-s", f"{SAMPLE}.fail", "-d", "boom", code=1)
    assert done.stdout == ""
    assert "raise ValueError(message)" in done.stderr
    assert done.stderr.count("ValueError: boom") == 1
    instance.shell(f"pyfi task run -s {SAMPLE}.fail -d x | pyfi task run -s {SAMPLE}.square", code=1)


def test_unknown_things_are_not_found(instance: Pyfi) -> None:
    """Exit code 3, told as text and as JSON."""
    assert "there is no socket 'nope'" in instance("task", "run", "-s", "nope", "-d", "1", code=3).stderr
    for words in (["wait", "99999"], ["ls", "call", "99999.0"], ["logs", "99999.0"], ["ls", "queue", "nope"]):
        instance(*words, code=3)
    error = json.loads(instance("ls", "queue", "nope", "--json", code=3).stderr)["error"]
    assert error["code"] == "not_found"


# --- jobs ---------------------------------------------------------------------------------------------


def test_a_map_that_waits(instance: Pyfi) -> None:
    """The summary line; the job in the queue's list."""
    line = instance("map", f"{SAMPLE}.square", "1-2000", "--wait").stdout
    found = re.fullmatch(r"map (\d+)  \S+\.square  2000/2000  100%  failed=0  [\d.]+ s  \d+/s\n", line)
    assert found, line
    (job,) = rows(instance, "queue", "-j", found[1])
    assert (job["ST"], job["TASKS"], job["DONE"], job["FAIL"]) == ("CD", "2000", "2000", "0")
    assert answer(instance, "ls", "jobs", "-j", found[1])["jobs"][0]["states"] == {"COMPLETED": 2000}


def test_a_map_that_does_not_wait(instance: Pyfi) -> None:
    """Its id at once; `wait last` gets its end later."""
    line = instance("map", f"{SAMPLE}.square", "1-100:3", "--name", "thirds").stdout
    found = re.fullmatch(r"Submitted map (\d+) \(34 tasks\)\.\n", line)
    assert found, line
    assert f"job {found[1]}  thirds  34/34 results  failed=0" in instance("wait", "last").stdout


def test_maps_over_lines_and_records(instance: Pyfi, tmp_path: Path) -> None:
    """A line of text is one argument; a line of JSON is arguments one by one or by name."""
    lines = tmp_path / "lines"
    lines.write_text("one\ntwo words\n\n")
    job = answer(instance, "map", f"{SAMPLE}.do_this", "--each-line", str(lines), "--wait")["job"]
    results = [instance("ls", "call", f"{job}.{i}", "-r").stdout for i in range(3)]
    assert results == ["do_this(one)\n", "do_this(two words)\n", "do_this()\n"]
    records = '[1, 2]\n{"number": 3, "other": 4}\n'
    done = instance("map", f"{SAMPLE}.add", "--from-jsonl", "-", "--wait", "--json", data=records)
    job = json.loads(done.stdout)["job"]
    assert [instance("ls", "call", f"{job}.{i}", "-r").stdout for i in range(2)] == ["3\n", "7\n"]
    instance("map", f"{SAMPLE}.add", "--from-jsonl", "-", data="{no json\n", code=2)
    instance("map", f"{SAMPLE}.add", "--each-line", "/dev/null", code=2)


def test_a_map_with_failures(instance: Pyfi) -> None:
    """Exit code 1 from map and wait; each failed call tells its own story."""
    instance("map", f"{SAMPLE}.fail", "1-3", "--wait", code=1)
    done = instance("wait", "last", code=1)
    assert "3/3 results  failed=3" in done.stdout
    instance("wait", "last", "--ignore-failures")
    found = rows(instance, "ls", "calls", "-j", "last", "--state", "F")
    assert [row["ST"] for row in found] == ["F", "F", "F"]
    told = instance("ls", "call", "--id", found[0]["ID"]).stdout
    assert "ValueError: 3" in told
    assert "raise ValueError(message)" in told
    instance("ls", "call", found[0]["ID"], "-r", code=1)


def test_waiting_too_long_and_cancelling(instance: Pyfi) -> None:
    """Exit code 124 while it runs; after cancel the job has ended CANCELLED, which is a failure."""
    instance("map", f"{SAMPLE}.wait", "30-33")
    assert instance("wait", "last", "--timeout", "0.5", code=124).stdout.rstrip().endswith("not ended")
    (job,) = rows(instance, "queue", "-u")
    assert (job["ST"], job["TASKS"]) == ("R", "4")
    assert rows(instance, "ls", "calls", "-u", "--limit", "2")[0]["ID"] == f"{job['ID']}.3"
    assert "1 task cancelled" in instance("cancel", f"{job['ID']}.2").stdout
    assert "3 tasks cancelled" in instance("task", "cancel", "last").stdout
    instance("wait", job["ID"], code=1)
    assert rows(instance, "queue", "-j", job["ID"])[0]["ST"] == "CA"
    assert rows(instance, "queue", "-u") == []


def test_interrupting_a_wait_leaves_the_job(instance: Pyfi) -> None:
    """Ctrl-C ends the command with 130, not the job."""
    instance("map", f"{SAMPLE}.wait", "30-30")
    words = [sys.executable, "-m", "pyfi_hpc.cli.main", "wait", "last"]
    with subprocess.Popen(words, env=instance.environment, stderr=subprocess.PIPE, text=True) as waiting:
        time.sleep(1.5)
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(10) == 130
        assert waiting.stderr is not None
        assert "Traceback" not in waiting.stderr.read()
    assert rows(instance, "queue", "-u")[0]["ST"] == "R"
    instance("cancel", "all")


def test_what_a_task_wrote(instance: Pyfi, tmp_path: Path) -> None:
    """Standard output and error apart, also of a processor that was added by hand."""
    repository = tmp_path / "noisy"
    repository.mkdir()
    (repository / "noisy.py").write_text(
        "import sys\ndef speak(text):\n    print('out', text)\n    print('err', text, file=sys.stderr)\n"
    )
    us = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*us, *words], cwd=repository, check=True)
    instance("deploy", str(repository))
    instance("task", "run", "-s", "noisy.speak", "-d", "hello")
    job = rows(instance, "queue")[-1]["ID"]
    done = instance("logs", f"{job}.0")
    assert (done.stdout, done.stderr) == ("out hello\n", "err hello\n")
    assert instance("logs", f"{job}.0", "--err").stdout == "err hello\n"
    instance("logs", f"{job}.0", "--attempt", "7", code=3)


def test_the_graph_of_a_workflow(instance: Pyfi) -> None:
    """A funnel drawn from its last call, and the whole job by its number."""
    script = f"""
from pyfi_hpc import funnel, functions
square, total = functions("{SAMPLE}.square", "{SAMPLE}.total")
run = funnel([square(2), square(3)])(total(), wait=False)
print(run.id, run.get(20))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=instance.environment, capture_output=True, text=True, timeout=30
    )
    job, value = done.stdout.split()
    assert value == "13"
    drawn = instance("ls", "call", "--id", f"{job}.2", "-g").stdout
    assert drawn == instance("ls", "call", job, "--graph").stdout
    names, ids, line, last, _ = drawn.splitlines()
    assert names.split() == [f"{SAMPLE}.square"] * 2
    assert ids.split() == [f"{job}.0", "CD", f"{job}.1", "CD"]
    assert re.fullmatch(r" *└─+┬─+┘", line)
    assert last.strip() == f"{SAMPLE}.total"


# --- objects ------------------------------------------------------------------------------------------


def test_a_network_from_the_command_line(instance: Pyfi) -> None:
    """The seed's own lines: queue, processor, sockets, then a call; each add prints an id."""
    sample = str(ROOT / "examples/sample")
    add = f"pyfi add processor -n proc1 -g {sample} -m pyfi_processors.sample --allow-dirty"
    printed = instance.shell(f"""
    pyfi add queue -n pyfi.queue1 -t direct && {add} &&
    pyfi add socket -n proc1.socket1 -q pyfi.queue1 -pn proc1 -t do_something -c 5 &&
    pyfi add socket -n proc1.socket2 -q pyfi.queue1 -pn proc1 -t do_this -c 8 &&
    pyfi task run --socket proc1.socket2 --data "['some data']"
    """)
    *ids, result = printed.splitlines()
    assert all(number.isdigit() for number in ids)
    assert result == "do_this(some data)"
    (socket,) = rows(instance, "ls", "sockets", "proc1.*2")
    assert (socket["QUEUE"], socket["FUNCTION"], socket["CONC"]) == ("pyfi.queue1", "do_this", "8")
    instance("add", "processor", "-n", "proc1", "-g", sample, code=2)
    instance("update", "processor", "proc1", "-c", "3")
    instance("proc", "stop", "-n", "proc1")
    (processor,) = rows(instance, "ls", "processors", "proc1")
    assert (processor["CONC"], processor["REQUESTED"]) == ("3", "stopped")
    assert re.fullmatch(r"[0-9a-f]{12}", processor["COMMIT"])
    instance("delete", "processor", "proc1")
    assert rows(instance, "ls", "sockets", "proc1.*") == []
    instance("delete", "processor", "proc1", code=3)


def test_nodes_schedulers_and_placement(instance: Pyfi) -> None:
    """Nodes by name or host name; a scheduler gets and loses them; a processor is placed on a host."""
    instance.shell(f"""set -e
    pyfi add node -n node1 -h phoenix
    pyfi add node -n node2 -h radiant
    pyfi add scheduler --name sched1
    pyfi scheduler -n sched1 add --node node1
    pyfi scheduler -n sched1 add --node node2
    pyfi scheduler -n sched1 remove --node node2
    sample="-g {ROOT}/examples/sample -m pyfi_processors.sample --allow-dirty"
    pyfi add processor -n proc2 $sample -t do_this -h radiant
    pyfi add outlet -n proc2.outlet1 -q pyfi.queue2 -pn proc2
    """)
    nodes = {row["NAME"]: row for row in rows(instance, "ls", "nodes")}
    assert (nodes["node1"]["SCHEDULER"], nodes["node2"]["SCHEDULER"]) == ("sched1", "-")
    live = [row for row in nodes.values() if row["STATUS"] == "up"]
    assert len(live) == 1
    assert [row["NODE"] for row in rows(instance, "ls", "deployments")] == ["node2"]
    assert instance("task", "run", "-s", "proc2.outlet1", "-d", "x").stdout == "do_this(x)\n"
    instance("add", "node", "-n", "node1", code=2)
    instance("add", "processor", "-n", "p3", "-g", str(ROOT), "-h", "nowhere", code=3)


def test_people_and_rights(instance: Pyfi) -> None:
    """A right is one of a list; the user shows it."""
    instance("add", "user", "-n", "darren", "-e", "darren@example.org")
    instance("add", "privilege", "--user", "darren", "--name", "DELETE")
    assert "rights are: ALL" in instance("add", "privilege", "-u", "darren", "-n", "FLY", code=2).stderr
    assert answer(instance, "ls", "user", "--name", "darren")["user"]["privileges"] == ["darren.DELETE"]


KINDS = """processors sockets outlets queues plugs nodes agents schedulers users workers tasks roles networks
    events calls jobs arguments codes logs deployments schedules privileges allocations flows logins"""


@pytest.mark.parametrize("words", KINDS.split())
def test_everything_can_be_listed(instance: Pyfi, words: str) -> None:
    """In a pipe with a title; as JSON with its total."""
    assert instance("ls", words, "--limit", "2").stdout.splitlines()[0].isupper()
    found = answer(instance, "ls", words, "--limit", "2")
    assert found["total"] >= 0


# --- the instance -------------------------------------------------------------------------------------


def test_the_instance_at_a_glance(instance: Pyfi) -> None:
    """Broker, ledger, nodes; the settings with their origin."""
    told = instance("info").stdout
    assert "CURVE on" in told
    assert "PostgreSQL" in told
    assert answer(instance, "info")["broker"]["nodes"][0]["ranks"] == 2
    origins = {row["SETTING"]: row["ORIGIN"] for row in rows(instance, "info", "--settings")}
    assert (origins["home"], origins["ledger"]) == ("PYFI_HOME", "default")


def test_a_second_instance_of_one_name_is_refused(instance: Pyfi) -> None:
    """Exit code 5; the one that runs is not touched."""
    assert "is running already" in instance("up", "-n", "1", code=5).stderr
    assert instance("task", "run", "-s", f"{SAMPLE}.square", "-d", "3").stdout == "9\n"


def test_deploying_again_changes_nothing(instance: Pyfi) -> None:
    """The environment is there; steps are told on standard error."""
    line = instance("deploy", str(ROOT / "examples/sample"), "--allow-dirty").stdout
    assert re.match(rf"deployed  {SAMPLE} @ [0-9a-f]{{7}}.*  env [0-9a-f]{{8}} \(unchanged\)  sockets: ", line)
    done = instance("deploy", "https://example.org/not/allowed", code=5)
    assert "fix:" in done.stderr


def test_the_doctor_finds_this_machine_well(instance: Pyfi) -> None:
    """Where the tests run, nothing that is needed is missing."""
    checks = answer(instance, "doctor")["checks"]
    assert [check for check in checks if check["state"] == "fail"] == []
    assert any("2 ranks of one world" in check["text"] for check in checks)


def test_the_ledger_s_tables(instance: Pyfi) -> None:
    """A dump has every table and parses; an upgrade finds nothing to do."""
    tables = json.loads(instance("db", "dump").stdout)["tables"]
    assert tables["processor"]["total"] >= 1
    assert "schema" in instance("db", "upgrade").stdout


def test_on_a_terminal(instance: Pyfi) -> None:
    """A bar while it runs, a table with a bold header and no tabs after it; all within the width."""
    pyfi = f"{sys.executable} -m pyfi_hpc.cli.main"
    line = f"{pyfi} map {SAMPLE}.wait --from-jsonl data --wait; {pyfi} queue --limit 3"
    data = instance.home / "data"
    data.write_text("[0.01]\n" * 60)
    shown = _in_terminal(line, instance)
    assert "━" in shown
    assert "60/60 100%" in re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)
    table = shown[shown.rindex("ID") - 10 :]
    assert "\x1b[1m" in table
    assert "\t" not in table
    assert max(len(re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", row).rstrip()) for row in table.splitlines()) <= 100


def _in_terminal(line: str, instance: Pyfi) -> str:
    """What a terminal of 100 columns gets from a shell line."""
    child, terminal = pty.fork()
    if child == 0:
        environment = {**instance.environment, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
        environment.pop("NO_COLOR", None)
        os.chdir(instance.home)
        os.execve("/bin/bash", ["bash", "-c", line], environment)
    shown, deadline = b"", time.monotonic() + 30
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:
                break
    os.waitpid(child, 0)
    os.close(terminal)
    return shown.decode()
