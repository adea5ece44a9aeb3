"""Programs on the ranks of a task: ``pyfi_task.step`` and ``pyfi_task.hosts``.

A task of ``launch="step"`` runs once, and its ranks, on this node and others, are there for what it starts: inside an
allocation of Slurm by ``srun`` as a step of its own, else by ``mpiexec``, for one rank without either. Each process
goes through ``bound.py``, which gives it the cores and GPUs of its rank.

    runner -- srun or mpiexec -- bound.py, which becomes the program, once for each rank

The launcher has a session of its own and gets SIGTERM when the runner dies, however that dies, so it can end what is
on other nodes; SIGKILL to the runner's group would leave that. Loaded by ``child.py`` by its path; the standard library
only.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

#: of each output so many bytes at its end are returned; all of it is in the task's own output, within the limit of that
OUTPUT_BYTES_MAX = 1 << 20
#: Slurm says that it cannot create a step now: it is asked again for so long, seconds
BUSY_S = 60
#: last lines of standard error in the error of a program that failed, and their length together
_LINES_SHOWN, _CHARACTERS_SHOWN = 12, 3000
#: from SIGTERM to SIGKILL of a launcher whose function was interrupted, seconds
_GRACE_S = 5.0
#: how often to look whether the program has ended while its outputs stay open, seconds
_LOOK_S = 0.2
_READ_BYTES = 1 << 16
_PR_SET_PDEATHSIG = 1
_SLURM_NUMBER = "SLURM_PROCID"
_BOUND = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bound.py")

#: of one node: its name ("": this one), the cores of each rank, the GPUs of each rank
Seats = tuple[str, list[list[int]], list[str]]


class Finished:
    """How a program ended, as ``subprocess.CompletedProcess`` tells it; as a result of a task it is a dict."""

    __slots__ = ("args", "returncode", "stderr", "stdout")

    def __init__(self, args: list[str], returncode: int, stdout: str, stderr: str) -> None:
        self.args, self.returncode, self.stdout, self.stderr = args, returncode, stdout, stderr

    def __repr__(self) -> str:
        return f"Finished(args={self.args!r}, returncode={self.returncode})"

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("args", "returncode", "stdout", "stderr")}

    def check_returncode(self) -> None:
        """Raise RuntimeError with the last lines of standard error if the program failed."""
        if self.returncode:
            raise RuntimeError(self.story())

    def story(self) -> str:
        """``exit code 2: tar: x: Cannot open``, then the lines before that one."""
        code = self.returncode
        how = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
        lines = [line.rstrip() for line in self.stderr[-_CHARACTERS_SHOWN:].splitlines() if line.strip()]
        if not lines:
            return f"{how}: {' '.join(self.args)[:_CHARACTERS_SHOWN]}"
        shown = lines[-_LINES_SHOWN:]
        before = "\n".join(["", "standard error ended with:", *shown]) if len(shown) > 1 else ""
        return f"{how}: {shown[-1]}{before}"


class Step:
    """The ranks of the task that runs now."""

    def __init__(self, token: Callable[[], str]) -> None:
        #: of each node; empty: the task was not called with launch="step"
        self.seats: list[Seats] = []
        #: this process is one of several ranks that run the function together
        self.in_gang = False
        self._token = token
        #: the runner's own, which its rank removes
        self._folder = os.getcwd()

    def hosts(self) -> list[str]:
        """The node of each rank of the task's step; empty: it was not called with ``launch="step"``."""
        return [node or _node() for node, cores, _ in self.seats for _ in cores]

    def run(
        self, argv: Sequence[str | os.PathLike[str]] | str, *, cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str | None] | None = None, check: bool = False,
    ) -> Finished:  # fmt: skip
        """Run a program once on each rank of the task, as one MPI world if it is an MPI program; wait for its end.

        Parameters
        ----------
        argv : list or str
            The program and its arguments; text is run by bash.
        cwd : path, optional
            The folder that it runs in. By default the task's own on this node; another one where a node has not that.
        env : dict, optional
            Variables besides those of the function; one that is None is left out.
        check : bool
            Raise RuntimeError if it fails. That is raised in any case where it could not be started.

        Returns
        -------
        Finished
            ``returncode``, and the last MiB of ``stdout`` and ``stderr`` as text. All of both is the task's output.
        """
        import json  # a runner starts without what few tasks need

        if self.in_gang:
            raise RuntimeError('this function runs on each of its ranks: pyfi_task.step wants launch="step" for it')
        words = ["bash", "-c", argv] if isinstance(argv, str) else [os.fspath(word) for word in argv]
        if not words:
            raise ValueError("a step needs a program")
        seats = self.seats or [("", [[]], [])]
        head, variables, number = _launcher(seats, self._folder)
        table = [[cores, gpus[at] if gpus else None] for _, each, gpus in seats for at, cores in enumerate(each)]
        token = f"{os.environ.get('PYFI_STEPS', '')}/{self._token()}"
        # by the runner's mark its rank ends what is left here; other nodes know no such
        mark = os.environ.get("PYFI_RUNNER", "") if number != _SLURM_NUMBER else ""
        where = [token, mark, number, os.fspath(cwd or ""), os.getcwd(), table]
        place = json.dumps(where, separators=(",", ":"))
        command = [*head, sys.executable, "-I", "-S", _BOUND, place, *words]
        given = {**variables, **(env or {})}
        code, stdout, stderr = _run(command, {name: value for name, value in given.items() if value is not None})
        if code and head and not stdout and (problem := _refused(stderr)):
            raise RuntimeError(f"the step could not be started: {problem}")
        done = Finished(words, code, stdout, stderr)
        if check:
            done.check_returncode()
        return done


