"""The disk's side of the store: steps that are safe to repeat, in an order that survives a power cut.

Files are synced before they are renamed, folders after; a name that comes from outside is opened relative to its
folder and no link is followed. Errors of the system become ours, with the path that the user knows.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import glob
import os
import shutil
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from converters.errors import shown
from distro.errors import CannotCreateError, DiskFullError, StorageError
from distro.owner import CLAIMS, Owner, is_abandoned

# linux/fs.h: share the extents of another file, or of a range of it.
_FICLONE, _FICLONERANGE = 0x40049409, 0x4020940D
_COPY_BYTES = 16 * 1024 * 1024


@contextmanager
def told(path: Path) -> Iterator[None]:
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


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def write_whole(path: Path, data: bytes, *, private: bool = False) -> None:
    """private: for us alone, whatever the umask says. What a writer left that was killed here goes too."""
    prefix = f".{path.name}."
    for left in path.parent.glob(f"{glob.escape(prefix)}*"):
        if Owner.of(Path(left.name.removeprefix(prefix))):
            with suppress(OSError, CannotCreateError, StorageError):  # another user's, or gone meanwhile
                discard(left)
    part = path.with_name(prefix + CLAIMS.new_suffix())
    CLAIMS.hold(part)
    try:
        _write_new(part, data, 0o600 if private else file_mode())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        CLAIMS.let_go(part)
    sync_folder(path.parent)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, data, 0)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def share_extents(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:  # another file system, or one that cannot
        return False
    return True


def share_range(source: int, source_offset: int, target: int, offset: int) -> bool:
    """Share what the source has from an offset to its end; both offsets are whole blocks of the file system."""
    try:
        fcntl.ioctl(target, _FICLONERANGE, struct.pack("=qQQQ", source, source_offset, 0, offset))
    except OSError:  # as above, or blocks of another size
        return False
    return True


def copy_data(source: Path, target: Path) -> None:
    """A new file with the bytes of another and with holes where that has them; no link is followed."""
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if not share_extents(reading, writing):
                for start, stop in _data_of(reading):
                    for offset in range(start, stop, _COPY_BYTES):
                        write_all(writing, os.pread(reading, min(_COPY_BYTES, stop - offset), offset), offset)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _data_of(descriptor: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, from and to; all of it where the file system cannot tell."""
    size, stop = os.fstat(descriptor).st_size, 0
    if not hasattr(os, "SEEK_DATA"):
        yield 0, size
        return
    while stop < size:
        try:
            start = os.lseek(descriptor, stop, os.SEEK_DATA)
            stop = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: a hole up to the end
                yield stop, size
            return
        yield start, stop


def make_folder(folder: Path, *, private: Path | None = None) -> None:
    """Make a folder and its parents, each on the disk before it is used; from `private` on, for us alone."""
    if folder.is_dir():
        _settle_name(folder)
        return
    make_folder(folder.parent, private=private)
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.is_dir():  # another process was quicker
            return
        raise NotADirectoryError(errno.ENOTDIR, "is no folder", str(folder)) from None
    folder.chmod(0o700 if private and folder.is_relative_to(private) else folder_mode())
    sync_folder(folder.parent)
    _settled.add(folder.absolute())


def keep_private(folder: Path) -> None:
    """Take away from others what they may do in a folder of ours.

    Raises CannotCreateError for one of another user, who could put other bytes in the place of those that were proven;
    root may use a folder that belongs to whom the one above belongs to.
    """
    status = folder.stat()
    if status.st_uid != os.geteuid() and (os.geteuid() != 0 or status.st_uid != folder.parent.stat().st_uid):
        raise CannotCreateError(f"{shown(str(folder))}: belongs to another user, who could change what arrives there")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        folder.chmod(0o700)


def clear_special(path: Path) -> None:
    """Delete what is no regular file where one of ours is to be, such as a link or a pipe; a folder stays."""
    if is_taken(path) and not is_file(path) and not (path.is_dir() and not path.is_symlink()):
        path.unlink(missing_ok=True)


def has_other_names(path: Path) -> bool:
    """Whether a file is known by other names too, as in a backup of hard links: what is written to it changes those."""
    return path.lstat().st_nlink > 1


# Folders whose names were brought to the disk in this process, and so were those of the folders above.
_settled: set[Path] = set()


def _settle_name(folder: Path) -> None:
    """Bring the name of a folder to the disk, and of those above it: who made them may have been killed before that."""
    missing, folder = [], folder.absolute()
    while folder not in _settled and folder != folder.parent and device_of(folder) == device_of(folder.parent):
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        with suppress(PermissionError):  # of a parent that we may not read, and so have not written to
            sync_folder(each.parent)
        _settled.add(each)


