"""Tokens out of a decoder: prefill, one step, and the choice of the next token."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from converters.errors import MalformedError
from distro.errors import UsageError
from distro.runtime.kv_cache import KVCache
from distro.runtime.load import available_memory
from distro.runtime.models import Decoder


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature: 0 takes the likeliest. top_k: only so many of the likeliest, None for
    all. top_p: only the likeliest that together reach this probability. seed: None for another answer each time."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None


GREEDY = Sampling()


def room_for(decoder: Decoder, prompt: Sequence[int], max_tokens: int) -> int:
    """How many tokens can follow a prompt: max_tokens, or what the model's context leaves.

    Raises UsageError for an empty prompt, and for one that fills the context.
    """
    left = decoder.parameters.context_length - len(prompt)
    if not prompt:
        raise UsageError("prompt: found no token, allowed one or more")
    if left <= 0:
        raise UsageError(f"prompt: found {len(prompt)} tokens, allowed {decoder.parameters.context_length - 1}")
    return min(max_tokens, left)


def generate(
    decoder: Decoder,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    stop_ids: Collection[int] = (),
    sampling: Sampling = GREEDY,
    n_tokens: int | None = None,
) -> Iterator[int]:
    """Token ids that follow a prompt, each as soon as it is chosen.

    n_tokens: how many tokens the vocabulary has, where the model has more rows than that: padding is never chosen. Ends
    before a stop token, after max_tokens, or where the context is full. Raises UsageError as `room_for` does,
    MalformedError where the weights give logits that are no numbers.
    """
    room = room_for(decoder, prompt, max_tokens)
    _check_memory(KVCache.n_bytes(decoder.parameters, len(prompt) + room), len(prompt) + room)
    cache = KVCache(decoder.parameters, len(prompt) + room)
    return _follow(decoder, cache, prompt, room, frozenset(stop_ids), sampling, n_tokens)


def _check_memory(n_bytes: int, n_positions: int) -> None:
    """Raise UsageError for a cache that this machine has no memory for, before it is asked for."""
    available = available_memory()
    if available is not None and n_bytes > 0.9 * available:
        raise UsageError(
            f"max tokens: found {n_positions} positions, whose keys and values take {n_bytes} bytes, "
            f"allowed what fits into {available} free bytes"
        )


def _follow(
    decoder: Decoder,
    cache: KVCache,
    prompt: Sequence[int],
    room: int,
    stop_ids: frozenset[int],
    sampling: Sampling,
    n_tokens: int | None,
) -> Iterator[int]:
    random = torch.Generator()
    if sampling.seed is None:
        random.seed()
    else:
        random.manual_seed(sampling.seed)
    ids = prompt
    for _ in range(room):
        logits = decoder.forward(ids, cache, last_only=True)[-1, :n_tokens]
        if not logits.isfinite().all():
            raise MalformedError(decoder.weights.path, "logits", found="nan or infinity", allowed="numbers")
        token = choose(logits, sampling, random)
        if token in stop_ids:
            return
        yield token
        ids = [token]


def choose(logits: Tensor, sampling: Sampling, random: torch.Generator) -> int:
    """The next token's id. logits: (vocab_size).

    Temperature first, then top-k, then top-p over what is left, as in transformers' logits_process.py.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    # Less the maximum, so that no temperature is too small to divide by.
    scaled = (logits - logits.max()) / sampling.temperature
    likeliest, ids = scaled.sort(descending=True, stable=True)
    chances = likeliest[: sampling.top_k].softmax(-1)
    if sampling.top_p < 1:
        before = chances.cumsum(-1) - chances  # what the likelier ones reach without this one
        before[0] = -1.0  # the likeliest always stays
        chances[before >= sampling.top_p] = 0.0
    return int(ids[torch.multinomial(chances, 1, generator=random)])
