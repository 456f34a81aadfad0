"""What is inside a model at rest, from headers alone: a checkpoint where it is one, its files whatever they are.

The verdict is that of `converters`: what they call malformed or unsafe is so here, with the same error. What they
merely have no use for (an adapter, an importance matrix, an architecture that we do not know, weights without their
config.json) is shown as far as its files tell, with the reason why it cannot be converted.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from converters.checkpoint import Checkpoint
from converters.dtypes import DType
from converters.errors import ConversionError, MalformedError, MissingError, UnsupportedError, shown
from converters.fields import Fields
from converters.folder import inside
from converters.formats import gguf, gguf_shards, open_checkpoint, signatures
from converters.formats.signatures import Signature
from converters.hyperparameters import HyperParameters
from converters.input_file import InputFile, Opener
from converters.provenance import Provenance
from converters.tensors import TensorInfo
from converters.tokenizers.gguf_keys import vocabulary_from_gguf
from converters.tokenizers.vocabulary import Vocabulary
from distro.inspect.container import Container, read_container
from distro.receipt import Receipt

# A folder that is no checkpoint: the first kind of which it has any file is looked at. Pickles come last, as folders of
# training have some that hold no weights.
_KINDS = ((Signature.SAFETENSORS,), (Signature.GGUF, Signature.GGML), (Signature.ZIP,), (Signature.PICKLE,))
_WEIGHTS = re.compile(r".*\.(gguf|ggml|safetensors|bin|pth|pt)(\.\d{1,2})?")
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.\w+")
_MOST_FILES = 10_000
# Where a tensor is looked at for zeros: so many bytes each at its beginning, in its middle and at its end.
_SAMPLE = 4096
_MOST_SAMPLED = 4096  # tensors
_MOST_NAMED = 4


@dataclass(frozen=True)
class TypeCount:
    """All tensors of one type."""

    dtype: DType
    n_tensors: int
    n_weights: int
    n_bytes: int


@dataclass(frozen=True)
class Inspection:
    """What was found. name: as it was asked for. size: bytes of the files of weights.

    checkpoint: None where the files are no model that we can open, closed where they are; note says why they are not.
    vocabulary: without a checkpoint too, where a header has one. receipt: what the store knows of it. source, n_read:
    where it is and how many bytes came from there, None for files of this disk.
    """

    name: str
    containers: tuple[Container, ...]
    checkpoint: Checkpoint | None
    vocabulary: Vocabulary | None
    provenance: Provenance | None
    receipt: Receipt | None = None
    note: str = ""
    warnings: tuple[str, ...] = ()
    source: str = ""
    n_read: int | None = None

    @property
    def parameters(self) -> HyperParameters | None:
        return self.checkpoint.hyperparameters if self.checkpoint else None

    @property
    def architecture(self) -> str | None:
        """As the checkpoint has it, or as a header says."""
        return self.checkpoint.architecture if self.checkpoint else self.text("general.architecture")

    @property
    def size(self) -> int:
        return sum(container.size for container in self.containers)

    @cached_property
    def tensors(self) -> tuple[tuple[Container, TensorInfo, int], ...]:
        """Every tensor with its file and its offset in that, those too that share their bytes with another."""
        return tuple((container, *placed) for container in self.containers for placed in container.tensors)

    @cached_property
    def types(self) -> tuple[TypeCount, ...]:
        """The types by their bytes, the largest first.

        Bytes that two tensors share count once, and so does a vector (a norm) that every shard of Meta's repeats.
        """
        tensors, weights, n_bytes = Counter[DType](), Counter[DType](), Counter[DType]()
        seen = set[object]()
        for container, info, offset in self.tensors:
            tensors[info.dtype] += 1
            place = info.name if len(info.shape) == 1 else (container.name, offset, info.n_bytes)
            if place not in seen:
                weights[info.dtype] += info.n_weights
                n_bytes[info.dtype] += info.n_bytes
            seen.add(place)
        return tuple(
            TypeCount(dtype, tensors[dtype], weights[dtype], n_bytes[dtype])
            for dtype in sorted(tensors, key=lambda dtype: (-n_bytes[dtype], dtype.name))
        )

    @property
    def n_weights(self) -> int:
        return sum(count.n_weights for count in self.types)

    @property
    def n_bytes(self) -> int:
        """Of all tensors, without headers and padding."""
        return sum(count.n_bytes for count in self.types)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.n_bytes / self.n_weights if self.n_weights else 0.0

    def text(self, key: str) -> str | None:
        """A key of the first header that has it, where it is text."""
        value = next((each.values[key] for each in self.containers if key in each.keys), None)
        return value if isinstance(value, str) else None


def inspect(
    path: Path,
    *,
    name: str,
    opener: Opener = InputFile,
    receipt: Receipt | None = None,
    source: str = "",
    n_read: Callable[[], int] | None = None,
) -> Inspection:
    """Look into a file or a folder; opener, source and n_read for one that is elsewhere (`distro.inspect.remote`).

    Raises what `open_checkpoint` raises, except where the files are well formed and only no model of ours.
    """
    note, warnings = "", list[str]()
    checkpoint: Checkpoint | None = None
    try:
        with open_checkpoint(path, opener=opener) as checkpoint:
            containers = tuple(read_container(file) for file in checkpoint.files)
            warnings += checkpoint.warnings
            if n_read is None:
                warnings += _zeros(checkpoint.files, containers)
    except ConversionError as error:
        containers = _without_model(path, opener, error)
        note = str(error)
    vocabulary = checkpoint.vocabulary if checkpoint else _vocabulary(path, containers)
    provenances = (Provenance.from_keys(container.values) for container in containers)
    return Inspection(
        name=name,
        containers=containers,
        checkpoint=checkpoint,
        vocabulary=vocabulary,
        provenance=next((each for each in provenances if each), None),
        receipt=receipt,
        note=note,
        warnings=tuple(warnings),
        source=source,
        n_read=n_read() if n_read else None,
    )


def _without_model(path: Path, opener: Opener, error: ConversionError) -> tuple[Container, ...]:
    """The files alone, where the fault is none of theirs; else the error again, or the one that a file has itself."""
    containers: tuple[Container, ...] = ()
    with suppress(UnsupportedError):  # then `error` has said it already
        containers = tuple(_read_alone(path, opener)) if _may_be_sound(error) else ()
    is_whole = any(container.tensors for container in containers) and not _SHARD.fullmatch(path.name)
    if not containers or (_lacks_tensor(error) and is_whole):
        raise error
    return containers


def _may_be_sound(error: ConversionError) -> bool:
    """Whether the files may be in order though they make no model."""
    if isinstance(error, MissingError):
        return not _WEIGHTS.fullmatch(Path(error.path).name)  # a companion; a missing shard is missed by all commands
    if isinstance(error, UnsupportedError) or _lacks_tensor(error):
        return True
    # A number that is none (NaN) is wrong where it is used, and here nobody uses it.
    return isinstance(error, MalformedError) and isinstance(error.found, float) and not math.isfinite(error.found)


def _lacks_tensor(error: ConversionError) -> bool:
    """Whether a tensor is missing: no fault of one shard by itself, nor of a file without any, such as a vocabulary."""
    return isinstance(error, MalformedError) and error.found == "no such tensor"


def _read_alone(path: Path, opener: Opener) -> Iterator[Container]:
    """The container of a file; of a folder, those of its files of weights of one kind."""
    if not path.is_dir():
        for each in _shards(path, opener):
            with opener(each) as file:
                yield read_container(file)
        return
    names = sorted(each.name for each in path.iterdir() if _WEIGHTS.fullmatch(each.name) and each.is_file())
    found: dict[Signature | None, list[Path]] = {}
    for name in names[:_MOST_FILES]:
        with opener(inside(path, name)) as file:
            signature = signatures.of(file.read(0, min(signatures.LENGTH, file.size), "file"))
        found.setdefault(signature, []).append(path / name)
    kind = next((kind for kind in _KINDS if any(signature in found for signature in kind)), ())
    for each in sorted(each for signature in kind for each in found.get(signature, ())):
        with opener(each) as file:
            yield read_container(file)


def _shards(path: Path, opener: Opener) -> list[Path]:
    """All files of a GGUF that was split, the file itself where it is whole or another format's."""
    if not _SHARD.fullmatch(path.name) or not gguf.sniff(path):
        return [path]
    try:
        shards = gguf_shards.open_shards(path, opener)
    except UnsupportedError:  # its name does not tell the others'
        return [path]
    for shard in shards:
        shard.file.close()
    return [shard.path for shard in shards]


