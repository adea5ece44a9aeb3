"""Names, values and code that cannot be: refused at the right place with what, where and how to fix it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zmq
from instance_fixture import Instance, make_repository

from pyfi_hpc.client import deploy
from pyfi_hpc.client.session import Session
from pyfi_hpc.errors import (
    EnvironmentFailed,
    ModuleFailed,
    NotFound,
    PyfiError,
    Refused,
    RepositoryRefused,
    SettingsError,
    TaskSkipped,
    TooLarge,
    UnknownSocket,
    Unserialisable,
    UsageError,
)
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import PROTOCOL_VERSION

WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _all_goes_on(healthy: Instance) -> None:
    """After each test the instance serves with the same processes."""


def says(error: BaseException | None, kind: type[PyfiError], *words: str) -> None:
    """The error is of this kind, tells how to fix it, and holds these words."""
    assert type(error) is kind, repr(error)
    assert error.fix
    for word in words:
        assert word in str(error), str(error)


def test_unknown_socket(box: Instance) -> None:
    """A name that was mistyped, or that is not there at all; a map over it; a chain that begins with it."""
    ex = box.executor()
    says(ex.submit("trouble.sane", 1).exception(WAIT_S), UnknownSocket, "trouble.sane", "did you mean", "trouble.same")
    says(ex.submit("truoble.same", 1).exception(WAIT_S), UnknownSocket, "did you mean", "trouble.same")
    says(ex.submit("weather.tomorrow").exception(WAIT_S), UnknownSocket, "pyfi deploy")
    with pytest.raises(UnknownSocket):
        list(ex.map("trouble.nothing", range(100_000), timeout=WAIT_S))
    bad = ex.submit("trouble.nothing")
    says(ex.submit("trouble.same", bad).exception(WAIT_S), UnknownSocket, "trouble.nothing")


def test_arguments_that_cannot_travel(box: Instance) -> None:
    """Refused in the caller's line, before anything is sent; the place inside the argument is named."""
    ex = box.executor()
    loop: list[object] = []
    loop.append(loop)
    for args, place in (
        (([1, {"deep": [0, lambda: 1]}],), "argument 0[1]['deep'][1]"),
        ((open,), "argument 0"),
        ((1, np.array([object()])), "argument 1"),
        ((loop,), "argument 0"),
    ):
        with pytest.raises(Unserialisable) as caught:
            ex.submit("trouble.add", *args)
        says(caught.value, Unserialisable, place, "trouble.add")
    with pytest.raises(Unserialisable) as caught:
        list(ex.map("trouble.same", [1, 2, 3, open]))
    says(caught.value, Unserialisable, "call 3 of a map")


def test_arguments_over_the_limit(box: Instance) -> None:
    """9 MB: refused in the caller's line, names the argument and both sizes; 7 MB go."""
    with pytest.raises(TooLarge) as caught:
        box.executor().submit("trouble.add", 1, b=bytes(9 << 20))
    says(caught.value, TooLarge, "keyword 'b'", "9.4 MB", "8.4 MB", "shared filesystem")
    assert len(box.executor().submit("trouble.same", bytes(7 << 20)).result(WAIT_S)) == 7 << 20


def test_options_that_cannot_be(box: Instance) -> None:
    """Values of options are checked where they are given."""
    for options in ({"retries": -1}, {"priority": 1 << 40}, {"time_limit": "soon"}, {"colour": 1}, {"name": "x" * 300}):
        with pytest.raises(UsageError):
            box.executor().with_options(**options)


def test_a_failure_skips_its_dependents_only(box: Instance) -> None:
    """The dependents of a failed call are SKIPPED and name it; its siblings complete."""
    ex = box.executor()
    bad = ex.submit("trouble.sys_exit", "no")
    after, beside = ex.submit("trouble.same", [bad]), ex.submit("trouble.same", 3)
    error = after.exception(WAIT_S)
    assert isinstance(error, TaskSkipped), error
    assert bad.id in str(error)
    assert beside.result(WAIT_S) == 3


def test_a_call_that_does_not_fit_the_function(box: Instance) -> None:
    """Python's own words about the arguments."""
    error = box.executor().submit("trouble.add", 1).exception(WAIT_S)
    assert isinstance(error, TypeError), error
    assert "missing 1 required positional argument: 'b'" in str(error)


def test_a_job_that_is_not_there(box: Instance) -> None:
    """Cancel, call, output, watch of what never was."""
    assert box.session.cancel(10**9) == 0
    for verb in ("call", "output"):
        with pytest.raises(NotFound):
            box.ask(verb, id="999999.0")
        with pytest.raises(UsageError):
            box.ask(verb, id="seven")
    with pytest.raises(NotFound):
        box.session.watch(10**12).wait(lambda: False, WAIT_S, "nothing")
    with pytest.raises(NotFound):
        box.ask("sing")


# --- code -------------------------------------------------------------------------------------------------


def counts(box: Instance) -> object:
    return box.ask("info")["objects"]


def refused(box: Instance, kind: type[PyfiError], source: Path | str, *words: str, **given: object) -> None:
    """Deploying this fails so, and registers nothing."""
    before = counts(box)
    with pytest.raises(kind) as caught:
        box.deploy(source, **given)
    says(caught.value, kind, *words)
    assert counts(box) == before


def test_code_that_is_not_there(box: Instance, tmp_path: Path) -> None:
    """Unknown folder, not a repository, unknown commit, module, function."""
    trouble = box.trouble()
    refused(box, NotFound, tmp_path / "nowhere", "nowhere")
    refused(box, NotFound, tmp_path, str(tmp_path))
    refused(box, NotFound, trouble, "feature", commit="feature")
    refused(box, NotFound, trouble, "0123456", commit="0123456" + "0" * 33)
    refused(box, ModuleFailed, trouble, "truoble", module="truoble")
    refused(box, ModuleFailed, trouble, "sleep_well", "it has", functions=["sleep_well"])


