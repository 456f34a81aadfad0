"""SHA-256 of each piece of a file: what tells where a file is damaged, and lets all cores prove one file together.

A list is made in the read that proves the whole file and lies beside the receipt, as `.pieces/<digest>`. Its name is
the SHA-256 of its bytes, which stands in the receipt, so that a list that was torn or flipped is no list. Numbers are
little-endian:

    0   8   "pieces" and two bytes of version, 0 and 1
    8   8   size of the file in bytes (u64)
    16  8   piece length in bytes (u64)
    24  32  SHA-256 of the whole file
    56  32n SHA-256 of each piece, in order; the last piece may be shorter

800 GB take 1.5 MB. A file of one piece has no list: its own SHA-256 is it.

A list says which pieces are wrong. That it belongs to the digest it names is another matter: whoever makes one up could
name any. So it proves a file only where we saw that ourselves (distro/proof/proofs.py), and otherwise serves repair,
after which the whole file is proven.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from distro.digest import feed_range, open_regular

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

FOLDER = ".pieces"
_SMALLEST, _LARGEST = 4 << 20, 16 << 20  # bytes of a piece
_MOST_PIECES = 1024  # up to the largest piece length
_HEAD = struct.Struct("<8sQQ32s")
_MAGIC = b"pieces\0\1"
_SHA256_BYTES = 32
_LONGEST_BYTES = 64 << 20  # a list of 32 TB
_NAME = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class PieceHashes:
    """size, piece_length: bytes. sha256: of the whole file, lower-case hex. digests: those of the pieces, joined."""

    size: int
    piece_length: int
    sha256: str
    digests: bytes = field(repr=False)

    @property
    def n_pieces(self) -> int:
        return len(self.digests) // _SHA256_BYTES

    @property
    def digest(self) -> str:
        """What commits to the list: SHA-256 of its bytes."""
        return hashlib.sha256(self.encode()).hexdigest()

    def span(self, index: int) -> tuple[int, int]:
        """Where a piece begins and ends in the file."""
        start = index * self.piece_length
        return start, min(start + self.piece_length, self.size)

    def is_right(self, index: int, descriptor: int) -> bool:
        """Whether an open file has this piece. Raises OSError."""
        hasher, (start, stop) = hashlib.sha256(), self.span(index)
        n_read = feed_range(descriptor, start, stop, hasher.update)
        expected = self.digests[index * _SHA256_BYTES : (index + 1) * _SHA256_BYTES]
        return n_read == stop - start and hasher.digest() == expected

    def encode(self) -> bytes:
        return _HEAD.pack(_MAGIC, self.size, self.piece_length, bytes.fromhex(self.sha256)) + self.digests

    @staticmethod
    def decode(data: bytes) -> PieceHashes:
        """Raises ValueError for what is no list."""
        if len(data) < _HEAD.size:
            raise ValueError("a head that is cut")
        magic, size, piece_length, sha256 = _HEAD.unpack_from(data)
        digests = data[_HEAD.size :]
        if magic != _MAGIC:
            raise ValueError("another format or version")
        if not _SMALLEST <= piece_length <= _LARGEST or len(digests) != -(-size // piece_length) * _SHA256_BYTES:
            raise ValueError("as many pieces as the size has")
        return PieceHashes(size, piece_length, sha256.hex(), digests)


class PieceHasher:
    """Makes the list of a file whose bytes arrive in order, in portions of any length. size: bytes that will come."""

    def __init__(self, size: int) -> None:
        self._size, self._piece_length = size, piece_length_for(size)
        self._digests = bytearray()
        self._hasher, self._room = hashlib.sha256(), self._piece_length

    def update(self, data: ReadableBuffer) -> None:
        view = memoryview(data).cast("B")
        while view:
            part = view[: self._room]
            self._hasher.update(part)
            self._room -= len(part)
            view = view[len(part) :]
            if not self._room:
                self._end_piece()

    def finish(self, sha256: str) -> PieceHashes | None:
        """The list, asked once; sha256: of the whole file. None for a file of one piece, or of another size."""
        if self._room < self._piece_length:
            self._end_piece()
        n_pieces = -(-self._size // self._piece_length)
        if n_pieces < 2 or len(self._digests) != n_pieces * _SHA256_BYTES:
            return None
        return PieceHashes(self._size, self._piece_length, sha256, bytes(self._digests))

    def _end_piece(self) -> None:
        self._digests += self._hasher.digest()
        self._hasher, self._room = hashlib.sha256(), self._piece_length


def piece_length_for(size: int) -> int:
    """Bytes in a piece of a file: at most 1024 pieces, within 4 and 16 MiB."""
    piece_length = _SMALLEST
    while piece_length < _LARGEST and size > piece_length * _MOST_PIECES:
        piece_length *= 2
    return piece_length


def find_list(folder: Path, digest: str | None, sha256: str, size: int) -> PieceHashes | None:
    """The list that a receipt in this folder names for a file; None for one that is not there or not sound."""
    if digest is None or not _NAME.fullmatch(digest):
        return None
    try:
        with open_regular(folder / FOLDER / digest) as stream:
            if os.fstat(stream.fileno()).st_size > _LONGEST_BYTES:
                return None
            data = stream.read(_LONGEST_BYTES)
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != digest:
        return None
    try:
        found = PieceHashes.decode(data)
    except ValueError:
        return None
    return found if (found.sha256, found.size) == (sha256, size) else None
