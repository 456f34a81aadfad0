"""A model in several GGUF files, as llama-gguf-split and gguf-py write them, opened as one.

    name-00001-of-00005.gguf    all keys of the model, and its first tensors (or none)
    name-00002-of-00005.gguf    more tensors; of keys these three alone, which the first has too:
        split.no u16            which one it is, from 0
        split.count u16         how many there are; 0 in a file that llama-gguf-split has merged
        split.tensors.count i32 tensors in all of them together

The others are found by their names in the folder of the one that is named. tools/gguf-split in llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from converters.byte_order import SwappedTensor
from converters.errors import MalformedError, MissingError, UnsupportedError, shown
from converters.fields import Fields
from converters.folder import beside, inside
from converters.formats.gguf_header import Header, read_header
from converters.formats.gguf_values import packed_value
from converters.input_file import InputFile, Opener
from converters.tensors import StoredTensor, Tensor

NO, COUNT, TENSORS_COUNT = "split.no", "split.count", "split.tensors.count"
KEYS = (NO, COUNT, TENSORS_COUNT)
# Each stays open while the model is, and a process may have 1024 files open on many systems.
MOST_SHARDS = 512

_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)
_OF_THE_FILE = {*KEYS, "general.alignment"}
_MOST_SHOWN = 4


@dataclass(frozen=True)
class Shard:
    """One file of a model, or the only one; open until somebody closes its file."""

    file: InputFile
    header: Header

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def fields(self) -> Fields:
        return Fields(self.path, self.header.metadata)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, as rows of little-endian numbers."""
        stored = (StoredTensor(info, self.file, offset) for info, offset in self.header.tensors)
        if self.header.dialect.byte_order == "big":
            return {each.info.name: SwappedTensor(each) for each in stored}
        return {each.info.name: each for each in stored}


def shard_name(prefix: str, number: int, count: int) -> str:
    """What shard `number`, counted from 0, of `count` is called."""
    return f"{prefix}-{number + 1:05}-of-{count:05}.gguf"


def prefix_of(name: str) -> str:
    """The name of a model's file without `.gguf` and without which shard it is."""
    match = _NAME.fullmatch(name)
    return match["prefix"] if match else name.removesuffix(".gguf")


def holds_models(folder: Path) -> bool:
    """Whether a folder has GGUF files, and is not another format's model with such files beside it.

    A config.json alone makes no other model: those who publish GGUF files often leave it there.
    """
    is_other = any((folder / name).exists() for name in ("config.json", "params.json"))
    others = (path for ending in ("safetensors", "bin", "pth") for path in folder.glob(f"*.{ending}"))
    return any(folder.glob("*.gguf")) and not (is_other and any(others))


def only_model(folder: Path) -> Path:
    """The first file of the one model in a folder.

    Raises UnsupportedError for several, MissingError for none, UnsafeError for a link that leaves the folder.
    """
    names = sorted((path.name for path in folder.glob("*.gguf")), reverse=True)
    models = {prefix_of(name): name for name in names}
    if not models:
        raise MissingError(folder / "*.gguf", "a GGUF model was expected here")
    if len(models) > 1:
        more = f" and {len(models) - _MOST_SHOWN} more" if len(models) > _MOST_SHOWN else ""
        found = f"{', '.join(sorted(models)[:_MOST_SHOWN])}{more}"
        raise UnsupportedError(folder, "folder", found=found, allowed="one GGUF model; name the file that is meant")
    return inside(folder, next(iter(models.values())))


def open_shards(path: Path, opener: Opener = InputFile, *, allow_trailing: bool = False) -> tuple[Shard, ...]:
    """The files of a model in their order, of which `path` is any; all are open, and judged together.

    allow_trailing: as `read_header` has it. Raises MalformedError naming the shard and the key or tensor, MissingError
    naming a shard that is not there, UnsupportedError for names that do not tell the others' names, UnsafeError for a
    shard that is a link to somewhere else than the one that was named.
    """
    with ExitStack() as stack:

        def opened(path: Path) -> Shard:
            file = stack.enter_context(opener(path))
            return Shard(file, read_header(file, allow_trailing=allow_trailing))

        named = opened(path)
        count = named.fields.integer(COUNT, minimum=0, default=1)
        if count <= 1:
            shards: tuple[Shard, ...] = (named,)
        else:
            names = _names(named, count)
            _check_number(named, names.index(path.name), count)
            try:
                shards = tuple(named if name == path.name else opened(beside(path, name)) for name in names)
            except MissingError as error:
                raise MissingError(error.path, f"{shown(path.name)} is of the same model") from error
            for index, shard in enumerate(shards):
                _check_number(shard, index, count)
                _check_keys(shards[0], shard)
        _check_tensors(shards)
        stack.pop_all()
    return shards


def _names(shard: Shard, count: int) -> list[str]:
    """What all of them are called, from the name of one."""
    match = _NAME.fullmatch(shard.path.name)
    if match is None:
        allowed = f"a name such as {shard_name(prefix_of(shard.path.name), 0, count)}, which tells the others' names"
        raise UnsupportedError(shard.path, COUNT, found=f"a shard of {count}", allowed=shown(allowed))
    if int(match["count"]) != count:
        raise MalformedError(shard.path, COUNT, found=count, allowed=f"{int(match['count'])}, as its name has it")
    if count > MOST_SHARDS:
        raise UnsupportedError(shard.path, COUNT, found=count, allowed=f"at most {MOST_SHARDS} shards")
    names = [shard_name(match["prefix"], index, count) for index in range(count)]
    if shard.path.name not in names:
        raise MalformedError(shard.path, NO, found=f"a name with {match['number']}", allowed=f"00001 to {count:05}")
    return names


def _check_number(shard: Shard, index: int, count: int) -> None:
    for key, expected in ((COUNT, count), (NO, index)):
        found = shard.fields.integer(key, minimum=0)
        if found != expected:
            raise MalformedError(shard.path, key, found=found, allowed=f"{expected}, as its name has it")


def _check_keys(first: Shard, shard: Shard) -> None:
    """The model is what its first file says; what another repeats of that must be the same."""
    for key, entry in shard.header.entries.items():
        if key in _OF_THE_FILE or key not in first.header.entries:
            continue
        said = first.header.entries[key]
        if packed_value(key, entry.exact) != packed_value(key, said.exact):
            allowed = f"{shown(said.value)}, as in {shown(first.path.name)}"
            raise MalformedError(shard.path, key, offset=entry.value_offset, found=entry.value, allowed=allowed)


def _check_tensors(shards: Sequence[Shard]) -> None:
    """Each tensor in one shard, and as many in all as each shard says."""
    holders: dict[str, Shard] = {}
    for shard in shards:
        for info, offset in shard.header.tensors:
            if info.name in holders:
                found = f"also in {holders[info.name].path.name}"
                raise MalformedError(shard.path, info.name, offset=offset, found=found, allowed="each tensor once")
            holders[info.name] = shard
    for shard in shards:
        total = shard.fields.integer(TENSORS_COUNT, minimum=0, default=len(holders))
        if total != len(holders):
            found = f"{total}, and {len(holders)} tensors in {len(shards)} file{'s' if len(shards) > 1 else ''}"
            raise MalformedError(shard.path, TENSORS_COUNT, found=found, allowed="as many as there are")
