"""The files that a torrent names, told from its padding; their names are judged here.

The info dictionary has them in one of three ways, and libtorrent's list in a fourth, in the same order:

    length      the one file, called as the torrent is              (v1, BEP 3)
    files       a list of sizes and paths, pad files among them     (v1 and hybrids, BEPs 3, 47)
    file tree   nested dictionaries, the key b"" ends a path        (v2, BEP 52)

libtorrent mends names that it does not like; we refuse them, so that a path is what the torrent's hash covers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distro.errors import MalformedManifestError
from distro.paths import safe_relpath

if TYPE_CHECKING:
    import libtorrent as lt


@dataclass(frozen=True)
class TorrentFile:
    """path: relative, judged. size: bytes. pieces_root: lower-case hex; None in v1-only torrents and for empty files.
    index: the file's place in libtorrent's list, which counts pad files too. offset: of its first byte in the torrent.
    """

    path: str
    size: int
    pieces_root: str | None
    index: int
    offset: int


def list_files(layout: lt.file_storage, info: Any, where: Path | str) -> Iterator[TorrentFile]:
    """The files that are no padding, in the order of the torrent.

    layout: libtorrent's list. info: the info dictionary, decoded. where: for messages.
    Raises MalformedManifestError for a name that libtorrent would change or that two files have, and for links.
    """
    import libtorrent as lt

    real = [i for i in range(layout.num_files()) if not layout.file_flags(i) & lt.file_storage.flag_pad_file]
    names = list(_names(info))
    single = len(real) == 1 and "/" not in layout.file_path(real[0])
    if len(names) != len(real):
        raise MalformedManifestError(
            where, "files", found=f"{len(names)} names of {len(real)} files", allowed="one each"
        )
    seen: set[str] = set()
    for index, parts in zip(real, names, strict=True):
        path = _judged_path(parts, where)
        known_as = layout.file_path(index)
        if path != (known_as if single else known_as.partition("/")[2]) or path.casefold() in seen:
            allowed = "a name that no other file has, in its plain form"
            raise MalformedManifestError(where, "path", found=path, allowed=allowed)
        if layout.file_flags(index) & lt.file_storage.flag_symlink:
            raise MalformedManifestError(where, path, found="a symbolic link", allowed="files")
        seen.add(path.casefold())
        root = layout.root(index)
        pieces_root = None if root.is_all_zeros() else str(root)
        yield TorrentFile(path, layout.file_size(index), pieces_root, index, layout.file_offset(index))


def _names(info: Any) -> Iterator[list[bytes]]:
    """The paths as they stand in the dictionary, padding left out, in the order of the torrent."""
    if b"files" in info:
        for entry in info[b"files"]:
            if b"p" not in entry.get(b"attr", b""):
                yield entry.get(b"path.utf-8") or entry[b"path"]
    elif b"length" in info:
        yield [info.get(b"name.utf-8") or info[b"name"]]
    else:
        yield from _tree_names(info[b"file tree"], [])


def _tree_names(tree: Any, above: list[bytes]) -> Iterator[list[bytes]]:
    for name in sorted(tree):
        if b"" in tree[name]:
            yield [*above, name]
        else:
            yield from _tree_names(tree[name], [*above, name])


def _judged_path(parts: list[bytes], where: Path | str) -> str:
    name = b"/".join(parts)
    try:
        return safe_relpath(name.decode())
    except ValueError as error:  # that it is no UTF-8 is one, too
        allowed = f"a name that every system can store ({error})"
        raise MalformedManifestError(where, "path", found=name, allowed=allowed) from error
