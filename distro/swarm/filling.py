"""One visit that fills a part file beside others: our pieces, asked of a swarm as pieces of its torrent.

libtorrent's storage of the file is the part file, and it is asked for nothing but

    claimed   pieces of the torrent that have a part in one of ours that is claimed; those claimed first, first
    bait      one piece near the end, until peers are found: a peer that has all leaves whoever wants nothing

What it may overwrite by that is contested (distro/fetching/errand.py). What others bring is fed to it, so that its
peers can have that from us meanwhile; it checks the hash, and where that fails, whoever brought it was wrong.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from distro.swarm.torrent import Torrent
from distro.swarm.torrent_file import TorrentFile
from distro.swarm.visit import Watch

if TYPE_CHECKING:
    import libtorrent as lt

    from distro.fetching.allotment import Run
    from distro.fetching.errand import Errand

_HIGHEST, _LOWEST = 7, 2  # libtorrent's priorities; 0 is "not at all"
_FEED_BYTES = 4 << 20  # in one step, or one piece of the torrent
_LARGEST_FED = 32 << 20
_HERE = (2, 3)  # states of a block: being written, finished


class Filling:
    """had: which pieces of the torrent libtorrent has found right, all of which are in the part file."""

    def __init__(self, errand: Errand, torrent: Torrent, file: TorrentFile) -> None:
        self._errand, self._torrent, self._file = errand, torrent, file
        self._length = torrent.piece_length
        self.n_pieces = -(-torrent.extent // self._length)
        self.had = [False] * self.n_pieces
        self._bait: int | None = None
        self._asked: dict[int, int] = {}  # piece of the torrent: priority
        self._n_came = 0
        self._fed: set[int] = set()  # on their way to libtorrent
        self._n_looked_at = 0
        self._to_feed: deque[int] = deque()

    def priorities(self) -> list[int]:
        """What the torrent is to begin with."""
        self._lay_bait()
        wanted = self._wanted()
        return [wanted.get(number, 0) for number in range(self.n_pieces)]

    def __call__(self, handle: lt.torrent_handle, watch: Watch) -> None:
        """Until the errand is over. Raises what a watch raises, and WrongBytesError."""
        self._asked, self._n_came, self._fed = self._wanted(), 0, set()
        is_idle = False
        while True:
            status = watch.look(handle, is_idle=is_idle)
            self.had = list(status.pieces) or self.had
            self._count(status)
            self._judge(watch)
            self._advance(handle)
            self._hand_in(handle, watch)
            is_idle = self._claim(handle, status)
            self._ask(handle)
            self._feed(handle, status)

    def _count(self, status: lt.torrent_status) -> None:
        self._errand.came(max(0, status.total_payload_download - self._n_came))
        self._n_came = max(self._n_came, status.total_payload_download)
        self._errand.tell(f"peers {status.num_peers} ({status.num_seeds} seeds)" if status.num_peers else "")

    def _advance(self, handle: lt.torrent_handle) -> None:
        """How far each claimed piece is."""
        runs = self._errand.runs()
        arriving = {part["piece_index"]: _finished(part) for part in handle.get_download_queue()} if runs else {}
        for run in runs:
            numbers = self._torrent_pieces(run.piece)
            self._errand.has_come(run, sum(self._arrived(number, run, arriving) for number in numbers))

    def _arrived(self, number: int, run: Run, arriving: dict[int, int]) -> int:
        """Bytes of a run's piece that are here as a part of one of the torrent's."""
        start, stop = self._within(number)
        first, end = self._errand.pieces.span(run.piece)
        common = min(stop, end) - max(start, first)
        return common if self.had[number] else min(common, arriving.get(number, 0))

    def _hand_in(self, handle: lt.torrent_handle, watch: Watch) -> None:
        whole = [run for run in self._errand.runs() if all(self.had[i] for i in self._torrent_pieces(run.piece))]
        if whole:
            watch.flush(handle)
            for run in whole:
                self._errand.hand_in(run)

    def _claim(self, handle: lt.torrent_handle, status: lt.torrent_status) -> bool:
        """Whether there is nothing to do although there are peers."""
        if not status.num_peers:
            self._lay_bait()
            return False
        n_having: list[int] = []

        def has(number: int) -> bool:
            n_having[:] = n_having or handle.piece_availability() or [0] * self.n_pieces
            return all(self.had[i] or n_having[i] for i in self._torrent_pieces(number))

        self._errand.claim(has)
        if self._errand.runs():
            self._bait = None
            return False
        return not self._errand.has_free

    def _lay_bait(self) -> None:
        last = self._errand.last_missing
        self._bait = None if last is None or self._errand.runs() else self._torrent_pieces(last)[-1]

    def _wanted(self) -> dict[int, int]:
        wanted = {} if self._bait is None else {self._bait: _LOWEST}
        for place, run in enumerate(self._errand.runs()):
            for number in self._torrent_pieces(run.piece):
                if not self.had[number]:
                    wanted.setdefault(number, max(_LOWEST, _HIGHEST - place))
        self._errand.contest(ours for number in wanted for ours in self._our_pieces(number))
        return wanted

    def _ask(self, handle: lt.torrent_handle) -> None:
        """Tell libtorrent what is claimed now, and what no more."""
        wanted = self._wanted()
        changed = [(i, wanted.get(i, 0)) for i in {*wanted, *self._asked} if wanted.get(i, 0) != self._asked.get(i, 0)]
        if changed:
            handle.prioritize_pieces(changed)
        self._asked = wanted

    # Feeding

    def _feed(self, handle: lt.torrent_handle, status: lt.torrent_status) -> None:
        """Some of what others brought, if any peer may want it and libtorrent has taken what it was given before."""
        self._fed = {number for number in self._fed if not self.had[number]}
        if self._fed or status.num_peers <= status.num_seeds:
            return
        come = self._errand.brought(self._n_looked_at)
        self._n_looked_at += len(come)
        self._to_feed += [number for ours in come for number in self._torrent_pieces(ours)]
        n_bytes = 0
        while self._to_feed and n_bytes < _FEED_BYTES:
            number = self._to_feed.popleft()
            start, stop = self._within(number)
            if self._is_fit(number) and len(data := self._errand.read(start, stop)) == stop - start:
                self._fed.add(number)
                handle.add_piece(number, data, 0)
                n_bytes += stop - start

    def _is_fit(self, number: int) -> bool:
        """Whether a piece of the torrent is whole in pieces of ours that others brought, and new to libtorrent."""
        start, stop = self._within(number)
        is_whole = stop - start == min(self._length, self._torrent.extent - number * self._length)
        is_new = not (self.had[number] or number in self._fed or number in self._asked)
        is_small = stop - start <= _LARGEST_FED
        return is_new and is_whole and is_small and all(map(self._errand.is_anothers, self._our_pieces(number)))

    def _judge(self, watch: Watch) -> None:
        """What was fed and found wrong. Only a torrent that is of this file beyond doubt can say so."""
        for number in self._fed & watch.failed:
            self._fed.discard(number)
            if self._file.pieces_root is not None and self._file.pieces_root == self._errand.file.pieces_root:
                self._errand.accuse(self._our_pieces(number), f"what torrent {self._torrent.infohash[:16]} has")
        watch.failed.clear()

    # Places

    def _torrent_pieces(self, ours: int) -> range:
        """Those that have a part in a piece of ours."""
        start, stop = self._errand.pieces.span(ours)
        return range((self._file.offset + start) // self._length, -(-(self._file.offset + stop) // self._length))

    def _our_pieces(self, number: int) -> range:
        """Those that a piece of the torrent has a part in."""
        start, stop = self._within(number)
        return range(start // self._errand.pieces.length, -(-stop // self._errand.pieces.length))

    def _within(self, number: int) -> tuple[int, int]:
        """Where a piece of the torrent begins and ends within the file."""
        start = number * self._length - self._file.offset
        return max(0, start), min(self._file.size, start + self._length)


def _finished(part: lt.PartialPieceInfodict) -> int:
    """Bytes that have come of a piece of the torrent."""
    return sum(block["block_size"] for block in part["blocks"] if block["state"] in _HERE)