def test_repositories_that_may_not_be_deployed(box: Instance) -> None:
    """Outside the allow list, denied, or an address that git could misunderstand."""
    refused(box, RepositoryRefused, "https://git.example.org/group/code.git", "git.example.org")
    box_settings = replace(box.settings, allow=("https://git.example.org/*",), deny=("https://git.example.org/bad/*",))
    with pytest.raises(RepositoryRefused):
        deploy.prepare(box_settings, "https://git.example.org/bad/code.git")
    for address in ("ext::sh -c id", "--upload-pack=touch /tmp/x", "file:///etc", "-x"):
        with pytest.raises(PyfiError) as caught:
            deploy.prepare(box.settings, address)
        assert caught.value.fix


def test_a_broken_environment(box: Instance, tmp_path: Path) -> None:
    """Requirements that do not exist: the installer's last lines; nothing is registered, nothing half built stays."""
    source = make_repository(
        tmp_path / "broken", {"broken.py": "def f(): pass\n", "requirements.txt": "no-such-thing-at-all==9.9\n"}
    )
    envs = box.settings.cache_dir / "envs"
    before = {file.name for file in envs.iterdir() if not file.name.endswith(".lock")}
    refused(box, EnvironmentFailed, source, "no-such-thing-at-all", "nothing was registered")
    assert {file.name for file in envs.iterdir() if not file.name.endswith(".lock")} == before
    assert "broken.f" not in [row["name"] for row in box.ask("ls", kind="socket")["rows"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [("import does_not_exist\ndef f(): pass\n", "does_not_exist"), ("def f(:\n", "SyntaxError"),
     ("_x = 1\n", "no public function"), ("import os\nos._exit(3)\n", ""), ("import sys\nsys.exit(0)\n", "")],
)  # fmt: skip
def test_modules_that_cannot_be_imported(box: Instance, tmp_path: Path, text: str, words: str) -> None:
    """The import's own last words at deploy, nothing registered."""
    refused(box, ModuleFailed, make_repository(tmp_path / "bad", {"bad.py": text}), "bad", words)


def test_an_environment_that_is_gone(box: Instance, tmp_path: Path) -> None:
    """It was deployed, and its checkout was removed from the node: EnvironmentFailed names the folder; others go on."""
    source = make_repository(tmp_path / "brief", {"brief.py": "def f():\n    return 1\n"})
    spec = box.deploy(source)
    assert box.executor().submit("brief.f").result(WAIT_S) == 1
    moved = tmp_path / "moved"
    spec = box.deploy(make_repository(tmp_path / "brief2", {"brief2.py": "def f():\n    return 2\n"}))
    shutil.move(spec.code.workdir, moved)
    error = box.executor().submit("brief2.f").exception(WAIT_S)
    assert "EnvironmentFailed" in str(error)
    assert spec.code.workdir in str(error)
    shutil.move(moved, spec.code.workdir)
    assert box.executor().submit("brief2.f").result(WAIT_S) == 2


# --- keys and versions ------------------------------------------------------------------------------------


def test_access_files_that_are_refused(box: Instance, tmp_path: Path) -> None:
    """Others can read it, somebody else wrote it, it is damaged, it is not there."""
    home = tmp_path / "home"
    folder = home / box.settings.instance
    folder.mkdir(parents=True)
    file = folder / "access.json"
    settings = replace(box.settings, home=home)

    def trial() -> PyfiError:
        with pytest.raises(PyfiError) as caught:
            Session(settings)
        assert str(file) in str(caught.value)
        assert caught.value.fix
        return caught.value

    assert trial().code == "broker_unreachable"
    shutil.copy(box.settings.access_file, file)
    file.chmod(0o644)
    assert type(trial()) is Refused
    file.chmod(0o600)
    if os.getuid() == 0:
        os.chown(file, 12345, 12345)
        assert type(trial()) is Refused
        os.chown(file, 0, 0)
    text = file.read_bytes()
    for damaged in (b"", b"{}", text[: len(text) // 2], text.replace(b'"version":1', b'"version":9'),
                    text.replace(b'"broker_public":"', b'"broker_public":"short","x":"')):  # fmt: skip
        file.write_bytes(damaged)
        assert isinstance(trial(), SettingsError)


def test_an_old_client(box: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hello of protocol 0 is denied; the error names both versions."""
    session = box.connect()
    session._talk._hello = m.Hello(0, "client", "old", "x")
    with pytest.raises(PyfiError) as caught:
        session.ask("info", timeout=WAIT_S)
    for words in (f"protocol {PROTOCOL_VERSION}", "old speaks 0", "same version"):
        assert words in str(caught.value)


def test_a_wrong_key(box: Instance, tmp_path: Path) -> None:
    """An access file with keys that the broker does not know: an error after the timeout, named in the broker's log."""
    public, secret = zmq.curve_keypair()
    content = json.loads(box.settings.access_file.read_text())
    content |= {"client_public": public.decode(), "client_secret": secret.decode()}
    home = tmp_path / "home"
    (home / "box").mkdir(parents=True)
    file = home / "box" / "access.json"
    file.touch(0o600)
    file.write_text(json.dumps(content))
    session = Session(replace(box.settings, home=home, timeout_s=2.0))
    with pytest.raises(PyfiError) as caught:
        session.ask("info", timeout=10.0)
    session.close()
    assert caught.value.code == "broker_unreachable"
    assert "unknown key" in box.log("broker")
