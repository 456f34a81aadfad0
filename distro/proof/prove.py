"""Many files proven at once, on all cores, and no more often than needed.

    remembered  it was read before and is unchanged since (distro/proof/proofs.py): nothing is read
    pieces      its list of piece hashes was made in a read of ours: the pieces are proven one by one, by all threads
    read        all else: the whole file by one thread; where it is to have a list, a second one hashes its pieces

Files are worked on side by side too, so that neither one large file nor many small ones leave a core idle.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from converters.errors import ChangedError
from distro.digest import WEAK, Digester, open_regular
from distro.manifest import File
from distro.progress import Bar, SilentBar
from distro.proof.piece_hashes import PieceHasher, PieceHashes
from distro.proof.proofs import Proofs, Remembered, Stamp
from distro.verify import Status, Verdict, judge, look, strongest

_READ_BYTES = 1 << 20


class How(StrEnum):
    """What a verdict rests on: the whole file was READ now, its PIECES were, or an earlier read is REMEMBERED."""

    READ = "read"
    PIECES = "pieces"
    REMEMBERED = "remembered"


@dataclass(frozen=True)
class Claim:
    """What the file at a path is said to be. pieces: the list that its receipt names.

    wants_list: whether to make one where there is none.
    """

    path: Path
    file: File
    pieces: PieceHashes | None = None
    wants_list: bool = False


@dataclass(frozen=True)
class Proof:
    """A verdict, and what it rests on. proven_at: when a remembered file was read. pieces: the list that was made."""

    verdict: Verdict
    how: How = How.READ
    proven_at: datetime | None = None
    pieces: PieceHashes | None = None


class Prover:
    """Proves files, and remembers what it proved.

    full: read everything, and from the disk as far as the system lets go of what it holds in memory. to_mend: a file of
    which the disk has lost something is wrong, as it can be mended; else that is an error. threads: 0 for one on each
    core.
    """

    def __init__(self, proofs: Proofs, *, full: bool = False, to_mend: bool = False, threads: int = 0) -> None:
        self._proofs, self._full, self._to_mend = proofs, full, to_mend
        self._threads = threads or os.cpu_count() or 1

    def prove(self, claims: Sequence[Claim], bar: Bar | None = None) -> list[Proof]:
        """The verdicts, in the order of the claims; what was proven is remembered.

        Raises OSError for what cannot be read, ChangedError for a file that somebody writes to meanwhile.
        """
        told, found = Shared(bar or SilentBar()), list[_Found]()
        with ThreadPoolExecutor(self._threads) as pool:
            try:
                for claim, end in [(claim, self._begin(claim, pool, told)) for claim in claims]:
                    found.append(self._found(claim, end))  # one by one: what was proven before an error is remembered
            except BaseException:
                told.stop()
                pool.shutdown(cancel_futures=True)
                raise
            finally:
                self._proofs.remember(memory for _, memory in found if memory is not None)
        return [proof for proof, _ in found]

    def _found(self, claim: Claim, end: Callable[[], _Found]) -> _Found:
        try:
            return end()
        except OSError as error:
            if not self._to_mend or error.errno != errno.EIO:
                raise
            return Proof(Verdict(claim.path, Status.WRONG, "reading", error.strerror, "bytes that can be read")), None

    def _begin(self, claim: Claim, pool: ThreadPoolExecutor, told: Shared) -> Callable[[], _Found]:
        """Start the work on one file; what is given waits for its end."""
        early = look(claim.path, claim.file)
        proof = strongest(claim.file)
        if early is not None or proof is None:
            found = early or Verdict(claim.path, Status.UNPROVEN)
            return lambda: (Proof(found), None)
        kind, expected = proof
        with open_regular(claim.path) as stream:
            stamp = Stamp.of(os.fstat(stream.fileno()))
            if self._full and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = None if self._full else self._proofs.find(claim.path, stamp)
        if before is not None and before.digests.get(kind) == expected:
            remembered = Proof(judge(claim.path, kind, expected, expected), How.REMEMBERED, before.proven_at)
            told.advance(stamp.size)
            return lambda: (remembered, None)
        if claim.pieces is not None and claim.pieces.size == stamp.size:
            seen = self._proofs.digests_of(claim.pieces.digest)  # in the read in which the list was made
            if seen.get(kind) == expected:
                return _ByPieces(claim.path, kind, seen, stamp, claim.pieces, pool, told).end
        return pool.submit(_read_whole, claim, kind, expected, told).result


_Found = tuple[Proof, Remembered | None]


class Shared:
    """One bar for many threads; and how they are told to stop."""

    def __init__(self, bar: Bar) -> None:
        self._bar, self._lock, self._stopped = bar, threading.Lock(), False

    def advance(self, n_bytes: int) -> None:
        with self._lock:
            if self._stopped:
                raise InterruptedError("the others have given up")
            self._bar.advance(n_bytes)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True


class _ByPieces:
    """The work on one file of which each piece is proven by itself."""

    def __init__(
        self, path: Path, kind: str, digests: Mapping[str, str], stamp: Stamp, pieces: PieceHashes,
        pool: ThreadPoolExecutor, told: Shared,
    ) -> None:  # fmt: skip
        self._path, self._kind, self._digests = path, kind, digests
        self._stamp, self._pieces, self._told = stamp, pieces, told
        self._read_ns = time.time_ns()
        self._answers: list[Future[bool]] = [pool.submit(self._is_right, index) for index in range(pieces.n_pieces)]

    def end(self) -> _Found:
        wrong = [index for index, answer in enumerate(self._answers) if not answer.result()]
        if Stamp.of(self._path.stat()) != self._stamp:
            raise ChangedError(self._path, "size or time")
        expected = self._digests[self._kind]
        found = f"another ({_described(wrong, self._pieces)})" if wrong else expected
        proof = Proof(judge(self._path, self._kind, found, expected), How.PIECES)
        path = str(self._path.absolute())
        return proof, None if wrong else Remembered(
            path, self._stamp, self._read_ns, self._digests, self._pieces.digest
        )

    def _is_right(self, index: int) -> bool:
        with open_regular(self._path) as stream:
            if Stamp.of(os.fstat(stream.fileno())) != self._stamp:
                raise ChangedError(self._path, "size or time")
            is_right = self._pieces.is_right(index, stream.fileno())
        start, stop = self._pieces.span(index)
        self._told.advance(stop - start)
        return is_right


def _read_whole(claim: Claim, kind: str, expected: str, told: Shared) -> _Found:
    with open_regular(claim.path) as stream:
        stamp, read_ns = Stamp.of(os.fstat(stream.fileno())), time.time_ns()
        wants_list = claim.wants_list and kind not in WEAK
        hint = claim.pieces if claim.pieces is not None and claim.pieces.size == stamp.size else None
        kinds = (kind, "sha256") if wants_list else (kind,)
        digests, pieces = read_digests(stream, kinds, stamp.size, told.advance, hashes_pieces=wants_list)
        is_unchanged = Stamp.of(os.fstat(stream.fileno())) == stamp
    # Without bytes there is no tree, and so no `pieces_root`.
    found = digests.get(kind, "that of no bytes")
    verdict = judge(claim.path, kind, found, expected)
    if not verdict.is_right:
        if hint is not None and pieces is not None and (wrong := _differing(pieces, hint)):
            verdict = replace(verdict, found=f"{found} ({_described(wrong, hint)})")
        return Proof(verdict), None
    memory = Remembered(str(claim.path.absolute()), stamp, read_ns, digests, pieces.digest if pieces else None)
    return Proof(verdict, pieces=pieces), memory if is_unchanged else None


def read_digests(
    stream: BinaryIO,
    kinds: Iterable[str],
    size: int,
    advance: Callable[[int], None],
    *,
    hashes_pieces: bool = False,
) -> tuple[dict[str, str], PieceHashes | None]:
    """Digests of what is left in a stream of `size` bytes, and its list of piece hashes, in one read by two threads."""
    digester, hasher = Digester(set(kinds), size), PieceHasher(size) if hashes_pieces else None
    buffer = memoryview(bytearray(_READ_BYTES))
    with ThreadPoolExecutor(1) as beside:
        while n_read := stream.readinto(buffer):  # type: ignore[attr-defined]
            block = buffer[:n_read]
            done = beside.submit(hasher.update, block) if hasher is not None else None
            digester.update(block)
            if done is not None:
                done.result()
            advance(n_read)
    digests = digester.digests()
    return digests, hasher.finish(digests["sha256"]) if hasher is not None else None


def prove(path: Path, file: File, bar: Bar | None = None) -> Proof:
    """As `distro.verify.check`, and with the list of piece hashes, made in the same read.

    Raises OSError for what cannot be read.
    """
    early, proof = look(path, file), strongest(file)
    if early is not None or proof is None:
        return Proof(early or Verdict(path, Status.UNPROVEN))
    return _read_whole(Claim(path, file, wants_list=True), *proof, Shared(bar or SilentBar()))[0]


def _differing(one: PieceHashes, other: PieceHashes) -> list[int]:
    if (one.size, one.piece_length) != (other.size, other.piece_length):
        return []
    pairs = zip(range(0, len(one.digests), 32), range(one.n_pieces), strict=True)
    return [index for at, index in pairs if one.digests[at : at + 32] != other.digests[at : at + 32]]


def _described(wrong: Sequence[int], pieces: PieceHashes) -> str:
    n_pieces = f"{len(wrong)} of {pieces.n_pieces} pieces of {pieces.piece_length} bytes"
    return f"{n_pieces} differ, the first at byte {pieces.span(wrong[0])[0]}"
