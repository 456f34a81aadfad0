"""Whom a fetch may ask, in order: what is near, then all that can be read in parts, together, then the rest.

near      the user's folder, our store, what other tools keep: each alone, a copy
lanes     mirrors, the hub, addresses of the manifest, swarms: all at once (distro/fetching/transfer.py)
streams   the same without swarms, one after another, for several small files at once (distro/fetching/turns.py)
whole     package index and swarms: each alone, where no lane is left, and for one file at a time

Each is opened when its turn comes first, and all are closed at the end. `left` are those that failed in a way that the
next file will not change. Threads share all of it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from distro.config import Settings
from distro.errors import MalformedManifestError, NotFoundError, NotThereError, SourceError, WrongBytesError
from distro.fetching.lane import Lane
from distro.fetching.turns import Turns
from distro.manifest import Model, Variant
from distro.manners.mirrors import Mirror, mirrors_of, remember
from distro.manners.pace import Pace, pace_of
from distro.progress import Progress
from distro.sources import kind_of, open_source
from distro.sources.base import PieceSource, Source
from distro.sources.caches import caches_of
from distro.sources.local import CacheSource, FolderSource
from distro.sources.paced import Paced
from distro.sources.retry import Retrying
from distro.store import Store


class Ways:
    """All sources of one fetch. left: by name, why those are of no more use that are not.

    stopped: set when nobody wants anything any more.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        model: Model,
        variant: Variant,
        *,
        target: Path | None,
        folder: Path | None,
        peers: Sequence[tuple[str, int]],
        progress: Progress,
    ) -> None:
        """target: where it goes, if not into the store. folder: one to look in first. peers: for swarms."""
        self.left: dict[str, SourceError] = {}
        self._settings, self._store, self._model, self._variant = settings, store, model, variant
        self._target, self._folder, self._peers, self._progress = target, folder, peers, progress
        self._mirrors = {mirror.source: mirror for mirror in mirrors_of(settings, model, variant)}
        self._open: dict[str, Source] = {}
        self._lanes: dict[str, Lane] = {}
        self._turns: dict[str, Turns] = {}
        self._lock = threading.Lock()
        self._closing = ExitStack()
        self.stopped = threading.Event()

    def near(self) -> Iterator[Source]:
        yield from self._each(dict(self._near()))

    def lanes(self) -> list[Lane]:
        """Those that are of use still."""
        for source in self._each(self._openers(lambda reference: _is_ranged(reference) or _is_swarm(reference))):
            if source.name not in self._lanes:
                self._lanes[source.name] = self._lane(source)
        return [lane for name, lane in self._lanes.items() if name not in self.left]

    def streams(self) -> Iterator[Source]:
        """The same one by one, for a file that is not worth more or cannot be proven."""
        for source in self._each(self._openers(_is_ranged)):
            if isinstance(source, Retrying):
                yield self._turns_of(source)

    def whole(self, *, swarms: bool = True) -> Iterator[Source]:
        """swarms: whether they are to be asked; for a file of several pieces they are lanes."""
        wanted = [each for each in self._references() if not _is_ranged(each) and (swarms or not _is_swarm(each))]
        for source in self._each(self._openers(wanted.__contains__)):
            yield Paced(source, self._pace(source))

    def leave(self, source: Source | Lane, error: SourceError | WrongBytesError) -> bool:
        """A source has failed for one file; for all that are to come unless it only lacks the file or has another.

        False if it was left before, by another file.
        """
        if isinstance(error, NotThereError | WrongBytesError):
            return True
        with self._lock:
            is_new = source.name not in self.left
            self.left[source.name] = error
            self._remember(source.name, worked=False)
        return is_new

    def worked(self, name: str) -> None:
        """A file came from there."""
        with self._lock:
            self._remember(name, worked=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        self._closing.close()

    def _each(self, openers: dict[str, Callable[[], Source]]) -> Iterator[Source]:
        for key, opener in openers.items():
            with self._lock:
                source = self._opened(key, opener)
            if source is not None and source.name not in self.left:
                yield source

    def _opened(self, key: str, opener: Callable[[], Source]) -> Source | None:
        """A source; None for one that cannot be opened."""
        if key not in self._open and key not in self.left:
            try:
                self._open[key] = source = opener()
            except SourceError as error:
                self._progress.say(f"{error}; leaving this source")
                self.left[key] = error
            else:
                self._closing.callback(source.close)
        return self._open.get(key)

    def _near(self) -> Iterator[tuple[str, Callable[[], Source]]]:
        folder = self._folder
        if folder is not None:
            yield "folder", lambda: FolderSource(folder)
        if self._target is not None:
            ours = self._store.folder(self._model.name, self._variant.name)
            if ours.is_dir():
                yield "store", lambda: FolderSource(ours)
        for cache in caches_of(self._settings):
            yield f"{cache.tool} {cache.folder}", functools.partial(CacheSource, cache)

    def _openers(self, wanted: Callable[[str], bool]) -> dict[str, Callable[[], Source]]:
        """Mirrors first, then the manifest's, as listed."""
        return {reference: self._opener(reference) for reference in self._references() if wanted(reference)}

    def _references(self) -> list[str]:
        return [*self._mirrors, *self._variant.sources]

    def _opener(self, reference: str) -> Callable[[], Source]:
        def opener() -> Source:
            try:
                return open_source(self._settings, reference, self._variant, peers=self._peers)
            except (NotFoundError, MalformedManifestError) as error:
                if _is_swarm(reference) and len(self._references()) > 1:  # a torrent that is no good, beside others
                    raise SourceError("swarm", str(error)) from error
                raise

        return opener

    def _lane(self, source: Source) -> Lane:
        inner = source.source if isinstance(source, Retrying) else cast(PieceSource, source)
        return Lane(inner, self._settings.retries, self._pace(source))

    def _turns_of(self, source: Retrying) -> Turns:
        pace, settings = self._pace(source), self._settings
        with self._lock:
            if source.name not in self._turns:
                self._turns[source.name] = Turns(
                    source.source, pace, retries=settings.retries, most=settings.files_at_once, stopped=self.stopped
                )
            return self._turns[source.name]

    def _pace(self, source: Source) -> Pace:
        with self._lock:
            reference = next(key for key, opened in self._open.items() if opened is source)
        return pace_of(self._settings, kind_of(reference), say=self._progress.say)

    def _remember(self, name: str, *, worked: bool) -> None:
        for key, source in self._open.items():
            mirror: Mirror | None = self._mirrors.get(key)
            if mirror is not None and source.name == name:
                remember(self._settings, mirror, worked=worked)


def _is_ranged(reference: str) -> bool:
    """Whether a source of that kind gives any part of a file, as far as one can say before asking it."""
    return reference.startswith(("hf:", "http://", "https://")) and not reference.endswith(".torrent")


def _is_swarm(reference: str) -> bool:
    return kind_of(reference) == "swarm"
