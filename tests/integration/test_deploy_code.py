"""From a repository to a deployment: real git, real environments, real repositories in a temporary folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deploy_fixture import Repository, _repository, _settings, call, left_over  # noqa: F401  fixtures

from pyfi_hpc.client.deploy import prepare
from pyfi_hpc.errors import (
    CodeError,
    DirtyTree,
    EnvironmentFailed,
    ModuleFailed,
    NotFound,
    PyfiError,
    RepositoryRefused,
    UsageError,
)  # fmt: skip
from pyfi_hpc.settings import Settings

# --- the good case ------------------------------------------------------------------------------------


def test_a_local_repository_becomes_a_deployment(settings: Settings, repository: Repository) -> None:
    """Public functions that the module defines become sockets, in its order, and run."""
    commit = repository.commit(
        {
            "calc.py": """
        from os.path import join
        import functools
        def square(x): return x * x
        @functools.lru_cache
        def add(x, y=1, *rest, **more): return x + y
        def _private(): pass
        class NotOne: pass
        print("noise at import")
        """
        }
    )
    spec = prepare(settings, repository.path)
    assert spec.name == "calc"
    assert [s.name for s in spec.sockets] == ["calc.square", "calc.add"]
    assert spec.sockets[1].parameters == ["x", "y", "*rest", "**more"]
    assert (spec.code.repository, spec.code.commit, spec.code.subdir) == (str(repository.path), commit, "")
    assert spec.built
    assert not spec.code.dirty
    assert call(spec, "square", 7) == 49


def test_deploying_again_builds_nothing(settings: Settings, repository: Repository) -> None:
    """The second deployment of a commit is the same spec, without an import and without anything to tell."""
    repository.commit({"calc.py": "def f(): return 1"})
    first = prepare(settings, repository.path)
    told: list[str] = []
    second = prepare(settings, repository.path, progress=told.append)
    assert (second.code, second.built, second.build_s, told) == (first.code, False, 0.0, [])


def test_a_push_changes_nothing_until_the_next_deploy(settings: Settings, repository: Repository) -> None:
    """A new commit leaves the deployed files alone; both deploy, by branch, tag, full and short id."""
    old = repository.commit({"calc.py": "def f(): return 'old'"})
    first = prepare(settings, repository.path)
    repository.git("tag", "v1")
    repository.git("checkout", "--quiet", "-b", "next")
    new = repository.commit({"calc.py": "def f(): return 'new'"})
    assert call(first, "f") == "old"
    second = prepare(settings, repository.path)
    assert (second.code.commit, call(second, "f")) == (new, "new")
    assert second.code.environment == first.code.environment
    for revision in ("main", "v1", old, old[:10], "HEAD~1", "next^"):
        assert prepare(settings, repository.path, commit=revision).code == first.code


def test_a_deployed_commit_outlives_its_repository(settings: Settings, repository: Repository) -> None:
    """After a forced rewrite and clean-up at the source, the mirror still has the deployed commit."""
    commit = repository.commit({"calc.py": "def f(): return 'old'"})
    prepare(settings, repository.path)
    repository.git("commit", "--quiet", "--amend", "--message", "rewritten")
    repository.git("reflog", "expire", "--expire=now", "--all")
    repository.git("gc", "--quiet", "--prune=now")
    (mirror,) = settings.cache_dir.glob("mirrors/*.git")
    done = subprocess.run(
        ["git", "--git-dir", mirror, "cat-file", "-t", commit], capture_output=True, timeout=20
    )
    assert done.stdout == b"commit\n"


def test_a_folder_inside_a_repository(settings: Settings, repository: Repository) -> None:
    """Only that folder is checked out; changes elsewhere neither make it dirty nor build it again."""
    repository.commit({"tools/digits/digits.py": "def f(): return 1", "other.py": "def g(): return 1"})
    spec = prepare(settings, repository.path / "tools" / "digits")
    assert (spec.name, spec.code.subdir, spec.code.module) == ("digits", "tools/digits", "digits")
    assert [p.name for p in Path(spec.code.workdir).iterdir() if p.name != "__pycache__"] == ["digits.py"]
    repository.write({"other.py": "def g(): return 2"})
    prepare(settings, repository.path / "tools" / "digits")
    repository.commit()
    again = prepare(settings, repository.path / "tools" / "digits")
    assert again.code.commit != spec.code.commit
    assert again.code.workdir == spec.code.workdir
    repository.git("checkout", "--quiet", "--orphan", "empty")
    repository.git("rm", "-r", "--quiet", "--cached", "tools")
    repository.git("commit", "--quiet", "--message", "without")
    with pytest.raises(NotFound, match="no folder 'tools/digits'"):
        prepare(settings, repository.path / "tools" / "digits", commit="empty")


def test_bare_and_shallow_repositories(settings: Settings, repository: Repository, tmp_path: Path) -> None:
    """A bare repository and a clone with one commit deploy like any other."""
    repository.commit({"calc.py": "def f(): return 0"})
    commit = repository.commit({"calc.py": "def f(): return 1"})
    repository.git("clone", "--quiet", "--bare", ".", str(tmp_path / "b" / "calc.git"))
    repository.git("clone", "--quiet", "--depth=1", f"file://{repository.path}", str(tmp_path / "s" / "calc"))
    for source in (tmp_path / "b" / "calc.git", tmp_path / "s" / "calc"):
        spec = prepare(settings, source)
        assert (spec.name, spec.code.commit, call(spec, "f")) == ("calc", commit, 1)


# --- changes that are not committed ---------------------------------------------------------------------


def test_changes_are_refused_or_deployed_as_a_snapshot(settings: Settings, repository: Repository) -> None:
    """Changed, new and deleted files count, ignored ones do not; the repository stays untouched."""
    commit = repository.commit(
        {
            "calc.py": "def f(): return 'committed'",
            "gone.py": "x = 1",
            ".gitignore": "*.log\n",
            "staged.py": "y = 1",
        }
    )
    repository.write(
        {
            "calc.py": "from new import g\ndef f(): return g()",
            "new.py": "def g(): return 'snapshot'",
            "a.log": "x",
        }
    )
    repository.write({"staged.py": "y = 2"}).git("add", "staged.py")
    (repository.path / "gone.py").unlink()
    with pytest.raises(DirtyTree) as caught:
        prepare(settings, repository.path, module="calc")
    assert all(
        name in str(caught.value) for name in ("calc.py", "new.py", "gone.py", "staged.py", "--allow-dirty")
    )
    assert "a.log" not in str(caught.value)

    before = _state(repository)
    spec = prepare(settings, repository.path, module="calc", allow_dirty=True)
    assert _state(repository) == before
    assert spec.code.dirty
    assert spec.code.commit != commit
    assert call(spec, "f") == "snapshot"
    assert sorted(p.name for p in Path(spec.code.workdir).glob("*.*")) == [
        ".gitignore",
        "calc.py",
        "new.py",
        "staged.py",
    ]
    again = prepare(settings, repository.path, module="calc", allow_dirty=True)
    assert again.code == spec.code
    clean = prepare(settings, repository.path, module="calc", commit="HEAD")
    assert (clean.code.commit, clean.code.dirty) == (commit, False)


def test_a_snapshot_before_the_first_commit(settings: Settings, repository: Repository) -> None:
    """Without any commit the error says so; a snapshot works."""
    with pytest.raises(NotFound, match="no commit yet"):
        prepare(settings, repository.path)
    repository.write({"calc.py": "def f(): return 1"})
    assert call(prepare(settings, repository.path, allow_dirty=True), "f") == 1


def _state(repository: Repository) -> tuple[bytes, str, str, int]:
    objects = sum(1 for path in (repository.path / ".git" / "objects").rglob("*") if path.is_file())
    index = (repository.path / ".git" / "index").read_bytes()
    return index, repository.git("for-each-ref"), repository.git("status", "--porcelain"), objects


# --- refusals -------------------------------------------------------------------------------------------


def test_repositories_of_others_need_the_allow_list(repository: Repository, tmp_path: Path) -> None:
    """Another user's repository is refused, allowed by a pattern, and refused again by deny."""
    repository.commit({"calc.py": "def f(): return 1"})
    mine = os.getuid()
    if mine == 0:  # really another user's
        subprocess.run(["chown", "-R", "65534:65534", repository.path], check=True, timeout=20)
    somebody = mine if mine == 0 else mine + 1

    def settings(**lists: Any) -> Settings:
        return Settings(home=tmp_path / "home", scratch=tmp_path, **lists)

    with pytest.raises(RepositoryRefused, match="does not belong to you"):
        prepare(settings(), repository.path, owner_uid=somebody)
    spec = prepare(settings(allow=(f"{repository.path.parent}/*",)), repository.path, owner_uid=somebody)
    assert call(spec, "f") == 1
    with pytest.raises(RepositoryRefused, match="denied"):
        prepare(settings(allow=("/*",), deny=(f"{tmp_path}/*",)), repository.path, owner_uid=somebody)
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "link").symlink_to(repository.path)
    with pytest.raises(RepositoryRefused):
        prepare(settings(allow=(f"{tmp_path}/allowed/*",)), tmp_path / "allowed" / "link", owner_uid=somebody)


