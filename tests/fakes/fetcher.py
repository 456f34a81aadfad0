"""Fetches in processes of their own, of a file that a hub of the test serves in small pieces.

    python -m tests.fakes.fetcher one   HOME PATH SIZE SHA256 URL…          one fetch; prints where the file is
    python -m tests.fakes.fetcher kills HOME PATH SIZE SHA256 URL… --n N    killed again and again until it is done
    python -m tests.fakes.fetcher many  HOME PATH SIZE SHA256 URL… --n N    N at once; --deaf: locks do nothing;
                                                                            --killed: so many of them die on the way

Each fetch is forked from a process that has imported everything. Prints one JSON object. --peer HOST:PORT: for swarms
among the sources.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import filelock
import httpx2  # noqa: F401  before it is forked

from distro.config import Settings
from distro.fetch import fetch
from distro.manifest import File, Model, Variant
from distro.progress import Silent
from distro.proof import piece_hashes

LENGTH = 64 * 1024


def _fetch(home: Path, file: File, urls: list[str], peers: Sequence[tuple[str, int]] = ()) -> Path:
    variant = Variant("v", "safetensors", (file,), tuple(urls))
    settings = Settings(home, home / "config", timeout_s=5.0, retries=2)
    return fetch(settings, Model("m", 1, "llama", "v", (variant,)), variant, progress=Silent(), peers=peers)


def _fork(home: Path, file: File, urls: list[str]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _fetch(home, file, urls)
            code = 0
        except Exception as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(code)
    return child


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def kills(home: Path, file: File, urls: list[str], n: int) -> dict[str, object]:
    """died: how many were killed before they were done. digests: of all files that got their name."""
    moments = random.Random(n)
    final = home / "models" / "m" / "v" / file.path
    began = time.monotonic()
    os.waitpid(_fork(home, file, urls), 0)
    whole_s = time.monotonic() - began
    digests, died, completed = [_digest(final)], 0, 1
    shutil.rmtree(home)
    while died < n:
        child = _fork(home, file, urls)
        time.sleep(moments.uniform(0, whole_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        died += os.WIFSIGNALED(status)
        if final.exists():
            completed += 1
            digests.append(_digest(final))
            shutil.rmtree(home)
    os.waitpid(_fork(home, file, urls), 0)
    digests.append(_digest(final))
    left = sorted(path.name for path in (home / "partial").iterdir() if path.name != "locks")
    return {"died": died, "completed": completed + 1, "digests": digests, "left": left, "whole_s": whole_s}


def many(home: Path, file: File, urls: list[str], n: int, n_killed: int) -> dict[str, object]:
    children = [_fork(home, file, urls) for _ in range(n)]
    moments = random.Random(n)
    time.sleep(0.2)
    for child in moments.sample(children, n_killed):
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return {"codes": codes, "digest": _digest(home / "models" / "m" / "v" / file.path)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("one", "kills", "many"))
    parser.add_argument("home", type=Path)
    parser.add_argument("path")
    parser.add_argument("size", type=int)
    parser.add_argument("sha256")
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--n", type=int, default=1)
    parser.add_argument("--killed", type=int, default=0)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--peer", default="")
    given = parser.parse_args()
    piece_hashes._SMALLEST = LENGTH
    file = File(given.path, given.size, sha256=given.sha256)
    if given.deaf:
        filelock.FileLock.acquire = _deaf  # type: ignore[method-assign]
    if given.what == "one":
        host, _, port = given.peer.rpartition(":")
        path = _fetch(given.home, file, given.urls, [(host, int(port))] if host else [])
        print(json.dumps({"path": str(path)}))
    elif given.what == "kills":
        print(json.dumps(kills(given.home, file, given.urls, given.n)))
    else:
        print(json.dumps(many(given.home, file, given.urls, given.n, given.killed)))


def _deaf(*_: object, **__: object) -> None:
    raise NotImplementedError("a file system without locks")


if __name__ == "__main__":
    main()
