"""One file that is arriving: found again after a kill, put aside when wrong, published when proven."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from converters.errors import shown
from distro import disk
from distro.errors import StorageError
from distro.owner import CLAIMS, Owner, is_abandoned

_COPY_BYTES = 16 * 1024 * 1024


class Partial:
    """One file that is arriving: an open part file that is this object's alone.

    path: the part file. size: bytes received so far, in order.
    """

    def __init__(self, area: Path, key: str) -> None:
        self._area, self._key = area, key
        self._descriptor = -1
        with disk.told(area / key):
            disk.make_folder(area, private=area)
            self.path = self._claim() or self._begin()
            self._open()
            if self.size and hasattr(os, "posix_fadvise"):
                # What an earlier run left is to be read from the disk: after a failed fsync the cache may hold more.
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def append(self, data: bytes) -> None:
        with disk.told(self.path):
            disk.write_all(self._descriptor, data, self.size)
        self.size += len(data)

    def adopt(self, path: Path) -> None:
        """Take over a complete file of the same file system by renaming it."""
        self._close()
        with disk.told(self.path):
            path.replace(self.path)
            self._open()

    def clone(self, path: Path, advance: Callable[[int], None] = lambda n_bytes: None) -> None:
        """Become a copy of a complete local file, sharing its extents where the file system can.

        advance: called with the bytes of each step. Raises StorageError where the file cannot be read.
        """
        self.restart()
        with disk.told(path):
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                if not stat.S_ISREG(os.fstat(source).st_mode):
                    raise StorageError(f"{shown(str(path))}: no regular file")
                if disk.share_extents(source, self._descriptor):
                    self.size = os.fstat(self._descriptor).st_size
                    advance(self.size)
                    return
                while data := os.pread(source, _COPY_BYTES, self.size):
                    self.append(data)
                    advance(len(data))
            finally:
                os.close(source)

    def restart(self) -> None:
        """Throw away what was received."""
        with disk.told(self.path):
            os.ftruncate(self._descriptor, 0)
        self.size = 0

    def quarantine(self) -> Path:
        """Put wrong bytes aside, for a look, and start again empty. Gives the name they have now."""
        wrong = self._area / f"{self._key}.wrong"
        self._close()
        with disk.told(self.path):
            self.path.replace(wrong)
            self._open()
        return wrong

    def publish(self, final: Path, *, within: Path | None = None) -> None:
        """Give the file its final name; only called after the digest was right.

        within: below this folder no symbolic link is followed on the way to `final` (default: its parent).
        Raises CannotCreateError where the name is taken by anything but a file or a link.
        """
        with disk.told(final):
            os.fchmod(self._descriptor, disk.file_mode())
            os.fsync(self._descriptor)
            folder = disk.open_folder(final.parent, within or final.parent)
            try:
                disk.refuse_special(final.name, folder, final)
                os.replace(self.path, final.name, dst_dir_fd=folder)
                os.fsync(folder)
            finally:
                os.close(folder)
        self.close()

    def close(self) -> None:
        """Leave the part file where it is, for the next run; an empty one goes."""
        empty = self._descriptor >= 0 and self.size == 0
        self._close()
        if empty:
            self.path.unlink(missing_ok=True)
        CLAIMS.let_go(self.path)
        with suppress(OSError):  # only if nothing else is arriving
            if self._area.name == ".distro-partial":
                self._area.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(self._descriptor, 0o600)
        self.size = os.fstat(self._descriptor).st_size

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _begin(self) -> Path:
        path = self._own_name()
        CLAIMS.hold(path)
        return path

    def _own_name(self) -> Path:
        return self._area / f"{self._key}.{CLAIMS.new_suffix()}.part"

    def _claim(self) -> Path | None:
        """The longest part file that somebody left, under a name of our own; None if there is none."""
        for found in sorted(self._area.glob(f"{self._key}.*.part"), key=disk.length, reverse=True):
            owner = Owner.of(found)
            if owner is None or disk.length(found) <= 0:
                continue
            mine = self._own_name()
            with CLAIMS.lock, suppress(FileNotFoundError):  # another process may be quicker
                if CLAIMS.is_free(found):
                    found.replace(mine)
                elif not owner.is_here():
                    _copy_of_other_machine(found, mine)
                else:
                    continue
                CLAIMS.hold(mine)
                return mine
        return None


def _copy_of_other_machine(found: Path, mine: Path) -> None:
    """We cannot know whether its writer lives: take the bytes, not the file; delete it once nobody can want it."""
    shutil.copyfile(found, mine, follow_symlinks=False)
    if is_abandoned(found):
        found.unlink(missing_ok=True)
