"""Parts of files from the hub and from web servers, several at once; whoever fails or sends wrong bytes is left."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

from distro.config import Settings
from distro.errors import ProtocolError, SourceError, WrongBytesError
from distro.manifest import File, Model, Variant
from distro.mending import Mending
from distro.mirrors import mirrors_of
from distro.progress import Progress
from distro.reference import HubReference, parse_source
from distro.sources.retry import asked_again

if TYPE_CHECKING:
    from distro.sources.http import Part

_AT_ONCE = 4  # pieces that are asked for
_ASKED_BYTES = 8 << 20  # in one request


class _Ranged(Protocol):
    name: str

    def read_part(self, file: File, start: int, stop: int) -> Part:
        """The bytes from start to stop, fewer where the answer ends early. Raises SourceError."""
        ...

    def close(self) -> None: ...


class Ranges:
    """The sources of a variant that have parts of files to give, opened when the first is asked for.

    failures: why sources were left, by name.
    """

    def __init__(self, settings: Settings, model: Model | None, variant: Variant | None, progress: Progress) -> None:
        self._settings, self._model, self._variant, self._progress = settings, model, variant, progress
        self._closing, self._lock = ExitStack(), threading.Lock()
        self.failures: dict[str, SourceError | WrongBytesError] = {}

    def bring(self, mending: Mending, indexes: Sequence[int]) -> list[int]:
        """Put these pieces into a file; gives those that nobody had."""
        if not indexes or not self._sources:
            return list(indexes)
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            found = list(pool.map(functools.partial(self._bring_one, mending), indexes))
        finally:
            pool.shutdown(cancel_futures=True)
        return [index for index, is_here in zip(indexes, found, strict=True) if not is_here]

    def close(self) -> None:
        self._closing.close()

    def _bring_one(self, mending: Mending, index: int) -> bool:
        for source in self._sources:
            if source.name in self.failures:
                continue
            try:
                self._read(source, mending, *mending.pieces.span(index))
                _judge(source.name, mending, index)
            except (SourceError, WrongBytesError) as error:
                self._leave(source.name, error)
            else:
                mending.credit(index, source.name)
                return True
        return False

    def _read(self, source: _Ranged, mending: Mending, start: int, stop: int) -> None:
        while start < stop:
            ask = functools.partial(source.read_part, mending.file, start, min(stop, start + _ASKED_BYTES))
            part = asked_again(self._settings, ask)
            if part.size != mending.pieces.size:
                raise ProtocolError(
                    source.name, f"has {part.size} bytes of {mending.file.path}, not {mending.pieces.size}"
                )
            if not part.data:
                raise SourceError(source.name, f"ended at byte {start} of {mending.file.path}")
            mending.write(start, part.data)
            start += len(part.data)

    def _leave(self, name: str, error: SourceError | WrongBytesError) -> None:
        with self._lock:
            if name not in self.failures:
                self.failures[name] = error
                self._progress.say(f"{error}; leaving this source")

    @functools.cached_property
    def _sources(self) -> list[_Ranged]:
        if self._model is None or self._variant is None:
            return []
        mirrors = [mirror.source for mirror in mirrors_of(self._settings, self._model, self._variant)]
        found = []
        for reference in (*mirrors, *self._variant.sources):
            try:
                source = _open(self._settings, reference, self._variant)
            except SourceError as error:
                self._leave(error.source, error)
                continue
            if source is not None:
                self._closing.callback(source.close)
                found.append(source)
        return found


def _judge(source: str, mending: Mending, index: int) -> None:
    if mending.is_right(index) is False:
        start, stop = mending.pieces.span(index)
        where = f"bytes {start} to {stop - 1}"
        raise WrongBytesError(f"{mending.file.path} from {source}", where, "wrong", "what its hash says")


def _open(settings: Settings, reference: str, variant: Variant) -> _Ranged | None:
    """A source that can be read in parts, None for one of another kind. Raises SourceError."""
    if reference.startswith("hf:"):
        from distro.sources.hub import HubSource

        parsed = parse_source(reference)
        return HubSource(settings, parsed) if isinstance(parsed, HubReference) else None
    if reference.startswith(("https://", "http://")) and not reference.endswith(".torrent"):
        from distro.sources.http import HttpSource

        return HttpSource(settings, reference, variant)
    return None
