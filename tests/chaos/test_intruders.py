"""H: wrong keys, stolen identities, replays, other users, traps in folders, hostile repositories, bombs."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest
import zmq
from bad_peers import BAD_BATCHES, GARBAGE, Logged, address, answer, dealer, hello, submit, unheard, welcome
from https_site import HttpsSite, git, https_site
from instance_fixture import Instance, gone, until
from invariants import Stopwatch, check
from load import Load, wired

from pyfi_hpc import Processor, attach
from pyfi_hpc.adapters import access as access_file
from pyfi_hpc.client import deploy
from pyfi_hpc.errors import CloneFailed, PyfiError, Refused, RepositoryRefused, SettingsError
from pyfi_hpc.ledger.place import place_of
from pyfi_hpc.model import messages as m
from pyfi_hpc.settings import Settings
from pyfi_hpc.wire import codec

__all__ = ["https_site"]

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


# --- H1 to H3: keys ---------------------------------------------------------------------------------------


def test_h1_wrong_keys_or_none(arena: Instance, tmp_path: Path) -> None:
    """NULL, PLAIN, a wrong server key, an unknown key, halves of good pairs: none is heard, each is counted."""
    load = Load(arena, tmp_path, count=400)
    found = access_file.read(arena.settings)
    stranger = tuple(key.decode() for key in zmq.curve_keypair())
    for plain in (False, True):
        logged = Logged(arena)
        with zmq.Context() as context, context.socket(zmq.DEALER) as link:
            link.linger = 0
            if plain:
                link.plain_username, link.plain_password = b"owner", b"owner"
            link.connect(found.endpoint)
            unheard(link)
            logged.says("handshake failed address=")  # whichever end sees first that they do not match
    wrong = {
        "another server's key": {"server": stranger[0]},
        "an unknown key": {"keys": stranger},
        "the broker's public key": {"keys": (found.broker_public, stranger[1])},
        "a client's public key, another secret": {"keys": (found.client_public, stranger[1])},
        "a client's public key, an agent's secret": {"keys": (found.client_public, found.agent_secret)},
    }
    for name, options in wrong.items():
        with dealer(arena, **options) as link:
            assert link.getsockopt(zmq.MECHANISM) == zmq.CURVE
            unheard(link)
        print(name, "is refused")
    logged.says("unknown key", "refused=", "failed=")
    assert stranger[1] not in logged.text
    load.ends_well(again_max=0)


def test_h2_a_stolen_identity(arena: Instance, tmp_path: Path) -> None:
    """Somebody with his own key takes another's routing identity: he gets nothing of it, and is what his key is."""
    load = Load(arena, tmp_path, count=400)
    with dealer(arena, identity=b"victim") as victim:
        welcome(victim, hello())
        stranger = tuple(key.decode() for key in zmq.curve_keypair())
        with dealer(arena, identity=b"victim", keys=stranger) as thief:
            unheard(thief)
        with dealer(arena, "agent", identity=b"victim") as thief:
            thief.send(codec.encode([hello("agent", name="thief")]))
            assert not thief.poll(500), "the identity is taken"
        victim.send(codec.encode([m.Beat(5)]))
        assert answer(victim) == [m.Beat(5)]
    # and when its owner has gone: the agent's key makes no client of him, the client's key no agent
    with dealer(arena, "agent", identity=b"victim") as thief:
        until(lambda: thief.send(codec.encode([m.Beat(6)])) or thief.poll(300), 10.0, "the identity is free again")
        thief.send(codec.encode([m.Ask(1, "jobs"), m.Ask(2, "shutdown")]))
        heard = []
        until(lambda: heard.extend(answer(thief, 0.3)) or heard, 5.0, "he is heard")
        assert {type(message) for message in heard} == {m.Unknown}
    with dealer(arena, "client") as thief:
        welcome(thief, hello("agent", name="thief", held=[m.Held(1, 1, 0, 5, 1, b"\1" * 5)]))
        thief.send(codec.encode([m.Capacity(1000, 1000), m.Beat(7)]))
        assert answer(thief) == [m.Beat(7)]
        assert len(arena.nodes()) == 1
    load.ends_well(again_max=0)


