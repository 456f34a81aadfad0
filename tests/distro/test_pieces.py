"""Pieces that are here: believed as far as the part file bears the journal out, whatever became of either."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from distro.manifest import File
from distro.owner import Owner
from distro.partial import Partial
from distro.pieces import UNKNOWN, Pieces, contiguous, journal_of, tag
from distro.proof import piece_hashes
from distro.store import Store

LENGTH = 65_536
SIZE = 5 * LENGTH + 100
DATA = bytes(i * 7 % 251 for i in range(SIZE))
FILE = File("w", SIZE, sha256=hashlib.sha256(DATA).hexdigest())
HUB = tag("hub")


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_hashes, "_SMALLEST", LENGTH)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def _add(partial: Partial, pieces: Pieces, *numbers: int, sender: int = HUB) -> None:
    for number in numbers:
        start, stop = pieces.span(number)
        partial.write_at(start, DATA[start:stop])
        pieces.add(number, _short(number), sender)


def _short(number: int) -> bytes:
    return hashlib.sha256(DATA[number * LENGTH : (number + 1) * LENGTH]).digest()[:16]


def _left(store: Store, *numbers: int) -> Path:
    """A part file with these pieces, as a run that is over left it."""
    with store.partial("m", "v", FILE) as partial:
        _add(partial, partial.pieces(), *numbers)
    (part,) = store.home.glob("partial/*.part")
    return part


def _found(store: Store) -> list[int]:
    with store.partial("m", "v", FILE) as partial:
        return list(partial.pieces())


def test_pieces_and_who_sent_them_are_found_again(store: Store) -> None:
    with store.partial("m", "v", FILE) as partial:
        pieces = partial.pieces()
        assert (pieces.n, pieces.length, len(pieces)) == (6, LENGTH, 0)
        _add(partial, pieces, 3, 5)
        _add(partial, pieces, 1, sender=tag("mirror"))
        assert pieces.n_bytes == 2 * LENGTH + 100
    assert store.received("m", "v", FILE) == 3 * LENGTH
    with store.partial("m", "v", FILE) as partial:
        pieces = partial.pieces()
        assert list(pieces) == [1, 3, 5]
        assert (pieces[3].digest, pieces[3].sender, pieces[1].sender) == (_short(3), HUB, tag("mirror"))
        assert 2 not in pieces


def test_the_last_word_about_a_piece_counts(store: Store) -> None:
    with store.partial("m", "v", FILE) as partial:
        pieces = partial.pieces()
        _add(partial, pieces, 0, 1, 2)
        pieces.drop(1)
        _add(partial, pieces, 2, sender=tag("mirror"))
        _add(partial, pieces, 2)
        assert list(pieces) == [0, 2]
    with store.partial("m", "v", FILE) as partial:
        pieces = partial.pieces()
        assert list(pieces) == [0, 2]
        assert pieces[2].sender == HUB


def test_a_piece_in_a_hole_or_beyond_the_end_is_not_here(store: Store) -> None:
    part = _left(store, 0, 1, 2, 3, 4, 5)
    with part.open("r+b") as stream:  # as a power cut leaves it: the journal was quicker than the bytes
        os.truncate(part, 4 * LENGTH)
        stream.truncate(LENGTH)
        stream.truncate(4 * LENGTH)
        stream.seek(2 * LENGTH)
        stream.write(DATA[2 * LENGTH : 3 * LENGTH])
    assert _found(store) == [0, 2]


def test_a_part_file_of_a_version_without_journals_is_gone_on_with(store: Store) -> None:
    with store.partial("m", "v", FILE) as partial:
        partial.append(DATA[: 2 * LENGTH + 5])
    with store.partial("m", "v", FILE) as partial:
        pieces = partial.pieces()
        assert list(pieces) == [0, 1]
        assert (pieces[0].digest, pieces[0].sender) == (None, UNKNOWN)
        _add(partial, pieces, 4)
    assert _found(store) == [0, 1, 4]


def test_what_such_a_version_makes_of_ours_is_too_long_or_proves_wrong(store: Store) -> None:
    part = _left(store, 0, 3)
    with part.open("ab") as stream:  # it goes on at the end
        stream.write(b"x" * (2 * SIZE))
    with store.partial("m", "v", FILE) as partial:
        assert list(partial.pieces()) == [0, 3]
        assert partial.path.stat().st_size == SIZE


def test_without_its_journal_what_comes_before_the_first_hole_is_left(store: Store) -> None:
    part = _left(store, 0, 1, 3)
    journal_of(part).unlink()
    assert store.received("m", "v", FILE) == 2 * LENGTH
    assert _found(store) == [0, 1]


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:40], lambda data: b"{}\n" + data, lambda data: b"[" * 100_000,
    lambda data: data.replace(b'"schema": 1', b'"schema": 2'), lambda data: data.replace(b'"of": "', b'"of": "0'),
])  # fmt: skip
def test_a_journal_that_is_none_of_ours_says_nothing(store: Store, damage: Callable[[bytes], bytes]) -> None:
    journal = journal_of(_left(store, 0, 1, 3))
    journal.write_bytes(damage(journal.read_bytes()))
    assert _found(store) == [0, 1]


def test_a_journal_cut_or_flipped_anywhere_says_less_and_nothing_else(store: Store) -> None:
    part = _left(store, 0, 2, 5)
    journal = journal_of(part)
    whole = journal.read_bytes()
    for length in range(len(whole)):
        journal.write_bytes(whole[:length])
        part = _check_subset(store, {0, 2, 5})
        journal = journal_of(part)
    for at in range(0, len(whole) * 8, 11):
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        journal.write_bytes(flipped)
        part = _check_subset(store, {0, 2, 5})
        journal = journal_of(part)


def _check_subset(store: Store, numbers: set[int]) -> Path:
    """What is found now is among these; gives the part file's new name."""
    with store.partial("m", "v", FILE) as partial:
        assert set(partial.pieces()) <= numbers
        return partial.path


