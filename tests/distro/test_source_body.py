"""Bodies that come fast are read from the socket: the same bytes, the same errors, with TLS and without."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from distro.config import Settings
from distro.errors import SourceError
from distro.manifest import File, Variant
from distro.sources import body
from distro.sources.http import HttpSource
from tests.fakes.certificates import Authority, make_authority
from tests.fakes.hub import FakeHub, Fault, serving

DATA = hashlib.shake_128(b"body").digest(12_000_000)
FILE = File("w.bin", len(DATA))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(params=["http", "https"])
def hub(request: pytest.FixtureRequest, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with serving(authority.server if request.param == "https" else None) as hub:
        hub.plain[FILE.path] = DATA
        yield hub


@pytest.fixture
def from_socket(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that were read past the parser, for each body."""
    seen: list[int] = []
    inside = body._from_socket

    def counting(connection, n_left, watch):  # type: ignore[no-untyped-def]
        seen.append(n_left)
        return inside(connection, n_left, watch)

    monkeypatch.setattr(body, "_from_socket", counting)
    monkeypatch.setattr(body, "_FAST", 1.0)  # whatever this machine is at
    return seen


def _source(hub: FakeHub, tmp_path: Path, timeout_s: float = 5.0) -> HttpSource:
    settings = Settings(tmp_path, tmp_path, timeout_s=timeout_s)
    return HttpSource(settings, f"{hub.url}/plain/", Variant("v", "other", (FILE,)))


def _read(source: HttpSource, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(map(bytes, source.read(FILE, start, stop)))


def test_the_same_bytes(hub: FakeHub, tmp_path: Path, from_socket: list[int]) -> None:
    source = _source(hub, tmp_path)
    assert _read(source) == DATA
    assert _read(source, 1_000_003, 11_000_001) == DATA[1_000_003:11_000_001]
    assert len(from_socket) == 2
    assert from_socket[0] > 7_000_000
    assert _read(source, 5, 100_000) == DATA[5:100_000]  # and after it, a connection of its own
    assert len(from_socket) == 2
    source.close()


def test_a_cut_is_said(hub: FakeHub, tmp_path: Path, from_socket: list[int]) -> None:
    hub.faults = [Fault(cut_after=9_000_000)]
    received = bytearray()
    with pytest.raises(SourceError, match="cut"):
        for data in _source(hub, tmp_path).read(FILE, 0):
            received += data
    assert received == DATA[:9_000_000]
    assert from_socket


def test_silence_is_said(hub: FakeHub, tmp_path: Path, from_socket: list[int]) -> None:
    hub.faults = [Fault(stall_after=9_000_000)]
    with pytest.raises(SourceError, match="silent for 0 s"):
        _read(_source(hub, tmp_path, timeout_s=0.3))
    assert from_socket


def test_a_slow_body_keeps_its_connection(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "_FAST", 1e15)
    monkeypatch.setattr(body, "_from_socket", lambda *_: pytest.fail("read past the parser"))
    source = _source(hub, tmp_path)
    assert _read(source) == DATA
    source.close()
