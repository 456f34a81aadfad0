"""safetensors: a JSON header and then the tensors' bytes, without a gap.

    8 bytes  n, unsigned, little-endian: length of the header, at most 100,000,000
    n bytes  JSON object, UTF-8, padded with spaces so that the data begins at a multiple of 8:
                 {"__metadata__": {text: text}, NAME: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …}
    rest     the tensors, row-major, little-endian; data_offsets count from here, first byte and first byte after

Every byte of the data belongs to exactly one tensor. huggingface/safetensors: README.md (Format), `Metadata::validate`
and `prepare` in safetensors/src/tensor.rs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from converters import json_file
from converters.dtypes import BY_SAFETENSORS, DType
from converters.errors import ConversionError, MalformedError, UnsupportedError
from converters.formats import signatures
from converters.input_file import InputFile
from converters.layout import OutputFile, PlacedTensor
from converters.provenance import Provenance
from converters.tensors import StoredTensor, TensorInfo

_LARGEST_HEADER = 100_000_000
_LARGEST_METADATA = 16 << 20  # characters
_MOST_TENSORS = 1 << 18  # twice what the largest known model has in all its files
_MOST_DIMENSIONS = 64
_METADATA = "__metadata__"

# safetensors sorts by this order, from the last to the first, so that wide types come first and all lie aligned.
_BY_ALIGNMENT = (
    "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "F16", "BF16",
    "I32", "U32", "F32", "C64", "F64", "I64", "U64",
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """tensors: by name, in the order of their bytes. metadata: what the file says of itself."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def sniff(path: Path) -> bool:
    """Whether this is a file that begins as safetensors do."""
    try:
        with InputFile(path) as file:
            return (
                signatures.of(file.read(0, min(file.size, signatures.LENGTH), "file"))
                is signatures.Signature.SAFETENSORS
            )
    except (ConversionError, OSError):
        return False


def read_header(file: InputFile) -> Header:
    """The header, judged by the whole law of the format.

    Raises MalformedError that names the header, its line and column, or the tensor; UnsupportedError for a type that
    safetensors has and we have not.
    """
    length = _header_length(file)
    data = file.read(8, length, "header")
    n_tensors = data.count(b'"data_offsets"')
    if n_tensors > _MOST_TENSORS:
        raise MalformedError(file.path, "header", found=f"{n_tensors} tensors", allowed=f"at most {_MOST_TENSORS}")
    entries = json_file.parse(file.path, data, field="header")
    metadata = _metadata(file, entries.pop(_METADATA, {}))
    return Header(_tensors(file, entries, 8 + length), metadata)


def _header_length(file: InputFile) -> int:
    head = file.read(0, min(file.size, signatures.LENGTH), "header length")
    signature = signatures.of(head)
    if signature not in (signatures.Signature.SAFETENSORS, None):
        raise MalformedError(file.path, "file", offset=0, found=signatures.describe(head), allowed="a safetensors file")
    if file.size < 8:
        raise MalformedError(file.path, "header length", offset=0, found=f"{file.size} bytes", allowed="8 bytes")
    length = int.from_bytes(head[:8], "little")
    most = min(file.size - 8, _LARGEST_HEADER)
    if not 2 <= length <= most:
        raise MalformedError(file.path, "header length", offset=0, found=length, allowed=f"from 2 to {most}")
    return length


