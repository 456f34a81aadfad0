"""One file that is arriving: found again after a kill, put aside when wrong, published when proven.

It grows from its beginning on (`append`), or in pieces at any place (`pieces`, `write_at`); a journal beside it then
knows which are here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from distro import disk
from distro.digest import open_regular
from distro.journal import Journal
from distro.owner import CLAIMS, Owner, is_abandoned
from distro.paths import PARTS
from distro.pieces import Pieces, contiguous, identity_of, journal_of, most_records, received

_COPY_BYTES = 16 * 1024 * 1024


class Partial:
    """One file that is arriving: an open part file that is this object's alone.

    path: the part file. size: its length, which is what was received as long as that came in order.
    """

    def __init__(self, area: Path, key: str, size: int | None = None, *, fresh: bool = False) -> None:
        """size: of the whole file, where it is known. fresh: take nothing over of what earlier runs left."""
        self._area, self._key, self._whole = area, key, size
        self.size = 0
        self._descriptor = -1
        self._journal: Journal | None = None
        with disk.told(area / key), CLAIMS.lock:  # so that no other thread finds the area empty, and removes it
            disk.make_folder(area, private=area)
            disk.keep_private(area)
            self.path = (None if fresh else self._claim()) or self._begin()
            self._open()
            if self.size and hasattr(os, "posix_fadvise"):
                # What an earlier run left is to be read from the disk: after a failed fsync the cache may hold more.
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    @property
    def is_in_order(self) -> bool:
        """Whether all of its length was received, as far as one can see without reading it."""
        return not disk.is_taken(journal_of(self.path)) and contiguous(self._descriptor) == self.size

    def append(self, data: bytes | memoryview) -> None:
        self.write_at(self.size, data)

    def pieces(self) -> Pieces:
        """What is here in pieces, to be filled up with `write_at`; the file's size must be known."""
        if self._whole is None:
            raise ValueError("no pieces without a size")
        if self._journal is None:
            most = most_records(self._whole)
            self._journal = Journal(journal_of(self.path), identity_of(self._key, self._whole), most)
        if self.size > self._whole:
            with disk.told(self.path):
                os.ftruncate(self._descriptor, self._whole)
            self.size = self._whole
        return Pieces(self._whole, self._journal, self._descriptor)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Several threads may, in different places."""
        with disk.told(self.path):
            disk.write_all(self._descriptor, data, offset)
        self.size = max(self.size, offset + len(data))

    def grown(self) -> None:
        """Somebody else may have written beyond the end, too."""
        with disk.told(self.path):
            self.size = os.fstat(self._descriptor).st_size

    def read_into(self, view: memoryview, offset: int) -> int:
        """Bytes that were read; fewer than asked for at the end of the file."""
        with disk.told(self.path):
            return os.preadv(self._descriptor, [view], offset)

    def sync(self) -> None:
        """Bring what was written to the disk."""
        with disk.told(self.path):
            os.fsync(self._descriptor)

    def adopt(self, path: Path) -> None:
        """Take over a complete file of the same file system by renaming it."""
        self._close()
        with disk.told(self.path):
            self._forget_pieces()
            path.replace(self.path)
            self._open()

    def clone(self, path: Path, advance: Callable[[int], None] = lambda n_bytes: None) -> None:
        """Become a copy of a complete local file, sharing its extents where the file system can.

        advance: called with the bytes of each step. Raises OSError where the file cannot be read, StorageError and its
        like where the part file cannot be written.
        """
        self.restart()
        with open_regular(path) as source:
            if disk.share_extents(source.fileno(), self._descriptor):
                self.size = os.fstat(self._descriptor).st_size
                advance(self.size)
                return
            while data := os.pread(source.fileno(), _COPY_BYTES, self.size):
                self.append(data)
                advance(len(data))

    def restart(self) -> None:
        """Throw away what was received."""
        with disk.told(self.path):
            self._forget_pieces()
            os.ftruncate(self._descriptor, 0)
        self.size = 0

    def quarantine(self) -> Path:
        """Put wrong bytes aside, for a look, and start again empty. Gives the name they have now."""
        wrong = self._area / f"{self._key}.wrong"
        self._close()
        with disk.told(self.path):
            self._forget_pieces()
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
            self._forget_pieces()
        self.close()

    def discard(self) -> None:
        """Delete it, as what it was for has come in another way."""
        with disk.told(self.path):
            self.path.unlink(missing_ok=True)
            self._forget_pieces()
        self.close()

    def close(self) -> None:
        """Leave the part file where it is, for the next run; an empty one goes."""
        empty = self._descriptor >= 0 and self.size == 0
        self._close()
        if empty:
            self._forget_pieces()
            self.path.unlink(missing_ok=True)
        CLAIMS.let_go(self.path)
        with CLAIMS.lock, suppress(OSError):  # only if nothing else is arriving
            if self._area.name == PARTS:
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
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _forget_pieces(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        journal_of(self.path).unlink(missing_ok=True)

    def _begin(self) -> Path:
        path = self._own_name()
        CLAIMS.hold(path)
        return path

    def _own_name(self) -> Path:
        return self._area / f"{self._key}.{CLAIMS.new_suffix()}.part"

    def _claim(self) -> Path | None:
        """The part file with most in it that somebody left, under a name of our own; None if there is none."""
        identity = identity_of(self._key, self._whole)
        found = {
            path: received(path, identity, self._whole) for path in disk.named(self._area, f"{self._key}.", ".part")
        }
        for path in sorted(found, key=lambda path: found[path], reverse=True):
            owner = Owner.of(path)
            if owner is None or disk.length(path) <= 0:
                continue
            mine = self._own_name()
            with CLAIMS.lock, suppress(FileNotFoundError):  # another process may be quicker
                if CLAIMS.is_free(path) and disk.has_other_names(path):
                    disk.copy_data(path, mine)
                    path.unlink()
                    with suppress(FileNotFoundError):
                        journal_of(path).replace(journal_of(mine))
                elif CLAIMS.is_free(path):
                    path.replace(mine)
                    # Killed here, it loses its journal, and what comes after the first hole is fetched again.
                    with suppress(FileNotFoundError):
                        journal_of(path).replace(journal_of(mine))
                elif not owner.is_here():
                    _copy_of_other_machine(path, mine)
                else:
                    continue
                CLAIMS.hold(mine)
                return mine
        return None


def _copy_of_other_machine(found: Path, mine: Path) -> None:
    """We cannot know whether its writer lives: take the bytes, not the file; delete it once nobody can want it.

    The journal first: what is written after that, it does not know.
    """
    with suppress(FileNotFoundError):
        shutil.copyfile(journal_of(found), journal_of(mine), follow_symlinks=False)
    disk.copy_data(found, mine)
    if is_abandoned(found):
        found.unlink(missing_ok=True)
        journal_of(found).unlink(missing_ok=True)
