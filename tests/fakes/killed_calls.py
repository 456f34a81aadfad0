"""A command killed at one system call after the other: `python -m tests.fakes.killed_calls [COMMAND …] [--calls N]`.

    --kinds pwrite64,fsync    calls of these kinds alone, each kind until there is no such call any more (default: any
                              call; `some`: all that change a disk or a connection)
    --calls N --step S        the first N, of which each S-th

The command runs in a process that was forked from this one, and strace kills that at the nth call of any of its
threads. Then the same command runs here, and does no more again than the command allows. Linux, with strace installed
and allowed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distro.errors import exit_code
from tests.fakes.crash import IN_MEMORY, Bad, Cut, Data, Names, Tested, make, record
from tests.fakes.crash_commands import commands

_ATTACH_S = 10.0
_WHOLE = 3
SOME = (
    "openat", "pwrite64", "write", "fsync", "rename,renameat,renameat2", "unlink,unlinkat", "mkdir,mkdirat",
    "ftruncate", "fchmod,chmod", "lseek", "close", "connect", "sendto", "recvfrom", "poll,ppoll",
    "clone,clone3", "futex",
)  # fmt: skip


class NoStraceError(Exception):
    """strace is not installed, or may not be used here."""


def kill_at(tested: Tested, n: int, kind: str = "all") -> bool:
    """Whether the command was killed before it was done; raises Bad for what it left, or what became of that."""
    before = tested.command.n_done()
    make(tested.states.after(Cut(0, Names.ALL, Data.ALL, 0)), tested.root, tested.recorder)
    status = run_traced(tested, f"{kind}:signal=KILL:when={n}")
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise Bad(f"ended with {os.WEXITSTATUS(status)} without being killed")
    tested.judge(is_done=os.WIFEXITED(status))
    tested.recover({})
    again = tested.command.n_done() - before - tested.n_work
    if again > tested.command.wasted:
        raise Bad(f"did more than {again // 1024} KiB twice, {tested.command.wasted} bytes allowed")
    return os.WIFSIGNALED(status)


def run_traced(tested: Tested, injection: str) -> int:
    """The wait status of the command, which strace manipulates; an error that it raises is its exit code."""
    program = shutil.which("strace")
    if program is None:
        raise NoStraceError("strace is not installed")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(writing)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the interpreter says of calls that fail where none does
            os.read(reading, 1)
            tested.command.run(tested.base)
            code = 0
        except Exception as error:
            code = exit_code(error)
        finally:
            os._exit(code)
    os.close(reading)
    tracer = subprocess.Popen([program, "-f", "-qq", "-o", os.devnull, "-e", f"inject={injection}", "-p", str(child)])
    try:
        _wait_for_tracer(child)
    finally:
        os.close(writing)  # which ends the child's read
        _, status = os.waitpid(child, 0)
        tracer.wait(_ATTACH_S)
    return status


def _wait_for_tracer(child: int) -> None:
    until = time.monotonic() + _ATTACH_S
    while "TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_text():
        if time.monotonic() > until:
            raise NoStraceError("strace cannot attach to a process")
        time.sleep(0.002)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.killed_calls")
    parser.add_argument("command", nargs="*")
    parser.add_argument("--kinds", default="all")
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--step", type=int, default=1)
    options = parser.parse_args(arguments)
    kinds = SOME if options.kinds == "some" else (options.kinds,)
    n_bad = 0
    with commands() as known:
        for name in options.command or known:
            with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as base:
                tested = record(known[name], Path(base) / "x")
                for kind in kinds:
                    n_bad += _try_out(tested, kind, range(1, options.calls + 1, options.step))
    return 1 if n_bad else 0


def _try_out(tested: Tested, kind: str, calls: range) -> int:
    """How much came out wrong of kills at these calls of one kind; ends where there is no such call."""
    bad, n_killed, n_whole = dict[str, list[int]](), 0, 0
    for n in calls:
        try:
            was_killed = kill_at(tested, n, kind)
            n_killed += was_killed
            n_whole = 0 if was_killed else n_whole + 1
        except Bad as error:
            n_killed += 1
            bad.setdefault(str(error), []).append(n)
        if n_whole == _WHOLE:  # runs, in a row, of which none came so far
            break
    print(f"{tested.command.name}, {kind}: {n_killed} killed, {sum(map(len, bad.values()))} bad", flush=True)
    for message, numbers in bad.items():
        print(f"  {len(numbers)} x {message}, first at call {numbers[0]}", flush=True)
    return len(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
