"""How far long work is: a protocol, bars by tqdm behind it, and one that stays silent."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self


class Bar(Protocol):
    """One file, or the total."""

    def advance(self, n_bytes: int) -> None: ...

    def note(self, text: str) -> None:
        """A word beside the bar, such as the number of peers."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class MeteredBar(Bar, Protocol):
    """A bar that knows more than how much came: `advance` counts what was received, none of the three goes back."""

    def verified(self, n_bytes: int) -> None:
        """So many bytes more are proven."""
        ...

    def came_from(self, source: str, n_bytes: int) -> None:
        """Of what was received, so many bytes came from this source."""
        ...


class Progress(Protocol):
    def bar(self, title: str, total: int | None, done: int = 0) -> MeteredBar:
        """A new bar; total in bytes, None if unknown; done: bytes that were there before."""
        ...

    def say(self, text: str) -> None:
        """A line for people, above the bars."""
        ...


class SilentBar:
    def advance(self, n_bytes: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def verified(self, n_bytes: int) -> None:
        pass

    def came_from(self, source: str, n_bytes: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Silent:
    """No bars, no words."""

    def bar(self, title: str, total: int | None, done: int = 0) -> SilentBar:
        return SilentBar()

    def say(self, text: str) -> None:
        pass
