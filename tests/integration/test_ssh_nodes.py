"""Nodes over ssh, on real sshds in networks of their own: see tests/ssh_lab.py. All is done by the command `pyfi`."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ssh_lab
from instance_fixture import make_repository
from needed import need
from ssh_lab import PASSWORD, Lab

from pyfi_hpc import settings as settings_module
from pyfi_hpc.ledger import embedded

_WHERE = """
import os
import socket
import time


def where(n):
    '''Which machine this is, after a moment: so that all ranks get some.'''
    time.sleep(0.02)
    return socket.gethostname()


def hold(seconds, mark):
    '''Say that it runs, then take its time.'''
    open(mark, "w").close()
    time.sleep(seconds)
    return os.uname().nodename
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A person's machine with an instance that listens to its network, one rank of its own, and two hosts."""
    need("ssh", "a lab of hosts with sshd", ssh_lab.missing())
    with Lab() as made:
        try:
            up(made)
            make_repository(made.home_of(made.login) / "places", {"places.py": _WHERE})
            made.pyfi("deploy", str(made.home_of(made.login) / "places"))
            yield made
        finally:
            made.pyfi("down", code=None)
            embedded.remove(settings_module.load(home=made.home, instance="lab"))


@pytest.fixture(autouse=True)
def as_new(lab: Lab) -> Iterator[None]:
    """After each test: no node, no process, no key on the hosts; the next one finds them as new."""
    yield
    config = lab.home_of(lab.login) / ".ssh" / "config"
    config.unlink(missing_ok=True)
    lab.know(*lab.hosts)
    if names := noted(lab):
        lab.pyfi("node", "rm", *names, "--drain", "0")
    for host in lab.hosts:
        assert left(lab, host) == []
        assert list((lab.home_of(host)).glob(".pyfi/nodes/*/*/access.json")) == []
        lab.show_home(host)


def up(lab: Lab) -> None:
    lab.pyfi("up", "-n", "1", "--bind", lab.address(lab.login))


def info(lab: Lab) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.pyfi("info", "--json").stdout)
    return found


def noted(lab: Lab) -> list[str]:
    """The nodes that were added and not removed."""
    return sorted(file.stem for file in (lab.home / "lab" / "ssh_nodes").glob("[!.]*.json"))


def left(lab: Lab, host: str) -> list[str]:
    """Our processes on a host."""
    return [words for pid in lab.pids(host) if "pyfi_hpc" in (words := ssh_lab.machines.command_line(pid))]


def add(lab: Lab, *words: str, code: int = 0, **more: str) -> tuple[list[dict[str, Any]], str]:
    """What `pyfi node add` tells of each host, and what it wrote to standard error."""
    done = lab.pyfi("node", "add", "--ssh", *words, "--json", code=code, **more)
    return (json.loads(done.stdout)["nodes"] if done.stdout else []), done.stderr


def error_of(lab: Lab, *words: str) -> dict[str, str]:
    """The error of the one host; nothing was added."""
    nodes, _ = add(lab, *words, code=6)
    assert noted(lab) == []
    error: dict[str, str] = nodes[0]["error"]
    return error


def places(lab: Lab, count: int = 60, *words: str) -> set[str]:
    """The machines that tasks ran on."""
    done = lab.pyfi("map", "places.where", f"1-{count}", *words, "--output", "-")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["state"] for line in lines] == ["COMPLETED"] * count, lines
    return {line["result"] for line in lines}


def talk(lab: Lab, answers: list[tuple[str, str]], *words: str, code: int = 0) -> str:
    """Run `pyfi` at a terminal, giving each answer when its question has come; what was shown."""
    ours, theirs = pty.openpty()

    def own_terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        lab.command(lab.login, [sys.executable, "-m", "pyfi_hpc.cli.main", *words]),
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=own_terminal,
    )  # fmt: skip
    os.close(theirs)
    shown, deadline, answers = "", time.monotonic() + 60, list(answers)
    seen = 0
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    piece = os.read(ours, 4096)
                except OSError:  # the terminal's other end is closed
                    break
                shown += piece.decode(errors="replace")
            if answers and answers[0][0] in shown[seen:]:
                seen = len(shown)
                os.write(ours, answers.pop(0)[1].encode() + b"\n")
        assert process.wait(10) == code, shown
        assert not answers, shown
        return shown
    finally:
        process.kill()
        os.close(ours)


