"""Torrents that were fetched: found again by their links, and mended by their swarms."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from distro.fetch import fetch
from distro.lookup import stored, wanted
from distro.progress import Silent
from distro.reference import parse_reference
from tests.fakes.command import run
from tests.fakes.swarm import seeding, settings

SIZE, PIECE = 6_000_000, 256 * 1024
CONTENT = random.Random(3).randbytes(SIZE)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(CONTENT)
    return folder


def test_a_hybrid_that_came_by_its_v1_link_is_found_by_it_and_mended_by_its_peers(tmp_path: Path, shared: Path) -> None:
    home = settings(tmp_path / "home")
    with seeding(shared, piece_length=PIECE) as seeder:
        link = next(part for part in seeder.magnet.partition("?")[2].split("&") if part.startswith("xt=urn:btih:"))
        magnet = f"magnet:?{link}"
        resolved = wanted(home, magnet, [seeder.peer])
        path = fetch(home, resolved.model, resolved.variant, progress=Silent(), peers=[seeder.peer])
        assert stored(home, parse_reference(magnet)).path == path

        for offset in (5, 3_000_000):
            with path.open("r+b") as stream:
                os.pwrite(stream.fileno(), b"?????????", offset)
        peer = f"{seeder.peer[0]}:{seeder.peer[1]}"
        outcome = run(tmp_path, "verify", magnet, "--repair", "--json", "--peer", peer, hub="http://127.0.0.1:9")
    assert outcome.code == 0, outcome.error
    assert path.read_bytes() == CONTENT
    assert SIZE <= seeder.uploaded <= SIZE + 4 * PIECE
    (done,) = outcome.json["repaired"]
    assert done["sources"][0].startswith("swarm ")
    assert [each["status"] for each in outcome.json["files"]] == ["ok"]
    assert not list((tmp_path / "home" / "partial").glob("*.swarm"))


def test_a_swarm_gives_the_pieces_that_a_torrent_file_calls_wrong(tmp_path: Path, shared: Path) -> None:
    from distro.swarm.make import make

    torrent = make(shared, piece_length=PIECE)
    (tmp_path / "x.torrent").write_bytes(torrent.encode())
    home = settings(tmp_path / "home")
    with seeding(shared, piece_length=PIECE) as seeder:
        resolved = wanted(home, str(tmp_path / "x.torrent"))
        path = fetch(home, resolved.model, resolved.variant, progress=Silent(), peers=[seeder.peer])
        os.truncate(path, SIZE - 10)
        peer = f"{seeder.peer[0]}:{seeder.peer[1]}"
        arguments = ("--repair", "--json", "--peer", peer, "--torrent", str(tmp_path / "x.torrent"))
        outcome = run(tmp_path, "verify", str(tmp_path / "x.torrent"), *arguments, hub="http://127.0.0.1:9")
    assert outcome.code == 0, outcome.error
    assert path.read_bytes() == CONTENT
    assert outcome.json["repaired"][0]["wrong_pieces"] == 1
    assert SIZE <= seeder.uploaded <= SIZE + 2 * PIECE
