"""What a source must offer: the bytes of one file. Retry, failing over, length and digest are judged above it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from distro.errors import SourceError
from distro.manifest import File
from distro.progress import Bar

if TYPE_CHECKING:
    from distro.fetching.errand import Errand
    from distro.store import Partial


class Source(Protocol):
    """One place that has files. Made for one variant, used for its files one after another, closed at the end."""

    name: str  # for people and receipts, without secrets: "hub huggyllama/llama-7b@8416d3f"

    def transfer(self, file: File, partial: Partial, bar: Bar) -> None:
        """Bring the rest of a file into its partial file, from `partial.size` on.

        Returns when the source believes the file complete. Raises SourceError (another source may do) and leaves in
        the partial file what it got.
        """
        ...

    def close(self) -> None: ...


class StreamSource(ABC):
    """A source that reads a file from an offset, on several connections at once: all but swarms and copies."""

    name: str

    @abstractmethod
    def read(self, file: File, offset: int, stop: int | None = None) -> Iterator[bytes | memoryview]:
        """The file's bytes from an offset to its end, or to `stop` and no further.

        May end early where the source gives less at a time. A view counts until the next is asked for. Raises
        SourceError; NoRangesError only if `stop` is given.
        """

    def transfer(self, file: File, partial: Partial, bar: Bar) -> None:
        for data in self.read(file, partial.size):
            partial.append(data)
            bar.advance(len(data))

    def close(self) -> None:  # noqa: B027  most have nothing to close
        pass


class PieceSource(Protocol):
    """A source that has several pieces on their way at once and writes them into the part file itself: swarms."""

    name: str

    def bring(self, errand: Errand) -> None:
        """Bring pieces until the errand is over. Nothing is written any more when this returns or raises.

        Raises SourceError if nothing comes, WrongBytesError, and what the disk raises.
        """
        ...


class NoRangesError(SourceError):
    """The source gives files from their beginning on, and not from any other place."""
