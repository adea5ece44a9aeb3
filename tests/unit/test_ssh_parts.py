"""What is decided about hosts over ssh without a network: known keys, the configuration, who gets which keys."""

from __future__ import annotations

import ast
import base64
import hashlib
import hmac
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from pyfi_hpc.adapters import access, known_hosts, node_code, on_node, ssh_config
from pyfi_hpc.adapters.on_node.install import hash_of
from pyfi_hpc.adapters.ssh_target import Login, Output, split
from pyfi_hpc.client.session import Session
from pyfi_hpc.errors import EnvironmentFailed, NotFound, Refused, SettingsError, SiteError, UsageError
from pyfi_hpc.hosts import ssh_add, ssh_notes
from pyfi_hpc.hosts.node_calls import Node
from pyfi_hpc.model.effects import CheckCode
from pyfi_hpc.settings import Settings

_KEY = base64.b64encode(b"some key").decode()
_OTHER = base64.b64encode(b"other key").decode()


@pytest.mark.parametrize(
    ("line", "name", "known"),
    [
        (f"n1,192.0.2.7 ssh-ed25519 {_KEY} comment", "192.0.2.7", True),
        (f"n1 ssh-ed25519 {_KEY}", "n2", False),
        (f"N1 ssh-ed25519 {_KEY}", "n1", True),
        (f"n1 ssh-ed25519 {_KEY}", "[n1]:2222", False),
        (f"[n1]:2222 ssh-ed25519 {_KEY}", "[n1]:2222", True),
        (f"[*.example.org]:* ssh-rsa {_KEY}", "[a.example.org]:23", True),
        (f"*.example.org,!bad.example.org ssh-rsa {_KEY}", "a.example.org", True),
        (f"*.example.org,!bad.example.org ssh-rsa {_KEY}", "bad.example.org", False),
        (f"# n1 ssh-ed25519 {_KEY}", "n1", False),
        ("n1 ssh-ed25519 not/base64!", "n1", False),
        ("|1|broken ssh-ed25519 " + _KEY, "n1", False),
        (f"@cert-authority n1 ssh-ed25519 {_KEY}", "n1", False),
    ],
)
def test_lines_of_known_hosts(tmp_path: Path, line: str, name: str, known: bool) -> None:
    """Names, ports, patterns and negations as sshd(8) has them; what is damaged knows nothing."""
    file = tmp_path / "known_hosts"
    file.write_text(line + "\n")
    assert bool(known_hosts.find([tmp_path / "none", file], name)) is known


def test_hashed_names_and_revoked_keys(tmp_path: Path) -> None:
    """A hash of the name is a name; a revoked key is told apart and where it stands."""
    salt = b"0123456789abcdefghij"
    digest = base64.b64encode(hmac.new(salt, b"n1", hashlib.sha1).digest()).decode()
    hashed = f"|1|{base64.b64encode(salt).decode()}|{digest}"
    file = tmp_path / "known_hosts"
    file.write_text(f"{hashed} ssh-ed25519 {_KEY}\n@revoked * ssh-ed25519 {_OTHER}\n")
    found = known_hosts.find([file], "n1")
    assert [(one.key, one.revoked, one.where) for one in found] == [
        (b"some key", False, f"{file}:1"), (b"other key", True, f"{file}:2"),
    ]  # fmt: skip
    assert [one.revoked for one in known_hosts.find([file], "n2")] == [True]


def test_a_key_is_written_down_behind_what_is_there(tmp_path: Path) -> None:
    """Also where the last line has no end; the file is made for its owner alone."""
    file = tmp_path / "ssh" / "known_hosts"
    known_hosts.add(file, "n1", "ssh-ed25519", b"some key")
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text(file.read_text().rstrip())
    known_hosts.add(file, "[n2]:23", "ssh-rsa", b"other key")
    assert file.read_text() == f"n1 ssh-ed25519 {_KEY}\n[n2]:23 ssh-rsa {_OTHER}\n"