# --- who is on the other side -------------------------------------------------------------------------


def test_an_unknown_host_key_is_refused_with_its_fingerprint(lab: Lab) -> None:
    """Nothing is taken unasked; the exact fingerprint is, and is then known for the next time."""
    host = lab.hosts[0]
    lab.known_hosts().write_text("")
    error = error_of(lab, host, "--dry-run")
    true = lab.fingerprint(host)
    assert error["code"] == "host_key_refused" and true in error["what"] and true in error["fix"]
    assert lab.known_hosts().read_text() == ""
    wrong = error_of(lab, host, "--dry-run", "--accept-host-key", "SHA256:" + "A" * 43)
    assert wrong["code"] == "host_key_refused"
    nodes, _ = add(lab, host, "--dry-run", "--accept-host-key", true)
    assert nodes[0]["node"] == host and nodes[0]["error"] is None
    add(lab, host, "--dry-run")


@pytest.mark.parametrize("via", ["paramiko", "ssh"])
def test_a_changed_host_key_is_refused(lab: Lab, via: str) -> None:
    """It says so in clear words, shows both, and no fingerprint that is named overrides it."""
    host = lab.hosts[0]
    before = lab.fingerprint(host)
    now = lab.new_host_key(host)
    lab.restart_sshd(host)
    extra = [] if via == "ssh" else ["--accept-host-key", now]
    error = error_of(lab, host, "--dry-run", "--via", via, *extra)
    assert error["code"] == "host_key_refused"
    if via == "paramiko":
        assert "HAS CHANGED" in error["what"] and before in error["what"] and now in error["what"]
        assert str(lab.known_hosts()) in error["where"]


# --- being let in -------------------------------------------------------------------------------------


def test_a_terminal_answers_what_the_host_asks(lab: Lab) -> None:
    """Keyboard-interactive, wrong once; then a key and a question. What was typed is nowhere to be seen."""
    a, b = lab.hosts
    wrong = ("Password:", "nonsense")
    shown = talk(lab, [wrong, ("Password:", PASSWORD)], "node", "add", "--ssh", a, "-p", "2222", "-n", "1")
    assert f"node {a}, 1 ranks joined" in shown and PASSWORD not in shown
    shown = talk(lab, [("Password:", PASSWORD)], "node", "add", "--ssh", b, "-p", "2223", "--dry-run")
    assert f"node {b}" in shown
    secret = [file for file in lab.home.rglob("*") if file.is_file() and PASSWORD.encode() in file.read_bytes()]
    assert secret == []
    talk(lab, [("Password:", PASSWORD)], "node", "rm", a)


def test_where_nobody_can_be_asked_it_says_what_was_tried(lab: Lab) -> None:
    """The host wants questions answered, and there is no terminal."""
    error = error_of(lab, lab.hosts[0], "-p", "2222", "--dry-run")
    assert error["code"] == "login_refused"
    assert "keyboard-interactive" in error["what"] and "nobody to be asked" in error["what"]
    error = error_of(lab, lab.hosts[0], "-p", "2222", "--dry-run", "--via", "ssh")
    assert error["code"] == "login_refused" and "--control" in error["fix"]


def test_keys_of_an_agent_and_with_a_passphrase(lab: Lab) -> None:
    """The file is not needed where ssh-agent holds the key; a passphrase is asked for."""
    host, ssh = lab.hosts[0], lab.home_of(lab.login) / ".ssh"
    script = (
        f'eval $(ssh-agent) >/dev/null; ssh-add -q {ssh}/id_ed25519; mv {ssh}/id_ed25519 {ssh}/away; '
        f'"$@"; code=$?; mv {ssh}/away {ssh}/id_ed25519; kill $SSH_AGENT_PID; exit $code'
    )
    pyfi = [sys.executable, "-m", "pyfi_hpc.cli.main", "node", "add", "--ssh", host, "--dry-run", "--json"]
    words = ["sh", "-c", script, "sh", *pyfi]
    assert json.loads(lab.run(lab.login, words).stdout)["nodes"][0]["node"] == host
    locked = ssh / "locked"
    lab.make_key(locked, "open sesame", host)
    question = ("passphrase of", "open sesame")
    talk(lab, [question], "node", "add", "--ssh", host, "--dry-run", "-i", str(locked))


