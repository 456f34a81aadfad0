#!/usr/bin/env python3
"""Files of the store proven by `distro verify`, beside `sha256sum -c` on the same files.

    scripts/bench_verify [--rounds 5] [--gigabytes 1.0] [--work FOLDER] [--json FILE]

One file of that size, and eight of an eighth each, of random bytes, in a home of their own. Whole processes, one after
the other, in turns, so that a noisy machine is noisy for all; the median of the rounds counts. The files are in the
system's memory, so that hashing is measured and not the disk, but for --full, which lets go of what is there. What is
run:

    first        no list of piece hashes yet: each file is read once by one thread, a second one makes the list
    pieces       with lists, and touched since: every byte is read, pieces on all cores
    --full       the same from the disk
    remembered   proven a moment ago and unchanged: nothing is read
    sha256sum    one process for all files
    sha256sum -P one process for each file, as many at once as there are cores (xargs)
    openssl -P   the same with `openssl dgst`, whose code is that of our own hashes
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distro.receipt import Entry, Receipt, now
from distro.store import Store

ROOT = Path(__file__).resolve().parent.parent
SETTLED_S = 2.5  # a file that was written more recently is not remembered


@dataclass(frozen=True)
class Cost:
    wall_s: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--work", type=Path, default=Path("bench-verify"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    work = arguments.work.resolve()
    report = {}
    for n_files in (1, 8):
        size = int(arguments.gigabytes * 1e9) // n_files
        home = work / f"home-{n_files}"
        folder = make_files(home, n_files, size)
        time.sleep(SETTLED_S)
        costs: dict[str, list[Cost]] = {}
        for _ in range(arguments.rounds):
            for name, command, prepare in sides(home, folder):
                prepare()
                costs.setdefault(name, []).append(run(command, home))
        report[f"{n_files} x {size / 1e6:.0f} MB"] = {name: median(each) for name, each in costs.items()}
    show(report, arguments.gigabytes * 1e9)
    if arguments.json:
        told = {title: {name: vars(cost) for name, cost in sides_.items()} for title, sides_ in report.items()}
        arguments.json.write_text(json.dumps({"bytes": int(arguments.gigabytes * 1e9), "files": told}, indent=2) + "\n")
    shutil.rmtree(work)


def make_files(home: Path, n_files: int, size: int) -> Path:
    """A variant in the store that has no lists of piece hashes; and SHA256SUMS beside it."""
    store, block, entries, sums = Store(home), os.urandom(1 << 20), {}, []
    folder = store.folder("bench", "files")
    folder.mkdir(parents=True)
    for index in range(n_files):
        path, hasher = folder / f"model-{index}.bin", hashlib.sha256()
        with path.open("wb") as stream:
            for start in range(0, size, len(block)):
                data = (bytes([index]) + start.to_bytes(8, "little") + block[9:])[: size - start]
                stream.write(data)
                hasher.update(data)
        entries[path.name] = Entry(hasher.hexdigest(), size, "made here", now())
        sums.append(f"{hasher.hexdigest()}  {path.name}\n")
    (home / "SHA256SUMS").write_text("".join(sums))
    store.write_receipt(Receipt("bench", "files", "other", entries))
    (home / "receipt.json").write_bytes((folder / "receipt.json").read_bytes())
    return folder


def sides(home: Path, folder: Path) -> list[tuple[str, list[str], Callable[[], None]]]:
    """Name, command, and what is to be done before it."""
    ours = [sys.executable, "-c", "from distro.cli import main; main()", "-q", "verify", "bench:files"]
    cores, sums = str(os.cpu_count() or 1), str(home / "SHA256SUMS")

    def forget() -> None:
        shutil.rmtree(home / "state", ignore_errors=True)
        shutil.rmtree(folder / ".pieces", ignore_errors=True)
        shutil.copyfile(home / "receipt.json", folder / "receipt.json")

    def touch() -> None:
        for path in folder.glob("*.bin"):
            path.touch()

    def settle() -> None:
        time.sleep(SETTLED_S)

    def nothing() -> None:
        pass

    parallel = f'cut -c67- "$0" | xargs -P {cores} -n 1'
    return [
        ("first", ours, forget),
        ("pieces", ours, touch),
        ("--full", [*ours, "--full"], settle),
        ("remembered", ours, nothing),
        ("sha256sum", ["sha256sum", "--quiet", "-c", sums], nothing),
        ("sha256sum -P", ["sh", "-c", f"{parallel} sha256sum", sums], nothing),
        ("openssl -P", ["sh", "-c", f"{parallel} openssl dgst -sha256", sums], nothing),
    ]


def run(command: Sequence[str], home: Path) -> Cost:
    """One process and its children, from start to end; it must succeed."""
    environment = {**os.environ, "DISTRO_HOME": str(home), "DISTRO_STATE": str(home / "state"), "PYTHONPATH": str(ROOT)}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        command, cwd=home / "models/bench/files", env=environment, capture_output=True, text=True, check=False
    )
    wall_s, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(round(wall_s, 3), round(cpu_s, 3))


def median(costs: Sequence[Cost]) -> Cost:
    return sorted(costs, key=lambda cost: cost.wall_s)[len(costs) // 2]


def show(report: Mapping[str, Mapping[str, Cost]], n_bytes: float) -> None:
    for title, costs in report.items():
        print(f"\n{title}, {os.cpu_count()} cores")
        for name, cost in costs.items():
            print(f"  {name:<14}{cost.wall_s:8.2f} s{cost.cpu_s:8.2f} s CPU{n_bytes / 1e6 / cost.wall_s:10.0f} MB/s")


if __name__ == "__main__":
    main()