@pytest.mark.parametrize("text", ["-oProxyCommand=x", "a b", "", "u@", "h:99999", "-u@h", "h;x", "a\nb"])
def test_what_is_no_host_is_refused(text: str) -> None:
    """Above all what ssh would take for an option."""
    with pytest.raises(UsageError, match="is not a host"):
        split(text)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ~/.ssh/config of somebody who has nothing else."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    return tmp_path / ".ssh" / "config"


def test_the_configuration_is_followed(config: Path) -> None:
    """Alias, user, port, key, files of known keys; hosts in between, each with its own; includes before all hosts."""
    (config.parent / "first.conf").write_text("Host gate\n  User gatekeeper\n  ProxyJump out@outer:2222\n")
    config.write_text(
        "Include *.conf\nHost n1\n  HostName node1.example.org\n  User me\n  Port 23\n  IdentityFile ~/.ssh/special\n"
        "  IdentitiesOnly yes\n  ProxyJump gate\n  UserKnownHostsFile ~/known\n  ConnectTimeout 3\n"
        "Host *\n  User other\n"
    )
    outer, gate, goal = ssh_config.places(Login("n1"))
    assert (outer.address, outer.port, outer.user) == ("outer", 2222, "out")
    assert (gate.address, gate.port, gate.user) == ("gate", 22, "gatekeeper")
    assert (goal.address, goal.port, goal.user, goal.key_name) == (
        "node1.example.org", 23, "me", "[node1.example.org]:23",
    )  # fmt: skip
    assert (outer.connect_s, goal.connect_s) == (15.0, 3.0)
    assert goal.identities == (config.parent / "special",) and goal.only_identities
    assert goal.known_hosts[0] == config.parent.parent / "known"
    (given,) = ssh_config.places(Login("n1", "root", 24, "none", "/key"))
    assert (given.user, given.port, given.identities) == ("root", 24, (Path("/key"),))
    assert [p.name for p in ssh_config.places(Login("x", jump="a,b"))] == ["a", "b", "x"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Host n1\n  ProxyCommand nc %h %p\n", "ProxyCommand"),
        ("Host n1\n  ProxyJump n2\nHost n2\n  ProxyJump n1\n", "hosts on the way"),
        ("Host n1\nInclude other\n", "Include behind a Host line"),
    ],
)
def test_what_the_configuration_wants_and_cannot_have(config: Path, text: str, said: str) -> None:
    """A program in between, a circle, an include that holds for some hosts: an error, never another way."""
    config.write_text(text)
    with pytest.raises(SettingsError, match=said):
        ssh_config.places(Login("n1"))


def test_a_node_gets_keys_of_agents_only(tmp_path: Path) -> None:
    """Its access file can be read by an agent; a client says why it cannot use it."""
    settings = Settings(home=tmp_path, timeout_s=1.0)
    made, _ = access.make(settings)
    access.write(settings, replace_access(made))
    read = access.read(settings)
    assert (read.agent_secret, read.client_secret) == (made.agent_secret, "")
    with pytest.raises(Refused, match="keys of agents only"):
        Session(settings).ask("info", {})


def replace_access(made: access.Access) -> access.Access:
    return access.Access(**{**made.for_agents(), "port": 9})  # type: ignore[arg-type]


def test_a_broker_on_loopback_is_told_before_anybody_connects(tmp_path: Path) -> None:
    """No other host could reach it."""
    settings = Settings(home=tmp_path)
    access.make(settings)
    with pytest.raises(SettingsError, match="where other hosts cannot reach it") as caught:
        ssh_add.check_broker(settings)
    assert "--bind" in caught.value.fix