def test_h3_recorded_bytes_are_replayed(arena: Instance, tmp_path: Path) -> None:
    """All that a client said, handshake and submissions, is sent again: refused, and nothing is admitted twice."""
    load = Load(arena, tmp_path, count=400)
    with wired(arena, "tapped") as (wire, far):
        assert far.connect().ask("info", {}, timeout=10)["broker"]
        assert list(far.executor().map("trouble.same", range(5), timeout=20)) == list(range(5))
        recorded = [bytes(tap) for tap in wire.heard if len(tap) > 500]
    assert recorded
    before, logged = len(arena.ask("jobs", limit=1000)["rows"]), Logged(arena)
    for said in recorded * 5:
        with closing(socket.create_connection(address(arena), 5)) as link:
            link.settimeout(3)
            heard = b""
            try:
                link.sendall(said)
                link.shutdown(socket.SHUT_WR)
                while data := link.recv(65536):
                    heard += data
            except OSError:
                pass
            assert b"READY" not in heard, "the broker ends the handshake"
    logged.says("handshake failed")
    assert len(arena.ask("jobs", limit=1000)["rows"]) == before
    load.ends_well(again_max=0)


def test_h3_keys_of_an_earlier_start(instances: Callable[..., Instance]) -> None:
    """New keys after the old ones were given up: neither lets in, the old agent ends itself, the work goes on."""
    box = instances().up()
    old, agent = access_file.read(box.settings), box.pid("agent")
    left = box.ranks() + box.runners()
    results = box.executor().map("trouble.wait", [0.2] * 30, range(30), timeout=60)
    assert next(results) == 0
    job = box.ask("jobs")["rows"][0]["job"]
    watch = Stopwatch()
    box.kill(box.pid("broker"))
    box.settings.access_file.unlink()
    (box.settings.instance_dir / "broker.key").unlink()
    box.start_broker()
    new = access_file.read(box.settings)
    assert {old.broker_public, old.client_secret, old.agent_secret}.isdisjoint(
        {new.broker_public, new.client_secret, new.agent_secret}
    )
    logged = Logged(box)
    for role in ("client", "agent"):
        keys = (old.client_public, old.client_secret) if role == "client" else (old.agent_public, old.agent_secret)
        with dealer(box, role, keys=keys) as link:
            unheard(link)
        with dealer(box, role, keys=keys, server=old.broker_public) as link:
            unheard(link)
    logged.says("unknown key", "handshake failed")
    until(lambda: gone(agent) and all(map(gone, left)), 30.0, "the agent of the old keys has ended, with its ranks")
    watch.tell("the old agent has ended", 10)
    assert "started anew with other keys" in box.log("agent")
    # the client reads the new keys, as only the owner can, and goes on
    box.start_agent()
    assert list(results) == list(range(1, 30))
    assert list(attach(job, session=box.connect()).results(timeout=30)) == list(range(30))
    check(box)


# --- H4, H5: other users ----------------------------------------------------------------------------------


