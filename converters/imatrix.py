"""Importance matrices: how strongly calibration text used each column of each matrix of a model.

For every matrix the sums of squares of what it was multiplied with, column by column, and over how many tokens; the
mean square is the column's importance, by which a quantizer weighs errors. Tensors of experts have one sum a column and
one count for each expert. Both forms of llama.cpp are read (common/imatrix-loader.cpp), and the newer is written
(tools/imatrix/imatrix.cpp):

    GGUF:   general.type "imatrix", imatrix.datasets (names of texts), imatrix.chunk_count, imatrix.chunk_size (tokens);
            for each matrix, by name, two F32 tensors: `<name>.in_sum2` and `<name>.counts` (in tokens)
    legacy: n_entries i32; for each: name length i32, name, n_calls i32, n_values i32, n_values float32 (mean squares
            times n_calls); then, or not: n_chunks i32, name length i32 and name of the text; little-endian

An expert that the text never reached, or that got nothing but zeros, has all its columns count the same, 1, as
llama-quantize has it: it is quantized by its weights alone, and whoever uses the matrix is told.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.dtypes import F32
from converters.errors import MalformedError, RefusedError, UnsupportedError, shown
from converters.fields import Fields
from converters.formats.gguf_dialect import Dialect
from converters.formats.gguf_header import (
    ALIGNMENT,
    MAGIC,
    MOST_NAME_BYTES,
    MOST_TENSORS,
    pack_header,
    padded,
    read_header,
)
from converters.input_file import InputFile
from converters.tensors import TensorInfo

Reals = npt.NDArray[np.float32]

SUMS, COUNTS = ".in_sum2", ".counts"  # what follows a matrix's name, in the GGUF form
# Held in memory as a whole: 58 layers of 256 experts, the largest model that we know of, make 1 GB.
MOST_BYTES = 4 * 2**30
# The mean square of n normal values is off by sqrt(2 / n): with so many tokens, by 10 %.
FEW_TOKENS = 200

_FLOAT = np.dtype("<f4")
_LEAST_ENTRY_BYTES = 4 + 1 + 4 + 4 + 4
_HASHED_AT_ONCE = 2**20


@dataclass(frozen=True, eq=False)
class Entry:
    """What one matrix, or each expert of a tensor of experts, was multiplied with.

    sums: float32, shape (n_counts, n): of squares, finite, not negative. counts: int64, shape (n_counts,): tokens that
    were summed (in the legacy form chunks, of a size that it does not tell). A count may stand for several matrices:
    then its n sums are those of one after the other.
    """

    sums: Reals
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Imatrix:
    """An importance matrix. entries: by GGUF name. datasets: names of the texts. chunk_size: tokens that were read in
    one go, 0 where nobody knows. path, sha256: of the file that it came from, None for one that was made here."""

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    path: Path | None = None
    sha256: str | None = None

    @property
    def input_name(self) -> str:
        """What it is called among the inputs of a conversion: with a slash, which no file's name has."""
        return f"imatrix/{self.path.name if self.path else ''}"

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def importance(self, info: TensorInfo, expert: int = 0) -> Reals:
        """What each column of a matrix, or of one expert of a tensor, counts: float32, shape (n_columns,).

        Sum over count, in float32 as llama-quantize divides (tools/quantize/quantize.cpp); all 1 where the text never
        came. Raises KeyError for a tensor without an entry, RefusedError as `check_fits` does.
        """
        self.check_fits(info)
        entry = self.entries[info.name]
        sums: Reals = entry.sums.reshape(_n_matrices(info), info.n_columns)[expert]
        count = entry.counts[expert if len(entry.counts) > 1 else 0]
        if count == 0 or not sums.any():
            return np.ones_like(sums)
        return sums / np.float32(count)

    def unreached(self, info: TensorInfo) -> tuple[int, ...]:
        """The experts of a tensor that the text never came to (0 for a plain matrix). Raises as `importance` does."""
        self.check_fits(info)
        entry, n_matrices = self.entries[info.name], _n_matrices(info)
        reached = entry.sums.reshape(n_matrices, -1).any(axis=1) & (entry.counts > 0)
        return tuple(np.flatnonzero(~reached).tolist())

    def keys(self) -> dict[str, object]:
        """What a GGUF file says of the importance matrix that its types were searched with, as llama-quantize says it.

        Of the file only the name, for where it lay is nobody's business (tools/quantize/quantize.cpp).
        """
        said: dict[str, object] = {"quantize.imatrix.file": self.path.name if self.path else ""}
        if self.datasets:
            said["quantize.imatrix.dataset"] = self.datasets[0]
        said["quantize.imatrix.entries_count"] = len(self.entries)
        if self.chunk_count:
            said["quantize.imatrix.chunks_count"] = self.chunk_count
        return said

    def check_fits(self, info: TensorInfo) -> None:
        """Raise RefusedError where this was not made for a tensor of that shape."""
        entry, n_matrices = self.entries[info.name], _n_matrices(info)
        wanted = f"{info.n_columns} columns" if n_matrices == 1 else f"{n_matrices} experts of {info.n_columns} columns"
        if entry.sums.size != n_matrices * info.n_columns:
            found = f"{entry.sums.size} columns in all"
        elif len(entry.counts) not in (1, n_matrices):
            found = f"{len(entry.counts)} experts"
        else:
            return
        where = shown(str(self.path or "importance matrix"))
        raise RefusedError(
            f"{where}: {shown(info.name)} has {found}, the model's has {wanted}; it was made with another model"
        )

    def with_few_tokens(self) -> dict[str, dict[int, int]]:
        """Matrices whose importance is a guess: by name, the experts with fewer than FEW_TOKENS and their count."""
        few = {
            name: {expert: int(count) for expert, count in enumerate(entry.counts) if count < FEW_TOKENS}
            for name, entry in self.entries.items()
        }
        return {name: experts for name, experts in few.items() if experts}


