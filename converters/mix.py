"""Which tensor gets which type: a named mix (`q4_0`, `f16`) applied to one checkpoint.

Names, numbers and rules are llama.cpp's: `llama_ftype` in include/llama.h, `llama_tensor_get_type` and
`tensor_type_fallback` in src/llama-quant.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from converters import dtypes
from converters.dtypes import DType
from converters.errors import RefusedError
from converters.tensors import TensorInfo


@dataclass(frozen=True)
class Mix:
    """A named recipe of types. file_type: its number in `general.file_type`. base: the type of most tensors."""

    name: str
    file_type: int
    base: DType


MIXES: Mapping[str, Mix] = {
    mix.name: mix
    for mix in (
        Mix("f32", 0, dtypes.F32),
        Mix("f16", 1, dtypes.F16),
        Mix("q4_0", 2, dtypes.Q4_0),
        Mix("q4_1", 3, dtypes.Q4_1),
        Mix("q8_0", 7, dtypes.Q8_0),
        Mix("bf16", 32, dtypes.BF16),
    )
}

# Where a row is no whole number of blocks, the nearest type whose blocks are smaller.
_FALLBACK: Mapping[DType, DType] = {dtypes.Q6_K: dtypes.Q8_0}


def named(name: str) -> Mix:
    """The mix of that name, in any case; RefusedError lists what there is."""
    mix = MIXES.get(name.lower().replace("-", "_"))
    if mix is None:
        raise RefusedError(f"{name}: no such type; there are {', '.join(sorted(MIXES))}")
    return mix


def types(mix: Mix, tensors: Iterable[TensorInfo]) -> dict[str, DType]:
    """The type of every tensor, by GGUF name."""
    tensors = list(tensors)
    has_output = any(info.name == "output.weight" for info in tensors)
    output = "output.weight" if has_output else "token_embd.weight"
    return {info.name: _type_of(info, mix, is_output=info.name == output) for info in tensors}


def _type_of(info: TensorInfo, mix: Mix, *, is_output: bool) -> DType:
    if len(info.shape) < 2 or not info.name.endswith(".weight") or info.name.endswith("_norm.weight"):
        return dtypes.F32
    if mix.base.is_plain:
        return mix.base
    wanted = dtypes.Q6_K if is_output and mix.base != dtypes.Q8_0 else mix.base
    while not wanted.fits(info.n_columns):
        wanted = _FALLBACK.get(wanted, dtypes.F16)
    return wanted