def test_hostile_sources_and_revisions_run_nothing(
    settings: Settings, repository: Repository, tmp_path: Path
) -> None:
    """Addresses and revisions that are options or helpers are refused before git starts (H6)."""
    repository.commit({"calc.py": "def f(): return 1"})
    proof = tmp_path / "proof"
    for source in (f"--upload-pack=touch {proof}", f"-utouch {proof}", f"ext::touch% {proof}", "file:///etc"):
        with pytest.raises(RepositoryRefused, match="refused"):
            prepare(settings, source)
    for revision in (
        f"--upload-pack=touch {proof}",
        f"-utouch {proof}",
        "--all",
        "main:calc.py",
        "main..HEAD",
    ):
        with pytest.raises(RepositoryRefused, match="refused"):
            prepare(settings, repository.path, commit=revision)
    for source in ("https://host.invalid/r", "git@host.invalid:r"):
        with pytest.raises(RepositoryRefused, match="not on the allow list"):
            prepare(settings, source)
    assert not proof.exists()


def test_nothing_of_the_repository_runs_before_its_import(settings: Settings, repository: Repository) -> None:
    """Hooks, filters, a monitor and an ssh command that the source configures are never started."""
    proof = repository.path / "proof"
    repository.commit(
        {"calc.py": "def f(): return 1", ".gitattributes": "*.py filter=evil\n", ".gitignore": "proof\n"}
    )
    for hook in ("post-checkout", "pre-auto-gc", "post-index-change", "reference-transaction", "pre-commit"):
        file = repository.path / ".git" / "hooks" / hook
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\ntouch {proof}\n")
        file.chmod(0o755)
    for key in ("core.fsmonitor", "filter.evil.smudge", "core.sshCommand", "uploadpack.packObjectsHook"):
        repository.git("config", key, f"touch {proof}; cat")
    repository.git("config", "core.hooksPath", str(repository.path / ".git" / "hooks"))
    assert call(prepare(settings, repository.path), "f") == 1
    assert not proof.exists()


