"""The weights of a Hugging Face folder: which files they are in, and each tensor in the one file that should have it.

    model.safetensors               all weights, or in shards model-00001-of-00002.safetensors with
    model.safetensors.index.json    {"metadata": {"total_size": bytes}, "weight_map": {tensor: shard}}
    pytorch_model.bin               the same in PyTorch's format, with pytorch_model.bin.index.json

Where both kinds are there, safetensors are taken. `modeling_utils.py` and `utils/hub.py` of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from converters import json_file
from converters.errors import MalformedError, MissingError
from converters.fields import Fields
from converters.folder import inside, is_file_name
from converters.formats import pytorch, safetensors
from converters.input_file import InputFile, Opener
from converters.tensors import FileTensor

_LARGEST_INDEX = 64 << 20
# Each stays open while the model is, and a process may have 1024 files open on many systems.
MOST_SHARDS = 512
# By format: the one file, the index, the ending of shards. The first that is there is taken.
_WEIGHTS = {
    "safetensors": ("model.safetensors", "model.safetensors.index.json", ".safetensors"),
    "pytorch": ("pytorch_model.bin", "pytorch_model.bin.index.json", ".bin"),
}


@dataclass(frozen=True)
class Weights:
    """Where the tensors are.

    shards: file names. index: the file that names them, if there is one. where: the shard of each tensor that it
    names. total_size: bytes of all tensors, as it says.
    """

    format: str
    shards: tuple[str, ...]
    index: Path | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    total_size: int | None = None
    warnings: tuple[str, ...] = ()


def in_file(path: Path) -> Weights:
    """One file as all the weights, whatever it is called."""
    return Weights("safetensors" if safetensors.sniff(path) else "pytorch", (path.name,))


def are_in(folder: Path) -> bool:
    """Whether there are weights in a folder under one of the names that transformers looks for."""
    return any((folder / name).exists() for single, index, _ in _WEIGHTS.values() for name in (single, index))


def find(folder: Path) -> Weights:
    """The folder's weights by the names that transformers looks for.

    Raises MissingError where there are none or a shard is missing, MalformedError for an index that lies.
    """
    there = {
        kind: [name for name in (single, index) if (folder / name).exists()]
        for kind, (single, index, _) in _WEIGHTS.items()
    }
    for kind, names in there.items():
        if len(names) > 1:
            raise MalformedError(folder, "weights", found=" and ".join(names), allowed="one of them")
        if names:
            weights = from_index(folder / names[0], kind) if names[0].endswith(".json") else Weights(kind, (names[0],))
            unused = "".join(name for other, more in there.items() if other != kind for name in more)
            return _warned(weights, f"{unused} is not read, {names[0]} is there") if unused else weights
    expected = ", ".join(name for single, index, _ in _WEIGHTS.values() for name in (single, index))
    raise MissingError(folder, f"no weights; one of {expected} was expected")


def _warned(weights: Weights, warning: str) -> Weights:
    return replace(weights, warnings=(*weights.warnings, warning))


def from_index(path: Path, kind: str) -> Weights:
    """The shards that an index names: plain file names of its own kind, all of them there.

    Raises MissingError, MalformedError for an index that lies.
    """
    folder, ending = path.parent, _WEIGHTS[kind][2]
    fields = Fields(path, json_file.read(path, max_bytes=_LARGEST_INDEX), "/")
    section = fields.section("weight_map")
    if section is None or not section.values:
        raise fields.error("weight_map", "nothing", "an object of tensors and their shards")
    where = {}
    for name in section.values:
        shard = section.string(name)
        if not is_file_name(shard) or not shard.endswith(ending):
            raise section.error(_pointer(name), shard, f"the plain name of a {ending} file")
        where[name] = shard
    shards = tuple(sorted(set(where.values())))
    if len(shards) > MOST_SHARDS:
        raise fields.error("weight_map", f"{len(shards)} shards", f"at most {MOST_SHARDS}")
    for shard in shards:
        if not (folder / shard).exists():
            raise MissingError(folder / shard, f"a shard that {path.name} names")
    weights = Weights(kind, shards, path, where, _total_size(fields))
    stray = sorted(file.name for file in folder.glob(f"*-of-*{ending}") if file.name not in shards)
    return _warned(weights, f"{stray[0]} is not read, {path.name} does not name it") if stray else weights


def _total_size(fields: Fields) -> int | None:
    """`metadata.total_size`; transformers wrote it as a float where tensors of booleans were among the weights."""
    metadata = fields.section("metadata")
    if metadata is None or "total_size" not in metadata:
        return None
    if isinstance(metadata.values["total_size"], float):
        return int(metadata.number("total_size", maximum=2.0**62))
    return metadata.integer("total_size", minimum=0, maximum=2**63 - 1)


def _pointer(key: str) -> str:
    """A key as part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def read(
    stack: ExitStack, opener: Opener, folder: Path, weights: Weights
) -> tuple[dict[str, FileTensor], tuple[InputFile, ...]]:
    """All tensors by the names in the files; each must be in the one shard that the index says."""
    tensors: dict[str, FileTensor] = {}
    files = []
    for shard in weights.shards:
        file = stack.enter_context(opener(inside(folder, shard)))
        files.append(file)
        if weights.format == "safetensors":
            part: Mapping[str, FileTensor] = safetensors.read_header(file).tensors
        else:
            part = pytorch.read_tensors(file)
        for name, tensor in part.items():
            if name in tensors:
                raise MalformedError(
                    file.path, name, found="it again", allowed=f"it in {tensors[name].file.path.name} alone"
                )
            if weights.index is not None and weights.where.get(name) != shard:
                allowed = f"what {weights.index.name} says of this shard"
                raise MalformedError(file.path, name, found="a tensor out of place", allowed=allowed)
            tensors[name] = tensor
    for name, shard in weights.where.items():
        if name not in tensors:
            raise MalformedError(
                folder / shard, name, found="no such tensor", allowed="what the index says of this shard"
            )
    return tensors, tuple(files)
