"""Torrents that we read: judged. Torrents that we write: read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distro.errors import DistroError, MalformedManifestError
from distro.swarm.make import make
from distro.swarm.torrent import read
from tests.fakes.torrents import KIB, v1_torrent, write


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    torrent = make(write(tmp_path))
    (tmp_path / "x.torrent").write_bytes(torrent.encode())

    again = read(tmp_path / "x.torrent")

    assert again == torrent
    assert again.piece_layers == torrent.piece_layers


def test_the_v1_companion_has_the_same_pieces(tmp_path: Path) -> None:
    torrent = make(write(tmp_path))
    companion = read(torrent.v1_companion().encode())
    ours: Any = lt.bdecode(companion.info)
    info: Any = lt.bdecode(torrent.info)

    assert (companion.infohash_v2, companion.name) == (None, torrent.name)
    assert ours[b"pieces"] == info[b"pieces"]
    assert [(f.path, f.size) for f in companion.files] == [(f.path, f.size) for f in torrent.files]


# Bad torrents: a good one, one thing changed, the field that is named


def _set(**changes: object) -> Callable[[dict[bytes, Any]], object]:
    return lambda torrent: torrent[b"info"].update({key.replace("_", " ").encode(): v for key, v in changes.items()})


def _path(*parts: bytes) -> Callable[[dict[bytes, Any]], object]:
    return lambda torrent: torrent[b"info"][b"files"][0].update({b"path": list(parts)})


def _entry(**changes: object) -> Callable[[dict[bytes, Any]], object]:
    return lambda torrent: torrent[b"info"][b"files"][0].update({key.encode(): v for key, v in changes.items()})


BAD_TORRENTS: dict[str, tuple[Callable[[dict[bytes, Any]], object], str]] = {
    "no info": (lambda t: t.pop(b"info"), "torrent"),
    "info is a list": (lambda t: t.update({b"info": []}), "torrent"),
    "no piece length": (lambda t: t[b"info"].pop(b"piece length"), "torrent"),
    "piece length 0": (_set(piece_length=0), "torrent"),
    "piece length -1": (_set(piece_length=-1), "torrent"),
    "piece length 1": (_set(piece_length=1, pieces=bytes(20) * (5 + 16 * KIB)), "piece length"),
    "piece length 16 KiB - 1": (_set(piece_length=16 * KIB - 1, pieces=bytes(20) * 2), "piece length"),
    "piece length 2**31": (_set(piece_length=2**31), "torrent"),
    "piece length 2**40": (_set(piece_length=2**40), "torrent"),
    "pieces not of 20": (_set(pieces=bytes(39)), "torrent"),
    "too few pieces": (_set(pieces=bytes(20)), "torrent"),
    "no pieces": (lambda t: t[b"info"].pop(b"pieces"), "torrent"),
    "no name": (lambda t: t[b"info"].pop(b"name"), "torrent"),
    "no files": (_set(files=[]), "torrent"),
    "negative size": (_entry(length=-1), "torrent"),
    "huge size": (_entry(length=2**62), "torrent"),
    "size is a text": (_entry(length=b"5"), "torrent"),
    "climbs": (_path(b"..", b"a"), "path"),
    "absolute": (_path(b"/etc", b"passwd"), "path"),
    "slash inside": (_path(b"x/y"), "path"),
    "empty name": (_path(b""), "path"),
    "dot": (_path(b"."), "path"),
    "NUL": (_path(b"a\0b"), "path"),
    "new line": (_path(b"a\nb"), "path"),
    "device": (_path(b"CON"), "path"),
    "colon": (_path(b"a:b"), "path"),
    "backslash": (_path(b"a\\b"), "path"),
    "bidi": (_path("a\u202eb".encode()), "path"),
    "not UTF-8": (_path(b"\xff\xfe"), "path"),
    "10 KB": (_path(b"a" * 10_000), "path"),
    "the same name twice": (_path(b"d", b"b"), "path"),
    "the same name in other case": (_path(b"D", b"B"), "path"),
    "symbolic link": (
        lambda t: (
            _entry(length=0, attr=b"l", **{"symlink path": [b"d", b"b"]})(t),
            _set(pieces=bytes(20))(t),
        ),
        "a",
    ),
}


@pytest.mark.parametrize("name", BAD_TORRENTS)
def test_a_bad_torrent_is_refused_with_its_field(name: str) -> None:
    change, field = BAD_TORRENTS[name]
    torrent = v1_torrent()
    read(lt.bencode(torrent))
    change(torrent)

    with pytest.raises(MalformedManifestError) as caught:
        read(lt.bencode(torrent))

    assert caught.value.field == field
    assert caught.value.exit_code == 65


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unexpected end"),
        (b"d4:info", "unexpected end"),
        (b"i1e", "not a dictionary"),
        (b"d" + b"4:junkl" * 1 + b"l" * 101 + b"e" * 102 + b"e", "depth"),
        (b"d1:al" + b"le" * 3_000_001 + b"ee", "item count"),
        (b"d1:a10000000:" + bytes(10_000_000) + b"e", "10000016 bytes|10000000 at most"),
        (b"d4:infod4:name99999999999999999999:ae", "digit|integer|overflow|end of file"),
    ],
)
def test_bytes_that_are_no_torrent_are_refused_in_bounds(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedManifestError, match=reason):
        read(data)


def test_every_cut_of_a_torrent_is_refused(tmp_path: Path) -> None:
    data = make(write(tmp_path)).encode()
    for length in range(0, len(data), 7):
        with pytest.raises(MalformedManifestError):
            read(data[:length])


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_harmless(position: int, value: int) -> None:
    data = bytearray(lt.bencode(v1_torrent()))
    data[position % len(data)] = value
    try:
        torrent = read(bytes(data))
    except DistroError as error:
        assert error.exit_code == 65
    else:
        assert all(".." not in file.path.split("/") and not file.path.startswith("/") for file in torrent.files)


@pytest.mark.parametrize("length", [0, 32, 96, 160])
def test_piece_layers_must_be_there_and_of_their_size(tmp_path: Path, length: int) -> None:
    torrent = make(write(tmp_path, {"a": b"x" * 32 * KIB * 4}))
    outer: Any = lt.bdecode(torrent.encode())
    (root,) = outer[b"piece layers"]
    outer[b"piece layers"] = {root: bytes(length)} if length else {}

    with pytest.raises(MalformedManifestError):
        read(lt.bencode(outer))


def test_a_wrong_pad_file_does_not_become_a_file() -> None:
    torrent = v1_torrent()
    torrent[b"info"][b"files"].insert(1, {b"length": 3, b"path": [b"model.gguf"], b"attr": b"p"})
    torrent[b"info"][b"files"][0][b"attr"] = b"x"  # executable: of no interest

    assert [file.path for file in read(lt.bencode(torrent)).files] == ["a", "d/b"]


@pytest.mark.parametrize("name", [b"..", b"/abs", b"a\nb", b"CON", b"$(x);", b"\xff", b"x" * 10_000])
def test_the_name_of_a_folder_decides_nothing(name: bytes) -> None:
    torrent = v1_torrent()
    torrent[b"info"][b"name"] = name

    assert [file.path for file in read(lt.bencode(torrent)).files] == ["a", "d/b"]


# Addresses

UNFIT = [
    "http://127.0.0.1:6969/announce", "http://localhost/announce", "udp://[::1]:80", "http://169.254.169.254/latest",
    "http://2130706433/", "http://0x7f000001/", "http://127.1/", "file:///etc/passwd", "ftp://a.example.com/x",
    "javascript:alert(1)", "http://user:word@tracker.example.com/announce", "http://printer.local/announce",
    "http://0.0.0.0/", "http://[::ffff:127.0.0.1]/", "wss://tracker.example.com", "",
]  # fmt: skip


def test_trackers_that_lead_inward_are_dropped_and_said() -> None:
    torrent = v1_torrent()
    fit = "udp://tracker.example.com:6969/announce"
    torrent[b"announce-list"] = [[url.encode()] for url in [*UNFIT, fit]]
    torrent[b"url-list"] = [b"http://127.0.0.1/files/", b"https://mirror.example.com/files/"]

    judged = read(lt.bencode(torrent))

    assert judged.trackers == (fit,)
    assert judged.web_seeds == ("https://mirror.example.com/files/",)
    assert any("127.0.0.1:6969" in line for line in judged.dropped)
    assert read(judged.encode()).trackers == (fit,)


def test_a_flood_of_trackers_is_cut() -> None:
    torrent = v1_torrent()
    torrent[b"announce-list"] = [[f"http://t{i}.example.com/announce".encode()] for i in range(20_000)]

    judged = read(lt.bencode(torrent))

    assert len(judged.trackers) == 64
    assert judged.dropped == ("19936 of 20000 trackers dropped: 64 are enough",)
