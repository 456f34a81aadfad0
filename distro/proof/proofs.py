"""What was proven on this machine: which digests a file had when it was read, and that it is unchanged since.

`<state>/proofs` is text of which every line stands for itself: the first 16 hex digits of the SHA-256 of the rest, a
space, and JSON in one line. New lines are appended; the last one of a path counts.

    {"path": "/…", "device": 1, "inode": 2, "size": 3, "mtime_ns": 4, "ctime_ns": 5, "boot": "…",
     "read_ns": 6, "digests": {"sha256": "…"}, "pieces": "…"}      and "by": "fetch", where that is so

It saves reading and decides nothing that reading would decide otherwise, as far as that can be had:

- A line that is torn, flipped or of another form is passed over. Without the file, or with one that is not a regular
  file of this user's that only they may open, everything is read again. So nobody else can forge a proof; who can write
  as this user could as well replace the program.
- A proof counts for a file that has the same device, inode, size, time of its bytes and time of its status (which no
  program can set), for a day, and until the machine is started again: what a power cut or a failing disk did shows in
  none of these. A file that was changed just before it was read could change once more within the same tick of the file
  system's clock, so its proof does not count.
- Of a file that `fetch` brought, the bytes were read while it was a part file, which is ours alone, and of one that
  `convert` made they were hashed as they were written; then it got its mode and its name, which changes the time of its
  status. So its proof counts as long as that time stays, as if it had been read right after that. What somebody did to
  it in the same tick in which it got its name would not show: a few milliseconds, but a second or two on file systems
  that count whole seconds, and there such a proof does not count.
- `pieces` is the list of piece hashes that was made in the same read. That the list belongs to the digests stays true
  for ever, so that later each piece can be proven by itself (distro/proof/piece_hashes.py).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distro import disk
from distro.digest import HEX_DIGITS
from distro.errors import DistroError

_NAME = "proofs"
_LONGEST_BYTES = 16 << 20
_COMPACT_BYTES = 4 << 20  # of which most is out of date
_LONGEST_NS = 24 * 3600 * 10**9
_SETTLED_NS = 2 * 10**9  # the coarsest clock of a file system that is in use, FAT's
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)
_BY_FETCH = "fetch"
_KEYS = {"path", "device", "inode", "size", "mtime_ns", "ctime_ns", "boot", "read_ns", "digests", "pieces"}


@dataclass(frozen=True)
class Stamp:
    """By what a file is known to be unchanged. size: bytes. mtime_ns: when its bytes changed, ctime_ns: or anything."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @staticmethod
    def of(status: os.stat_result) -> Stamp:
        return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True)
