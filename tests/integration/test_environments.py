"""Environments of processors: built once for what they need, never half, with uv or with pip."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from deploy_fixture import SHAPES, Repository, _links, _repository, _settings, call, left_over  # noqa: F401  fixtures

from pyfi_hpc.adapters import environment
from pyfi_hpc.client.deploy import prepare
from pyfi_hpc.errors import EnvironmentFailed
from pyfi_hpc.model.deployment import DeploymentSpec
from pyfi_hpc.settings import Settings


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
