"""A real Slurm cluster of five machines on this one, for tests: a head and four nodes.

Each machine is one process tree with its own network, hostname, mounts and process ids, so that ending
its first process ends the machine with all that ran on it::

    this machine  10.x.y.1  --veth--+  broker, client, test
    head          10.x.y.2  bridge--+  munged, slurmctld
    TAGn1 .. n4   10.x.y.11..14 ----+  slurmd, ranks; own /tmp, /dev/shm, no way out

The bridge lives in the head, so nothing is left of the network when the head has ended. Machines end with
the process that started them, also when that is killed. What can remain then is a folder and four lines
in ``/etc/hosts``; the next start removes both. Nothing here touches a Slurm that the machine may have.

It needs root, util-linux, iproute2, slurm-wlm and munge; `missing` tells what is not there.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

#: not in /tmp: that is private to each node
_BASE = Path("/var/tmp")
_PREFIX = "pyfi-slurm-"
_HOSTS = Path("/etc/hosts")
_CPUS_PER_NODE = 4
#: words of a node that Slurm counts on
_UP = ("IDLE", "MIXED", "ALLOCATED")
_PROGRAMS = {
    "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "srun": "slurm-wlm", "sbatch": "slurm-wlm",
    "munged": "munge", "ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux",
    "setpriv": "util-linux",
}  # fmt: skip

_SLURM_CONF = """\
ClusterName={tag}
SlurmctldHost={tag}head({net}.2)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge/socket
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/%n/spool
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/%n/slurmd.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/%n/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=10
KillWait=2
InactiveLimit=0
MinJobAge=600
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=batch Nodes=ALL Default=YES MaxTime=60:00 State=UP
"""

_HOST_INIT = """\
echo {name} > /proc/sys/kernel/hostname
mount --bind {state}/hosts /etc/hosts
mount --bind {repo} {state}/{name}/repo
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
[ -d {repo} ] || {{ mkdir -p {repo} && mount --bind {state}/{name}/repo {repo}; }}
umount {state}/{name}/repo
: > {state}/{name}/ready
while :; do sleep 3600 & wait $!; done
"""


def missing() -> list[str]:
    """What this machine lacks for a cluster, in words; empty when it can start."""
    if not sys.platform.startswith("linux"):
        return ["Linux"]
    lacks = sorted({pkg for name, pkg in _PROGRAMS.items() if not shutil.which(name, path=_path())})
    if os.geteuid() != 0:
        lacks.append("root")
    elif not lacks:
        try:
            _unshare()
        except OSError as error:
            lacks.append(str(error))
    return lacks


class Cluster:
    """A running cluster; use as a context manager.

    Attributes
    ----------
    nodes : list of str
        The four nodes' names, which resolve on every machine and on this one.
    host_address : str
        This machine as the nodes see it.
    shared : Path
        A folder that this machine and all nodes see under one name (the nodes' ``/tmp`` is their own).
    env : dict
        The environment for Slurm commands.
    """

    def __init__(self, nodes: int = 4) -> None:
        self.tag = "c" + secrets.token_hex(2) + "x"
        self.state = _BASE / (_PREFIX + self.tag)
        self.shared = self.state / "shared"
        self.nodes = [f"{self.tag}n{i + 1}" for i in range(nodes)]
        self.head = f"{self.tag}head"
        self._net = ""
        self._inits: dict[str, int] = {}
        self._machines: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        remove_remains()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def host_address(self) -> str:
        return f"{self._net}.1"

    @property
    def env(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
        return clean | {"SLURM_CONF": str(self.state / "slurm.conf"), "PATH": _path()}

    # --- what tests do with it ---------------------------------------------------------------------

    def run(
        self,
        command: Sequence[str],
        timeout: float = 30,
        *,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this machine against the cluster, in the shared folder.

        Raises
        ------
        AssertionError
            It failed (with ``check``) or ran longer than ``timeout`` seconds; its output is in the message.
        """
        try:
            done = subprocess.run(
                list(command), cwd=self.shared, env=self.env | dict(env or {}), timeout=timeout, text=True,
                capture_output=True, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            said = f"{error.stdout!r}\n{error.stderr!r}"
            raise AssertionError(f"{command} ran over {timeout} s\n{said}") from error
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def run_on(self, machine: str, command: Sequence[str], timeout: float = 30) -> str:
        """Run a command on a node or the head, as root; returns what it printed."""
        return self.run([*self._enter(machine), *command], timeout).stdout

    def sbatch(self, script: str, *options: str) -> int:
        """Submit a script's text; returns the Slurm job id."""
        file = self.shared / f"{secrets.token_hex(4)}.sbatch"
        file.write_text(script)
        return int(self.run(["sbatch", "--parsable", *options, str(file)]).stdout.split(";")[0])

    def job_state(self, job: int) -> str:
        """Slurm's word for the job: PENDING, RUNNING, COMPLETED, TIMEOUT ..."""
        return self._field(["scontrol", "-o", "show", "job", str(job)], "JobState")

    def wait_job(self, job: int, *states: str, timeout: float = 30) -> str:
        """Wait until the job is in one of these states; returns it."""
        return self._wait(lambda: self.job_state(job), states, timeout, f"job {job}")

    def node_state(self, node: str) -> str:
        return self._field(["scontrol", "-o", "show", "node", node], "State")

    def node_pids(self, node: str, text: str = "") -> list[int]:
        """Processes on this node, as this machine numbers them, whose command line has ``text``."""
        space = os.stat(f"/proc/{self._inits[node]}/ns/pid").st_ino
        here = [pid for pid in _pids() if _inode(f"/proc/{pid}/ns/pid") == space]
        return [pid for pid in here if text in _command_line(pid)]

    def node_down(self, node: str) -> None:
        """Tell Slurm that the node is gone; what runs there goes on until slurmd ends it."""
        self.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"])

    def node_resume(self, node: str, timeout: float = 20) -> None:
        """Bring the node back after `node_down` or `kill_slurmd`, and wait until Slurm counts on it."""
        if not self._slurmds(node):
            self._daemon(node, "slurmd", "-f", str(self.state / "slurm.conf"))
        if self.node_state(node) not in _UP:
            self.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)
        self._wait_node(node, timeout)

    def kill_slurmd(self, node: str) -> None:
        """SIGKILL the node's slurmd: Slurm loses sight of the node while its ranks live on."""
        for pid in self._slurmds(node):
            os.kill(pid, signal.SIGKILL)

    def reset(self) -> None:
        """Cancel every job and bring every node back, so that the next test finds the cluster as new."""
        self.run(["scancel", "--quiet", "--user=root"], check=False)
        for pid in self._user_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._wait(lambda: self.run(["squeue", "-h", "-o", "%i %T"]).stdout.strip(), ("",), 30, "the queue")
        for node in self.nodes:
            if self.node_state(node) != "IDLE":
                self.node_resume(node)

    # --- start and end -----------------------------------------------------------------------------

    def _start(self) -> None:
        for folder in ("shared", "munge", "ctld", self.head, *self.nodes):
            (self.state / folder).mkdir(parents=True)
        self.state.chmod(0o755)
        (self.state / "owner").write_text(f"{os.getpid()} {_started(os.getpid())}")
        self._boot(self.head)
        self._net = self._wire_head()
        self._write_config()
        for number, node in enumerate(self.nodes):
            self._boot(node)
            self._wire_node(node, f"{self._net}.{number + 11}")
        self._start_daemons()
        _edit_hosts(add=self._host_lines(), tag=self.tag)

    def stop(self) -> None:
        """End every machine and remove all traces."""
        for machine in self._machines.values():
            machine.kill()
        for machine in self._machines.values():
            machine.wait(10)
        self._wait(lambda: str(any(_stat(pid) for pid in self._inits.values())), ("False",), 10, "a machine")
        with contextlib.suppress(RuntimeError):  # the kernel takes it away with the head, a moment later
            _ip("link", "del", self.tag + "0")
        _remove_state(self.state)

    def _boot(self, name: str) -> None:
        """Start a machine: it has no network yet and runs nothing."""
        (self.state / "hosts").touch()
        (self.state / name / "repo").mkdir()
        script = _HOST_INIT.format(name=name, state=self.state, repo=_repository())
        with open(self.state / name / "init.log", "wb") as log:
            self._machines[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *_unshare(), "sh", "-ec", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        parent = self._machines[name]
        deadline = time.monotonic() + 10
        while not (self.state / name / "ready").exists():
            if parent.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start: " + (self.state / name / "init.log").read_text())
            time.sleep(0.01)
        self._inits[name] = next(pid for pid in _pids() if _parent(pid) == parent.pid)

    def _wire_head(self) -> str:
        """Make the bridge in the head and the cable to it; returns the first three numbers of the network."""
        head = str(self._inits[self.head])
        net = _free_network()
        cable = self.tag + "0"
        _ip("link", "add", cable, "type", "veth", "peer", "name", "host", "netns", head)
        _ip("addr", "add", f"{net}.1/24", "dev", cable)
        _ip("link", "set", cable, "up")
        for line in (
            "link set lo up", "link add br0 type bridge", f"addr add {net}.2/24 dev br0", "link set br0 up",
            "link set host master br0 up",
        ):  # fmt: skip
            _ip(*line.split(), inside=head)
        return net

    def _wire_node(self, node: str, address: str) -> None:
        head, pid = str(self._inits[self.head]), str(self._inits[node])
        _ip("link", "add", node, "type", "veth", "peer", "name", "eth0", "netns", pid, inside=head)
        _ip("link", "set", node, "master", "br0", "up", inside=head)
        _ip("link", "set", "lo", "up", inside=pid)
        _ip("addr", "add", f"{address}/24", "dev", "eth0", inside=pid)
        _ip("link", "set", "eth0", "up", inside=pid)

    def _write_config(self) -> None:
        nodes = "\n".join(
            f"NodeName={node} NodeAddr={self._net}.{i + 11} CPUs={_CPUS_PER_NODE} RealMemory=4000 Gres=gpu:4"
            for i, node in enumerate(self.nodes)
        )
        text = _SLURM_CONF.format(tag=self.tag, net=self._net, state=self.state, nodes=nodes)
        (self.state / "slurm.conf").write_text(text)
        # counted, not there: enough to see that Slurm takes what we ask for
        for number in range(4):
            (self.state / f"gpu{number}").touch()
        (self.state / "gres.conf").write_text(f"Name=gpu File={self.state}/gpu[0-3]\n")
        # written in place: the machines see this very file over their /etc/hosts
        here = socket.gethostname()
        lines = ["127.0.0.1 localhost", f"{self.host_address} {here}", *self._host_lines()]
        (self.state / "hosts").write_text("\n".join(lines) + "\n")

    def _host_lines(self) -> list[str]:
        named = {self.head: 2} | {node: i + 11 for i, node in enumerate(self.nodes)}
        return [f"{self._net}.{last} {name}" for name, last in named.items()]

    def _start_daemons(self) -> None:
        key = self.state / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        here = self.state / "munge"
        self._daemon(
            self.head, "munged", f"--key-file={key}", f"--socket={here}/socket", f"--pid-file={here}/pid",
            f"--log-file={here}/log", f"--seed-file={here}/seed",
        )  # fmt: skip
        conf = str(self.state / "slurm.conf")
        self._daemon(self.head, "slurmctld", "-i", "-f", conf)
        for node in self.nodes:
            self._daemon(node, "slurmd", "-f", conf)
        for node in self.nodes:
            self._wait_node(node, 30)

    def _daemon(self, machine: str, program: str, *options: str) -> None:
        """Start a program that puts itself into the background."""
        log = self.state / machine / f"{program}.start.log"
        with open(log, "wb") as out:
            done = subprocess.run(
                [*self._enter(machine), program, *options], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                timeout=20, env=self.env, check=False, cwd="/",
            )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} did not start on {machine}: {log.read_text()}")

    def _user_pids(self) -> list[int]:
        """What runs on the nodes beside the machine itself and Slurm.

        Slurm finds processes here by their parents, so it loses those whose parent died, and waits for ever
        for the end of their output. Real sites use cgroups, which lose none.
        """
        ours = ("slurmd", "slurmstepd")
        return [
            pid
            for node in self.nodes
            for pid in self.node_pids(node)
            if pid != self._inits[node] and _name(pid) not in ours and "sleep 3600" not in _command_line(pid)
        ]

    def _slurmds(self, node: str) -> list[int]:
        return [pid for pid in self.node_pids(node, "slurmd") if _name(pid) == "slurmd"]

    def _enter(self, machine: str) -> list[str]:
        # --root: entering the mounts alone would leave a chroot that we may be in
        spaces = ("--net", "--uts", "--mount", "--ipc", "--pid", "--root", "--wd")
        return ["nsenter", "--target", str(self._inits[machine]), *spaces]

    def _wait_node(self, node: str, timeout: float) -> None:
        self._wait(lambda: self.node_state(node), _UP, timeout, node)

    def _field(self, command: list[str], name: str) -> str:
        text = self.run(command, check=False).stdout
        return text.partition(f" {name}=")[2].split(" ")[0].strip()

    def _wait(self, look: Callable[[], str], wanted: Sequence[str], timeout: float, what: str) -> str:
        deadline = time.monotonic() + timeout
        while (seen := look()) not in wanted:
            if time.monotonic() > deadline:
                log = self.state / "slurmctld.log"
                tail = log.read_text()[-1500:] if log.exists() else ""
                raise AssertionError(f"{what} is {seen!r}, not {wanted}, after {timeout} s\n{tail}")
            time.sleep(0.05)
        return seen


def remove_remains() -> None:
    """Remove what clusters left whose process was killed; their machines ended with it."""
    for state in _BASE.glob(_PREFIX + "*"):
        try:
            pid, started = (state / "owner").read_text().split()
        except (OSError, ValueError):
            # being made just now, or broken: leave it an hour
            if time.time() - state.stat().st_mtime < 3600:
                continue
            pid, started = "0", ""
        if _started(int(pid)) != started:
            _remove_state(state)


def _remove_state(state: Path) -> None:
    _edit_hosts(add=[], tag=state.name.removeprefix(_PREFIX))
    shutil.rmtree(state, ignore_errors=True)


def _edit_hosts(*, add: list[str], tag: str) -> None:
    """Take our marked lines out of /etc/hosts and put others in; in place, as it may be a bind mount."""
    mark = f"# {_PREFIX}{tag}"
    with open(_HOSTS, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = file.read()
        kept = [line for line in before.splitlines() if not line.endswith(mark)]
        after = "\n".join(kept + [f"{line} {mark}" for line in add]) + "\n"
        if after != before:
            file.seek(0)
            file.write(after)
            file.truncate()


@functools.cache
def _unshare() -> tuple[str, ...]:
    """The command that starts a process as a machine of its own, whose mounts stay its own.

    Raises
    ------
    OSError
        It is not possible here, and why.
    """
    machine = (
        "unshare",
        "--net",
        "--uts",
        "--ipc",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--mount",
    )
    trial = subprocess.run([*machine, "true"], capture_output=True, text=True, timeout=10, check=False)
    if not trial.returncode:
        return machine
    # In a chroot the root is no mount point, so unshare cannot cut the ties to the outer mounts. They may be
    # cut already: mount something inside, and look whether it shows outside.
    machine = (*machine, "--propagation", "unchanged")
    with tempfile.TemporaryDirectory(dir=_BASE) as folder:
        look = ["sh", "-c", 'mount -t tmpfs tmpfs "$0" && echo mounted && read -r end', folder]
        with subprocess.Popen(
            [*machine, *look], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as inside:
            assert inside.stdout is not None
            mounted = inside.stdout.readline()
            leaks = os.path.ismount(folder)
        if leaks:
            subprocess.run(["umount", folder], timeout=10, check=True)
    if not mounted or leaks:
        raise OSError(f"namespaces ({trial.stderr.strip()})")
    return machine


def _ip(*words: str, inside: str = "") -> None:
    enter = ["nsenter", "--target", inside, "--net"] if inside else []
    done = subprocess.run([*enter, "ip", *words], capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _free_network() -> str:
    used = subprocess.run(["ip", "route"], capture_output=True, text=True, timeout=10, check=True).stdout
    while (net := f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(256)}") in used:
        pass
    return net


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


def _repository() -> Path:
    return Path(__file__).resolve().parent.parent


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may itself hold spaces; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _parent(pid: int) -> int:
    return int((_stat(pid) or ["", "0"])[1])


def _started(pid: int) -> str:
    """When the process began, in clock ticks: tells it from a later one with the same number."""
    return (_stat(pid) or [""] * 20)[19]


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
