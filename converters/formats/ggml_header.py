"""The files of llama.cpp before GGUF (March to August 2023), GGML, GGMF and GGJT, read with suspicion.

    "lmgg", or "fmgg" and version u32 (1), or "tjgg" and version u32 (1, 2 or 3)
    n_vocab, n_embd, n_mult, n_head, n_layer, n_rot, ftype: u32
    n_vocab times:           length u32, text, score f32 (GGML has none)
    up to the file's end:    n_dims u32, length of the name u32, type u32, n_dims dimensions u32 (columns first), name,
                             zeros up to a multiple of 32 in the file (GGJT alone), data

All little-endian. `llama_file_loader` in llama.cpp's llama-util.h and llama.cpp up to August 2023; today's
convert_llama_ggml_to_gguf.py. What the numbers of the types mean depends on the version: `converters.quants.withdrawn`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from converters import dtypes
from converters.dtypes import DType
from converters.errors import MalformedError, UnsupportedError, shown
from converters.formats.gguf_header import padded
from converters.formats.gguf_values import Cursor
from converters.input_file import InputFile
from converters.tensors import StoredTensor, TensorInfo

# Budgets. Of these files none that we know of has 60,000 tokens; 512 layers, the most we read, are 4,611 tensors.
MOST_TOKENS = 2**18
MOST_TENSORS = 2**13
MOST_TOKEN_BYTES = 4095  # as in convert_llama_ggml_to_gguf.py
MOST_NAME_BYTES = 63
MOST_DIMENSIONS = 2

_ENTRY = struct.Struct("<III")
_FIRST_TENSOR = b"tok_embeddings.weight"

_PLAIN = {0: dtypes.F32, 1: dtypes.F16}
_V1 = _PLAIN | {
    2: dtypes.Q4_0_V1, 3: dtypes.Q4_1_V1, 4: dtypes.Q4_2, 5: dtypes.Q4_3, 6: dtypes.Q5_0, 7: dtypes.Q5_1,
    8: dtypes.Q8_0_V2,
}  # fmt: skip
_V2 = _PLAIN | {2: dtypes.Q4_0_V2, 3: dtypes.Q4_1_V2, 6: dtypes.Q5_0, 7: dtypes.Q5_1, 8: dtypes.Q8_0_V2}
_V3 = _PLAIN | {
    2: dtypes.Q4_0, 3: dtypes.Q4_1, 6: dtypes.Q5_0, 7: dtypes.Q5_1, 8: dtypes.Q8_0,
    10: dtypes.Q2_K, 11: dtypes.Q3_K, 12: dtypes.Q4_K, 13: dtypes.Q5_K, 14: dtypes.Q6_K,
}  # fmt: skip


@dataclass(frozen=True)
class Generation:
    """One version of one of the three.

    dtypes: by the number in the file. in_order: nibbles of Q5_0 and Q5_1 are not where they are today, but quant 2i and
    2i + 1 in byte i. alignment: of the data, in the file.
    """

    name: str
    dtypes: Mapping[int, DType]
    has_scores: bool = True
    alignment: int = 1
    in_order: bool = False


_GGML = Generation("GGML", _V1, has_scores=False, in_order=True)
# By magic, then by version.
_VERSIONED = {
    b"fmgg": {1: Generation("GGMF v1", _V1, in_order=True)},
    b"tjgg": {
        1: Generation("GGJT v1", _V1, alignment=32, in_order=True),
        2: Generation("GGJT v2", _V2, alignment=32),
        3: Generation("GGJT v3", _V3, alignment=32),
    },
}
# Relatives that hold no model, and the same letters the other way round.
_OTHERS = {b"algg": "GGLA, an adapter", b"nsgg": "GGSN, a saved session"}
_TURNED = {magic[::-1]: magic for magic in (b"lmgg", *_VERSIONED, *_OTHERS)} | {b"GGML": b"lmgg"}


@dataclass(frozen=True)
class Numbers:
    """The seven hyper-parameters, by llama.cpp's names.

    n_rot: width of a head. n_mult: what the width of the feed-forward network is a multiple of. ftype: what most
    tensors are (`llama_ftype` in llama.h); each says it for itself.
    """

    n_vocab: int
    n_embd: int
    n_mult: int
    n_head: int
    n_layer: int
    n_rot: int
    ftype: int


@dataclass(frozen=True)
class Header:
    """All but the weights.

    tokens: text as the file has it, or single bytes. scores: None where there are none. tensors: by the names of
    Meta's releases, in the order of the file.
    """

    generation: Generation
    numbers: Numbers
    tokens: tuple[bytes, ...]
    scores: tuple[float, ...] | None
    tensors: Mapping[str, StoredTensor]


# At most; n_embd, n_head and n_layer as in other formats.
_MOST = Numbers(MOST_TOKENS, 2**20, 2**20, 2**14, 512, 2**14, 2**31)


def read_header(file: InputFile) -> Header:
    """Read and judge everything but the weights, and that the weights are all there.

    Raises MalformedError, UnsupportedError for versions and relatives of the format that we know of and do not read,
    ChangedError when the file becomes shorter meanwhile.
    """
    generation, start = _generation(file)
    cursor = Cursor(file, start)
    numbers = _numbers(cursor)
    tokens, scores = _vocabulary(cursor, numbers.n_vocab, generation)
    return Header(generation, numbers, tokens, scores, _tensors(file, cursor.offset, generation))


def _generation(file: InputFile) -> tuple[Generation, int]:
    """What the first bytes say, and how many they are."""
    magic = file.read(0, 4, "header")
    if magic == b"lmgg":
        return _GGML, 4
    if magic in _OTHERS:
        raise UnsupportedError(file.path, "header", offset=0, found=_OTHERS[magic], allowed="a whole model")
    if magic in _TURNED:
        allowed = (
            f"{_TURNED[magic]!r}: llama.cpp wrote these names little-endian; convert the model anew, from its source"
        )
        raise UnsupportedError(file.path, "header", offset=0, found=magic, allowed=allowed)
    if magic not in _VERSIONED:
        raise MalformedError(file.path, "header", offset=0, found=magic, allowed="b'lmgg', b'fmgg' or b'tjgg'")
    version = int.from_bytes(file.read(4, 4, "version"), "little")
    known = _VERSIONED[magic]
    if version not in known:
        error = MalformedError if version == 0 else UnsupportedError
        allowed = f"version {' or '.join(map(str, known))}"
        raise error(file.path, "version", offset=4, found=version, allowed=allowed)
    return known[version], 8


def _numbers(cursor: Cursor) -> Numbers:
    found: dict[str, int] = {}
    for name in Numbers.__dataclass_fields__:
        offset, least, most = cursor.offset, int(name != "ftype"), getattr(_MOST, name)
        value = found[name] = cursor.u32(name)
        if not least <= value <= most:
            raise cursor.error(name, offset, value, f"{least} to {most}")
    return Numbers(**found)


def _vocabulary(
    cursor: Cursor, n_tokens: int, generation: Generation
) -> tuple[tuple[bytes, ...], tuple[float, ...] | None]:
    tokens: list[bytes] = []
    scores: list[float] = []
    least_bytes = 8 if generation.has_scores else 4
    left = cursor.file.size - cursor.offset
    if n_tokens > left // least_bytes:
        allowed = f"tokens of {least_bytes} bytes or more each in the {left} that follow"
        raise cursor.error("n_vocab", cursor.offset - 28, n_tokens, allowed)
    for index in range(n_tokens):
        offset, field = cursor.offset, f"vocabulary[{index}]"
        if index == n_tokens - 1 and not generation.has_scores and _is_first_tensor(cursor):
            tokens.append(b"<pad>")
            break
        length = cursor.u32(f"{field}.length")
        if length > MOST_TOKEN_BYTES:
            raise cursor.error(f"{field}.length", offset, length, f"at most {MOST_TOKEN_BYTES} bytes")
        tokens.append(cursor.take(length, field))
        if generation.has_scores:
            scores.extend(struct.unpack("<f", cursor.take(4, f"{field}.score")))
    return tuple(tokens), tuple(scores) if generation.has_scores else None


def _is_first_tensor(cursor: Cursor) -> bool:
    """Whether the list of tokens is over although the header counts one more.

    So it is in GPT4All's first file: 32,001 tokens counted, the last of which, for padding, was never written.
    """
    start = cursor.offset + _ENTRY.size + 4 * MOST_DIMENSIONS
    if start + len(_FIRST_TENSOR) > cursor.file.size:
        return False
    return cursor.file.read(start, len(_FIRST_TENSOR), "vocabulary") == _FIRST_TENSOR


def _tensors(file: InputFile, offset: int, generation: Generation) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    while offset < file.size:
        field = f"tensor[{len(tensors)}]"
        if len(tensors) == MOST_TENSORS:
            found = f"{file.size - offset} bytes more"
            raise MalformedError(
                file.path, field, offset=offset, found=found, allowed=f"at most {MOST_TENSORS} tensors"
            )
        tensor = _tensor(file, offset, field, generation)
        name = tensor.info.name
        if name in tensors:
            raise MalformedError(file.path, field, offset=offset, found=f"{name} again", allowed="each name once")
        tensors[name] = tensor
        offset = tensor.offset_in_file + tensor.info.n_bytes
    return tensors


def _tensor(file: InputFile, offset: int, field: str, generation: Generation) -> StoredTensor:
    """One entry, and that its data are in the file."""
    n_dims, name_bytes, number = _ENTRY.unpack(file.read(offset, _ENTRY.size, field))
    for part, place, value, most in (
        ("n_dims", offset, n_dims, MOST_DIMENSIONS),
        ("name.length", offset + 4, name_bytes, MOST_NAME_BYTES),
    ):
        if not 1 <= value <= most:
            raise MalformedError(file.path, f"{field}.{part}", offset=place, found=value, allowed=f"1 to {most}")
    start = offset + _ENTRY.size
    shape = struct.unpack(f"<{n_dims}I", file.read(start, 4 * n_dims, f"{field}.shape"))[::-1]
    name = _name(file, start + 4 * n_dims, name_bytes, field)
    info = TensorInfo(name, _dtype(file, name, offset + 8, number, generation), shape)
    if 0 in shape or not info.dtype.fits(info.n_columns):
        allowed = f"rows of a multiple of {info.dtype.block_size} weights, at least one of them"
        raise MalformedError(file.path, f"{name}.shape", offset=start, found=shape, allowed=allowed)
    data_offset = padded(start + 4 * n_dims + name_bytes, generation.alignment)
    missing = data_offset + info.n_bytes - file.size
    if missing > 0:
        found = f"the file's end after {file.size} bytes, {missing} are missing"
        allowed = f"{info.n_bytes} bytes of {info.dtype}, shape {shape}, from {data_offset} on"
        raise MalformedError(file.path, name, offset=offset, found=found, allowed=allowed)
    return StoredTensor(info, file, data_offset)


def _name(file: InputFile, offset: int, n_bytes: int, field: str) -> str:
    data = file.read(offset, n_bytes, f"{field}.name")
    if not data.isascii() or b"\0" in data:
        raise MalformedError(file.path, f"{field}.name", offset=offset, found=data, allowed="a name in ASCII")
    return data.decode("ascii")


def _dtype(file: InputFile, name: str, offset: int, number: int, generation: Generation) -> DType:
    if number in generation.dtypes:
        return generation.dtypes[number]
    allowed = f"the types of {generation.name}: " + ", ".join(f"{n} {d}" for n, d in generation.dtypes.items())
    known = dtypes.REMOVED_GGML_IDS.get(number) or (number in dtypes.BY_GGML_ID and dtypes.BY_GGML_ID[number].name)
    if known:
        found = f"{number}: {known}"
        raise UnsupportedError(file.path, f"{shown(name)}.type", offset=offset, found=found, allowed=allowed)
    raise MalformedError(file.path, f"{shown(name)}.type", offset=offset, found=number, allowed=allowed)
