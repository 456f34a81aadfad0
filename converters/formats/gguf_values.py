"""Values of GGUF's metadata: their types, how they are read from a file that nobody vouches for, how they are packed.

A string is its length in bytes (u64) and UTF-8. An array is the type of its elements (u32), their number (u64), and
the elements; gguf_dialect.py says how other versions and byte orders have it. Every length is held against the bytes
that the file really has before it is used. The file is read forward through a window, never mapped, so that a file cut
short under our hands is an error and not a signal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from itertools import chain

import numpy as np
import numpy.typing as npt

from converters.errors import MalformedError, RefusedError, UnsupportedError, shown
from converters.formats.gguf_dialect import Dialect
from converters.input_file import InputFile

# Budgets: 262,144 tokens with scores and merges, the largest vocabulary that we know of, take about 20 MB and 800,000
# strings. What Python makes of text is up to six times as large as the bytes.
MOST_HEADER_BYTES = 64 * 2**20
MOST_STRINGS = 2**21  # in arrays, all together

_WINDOW = 2**20  # bytes read at a time
_THIS = Dialect()


class ValueType(IntEnum):
    """`gguf_metadata_value_type`: how a value is written."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


NUMBERS: dict[ValueType, np.dtype[np.generic]] = {
    ValueType.UINT8: np.dtype("u1"), ValueType.INT8: np.dtype("i1"),
    ValueType.UINT16: np.dtype("<u2"), ValueType.INT16: np.dtype("<i2"),
    ValueType.UINT32: np.dtype("<u4"), ValueType.INT32: np.dtype("<i4"),
    ValueType.UINT64: np.dtype("<u8"), ValueType.INT64: np.dtype("<i8"),
    ValueType.FLOAT32: np.dtype("<f4"), ValueType.FLOAT64: np.dtype("<f8"),
    ValueType.BOOL: np.dtype("?"),
}  # fmt: skip
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_TYPE_OF_NUMBERS = {dtype: kind for kind, dtype in NUMBERS.items()}

Value = bool | int | float | str | tuple[str, ...] | npt.NDArray[np.generic]


class Cursor:
    """Goes forward through the header; looks whether bytes are there before it asks for them."""

    def __init__(self, file: InputFile, offset: int, dialect: Dialect = _THIS) -> None:
        self.file, self.dialect = file, dialect
        self._end = min(file.size, MOST_HEADER_BYTES)
        self._window, self._window_offset, self._at = b"", offset, 0
        self._strings_left = MOST_STRINGS

    @property
    def offset(self) -> int:
        """From the start of the file."""
        return self._window_offset + self._at

    def error(self, field: str, offset: int, found: object, allowed: str) -> MalformedError:
        return MalformedError(self.file.path, field, offset=offset, found=found, allowed=allowed)

    def take(self, n_bytes: int, field: str) -> bytes:
        """The next bytes. Raises MalformedError naming field where the file, or the budget, has fewer."""
        if self._at + n_bytes > len(self._window):
            self._refill(n_bytes, field)
        start = self._at
        self._at += n_bytes
        return self._window[start : self._at]

    def _refill(self, n_bytes: int, field: str) -> None:
        """Move the window to where we are, so that n_bytes are in it."""
        offset = self.offset
        left = self._end - offset
        if n_bytes > left:
            raise self.error(field, offset, f"{n_bytes} bytes", self._what_is_left(offset))
        self._window = self.file.read(offset, min(left, max(n_bytes, _WINDOW)), field)
        self._window_offset, self._at = offset, 0

    def _what_is_left(self, offset: int) -> str:
        if self._end < self.file.size:
            return f"a header of at most {MOST_HEADER_BYTES} bytes"
        return f"at most the {self._end - offset} bytes that are left of the file"

    def u32(self, field: str) -> int:
        return int(self.dialect.u32.unpack(self.take(4, field))[0])

    def u64(self, field: str) -> int:
        return int(self.dialect.u64.unpack(self.take(8, field))[0])

    def count(self, field: str) -> int:
        """A count, a length or a dimension, as wide as the version has them."""
        return int(self.dialect.size.unpack(self.take(self.dialect.size.size, field))[0])

    def value_type(self, field: str, of: str) -> ValueType:
        """A type's number. of: whose type it is, for the message."""
        offset = self.offset
        number = self.u32(field)
        try:
            return ValueType(number)
        except ValueError:
            raise self.error(field, offset, f"{number} for {shown(of)}", "a type from 0 to 12") from None

    def string(self, field: str, *, least: int = 0, most: int = MOST_HEADER_BYTES, note: str = "") -> str:
        """Text of least to most bytes. note: what else may be wrong when its length is."""
        offset = self.offset
        n_bytes = self.count(f"{field}.length")
        start = self.offset
        if not least <= n_bytes <= most:
            raise self.error(f"{field}.length", offset, n_bytes, f"{least} to {most} bytes{note}")
        if n_bytes > self._end - start:
            raise self.error(f"{field}.length", offset, n_bytes, self._what_is_left(start) + note)
        data = self.take(n_bytes, field)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.error(field, start + error.start, data[error.start : error.start + 8], "UTF-8") from None

    def strings(self, field: str, count: int) -> tuple[str, ...]:
        """An array of text: most of a header's bytes, so whatever lies whole in the window is read in one go."""
        self._strings_left -= count
        texts: list[str] = []
        length_at, width = self.dialect.size.unpack_from, self.dialect.size.size
        while len(texts) < count:
            window, at, end = self._window, self._at, len(self._window)
            try:
                while len(texts) < count and at + width <= end:
                    stop = at + width + length_at(window, at)[0]
                    if stop > end:
                        break
                    texts.append(window[at + width : stop].decode())
                    at = stop
            except UnicodeDecodeError:
                pass  # `string` comes to the same bytes next, and says where they are
            self._at = at
            if len(texts) < count:
                texts.append(self.string(f"{field}[{len(texts)}]"))
        return tuple(texts)

    def numbers(self, field: str, kind: ValueType, count: int) -> npt.NDArray[np.generic]:
        """So many numbers or booleans, as an array that cannot be written."""
        offset, dtype = self.offset, NUMBERS[kind]
        data = self.take(count * dtype.itemsize, field)
        if kind is ValueType.BOOL:
            values = np.frombuffer(data, np.uint8)
            wrong = np.flatnonzero(values > 1)
            if wrong.size:
                at = int(wrong[0])
                raise self.error(field, offset + at, int(values[at]), "0 or 1, for false and true")
        stored = np.frombuffer(data, dtype.newbyteorder(self.dialect.sign))
        read = stored.astype(dtype, copy=False)
        read.flags.writeable = False
        return read

    def array(self, key: str) -> tuple[ValueType, Value]:
        """The type of an array's elements, and the elements."""
        offset = self.offset
        kind = self.value_type(f"{key}.type", f"the elements of {key}")
        if kind is ValueType.ARRAY:
            raise UnsupportedError(
                self.file.path, f"{key}.type", offset=offset, found="an array of arrays", allowed="one level"
            )
        offset = self.offset
        count = self.count(f"{key}.length")
        least_bytes = self.dialect.size.size if kind is ValueType.STRING else NUMBERS[kind].itemsize
        if count > (self._end - self.offset) // least_bytes:
            raise self.error(f"{key}.length", offset, f"{count} elements", self._what_is_left(self.offset))
        if kind is not ValueType.STRING:
            return kind, self.numbers(key, kind, count)
        if count > self._strings_left:
            raise self.error(f"{key}.length", offset, f"{count} strings", f"{MOST_STRINGS} in a header")
        return kind, self.strings(key, count)


