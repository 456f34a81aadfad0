"""Ctrl-C, SIGTERM, SIGHUP: the first asks a command to stop as it should, the second ends it at once.

The first raises KeyboardInterrupt in the main thread, so that files are closed and partial work is left where the next
run finds it. A command that has not come to its end two seconds later is ended all the same: whatever we write survives
even SIGKILL. Signals that whoever started us wants ignored (`nohup`, a job in the background) stay ignored.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

_PATIENCE_S = 1.5  # and half a second for the interpreter
_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopping:
    """From now on signals stop us as above. tell: called with the exit code, says that we were interrupted."""

    def __init__(self, tell: Callable[[int], object]) -> None:
        self._tell = tell
        self._received: list[int] = []
        for number in _NUMBERS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._stop)

    @property
    def has_begun(self) -> bool:
        """Whether a signal asked us to stop."""
        return bool(self._received)

    @property
    def code(self) -> int:
        """The exit code of a command that was interrupted: 128 and the signal's number, as shells have it."""
        return 128 + (self._received[0] if self._received else signal.SIGINT)

    def leave(self) -> None:
        """Say so and end the process now: threads that are still at work are not waited for."""
        self._tell(self.code)
        with suppress(OSError, ValueError):
            if sys.stdout is not None:
                sys.stdout.flush()
        os._exit(self.code)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)
        if len(self._received) > 1:
            self.leave()
        guard = threading.Timer(_PATIENCE_S, self.leave)
        guard.daemon = True
        guard.start()
        raise KeyboardInterrupt
