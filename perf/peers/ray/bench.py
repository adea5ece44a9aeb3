"""Ray: a head node on this machine, remote functions of one core each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from peer import Peer, free_port, function, processes_named, serve


class Ray(Peer):
    note = "one head node, no dashboard; in memory"
    depends = True

    def start(self, workers: int, folder: str, postgres: str) -> None:
        import ray

        self.workers, self.port, self.folder = workers, free_port(), f"{folder}/ray"
        self._start_head()
        ray.init(address=f"127.0.0.1:{self.port}", log_to_driver=False, logging_level="ERROR")
        self.remote: dict[str, Any] = {}
        self.map("noop", range(100))

    def _start_head(self) -> None:
        words = ["start", "--head", f"--port={self.port}", f"--num-cpus={self.workers}", "--include-dashboard=false"]
        words += ["--disable-usage-stats", f"--temp-dir={self.folder}"]
        ray = str(Path(sys.executable).parent / "ray")
        subprocess.run([ray, *words], check=True, stdout=sys.stderr, timeout=60)

    def stop(self) -> None:
        import ray

        ray.shutdown()

    def submit(self, name: str, *args: Any) -> Any:
        import ray

        if name not in self.remote:
            self.remote[name] = ray.remote(function(name))
        return self.remote[name].remote(*args)

    def results(self, handles: list[Any]) -> list[Any]:
        import ray

        return ray.get(handles)

    def coordinators(self) -> tuple[list[int], str]:
        return processes_named("gcs_server") + processes_named("raylet"), "the head (control service and raylet)"

    def restart(self) -> str:
        self._start_head()
        return "ray start --head"


if __name__ == "__main__":
    serve(Ray())
