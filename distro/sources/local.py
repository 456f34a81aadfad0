"""Sources on this machine: a folder that the user names, and the hub's cache, where a file is found by its digest.

What they hold is copied, by sharing extents where the file system can, and proven like everything else.

    <cache>/models--<owner>--<name>/blobs/<etag>    etag: SHA-256 of an LFS file, git's blob id of a small one
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from converters.errors import shown
from distro.errors import NotThereError
from distro.manifest import File
from distro.progress import Bar

if TYPE_CHECKING:
    from distro.store import Partial


class FolderSource:
    """A folder with the files of a variant under their names."""

    def __init__(self, folder: Path) -> None:
        self.name = f"folder {shown(str(folder))}"
        self._folder = folder

    def transfer(self, file: File, partial: Partial, bar: Bar) -> None:
        _copy(self.name, self._folder / file.path, file, partial, bar)

    def close(self) -> None:
        pass


class HubCacheSource:
    """The cache of huggingface_hub and of all who share it."""

    def __init__(self, cache: Path) -> None:
        self.name = f"hub cache {shown(str(cache))}"
        self._cache = cache

    def transfer(self, file: File, partial: Partial, bar: Bar) -> None:
        for digest in (file.sha256, file.git_sha1):
            for blob in sorted(self._cache.glob(f"models--*/blobs/{digest}")) if digest else ():
                return _copy(self.name, blob, file, partial, bar)
        raise NotThereError(self.name, f"no {shown(file.path)}")

    def close(self) -> None:
        pass


def _copy(name: str, path: Path, file: File, partial: Partial, bar: Bar) -> None:
    try:
        is_candidate = path.is_file() and file.size in (None, path.stat().st_size)
    except OSError as error:
        raise NotThereError(name, f"cannot read {shown(str(path))}: {error.strerror}") from error
    if not is_candidate:
        raise NotThereError(name, f"no {shown(file.path)} of the right size")
    try:
        partial.clone(path, bar.advance)
    except OSError as error:
        raise NotThereError(name, f"cannot read {shown(str(path))}: {error.strerror}") from error