def exact(kind: ValueType, value: Value) -> object:
    """A value that was read, as `packed_value` packs it into the very same type."""
    return value if kind in (ValueType.STRING, ValueType.ARRAY, ValueType.BOOL) else NUMBERS[kind].type(value)


def packed_value(key: str, value: object, dialect: Dialect = _THIS) -> bytes:
    """Type and value, as a key's entry has them.

    A bool becomes BOOL; an int UINT32, INT32 where it is negative; a float FLOAT32; each of them as wide again where
    that cannot hold it; a str STRING; a list or tuple of str ARRAY of STRING; a number of numpy's its type, an array of
    one dimension ARRAY of its type. Raises RefusedError for text that UTF-8 cannot hold, ValueError for what GGUF has
    no type for; key is for both.
    """
    if isinstance(value, str):
        return dialect.u32.pack(ValueType.STRING) + packed_string(key, value, dialect)
    if isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value):
        return _array_head(ValueType.STRING, len(value), dialect) + _packed_strings(key, value, dialect)
    numbers = np.asarray(_narrowed(value))
    kind = _TYPE_OF_NUMBERS.get(numbers.dtype.newbyteorder("<"))
    is_array = isinstance(value, np.ndarray)
    if kind is None or numbers.ndim != is_array:
        raise ValueError(f"{key}: GGUF has no type for {value!r}")
    head = _array_head(kind, len(numbers), dialect) if is_array else dialect.u32.pack(kind)
    return head + numbers.astype(NUMBERS[kind].newbyteorder(dialect.sign)).tobytes()


def _narrowed(value: object) -> object:
    """Python's own numbers as the smallest of GGUF's usual types that holds them."""
    if isinstance(value, (np.generic, np.ndarray, bool)):
        return value
    if isinstance(value, int) and value < 0:
        return np.int32(value) if value >= -(2**31) else np.int64(value)
    if isinstance(value, int):
        return np.uint32(value) if value < 2**32 else np.uint64(value)
    if isinstance(value, float):
        return np.float64(value) if _LARGEST_FLOAT < abs(value) < math.inf else np.float32(value)
    return value


def _array_head(kind: ValueType, count: int, dialect: Dialect) -> bytes:
    return dialect.u32.pack(ValueType.ARRAY) + dialect.u32.pack(kind) + dialect.size.pack(count)


def _packed_strings(key: str, texts: Sequence[str], dialect: Dialect) -> bytes:
    """One behind the other; a vocabulary has hundreds of thousands."""
    try:
        encoded = [text.encode() for text in texts]
    except UnicodeEncodeError:
        return b"".join(packed_string(key, text, dialect) for text in texts)  # says which
    return b"".join(chain.from_iterable(zip(map(dialect.size.pack, map(len, encoded)), encoded, strict=True)))


def packed_string(key: str, text: str, dialect: Dialect = _THIS) -> bytes:
    """Length and UTF-8. Raises RefusedError, naming key, for lone surrogates."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise RefusedError(f"{shown(key)}: {shown(text)} is no text that UTF-8 can hold ({error.reason})") from None
    return dialect.size.pack(len(data)) + data
