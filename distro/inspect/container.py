"""One file of weights as it lies there: how it is made, its keys and its tensors, whatever model it belongs to.

What a model needs is not asked here, so adapters, importance matrices and models that nobody converts have a container
too. A file that breaks the rules of its format has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from converters import imatrix
from converters.dtypes import F32
from converters.errors import UnsupportedError
from converters.formats import ggml_header, gguf_header, pytorch, safetensors, signatures
from converters.formats.signatures import Signature
from converters.input_file import InputFile
from converters.tensors import Tensor, TensorInfo


@dataclass(frozen=True)
class Key:
    """One entry of a header. type: as the format calls it, with the elements' where it is an array."""

    type: str
    value: object


@dataclass(frozen=True)
class Container:
    """name: of the file. form: version, byte order and the like. size: of the file; header_bytes: what is no weights.

    tensors: by the names in the file, each with its offset in the file, in the order of the file.
    """

    name: str
    format: str
    form: str
    size: int
    header_bytes: int
    tensors: tuple[tuple[TensorInfo, int], ...]
    keys: Mapping[str, Key] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, object]:
        return {name: key.value for name, key in self.keys.items()}


def read_container(file: InputFile) -> Container:
    """Raises MalformedError and its children as the formats' readers do, UnsupportedError for what is no weights."""
    head = file.read(0, min(signatures.LENGTH, file.size), "file")
    match signatures.of(head):
        case Signature.GGUF:
            return _gguf(file)
        case Signature.GGML:
            return _ggml(file)
        case Signature.SAFETENSORS:
            return _safetensors(file)
        case Signature.ZIP | Signature.PICKLE | Signature.TAR:
            tensors = _placed(pytorch.read_tensors(file).values())
            weights = {offset: info.n_bytes for info, offset in tensors}  # tied tensors share their bytes
            form = "zip archive of torch.save" if head.startswith(b"PK") else "before PyTorch 1.6"
            return Container(file.path.name, "pytorch", form, file.size, file.size - sum(weights.values()), tensors)
    if file.path.suffix == ".dat":  # nothing at its beginning tells what it is
        return _imatrix(file)
    found = signatures.describe(head)
    raise UnsupportedError(file.path, "file", offset=0, found=found, allowed="gguf, safetensors, pytorch, ggml")


def _gguf(file: InputFile) -> Container:
    header = gguf_header.read_header(file)
    keys = {
        name: Key(entry.type.name if entry.element_type is None else f"ARRAY of {entry.element_type.name}", entry.value)
        for name, entry in header.entries.items()
    }
    form = f"v{header.dialect.version}, {header.dialect.byte_order}-endian, aligned to {header.alignment}"
    return Container(file.path.name, "gguf", form, file.size, header.data_offset, header.tensors, keys)


def _ggml(file: InputFile) -> Container:
    header = ggml_header.read_header(file)
    tensors = _placed(header.tensors.values())
    keys = {name: Key("u32", value) for name, value in vars(header.numbers).items()}
    first = min((offset for _, offset in tensors), default=file.size)
    return Container(file.path.name, "ggml", header.generation.name, file.size, first, tensors, keys)


def _safetensors(file: InputFile) -> Container:
    header = safetensors.read_header(file)
    keys = {name: Key("text", value) for name, value in header.metadata.items()}
    header_bytes = 8 + int.from_bytes(file.read(0, 8, "header length"), "little")
    tensors = _placed(header.tensors.values())
    return Container(file.path.name, "safetensors", "", file.size, header_bytes, tensors, keys)


def _imatrix(file: InputFile) -> Container:
    """An importance matrix as llama.cpp wrote them before it had GGUF for that; the sums of each matrix as a tensor."""
    matrix = imatrix.read_file(file)
    tensors, offset = [], 4
    for name, entry in matrix.entries.items():
        offset += 4 + len(name.encode()) + 4 + 4
        info = TensorInfo(name, F32, (entry.sums.size,))
        tensors.append((info, offset))
        offset += info.n_bytes
    keys = {"chunk_count": Key("i32", matrix.chunk_count), "datasets": Key("ARRAY of text", matrix.datasets)}
    header_bytes = file.size - sum(info.n_bytes for info, _ in tensors)
    return Container(file.path.name, "imatrix", "before GGUF", file.size, header_bytes, tuple(tensors), keys)


def _placed(tensors: Iterable[Tensor]) -> tuple[tuple[TensorInfo, int], ...]:
    return tuple(sorted(((each.info, each.position[1]) for each in tensors), key=lambda placed: placed[1]))
