"""What is wanted of a conversion, as data: the same recipe and the same input give the same bytes, anywhere."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from converters import mix
from converters.errors import RefusedError

TARGETS = ("gguf", "safetensors")
_DEFAULT_SHARD_BYTES = 5_000_000_000  # what Hugging Face's own tools write


@dataclass(frozen=True)
class Recipe:
    """One conversion.

    target: the format of the result. mix: name in `converters.mix`; a safetensors folder takes f32, f16 or bf16.
    max_shard_bytes: tensors in one file of a safetensors folder, at most. imatrix: SHA-256 of the importance matrix
    that weighs the errors of quantized types, None for none.
    """

    target: str
    mix: str
    max_shard_bytes: int = _DEFAULT_SHARD_BYTES
    imatrix: str | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise RefusedError(f"{self.target}: no such format to write; there are {', '.join(TARGETS)}")
        chosen = mix.named(self.mix)
        if self.target == "safetensors" and not chosen.base.is_plain:
            raise RefusedError(f"{chosen.name}: safetensors folders hold f32, f16 or bf16; use --to gguf")
        if self.max_shard_bytes < 1:
            raise RefusedError(f"{self.max_shard_bytes}: a shard holds at least one byte")
        if self.imatrix is not None and chosen.base.is_plain:
            raise RefusedError(f"{chosen.name}: plain numbers are not searched, an importance matrix changes nothing")
        object.__setattr__(self, "mix", chosen.name)

    def canonical(self) -> str:
        """The one JSON text of this recipe: sorted keys, no spaces, nothing that is None.

        So a recipe keeps its digest when recipes learn to say more.
        """
        said = {key: value for key, value in asdict(self).items() if value is not None}
        return json.dumps(said, sort_keys=True, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()
