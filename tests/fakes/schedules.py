"""Random schedules of faults over one file: `python -m tests.fakes.schedules N [FIRST]` runs N of them and counts.

A schedule is drawn from its number: one to four sources that are slow, cut, busy, silent, without ranges, failing for a
while or for ever, of which one at least is good in the end; sometimes one that lies; sometimes runs that end in the
middle, after which the part file or its journal is damaged as a power cut does it.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from distro.fetching.gather import Gathering
from distro.fetching.lane import Lane
from distro.fetching.piece_proof import ListProof
from distro.manifest import File
from distro.manners.pace import Pace
from distro.pieces import journal_of
from distro.progress import SilentBar
from distro.proof import piece_hashes
from distro.proof.piece_hashes import PieceHashes
from distro.sources import retry
from distro.store import Store
from tests.fakes.sources import Scripted, troubled

LENGTH = 8 * 1024
SIZE = 8_000_000
DATA = hashlib.shake_128(b"schedules").digest(SIZE)
FILE = File("w.bin", SIZE, sha256=hashlib.sha256(DATA).hexdigest())


@dataclass(frozen=True)
class Outcome:
    """lies: whether a source lied or the disk lost bytes, so that some had to come twice. n_sent: bytes that came."""

    is_right: bool
    lies: bool
    n_sent: int
    names_liar: bool


class _StopError(Exception):
    """The run is over, as by a kill."""


class _Bar(SilentBar):
    """Stops a run when so many bytes have come, and sees that nothing goes back."""

    def __init__(self, most: float) -> None:
        self._left = most

    def advance(self, n_bytes: int) -> None:
        if n_bytes < 0:
            raise AssertionError("progress goes back")
        self._left -= n_bytes
        if self._left < 0:
            raise _StopError


def run(number: int, home: Path) -> Outcome:
    moments = random.Random(number)
    sources = [troubled(f"s{i}", DATA, moments) for i in range(moments.randrange(1, 5))]
    sources[0].fails = []
    liar = None
    if len(sources) > 1 and moments.random() < 0.3:
        liar = sources[-1]
        liar.flips = frozenset(moments.randrange(SIZE) for _ in range(moments.randrange(1, 4)))
    proof = ListProof(_hashes()) if moments.random() < 0.3 else None
    store, said, lost = Store(home), [], False
    is_right = False
    for n_left in range(moments.choice((0, 0, 1, 3)), -1, -1):
        most = SIZE * moments.uniform(0, 0.4) if n_left else float("inf")
        if is_right := _attempt(store, sources, proof, said, most):
            break
        lost |= _damage(home, moments)
    names_liar = liar is not None and any(f"from {liar.name}" in text for text in said)
    return Outcome(is_right, lost or liar is not None, sum(source.n_sent for source in sources), names_liar)


def _attempt(store: Store, sources: list[Scripted], proof: ListProof | None, said: list[str], most: float) -> bool:
    lanes = [Lane(source, 3, Pace()) for source in sources]
    with store.partial("m", "v", FILE) as partial:
        gathering = Gathering(
            FILE, partial, partial.pieces(), lanes, proof, _Bar(most),
            lambda lane, error: said.append(str(error)), said.append,
        )  # fmt: skip
        try:
            gathered = gathering.gather()
        except _StopError:
            return False
        is_right = gathered is not None and partial.path.read_bytes() == DATA
        if gathered is not None and gathered.hashes != _hashes():
            return False
        partial.discard()
        return is_right


def _damage(home: Path, moments: random.Random) -> bool:
    """What a power cut may do to what is left; whether bytes are gone."""
    for part in home.glob("partial/*.part"):
        journal, kind = journal_of(part), moments.randrange(6)
        if kind == 0 and journal.exists():
            os.truncate(journal, moments.randrange(journal.stat().st_size + 1))
        elif kind == 1:
            os.truncate(part, moments.randrange(part.stat().st_size + 1))
        elif kind == 2 and part.stat().st_size > 8192:
            with part.open("r+b") as stream:
                stream.seek(moments.randrange(part.stat().st_size - 4096))
                stream.write(bytes(4096))
        else:
            return False
        return True
    return False


def _hashes() -> PieceHashes:
    digests = b"".join(hashlib.sha256(DATA[start : start + LENGTH]).digest() for start in range(0, SIZE, LENGTH))
    return PieceHashes(SIZE, LENGTH, str(FILE.sha256), digests)


def make_quick() -> None:
    """Small pieces, and short waits."""
    piece_hashes._SMALLEST = LENGTH
    retry.wait_s = lambda n_failed, error: 0.01


def main(n_schedules: int, first: int) -> None:
    make_quick()
    began, clean, wrong = time.monotonic(), [], []
    for number in range(first, first + n_schedules):
        with tempfile.TemporaryDirectory() as home:
            outcome = run(number, Path(home))
        if not outcome.is_right:
            wrong.append(number)
        if not outcome.lies:
            clean.append(outcome.n_sent)
    again = sum(clean) / len(clean) / SIZE - 1 if clean else 0.0
    print(f"{n_schedules} schedules, {n_schedules * SIZE / 1e9:.1f} GB, {time.monotonic() - began:.0f} s")
    print(f"wrong: {wrong or 'none'}; came again where nobody lied and nothing was lost: {again:.2%}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