def settle(path: Path) -> None:
    """Bring a file or folder that is there to the disk, and its name: who made it may have been killed before that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)
    _settle_name(path.parent)


def open_folder(folder: Path, within: Path) -> int:
    """A descriptor of a folder, made where it is missing; below `within` nothing is followed."""
    make_folder(within)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(within, flags)
    path = within.absolute()
    for name in folder.relative_to(within).parts:
        path /= name
        try:
            with suppress(FileExistsError):
                os.mkdir(name, folder_mode(), dir_fd=descriptor)
                os.chmod(name, folder_mode(), dir_fd=descriptor)  # whatever the umask has taken
                _settled.discard(path)
            if path not in _settled:
                os.fsync(descriptor)
                _settled.add(path)
            inner = os.open(name, flags | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor


def refuse_special(name: str, folder: int, path: Path) -> None:
    """A name that is a folder, a pipe or a device is not ours to replace."""
    with suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise CannotCreateError(f"{shown(str(path))}: is there already and is no file")


def sync_folder(folder: Path) -> None:
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


def file_mode() -> int:
    return 0o600 | (0o666 & ~_umask())


def folder_mode() -> int:
    return 0o700 | (0o777 & ~_umask())


def check_space(n_bytes: int, folder: Path) -> None:
    """Raise DiskFullError if so many bytes more do not fit where the folder is, or will be."""
    free = free_bytes(folder)
    if n_bytes > free:
        raise DiskFullError(f"{shown(str(folder))}: {n_bytes} bytes needed, {free} free, {n_bytes - free} missing")


def check_place(folder: Path) -> None:
    """Raise CannotCreateError where a folder cannot be made, or nothing in it."""
    there = next(path for path in (folder, *folder.absolute().parents) if is_taken(path))
    if not there.is_dir():
        raise CannotCreateError(f"{shown(str(folder))}: {shown(str(there))} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise CannotCreateError(f"{shown(str(folder))}: {shown(str(there))} may not be written")


def free_bytes(folder: Path) -> int:
    """What is free where the folder is, or will be."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    with told(folder):
        return shutil.disk_usage(there).free


def device_of(folder: Path) -> int:
    """Which file system a folder is on."""
    return folder.stat().st_dev


def is_file(path: Path) -> bool:
    """Whether it is a regular file itself, not a link to one."""
    return length(path) >= 0


def is_taken(path: Path) -> bool:
    """Whether anything at all has this name, be it a link to nowhere."""
    return os.path.lexists(path)


def named(folder: Path, beginning: str, end: str = "") -> list[Path]:
    """What a folder has under names that begin and end so, by name; a glob compiles its pattern for each file anew."""
    try:
        found = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(path for path in found if path.name.startswith(beginning) and path.name.endswith(end))


def length(path: Path) -> int:
    """Bytes of a part file; -1 for what is none."""
    try:
        status = path.lstat()
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def files_below(path: Path) -> Iterator[Path]:
    """The file itself, or the regular files of a folder, by name; links are followed for files, not for folders."""
    if not path.is_dir():
        yield path
        return
    open_folders = [iter(sorted(path.iterdir()))]  # a list, for folders may lie deeper than Python calls
    while open_folders:
        entry = next(open_folders[-1], None)
        if entry is None:
            open_folders.pop()
        elif entry.name.startswith("."):
            continue
        elif entry.is_dir() and not entry.is_symlink():
            open_folders.append(iter(sorted(entry.iterdir())))
        elif entry.is_file():
            yield entry


def allocated(path: Path) -> int:
    """Bytes of the disk that a regular file takes, fewer than its length where it has holes; 0 for what is none."""
    return path.lstat().st_blocks * 512 if is_file(path) else 0


def discard(path: Path) -> int:
    """Delete something partial unless a living process writes it. Gives the bytes freed."""
    owner = Owner.of(path)
    with CLAIMS.lock:
        if owner and not CLAIMS.is_free(path) and (owner.is_here() or not is_abandoned(path)):
            return 0
        freed = size_of(path)
        with told(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return freed


def size_of(path: Path) -> int:
    """Bytes in a file or in all files below a folder; links count nothing."""
    if path.is_symlink() or not path.exists():
        return 0
    return sum(max(0, length(each)) for each in (path.rglob("*") if path.is_dir() else (path,)))
