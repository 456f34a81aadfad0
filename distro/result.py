"""Something that is made here, a folder or a single file: it appears at its target whole or not at all.

What says what it is (`identity`) is kept when its maker is killed or interrupted, and the next maker of the same takes
it over with the journal of what is done (distro/journal.py). Everything else that was left is deleted.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from converters.errors import shown
from distro import disk
from distro.disk import discard
from distro.errors import CannotCreateError, DiskFullError, SourceError, StorageError
from distro.journal import Journal
from distro.owner import CLAIMS, Owner
from distro.paths import safe_relpath

if TYPE_CHECKING:
    from converters.input_file import InputFile  # with numpy, which `distro ls` does without

_JOURNAL, _OLD = ".journal", ".old"
_COPY_BYTES = 4 << 20
_PASSING = (DiskFullError, StorageError, SourceError)


def _journal_of(path: Path) -> Path:
    return path.with_name(path.name + _JOURNAL)


def _left(area: Path, prefix: str) -> list[Path]:
    """What runs for the same target left here; the user, and other targets, may have names that begin alike."""
    found = sorted(area.glob(f"{glob.escape(prefix)}.*"))
    return [path for path in found if Owner.of(Path(path.name[len(prefix) + 1 :].partition(".")[0]))]


def _clear(left: Path) -> None:
    """Delete it with its journal, unless somebody is writing it or it is another user's."""
    with suppress(CannotCreateError, StorageError):
        if discard(left) or not disk.is_taken(left):
            _journal_of(left).unlink(missing_ok=True)


