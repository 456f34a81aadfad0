"""What single pieces of a file can be judged by before the whole is here: a v2 torrent's hashes, or a list of ours.

A torrent's hash of a piece is the root of a tree over its blocks of 16 KiB (BEP 52). Where its pieces are smaller than
ours, ours have the roots over several of them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from distro.digest import LEAF, Tree
from distro.errors import DistroError
from distro.manifest import File, Variant
from distro.proof.piece_hashes import PieceHashes, piece_length_for
from distro.verify import strongest

if TYPE_CHECKING:
    from distro.proof.proofs import Proofs
    from distro.store import Store

_HASH_BYTES = 32


class PieceProof(Protocol):
    def tree(self) -> Tree | None:
        """What a piece has to be fed to besides SHA-256, if anything."""
        ...

    def is_right(self, number: int, sha256: bytes, tree: Tree | None) -> bool: ...


class ListProof:
    """A list of piece hashes that belongs to the file beyond doubt (distro/proof/proofs.py)."""

    def __init__(self, hashes: PieceHashes) -> None:
        self._digests = hashes.digests

    def tree(self) -> None:
        return None

    def is_right(self, number: int, sha256: bytes, tree: Tree | None) -> bool:
        return self._digests[number * _HASH_BYTES : (number + 1) * _HASH_BYTES] == sha256


class TreeProof:
    """Roots of the pieces, one after another. height: of the tree over one piece."""

    def __init__(self, roots: bytes, height: int) -> None:
        self._roots, self._height = roots, height

    def tree(self) -> Tree:
        return Tree()

    def is_right(self, number: int, sha256: bytes, tree: Tree | None) -> bool:
        expected = self._roots[number * _HASH_BYTES : (number + 1) * _HASH_BYTES]
        return tree is not None and tree.root(self._height) == expected


def known_list(store: Store, proofs: Proofs, file: File) -> ListProof | None:
    """By a list that lies in the store, if it was made here in a read that gave what was published of the file."""
    proof = strongest(file)
    if proof is None or file.size is None:
        return None
    for digest, sha256 in proofs.lists_of(*proof).items():
        hashes = store.find_list(digest, sha256, file.size)
        if hashes is not None and hashes.piece_length == piece_length_for(file.size):
            return ListProof(hashes)
    return None


def proof_of(file: File, variant: Variant) -> PieceProof | None:
    """By what the pieces of a file can be judged, from the torrents among a variant's sources; None without any."""
    if file.pieces_root is None or file.size is None:
        return None
    for reference in variant.sources:
        if reference.endswith(".torrent") and (found := _from_torrent(reference, file.pieces_root, file.size)):
            return found
    return None


def _from_torrent(reference: str, root: str, size: int) -> TreeProof | None:
    from distro.swarm.torrent import read

    try:
        torrent = read(Path(reference))
    except DistroError:  # whoever uses it as a source says what is wrong with it
        return None
    roots = torrent.piece_layers.get(bytes.fromhex(root), b"")
    if not any(each.pieces_root == root and each.size == size for each in torrent.files):
        return None
    return tree_proof(roots, torrent.piece_length, root, size)


def tree_proof(roots: bytes, piece_length: int, root: str, size: int) -> TreeProof | None:
    """The proof of our pieces from a torrent's; None if they do not belong to the file, or are longer than ours."""
    height, ours = _height(piece_length), _height(piece_length_for(size))
    if height > ours or len(roots) != -(-size // piece_length) * _HASH_BYTES:
        return None
    while height < ours:
        roots, height = _parents(roots, height), height + 1
    top, top_height = roots, ours
    while len(top) > _HASH_BYTES:
        top, top_height = _parents(top, top_height), top_height + 1
    return TreeProof(roots, ours) if top.hex() == root else None


def _parents(hashes: bytes, height: int) -> bytes:
    """The hashes one higher; a missing right one is the root over nothing but zeros."""
    if len(hashes) % (2 * _HASH_BYTES):
        missing = bytes(_HASH_BYTES)
        for _ in range(height):
            missing = hashlib.sha256(missing * 2).digest()
        hashes += missing
    pairs = range(0, len(hashes), 2 * _HASH_BYTES)
    return b"".join(hashlib.sha256(hashes[start : start + 2 * _HASH_BYTES]).digest() for start in pairs)


def _height(piece_length: int) -> int:
    return (piece_length // LEAF).bit_length() - 1
