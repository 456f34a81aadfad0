"""GGUF files laid out: one, or a model's tensors divided over several as llama-gguf-split divides them.

A tensor is never cut. The first shard has all keys, the others those of `gguf_shards` alone, in the order in which
llama-gguf-split leaves them (tools/gguf-split in llama.cpp), so that the same division gives the same bytes. Joined
again, these keys are gone and the file is what it was; llama-gguf-split leaves them in, with a count of 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from converters.errors import RefusedError
from converters.formats.gguf_dialect import Dialect
from converters.formats.gguf_header import ALIGNMENT, pack_header, padded
from converters.formats.gguf_shards import COUNT, KEYS, MOST_SHARDS, NO, TENSORS_COUNT, Shard, shard_name
from converters.layout import OutputFile, PlacedTensor
from converters.tensors import TensorInfo

_THIS = Dialect()


def groups_by_size(infos: Iterable[TensorInfo], max_bytes: int) -> list[list[TensorInfo]]:
    """In their order, as many in each group as have max_bytes together, padded, or one that alone has more."""
    groups: list[list[TensorInfo]] = [[]]
    size = 0
    for info in infos:
        n_bytes = padded(info.n_bytes, ALIGNMENT)
        if groups[-1] and size + n_bytes > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(info)
        size += n_bytes
    return groups


def groups_by_count(infos: Sequence[TensorInfo], count: int) -> list[list[TensorInfo]]:
    """In their order, so many in each group."""
    return [list(infos[start : start + count]) for start in range(0, len(infos), count)] or [[]]


def lay_out_file(
    path: str, metadata: Mapping[str, object], infos: Iterable[TensorInfo], dialect: Dialect = _THIS
) -> OutputFile:
    """A file with these keys and tensors; a tensor is filled by the one of its name."""
    said = metadata.get("general.alignment")
    alignment = int(said) if isinstance(said, (int, np.integer)) else ALIGNMENT
    listed, end = [], 0
    for info in infos:
        listed.append((info, end))
        end = padded(end + info.n_bytes, alignment)
    head = pack_header(metadata, listed, alignment, dialect)
    swap = dialect.byte_order == "big"
    tensors = tuple(PlacedTensor(info, info.name, len(head) + offset, swap=swap) for info, offset in listed)
    return OutputFile(path, len(head) + end, head, tensors)


def lay_out_shards(
    prefix: str, metadata: Mapping[str, object], groups: Sequence[Sequence[TensorInfo]], dialect: Dialect = _THIS
) -> tuple[OutputFile, ...]:
    """A file for each group. Raises RefusedError for more than may be opened at once."""
    count, n_tensors = len(groups), sum(map(len, groups))
    if count > MOST_SHARDS:
        raise RefusedError(f"{prefix}: {count} shards, allowed at most {MOST_SHARDS}; let each hold more")
    files = []
    for index, infos in enumerate(groups):
        own = {NO: np.uint16(index), TENSORS_COUNT: np.int32(n_tensors), COUNT: np.uint16(count)}
        said = _without_split_keys(metadata) if index == 0 else {}
        files.append(lay_out_file(shard_name(prefix, index, count), said | own, infos, dialect))
    return tuple(files)


def split(shards: Sequence[Shard], prefix: str, groups: Sequence[Sequence[TensorInfo]]) -> tuple[OutputFile, ...]:
    """The model in these files divided otherwise, in its byte order and version 3."""
    header = shards[0].header
    return lay_out_shards(prefix, header.exact_metadata, groups, Dialect(byte_order=header.dialect.byte_order))


def merge(shards: Sequence[Shard], path: str, *, keep_split_keys: bool = False) -> OutputFile:
    """The model in one file. keep_split_keys: as llama-gguf-split leaves them, for the same bytes as its."""
    header = shards[0].header
    metadata = header.exact_metadata
    if keep_split_keys and COUNT in metadata:
        del metadata[COUNT]  # it moves to the end
        metadata[COUNT] = np.uint16(0)
    elif not keep_split_keys:
        metadata = _without_split_keys(metadata)
    infos = (info for shard in shards for info, _ in shard.header.tensors)
    return lay_out_file(path, metadata, infos, Dialect(byte_order=header.dialect.byte_order))


def _without_split_keys(metadata: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in metadata.items() if key not in KEYS}
