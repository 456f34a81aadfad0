"""Parts of files from the hub and from web servers, several at once; whoever fails or sends wrong bytes is left.

Pieces in a row are asked for together, in one request, and judged one by one as they come.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from distro.config import Settings
from distro.errors import SourceError, WrongBytesError
from distro.manifest import File, Model, Variant
from distro.manners.mirrors import mirrors_of
from distro.manners.pace import Pace, pace_of
from distro.progress import Progress
from distro.proof.mending import Mending
from distro.sources import kind_of, open_ranged
from distro.sources.base import NoRangesError, StreamSource
from distro.sources.retry import PROGRESS, Patience

_AT_ONCE = 4  # requests
_LONGEST = 64 << 20  # bytes that are asked for in one


@dataclass(frozen=True)
class _Way:
    """A source that can be read in parts, and how fast and when."""

    source: StreamSource
    pace: Pace


class Ranges:
    """The sources of a variant that have parts of files to give, opened when the first is asked for.

    failures: why sources were left, by name.
    """

    def __init__(self, settings: Settings, model: Model | None, variant: Variant | None, progress: Progress) -> None:
        self._settings, self._model, self._variant, self._progress = settings, model, variant, progress
        self._closing, self._lock, self._stopped = ExitStack(), threading.Lock(), threading.Event()
        self.failures: dict[str, SourceError | WrongBytesError] = {}

    def bring(self, mending: Mending, indexes: Sequence[int]) -> list[int]:
        """Put these pieces into a file; gives those that nobody had."""
        if not indexes or not self._ways:
            return list(indexes)
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            left = list(pool.map(functools.partial(self._bring_run, mending), _runs(mending, indexes)))
        except BaseException:
            self._stopped.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        return [index for run in left for index in run]

    def close(self) -> None:
        self._closing.close()

    def _bring_run(self, mending: Mending, run: list[int]) -> list[int]:
        """Those pieces of a run that are left when every source was asked that is of use."""
        left = list(run)
        for way in self._ways:
            if not left:
                break
            if way.source.name not in self.failures:
                try:
                    self._read(way, mending, left)
                except (SourceError, WrongBytesError) as error:
                    self._leave(way.source.name, error)
        return left

    def _read(self, way: _Way, mending: Mending, left: list[int]) -> None:
        """Take pieces in a row from a source, and off the list those that are right; where it is cut, it goes on."""
        file = replace(mending.file, size=mending.pieces.size)
        offset, stop = mending.pieces.span(left[0])[0], mending.pieces.span(left[-1])[1]
        patience = Patience(self._settings.retries)
        while left:
            begun = offset
            try:
                for data in self._stream(way, file, offset, stop):
                    mending.write(offset, data)
                    offset += len(data)
                    while left and offset >= mending.pieces.span(left[0])[1]:
                        _judge(way.source.name, mending, left[0])
                        mending.credit(left.pop(0), way.source.name)
                error = SourceError(way.source.name, f"ended at byte {offset} of {file.path}")
            except NoRangesError:
                raise
            except SourceError as caught:
                error = caught
            if left:
                if offset - begun >= PROGRESS:
                    patience.worked()
                wait_s = patience.failed(error)
                if wait_s is None or self._stopped.wait(wait_s):
                    raise error

    def _stream(self, way: _Way, file: File, offset: int, stop: int) -> Iterator[bytes | memoryview]:
        """One request. Raises SourceError."""
        way.pace.wait(self._stopped.is_set)
        with closing(way.source.read(file, offset, stop)) as stream:  # type: ignore[type-var]
            for data in stream:
                yield data
                way.pace.spend(len(data), self._stopped.is_set)
                if self._stopped.is_set():
                    raise SourceError(way.source.name, "is not needed any more")

    def _leave(self, name: str, error: SourceError | WrongBytesError) -> None:
        with self._lock:
            if name not in self.failures and not self._stopped.is_set():
                self.failures[name] = error
                self._progress.say(f"{error}; leaving this source")

    @functools.cached_property
    def _ways(self) -> list[_Way]:
        if self._model is None or self._variant is None:
            return []
        mirrors = [mirror.source for mirror in mirrors_of(self._settings, self._model, self._variant)]
        found = []
        for reference in (*mirrors, *self._variant.sources):
            try:
                source = open_ranged(self._settings, reference, self._variant)
            except SourceError as error:
                self._leave(error.source, error)
                continue
            if source is not None:
                self._closing.callback(source.close)
                found.append(_Way(source, pace_of(self._settings, kind_of(reference), say=self._progress.say)))
        return found


def _runs(mending: Mending, indexes: Sequence[int]) -> list[list[int]]:
    """Pieces in a row, as far as they are not too long together."""
    runs: list[list[int]] = []
    for index in indexes:
        stop = mending.pieces.span(index)[1]
        if runs and runs[-1][-1] + 1 == index and stop - mending.pieces.span(runs[-1][0])[0] <= _LONGEST:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def _judge(source: str, mending: Mending, index: int) -> None:
    if mending.is_right(index) is False:
        start, stop = mending.pieces.span(index)
        where = f"bytes {start} to {stop - 1}"
        raise WrongBytesError(f"{mending.file.path} from {source}", where, "wrong", "what its hash says")
