"""Addresses of repositories: canonical forms, refusals, and the allow and deny lists. Pure functions only."""

import pytest

from pyfi_hpc.errors import RepositoryRefused, SettingsError
from pyfi_hpc.model.repositories import check_allowed, check_revision, parse_address


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("https://Git.Example.ORG/Group/Repo", "https://git.example.org/Group/Repo"),
        ("HTTPS://git.example.org:443/g/r.git", "https://git.example.org/g/r"),
        ("https://git.example.org:0443/g/r/", "https://git.example.org/g/r"),
        ("https://git.example.org./g//r.git/", "https://git.example.org/g/r"),
        ("https://git.example.org:8443/g/r", "https://git.example.org:8443/g/r"),
        ("ssh://git@git.example.org:22/g/r.git", "ssh://git@git.example.org/g/r"),
        ("git@Git.Example.org:g/r.git", "ssh://git@git.example.org/g/r"),
        ("git.example.org:~me/r", "ssh://git.example.org/~me/r"),
        ("https://[::1]:444/g/r", "https://[::1]:444/g/r"),
        ("https://127.0.0.1/g/r", "https://127.0.0.1/g/r"),
    ],
)
def test_spellings_of_one_repository_become_one_address(typed: str, canonical: str) -> None:
    """Case of the host, default ports, slashes and .git make no difference: by comparing canonical texts."""
    address = parse_address(typed)
    assert address.text == canonical
    assert parse_address(address.text).text == canonical
    assert parse_address(address.fetch_text).text == canonical


@pytest.mark.parametrize(
    "typed",
    [
        "", "   ", "-", "--upload-pack=touch /tmp/x", "-uwhoami", "ext::sh -c whoami% >&2",
        "ext::https://a/b", "fd::17/foo", "file:///etc", "FILE://localhost/etc", "git://host/r", "http://host/r",
        "ftp://host/r",
        "https://user@host/r", "https://user:secret@host/r", "ssh://me:secret@host/r", "ssh://-oProxyCommand=x/r",
        "-oProxyCommand=x:r", "ssh://-x@host/r", "https://host", "https://host/", "https:///r",
        "https://ho st/r",
        "https://host/a/../b", "https://host/./b", "https://host/a%2e%2e/b", "https://host/gro%75p/r",
        "https://host/r?x=1", "https://host/r#x", "https://host\\@evil/r", "https://host:x/r", "https://host:0/r",
        "https://host:70000/r", "https://host:\u0664\u0664/r", "https://2130706433/r", "https://0x7f.0x1/r",
        "https://127.1/r", "https://h\u00f6st/r", "https://host/r\n--upload-pack=x", "/tmp/\x00x", "host:-x",
        "ssh://host/--upload-pack=x", "https://-host/r", "a" * 2000,
    ],
)  # fmt: skip
def test_hostile_addresses_are_refused(typed: str) -> None:
    """What git could take for an option, a helper or another host never becomes an address (H6)."""
    with pytest.raises(RepositoryRefused) as caught:
        parse_address(typed)
    assert "refused" in caught.value.what
    assert caught.value.fix
    assert "secret" not in str(caught.value)


def test_a_path_stays_a_path() -> None:
    """Anything without a host is local: the caller looks whether it is there."""
    for path in ("/srv/repos/x", "./x", "../x", "~/x", "x", "a/b:c", "./-x"):
        assert parse_address(path).is_local
    assert parse_address("/srv/x.git").base_name == "x"
    assert parse_address("https://h.org/g/digits.git").base_name == "digits"


