"""What a command does when one of its calls fails, or when it is killed, and what the same command then makes of it.

    python -m tests.fakes.faults [COMMAND …]

Every call of each kind fails once, and from it on for ever; every operation is the last one before a SIGKILL. Then the
same command runs without a fault, the power goes at once, and nothing that was not synced is on the disk.
"""

from __future__ import annotations

import argparse
import errno
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distro.errors import exit_code
from tests.fakes.crash import IN_MEMORY, Bad, Cut, Data, Names, States, Tested, make, rebooted, record
from tests.fakes.crash_commands import commands
from tests.fakes.recorder import Died, Failure, Recorder

FOR_EVER = 1 << 30
KINDS = ("open", "write", "fsync", "rename", "mkdir", "truncate", "unlink", "chmod")
CODES = {errno.ENOSPC: 80, errno.EDQUOT: 80, errno.EIO: 74, errno.EMFILE: 74}
_ERRORS = {"open": (errno.ENOSPC, errno.EMFILE, errno.EIO), "mkdir": (errno.ENOSPC, errno.EDQUOT)}


@dataclass(frozen=True)
class Fault:
    """failure: of a call; None where the process is killed after so many operations (kill)."""

    failure: Failure | None = None
    kill: int = 0

    def __str__(self) -> str:
        if self.failure is None:
            return f"killed after {self.kill} operations"
        name, often = errno.errorcode[self.failure.errno], "once" if self.failure.times == 1 else "for ever"
        return f"{name} from {self.failure.kind} {self.failure.nth}, {often}"


def faults_of(tested: Tested) -> Iterator[Fault]:
    """All that can befall a command, by the calls it made when nothing did."""
    for kind in KINDS:
        for code in _ERRORS.get(kind, (errno.EIO, errno.ENOSPC)):
            for nth in range(1, tested.recorder.calls[kind] + 1):
                yield Fault(Failure(kind, nth, code))
                yield Fault(Failure(kind, nth, code, FOR_EVER))
    for kill in range(len(tested.states.log)):
        yield Fault(kill=kill)


def try_out(tested: Tested, fault: Fault) -> str:
    """How the command ended; raises Bad for what must not be."""
    command, root = tested.command, tested.root
    make(tested.states.after(Cut(0, Names.ALL, Data.ALL, 0)), root, tested.recorder)
    recorder, before = Recorder(root), command.n_done()
    recorder.failure = fault.failure
    recorder.die_at = fault.kill if fault.failure is None else None
    ended = "done"
    with rebooted({}), recorder:
        try:
            command.run(tested.base)
        except Died:
            ended = "killed"
        except Exception as error:
            ended = f"exit {exit_code(error)}"
            if fault.failure is None or exit_code(error) != CODES[fault.failure.errno]:
                raise Bad(f"ends with {exit_code(error)}: {error!r}") from error
    if fault.failure is not None and not recorder.n_failed:
        return "no such call"
    tested.judge(is_done=ended == "done")
    recorder.failure = recorder.die_at = None
    with recorder:
        is_done = tested.recover({})
    again = command.n_done() - before - tested.n_work
    is_lost = fault.failure is not None and fault.failure.kind == "fsync"  # and so has to be made again
    if again > command.wasted and not is_lost:
        raise Bad(f"did {again} twice, {command.wasted} allowed")
    states = States(recorder)
    for names, data in ((Names.NONE, Data.NONE), (Names.ALL, Data.ALL)):
        state = states.after(Cut(len(states.log), names, data, 0))
        make(state, root, recorder)
        try:
            tested.judge(is_done=is_done)
        except Bad as bad:
            raise Bad(f"power cut when it had been done at last: {bad}") from bad
    return ended


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.faults")
    parser.add_argument("command", nargs="*")
    parser.add_argument("--most", type=int, default=1 << 30)
    options = parser.parse_args(arguments)
    n_bad = 0
    with commands() as known:
        for name in options.command or known:
            with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as base:
                started, ends, bad = time.monotonic(), Counter[str](), dict[str, list[Fault]]()
                tested = record(known[name], Path(base) / "x")
                faults = list(faults_of(tested))
                random.Random(0).shuffle(faults)
                for fault in faults[: options.most]:
                    try:
                        ends[try_out(tested, fault)] += 1
                    except Bad as error:
                        bad.setdefault(str(error), []).append(fault)
            took = time.monotonic() - started
            print(f"{name}: {dict(ends)}, {sum(map(len, bad.values()))} bad, {took:.0f} s", flush=True)
            for message, which in bad.items():
                print(f"  {len(which)} x {message}\n    {', '.join(map(str, which[:3]))}", flush=True)
            n_bad += len(bad)
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