def test_through_another_host_and_by_an_alias(lab: Lab) -> None:
    """ProxyJump of ~/.ssh/config, and --jump: the connection comes from the host in between."""
    a, b = lab.hosts
    included = lab.home_of(lab.login) / ".ssh" / "more"
    included.write_text(f"Host inner\n  HostName {lab.address(b)}\n  User root\n  ProxyJump {a}\n")
    (included.parent / "config").write_text("Include more\nHost *\n  ConnectTimeout 5\n")
    nodes, _ = add(lab, "inner", "--dry-run")
    assert nodes[0]["node"] == b
    assert f"from {lab.address(a)} port" in lab.accepted(b)[-1]
    add(lab, b, "--dry-run")
    assert f"from {lab.address(lab.login)} port" in lab.accepted(b)[-1]
    add(lab, b, "--dry-run", "--jump", a)
    assert f"from {lab.address(a)} port" in lab.accepted(b)[-1]


def test_through_a_connection_that_the_operator_opened(lab: Lab) -> None:
    """The host wants a question answered; it was, once, by ssh; `--via ssh` asks nothing more."""
    host = lab.hosts[0]
    socket_ = lab.open_master(host, 2222)
    try:
        way = [host, "-p", "2222", "--via", "ssh", "--control", str(socket_)]
        nodes, _ = add(lab, *way, "-n", "1")
        assert nodes[0]["ranks"] == 1 and nodes[0]["error"] is None
        assert info(lab)["ssh_nodes"][0]["via"] == "ssh"
        lab.pyfi("node", "rm", host, "--drain", "0")
        assert left(lab, host) == []
    finally:
        lab.run(lab.login, ["ssh", "-S", str(socket_), "-O", "exit", host])


# --- work ---------------------------------------------------------------------------------------------


def test_tasks_run_there_and_a_bad_host_does_not_harm_the_others(lab: Lab) -> None:
    """Two hosts that see the home, and one that is none: exit code 6, and a map runs on all machines."""
    a, b = lab.hosts
    nodes, _ = add(lab, a, b, "nosuchhost", "-n", "2", code=6)
    assert [(node.get("ranks"), node["error"] and node["error"]["code"]) for node in nodes] == [
        (2, None), (2, None), (None, "host_unreachable"),
    ]  # fmt: skip
    assert [(one["node"], one["state"]) for one in info(lab)["ssh_nodes"]] == [(a, "joined"), (b, "joined")]
    assert places(lab) == {lab.login, a, b}
    _same_wheel(lab, a)
    again, _ = add(lab, a, code=6)
    assert again[0]["error"]["code"] == "refused" and a in again[0]["error"]["what"]
    lab.pyfi("node", "rm", a, b)
    assert places(lab) == {lab.login}


def test_a_host_without_uv(lab: Lab) -> None:
    """Python's own venv and pip make the environment, from where the host's pip is told to look."""
    host = lab.hosts[0]
    base = lab.home_of(host) / "plain"
    with lab.only_pip(host):
        add(lab, host, "-n", "1", "--home", str(base))
        assert places(lab, 4, "--needs", f"label={host}") == {host}
        (venv,) = base.glob("venvs/[!.]*")
        assert " -m venv " in (venv / "pyvenv.cfg").read_text()
        lab.pyfi("node", "rm", host, "--purge")
    assert not base.exists()


def test_rm_lets_a_task_end(lab: Lab) -> None:
    """A task that runs on the node ends there and counts; nothing new begins. Before: calls that need that node."""
    host = lab.hosts[0]
    add(lab, host, "-n", "2", "--label", "far", "--resource", "tape:1")
    assert places(lab, 4, "--needs", "label=far tape:1") == {host}
    marks = [lab.shared / f"mark{number}" for number in range(4)]
    inputs = lab.home_of(lab.login) / "inputs"
    inputs.write_text("".join(json.dumps([1.5, str(mark)]) + "\n" for mark in marks))
    lab.pyfi("map", "places.hold", "--from-jsonl", str(inputs))
    deadline = time.monotonic() + 20
    while sum(mark.exists() for mark in marks) < 3:  # one on the person's machine, two there
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lab.pyfi("node", "rm", host)
    assert left(lab, host) == []
    done = lab.pyfi("wait", "last", "--output", "-")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["state"] for one in found] == ["COMPLETED"] * 4
    assert [one["attempt"] for one in found] == [1] * 4
    assert sum(one["result"] == host for one in found) >= 2


# --- what goes wrong ----------------------------------------------------------------------------------


