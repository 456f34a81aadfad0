"""Compiled kernels on disk, so that a program that starts anew need not compile again.

What lies there is machine code that we will run: the folder must belong to the user and nobody else may enter it
(0700), and each file carries the SHA-256 of its content in front. A file that fails any check counts as absent.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_DIGEST_BYTES = 32
_LONGEST = 16 * 1024 * 1024


@dataclass(frozen=True)
class ObjectCache:
    folder: Path

    def get(self, key: str) -> bytes | None:
        if not self._is_ours():
            return None
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if status.st_uid != os.getuid() or status.st_mode & 0o022 or status.st_size > _LONGEST:
                return None
            content = file.read()
        digest, compiled = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return compiled if hashlib.sha256(compiled).digest() == digest else None

    def put(self, key: str, compiled: bytes) -> None:
        """Keeps it if it can; that it cannot (read-only, full, not ours) harms nobody."""
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_ours():
                return
            descriptor, name = tempfile.mkstemp(dir=self.folder)
            part = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(hashlib.sha256(compiled).digest() + compiled)
                part.replace(self._path(key))
            finally:
                part.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.o"

    def _is_ours(self) -> bool:
        if not hasattr(os, "getuid"):  # no such owners here, hence no such promise
            return False
        try:
            status = self.folder.lstat()
        except OSError:
            return False
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
