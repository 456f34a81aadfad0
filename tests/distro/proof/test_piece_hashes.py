from __future__ import annotations

import hashlib
import itertools
import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distro.proof.piece_hashes import FOLDER, PieceHasher, PieceHashes, find_list, piece_length_for

MIB = 1 << 20
CONTENT = random.Random(3).randbytes(9 * MIB)  # three pieces, the last of one MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
DIGESTS = b"".join(hashlib.sha256(CONTENT[at : at + 4 * MIB]).digest() for at in (0, 4 * MIB, 8 * MIB))
LIST = PieceHashes(len(CONTENT), 4 * MIB, SHA256, DIGESTS)
ENCODED = b"pieces\0\1" + struct.pack("<QQ", 9 * MIB, 4 * MIB) + bytes.fromhex(SHA256) + DIGESTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A variant's folder with the list in it."""
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / LIST.digest).write_bytes(ENCODED)
    return tmp_path


def test_written_out() -> None:
    assert LIST.encode() == ENCODED
    assert LIST.digest == hashlib.sha256(ENCODED).hexdigest()
    assert PieceHashes.decode(ENCODED) == LIST
    assert (LIST.n_pieces, LIST.span(0), LIST.span(2)) == (3, (0, 4 * MIB), (8 * MIB, 9 * MIB))


@pytest.mark.parametrize(
    ("size", "piece_length"),
    [(0, 4), (4, 4), (4096, 4), (4097, 8), (8192, 8), (8193, 16), (800_000, 16), (10_000_000, 16)],
)
def test_a_piece_has_4_to_16_mib(size: int, piece_length: int) -> None:
    assert piece_length_for(size * MIB) == piece_length * MIB


def test_the_list_of_800_gb_has_1_5_mb() -> None:
    size = 800 * 10**9
    assert -(-size // piece_length_for(size)) * 32 == 1_525_888


@settings(max_examples=20)
@given(st.lists(st.integers(0, len(CONTENT)), max_size=5))
def test_bytes_may_come_in_any_portions(cuts: list[int]) -> None:
    hasher = PieceHasher(len(CONTENT))
    places = [0, *sorted(cuts), len(CONTENT)]
    for start, stop in itertools.pairwise(places):
        hasher.update(CONTENT[start:stop])
    assert hasher.finish(SHA256) == LIST


@pytest.mark.parametrize("size", [0, 1, 4 * MIB])
def test_one_piece_needs_no_list(size: int) -> None:
    hasher = PieceHasher(size)
    hasher.update(CONTENT[:size])
    assert hasher.finish(SHA256) is None


def test_more_or_fewer_bytes_than_promised_give_no_list() -> None:
    for size in (8 * MIB, 13 * MIB):
        hasher = PieceHasher(size)
        hasher.update(CONTENT)
        assert hasher.finish(SHA256) is None


def test_each_piece_is_judged_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(CONTENT[: 4 * MIB] + b"\0" + CONTENT[4 * MIB + 1 : -1])
    with path.open("rb") as stream:
        assert [LIST.is_right(index, stream.fileno()) for index in range(3)] == [True, False, False]


def test_a_list_is_found_by_its_digest(folder: Path) -> None:
    assert find_list(folder, LIST.digest, SHA256, len(CONTENT)) == LIST


@pytest.mark.parametrize(
    ("digest", "sha256", "size"),
    [
        (None, SHA256, len(CONTENT)),
        ("../../etc/passwd", SHA256, len(CONTENT)),
        ("0" * 64, SHA256, len(CONTENT)),
        (LIST.digest, "0" * 64, len(CONTENT)),
        (LIST.digest, SHA256, len(CONTENT) - 1),
    ],
)
def test_a_list_of_another_file_is_none(folder: Path, digest: str | None, sha256: str, size: int) -> None:
    assert find_list(folder, digest, sha256, size) is None


def test_a_torn_or_flipped_list_is_none(folder: Path) -> None:
    path = folder / FOLDER / LIST.digest
    for length in range(len(ENCODED)):
        path.write_bytes(ENCODED[:length])
        assert find_list(folder, LIST.digest, SHA256, len(CONTENT)) is None
    for at in range(len(ENCODED)):
        path.write_bytes(ENCODED[:at] + bytes([ENCODED[at] ^ 1]) + ENCODED[at + 1 :])
        assert find_list(folder, LIST.digest, SHA256, len(CONTENT)) is None


HEAD = struct.Struct("<8sQQ32s")
BAD = [
    ("nothing", b""),
    ("a head that is cut", ENCODED[:55]),
    ("another version", b"pieces\0\2" + ENCODED[8:]),
    ("a digest too few", ENCODED[:-32]),
    ("a digest too many", ENCODED + bytes(32)),
    ("half a digest", ENCODED[:-16]),
    ("pieces of nothing", HEAD.pack(b"pieces\0\1", 9 * MIB, 0, bytes(32)) + DIGESTS),
    ("pieces of a byte", HEAD.pack(b"pieces\0\1", 3, 1, bytes(32)) + DIGESTS),
    ("pieces without end", HEAD.pack(b"pieces\0\1", 9 * MIB, 2**63, bytes(32)) + DIGESTS[:32]),
    ("a size without end", HEAD.pack(b"pieces\0\1", 2**64 - 1, 4 * MIB, bytes(32)) + DIGESTS),
]


@pytest.mark.parametrize("data", [row[1] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_no_list_is_refused_although_the_receipt_names_it(folder: Path, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"head|format|pieces"):
        PieceHashes.decode(data)
    digest = hashlib.sha256(data).hexdigest()
    (folder / FOLDER / digest).write_bytes(data)
    assert find_list(folder, digest, SHA256, len(CONTENT)) is None


def test_what_is_no_file_or_never_ends_is_none(folder: Path) -> None:
    path = folder / FOLDER / LIST.digest
    path.unlink()
    os.mkfifo(path)
    assert find_list(folder, LIST.digest, SHA256, len(CONTENT)) is None
    path.unlink()
    with path.open("wb") as stream:
        stream.truncate(65 * MIB)
    assert find_list(folder, LIST.digest, SHA256, len(CONTENT)) is None