def _n_matrices(info: TensorInfo) -> int:
    return math.prod(info.shape[:-2])


def read(path: Path) -> Imatrix:
    """The importance matrix in a file, of either form, by its content.

    Raises MalformedError that names the key, tensor or value, UnsupportedError for another kind of GGUF file,
    MissingError, ChangedError.
    """
    with InputFile(path) as file:
        imatrix = read_file(file)
        file.check_unchanged()
    return imatrix


def read_file(file: InputFile) -> Imatrix:
    """The same of a file that is open."""
    if file.size > MOST_BYTES:
        raise MalformedError(file.path, "file", found=f"{file.size} bytes", allowed=f"at most {MOST_BYTES}")
    is_gguf = file.read(0, min(len(MAGIC), file.size), "file") == MAGIC
    return _read_gguf(file) if is_gguf else _read_legacy(file)


def _digest(file: InputFile) -> str:
    sha256 = hashlib.sha256()
    for offset in range(0, file.size, _HASHED_AT_ONCE):
        sha256.update(file.read(offset, min(_HASHED_AT_ONCE, file.size - offset), "file"))
    return sha256.hexdigest()


def _read_gguf(file: InputFile) -> Imatrix:
    header = read_header(file)
    fields = Fields(file.path, header.metadata)
    kind = fields.string("general.type", default="model")
    if kind != "imatrix":
        raise UnsupportedError(file.path, "general.type", found=kind, allowed="imatrix")
    datasets = fields.values.get("imatrix.datasets")
    if not isinstance(datasets, tuple):
        found = "nothing" if datasets is None else datasets
        raise fields.error("imatrix.datasets", found, "names of texts, an array of strings")
    chunk_count = fields.integer("imatrix.chunk_count", minimum=0)
    chunk_size = fields.integer("imatrix.chunk_size", minimum=0)

    # Others than these two are left alone, as llama.cpp does: its newer versions may write more.
    stored = {info.name: (info, offset) for info, offset in header.tensors if info.name.endswith((SUMS, COUNTS))}
    names = sorted({name.removesuffix(SUMS).removesuffix(COUNTS) for name in stored})
    if not names:
        raise MalformedError(file.path, "n_tensors", found=f"no tensor named …{SUMS}", allowed="at least one")

    entries = {name: _entry(file, name, stored, header.dialect) for name in names}
    return Imatrix(entries, datasets, chunk_count, chunk_size, file.path, _digest(file))


def _entry(file: InputFile, name: str, stored: Mapping[str, tuple[TensorInfo, int]], dialect: Dialect) -> Entry:
    """The entry of a matrix out of its two tensors. stored: each with its offset in the file."""
    sums = _values(file, name + SUMS, name + COUNTS, stored, dialect)
    counts = _values(file, name + COUNTS, name + SUMS, stored, dialect)
    if sums.size % counts.size:
        found = f"{sums.size} sums for {counts.size} counts"
        raise MalformedError(file.path, name + SUMS, found=found, allowed="as many sums for each count")
    if (wrong := np.flatnonzero((counts != np.rint(counts)) | (counts >= 2.0**53))).size:
        at, offset = int(wrong[0]), stored[name + COUNTS][1]
        found = f"{float(counts[at])!r} for expert {at}"
        raise MalformedError(
            file.path, name + COUNTS, offset=offset + 4 * at, found=found, allowed="a whole number of tokens"
        )
    return Entry(sums.reshape(counts.size, -1), counts.astype(np.int64))


def _values(
    file: InputFile, name: str, partner: str, stored: Mapping[str, tuple[TensorInfo, int]], dialect: Dialect
) -> Reals:
    """What is in a tensor that has to be there because its partner is."""
    if name not in stored:
        raise MalformedError(file.path, name, found="no such tensor", allowed=f"one, as there is {shown(partner)}")
    info, offset = stored[name]
    if info.dtype != F32:
        raise MalformedError(file.path, f"{name}.type", found=info.dtype, allowed="F32")
    if info.n_weights == 0:
        raise MalformedError(file.path, f"{name}.shape", found=info.shape, allowed="one value or more")
    numbers = file.read_array(offset, info.n_bytes, name).view(_FLOAT.newbyteorder(dialect.sign))
    return _judged(file, name, numbers, offset)


