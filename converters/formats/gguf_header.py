"""The head of a GGUF file, of any version and byte order: read with suspicion, packed as llama.cpp packs it.

    "GGUF", version u32, n_tensors u64, n_kv u64
    n_kv times:      key (string), type u32, value
    n_tensors times: name (string), n_dims u32, n_dims dimensions u64 (columns first), type u32, offset u64
    zeros up to a multiple of `general.alignment` (32 where the key is absent)
    data: each tensor at its offset from here, in the order of the list, zeros after each up to the alignment

Strings and values: gguf_values.py. Other versions and byte orders: gguf_dialect.py. Specification: docs/gguf.md in
ggml-org/ggml; where it leaves room (gaps between tensors, the order of offsets) the rules are those of gguf.cpp in
llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from converters.dtypes import BY_GGML_ID, IK_LLAMA_IDS, INTERNAL_GGML_IDS, REMOVED_GGML_IDS, DType
from converters.errors import MalformedError, UnsupportedError, shown
from converters.formats import signatures
from converters.formats.gguf_dialect import VERSIONS, Dialect, dialect_of
from converters.formats.gguf_values import Cursor, Value, ValueType, exact, packed_string, packed_value
from converters.input_file import InputFile
from converters.tensors import TensorInfo

MAGIC = b"GGUF"
ALIGNMENT = 32

# Budgets, far above any model that we know of: 100 keys, 50,000 tensors.
MOST_KEYS = 2**16
MOST_TENSORS = 2**17
MOST_KEY_BYTES = 2**16 - 1
MOST_NAME_BYTES = 63  # GGML_MAX_NAME, less the zero that C puts at the end
MOST_DIMENSIONS = 4
MOST_ALIGNMENT = 2**20

_THIS = Dialect()


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One entry of the metadata, and where it stands.

    element_type: of an array's elements, None for single values. value: numbers and text as Python's own, an array of
    text as a tuple, of numbers as a numpy array that cannot be written. offset_in_file: of the entry, where the key's
    length stands. value_offset, value_bytes: of the value (of an array, with its type and length) in the file.
    """

    key: str
    type: ValueType
    element_type: ValueType | None
    value: Value
    offset_in_file: int
    value_offset: int
    value_bytes: int

    @property
    def exact(self) -> object:
        """The value as `pack_header` writes it into the same type again: single numbers as numpy's."""
        return exact(self.type, self.value)


@dataclass(frozen=True)
class Header:
    """All that stands before the weights. tensors: each with its offset in the file, in the order of the file.

    size: bytes up to the last tensor's entry. data_offset: where the weights begin (size and padding). data_end: where
    they end, with the padding after the last tensor.
    """

    dialect: Dialect
    alignment: int
    entries: Mapping[str, KeyValue]
    tensors: tuple[tuple[TensorInfo, int], ...]
    size: int
    data_offset: int
    data_end: int

    @cached_property
    def metadata(self) -> dict[str, Value]:
        """The values alone, by key."""
        return {key: entry.value for key, entry in self.entries.items()}

    @property
    def exact_metadata(self) -> dict[str, object]:
        """The same for `pack_header`, which makes the very same entries of them."""
        return {key: entry.exact for key, entry in self.entries.items()}


def read_header(file: InputFile, *, allow_trailing: bool = False) -> Header:
    """Read and judge everything before the weights, and that the weights are all there.

    allow_trailing: bytes after the last tensor are left alone instead of refused.
    Raises MalformedError, UnsupportedError for versions and types that we know of and do not read,
    ChangedError when the file becomes shorter meanwhile.
    """
    dialect, n_tensors, n_kv = _read_fixed_part(file)
    cursor = Cursor(file, dialect.fixed.size, dialect)
    entries = _read_keys(cursor, n_kv)
    alignment = _alignment(file, entries)
    listed = _read_tensors(cursor, n_tensors, n_kv)
    size = cursor.offset
    data_offset = padded(size, alignment) if listed else size
    tensors, data_end = _place(file, listed, data_offset, alignment)
    # Writers differ in whether padding follows a header without tensors.
    if file.size > (data_end if listed else padded(size, alignment)) and not allow_trailing:
        raise MalformedError(
            file.path,
            "trailing bytes",
            offset=data_end,
            found=f"{file.size - data_end} bytes after the last tensor",
            allowed="none (converting with --allow-trailing drops them)",
        )
    return Header(dialect, alignment, entries, tensors, size, data_offset, data_end)


def padded(n_bytes: int, alignment: int) -> int:
    """The next multiple of alignment, a power of two."""
    return (n_bytes + alignment - 1) & -alignment


