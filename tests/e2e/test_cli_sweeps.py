"""Arrays, sweeps and programs from the shell, on a real instance."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pyfi_command import Pyfi

SAMPLE = "pyfi.processors.sample"


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# --- map ----------------------------------------------------------------------------------------------


def test_results_of_a_sweep_as_lines(instance: Pyfi) -> None:
    """Every combination once, in order, with its arguments, state, result and duration; the summary is elsewhere."""
    done = instance("map", f"{SAMPLE}.add", "--product", "number=1:2", "other=0.5,10", "--output", "-")
    found = lines(done.stdout)
    assert [line["index"] for line in found] == [0, 1, 2, 3]
    assert [tuple(line["kwargs"].values()) for line in found] == [(1, 0.5), (1, 10), (2, 0.5), (2, 10)]
    assert [line["result"] for line in found] == [1.5, 11, 2.5, 12]
    assert {line["state"] for line in found} == {"COMPLETED"}
    assert all(0 < line["duration_s"] < 60 and line["attempt"] == 1 for line in found)
    job = found[0]["id"].removesuffix(".0")
    assert re.match(rf"map {job}  \S+\.add  4/4  100%  failed=0", done.stderr.splitlines()[-1])


def test_results_with_failures(instance: Pyfi, tmp_path: Path) -> None:
    """A task that failed has its error in its line and is named at the end; the exit code is 1."""
    file = tmp_path / "results.jsonl"
    records = '[1, 2]\n["a", 1]\n{"number": 3}\n'
    done = instance("map", f"{SAMPLE}.add", "--from-jsonl", "-", "-o", str(file), data=records, code=1)
    found = lines(file.read_text())
    assert [line["state"] for line in found] == ["COMPLETED", "FAILED", "FAILED"]
    assert [line.get("args", line.get("kwargs")) for line in found] == [[1, 2], ["a", 1], {"number": 3}]
    assert found[1]["error"]["type"] == "TypeError" and "result" not in found[1]
    assert f"{found[2]['id']}  FAILED  TypeError: add() missing" in done.stderr
    assert "failed=2" in done.stdout


def test_results_of_a_job_that_ended_long_ago(instance: Pyfi, tmp_path: Path) -> None:
    """`wait --output` writes them once more, without the arguments; many ranges of many batches."""
    file, again = tmp_path / "first.jsonl", tmp_path / "again.jsonl"
    instance("map", f"{SAMPLE}.square", "1-5000", "--output", str(file), "--unordered")
    found = sorted(lines(file.read_text()), key=lambda line: line["index"])
    assert [line["args"] for line in found] == [[n] for n in range(1, 5001)]
    instance("wait", "last", "-o", str(again))
    assert [{k: v for k, v in line.items() if k != "args"} for line in found] == lines(again.read_text())
    assert all(line["result"] == (line["index"] + 1) ** 2 for line in found)


def test_results_that_cannot_be_written(instance: Pyfi, tmp_path: Path) -> None:
    """Before anything is submitted where the file is wrong; a full disk leaves the job, and tells how to go on."""
    before = json.loads(instance("queue", "--json").stdout)["total"]
    assert "cannot write" in instance("map", f"{SAMPLE}.square", "1-3", "-o", f"{tmp_path}/no/x", code=6).stderr
    assert json.loads(instance("queue", "--json").stdout)["total"] == before
    done = instance("map", f"{SAMPLE}.square", "1-3", "-o", "/dev/full", code=6)
    assert "No space left" in done.stderr and "goes on; `pyfi wait" in done.stderr
    assert "3/3 results  failed=0" in instance("wait", "last").stdout


def test_the_reader_of_results_has_gone(instance: Pyfi) -> None:
    """As with every program in a pipe: 141, and no traceback."""
    line = f'pyfi map {SAMPLE}.square 1-20000 -o - 2>/dev/null | head -1; echo "${{PIPESTATUS[0]}}"'
    first, code = instance.shell(f"set +o pipefail; {line}").splitlines()
    assert (json.loads(first)["result"], code) == (1, "141")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["1-3%0"], "at once"),
        (["1-3%2", "--at-once", "2"], "at most 2 and at most 2"),
        (["1-3%99999"], "from 1 to 16383"),
        (["a=1:3"], "--product"),
        (["1-3", "5"], "not one range"),
        (["--product", "1-3"], "NAME=VALUES"),
        (["--product", "a=0:1"], "unexpected keyword argument"),
        (["1-3", "--unordered"], "--output"),
        (["1-3", "--each-line", "-"], "give one of"),
        ([], "give one of"),
    ],
)
def test_inputs_that_are_wrong(instance: Pyfi, words: list[str], told: str) -> None:
    """Exit code 2 and how to write it; a name that the function does not have is the task's error."""
    done = instance("map", f"{SAMPLE}.square", *words, "--wait", code=1 if "unexpected" in told else 2)
    assert told in done.stderr


