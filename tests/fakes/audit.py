"""What the interpreter did meanwhile: the audit events of everything that a hostile file would like to happen."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_WATCHED = (
    "import",
    "open",
    "exec",
    "compile",
    "os.",
    "subprocess.",
    "socket.",
    "pickle.",
    "marshal.",
    "ctypes.",
    "pty.",
)
_recorders: list[list[str]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _recorders and event.startswith(_WATCHED):
        for recorder in _recorders:
            recorder.append(f"{event} {arguments[:1]}")


sys.addaudithook(_hook)


@contextmanager
def audited() -> Iterator[list[str]]:
    """The events that happen inside: imports, opened files, processes, sockets, code that is compiled or run."""
    events: list[str] = []
    _recorders.append(events)
    try:
        yield events
    finally:
        _recorders.remove(events)
