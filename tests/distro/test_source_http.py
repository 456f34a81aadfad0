"""The ranged reader against a server that lies, cuts, drips, redirects and refuses."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx2
import pytest

from distro.config import Settings
from distro.errors import (
    DistroError,
    NotPermittedError,
    NotThereError,
    ProtocolError,
    SourceError,
    UsageError,
    exit_code,
)
from distro.manifest import File, Variant
from distro.sources.http import HttpReader, HttpSource, retry_after
from distro.sources.origins import is_inside
from tests.fakes.hub import FakeHub, Fault, serving

DATA = bytes(range(251)) * 4000  # 1,004,000 bytes, of a period that no buffer has
SIZE = len(DATA)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        hub.plain["file.bin"] = DATA
        yield hub


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "config", timeout_s=5.0)


@pytest.fixture
def reader(settings: Settings) -> Iterator[HttpReader]:
    reader = HttpReader(settings, "mirror")
    yield reader
    reader.close()


def _read(reader: HttpReader, hub: FakeHub, offset: int = 0, size: int | None = SIZE) -> bytes:
    return b"".join(reader.stream(f"{hub.url}/plain/file.bin", offset, size))


@pytest.mark.parametrize("offset", [0, 1, 65536, SIZE - 1])
def test_reads_from_an_offset_and_no_byte_more(hub: FakeHub, reader: HttpReader, offset: int) -> None:
    assert _read(reader, hub, offset) == DATA[offset:]
    (request,) = hub.requests
    assert request.headers["range"] == f"bytes={offset}-"
    assert request.headers["accept-encoding"] == "identity"
    assert request.n_sent == SIZE - offset


def test_a_complete_file_is_not_asked_for(hub: FakeHub, reader: HttpReader) -> None:
    assert _read(reader, hub, SIZE) == b""
    assert hub.requests == []


def test_an_unknown_size_is_read_to_its_end(hub: FakeHub, reader: HttpReader) -> None:
    assert _read(reader, hub, 0, None) == DATA
    assert _read(reader, hub, SIZE, None) == b""  # 416 with the size that we have


@pytest.mark.parametrize(
    "fault",
    [
        Fault(ignore_range=True),
        Fault(times=1, shift_range=7),
        Fault(times=1, headers={"content-range": f"bytes 0-{SIZE - 1}/{SIZE}"}),
        Fault(times=1, headers={"content-range": f"bytes 1000-{SIZE}/{SIZE + 1}"}),
        Fault(times=1, headers={"content-range": f"bytes 1000-{SIZE - 1}/*"}),
        Fault(times=1, headers={"content-range": "bytes"}),
        Fault(times=1, headers={"content-range": "bytes 1000-9/10"}),
        Fault(times=1, headers={"content-range": "bytes ١٠٠٠-٩/٣".encode().decode("latin-1")}),
        Fault(times=1, headers={"content-range": ""}),
    ],
    ids=["ignored", "later", "earlier", "total", "star", "short", "backwards", "other-digits", "empty"],
)
def test_a_range_that_was_not_asked_for_is_never_appended(hub: FakeHub, reader: HttpReader, fault: Fault) -> None:
    hub.faults = [fault]
    assert _read(reader, hub, 1000) == DATA[1000:]  # from the whole file instead


def test_a_range_that_ends_early_is_taken_as_far_as_it_goes(hub: FakeHub, reader: HttpReader) -> None:
    short = {"content-range": f"bytes 0-99/{SIZE}", "content-length": "100"}
    hub.faults = [Fault(times=1, headers=short, cut_after=100)]
    assert _read(reader, hub) == DATA[:100]


REFUSED = [
    ("401", Fault(status=401), NotPermittedError, 77),
    ("403", Fault(status=403), NotPermittedError, 77),
    ("451", Fault(status=451), NotPermittedError, 77),
    ("404", Fault(status=404), NotThereError, 66),
    ("410", Fault(status=410), NotThereError, 66),
    ("429", Fault(status=429), SourceError, 75),
    ("500", Fault(status=500), SourceError, 75),
    ("503", Fault(status=503), SourceError, 75),
    ("400", Fault(status=400), ProtocolError, 76),
    ("204", Fault(status=204), ProtocolError, 76),
    ("gzip", Fault(gzip=True), ProtocolError, 76),
    ("br", Fault(headers={"content-encoding": "br"}), ProtocolError, 76),
    ("longer", Fault(body=DATA + b"x"), ProtocolError, 76),
    ("shorter", Fault(body=DATA[:-1]), ProtocolError, 76),
    ("an HTML page", Fault(body=b"<html>Log in to the hotel's network</html>"), ProtocolError, 76),
    ("size 2^63", Fault(headers={"content-length": str(2**63), "content-range": "x"}), ProtocolError, 76),
    ("two lengths", Fault(headers={"Content-Length": "5"}), ProtocolError, 76),
    ("length -1", Fault(headers={"content-length": "-1"}), ProtocolError, 76),
    ("cut", Fault(cut_after=5000), SourceError, 75),
    ("cut at once", Fault(cut_after=0), SourceError, 75),
    ("to file:", Fault(redirect="file:///etc/passwd"), ProtocolError, 76),
    ("to ftp:", Fault(redirect="ftp://example.com/x"), ProtocolError, 76),
    ("to data:", Fault(redirect="data:,x"), ProtocolError, 76),
    ("to nowhere", Fault(redirect=""), ProtocolError, 76),
    ("to nonsense", Fault(redirect="http://[::1"), ProtocolError, 76),
    ("in a circle", Fault(redirect="/plain/file.bin"), ProtocolError, 76),
]


@pytest.mark.parametrize(("fault", "error", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refusals(hub: FakeHub, reader: HttpReader, fault: Fault, error: type[DistroError], code: int) -> None:
    hub.faults = [fault]
    with pytest.raises(error) as caught:
        _read(reader, hub)
    assert exit_code(caught.value) == code
    assert str(caught.value).startswith("mirror: ")
    assert len(hub.requests) <= 6


def test_five_redirects_are_followed_and_a_sixth_is_not(hub: FakeHub, reader: HttpReader) -> None:
    hub.faults = [Fault(times=5, redirect="/plain/file.bin")]
    assert _read(reader, hub) == DATA
    hub.faults = [Fault(times=6, redirect="/plain/file.bin")]
    with pytest.raises(ProtocolError, match="more than 5 redirects"):
        _read(reader, hub)


def test_the_size_of_a_redirect_is_not_the_files(hub: FakeHub, reader: HttpReader) -> None:
    with serving() as cdn:
        cdn.plain["blob"] = DATA
        hub.faults = [Fault(redirect=f"{cdn.url}/plain/blob", headers={"content-length": "3"})]
        assert _read(reader, hub) == DATA


def test_authorization_goes_to_the_first_origin_alone(hub: FakeHub, settings: Settings) -> None:
    with serving() as other:
        other.faults = [Fault(redirect=f"{hub.url}/plain/file.bin")]
        other.plain["x"] = b""
        hub.faults = [Fault(times=1, redirect=f"{other.url}/plain/x")]  # there and back again
        reader = HttpReader(settings, "hub", token="hf_secret", origin=hub.url)
        assert b"".join(reader.stream(f"{hub.url}/plain/file.bin", 0, SIZE)) == DATA
        reader.close()
        assert [request.headers.get("authorization") for request in other.requests] == [None]
        assert hub.requests[0].headers["authorization"] == "Bearer hf_secret"


def test_a_token_is_not_sent_where_the_address_is_of_another_origin(hub: FakeHub, settings: Settings) -> None:
    reader = HttpReader(settings, "hub", token="hf_secret", origin=hub.url.replace("127.0.0.1", "localhost"))
    assert b"".join(reader.stream(f"{hub.url}/plain/file.bin", 0, SIZE)) == DATA
    reader.close()
    assert "authorization" not in hub.requests[0].headers


def test_cookies_do_not_travel(hub: FakeHub, reader: HttpReader) -> None:
    hub.faults = [Fault(times=1, headers={"set-cookie": "session=1"})]
    _read(reader, hub)
    _read(reader, hub)
    assert "cookie" not in hub.requests[1].headers


def test_messages_hold_no_secret_of_the_address(hub: FakeHub, reader: HttpReader) -> None:
    hub.faults = [Fault(status=404)]
    address = hub.url.replace("http://", "http://me:pass@") + "/plain/file.bin?signature=hidden"
    with pytest.raises(NotThereError) as caught:
        b"".join(reader.stream(address, 0, SIZE))
    assert str(caught.value) == f"mirror: HTTP 404 for {hub.url}/plain/file.bin"


def _redirected(reader: HttpReader, here: str, there: str) -> httpx2.URL:
    return reader._redirected(httpx2.URL(here), httpx2.URL(here), there)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("https://hub.example/x", "http://hub.example/x"),
        ("https://hub.example/x", "https://127.0.0.1/x"),
        ("https://hub.example/x", "https://localhost/x"),
        ("http://hub.example/x", "http://169.254.169.254/latest/meta-data"),
        ("https://hub.example/x", "https://[::1]/x"),
        ("https://hub.example/x", "https://10.0.0.1/x"),
        ("https://hub.example/x", "https://[::ffff:127.0.0.1]/x"),
    ],
)
def test_redirects_that_no_hub_needs_are_refused(reader: HttpReader, here: str, there: str) -> None:
    with pytest.raises(ProtocolError):
        _redirected(reader, here, there)


def test_a_redirect_to_a_cdn_is_followed(reader: HttpReader) -> None:
    assert str(_redirected(reader, "https://hub.example/x", "https://cdn.example:8443/y?s=1")) == (
        "https://cdn.example:8443/y?s=1"
    )
    assert str(_redirected(reader, "https://hub.example/a/x", "../y")) == "https://hub.example/y"


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("localhost", True), ("a.localhost.", True), ("192.168.1.1", True), ("8.8.8.8", False),
     ("hub.example", False), ("fe80::1%eth0", True), ("2606:4700::1111", False)],
)  # fmt: skip
def test_addresses_of_our_own_network(host: str, inside: bool) -> None:
    assert is_inside(host) is inside


def test_a_drip_is_as_good_as_silence(hub: FakeHub, settings: Settings) -> None:
    reader = HttpReader(replace(settings, timeout_s=0.5), "mirror")
    hub.faults = [Fault(rate=200)]
    with pytest.raises(SourceError, match=r"only \d+ bytes in 1 s"):
        _read(reader, hub)
    reader.close()


@contextmanager
def _socket_server(answer: bytes, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Says something to whoever connects, and then nothing more until the end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def serve() -> None:
            with server.accept()[0] as connection:
                if tls is not None:
                    with suppress(ssl.SSLError):  # the client hangs up
                        tls.wrap_socket(connection, server_side=True)
                    return
                connection.recv(65536)
                connection.sendall(answer)
                done.wait(10)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{server.getsockname()[1]}/x"
        finally:
            done.set()
            thread.join()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"])
def test_silence_is_a_time_out(settings: Settings, answer: bytes) -> None:
    reader = HttpReader(replace(settings, timeout_s=0.3), "mirror")
    with _socket_server(answer) as url, pytest.raises(SourceError, match="silent for 0 s") as caught:
        b"".join(reader.stream(url, 0, 9))
    reader.close()
    assert exit_code(caught.value) == 75


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", 76),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd", 76),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 76),
    ],
)
def test_what_is_no_http_is_76(reader: HttpReader, answer: bytes, code: int) -> None:
    with _socket_server(answer) as url, pytest.raises(SourceError) as caught:
        b"".join(reader.stream(url, 0, 9))
    assert exit_code(caught.value) == code


def test_a_refused_connection_is_75(reader: HttpReader) -> None:
    with pytest.raises(SourceError) as caught:
        b"".join(reader.stream("http://127.0.0.1:9/x", 0, 1))
    assert exit_code(caught.value) == 75


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_that_is_not_trusted_is_76(hub: FakeHub, reader: HttpReader, tmp_path: Path) -> None:
    pem, days = tmp_path / "both.pem", ["-days", "2", "-subj", "/CN=127.0.0.1", "-nodes"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *days]
    subprocess.run([*command, "-keyout", str(pem), "-out", str(tmp_path / "x")], check=True, capture_output=True)
    pem.write_bytes(pem.read_bytes() + (tmp_path / "x").read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with _socket_server(b"", context) as url, pytest.raises(ProtocolError) as caught:
        b"".join(reader.stream(url, 0, 1))
    assert "certificate not accepted: self-signed certificate" in str(caught.value)
    assert "the clock here says" in str(caught.value)
    assert exit_code(caught.value) == 76


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "3600"}, 300),
        ({"retry-after": "1000000000"}, 300),
        ({"retry-after": "9" * 40}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": format_datetime(NOW - timedelta(days=1))}, 0),
        ({"retry-after": format_datetime(NOW + timedelta(days=1))}, 300),
        ({"ratelimit": '"resolvers";r=0;t=12'}, 12),
    ],
)
def test_how_long_a_busy_server_wants_us_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(httpx2.Headers(headers)) == seconds


def test_a_source_is_a_folder_or_the_only_file(hub: FakeHub, settings: Settings) -> None:
    hub.plain["sub dir/a+b.bin"] = DATA
    one, two = File("sub dir/a+b.bin", SIZE), File("file.bin", SIZE)
    folder = HttpSource(settings, f"{hub.url}/plain/", Variant("v", "gguf", (one, two)))
    assert b"".join(folder.read(one, 0)) == DATA
    assert b"".join(folder.read(two, 5)) == DATA[5:]
    folder.close()
    single = HttpSource(settings, f"{hub.url}/plain/file.bin?key=1", Variant("v", "gguf", (two,)))
    assert single.name == f"{hub.url}/plain/file.bin"
    assert b"".join(single.read(two, 0)) == DATA
    single.close()
    with pytest.raises(UsageError):
        HttpSource(settings, f"{hub.url}/plain/file.bin", Variant("v", "gguf", (one, two)))


def test_offline_asks_nobody(settings: Settings) -> None:
    with pytest.raises(SourceError, match="offline"):
        HttpReader(replace(settings, offline=True), "mirror")
