"""What pip is configured with reaches uv. By giving files in a home folder of the test's own."""

from pathlib import Path

import pytest

from pyfi_hpc.adapters import pip_config


@pytest.fixture(name="home")
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pip").mkdir()
    monkeypatch.setattr(
        pip_config,
        "_pip_files",
        lambda environ: iter([tmp_path / "pip" / "pip.conf", tmp_path / "second.conf"]),
    )
    return tmp_path


def _environ(home: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(home), "XDG_CONFIG_HOME": str(home), **more}


def test_pip_files_and_variables_become_uv_variables(home: Path) -> None:
    """A later file overrides an earlier one, a variable overrides both; indexes keep their meaning."""
    (home / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = https://a.invalid/simple\n"
        "extra_index_url = https://b.invalid/s\n  https://c.invalid/s\n"
    )
    (home / "second.conf").write_text("[install]\nfind-links = /wheels\n[list]\nfind-links = /no\n")
    assert pip_config.for_uv(
        _environ(home, PIP_INDEX_URL="https://d.invalid/simple", PIP_CERT="/ca.pem")
    ) == {
        "UV_DEFAULT_INDEX": "https://d.invalid/simple",
        "UV_INDEX": "https://b.invalid/s https://c.invalid/s",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels",
        "SSL_CERT_FILE": "/ca.pem",
    }


def test_what_is_configured_for_uv_wins(home: Path) -> None:
    """With an index of uv's own, variable or uv.toml, pip's indexes are left out, its trust root not."""
    (home / "pip" / "pip.conf").write_text("[global]\nindex-url = https://a.invalid/simple\ncert = /ca.pem\n")
    assert pip_config.for_uv(_environ(home, UV_INDEX="https://u.invalid/s")) == {"SSL_CERT_FILE": "/ca.pem"}
    assert "UV_DEFAULT_INDEX" in pip_config.for_uv(_environ(home))
    (home / "uv").mkdir()
    (home / "uv" / "uv.toml").write_text('[[index]]\nurl = "https://u.invalid/s"\n')
    assert pip_config.for_uv(_environ(home)) == {"SSL_CERT_FILE": "/ca.pem"}


def test_no_index_and_damaged_files(home: Path) -> None:
    """no-index is passed on; a file that is no pip file is left to pip to complain about."""
    (home / "pip" / "pip.conf").write_text("not a section")
    (home / "second.conf").write_text("[global]\nno-index = true\n")
    assert pip_config.for_uv(_environ(home)) == {"UV_NO_INDEX": "1"}
