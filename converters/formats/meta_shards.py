"""The files of weights of a release by Meta or Mistral, and the tensors that are divided over them.

    consolidated.00.pth …    as many as GPUs it was made for; each has every name, and of most tensors a part
    consolidated.safetensors Mistral's, whole
    consolidated-00001-of-00051.safetensors …   Mistral's larger ones, each tensor whole in one of them
    consolidated.safetensors.index.json         which one, as `converters.formats.huggingface_weights` has it

Which part is said by the architecture: rows, columns, or all of it (norms; they must be the same everywhere). Two
tensors are less plain:

- the embedding lies by columns in LLaMA 1, Llama 2 and Code Llama and by rows since Llama 3. A part with all of dim's
  columns is one of rows; with more than one shard it cannot be both.
- keys and values where there are fewer of their heads than shards: n shards have each head, one after another.

`examples/convert_legacy_llama.py` of llama.cpp in its last version, `convert_llama_weights_to_hf.py` of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from converters import dtypes
from converters.architectures.base import Architecture
from converters.errors import MalformedError, MissingError, UnsupportedError
from converters.folder import inside
from converters.formats import huggingface_weights, pytorch, safetensors
from converters.hyperparameters import HyperParameters
from converters.input_file import InputFile, Opener
from converters.joined_tensors import ReplicatedTensor, SideBySideTensor, StackedTensor
from converters.tensors import FileTensor, RenamedTensor, Tensor

EMBEDDING, OUTPUT = "tok_embeddings.weight", "output.weight"
SAFETENSORS = "consolidated.safetensors"
INDEX = f"{SAFETENSORS}.index.json"

_SHARD = re.compile(r"consolidated\.([0-9]{2})\.pth")
_INDEXED = re.compile(r"consolidated-[0-9]{5}-of-[0-9]{5}\.safetensors")
_MOST_SHARDS = 64
_WEIGHTS = (dtypes.F32, dtypes.F16, dtypes.BF16)
# LLaMA 1 and 2 hold the rotary frequencies, which follow from params.json.
_DERIVED = "rope.freqs"
_KEYS_AND_VALUES = (".attn_k.weight", ".attn_v.weight")


def find(path: Path) -> tuple[Path, ...]:
    """The files of weights of a folder, in order, or the index of them; for one of them all that belong to it.

    Raises MissingError where there are none, or where one is missing between others; MalformedError for two formats.
    """
    folder = path if path.is_dir() else path.parent
    if _INDEXED.fullmatch(path.name) and not path.is_dir():
        return (inside(folder, INDEX),)
    if not path.is_dir() and _SHARD.fullmatch(path.name) is None:
        return (path,)
    numbers = sorted(int(match[1]) for each in folder.iterdir() if (match := _SHARD.fullmatch(each.name)))
    if path.is_dir():
        there = [name for name in (SAFETENSORS, INDEX) if (folder / name).exists()]
        found = there + [shard_name(number) for number in numbers[:1]]
        if there and len(found) > 1:
            raise MalformedError(folder, "weights", found=" and ".join(found), allowed="one of them")
        if there:
            return (inside(folder, there[0]),)
    if not numbers:
        expected = f"no weights; it, {SAFETENSORS} or {INDEX} was expected"
        raise MissingError(folder / shard_name(0), expected)
    for number in range(numbers[-1]):
        if number not in numbers:
            raise MissingError(folder / shard_name(number), f"a shard before {shard_name(numbers[-1])}")
    if len(numbers) > _MOST_SHARDS:
        raise MalformedError(folder, "weights", found=f"{len(numbers)} shards", allowed=f"at most {_MOST_SHARDS}")
    return tuple(inside(folder, shard_name(number)) for number in numbers)


def shard_name(number: int) -> str:
    return f"consolidated.{number:02d}.pth"


@dataclass(frozen=True)
class Shard:
    """A part of each tensor, by Meta's names. files: that they are in, one unless an index names more."""

    files: tuple[InputFile, ...]
    tensors: Mapping[str, FileTensor]

    @property
    def path(self) -> Path:
        """Of its first file."""
        return self.files[0].path


def read(stack: ExitStack, opener: Opener, paths: Sequence[Path]) -> tuple[Shard, ...]:
    """All shards, open in the stack; each has the same names, and the same types. Raises what the formats raise."""
    shards = []
    for path in paths:
        files, tensors = _read(stack, opener, path)
        shards.append(Shard(files, {name: each for name, each in tensors.items() if not name.endswith(_DERIVED)}))
    first = shards[0]
    for shard in shards[1:]:
        for name in first.tensors.keys() ^ shard.tensors.keys():
            lacking = shard if name in first.tensors else first
            raise MalformedError(lacking.path, name, found="no such tensor", allowed="the same names in all shards")
        for name, tensor in shard.tensors.items():
            dtype = first.tensors[name].info.dtype
            if tensor.info.dtype != dtype:
                allowed = f"{dtype}, as in {first.path.name}"
                raise MalformedError(shard.path, name, found=f"type {tensor.info.dtype}", allowed=allowed)
    return tuple(shards)


def _read(stack: ExitStack, opener: Opener, path: Path) -> tuple[tuple[InputFile, ...], Mapping[str, FileTensor]]:
    """What is in one file, or in all that an index names."""
    if path.name == INDEX:
        tensors, files = huggingface_weights.read(
            stack, opener, path.parent, huggingface_weights.from_index(path, "safetensors")
        )
        return files, tensors
    file = stack.enter_context(opener(path))
    return (file,), safetensors.read_header(file).tensors if safetensors.sniff(path) else pytorch.read_tensors(file)


