"""The pickle of a state dictionary, as torch.save writes it: the one kind of pickle that we ever write.

    OrderedDict of  name: _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())
    storage         persistent id ("storage", class, key, "cpu", number of elements); keys "0", "1", …

in protocol 2, where each text, tuple and object gets a number when it is first written (BINPUT) and is fetched by it
where it is meant again (BINGET): `save` in Python's pickle.py, `_rebuild_tensor_v2` in torch/_utils.py. The same bytes
that torch.save itself gives for tensors that lie row by row, each in a storage of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from converters import dtypes
from converters.dtypes import DType
from converters.tensors import TensorInfo

# How torch calls the storages that we write.
STORAGES: dict[DType, str] = {
    dtypes.F32: "FloatStorage",
    dtypes.F16: "HalfStorage",
    dtypes.BF16: "BFloat16Storage",
}
_ITEMS_AT_ONCE = 1000


def state_dictionary(infos: Iterable[TensorInfo]) -> bytes:
    """The pickle of a dictionary of these tensors. Tensor number i has the storage with the key str(i).

    Raises KeyError for a type that is not in `STORAGES`.
    """
    opcodes = _Opcodes()
    opcodes.ordered_dict()
    items = list(infos)
    for first in range(0, len(items), _ITEMS_AT_ONCE):
        batch = items[first : first + _ITEMS_AT_ONCE]
        if len(batch) > 1:
            opcodes.code(b"(")
        for number, info in enumerate(batch, first):
            opcodes.text(info.name)
            _tensor(opcodes, info, number)
        opcodes.code(b"u" if len(batch) > 1 else b"s")
    return opcodes.finish()


def _tensor(opcodes: _Opcodes, info: TensorInfo, number: int) -> None:
    opcodes.name("torch._utils", "_rebuild_tensor_v2")
    opcodes.code(b"((")
    opcodes.constant("storage")
    opcodes.name("torch", STORAGES[info.dtype])
    opcodes.text(str(number))
    opcodes.constant("cpu")
    opcodes.integer(info.n_weights)
    opcodes.code(b"t")
    opcodes.number()
    opcodes.code(b"Q")
    opcodes.integer(0)
    opcodes.integers(info.shape)
    opcodes.integers(_strides(info.shape))
    opcodes.code(b"\x89")  # no gradient
    opcodes.ordered_dict()
    opcodes.code(b"t")
    opcodes.number()
    opcodes.code(b"R")
    opcodes.number()


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements from one index to the next in each dimension, row by row; a length of 0 counts as 1."""
    strides: list[int] = []
    stride = 1
    for length in reversed(shape):
        strides.append(stride)
        stride *= max(length, 1)
    return tuple(reversed(strides))


class _Opcodes:
    """Opcodes as they come, and the numbers of what was written."""

    def __init__(self) -> None:
        self._data = bytearray(b"\x80\x02")
        self._count = 0
        self._numbers: dict[str, int] = {}

    def code(self, codes: bytes) -> None:
        self._data += codes

    def finish(self) -> bytes:
        return bytes(self._data) + b"."

    def number(self, meaning: str | None = None) -> None:
        """Number what stands on top of the stack; remember the number by its meaning, if it may be meant again."""
        if meaning is not None:
            self._numbers[meaning] = self._count
        self._by_number(b"q", b"r", self._count)
        self._count += 1

    def _by_number(self, short: bytes, long: bytes, number: int) -> None:
        self._data += short + bytes([number]) if number < 256 else long + number.to_bytes(4, "little")

    def _again(self, meaning: str) -> bool:
        if meaning not in self._numbers:
            return False
        self._by_number(b"h", b"j", self._numbers[meaning])
        return True

    def name(self, module: str, name: str) -> None:
        meaning = f"{module}\n{name}\n"
        if not self._again(meaning):
            self.code(b"c" + meaning.encode())
            self.number(meaning)

    def ordered_dict(self) -> None:
        self.name("collections", "OrderedDict")
        self.code(b")R")
        self.number()

    def constant(self, text: str) -> None:
        """A text that is one and the same object each time."""
        if not self._again(text):
            self.text(text, text)

    def text(self, text: str, meaning: str | None = None) -> None:
        data = text.encode()
        self.code(b"X" + len(data).to_bytes(4, "little") + data)
        self.number(meaning)

    def integer(self, value: int) -> None:
        """A count, in as few bytes as there are opcodes for."""
        if value < 1 << 8:
            self.code(b"K" + value.to_bytes(1, "little"))
        elif value < 1 << 16:
            self.code(b"M" + value.to_bytes(2, "little"))
        elif value < 1 << 31:
            self.code(b"J" + value.to_bytes(4, "little"))
        else:
            n_bytes = value.bit_length() // 8 + 1
            self.code(struct.pack("<cB", b"\x8a", n_bytes) + value.to_bytes(n_bytes, "little"))

    def integers(self, values: tuple[int, ...]) -> None:
        """A tuple of counts; up to three have opcodes of their own."""
        if len(values) > 3:
            self.code(b"(")
        for value in values:
            self.integer(value)
        self.code((b")", b"\x85", b"\x86", b"\x87", b"t")[min(len(values), 4)])
        if values:
            self.number()
