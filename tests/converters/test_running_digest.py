"""SHA-256 of bytes that pass by in any order."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import running_digest
from converters.running_digest import RunningDigest


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=30), st.randoms(use_true_random=False))
def test_in_whatever_order_parts_come_it_is_that_of_the_whole(
    content: bytes, lengths: list[int], order: random.Random
) -> None:
    def read_into(view: memoryview, offset: int) -> None:
        view[:] = content[offset : offset + len(view)]

    parts, start = [], 0
    for length in lengths:  # what is left at the end comes from reading
        parts.append((start, content[start : start + length]))
        start += length
    order.shuffle(parts)
    digest = RunningDigest(read_into)
    for offset, data in parts + parts[:2]:
        digest.feed(offset, data)
    assert digest.finish(len(content)) == hashlib.sha256(content).hexdigest()


def test_what_found_no_room_is_read_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    content, read = bytes(range(200)), list[tuple[int, int]]()
    monkeypatch.setattr(running_digest, "ROOM", 50)

    def read_into(view: memoryview, offset: int) -> None:
        read.append((offset, len(view)))
        view[:] = content[offset : offset + len(view)]

    digest = RunningDigest(read_into)
    for start in (160, 120, 80):  # 40 each, so that one is kept
        digest.feed(start, content[start : start + 40])
    digest.feed(0, content[:80])
    assert digest.finish(200) == hashlib.sha256(content).hexdigest()
    assert read == [(80, 120)]
