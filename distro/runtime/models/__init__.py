"""Decoders by architecture: one module each, and the table that finds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from converters.checkpoint import Checkpoint
from converters.errors import UnsupportedError
from converters.hyperparameters import HyperParameters
from distro.runtime.kv_cache import KVCache
from distro.runtime.load import LoadedWeights, Weights
from distro.runtime.models.llama import Llama


class Decoder(Protocol):
    """What `generate` and `check` need of a model."""

    parameters: HyperParameters
    weights: Weights

    def forward(self, ids: Sequence[int], cache: KVCache | None = None, *, last_only: bool = False) -> Tensor: ...


_DECODERS: Mapping[str, Callable[[HyperParameters, Weights], Decoder]] = MappingProxyType({"llama": Llama})


def decoder(checkpoint: Checkpoint, *, in_memory: bool) -> Decoder:
    """The decoder of a checkpoint, its weights loaded or read as they are needed.

    Raises UnsupportedError for an architecture that has no decoder here.
    """
    if checkpoint.architecture not in _DECODERS:
        raise UnsupportedError(
            checkpoint.path, "architecture", found=checkpoint.architecture, allowed=", ".join(_DECODERS)
        )
    weights = LoadedWeights(checkpoint) if in_memory else Weights(checkpoint)
    return _DECODERS[checkpoint.architecture](checkpoint.hyperparameters, weights)