ALLOWED = [
    ("https://git.example.org/group/r", "https://git.example.org/group/*"),
    ("https://git.example.org/group/sub/r", "https://git.example.org/group/*"),
    ("https://git.example.org/group/r", "https://GIT.example.org:443/group/r.git"),
    ("https://git.example.org/group/r.git", "git.example.org/group/r"),
    ("git@git.example.org:group/r", "git.example.org/group/*"),
    ("ssh://git@git.example.org:2222/group/r", "git.example.org/*"),
    ("https://a.example.org/r", "https://*.example.org/*"),
    ("/srv/repos/r", "/srv/repos/*"),
]
REFUSED = [
    ("https://git.example.org/group2/r", "https://git.example.org/group/*"),
    ("https://git.example.org/group", "https://git.example.org/group/*"),
    ("https://git.example.org.evil.net/group/r", "https://git.example.org/group/*"),
    ("https://evil.net/git.example.org/group/r", "https://git.example.org/group/*"),
    ("https://git.example.org:8443/group/r", "https://git.example.org/group/*"),
    ("ssh://git.example.org/group/r", "https://git.example.org/group/*"),
    ("https://git.example.org:8443/group/r", "git.example.org:443/group/*"),
    ("https://git.example.org/GROUP/r", "https://git.example.org/group/*"),
    ("https://evil.net/a.example.org/r", "https://*.example.org/*"),
    ("/srv/repos-evil/r", "/srv/repos/*"),
    ("/srv/repos/r", "https://git.example.org/*"),
]


@pytest.mark.parametrize(("typed", "pattern"), ALLOWED)
def test_allow_patterns_match(typed: str, pattern: str) -> None:
    """An allowed repository passes, and the same pattern in deny stops it whatever allow says."""
    check_allowed(parse_address(typed), allow=[pattern], deny=[])
    with pytest.raises(RepositoryRefused, match="denied"):
        check_allowed(parse_address(typed), allow=[pattern], deny=[pattern])


@pytest.mark.parametrize(("typed", "pattern"), REFUSED)
def test_allow_patterns_do_not_match_neighbours(typed: str, pattern: str) -> None:
    """Other hosts, ports, schemes and folders are refused, naming the list and what to add (H7)."""
    with pytest.raises(RepositoryRefused) as caught:
        check_allowed(parse_address(typed), allow=[pattern], deny=[])
    assert pattern in caught.value.where
    assert "allow" in caught.value.fix


@pytest.mark.parametrize(
    "typed",
    [
        "https://git.example.org/Evil/r", "https://GIT.EXAMPLE.ORG/evil/R.git", "https://git.example.org:443/evil/r",
        "git@git.example.org:evil/r", "ssh://git.example.org:2222/evil/r", "https://git.example.org:8443//evil/r/",
        "https://git.example.org./evil/r",
    ],
)  # fmt: skip
def test_a_deny_pattern_catches_every_spelling(typed: str) -> None:
    """Case, port, scheme, slash and suffix tricks do not get around a denied folder (H7)."""
    with pytest.raises(RepositoryRefused, match="denied"):
        check_allowed(parse_address(typed), allow=["git.example.org/*"], deny=["git.example.org/evil/*"])


def test_own_local_repositories_need_no_pattern() -> None:
    """A repository of the instance's owner passes with empty lists, but not past a deny pattern."""
    address = parse_address("/home/me/repo")
    check_allowed(address, allow=[], deny=[], own=True)
    with pytest.raises(RepositoryRefused, match="does not belong to you"):
        check_allowed(address, allow=[], deny=[])
    with pytest.raises(RepositoryRefused, match="denied"):
        check_allowed(address, allow=[], deny=["/home/*"], own=True)


def test_a_pattern_that_cannot_be_read_says_so() -> None:
    """A typing mistake in a list is an error, not a pattern that silently never matches."""
    for pattern in ("http://host/*", "host", "https://host", "*", "ext::x"):
        with pytest.raises(SettingsError, match="pattern"):
            check_allowed(parse_address("https://host/r"), allow=[pattern], deny=[])


def test_revisions() -> None:
    """Names of revisions pass unchanged; options, ranges and reflog selectors are refused (H6)."""
    for good in ("main", "v1.0", "feature/x", "HEAD~2", "HEAD^", "0" * 40, "a@b"):
        assert check_revision(good) == good
    for bad in (
        "",
        "-x",
        "--upload-pack=x",
        "a..b",
        "main:x",
        "a b",
        "HEAD@{1}",
        "x\ny",
        "*",
        "a\\b",
        "x" * 300,
    ):
        with pytest.raises(RepositoryRefused, match="revision"):
            check_revision(bad)