def test_the_journal_of_another_size_is_not_believed(store: Store) -> None:
    _left(store, 0, 1, 3)
    with store.partial("m", "v", File("w", SIZE - 1, sha256=FILE.sha256)) as partial:
        assert list(partial.pieces()) == [0, 1]


def test_numbers_that_no_piece_has_are_passed_over(store: Store) -> None:
    with store.partial("m", "v", FILE) as partial:
        pieces = partial.pieces()
        _add(partial, pieces, 0)
        pieces.add(10**9, b"x" * 16, HUB)
    assert _found(store) == [0]


def test_the_part_file_with_most_in_it_is_taken_and_not_the_longest(store: Store) -> None:
    with store.partial("m", "v", FILE) as one, store.partial("m", "v", FILE) as other:
        _add(one, one.pieces(), 5)
        _add(other, other.pieces(), 0, 1)
    assert _found(store) == [0, 1]


def test_another_machines_pieces_are_copied_with_their_journal_and_their_holes(store: Store) -> None:
    part = _left(store, 1, 5)
    theirs = part.with_name(part.name.replace(str(Owner.this_process()), "00000000-1-1"))
    journal_of(part).rename(journal_of(theirs))
    part.rename(theirs)
    with store.partial("m", "v", FILE) as ours:
        assert list(ours.pieces()) == [1, 5]
        assert ours.path != theirs
        assert ours.path.stat().st_blocks * 512 <= 2 * LENGTH + 8192
    assert theirs.exists()


def test_nothing_of_it_is_left_when_the_file_has_its_name(store: Store, tmp_path: Path) -> None:
    for leave in ("publish", "discard", "restart", "quarantine", "adopt", "nothing"):
        with store.partial("m", "v", FILE) as partial:
            pieces = partial.pieces()
            if leave != "nothing":
                _add(partial, pieces, *range(6))
            if leave == "publish":
                partial.publish(tmp_path / "final")
            elif leave == "adopt":
                (tmp_path / "other").write_bytes(b"")
                partial.adopt(tmp_path / "other")
            elif leave != "nothing":
                getattr(partial, leave)()
        assert list(store.home.glob("partial/*.pieces")) == [], leave
    assert (tmp_path / "final").read_bytes() == DATA


def test_a_fresh_part_file_takes_nothing_over(store: Store) -> None:
    _left(store, 0, 1)
    with store.partial("m", "v", FILE, fresh=True) as fresh:
        assert fresh.size == 0
        fresh.append(b"x")
    assert _found(store) == [0, 1]


def test_whether_a_part_file_is_in_order(store: Store) -> None:
    with store.partial("m", "v", FILE) as partial:
        assert partial.is_in_order
        partial.append(b"x" * LENGTH)
        assert partial.is_in_order
        partial.write_at(3 * LENGTH, b"x")
        assert not partial.is_in_order
    with store.partial("m", "v", File("w", SIZE, sha256="ab" * 32)) as partial:
        partial.append(b"x")
        partial.pieces()
        assert not partial.is_in_order


def test_all_that_was_partial_can_be_collected(store: Store) -> None:
    _left(store, 0)
    assert store.collect() > LENGTH
    assert [path.name for path in (store.home / "partial").iterdir()] == []


def test_contiguous_stops_at_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with path.open("wb") as stream:
        stream.write(b"x" * 8192)
        stream.seek(100_000)
        stream.write(b"x")
        stream.flush()
        assert contiguous(stream.fileno()) == 8192
