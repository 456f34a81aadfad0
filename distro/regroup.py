"""GGUF files divided and joined: the same keys and tensors in other files, byte for byte, without opening the model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from converters.errors import RefusedError, shown
from converters.formats import gguf_split
from converters.formats.gguf_shards import Shard, open_shards, prefix_of
from converters.layout import OutputFile
from distro.progress import Progress
from distro.result import Result
from distro.store import Store


def split(
    store: Store,
    source: Path,
    folder: Path,
    *,
    max_bytes: int | None = None,
    max_tensors: int | None = None,
    tensors_from_second: bool = False,
    progress: Progress,
) -> tuple[Path, ...]:
    """Divide a model into shards in a new folder, by bytes of tensors or by their number in each.

    tensors_from_second: the first shard has the keys alone. A model that is in shards already is divided anew. Gives
    the files, first one first. Raises as `open_shards` and the store do, RefusedError for too many shards and for a
    folder in the store.
    """
    store.refuse_inside(folder)
    with ExitStack() as stack:
        shards = _opened(source, stack)
        infos = [info for shard in shards for info, _ in shard.header.tensors]
        if max_bytes is not None:
            groups = gguf_split.groups_by_size(infos, max_bytes)
        else:
            groups = gguf_split.groups_by_count(infos, max_tensors or len(infos))
        if tensors_from_second:
            groups.insert(0, [])
        files = gguf_split.split(shards, prefix_of(source.name), groups)
        with store.result(folder) as result:
            _fill(shards, files, result, progress)
    return tuple(folder / file.path for file in files)


def merge(store: Store, source: Path, target: Path, *, keep_split_keys: bool = False, progress: Progress) -> Path:
    """Join the shards of a model, of which source is any, into one file.

    keep_split_keys: as llama-gguf-split leaves them. Raises as `open_shards` and the store do, RefusedError for shards
    of different byte orders and for a target in the store.
    """
    store.refuse_inside(target)
    with ExitStack() as stack:
        shards = _opened(source, stack)
        file = gguf_split.merge(shards, target.name, keep_split_keys=keep_split_keys)
        with store.result(target, single_file=True) as result:
            _fill(shards, (file,), result, progress)
    return target


def _opened(source: Path, stack: ExitStack) -> tuple[Shard, ...]:
    shards = open_shards(source)
    for shard in shards:
        stack.callback(shard.file.close)
        order, expected = shard.header.dialect.byte_order, shards[0].header.dialect.byte_order
        if order != expected:
            raise RefusedError(f"{shown(str(shard.path))}: is {order}-endian, the first shard is {expected}-endian")
    return shards


def _fill(shards: Sequence[Shard], files: Sequence[OutputFile], result: Result, progress: Progress) -> None:
    """Copy every tensor to its new place, and publish."""
    places = {info.name: (shard.file, offset) for shard in shards for info, offset in shard.header.tensors}
    outputs = [result.create(file.path, file.size) for file in files]
    with progress.bar("copy", sum(file.size for file in files)) as bar:
        for file, output in zip(files, outputs, strict=True):
            output.write_at(0, file.head)
            bar.advance(len(file.head))
            for placed in file.tensors:
                source, offset = places[placed.source]
                output.copy(source, offset, placed.offset_in_file, placed.info.n_bytes, bar.advance)
    for shard in shards:
        shard.file.check_unchanged()
    result.publish()
