"""A command killed at one system call after the other: `python -m tests.fakes.killed_calls COMMAND … [--calls N]`.

The command runs in a process that was forked from this one, and strace kills that at its nth call, whatever it is, in
any of its threads. Then the same command runs here. Linux, with strace installed and allowed.
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

from tests.fakes.crash import IN_MEMORY, Bad, Cut, Data, Names, Tested, make, record
from tests.fakes.crash_commands import commands

_ATTACH_S = 10.0


class NoStraceError(Exception):
    """strace is not installed, or may not be used here."""


def kill_at(tested: Tested, n: int) -> bool:
    """Whether the command was killed before it was done; raises Bad for what it left, or what became of that."""
    make(tested.states.after(Cut(0, Names.ALL, Data.ALL, 0)), tested.root, tested.recorder)
    status = _run_traced(tested, n)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise Bad(f"ended with {os.WEXITSTATUS(status)} without being killed")
    tested.judge(is_done=os.WIFEXITED(status))
    tested.recover({})
    return os.WIFSIGNALED(status)


def _run_traced(tested: Tested, n: int) -> int:
    program = shutil.which("strace")
    if program is None:
        raise NoStraceError("strace is not installed")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(writing)
            os.read(reading, 1)
            tested.command.run(tested.base)
            code = 0
        finally:
            os._exit(code)
    os.close(reading)
    fault = f"inject=all:signal=KILL:when={n}"
    tracer = subprocess.Popen([program, "-f", "-qq", "-o", os.devnull, "-e", fault, "-p", str(child)])
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
    parser.add_argument("--calls", type=int, default=300)
    options = parser.parse_args(arguments)
    n_bad = 0
    with commands() as known:
        for name in options.command or known:
            with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as base:
                tested, bad, n_killed = record(known[name], Path(base) / "x"), dict[str, list[int]](), 0
                for n in range(1, options.calls + 1):
                    try:
                        n_killed += kill_at(tested, n)
                    except Bad as error:
                        bad.setdefault(str(error), []).append(n)
            print(f"{name}: {n_killed} killed, {sum(map(len, bad.values()))} bad", flush=True)
            for message, calls in bad.items():
                print(f"  {len(calls)} x {message}, first at call {calls[0]}", flush=True)
            n_bad += len(bad)
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
