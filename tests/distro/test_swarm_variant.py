"""Torrents as models that can be fetched."""

from __future__ import annotations

from pathlib import Path

import libtorrent as lt
import pytest

from distro.errors import UnsafeRequestError
from distro.swarm.make import make
from distro.swarm.torrent import read
from distro.swarm.variant import variant_from_torrent
from tests.fakes.torrents import FILES, merkle_root, v1_torrent, write


def test_a_hybrid_gives_files_that_can_be_proven(tmp_path: Path) -> None:
    torrent = make(write(tmp_path))
    model, variant = variant_from_torrent(torrent)

    assert model.name == f"torrent-{torrent.infohash_v2[:16]}"  # type: ignore[index]
    assert variant.format == "other"  # the shard is the largest
    assert all(file.is_proven_by_digest for file in variant.files)
    assert variant.files[2].pieces_root == merkle_root(FILES["model.gguf"])
    assert variant.size == sum(map(len, FILES.values()))


def test_a_v1_torrent_needs_an_explicit_yes() -> None:
    torrent = read(lt.bencode(v1_torrent()))

    with pytest.raises(UnsafeRequestError) as caught:
        variant_from_torrent(torrent)
    assert caught.value.exit_code == 81

    _, variant = variant_from_torrent(torrent, allow_sha1=True)
    assert [file.is_proven_by_digest for file in variant.files] == [False, False]
