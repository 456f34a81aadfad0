"""The only writer of model files. Nothing gets its final name before it is proven and on the disk.

    models/<model>/<variant>/<files…>     final names
    models/<model>/<variant>/receipt.json what they are, where they came from
    partial/<digest>.<owner>-<n>.part     one file that is arriving
    partial/<digest>.wrong                what a source sent instead; kept for a look until `gc`
    partial/made-<digest>.<owner>-<n>     a folder or file that is being made
    partial/work/<name>/                  what a source needs while a variant arrives: a wheel, a swarm's state
    partial/locks/<name>.lock             held while a variant is fetched; saves bandwidth, proves nothing

The order is always: partial, verify, fsync, rename, fsync of the folder. A part file is named after the digest that it
is to have, so another version of a manifest never finds it by mistake, and after its writer (distro/owner.py).
"""

from __future__ import annotations

import errno
import fcntl
import functools
import glob
import hashlib
import itertools
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from converters.errors import shown
from distro.errors import CannotCreateError, DiskFullError, MalformedManifestError, StorageError
from distro.manifest import File
from distro.owner import Owner
from distro.receipt import Receipt

_FICLONE = 0x40049409  # linux/fs.h: share the extents of another file
_COPY_BYTES = 16 * 1024 * 1024
_ABANDONED_S = 3600  # untouched for so long, a part file of another machine is given up

_serial = itertools.count()
_held: set[Path] = set()  # part files that this process has open
_held_lock = threading.Lock()