def test_notes_are_found_by_host_and_by_node(tmp_path: Path) -> None:
    """What is damaged is left out; what is not there is told with what is."""
    settings = Settings(home=tmp_path)
    note = ssh_notes.Note("n1", Login("alias"), "/python", "/venv/python", "/b", "/h", True, "v", 2)
    ssh_notes.write(settings, note)
    (tmp_path / "default" / "ssh_nodes" / "x.json").write_text("{")
    assert ssh_notes.find(settings, ["alias"]) == ssh_notes.find(settings, ["n1"]) == [note]
    with pytest.raises(NotFound, match="'n2'") as caught:
        ssh_notes.find(settings, ["n2"])
    assert "n1" in caught.value.fix
    ssh_notes.write(settings, replace(note, problem="away"))
    assert [one.problem for one in ssh_notes.noted(settings)] == ["away"]
    ssh_notes.forget(settings, note)
    assert ssh_notes.noted(settings) == []


def test_code_that_was_not_sent_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of another machine cannot be fetched: after a while the task says what sends it."""
    monkeypatch.setattr(node_code, "_ARRIVES_S", 0.2)
    wanted = CheckCode(7, "/home/me/project", "a" * 40, "m", "e", "/p", "/w")
    with pytest.raises(EnvironmentFailed, match="was not sent") as caught:
        node_code.NodeCode(Settings(home=tmp_path)).prepare(wanted)
    assert "pyfi node sync" in caught.value.fix


def test_what_is_sent_to_a_node_needs_nothing_there() -> None:
    """Files of adapters/on_node import the standard library and each other."""
    for file in Path(on_node.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names or name.startswith("pyfi_hpc.adapters.on_node")


class Here:
    """This machine as a host: commands are run by a real shell, without ssh."""

    host = "here"

    def run(self, command: str, stdin: IO[bytes] | None, limit_s: float, *, beats: bool = False) -> Output:
        done = subprocess.run(["sh", "-c", command], stdin=stdin, capture_output=True, timeout=limit_s, check=False)
        return Output(done.returncode, done.stdout, done.stderr)

    def close(self) -> None:
        pass


def test_the_first_python_that_is_new_enough_is_taken(tmp_path: Path) -> None:
    """A path, what is on PATH; where there is none, what was found is told. A path with quotes is refused."""
    node = Node(Here())
    node.find_python(sys.executable)
    assert node.python == sys.executable
    with pytest.raises(SiteError, match="none was found"):
        node.find_python(str(tmp_path / "python3"))
    with pytest.raises(UsageError, match="not a path of a Python"):
        node.find_python("python3; rm")


def test_steps_answer_and_tell_what_went_wrong(tmp_path: Path) -> None:
    """Each way that a step can end: an answer, an error with its place, a Python that is none."""
    node = Node(Here(), sys.executable)
    node.call("place", home=str(tmp_path / "home"), instance="i", access={"a": 1})
    assert (tmp_path / "home" / "i" / "access.json").stat().st_mode & 0o777 == 0o600
    assert node.call("codes", home=str(tmp_path / "home"), instance="i") == {"codes": []}
    (tmp_path / "file").write_text("")
    with pytest.raises(SiteError, match="Not a directory|File exists") as caught:
        node.call("place", home=str(tmp_path / "file"), instance="i", access={})
    assert str(tmp_path / "file") in caught.value.where and "--home" in caught.value.fix
    with pytest.raises(SiteError, match="did not answer"):
        Node(Here(), "false").call("codes", home="/", instance="i")
    found = node.call("look", base=str(tmp_path), probe=str(tmp_path / "no"), broker=["127.0.0.1", 9], package=None)
    assert found["way"] == "Connection refused" and not found["shared"]


def test_the_hash_of_a_package_sees_every_file_but_byte_code(tmp_path: Path) -> None:
    """A name or a byte more is another package."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").write_text("1")
    first = hash_of(str(tmp_path))
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / "__pycache__" / "x.pyc").write_text("2")
    assert hash_of(str(tmp_path)) == first
    (tmp_path / "a" / "x.py").rename(tmp_path / "a" / "y.py")
    assert hash_of(str(tmp_path)) != first
