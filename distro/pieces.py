"""Which pieces of a file that is arriving are here, what they were when they came, and who sent them.

Beside a part file lies its journal (distro/journal.py). A record's number is

    bits 0-39   number of the piece
    bits 40-63  who sent it: the first three bytes of SHA-256 of the source's name; 0: the piece is not here after all,
                1: nobody knows any more, nor what it was when it came (its digest is zeros)

and the last record of a piece counts. What it says is believed only as far as a look at the part file bears it out: a
piece that reaches beyond its end, or into a hole, is not here. Whether the bytes are right, the file's digest decides.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from converters.running_digest import SHORT_BYTES
from distro.journal import Journal
from distro.proof.piece_hashes import piece_length_for

_PIECE_BITS = 40
_PIECE_MASK = (1 << _PIECE_BITS) - 1
_GONE, UNKNOWN = 0, 1
_NO_DIGEST = bytes(SHORT_BYTES)


class Received(NamedTuple):
    """A piece as it came. digest: 16 bytes of its SHA-256, None if not known. sender: a tag, or UNKNOWN."""

    digest: bytes | None
    sender: int


def tag(name: str) -> int:
    """A source's name as the journal has it."""
    return max(UNKNOWN + 1, int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:3], "little"))


def journal_of(part: Path) -> Path:
    """The journal beside a part file."""
    return part.with_suffix(".pieces")


class Pieces:
    """The pieces of one file, of which some are here. Not for several threads at once.

    size, length: bytes of the file and of a piece. n: number of pieces. n_bytes: bytes of those that are here.
    """

    def __init__(self, size: int, journal: Journal, descriptor: int) -> None:
        """What the journal of an open part file says and the file bears out; without one, all before its first hole."""
        self.size, self.length = size, piece_length_for(size)
        self.n = -(-size // self.length)
        self._journal = journal
        self._here = {number: piece for number, piece in self._claimed(descriptor) if number < self.n}
        self.n_bytes = sum(map(self._bytes_of, self._here))

    def __contains__(self, number: int) -> bool:
        return number in self._here

    def __getitem__(self, number: int) -> Received:
        return self._here[number]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._here))

    def __len__(self) -> int:
        return len(self._here)

    def span(self, number: int) -> tuple[int, int]:
        """Where a piece begins and ends in the file."""
        return number * self.length, min((number + 1) * self.length, self.size)

    def add(self, number: int, digest: bytes, sender: int) -> None:
        """A piece is here: its bytes were written. digest: 16 bytes of its SHA-256 as it came."""
        self._journal.record(sender << _PIECE_BITS | number, digest)
        if number not in self._here:
            self.n_bytes += self._bytes_of(number)
        self._here[number] = Received(digest, sender)

    def drop(self, number: int) -> None:
        """A piece is not here after all."""
        self._journal.record(_GONE << _PIECE_BITS | number, _NO_DIGEST)
        if self._here.pop(number, None):
            self.n_bytes -= self._bytes_of(number)

    def _bytes_of(self, number: int) -> int:
        start, stop = self.span(number)
        return stop - start

    def _claimed(self, descriptor: int) -> Iterator[tuple[int, Received]]:
        if not self._journal.records:
            return self._inherited(descriptor)
        holes = _Holes(descriptor)
        return ((i, piece) for i, piece in sorted(_last(self._journal.records).items()) if holes.none_in(*self.span(i)))

    def _inherited(self, descriptor: int) -> Iterator[tuple[int, Received]]:
        """The part file of a version without journals, or one whose journal was lost."""
        for number in range(min(contiguous(descriptor), self.size) // self.length):
            self._journal.record(UNKNOWN << _PIECE_BITS | number, _NO_DIGEST)
            yield number, Received(None, UNKNOWN)


def received(part: Path, identity: str, size: int | None) -> int:
    """Bytes of a file that a part file is said to hold, without a look at each of them."""
    if size is not None and (records := Journal.read(journal_of(part), identity, most_records(size))):
        last = {number & _PIECE_MASK: number >> _PIECE_BITS for number, _ in records}
        return min(size, sum(sender != _GONE for sender in last.values()) * piece_length_for(size))
    try:
        descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return contiguous(descriptor)
    finally:
        os.close(descriptor)


def contiguous(descriptor: int) -> int:
    """Bytes of an open file before its first hole, all of them where the file system knows no holes."""
    return _Holes(descriptor).next_after(0)


class _Holes:
    """Where an open file has none, in ever higher offsets."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._length = descriptor, os.fstat(descriptor).st_size
        self._from, self._next = 0, -1  # there is no hole between these two

    def none_in(self, start: int, stop: int) -> bool:
        if stop > self._length:
            return False
        if not self._from <= start <= self._next:
            self._from, self._next = start, self.next_after(start)
        return stop <= self._next

    def next_after(self, offset: int) -> int:
        if not hasattr(os, "SEEK_HOLE"):
            return self._length
        try:
            return os.lseek(self._descriptor, offset, os.SEEK_HOLE)
        except OSError as error:
            return offset if error.errno == errno.ENXIO else self._length


def _last(records: list[tuple[int, bytes]]) -> dict[int, Received]:
    """What the records come to: the pieces that are said to be here."""
    here: dict[int, Received] = {}
    for number, digest in records:
        piece, sender = number & _PIECE_MASK, number >> _PIECE_BITS
        if sender == _GONE:
            here.pop(piece, None)
        else:
            here[piece] = Received(None if sender == UNKNOWN else digest, sender)
    return here


def most_records(size: int) -> int:
    """How many records the journal of a file may have: a piece comes a few times at most."""
    return 1024 + 16 * -(-size // piece_length_for(size))


def identity_of(key: str, size: int | None) -> str:
    """What the journal of a part file is of: key: its digest or place, as in its name."""
    length = 0 if size is None else piece_length_for(size)
    return hashlib.sha256(f"pieces of {key}, {size} bytes, {length} each".encode()).hexdigest()