class Result:
    """A folder, or a single file, that is being made. Published by hand; on an error discarded, or kept for later.

    path: where it is until then, to be looked at. In single-file mode `create` is called once and its path is not
    used: the file will have the target's name. journal: what is done, for a result with an identity.
    """

    def __init__(
        self, area: Path, prefix: str, target: Path, *, single_file: bool, replace: bool, identity: str | None = None
    ) -> None:
        self.target, self._single_file, self._replace = target, single_file, replace
        self.journal: Journal | None = None
        self._outputs: list[Output] = []
        with disk.told(target):
            self._put_back(area, prefix)
            self._clear_journals(area, prefix)
        self._refuse_existing()
        with disk.told(target):
            disk.make_folder(target.parent)
            disk.make_folder(area)
            if disk.device_of(area) != disk.device_of(target.parent):  # a rename does not cross file systems
                area, prefix = target.parent, f".{target.name}"
            self.path = area / f"{prefix}.{CLAIMS.new_suffix()}"
            self._take_over(area, prefix, identity)
            try:
                if not single_file:
                    self.path.mkdir(mode=0o700, exist_ok=True)
                if identity is not None:
                    self.journal = Journal(_journal_of(self.path), identity)
            except BaseException:
                self.keep()
                raise

    def _take_over(self, area: Path, prefix: str, identity: str | None) -> None:
        """Have what an earlier run left of the same, under a name of our own; discard what it left of other things."""
        with CLAIMS.lock:
            CLAIMS.hold(self.path)
            for left in _left(area, prefix):
                if left.suffix in (_OLD, _JOURNAL) or left == self.path:
                    continue
                same = identity is not None and Journal.is_of(_journal_of(left), identity)
                if same and CLAIMS.is_free(left) and not disk.is_taken(self.path) and self._is_of_our_kind(left):
                    with suppress(FileNotFoundError, PermissionError):  # another process was quicker; another user's
                        left.replace(self.path)
                        _journal_of(left).replace(_journal_of(self.path))
                else:
                    _clear(left)

    def _clear_journals(self, area: Path, prefix: str) -> None:
        """Delete those of makers that were killed in their last moment, when what they made had its name already."""
        with CLAIMS.lock:
            for journal in _left(area, prefix):
                made = journal.with_suffix("")
                if journal.suffix == _JOURNAL and CLAIMS.is_free(made) and not disk.is_taken(made):
                    _clear(journal)

    def _put_back(self, area: Path, prefix: str) -> None:
        """Undo or end what a replacement left that was killed between its two renames, or after them."""
        with CLAIMS.lock:
            for old in _left(area, prefix):
                if old.suffix == _OLD and CLAIMS.is_free(old):
                    if disk.is_taken(self.target):
                        disk.sync_folder(self.target.parent)
                        _clear(old)
                    else:
                        old.replace(self.target)

    def _is_of_our_kind(self, left: Path) -> bool:
        return disk.is_file(left) if self._single_file else left.is_dir() and not left.is_symlink()

    def create(self, path: str, size: int, *, shared: int = 0) -> Output:
        """A file of fixed size, sparse until written, or as an earlier run left it.

        shared: bytes of it that need no room of their own if the file system can share them (`Output.share`).
        Raises DiskFullError, CannotCreateError.
        """
        if self._single_file and self._outputs:
            raise ValueError("a single-file result has one file")
        name = self.path if self._single_file else self.path / safe_relpath(path)
        promised = sum(output.missing for output in self._outputs)
        disk.check_space(promised + size - shared - min(size, disk.allocated(name)), self.path.parent)
        target = self.target if self._single_file else self.target / path
        with disk.told(target):
            if not self._single_file:
                os.close(disk.open_folder(name.parent, self.path))
            output = Output(name, size, target)
        self._outputs.append(output)
        return output

    def publish(self) -> None:
        """Put it at its target: fsync of everything, rename, fsync of the folder."""
        self._refuse_existing()
        with disk.told(self.target):
            for output in self._outputs:
                output.finish()
            if not self._single_file:
                self.path.chmod(disk.folder_mode())
                for folder in (*(path for path in self.path.rglob("*") if path.is_dir()), self.path):
                    disk.sync_folder(folder)
            self._swap_in()
            disk.sync_folder(self.target.parent)

    def keep(self) -> None:
        """Leave what was made, and its journal, for a later run; harmless after `publish`."""
        self._close()
        if not disk.is_taken(self.path):
            with suppress(OSError):
                _journal_of(self.path).unlink(missing_ok=True)

    def discard(self) -> None:
        """Forget what was made; harmless after `publish`. What cannot be deleted is left to the next run, or `gc`."""
        self._close()
        with suppress(OSError):
            _journal_of(self.path).unlink(missing_ok=True)
        with suppress(OSError):
            if self._single_file:
                self.path.unlink(missing_ok=True)
            else:
                shutil.rmtree(self.path)

    def _close(self) -> None:
        for output in self._outputs:
            output.close()
        if self.journal is not None:
            self.journal.close()
        CLAIMS.let_go(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What stopped us may pass: the user came in between, the disk was full. Anything else would come again.
        may_pass = isinstance(error, (KeyboardInterrupt, SystemExit, OSError, *_PASSING))
        if may_pass and self.journal is not None and not self.journal.is_empty:
            self.keep()
        else:
            self.discard()

    def _refuse_existing(self) -> None:
        title = shown(str(self.target))
        if self.target.name in ("", ".."):
            raise CannotCreateError(f"{title}: has no name of its own that the result could take")
        if not os.path.lexists(self.target) or self._is_empty_folder():
            return
        if not self._replace:
            raise CannotCreateError(f"{title}: is there already")
        is_folder = self.target.is_dir() and not self.target.is_symlink()
        if not (disk.is_file(self.target) if self._single_file else is_folder):
            raise CannotCreateError(f"{title}: is of another kind than what would replace it")
        # What is replaced is deleted, and so only what a model may be: files, and no folders or links to more.
        for entry in self.target.iterdir() if is_folder else ():
            if not disk.is_file(entry):
                raise CannotCreateError(
                    f"{title}: has more in it than a model, {shown(entry.name)}, and is not replaced"
                )

    def _is_empty_folder(self) -> bool:
        return (
            not self._single_file
            and self.target.is_dir()
            and not self.target.is_symlink()
            and not any(self.target.iterdir())
        )

    def _swap_in(self) -> None:
        if self._single_file or not self.target.exists() or self._is_empty_folder():
            self.path.replace(self.target)
            return
        old = self.path.with_name(self.path.name + _OLD)
        self.target.replace(old)
        try:
            self.path.replace(self.target)
        except OSError:
            old.replace(self.target)
            raise
        disk.sync_folder(self.target.parent)  # before anything of the old one goes
        shutil.rmtree(old, ignore_errors=True)


class Output:
    """A file of a result: any thread may write any part of it, once or again.

    missing: bytes that have no room on the disk yet.
    """

    def __init__(self, path: Path, size: int, target: Path | None = None) -> None:
        """target: where it will be, if that is another name; the one that the user knows."""
        self.path, self.size, self._target = path, size, target or path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if os.fstat(self._descriptor).st_size == size:
            if hasattr(os, "posix_fadvise"):  # after a failed fsync the system's memory may hold more than the disk
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            os.ftruncate(self._descriptor, 0)  # nothing of another size can be of the same
            os.ftruncate(self._descriptor, size)

    @property
    def missing(self) -> int:
        if self._descriptor < 0:
            return 0
        return max(0, self.size - os.fstat(self._descriptor).st_blocks * 512)

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put bytes (anything that is a contiguous buffer) at an offset. Raises DiskFullError, StorageError."""
        view = memoryview(data).cast("B")
        if offset < 0 or offset + len(view) > self.size:
            raise ValueError(f"{self.path}: {len(view)} bytes at {offset} in a file of {self.size}")
        with disk.told(self._target):
            disk.write_all(self._descriptor, view, offset)

    def copy(
        self,
        source: InputFile,
        source_offset: int,
        offset: int,
        n_bytes: int,
        advance: Callable[[int], None] = lambda n_bytes: None,
    ) -> None:
        """Put bytes of another file at an offset; advance is told how many, as they are written."""
        for done in range(0, n_bytes, _COPY_BYTES):
            count = min(_COPY_BYTES, n_bytes - done)
            self.write_at(offset + done, source.read(source_offset + done, count, "file"))
            advance(count)

    def share(self, source: InputFile, source_offset: int, offset: int) -> bool:
        """Have at an offset what another file has from one to its end, on the same extents of the disk.

        Gives whether the file system can; both offsets are multiples of its blocks.
        """
        return disk.share_range(source.fileno(), source_offset, self._descriptor, offset)

    def take_over(self, source: BinaryIO) -> bool:
        """Be what another file of the same length is, on its extents; gives whether the file system can."""
        if os.fstat(source.fileno()).st_size != self.size:
            return False
        return disk.share_extents(source.fileno(), self._descriptor)

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        """Bytes from an offset, as they are now. Raises StorageError."""
        with disk.told(self._target):
            data = b""
            while len(data) < n_bytes:
                more = os.pread(self._descriptor, n_bytes - len(data), offset + len(data))
                if not more:
                    raise OSError(errno.EIO, "became shorter")
                data += more
            return data

    def finish(self) -> None:
        os.fchmod(self._descriptor, disk.file_mode())
        os.fsync(self._descriptor)
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
