"""A torrent as a model that can be fetched, for those who have a torrent and no manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from converters.errors import shown
from distro.errors import UnsafeRequestError
from distro.manifest import File, Model, Variant
from distro.swarm.torrent import Torrent
from distro.swarm.torrent_file import TorrentFile

_FORMATS = {
    ".gguf": "gguf", ".safetensors": "safetensors", ".pth": "pth", ".bin": "pytorch", ".pt": "pytorch",
    ".ggml": "ggml", ".tar": "tar",
}  # fmt: skip
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


def variant_from_torrent(
    torrent: Torrent, *, source: str | None = None, allow_sha1: bool = False
) -> tuple[Model, Variant]:
    """What a torrent brings, as a model of one variant; v2 files carry their pieces root as digest.

    source: the reference that it came from, default its magnet link. The name is made from the infohash, because names
    inside torrents are anybody's. Raises UnsafeRequestError for a v1-only torrent: SHA-1 does not prove files any more.
    """
    if torrent.infohash_v2 is None and not allow_sha1:
        raise UnsafeRequestError(
            f"{shown(torrent.name)}: this torrent is proven by SHA-1 alone, which can be forged; "
            "a manifest with SHA-256 digests would do, or --allow-sha1"
        )
    origin = f"torrent {torrent.infohash}"
    files = tuple(_file(file, origin) for file in torrent.files)
    name = _format(files)
    variant = Variant(name, name, files, (source or torrent.magnet(),))
    return Model(f"torrent-{torrent.infohash[:16]}", 0, "unknown", variant.name, (variant,)), variant


def _file(file: TorrentFile, origin: str) -> File:
    """An empty file has no pieces to prove; its digest is the one of nothing."""
    sha256 = None if file.size else _EMPTY_SHA256
    return File(file.path, file.size, sha256, pieces_root=file.pieces_root, origin=(origin,))


def _format(files: Sequence[File]) -> str:
    """Of the largest file, by its suffix."""
    largest = max(files, key=lambda file: file.size or 0)
    return _FORMATS.get(Path(largest.path).suffix.lower(), "other")
