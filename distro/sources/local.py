"""Sources on this machine: a folder that the user names, and what other tools keep (distro/sources/caches.py).

What they hold is copied, by sharing extents where the file system can, and proven like everything else. It is not
linked: a hard link is not a copy but a second name, by which whoever edits one of the two models in place changes both
(llama.cpp's gguf_set_metadata.py does), and one that was left by a kill would be taken for our own part file, and cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from converters.errors import shown
from distro.errors import NotThereError
from distro.manifest import File
from distro.progress import Bar
from distro.sources.caches import Cache
from distro.verify import check

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


class CacheSource:
    """What another tool keeps. It may lack anything, and nobody has to be told."""

    def __init__(self, cache: Cache) -> None:
        self.name = f"{cache.tool} {shown(str(cache.folder))}"
        self._cache = cache

    def transfer(self, file: File, partial: Partial, bar: Bar) -> None:
        for path in self._cache.by_digest(file):
            return _copy(self.name, path, file, partial, bar)
        for path in self._cache.by_name(file):
            bar.note(f"is {shown(path.name)} of {self._cache.tool} the same?")
            if _is_same(path, file):  # read before it is copied: names repeat, and reading takes no room
                return _copy(self.name, path, file, partial, bar)
        raise NotThereError(self.name, f"no {shown(file.path)}")

    def close(self) -> None:
        pass


def _is_same(path: Path, file: File) -> bool:
    try:
        return check(path, file).is_right
    except OSError:  # not ours to read
        return False


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
