"""A person's machine and hosts with a real sshd on this one, for tests; each has a home folder of its own.

    login  10.x.y.1   where `pyfi` is typed; no sshd
    a      10.x.y.11  sshd with keys (22), with questions (2222), with a key and then questions (2223)
    b      10.x.y.12  the same; joined by a bridge in `login`, so nothing of this computer's network is touched

A host is a process tree with its own network, hostname, mounts and process ids (see `machines`); users and their
passwords are a file of its own too. Needs root, util-linux, iproute2 and openssh-server; `missing` tells what is not
there. Nothing here is Slurm, and it may run beside a Slurm cluster.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import machines
from machines import Machine

from pyfi_hpc.adapters import environment, own_wheel, pip_config

ROOT = Path(__file__).resolve().parents[1]
_PREFIX = "pyfi-ssh-"
_PROGRAMS = {
    "sshd": "openssh-server", "ssh": "openssh-client", "ip": "iproute2", "openssl": "openssl", "git": "git",
    "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux",
}  # fmt: skip
#: what root answers where a host asks
PASSWORD = "correct horse"
#: port -> how one is let in there
PORTS = {22: "publickey", 2222: "keyboard-interactive", 2223: "publickey,keyboard-interactive"}
_LIMIT_S = 150.0
_UV_SOURCES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_STRATEGY", "UV_FIND_LINKS")

_SSHD = """\
HostKey {state}/{name}/host_key
AuthorizedKeysFile {state}/{name}/home/.ssh/authorized_keys
PidFile {state}/{name}/sshd-{port}.pid
Port {port}
ListenAddress {address}
AuthenticationMethods {methods}
PasswordAuthentication no
KbdInteractiveAuthentication yes
UsePAM yes
PermitRootLogin yes
StrictModes no
PrintMotd no
UseDNS no
AllowTcpForwarding yes
"""
_PAM = "auth required pam_unix.so nodelay\naccount required pam_permit.so\nsession required pam_permit.so\n"


def missing() -> list[str]:
    """What this machine lacks, in words; empty when a lab can be made."""
    if not sys.platform.startswith("linux"):
        return ["Linux"]
    lacks = sorted({pkg for name, pkg in _PROGRAMS.items() if not shutil.which(name, path=_path())})
    if environment.find_uv() is None:
        lacks.append("uv")
    if os.geteuid() != 0:
        lacks.append("root")
    elif not lacks:
        try:
            machines.unshare()
        except OSError as error:
            lacks.append(str(error))
    return lacks


class Lab:
    """The machines; use as a context manager."""

    def __init__(self) -> None:
        self.tag = "h" + secrets.token_hex(2) + "x"
        self.state = machines.BASE / (_PREFIX + self.tag)
        self.hosts = [f"{self.tag}a", f"{self.tag}b"]
        self.login = f"{self.tag}l"
        #: PYFI_HOME of the person, which no host sees
        self.home = self.state / self.login / "home" / "state"
        self._machines: dict[str, Machine] = {}
        #: a Python with what a node installs, and what that is
        self._trial, self._package = self.state / "trial" / "bin" / "python", ""
        self._net = machines.free_network()

    def __enter__(self) -> Lab:
        _remove_remains()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for machine in self._machines.values():
            machine.stop()
        shutil.rmtree(self.state, ignore_errors=True)

    def address(self, name: str) -> str:
        return f"{self._net}.{1 if name == self.login else self.hosts.index(name) + 11}"

    @property
    def shared(self) -> Path:
        """A folder that all machines see, hidden home or not."""
        return self.state

    # --- what tests do with it ---------------------------------------------------------------------

    def run(
        self, machine: str, command: Sequence[str], *, code: int | None = 0, timeout: float = _LIMIT_S, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine as the person; it must end with ``code`` unless that is None."""
        done = subprocess.run(
            self.command(machine, command, **more), text=True, capture_output=True, timeout=timeout, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        said = f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert code is None or done.returncode == code, said
        return done

    def command(self, machine: str, command: Sequence[str], **more: str) -> list[str]:
        variables = self.environment(machine) | more
        words = [f"{name}={value}" for name, value in variables.items()]
        return [*self._machines[machine].enter("env", "-i", *words), *command]

    def pyfi(self, *arguments: str, code: int | None = 0, **more: str) -> subprocess.CompletedProcess[str]:
        return self.run(self.login, [sys.executable, "-m", "pyfi_hpc.cli.main", *arguments], code=code, **more)

    def environment(self, machine: str) -> dict[str, str]:
        found = {"HOME": str(self.home_of(machine)), "PATH": _path(), "LC_ALL": "C.UTF-8", "TERM": "dumb"}
        if machine == self.login:
            found |= {"PYTHONPATH": str(ROOT), "PYFI_HOME": str(self.home), "PYFI_INSTANCE": "lab", "TZ": "UTC"}
            # what the person deploys is built from what this computer has fetched before
            found |= self._offline()
        return found

    def home_of(self, machine: str) -> Path:
        return self.state / machine / "home"

    def pids(self, machine: str, text: str = "") -> list[int]:
        """Processes of a machine, as this computer numbers them, whose command line has ``text``."""
        return self._machines[machine].pids(text)

    def cut_off(self, machine: str, out: bool = True) -> None:
        """Take the cable out, or put it back: nobody is told."""
        self._machines[machine].ip(f"link set eth0 {'down' if out else 'up'}")

    def hide_home(self, machine: str) -> None:
        """From now on this host does not see the person's files: there is no shared file system."""
        self._mount(machine, "-t", "tmpfs", "tmpfs", str(self.state / self.login))

    def show_home(self, machine: str) -> None:
        subprocess.run(
            self._machines[machine].enter("umount", str(self.state / self.login)), check=False, timeout=10,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def small_disk(self, machine: str) -> Path:
        """A folder with room for next to nothing."""
        folder = self.home_of(machine) / "small"
        folder.mkdir(exist_ok=True)
        self._mount(machine, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
        return folder

    @contextlib.contextmanager
    def only_pip(self, machine: str) -> Iterator[None]:
        """A host without uv, whose pip is told of a folder with all that was fetched: there is no way out."""
        wheels = self.state / "wheels"
        if not wheels.exists():
            download = [str(self._trial), "-I", "-m", "pip", "download", "-q", "-d", str(wheels), self._package]
            subprocess.run(download, check=True, timeout=280)
        uv = self.home_of(machine) / ".local" / "bin" / "uv"
        config = self.home_of(machine) / ".config" / "pip" / "pip.conf"
        config.parent.mkdir()
        config.write_text(f"[global]\nno-index = true\nfind-links = {wheels}\n")
        uv.rename(uv.with_suffix(".away"))
        try:
            yield
        finally:
            uv.with_suffix(".away").rename(uv)
            shutil.rmtree(config.parent)

    def fingerprint(self, machine: str) -> str:
        return _must("ssh-keygen", "-l", "-f", str(self.state / machine / "host_key")).split()[1]

    def make_key(self, file: Path, passphrase: str, machine: str) -> None:
        """A key with a passphrase that a host takes."""
        _must("ssh-keygen", "-q", "-t", "rsa", "-N", passphrase, "-f", str(file))
        with open(self.home_of(machine) / ".ssh" / "authorized_keys", "a") as keys:
            keys.write(Path(f"{file}.pub").read_text())

    def accepted(self, machine: str) -> list[str]:
        """Lines of sshd's log on who was let in, and from where."""
        log = (self.state / machine / "sshd-22.conf.log").read_text()
        return [line for line in log.splitlines() if "Accepted" in line]

    def open_master(self, machine: str, port: int) -> Path:
        """A connection that the operator opens, answering the host's question; its socket."""
        folder = self.home_of(self.login)
        answer = folder / "answer"
        answer.write_text(f"#!/bin/sh\necho {PASSWORD}\n")
        answer.chmod(0o700)
        socket_ = folder / "m"
        self.run(
            self.login, ["ssh", "-M", "-S", str(socket_), "-f", "-N", "-p", str(port), machine],
            SSH_ASKPASS=str(answer), SSH_ASKPASS_REQUIRE="force",
        )  # fmt: skip
        return socket_

    def restart_sshd(self, machine: str) -> None:
        for port in PORTS:
            self._sshd(machine, port)

    def new_host_key(self, machine: str) -> str:
        """Give a host another key, as a host that was set up anew has; its fingerprint."""
        file = self.state / machine / "host_key"
        for old in (file, file.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        _must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file))
        return _must("ssh-keygen", "-l", "-f", str(file)).split()[1]

    def known_hosts(self) -> Path:
        return self.home_of(self.login) / ".ssh" / "known_hosts"

    def know(self, *machines_: str) -> None:
        """Write the true keys of these hosts, at all ports, into the person's known_hosts; no others are known."""
        lines = []
        for machine in machines_:
            key = " ".join((self.state / machine / "host_key.pub").read_text().split()[:2])
            for port in PORTS:
                for name in (machine, self.address(machine)):
                    lines.append(f"{name if port == 22 else f'[{name}]:{port}'} {key}")
        self.known_hosts().write_text("".join(line + "\n" for line in lines))

    # --- start -------------------------------------------------------------------------------------

    def _start(self) -> None:
        for name in (self.login, *self.hosts):
            (self.state / name / "home" / ".ssh").mkdir(parents=True, mode=0o700)
        self.state.chmod(0o755)
        (self.state / "owner").write_text(f"{os.getpid()} {machines.started(os.getpid())}")
        lines = ["127.0.0.1 localhost", *(f"{self.address(name)} {name}" for name in (self.login, *self.hosts))]
        (self.state / "hosts").write_text("\n".join(lines) + "\n")
        key = self.home_of(self.login) / ".ssh" / "id_ed25519"
        _must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        self._wire_up()
        self._people(self.login)  # ssh looks for its files in the home that passwd names
        self._fill_cache()
        for name in self.hosts:
            public = key.with_suffix(".pub").read_text()
            (self.home_of(name) / ".ssh" / "authorized_keys").write_text(public)
            # uv as a user has it, told where this computer keeps what it has fetched
            (self.home_of(name) / ".local" / "bin").mkdir(parents=True)
            shutil.copy(str(environment.find_uv()), self.home_of(name) / ".local" / "bin" / "uv")
            # a host that saw the login machine's own environment would use it, and install nothing
            self._mount(name, "-t", "tmpfs", "tmpfs", sys.prefix)
            (self.home_of(name) / ".config" / "uv").mkdir(parents=True)
            (self.home_of(name) / ".config" / "uv" / "uv.toml").write_text(self._uv_config())
            self._people(name)
            self.new_host_key(name)
            self.restart_sshd(name)
        self.know(*self.hosts)

    def _wire_up(self) -> None:
        for name in (self.login, *self.hosts):
            machine = self._machines[name] = Machine(name, self.state / name, self.state / "hosts")
            machine.ip("link set lo up")
        login = self._machines[self.login]
        login.ip("link add br0 type bridge")
        login.ip(f"addr add {self.address(self.login)}/24 dev br0")
        login.ip("link set br0 up")
        for name in self.hosts:
            host = self._machines[name]
            login.ip(f"link add {name} type veth peer name eth0 netns {host.pid}")
            login.ip(f"link set {name} master br0 up")
            host.ip(f"addr add {self.address(name)}/24 dev eth0")
            host.ip("link set eth0 up")

    def _people(self, name: str) -> None:
        """Root's home and password on a host."""
        folder = self.state / name
        passwd = Path("/etc/passwd").read_text().splitlines()
        root = f"root:x:0:0:root:{self.home_of(name)}:/bin/sh"
        (folder / "passwd").write_text("\n".join([root, *(p for p in passwd if not p.startswith("root:"))]) + "\n")
        word = _must("openssl", "passwd", "-6", PASSWORD).strip()
        (folder / "shadow").write_text(f"root:{word}:19000:0:99999:7:::\nsshd:!:19000::::::\n")
        (folder / "shadow").chmod(0o600)
        (folder / "pam").write_text(_PAM)
        for file, there in (("passwd", "/etc/passwd"), ("shadow", "/etc/shadow"), ("pam", "/etc/pam.d/sshd")):
            self._mount(name, "--bind", str(folder / file), there)

    def _mount(self, machine: str, *words: str) -> None:
        subprocess.run(self._machines[machine].enter("mount", *words), check=True, timeout=10)

    def _sshd(self, name: str, port: int) -> None:
        folder = self.state / name
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        pid = folder / f"sshd-{port}.pid"
        if pid.exists():
            inside = pid.read_text().strip()
            subprocess.run(self._machines[name].enter("kill", inside), check=False, timeout=10)
            pid.unlink(missing_ok=True)
        config = folder / f"sshd-{port}.conf"
        text = _SSHD.format(state=self.state, name=name, port=port, address=self.address(name), methods=PORTS[port])
        config.write_text(text)
        deadline = time.monotonic() + 10
        while True:
            command = [str(shutil.which("sshd", path=_path())), "-f", str(config), "-E", f"{config}.log"]
            done = subprocess.run(
                self._machines[name].enter(*command), check=False, timeout=10, env={"PATH": _path()}
            )
            if done.returncode == 0 and pid.exists():
                return
            assert time.monotonic() < deadline, Path(f"{config}.log").read_text()
            time.sleep(0.05)

    def _fill_cache(self) -> None:
        """Fetch what a node installs, once, where hosts without a way out find it."""
        wheel = own_wheel.make(self.home / "cache")
        uv = str(environment.find_uv())
        python = shutil.which("python3", path="/usr/bin") or sys.executable
        env = {**os.environ, **pip_config.for_uv(os.environ), "UV_PYTHON_DOWNLOADS": "never"}
        self._package = f"{wheel.file}[mpi]"
        install = ["pip", "install", "-q", "--python", str(self._trial), self._package]
        for words in (["venv", "-q", "--seed", "--python", python, str(self._trial.parents[1])], install):
            subprocess.run([uv, *words], check=True, timeout=280, env=env)

    def _offline(self) -> dict[str, str]:
        """Variables for uv: only what was fetched before, found under the sources that it was fetched from."""
        cache = os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache" / "uv")
        set_ = {name: value for name, value in os.environ.items() if name in _UV_SOURCES}
        return {**set_, **pip_config.for_uv(os.environ), "UV_CACHE_DIR": cache, "UV_OFFLINE": "1"}

    def _uv_config(self) -> str:
        """The same as a user's uv.toml."""
        found = self._offline()
        lines = ["offline = true", f'cache-dir = "{found["UV_CACHE_DIR"]}"']
        if found.get("UV_DEFAULT_INDEX"):
            lines.append(f'index-url = "{found["UV_DEFAULT_INDEX"]}"')
        if found.get("UV_INDEX"):
            lines.append(f"extra-index-url = {found['UV_INDEX'].split()}")
            lines.append(f'index-strategy = "{found.get("UV_INDEX_STRATEGY", "first-index")}"')
        if found.get("UV_FIND_LINKS"):
            lines.append(f"find-links = {found['UV_FIND_LINKS'].split(',')}")
        return "\n".join(lines) + "\n"


def _remove_remains() -> None:
    """Folders of labs whose process was killed."""
    for folder in machines.BASE.glob(_PREFIX + "*"):
        try:
            pid, started = (folder / "owner").read_text().split()
        except (OSError, ValueError):
            continue
        if machines.started(int(pid)) != started:
            shutil.rmtree(folder, ignore_errors=True)


def _must(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def _path() -> str:
    return os.pathsep.join(dict.fromkeys(["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]))