def _read_fixed_part(file: InputFile) -> tuple[Dialect, int, int]:
    start = file.read(0, min(8, file.size), "header")
    if len(start) < 8:
        raise _too_short(file, Dialect(1).fixed.size)
    if start[:4] != MAGIC:
        found = signatures.describe(file.read(0, min(signatures.LENGTH, file.size), "header"))
        raise MalformedError(file.path, "header", offset=0, found=found, allowed=repr(MAGIC))
    dialect = dialect_of(start[4:])
    fixed = (dialect or _THIS).fixed
    if file.size < fixed.size:
        raise _too_short(file, fixed.size)
    if dialect is None:
        raise _wrong_version(file, int.from_bytes(start[4:], "little"))
    _, _, n_tensors, n_kv = fixed.unpack(file.read(0, fixed.size, "header"))
    left, width = file.size - fixed.size, dialect.size.size
    for field, offset, count, most, least_bytes in (
        ("n_tensors", 8, n_tensors, MOST_TENSORS, dialect.least_tensor_bytes),
        ("n_kv", 8 + width, n_kv, MOST_KEYS, dialect.least_key_bytes),
    ):
        if count > min(most, left // least_bytes):
            allowed = f"at most {most}, of {least_bytes} bytes or more each in the {left} that follow"
            raise MalformedError(file.path, field, offset=offset, found=count, allowed=allowed)
    return dialect, n_tensors, n_kv


def _too_short(file: InputFile, least: int) -> MalformedError:
    found = f"the file's end after {file.size} bytes"
    return MalformedError(file.path, "header", offset=file.size, found=found, allowed=f"at least {least} bytes")


def _wrong_version(file: InputFile, number: int) -> MalformedError:
    allowed = f"version {', '.join(map(str, VERSIONS))}, of either byte order"
    if number == 0:
        return MalformedError(file.path, "version", offset=4, found=0, allowed=allowed)
    turned = int.from_bytes(number.to_bytes(4, "little"), "big")
    found = f"a big-endian file, version {turned}" if turned < number else f"version {number}"
    return UnsupportedError(file.path, "version", offset=4, found=found, allowed=allowed)


def _read_keys(cursor: Cursor, n_kv: int) -> dict[str, KeyValue]:
    entries: dict[str, KeyValue] = {}
    for index in range(n_kv):
        offset = cursor.offset
        if offset == cursor.file.size:
            raise cursor.error("n_kv", offset, n_kv, f"{index}, for here the file ends")
        key = cursor.string(f"key[{index}]", least=1, most=MOST_KEY_BYTES)
        if key in entries:
            first = entries[key].offset_in_file
            raise cursor.error(f"key[{index}]", offset, f"{shown(key)} again, first at {first}", "each key once")
        kind = cursor.value_type(f"key[{index}].type", key)
        value_offset, element_type = cursor.offset, None
        value: Value
        if kind is ValueType.STRING:
            value = cursor.string(key)
        elif kind is ValueType.ARRAY:
            element_type, value = cursor.array(key)
        else:
            value = cursor.numbers(key, kind, 1)[0].item()
        size = cursor.offset - value_offset
        entries[key] = KeyValue(key, kind, element_type, value, offset, value_offset, size)
    return entries


def _alignment(file: InputFile, entries: Mapping[str, KeyValue]) -> int:
    entry = entries.get("general.alignment")
    if entry is None:
        return ALIGNMENT
    value = entry.value if entry.type is ValueType.UINT32 else 0
    if not isinstance(value, int) or not 0 < value <= MOST_ALIGNMENT or value & (value - 1):
        raise MalformedError(
            file.path,
            "general.alignment",
            offset=entry.value_offset,
            found=f"{entry.type.name} {entry.value}",
            allowed=f"UINT32, a power of two up to {MOST_ALIGNMENT}",
        )
    return value


@dataclass(frozen=True, slots=True)
class _ListedTensor:
    """A tensor as the list has it. offset_in_data: from the start of the data. field_offset: where that is written."""

    info: TensorInfo
    offset_in_data: int
    field_offset: int


def _read_tensors(cursor: Cursor, n_tensors: int, n_kv: int) -> list[_ListedTensor]:
    listed: dict[str, _ListedTensor] = {}
    for index in range(n_tensors):
        offset = cursor.offset
        field = f"tensor[{index}].name"
        note = "" if index else f"; or n_kv, {n_kv}, is not the number of keys"
        name = cursor.string(field, least=1, most=MOST_NAME_BYTES, note=note)
        if "\0" in name:
            raise cursor.error(field, offset, name, "a name without a zero byte")
        if name in listed:
            raise cursor.error(field, offset, f"{shown(name)} again", "each name once")
        info = _read_info(cursor, name)
        field_offset = cursor.offset
        listed[name] = _ListedTensor(info, cursor.u64(f"{name}.offset"), field_offset)
    return list(listed.values())


def _read_info(cursor: Cursor, name: str) -> TensorInfo:
    offset = cursor.offset
    n_dims = cursor.u32(f"{name}.n_dims")
    if n_dims > MOST_DIMENSIONS:
        raise cursor.error(f"{name}.n_dims", offset, n_dims, f"at most {MOST_DIMENSIONS}")
    offset = cursor.offset
    shape = tuple(cursor.count(f"{name}.shape") for _ in range(n_dims))[::-1]
    # Counting an empty dimension as one keeps the others small too: nothing may have to go through 2**60 empty rows.
    if math.prod(max(1, size) for size in shape) >= 2**63:
        raise cursor.error(f"{name}.shape", offset, shape, "fewer than 2**63 weights")
    offset = cursor.offset
    dtype = _dtype(cursor, name, offset, cursor.u32(f"{name}.type"))
    info = TensorInfo(name, dtype, shape)
    if not dtype.fits(info.n_columns):
        allowed = f"rows of a multiple of {dtype.block_size}, as {dtype} has blocks of so many"
        raise cursor.error(f"{name}.shape", offset, f"rows of {info.n_columns}", allowed)
    return info


def _dtype(cursor: Cursor, name: str, offset: int, number: int) -> DType:
    if number in BY_GGML_ID:
        return BY_GGML_ID[number]
    allowed = f"ggml's types from 0 to {max(BY_GGML_ID)}"
    for table, what in (
        (REMOVED_GGML_IDS, "which ggml has withdrawn"),
        (INTERNAL_GGML_IDS, "which no file may hold"),
        (IK_LLAMA_IDS, "which only ik_llama.cpp has"),
    ):
        if number in table:
            found = f"{number}: {table[number]}, {what}"
            raise UnsupportedError(cursor.file.path, f"{name}.type", offset=offset, found=found, allowed=allowed)
    raise cursor.error(f"{name}.type", offset, number, allowed)


def _place(
    file: InputFile, listed: Sequence[_ListedTensor], data_offset: int, alignment: int
) -> tuple[tuple[tuple[TensorInfo, int], ...], int]:
    """Where each tensor lies in the file, and where the last one's padding ends.

    They follow one another without gaps, as gguf.cpp demands: so none overlaps and nothing hides between them.
    """
    placed: list[tuple[TensorInfo, int]] = []
    end = data_offset
    for tensor in listed:
        name, n_bytes, start = tensor.info.name, tensor.info.n_bytes, end
        if tensor.offset_in_data != start - data_offset:
            raise MalformedError(
                file.path,
                f"{name}.offset",
                offset=tensor.field_offset,
                found=_misplacement(tensor.offset_in_data, start - data_offset, alignment),
                allowed=f"{start - data_offset}, where the tensor before it ends",
            )
        end = padded(start + n_bytes, alignment)
        missing = min(n_bytes, start + n_bytes - file.size)
        if missing > 0:
            found = f"the file's end after {file.size} bytes, {missing} of the tensor's {n_bytes} are missing"
            offset = min(start, file.size)
            raise MalformedError(file.path, name, offset=offset, found=found, allowed=f"{start + n_bytes} or more")
        placed.append((tensor.info, start))
    if listed and end > file.size:
        found = f"the file's end after {file.size} bytes, {end - file.size} of the padding are missing"
        raise MalformedError(file.path, listed[-1].info.name, offset=file.size, found=found, allowed=f"{end} or more")
    return tuple(placed), end


def _misplacement(found: int, expected: int, alignment: int) -> str:
    if found % alignment:
        return f"{found}, no multiple of {alignment}"
    return f"{found}, which {'overlaps the tensor before it' if found < expected else 'leaves a gap'}"


def pack_header(
    metadata: Mapping[str, object],
    tensors: Sequence[tuple[TensorInfo, int]],
    alignment: int = ALIGNMENT,
    dialect: Dialect = _THIS,
) -> bytes:
    """A header with the padding after it. tensors: each with its offset from the start of the data.

    Raises RefusedError for text that UTF-8 cannot hold, ValueError for what GGUF has no type for.
    """
    u32, u64, size = dialect.u32.pack, dialect.u64.pack, dialect.size.pack
    parts = [dialect.fixed.pack(MAGIC, dialect.version, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += (packed_string(key, key, dialect), packed_value(key, value, dialect))
    for info, offset_in_data in tensors:
        if info.dtype.ggml_id is None:
            raise ValueError(f"{info.name}: GGUF has no type for {info.dtype}")
        dimensions = (size(dimension) for dimension in reversed(info.shape))
        parts += (packed_string(info.name, info.name, dialect), u32(len(info.shape)), *dimensions)
        parts += (u32(info.dtype.ggml_id), u64(offset_in_data))
    head = b"".join(parts)
    return head.ljust(padded(len(head), alignment), b"\0")