def test_no_more_at_once_than_said(instance: Pyfi, tmp_path: Path) -> None:
    """Programs note when they begin and end; with two ranks, one runs at a time, in an array and in xargs."""
    script = 'echo "+" >> log; sleep 0.1; echo "-" >> log'
    numbers = "\n".join("123456")
    instance("xargs", "-C", str(tmp_path), "-P", "1", "--wait", "sh", "-c", script, data=numbers)
    assert (tmp_path / "log").read_text().split() == ["+", "-"] * 6
    found = lines(instance("map", f"{SAMPLE}.wait", "1,1,1%1", "--output", "-").stdout)
    job = found[0]["id"].split(".")[0]
    rows = json.loads(instance("ls", "calls", "-j", job, "--json").stdout)["calls"]
    starts = sorted(row["started"] for row in rows)
    ends = sorted(row["ended"] for row in rows)
    assert all(start >= end for start, end in zip(starts[1:], ends[:-1], strict=True))


def test_what_waits_for_its_limit_says_so(instance: Pyfi) -> None:
    """(JobArrayTaskLimit) in the queue, as squeue has it."""
    instance("map", f"{SAMPLE}.wait", "30,31%1")
    for _ in range(100):
        if "(JobArrayTaskLimit)" in instance("queue", "-j", "last").stdout:
            break
    else:
        raise AssertionError(instance("queue", "-j", "last").stdout)
    instance("cancel", "last")


# --- xargs --------------------------------------------------------------------------------------------


def test_a_program_for_each_file(instance: Pyfi, tmp_path: Path) -> None:
    """As `ls | xargs gzip`, in the folder of the caller; outputs and exit codes of each are kept."""
    names = ["a.txt", "b c.txt", "d$(e)'f.txt"]
    for name in names:
        (tmp_path / name).write_text("text\n")
    printed = instance.shell(f"cd {tmp_path}; ls | pyfi xargs --wait gzip -kv {{}}")
    found = re.fullmatch(r"xargs (\d+)  shell\.run  3/3  100%  failed=0  .*\n", printed)
    assert found, printed
    assert sorted(os.listdir(tmp_path)) == sorted(names + [f"{name}.gz" for name in names])
    assert "b c.txt" in instance("logs", f"{found[1]}.1", "--err").stdout
    assert instance("ls", "call", f"{found[1]}.1", "-r").stdout == "0\n"
    printed = instance.shell(f"cd {tmp_path}; ls *.txt | pyfi xargs -o - gzip -k {{}}", code=1)
    assert [(line["state"], line["exit_code"]) for line in lines(printed)] == [("FAILED", 2)] * 3
    assert lines(printed)[0]["kwargs"] == {"argv": ["gzip", "-k", "a.txt"], "cwd": str(tmp_path)}
    assert "a.txt.gz already exists" in lines(printed)[0]["error"]["message"]


