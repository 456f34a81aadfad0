"""Keys of a GGUF file set and removed, so that the weights stay where they are.

The weights begin where the header ends, padded to the alignment; so a header that becomes shorter or longer would move
them all. A key of ours, PAD, holds blanks that make the header as long as it has to be:

- in place: the new header fits into the old one's bytes, and PAD fills what is left of them;
- otherwise PAD makes the header longer by whole file system blocks of 4096 bytes, so that the weights keep their place
  within a block and a copy may share them with the original; it has room for later edits, which are then in place.

PAD stands behind the last key that was changed, once it is there it stays where it is: what is behind does not move.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from converters.errors import RefusedError, shown
from converters.formats.gguf_header import MOST_KEY_BYTES, MOST_KEYS, Header, KeyValue, pack_header, padded
from converters.formats.gguf_shards import KEYS as SPLIT_KEYS
from converters.formats.gguf_values import MOST_HEADER_BYTES, NUMBERS, Value, ValueType

PAD = "distro.pad"
SHARED_BLOCK = 4096  # bytes; what file systems share is whole blocks
_ROOM = 1024  # bytes of PAD at least, when the weights have to move anyway

# By the names that llama.cpp's own tools use where they have any. With [] behind, an array of them.
TYPES = {
    "u8": ValueType.UINT8, "i8": ValueType.INT8, "u16": ValueType.UINT16, "i16": ValueType.INT16,
    "u32": ValueType.UINT32, "i32": ValueType.INT32, "u64": ValueType.UINT64, "i64": ValueType.INT64,
    "f32": ValueType.FLOAT32, "f64": ValueType.FLOAT64, "bool": ValueType.BOOL, "string": ValueType.STRING,
}  # fmt: skip

_LARGEST = {ValueType.FLOAT32: float(np.finfo(np.float32).max), ValueType.FLOAT64: float(np.finfo(np.float64).max)}
_INTEGERS = {kind for kind, dtype in NUMBERS.items() if dtype.kind in "iu"}

# What says how the file itself is laid out, and so cannot be changed by a word in the header.
_LAYOUT = ("general.alignment", PAD)
# What the tensors and the ids of tokens are: with another value the same weights are another model, or none.
_OF_THE_WEIGHTS = {
    "general.architecture", "general.type", "general.quantization_version", *SPLIT_KEYS,
    "tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores",
    "tokenizer.ggml.merges",
}  # fmt: skip
# The same, behind the architecture's name.
_SHAPES = {
    "block_count", "embedding_length", "feed_forward_length", "vocab_size", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count", "expert_count",
    "expert_used_count",
}  # fmt: skip


def changed(
    header: Header, changes: Mapping[str, str | None], type_name: str | None = None, *, force: bool = False
) -> Header:
    """The header with these keys: text of a value for what is set, None for what is removed.

    type_name: one of TYPES, or one of them and []; without it a key keeps the type that it has. Numbers, true and false
    are written as in JSON, arrays as JSON arrays. A key that is there keeps its place, a new one comes last. force:
    also what the weights depend on. Raises RefusedError that names the key.
    """
    entries = dict(header.entries)
    for key, text in changes.items():
        _check_key(header, key, force=force)
        if text is not None:
            kind, element = _type_of(key, type_name, entries.get(key))
            entries[key] = KeyValue(key, kind, element, _value(key, text, kind, element), 0, 0, 0)
        elif entries.pop(key, None) is None:
            raise RefusedError(f"{shown(key)}: no such key")
    if len(entries) > MOST_KEYS:
        raise RefusedError(f"{len(entries)} keys, allowed at most {MOST_KEYS}")
    return replace(header, entries=entries)


def fitted(header: Header, changes: Mapping[str, str | None]) -> bytes | None:
    """The head of exactly as many bytes as stand before the weights now; None if it does not fit, or there are none."""
    if not header.tensors:
        return None
    plain = _packed(header, changes, None)
    least = len(plain) + _pad_bytes(header)
    if len(plain) != header.size and least <= header.size:
        head = _packed(header, changes, header.size - least)  # so that what is behind PAD stays where it is
    elif header.data_offset - header.alignment < len(plain) <= header.data_offset:
        head = plain
    elif least <= header.data_offset:
        head = _packed(header, changes, header.data_offset - least)
    else:
        return None
    return head.ljust(header.data_offset, b"\0")


def moved(header: Header, changes: Mapping[str, str | None]) -> bytes:
    """The head for a file of its own: as long as before, or shorter or longer by whole blocks, and with room in PAD.

    Raises RefusedError for a header larger than any that is read.
    """
    if not header.tensors:
        head = _packed(header, changes, None)
        return head.ljust(padded(len(head), header.alignment), b"\0")
    step = max(SHARED_BLOCK, header.alignment)
    least = len(_packed(header, changes, None)) + _pad_bytes(header) + _ROOM
    size = least + (header.data_offset - least) % step
    if size > MOST_HEADER_BYTES:
        raise RefusedError(f"a header of {size} bytes, allowed at most {MOST_HEADER_BYTES}")
    return _packed(header, changes, _ROOM + size - least)


def _packed(header: Header, changes: Mapping[str, str | None], blanks: int | None) -> bytes:
    """The header without padding behind it, with so many blanks in PAD; None for no PAD at all."""
    metadata: dict[str, object] = {}
    after = (
        PAD if PAD in header.entries else next((key for key in reversed(list(header.entries)) if key in changes), None)
    )
    for key, entry in header.entries.items():
        if key != PAD:
            metadata[key] = entry.exact
        if key == after and blanks is not None:
            metadata[PAD] = " " * blanks
    if after is None and blanks is not None:
        metadata[PAD] = " " * blanks
    tensors = [(info, offset - header.data_offset) for info, offset in header.tensors]
    return pack_header(metadata, tensors, 1, header.dialect)


def _pad_bytes(header: Header) -> int:
    """Bytes of the entry of PAD without blanks."""
    return header.dialect.size.size + len(PAD) + 4 + header.dialect.size.size


def _check_key(header: Header, key: str, *, force: bool) -> None:
    if not 0 < len(key.encode("utf-8", "surrogatepass")) <= MOST_KEY_BYTES:
        raise RefusedError(f"{shown(key)}: a key has 1 to {MOST_KEY_BYTES} bytes")
    if key in _LAYOUT:
        raise RefusedError(f"{shown(key)}: says where the weights lie, and they stay there")
    architecture = header.metadata.get("general.architecture")
    is_shape = isinstance(architecture, str) and key.removeprefix(f"{architecture}.") in _SHAPES
    if (key in _OF_THE_WEIGHTS or is_shape) and not force:
        raise RefusedError(f"{shown(key)}: the weights depend on it; --force changes it all the same")


def _type_of(key: str, name: str | None, present: KeyValue | None) -> tuple[ValueType, ValueType | None]:
    """The type of the value, and of its elements if it is an array."""
    if name is None:
        if present is None:
            raise RefusedError(f"{shown(key)}: is a new key; say of which type it is, such as --type string")
        return present.type, present.element_type
    kind = TYPES.get(name.removesuffix("[]"))
    if kind is None:
        raise RefusedError(f"{shown(name)}: no such type; there are {', '.join(TYPES)}, and arrays such as string[]")
    return (ValueType.ARRAY, kind) if name.endswith("[]") else (kind, None)


def _value(key: str, text: str, kind: ValueType, element: ValueType | None) -> Value:
    if kind is ValueType.STRING:
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise _mismatch(key, text, kind if element is None else element, is_array=element is not None) from None
    if element is None:
        return _single(key, value, kind)
    if not isinstance(value, list):
        raise _mismatch(key, text, element, is_array=True)
    elements = [_single(key, each, element) for each in value]
    if element is ValueType.STRING:
        return tuple(map(str, elements))
    return np.array(elements, NUMBERS[element])


def _single(key: str, value: object, kind: ValueType) -> bool | int | float | str:
    """A value of JSON's, if it is one of the type and in its range."""
    if kind is ValueType.STRING and isinstance(value, str):
        return value
    if kind is ValueType.BOOL and isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if kind in _LARGEST and abs(value) <= _LARGEST[kind]:  # and so no NaN
            return float(value)
        if kind in _INTEGERS and isinstance(value, int):
            bits, is_signed = 8 * NUMBERS[kind].itemsize, NUMBERS[kind].kind == "i"
            low = -(2 ** (bits - 1)) if is_signed else 0
            if low <= value < low + 2**bits:
                return value
    raise _mismatch(key, value, kind, is_array=False)


def _mismatch(key: str, found: object, kind: ValueType, *, is_array: bool) -> RefusedError:
    allowed = f"{'a JSON array of ' if is_array else ''}{kind.name}"
    return RefusedError(f"{shown(key)}: found {shown(found)}, allowed {allowed}")
