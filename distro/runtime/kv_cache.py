"""Keys and values of past positions, so that a new token costs one position and not all of them again."""

from __future__ import annotations

import torch
from torch import Tensor

from converters.hyperparameters import HyperParameters

_FLOAT32_BYTES = 4


class KVCache:
    """Room for a fixed number of positions in every layer, allocated at once.

    keys, values: float32, shape (n_layers, n_kv_heads, capacity, head_dim). length: positions that are filled.
    """

    def __init__(self, parameters: HyperParameters, capacity: int) -> None:
        p = parameters
        self.capacity, self.length = capacity, 0
        self.keys = torch.empty(p.n_layers, p.n_kv_heads, capacity, p.head_dim)
        self.values = torch.empty_like(self.keys)

    @staticmethod
    def n_bytes(parameters: HyperParameters, capacity: int) -> int:
        """What a cache will take, known before it is made."""
        p = parameters
        return 2 * p.n_layers * p.n_kv_heads * capacity * p.head_dim * _FLOAT32_BYTES

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep a layer's new keys and values; give back all of them, the old ones first.

        keys, values: (seq, n_kv_heads, head_dim). Returns views of shape (n_kv_heads, length + seq, head_dim). The
        length stays until `advance`, so that every layer puts at the same place. Raises ValueError when it is full.
        """
        end = self.length + keys.shape[0]
        if end > self.capacity:
            raise ValueError(f"{end} positions do not fit into a cache of {self.capacity}")
        self.keys[layer, :, self.length : end] = keys.transpose(0, 1)
        self.values[layer, :, self.length : end] = values.transpose(0, 1)
        return self.keys[layer, :, :end], self.values[layer, :, :end]

    def advance(self, n_positions: int) -> None:
        """So many positions are now in every layer."""
        self.length += n_positions
