"""Torrents that we make: the same for everybody, right by the BEPs. Torrents that we read: judged."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.errors import ChangedError
from distro.errors import DistroError, MalformedManifestError, NotFoundError, UnsafeRequestError, UsageError
from distro.progress import SilentBar
from distro.swarm import torrents
from distro.swarm.torrents import make, parse_magnet, piece_length_for, read, variant_from_torrent

KIB = 1024
FILES = {"config.json": b'{"a": 1}', "model.gguf": bytes(range(256)) * 200, "sub/shard": b"x" * 70_000, "empty": b""}


def write(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def merkle_root(data: bytes) -> str:
    """BEP 52 in five lines, as a judge."""
    leaves = [hashlib.sha256(data[i : i + 16 * KIB]).digest() for i in range(0, len(data), 16 * KIB)]
    leaves += [bytes(32)] * ((1 << (len(leaves) - 1).bit_length()) - len(leaves))
    while len(leaves) > 1:
        leaves = [hashlib.sha256(a + b).digest() for a, b in zip(leaves[::2], leaves[1::2], strict=True)]
    return leaves[0].hex()


def test_the_infohashes_of_a_fixed_folder(tmp_path: Path) -> None:
    torrent = make(write(tmp_path))

    assert torrent.infohash_v1 == "aee644f54ec4f298bb46990cc1fc1247ddc5a6d5"
    assert torrent.infohash_v2 == "b3d20c4f9bbfd9ed5cadb06864a9e75963f8813c55599944d05e460ce93ac6b0"
    assert torrent.name == "9520d50782f01712"


def test_same_files_same_torrent_whoever_makes_it(tmp_path: Path) -> None:
    here = write(tmp_path / "llama, mine")
    there = write(tmp_path / "deep" / "Ünïcode\n", dict(reversed(FILES.items())))
    os.utime(there / "model.gguf", (1, 1))
    (there / "model.gguf").chmod(0o755)

    assert make(here).encode() == make(there).encode()


def test_what_is_no_part_of_a_model_stays_out(tmp_path: Path) -> None:
    clean = make(write(tmp_path / "clean"))
    folder = write(tmp_path / "lived-in")
    write(folder, {"receipt.json": b"{}", ".hidden": b"1", ".git/config": b"2", "x.part": b"3", "y.incomplete": b"4"})
    (folder / "out").symlink_to(tmp_path / "clean" / "model.gguf")
    os.mkfifo(folder / "pipe")

    assert make(folder) == clean


def test_a_link_that_stays_inside_counts_as_its_content(tmp_path: Path) -> None:
    copied = write(tmp_path / "a", {"one": b"same", "two": b"same"})
    linked = write(tmp_path / "b", {"one": b"same"})
    (linked / "two").symlink_to("one")

    assert make(linked) == make(copied)


def test_a_single_file_is_a_folder_of_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"model.gguf": b"weights"})

    assert make(folder / "model.gguf") == make(folder)


def test_other_bytes_other_name_or_other_file_is_another_torrent(tmp_path: Path) -> None:
    base = make(write(tmp_path / "0"))
    others = [
        make(write(tmp_path / "1", {**FILES, "config.json": b'{"a": 2}'})),
        make(write(tmp_path / "2", {**FILES, "empty2": b""})),
        make(write(tmp_path / "3", {**FILES, "sub/shard": b"x" * 70_001})),
        base.as_private(),
    ]

    assert len({each.infohash_v2 for each in [base, *others]}) == 5
    assert len({each.infohash_v1 for each in [base, *others]}) == 5


def test_hashes_are_what_the_beps_say(tmp_path: Path) -> None:
    torrent = make(write(tmp_path))
    parsed: Any = lt.load_torrent_buffer(torrent.encode()).ti
    info: Any = lt.bdecode(torrent.info)
    padded = b""  # the v1 stream: files in order, each but the last filled up to whole pieces
    for entry in info[b"files"]:
        padded += bytes(entry[b"length"]) if b"attr" in entry else FILES[b"/".join(entry[b"path"]).decode()]
    pieces = [padded[i : i + 32 * KIB] for i in range(0, len(padded), 32 * KIB)]

    assert (
        torrent.infohash_v1
        == hashlib.sha1(torrent.info, usedforsecurity=False).hexdigest()
        == str(parsed.info_hashes().v1)
    )
    assert torrent.infohash_v2 == hashlib.sha256(torrent.info).hexdigest() == str(parsed.info_hashes().v2)
    assert info[b"pieces"] == b"".join(hashlib.sha1(piece, usedforsecurity=False).digest() for piece in pieces)
    assert {file.path: file.size for file in torrent.files} == {name: len(data) for name, data in FILES.items()}
    assert {file.path: file.pieces_root for file in torrent.files} == {
        name: merkle_root(data) if data else None for name, data in FILES.items()
    }
    nameless = {key: value for key, value in info.items() if key != b"name"}
    assert torrent.name == hashlib.sha256(lt.bencode(nameless)).hexdigest()[:16]
    nameless = {key: value for key, value in info.items() if key != b"name"}
    assert torrent.name == hashlib.sha256(lt.bencode(nameless)).hexdigest()[:16]
    assert set(info) == {b"file tree", b"files", b"meta version", b"name", b"piece length", b"pieces"}
    assert set(lt.bdecode(torrent.encode())) == {b"info", b"piece layers"}  # type: ignore[arg-type]


def test_the_v1_companion_has_the_same_pieces(tmp_path: Path) -> None:
    torrent = make(write(tmp_path))
    companion = read(torrent.v1_companion().encode())
    ours: Any = lt.bdecode(companion.info)
    info: Any = lt.bdecode(torrent.info)

    assert (companion.infohash_v2, companion.name) == (None, torrent.name)
    assert ours[b"pieces"] == info[b"pieces"]
    assert [(f.path, f.size) for f in companion.files] == [(f.path, f.size) for f in torrent.files]


@pytest.mark.parametrize(
    ("total", "piece_length"),
    [
        (1, 32 * KIB), (32 * KIB * 1024, 32 * KIB), (32 * KIB * 1024 + 1, 64 * KIB), (98_362_432, 128 * KIB),
        (13_000_000_000, 16 * KIB * KIB), (800_000_000_000, 16 * KIB * KIB),
    ],
)  # fmt: skip
def test_piece_length_follows_the_size(total: int, piece_length: int) -> None:
    assert piece_length_for(total) == piece_length


@pytest.mark.parametrize("piece_length", [1, 16 * KIB, 32 * KIB - 1, 48 * KIB, 32 * KIB * KIB])
def test_an_odd_piece_length_is_refused(tmp_path: Path, piece_length: int) -> None:
    with pytest.raises(UsageError, match="piece length"):
        make(write(tmp_path), piece_length=piece_length)


def test_nothing_to_share(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path, write(tmp_path / "e", {"empty": b""})):
        with pytest.raises(NotFoundError):
            make(path)


def test_a_name_that_others_could_not_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedManifestError, match="file name"):
        make(write(tmp_path, {"a:b": b"1"}))


def test_a_file_that_changes_while_it_is_hashed_makes_no_torrent(tmp_path: Path) -> None:
    write(tmp_path)

    class Meddler(SilentBar):
        def advance(self, n_bytes: int) -> None:
            (tmp_path / "config.json").write_bytes(b"{}")

    class Progress:
        def bar(self, title: str, total: int | None, done: int = 0) -> SilentBar:
            return Meddler()

        def say(self, text: str) -> None:
            pass

    with pytest.raises(ChangedError, match=r"config\.json"):
        make(tmp_path, progress=Progress())


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    torrent = make(write(tmp_path))
    (tmp_path / "x.torrent").write_bytes(torrent.encode())

    again = read(tmp_path / "x.torrent")

    assert again == torrent
    assert again.piece_layers == torrent.piece_layers


# Bad torrents: a good one, one thing changed, the field that is named


def _v1() -> dict[bytes, Any]:
    return {
        b"info": {
            b"name": b"n", b"piece length": 16 * KIB, b"pieces": bytes(20) * 2,
            b"files": [{b"length": 5, b"path": [b"a"]}, {b"length": 16 * KIB, b"path": [b"d", b"b"]}],
        }
    }  # fmt: skip


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
    torrent = _v1()
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
    data = bytearray(lt.bencode(_v1()))
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
    torrent = _v1()
    torrent[b"info"][b"files"].insert(1, {b"length": 3, b"path": [b"model.gguf"], b"attr": b"p"})
    torrent[b"info"][b"files"][0][b"attr"] = b"x"  # executable: of no interest

    assert [file.path for file in read(lt.bencode(torrent)).files] == ["a", "d/b"]


@pytest.mark.parametrize("name", [b"..", b"/abs", b"a\nb", b"CON", b"$(x);", b"\xff", b"x" * 10_000])
def test_the_name_of_a_folder_decides_nothing(name: bytes) -> None:
    torrent = _v1()
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
    torrent = _v1()
    fit = "udp://tracker.example.com:6969/announce"
    torrent[b"announce-list"] = [[url.encode()] for url in [*UNFIT, fit]]
    torrent[b"url-list"] = [b"http://127.0.0.1/files/", b"https://mirror.example.com/files/"]

    judged = read(lt.bencode(torrent))

    assert judged.trackers == (fit,)
    assert judged.web_seeds == ("https://mirror.example.com/files/",)
    assert any("127.0.0.1:6969" in line for line in judged.dropped)
    assert read(judged.encode()).trackers == (fit,)


def test_a_flood_of_trackers_is_cut() -> None:
    torrent = _v1()
    torrent[b"announce-list"] = [[f"http://t{i}.example.com/announce".encode()] for i in range(20_000)]

    judged = read(lt.bencode(torrent))

    assert len(judged.trackers) == 64
    assert judged.dropped == ("19936 of 20000 trackers dropped: 64 are enough",)


# Magnet links

V1, V2 = "c12fe1c06bba254a9dc9f519b335aa7c1367a88a", "d8dd32ac93357c368556af3ac1d95c9d76bd0dff6fa9833ecdac3d53134efabb"


def test_a_magnet_is_read() -> None:
    magnet = parse_magnet(
        f"magnet:?xt=urn:btih:{V1.upper()}&xt=urn:btmh:1220{V2}&dn=a%20model"
        "&tr=udp%3A%2F%2Ftracker.example.com%3A6969&tr.1=http%3A%2F%2Fb.example.com%2Fannounce&x.pe=8.8.8.8:6881"
    )

    assert (magnet.infohash_v1, magnet.infohash_v2, magnet.label) == (V1, V2, "a model")
    assert magnet.trackers == ("udp://tracker.example.com:6969", "http://b.example.com/announce")
    assert magnet.peers == (("8.8.8.8", 6881),)
    assert magnet.dropped == ()


def test_base32_is_the_same_hash() -> None:
    assert parse_magnet("magnet:?xt=urn:btih:YEX6DQDLXISUVHOJ6UM3GNNKPQJWPKEK").infohash_v1 == V1


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("magnet:?dn=x", "xt"),
        ("magnet:?xt=urn:sha1:" + V1, "xt"),
        ("magnet:x", "link"),
        ("http://x", "link"),
        ("magnet:?xt=urn:btih:" + V1[1:], "xt urn:btih"),
        ("magnet:?xt=urn:btih:" + "1" * 32, "xt urn:btih"),
        ("magnet:?xt=urn:btih:" + "8" * 32, "xt urn:btih"),
        ("magnet:?xt=urn:btih:" + "g" * 40, "xt urn:btih"),
        (f"magnet:?xt=urn:btih:{V1}&xt=urn:btih:{'a' * 40}", "xt urn:btih"),
        (f"magnet:?xt=urn:btmh:1320{V2}", "xt urn:btmh"),
        (f"magnet:?xt=urn:btmh:1220{V2[2:]}", "xt urn:btmh"),
        (f"magnet:?xt=urn:btih:{V1}&dn=" + "x" * 1_000_000, "length"),
    ],
)
def test_a_bad_magnet_is_refused(text: str, field: str) -> None:
    with pytest.raises(MalformedManifestError) as caught:
        parse_magnet(text)

    assert caught.value.field == field


def test_parameters_of_a_magnet_that_are_not_fit_are_dropped() -> None:
    magnet = parse_magnet(
        f"magnet:?xt=urn:btih:{V1}&dn=..%2Fx&tr=file:///etc/passwd&tr=http://127.0.0.1/announce"
        "&ws=http://localhost/&x.pe=127.0.0.1:22&x.pe=192.168.1.1:80&x.pe=x&so=0-99999999999999"
    )

    assert (magnet.trackers, magnet.web_seeds, magnet.peers) == ((), (), ())
    assert len(magnet.dropped) == 7


def test_our_magnet_names_our_torrent(tmp_path: Path) -> None:
    torrent = make(write(tmp_path))
    magnet = parse_magnet(torrent.magnet("a & b"))

    assert magnet.names(torrent)
    assert not magnet.names(torrent.as_private())
    assert magnet.label == "a & b"
    assert str(lt.parse_magnet_uri(torrent.magnet()).info_hashes.v2) == torrent.infohash_v2


# Models


def test_a_hybrid_gives_files_that_can_be_proven(tmp_path: Path) -> None:
    torrent = make(write(tmp_path))
    model, variant = variant_from_torrent(torrent)

    assert model.name == f"torrent-{torrent.infohash_v2[:16]}"  # type: ignore[index]
    assert variant.format == "other"  # the shard is the largest
    assert all(file.is_proven_by_digest for file in variant.files)
    assert variant.files[2].pieces_root == merkle_root(FILES["model.gguf"])
    assert variant.size == sum(map(len, FILES.values()))


def test_a_v1_torrent_needs_an_explicit_yes() -> None:
    torrent = read(lt.bencode(_v1()))

    with pytest.raises(UnsafeRequestError) as caught:
        variant_from_torrent(torrent)
    assert caught.value.exit_code == 81

    _, variant = variant_from_torrent(torrent, allow_sha1=True)
    assert [file.is_proven_by_digest for file in variant.files] == [False, False]


def test_without_libtorrent_the_message_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "libtorrent", None)

    with pytest.raises(UsageError, match="libtorrent"):
        torrents.make(tmp_path)
