"""Pieces judged by a torrent's hashes: libtorrent makes them, of files and pieces of many lengths."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from distro.fetching.piece_proof import ListProof, PieceProof, TreeProof, known_list, proof_of, tree_proof
from distro.manifest import File, Variant
from distro.proof import piece_hashes
from distro.proof.piece_hashes import PieceHashes
from distro.proof.proofs import Proofs, Remembered, Stamp
from distro.receipt import Entry, Receipt
from distro.store import Store
from distro.swarm.make import make

KIB = 1024


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_hashes, "_SMALLEST", 64 * KIB)


def _data(size: int) -> bytes:
    return hashlib.shake_128(b"%d" % size).digest(size)


def _proof(tmp_path: Path, data: bytes, piece_length: int) -> tuple[File, PieceProof | None]:
    (tmp_path / "w.bin").write_bytes(data)
    torrent = make(tmp_path / "w.bin", piece_length=piece_length)
    (tmp_path / "w.torrent").write_bytes(torrent.encode())
    file = File("w.bin", len(data), pieces_root=torrent.files[0].pieces_root)
    return file, proof_of(file, Variant("v", "other", (file,), ("hf:a/b", str(tmp_path / "w.torrent"))))


def _says(proof: PieceProof, number: int, piece: bytes) -> bool:
    tree = proof.tree()
    if tree is not None:
        tree.update(piece)
    return proof.is_right(number, hashlib.sha256(piece).digest(), tree)


@pytest.mark.parametrize("piece_length", [32 * KIB, 64 * KIB])
@pytest.mark.parametrize("size", [64 * KIB + 1, 128 * KIB, 200_000, 320 * KIB, 64 * KIB * 7 + 16 * KIB, 1_000_003])
def test_each_piece_is_right_and_a_flipped_one_is_not(tmp_path: Path, size: int, piece_length: int) -> None:
    data = _data(size)
    _, proof = _proof(tmp_path, data, piece_length)
    assert isinstance(proof, TreeProof)
    for number, start in enumerate(range(0, size, 64 * KIB)):
        piece = data[start : start + 64 * KIB]
        assert _says(proof, number, piece)
        assert not _says(proof, number, piece[:-1] + bytes([piece[-1] ^ 1]))
        assert not _says(proof, number + 1, piece)


def test_a_torrents_longer_pieces_cannot_judge_ours(tmp_path: Path) -> None:
    _, proof = _proof(tmp_path, _data(500_000), 128 * KIB)
    assert proof is None


def test_a_torrent_of_another_file_is_not_asked(tmp_path: Path) -> None:
    file, _ = _proof(tmp_path, _data(500_000), 64 * KIB)
    reference = str(tmp_path / "w.torrent")
    for other in (File("w.bin", 500_000, pieces_root="ab" * 32), File("w.bin", 500_000), File("w.bin", 400_000)):
        assert proof_of(other, Variant("v", "other", (other,), (reference,))) is None
    assert proof_of(file, Variant("v", "other", (file,), ("missing.torrent",))) is None
    assert proof_of(file, Variant("v", "other", (file,), ("magnet:?xt=urn:btih:" + "a" * 40,))) is None


def test_hashes_that_do_not_belong_to_the_root_are_no_proof() -> None:
    roots = hashlib.sha256(b"a").digest() + hashlib.sha256(b"b").digest()
    root = hashlib.sha256(roots).hexdigest()
    size = 128 * KIB
    assert tree_proof(roots, 64 * KIB, root, size) is not None
    assert tree_proof(roots, 64 * KIB, "ab" * 32, size) is None
    assert tree_proof(roots[:-1], 64 * KIB, root, size) is None
    assert tree_proof(roots * 2, 64 * KIB, root, size) is None


def test_a_list_of_ours() -> None:
    data = _data(100_000)
    digests = b"".join(hashlib.sha256(data[start : start + 64 * KIB]).digest() for start in (0, 64 * KIB))
    proof = ListProof(PieceHashes(len(data), 64 * KIB, hashlib.sha256(data).hexdigest(), digests))
    assert _says(proof, 0, data[: 64 * KIB])
    assert _says(proof, 1, data[64 * KIB :])
    assert not _says(proof, 1, data[: 64 * KIB])
    assert not _says(proof, 2, b"")


@pytest.mark.parametrize("trouble", ["", "forgotten", "another file's", "gone", "other pieces"])
def test_a_list_of_the_store_judges_if_we_saw_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    data = _data(300 * KIB)
    sha256 = hashlib.sha256(data).hexdigest()
    pieces = [data[start : start + 64 * KIB] for start in range(0, len(data), 64 * KIB)]
    hashes = PieceHashes(len(data), 64 * KIB, sha256, b"".join(hashlib.sha256(piece).digest() for piece in pieces))
    store, proofs = Store(tmp_path / "home"), Proofs(tmp_path / "state")
    entry = Entry(sha256, len(data), "hub", "2026-01-31T12:00:00Z", pieces=hashes.digest)
    store.write_receipt(Receipt("m", "v", "gguf", {"w.bin": entry}), [hashes])
    if trouble != "forgotten":
        digests = {"sha256": sha256 if trouble != "another file's" else "ab" * 32}
        proofs.remember([Remembered("/m", Stamp(1, 2, 3, 4, 5), 6, digests, hashes.digest)])
    if trouble == "gone":
        store.write_receipt(Receipt("m", "v", "gguf", {}))
    if trouble == "other pieces":  # of another version of ours
        monkeypatch.setattr(piece_hashes, "_SMALLEST", 128 * KIB)
    found = known_list(store, proofs, File("elsewhere.bin", len(data), sha256=sha256))
    assert (found is not None) == (not trouble)
    if found is not None:
        assert all(_says(found, number, piece) for number, piece in enumerate(pieces))
        assert not _says(found, 0, pieces[1])
