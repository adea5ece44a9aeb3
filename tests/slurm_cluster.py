"""A real Slurm cluster of five machines on this one, for tests: a head and four nodes.

A machine is a process tree with its own network, hostname, mounts and process ids (see `machines`)::

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
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import machines
from machines import Machine

_PREFIX = "pyfi-slurm-"
_CPUS_PER_NODE = 4
#: of slurmctld
_PORT = 6817
GPUS_PER_NODE = 4
#: words of a node that Slurm counts on
_UP = ("IDLE", "MIXED", "ALLOCATED")
_PROGRAMS = {
    "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "srun": "slurm-wlm", "sbatch": "slurm-wlm",
    "munged": "munge", "ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux",
    "setpriv": "util-linux",
}  # fmt: skip

_SLURM_CONF = """\
ClusterName={name}
SlurmctldHost={head}({net}.2)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge/socket
StateSaveLocation={here}/ctld
SlurmdSpoolDir={state}/%n/spool
SlurmctldPidFile={here}/slurmctld.pid
SlurmdPidFile={state}/%n/slurmd.pid
SlurmctldLogFile={here}/slurmctld.log
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
{accounting}
{nodes}
PartitionName=batch Nodes=ALL Default=YES MaxTime=60:00 State=UP
PartitionName=short Nodes=ALL MaxTime=20:00 State=UP
"""


def missing() -> list[str]:
    """What this machine lacks for a cluster, in words; empty when it can start."""
    if not sys.platform.startswith("linux"):
        return ["Linux"]
    lacks = sorted({pkg for name, pkg in _PROGRAMS.items() if not shutil.which(name, path=path())})
    if os.geteuid() != 0:
        lacks.append("root")
    elif not lacks:
        try:
            machines.unshare()
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

    #: lines of slurm.conf
    accounting = "AccountingStorageType=accounting_storage/none"

    def __init__(self, nodes: int = 4) -> None:
        self.tag = "c" + secrets.token_hex(2) + "x"
        self.state = machines.BASE / (_PREFIX + self.tag)
        self.shared = self.state / "shared"
        self.nodes = [f"{self.tag}n{i + 1}" for i in range(nodes)]
        self.head = f"{self.tag}head"
        self._net = ""
        self._machines: dict[str, Machine] = {}

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
    def _all_nodes(self) -> list[str]:
        return self.nodes

    def address(self, node: str) -> str:
        return f"{self._net}.{self._all_nodes.index(node) + 11}"

    @property
    def env(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
        return clean | {"SLURM_CONF": str(self.state / "slurm.conf"), "PATH": path()}

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
        return self.run(self._machines[machine].enter(*command), timeout).stdout

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
        return self._machines[node].pids(text)

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

    def kill(self, program: str) -> None:
        """SIGKILL slurmctld or munged; `start` brings it back."""
        for pid in self._on_head(program):
            os.kill(pid, signal.SIGKILL)
        self._wait(lambda: str(len(self._on_head(program))), ("0",), 5, program)

    def start(self, program: str) -> None:
        """Start slurmctld (with the state that it saved) or munged, unless it runs; wait until it answers."""
        if not self._on_head(program):
            options = self._munged() if program == "munged" else ["-f", str(self.state / "slurm.conf")]
            self._daemon(self.head, program, *options)
        self._wait(lambda: str(self.run(["scontrol", "ping"], check=False).returncode), ("0",), 20, program)

    def start_second(self) -> tuple[list[int], list[int]]:
        """Start slurmctld while it runs: its processes before and after, as this machine numbers them."""
        before = self._on_head("slurmctld")
        self._daemon(self.head, "slurmctld", "-f", str(self.state / "slurm.conf"))
        self.start("slurmctld")
        self._wait(lambda: str(len(self._on_head("slurmctld"))), ("1",), 20, "slurmctld")
        return before, self._on_head("slurmctld")

    def start_blind_second(self) -> str:
        """Start a slurmctld that does not see the first one's pid file; what it said when it ended."""
        blind = self.state / "blind.conf"
        text = (self.state / "slurm.conf").read_text()
        blind.write_text(text.replace("/slurmctld.pid", "/blind.pid").replace("/slurmctld.log", "/blind.log"))
        command = self._machines[self.head].enter("slurmctld", "-D", "-f", str(blind))
        done = self.run(command, 30, check=False)
        assert done.returncode, "a second slurmctld ended without an error"
        return done.stdout + done.stderr

    def _on_head(self, program: str) -> list[int]:
        return [pid for pid in self._machines[self.head].guests() if machines.program(pid) == program]

    def cut_off(self, node: str) -> None:
        """Take the node's cable out: nobody is told; `reset` puts it back."""
        self._machines[node].ip("link set eth0 down")

    def plug_in(self, node: str) -> None:
        self._machines[node].ip("link set eth0 up")

    def reset(self) -> None:
        """Cancel every job and bring every node back, so that the next test finds the cluster as new."""
        for node in self.nodes:
            self.plug_in(node)
        self.start("munged")
        self.start("slurmctld")
        self.run(["scancel", "--quiet", "--user=root"], check=False)
        self._kill_strays()
        self._wait(lambda: self.run(["squeue", "-h", "-o", "%i %T"]).stdout.strip(), ("",), 30, "the queue")
        for node in self.nodes:
            if self.node_state(node) != "IDLE":
                self.node_resume(node)

    # --- start and end -----------------------------------------------------------------------------

    def _start(self) -> None:
        for folder in ("shared", "munge", "ctld", self.head, *self._all_nodes):
            (self.state / folder).mkdir(parents=True)
        self.state.chmod(0o755)
        (self.state / "owner").write_text(f"{os.getpid()} {machines.started(os.getpid())}")
        self._start_head()
        self._write_config()
        for node in self._all_nodes:
            self._start_node(node, self.address(node))
        self._start_munged()
        self._start_slurm()
        machines.edit_hosts(self.state.name, self._host_lines())

    def stop(self) -> None:
        """End every machine and remove all traces."""
        for machine in self._machines.values():
            machine.stop()
        with contextlib.suppress(RuntimeError):  # the kernel takes it away with the head, a moment later
            machines.ip(f"link del {self.tag}0")
        _remove_state(self.state)

    def _boot(self, name: str) -> Machine:
        hosts = self.state / "hosts"
        hosts.touch()
        machine = self._machines[name] = Machine(name, self.state / name, hosts)
        machine.ip("link set lo up")
        return machine

    def _start_head(self) -> None:
        """The head has the bridge, and a cable from it to this computer."""
        head = self._boot(self.head)
        self._net = machines.free_network()
        cable = self.tag + "0"
        machines.ip(f"link add {cable} type veth peer name host netns {head.pid}")
        machines.ip(f"addr add {self._net}.1/24 dev {cable}")
        machines.ip(f"link set {cable} up")
        head.ip("link add br0 type bridge")
        head.ip(f"addr add {self._net}.2/24 dev br0")
        head.ip("link set br0 up")
        head.ip("link set host master br0 up")

    def _start_node(self, name: str, address: str) -> None:
        head, node = self._machines[self.head], self._boot(name)
        head.ip(f"link add {name} type veth peer name eth0 netns {node.pid}")
        head.ip(f"link set {name} master br0 up")
        node.ip(f"addr add {address}/24 dev eth0")
        node.ip("link set eth0 up")

    def _write_config(self) -> None:
        self._write_slurm_conf(self.state, self.tag, self.nodes, _PORT)
        # written in place: the machines see this very file over their /etc/hosts
        here = socket.gethostname()
        lines = ["127.0.0.1 localhost", f"{self.host_address} {here}", *self._host_lines()]
        (self.state / "hosts").write_text("\n".join(lines) + "\n")

    def _write_slurm_conf(self, here: Path, name: str, nodes: Sequence[str], port: int) -> None:
        """A cluster's files, and stand-ins for its GPUs: null devices, which Slurm gives out and names as real ones."""
        has = f"CPUs={_CPUS_PER_NODE} RealMemory=4000 Gres=gpu:pretend:{GPUS_PER_NODE}"
        text = _SLURM_CONF.format(
            name=name, head=self.head, net=self._net, state=self.state, here=here, port=port,
            accounting=self.accounting.format(net=self._net, state=self.state),
            nodes="\n".join(f"NodeName={node} NodeAddr={self.address(node)} {has}" for node in nodes),
        )  # fmt: skip
        (here / "slurm.conf").write_text(text)
        for number in range(GPUS_PER_NODE):
            os.mknod(here / f"gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        devices = f"{here}/gpu[0-{GPUS_PER_NODE - 1}]"
        (here / "gres.conf").write_text(f"AutoDetect=off\nName=gpu Type=pretend File={devices}\n")

    def _host_lines(self) -> list[str]:
        return [f"{self._net}.2 {self.head}", *(f"{self.address(node)} {node}" for node in self._all_nodes)]

    def _start_munged(self) -> None:
        key = self.state / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self._daemon(self.head, "munged", *self._munged())

    def _start_slurm(self) -> None:
        conf = str(self.state / "slurm.conf")
        self._daemon(self.head, "slurmctld", "-i", "-f", conf)
        for node in self.nodes:
            self._daemon(node, "slurmd", "-f", conf)
        for node in self.nodes:
            self._wait_node(node, 30)

    def _daemon(self, machine: str, program: str, *options: str, **more: str) -> None:
        """Start a program that puts itself into the background; ``more`` are variables."""
        log = self.state / machine / f"{program}.start.log"
        with open(log, "wb") as out:
            done = subprocess.run(
                self._machines[machine].enter(program, *options),
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=20, env=self.env | more,
                check=False, cwd="/",
            )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} did not start on {machine}: {log.read_text()}")

    def _munged(self) -> list[str]:
        here = self.state / "munge"
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        return [f"--{option}={here / name}" for option, name in files.items()]

    def _kill_strays(self) -> None:
        """End what runs on the nodes beside Slurm.

        Slurm finds processes here by their parents, so it loses those whose parent died, and waits for ever
        for the end of their output. Real sites use cgroups, which lose none.
        """
        for node in self.nodes:
            for pid in self._machines[node].guests():
                if machines.program(pid) not in ("slurmd", "slurmstepd"):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def _slurmds(self, node: str) -> list[int]:
        return [pid for pid in self.node_pids(node, "slurmd") if machines.program(pid) == "slurmd"]

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
    for state in machines.BASE.glob(_PREFIX + "*"):
        try:
            pid, started = (state / "owner").read_text().split()
        except (OSError, ValueError):
            # being made just now, or broken: leave it an hour
            if time.time() - state.stat().st_mtime < 3600:
                continue
            pid, started = "0", ""
        if machines.started(int(pid)) != started:
            _remove_state(state)


def _remove_state(state: Path) -> None:
    machines.edit_hosts(state.name, [])
    shutil.rmtree(state, ignore_errors=True)


def path() -> str:
    return os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
