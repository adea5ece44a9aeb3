"""What a checkout offers: its ``pyfi.toml``, its modules, and the public functions of one of them.

The module is imported by its environment's python in a process of its own, never by ours. The answer is kept
beside the checkout, because neither checkout nor environment ever changes. ::

    # pyfi.toml
    name = "digits"                 # of the processor
    module = "digits"
    functions = ["fit", "best"]     # without it: all public functions that the module defines
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyfi_hpc.adapters import command, list_functions
from pyfi_hpc.adapters.environment import Environment, Recipe
from pyfi_hpc.errors import ModuleFailed

IMPORT_S = 180.0
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_NOT_CODE = re.compile(
    r"(tests?|docs?|examples?|build|dist|venv|env|setup|conftest|noxfile|test_.*|.*_test|__.*__)"
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The values of a ``pyfi.toml``; empty where it says nothing."""

    name: str = ""
    module: str = ""
    functions: tuple[str, ...] = ()


def read_manifest(checkout: Path) -> Manifest:
    """Read ``pyfi.toml`` of a checkout, if it has one.

    Raises
    ------
    ModuleFailed
        It cannot be read, or holds something else than name, module and functions.
    """
    file = checkout / "pyfi.toml"
    if not file.is_file():
        return Manifest()
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModuleFailed(f"pyfi.toml cannot be read: {error}", where=str(file), fix="correct it") from error
    kinds = {"name": str, "module": str, "functions": list}
    for key, value in values.items():
        if not isinstance(value, kinds.get(key, ())) or (
            isinstance(value, list) and not all(isinstance(item, str) for item in value)
        ):
            raise ModuleFailed(
                f"pyfi.toml: {key} = {value!r} is not understood", where=str(file),
                fix='it may have name = "...", module = "..." and functions = ["...", ...]',
            )  # fmt: skip
    return Manifest(values.get("name", ""), values.get("module", ""), tuple(values.get("functions", ())))


def import_root(checkout: Path) -> Path:
    """The folder that modules are imported from: ``src`` where the layout has one."""
    src = checkout / "src"
    return src if src.is_dir() and not (src / "__init__.py").exists() else checkout


def import_folder(root: Path, module: str, env: Environment, recipe: Recipe) -> Path:
    """Where the module is imported from: an installed project from where it was installed.

    Its folder in the checkout lacks what the installer built (compiled parts, generated files) and would
    hide it.
    """
    if recipe.kind != "project":
        return root
    top = module.split(".", 1)[0]
    site = env.site_packages
    installed = (site / top).is_dir() or any(site.glob(f"{top}.*"))
    return site if installed else root


def choose_module(root: Path, folder_name: str) -> str:
    """The module of a checkout that names none: the only one, else the one named like the folder.

    Raises
    ------
    ModuleFailed
        There is none, or several; lists them.
    """
    found = sorted(
        {
            entry.name.removesuffix(".py")
            for entry in root.iterdir()
            if entry.name.isascii() and (_is_module(entry) or _is_package(entry))
        }
    )
    if len(found) == 1:
        return found[0]
    like_folder = folder_name.replace("-", "_")
    if like_folder in found:
        return like_folder
    what = f"several modules: {', '.join(found[:12])}" if found else "no module"
    raise ModuleFailed(
        f"the repository has {what}", where=str(root),
        fix='say --module NAME, or put module = "NAME" into pyfi.toml',
    )  # fmt: skip


def list_public(
    workdir: Path, module: str, environment: Environment, keep_in: Path, progress: Callable[[str], None]
) -> dict[str, list[str]]:
    """Public functions of a module and the names of their parameters, in the order of its text.

    Parameters
    ----------
    keep_in : Path
        Folder for the remembered answer.

    Raises
    ------
    ModuleFailed
        The module's name is none, there is no such module, its import fails (the last lines of the traceback
        are shown), takes over ``IMPORT_S`` seconds, or ends the process.
    """
    if not _MODULE.fullmatch(module):
        raise ModuleFailed(f"{module!r} is not the name of a module", fix="write it as package.module")
    digest = hashlib.sha256(f"{workdir}\0{module}\0{environment.key}".encode()).hexdigest()[:24]
    kept = keep_in / f".functions-{digest}.json"
    try:
        remembered: dict[str, list[str]] = json.loads(kept.read_text())
        return remembered
    except (OSError, ValueError):
        pass
    progress(f"importing {module}")
    functions = _look(workdir, module, environment)
    fresh = kept.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(functions))
    os.replace(fresh, kept)
    return functions


def _look(workdir: Path, module: str, environment: Environment) -> dict[str, list[str]]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    script = str(Path(list_functions.__file__))
    argv = [str(environment.python), "-I", script, str(workdir), module]
    done = command.run(argv, env=env, cwd=workdir, timeout_s=IMPORT_S)
    if done.timed_out or done.too_long:
        why = f"takes over {IMPORT_S:.0f} s" if done.timed_out else "writes without end"
        raise ModuleFailed(f"importing {module} {why}", where=str(workdir), fix="keep work inside functions")
    try:
        answer = json.loads(done.text)
    except ValueError:
        raise ModuleFailed(
            f"importing {module} ended its process (status {done.code}):\n{_indented(done.last_lines(8))}",
            where=str(workdir), fix="the module must not end the process when it is imported",
        ) from None  # fmt: skip
    if "error" in answer:
        missing = answer.get("missing") or ""
        if missing and (module == missing or module.startswith(missing + ".")):
            raise ModuleFailed(
                f"there is no module {missing!r} in the repository", where=str(workdir),
                fix="say --module NAME with the dotted name of a module there",
            )  # fmt: skip
        fix = f"add {missing} to requirements.txt, and commit" if missing else "correct it, and commit"
        lines = "\n".join(answer["traceback"].splitlines()[-12:])
        raise ModuleFailed(f"importing {module} failed:\n{_indented(lines)}", where=str(workdir), fix=fix)
    found: dict[str, list[str]] = answer["functions"]
    return found


def _is_module(entry: Path) -> bool:
    stem = entry.stem
    return entry.suffix == ".py" and stem.isidentifier() and not _NOT_CODE.fullmatch(stem) and entry.is_file()


def _is_package(entry: Path) -> bool:
    name = entry.name
    named = name.isidentifier() and not _NOT_CODE.fullmatch(name)
    return named and entry.is_dir() and any(entry.glob("*.py"))


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())
