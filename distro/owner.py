"""Who writes something partial, and whether that process still lives.

Every writer has a file of its own, and the writer's identity is part of the file's name, so that two processes never
write into one file, also where locks do nothing (NFS, Lustre). A file may be taken over by renaming it only when its
writer is dead beyond doubt: same place, and no process of that id and start time. Names end in `.<owner>-<n>…`.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import platform
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_TEXT = re.compile(r"([0-9a-f]{8})-([0-9]{1,10})-([0-9]{1,20})-[0-9]+", re.ASCII)
_ABANDONED_S = 3600  # untouched for so long, what another machine left is given up


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
        return _owner(os.getpid())

    @staticmethod
    def of(path: Path) -> Owner | None:
        """Whose it is, from its name; None for a name that says nothing."""
        for part in path.name.split("."):
            if match := _TEXT.fullmatch(part):
                return Owner(match[1], int(match[2]), int(match[3]))
        return None

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


class Claims:
    """What this process is writing, by path; its lock makes looking and taking over one step among our threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._held: set[Path] = set()
        self._serial = itertools.count()

    def new_suffix(self) -> str:
        """The end of a name that no other writer has, in any process."""
        return f"{Owner.this_process()}-{next(self._serial)}"

    def hold(self, path: Path) -> None:
        with self.lock:
            self._held.add(path)

    def let_go(self, path: Path) -> None:
        with self.lock:
            self._held.discard(path)

    def is_free(self, path: Path) -> bool:
        """Whether nobody can be writing it: its writer is dead, or is us and has let go."""
        owner = Owner.of(path)
        if owner is None:
            return True
        return owner.is_surely_dead() or (owner == Owner.this_process() and path not in self._held)


CLAIMS = Claims()


def is_abandoned(path: Path) -> bool:
    """Whether what another machine wrote has not been touched for an hour."""
    return time.time() - path.lstat().st_mtime > _ABANDONED_S


@functools.lru_cache(maxsize=1)
def _owner(pid: int) -> Owner:
    """Of this process: a fork has another id."""
    return Owner(_place(), pid, _start_of(pid))


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
