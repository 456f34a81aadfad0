"""Many files at once: the same verdicts as one by one, whatever is read, and whatever is not."""

from __future__ import annotations

import hashlib
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from converters.errors import ChangedError
from distro.digest import KINDS, digest_file
from distro.manifest import File
from distro.progress import SilentBar
from distro.proof.piece_hashes import PieceHasher, PieceHashes
from distro.proof.proofs import Proofs, Remembered, Stamp
from distro.proof.prove import Claim, How, Prover, prove
from distro.verify import Status, check

MIB = 1 << 20
CONTENT = random.Random(11).randbytes(9 * MIB)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = File("model.gguf", len(CONTENT), sha256=SHA256)


def hashes_of(content: bytes) -> PieceHashes:
    hasher = PieceHasher(len(content))
    hasher.update(content)
    found = hasher.finish(hashlib.sha256(content).hexdigest())
    assert found is not None
    return found


LIST = hashes_of(CONTENT)


class Counter(SilentBar):
    n_bytes = 0

    def advance(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def proofs(tmp_path: Path, path: Path) -> Proofs:
    """The memory of a user whose file was proven an hour after it was written, a moment ago."""
    return remembering(tmp_path, path, time.time_ns())


def remembering(tmp_path: Path, path: Path, now: int) -> Proofs:
    stamp = Stamp.of(path.stat())
    read_ns = stamp.ctime_ns + 3600 * 10**9
    proofs = Proofs(tmp_path / "state", lambda: read_ns + 10**9)
    proofs.remember([Remembered(str(path), stamp, read_ns, {"sha256": SHA256}, LIST.digest)])
    return proofs


def test_the_verdicts_are_those_of_one_by_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    chance, claims = random.Random(2), []
    for index in range(40):
        content = chance.randbytes(chance.choice([0, 1, 5000, MIB + 1]))
        name = f"{index}.bin"
        (tmp_path / name).write_bytes(content)
        kind = chance.choice(KINDS)
        digest = digest_file(tmp_path / name, [kind]).get(kind, "0" * 64)
        file = File(name, chance.choice([None, len(content)]), **{kind: digest})
        if chance.random() < 0.3 and content:
            (tmp_path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        claims.append(Claim(tmp_path / name, file))
    claims += [Claim(tmp_path / name, File(name, 1)) for name in ("none", "pipe", "1.bin")]
    claims += [Claim(tmp_path / "0.bin", File("0.bin"))]
    found = Prover(Proofs(None), threads=3).prove(claims)
    assert [each.verdict for each in found] == [check(claim.path, claim.file) for claim in claims]
    assert {each.verdict.status for each in found} == set(Status)
    assert {each.how for each in found} == {How.READ}


def test_one_read_gives_the_verdict_and_the_list(path: Path) -> None:
    bar = Counter()
    found = prove(path, FILE, bar)
    assert (found.verdict.status, found.verdict.found) == (Status.OK, SHA256)
    assert found.pieces == LIST
    assert bar.n_bytes == len(CONTENT)
    assert prove(path, replace(FILE, sha256="0" * 64)).pieces is None
    assert prove(path, File("x", md5=hashlib.md5(CONTENT).hexdigest())).pieces is None  # noqa: S324  too weak to keep


def test_what_was_proven_is_not_read_again(path: Path, proofs: Proofs) -> None:
    path.chmod(0)  # nobody but root could read it, and the time of its status is another
    path.chmod(0o600)
    stamp = Stamp.of(path.stat())
    proofs.remember([Remembered(str(path), stamp, stamp.ctime_ns + 3600 * 10**9, {"sha256": SHA256}, None)])
    (found,) = Prover(proofs).prove([Claim(path, FILE)])
    assert (found.verdict.status, found.how) == (Status.OK, How.REMEMBERED)
    assert found.proven_at is not None
    assert abs(found.proven_at.timestamp() - stamp.ctime_ns / 1e9 - 3600) < 1
    (full,) = Prover(proofs, full=True).prove([Claim(path, FILE)])
    assert full.how is How.READ


def test_another_digest_than_the_one_that_was_proven_is_read(path: Path, proofs: Proofs) -> None:
    (other,) = Prover(proofs).prove([Claim(path, replace(FILE, sha256="0" * 64))])
    assert (other.verdict.status, other.verdict.found, other.how) == (Status.WRONG, SHA256, How.READ)
    (md5,) = Prover(proofs).prove([Claim(path, File("x", md5="0" * 32))])
    assert (md5.verdict.status, md5.how) == (Status.WRONG, How.READ)


def test_pieces_prove_a_file_whose_list_we_saw_made(path: Path, proofs: Proofs) -> None:
    os.utime(path)  # touched, so that it has to be read
    bar = Counter()
    (found,) = Prover(proofs).prove([Claim(path, FILE, LIST)], bar)
    assert (found.verdict.status, found.verdict.found, found.how) == (Status.OK, SHA256, How.PIECES)
    assert bar.n_bytes == len(CONTENT)


@pytest.mark.parametrize("at", [0, 4 * MIB - 1, 4 * MIB, 9 * MIB - 1])
def test_pieces_convict_one_wrong_bit_and_say_where(path: Path, proofs: Proofs, at: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(bytes([CONTENT[at] ^ 1]))
    (found,) = Prover(proofs).prove([Claim(path, FILE, LIST)])
    assert (found.verdict.status, found.how) == (Status.WRONG, How.PIECES)
    where = at // (4 * MIB) * 4 * MIB
    assert found.verdict.found == f"another (1 of 3 pieces of 4194304 bytes differ, the first at byte {where})"


def test_a_list_that_somebody_made_up_proves_nothing(tmp_path: Path, path: Path) -> None:
    """It names the right digest and is of other bytes; the receipt that names it may be anybody's."""
    wrong = CONTENT[:-1] + b"!"
    path.write_bytes(wrong)
    forged = replace(hashes_of(wrong), sha256=SHA256)
    for folder in (None, tmp_path / "state"):
        proofs = Proofs(folder)
        (found,) = Prover(proofs).prove([Claim(path, FILE, forged, wants_list=True)])
        assert (found.verdict.status, found.how) == (Status.WRONG, How.READ)
        assert proofs.digests_of(forged.digest) == {}


def test_a_list_of_our_own_with_other_pieces_under_its_name_is_another(path: Path, proofs: Proofs) -> None:
    wrong = CONTENT[:-1] + b"!"
    path.write_bytes(wrong)
    (found,) = Prover(proofs).prove([Claim(path, FILE, replace(hashes_of(wrong), sha256=SHA256))])
    assert (found.verdict.status, found.how) == (Status.WRONG, How.READ)


def test_a_whole_read_says_which_pieces_a_receipts_list_calls_wrong(path: Path) -> None:
    path.write_bytes(CONTENT[:-1] + b"!")
    (found,) = Prover(Proofs(None)).prove([Claim(path, FILE, LIST, wants_list=True)])
    sha256 = hashlib.sha256(CONTENT[:-1] + b"!").hexdigest()
    where = "(1 of 3 pieces of 4194304 bytes differ, the first at byte 8388608)"
    assert found.verdict.found == f"{sha256} {where}"


def test_what_is_proven_by_pieces_is_remembered(tmp_path: Path, path: Path, proofs: Proofs) -> None:
    time.sleep(2.1)  # so long a file must have been at rest
    (by_pieces,) = Prover(proofs, full=True).prove([Claim(path, FILE, LIST)])
    assert by_pieces.how is How.PIECES
    (again,) = Prover(Proofs(tmp_path / "state")).prove([Claim(path, FILE, LIST)])
    assert again.how is How.REMEMBERED


def test_a_file_that_is_written_to_meanwhile_is_no_proof(path: Path, proofs: Proofs) -> None:
    os.utime(path)

    class Writer(SilentBar):
        def advance(self, n_bytes: int) -> None:
            os.utime(path)

    with pytest.raises(ChangedError, match="size or time"):
        Prover(proofs, threads=1).prove([Claim(path, FILE, LIST)], Writer())
    (found,) = Prover(Proofs(path.parent / "new"), threads=1).prove([Claim(path, FILE)], Writer())
    assert found.verdict.is_right
    assert not (path.parent / "new" / "proofs").exists()


def test_an_interruption_ends_all_threads_and_keeps_what_is_proven(tmp_path: Path) -> None:
    claims = []
    for index in range(8):
        (tmp_path / f"{index}").write_bytes(CONTENT)
        claims.append(Claim(tmp_path / f"{index}", FILE))

    class Impatient(SilentBar):
        n_bytes = 0

        def advance(self, n_bytes: int) -> None:
            self.n_bytes += n_bytes
            if self.n_bytes > 2.5 * len(CONTENT):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Prover(Proofs(tmp_path / "state"), threads=1).prove(claims, Impatient())
    lines = (tmp_path / "state" / "proofs").read_text().split("\n")
    assert sum('"path"' in line for line in lines) == 2


def test_damage_is_always_found(tmp_path: Path) -> None:
    """Random flips, truncation, zeroed pages and swapped files: 100 times, by pieces and by whole reads."""
    chance, size = random.Random(20), 5 * MIB
    contents = [chance.randbytes(size), chance.randbytes(size)]
    paths = [tmp_path / "a", tmp_path / "b"]
    lists = [hashes_of(content) for content in contents]
    files = [File(path.name, size, sha256=each.sha256) for path, each in zip(paths, lists, strict=True)]
    claims = [Claim(*each) for each in zip(paths, files, lists, strict=True)]
    proofs = Proofs(tmp_path / "state")
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert all(each.verdict.is_right for each in Prover(proofs).prove([replace(c, wants_list=True) for c in claims]))
    for _ in range(100):
        kind, which = chance.choice(["flip", "cut", "zero", "swap"]), chance.randrange(2)
        at = chance.randrange(size)
        path, content = paths[which], contents[which]
        if kind == "cut":
            os.truncate(path, at)
        elif kind == "swap":
            paths[0].rename(tmp_path / "c")
            paths[1].rename(paths[0])
            (tmp_path / "c").rename(paths[1])
        else:
            at = at // 4096 * 4096 if kind == "zero" else at
            damage = bytes(4096) if kind == "zero" else bytes([content[at] ^ 1 << chance.randrange(8)])
            with path.open("r+b") as stream:
                stream.seek(at)
                stream.write(damage)
        prover = Prover(Proofs(tmp_path / "state"), full=chance.random() < 0.5)
        found = prover.prove(claims)
        wrong = [each.verdict.status is Status.WRONG for each in found]
        assert wrong == ([True, True] if kind == "swap" else [which == 0, which == 1]), kind
        if kind == "swap":
            paths[0].rename(tmp_path / "c")
            paths[1].rename(paths[0])
            (tmp_path / "c").rename(paths[1])
        elif kind == "cut":
            with path.open("r+b") as stream:
                stream.seek(at)
                stream.write(content[at:])
        else:
            with path.open("r+b") as stream:
                stream.seek(at)
                stream.write(content[at : at + 4096])
