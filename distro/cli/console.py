"""The only place that prints. Results go to stdout, everything else to stderr.

A pipe or a file gets results as they are; a terminal gets no character that would steer it. An answer that cannot be
written is an error, talk that cannot be written is not: whoever closed stderr did not want it.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from converters.errors import escape, shown
from distro.disk import told
from distro.errors import StorageError
from distro.progress import Progress, Silent, SilentBar
from distro.words import size as size

if TYPE_CHECKING:
    from tqdm import tqdm


_READER_IS_GONE = 141  # as of a process that SIGPIPE ended


def result(text: str) -> None:
    """A line of the answer, for people or for a pipe."""
    _answer(_plain(text) + "\n")


def fragment(text: str) -> None:
    """A piece of an answer that is still being made, such as a token; no new line. What steers is out of it already."""
    _answer(text)


def result_json(value: object) -> None:
    """The answer for a program: one JSON object, sizes in bytes."""
    _answer(_plain(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def _plain(text: str) -> str:
    """The text as it is for a pipe, escaped for a terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        return text
    return "".join(c if c in "\n\t" else escape(c) for c in text)


def _answer(text: str) -> None:
    """Raises StorageError, DiskFullError; ends quietly where the reader of a pipe has seen enough."""
    if sys.stdout is None:
        raise StorageError("standard output: is closed")
    try:
        print(text, end="", file=sys.stdout, flush=True)  # noqa: T201
    except OSError as error:
        forget_output()
        if isinstance(error, BrokenPipeError):
            sys.exit(_READER_IS_GONE)
        with told(Path("standard output")):
            raise


def prepare() -> None:
    """Make characters that stdout's encoding lacks come out as their numbers, as on stderr, and not as a fault."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def forget_output() -> None:
    """Let go what stdout still holds, which would fail once more when the process ends."""
    if sys.stdout is not None:
        _forget(sys.stdout)


def _forget(stream: TextIO) -> None:
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(text: str) -> None:
    """Talk beside the answer."""
    if sys.stderr is not None:  # print would turn to stdout
        with suppress(OSError):
            print(text + "\n", end="", file=sys.stderr, flush=True)  # noqa: T201  in one, as several threads talk


def error(text: str) -> None:
    """The one line of a failure; what came from files is escaped, what came as several lines becomes one."""
    say("error: " + escape(" ".join(text.split())))


def event(name: str, **facts: object) -> None:
    """One thing that happens, for a program: a JSON object on a line of its own, beside the answer."""
    say(json.dumps({"event": name, **facts}))  # ASCII, so that nothing in it steers a terminal


def can_ask() -> bool:
    """Whether somebody is there who sees a question and can answer it."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def ask(question: str) -> bool:
    """A question that only a `y` or `yes` answers with yes."""
    print(f"{escape(question)} [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201
    return sys.stdin.readline().strip().lower() in ("y", "yes")


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


_LINE_EVERY_S = 5.0
_SHORT_S = 0.3  # work that takes no longer gets no bar: of many small files only that of all together shows


class _TqdmBar(SilentBar):
    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar = bar

    def advance(self, n_bytes: int) -> None:
        self._bar.update(n_bytes)

    def note(self, text: str) -> None:
        self._bar.set_postfix_str(text, refresh=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


class _LineBar(SilentBar):
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
            total=total, initial=done, desc=shown(title), unit="B", unit_scale=True, dynamic_ncols=True, leave=False,
            delay=_SHORT_S,
        )  # fmt: skip
        return _TqdmBar(bar)

    def say(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(escape(text), file=sys.stderr)


def progress(*, quiet: bool) -> Progress:
    """Bars on a terminal, lines elsewhere, or nothing at all."""
    if quiet:
        return Silent()
    return _Bars() if sys.stderr is not None and sys.stderr.isatty() else _Lines()
