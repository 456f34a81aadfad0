"""The piece hashes that a torrent has of one file: where a damaged file is wrong, for `distro verify --repair`.

    v2, hybrid   piece layers: the root of the tree of SHA-256 over each piece's blocks of 16 KiB (BEP 52)
    v1           pieces: SHA-1 of each piece of all files joined (BEP 3); a piece that reaches into a neighbour cannot
                 be judged by one file, and is held back until all others are right

They only say what to fetch. Whether the file is right afterwards is another digest's word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from distro.digest import LEAF, Tree, feed_range
from distro.manifest import File
from distro.swarm.torrent import Torrent
from distro.swarm.torrent_file import TorrentFile

_SHA1_BYTES, _SHA256_BYTES = 20, 32


@dataclass(frozen=True)
class LayerHashes:
    """Of a v2 file. layer: digests of its pieces, joined; of one of a single piece its pieces root. Sizes in bytes."""

    size: int
    piece_length: int
    layer: bytes = field(repr=False)

    @property
    def n_pieces(self) -> int:
        return len(self.layer) // _SHA256_BYTES

    def span(self, index: int) -> tuple[int, int]:
        start = index * self.piece_length
        return start, min(start + self.piece_length, self.size)

    def is_right(self, index: int, descriptor: int) -> bool:
        """Whether an open file has this piece. Raises OSError."""
        (start, stop), tree = self.span(index), Tree()
        if feed_range(descriptor, start, stop, tree.update) < stop - start:
            return False
        # A file of one piece is a tree of its own height; pieces of a larger one are all equally high.
        height = (self.piece_length // LEAF).bit_length() - 1 if self.n_pieces > 1 else 0
        return tree.root(height) == self.layer[index * _SHA256_BYTES : (index + 1) * _SHA256_BYTES]


@dataclass(frozen=True)
class JoinedHashes:
    """Of a file in a v1 torrent. start: where it begins in all files joined, of `total` bytes. digests: of all."""

    size: int
    piece_length: int
    start: int
    total: int
    digests: bytes = field(repr=False)

    @property
    def n_pieces(self) -> int:
        return (self.start + self.size - 1) // self.piece_length - self._first + 1

    @property
    def _first(self) -> int:
        return self.start // self.piece_length

    def span(self, index: int) -> tuple[int, int]:
        start = (self._first + index) * self.piece_length - self.start
        return max(0, start), min(start + self.piece_length, self.size)

    def is_right(self, index: int, descriptor: int) -> bool | None:
        """Whether an open file has this piece; None for one that is shared with a neighbour. Raises OSError."""
        (start, stop), number = self.span(index), self._first + index
        piece = (number * self.piece_length, min((number + 1) * self.piece_length, self.total))
        if (self.start + start, self.start + stop) != piece:
            return None
        hasher = hashlib.sha1(usedforsecurity=False)
        n_read = feed_range(descriptor, start, stop, hasher.update)
        expected = self.digests[number * _SHA1_BYTES : (number + 1) * _SHA1_BYTES]
        return n_read == stop - start and hasher.digest() == expected


def hashes_of(torrent: Torrent, file: File) -> LayerHashes | JoinedHashes | None:
    """What a torrent knows of a manifest's file; None if it has no such file, or no hashes of its pieces."""
    same = [each for each in torrent.files if each.path == file.path]
    below = [each for each in torrent.files if each.path.endswith("/" + file.path)]
    found = same or below
    if len(found) != 1 or not found[0].size or file.size not in (None, found[0].size):
        return None
    wanted = found[0]
    if file.pieces_root and wanted.pieces_root and file.pieces_root != wanted.pieces_root:
        return None
    return _layer(torrent, wanted) or _joined(torrent, wanted)


def _layer(torrent: Torrent, file: TorrentFile) -> LayerHashes | None:
    if file.pieces_root is None:
        return None
    root = bytes.fromhex(file.pieces_root)
    layer = root if file.size <= torrent.piece_length else torrent.piece_layers.get(root, b"")
    n_pieces = -(-file.size // torrent.piece_length)
    if len(layer) != n_pieces * _SHA256_BYTES:  # a magnet's info dictionary comes without layers
        return None
    return LayerHashes(file.size, torrent.piece_length, layer)


def _joined(torrent: Torrent, file: TorrentFile) -> JoinedHashes | None:
    import libtorrent as lt

    info: Any = lt.bdecode(torrent.info)
    digests = info.get(b"pieces", b"")
    lengths: Sequence[int] = [entry[b"length"] for entry in info[b"files"]] if b"files" in info else [file.size]
    if not digests or len(lengths) != torrent.n_entries:
        return None
    total = sum(lengths)
    if len(digests) != -(-total // torrent.piece_length) * _SHA1_BYTES:
        return None
    return JoinedHashes(file.size, torrent.piece_length, sum(lengths[: file.index]), total, digests)
