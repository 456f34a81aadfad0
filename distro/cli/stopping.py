"""Ctrl-C, SIGTERM, SIGHUP: the first asks a command to stop as it should, the second ends it at once.

The first raises KeyboardInterrupt in the main thread, so that files are closed and partial work is left where the next
run finds it. A command that has not come to its end two seconds later is ended all the same: whatever we write survives
even SIGKILL. Signals that whoever started us wants ignored (`nohup`, a job in the background) stay ignored.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from distro.cli import console

_PATIENCE_S = 1.5  # and half a second for the interpreter
_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_received: list[int] = []


def prepare() -> None:
    """From now on signals stop us as above."""
    for number in _NUMBERS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)


def code() -> int:
    """The exit code of a command that was interrupted: 128 and the signal's number, as shells have it."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def _stop(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) > 1:
        _end()
    guard = threading.Timer(_PATIENCE_S, _end)
    guard.daemon = True
    guard.start()
    raise KeyboardInterrupt


def _end() -> None:
    console.say("error: interrupted; run the same command again to go on")
    os._exit(code())
