"""Keys of a GGUF file changed for kilobytes of writing: in place where they fit, or in a file that shares the weights.

`converters.formats.gguf_edit` says what the new head is; here it gets onto the disk, safe from crashes: in place by
`distro.redo`, as a new file by the store. What the store or a hub cache has proven is not touched.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from converters.errors import ConversionError, RefusedError, shown
from converters.formats import gguf, gguf_edit
from converters.formats.gguf_header import Header, read_header
from converters.formats.gguf_shards import COUNT, Shard
from converters.input_file import InputFile
from distro import disk, redo
from distro.errors import StorageError, UsageError
from distro.progress import Progress
from distro.store import Store


@dataclass(frozen=True)
class Edited:
    """What became of an edit. written: bytes; of a new file those that it does not share with the old one."""

    path: Path
    in_place: bool
    written: int


def edit(
    store: Store,
    path: Path,
    changes: Mapping[str, str | None],
    type_name: str | None = None,
    *,
    output: Path | None = None,
    force: bool = False,
    progress: Progress,
) -> Edited:
    """Set and remove keys of a GGUF file; changes, type_name and force as `gguf_edit.changed` has them.

    output: a new file, the old one stays as it is. Raises UsageError for a file that is not the user's own,
    RefusedError for a key that may not be changed or without which the model would no longer open and for an output in
    the store, and what reading and writing raise.
    """
    if output is None:
        _refuse_place(path)
    else:
        store.refuse_inside(output)
    _finish(path)
    with InputFile(path) as file, _alone(file):
        header = read_header(file)
        edited = gguf_edit.changed(header, changes, type_name, force=force)
        if not force:
            _check_still_opens(Shard(file, header), edited)
        head = gguf_edit.fitted(edited, changes)
        file.check_unchanged()
        if output is None and head is not None and path.stat().st_nlink == 1:
            return Edited(path, True, redo.overwrite(path, file.read(0, header.data_offset, "header"), head))
        return _rewritten(store, file, edited, changes, output or path, replaces=output is None, progress=progress)


def finish(path: Path) -> bool:
    """Complete an edit in place that was cut short, if there was one; gives whether there was.

    Raises as `edit` does, MalformedError for a file that is no GGUF file, or whose record is lost.
    """
    was_left = _finish(path)
    with InputFile(path) as file:
        read_header(file, allow_trailing=True)
    return was_left


def _finish(path: Path) -> bool:
    if path.is_symlink():  # what it leads to may be others', and is edited under its own name
        return False
    with InputFile(path) as file, _alone(file):
        return redo.finish(path)


def _refuse_place(path: Path) -> None:
    way_out = "-o OUT writes a file of your own"
    if path.is_symlink():
        raise UsageError(f"{shown(str(path))}: is a link to a file that others may use; {way_out}")
    place = path.resolve()
    if any((folder / "receipt.json").exists() for folder in place.parents):
        raise UsageError(f"{shown(str(path))}: is in a store, with a receipt that says what it is; {way_out}")
    if place.parent.name == "blobs" and (place.parent.parent / "snapshots").exists():
        raise UsageError(f"{shown(str(path))}: is in a hub cache, where its name is its digest; {way_out}")
    if place.parent.name == "blobs" and place.name.startswith(("sha256-", "sha256:")):
        raise UsageError(f"{shown(str(path))}: is in Ollama's store, where its name is its digest; {way_out}")


@contextmanager
def _alone(file: InputFile) -> Iterator[None]:
    """While this lasts, nobody else edits the file by us; where locks do not work, the last one wins."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StorageError(f"{shown(str(file.path))}: is being edited by another process") from None
    except OSError:  # a file system without locks
        pass
    yield


def _check_still_opens(shard: Shard, edited: Header) -> None:
    """Raise RefusedError if this is a model that opens, and would open no more."""
    if shard.fields.integer(COUNT, minimum=0, default=0) > 1:
        return  # it opens only together with the others
    try:
        gguf.checkpoint_of((shard,))
    except ConversionError:
        return  # of a kind that we do not open, so there is nothing to compare with
    try:
        gguf.checkpoint_of((replace(shard, header=edited),))
    except ConversionError as error:
        raise RefusedError(f"{error}; --force changes it all the same") from error


def _rewritten(
    store: Store,
    file: InputFile,
    edited: Header,
    changes: Mapping[str, str | None],
    target: Path,
    *,
    replaces: bool,
    progress: Progress,
) -> Edited:
    """A new file: another head, then the weights, which it shares with the old one where the file system can."""
    head = gguf_edit.moved(edited, changes)
    start, end = edited.data_offset, edited.data_end
    # Up to the first whole block the weights are copied, from there on they may be shared.
    first = min(end, start + -start % gguf_edit.SHARED_BLOCK)
    moved, size = len(head) - start, len(head) + end - start
    with store.result(target, single_file=True, replace=replaces) as result:
        output = result.create(target.name, size, shared=end - first)
        output.write_at(0, head)
        with progress.bar(f"copy {file.path.name}", end - start) as bar:
            output.copy(file, start, len(head), first - start, bar.advance)
            shares = first < end and output.share(file, first, first + moved)
            if not shares:
                disk.check_space(end - first, target.absolute().parent)
                output.copy(file, first, first + moved, end - first, bar.advance)
        file.check_unchanged()
        result.publish()
    return Edited(target, False, first + moved if shares else size)