def test_what_a_host_lacks_is_told(lab: Lab) -> None:
    """Python that is too old; a disk that is full; a host that does not answer."""
    a, b = lab.hosts
    old = lab.home_of(a) / "python3.9"
    old.write_text("#!/bin/sh\necho 3.9.2 /usr/bin/python3.9\n")
    old.chmod(0o755)
    error = error_of(lab, a, "--python", str(old))
    assert "no Python 3.11 or newer; /usr/bin/python3.9 is 3.9.2" in error["what"]
    small = lab.small_disk(a)
    error = error_of(lab, a, "--home", f"{small}/x")
    assert "no room: " in error["what"] and str(small) in error["where"]
    _soon_given_up(lab)
    lab.cut_off(b)
    try:
        assert error_of(lab, b)["code"] == "host_unreachable"
    finally:
        lab.cut_off(b, False)


def _soon_given_up(lab: Lab) -> None:
    (lab.home_of(lab.login) / ".ssh" / "config").write_text("ConnectTimeout 2\n")


def test_a_disk_that_fills_up_while_installing(lab: Lab) -> None:
    """The installer's words, and what to do; half an environment does not stay."""
    script = """
import sys
from pyfi_hpc.adapters import own_wheel, ssh
from pyfi_hpc.adapters.ssh_target import Login
from pyfi_hpc.errors import SiteError
from pyfi_hpc.hosts.node_calls import Node
from pathlib import Path
node = Node(ssh.ParamikoRemote(Login(sys.argv[1]), None))
node.find_python("")
wheel = own_wheel.make(Path(sys.argv[3]))
data = wheel.file.read_bytes()
try:
    node.call("install", 60, lambda out: out.write(data), base=sys.argv[2], name="v", wheel=wheel.file.name,
              size=len(data), extra="[mpi]", room=0)
except SiteError as error:
    print(error.what.splitlines()[0], error.fix, sep=": ")
"""
    host = lab.hosts[0]
    small = lab.small_disk(host)
    command = [sys.executable, "-c", script, host, f"{small}/full", str(lab.home / "cache")]
    said = lab.run(lab.login, command).stdout
    assert said.startswith("no room left") and "make room" in said
    assert lab.run(host, ["ls", "-A", f"{small}/full/venvs"]).stdout.split() == [".v.lock"]


def test_a_connection_that_goes_silent_is_given_up(lab: Lab) -> None:
    """The cable is out while a command runs: not its time limit ends it, but silence."""
    script = """
import sys, time
from pyfi_hpc.adapters import ssh
from pyfi_hpc.adapters.ssh_target import Login
from pyfi_hpc.errors import HostUnreachable
ssh.SILENT_S = 2.0
remote = ssh.ParamikoRemote(Login(sys.argv[1]), None)
assert remote.run("echo hello; echo there >&2; exit 3", None, 10.0).code == 3
print("connected", flush=True)
sys.stdin.readline()
begun = time.monotonic()
try:
    remote.run("while :; do echo; sleep 1; done", None, 60.0, beats=True)
except HostUnreachable as error:
    print(error.what, time.monotonic() - begun < 20)
"""
    host = lab.hosts[0]
    command = lab.command(lab.login, [sys.executable, "-c", script, host])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(1.0)
        lab.cut_off(host)
        try:
            said = process.communicate(timeout=30)[0]
        finally:
            lab.cut_off(host, False)
            process.kill()
    assert said == "the connection broke: silent for 2 s True\n"


def _same_wheel(lab: Lab, host: str) -> None:
    """What was installed there makes a wheel of the very same package again: a node may itself add nodes."""
    (venv,) = lab.home_of(host).glob(".pyfi/venvs/[!.]*")
    script = """
import sys, zipfile
from pathlib import Path
from pyfi_hpc.adapters import own_wheel
from pyfi_hpc.adapters.on_node.install import hash_of
made = own_wheel.make(Path(sys.argv[1]))
zipfile.ZipFile(made.file).extractall(sys.argv[1] + "/x")
assert hash_of(sys.argv[1] + "/x/pyfi_hpc") == made.hash == own_wheel.package_hash()
record = next(Path(sys.argv[1], "x").glob("*.dist-info/RECORD")).read_text()
assert "pyfi_hpc/cli/main.py,sha256=" in record and "direct_url" not in record
print(made.hash, sorted(f.name for f in Path(sys.argv[1], "x").glob("*.dist-info/*")))
"""
    folder = lab.home_of(host) / "again"
    said = lab.run(host, [str(venv / "bin" / "python"), "-I", "-c", script, str(folder)]).stdout
    assert said.split()[0] in venv.name and "METADATA" in said and "entry_points.txt" in said


