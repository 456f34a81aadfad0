"""The engine: all sources that can be read from an offset fill one part file together.

    lane     one source, with as many connections as it is worth (distro/lane.py)
    worker   a thread for each connection
    run      pieces in a row that one worker has claimed, asked for in one request

A worker claims the free pieces nearest to the beginning of the file, so that the proof can follow; how many depends on
how fast its lane is and on how many share the rest. When none are free, it takes some from the end of the run that
would last longest; in the end, even the piece that a much slower connection is at. So what is slow, stalled or gone
loses its pieces to the others. A piece counts only if one source sent all of it: one that changes hands begins anew,
while a connection that was cut goes on in the middle.

All that is shared is guarded by one lock, and only the write of a run by the run's own, so that nothing is written any
more once a run was taken away.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing

from converters.running_digest import SHORT_BYTES
from distro.errors import SourceError, WrongBytesError
from distro.lane import Lane
from distro.manifest import File
from distro.partial import Partial
from distro.piece_proof import PieceProof
from distro.pieces import Pieces
from distro.sources.base import NoRangesError
from distro.sources.retry import PROGRESS

_TICK_S = 0.1
_MEASURE_S = 0.5
_RUN_S = 4.0  # how long a run shall take, where others work beside it
_FIRST_RUN = 256 << 20  # bytes, while nobody knows how fast a lane is
_WORTH_TAKING_S = 0.75  # of work that is left to another, before it is shared
_MUCH_SLOWER = 2.0
_STALLED_S = 5.0
_RECENT_S = 2.0
_FREE, _CLAIMED, _HERE = 0, 1, 2


class Run:
    """Pieces from `piece` up to `stop` that one worker has claimed. offset: of the next byte, within `piece`."""

    def __init__(self, lane: Lane, piece: int, stop: int, offset: int, proof: PieceProof | None) -> None:
        self.lane, self.piece, self.stop, self.offset = lane, piece, stop, offset
        self.lock = threading.Lock()
        self.is_lost = False  # another has it now: nothing is to be written any more
        self.rate: float | None = None
        self.began = self.last_byte = time.monotonic()
        self.n_bytes = self.n_measured = self.n_before_failure = 0
        self._proof = proof
        self.begin_piece()

    def begin_piece(self) -> None:
        self.hasher = hashlib.sha256()
        self.tree = self._proof.tree() if self._proof else None

    def update(self, data: memoryview) -> None:
        self.hasher.update(data)
        if self.tree is not None:
            self.tree.update(data)


class Transfer:
    """Fills what is missing of one file.

    left: lanes of no more use, and why, in order. digests: SHA-256 of the pieces that came.
    """

    def __init__(
        self,
        file: File,
        partial: Partial,
        pieces: Pieces,
        lanes: Sequence[Lane],
        *,
        proof: PieceProof | None = None,
        arrived: Callable[[int], None] = lambda n_bytes: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """proof: by which pieces are judged when they come. arrived: told how far there is no gap any more."""
        self.left: list[tuple[Lane, SourceError | WrongBytesError]] = []
        self.digests: dict[int, bytes] = {}
        self._file, self._partial, self._pieces, self._lanes = file, partial, pieces, tuple(lanes)
        self._proof, self._arrived, self._clock = proof, arrived, clock
        self._changed = threading.Condition()
        self._state = bytearray(_HERE if number in pieces else _FREE for number in range(pieces.n))
        self._n_missing = self._state.count(_FREE)
        self._front = 0
        self._runs: list[Run] = []
        self._n_workers: Counter[Lane] = Counter()
        self._n_done: Counter[Lane] = Counter()  # bytes of runs that are over
        self._fault: BaseException | None = None
        self._is_over = False
        self._measured_at = clock()

    def run(self, tell: Callable[[], None] = lambda: None) -> bool:
        """Until all pieces are here, or no lane is of use: whether they are. tell: called several times a second.

        Raises what the disk raises.
        """
        self._advance_front()
        try:
            while self._n_missing and self._start_workers():
                with self._changed:
                    self._changed.wait(_TICK_S)
                    self._measure()
                if self._fault is not None:
                    raise self._fault
                tell()
        finally:
            self._stop()
            tell()
        if self._fault is not None:
            raise self._fault
        return not self._n_missing

    @property
    def n_here(self) -> int:
        """Bytes of the file that are here, those of pieces that are arriving included."""
        with self._changed:
            arriving = [run for run in self._runs if run.piece < run.stop and not run.is_lost]
            return self._pieces.n_bytes + sum(run.offset - self._pieces.span(run.piece)[0] for run in arriving)

    @property
    def received(self) -> Counter[str]:
        """Bytes that came, by name of the source, those that came in vain included."""
        with self._changed:
            received = Counter({lane.name: n_bytes for lane, n_bytes in self._n_done.items()})
            for run in self._runs:
                received[run.lane.name] += run.n_bytes
            return received

    def _start_workers(self) -> bool:
        """Whether any lane is of use still."""
        with self._changed:
            alive = [lane for lane in self._lanes if lane.left is None]
            for lane in alive:
                while self._n_workers[lane] < min(lane.limit, self._n_missing):
                    self._n_workers[lane] += 1
                    threading.Thread(target=self._work, args=(lane,), name=f"from {lane.name}", daemon=True).start()
            return bool(alive)

    def _stop(self) -> None:
        """Nothing is written after this. Threads that wait for the network are left to find out by themselves."""
        with self._changed:
            self._is_over = True
            runs = list(self._runs)
            self._changed.notify_all()
        for run in runs:
            with run.lock:
                run.is_lost = True

    # What a worker does

    def _work(self, lane: Lane) -> None:
        try:
            while (run := self._next(lane)) is not None:
                try:
                    self._fill(run)
                finally:
                    self._let_go(run)
        except BaseException as error:  # raised again by `run`, in the thread that waits there
            with self._changed:
                if not self._is_over:
                    self._fault = self._fault or error
        finally:
            with self._changed:
                self._n_workers[lane] -= 1
                self._changed.notify_all()

    def _fill(self, run: Run) -> None:
        """Bring the pieces of a run, again and again where it is cut, until it is done, lost or of no more use."""
        while True:
            try:
                if self._stream(run):
                    return
                error = SourceError(run.lane.name, f"ended at byte {run.offset} of {self._file.path}")
            except WrongBytesError as wrong:
                self._leave(run.lane, wrong)
                return
            except NoRangesError:
                with self._changed:
                    run.lane.is_ranged = False
                return
            except SourceError as caught:
                error = caught
            if not self._goes_on(run, error):
                return

    def _stream(self, run: Run) -> bool:
        """One request; whether the run is done or lost. Raises SourceError, WrongBytesError."""
        run.lane.pace.wait(lambda: self._is_over)
        with self._changed:
            if run.is_lost or self._is_over:
                return True
            offset, stop = run.offset, self._pieces.span(run.stop - 1)[1]
        # One that cannot do ranges is asked for all that follows, and skips what comes before.
        with closing(run.lane.source.read(self._file, offset, stop if run.lane.is_ranged else None)) as stream:  # type: ignore[type-var]
            for data in stream:
                if self._take(run, memoryview(data)):
                    return True
                run.lane.pace.spend(len(data), lambda: run.is_lost)
        return False

    def _take(self, run: Run, view: memoryview) -> bool:
        """Write what came; whether the run is done or lost."""
        while view:
            stop = self._pieces.span(run.piece)[1]
            part = view[: stop - run.offset]
            with run.lock:
                if run.is_lost:
                    return True
                self._partial.write_at(run.offset, part)
            run.update(part)
            run.n_bytes += len(part)
            run.offset += len(part)
            run.last_byte = self._clock()
            view = view[len(part) :]
            if run.offset == stop and self._end_piece(run):
                return True
        return False

    def _end_piece(self, run: Run) -> bool:
        """A piece has come whole; whether it was the run's last. Raises WrongBytesError."""
        digest = run.hasher.digest()
        if self._proof is not None and not self._proof.is_right(run.piece, digest, run.tree):
            start, stop = self._pieces.span(run.piece)
            where, what = f"{self._file.path} from {run.lane.name}", f"SHA-256 of bytes {start} to {stop - 1}"
            raise WrongBytesError(where, what, digest.hex(), "that of the piece that was published")
        with self._changed:
            if run.is_lost:
                return True
            self._pieces.add(run.piece, digest[:SHORT_BYTES], run.lane.tag)
            self.digests[run.piece] = digest
            self._state[run.piece] = _HERE
            self._n_missing -= 1
            self._advance_front()
            run.piece += 1
            run.begin_piece()
            if not self._n_missing:
                self._changed.notify_all()
            return run.piece >= run.stop

    def _goes_on(self, run: Run, error: SourceError) -> bool:
        """After a failure: wait as long as the lane has to, keeping the run; False if it is to be given back."""
        lane = run.lane
        with self._changed:
            if run.is_lost or self._is_over or lane.left is not None:
                return False
            if has_progressed := run.n_bytes - run.n_before_failure >= PROGRESS:
                lane.worked()
            run.n_before_failure = run.n_bytes
            if not has_progressed and (n_others := self._n_others(run)):
                lane.refused(n_others, error)
            elif not lane.failed(error):
                self._leave(lane, error)
                return False
            while (wait := lane.not_before - self._clock()) > 0:
                self._changed.wait(min(wait, 1.0))
                if run.is_lost or self._is_over or lane.left is not None:
                    return False
            return self._n_workers[lane] <= lane.limit

    def _n_others(self, run: Run) -> int:
        """Connections of the same lane to which bytes have just come."""
        since = self._clock() - _RECENT_S
        others = [each for each in self._runs if each.lane is run.lane and each is not run]
        return sum(each.n_bytes > 0 and each.last_byte > since for each in others)

    def _leave(self, lane: Lane, error: SourceError | WrongBytesError) -> None:
        with self._changed:
            if lane.left is None and not self._is_over:
                lane.left = error
                self.left.append((lane, error))
                self._changed.notify_all()

    # Who gets what

    def _next(self, lane: Lane) -> Run | None:
        """Something to do, as soon as there is; None where this connection is not needed any more."""
        with self._changed:
            while not self._is_over and lane.left is None and self._n_missing and self._n_workers[lane] <= lane.limit:
                wait = lane.not_before - self._clock()
                if wait <= 0:
                    run = self._free_run(lane) or self._part_of_another(lane) or self._slow_piece(lane)
                    if run is not None:
                        self._runs.append(run)
                        return run
                    wait = _MEASURE_S
                self._changed.wait(min(wait, _MEASURE_S))
            return None

    def _let_go(self, run: Run) -> None:
        with self._changed:
            self._runs.remove(run)
            self._n_done[run.lane] += run.n_bytes
            if run.lane.rate is None and run.n_bytes >= self._pieces.length:
                run.lane.rate = run.n_bytes / max(1e-6, self._clock() - run.began)
            if not run.is_lost:
                for number in range(run.piece, run.stop):
                    self._state[number] = _FREE
            self._changed.notify_all()

    def _free_run(self, lane: Lane) -> Run | None:
        """The free pieces nearest to the beginning."""
        if not lane.is_ranged and any(each.left is None and each.is_ranged for each in self._lanes):
            return None
        first = self._state.find(_FREE, self._front)
        if first < 0:
            return None
        stop = first + 1
        most = self._pieces.n if not lane.is_ranged else first + self._share(lane)
        while stop < min(most, self._pieces.n) and self._state[stop] == _FREE:
            stop += 1
        return self._claim(lane, first, stop)

    def _share(self, lane: Lane) -> int:
        """Pieces that a lane may claim at once: all there are for one that is alone, else a few seconds' worth."""
        n_workers = sum(each.limit for each in self._lanes if each.left is None and each.is_ranged)
        if n_workers <= 1:
            return self._n_missing
        n_bytes = _FIRST_RUN if lane.rate is None else lane.rate * _RUN_S
        return max(1, min(int(n_bytes) // self._pieces.length, -(-self._n_missing // n_workers)))

    def _part_of_another(self, lane: Lane) -> Run | None:
        """The end of the run that would last longest, as much as makes both end together."""
        runs = [run for run in self._runs if run.stop - run.piece > 1 and self._clock() - run.began > 1.0]
        runs = [run for run in runs if self._seconds(run, run.stop) > _WORTH_TAKING_S]
        if not runs or not lane.is_ranged:
            return None
        run = max(runs, key=lambda run: self._seconds(run, run.stop))
        slow, fast = run.rate or 0.0, lane.rate or run.rate or 1.0
        n_taken = max(1, round((run.stop - run.piece - 1) * fast / (slow + fast)))
        run.stop -= n_taken
        return self._claim(lane, run.stop, run.stop + n_taken)

    def _slow_piece(self, lane: Lane) -> Run | None:
        """The piece that a much slower connection, or one that has stalled, is at."""
        if not lane.is_ranged:
            return None
        now = self._clock()
        for run in self._runs:
            is_stalled = now - run.last_byte > _STALLED_S
            other = run.lane is not lane and lane.rate is not None and now - run.began > 1.0
            mine = self._pieces.length / lane.rate if lane.rate else 0.0
            if run.stop - run.piece == 1 and (is_stalled or other):
                if self._seconds(run, run.piece + 1) <= _MUCH_SLOWER * mine + 1.0:
                    continue
                with run.lock:
                    run.is_lost = True
                return self._claim(lane, run.piece, run.stop)
        return None

    def _seconds(self, run: Run, stop: int) -> float:
        """How long a run will need up to a piece, at its present rate."""
        return (self._pieces.span(stop - 1)[1] - run.offset) / max(1.0, run.rate or 0.0)

    def _claim(self, lane: Lane, first: int, stop: int) -> Run:
        for number in range(first, stop):
            self._state[number] = _CLAIMED
        return Run(lane, first, stop, self._pieces.span(first)[0], self._proof)

    def _advance_front(self) -> None:
        front = self._front
        while front < self._pieces.n and self._state[front] == _HERE:
            front += 1
        if front > self._front:
            self._front = front
            self._arrived(self._pieces.span(front - 1)[1])

    def _measure(self) -> None:
        """How fast each run and lane is now, and what that means for the number of connections."""
        now = self._clock()
        passed = now - self._measured_at
        if passed < _MEASURE_S:
            return
        self._measured_at = now
        for run in self._runs:
            rate = (run.n_bytes - run.n_measured) / passed
            run.rate, run.n_measured = rate if run.rate is None else (run.rate + rate) / 2, run.n_bytes
        for lane in self._lanes:
            runs = [run for run in self._runs if run.lane is lane]
            if rates := [run.rate for run in runs if run.rate is not None and now - run.began > 1.0]:
                lane.rate = sum(rates) / len(rates)
            lane.adapt(self._n_done[lane] + sum(run.n_bytes for run in runs), len(runs))