def embedding(shards: Sequence[Shard]) -> tuple[int, dtypes.DType]:
    """Numbers in the whole embedding, and their type. Raises MalformedError where there is none."""
    parts = _parts(shards, EMBEDDING, "an embedding")
    return sum(part.info.n_weights for part in parts), parts[0].info.dtype


def is_tied(shards: Sequence[Shard]) -> bool:
    """Whether the output matrix is the embedding itself: the same place of every file under two names."""
    both = [(shard.tensors.get(EMBEDDING), shard.tensors.get(OUTPUT)) for shard in shards]
    return all(one and other and replace(one, info=replace(one.info, name=OUTPUT)) == other for one, other in both)


def join(
    architecture: Architecture, parameters: HyperParameters, shards: Sequence[Shard]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The model's tensors, whole, by GGUF name, and what was left out, in words.

    Rows of q and k stay as they are: Meta's order is GGUF's. Raises MissingError for a last shard that is not there,
    MalformedError naming the tensor and the shard, UnsupportedError for types that we do not read.
    """
    shapes = architecture.shapes(parameters)
    names = architecture.meta_names(parameters)
    _check_count(shapes["blk.0.attn_q.weight"], _parts(shards, names["blk.0.attn_q.weight"], "the first layer's q"))
    tensors: dict[str, Tensor] = {}
    for ours, theirs in names.items():
        shape = shapes[ours]
        parts = _parts(shards, theirs, f"a part of shape {shape}")
        tensors[ours] = RenamedTensor(_joined(parts, ours, shape, architecture.meta_axis(ours), parameters), ours)
    dropped: list[str] = []
    for name in shards[0].tensors.keys() - set(names.values()):
        if name == OUTPUT and parameters.tied_embeddings:
            if not is_tied(shards):
                dropped.append(f"{name} is not read: by params.json (tied_embeddings) the embedding is the output")
        else:
            allowed = f"the tensors of a {architecture.NAME} of {parameters.n_layers} layers"
            raise MalformedError(shards[0].path, name, found="an unknown tensor", allowed=allowed)
    return tensors, tuple(dropped)


def _parts(shards: Sequence[Shard], name: str, allowed: str) -> tuple[FileTensor, ...]:
    if name not in shards[0].tensors:
        raise MalformedError(shards[0].path, name, found="no such tensor", allowed=allowed)
    return tuple(shard.tensors[name] for shard in shards)


def _check_count(shape: tuple[int, ...], parts: Sequence[FileTensor]) -> None:
    """Whether there are as many shards as the rows of q were divided over, if the first of them can tell."""
    first = parts[0].info
    n_rows, here = shape[0], first.shape[0] if first.shape[1:] == shape[1:] else 0
    n_shards = n_rows // here if here and n_rows % here == 0 else len(parts)
    by_shape = f"by the shape of {first.name} there are {n_shards} shards"
    if n_shards > len(parts):
        raise MissingError(parts[0].file.path.parent / shard_name(len(parts)), by_shape)
    if n_shards < len(parts):
        raise MalformedError(parts[n_shards].file.path, "file", found="one shard more", allowed=by_shape)


def _joined(
    parts: tuple[FileTensor, ...], ours: str, shape: tuple[int, ...], axis: int | None, parameters: HyperParameters
) -> Tensor:
    """One tensor out of its parts, which are judged by the shape of the whole."""
    n_shards, copies = len(parts), 1
    dim, head_dim = parameters.dim, parameters.head_dim
    if ours == "token_embd.weight" and parts[0].info.shape[-1:] != (dim,):
        axis = 1
    if ours.endswith(_KEYS_AND_VALUES) and parts[0].info.shape == (head_dim, dim):
        copies = max(1, n_shards // parameters.n_kv_heads)
    expected = shape if axis is None else _part_of(shape, axis, n_shards // copies)
    for part in parts:
        _check(part, expected, shape, n_shards)
    if n_shards == 1:
        return parts[0]
    if axis is None:
        return _checked(ReplicatedTensor(parts))
    if axis == 1:
        return SideBySideTensor(parts)
    return StackedTensor(
        parts if copies == 1 else tuple(ReplicatedTensor(parts[n : n + copies]) for n in range(0, n_shards, copies))
    )


def _part_of(shape: tuple[int, ...], axis: int, n_shards: int) -> tuple[int, ...] | None:
    """The shape of each part; None where they cannot be equal."""
    if shape[axis] % n_shards:
        return None
    return tuple(length // n_shards if each == axis else length for each, length in enumerate(shape))


def _check(part: FileTensor, expected: tuple[int, ...] | None, shape: tuple[int, ...], n_shards: int) -> None:
    info = part.info
    if info.shape != expected:
        whole = f"an equal part of {shape}, one of {n_shards}" if expected is None or expected != shape else f"{shape}"
        allowed = whole if expected in (None, shape) else f"{expected}, {whole}"
        raise MalformedError(part.file.path, info.name, found=f"shape {info.shape}", allowed=allowed)
    if info.dtype not in _WEIGHTS:
        allowed = ", ".join(dtype.name for dtype in _WEIGHTS)
        raise UnsupportedError(part.file.path, info.name, found=f"type {info.dtype}", allowed=allowed)


def _checked(tensor: ReplicatedTensor) -> ReplicatedTensor:
    """Norms are compared at once: they are small, and a shard of another model shows in nothing else."""
    tensor.read_rows(0, tensor.info.n_rows)
    return tensor
