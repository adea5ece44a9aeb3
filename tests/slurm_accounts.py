"""Two Slurm clusters whose jobs are accounted for by one slurmdbd, so that one reaches the other by its name.

    head    munged, mariadbd, slurmdbd, slurmctld of both clusters
    TAGn1   a node of the first, TAGw1 a node of the second, which is called west

Commands on this machine belong to the first cluster; with ``--clusters=west`` they go to the second, as slurmdbd
tells where it is. On west's node the path of slurm.conf leads to west's. Needs slurmdbd and mariadb-server-core beside
what `slurm_cluster` needs.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import slurm_cluster
from slurm_cluster import Cluster

_PROGRAMS = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server-core"}
#: what makes an empty database's own tables
_TABLES = [Path(f"/usr/share/mysql/mysql_system_tables{part}.sql") for part in ("", "_data")]
WEST = "west"
_WEST_PORT = 6827
#: of the database, which nobody outside the head's machine reaches
_PORT = 3306

_SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={state}/munge/socket
DbdHost={head}
SlurmUser=root
PidFile={state}/slurmdbd.pid
LogFile={state}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={port}
StorageUser=slurm
StoragePass={password}
"""


def missing() -> list[str]:
    """What this machine lacks for it, in words."""
    lacks = {package for program, package in _PROGRAMS.items() if not shutil.which(program, path=slurm_cluster.path())}
    return [*slurm_cluster.missing(), *sorted(lacks)]


class Accounted(Cluster):
    """The running clusters; use as a context manager. ``nodes`` are those of the first."""

    accounting = (
        "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost={net}.2\n"
        "AccountingStoragePass={state}/munge/socket"
    )

    def __init__(self) -> None:
        super().__init__(nodes=1)
        self.west_node = f"{self.tag}w1"
        self._database: subprocess.Popen[bytes] | None = None

    @property
    def _all_nodes(self) -> list[str]:
        return [*self.nodes, self.west_node]

    def stop(self) -> None:
        super().stop()  # and with the head its database
        if self._database is not None:
            self._database.wait(10)

    def _write_config(self) -> None:
        super()._write_config()
        west = self.state / WEST
        (west / "ctld").mkdir(parents=True)
        self._write_slurm_conf(west, WEST, [self.west_node], _WEST_PORT)
        password = "of-tests"
        config = self.state / "slurmdbd.conf"
        config.write_text(_SLURMDBD_CONF.format(state=self.state, head=self.head, port=_PORT, password=password))
        config.chmod(0o600)
        (self.state / "grants.sql").write_text(
            f"CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';\n"
            "GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';\n"
        )

    def _start_slurm(self) -> None:
        self._start_database()
        self._until(["grep", "-q", "ready for connections", str(self.state / "mariadbd.log")])
        self._daemon(self.head, "slurmdbd")
        for name in (self.tag, WEST):
            self._until(["sacctmgr", "-i", "add", "cluster", name])
        super()._start_slurm()
        west = self.state / WEST / "slurm.conf"
        self._daemon(self.head, "slurmctld", "-i", "-f", str(west), SLURM_CONF=str(west))
        seen = str(self.state / "slurm.conf")
        self.run(self._machines[self.west_node].enter("mount", "--bind", str(west), seen))
        self._daemon(self.west_node, "slurmd", "-f", seen)
        self._until(["sh", "-c", f"sinfo --clusters={WEST} -h -o %T | grep -q idle"])

    def _start_database(self) -> None:
        data = self.state / "accounts"
        words = [
            "--no-defaults", "--user=root", f"--datadir={data}", "--skip-name-resolve", "--innodb-buffer-pool-size=16M",
            "--innodb-log-file-size=8M",
        ]  # fmt: skip
        enter = self._machines[self.head].enter
        data.mkdir()
        tables = "\n".join(["CREATE DATABASE mysql;", "USE mysql;", *(file.read_text() for file in _TABLES)])
        made = subprocess.run(
            enter("mariadbd", *words, "--bootstrap"), input=tables, text=True, capture_output=True, timeout=60,
            env=self.env, check=False,
        )  # fmt: skip
        assert not made.returncode, made.stdout + made.stderr
        with open(self.state / "mariadbd.log", "wb") as log:
            self._database = subprocess.Popen(
                enter(
                    "mariadbd", *words, "--bind-address=127.0.0.1", f"--port={_PORT}",
                    f"--socket={self.state}/accounts.sock", f"--init-file={self.state}/grants.sql",
                ),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, cwd="/",
            )  # fmt: skip

    def _until(self, command: list[str]) -> None:
        """Repeat a command until it ends well: what it asks is just starting."""
        deadline = time.monotonic() + 30
        while (done := self.run(command, check=False)).returncode:
            if time.monotonic() > deadline:
                logs = [self.state / name for name in ("mariadbd.log", "slurmdbd.log", "slurmctld.log")]
                tails = [log.read_text()[-2000:] for log in logs if log.exists()]
                raise AssertionError("\n".join([f"{command}: {done.stdout}{done.stderr}", *tails]))
            time.sleep(0.1)
