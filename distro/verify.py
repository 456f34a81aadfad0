"""A file on the disk against what a manifest says of it: a verdict, no side effects."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from distro.digest import KINDS, WEAK, digest_stream, open_regular
from distro.manifest import File
from distro.progress import Bar


class Status(StrEnum):
    """OK: proven. WEAK: agrees with a digest that can be forged. UNPROVEN: here, but nothing to prove it by."""

    OK = "ok"
    WEAK = "weak"
    WRONG = "wrong"
    MISSING = "missing"
    UNPROVEN = "unproven"


@dataclass(frozen=True)
class Verdict:
    """kind: what was compared (a digest, "size", "type"), None if nothing was. found and expected: its two values."""

    path: Path
    status: Status
    kind: str | None = None
    found: str | None = None
    expected: str | None = None

    @property
    def is_right(self) -> bool:
        """Whether the bytes agree with all that was published of them."""
        return self.status in (Status.OK, Status.WEAK)


def strongest(file: File) -> tuple[str, str] | None:
    """The best digest that a manifest has of a file, as (kind, hex), or None."""
    return next(((kind, digest) for kind in KINDS if (digest := getattr(file, kind))), None)


def check(path: Path, file: File, bar: Bar | None = None) -> Verdict:
    """What the bytes at `path` are worth: the size first, then the strongest digest, over one read.

    Raises OSError for what cannot be read.
    """
    early = look(path, file)
    proof = strongest(file)
    if early is not None or proof is None:
        return early or Verdict(path, Status.UNPROVEN)
    kind, expected = proof
    with open_regular(path) as stream:
        # Without bytes there is no tree, and so no `pieces_root`.
        found = digest_stream(stream, (kind,), os.fstat(stream.fileno()).st_size, bar).get(kind, "that of no bytes")
    return judge(path, kind, found, expected)


def look(path: Path, file: File) -> Verdict | None:
    """The verdict on what need not be read: nothing, no file, or one of another size; None for all else."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Verdict(path, Status.MISSING)
    if not stat.S_ISREG(status.st_mode):
        return Verdict(path, Status.WRONG, "type", "not a regular file", "a file")
    if file.size is not None and status.st_size != file.size:
        return Verdict(path, Status.WRONG, "size", f"{status.st_size} bytes", f"{file.size} bytes")
    return None


def judge(path: Path, kind: str, found: str, expected: str) -> Verdict:
    """The verdict on a digest that was found."""
    if found != expected:
        return Verdict(path, Status.WRONG, kind, found, expected)
    return Verdict(path, Status.WEAK if kind in WEAK else Status.OK, kind, found, expected)
