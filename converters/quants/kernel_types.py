"""What a kernel is: a function over the words of `vector.py`, which a machine carries out or writes down."""

from __future__ import annotations

from collections.abc import Callable

from converters.quants.importance import Importance
from converters.quants.vector import Block, Machine, Real, Reals

Quantize = Callable[[Machine, Reals, Block, Importance | None], None]
Dequantize = Callable[[Machine, Block, Reals], None]
FoldRow = Callable[[Machine, Reals, Real], Real]
