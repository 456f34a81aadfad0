"""What is made here, witnessed while it is made: its lists of piece hashes, and that its bytes had their digests.

A conversion hashes its results as it writes them. The same bytes, in the same order, are hashed by pieces on another
core, so that a list costs no read, and time only where no core is idle; and `verify` right afterwards reads nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from distro.piece_hashes import PieceHasher, PieceHashes, piece_length_for
from distro.proofs import Proofs, Stamp, named

_MOST_THREADS = 4


class Witness:
    """Of one result. sizes: of its files, in bytes, by path."""

    def __init__(self, sizes: Mapping[str, int], proofs: Proofs) -> None:
        self._hashers = {path: PieceHasher(size) for path, size in sizes.items() if size > piece_length_for(size)}
        self._pool = ThreadPoolExecutor(max(1, min(_MOST_THREADS, len(self._hashers))), thread_name_prefix="pieces")
        self._proofs = proofs
        self._seen: dict[str, tuple[Stamp, int, str, PieceHashes | None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def hear(self, path: str, data: memoryview) -> Callable[[], object]:
        """The next bytes of a file; what is given waits until they are hashed."""
        hasher = self._hashers.get(path)
        return _done if hasher is None else self._pool.submit(hasher.update, data).result

    def lists(self, folder: Path, digests: Mapping[str, str]) -> dict[str, PieceHashes]:
        """The lists of those that have several pieces, now that all is in a folder. digests: SHA-256 of all."""
        for path, sha256 in digests.items():
            pieces = self._hashers[path].finish(sha256) if path in self._hashers else None
            self._seen[path] = Stamp.of((folder / path).stat()), time.time_ns(), sha256, pieces
        return {path: pieces for path, (_, _, _, pieces) in self._seen.items() if pieces is not None}

    def remember(self, folder: Path) -> None:
        """The folder has its name now: what lies there is what was seen, if nobody has been at it since."""
        memories = []
        for path, (before, read_ns, sha256, pieces) in self._seen.items():
            digest = pieces.digest if pieces is not None else None
            memories.append(named(folder / path, before, read_ns, {"sha256": sha256}, digest))
        self._proofs.remember(each for each in memories if each is not None)


def _done() -> None:
    pass
