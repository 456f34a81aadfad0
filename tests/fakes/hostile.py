"""The command line with hostile input, run for real: a process of its own for each command, and what it did.

One process imports everything once and then forks a child for each command, so that hundreds of commands take seconds.
The child has its own folders, streams, user and memory limit, and an audit hook that notes what Python did in it: files
opened, modules imported, processes started, sockets, code compiled. Compared with what the same command does with a
good model, that shows whether a file made it do anything at all.
"""

from __future__ import annotations

import atexit
import functools
import gc
import hashlib
import importlib
import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes import tiny_llama

ROOT = Path(__file__).parent.parent.parent
MIB = 2**20
MOST_MEMORY = 256 * MIB  # above what the process had before the command
MOST_CPU_S = 2.0
_PATIENCE_S = 30  # a child that takes longer hangs
_NOBODY = 65534

# Events that mean that something ran, whatever the arguments. `open` and `import` are judged by their arguments.
_NEVER = ("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "subprocess.",
          "socket.", "pty.", "ctypes.", "pickle.", "exec", "compile", "urllib.", "webbrowser.", "ftplib.", "smtplib.",
          "imaplib.", "sqlite3.", "os.symlink", "os.link")  # fmt: skip
_WATCHED = (*_NEVER, "open", "import")


@dataclass(frozen=True)
class Ran:
    """One command that ran. memory: bytes at its peak, above what it began with. events: (audit event, argument)."""

    arguments: tuple[str, ...]
    code: int
    out: str
    err: str
    cpu_s: float
    memory: int
    events: tuple[tuple[str, str], ...] = field(repr=False)

    def opened(self) -> set[str]:
        return {argument for event, argument in self.events if event == "open"}

    def did(self) -> set[tuple[str, str]]:
        """All that a file should never cause."""
        return {(event, argument) for event, argument in self.events if event.startswith(_NEVER)}

    def imported(self) -> set[str]:
        return {argument for event, argument in self.events if event == "import"}


class Machine:
    """The process that forks. Use `machine()`, which keeps one."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.fakes.hostile"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
            env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {}),
        )  # fmt: skip

    def run(
        self,
        base: Path,
        *arguments: str,
        cwd: Path | None = None,
        nobody: bool = False,
        stdout: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Ran:
        """`distro` with these arguments; its home, its configuration and its streams are below `base`.

        nobody: as a user who may read only what all may. `open PATH` as arguments opens a checkpoint by the library.
        """
        streams = base / "streams"
        streams.mkdir(exist_ok=True)
        request = {
            "arguments": arguments,
            "cwd": str(cwd or base),
            "streams": str(streams),
            "stdout": str(stdout or streams / "out"),
            "nobody": nobody and os.getuid() == 0,
            "environment": {
                "DISTRO_HOME": str(base / "home"), "DISTRO_CONFIG": str(base / "config"), "HF_HUB_OFFLINE": "1",
                "TMPDIR": str(streams), **(environment or {}),
            },
        }  # fmt: skip
        answer = self._ask(request)
        assert not answer["hung"], f"distro {' '.join(arguments)} hangs"
        out = streams / "out"
        return Ran(
            arguments=arguments,
            code=answer["code"],
            out=out.read_text("utf-8", "backslashreplace") if out.exists() and stdout is None else "",
            err=(streams / "err").read_text("utf-8", "backslashreplace"),
            cpu_s=answer["cpu_s"],
            memory=answer["memory"],
            events=tuple((event, argument) for event, argument in map(json.loads, _lines(streams / "events"))),
        )

    def load(self, modules: Iterable[str]) -> None:
        """Import these now, so that later commands find them."""
        self._ask({"load": sorted(modules)})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@functools.cache
def machine(locale: str = "") -> Machine:
    """A machine that lives until the tests end. locale: "C" for an ASCII terminal, as in the smallest containers."""
    ascii_only = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"}
    started = Machine(ascii_only if locale == "C" else {})
    atexit.register(started.close)
    return started


def run(base: Path, *arguments: str, **options: Any) -> Ran:
    """A command on the usual machine; see `Machine.run`."""
    return machine().run(base, *arguments, **options)


def judge(ran: Ran, code: int, *words: str) -> None:
    """What a refusal must look like: one line, with these words, no control characters, soon, in little memory."""
    assert ran.code == code, ran
    lines = ran.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == lines[-1:], ran
    assert "Traceback" not in ran.err, ran
    assert "fault of ours" not in ran.err, ran
    assert all(word in errors[0] for word in words), ran
    assert is_plain(ran.err), ran
    assert is_plain(ran.out), ran
    assert len(errors[0]) < 1000, ran
    assert ran.cpu_s <= MOST_CPU_S, ran
    assert ran.memory <= MOST_MEMORY, ran


def is_plain(text: str) -> bool:
    """Whether a terminal shows this and does nothing else."""
    return all(character.isprintable() or character in "\n\t" for character in text)


@functools.cache
def usual() -> tuple[frozenset[tuple[str, str]], frozenset[str]]:
    """What commands do, and which files they open, with a good model. No input may cause more."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        model, pickled = tiny_llama.write(base / "in"), tiny_llama.write(base / "bin", container="bin")
        commands = [("convert", str(model), "--quant", "q8_0", "--threads", "1", "-o", str(base / "o.gguf"))]
        commands += [("run", str(pickled), "hi", "-n", "2"), ("verify", str(model))]
        commands += [("open", str(base / "o.gguf")), ("torrent", str(model), "-o", str(base / "o.torrent"))]
        first = [run(base, *command) for command in commands]
        machine().load(frozenset[str]().union(*(ran.imported() for ran in first)))
        (base / "o.gguf").unlink()
        ran = [run(base, *command) for command in commands]
    assert [each.code for each in ran] == [0, 0, 66, 0, 0], ran
    return frozenset().union(*(each.did() for each in ran)), frozenset().union(*(each.opened() for each in ran))


