"""The memory of proofs: what it says is true, or it says nothing."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distro.proof.proofs import Proofs, Remembered, Stamp

SHA = "0123456789abcdef" * 4
SECOND = 10**9
DAY = 24 * 3600 * SECOND


class Clock:
    """A clock that tests move. now: nanoseconds since 1970."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


def stamp_of(path: Path) -> Stamp:
    return Stamp.of(path.stat())


def proof_of(path: Path, *, after_s: float = 60) -> Remembered:
    """As if it had been read so many seconds after it was written."""
    stamp = stamp_of(path)
    return Remembered(str(path), stamp, stamp.ctime_ns + int(after_s * SECOND), {"sha256": SHA}, "9" * 64)


def remembered(folder: Path, proof: Remembered, *, later_ns: int = SECOND) -> Proofs:
    """A memory of a later process that was told of this proof by an earlier one."""
    Proofs(folder).remember([proof])
    return Proofs(folder, Clock(proof.read_ns + later_ns))


def test_what_was_proven_is_known_to_the_next_run(tmp_path: Path, path: Path) -> None:
    proof = proof_of(path)
    found = remembered(tmp_path / "state", proof).find(path, stamp_of(path))
    assert found is not None
    assert (found.digests, found.pieces, found.stamp) == ({"sha256": SHA}, "9" * 64, proof.stamp)
    assert (tmp_path / "state" / "proofs").stat().st_mode & 0o777 == 0o600


def test_one_line_written_out(tmp_path: Path) -> None:
    Proofs(tmp_path).remember([Remembered("/m", Stamp(1, 2, 3, 4, 5), 6, {"md5": "a" * 32})])
    (line,) = (tmp_path / "proofs").read_text().split("\n")[1:2]
    check, _, text = line.partition(" ")
    value = json.loads(text)
    boot = value.pop("boot")
    assert value == {
        "path": "/m", "device": 1, "inode": 2, "size": 3, "mtime_ns": 4, "ctime_ns": 5, "read_ns": 6,
        "digests": {"md5": "a" * 32}, "pieces": None,
    }  # fmt: skip
    assert isinstance(boot, str)
    assert check == hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("field", ["device", "inode", "size", "mtime_ns", "ctime_ns"])
def test_a_file_that_differs_in_anything_is_read_again(tmp_path: Path, path: Path, field: str) -> None:
    proofs = remembered(tmp_path / "state", proof_of(path))
    stamp = stamp_of(path)
    assert proofs.find(path, stamp) is not None
    assert proofs.find(path, replace(stamp, **{field: getattr(stamp, field) + 1})) is None


def test_bytes_that_change_and_times_that_are_put_back_are_noticed(tmp_path: Path, path: Path) -> None:
    proofs, before = remembered(tmp_path / "state", proof_of(path)), path.stat()
    with path.open("r+b") as stream:
        stream.write(b"W")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert proofs.find(path, stamp_of(path)) is None


def test_a_proof_counts_for_a_day(tmp_path: Path, path: Path) -> None:
    proof = proof_of(path)
    assert remembered(tmp_path / "a", proof, later_ns=DAY).find(path, stamp_of(path)) is not None
    assert remembered(tmp_path / "b", proof, later_ns=DAY + 1).find(path, stamp_of(path)) is None
    assert remembered(tmp_path / "c", proof, later_ns=-1).find(path, stamp_of(path)) is None  # a clock that went back


def test_what_was_read_as_soon_as_it_was_written_may_have_changed_within_the_tick(tmp_path: Path, path: Path) -> None:
    assert remembered(tmp_path / "a", proof_of(path, after_s=2)).find(path, stamp_of(path)) is not None
    assert remembered(tmp_path / "b", proof_of(path, after_s=1.999)).find(path, stamp_of(path)) is None


def test_another_start_of_the_machine_ends_it(tmp_path: Path, path: Path) -> None:
    proofs = remembered(tmp_path, proof_of(path))
    text = (tmp_path / "proofs").read_text().strip().partition(" ")[2]
    value = json.loads(text)
    assert proofs.find(path, stamp_of(path)) is not None
    _write(tmp_path / "proofs", {**value, "boot": "00000000-0000-0000-0000-000000000000"})
    later = Proofs(tmp_path, proofs._clock)
    assert later.find(path, stamp_of(path)) is None
    assert later.digests_of("9" * 64) == {"sha256": SHA}  # that the list is of that file stays true