def _metadata(file: InputFile, value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise MalformedError(file.path, _METADATA, found=type(value).__name__, allowed="an object of texts")
    for key, text in value.items():
        if not isinstance(text, str):
            raise MalformedError(file.path, f"{_METADATA}/{key}", found=type(text).__name__, allowed="text")
    n_characters = sum(len(key) + len(text) for key, text in value.items())
    if n_characters > _LARGEST_METADATA:
        found = f"{n_characters} characters"
        raise MalformedError(file.path, _METADATA, found=found, allowed=f"at most {_LARGEST_METADATA}")
    return value


def _tensors(file: InputFile, entries: Mapping[str, object], data_start: int) -> dict[str, StoredTensor]:
    """Each entry judged by itself, then all of them together: they must cover the data from end to end."""
    spans = []
    for name, entry in entries.items():
        info, begin, end = _entry(file, name, entry)
        spans.append((begin, end, info))
    spans.sort(key=lambda span: span[:2])
    tensors = {}
    expected = 0
    for begin, end, info in spans:
        if begin != expected:
            fault = "overlaps the tensor before it" if begin < expected else "leaves a hole before it"
            raise _broken(file, info.name, "data_offsets", f"{begin}, which {fault}", f"{expected}")
        expected = end
        tensors[info.name] = StoredTensor(info, file, data_start + begin)
    left = file.size - data_start
    if expected != left:
        field = spans[-1][2].name if spans else "data"
        missing = f"{expected - left} of them missing" if expected > left else f"{left - expected} more behind them"
        raise MalformedError(
            file.path,
            field,
            offset=data_start + min(expected, left),
            found=missing,
            allowed=f"{expected} bytes of data",
        )
    return tensors


def _entry(file: InputFile, name: str, entry: object) -> tuple[TensorInfo, int, int]:
    """What one tensor says of itself: its info, and its span in the data."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise MalformedError(file.path, name, found=found, allowed="an object of dtype, shape and data_offsets")
    dtype = _dtype(file, name, entry["dtype"])
    shape, span = entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or len(shape) > _MOST_DIMENSIONS:
        allowed = f"up to {_MOST_DIMENSIONS} whole numbers from 0 to 2^63 - 1"
        raise _broken(file, name, "shape", shape, allowed)
    if not _are_counts(span) or len(span) != 2 or span[0] > span[1]:
        raise _broken(file, name, "data_offsets", span, "[begin, end], whole numbers, begin first")
    begin, end = span
    n_bytes = math.prod(shape) * dtype.block_bytes
    if end - begin != n_bytes:
        raise _broken(file, name, "data_offsets", f"{end - begin} bytes", f"{n_bytes}: {dtype} of shape {tuple(shape)}")
    return TensorInfo(name, dtype, tuple(shape)), begin, end


def _dtype(file: InputFile, name: str, value: object) -> DType:
    dtype = BY_SAFETENSORS.get(value) if isinstance(value, str) else None
    if dtype is not None:
        return dtype
    kind = UnsupportedError if value in _BY_ALIGNMENT else MalformedError
    raise kind(file.path, f"{name}: dtype", found=value, allowed=", ".join(BY_SAFETENSORS))


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _broken(file: InputFile, name: str, what: str, found: object, allowed: str) -> MalformedError:
    return MalformedError(file.path, f"{name}: {what}", found=found, allowed=allowed)


def head(infos: Iterable[TensorInfo], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The first bytes of a file with these tensors, and where in the file each of them begins, in that order.

    The same bytes that safetensors itself writes: tensors by type and then by name, the header padded to 8 bytes.
    Raises ValueError for a type that safetensors has no name for, and for a header that nobody would read.
    """
    ordered = sorted(infos, key=_place)
    header: dict[str, object] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    offsets = {}
    end = 0
    for info in ordered:
        begin, end = end, end + info.n_bytes
        header[info.name] = {"dtype": info.dtype.safetensors, "shape": list(info.shape), "data_offsets": [begin, end]}
        offsets[info.name] = begin
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _LARGEST_HEADER:
        raise ValueError(f"a header of {len(text)} bytes, {_LARGEST_HEADER} at most")
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: start + offset for name, offset in offsets.items()}


def lay_out_file(path: str, tensors: Iterable[PlacedTensor], provenance: Provenance | None = None) -> OutputFile:
    """The file with these tensors, before any weight is read.

    path: of the file inside the result. tensors: what each is and where it comes from; their order and the offset in
    the file are given here. provenance: what the file says of its making.
    """
    placed = {tensor.info.name: tensor for tensor in tensors}
    infos = [tensor.info for tensor in placed.values()]
    start, offsets = head(infos, {"format": "pt"} | (provenance.keys() if provenance else {}))
    at_offsets = tuple(replace(placed[name], offset_in_file=offset) for name, offset in offsets.items())
    return OutputFile(path, len(start) + sum(info.n_bytes for info in infos), start, at_offsets)


def _place(info: TensorInfo) -> tuple[int, str]:
    if info.dtype.safetensors is None:
        raise ValueError(f"{info.name}: safetensors has no {info.dtype}")
    return -_BY_ALIGNMENT.index(info.dtype.safetensors), info.name
