"""Files become a torrent, the same for whoever has the same files, so that they all join one swarm.

It depends on the content alone. It is a hybrid (BEP 52), and its `info` dictionary has exactly these keys:

    file tree     each file's size and pieces root: SHA-256 over blocks of 16 KiB, a Merkle tree
    files         the same files for v1, in the same order, with pad files between them (BEP 47), none at the end
    meta version  2
    name          the first 16 hex digits of SHA-256 over the bencoded dictionary without this key
    piece length  the smallest power of two that gives at most 1024 pieces, within 32 KiB and 16 MiB
                  (at 16 KiB, one block, libtorrent 2.1 drops honest peers once any peer sent a wrong piece)
    pieces        SHA-1 of each piece
    private       1, only where sharing is restricted (BEP 27)

Files are sorted by the bytes of their paths, part by part; a single file is a folder of one. No date, no creator, no
trackers. The v1 companion for old clients is the same dictionary without `file tree` and `meta version`: the same
pieces, so nothing is hashed twice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.errors import ChangedError, MalformedError, shown
from converters.formats import signatures
from converters.formats.signatures import Signature
from converters.input_file import InputFile
from distro.disk import files_below
from distro.errors import MalformedManifestError, NotFoundError, StorageError, UsageError
from distro.paths import safe_relpath
from distro.progress import Progress, Silent
from distro.swarm.binding import reason, require_libtorrent
from distro.swarm.torrent import Torrent, named_by_content

if TYPE_CHECKING:
    import libtorrent as lt

_SMALLEST_PIECE, _LARGEST_PIECE = 32 * 1024, 16 * 1024 * 1024  # bytes, in torrents of ours
_MOST_PIECES = 1024
_MOST_FILES = 10_000  # of one model; the largest known have some hundreds
_FOLDER = "model"  # the name of every folder while it is hashed
_ARRIVING = {".part", ".incomplete"}  # how ours and the hub's part files end


def make(
    path: Path,
    *,
    only: Collection[str] | None = None,
    piece_length: int | None = None,
    progress: Progress | None = None,
) -> Torrent:
    """The hybrid torrent of a folder or of one file.

    only: relative paths of the folder's files that count, by default all `model_files`.
    piece_length: bytes, a power of two from 32 KiB to 16 MiB; by default `piece_length_for` the total size.
    Raises NotFoundError where there is nothing to share, UsageError for a piece length that is not allowed,
    MalformedManifestError for a name that other machines could not store, MalformedError for a file whose edit was cut
    short, ChangedError if a file changed meanwhile.
    """
    require_libtorrent()
    import libtorrent as lt

    files = model_files(path, only)
    for file in files.values():
        _check_whole(file)
    before = {name: _stamp(file) for name, file in files.items()}
    total = sum(size for size, _ in before.values())
    if not total:
        raise NotFoundError(f"{shown(str(path))}: no bytes to share here")
    piece_length = _allowed(piece_length or piece_length_for(total))

    entries = [lt.create_file_entry(f"{_FOLDER}/{name}", size) for name, (size, _) in before.items()]
    flags = lt.create_torrent.canonical_files_no_tail_padding | lt.create_torrent.no_attributes
    creation = lt.create_torrent(entries, piece_length, flags)
    with (progress or Silent()).bar(f"hashing {path.name}", total) as bar:
        _hash(creation, path, bar.advance)
    for name, stamp in before.items():
        if _stamp(files[name]) != stamp:
            raise ChangedError(files[name], "size or time")

    metainfo: Any = creation.generate()
    return named_by_content(metainfo[b"info"], path, metainfo[b"piece layers"])


def piece_length_for(total: int) -> int:
    """Bytes in a piece for so many bytes in all: at most 1024 pieces, within 32 KiB and 16 MiB."""
    piece_length = _SMALLEST_PIECE
    while piece_length < _LARGEST_PIECE and total > piece_length * _MOST_PIECES:
        piece_length *= 2
    return piece_length


def model_files(path: Path, only: Collection[str] | None = None) -> dict[str, Path]:
    """The files that belong to a model, by relative path, in the order of a torrent.

    only: take these and look for no others.
    Left out: hidden files, the receipt, part files, links that lead out of the folder, whatever is no regular file.
    A path that is a file is a folder of one.
    Raises NotFoundError, MalformedManifestError for a name that other machines could not store or that lies too deep,
    UsageError for too many files.
    """
    if path.is_file():
        return {_judged_name(path.name, path): path}
    if not path.is_dir():
        raise NotFoundError(f"{shown(str(path))}: no such file or folder")
    if only is not None:
        return {_judged_name(name, path): path / name for name in sorted(only, key=_torrent_order)}
    root, found = path.resolve(), dict[str, Path]()
    for file in files_below(path):
        if _belongs(file, path, root):
            found[_judged_name(file.relative_to(path).as_posix(), path)] = file
        if len(found) > _MOST_FILES:
            raise UsageError(f"{shown(str(path))}: more than {_MOST_FILES} files; name the folder of one model")
    return {name: found[name] for name in sorted(found, key=_torrent_order)}


def _judged_name(name: str, path: Path) -> str:
    try:
        return safe_relpath(name)
    except ValueError as error:
        allowed = f"a name that every system can store ({error})"
        raise MalformedManifestError(path, "file name", found=name, allowed=allowed) from error


def _belongs(file: Path, folder: Path, root: Path) -> bool:
    if file.suffix in _ARRIVING or file == folder / "receipt.json":
        return False
    return file.resolve().is_relative_to(root)


def _torrent_order(name: str) -> list[bytes]:
    return [part.encode(errors="surrogateescape") for part in name.split("/")]


def _check_whole(file: Path) -> None:
    """Raise MalformedError for a GGUF file in which the old and the new header are mixed (`distro.redo`)."""
    with InputFile(file) as opened:
        head = opened.read(0, min(signatures.LENGTH, opened.size), "file")
    if signatures.of(head) is Signature.HALF_EDITED:
        found = Signature.HALF_EDITED.value
        raise MalformedError(file, "file", offset=0, found=found, allowed="files that may be passed on")


def _allowed(piece_length: int) -> int:
    if not _SMALLEST_PIECE <= piece_length <= _LARGEST_PIECE or piece_length & (piece_length - 1):
        raise UsageError(f"piece length: {piece_length} bytes, allowed are powers of two from 32 KiB to 16 MiB")
    return piece_length


def _stamp(file: Path) -> tuple[int, int]:
    """(size in bytes, time of change in nanoseconds)"""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _hash(creation: lt.create_torrent, path: Path, advance: Callable[[int], None]) -> None:
    """Let libtorrent read and hash everything; advance gets the bytes of each piece, padding included."""
    import libtorrent as lt

    folder = (path.parent if path.is_file() else path).resolve()
    with tempfile.TemporaryDirectory(prefix="distro-") as parent:
        # libtorrent wants the folder's name as the first part of every path, and ours may be any name: a link helps.
        (Path(parent) / _FOLDER).symlink_to(folder)
        try:
            lt.set_piece_hashes(creation, parent, lambda index: advance(creation.piece_size(index)))
        except RuntimeError as error:
            raise StorageError(f"{shown(str(path))}: could not be read to the end: {reason(error)}") from error
