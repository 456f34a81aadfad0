"""The engine: all sources that can be read from an offset fill one part file together.

    lane     one source, with as many connections as it is worth (distro/lane.py)
    worker   a thread for each connection
    run      pieces in a row that a worker has claimed, asked for in one request (distro/allotment.py)

A piece counts only if one source sent all of it: one that changes hands begins anew, while a connection that was cut
goes on in the middle. All that workers share is guarded by one lock.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing

from converters.running_digest import SHORT_BYTES
from distro.allotment import MEASURE_S, Allotment, Run
from distro.errors import SourceError, WrongBytesError
from distro.lane import Lane
from distro.manifest import File
from distro.partial import Partial
from distro.piece_proof import PieceProof
from distro.pieces import Pieces
from distro.sources.base import NoRangesError
from distro.sources.retry import PROGRESS

_TICK_S = 0.1
_SLICE_S = 1.0


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
        self._allotment = Allotment(pieces, self._lanes, clock)
        self._n_workers: Counter[Lane] = Counter()
        self._fault: BaseException | None = None
        self._is_over = False

    def run(self, tell: Callable[[], None] = lambda: None) -> bool:
        """Until all pieces are here, or no lane is of use: whether they are. tell: called several times a second.

        Raises what the disk raises.
        """
        self._arrived(self._allotment.front)
        try:
            while self._allotment.n_missing and self._start_workers():
                with self._changed:
                    self._changed.wait(_TICK_S)
                    self._allotment.measure()
                if self._fault is not None:
                    raise self._fault
                tell()
        finally:
            self._stop()
            tell()
        if self._fault is not None:
            raise self._fault
        return not self._allotment.n_missing

    @property
    def n_here(self) -> int:
        """Bytes of the file that are here, those of pieces that are arriving included."""
        with self._changed:
            return self._pieces.n_bytes + self._allotment.n_arriving

    @property
    def received(self) -> Counter[str]:
        """Bytes that came, by name of the source, those that came in vain included."""
        with self._changed:
            return self._allotment.received

    def _start_workers(self) -> bool:
        """Whether any lane is of use still."""
        with self._changed:
            alive = [lane for lane in self._lanes if lane.left is None]
            for lane in alive:
                while self._n_workers[lane] < min(lane.limit, self._allotment.n_missing):
                    self._n_workers[lane] += 1
                    threading.Thread(target=self._work, args=(lane,), name=f"from {lane.name}", daemon=True).start()
            return bool(alive)

    def _stop(self) -> None:
        """Nothing is written after this. Threads that wait for the network are left to find out by themselves."""
        with self._changed:
            self._is_over = True
            runs = self._allotment.runs()
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
                    with self._changed:
                        self._allotment.let_go(run)
                        self._changed.notify_all()
        except BaseException as error:  # raised again by `run`, in the thread that waits there
            with self._changed:
                if not self._is_over:
                    self._fault = self._fault or error
        finally:
            with self._changed:
                self._n_workers[lane] -= 1
                self._changed.notify_all()

    def _next(self, lane: Lane) -> Run | None:
        """Something to do, as soon as there is; None where this connection is not needed any more."""
        with self._changed:
            while self._is_wanted(lane) and self._allotment.n_missing:
                wait = lane.not_before - self._clock()
                if wait <= 0:
                    if (run := self._allotment.claim(lane)) is not None:
                        run.begin_piece(self._proof)
                        return run
                    wait = MEASURE_S
                self._changed.wait(min(wait, MEASURE_S))
            return None

    def _is_wanted(self, lane: Lane) -> bool:
        """Whether another connection of this lane has a use still."""
        return not self._is_over and lane.left is None and self._n_workers[lane] <= lane.limit

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
            # One that cannot do ranges is asked for all that follows, and skips what comes before.
            stop = self._pieces.span(run.stop - 1)[1] if run.lane.is_ranged else None
        with closing(run.lane.source.read(self._file, run.offset, stop)) as stream:  # type: ignore[type-var]
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
        """A piece has come whole; whether the run is done or lost. Raises WrongBytesError."""
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
            self._allotment.has_come(run)
            self._arrived(self._allotment.front)
            run.lane.worked()
            run.begin_piece(self._proof)
            if not self._allotment.n_missing:
                self._changed.notify_all()
            return run.is_done

    def _goes_on(self, run: Run, error: SourceError) -> bool:
        """After a failure: wait as long as the lane has to, keeping the run; False if it is to be given back."""
        lane = run.lane
        with self._changed:
            if run.is_lost or self._is_over or lane.left is not None:
                return False
            has_progressed = run.n_bytes - run.n_before_failure >= PROGRESS
            run.n_before_failure = run.n_bytes
            if has_progressed:
                lane.worked()
            n_others = self._allotment.n_others(run)
            if n_others and not has_progressed:
                lane.refused(n_others, error)
            elif not lane.failed(error):
                self._leave(lane, error)
                return False
            while (wait := lane.not_before - self._clock()) > 0:
                self._changed.wait(min(wait, _SLICE_S))
                if run.is_lost or not self._is_wanted(lane):
                    return False
            return self._is_wanted(lane)

    def _leave(self, lane: Lane, error: SourceError | WrongBytesError) -> None:
        with self._changed:
            if lane.left is None and not self._is_over:
                lane.left = error
                self.left.append((lane, error))
                self._changed.notify_all()