def _read_legacy(file: InputFile) -> Imatrix:
    cursor = _Cursor(file)
    n_entries = cursor.number("n_entries", 1, min(MOST_TENSORS, (file.size - 4) // _LEAST_ENTRY_BYTES))
    entries: dict[str, Entry] = {}
    for index in range(n_entries):
        field, start = f"entry[{index}].name", cursor.offset
        name = _text(file, field, start + 4, cursor.bytes(field, cursor.number(f"{field}.length", 1, MOST_NAME_BYTES)))
        if name in entries:
            raise MalformedError(file.path, field, offset=start, found=f"{shown(name)} again", allowed="each name once")
        # A count of 0 means, to llama.cpp, sums that are mean squares already.
        n_calls = max(1, cursor.number(f"{name}.n_calls", 0, 2**31 - 1))
        n_values = cursor.number(f"{name}.n_values", 1, (file.size - cursor.offset) // _FLOAT.itemsize)
        start = cursor.offset
        sums = _judged(file, name, cursor.array(name, n_values * _FLOAT.itemsize).view(_FLOAT), start)
        entries[name] = Entry(sums.reshape(1, -1), np.array([n_calls], np.int64))
    n_chunks = 0
    datasets: tuple[str, ...] = ()
    if not cursor.at_end:
        n_chunks = cursor.number("n_chunks", 0, 2**31 - 1)
    if not cursor.at_end:
        text = cursor.bytes("dataset", cursor.number("dataset.length", 0, file.size - cursor.offset))
        datasets = (text.decode("utf-8", "replace"),) if text else ()
    if not cursor.at_end:
        found = f"{file.size - cursor.offset} bytes after the last field"
        raise MalformedError(file.path, "trailing bytes", offset=cursor.offset, found=found, allowed="none")
    return Imatrix(entries, datasets, n_chunks, 0, file.path, _digest(file))


class _Cursor:
    """Goes forward through the legacy form."""

    def __init__(self, file: InputFile) -> None:
        self._file, self.offset = file, 0

    @property
    def at_end(self) -> bool:
        return self.offset == self._file.size

    def bytes(self, field: str, n_bytes: int) -> bytes:
        data = self._file.read(self.offset, n_bytes, field)
        self.offset += n_bytes
        return data

    def array(self, field: str, n_bytes: int) -> npt.NDArray[np.uint8]:
        data = self._file.read_array(self.offset, n_bytes, field)
        self.offset += n_bytes
        return data

    def number(self, field: str, minimum: int, maximum: int) -> int:
        offset = self.offset
        value = int.from_bytes(self.bytes(field, 4), "little", signed=True)
        if not minimum <= value <= maximum:
            allowed = f"{minimum} to {maximum}" if minimum <= maximum else "more than the file has room for"
            raise MalformedError(self._file.path, field, offset=offset, found=value, allowed=allowed)
        return value


def _text(file: InputFile, field: str, offset: int, data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(file.path, field, offset=offset + error.start, found=data, allowed="UTF-8") from None
    if "\0" in text:
        raise MalformedError(file.path, field, offset=offset, found=text, allowed="a name without a zero byte")
    return text


def _judged(file: InputFile, name: str, values: npt.NDArray[np.float32], offset: int) -> Reals:
    """Values as they are, if each is a number and none is negative: neither a sum of squares nor a count can be."""
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if wrong.size:
        at = int(wrong[0])
        found = f"{float(values[at])!r} as value {at}"
        allowed = "finite numbers, not negative"
        raise MalformedError(file.path, name, offset=offset + _FLOAT.itemsize * at, found=found, allowed=allowed)
    return values.astype(_FLOAT, copy=False)


def pack(imatrix: Imatrix) -> bytes:
    """The GGUF form as llama.cpp writes it, sums and counts in the order of names: the same matrix, the same bytes."""
    metadata: dict[str, object] = {
        "general.type": "imatrix",
        "imatrix.datasets": imatrix.datasets,
        "imatrix.chunk_count": imatrix.chunk_count,
        "imatrix.chunk_size": imatrix.chunk_size,
    }
    placed: list[tuple[TensorInfo, int]] = []
    data: list[bytes] = []
    offset = 0
    for name, entry in sorted(imatrix.entries.items()):
        for suffix, values in ((SUMS, entry.sums), (COUNTS, entry.counts.reshape(-1, 1))):
            shape = values.shape if len(values) > 1 else values.shape[1:]  # ggml drops dimensions of 1 at the end
            info = TensorInfo(name + suffix, F32, shape)
            placed.append((info, offset))
            size = padded(info.n_bytes, ALIGNMENT)
            data.append(values.astype(_FLOAT).tobytes().ljust(size, b"\0"))
            offset += size
    return b"".join((pack_header(metadata, placed), *data))