class Remembered:
    """One reading of a file. read_ns: when it began, nanoseconds since 1970. pieces: digest of the list made in it.

    by_fetch: whether it was read before it got its name from us.
    """

    path: str
    stamp: Stamp
    read_ns: int
    digests: Mapping[str, str]
    pieces: str | None = None
    boot: str = ""
    by_fetch: bool = False

    @property
    def proven_at(self) -> datetime:
        return datetime.fromtimestamp(self.read_ns // 10**9, UTC)


def named(path: Path, before: Stamp, read_ns: int, digests: Mapping[str, str], pieces: str | None) -> Remembered | None:
    """What to remember of a file that was proven while it was ours alone, and has its name now.

    before: its stamp at that time. None if somebody has been at it since.
    """
    try:
        stamp = Stamp.of(path.lstat())
    except FileNotFoundError:
        return None
    if replace(stamp, ctime_ns=before.ctime_ns) != before:
        return None
    return Remembered(str(path.absolute()), stamp, read_ns, digests, pieces, by_fetch=True)


class Proofs:
    """The memory of one user. folder: where it is kept; None for one that forgets. clock: nanoseconds since 1970."""

    def __init__(self, folder: Path | None, clock: Callable[[], int] = time.time_ns) -> None:
        self._path = None if folder is None else folder / _NAME
        self._clock = clock

    def find(self, path: Path, stamp: Stamp) -> Remembered | None:
        """The proof of a file that counts still."""
        found = self._known.get(str(path.absolute()))
        if found is None or found.stamp != stamp or found.boot != _boot():
            return None
        if found.by_fetch:
            is_settled = stamp.ctime_ns % 10**9 != 0
        else:
            is_settled = found.read_ns - max(stamp.mtime_ns, stamp.ctime_ns) >= _SETTLED_NS
        return found if is_settled and 0 <= self._clock() - found.read_ns <= _LONGEST_NS else None

    def digests_of(self, pieces: str) -> Mapping[str, str]:
        """The digests of the file whose list of piece hashes has this digest, by a read of ours; empty without one."""
        return next((each.digests for each in self._known.values() if each.pieces == pieces), {})

    def lists_of(self, kind: str, digest: str) -> Mapping[str, str]:
        """Lists of piece hashes that were made in a read that gave a file this digest, and its SHA-256, by theirs."""
        known = (each for each in self._known.values() if each.digests.get(kind) == digest)
        return {each.pieces: each.digests["sha256"] for each in known if each.pieces and "sha256" in each.digests}

    def remember(self, proofs: Iterable[Remembered]) -> None:
        """Keep them for later runs too, where that can be done."""
        new = [Remembered(**{**vars(each), "boot": _boot()}) for each in proofs]
        self._known.update({each.path: each for each in new})
        if self._path is None or not new:
            return
        with suppress(DistroError), disk.told(self._path):
            disk.make_folder(self._path.parent, private=self._path.parent)
            self._append(self._path, b"".join(map(_line, new)))

    @functools.cached_property
    def _known(self) -> dict[str, Remembered]:
        return {each.path: each for each in _read(self._path)} if self._path else {}

    def _append(self, path: Path, lines: bytes) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError:  # a link, or somebody else's
            self._rewrite(path)
            return
        try:
            if not _is_private(os.fstat(descriptor)) or os.fstat(descriptor).st_size > _COMPACT_BYTES:
                self._rewrite(path)
                return
            os.write(descriptor, b"\n" + lines)  # in one, so that writers do not mix; after one that was torn
        finally:
            os.close(descriptor)

    def _rewrite(self, path: Path) -> None:
        """All that is known, and nothing else, in a file of our own."""
        here = [each for each in self._known.values() if os.path.lexists(each.path)]
        disk.write_whole(path, b"".join(map(_line, here)), private=True)


def _read(path: Path) -> Iterable[Remembered]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not _is_private(os.fstat(descriptor)):
            return
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            data = stream.read(_LONGEST_BYTES)
    except OSError:
        return
    finally:
        os.close(descriptor)
    for line in data.splitlines():
        if (found := _parse(line)) is not None:
            yield found


def _is_private(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _line(proof: Remembered) -> bytes:
    value = {**asdict(proof), **asdict(proof.stamp)} | ({"by": _BY_FETCH} if proof.by_fetch else {})
    del value["stamp"], value["by_fetch"]
    text = json.dumps(value, sort_keys=True).encode()
    return _check(text) + b" " + text + b"\n"


def _check(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:16].encode()


def _parse(line: bytes) -> Remembered | None:
    check, _, text = line.partition(b" ")
    if check != _check(text):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return _judged(value) if isinstance(value, dict) and value.keys() - {"by"} == _KEYS else None


def _judged(value: dict[str, Any]) -> Remembered | None:
    """None for anything of another type or form."""
    numbers = [value[key] for key in ("device", "inode", "size", "mtime_ns", "ctime_ns", "read_ns")]
    texts = [value["path"], value["boot"]]
    digests, pieces = value["digests"], value["pieces"]
    if not all(type(number) is int for number in numbers) or not all(isinstance(text, str) for text in texts):
        return None
    if not isinstance(digests, dict) or not all(_is_digest(*item) for item in digests.items()):
        return None
    if pieces is not None and not _is_digest("sha256", pieces):
        return None
    if value.get("by", _BY_FETCH) != _BY_FETCH:
        return None
    return Remembered(value["path"], Stamp(*numbers[:5]), numbers[5], digests, pieces, value["boot"], "by" in value)


def _is_digest(kind: str, digest: object) -> bool:
    return isinstance(digest, str) and len(digest) == HEX_DIGITS.get(kind) and _HEX.fullmatch(digest) is not None


@functools.cache
def _boot() -> str:
    """What tells this start of the machine from every other; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # not Linux
        return ""
