"""Deploying from an https address: a real server on this machine with a certificate of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from https_site import HttpsSite, git, https_site

from pyfi_hpc.adapters.node_code import NodeCode
from pyfi_hpc.client.deploy import prepare
from pyfi_hpc.errors import CloneFailed, NotFound
from pyfi_hpc.model.effects import CheckCode
from pyfi_hpc.settings import Settings

__all__ = ["https_site"]


def test_an_https_repository(https_site: HttpsSite, tmp_path: Path) -> None:
    """HEAD, a branch and an unknown revision; a kept commit needs no server; a redirect is not followed."""
    address, served, _ = https_site
    work = tmp_path / "calc"
    work.mkdir()
    bare = served / "group" / "calc.git"
    git(work, "init", "--quiet", "--initial-branch=trunk")
    (work / "calc.py").write_text("def f(): return 1\n")
    git(work, "add", ".")
    git(work, "commit", "--quiet", "-m", "one")
    git(work, "clone", "--quiet", "--bare", ".", str(bare))
    git(bare, "update-server-info")
    settings = Settings(home=tmp_path / "home", scratch=tmp_path, allow=(f"{address}/*",))

    first = prepare(settings, f"{address}/group/calc.git")
    assert first.code.repository == f"{address}/group/calc"
    assert first.code.commit == git(work, "rev-parse", "HEAD")
    assert [socket.name for socket in first.sockets] == ["calc.f"]

    # a node with a home of its own, to which nothing was sent, fetches the same from there
    apart = Settings(home=tmp_path / "apart", scratch=tmp_path)
    code = first.code
    mount = CheckCode(1, code.repository, code.commit, code.module, code.environment, code.python, code.workdir)
    python, workdir = NodeCode(apart).prepare(mount)
    assert python == code.python.replace(str(settings.home), str(apart.home)) != code.python
    assert workdir == code.workdir.replace(str(settings.home), str(apart.home))
    assert Path(workdir, "calc.py").read_text() == "def f(): return 1\n"

    (work / "calc.py").write_text("def g(): return 1\n")
    git(work, "commit", "--quiet", "-am", "two")
    git(work, "push", "--quiet", "--force", str(bare), "trunk", "trunk:other")
    git(bare, "update-server-info")
    second = prepare(settings, f"{address}//group/calc.git/", commit="other")
    assert [socket.name for socket in second.sockets] == ["calc.g"]
    with pytest.raises(NotFound, match="no revision 'nope'") as caught:
        prepare(settings, f"{address}/group/calc.git", commit="nope")
    assert "other, trunk" in caught.value.fix

    with pytest.raises(CloneFailed, match="could not fetch"):
        prepare(settings, f"{address}/moved/group/calc.git")
    (bare / "HEAD").unlink()
    assert prepare(settings, f"{address}/group/calc.git", commit=first.code.commit).code == first.code
    with pytest.raises(CloneFailed, match="could not fetch"):
        prepare(settings, f"{address}/group/calc.git")
