"""The best mix that fits: exact sizes from headers alone, and the room that a conversation takes beside the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from converters import mix, quants
from converters.checkpoint import Checkpoint
from converters.errors import RefusedError
from converters.formats import gguf
from converters.hyperparameters import cache_bytes as cache_bytes

# From the best to the smallest that still speaks; where two are of one size, the one that loses less
# (divergences of Llama 3 8B in llama.cpp's tools/perplexity/README.md).
LADDER = (
    "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "iq4_xs", "q3_k_l", "q3_k_m", "iq3_m", "q3_k_s",
    "iq3_xxs", "q2_k", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s",
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """One mix of this checkpoint. size: bytes of the file, exact. needs: size and cache together."""

    mix: str
    size: int
    cache: int

    @property
    def needs(self) -> int:
        return self.size + self.cache


def candidates(checkpoint: Checkpoint, context_length: int, *, has_imatrix: bool = False) -> Iterator[Candidate]:
    """Every mix that can be made of a checkpoint, from the best down."""
    infos = [tensor.info for tensor in checkpoint.tensors.values()]
    cache = cache_bytes(checkpoint.hyperparameters, context_length)
    for name in LADDER:
        chosen = mix.named(name)
        types = mix.types(chosen, infos, checkpoint.hyperparameters, has_imatrix=has_imatrix)
        lacks_imatrix = not has_imatrix and any(mix.needs_imatrix(chosen, *each) for each in types.items())
        if lacks_imatrix or not all(quants.can_encode(dtype) for dtype in types.values()):
            continue
        files = gguf.lay_out(checkpoint, types, "predicted", chosen.file_type)
        yield Candidate(name, sum(file.size for file in files), cache)


def choose(checkpoint: Checkpoint, budget: int, context_length: int, *, has_imatrix: bool = False) -> Candidate:
    """The best mix whose file and cache fit into so many bytes.

    Raises RefusedError, which says what the smallest would need.
    """
    smallest = None
    for candidate in candidates(checkpoint, context_length, has_imatrix=has_imatrix):
        if candidate.needs <= budget:
            return candidate
        smallest = min(smallest or candidate, candidate, key=lambda each: each.needs)
    least = "nothing can be made of it" if smallest is None else f"{smallest.mix}, the smallest, needs {smallest.needs}"
    raise RefusedError(f"{checkpoint.path}: nothing fits into {budget} bytes with {context_length} tokens; {least}")
