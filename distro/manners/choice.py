"""Which files of a variant are wanted: by patterns such as `*.json`, whose `*` matches slashes too."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Choice:
    """Files that match one of `only` (all where there is none) and none of `but`."""

    only: tuple[str, ...] = ()
    but: tuple[str, ...] = ()

    def __call__(self, path: str) -> bool:
        is_in = not self.only or any(fnmatchcase(path, pattern) for pattern in self.only)
        return is_in and not any(fnmatchcase(path, pattern) for pattern in self.but)

    def __str__(self) -> str:
        """`*.json, *.txt but not config.json`"""
        text = ", ".join(self.only) or "*"
        return f"{text} but not {', '.join(self.but)}" if self.but else text


EVERYTHING = Choice()
