"""What other tools keep on this machine, and where a file would be there.

    hub cache   <folder>/models--<owner>--<name>/blobs/<etag>    etag: SHA-256 of an LFS file, git's blob id of others
    Ollama      <folder>/blobs/sha256-<hex>                      older ones sha256:<hex>
    LM Studio   <folder>/<publisher>/<model>/<path>              as on the hub
    llama.cpp   <folder>/<owner>_<name>_<path, / as _>           with -hf, <folder>/<name> with a URL; newer ones have a
                                                                 hub cache, there too if LLAMA_CACHE names the folder

Sources: ollama manifest/paths.go and envconfig; lmstudio.ai/docs/basics/import-model; llama.cpp common/common.cpp
(fs_get_cache_directory), arg.cpp and hf-cache.cpp. All of them write under another name and rename; so a file that has
its name is whole, unless it was damaged since.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from distro.manifest import File

if TYPE_CHECKING:
    from distro.config import Settings

HUB = "hub cache"


@dataclass(frozen=True)
class Cache:
    """What one tool keeps. tool: one of the names above."""

    tool: str
    folder: Path

    def by_digest(self, file: File) -> Iterator[Path]:
        """Files whose name says that they are it."""
        if self.tool in (HUB, "llama.cpp"):
            for digest in (file.sha256, file.git_sha1):
                yield from sorted(self.folder.glob(f"models--*/blobs/{digest}")) if digest else ()
        elif self.tool == "Ollama" and file.sha256:
            blobs = self.folder / "blobs"
            names = (f"sha256-{file.sha256}", f"sha256:{file.sha256}")
            yield from (path for name in names if size_of(path := blobs / name) is not None)

    def by_name(self, file: File) -> Iterator[Path]:
        """Files that are called like it and have its size: many a model has a `model.safetensors`."""
        if not file.is_proven_by_digest:
            return
        name = PurePosixPath(file.path).name
        patterns = {
            "LM Studio": (f"*/*/{glob.escape(file.path)}", f"*/*/{glob.escape(name)}"),
            "llama.cpp": (f"*_{glob.escape(file.path.replace('/', '_'))}", glob.escape(name)),
        }.get(self.tool, ())
        found = (path for pattern in dict.fromkeys(patterns) for path in sorted(self.folder.glob(pattern)))
        for path in dict.fromkeys(found):
            if (size := size_of(path)) is not None and file.size in (None, size):
                yield path

    def candidates(self, file: File) -> Iterator[Path]:
        yield from self.by_digest(file)
        yield from self.by_name(file)


def caches_of(settings: Settings) -> list[Cache]:
    """Those that are on this machine, in the order in which they are asked."""
    hub = [(HUB, settings.hub_cache)] if settings.hub_cache is not None else []
    return [Cache(tool, folder) for tool, folder in (*hub, *settings.tool_folders) if os.access(folder, os.X_OK)]


def size_of(path: Path) -> int | None:
    """Bytes of a file, or of that to which a link leads; None for what is none, or not ours to look at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
