"""A certificate authority of our own and a server's certificate of it, made by the `openssl` command."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_SETTINGS = """[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True)
class Authority:
    """file: its certificate, for SSL_CERT_FILE. folder: the same for SSL_CERT_DIR."""

    file: Path
    folder: Path
    server: ssl.SSLContext


def make_authority(folder: Path, *, days: int = 2) -> Authority:
    """Skips the test where there is no `openssl`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make certificates")
    folder.mkdir()
    (folder / "settings").write_text(_SETTINGS)

    def run(*arguments: str) -> str:
        done = subprocess.run([openssl, *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    new = ("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", "settings")
    run(*new, "-x509", "-extensions", "ca", "-subj", "/CN=ours", "-days", "3", "-keyout", "ca.key", "-out", "ca.pem")
    run(*new, "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr")
    run("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", str(days),
        "-extfile", "settings", "-extensions", "server", "-out", "server.pem")  # fmt: skip
    hashed = folder / "hashed"
    hashed.mkdir()
    name = run("x509", "-in", "ca.pem", "-noout", "-hash")
    (hashed / f"{name}.0").write_bytes((folder / "ca.pem").read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return Authority(folder / "ca.pem", hashed, context)