def _vocabulary(path: Path, containers: Sequence[Container]) -> Vocabulary | None:
    """The vocabulary that a header has, if it is one that we read."""
    for container in containers:
        with suppress(ConversionError):
            if found := vocabulary_from_gguf(Fields(path, container.values)):
                return found
    return None


def _zeros(files: Sequence[InputFile], containers: Sequence[Container]) -> Iterator[str]:
    """A warning where tensors are nothing but zeros wherever we look: a file of which parts were never written."""
    names = []
    for file, container in zip(files, containers, strict=True):
        largest = sorted(container.tensors, key=lambda placed: -placed[0].n_bytes)[:_MOST_SAMPLED]
        names += [
            info.name for info, offset in sorted(largest, key=lambda placed: placed[1]) if _is_zero(file, info, offset)
        ]
    if names:
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        yield f"nothing but zeros wherever it was looked at: {', '.join(map(shown, names[:_MOST_NAMED]))}{more}"


def _is_zero(file: InputFile, info: TensorInfo, offset: int) -> bool:
    """Whether samples of a matrix are zeros. Vectors, such as biases, may well be."""
    if len(info.shape) < 2 or info.n_bytes == 0:
        return False
    n_bytes = min(_SAMPLE, info.n_bytes)
    room = info.n_bytes - n_bytes
    return not any(any(file.read(offset + start, n_bytes, info.name)) for start in (room // 2, 0, room))
