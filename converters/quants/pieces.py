"""Small numbers side by side in words, the first one in the lowest bits."""

from __future__ import annotations

from converters.quants.vector import Machine, Wholes


def split(v: Machine, words: Wholes, n: int, bits: int) -> Wholes:
    """n numbers of so many bits, a divisor of 32, out of words."""
    numbers, n_in_word = v.wholes(n), 32 // bits
    for k in v.loop(0, n // n_in_word, unroll=1):
        for i in range(n_in_word):
            numbers[n_in_word * k + i] = words[k] >> bits * i & (1 << bits) - 1
    return numbers


def join(v: Machine, numbers: Wholes, n: int, bits: int) -> Wholes:
    """The words out of which `split` takes these. No number may have more bits."""
    n_in_word = 32 // bits
    words = v.wholes(n // n_in_word)
    for k in v.loop(0, n // n_in_word, unroll=1):
        parts = (numbers[n_in_word * k + i] << bits * i for i in range(n_in_word))
        words[k] = v.fold(lambda word, part: word | part, v.as_whole(0), parts)
    return words
