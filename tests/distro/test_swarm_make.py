"""Torrents that we make: the same for everybody, right by the BEPs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from converters.errors import ChangedError
from distro.errors import MalformedManifestError, NotFoundError, UsageError
from distro.progress import SilentBar
from distro.swarm import make as making
from distro.swarm.make import make, piece_length_for
from tests.fakes.torrents import FILES, KIB, merkle_root, write


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


def test_links_in_a_circle_are_not_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    clean = make(folder)
    (folder / "again").symlink_to(folder)
    (folder / "itself").symlink_to("itself")

    assert make(folder) == clean


def test_folders_deeper_than_python_calls_are_gone_through(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    clean = make(folder)
    deep = folder
    for _ in range(1200):
        deep = deep / "d"
        deep.mkdir()
    assert make(folder) == clean
    (deep / "x").write_bytes(b"1")
    with pytest.raises(MalformedManifestError, match="a path of 2401 bytes, 1024 at most"):
        make(folder)
    (deep / "x").unlink()
    while deep != folder:  # which pytest, that deletes old folders by recursion, could not
        deep.rmdir()
        deep = deep.parent


def test_a_disk_full_of_files_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "_MOST_FILES", 2)

    with pytest.raises(UsageError, match=r"more than 2 files; name the folder of one model"):
        make(write(tmp_path))


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
    assert set(info) == {b"file tree", b"files", b"meta version", b"name", b"piece length", b"pieces"}
    assert set(lt.bdecode(torrent.encode())) == {b"info", b"piece layers"}  # type: ignore[arg-type]


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


def test_without_libtorrent_the_message_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "libtorrent", None)

    with pytest.raises(UsageError, match="libtorrent"):
        make(tmp_path)
