"""What is wanted of a conversion, as data: the same recipe and the same input give the same bytes, anywhere."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass

from converters import dtypes, quants
from converters.dtypes import DType
from converters.errors import RefusedError, shown
from converters.mix import Overrides, named

TARGETS = {
    "gguf": "one file for llama.cpp and its kin",
    "safetensors": "a folder of Hugging Face's",
    "bin": "the same with its weights in PyTorch's files",
    "pth": "a folder as Meta releases it, consolidated.NN.pth",
    "mistral": "a folder as Mistral releases it, consolidated.safetensors",
}
_SPLIT_BY_SIZE = ("gguf", "safetensors", "bin")
_MOST_SHARDS = 64


# What each field is in JSON.
_KINDS = {
    "target": str, "mix": str, "max_shard_bytes": int, "n_shards": int, "byte_order": str, "imatrix": str, "pure": bool,
    "output_type": str, "token_embedding_type": str, "tensor_types": list,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """One conversion.

    target: the format of the result, one of `TARGETS`. mix: name in `converters.mix`; all but GGUF take f32, f16 or
    bf16. max_shard_bytes: of tensors in one file of a GGUF or of a folder of Hugging Face's, at most, None for what the
    format's own tools do. n_shards: files of a pth folder, over which its matrices are divided. byte_order: of a GGUF,
    "big" for the machines that have it. imatrix: SHA-256 of the importance matrix that weighs the errors of quantized
    types. pure, output_type, token_embedding_type, tensor_types: what is wanted otherwise than the mix has it
    (`converters.mix.Overrides`); types by name, tensor_types as pairs of a regular expression and a type. None
    everywhere means that it was not asked for.
    """

    target: str
    mix: str
    max_shard_bytes: int | None = None
    n_shards: int | None = None
    byte_order: str | None = None
    imatrix: str | None = None
    pure: bool | None = None
    output_type: str | None = None
    token_embedding_type: str | None = None
    tensor_types: tuple[tuple[str, str], ...] | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise RefusedError(f"{self.target}: no such format to write; there are {', '.join(TARGETS)}")
        chosen = named(self.mix)
        if self.target != "gguf" and not chosen.base.is_plain:
            raise RefusedError(f"{chosen.name}: {self.target} folders hold f32, f16 or bf16; use --to gguf")
        self._check_shards()
        if self.imatrix is not None and chosen.base.is_plain:
            raise RefusedError(f"{chosen.name}: plain numbers are not searched, an importance matrix changes nothing")
        object.__setattr__(self, "mix", chosen.name)
        if self.overrides != Overrides() and chosen.base.is_plain:
            raise RefusedError(f"{chosen.name}: types of single tensors go with a quantized type")

    def _check_shards(self) -> None:
        if self.max_shard_bytes is not None and self.target not in _SPLIT_BY_SIZE:
            raise RefusedError(f"{self.target}: only {', '.join(_SPLIT_BY_SIZE)} are split by size")
        if self.max_shard_bytes is not None and self.max_shard_bytes < 1:
            raise RefusedError(f"{self.max_shard_bytes}: a shard holds at least one byte")
        if self.n_shards is not None and self.target != "pth":
            raise RefusedError(f"{self.target}: only pth is divided into a number of shards")
        if self.n_shards is not None and not 1 <= self.n_shards <= _MOST_SHARDS:
            raise RefusedError(f"{self.n_shards}: 1 to {_MOST_SHARDS} shards can be written")
        if self.byte_order not in (None, "big") or (self.byte_order and self.target != "gguf"):
            raise RefusedError(f"{self.target}: byte order {self.byte_order}; only gguf can be big, all else is little")

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

    @classmethod
    def from_canonical(cls, text: str) -> Recipe:
        """The recipe that such a text is of. Raises RefusedError for what this version has no word for."""
        try:
            said = json.loads(text)
            # A truth is no number here, although Python takes it for one.
            if isinstance(said, dict) and all(type(value) is _KINDS.get(key) for key, value in said.items()):
                if "tensor_types" in said:
                    said["tensor_types"] = tuple((str(pattern), str(name)) for pattern, name in said["tensor_types"])
                recipe = cls(**said)
                if recipe.canonical() == text:
                    return recipe
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise RefusedError(f"{shown(text)}: no recipe that this version can repeat") from error
        raise RefusedError(f"{shown(text)}: no recipe in its canonical form")

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
    except (re.error, OverflowError, RecursionError) as error:
        raise RefusedError(f"{text}: no regular expression, {error}") from error
    return text