def judge_deeds(ran: Ran, base: Path) -> None:
    """Nothing imported, started, compiled or connected, and no file opened outside `base`, beyond the usual."""
    did, opened = usual()
    assert ran.did() <= did, ran.did() - did
    assert not ran.imported(), ran.imported()
    here = re.compile(rf"{re.escape(str(base))}(/|$)|[^/]")  # the rest is relative, to a folder in `base`
    above = {str(folder) for folder in base.parents}  # whose entries are brought to the disk
    strange = {path for path in ran.opened() - opened - above if not here.match(path) and not _is_known(path)}
    assert strange == set()


def refused(base: Path, path: Path | str, code: int, *words: str) -> None:
    """`convert`, `run` and the library refuse a model alike, with these words, and nothing else happens.

    path: below `base / "in"`, or relative to it.
    """
    inputs = base / "in"
    before, target = Tree.of(inputs), base / "out" / "o.gguf"
    target.parent.mkdir(exist_ok=True)
    usual()
    for command in (
        ("convert", str(path), "--quant", "q8_0", "--threads", "1", "-o", str(target)),
        ("run", str(path), "hi", "-n", "2"),
        ("open", str(path)),
    ):
        ran = run(base, *command, cwd=inputs)
        judge(ran, code, *words)
        judge_deeds(ran, base)
        assert Tree.of(inputs) == before, ran
        assert [*target.parent.iterdir(), *base.glob("home/**/*.*")] == [], ran


def _is_known(path: str) -> bool:
    """Whether it is the shipped manifests, or what the kernel says of the process itself."""
    return path.startswith(("/proc/", "/sys/", str(ROOT / "manifests")))


@dataclass(frozen=True)
class Tree:
    """Everything below a folder: kind, mode, time of modification, bytes or where a link leads."""

    entries: Mapping[str, tuple[int, int, str]]

    @staticmethod
    def of(folder: Path) -> Tree:
        found = {}
        for path in (folder, *sorted(folder.rglob("*"))):
            status = path.lstat()
            content = ""
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest() if status.st_size < 64 * MIB else "large"
            elif stat.S_ISLNK(status.st_mode):
                content = str(path.readlink())
            found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
        return Tree(found)


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


# From here on, the machine's own process.


def _serve() -> None:
    from distro import cli

    for name in ("torch", "libtorrent", *(f"distro.cli.{command}" for command in cli._COMMANDS)):
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        if "load" in request:
            for name in request["load"]:
                importlib.import_module(name)
            gc.freeze()  # a child that collects garbage would copy every page
            print("{}", flush=True)
            continue
        began = _resident()
        child = os.fork()
        if child == 0:
            _become(request)
            _go(cli, request["arguments"])
        code, usage, hung = _wait(child)
        answer = {
            "code": code,
            "hung": hung,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "memory": max(0, usage.ru_maxrss * 1024 - began),
        }
        print(json.dumps(answer), flush=True)


def _wait(child: int) -> tuple[int, resource.struct_rusage, bool]:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), usage, False
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return os.waitstatus_to_exitcode(status), usage, True
        time.sleep(0.002)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _virtual() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _become(request: dict[str, Any]) -> None:
    streams = Path(request["streams"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    events = os.open(streams / "events", flags, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(request["stdout"], flags, 0o600), 1)
    os.dup2(os.open(streams / "err", flags, 0o600), 2)
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    # What may be mapped on top; far more than may be used, for every thread maps 8 MiB of stack and 64 of heap.
    resource.setrlimit(resource.RLIMIT_AS, (_virtual() + 1024 * MIB, resource.RLIM_INFINITY))
    if request["nobody"]:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    sys.addaudithook(functools.partial(_note, events))


def _note(descriptor: int, event: str, arguments: tuple[object, ...]) -> None:
    if not event.startswith(_WATCHED):
        return
    first = arguments[0] if arguments else ""
    if isinstance(first, bytes):
        first = os.fsdecode(first)
    if event == "compile" and isinstance(first, str):
        first = f"{arguments[1]}: {first[:200]}"
    if event == "exec":
        first = f"{getattr(first, 'co_filename', '')}: {getattr(first, 'co_names', '')}"
    os.write(descriptor, (json.dumps([event, str(first)]) + "\n").encode())


def _go(cli: Any, arguments: list[str]) -> None:
    code = 1
    try:
        sys.argv = ["distro", *arguments]
        if arguments[0] == "open":
            _open_checkpoint(arguments[1])
        else:
            cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException as error:
        print(f"Traceback of {error!r}", file=sys.stderr)
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            code = 120  # as Python itself
        os._exit(code)


def _open_checkpoint(path: str) -> None:
    from converters.formats import open_checkpoint
    from distro.errors import exit_code

    try:
        open_checkpoint(Path(path)).close()
    except Exception as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(exit_code(error))


def open_to_all(base: Path) -> None:
    """Let another user read and write below a folder of pytest's."""
    for folder in (base, base / "in", base / "out", base / "streams"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
    for folder in base.parents:
        if folder.stat().st_uid == os.getuid() and folder.name.startswith(("pytest-", "popen-gw")):  # and xdist's
            folder.chmod(folder.stat().st_mode | 0o055)


if __name__ == "__main__":
    _serve()