def test_items_options_and_variables(instance: Pyfi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items between NULs from a file, several for each program, the program's own options, a variable from here."""
    items = tmp_path / "items"
    items.write_bytes(b"a\nb\0-c\0d\0\xff")
    instance.environment["FROM_HERE"] = "v w"
    words = ["-0", "-n", "3", "-a", str(items), "-E", "FROM_HERE", "-C", str(tmp_path), "--output", "-"]
    done = instance("xargs", *words, "sh", "-c", 'printf "%s|" "$FROM_HERE" "$PWD" "$@"', "-n")
    first, second = lines(done.stdout)
    assert first["kwargs"]["argv"][4:] == ["a\nb", "-c", "d"]
    assert instance("logs", first["id"]).stdout == f"v w|{tmp_path}|a\nb|-c|d|"
    assert os.fsencode(second["kwargs"]["argv"][4]) == b"\xff"


def test_what_would_run(instance: Pyfi) -> None:
    """--dry-run prints lines that a shell would read back, and needs no instance."""
    words = ["--instance", "nowhere", "xargs", "--dry-run", "-n", "2", "mv", "-t", "x y"]
    assert instance(*words, data="a b\n\nc'd\ne\n").stdout == "mv -t 'x y' 'a b' 'c'\"'\"'d'\nmv -t 'x y' e\n"


def test_programs_that_fail_in_many_ways(instance: Pyfi, tmp_path: Path) -> None:
    """No such program, no such folder on the node, a signal, the time limit; each with its exit code, if it has one."""
    ways = {
        "no-such-program": ("FAILED", 127),
        "sh -c 'kill -9 $$'": ("FAILED", 137),
        "sh -c 'sleep 30'": ("TIMEOUT", None),
    }
    for program, ended in ways.items():
        (found,) = lines(instance.shell(f"echo x | pyfi xargs --time-limit 1s -o - {program}", code=1))
        assert (found["state"], found["exit_code"]) == ended
    gone = tmp_path / "gone"
    gone.mkdir()
    line = "echo 1 | pyfi xargs --retries 1 --wait sh -c 'rmdir \"$PWD\"; exit 5'"
    assert "does not see the folder" in instance.shell(f"cd {gone}; {line} 2>&1", code=1)
    attempts = json.loads(instance("ls", "call", "last.0", "--json").stdout)["call"]["attempts"]
    assert [attempt["attempt"] for attempt in attempts] == [1, 2]
    assert attempts[0]["error"]["message"].startswith("exit code 5")


def test_a_failed_program_that_is_tried_again(instance: Pyfi, tmp_path: Path) -> None:
    """The second attempt finds what the first one left."""
    script = "mkdir done && exit 1; exit 0"
    done = instance("xargs", "-C", str(tmp_path), "--retries", "1", "-o", "-", "sh", "-c", script, data="x\n")
    assert [(line["exit_code"], line["attempt"]) for line in lines(done.stdout)] == [(0, 2)]


def test_a_program_of_several_ranks(instance: Pyfi) -> None:
    """Two processes, which are one MPI world if they speak MPI; one that fails; ranks without a step are refused."""
    script = "from mpi4py import MPI; import os; os.write(1, b'%d\\n' % MPI.COMM_WORLD.allreduce(21))"
    for options in (["--ranks", "2"], ["--ranks", "2", "--launch", "step"], ["--needs", "ranks=2 step"]):
        done = instance("xargs", *options, "-o", "-", sys.executable, "-c", script, data="x\n")
        (line,) = lines(done.stdout)
        assert line["exit_code"] == 0
        assert instance("logs", line["id"]).stdout.count("42") == 2
    script = "echo it is wrong >&2; exit 4"
    done = instance("xargs", "--ranks", "2", "-o", "-", "sh", "-c", script, data="x\n", code=1)
    (line,) = lines(done.stdout)
    assert line["exit_code"] == 4
    assert "it is wrong" in line["error"]["message"]
    done = instance("xargs", "--needs", "ranks=2", "true", data="x\n", code=2)
    assert "--launch step" in done.stderr


def test_a_name_that_is_taken(instance: Pyfi, tmp_path: Path) -> None:
    """Other code named `shell` is not replaced; what was deployed by an older version is."""
    instance("xargs", "--wait", "true", data="1\n")
    repository = json.loads(instance("ls", "processor", "shell", "--json").stdout)["processor"]["repository"]
    older = str(Path(repository).with_name("shell-000000000000"))
    us = "-c user.name=a -c user.email=a@b"
    instance.shell(f"cp -r {repository} {older}; cd {older}; git {us} commit -q --amend -m old")
    instance("deploy", older, "--name", "shell")
    instance("xargs", "--wait", "true", data="1\n")
    assert json.loads(instance("ls", "processor", "shell", "--json").stdout)["processor"]["repository"] == repository
    other = tmp_path / "other"
    instance.shell(f"cp -r {repository} {other}")
    instance("deploy", str(other), "--name", "shell")
    done = instance("xargs", "--wait", "true", data="1\n", code=2)
    assert "other code" in done.stderr and str(other) in done.stderr
    instance("delete", "processor", "shell")
    instance("xargs", "--wait", "true", data="1\n")


# --- report and trace ---------------------------------------------------------------------------------


def test_a_report_of_a_job(instance: Pyfi, tmp_path: Path) -> None:
    """One page without scripts; the figures as JSON add up; an attempt that was made again is lost, a final one not."""
    script = '[ "$1" = 3 ] && [ "$PYFI_ATTEMPT" = 1 ] && exit 1; [ "$1" = 4 ] && echo "no <b>4</b>" >&2 && exit 2; :'
    numbers = "\n".join("123456")
    instance("xargs", "--retries", "1", "--wait", "sh", "-c", script, "sh", data=numbers, code=1)
    page = tmp_path / "report.html"
    line = instance("report", "last", "-o", str(page)).stdout
    assert re.fullmatch(rf"{page}: 6 tasks on [12] ranks, \d+ kB\n", line)
    content = page.read_text()
    assert content.startswith("<!DOCTYPE html>") and "<script" not in content
    assert "ProgramFailed: exit code 2: no &lt;b&gt;4&lt;/b&gt;" in content
    assert content.count(", attempt 1\n") + content.count(", attempt 2\n") == 8
    found = json.loads(instance("report", "last", "--json").stdout)["report"]
    assert found["states"] == {"COMPLETED": 5, "FAILED": 1}
    assert found["failed_attempts"] == {"ERROR": 2}
    assert sum(found["spent_s"].values()) == pytest.approx(found["rank_seconds"])
    assert found["spent_s"]["lost"] > 0 and found["spent_s"]["failed"] > 0
    assert found["functions"][0]["count"] == 6
    assert instance("report", "last", "-o", "-").stdout.startswith("<!DOCTYPE html>")


def test_a_trace_of_a_job(instance: Pyfi, tmp_path: Path) -> None:
    """A row for each rank, a slice for each task of thousands, none over another."""
    instance("map", f"{SAMPLE}.square", "1-3000", "--wait")
    file = tmp_path / "trace.json"
    told = json.loads(instance("trace", "last", "-o", str(file), "--json").stdout)
    listed = json.loads(file.read_text())["traceEvents"]
    slices = [event for event in listed if event["ph"] == "X"]
    assert (told["slices"], len(slices), told["file"]) == (3000, 3000, str(file))
    assert {event["args"]["task"] for event in slices} == {f"{told['job']}.{n}" for n in range(3000)}
    ends: dict[int, float] = {}
    for event in slices:
        assert event["ts"] >= ends.get(event["tid"], 0.0) - 1e-3
        ends[event["tid"]] = event["ts"] + event["dur"]
    assert sum(event["name"] == "thread_name" for event in listed) == told["ranks"] == len(ends)


def test_a_report_of_what_is_not_there_or_has_not_ended(instance: Pyfi, tmp_path: Path) -> None:
    """Exit codes as everywhere; a job in the queue has a page too."""
    for command in ("report", "trace"):
        instance(command, "99999", code=3)
        assert "is not one job" in instance(command, "1-2", code=2).stderr
        assert "is not one job" in instance(command, "1.0", code=2).stderr
        assert "cannot write" in instance(command, "last", "-o", f"{tmp_path}/no/file", code=6).stderr
    instance("report", "last", "--json", "-o", "-", code=2)
    instance("map", f"{SAMPLE}.wait", "30,31")
    assert "No task of this job has run yet" in instance("report", "last", "-o", "-").stdout
    assert json.loads(instance("report", "last", "--json").stdout)["report"]["utilisation"] is None
    assert json.loads(instance("trace", "last", "-o", "-").stdout)["traceEvents"] == []
    instance("cancel", "last")


def test_a_shell_completes_commands_and_options(instance: Pyfi) -> None:
    """As the completion script asks for them."""
    words = {"pyfi x": "xargs", "pyfi rep": "report", "pyfi tr": "trace", "pyfi xargs --dry": "--dry-run"}
    for line, completed in words.items():
        count = len(line.split()) - 1
        asked = f'COMP_WORDS="{line}" COMP_CWORD={count} _PYFI_COMPLETE=bash_complete pyfi'
        assert f"plain,{completed}" in instance.shell(asked).splitlines()
