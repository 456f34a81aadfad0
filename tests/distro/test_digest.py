from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import libtorrent as lt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distro.digest import KINDS, Digester, Tree, digest_file, feed_range, lfs_pointer_sha1, open_regular, sha256_of
from distro.progress import SilentBar

LEAF = 16 * 1024


def test_digests_of_a_known_text(tmp_path: Path) -> None:
    file = tmp_path / "hello"
    file.write_bytes(b"hello\n")
    # sha256sum, md5sum, `git hash-object`, and `git lfs pointer --file` through `git hash-object`.
    assert digest_file(file, KINDS) == {
        "sha256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        # One leaf is its own root.
        "pieces_root": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        "lfs_pointer_sha1": _pointer_id("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", 6),
        "git_sha1": "ce013625030ba8dba906f756967f9e9ca394464a",
        "md5": "b1946ac92492d2347c6235b4d2611184",
    }


def test_the_pointer_of_a_real_hub_file() -> None:
    # SmolLM2-135M-Instruct's model.safetensors: SHA-256, size and the blob id that the hub shows for its pointer.
    sha256 = "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"
    assert lfs_pointer_sha1(sha256, 269_060_552) == "2ef707371406f95f8aa91fb03a75f22f3c568299"


def test_an_empty_file_has_no_pieces_root() -> None:
    assert Digester(KINDS, 0).digests() == {
        "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "lfs_pointer_sha1": _pointer_id("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0),
        "git_sha1": "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
        "md5": "d41d8cd98f00b204e9800998ecf8427e",
    }


@given(data=st.binary(max_size=3 * LEAF), cuts=st.lists(st.integers(0, 3 * LEAF), max_size=6))
def test_pieces_of_any_length_give_the_same_digests(data: bytes, cuts: list[int]) -> None:
    digester = Digester(KINDS, len(data))
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(places):
        digester.update(data[start:end])
    found = digester.digests()
    assert found["sha256"] == hashlib.sha256(data).hexdigest()
    assert found["md5"] == hashlib.md5(data).hexdigest()  # noqa: S324
    assert found["git_sha1"] == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324
    assert found["lfs_pointer_sha1"] == _pointer_id(found["sha256"], len(data))
    assert found.get("pieces_root") == (_whole_tree(data).hex() if data else None)


@pytest.mark.parametrize("size", [1, LEAF - 1, LEAF, LEAF + 1, 3 * LEAF, 5 * LEAF + 7, 64 * LEAF, 65 * LEAF, 1_500_000])
def test_libtorrent_agrees_on_the_pieces_root(tmp_path: Path, size: int) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(os.urandom(size))
    creation = lt.create_torrent(lt.list_files(str(file)), LEAF, lt.create_torrent.v2_only)
    lt.set_piece_hashes(creation, str(tmp_path))
    tree = creation.generate()[b"info"][b"file tree"]
    assert digest_file(file, ["pieces_root"])["pieces_root"] == tree[b"weights.bin"][b""][b"pieces root"].hex()


@settings(max_examples=30)
@given(n_leaves=st.integers(1, 200))
def test_the_edge_of_the_tree_is_enough(n_leaves: int) -> None:
    data = b"".join(i.to_bytes(2, "little") * (LEAF // 2) for i in range(n_leaves))
    digester = Digester(["pieces_root"])
    digester.update(data)
    assert digester.digests() == {"pieces_root": _whole_tree(data).hex()}
    assert digester.digests() == {"pieces_root": _whole_tree(data).hex()}  # asking changes nothing


@pytest.mark.parametrize("n_leaves", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("height", [3, 4])
def test_a_tree_may_be_a_part_of_a_higher_one(n_leaves: int, height: int) -> None:
    """What is missing of it are leaves of zeros, as in the last piece of a file."""
    data = b"".join(i.to_bytes(2, "little") * (LEAF // 2) for i in range(n_leaves))
    tree = Tree()
    tree.update(data)
    level = [hashlib.sha256(data[start : start + LEAF]).digest() for start in range(0, len(data), LEAF)]
    level += [bytes(32)] * ((1 << height) - n_leaves)
    while len(level) > 1:
        level = [hashlib.sha256(a + b).digest() for a, b in zip(level[::2], level[1::2], strict=True)]
    assert tree.root(height) == level[0]


def test_a_range_of_a_file_ends_where_the_file_does(tmp_path: Path) -> None:
    file, parts = tmp_path / "x", list[bytes]()
    file.write_bytes(bytes(range(100)))
    with file.open("rb") as stream:
        assert feed_range(stream.fileno(), 10, 20, lambda view: parts.append(bytes(view))) == 10
        assert feed_range(stream.fileno(), 90, 200, lambda view: parts.append(bytes(view))) == 10
        assert feed_range(stream.fileno(), 100, 200, lambda view: parts.append(bytes(view))) == 0
        assert stream.tell() == 0
    assert parts == [bytes(range(10, 20)), bytes(range(90, 100))]


def test_git_needs_the_size_before_the_bytes() -> None:
    with pytest.raises(ValueError, match="git_sha1 needs the size"):
        Digester(["git_sha1"])


def test_an_unknown_digest_is_a_wrong_call() -> None:
    with pytest.raises(ValueError, match="no such digest: crc32"):
        Digester(["sha256", "crc32"])


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(path)


def test_the_bar_counts_the_bytes(tmp_path: Path) -> None:
    class Bar(SilentBar):
        n_bytes = 0

        def advance(self, n_bytes: int) -> None:
            self.n_bytes += n_bytes

    file, bar = tmp_path / "x", Bar()
    file.write_bytes(bytes(2_500_000))
    digest_file(file, ["sha256"], bar)
    assert bar.n_bytes == 2_500_000


def test_a_real_model(smollm2_gguf: Path) -> None:
    assert sha256_of(smollm2_gguf) == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def _pointer_id(sha256: str, size: int) -> str:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    return hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()  # noqa: S324


def _whole_tree(data: bytes) -> bytes:
    """The tree of BEP 52, level by level, all of it in memory."""
    sha256: Callable[[bytes], bytes] = lambda text: hashlib.sha256(text).digest()  # noqa: E731
    level = [sha256(data[start : start + LEAF]) for start in range(0, len(data), LEAF)]
    while len(level) & (len(level) - 1):
        level.append(bytes(32))
    while len(level) > 1:
        level = [sha256(left + right) for left, right in zip(level[::2], level[1::2], strict=True)]
    return level[0]
