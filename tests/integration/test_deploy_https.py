"""Deploying from an https address: a real server on this machine with a certificate of its own."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pyfi_hpc.client.deploy import prepare
from pyfi_hpc.errors import CloneFailed, NotFound
from pyfi_hpc.settings import Settings


class _Handler(SimpleHTTPRequestHandler):
    """Files as they are; /moved/ redirects to them."""

    def do_GET(self) -> None:
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(name="site")
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The server's address and its folder."""
    certificate, served = tmp_path / "site.pem", tmp_path / "served"
    served.mkdir()
    _write_certificate(certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(served)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("GIT_SSL_CAINFO", str(certificate))
    yield f"https://127.0.0.1:{server.server_port}", served
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_https_repository(site: tuple[str, Path], tmp_path: Path) -> None:
    """HEAD, a branch and an unknown revision; a kept commit needs no server; a redirect is not followed."""
    address, served = site
    work = tmp_path / "calc"
    work.mkdir()
    bare = served / "group" / "calc.git"
    _git(work, "init", "--quiet", "--initial-branch=trunk")
    (work / "calc.py").write_text("def f(): return 1\n")
    _git(work, "add", ".")
    _git(work, "commit", "--quiet", "-m", "one")
    _git(work, "clone", "--quiet", "--bare", ".", str(bare))
    _git(bare, "update-server-info")
    settings = Settings(home=tmp_path / "home", scratch=tmp_path, allow=(f"{address}/*",))

    first = prepare(settings, f"{address}/group/calc.git")
    assert first.code.repository == f"{address}/group/calc"
    assert first.code.commit == _git(work, "rev-parse", "HEAD")
    assert [socket.name for socket in first.sockets] == ["calc.f"]

    (work / "calc.py").write_text("def g(): return 1\n")
    _git(work, "commit", "--quiet", "-am", "two")
    _git(work, "push", "--quiet", "--force", str(bare), "trunk", "trunk:other")
    _git(bare, "update-server-info")
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


def _git(folder: Path, *args: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(
        ["git", *who, *args], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def _write_certificate(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=1,
        not_valid_before=now - datetime.timedelta(days=1), not_valid_after=now + datetime.timedelta(days=1),
    )  # fmt: skip
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = builder.add_extension(addresses, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
