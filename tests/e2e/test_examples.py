"""Every example, run to its end as its first lines say, on a real instance with two ranks.

examples/digits is what launchers/quickstart runs, so the README's test sees to it; and on Slurm test_allocations.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pyfi_command import ROOT, Pyfi

EXAMPLES = ROOT / "examples"
SHAPE = (
    "do_this(do_something(One), "
    "[do_something(do_something(do_something(do_something(One) | Two) | Four), "
    "do_something(do_something(do_something(One) | Two) | Five) | Three), "
    "do_something(Two), do_something(Three)], do_this(Three) | Four)"
)
#: each numbered example: what it prints, as a regular expression
PRINTED = {
    "00_hello.py": r"\d+\.0 49\n2401\n333283335000\n328350\n",
    "01_pipeline.py": r"PIPELINE: 100\n",
    "02_parallel.py": r"PARALLEL: \[4, 10, 16\]\n",
    "03_funnel.py": r"FUNNEL: 328350\n",
    "04_nested.py": rf"FUNNEL: {re.escape(SHAPE)}\n",
    "05_sockets.py": r"SOCKETS: do_something\(Hello World !\) do_this\(Do this!!\)\n"
                     r"PIPELINE: do_this\(do_something\(Hello World !\) \| Do this!!\)\n",
}  # fmt: skip
#: the workflow of the seed's tutorial as it is printed there, with our package's name
TUTORIAL = """
from pyfi_hpc.client.api import parallel, pipeline, funnel
from pyfi_hpc.client.example.api import do_something_p as do_something, do_this_p as do_this

_pipeline = pipeline([
do_something("One"),
do_something("Two"),
parallel([
do_something("Four"),
do_something("Five"),
]),
do_something("Three")])

_parallel = parallel([
_pipeline,
do_something("Two"),
do_something("Three")])

_funnel = funnel([
do_something("One"),
_parallel,
do_this("Three")])

print("FUNNEL: ", _funnel(do_this("Four")).get())
"""
#: and its shell lines; the second alias of the last line is a file's name to tee, which reads only files
SHELL = """
shopt -s expand_aliases
alias pyfi.processors.sample.do_something="pyfi task run -s pyfi.processors.sample.do_something"
alias pyfi.processors.sample.do_this="pyfi task run -s pyfi.processors.sample.do_this"
echo "HI THERE!" | pyfi.processors.sample.do_something
echo "HI THERE!" | pyfi.processors.sample.do_something | echo "$(cat -)string" | pyfi.processors.sample.do_this
echo "HI THERE!" | tee -a >(pyfi.processors.sample.do_something) tee -a >(pyfi.processors.sample.do_this)
"""


@pytest.fixture(scope="module", autouse=True)
def sample(instance: Pyfi) -> None:
    """The functions under their short name too, as the README deploys them."""
    instance("deploy", str(EXAMPLES / "sample"), "--name", "sample", "--allow-dirty")


def run(instance: Pyfi, *command: str, limit_s: float = 60, folder: Path = ROOT) -> str:
    """Run a Python program as a user would; what it printed."""
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=instance.environment, cwd=folder,
        timeout=limit_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("[0-9]*.py")))
def test_a_numbered_example_prints_its_result(instance: Pyfi, name: str) -> None:
    """Runs the file from the repository's root and reads what it prints."""
    assert re.fullmatch(PRINTED[name], run(instance, f"examples/{name}"))


def test_an_example_can_be_run_twice(instance: Pyfi) -> None:
    """The objects that it makes are found the second time."""
    assert run(instance, "examples/05_sockets.py") == run(instance, "examples/05_sockets.py")


def test_the_tutorial_s_workflow(instance: Pyfi) -> None:
    """The seed's own lines, from its imports to the shape of its result."""
    assert run(instance, "-c", TUTORIAL).strip() == f"FUNNEL:  {SHAPE}"


def test_the_tutorial_s_shell_lines(instance: Pyfi, tmp_path: Path) -> None:
    """Aliases, pipes and tee into two functions at once: every line prints its results."""
    lines = instance.shell(f"cd {tmp_path}\n{SHELL}").splitlines()
    assert lines[:2] == ["do_something(HI THERE!)", "do_this(do_something(HI THERE!)string)"]
    assert sorted(lines[2:]) == ["HI THERE!", "do_something(HI THERE!)", "do_this(HI THERE!)"]


@pytest.mark.timeout(180)
def test_heat_on_two_ranks_is_exact(instance: Pyfi) -> None:
    """Nine runs on two ranks each, with a serial task behind each: they agree with the analytic solution."""
    instance("deploy", str(EXAMPLES / "heat"), "--allow-dirty")
    said = run(instance, "examples/heat/run.py", limit_s=100)
    rows = [line.split() for line in said.splitlines()[1:10]]
    assert [int(row[2]) for row in rows] == [2] * 9
    assert all(float(row[4]) < 1e-3 for row in rows)
    assert all(abs(float(row[5].strip(",")) - float(row[6])) < 3e-4 for row in rows)


def test_every_example_is_listed() -> None:
    """The table in examples/README.md names each program; each of them says how to run it."""
    page = (EXAMPLES / "README.md").read_text()
    for path in [*EXAMPLES.glob("[0-9]*.py"), EXAMPLES / "digits/run.py", EXAMPLES / "heat/run.py"]:
        name = str(path.relative_to(EXAMPLES))
        assert f"]({name})" in page
        assert path.name == "00_hello.py" or "pyfi up" in path.read_text()