def test_the_last_word_on_a_path_counts(tmp_path: Path, path: Path) -> None:
    proof = proof_of(path)
    Proofs(tmp_path).remember([proof])
    Proofs(tmp_path).remember([replace(proof, digests={"sha256": "f" * 64})])
    found = Proofs(tmp_path, Clock(proof.read_ns)).find(path, stamp_of(path))
    assert found is not None
    assert found.digests == {"sha256": "f" * 64}


def test_without_a_folder_nothing_is_kept(path: Path) -> None:
    Proofs(None).remember([proof_of(path)])
    assert Proofs(None).find(path, stamp_of(path)) is None


def _write(path: Path, value: object, *, check: bytes | None = None) -> None:
    """A line with a check that is right, as a forger would write it."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    path.write_bytes((check or hashlib.sha256(text).hexdigest()[:16].encode()) + b" " + text + b"\n")
    path.chmod(0o600)


def _set(**changes: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda value: {**value, **changes}


BAD: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("a list", lambda value: [value]),
    ("nothing", lambda value: None),
    ("no path", lambda value: {key: value[key] for key in value if key != "path"}),
    ("another key", _set(more=1)),
    ("a path that is a number", _set(path=1)),
    ("a size with a point", lambda value: {**value, "size": float(value["size"])}),
    ("a size that is true", _set(size=True)),
    ("a size in quotes", lambda value: {**value, "size": str(value["size"])}),
    ("a time of words", _set(read_ns="now")),
    ("an infinite time", _set(read_ns=float("inf"))),
    ("digests as a list", _set(digests=[SHA])),
    ("a digest of another kind", _set(digests={"crc32": "00000000"})),
    ("a short digest", _set(digests={"sha256": "ab"})),
    ("a digest in capitals", _set(digests={"sha256": "A" * 64})),
    ("a digest that is no text", _set(digests={"sha256": 1})),
    ("pieces that are no digest", _set(pieces="../x")),
    ("a boot that is a number", _set(boot=0)),
    ("deep", lambda value: b"[" * 100_000),
    ("no UTF-8", lambda value: b"\xff\xfe"),
    ("a huge number", lambda value: b'{"size": ' + b"9" * 10_000 + b"}"),
]


@pytest.mark.parametrize("mutate", [row[1] for row in BAD], ids=[row[0] for row in BAD])
def test_a_line_of_another_form_is_passed_over(
    tmp_path: Path, path: Path, mutate: Callable[[dict[str, Any]], object]
) -> None:
    proof = proof_of(path)
    Proofs(tmp_path).remember([proof])
    value = json.loads((tmp_path / "proofs").read_text().strip().partition(" ")[2])
    _write(tmp_path / "proofs", mutate(value))
    proofs = Proofs(tmp_path, Clock(proof.read_ns))
    assert proofs.find(path, stamp_of(path)) is None
    assert proofs.digests_of("9" * 64) == {}
    proofs.remember([proof])
    assert Proofs(tmp_path, Clock(proof.read_ns)).find(path, stamp_of(path)) is not None


def test_a_file_torn_anywhere_says_what_is_whole_in_it(tmp_path: Path, path: Path) -> None:
    proof = proof_of(path)
    Proofs(tmp_path).remember([proof])
    data = (tmp_path / "proofs").read_bytes()
    for length in range(len(data)):
        (tmp_path / "proofs").write_bytes(data[:length])
        found = Proofs(tmp_path, Clock(proof.read_ns)).find(path, stamp_of(path))
        assert (found is not None) == (length >= len(data) - 1)  # the new line at the end says nothing
    (tmp_path / "proofs").write_bytes(data[:-20])
    Proofs(tmp_path).remember([proof])
    assert Proofs(tmp_path, Clock(proof.read_ns)).find(path, stamp_of(path)) is not None


def test_a_flipped_bit_proves_nothing(tmp_path: Path, path: Path) -> None:
    proof = proof_of(path)
    Proofs(tmp_path).remember([proof])
    data, chance = (tmp_path / "proofs").read_bytes(), random.Random(7)
    for at in range(1, len(data) - 1):
        (tmp_path / "proofs").write_bytes(data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :])
        assert Proofs(tmp_path, Clock(proof.read_ns)).find(path, stamp_of(path)) is None


def _open_to_others(file: Path) -> None:
    file.chmod(0o640)


def _link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def _foreign(file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(file, 1234, -1)


@pytest.mark.parametrize("spoil", [_open_to_others, _link, _foreign])
def test_a_file_that_others_may_write_is_not_believed_and_replaced(
    tmp_path: Path, path: Path, spoil: Callable[[Path], None]
) -> None:
    proof = proof_of(path)
    Proofs(tmp_path).remember([proof])
    spoil(tmp_path / "proofs")
    proofs = Proofs(tmp_path, Clock(proof.read_ns))
    assert proofs.find(path, stamp_of(path)) is None
    proofs.remember([proof])
    assert not (tmp_path / "proofs").is_symlink()
    assert Proofs(tmp_path, Clock(proof.read_ns)).find(path, stamp_of(path)) is not None


def test_a_place_where_nothing_can_be_kept_is_no_error(tmp_path: Path, path: Path) -> None:
    for kind in ("folder", "pipe"):
        state = tmp_path / kind
        state.mkdir()
        (state / "proofs").mkdir() if kind == "folder" else os.mkfifo(state / "proofs")
        proofs = Proofs(state)
        assert proofs.find(path, stamp_of(path)) is None
        proofs.remember([proof_of(path)])
    (tmp_path / "file").touch()
    Proofs(tmp_path / "file").remember([proof_of(path)])
    assert Proofs(tmp_path / "file").find(path, stamp_of(path)) is None


def test_many_writers_lose_nothing(tmp_path: Path, path: Path) -> None:
    proof = proof_of(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: Proofs(tmp_path).remember([replace(proof, path=f"/{i}")]), range(200)))
    proofs = Proofs(tmp_path, Clock(proof.read_ns))
    assert all(proofs.find(Path(f"/{i}"), proof.stamp) for i in range(200))


def test_what_is_out_of_date_goes_when_the_file_grows(tmp_path: Path, path: Path) -> None:
    proof = proof_of(path)
    for start in range(0, 15_000, 5000):
        Proofs(tmp_path).remember([replace(proof, path=f"/gone/{i}") for i in range(start, start + 5000)])
    Proofs(tmp_path).remember([proof])
    assert (tmp_path / "proofs").stat().st_size < 1000
    assert Proofs(tmp_path, Clock(proof.read_ns)).find(path, stamp_of(path)) is not None


def by_fetch(path: Path, stamp: Stamp) -> Remembered:
    """Read a second before it got its name."""
    return Remembered(str(path), stamp, stamp.ctime_ns - SECOND, {"sha256": SHA}, "9" * 64, by_fetch=True)


def test_what_a_fetch_read_before_it_gave_the_name_counts(tmp_path: Path, path: Path) -> None:
    stamp = replace(stamp_of(path), ctime_ns=1_800_000_000_123_456_789)
    proof = by_fetch(path, stamp)
    found = remembered(tmp_path / "state", proof).find(path, stamp)
    assert found is not None
    assert (found.digests, found.by_fetch) == ({"sha256": SHA}, True)
    assert remembered(tmp_path / "other", replace(proof, by_fetch=False)).find(path, stamp) is None


@pytest.mark.parametrize(
    "change", [{"ctime_ns": 1_800_000_000_123_456_790}, {"inode": 1}, {"size": 8}, {"mtime_ns": 7}]
)
def test_and_not_any_more_when_something_has_changed(tmp_path: Path, path: Path, change: dict[str, int]) -> None:
    stamp = replace(stamp_of(path), ctime_ns=1_800_000_000_123_456_789)
    assert remembered(tmp_path / "state", by_fetch(path, stamp)).find(path, replace(stamp, **change)) is None


def test_where_clocks_count_whole_seconds_a_fetch_proves_nothing_for_later(tmp_path: Path, path: Path) -> None:
    stamp = replace(stamp_of(path), ctime_ns=1_800_000_000_000_000_000)
    assert remembered(tmp_path / "state", by_fetch(path, stamp)).find(path, stamp) is None


def test_lists_are_found_by_any_digest_of_their_file(tmp_path: Path) -> None:
    digests = {"sha256": SHA, "lfs_pointer_sha1": "b" * 40}
    Proofs(tmp_path).remember([Remembered("/m", Stamp(1, 2, 3, 4, 5), 6, digests, "9" * 64)])
    Proofs(tmp_path).remember([Remembered("/n", Stamp(1, 2, 3, 4, 5), 6, {"md5": "a" * 32}, "8" * 64)])
    known = Proofs(tmp_path)
    assert known.lists_of("sha256", SHA) == {"9" * 64: SHA}
    assert known.lists_of("lfs_pointer_sha1", "b" * 40) == {"9" * 64: SHA}
    assert known.lists_of("md5", "a" * 32) == {}  # whose SHA-256 nobody saw
    assert known.lists_of("sha256", "c" * 64) == {}
