"""What is wanted of a conversion, as data: the same recipe and the same input give the same bytes, anywhere."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass

from converters import dtypes, quants
from converters.dtypes import DType
from converters.errors import RefusedError
from converters.mix import Overrides, named

TARGETS = ("gguf", "safetensors")
_DEFAULT_SHARD_BYTES = 5_000_000_000  # what Hugging Face's own tools write


@dataclass(frozen=True)
class Recipe:
    """One conversion.

    target: the format of the result. mix: name in `converters.mix`; a safetensors folder takes f32, f16 or bf16.
    max_shard_bytes: tensors in one file of a safetensors folder, at most. imatrix: SHA-256 of the importance matrix
    that weighs the errors of quantized types, None for none. pure, output_type, token_embedding_type, tensor_types:
    what is wanted otherwise than the mix has it (`converters.mix.Overrides`); types by name, tensor_types as pairs of
    a regular expression and a type.
    """

    target: str
    mix: str
    max_shard_bytes: int = _DEFAULT_SHARD_BYTES
    imatrix: str | None = None
    pure: bool | None = None
    output_type: str | None = None
    token_embedding_type: str | None = None
    tensor_types: tuple[tuple[str, str], ...] | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise RefusedError(f"{self.target}: no such format to write; there are {', '.join(TARGETS)}")
        chosen = named(self.mix)
        if self.target == "safetensors" and not chosen.base.is_plain:
            raise RefusedError(f"{chosen.name}: safetensors folders hold f32, f16 or bf16; use --to gguf")
        if self.max_shard_bytes < 1:
            raise RefusedError(f"{self.max_shard_bytes}: a shard holds at least one byte")
        if self.imatrix is not None and chosen.base.is_plain:
            raise RefusedError(f"{chosen.name}: plain numbers are not searched, an importance matrix changes nothing")
        object.__setattr__(self, "mix", chosen.name)
        if self.overrides != Overrides() and chosen.base.is_plain:
            raise RefusedError(f"{chosen.name}: types of single tensors go with a quantized type")

    @property
    def overrides(self) -> Overrides:
        """What is wanted otherwise than the mix has it; RefusedError for a type or a pattern that is none."""
        return Overrides(
            pure=bool(self.pure),
            output=_dtype(self.output_type),
            token_embedding=_dtype(self.token_embedding_type),
            patterns=tuple((_pattern(pattern), _type(name)) for pattern, name in self.tensor_types or ()),
        )

    def canonical(self) -> str:
        """The one JSON text of this recipe: sorted keys, no spaces, nothing that is None.

        So a recipe keeps its digest when recipes learn to say more.
        """
        said = {key: value for key, value in asdict(self).items() if value is not None}
        return json.dumps(said, sort_keys=True, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def _dtype(name: str | None) -> DType | None:
    return None if name is None else _type(name)


def _type(name: str) -> DType:
    dtype = dtypes.BY_NAME.get(name.upper().replace("-", "_"))
    if dtype is None or not quants.can_encode(dtype):
        there = ", ".join(sorted(dtype.name for dtype in dtypes.ALL if quants.can_encode(dtype)))
        raise RefusedError(f"{name}: no such type of a tensor; there are {there}")
    return dtype


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise RefusedError(f"{text}: no regular expression, {error}") from error
    return text
