"""The code of the examples, deployed from this repository and called as a runner calls it (no ranks).

The README's test runs the whole of examples/digits.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from pyfi_hpc.client.deploy import prepare
from pyfi_hpc.model.deployment import DeploymentSpec
from pyfi_hpc.settings import Settings

EXAMPLES = Path(__file__).parents[2] / "examples"


def _run(spec: DeploymentSpec, code: str) -> object:
    """Run ``code`` with the module as ``m`` in the environment; its last line of output is JSON."""
    script = f"import sys, json, importlib\nsys.path.insert(0, {spec.code.workdir!r})\n"
    script += f"m = importlib.import_module({spec.code.module!r})\n{code}"
    argv = [spec.code.python, "-I", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_sample_shows_shapes(tmp_path: Path) -> None:
    """Each function shows what it was given: previous result, own text, and lists as lists."""
    settings = Settings(home=tmp_path / "home", scratch=tmp_path)
    spec = prepare(settings, EXAMPLES / "sample", allow_dirty=True)
    assert "pyfi.processors.sample.do_something" in [socket.name for socket in spec.sockets]
    code = "print(json.dumps([m.do_this(['a', ['b', 'c']], 'Four'), m.do_something('x'), m.total([1, 2])]))"
    assert _run(spec, code) == ["do_this(a, [b, c] | Four)", "do_something(x)", 3]
