"""A recording file layer: whatever is done below one folder happens, and is written down with its data.

    with Recorder(root) as recorder:      # os, fcntl and shutil of this process are watched until the end
        ...
    recorder.log                          # what happened below root, in order; tests/fakes/crash.py makes states of it

The log speaks of nodes (files and folders, by a number of their own) and of names in folders, as a file system does, so
that the same data may lie under another name, or under none. Nothing is synced in truth: that something was is in the
log, and there it counts.

It is also where calls fail: `fail` once or for ever, `die` as a process that is killed does. After an fsync that failed
the disk has not what was written before it, and never will; the system's memory has it until it is dropped
(posix_fadvise), as on Linux (https://wiki.postgresql.org/wiki/Fsync_Errors).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = 0
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_FICLONE, _FICLONERANGE = 0x40049409, 0x4020940D  # linux/fs.h


@dataclass(frozen=True)
class Name:
    """A folder gets a name: of a node that is new, or of one that was there."""

    folder: int
    name: str
    node: int


@dataclass(frozen=True)
class Rename:
    folder: int
    name: str
    to_folder: int
    to_name: str
    node: int


@dataclass(frozen=True)
class Remove:
    folder: int
    name: str


@dataclass(frozen=True)
class Write:
    node: int
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Truncate:
    """Also where a file becomes longer."""

    node: int
    size: int


@dataclass(frozen=True)
class Sync:
    node: int


@dataclass(frozen=True)
class SyncFailed:
    node: int


@dataclass(frozen=True)
class Mode:
    node: int
    mode: int


Operation = Name | Rename | Remove | Write | Truncate | Sync | SyncFailed | Mode


@dataclass
class Node:
    """is_folder, inode: what it was when it was made. content: of a file, before anything was recorded."""

    is_folder: bool
    inode: int
    mode: int
    content: bytes = b""


class Died(BaseException):
    """The process is dead: nothing that it does any more has an effect."""


@dataclass
class Failure:
    """The calls of a kind fail from the nth on (1 is the first): `times` of them."""

    kind: str  # open, write, fsync, rename, mkdir, truncate, unlink
    nth: int
    errno: int
    times: int = 1


class Recorder:
    """One root, from one `with` on; may be entered again, and goes on with the same log.

    nodes: what was there and what came. start: the names that were there, (folder, name, node). bypassed: what was
    written below the root in another way than by the calls that are recorded. calls: how many there were of each kind.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self.log: list[Operation] = []
        self.nodes: list[Node] = []
        self.start: list[Name] = []
        self.bypassed: list[str] = []
        self.calls: Counter[str] = Counter()
        self.n_failed = 0
        self.failure: Failure | None = None
        self.die_at: int | None = None  # the number of operations that happen
        self._names: dict[int, dict[str, int]] = {}
        self._open: dict[int, tuple[int, int, bool]] = {}  # descriptor: node, inode, whether it appends
        self._lock = threading.RLock()
        self._own = threading.local()
        self._is_dead = False
        self._scan(self.root, self._new(self.root))

    def _scan(self, folder: Path, number: int) -> None:
        for path in sorted(folder.iterdir()):
            node = self._new(path)
            self._names[number][path.name] = node
            self.start.append(Name(number, path.name, node))
            if path.is_dir():
                self._scan(path, node)

    def _new(self, path: Path) -> int:
        status = path.lstat()
        is_folder = path.is_dir()
        content = b"" if is_folder or self.log else path.read_bytes()
        self.nodes.append(Node(is_folder, status.st_ino, status.st_mode & 0o7777, content))
        self._names[len(self.nodes) - 1] = {}
        return len(self.nodes) - 1

    # Where something is

    def _place(self, path: Any, dir_fd: int | None) -> tuple[int, str] | None:
        """The folder's node and the name in it; None for what is elsewhere."""
        if isinstance(path, int):
            return None
        text = os.fsdecode(path)
        if not Path(text).is_absolute() and dir_fd is not None:
            if not self._is_ours(dir_fd):
                return None
            number, parts = self._open[dir_fd][0], Path(text).parts
        else:
            absolute = _absolute(text)
            if not absolute.is_relative_to(self.root) or absolute == self.root:
                return None
            number, parts = ROOT, absolute.relative_to(self.root).parts
        for part in parts[:-1]:
            if part not in self._names[number]:
                return None
            number = self._names[number][part]
        return (number, parts[-1]) if parts else None

    def _node(self, path: Any, dir_fd: int | None) -> int | None:
        if isinstance(path, (str, bytes, os.PathLike)) and _absolute(path) == self.root:
            return ROOT
        place = self._place(path, dir_fd)
        return None if place is None else self._names[place[0]].get(place[1])

    def _is_ours(self, descriptor: int) -> bool:
        if descriptor not in self._open:
            return False
        if os.fstat(descriptor).st_ino != self._open[descriptor][1]:  # closed by somebody else, and given out again
            del self._open[descriptor]
            return False
        return True

    # What happens

    def _begin(self, kind: str) -> None:
        """Count a call that is about to happen, or fail it."""
        if self._is_dead or (self.die_at is not None and len(self.log) >= self.die_at):
            self._is_dead = True
            raise Died
        self.calls[kind] += 1
        failure = self.failure
        if failure and failure.kind == kind and failure.nth <= self.calls[kind] < failure.nth + failure.times:
            self.n_failed += 1
            raise OSError(failure.errno, os.strerror(failure.errno))

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """What the interpreter's audit sees now is what we do."""
        with self._lock:
            self._own.depth = getattr(self._own, "depth", 0) + 1
            try:
                yield
            finally:
                self._own.depth -= 1

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if getattr(self._own, "depth", 0) or event not in _AUDITED:
            return
        if event == "open":
            path, mode, flags = arguments
            if not (flags & _WRITING or (isinstance(mode, str) and set(mode) & set("wax+"))):
                return
            is_below = self._is_ours(path) if isinstance(path, int) else self._is_below(path)
        else:
            is_below = any(self._is_below(path) for path in arguments if isinstance(path, (str, bytes, os.PathLike)))
        if is_below:
            self.bypassed.append(f"{event} {arguments}")

    def _is_below(self, path: Any) -> bool:
        return _absolute(path).is_relative_to(self.root)

    def _known(self, place: tuple[int, str], path: Any, dir_fd: int | None) -> int:
        """The node of a name that is there; one that came by another way is told."""
        folder, name = place
        if name not in self._names[folder]:
            self.bypassed.append(f"came by itself: {os.fsdecode(path)}")
            raise AssertionError(self.bypassed[-1])
        return self._names[folder][name]

    def _do(self, operation: Operation) -> None:
        self.log.append(operation)
        match operation:
            case Name(folder, name, node):
                self._names[folder][name] = node
            case Rename(folder, name, to_folder, to_name, node):
                del self._names[folder][name]
                self._names[to_folder][to_name] = node
            case Remove(folder, name):
                del self._names[folder][name]

    # The calls

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        with self._ours():
            place, node = self._place(path, dir_fd), self._node(path, dir_fd)
            if place is None and node != ROOT:
                descriptor = _real.open(path, flags, mode, dir_fd=dir_fd)
                self._open.pop(descriptor, None)
                return descriptor
            self._begin("open")
            descriptor = _real.open(path, flags, mode, dir_fd=dir_fd)
            if node is None:
                assert place is not None
                is_new = flags & os.O_CREAT
                node = self._new_at(descriptor, *place) if is_new else self._known(place, path, dir_fd)
            elif flags & os.O_TRUNC:
                self._do(Truncate(node, 0))
            self._open[descriptor] = node, os.fstat(descriptor).st_ino, bool(flags & os.O_APPEND)
            return descriptor

    def _new_at(self, descriptor: int, folder: int, name: str) -> int:
        status = os.fstat(descriptor)
        self.nodes.append(Node(False, status.st_ino, status.st_mode & 0o7777))
        node = len(self.nodes) - 1
        self._names[node] = {}
        self._do(Name(folder, name, node))
        return node

    def close(self, descriptor: int) -> None:
        with self._ours():
            self._open.pop(descriptor, None)
            _real.close(descriptor)

    def write(self, descriptor: int, data: Any) -> int:
        with self._ours():
            if not self._is_ours(descriptor):
                return _real.write(descriptor, data)
            node, _, appends = self._open[descriptor]
            self._begin("write")
            offset = os.fstat(descriptor).st_size if appends else os.lseek(descriptor, 0, os.SEEK_CUR)
            count = _real.write(descriptor, data)
            self._do(Write(node, offset, bytes(memoryview(data).cast("B")[:count])))
            return count

    def pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        with self._ours():
            if not self._is_ours(descriptor):
                return _real.pwrite(descriptor, data, offset)
            self._begin("write")
            count = _real.pwrite(descriptor, data, offset)
            self._do(Write(self._open[descriptor][0], offset, bytes(memoryview(data).cast("B")[:count])))
            return count

    def writev(self, descriptor: int, buffers: Any) -> int:
        return self.write(descriptor, b"".join(map(bytes, buffers)))

    def pwritev(self, descriptor: int, buffers: Any, offset: int, flags: int = 0) -> int:
        return self.pwrite(descriptor, b"".join(map(bytes, buffers)), offset)

    def sendfile(self, out: int, source: int, offset: int | None, count: int) -> int:
        return self._copied(out, None, lambda: _real.sendfile(out, source, offset, count))

    def copy_file_range(
        self, source: int, out: int, count: int, offset_src: int | None = None, offset_dst: int | None = None
    ) -> int:
        arguments = (source, out, count, offset_src, offset_dst)
        return self._copied(out, offset_dst, lambda: _real.copy_file_range(*arguments))

    def _copied(self, out: int, offset: int | None, copy: Callable[[], int]) -> int:
        """What the system wrote for us is read again, to know it."""
        with self._ours():
            if not self._is_ours(out):
                return copy()
            self._begin("write")
            at = os.lseek(out, 0, os.SEEK_CUR) if offset is None else offset
            count = copy()
            self._do(Write(self._open[out][0], at, _content(out)[at : at + count]))
            return count

    def ioctl(self, descriptor: int, request: int, argument: Any = 0, mutate_flag: bool = True) -> Any:
        with self._ours():
            if request not in (_FICLONE, _FICLONERANGE) or not self._is_ours(descriptor):
                return _real.ioctl(descriptor, request, argument, mutate_flag)
            self._begin("write")
            answer = _real.ioctl(descriptor, request, argument, mutate_flag)
            content, node = _content(descriptor), self._open[descriptor][0]
            self._do(Write(node, 0, content))
            self._do(Truncate(node, len(content)))
            return answer

    def ftruncate(self, descriptor: int, length: int) -> None:
        with self._ours():
            if self._is_ours(descriptor):
                self._begin("truncate")
                self._do(Truncate(self._open[descriptor][0], length))
            _real.ftruncate(descriptor, length)

    def posix_fallocate(self, descriptor: int, offset: int, length: int) -> None:
        with self._ours():
            if self._is_ours(descriptor):
                self._begin("truncate")
                size = max(os.fstat(descriptor).st_size, offset + length)
                self._do(Truncate(self._open[descriptor][0], size))
            _real.posix_fallocate(descriptor, offset, length)

    def truncate(self, path: Any, length: int) -> None:
        if isinstance(path, int):
            return self.ftruncate(path, length)
        descriptor = self.open(path, os.O_WRONLY)
        try:
            self.ftruncate(descriptor, length)
        finally:
            self.close(descriptor)

    def fsync(self, descriptor: int) -> None:
        with self._ours():
            if not self._is_ours(descriptor):
                _real.fsync(descriptor)
                return
            node = self._open[descriptor][0]
            try:
                self._begin("fsync")
            except OSError:
                self._do(SyncFailed(node))
                raise
            self._do(Sync(node))

    def posix_fadvise(self, descriptor: int, offset: int, length: int, advice: int) -> None:
        """What an fsync could not bring to the disk is no longer in memory after this."""
        with self._ours():
            if advice != os.POSIX_FADV_DONTNEED or not self._is_ours(descriptor):
                _real.posix_fadvise(descriptor, offset, length, advice)
                return
            node = self._open[descriptor][0]
            if SyncFailed(node) in self.log:
                lost = never_written(self.log)
                mine = ((each, place not in lost) for place, each in enumerate(self.log) if _is_data_of(each, node))
                writing = _real.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY)
                try:
                    _real.pwrite(writing, content_of(self.nodes[node].content, mine), 0)
                finally:
                    _real.close(writing)

    def rename(self, source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        with self._ours():
            old, new = self._place(source, src_dir_fd), self._place(target, dst_dir_fd)
            if old is not None and new is not None:
                self._begin("rename")
            _real.replace(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            if old is not None and new is not None:
                self._do(Rename(*old, *new, self._known(old, source, src_dir_fd)))
            elif old is not None or new is not None:
                self.bypassed.append(f"rename across the root: {source} {target}")

    def link(self, source: Any, target: Any, **options: Any) -> None:
        with self._ours():
            old, new = self._place(source, options.get("src_dir_fd")), self._place(target, options.get("dst_dir_fd"))
            _real.link(source, target, **options)
            if new is not None:
                assert old is not None, "a link to what is outside"
                self._do(Name(*new, self._known(old, source, options.get("src_dir_fd"))))

    def symlink(self, source: Any, target: Any, *_: Any, **__: Any) -> None:
        assert not self._is_below(target), "links are not recorded"
        _real.symlink(source, target)

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._remove(_real.unlink, path, dir_fd)

    def rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._remove(_real.rmdir, path, dir_fd)

    def _remove(self, call: Callable[..., None], path: Any, dir_fd: int | None) -> None:
        with self._ours():
            place = self._place(path, dir_fd)
            if place is not None:
                self._begin("unlink")
            call(path, dir_fd=dir_fd)
            if place is not None:
                self._known(place, path, dir_fd)
                self._do(Remove(*place))

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        with self._ours():
            place = self._place(path, dir_fd)
            if place is not None:
                self._begin("mkdir")
            _real.mkdir(path, mode, dir_fd=dir_fd)
            if place is not None:
                self.nodes.append(Node(True, os.stat(path, dir_fd=dir_fd).st_ino, mode))
                self._names[len(self.nodes) - 1] = {}
                self._do(Name(*place, len(self.nodes) - 1))

    def chmod(self, path: Any, mode: int, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> None:
        with self._ours():
            if isinstance(path, int):
                node = self._open[path][0] if self._is_ours(path) else None
            else:
                node = self._node(path, dir_fd)
            if node is not None:
                self._begin("chmod")
            _real.chmod(path, mode, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
            if node is not None:
                self._do(Mode(node, mode))

    def fchmod(self, descriptor: int, mode: int) -> None:
        self.chmod(descriptor, mode)

    def copyfile(self, source: Any, target: Any, *, follow_symlinks: bool = True) -> Any:
        """As shutil does it, in calls that we see."""
        reading = self.open(source, os.O_RDONLY | (0 if follow_symlinks else os.O_NOFOLLOW))
        try:
            writing = self.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                while data := os.read(reading, 1 << 20):
                    self.write(writing, data)
            finally:
                self.close(writing)
        finally:
            self.close(reading)
        return target

    # From when to when

    def __enter__(self) -> Recorder:
        assert not _watching, "one at a time"
        _watching.append(self)
        self._is_dead = False
        self._own.depth = 0
        for module, name, ours in _PATCHED:
            setattr(module, name, getattr(self, ours))
        return self

    def __exit__(self, *_: object) -> None:
        for module, name, _ours in _PATCHED:
            setattr(module, name, getattr(_real, name))
        _watching.remove(self)
        self._open.clear()


def is_watching() -> bool:
    return bool(_watching)


def never_written(log: Sequence[Operation]) -> set[int]:
    """Places in a log of writes that an fsync which failed has lost, be there one that succeeds later or not."""
    lost: set[int] = set()
    waiting: dict[int, list[int]] = {}
    for place, operation in enumerate(log):
        match operation:
            case Write(node):
                waiting.setdefault(node, []).append(place)
            case Sync(node):
                waiting.pop(node, None)
            case SyncFailed(node):
                lost.update(waiting.pop(node, ()))
    return lost


def content_of(content: bytes, operations: Iterable[tuple[Operation, bool]]) -> bytes:
    """A file after writes and truncations, each with whether its bytes got there; where not, there may be zeros."""
    data = bytearray(content)
    for operation, is_there in operations:
        match operation:
            case Write(_, offset, written):
                data.extend(bytes(max(0, offset + len(written) - len(data))))
                if is_there:
                    data[offset : offset + len(written)] = written
            case Truncate(_, size):
                del data[size:]
                data.extend(bytes(size - len(data)))
    return bytes(data)


def _absolute(path: Any) -> Path:
    """Without following links, as a name is meant."""
    return Path(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100


def _is_data_of(operation: Operation, node: int) -> bool:
    return isinstance(operation, (Write, Truncate)) and operation.node == node


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


_CALLS = [
    (os, "open", "open"), (os, "close", "close"), (os, "write", "write"), (os, "pwrite", "pwrite"),
    (os, "writev", "writev"), (os, "pwritev", "pwritev"), (os, "sendfile", "sendfile"),
    (os, "copy_file_range", "copy_file_range"), (os, "ftruncate", "ftruncate"), (os, "truncate", "truncate"),
    (os, "posix_fallocate", "posix_fallocate"), (os, "fsync", "fsync"), (os, "fdatasync", "fsync"),
    (os, "posix_fadvise", "posix_fadvise"), (os, "rename", "rename"), (os, "replace", "rename"), (os, "link", "link"),
    (os, "symlink", "symlink"), (os, "unlink", "unlink"), (os, "remove", "unlink"), (os, "rmdir", "rmdir"),
    (os, "mkdir", "mkdir"), (os, "chmod", "chmod"), (os, "fchmod", "fchmod"), (fcntl, "ioctl", "ioctl"),
    (shutil, "copyfile", "copyfile"),
]  # fmt: skip
_PATCHED = [(module, name, ours) for module, name, ours in _CALLS if hasattr(module, name)]
_AUDITED = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}


class _Real:
    """The calls as they are."""

    def __init__(self) -> None:
        for module, name, _ in _PATCHED:
            setattr(self, name, getattr(module, name))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


_real = _Real()
_watching: list[Recorder] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching:
        _watching[0].audit(event, arguments)


sys.addaudithook(_hook)
