"""What pip is configured with, told to uv, which does not read pip's files.

A site that configured pip (``/etc/pip.conf``, the user's ``pip.conf``, ``PIP_...``) expects installers to use
it. What is configured for uv itself wins; nothing of this is ever stored.
"""

from __future__ import annotations

import configparser
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

#: pip's option -> uv's variable, and what stands between several values there
_VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "constraint": ("UV_CONSTRAINT", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "client-cert": ("SSL_CLIENT_CERT", " "),
    "proxy": ("ALL_PROXY", " "),
}
#: settings of uv that say where packages come from: any of them means uv was configured by itself
_UV_SOURCES = {
    "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX",
    "UV_OFFLINE",
}  # fmt: skip
_UV_KEYS = {"index", "index-url", "extra-index-url", "find-links", "no-index", "pip"}
_PIP_SOURCES = {"index-url", "extra-index-url", "find-links"}


def for_uv(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to uv's environment so that it finds packages where pip would.

    Cost: reads up to seven small files.
    """
    pip = pip_options(environ)
    configured = any(environ.get(name) for name in _UV_SOURCES) or _uv_file_names_sources(environ)
    added: dict[str, str] = {}
    for option, (variable, between) in _VARIABLES.items():
        value = pip.get(option, "").split()
        if not value or environ.get(variable) or (configured and option in _PIP_SOURCES):
            continue
        added[variable] = between.join(value)
    if "UV_INDEX" in added and "UV_INDEX_STRATEGY" not in environ:
        # pip takes the best version of all indexes; uv by default takes the first index that knows the name.
        added["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if not configured and pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        added["UV_NO_INDEX"] = "1"
    return added


def pip_options(environ: Mapping[str, str]) -> dict[str, str]:
    """pip's options from its files and variables: a later file overrides, a variable overrides all."""
    options: dict[str, str] = {}
    for file in _pip_files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, configparser.Error):
            continue  # pip itself complains about it where it is used
        for section in ("global", "install"):
            if parser.has_section(section):
                options |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            options[name[4:].lower().replace("_", "-")] = value
    return options


def _pip_files(environ: Mapping[str, str]) -> Iterator[Path]:
    only = environ.get("PIP_CONFIG_FILE")
    if only == os.devnull:
        return
    home = Path(environ.get("HOME", "/nonexistent"))
    for folder in reversed(environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")):
        yield Path(folder) / "pip" / "pip.conf"
    yield Path("/etc/pip.conf")
    yield home / ".pip" / "pip.conf"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if only:
        yield Path(only)


def _uv_file_names_sources(environ: Mapping[str, str]) -> bool:
    if environ.get("UV_NO_CONFIG"):
        return False
    home = Path(environ.get("HOME", "/nonexistent"))
    folders = [Path(environ.get("XDG_CONFIG_HOME") or home / ".config"), Path("/etc")]
    files = [folder / "uv" / "uv.toml" for folder in folders]
    if environ.get("UV_CONFIG_FILE"):
        files.append(Path(environ["UV_CONFIG_FILE"]))
    for file in files:
        try:
            if _UV_KEYS & tomllib.loads(file.read_text(encoding="utf-8")).keys():
                return True
        except (OSError, ValueError):
            continue
    return False