def test_submodules_are_refused(settings: Settings, repository: Repository, tmp_path: Path) -> None:
    """A commit with a submodule names it and is not deployed; its address is never fetched (H6)."""
    inner = Repository(tmp_path / "inner")
    inner.commit({"x.py": "x = 1"})
    repository.commit({"calc.py": "def f(): return 1"})
    repository.git("submodule", "--quiet", "add", str(inner.path), "lib")
    repository.commit()
    with pytest.raises(RepositoryRefused, match=r"submodules.*lib"):
        prepare(settings, repository.path)
    assert left_over(settings) == []


def test_unknown_things_are_named(settings: Settings, repository: Repository, tmp_path: Path) -> None:
    """Folder, repository, revision, module and function that are not there: what, where and how to fix."""
    repository.commit({"calc.py": "def f(): return 1", "other.py": "def g(): return 1"})
    repository.git("tag", "v1")
    (tmp_path / "plain").mkdir()
    path = repository.path
    cases: list[tuple[Callable[[], Any], type[PyfiError], str]] = [
        (lambda: prepare(settings, tmp_path / "missing"), NotFound, "no folder"),
        (lambda: prepare(settings, tmp_path / "plain"), NotFound, "not in a git repository"),
        (lambda: prepare(settings, path / "calc.py"), NotFound, "is a file"),
        (lambda: prepare(settings, path, commit="nope"), NotFound, "no revision 'nope'"),
        (lambda: prepare(settings, path, commit="f" * 40), NotFound, "there are: main, v1"),
        (lambda: prepare(settings, path, module="nope"), ModuleFailed, "no module 'nope'"),
        (lambda: prepare(settings, path, module="calc;x"), ModuleFailed, "not the name of a module"),
        (
            lambda: prepare(settings, path, functions=["h"]),
            ModuleFailed,
            r"no public function 'h'(.|\n)*it has: f",
        ),
        (lambda: prepare(settings, path, name="a b"), UsageError, "not a name"),
    ]
    for action, kind, words in cases:
        with pytest.raises(kind) as caught:
            action()
        assert caught.match(words) or words in str(caught.value)
        assert caught.value.fix


