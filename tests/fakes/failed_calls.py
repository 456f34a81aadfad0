"""A command of which a system call fails: `python -m tests.fakes.failed_calls [COMMAND …] [--most N]`.

As tests/fakes/faults.py does it, but of a real process, in any of its threads, and of its connections too: strace makes
the nth call of a kind fail, once or from then on. The command says what happened by its exit code and leaves no name
without proof; then the same command runs without a fault, and no more is done again than it allows.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.crash import IN_MEMORY, Bad, Cut, Data, Names, Tested, make, record
from tests.fakes.crash_commands import commands
from tests.fakes.killed_calls import run_traced

_NAMES = "rename,renameat,renameat2"
_FOLDERS = "mkdir,mkdirat"
# Exit codes of a kind of call that fails with an error: what a command that ends by it has to say.
CODES: dict[str, dict[str, int]] = {
    "pwrite64": {"ENOSPC": 80, "EDQUOT": 80, "EIO": 74},
    "fsync": {"EIO": 74, "ENOSPC": 80, "EDQUOT": 80},
    _NAMES: {"ENOSPC": 80, "EDQUOT": 80, "EIO": 74, "ESTALE": 74},
    _FOLDERS: {"ENOSPC": 80, "EDQUOT": 80, "EACCES": 73},
    "ftruncate": {"EIO": 74, "EDQUOT": 80},
    "close": {"EIO": 74, "EDQUOT": 80},
    "preadv,pread64": {"EIO": 74, "ESTALE": 74},
    "fchmod": {"EIO": 74},
    "lseek": {"EINVAL": 74},
    "connect": {"ETIMEDOUT": 75, "ENETUNREACH": 75, "ECONNREFUSED": 75},
    "sendto": {"EPIPE": 75, "ECONNRESET": 75, "ENOBUFS": 75},
    "recvfrom": {"ECONNRESET": 75, "ETIMEDOUT": 75, "ENOMEM": 75},
    "socket": {"EMFILE": 75, "ENFILE": 75},
}


@dataclass(frozen=True)
class Failing:
    """kind: names of system calls, with commas. nth: of a thread. lasts: whether all that follow fail too."""

    kind: str
    error: str
    nth: int
    lasts: bool

    def __str__(self) -> str:
        return f"{self.error} from {self.kind} {self.nth}{' and all after it' if self.lasts else ''}"

    @property
    def injection(self) -> str:
        return f"{self.kind}:error={self.error}:when={self.nth}{'+' if self.lasts else ''}"


def failures(most: int) -> Iterator[Failing]:
    """All kinds, errors and places up to a number; those that no run reaches any more cost a run each."""
    for kind, errors in CODES.items():
        for error in errors:
            for nth in range(1, most + 1):
                yield Failing(kind, error, nth, lasts=False)
                yield Failing(kind, error, nth, lasts=True)


def try_out(tested: Tested, failing: Failing) -> str:
    """How the command ended; raises Bad for what must not be."""
    before = tested.command.n_done()
    make(tested.states.after(Cut(0, Names.ALL, Data.ALL, 0)), tested.root, tested.recorder)
    code = os.waitstatus_to_exitcode(run_traced(tested, failing.injection))
    if code not in (0, CODES[failing.kind][failing.error]):
        raise Bad(f"ends with {code}")
    tested.judge(is_done=code == 0)
    tested.recover({})
    again = tested.command.n_done() - before - tested.n_work
    if again > tested.command.wasted and failing.kind != "fsync":  # after which nobody knows what the disk has
        raise Bad(f"did more than {again // 1024} KiB twice, {tested.command.wasted} bytes allowed")
    return f"exit {code}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.failed_calls")
    parser.add_argument("command", nargs="*")
    parser.add_argument("--most", type=int, default=1 << 30, help="failures that are tried, drawn from all")
    parser.add_argument("--calls", type=int, default=40, help="of each kind, at most")
    options = parser.parse_args(arguments)
    n_bad = 0
    with commands() as known:
        for name in options.command or known:
            with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as base:
                tested = record(known[name], Path(base) / "x")
                chosen = list(failures(options.calls))
                random.Random(0).shuffle(chosen)
                ends, bad = Counter[str](), dict[str, list[Failing]]()
                for failing in chosen[: options.most]:
                    try:
                        ends[try_out(tested, failing)] += 1
                    except Bad as error:
                        bad.setdefault(str(error), []).append(failing)
            print(f"{name}: {dict(ends)}, {sum(map(len, bad.values()))} bad", flush=True)
            for message, which in bad.items():
                print(f"  {len(which)} x {message}\n    {'; '.join(map(str, which[:4]))}", flush=True)
            n_bad += len(bad)
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
