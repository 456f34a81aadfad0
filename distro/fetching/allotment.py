"""Who gets which pieces of a file: decisions and no work, made under the lock of whoever asks (transfer.py beside it).

A run is a row of pieces that one connection has claimed and asks for at once. A lane claims the free pieces nearest to
the beginning of the file, so that the proof can follow; how many depends on how fast it is and on how many share the
rest. When none are free, it takes some from the end of the run that would last longest; in the end, even the piece that
a much slower connection is at. So what is slow, stalled or gone loses its pieces to the others.

A swarm has many single pieces on their way at once: where others work too, those nearest to the end, so that they meet.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from distro.fetching.lane import Lane
from distro.fetching.piece_proof import PieceProof
from distro.pieces import Pieces

MEASURE_S = 0.5
_RUN_S = 4.0  # how long a run shall take, where others work beside it
_FIRST_RUN = 256 << 20  # bytes, while nobody knows how fast a lane is
_SETTLED_S = 1.0  # after which the rate of a run means something
_WORTH_TAKING_S = 0.75  # of work that is left to another, before it is shared
_MUCH_SLOWER = 2.0
_STALLED_S = 5.0
_SILENT_S = 4.0  # after which another connection is tried: TCP itself waits ever longer before it looks again
_RECENT_S = 2.0
_FREE, _CLAIMED, _HERE = 0, 1, 2


class Run:
    """Pieces from `piece` up to `stop`, claimed. offset: of the next byte, within `piece`.

    rate: bytes per second, None until it was measured. asked_at: since when the source has to say something, None while
    it has not. lock: held while its bytes are written, so that nothing is written any more once it is lost, that is,
    somebody else's.
    """

    def __init__(self, lane: Lane, piece: int, stop: int, offset: int, now: float) -> None:
        self.lane, self.piece, self.stop, self.offset = lane, piece, stop, offset
        self.lock = threading.Lock()
        self.is_lost = False
        self.rate: float | None = None
        self.asked_at: float | None = None
        self.began = self.last_byte = now
        self.n_bytes = self.n_measured = self.n_before_failure = 0

    def begin_piece(self, proof: PieceProof | None) -> None:
        self.hasher = hashlib.sha256()
        self.tree = proof.tree() if proof else None

    def update(self, data: memoryview) -> None:
        self.hasher.update(data)
        if self.tree is not None:
            self.tree.update(data)

    @property
    def is_done(self) -> bool:
        return self.piece >= self.stop


class Allotment:
    """The pieces of one file and the runs in which they are claimed. n_missing: pieces that are not here.

    front: bytes that are here from the beginning on, without a gap. contested: swarms, and pieces that they may write
    into whoever brings them. payload: bytes that came to swarms, as they count them.
    """

    def __init__(self, pieces: Pieces, lanes: Sequence[Lane], clock: Callable[[], float] = time.monotonic) -> None:
        self._pieces, self._lanes, self._clock = pieces, lanes, clock
        self._state = bytearray(_HERE if number in pieces else _FREE for number in range(pieces.n))
        self.n_missing = self._state.count(_FREE)
        self._runs: list[Run] = []
        self._n_done: Counter[Lane] = Counter()  # bytes of runs that are over
        self._measured_at = clock()
        self._first_missing = 0
        self.front = 0
        self.contested: set[tuple[Lane, int]] = set()
        self.payload: Counter[Lane] = Counter()
        self._advance_front()

    def runs(self, lane: Lane | None = None) -> list[Run]:
        return [run for run in self._runs if lane in (None, run.lane)]

    @property
    def n_arriving(self) -> int:
        """Bytes of pieces that are not whole yet."""
        arriving = [run for run in self._runs if not run.is_done and not run.is_lost]
        return sum(run.offset - self._pieces.span(run.piece)[0] for run in arriving)

    @property
    def received(self) -> Counter[str]:
        """Bytes that came, by name of the source, those that came in vain included."""
        received = Counter({lane.name: n_bytes for lane, n_bytes in self._n_done.items()})
        for run in self._runs:
            received[run.lane.name] += run.n_bytes
        for lane, n_bytes in self.payload.items():
            received[lane.name] = max(received[lane.name], n_bytes)
        return received

    def claim(self, lane: Lane) -> Run | None:
        """Something for a connection of this lane to do; None if there is nothing now."""
        return self._free_run(lane) or self._part_of_another(lane) or self._slow_piece(lane)

    def claim_singly(self, lane: Lane, n_most: int, has: Callable[[int], bool]) -> list[Run]:
        """Several pieces for a swarm, each a run; none if there is nothing that it has."""
        is_alone = not any(self._is_at_work(each) for each in self._lanes if not each.is_swarm)
        numbers = self._some_free(n_most, has, first=is_alone)
        if not numbers and (found := self._longest(lane)) is not None:
            run, n_taken = found
            while len(numbers) < min(n_taken, n_most) and has(run.stop - 1):
                run.stop -= 1
                numbers.append(run.stop)
        if not numbers and (slow := self._slow_piece(lane, has)) is not None:
            return [slow]
        return [self._begin(lane, number, number + 1) for number in numbers]

    @property
    def has_free(self) -> bool:
        """Whether there are pieces that nobody has claimed."""
        return _FREE in self._state

    def last_missing(self) -> int | None:
        """The missing piece nearest to the end."""
        return max(self._state.rfind(_FREE), self._state.rfind(_CLAIMED)) if self.n_missing else None

    def revoke(self, lane: Lane) -> None:
        """All runs of a lane are over at once."""
        for run in self.runs(lane):
            with run.lock:
                was_lost, run.is_lost = run.is_lost, True
            if not was_lost:
                self._mark(run.piece, run.stop, _FREE)

    def lose(self, number: int) -> None:
        """A piece that was here is not, after all."""
        if self._state[number] == _HERE:
            self._state[number] = _FREE
            self.n_missing += 1
            self._first_missing = min(self._first_missing, number)
            self.front = min(self.front, self._pieces.span(number)[0])

    def has_come(self, run: Run) -> None:
        """The piece that a run was at is here."""
        self._state[run.piece] = _HERE
        self.n_missing -= 1
        run.piece += 1
        self._advance_front()

    def shorten(self, run: Run) -> None:
        """A run ends with the piece that it is at; what it had claimed beyond is free."""
        self._mark(run.piece + 1, run.stop, _FREE)
        run.stop = min(run.stop, run.piece + 1)

    def let_go(self, run: Run) -> None:
        """A run is over; what it has not brought is free."""
        self._runs.remove(run)
        self._n_done[run.lane] += run.n_bytes
        if run.lane.rate is None and not run.lane.is_swarm and run.n_bytes >= self._pieces.length:
            run.lane.rate = run.n_bytes / max(1e-6, self._clock() - run.began)
        if not run.is_lost:
            self._mark(run.piece, run.stop, _FREE)

    def n_others(self, run: Run) -> int:
        """Connections of the same lane to which bytes have just come."""
        since = self._clock() - _RECENT_S
        return sum(each.n_bytes > 0 and each.last_byte > since for each in self.runs(run.lane) if each is not run)

    def measure(self) -> None:
        """Now and then: how fast each run and lane is, and what that means for the number of connections."""
        now = self._clock()
        passed = now - self._measured_at
        if passed < MEASURE_S:
            return
        self._measured_at = now
        for run in self._runs:
            rate = (run.n_bytes - run.n_measured) / passed
            run.rate, run.n_measured = rate if run.rate is None else (run.rate + rate) / 2, run.n_bytes
        for lane in self._lanes:
            runs = self.runs(lane)
            if not lane.is_swarm and (
                rates := [run.rate for run in runs if run.rate is not None and now - run.began > _SETTLED_S]
            ):
                lane.rate = sum(rates) / len(rates)
            lane.n_silent = sum(_is_silent(run, now) for run in runs)
            lane.is_heard = any(run.n_bytes > 0 and now - run.last_byte < _RECENT_S for run in runs)
            lane.adapt(self._n_done[lane] + sum(run.n_bytes for run in runs), len(runs))

    def _free_run(self, lane: Lane) -> Run | None:
        """The free pieces nearest to the beginning."""
        if not lane.is_ranged and any(map(self._is_at_work, self._lanes)):
            return None
        first = self._state.find(_FREE, self._first_missing)
        if first < 0:
            return None
        most = first + (self._share(lane) if lane.is_ranged else self._pieces.n)
        stop = first + 1
        while stop < min(most, self._pieces.n) and self._state[stop] == _FREE:
            stop += 1
        return self._begin(lane, first, stop)

    def _share(self, lane: Lane) -> int:
        """Pieces that a lane may claim at once: all there are for one that is alone, else a few seconds' worth."""
        n_workers = sum(each.limit for each in self._lanes if self._is_at_work(each))
        if n_workers <= 1:
            return self.n_missing
        n_bytes = _FIRST_RUN if lane.rate is None else lane.rate * _RUN_S
        return max(1, min(int(n_bytes) // self._pieces.length, -(-self.n_missing // n_workers)))

    def _is_at_work(self, lane: Lane) -> bool:
        """Whether a lane takes its share of what can be read anywhere; a swarm, once it has found peers."""
        has_begun = not lane.is_swarm or self._n_done[lane] > 0 or bool(self.runs(lane))
        return lane.left is None and lane.is_ranged and has_begun

    def _some_free(self, n_most: int, has: Callable[[int], bool], *, first: bool) -> list[int]:
        """first: those nearest to the beginning, for the proof to follow, else those nearest to the end."""
        numbers: list[int] = []
        number = self._state.find(_FREE) if first else self._state.rfind(_FREE)
        while number >= 0 and len(numbers) < n_most:
            if has(number):
                numbers.append(number)
            number = self._state.find(_FREE, number + 1) if first else self._state.rfind(_FREE, 0, number)
        return numbers

    def _part_of_another(self, lane: Lane) -> Run | None:
        """The end of the run that would last longest, as much as makes both end together."""
        if (found := self._longest(lane)) is None:
            return None
        run, n_taken = found
        run.stop -= n_taken
        return self._begin(lane, run.stop, run.stop + n_taken)

    def _longest(self, lane: Lane) -> tuple[Run, int] | None:
        """The run that would last longest, and how many of its pieces make both end together."""
        since = self._clock() - _SETTLED_S
        runs = [run for run in self._runs if run.stop - run.piece > 1 and run.began < since]
        run = max(runs, key=lambda run: self._seconds(run, run.stop), default=None)
        if run is None or not lane.is_ranged or self._seconds(run, run.stop) <= _WORTH_TAKING_S:
            return None
        slow, fast = run.rate or 0.0, lane.rate or run.rate or 1.0
        return run, max(1, round((run.stop - run.piece - 1) * fast / (slow + fast)))

    def _slow_piece(self, lane: Lane, has: Callable[[int], bool] = lambda number: True) -> Run | None:
        """The piece that a much slower connection, or one that has stalled, is at; of several, the slowest."""
        now = self._clock()
        for run in sorted(self._runs, key=self._slowness, reverse=True) if lane.is_ranged else ():
            if run.lane is lane and lane.is_swarm:
                continue
            is_stalled = now - run.last_byte > _STALLED_S
            is_waiting = run.lane.is_swarm and not run.n_bytes  # what a swarm has not begun costs it nothing
            is_settled = is_waiting or now - run.began > _SETTLED_S
            is_anothers = run.lane is not lane and lane.rate is not None and is_settled
            mine = self._pieces.length / lane.rate if lane.rate else 0.0
            worth_s = mine + _WORTH_TAKING_S if is_waiting else _MUCH_SLOWER * mine + 1.0
            is_slow = self._seconds(run, run.stop) > worth_s
            is_single = run.stop - run.piece == 1 and not run.is_lost and has(run.piece)
            if is_single and (is_stalled or is_anothers) and is_slow:
                with run.lock:
                    run.is_lost = True
                if run.lane.is_swarm:
                    self.contested.add((run.lane, run.piece))
                return self._begin(lane, run.piece, run.stop)
        return None

    def _seconds(self, run: Run, stop: int) -> float:
        """How long a run will need up to a piece, at its present rate; for a swarm, those before it included."""
        if run.lane.is_swarm:
            runs = self.runs(run.lane)
            left = sum(self._pieces.span(each.piece)[1] - each.offset for each in runs[: runs.index(run) + 1])
            return left / max(1.0, run.lane.rate or 0.0)
        return (self._pieces.span(stop - 1)[1] - run.offset) / max(1.0, run.rate or 0.0)

    def _slowness(self, run: Run) -> tuple[float, float]:
        return self._seconds(run, run.stop), run.began

    def _begin(self, lane: Lane, first: int, stop: int) -> Run:
        self._mark(first, stop, _CLAIMED)
        run = Run(lane, first, stop, self._pieces.span(first)[0], self._clock())
        self._runs.append(run)
        return run

    def _mark(self, first: int, stop: int, state: int) -> None:
        self._state[first:stop] = bytes([state]) * (stop - first)

    def _advance_front(self) -> None:
        while self._first_missing < self._pieces.n and self._state[self._first_missing] == _HERE:
            self._first_missing += 1
            self.front = self._pieces.span(self._first_missing - 1)[1]


def _is_silent(run: Run, now: float) -> bool:
    return run.asked_at is not None and now - max(run.asked_at, run.last_byte) > _SILENT_S