@needs_root
def test_h4_another_user_reads_nothing(arena: Instance, tmp_path: Path) -> None:
    """Another user scans home, scratch, ledger, /tmp and /proc while tasks run: no key, no payload, no open socket."""
    other = pwd.getpwnam("daemon").pw_uid
    home = arena.settings.home
    mode = home.stat().st_mode
    access = access_file.read(arena.settings)
    payload = "payload-" + os.urandom(12).hex()
    needles = [access.client_secret, access.agent_secret, payload]
    needles.append((arena.settings.instance_dir / "broker.key").read_text())
    # a file that he can read, and one that he cannot: the scan is worth something
    for name, bits in (("open", 0o644), ("closed", 0o600)):
        file = Path(tempfile.gettempdir()) / f"{home.name}-{name}"
        file.write_text(f"{name} {payload}")
        file.chmod(bits)
    decoys = [str(Path(tempfile.gettempdir()) / f"{home.name}-{name}") for name in ("open", "closed")]
    load = Load(arena, tmp_path, count=400)
    future = arena.executor().submit("trouble.wait", 25.0, payload)
    home.chmod(0o755)  # the folder of the tests stands for one that is open to all
    try:
        asked = json.dumps({"needles": needles, "pids": [*arena.processes(), arena.pid("broker")]})
        folders = [str(home), str(arena.settings.scratch), str(place_of(arena.settings).base), tempfile.gettempdir()]
        code = (Path(__file__).parent / "prowler.py").read_text()
        done = subprocess.run(
            [sys.executable, "-I", "-c", code, str(other), *folders],
            input=asked, capture_output=True, text=True, timeout=100, check=True,
        )  # fmt: skip
        assert not future.done(), "the payload was there all the time"
    finally:
        home.chmod(mode)
        for decoy in decoys:
            os.unlink(decoy)
    found = json.loads(done.stdout)
    assert str(home) in found["read"]
    assert set(found["needles"]) == {decoys[0]}
    assert decoys[1] not in found["read"]
    instance = str(arena.settings.instance_dir)
    assert not [path for path in found["read"] if path.startswith(instance + "/")]
    assert found["connected"] == []
    assert found["proc"] == []
    assert future.result(40) == payload
    load.ends_well(again_max=0)


