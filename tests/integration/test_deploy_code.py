"""From a repository to a deployment: real git, real environments, real repositories in a temporary folder."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pyfi_hpc.adapters import environment
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
from pyfi_hpc.model.deployment import DeploymentSpec
from pyfi_hpc.settings import Settings

SHAPES = "pyfi-test-shapes"


class Repository:
    """A git repository to write to; ``git`` runs with an identity and no configuration of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *args: str) -> str:
        env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        env |= {
            "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t",
        }  # fmt: skip
        argv = ["git", "-c", "protocol.file.allow=always", *args]
        done = subprocess.run(argv, cwd=self.path, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def write(self, files: Mapping[str, str]) -> Repository:
        for name, text in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return self

    def commit(self, files: Mapping[str, str] | None = None) -> str:
        self.write(files or {})
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", scratch=tmp_path)


@pytest.fixture(name="repository")
def _repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "work" / "calc")


@pytest.fixture(name="links")
def _links(tmp_path: Path) -> Path:
    """A folder with versions 1 and 2 of a small pure Python package, as wheels."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version in ("1.0", "2.0"):
        about = f"pyfi_test_shapes-{version}.dist-info"
        with zipfile.ZipFile(folder / f"pyfi_test_shapes-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("pyfi_test_shapes.py", f"VERSION = {version!r}\n")
            wheel.writestr(
                f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {SHAPES}\nVersion: {version}\n"
            )
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
    return folder


def call(spec: DeploymentSpec, function: str, *args: Any) -> Any:
    """Call a function the way a runner does: the environment's python, isolated, the workdir first."""
    script = (
        "import sys, json, importlib; sys.path.insert(0, sys.argv[1]); import msgspec;"
        "m = importlib.import_module(sys.argv[2]);"
        "print(json.dumps(getattr(m, sys.argv[3])(*json.loads(sys.argv[4]))))"
    )
    argv = [
        spec.code.python,
        "-I",
        "-c",
        script,
        spec.code.workdir,
        spec.code.module,
        function,
        json.dumps(args),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def left_over(settings: Settings) -> list[str]:
    """Environments and unfinished checkouts in the cache."""
    cache = settings.cache_dir
    return [p.name for p in cache.glob("envs/*") if p.is_dir()] + [p.name for p in cache.glob("code/.new-*")]


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


def test_deploying_again_builds_nothing_and_is_quick(settings: Settings, repository: Repository) -> None:
    """The second deployment of a commit is the same spec in under half a second, without an import."""
    repository.commit({"calc.py": "def f(): return 1"})
    first = prepare(settings, repository.path)
    told: list[str] = []
    started = time.perf_counter()
    second = prepare(settings, repository.path, progress=told.append)
    assert time.perf_counter() - started < 0.5
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


# --- environments ---------------------------------------------------------------------------------------


def test_two_versions_of_one_package_side_by_side(settings: Settings, links: Path, tmp_path: Path) -> None:
    """Two processors with different requirements each see their own version; equal requirements share."""
    specs = []
    for number, version in enumerate(("1.0", "2.0", "2.0")):
        repository = Repository(tmp_path / str(number) / f"p{number}")
        repository.commit(
            {
                "main.py": "import pyfi_test_shapes\ndef version(): return pyfi_test_shapes.VERSION",
                "requirements.txt": f"--find-links {links}\n{SHAPES}=={version}\n",
            }
        )
        specs.append(prepare(settings, repository.path))
    assert [call(spec, "version") for spec in specs] == ["1.0", "2.0", "2.0"]
    assert specs[0].code.environment != specs[1].code.environment


def test_requirements_without_files_share_an_environment(tmp_path: Path) -> None:
    """The key follows the requirements' text; where it points to files of the checkout, the tree too."""

    def key(text: str, tree: str) -> str:
        (tmp_path / "requirements.txt").write_text(text)
        return environment.read_recipe(tmp_path, tree).key

    for text in (
        "numpy>=2\nscipy\n",
        "",
        "a @ https://h.invalid/a.whl\n",
        "x[y]==1 ; python_version > '3'\n",
    ):
        assert key(text, "1") == key(text, "2")
    for text in (
        "-r more.txt\n",
        "-e .\n",
        ".\n",
        "./lib\n",
        "a @ file:///x\n",
        "--find-links w\n",
        "lib/a.whl\n",
    ):
        assert key(text, "1") != key(text, "2"), text
    assert key("a\n", "1") != key("b\n", "1")


@pytest.mark.parametrize("kind", ["pyproject", "setup"])
def test_a_project_is_installed_without_touching_its_checkout(
    settings: Settings, repository: Repository, links: Path, kind: str
) -> None:
    """pyproject.toml or setup.py, src layout: imported from where it is installed, with what it requires."""
    requires = f"{SHAPES} @ file://{links}/pyfi_test_shapes-1.0-py3-none-any.whl"
    if kind == "pyproject":
        repository.write(
            {"pyproject.toml": f'[project]\nname = "calc"\nversion = "1"\ndependencies = ["{requires}"]\n'}
        )
    else:
        repository.write(
            {
                "setup.py": "from setuptools import setup\n"
                "setup(name='calc', version='1', packages=['calc'], "
                f"package_dir={{'': 'src'}}, install_requires=['{requires}'])\n"
            }
        )
    repository.commit(
        {"src/calc/__init__.py": "import pyfi_test_shapes\ndef v(): return pyfi_test_shapes.VERSION"}
    )
    spec = prepare(settings, repository.path)
    assert (spec.code.module, call(spec, "v")) == ("calc", "1.0")
    assert Path(spec.code.workdir).name == "site-packages"
    (checkout,) = settings.cache_dir.glob("code/*/src")
    assert [p.name for p in checkout.iterdir()] == ["calc"]


def test_venv_and_pip_where_there_is_no_uv(
    settings: Settings, repository: Repository, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without uv the environment is made by venv and pip, and works the same."""
    monkeypatch.setattr(environment, "find_uv", lambda: None)
    repository.commit(
        {
            "calc.py": "import pyfi_test_shapes\ndef v(): return pyfi_test_shapes.VERSION",
            "requirements.txt": f"--find-links {links}\n{SHAPES}<2\n",
        }
    )
    told: list[str] = []
    spec = prepare(settings, repository.path, progress=told.append)
    assert "building the environment with venv and pip" in told
    assert call(spec, "v") == "1.0"


@pytest.mark.parametrize("uv", [True, False])
def test_a_failed_build_shows_the_installer_and_leaves_nothing(
    settings: Settings, repository: Repository, links: Path, monkeypatch: pytest.MonkeyPatch, uv: bool
) -> None:
    """A version that does not exist: the installer's last lines in the error, no folder in the cache."""
    if not uv:
        monkeypatch.setattr(environment, "find_uv", lambda: None)
    repository.commit(
        {"calc.py": "def f(): return 1", "requirements.txt": f"--find-links {links}\n{SHAPES}==9.9\n"}
    )
    with pytest.raises(EnvironmentFailed) as caught:
        prepare(settings, repository.path)
    assert "9.9" in str(caught.value)
    assert "last lines" in str(caught.value)
    assert left_over(settings) == []
    monkeypatch.undo()
    repository.commit({"requirements.txt": ""})
    assert call(prepare(settings, repository.path), "f") == 1


def test_a_half_built_or_broken_environment_is_built_again(
    settings: Settings, repository: Repository
) -> None:
    """No marker (a builder was killed) or a python that does not start: thrown away and built."""
    repository.commit({"calc.py": "def f(): return 1"})
    spec = prepare(settings, repository.path)
    folder = settings.cache_dir / "envs" / spec.code.environment
    (folder / environment.MARKER).unlink()
    (folder / "left-over").write_text("")
    assert prepare(settings, repository.path).built
    assert not (folder / "left-over").exists()
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/nonexistent/python")
    again = prepare(settings, repository.path)
    assert (again.built, call(again, "f")) == (True, 1)


def test_two_at_once_build_once(settings: Settings, repository: Repository) -> None:
    """Four deployments at the same time: one builds, the others wait for it, all are equal."""
    repository.commit({"calc.py": "def f(): return 1"})
    specs: list[DeploymentSpec] = []
    threads = [
        threading.Thread(target=lambda: specs.append(prepare(settings, repository.path))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [spec.built for spec in specs].count(True) == 1
    assert len({spec.code for spec in specs}) == 1


def test_errors_are_code_errors() -> None:
    """A command line catches them all in one place."""
    assert all(
        issubclass(kind, CodeError)
        for kind in (RepositoryRefused, DirtyTree, EnvironmentFailed, ModuleFailed)
    )
