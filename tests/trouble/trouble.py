"""Functions that misbehave, each in one way; the tests deploy this folder."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time


def same(x):
    return x


def add(a, b):
    return a + b


def wait(seconds, value=None):
    time.sleep(seconds)
    return value


def note(folder, x, seconds=0.0):
    """Leaves a line for each time it is run."""
    with open(os.path.join(folder, "ran"), "a") as file:
        file.write(f"{x}\n")
    time.sleep(seconds)
    return x * x


def trace(folder, x):
    """Writes the time 20 times a second until it is told to end; the file names attempt and network."""
    import pyfi_task

    attempt = pyfi_task.current().attempt
    network = os.stat("/proc/self/ns/net").st_ino
    with open(os.path.join(folder, f"{x}.{attempt}.{network}"), "wb", buffering=0) as file:
        while not os.path.exists(os.path.join(folder, f"end-{x}")):
            file.write(b"%.3f\n" % time.monotonic())
            time.sleep(0.05)
        file.write(b"%.3f\n" % time.monotonic())
    return [x, attempt]


def fill_here(count=1 << 24):
    with open("file", "wb") as file:
        file.write(bytes(count))


def pid_and_wait(folder, seconds):
    with open(os.path.join(folder, "pid"), "w") as file:
        file.write(str(os.getpid()))
    time.sleep(seconds)
    return seconds


# --- ends its process -------------------------------------------------------------------------------------


def exit_now(code):
    print("these were my last words", flush=True)
    os._exit(code)


def segfault():
    ctypes.string_at(0)


def die_if(x, bad):
    if x == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def die_once(folder):
    mark = os.path.join(folder, "died")
    if not os.path.exists(mark):
        open(mark, "w").close()
        os._exit(9)
    return "lived"


def sys_exit(what):
    sys.exit(what)


def fork_and_return():
    return "parent" if os.fork() else "child"


# --- what it says -----------------------------------------------------------------------------------------


def flood(count):
    line = b"x" * 65535 + b"\n"
    for _ in range(count // len(line)):
        os.write(1, line)
    return count


def speak(out, err):
    sys.stdout.buffer.write(out)
    sys.stderr.buffer.write(err)


# --- how it raises ----------------------------------------------------------------------------------------


class Awkward(Exception):
    def __init__(self, payload):
        super().__init__(payload)
        self.payload = payload

    def __reduce__(self):
        raise RuntimeError("cannot be pickled")


def raise_odd():
    raise Awkward(lambda: 1)


def raise_huge(count):
    raise ValueError("h" * count)


def raise_recursive():
    loop = []
    loop.append(loop)
    raise ValueError(loop)


def raise_mute():
    class Mute(Exception):
        def __str__(self):
            raise SystemError("not even this")

    raise Mute()


def recurse():
    return recurse()


# --- what it returns --------------------------------------------------------------------------------------


def return_odd():
    return {"good": 1, "bad": [1, 2, object()]}


def return_big(count):
    return bytes(count)


def return_loop():
    loop = []
    loop.append(loop)
    return loop


# --- how long it runs -------------------------------------------------------------------------------------


def forever():
    while True:
        time.sleep(60)


def stubborn(seconds):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.1)
    return "to the end"


def hold_gil(seconds):
    ctypes.PyDLL(None).sleep(seconds)
    return "let go"


# --- what it does to its process and its node -------------------------------------------------------------


def close_all():
    os.closerange(3, 65536)
    return "closed"


def scribble():
    """Writes rubbish into whatever is open."""
    for fd in range(3, 4200):
        try:
            os.write(fd, b"\xff\xff\xff\x7f rubbish")
        except OSError:
            pass
    return "scribbled"


def eat_memory(limit):
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        return len([bytes(1 << 24) for _ in range(1 << 20)])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def fill_memory():
    kept = []
    while True:
        kept.append(b"x" * (1 << 24))


def leave_grandchild(seconds, apart):
    child = subprocess.Popen(["sleep", str(seconds)], start_new_session=apart)
    return child.pid


def leave_grandchild_and_wait(folder, seconds):
    child = subprocess.Popen(["sleep", str(seconds)], start_new_session=True)
    with open(os.path.join(folder, "grandchild"), "w") as file:
        file.write(f"{child.pid} {os.getpid()} {os.getppid()}")
    time.sleep(seconds)
