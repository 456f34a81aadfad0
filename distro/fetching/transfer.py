"""The engine: all sources that can be read from an offset, and swarms, fill one part file together.

    lane     one source, with as many connections as it is worth (distro/fetching/lane.py)
    worker   a thread for each connection, one for a swarm
    run      pieces in a row that a worker has claimed, asked for in one request (distro/fetching/allotment.py)
    errand   what a swarm is sent for: many runs of one piece each (distro/fetching/errand.py)

A piece counts only if one source sent all of it: one that changes hands begins anew, while a connection that was cut
goes on in the middle. All that workers share is guarded by one lock.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import cast

from converters.running_digest import SHORT_BYTES
from distro.errors import SourceError, WrongBytesError
from distro.fetching.allotment import MEASURE_S, Allotment, Run
from distro.fetching.errand import Errand
from distro.fetching.lane import Lane
from distro.fetching.piece_proof import PieceProof
from distro.manifest import File
from distro.partial import Partial
from distro.pieces import Pieces
from distro.sources.base import NoRangesError, PieceSource, StreamSource
from distro.sources.retry import PROGRESS

_TICK_S = 0.1
_SLICE_S = 1.0


class Transfer:
    """Fills what is missing of one file.

    left: lanes of no more use, and why, in order. digests: SHA-256 of the pieces that came. has_dropped: whether pieces
    were here that turned out to be wrong. All other attributes are for workers and errands, under the lock `changed`.
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
        spared: Callable[[int], None] = lambda start: None,
        say: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """proof: by which pieces are judged when they come. arrived: told how far there is no gap any more.

        spared: told from where on nobody may rely on what is there, for the time being. say: lines for people.
        """
        self.left: list[tuple[Lane, SourceError | WrongBytesError]] = []
        self.digests: dict[int, bytes] = {}
        self.file, self.partial, self.pieces, self.lanes = file, partial, pieces, tuple(lanes)
        self.proof, self._arrived, self._spared, self.say, self.clock = proof, arrived, spared, say, clock
        self.changed = threading.Condition()
        self.has_dropped = False
        self.allotment = Allotment(pieces, self.lanes, clock)
        self._n_workers: Counter[Lane] = Counter()
        self._swarms: list[threading.Thread] = []
        self._held_from = pieces.size
        self._fault: BaseException | None = None
        self.is_over = False

    def run(self, tell: Callable[[], None] = lambda: None) -> bool:
        """Until all pieces are here, or no lane is of use: whether they are. tell: called several times a second.

        Raises what the disk raises.
        """
        self._arrived(self.allotment.front)
        try:
            while self.allotment.n_missing and self._start_workers():
                with self.changed:
                    self.changed.wait(_TICK_S)
                    self.allotment.measure()
                if self._fault is not None:
                    raise self._fault
                tell()
        finally:
            self._stop()
            tell()
        if self._fault is not None:
            raise self._fault
        return not self.allotment.n_missing

    @property
    def contested(self) -> set[int]:
        """Pieces that are here and that a swarm may have written into since; none does any more after `run`."""
        return {number for _, number in self.allotment.contested if number in self.pieces}

    @property
    def n_here(self) -> int:
        """Bytes of the file that are here, those of pieces that are arriving included."""
        with self.changed:
            return self.pieces.n_bytes + self.allotment.n_arriving

    @property
    def received(self) -> Counter[str]:
        """Bytes that came, by name of the source, those that came in vain included."""
        with self.changed:
            return self.allotment.received

    def _start_workers(self) -> bool:
        """Whether any lane is of use still."""
        with self.changed:
            alive = [lane for lane in self.lanes if lane.left is None]
            for lane in alive:
                while self._n_workers[lane] < min(lane.limit, self.allotment.n_missing):
                    if not self._start_worker(lane):
                        return True
            return bool(alive)

    def _start_worker(self, lane: Lane) -> bool:
        """Whether the system has a thread for another connection; else those that are there do the work."""
        thread = threading.Thread(target=self._work, args=(lane,), name=f"from {lane.name}", daemon=True)
        self._n_workers[lane] += 1
        try:
            thread.start()
        except RuntimeError:  # no room for its stack, or too many processes
            self._n_workers[lane] -= 1
            if not self._n_workers.total():
                raise
            return False
        self._swarms += [thread] if lane.is_swarm else []
        return True

    def _stop(self) -> None:
        """Nothing is written after this. Threads that wait for the network are left to find out by themselves."""
        with self.changed:
            self.is_over = True
            runs = self.allotment.runs()
            self.changed.notify_all()
        for run in runs:
            with run.lock:
                run.is_lost = True
        for thread in self._swarms:
            thread.join()

    # What a worker does

    def _work(self, lane: Lane) -> None:
        try:
            if lane.is_swarm:
                self._send(lane)
            else:
                self._serve(lane)
        except BaseException as error:  # raised again by `run`, in the thread that waits there
            with self.changed:
                if not self.is_over:
                    self._fault = self._fault or error
        finally:
            with self.changed:
                self._n_workers[lane] -= 1
                self.changed.notify_all()

    def _send(self, lane: Lane) -> None:
        """A swarm brings what it can."""
        errand = Errand(self, lane)
        try:
            cast(PieceSource, lane.source).bring(errand)
        except (SourceError, WrongBytesError) as error:
            self.leave(lane, error)
        finally:
            errand.close()

    def _serve(self, lane: Lane) -> None:
        while (run := self._next(lane)) is not None:
            try:
                self._fill(run)
            finally:
                with self.changed:
                    self.allotment.let_go(run)
                    self.changed.notify_all()

    def _next(self, lane: Lane) -> Run | None:
        """Something to do, as soon as there is; None where this connection is not needed any more."""
        with self.changed:
            while self._is_wanted(lane) and self.allotment.n_missing:
                wait = lane.not_before - self.clock()
                if wait <= 0:
                    if (run := self.allotment.claim(lane)) is not None:
                        self.hold_back()
                        run.begin_piece(self.proof)
                        return run
                    wait = MEASURE_S
                self.changed.wait(min(wait, MEASURE_S))
            return None

    def _is_wanted(self, lane: Lane) -> bool:
        """Whether another connection of this lane has a use still."""
        return not self.is_over and lane.left is None and self._n_workers[lane] <= lane.limit

    def _fill(self, run: Run) -> None:
        """Bring the pieces of a run, again and again where it is cut, until it is done, lost or of no more use."""
        while True:
            try:
                if self._stream(run):
                    return
                error = SourceError(run.lane.name, f"ended at byte {run.offset} of {self.file.path}")
            except WrongBytesError as wrong:
                self.leave(run.lane, wrong)
                return
            except NoRangesError:
                with self.changed:
                    run.lane.is_ranged = False
                return
            except SourceError as caught:
                error = caught
            if not self._goes_on(run, error):
                return

    def _stream(self, run: Run) -> bool:
        """One request; whether the run is done or lost. Raises SourceError, WrongBytesError."""
        run.lane.pace.wait(lambda: run.is_lost or self.is_over)
        with self.changed:
            if run.is_lost or self.is_over:
                return True
            # One that cannot do ranges is asked for all that follows, and skips what comes before.
            stop = self.pieces.span(run.stop - 1)[1] if run.lane.is_ranged else None
        source = cast(StreamSource, run.lane.source)
        run.asked_at = self.clock()
        try:
            with closing(source.read(self.file, run.offset, stop)) as stream:  # type: ignore[type-var]
                for data in stream:
                    run.asked_at = None
                    if self._take(run, memoryview(data)):
                        return True
                    run.lane.pace.spend(len(data), lambda: run.is_lost)
                    run.asked_at = self.clock()
        finally:
            run.asked_at = None
        return False

    def _take(self, run: Run, view: memoryview) -> bool:
        """Write what came; whether the run is done or lost."""
        while view:
            stop = self.pieces.span(run.piece)[1]
            part = view[: stop - run.offset]
            with run.lock:
                if run.is_lost:
                    return True
                self.partial.write_at(run.offset, part)
            run.update(part)
            run.n_bytes += len(part)
            run.offset += len(part)
            run.last_byte = self.clock()
            view = view[len(part) :]
            if run.offset == stop and self.end_piece(run):
                return True
        return False

    # What an errand asks of us

    def hold_back(self) -> None:
        """Nothing is read for the proof from the first contested piece on."""
        first = min((number for _, number in self.allotment.contested), default=None)
        start = self.pieces.size if first is None else self.pieces.span(first)[0]
        if start != self._held_from:
            self._held_from = start
            self._spared(start)

    def end_piece(self, run: Run) -> bool:
        """A piece has come whole; whether the run is done or lost. Raises WrongBytesError."""
        digest = run.hasher.digest()
        if self.proof is not None and not self.proof.is_right(run.piece, digest, run.tree):
            start, stop = self.pieces.span(run.piece)
            where, what = f"{self.file.path} from {run.lane.name}", f"SHA-256 of bytes {start} to {stop - 1}"
            raise WrongBytesError(where, what, digest.hex(), "that of the piece that was published")
        with self.changed:
            if run.is_lost:
                return True
            self.pieces.add(run.piece, digest[:SHORT_BYTES], run.lane.tag)
            self.digests[run.piece] = digest
            self.allotment.has_come(run)
            self._arrived(self.allotment.front)
            run.lane.worked()
            run.begin_piece(self.proof)
            if not self.allotment.n_missing:
                self.changed.notify_all()
            return run.is_done

    def _goes_on(self, run: Run, error: SourceError) -> bool:
        """After a failure: wait as long as the lane has to, keeping the run; False if it is to be given back."""
        lane = run.lane
        with self.changed:
            if run.is_lost or self.is_over or lane.left is not None:
                return False
            has_progressed = run.n_bytes - run.n_before_failure >= PROGRESS
            run.n_before_failure = run.n_bytes
            if has_progressed:
                lane.worked()
            n_others = self.allotment.n_others(run)
            is_refused = n_others > 0 and not has_progressed
            if is_refused:
                lane.refused(n_others, error)
            elif not lane.failed(error):
                self.leave(lane, error)
                return False
            while (wait := lane.not_before - self.clock()) > 0:
                self.changed.wait(min(wait, _SLICE_S))
                if run.is_lost or not self._is_kept(run, is_refused=is_refused):
                    return False
            return self._is_kept(run, is_refused=is_refused)

    def _is_kept(self, run: Run, *, is_refused: bool) -> bool:
        """Whether a connection that was cut goes on; if it is one too many, to the end of the piece that it is at."""
        if is_refused or self._is_wanted(run.lane) or run.offset == self.pieces.span(run.piece)[0]:
            return self._is_wanted(run.lane)
        self.allotment.shorten(run)
        return not self.is_over and run.lane.left is None

    def leave(self, lane: Lane, error: SourceError | WrongBytesError) -> None:
        with self.changed:
            if lane.left is None and not self.is_over:
                lane.left = error
                self.left.append((lane, error))
                self.changed.notify_all()
