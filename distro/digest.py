"""Digests of files and streams: one read for all that are wanted, in bounded memory.

sha256            SHA-256 of the bytes
md5               MD5 of the bytes; weak, for releases that published nothing better
git_sha1          SHA-1 of `blob <size>\\0` and the bytes: git's name of a blob; weak
lfs_pointer_sha1  git's name of the LFS pointer, a text of three lines that holds SHA-256 and size
                  (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)
pieces_root       root of a binary tree of SHA-256 over blocks of 16 KiB, leaves filled up with zeros to a power of two
                  (BEP 52); an empty file has none
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from distro.progress import Bar, SilentBar

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Strongest first. The pointer's SHA-1 covers a SHA-256, so forging it means colliding a text of 130 bytes that leaves
# no room to play; the last two can be forged for content that was made for it.
KINDS = ("sha256", "pieces_root", "lfs_pointer_sha1", "git_sha1", "md5")
WEAK = frozenset({"git_sha1", "md5"})
HEX_DIGITS = {"sha256": 64, "pieces_root": 64, "lfs_pointer_sha1": 40, "git_sha1": 40, "md5": 32}

LEAF = 16 * 1024
_READ = 1024 * 1024


class Digester:
    """Digests of bytes that arrive in pieces of any length.

    wanted: names out of KINDS. size: bytes in all, needed for `git_sha1`, which hashes it first.
    """

    def __init__(self, wanted: Collection[str], size: int | None = None) -> None:
        if unknown := set(wanted) - set(KINDS):
            raise ValueError(f"no such digest: {', '.join(sorted(unknown))}")
        if "git_sha1" in wanted and size is None:
            raise ValueError("git_sha1 needs the size before the bytes")
        self._wanted = tuple(kind for kind in KINDS if kind in wanted)
        self._n_bytes = 0
        self._sha256 = hashlib.sha256() if {"sha256", "lfs_pointer_sha1"} & set(wanted) else None
        self._md5 = hashlib.md5(usedforsecurity=False) if "md5" in wanted else None
        self._git = hashlib.sha1(b"blob %d\0" % (size or 0), usedforsecurity=False) if "git_sha1" in wanted else None
        self._tree = Tree() if "pieces_root" in wanted else None

    def update(self, data: ReadableBuffer) -> None:
        self._n_bytes += memoryview(data).nbytes
        for hasher in (self._sha256, self._md5, self._git, self._tree):
            if hasher is not None:
                hasher.update(data)

    def digests(self) -> dict[str, str]:
        """Lower-case hex of what was wanted; without `pieces_root` if there were no bytes."""
        found: dict[str, str] = {}
        if self._sha256 is not None:
            found["sha256"] = self._sha256.hexdigest()
            found["lfs_pointer_sha1"] = lfs_pointer_sha1(found["sha256"], self._n_bytes)
        if self._md5 is not None:
            found["md5"] = self._md5.hexdigest()
        if self._git is not None:
            found["git_sha1"] = self._git.hexdigest()
        if self._tree is not None and self._n_bytes:
            found["pieces_root"] = self._tree.root().hex()
        return {kind: found[kind] for kind in self._wanted if kind in found}


class Tree:
    """The tree of BEP 52, of which only the left edge is kept: one hash for each height, 40 at most."""

    def __init__(self) -> None:
        # Full subtrees of 2**height leaves that wait for their right neighbour; empty where none waits.
        self._edge: list[bytes] = []
        self._rest = bytearray()  # the leaf that is still arriving

    def update(self, data: ReadableBuffer) -> None:
        view = memoryview(data).cast("B")
        if self._rest:
            n_taken = min(LEAF - len(self._rest), len(view))
            self._rest += view[:n_taken]
            view = view[n_taken:]
            if len(self._rest) < LEAF:
                return
            self._add(hashlib.sha256(self._rest).digest())
            self._rest.clear()
        n_whole = len(view) // LEAF * LEAF
        for start in range(0, n_whole, LEAF):
            self._add(hashlib.sha256(view[start : start + LEAF]).digest())
        self._rest += view[n_whole:]

    def root(self, height: int = 0) -> bytes:
        """Asked once, at the end. The last leaf is hashed as short as it is; missing leaves are 32 zeros.

        height: of the tree that this is to be, 2**height leaves, where that is more than there are.
        """
        if self._rest:
            self._add(hashlib.sha256(self._rest).digest())
            self._rest.clear()
        right = b""  # the leaves after those of the present height, filled up; empty if there are none
        missing = bytes(32)  # as high as the present height
        for left in self._edge[:-1]:
            if left:
                right = hashlib.sha256(left + (right or missing)).digest()
            elif right:
                right = hashlib.sha256(right + missing).digest()
            missing = hashlib.sha256(missing * 2).digest()
        top, reached = self._edge[-1], len(self._edge) - 1
        if right:
            top, reached = hashlib.sha256(top + right).digest(), reached + 1
            missing = hashlib.sha256(missing * 2).digest()
        for _ in range(reached, height):
            top = hashlib.sha256(top + missing).digest()
            missing = hashlib.sha256(missing * 2).digest()
        return top

    def _add(self, node: bytes) -> None:
        height = 0
        while height < len(self._edge) and (left := self._edge[height]):
            node = hashlib.sha256(left + node).digest()
            self._edge[height] = b""
            height += 1
        if height == len(self._edge):
            self._edge.append(b"")
        self._edge[height] = node


def feed_range(descriptor: int, start: int, stop: int, update: Callable[[memoryview], object]) -> int:
    """Hand the bytes of an open file from start to stop to `update`; gives how many there were. Raises OSError."""
    buffer = memoryview(bytearray(min(_READ, max(0, stop - start))))
    position = start
    while position < stop:
        n_read = os.preadv(descriptor, [buffer[: stop - position]], position)
        if not n_read:
            break
        update(buffer[:n_read])
        position += n_read
    return position - start


def digest_file(path: Path, wanted: Collection[str], bar: Bar | None = None) -> dict[str, str]:
    """Digests of a file, read once. Raises OSError, also for what is not a regular file."""
    with open_regular(path) as stream:
        return digest_stream(stream, wanted, os.fstat(stream.fileno()).st_size, bar)


def digest_stream(stream: BinaryIO, wanted: Collection[str], size: int, bar: Bar | None = None) -> dict[str, str]:
    """Digests of what is left in a stream; size: bytes that it will give."""
    digester = Digester(wanted, size)
    buffer = memoryview(bytearray(_READ))
    bar = bar or SilentBar()
    while n_read := stream.readinto(buffer):  # type: ignore[attr-defined]
        digester.update(buffer[:n_read])
        bar.advance(n_read)
    return digester.digests()


def sha256_of(path: Path, bar: Bar | None = None) -> str:
    """SHA-256 of a file, lower-case hex."""
    return digest_file(path, ("sha256",), bar)["sha256"]


def open_regular(path: Path) -> BinaryIO:
    """A file to read bytes from, never a pipe or a device, which would block or never end. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb", buffering=0)


def lfs_pointer_sha1(sha256: str, size: int) -> str:
    """Git's name of the LFS pointer of a file of that SHA-256 and size."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    return hashlib.sha1(b"blob %d\0%b" % (len(pointer), pointer), usedforsecurity=False).hexdigest()
