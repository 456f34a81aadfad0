"""The digests of what arrives: nothing is read before it is there, and nothing is missing at the end."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest

from distro.digest import Digester
from distro.errors import StorageError
from distro.fetching.front import Front

LENGTH = 65_536
DATA = bytes(range(251)) * 2000  # 502,000 bytes: seven pieces and a short one


class Memory:
    """A file that arrives. furthest: the end of what was read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.furthest = data, 0

    def read_into(self, view: memoryview, offset: int) -> int:
        part = self.data[offset : offset + min(len(view), 10_000)]  # short reads
        view[: len(part)] = part
        self.furthest = max(self.furthest, offset + len(part))
        return len(part)


@pytest.mark.parametrize("kinds", [{"sha256"}, {"md5", "sha256"}, {"pieces_root", "sha256"}, {"git_sha1", "sha256"}])
def test_the_digests_of_a_file_that_comes_bit_by_bit(kinds: set[str]) -> None:
    judge = Digester(kinds, len(DATA))
    judge.update(DATA)
    memory = Memory(DATA)
    with Front(memory.read_into, len(DATA), kinds, LENGTH) as front:
        for reached in (0, 1, 100_000, 100_000, 50_000, 400_000):
            front.reached(reached)
        assert front.finish() == judge.digests()
        assert front.n_verified == len(DATA)


def test_what_is_not_there_yet_is_not_read() -> None:
    memory = Memory(DATA)
    with Front(memory.read_into, len(DATA), {"sha256"}, LENGTH) as front:
        front.reached(70_000)
        deadline = time.monotonic() + 5
        while front.n_verified < 70_000 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert memory.furthest == front.n_verified == 70_000


def test_pieces_that_somebody_wants_are_hashed_besides() -> None:
    with Front(Memory(DATA).read_into, len(DATA), {"sha256"}, LENGTH, {1, 7}.__contains__) as front:
        front.finish()
        expected = {number: hashlib.sha256(DATA[number * LENGTH :][:LENGTH]).digest() for number in (1, 7)}
        assert front.pieces == expected


def test_a_file_that_ends_too_early_is_said() -> None:
    cut = Memory(DATA[:-1])
    with (
        Front(cut.read_into, len(DATA), {"sha256"}, LENGTH) as front,
        pytest.raises(StorageError, match="at byte 501999"),
    ):
        front.finish()


def test_what_the_disk_says_is_heard() -> None:
    def broken(view: memoryview, offset: int) -> int:
        raise StorageError("w: Input/output error")

    with Front(broken, len(DATA), {"sha256"}, LENGTH) as front, pytest.raises(StorageError, match="Input/output"):
        front.finish()


def test_it_ends_when_nobody_wants_it_any_more() -> None:
    before = threading.active_count()
    with Front(Memory(DATA).read_into, len(DATA), {"sha256"}, LENGTH) as front:
        front.reached(10)
    assert threading.active_count() == before