def test_a_node_with_a_home_of_its_own(lab: Lab) -> None:
    """It gets keys of agents only, the code that is there and what is deployed later; --purge takes all away."""
    host = lab.hosts[1]
    lab.hide_home(host)
    before = lab.run(host, ["ls", "-A", "/tmp"]).stdout
    add(lab, host, "-n", "2")
    assert places(lab) == {lab.login, host}
    (access,) = lab.home_of(host).glob(".pyfi/nodes/*/lab/access.json")
    keys, ours = json.loads(access.read_text()), json.loads((lab.home / "lab" / "access.json").read_text())
    assert (keys["client_public"], keys["client_secret"]) == ("", "") and keys["agent_secret"] == ours["agent_secret"]
    assert access.stat().st_mode & 0o777 == 0o600
    files = [file for file in access.parents[1].rglob("*") if file.is_file()]
    assert not any(ours["client_secret"].encode() in file.read_bytes() for file in files)
    text = _WHERE.replace("return socket.gethostname()", "return 'new ' + socket.gethostname()")
    later = make_repository(lab.home_of(lab.login) / "later", {"later.py": text})
    lab.pyfi("deploy", str(later))
    done = lab.pyfi("map", "later.where", "1-40", "--output", "-")
    assert {json.loads(line)["result"] for line in done.stdout.splitlines()} == {f"new {lab.login}", f"new {host}"}
    lab.pyfi("node", "rm", host, "--purge")
    assert left(lab, host) == []
    assert not (lab.home_of(host) / ".pyfi").exists()
    assert lab.run(host, ["ls", "-A", "/tmp"]).stdout == before


def test_a_host_that_was_away(lab: Lab) -> None:
    """It is cut off while something is deployed: that is said, and `pyfi node sync` sends it when the host is back.
    Gone for good, it can be forgotten without a connection."""
    host = lab.hosts[1]
    lab.hide_home(host)
    add(lab, host, "-n", "1")
    _soon_given_up(lab)
    text = _WHERE.replace("return socket.gethostname()", "return 'away ' + socket.gethostname()")
    made = make_repository(lab.home_of(lab.login) / "away", {"away.py": text})
    lab.cut_off(host)
    try:
        done = lab.pyfi("deploy", str(made), code=None)
        assert host in done.stderr and "pyfi node sync" in done.stderr, done.stderr
    finally:
        lab.cut_off(host, False)
    assert host in lab.pyfi("node", "sync").stdout
    done = lab.pyfi("map", "away.where", "1-40", "--needs", f"label={host}", "--output", "-")
    assert {json.loads(line)["result"] for line in done.stdout.splitlines()} == {f"away {host}"}
    for pid in lab.pids(host):
        if "pyfi_hpc" in ssh_lab.machines.command_line(pid):
            os.kill(pid, signal.SIGKILL)
    lab.cut_off(host)
    try:
        lab.pyfi("node", "rm", host, "--forget")
    finally:
        lab.cut_off(host, False)
    assert noted(lab) == []
    for file in lab.home_of(host).glob(".pyfi/nodes/*/*/access.json"):
        file.unlink()
    deadline = time.monotonic() + 30
    while len(info(lab)["broker"]["nodes"]) > 1:  # until its lease ends
        assert time.monotonic() < deadline


def test_down_ends_them_and_notes_what_it_cannot_reach(lab: Lab) -> None:
    """Agents, ranks, keys and notes go; a host that is cut off stays noted, and the next `down` ends it.

    The last test: it leaves no instance.
    """
    a, b = lab.hosts
    lab.hide_home(b)
    add(lab, a, b, "-n", "1")
    _soon_given_up(lab)
    lab.cut_off(b)
    try:
        done = lab.pyfi("down", code=6)
        assert "lab" not in done.stdout and b in done.stderr and a not in done.stderr.replace(b, "")
    finally:
        lab.cut_off(b, False)
    assert left(lab, a) == [] and left(lab, b) != []
    lab.pyfi("down")
    assert left(lab, b) == []
    assert list(lab.home_of(b).glob(".pyfi/nodes/*/lab")) == []
    assert noted(lab) == []