class Store:
    """Models at rest and arriving, under one home. Makes folders only when something is written."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._models, self._partial = home / "models", home / "partial"

    def folder(self, model: str, variant: str) -> Path:
        """Where a variant lives. A hub's `owner/name` is one folder, `owner--name`."""
        return self._models / _component(model) / _component(variant)

    def receipt(self, model: str, variant: str) -> Receipt | None:
        """What is known to be here, or None. Raises MalformedManifestError for a receipt that breaks its rules."""
        return Receipt.read(self.folder(model, variant) / "receipt.json")

    def write_receipt(self, receipt: Receipt) -> None:
        folder = self.folder(receipt.model, receipt.variant)
        with _told(folder):
            _make_folder(folder)
            _write_whole(folder / "receipt.json", receipt.to_bytes())

    def variants(self) -> Iterator[tuple[str, str]]:
        """(model, variant) of all that is here with a receipt, by name; a receipt that is not sound is passed over."""
        for path in sorted(self._models.glob("*/*/receipt.json")):
            with suppress(MalformedManifestError):
                receipt = Receipt.read(path)
                if receipt and self.folder(receipt.model, receipt.variant) == path.parent:
                    yield receipt.model, receipt.variant

    def partial(self, model: str, variant: str, file: File, *, beside: Path | None = None) -> Partial:
        """The part file of a file, with what an earlier run left; beside: a target folder outside the home."""
        area = self._partial if beside is None else beside / ".distro-partial"
        return Partial(area, _key(model, variant, file))

    def result(self, target: Path, *, single_file: bool = False, replace: bool = False) -> Result:
        """Something made here, which appears at `target` whole or not at all.

        Raises CannotCreateError if something is there already and is not to be replaced.
        """
        inside = target.is_relative_to(self.home)
        # Beside the target, because a rename does not cross file systems.
        prefix = f"made-{_digest(str(target))}" if inside else f".{target.name}"
        return Result(self._partial if inside else target.parent, prefix, target, single_file, replace)

    def work(self, model: str, variant: str, purpose: str) -> Path:
        """A private folder for a source while a variant arrives; found again after a kill, gone with `discard_work`."""
        folder = self._partial / "work" / f"{_component(model)}.{_component(variant)}.{purpose}"
        with _told(folder):
            _make_folder(folder, private=self._partial)
        return folder

    def discard_work(self, model: str, variant: str) -> None:
        for folder in (self._partial / "work").glob(f"{_component(model)}.{_component(variant)}.*"):
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def lock(self, model: str, variant: str, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Held by one process at a time where locks work; `waiting` is called once if another holds it.

        Where locks do not work, or cannot be made, this is no lock at all, and nothing else depends on it.
        """
        import filelock

        path = self._partial / "locks" / f"{_component(model)}.{_component(variant)}.lock"
        lock = filelock.FileLock(path, mode=0o600)
        with _told(path):
            _make_folder(path.parent, private=self._partial)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            waiting()
            lock.acquire()
        except (OSError, NotImplementedError):  # read-only, or a file system without locks
            pass
        try:
            yield
        finally:
            lock.release()

    def check_space(self, n_bytes: int, folder: Path | None = None) -> None:
        """Raise DiskFullError if so many bytes more do not fit."""
        check_space(n_bytes, folder or self.home)

    def remove(self, model: str, variant: str, files: tuple[File, ...] = ()) -> int:
        """Delete a variant and what of it was arriving. Gives the bytes freed."""
        folder = self.folder(model, variant)
        freed = _size_of(folder)
        with _told(folder):
            if folder.is_symlink():
                raise CannotCreateError(f"{shown(str(folder))}: is a link to elsewhere; remove it by hand")
            if folder.exists():
                # Under another name first, so that a kill half-way leaves nothing that looks whole.
                gone = self._partial / f"removed-{next(_serial)}.{Owner.this_process()}"
                _make_folder(self._partial, private=self._partial)
                folder.replace(gone)
                shutil.rmtree(gone)
                with suppress(OSError):  # the last variant of its model
                    folder.parent.rmdir()
        for file in files:
            for path in self._partial.glob(f"{_key(model, variant, file)}.*"):
                freed += _discard(path)
        self.discard_work(model, variant)
        return freed

    def collect(self) -> int:
        """Delete everything partial that no living process writes. Gives the bytes freed."""
        freed = 0
        for path in sorted(self._partial.glob("*")):
            if path.name == "work":
                freed += sum(self._collect_work(folder) for folder in path.iterdir())
            elif path.name != "locks":
                freed += _discard(path)
        return freed

    def _collect_work(self, folder: Path) -> int:
        import filelock

        lock = filelock.FileLock(self._partial / "locks" / f"{folder.name.rpartition('.')[0]}.lock", mode=0o600)
        try:
            with lock.acquire(blocking=False):
                return _discard(folder)
        except (filelock.Timeout, OSError, NotImplementedError):
            return 0  # somebody is at it, or we cannot know


class Partial:
    """One file that is arriving: an open part file that is this object's alone.

    path: the part file. size: bytes received so far, in order.
    """

    def __init__(self, area: Path, key: str) -> None:
        self._area, self._key = area, key
        self._descriptor = -1
        with _told(area / key):
            _make_folder(area, private=area)
            self.path = self._claim() or self._begin()
            self._open()

    def append(self, data: bytes) -> None:
        with _told(self.path):
            _write_all(self._descriptor, data, self.size)
        self.size += len(data)

    def adopt(self, path: Path) -> None:
        """Take over a complete file of the same file system by renaming it."""
        self._close()
        with _told(self.path):
            path.replace(self.path)
            self._open()

    def clone(self, path: Path, advance: Callable[[int], None] = lambda n_bytes: None) -> None:
        """Become a copy of a complete local file, sharing its extents where the file system can.

        advance: called with the bytes of each step. Raises StorageError where the file cannot be read.
        """
        self.restart()
        with _told(path):
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                if not stat.S_ISREG(os.fstat(source).st_mode):
                    raise StorageError(f"{shown(str(path))}: no regular file")
                if _share_extents(source, self._descriptor):
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
        with _told(self.path):
            os.ftruncate(self._descriptor, 0)
        self.size = 0

    def quarantine(self) -> Path:
        """Put wrong bytes aside, for a look, and start again empty. Gives the name they have now."""
        wrong = self._area / f"{self._key}.wrong"
        self._close()
        with _told(self.path):
            self.path.replace(wrong)
            self._open()
        return wrong

    def publish(self, final: Path, *, within: Path | None = None) -> None:
        """Give the file its final name; only called after the digest was right.

        within: below this folder no symbolic link is followed on the way to `final` (default: its parent).
        Raises CannotCreateError where the name is taken by anything but a file or a link.
        """
        with _told(final):
            os.fchmod(self._descriptor, _file_mode())
            os.fsync(self._descriptor)
            folder = _open_folder(final.parent, within or final.parent)
            try:
                _refuse_special(final.name, folder, final)
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
        with _held_lock:
            _held.discard(self.path)
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
        with _held_lock:
            _held.add(path)
        return path

    def _own_name(self) -> Path:
        return self._area / f"{self._key}.{Owner.this_process()}-{next(_serial)}.part"

    def _claim(self) -> Path | None:
        """The longest part file that somebody left, under a name of our own; None if there is none."""
        for found in sorted(self._area.glob(f"{self._key}.*.part"), key=_length, reverse=True):
            owner = _owner_of(found)
            if owner is None or _length(found) <= 0:
                continue
            mine = self._own_name()
            with _held_lock, suppress(FileNotFoundError):  # another process may be quicker
                if _is_free(found, owner):
                    found.replace(mine)
                elif not owner.is_here():
                    _copy_of_other_machine(found, mine)
                else:
                    continue
                _held.add(mine)
                return mine
        return None


class Result:
    """A folder, or a single file, that is being made. Discarded on an error, published by hand.

    In single-file mode `create` is called once and its path is not used: the file will have the target's name.
    """

    def __init__(self, area: Path, prefix: str, target: Path, single_file: bool, replace: bool) -> None:
        self.target, self._single_file, self._replace = target, single_file, replace
        self._work = area / f"{prefix}.{Owner.this_process()}-{next(_serial)}"
        self._outputs: list[Output] = []
        self._refuse_existing()
        with _told(target):
            _make_folder(target.parent)
            _make_folder(area)
            for left in area.glob(f"{glob.escape(prefix)}.*"):  # of a run that was killed
                if left.suffix != ".old":
                    _discard(left)
            with _held_lock:
                _held.add(self._work)
            if not single_file:
                self._work.mkdir(mode=0o700)

    def create(self, path: str, size: int) -> Output:
        """A file of fixed size, sparse until written. Raises DiskFullError, CannotCreateError."""
        if self._single_file and self._outputs:
            raise ValueError("a single-file result has one file")
        promised = sum(output.missing for output in self._outputs)
        check_space(promised + size, self._work.parent)
        name = self._work if self._single_file else self._work / _judged(path)
        with _told(name):
            if not self._single_file:
                os.close(_open_folder(name.parent, self._work))
            output = Output(name, size)
        self._outputs.append(output)
        return output

    def publish(self) -> None:
        """Put it at its target: fsync of everything, rename, fsync of the folder."""
        self._refuse_existing()
        with _told(self.target):
            for output in self._outputs:
                output.finish()
            if not self._single_file:
                self._work.chmod(_folder_mode())
                for folder in (*(path for path in self._work.rglob("*") if path.is_dir()), self._work):
                    _sync_folder(folder)
            self._swap_in()
            _sync_folder(self.target.parent)

    def discard(self) -> None:
        """Forget what was made; harmless after `publish`."""
        for output in self._outputs:
            output.close()
        if self._single_file:
            self._work.unlink(missing_ok=True)
        else:
            shutil.rmtree(self._work, ignore_errors=True)
        with _held_lock:
            _held.discard(self._work)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _refuse_existing(self) -> None:
        if not os.path.lexists(self.target) or self._is_empty_folder():
            return
        if not self._replace:
            raise CannotCreateError(f"{shown(str(self.target))}: is there already")
        if self.target.is_symlink() or self.target.is_dir() == self._single_file:
            raise CannotCreateError(f"{shown(str(self.target))}: is of another kind than what would replace it")

    def _is_empty_folder(self) -> bool:
        return (
            not self._single_file
            and self.target.is_dir()
            and not self.target.is_symlink()
            and not any(self.target.iterdir())
        )

    def _swap_in(self) -> None:
        if self._single_file or not self.target.exists() or self._is_empty_folder():
            self._work.replace(self.target)
            return
        old = self._work.with_name(self._work.name + ".old")
        self.target.replace(old)
        try:
            self._work.replace(self.target)
        except OSError:
            old.replace(self.target)
            raise
        shutil.rmtree(old, ignore_errors=True)


class Output:
    """A file of a result: any thread may write any part of it, once or again.

    missing: bytes that have no room on the disk yet.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
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
        with _told(self.path):
            _write_all(self._descriptor, view, offset)

    def finish(self) -> None:
        os.fchmod(self._descriptor, _file_mode())
        os.fsync(self._descriptor)
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def check_space(n_bytes: int, folder: Path) -> None:
    """Raise DiskFullError if so many bytes more do not fit where the folder is, or will be."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    with _told(folder):
        free = shutil.disk_usage(there).free
    if n_bytes > free:
        raise DiskFullError(f"{shown(str(folder))}: {n_bytes} bytes needed, {free} free, {n_bytes - free} missing")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the system as ours, with the path that the user knows."""
    try:
        yield
    except OSError as error:
        why = f"{shown(str(path))}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(why) from error
        refused = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY,
                   errno.ELOOP, errno.ENAMETOOLONG, errno.EFBIG)  # fmt: skip
        if error.errno in refused:
            raise CannotCreateError(why) from error
        raise StorageError(why) from error


