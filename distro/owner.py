"""Who writes a partial file, and whether that process still lives.

Every writer has a file of its own, and the writer's identity is part of the file's name, so that two processes never
write into one file, also where locks do nothing (NFS, Lustre). A file may be taken over by renaming it only when its
writer is dead beyond doubt: same place, and no process of that id and start time.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

_TEXT = re.compile(r"([0-9a-f]{8})-([0-9]{1,10})-([0-9]{1,20})", re.ASCII)


@dataclass(frozen=True)
class Owner:
    """place: this machine and process namespace, hashed. start: clock ticks since boot, 0 where unknown."""

    place: str
    pid: int
    start: int

    def __str__(self) -> str:
        return f"{self.place}-{self.pid}-{self.start}"

    @staticmethod
    def this_process() -> Owner:
        return Owner(_place(), os.getpid(), _start_of(os.getpid()))

    @staticmethod
    def parse(text: str) -> Owner | None:
        match = _TEXT.fullmatch(text)
        return Owner(match[1], int(match[2]), int(match[3])) if match else None

    def is_here(self) -> bool:
        """Whether its process id means anything to us: same host, same process namespace."""
        return self.place == _place()

    def is_surely_dead(self) -> bool:
        """Whether no such process can exist any more; False where we cannot know."""
        if not self.is_here():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            pass
        start = _start_of(self.pid)
        return 0 not in (start, self.start) and start != self.start


@functools.cache
def _place() -> str:
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        namespace = ""
    return hashlib.sha256(f"{platform.node()}|{namespace}".encode()).hexdigest()[:8]


def _start_of(pid: int) -> int:
    try:
        # After the name in brackets, which may hold anything, the start time is field 22 (man 5 proc_pid_stat).
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
