"""A conversion that is killed again and again until it is done: `python -m tests.fakes.killed SOURCE TARGET MIX KILLS`.

Every attempt is a process of its own, forked from one that has imported everything, and dies by SIGKILL after a random
time; the next goes on. Prints, as JSON, how many died, how many found something to go on with, and the SHA-256 of every
finished result.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from converters import plan as planning
from converters.recipe import Recipe
from distro.progress import Silent
from distro.store import Store
from tests.fakes import derived


class _Heard(Silent):
    def __init__(self, path: Path) -> None:
        self._path = path

    def say(self, text: str) -> None:
        if text.startswith("going on"):
            self._path.touch()


def _attempt(source: Path, target: Path, mix: str, heard: Path) -> None:
    store = Store(target.parent / "home")
    derived.into_path(store, source, Recipe("gguf", mix), target, threads=2, progress=_Heard(heard))


def _fork(source: Path, target: Path, mix: str, heard: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _attempt(source, target, mix, heard)
            code = 0
        finally:
            os._exit(code)
    return child


def main(source: Path, target: Path, mix: str, kills: int) -> dict[str, object]:
    planning._BLOCK_WEIGHTS = 128  # many blocks, so that it takes its time and there is always one to lose
    moments = random.Random(kills)
    heard = target.parent / "heard"
    digests = []
    for _ in range(2):  # the second time everything is in the system's memory, and takes as long as it will
        started = time.monotonic()
        os.waitpid(_fork(source, target, mix, heard), 0)
        whole_s = time.monotonic() - started
        digests.append(hashlib.sha256(target.read_bytes()).hexdigest())
        target.unlink()
    died = resumed = 0
    while died < kills:
        child = _fork(source, target, mix, heard)
        time.sleep(moments.uniform(0, whole_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        died += os.WIFSIGNALED(status)
        resumed += heard.exists()
        heard.unlink(missing_ok=True)
        if target.exists():  # and so it is whole, whatever became of its maker
            digests.append(hashlib.sha256(target.read_bytes()).hexdigest())
            target.unlink()
    os.waitpid(_fork(source, target, mix, heard), 0)
    digests.append(hashlib.sha256(target.read_bytes()).hexdigest())
    left = sorted(path.name for path in target.parent.iterdir() if path.name.startswith("."))
    return {"died": died, "resumed": resumed, "digests": digests, "left": left, "whole_s": whole_s}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
