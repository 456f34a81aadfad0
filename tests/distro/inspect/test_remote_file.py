"""Files over the network against a server that has gigabytes, lies, changes its mind and forgets ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from converters.errors import ChangedError, MalformedError
from distro.config import Settings
from distro.errors import DistroError, NotPermittedError, NotThereError, ProtocolError, SourceError, UsageError
from distro.inspect import remote_file
from distro.inspect.remote_file import BLOCK, RemoteFile
from distro.manifest import File, Variant
from distro.sources.http import HttpSource
from tests.fakes.hub import FakeHub, Fault, LargeFile, serving

GIB = 2**30
HUGE = LargeFile(b"GGUF", 40 * GIB, key=b"weights")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        hub.plain["huge.bin"] = HUGE
        hub.plain["small.bin"] = bytes(range(200))
        yield hub


Open = Callable[..., RemoteFile]


@pytest.fixture
def open_file(hub: FakeHub, tmp_path: Path) -> Iterator[Open]:
    settings = Settings(tmp_path / "home", tmp_path / "config", timeout_s=5.0, retries=1)
    opened: list[RemoteFile] = []
    sources: list[HttpSource] = []

    def open_file(name: str = "huge.bin", size: int | None = None) -> RemoteFile:
        file = File(name, size)
        sources.append(HttpSource(settings, f"{hub.url}/plain/", Variant("v", "gguf", (file,))))
        opened.append(RemoteFile(settings, sources[-1], file, tmp_path / name))
        return opened[-1]

    yield open_file
    for file in opened:
        file.release()
    for source in sources:
        source.close()


def test_reads_anywhere_in_forty_gigabytes(hub: FakeHub, open_file: Open, tmp_path: Path) -> None:
    file = open_file(size=40 * GIB)
    assert file.size == 40 * GIB
    assert file.read(0, 4, "magic") == b"GGUF"
    for offset, n_bytes in ((20 * GIB + 7, 100), (40 * GIB - 5, 5), (BLOCK - 1, 2), (262_143, 300_000)):
        assert file.read(offset, n_bytes, "weights") == HUGE[offset : offset + n_bytes]
        assert file.read_array(offset, n_bytes, "weights").tobytes() == HUGE[offset : offset + n_bytes]
    assert hub.n_sent() == file.n_read < 1_000_000
    assert (tmp_path / "huge.bin").stat().st_blocks * 512 < 2_000_000


def test_what_is_here_is_not_asked_for_again(hub: FakeHub, open_file: Open) -> None:
    file = open_file()
    file.read(0, 262_144, "header")
    file.read(1000, 5000, "header")
    file.close()
    file.read(9, 9, "header")
    assert [request.headers["range"] for request in hub.requests] == ["bytes=0-262143"]


def test_reading_along_reads_ahead_and_scattered_reading_does_not(hub: FakeHub, open_file: Open) -> None:
    file = open_file()
    file.read(262_144, 1, "header")
    file.read(GIB, 30, "record")
    file.read(2 * GIB + BLOCK - 2, 4, "record")
    assert [request.n_sent for request in hub.requests] == [262_144, 262_144, BLOCK, 2 * BLOCK]


def test_an_empty_file(hub: FakeHub, open_file: Open) -> None:
    hub.plain["empty.bin"] = b""
    file = open_file("empty.bin")
    assert file.size == 0
    with pytest.raises(MalformedError, match=r"header at 0: found 1 bytes wanted, 0 left"):
        file.read(0, 1, "header")


def test_an_answer_that_ends_early_is_asked_to_go_on(hub: FakeHub, open_file: Open) -> None:
    size = len(hub.plain["small.bin"])
    headers = {"content-range": f"bytes 0-99/{size}", "content-length": "100"}
    hub.faults.append(Fault(times=1, headers=headers, cut_after=100))
    assert open_file("small.bin").read(0, size, "all") == bytes(range(200))


def test_a_server_without_ranges_is_read_near_the_beginning_only(hub: FakeHub, open_file: Open) -> None:
    hub.plain["flat.bin"] = bytes(1_000_000)
    hub.faults.append(Fault(ignore_range=True, path="flat"))
    file = open_file("flat.bin")
    assert file.size == 1_000_000
    assert file.read(600_000, 5, "x") == bytes(5)


def test_far_in_a_server_without_ranges_is_refused(hub: FakeHub, open_file: Open) -> None:
    file = open_file()
    hub.faults.append(Fault(status=200, headers={"content-length": str(40 * GIB)}))
    with pytest.raises(ProtocolError, match=r"sends no part of .*huge\.bin, only all of it"):
        file.read(30 * GIB, 5, "x")


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault(headers={"content-range": "bytes 1-16384/42949672960"}), ProtocolError, "and sends bytes 1-16384/"),
        (Fault(headers={"content-range": "bytes 1073741824-1073774592/42949672960"}), ProtocolError, "sends bytes 107"),
        (Fault(headers={"content-range": "bytes */42949672960"}), ProtocolError, "sends bytes */"),
        (Fault(headers={"content-range": "pages 1-2/3"}), ProtocolError, "sends pages 1-2/3"),
        (Fault(headers={"content-range": "bytes 1073741824-1073758207/42949672961"}), ChangedError, "another file"),
        (Fault(headers={"etag": '"another"'}), ChangedError, "changed while it was read"),
        (Fault(headers={"content-type": "multipart/byteranges", "content-range": ""}), ProtocolError, "no range"),
        (Fault(gzip=True), ProtocolError, "sends gzip where identity was asked"),
        (Fault(cut_after=100), SourceError, "the connection was cut"),
        (Fault(status=416, headers={"content-range": "bytes */9999999999"}), ProtocolError, "has nothing at byte 107"),
        (Fault(status=404), NotThereError, "HTTP 404"),
        (Fault(status=403), NotPermittedError, "HTTP 403"),
        (Fault(status=503, headers={"retry-after": "0"}), SourceError, "HTTP 503"),
        (Fault(redirect="file:///etc/passwd"), ProtocolError, "no http or https address"),
    ],
)  # fmt: skip
def test_answers_that_are_not_believed(
    hub: FakeHub, open_file: Open, fault: Fault, kind: type[Exception], words: str
) -> None:
    file = open_file()
    hub.faults.append(fault)
    with pytest.raises(kind) as caught:
        file.read(GIB, 10, "weights")
    assert type(caught.value) is kind
    assert words in str(caught.value)


def test_one_failure_is_forgiven(hub: FakeHub, open_file: Open) -> None:
    hub.faults.append(Fault(times=1, status=503, headers={"retry-after": "0"}))
    assert open_file().read(0, 4, "magic") == b"GGUF"


def test_another_size_than_was_published(open_file: Open) -> None:
    with pytest.raises(ProtocolError, match=r"has 200 bytes of small\.bin, not 199"):
        open_file("small.bin", size=199)


def test_more_than_a_header_is_refused(open_file: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_file, "MOST_BYTES", 2_000_000)
    file = open_file()
    file.read(GIB, 1_000_000, "weights")
    with pytest.raises(UsageError, match="more than 2000000 bytes of it would have to be read; fetch it first"):
        file.read(2 * GIB, 1_000_000, "weights")


def test_two_states_of_a_file_differ_in_their_identity(hub: FakeHub, open_file: Open) -> None:
    first = open_file("small.bin").identity
    hub.plain["small.bin"] = bytes(200)
    assert open_file("small.bin").identity != first
    assert first[0] == 200


def test_offline_nothing_is_asked(tmp_path: Path) -> None:
    settings = Settings(tmp_path, tmp_path, offline=True)
    with pytest.raises(DistroError, match="offline"):
        HttpSource(settings, "https://example.com/a.gguf", Variant("v", "gguf", (File("a.gguf"),)))
