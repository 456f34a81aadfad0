"""A table of a TOML file whose values are judged as they are asked for; what is refused is named by field and line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from distro.errors import MalformedManifestError

LARGEST_NUMBER = 2**53  # of bytes or weights; what JSON carries exactly
MOST_TEXTS = 100  # in a list
LONGEST_TEXT, LONGEST_SOURCE = 2000, 8192  # characters; a magnet with many trackers is long

T = TypeVar("T")


class Table:
    """field: its own place in the file, such as `model[0]`; empty for the whole. text: the file's, to find lines in."""

    def __init__(self, path: Path | str, text: str, field: str, values: Mapping[str, object]) -> None:
        self._path, self._text, self._field, self._values = path, text, field, values

    def refuse(self, key: str, found: object, allowed: str) -> NoReturn:
        """Raise MalformedManifestError for a key of this table."""
        field = ".".join(part for part in (self._field, key) if part)
        line = _line_of(self._text, field)
        raise MalformedManifestError(self._path, field, found=found, allowed=allowed, line=line)

    def has(self, key: str) -> bool:
        return key in self._values

    def only(self, *keys: str) -> None:
        """Refuse any other key."""
        for key in self._values:
            if key not in keys:
                self.refuse(key, "an unknown key", ", ".join(keys))

    def text(
        self, key: str, pattern: re.Pattern[str] | None = None, allowed: str = "", absent: str | None = None
    ) -> str:
        """A text that matches a pattern as a whole; `absent` is what a missing one means, if it may be missing."""
        if absent is not None and key not in self._values:
            return absent
        value = self._get(key, str, "a text")
        self._judge_text(key, value)
        if pattern and not pattern.fullmatch(value):
            self.refuse(key, value, allowed)
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        value = self.text(key)
        if value not in choices:
            self.refuse(key, value, ", ".join(choices))
        return value

    def number(self, key: str) -> int | None:
        """A count of bytes or weights, None if absent."""
        if key not in self._values:
            return None
        value = self._get(key, int, "a whole number")
        if not 0 <= value <= LARGEST_NUMBER:
            self.refuse(key, value, f"0 to {LARGEST_NUMBER}")
        return value

    def flag(self, key: str) -> bool:
        return key in self._values and bool(self._get(key, bool, "true or false"))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, empty if absent."""
        values = self._list(key, MOST_TEXTS)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                self.refuse(f"{key}[{index}]", value, "a text")
            self._judge_text(f"{key}[{index}]", value)
        if len(set(values)) != len(values):
            self.refuse(key, "the same text twice", "each once")
        return tuple(str(value) for value in values)

    def table(self, key: str) -> Table:
        return self._inner(key, self._get(key, dict, "a table"))

    def tables(self, key: str, most: int) -> list[Table]:
        """A list of tables, empty if absent."""
        tables = []
        for index, value in enumerate(self._list(key, most)):
            if not isinstance(value, dict):
                self.refuse(f"{key}[{index}]", value, "a table")
            tables.append(self._inner(f"{key}[{index}]", value))
        return tables

    def _inner(self, key: str, values: dict[str, object]) -> Table:
        return Table(self._path, self._text, f"{self._field}.{key}" if self._field else key, values)

    def _list(self, key: str, most: int) -> list[object]:
        if key not in self._values:
            return []
        value = self._get(key, list, "a list")
        if len(value) > most:
            self.refuse(key, f"{len(value)} of them", f"{most} at most")
        return value

    def _get(self, key: str, kind: type[T], allowed: str) -> T:
        if key not in self._values:
            self.refuse(key, "nothing", allowed)
        value = self._values[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.refuse(key, value, allowed)
        return value

    def _judge_text(self, key: str, value: str) -> None:
        longest = LONGEST_SOURCE if key.startswith("sources") else LONGEST_TEXT
        if not value or len(value) > longest:
            self.refuse(key, f"{len(value)} characters", f"1 to {longest}")
        if not value.isprintable():
            self.refuse(key, value, "characters that print")


_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.]+)\s*\]\]?")


def _line_of(text: str, field: str) -> int:
    """The line where a field stands, or its table begins if it is missing; 1 if neither is found.

    field: such as `model[0].variant[1].file[3].sha256`, as the sketch of a manifest writes it: a header for each table.
    """
    wanted = [(name, int(index or 0)) for name, index in re.findall(r"([\w-]+)(?:\[(\d+)\])?", field)]
    counts: dict[str, int] = {}
    table: list[tuple[str, int]] = []
    best = (0, 1)  # parts that agree, line
    for number, line in enumerate(text.split("\n"), 1):
        if header := _HEADER.match(line):
            name = header[2]
            counts[name] = counts.get(name, -1) + 1
            counts = {key: n for key, n in counts.items() if not key.startswith(name + ".")}
            parts = name.split(".")
            table = [(part, counts.get(".".join(parts[: i + 1]), 0)) for i, part in enumerate(parts)]
            if table == wanted[: len(table)]:
                best = max(best, (2 * len(table), number), key=lambda each: each[0])
        elif table == wanted[: len(table)] and len(wanted) > len(table):
            key = line.partition("=")[0].strip().strip("\"'")
            if key == wanted[len(table)][0]:
                best = max(best, (2 * len(table) + 1, number), key=lambda each: each[0])
    return best[1]
