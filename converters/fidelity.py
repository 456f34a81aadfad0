"""How far the weights of a result are from those of its source: tensor by tensor, by what their types allow.

Logits over a text see the whole model at once; this sees each tensor by itself, so that one wrong layer in forty does
not hide behind what four bits cost everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from converters import quants
from converters.dtypes import DType
from converters.tensors import Tensor

# Root mean square of the error, relative to that of the weights: about three times what normally distributed weights
# lose in the best and the worst type of so many bits (Q8_0 0.0054, Q6_K 0.018, Q5_K 0.036, Q5_0 0.043, Q4_K 0.072, Q4_0
# 0.086, Q3_K 0.15, Q2_K 0.30, Q1_0 0.6); real ones lose up to a third more. Rows in a wrong order give about 1.4,
# zeros give 1.
_ALLOWED_BY_BITS = {8: 0.03, 6: 0.08, 5: 0.15, 4: 0.3, 3: 0.5, 2: 0.8, 1: 0.95}
_ALLOWED_PLAIN = {"F32": 0.0, "F16": 0.01, "BF16": 0.01}

_RUNS = 8  # of rows, spread over each tensor
_RUN_WEIGHTS = 1 << 16


@dataclass(frozen=True)
class TensorError:
    """One tensor of a result. error: relative root mean square over the rows that were read; allowed: for its type."""

    name: str
    dtype: DType
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed  # false for NaN too

    @property
    def share(self) -> float:
        """The error as a share of what is allowed."""
        return self.error / self.allowed if self.allowed else self.error


def tensor_errors(source: Mapping[str, Tensor], result: Mapping[str, Tensor]) -> Iterator[TensorError]:
    """Each tensor of a result against the source's of that name; one that is missing or misshapen is infinitely far.

    Reads at most half a million weights of each. A type coarser in the source than in the result allows what the
    result's own type allows: the source is what was to be kept.
    """
    for name, original in source.items():
        made = result.get(name)
        if made is None or made.info.shape != original.info.shape:
            yield TensorError(name, original.info.dtype, np.inf, 0.0)
        else:
            yield TensorError(name, made.info.dtype, _error(original, made), _allowed(made.info.dtype))


def _error(original: Tensor, made: Tensor) -> float:
    difference = magnitude = 0.0
    for start, stop in _runs(original.info.n_rows, original.info.n_columns):
        x, y = (quants.decode(t.read_rows(start, stop), t.info.dtype).astype(np.float64) for t in (original, made))
        difference += float(np.sum((x - y) ** 2))
        magnitude += float(np.sum(x**2))
    if difference == 0.0:
        return 0.0
    return float(np.sqrt(difference / magnitude)) if magnitude else np.inf


def _runs(n_rows: int, n_columns: int) -> Iterator[tuple[int, int]]:
    """Rows to read: all of a small tensor, else runs from its first row to its last."""
    length = max(1, _RUN_WEIGHTS // max(1, n_columns))
    if n_rows <= _RUNS * length:
        yield 0, n_rows
        return
    for run in range(_RUNS):
        start = run * (n_rows - length) // (_RUNS - 1)
        yield start, start + length


def _allowed(dtype: DType) -> float:
    if dtype.name in _ALLOWED_PLAIN:
        return _ALLOWED_PLAIN[dtype.name]
    if dtype.name.startswith("TQ"):  # three values serve a model that was trained to have three, and nothing else
        return _ALLOWED_BY_BITS[1]
    bits = re.search(r"\d", dtype.name)
    return _ALLOWED_BY_BITS[int(bits[0])] if bits else 0.0