# --- launchers ------------------------------------------------------------------------------------------


def _launcher(seats: list[Seats], folder: str) -> tuple[list[str], dict[str, str], str]:
    """What starts the program on these ranks; its variables; and by which variable a process knows its number.

    Raises
    ------
    RuntimeError
        There is nothing that could.
    """
    count = sum(len(cores) for _, cores, _ in seats)
    variables = dict(os.environ)
    if count == 1:
        return [], variables, ""
    # a mark that is not the runner's: see adapters/surroundings.py, which would kill it before it could end its step
    variables["PYFI_RUNNER"] = f"{os.getppid()}-launch"
    if "SLURM_JOB_ID" in os.environ:
        return _srun(seats, count, folder, variables), variables, _SLURM_NUMBER
    mpiexec = os.environ.get("PYFI_MPIEXEC", "")
    if len(seats) > 1 or not mpiexec:
        where = "on several nodes" if len(seats) > 1 else "on this node"
        raise RuntimeError(f"there is nothing that could start {count} ranks {where}: neither srun nor mpiexec of MPI")
    return [mpiexec, *_mpiexec(mpiexec), "-n", str(count)], variables, "PMI_RANK OMPI_COMM_WORLD_RANK PMIX_RANK"


def _srun(seats: list[Seats], count: int, folder: str, variables: dict[str, str]) -> list[str]:
    """Of the step that we are in nothing is to be inherited but where the cluster is."""
    job = os.environ["SLURM_JOB_ID"]
    for name in list(variables):
        if name.startswith(("SLURM_", "SLURMD_", "SRUN_", "SBATCH_")) and name != "SLURM_CONF":
            del variables[name]
    hostfile = os.path.join(folder, f"hosts-{time.monotonic_ns()}")
    with open(hostfile, "w") as file:
        file.writelines(f"{node or _node()}\n" for node, cores, _ in seats for _ in cores)
    variables["SLURM_HOSTFILE"] = hostfile
    if _has_mpich():  # as adapters/mpi.py says
        variables.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")
    return [
        "srun", f"--jobid={job}", "--job-name=pyfi-step", "--overlap", "--mem=0",
        f"--mpi={os.environ.get('PYFI_SLURM_MPI', 'pmi2')}", f"--nodes={len(seats)}", f"--ntasks={count}",
        "--distribution=arbitrary", "--kill-on-bad-exit=1", "--wait=0", f"--immediate={BUSY_S}", "--chdir=/",
    ]  # fmt: skip


def _refused(stderr: str) -> str:
    """What srun says where it could start nothing; "": it did start something, and says how that ended."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    problems = [line for line in lines if line.startswith(("srun: error: ", "srun: fatal: "))]
    told = any(": task " in line or ": tasks " in line for line in lines)
    all_of_srun = all(line.startswith("srun: ") for line in lines)
    return "\n".join(lines[-_LINES_SHOWN:]) if problems and all_of_srun and not told else ""


def _mpiexec(mpiexec: str) -> list[str]:
    """Its options, by what it calls itself."""
    import subprocess

    said = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, timeout=20).stdout.lower()
    if "open mpi" in said or "openrte" in said or "prte" in said:
        return ["--oversubscribe", "--allow-run-as-root", "--bind-to", "none"]
    return ["-launcher", "fork", "-bind-to", "none"]


def _has_mpich() -> bool:
    import importlib.metadata

    try:
        importlib.metadata.distribution("mpich")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename.partition(".")[0]


# --- running --------------------------------------------------------------------------------------------


def _run(command: list[str], variables: dict[str, str]) -> tuple[int, str, str]:
    """Run it to its end and pass on what it writes: its exit code, and the ends of both outputs."""
    import ctypes
    import subprocess

    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def end_with_us() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    sys.stdout.flush()
    sys.stderr.flush()
    try:
        process = subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, preexec_fn=end_with_us,
        )  # fmt: skip
    except FileNotFoundError:
        raise RuntimeError(f"node {_node()} has no program {command[0]}") from None
    try:
        stdout, stderr = _pass_on(process)
        return process.wait(), stdout, stderr
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The function was interrupted: its step ends in order if it can."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except Exception:
            process.kill()
            process.wait()


def _pass_on(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Pass on what it writes, in bounded memory; not waiting for what it leaves running with the pipes open."""
    import selectors

    assert process.stdout is not None and process.stderr is not None
    kept = {1: bytearray(), 2: bytearray()}
    with process.stdout as out, process.stderr as err, selectors.DefaultSelector() as selector:
        selector.register(out, selectors.EVENT_READ, 1)
        selector.register(err, selectors.EVENT_READ, 2)
        while selector.get_map():
            ready = selector.select(_LOOK_S)
            for key, _ in ready:
                _take(key.fileobj, key.data, kept[key.data], selector.unregister)  # type: ignore[arg-type]
            if not ready and process.poll() is not None:
                break
    stdout, stderr = (bytes(kept[fd][-OUTPUT_BYTES_MAX:]).decode("utf-8", "replace") for fd in (1, 2))
    return stdout, stderr


def _take(file: IO[bytes], fd: int, kept: bytearray, close: Callable[[IO[bytes]], object]) -> None:
    data = os.read(file.fileno(), _READ_BYTES)
    if not data:
        close(file)
        return
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
    kept += data
    if len(kept) > 2 * OUTPUT_BYTES_MAX:
        del kept[:-OUTPUT_BYTES_MAX]
