"""What torrents know of the pieces of one file, with libtorrent's own hashes as judge."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from distro.manifest import File
from distro.swarm.make import make
from distro.swarm.piece_layers import JoinedHashes, LayerHashes, hashes_of
from distro.swarm.torrent import Torrent, from_info, read
from tests.fakes.torrents import KIB, write

PIECE = 64 * KIB
CHANCE = random.Random(9)
# Of many pieces, of exactly two, of one and a half.
FILES = {
    "a.bin": CHANCE.randbytes(1_000_001),
    "b.bin": CHANCE.randbytes(2 * PIECE),
    "c/d.bin": CHANCE.randbytes(100_000),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "model", FILES)


def v1_torrent(folder: Path) -> Torrent:
    """As old clients make them: files joined without padding."""
    entries: list[Any] = [lt.create_file_entry(f"model/{name}", len(data)) for name, data in FILES.items()]
    creation = lt.create_torrent(entries, PIECE, lt.create_torrent.v1_only)
    lt.set_piece_hashes(creation, str(folder.parent))
    return read(lt.bencode(creation.generate()))  # type: ignore[arg-type]


def answers(hashes: LayerHashes | JoinedHashes, path: Path) -> list[bool | None]:
    with path.open("rb") as stream:
        return [hashes.is_right(index, stream.fileno()) for index in range(hashes.n_pieces)]


@pytest.mark.parametrize("name", FILES)
def test_layers_of_a_hybrid_prove_each_piece_and_convict_one_bit(folder: Path, name: str) -> None:
    torrent, data = make(folder, piece_length=PIECE), FILES[name]
    hashes = hashes_of(torrent, File(name, len(data)))
    assert isinstance(hashes, LayerHashes)
    n_pieces = -(-len(data) // PIECE)
    assert (hashes.n_pieces, hashes.span(n_pieces - 1)) == (n_pieces, ((n_pieces - 1) * PIECE, len(data)))
    assert answers(hashes, folder / name) == [True] * n_pieces
    for wrong in (0, n_pieces - 1):
        at = hashes.span(wrong)[1] - 1
        (folder / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert answers(hashes, folder / name) == [index != wrong for index in range(n_pieces)]


@pytest.mark.parametrize("name", FILES)
def test_pieces_of_a_v1_torrent_are_judged_where_they_are_of_one_file(folder: Path, name: str) -> None:
    torrent, data = v1_torrent(folder), FILES[name]
    hashes = hashes_of(torrent, File(name, len(data)))
    assert isinstance(hashes, JoinedHashes)
    spans = [hashes.span(index) for index in range(hashes.n_pieces)]
    assert (spans[0][0], spans[-1][1]) == (0, len(data))
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    whole = [stop - start == PIECE for start, stop in spans]
    if name == "c/d.bin":
        whole[-1] = True  # nothing comes after the last file
    assert answers(hashes, folder / name) == [True if each else None for each in whole]
    (folder / name).write_bytes(bytes(len(data)))
    assert answers(hashes, folder / name) == [False if each else None for each in whole]


def test_a_companion_of_a_hybrid_has_every_file_begin_with_a_piece(folder: Path) -> None:
    torrent = make(folder, piece_length=PIECE).v1_companion()
    for name, data in FILES.items():
        hashes = hashes_of(torrent, File(name, len(data)))
        assert isinstance(hashes, JoinedHashes)
        # The last piece is padded, so that only SHA-1 over zeros that no file has would tell.
        assert answers(hashes, folder / name)[:-1] == [True] * (hashes.n_pieces - 1)


def test_a_magnet_brings_no_layers_and_so_v1_has_to_do(folder: Path) -> None:
    (folder / "e.bin").write_bytes(bytes(40_000))
    torrent = from_info(make(folder, piece_length=PIECE).info, "peers")
    assert isinstance(hashes_of(torrent, File("a.bin", 1_000_001)), JoinedHashes)
    assert isinstance(hashes_of(torrent, File("e.bin", 40_000)), LayerHashes)  # its root is its only piece


@pytest.mark.parametrize(
    "file",
    [File("x.bin"), File("a.bin", 1_000_000), File("a.bin", pieces_root="0" * 64), File("bin")],
)
def test_a_torrent_without_that_file_knows_nothing(folder: Path, file: File) -> None:
    assert hashes_of(make(folder, piece_length=PIECE), file) is None


def test_the_folder_of_a_torrent_may_be_left_out(folder: Path) -> None:
    assert hashes_of(make(folder, piece_length=PIECE), File("d.bin", 100_000)) is not None


def test_a_file_that_is_shorter_is_wrong_where_it_ends(folder: Path) -> None:
    for torrent in (make(folder, piece_length=PIECE), v1_torrent(folder)):
        hashes = hashes_of(torrent, File("a.bin", 1_000_001))
        assert hashes is not None
        (folder / "a.bin").write_bytes(FILES["a.bin"][:200_000])
        found = answers(hashes, folder / "a.bin")
        assert found[:4] == [True, True, True, False]
        assert True not in found[4:]
