"""Values out of a file's dictionary, judged once: right type, inside its range, or an error that says which and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from converters.errors import MalformedError

T = TypeVar("T")
_REQUIRED = object()


class Fields:
    """Typed look-ups in a dictionary that came from a file.

    path: the file. values: the dictionary. prefix: put before a key in messages ("/" makes JSON pointers of
    config.json's keys; GGUF keys need none). A key that is absent or null gives the default, or MalformedError where
    no default is given. Booleans are no integers, and integers in quotes are no integers either. A number must be one
    that float32, in which GGUF has it, can hold: unless asked otherwise it is neither 0 nor nearly so.
    """

    def __init__(self, path: Path, values: Mapping[str, object], prefix: str = "") -> None:
        self.path, self.values, self.prefix = path, values, prefix

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def error(self, key: str, found: object, allowed: str) -> MalformedError:
        return MalformedError(self.path, self.prefix + key, found=found, allowed=allowed)

    def integer(self, key: str, *, minimum: int = 1, maximum: int = 2**31 - 1, default: object = _REQUIRED) -> int:
        value = self._get(key, default, f"an integer from {minimum} to {maximum}")
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self.error(key, value, f"an integer from {minimum} to {maximum}")
        return value

    def number(self, key: str, *, above: float = 1e-30, maximum: float = 1e30, default: object = _REQUIRED) -> float:
        value = self._get(key, default, f"a number above {above:g}, at most {maximum:g}")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not above < value <= maximum:  # type: ignore[arg-type,operator]
            raise self.error(key, value, f"a number above {above:g}, at most {maximum:g}")
        return float(value)  # type: ignore[arg-type]

    def string(self, key: str, *, default: object = _REQUIRED) -> str:
        value = self._get(key, default, "text")
        if not isinstance(value, str):
            raise self.error(key, value, "text")
        return value

    def boolean(self, key: str, *, default: object = _REQUIRED) -> bool:
        value = self._get(key, default, "true or false")
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def section(self, key: str) -> Fields | None:
        """A dictionary inside the dictionary, None where it is absent or null."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.error(key, value, "an object")
        return Fields(self.path, value, f"{self.prefix}{key}/")

    def _get(self, key: str, default: object, allowed: str) -> object:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise self.error(key, "nothing", allowed)
        return default
