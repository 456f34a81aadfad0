"""How a GGUF file writes its numbers, by version and byte order.

Version 1 (August 2023) counts in u32: tensors and keys, the length of a string or an array, dimensions. Since version 2
all of these are u64; offsets always were. Version 3 brought files for big-endian machines. Nothing says so but the
version itself: read in the wrong order, 3 is 0x03000000.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

ByteOrder = Literal["little", "big"]

VERSIONS = (1, 2, 3)


@dataclass(frozen=True)
class Dialect:
    """Version and byte order: of what we write, where nothing else is said, version 3 in little-endian."""

    version: int = 3
    byte_order: ByteOrder = "little"

    @property
    def sign(self) -> Literal["<", ">"]:
        """What struct and numpy call the byte order."""
        return "<" if self.byte_order == "little" else ">"

    @cached_property
    def u32(self) -> struct.Struct:
        return struct.Struct(f"{self.sign}I")

    @cached_property
    def u64(self) -> struct.Struct:
        return struct.Struct(f"{self.sign}Q")

    @cached_property
    def size(self) -> struct.Struct:
        """A count, a length or a dimension."""
        return self.u32 if self.version == 1 else self.u64

    @cached_property
    def fixed(self) -> struct.Struct:
        """What every file begins with: magic, version, n_tensors, n_kv."""
        return struct.Struct(f"{self.sign}4sI{'II' if self.version == 1 else 'QQ'}")

    @property
    def least_key_bytes(self) -> int:
        """A key of one byte and a value of one byte."""
        return self.size.size + 1 + 4 + 1

    @property
    def least_tensor_bytes(self) -> int:
        """The entry of a scalar with a name of one byte."""
        return self.size.size + 1 + 4 + 4 + 8


def dialect_of(version: bytes) -> Dialect | None:
    """The dialect that these four bytes stand for, None for none that we know."""
    orders: tuple[ByteOrder, ByteOrder] = ("little", "big")
    for byte_order in orders:
        if (number := int.from_bytes(version, byte_order)) in VERSIONS:
            return Dialect(number, byte_order)
    return None
