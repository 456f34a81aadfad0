"""What a swarm is sent for: pieces of one file, several at once, which it writes into the part file itself.

A swarm's peers send blocks when they like. So a piece that another lane has taken away may be written into still, and
so may one beside it, where the torrent's pieces do not line up with ours. Such pieces are contested: nothing is proven
by them before the swarm has ended, and then they are read again (distro/fetching/gather.py).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from distro.errors import WrongBytesError
from distro.fetching.allotment import Run
from distro.fetching.lane import Lane

if TYPE_CHECKING:
    from distro.fetching.transfer import Transfer

_CLAIM_S = 2.0  # how much work is claimed at once
_FEWEST, _MOST = 4, 64  # pieces that are claimed at once
_READ = 1 << 20


class Errand:
    """A lane's part of a transfer, for the one thread that its source works in."""

    def __init__(self, transfer: Transfer, lane: Lane) -> None:
        self._transfer, self._lane = transfer, lane
        self._runs: list[Run] = []
        self.file, self.path, self.pieces = transfer.file, transfer.partial.path, transfer.pieces

    @property
    def is_over(self) -> bool:
        return self._transfer.is_over

    @property
    def last_missing(self) -> int | None:
        """The missing piece nearest to the end, whoever has claimed it."""
        with self._transfer.changed:
            return self._transfer.allotment.last_missing()

    @property
    def has_free(self) -> bool:
        """Whether there are pieces that nobody has claimed."""
        with self._transfer.changed:
            return self._transfer.allotment.has_free

    def runs(self) -> list[Run]:
        """Those that are ours still, in the order in which they were claimed."""
        with self._transfer.changed:
            for run in self._runs:
                if run.is_lost:
                    self._transfer.allotment.let_go(run)
            self._runs = [run for run in self._runs if not run.is_lost]
            return list(self._runs)

    def claim(self, has: Callable[[int], bool]) -> None:
        """More pieces, as many as some seconds bring, of those that the swarm `has`."""
        n_most = max(_FEWEST, min(_MOST, int((self._lane.rate or 0.0) * _CLAIM_S) // self.pieces.length))
        with self._transfer.changed:
            if (n_more := n_most - len(self._runs)) > 0 and not self.is_over and self._lane.left is None:
                self._runs += self._transfer.allotment.claim_singly(self._lane, n_more, has)

    def contest(self, numbers: Iterable[int]) -> None:
        """The swarm may write into these pieces from now on, whoever brings them."""
        ours = {run.piece for run in self._runs}
        with self._transfer.changed:
            self._transfer.allotment.contested |= {(self._lane, number) for number in numbers if number not in ours}
            self._transfer.hold_back()

    def came(self, n_bytes: int) -> None:
        """So many bytes more, whatever they are of."""
        self._lane.pace.note(n_bytes)
        with self._transfer.changed:
            self._transfer.allotment.payload[self._lane] += n_bytes

    def has_come(self, run: Run, n_bytes: int) -> None:
        """So many bytes of a piece are here; fewer than before where some were wrong."""
        with self._transfer.changed:
            run.offset = self.pieces.span(run.piece)[0] + n_bytes
            if n_bytes > run.n_bytes:
                run.n_bytes = n_bytes
                run.last_byte = self._transfer.clock()

    def hand_in(self, run: Run) -> None:
        """All of a piece was written: it is read from the part file, judged and counted. Raises WrongBytesError."""
        number = run.piece
        start, stop = self.pieces.span(number)
        run.begin_piece(self._transfer.proof)
        for data in self._blocks(start, stop):
            run.update(data)
        with self._transfer.changed:
            if run.is_lost or self.is_over:
                return
            self.has_come(run, stop - start)
            self._transfer.partial.grown()
            self._transfer.end_piece(run)
            self._transfer.allotment.contested.discard((self._lane, number))  # libtorrent never writes what it has
            self._transfer.hold_back()
            self._transfer.allotment.let_go(run)
            self._runs.remove(run)

    def brought(self, n_known: int) -> list[int]:
        """Pieces that have come in this transfer, whoever brought them, in that order, without the first so many."""
        with self._transfer.changed:
            return list(itertools.islice(self._transfer.digests, n_known, None))

    def is_anothers(self, number: int) -> bool:
        """Whether another lane has brought a piece, and the swarm does not write into it."""
        with self._transfer.changed:
            is_contested = number in self._transfer.contested
            return number in self.pieces and not is_contested and self.pieces[number].sender != self._lane.tag

    def read(self, start: int, stop: int) -> bytes:
        """Bytes of the part file."""
        return b"".join(map(bytes, self._blocks(start, stop)))

    def accuse(self, numbers: Iterable[int], expected: str) -> None:
        """These pieces, which others brought, are wrong beyond doubt: they are fetched again. Who sent all is left.

        expected: what proves it.
        """
        transfer = self._transfer
        with transfer.changed:
            wrong = [number for number in numbers if number in self.pieces and not self.is_over]
            # What the disk has changed is nobody's fault.
            is_as_it_came = all(self._digest_on_disk(number) == transfer.digests.get(number) for number in wrong)
            senders = {self.pieces[number].sender for number in wrong} if is_as_it_came else set()
            for number in wrong:
                transfer.has_dropped = True
                self.pieces.drop(number)
                transfer.digests.pop(number, None)
                transfer.allotment.lose(number)
            self.contest(wrong)
            for lane in transfer.lanes:
                if senders == {lane.tag}:
                    transfer.allotment.revoke(lane)
                    start, stop = self.pieces.span(wrong[0])
                    where, what = f"{self.file.path} from {lane.name}", f"bytes {start} to {stop - 1}"
                    transfer.leave(lane, WrongBytesError(where, what, "others", expected))
            transfer.changed.notify_all()

    def tell(self, text: str) -> None:
        """How the swarm is, for people; said in place of what was told before."""
        self._lane.note = text

    def say(self, text: str) -> None:
        """A line for people."""
        self._transfer.say(text)

    def close(self) -> None:
        """Whatever was not handed in is free again."""
        with self._transfer.changed:
            for run in self._runs:
                self._transfer.allotment.let_go(run)
            self._runs = []
            self._lane.note = ""

    def _blocks(self, start: int, stop: int) -> Iterator[memoryview]:
        """What is in the part file; a view counts until the next is asked for."""
        buffer = memoryview(bytearray(min(_READ, stop - start)))
        while start < stop and (n_read := self._transfer.partial.read_into(buffer[: stop - start], start)):
            yield buffer[:n_read]
            start += n_read

    def _digest_on_disk(self, number: int) -> bytes:
        hasher = hashlib.sha256()
        for data in self._blocks(*self.pieces.span(number)):
            hasher.update(data)
        return hasher.digest()