# --- modules --------------------------------------------------------------------------------------------


def test_pyfi_toml_and_the_choice_of_a_module(settings: Settings, repository: Repository) -> None:
    """pyfi.toml names processor, module and functions; without it several modules are listed; flags win."""
    repository.commit(
        {
            "one.py": "def f(): pass\ndef g(): pass",
            "two/api.py": "def h(): pass",
            "setup.cfg": "",
            "conftest.py": "",
        }
    )
    with pytest.raises(ModuleFailed, match=r"several modules: one, two"):
        prepare(settings, repository.path)
    assert [s.name for s in prepare(settings, repository.path, module="two.api").sockets] == ["calc.h"]
    repository.commit({"pyfi.toml": 'name = "my.tools"\nmodule = "one"\nfunctions = ["g"]\n'})
    assert [s.name for s in prepare(settings, repository.path).sockets] == ["my.tools.g"]
    spec = prepare(settings, repository.path, name="x", functions=["f"])
    assert [s.name for s in spec.sockets] == ["x.f"]
    repository.commit({"pyfi.toml": "functions = 3\n"})
    with pytest.raises(ModuleFailed, match="functions = 3"):
        prepare(settings, repository.path)


def test_a_module_that_cannot_be_imported(settings: Settings, repository: Repository) -> None:
    """The traceback's last lines are shown; an import that ends the process or lacks a package says so."""
    bad = {
        "import no_such_package_x": ("no_such_package_x", "requirements.txt"),
        "def f():\n    return 1\nraise RuntimeError('broken at import')": ("broken at import", "calc.py"),
        "import os\nos._exit(3)": ("ended its process", "status 3"),
        "import sys\nsys.exit('bye')": ("SystemExit: bye", "calc.py"),
        "x = 1": ("no public function", "--module"),
        "def f(:": ("SyntaxError", "calc.py"),
    }
    for text, words in bad.items():
        repository.commit({"calc.py": text})
        with pytest.raises(ModuleFailed) as caught:
            prepare(settings, repository.path)
        assert all(word in str(caught.value) for word in words), str(caught.value)


def test_errors_are_code_errors() -> None:
    """A command line catches them all in one place."""
    assert all(
        issubclass(kind, CodeError)
        for kind in (RepositoryRefused, DirtyTree, EnvironmentFailed, ModuleFailed)
    )