def _link(path: Path, away: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.symlink_to(away)


def _file(path: Path, away: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text("")


def _foreign(path: Path, away: Path) -> None:
    path.mkdir(mode=0o777, parents=True)
    os.chown(path, pwd.getpwnam("daemon").pw_uid, -1)


def _users(settings: Settings) -> Path:
    return settings.scratch / f"pyfi-{os.getuid()}"


Where, Trap = Callable[[Settings], Path], Callable[[Path, Path], None]
TRAPS: dict[str, tuple[Where, Trap]] = {
    "a link for the user's scratch": (_users, _link),
    "a file for the user's scratch": (_users, _file),
    "another's folder for the user's scratch": (_users, _foreign),
    "a link for the instance's scratch": (lambda s: s.run_dir, _link),
    "another's folder for the instance's scratch": (lambda s: s.run_dir, _foreign),
    "a link for the instance": (lambda s: s.instance_dir, _link),
    "a link for its logs": (lambda s: s.log_dir, _link),
    "a link for its pids": (lambda s: s.instance_dir / "pids", _link),
    "a link for the file with the keys": (lambda s: s.access_file, _link),
}


def _start(box: Instance) -> str:
    """Start it all; the error of what does not start."""
    try:
        box.start_ledger()
        box.start_broker()
    except (SettingsError, Refused) as error:
        return str(error)
    # the agent is the first that needs the scratch; it ends, and its log says why
    box.start_agent(1, joined=False)
    until(lambda: "is not a private folder" in box.log("agent"), 20.0, "the agent refuses")
    until(lambda: not any("hosts.agent" in words for words in box.processes().values()), 10.0, "it has ended")
    return box.log("agent")


@needs_root
@pytest.mark.parametrize("name", TRAPS)
def test_h5_a_trap_in_a_folder(tmp_path: Path, name: str) -> None:
    """What somebody put there before the first start: refused with its path and a way out; nothing goes through it."""
    where, trap = TRAPS[name]
    folder = Path(tempfile.mkdtemp(prefix="pyfi-t-", dir="/tmp"))
    away = folder / "away"
    away.mkdir()
    box = Instance(folder / "home", "trapped")
    path = where(box.settings)
    trap(path, away)
    try:
        told = _start(box)
        assert str(path) in told, told
        assert "remove it" in told or "instance of your own" in told, told
        assert list(away.iterdir()) == []
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
        box.down()
        shutil.rmtree(folder)


def test_h5_an_open_folder_is_closed_and_a_link_for_a_key_replaced(tmp_path: Path) -> None:
    """Our own folders that others could enter are closed before use; a link where a key goes is not written through."""
    folder = Path(tempfile.mkdtemp(prefix="pyfi-t-", dir="/tmp"))
    box = Instance(folder / "home", "open")
    for path in (_users(box.settings), box.settings.run_dir, box.settings.instance_dir, box.settings.log_dir):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)
    (box.settings.instance_dir / "broker.key").symlink_to(folder / "stolen")
    try:
        box.start_ledger()
        box.start_broker()
        box.start_agent(1)
        for path in (_users(box.settings), box.settings.run_dir, box.settings.instance_dir, box.settings.log_dir):
            assert path.stat().st_mode & 0o077 == 0, path
        key = box.settings.instance_dir / "broker.key"
        assert not key.is_symlink() and key.stat().st_mode & 0o777 == 0o600
        assert not (folder / "stolen").exists()
    finally:
        box.down()
        shutil.rmtree(folder)


# --- H6, H7: repositories ---------------------------------------------------------------------------------


def test_h6_options_in_addresses_and_revisions(arena: Instance, tmp_path: Path) -> None:
    """Options, helpers and other protocols where an address or a revision goes: refused before git runs at all."""
    load = Load(arena, tmp_path, count=400)
    proof, good = tmp_path / "proof", arena.trouble()
    run = f"touch {proof}"
    sources = (
        f"--upload-pack={run}", f"-u{run}", "-", "--", f"ext::sh -c {run}", f"EXT::{run}", f"fd::{run}", "file:///etc",
        f"file://localhost{good}", f"transport::ext::{run}", "git://127.0.0.1/r", "http://127.0.0.1/r", "ftp://h/r",
        f"ssh://-oProxyCommand={run}/r", f"ssh://git@-oProxyCommand={run}/r", "ssh://h/-oProxyCommand=x", "git@h:-x",
        f"-oProxyCommand={run}:r", "h:../--upload-pack=x", "https://h/r\n--upload-pack=x", "https://h/%2d%2dx",
        "https://user:secret@h/r", "https://h/r?x=--y", "https://h/r#-x", "\u2028https://h/r",
    )  # fmt: skip
    for source in sources:
        with pytest.raises(RepositoryRefused) as caught:
            arena.deploy(source)
        assert "secret" not in str(caught.value)
    revisions = (
        f"--upload-pack={run}", f"-u{run}", "--all", "-", "--output=x", "main:trouble.py", "main..HEAD", "@{-1}",
        ":/first", "HEAD\n--all", "^{/first}:x", "refs/heads/*", "main --all", "",
    )  # fmt: skip
    for revision in revisions:
        with pytest.raises(PyfiError, match="refused|no revision"):
            arena.deploy(good, commit=revision or " ")
    assert not proof.exists()
    load.ends_well(again_max=0)


def test_h6_a_submodule_with_a_helper(arena: Instance, tmp_path: Path) -> None:
    """A commit whose submodule's address would run a command, and a branch named like an option: nothing runs."""
    load = Load(arena, tmp_path, count=400)
    proof, folder = tmp_path / "proof", tmp_path / "hostile"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "hostile.py").write_text("def f(): return 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    commit = git(folder, "rev-parse", "HEAD")
    git(folder, "update-ref", "refs/heads/--upload-pack=touch", commit)
    assert arena.deploy(folder).code.commit == commit
    (folder / ".gitmodules").write_text(f'[submodule "m"]\n\tpath = m\n\turl = ext::sh -c touch% {proof}\n')
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{commit},m")
    git(folder, "add", ".gitmodules")
    git(folder, "commit", "--quiet", "-m", "two")
    with pytest.raises(RepositoryRefused, match="submodules.*m"):
        arena.deploy(folder, commit="main")
    assert not proof.exists()
    load.ends_well(again_max=0)


def test_h7_denied_repositories(arena: Instance, https_site: HttpsSite, tmp_path: Path) -> None:
    """A denied folder of an allowed server, by every spelling and through redirects: never asked for."""
    load = Load(arena, tmp_path, count=400)
    address, served, asked = https_site
    port = address.rpartition(":")[2]
    work = tmp_path / "calc"
    work.mkdir()
    git(work, "init", "--quiet", "--initial-branch=main")
    (work / "calc.py").write_text("def f(): return 1\n")
    git(work, "add", ".")
    git(work, "commit", "--quiet", "-m", "one")
    for name in ("group/good.git", "group/secret.git", "group/Secret.git"):
        git(work, "clone", "--quiet", "--bare", ".", str(served / name))
        git(served / name, "update-server-info")
    settings = replace(arena.settings, allow=(f"{address}/*",), deny=("*/group/secret*",))
    assert [one.name for one in deploy.prepare(settings, f"{address}/group/good.git").sockets] == ["good.f"]
    asked.clear()
    host = f"127.0.0.1:{port}"
    tricks = (
        f"{address}/group/secret.git", f"{address}/group/SECRET.git", f"HTTPS://{host}/group/secret",
        f"{address}//group//secret/", f"{address}/group/./secret.git", f"{address}/group/x/../secret.git",
        f"{address}/group/%73ecret.git", f"{address}/group/secret.git/",
        f"https://127.0.0.1:0{port}/group/secret.git", f"https://127.0.0.1.:{port}/group/secret",
        f"https://127.1:{port}/group/good.git", f"https://2130706433:{port}/group/good.git",
        f"https://0x7f.1:{port}/group/good.git", f"https://[::ffff:127.0.0.1]:{port}/group/good.git",
        f"https://localhost:{port}/group/good.git", f"https://{host}@evil.example/group/good.git",
        f"https://evil.example/{host}/group/good.git", "https://127.0.0.1/group/good.git",
        f"ssh://git@127.0.0.1:{port}/group/good.git", f"git@127.0.0.1:{port}/group/good.git",
    )  # fmt: skip
    for trick in tricks:
        with pytest.raises(RepositoryRefused):
            deploy.prepare(settings, trick)
    assert asked == [], "refused before anything was fetched"
    with pytest.raises(CloneFailed, match="could not fetch"):
        deploy.prepare(settings, f"{address}/moved/group/secret.git")
    assert asked and all(path.startswith("/moved/") for path in asked), asked
    # an instance that allows nothing: asked first, and by a client that does not ask
    with pytest.raises(RepositoryRefused, match="not on the allow list"):
        Processor("good", gitrepo=f"{address}/group/good.git", session=arena.session)
    spec = msgspec.to_builtins(deploy.prepare(settings, f"{address}/group/good.git"))
    with pytest.raises(RepositoryRefused, match="not on the allow list"):
        arena.ask("deploy", **spec)
    events = arena.ask("ls", kind="events", filters={"name": "refused"})["rows"]
    assert len(events) == 2 and all(f"{address}/group/good" in event["note"] for event in events)
    load.ends_well(again_max=0)


# --- H9: bombs --------------------------------------------------------------------------------------------


def test_h9_bombs(arena: Instance, tmp_path: Path) -> None:
    """Deep, huge and wrong frames from clients and agents all through a load: dropped; memory stays bounded."""
    broker = psutil.Process(arena.pid("broker"))
    before = broker.memory_info().rss
    load = Load(arena, tmp_path, count=600)
    jobs = len(arena.ask("jobs", limit=1000)["rows"])
    peak, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak.append(broker.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(3):
            for role in ("client", "agent"):
                for name, frame in GARBAGE.items():
                    with dealer(arena, role) as link:
                        link.send(frame)
                        link.send(codec.encode([m.Beat(1)]))
                        assert isinstance(answer(link)[0], m.Unknown), (role, name)
            with dealer(arena) as link:
                welcome(link, hello())
                for name, changes in BAD_BATCHES.items():
                    link.send(codec.encode([submit(**changes)]))
                    assert isinstance(answer(link)[0], m.Refused), name
    finally:
        done.set()
        watcher.join(5)
    print(f"broker: {before >> 20} MiB before, {max(peak) >> 20} MiB at most")
    assert max(peak) < before + (300 << 20)
    assert len(arena.ask("jobs", limit=1000)["rows"]) == jobs
    assert arena.pid("broker") == broker.pid
    load.ends_well(again_max=0)
