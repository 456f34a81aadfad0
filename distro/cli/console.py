"""The only place that prints. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from converters.errors import escape, shown
from distro.progress import Progress, Silent

if TYPE_CHECKING:
    from tqdm import tqdm


def result(text: str) -> None:
    """A line of the answer, for people or for a pipe."""
    print(text, file=sys.stdout, flush=True)  # noqa: T201


def fragment(text: str) -> None:
    """A piece of an answer that is still being made, such as a token; no new line."""
    print(text, end="", file=sys.stdout, flush=True)  # noqa: T201


def result_json(value: object) -> None:
    """The answer for a program: one JSON object, sizes in bytes."""
    print(json.dumps(value, indent=2, ensure_ascii=False), file=sys.stdout, flush=True)  # noqa: T201


def say(text: str) -> None:
    """Talk beside the answer."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def error(text: str) -> None:
    """The one line of a failure; what came from files is escaped, what came as several lines becomes one."""
    say("error: " + escape(" ".join(text.split())))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Columns wide enough for their content; `right` are the columns of numbers."""
    cells = [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    for row in [list(header), *cells]:
        line = "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        result(line.rstrip())


def size(n_bytes: int | None) -> str:
    """Bytes for people, in powers of ten as disks and hubs count: `98.4 MB`."""
    if n_bytes is None:
        return "?"
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


_LINE_EVERY_S = 5.0


class _TqdmBar:
    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar = bar

    def advance(self, n_bytes: int) -> None:
        self._bar.update(n_bytes)

    def note(self, text: str) -> None:
        self._bar.set_postfix_str(text, refresh=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


class _LineBar:
    """A bar where nothing can be drawn over: a line when five seconds have passed, and nothing for short work."""

    def __init__(self, title: str, total: int | None, done: int) -> None:
        self._title, self._total, self._done = title, total, done
        self._note = ""
        self._next_s = time.monotonic() + _LINE_EVERY_S

    def advance(self, n_bytes: int) -> None:
        self._done += n_bytes
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + _LINE_EVERY_S
            share = (
                f"{100 * self._done / self._total:.0f} % of {size(self._total)}" if self._total else size(self._done)
            )
            say(f"{shown(self._title)}: {share}{', ' if self._note else ''}{self._note}")

    def note(self, text: str) -> None:
        self._note = text

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _Lines:
    """Progress for a pipe or a log: lines now and then."""

    def bar(self, title: str, total: int | None, done: int = 0) -> _LineBar:
        return _LineBar(title, total, done)

    def say(self, text: str) -> None:
        say(escape(text))


class _Bars:
    """Progress for a terminal: tqdm's bars on stderr."""

    def bar(self, title: str, total: int | None, done: int = 0) -> _TqdmBar:
        from tqdm import tqdm

        bar = tqdm(
            total=total, initial=done, desc=shown(title), unit="B", unit_scale=True, dynamic_ncols=True, leave=False
        )  # fmt: skip
        return _TqdmBar(bar)

    def say(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(escape(text), file=sys.stderr)


def progress(*, quiet: bool) -> Progress:
    """Bars on a terminal, lines elsewhere, or nothing at all."""
    if quiet:
        return Silent()
    return _Bars() if sys.stderr.isatty() else _Lines()