def _write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{Owner.this_process()}-{next(_serial)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write_all(descriptor, data, 0)
        os.fchmod(descriptor, _file_mode())
        os.fsync(descriptor)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    _sync_folder(path.parent)


def _share_extents(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:  # another file system, or one that cannot
        return False
    return True


def _make_folder(folder: Path, *, private: Path | None = None) -> None:
    """Make a folder and its parents, each on the disk before it is used; from `private` on, for us alone."""
    if folder.is_dir():
        return
    _make_folder(folder.parent, private=private)
    with suppress(FileExistsError):
        folder.mkdir()
    folder.chmod(0o700 if private and folder.is_relative_to(private) else _folder_mode())
    _sync_folder(folder.parent)


def _open_folder(folder: Path, within: Path) -> int:
    """A descriptor of a folder, made where it is missing; below `within` nothing is followed."""
    _make_folder(within)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(within, flags)
    for name in folder.relative_to(within).parts:
        try:
            with suppress(FileExistsError):
                os.mkdir(name, _folder_mode(), dir_fd=descriptor)
                os.fsync(descriptor)
            inner = os.open(name, flags | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor


def _refuse_special(name: str, folder: int, path: Path) -> None:
    """A name that is a folder, a pipe or a device is not ours to replace."""
    with suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise CannotCreateError(f"{shown(str(path))}: is there already and is no file")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@functools.cache
def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _file_mode() -> int:
    return 0o600 | (0o666 & ~_umask())


def _folder_mode() -> int:
    return 0o700 | (0o777 & ~_umask())


def _key(model: str, variant: str, file: File) -> str:
    """What a part file is named after: the strongest digest known, else the place where it belongs."""
    for kind in ("sha256", "pieces_root", "lfs_pointer_sha1", "git_sha1", "md5"):
        if digest := getattr(file, kind):
            return f"{kind}-{digest}"
    return f"name-{_digest('/'.join((model, variant, file.path)))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _component(name: str) -> str:
    """One folder name for a model or variant; the names themselves are judged where they come from."""
    flat = name.replace("/", "--")
    if not flat or flat.startswith(".") or "\0" in flat or len(flat.encode()) > 200:
        raise MalformedManifestError("store", "name", found=name, allowed="1 to 200 bytes without a leading dot")
    return flat


def _judged(path: str) -> str:
    from distro.paths import safe_relpath

    return safe_relpath(path)


def _owner_of(path: Path) -> Owner | None:
    """Whose part file, result or removed folder this is, from its name; None for any other name."""
    for part in path.name.split("."):
        if owner := Owner.parse(part) or Owner.parse(part.rpartition("-")[0]):
            return owner
    return None


def _is_free(path: Path, owner: Owner) -> bool:
    """Whether nobody can be writing it: its writer is dead, or is us and has let go. Called with the lock held."""
    return owner.is_surely_dead() or (owner == Owner.this_process() and path not in _held)


def _copy_of_other_machine(found: Path, mine: Path) -> None:
    """We cannot know whether its writer lives: take the bytes, not the file; delete it once nobody can want it."""
    shutil.copyfile(found, mine, follow_symlinks=False)
    if _is_abandoned(found):
        found.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime > _ABANDONED_S


def _length(path: Path) -> int:
    """Bytes of a part file; -1 for what is none."""
    try:
        status = path.lstat()
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def _size_of(path: Path) -> int:
    """Bytes in a file or in all files below a folder; links count nothing."""
    if path.is_symlink() or not path.exists():
        return 0
    return sum(max(0, _length(each)) for each in (path.rglob("*") if path.is_dir() else (path,)))


def _discard(path: Path) -> int:
    """Delete something partial unless a living process writes it. Gives the bytes freed."""
    owner = _owner_of(path)
    with _held_lock:
        if owner and not _is_free(path, owner) and (owner.is_here() or not _is_abandoned(path)):
            return 0
        freed = _size_of(path)
        with _told(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return freed
