"""A source like the one inside, as fast and at such hours as the pace of its kind has it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from distro.manifest import File
from distro.manners.pace import Pace
from distro.progress import Bar
from distro.sources.base import Source, StreamSource
from distro.sources.retry import Retrying

if TYPE_CHECKING:
    from distro.store import Partial


class Paced:
    """Where bytes pass through us one by one, each is held up; what others bring (pip, libtorrent) is counted."""

    def __init__(self, source: Source, pace: Pace) -> None:
        self.name, self.source, self._pace = source.name, source, pace

    def transfer(self, file: File, partial: Partial, bar: Bar) -> None:
        self._pace.wait()
        holds = isinstance(self.source, (StreamSource, Retrying))
        self.source.transfer(file, partial, _PacedBar(bar, self._pace, holds=holds))

    def close(self) -> None:
        self.source.close()


class _PacedBar:
    """Told of every byte that came, it is the place where to wait."""

    def __init__(self, bar: Bar, pace: Pace, *, holds: bool) -> None:
        self._bar, self._pace, self._holds = bar, pace, holds

    def advance(self, n_bytes: int) -> None:
        self._bar.advance(n_bytes)
        if self._holds:
            self._pace.spend(n_bytes)
        else:
            self._pace.note(n_bytes)

    def note(self, text: str) -> None:
        self._bar.note(text)

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)
