"""A store that is damaged at random, and what verify and repair make of it: `python -m tests.fakes.damaged N [FIRST]`.

From its number a damage is drawn, of one file or several: bits that flip, a shorter or longer file, pages of 4096 bytes
that are zero, two files that have each other's name, a file or a list of piece hashes that is gone; and whether the
times of the files were put back. `verify` has to name exactly the files that are wrong, and `--repair` to bring no more
than their wrong pieces.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from distro import fetch
from distro.config import Settings
from distro.manifest import Family, File, License, Model, Variant
from distro.manifest_file import dump
from distro.progress import Silent
from distro.proof import piece_hashes, repair, verification
from distro.reference import parse_reference
from tests.fakes.hub import FakeHub, serving, sha256

PIECE = 16 * 1024
PAGE = 4096
_NOISE = random.Random(11)
CONTENTS = {
    "config.json": b'{"model_type": "llama"}',
    "one.safetensors": _NOISE.randbytes(20 * PIECE + 77),
    "two.safetensors": _NOISE.randbytes(20 * PIECE + 77),
    "weights/three.safetensors": _NOISE.randbytes(9 * PIECE),
    "weights/short.bin": _NOISE.randbytes(PIECE - 1),
}
LISTED = [path for path, content in CONTENTS.items() if len(content) > PIECE]


@dataclass(frozen=True)
class Outcome:
    """is_found: verify named the files that are wrong and no others. n_sent: bytes that came, n_wrong: at most."""

    is_found: bool
    is_mended: bool
    n_sent: int
    n_wrong: int

    @property
    def is_right(self) -> bool:
        return self.is_found and self.is_mended and self.n_sent <= self.n_wrong


def run(number: int, base: Path, hub: FakeHub) -> Outcome:
    settings = Settings(base / "home", base / "config", timeout_s=10.0, state_folder=base / "state")
    variant = _publish(settings, hub)
    folder = fetch.fetch(settings, *variant, progress=Silent())
    time.sleep(0.02)  # further than a file system's clock ticks
    lost = _damage(folder, random.Random(number))
    wrong = {path for path, content in CONTENTS.items() if _read(folder / path) != content}
    before = hub.n_sent()
    subject = replace(verification.in_store(settings, parse_reference("m:v")), variant=variant[1])
    findings = verification.verify(settings, subject, full=False, progress=Silent())
    named = {each.name for each in findings if not each.verdict.is_right}
    outcome = repair.repair(settings, subject, findings, repair.Helpers(), progress=Silent())
    again = verification.verify(settings, subject, full=True, progress=Silent())
    is_mended = outcome.failure is None and all(each.verdict.is_right for each in again)
    is_mended &= all(_read(folder / path) == content for path, content in CONTENTS.items())
    return Outcome(named == wrong, is_mended, hub.n_sent() - before, sum(lost.get(path, 0) for path in wrong))


def _publish(settings: Settings, hub: FakeHub) -> tuple[Model, Variant]:
    hub.plain = dict(CONTENTS)
    files = tuple(File(path, len(content), sha256=sha256(content)) for path, content in CONTENTS.items())
    variant = Variant("v", "safetensors", files, (f"{hub.url}/plain/",))
    model = Model("m", 1, "llama", "v", (replace(variant, sources=()),))  # a manifest has no http: in it
    family = Family("m", "us", License("MIT", "https://spdx.org/licenses/MIT.html", "allowed"), (model,))
    (settings.config_folder / "manifests").mkdir(parents=True)
    (settings.config_folder / "manifests" / "m.toml").write_text(dump(family))
    return model, variant


def _damage(folder: Path, dice: random.Random) -> dict[str, int]:
    """Bytes that may have to come, by file: its wrong pieces, all of it where it has no list any more."""
    times = {path: (folder / path).stat() for path in CONTENTS}
    unlisted = set()
    for _ in range(dice.randrange(1, 5)):
        path = dice.choice(list(CONTENTS))
        if not (folder / path).exists():
            continue
        match dice.randrange(8):
            case 0 | 1:
                _flip(folder / path, dice)
            case 2:
                os.truncate(folder / path, dice.randrange(len(CONTENTS[path])))
            case 3:
                with (folder / path).open("ab") as stream:
                    stream.write(dice.randbytes(dice.randrange(1, 3 * PAGE)))
            case 4:
                _zero(folder / path, dice)
            case 5:
                (folder / path).unlink()
            case 6:
                _swap(folder / path, folder / dice.choice(list(CONTENTS)))
            case 7:
                lost = dice.choice(LISTED)
                unlisted.add(lost)
                _lose_list(folder, CONTENTS[lost], dice)
    if dice.random() < 0.5:
        for path, status in times.items():
            if (folder / path).exists():
                os.utime(folder / path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return {
        path: len(content) if path in unlisted or path not in LISTED else _wrong_bytes(_read(folder / path), content)
        for path, content in CONTENTS.items()
    }


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _wrong_bytes(found: bytes, content: bytes) -> int:
    starts = range(0, len(content), PIECE)
    pieces = [(found[start : start + PIECE], content[start : start + PIECE]) for start in starts]
    return sum(len(right) for there, right in pieces if there != right)


def _flip(path: Path, dice: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(dice.randrange(1, 4) if data else 0):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    _put(path, bytes(data))


def _zero(path: Path, dice: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(dice.randrange(1, 4)):
        start = dice.randrange(len(data) // PAGE + 1) * PAGE
        data[start : start + PAGE] = bytes(len(data[start : start + PAGE]))
    _put(path, bytes(data))


def _put(path: Path, data: bytes) -> None:
    """In place: a disk that loses a page gives the file no other number."""
    with path.open("r+b") as stream:
        stream.write(data)


def _swap(one: Path, other: Path) -> None:
    if one != other and other.exists():
        aside = one.with_name("aside")
        one.replace(aside)
        other.replace(one)
        aside.replace(other)


def _lose_list(folder: Path, content: bytes, dice: random.Random) -> None:
    for path in (folder / ".pieces").iterdir():
        found = piece_hashes.find_list(folder, path.name, sha256(content), len(content))
        if found is not None:
            if dice.random() < 0.5:
                path.unlink()
            else:
                _flip(path, dice)


def make_quick() -> None:
    """Small pieces."""
    piece_hashes._SMALLEST = PIECE


def main(n: int, first: int) -> int:
    make_quick()
    began, bad, sent, wrong = time.monotonic(), [], 0, 0
    for number in range(first, first + n):
        with serving() as hub, tempfile.TemporaryDirectory() as base:
            outcome = run(number, Path(base), hub)
        if not outcome.is_right:
            bad.append((number, outcome))
        sent, wrong = sent + outcome.n_sent, wrong + outcome.n_wrong
    print(f"{n} damages, {wrong} bytes of wrong pieces, {sent} came, {time.monotonic() - began:.0f} s")
    print(f"bad: {bad or 'none'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
