"""Keys and values of the past: what is kept, what it takes, and that it changes nothing about the result."""

from __future__ import annotations

import pytest
import torch

from distro.runtime.kv_cache import KVCache
from distro.runtime.models import decoder
from tests.fakes import memory_llama


def test_put_gives_back_the_past_before_the_new() -> None:
    parameters = memory_llama.checkpoint(memory_llama.reference()).hyperparameters
    cache = KVCache(parameters, 5)
    first = torch.ones(3, memory_llama.N_KV_HEADS, memory_llama.HEAD_DIM)
    cache.put(0, first, 10 * first)
    cache.put(1, 2 * first, 20 * first)
    cache.advance(3)
    keys, values = cache.put(1, 3 * first[:1], 30 * first[:1])
    assert keys.shape == values.shape == (memory_llama.N_KV_HEADS, 4, memory_llama.HEAD_DIM)
    assert keys[0, :, 0].tolist() == [2, 2, 2, 3]
    assert values[1, :, 5].tolist() == [20, 20, 20, 30]


def test_bytes_are_known_before() -> None:
    parameters = memory_llama.checkpoint(memory_llama.reference()).hyperparameters
    cache = KVCache(parameters, 7)
    assert KVCache.n_bytes(parameters, 7) == 2 * 2 * 2 * 7 * 16 * 4  # both, layers, heads, positions, width, float32
    assert cache.keys.nbytes + cache.values.nbytes == KVCache.n_bytes(parameters, 7)


def test_full_is_an_error() -> None:
    cache = KVCache(memory_llama.checkpoint(memory_llama.reference()).hyperparameters, 2)
    three = torch.zeros(3, memory_llama.N_KV_HEADS, memory_llama.HEAD_DIM)
    with pytest.raises(ValueError, match="3 positions do not fit into a cache of 2"):
        cache.put(0, three, three)


@pytest.mark.parametrize("window", [None, 4], ids=["all", "window"])
@pytest.mark.parametrize("cuts", [[1] * 20, [7, 1, 1, 11], [19, 1]], ids=["one by one", "uneven", "prefill, step"])
def test_in_steps_equals_at_once(window: int | None, cuts: list[int]) -> None:
    model = decoder(memory_llama.checkpoint(memory_llama.reference(window=window)), in_memory=True)
    ids = torch.randint(0, 64, (20,), generator=torch.Generator().manual_seed(1)).tolist()
    at_once = model.forward(ids)
    cache, rows, start = KVCache(model.parameters, 20), [], 0
    for n in cuts:
        rows.append(model.forward(ids[start : start + n], cache))
        start += n
    assert cache.length == 20
    torch.testing.assert_close(torch.cat(rows), at_once, rtol=0, atol=1e-5)
