"""What a power cut may leave of a command, and what the same command then makes of it.

    python -m tests.fakes.crash [COMMAND …] [--states N] [--seed S]

A command is recorded (tests/fakes/recorder.py). After any of its operations the power goes, and of what was not synced
anything may be on the disk or not (Pillai et al., All File Systems Are Not Created Equal, OSDI 2014):

- names (made, given, taken away) in a folder that was not synced: none of them, all, those of the first so many
  operations of the whole file system, as journals keep them, or any, in whatever order the file system pleases;
- data of a file that was not synced: none, all, any of its sectors of 512 or 4096 bytes, or zeros and the new length.

Each state is made as files, judged, and given to the same command, which is sometimes killed once more; what it ends in
is judged too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from distro import disk
from distro.errors import MalformedManifestError
from distro.owner import CLAIMS
from distro.receipt import Receipt
from tests.fakes.crash_commands import REFUSED, Command, commands
from tests.fakes.recorder import (
    ROOT,
    Died,
    Mode,
    Name,
    Operation,
    Recorder,
    Remove,
    Rename,
    Sync,
    Truncate,
    Write,
    content_of,
    is_watching,
    never_written,
)

_PAGE = 4096
_KILLED_AGAIN = 0.25  # how often a kill follows upon the power cut
IN_MEMORY = Path("/dev/shm")  # noqa: S108  a folder with a random name is made in it
_OF_A_PROCESS = re.compile(r"[0-9a-f]{8}-\d+-\d+-\d+|[0-9a-f]{32}(?=$|,)")


class Names(StrEnum):
    """Which of the names that were not synced are there."""

    NONE = "none"
    ALL = "all"
    FIRST = "first"
    ANY = "any"


class Data(StrEnum):
    """What is there of the data that were not synced. MIXED: one of the others for each file."""

    NONE = "none"
    ALL = "all"
    TORN_512 = "torn at 512"
    TORN_4096 = "torn at 4096"
    ZEROS = "zeros"
    MIXED = "mixed"


@dataclass(frozen=True)
class Cut:
    """One power cut: after so many operations; seed: of whatever is left to chance."""

    n: int
    names: Names
    data: Data
    seed: int


@dataclass(frozen=True)
class Left:
    """A file that is left. is_dense: whether its zeros take room on the disk, so that it has no holes."""

    node: int
    mode: int
    content: bytes = field(repr=False)
    is_dense: bool = False


@dataclass
class State:
    """What is on the disk after a cut: folders with their modes, files, by path below the root."""

    folders: dict[str, int]
    files: dict[str, Left]

    @property
    def key(self) -> bytes:
        """The same for the same bytes under the same names."""
        hasher = hashlib.sha256()
        for path in sorted(self.folders):
            hasher.update(f"{path}/\n".encode("utf-8", "surrogateescape"))
        for path, left in sorted(self.files.items()):
            hasher.update(f"{path} {left.is_dense} ".encode("utf-8", "surrogateescape"))
            hasher.update(hashlib.sha256(left.content).digest())
        return hasher.digest()


class States:
    """The states that one recorded run can leave."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self.log = recorder, list(recorder.log)
        self._lost = never_written(self.log)
        self._of: dict[int, list[int]] = {}  # places of what changed a file's data, by node
        for place, operation in enumerate(self.log):
            if isinstance(operation, (Write, Truncate)):
                self._of.setdefault(operation.node, []).append(place)
        self._known: dict[tuple[int, int, int, Data], tuple[bytes, bool]] = {}

    def after(self, cut: Cut) -> State:
        noise = random.Random(f"{cut.n} {cut.names} {cut.data} {cut.seed}")
        synced = {op.node: place for place, op in enumerate(self.log[: cut.n]) if isinstance(op, Sync)}
        modes = {number: node.mode for number, node in enumerate(self._recorder.nodes)}
        modes |= {op.node: op.mode for op in self.log[: cut.n] if isinstance(op, Mode)}
        names: dict[int, dict[str, int]] = {}
        for name in self._recorder.start:
            names.setdefault(name.folder, {})[name.name] = name.node
        for operation in self._names(cut, synced, noise):
            match operation:
                case Name(folder, name, node):
                    names.setdefault(folder, {})[name] = node
                case Rename(folder, name, to_folder, to_name, node):
                    if names.get(folder, {}).get(name) == node:
                        del names[folder][name]
                    names.setdefault(to_folder, {})[to_name] = node
                case Remove(folder, name):
                    names.get(folder, {}).pop(name, None)
        state, contents = State({}, {}), dict[int, tuple[bytes, bool]]()
        pending = [(ROOT, "")]
        while pending:
            folder, path = pending.pop()
            for name, node in sorted(names.get(folder, {}).items()):
                if self._recorder.nodes[node].is_folder:
                    state.folders[path + name] = modes[node]
                    pending.append((node, f"{path}{name}/"))
                else:
                    if node not in contents:
                        contents[node] = self._content(node, cut, synced.get(node, -1), noise)
                    content, is_dense = contents[node]
                    state.files[path + name] = Left(node, modes[node], content, is_dense)
        return state

    def _names(self, cut: Cut, synced: Mapping[int, int], noise: random.Random) -> list[Operation]:
        share = noise.choice((0.2, 0.5, 0.8))
        last = max(synced.values(), default=0)
        first = noise.randint(min(last, cut.n), cut.n)
        kept: list[Operation] = []
        for place, operation in enumerate(self.log[: cut.n]):
            match operation:
                case Name(folder) | Remove(folder):
                    is_safe = synced.get(folder, -1) > place
                case Rename(folder, _, to_folder):
                    is_safe = max(synced.get(folder, -1), synced.get(to_folder, -1)) > place
                case _:
                    continue
            chosen = {
                Names.NONE: lambda: False,
                Names.ALL: lambda: True,
                Names.FIRST: lambda place=place: place < first,  # type: ignore[misc]
                Names.ANY: lambda: noise.random() < share,
            }[cut.names]()
            if is_safe or chosen:
                kept.append(operation)
        return kept

    def _content(self, node: int, cut: Cut, synced: int, noise: random.Random) -> tuple[bytes, bool]:
        places = [place for place in self._of.get(node, ()) if place < cut.n]
        n_safe = sum(place < synced for place in places)
        kind = cut.data if cut.data != Data.MIXED else noise.choice(list(Data)[:-1])
        key = (node, n_safe, len(places), kind)
        if key not in self._known or kind in (Data.TORN_512, Data.TORN_4096):
            self._known[key] = self._made(node, places, n_safe, kind, noise)
        return self._known[key]

    def _made(self, node: int, places: list[int], n_safe: int, kind: Data, noise: random.Random) -> tuple[bytes, bool]:
        start = self._recorder.nodes[node].content
        safe = content_of(start, ((self.log[place], place not in self._lost) for place in places[:n_safe]))
        rest = places[n_safe:]
        if kind == Data.NONE or not rest:
            return safe, False
        if kind == Data.ALL:
            return content_of(safe, ((self.log[place], place not in self._lost) for place in rest)), False
        if kind == Data.ZEROS:  # over what was there and was synced, nothing is written until its place is known
            lengths = content_of(safe, ((self.log[place], False) for place in rest))
            return lengths, True
        sector = 512 if kind == Data.TORN_512 else _PAGE
        share = noise.choice((0.1, 0.5, 0.9))
        parts: list[tuple[Operation, bool]] = []
        for place in rest:
            operation = self.log[place]
            is_written = place not in self._lost
            if isinstance(operation, Write):
                parts += [(part, is_written) for part in _sectors(operation, sector) if noise.random() < share]
            elif noise.random() < 0.5:
                parts.append((operation, True))
        return content_of(safe, parts), False


def _sectors(write: Write, length: int) -> Iterator[Write]:
    """What a disk writes one by one."""
    offset, end = write.offset, write.offset + len(write.data)
    while offset < end:
        stop = min(end, (offset // length + 1) * length)
        yield Write(write.node, offset, write.data[offset - write.offset : stop - write.offset])
        offset = stop


# States as files, and files as snapshots


def make(state: State, root: Path, recorder: Recorder) -> dict[tuple[int, int], int]:
    """Put a state in the place of what is there. Gives the inodes that the files had, by device and inode now."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for path in sorted(state.folders):
        (root / path).mkdir()
    inodes = {}
    for path, left in state.files.items():
        descriptor = os.open(root / path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, len(left.content))
            for start in range(0, len(left.content), _PAGE):
                page = left.content[start : start + _PAGE]
                if left.is_dense or page.strip(b"\0"):
                    os.pwrite(descriptor, page, start)
            os.fchmod(descriptor, left.mode)
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        inodes[status.st_dev, status.st_ino] = recorder.nodes[left.node].inode
    for path in sorted(state.folders, reverse=True):
        (root / path).chmod(state.folders[path] | 0o700)
    return inodes


@contextmanager
def rebooted(inodes: Mapping[tuple[int, int], int]) -> Iterator[None]:
    """While this lasts, files have the inodes that they had, and nothing is synced unless somebody records that."""
    kept = {name: getattr(os, name) for name in ("stat", "lstat", "fstat", "fsync", "fdatasync")}

    def translated(call: Any) -> Any:
        def answer(*arguments: Any, **options: Any) -> os.stat_result:
            status = call(*arguments, **options)
            inode = inodes.get((status.st_dev, status.st_ino))
            if inode is None:
                return status  # type: ignore[no-any-return]
            named = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
            return os.stat_result((status[0], inode, *status[2:]), named)

        return answer

    CLAIMS._held.clear()  # of a process that is gone
    disk._settled.clear()
    for name in ("stat", "lstat", "fstat"):
        setattr(os, name, translated(kept[name]))
    if not is_watching():
        os.fsync = os.fdatasync = lambda descriptor: None
    try:
        yield
    finally:
        for name, call in kept.items():
            setattr(os, name, call)


def snapshot(root: Path) -> dict[str, bytes]:
    """All files below a folder; receipts without what another run does not repeat."""
    found = {}
    for path in root.rglob("*"):
        if path.is_file():
            found[str(path.relative_to(root))] = _timeless(path)
    return found


def _timeless(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name == "receipt.json":
        try:
            value = json.loads(data)
            for entry in value["files"].values():
                entry["time"] = entry["source"] = entry["pieces"] = ""
            return json.dumps(value, sort_keys=True).encode()
        except (ValueError, KeyError, TypeError, AttributeError):
            return data
    return data


def _is_passing(path: str) -> bool:
    """Whether a file is nobody's result, and documented.

    Locks, what was wrong, what was proven, lists of pieces; in the store also the list of blocks that a conversion had
    done when it was killed in its last moment, until `gc`.
    """
    parts = Path(path).parts
    is_journal = path.startswith("home/partial/made-") and path.endswith(".journal")
    return is_journal or "locks" in parts or parts[0] == "state" or path.endswith(".wrong") or ".pieces" in parts


# A command under test


class Bad(AssertionError):
    """A state, or what became of it, that must not be."""


@dataclass
class Tested:
    """One command, recorded once. before and after: what was there, and what is there when it is done.

    n_work: how much was done, as the command counts it.
    """

    command: Command
    base: Path
    recorder: Recorder
    states: States
    before: dict[str, bytes]
    after: dict[str, bytes]
    n_work: int

    @property
    def root(self) -> Path:
        return self.base / "root"

    def judge(self, *, is_done: bool) -> None:
        """The state as it is found: no name of a result with other bytes than those of before or after.

        is_done: the command had said that it was.
        """
        for path, expected in self.after.items():
            if _is_passing(path) or "partial" in path:
                continue
            place = self.root / path
            if not place.exists():
                if is_done:
                    raise Bad(f"{path}: was done, and is gone")
                has_another_name = not place.parent.exists() and self._is_whole_somewhere()
                if path in self.before and not (self.command.may_vanish and has_another_name):
                    raise Bad(f"{path}: was there before, and is gone")
                continue
            found = _timeless(place)
            if is_done and found != expected:
                raise Bad(f"{path}: was done, and is something else")
            if found not in (expected, self.before.get(path)) and not self.command.is_torn(place):
                if place.name == "receipt.json":  # which _judge_receipts holds against what is there
                    continue
                raise Bad(f"{path}: has bytes that it never was to have")
        for path in self.before.keys() - self.after.keys():
            if is_done and (self.root / path).exists() and not _is_passing(path) and "partial" not in path:
                raise Bad(f"{path}: was deleted, and is there again")
        self._judge_receipts()

    def _is_whole_somewhere(self) -> bool:
        """Whether all that was there, or all that is to be, is there under some name."""
        there = set(snapshot(self.root).values())
        return any(
            {content for path, content in wanted.items() if path.startswith("out/")} <= there
            for wanted in (self.before, self.after)
        )

    def _judge_receipts(self) -> None:
        for path in self.root.glob("home/models/*/*/receipt.json"):
            try:
                receipt = Receipt.read(path)
            except MalformedManifestError as error:
                raise Bad(f"a receipt that is torn: {error}") from error
            for name, entry in receipt.files.items() if receipt else ():
                file = path.parent / name
                title = str(file.relative_to(self.root))
                if self.before.get(title, self.after.get(title)) != self.after.get(title):
                    continue  # it was wrong before, which is why the command is run
                if not file.exists():
                    if self.command.discards:
                        continue
                    raise Bad(f"{path.relative_to(self.root)}: names {name}, which is not there")
                if hashlib.sha256(file.read_bytes()).hexdigest() != entry.sha256:
                    raise Bad(f"{path.relative_to(self.root)}: names {name}, which has other bytes")

    def recover(self, inodes: Mapping[tuple[int, int], int], *, after_kill: bool = False) -> bool:
        """The same command again, and what it ends in. Gives whether it says that this is done.

        after_kill: of a run that had nothing to do; what it wrote anew may wait for the next that writes it.
        """
        with rebooted(inodes):
            try:
                is_done = self.command.run(self.base) is not REFUSED
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                raise Bad(f"cannot go on: {error!r} ({Path(where.filename).name}:{where.lineno})") from error
        found = snapshot(self.root)
        for path in sorted(self.after):
            if _is_passing(path):
                continue
            if path not in found:
                raise Bad(f"{path}: is missing after the rerun")
            if found[path] != self.after[path]:
                raise Bad(f"{path}: has other bytes after the rerun")
        extra = {path for path in found.keys() - self.after.keys() if not _is_passing(path)}
        if left := sorted(path for path in extra if not (after_kill and "/.receipt.json." in path)):
            raise Bad(f"{', '.join(map(_nameless, left))}: left over after the rerun")
        return is_done

    def try_out(self, cut: Cut) -> bool:
        """Whether this state is a new one. Raises Bad."""
        state = self.states.after(cut)
        is_done = cut.n >= len(self.states.log)
        key = state.key + bytes([is_done])
        if key in self._seen:
            return False
        self._seen.add(key)
        inodes = make(state, self.root, self.recorder)
        self.judge(is_done=is_done)
        noise = random.Random(f"then {cut}")
        if after_kill := noise.random() < _KILLED_AGAIN:
            self._recover_up_to(noise.randrange(len(self.states.log) + 1), inodes)
        self.recover(inodes, after_kill=after_kill)
        return True

    def _recover_up_to(self, n: int, inodes: Mapping[tuple[int, int], int]) -> None:
        """The same command again, killed after so many operations."""
        recorder = Recorder(self.root)
        recorder.die_at = n
        with rebooted(inodes), recorder, suppress(Died):
            self.command.run(self.base)

    def __post_init__(self) -> None:
        self._seen: set[bytes] = set()


def _nameless(path: str) -> str:
    """A path without what is in it of this process."""
    return _OF_A_PROCESS.sub("*", path)


def record(command: Command, base: Path) -> Tested:
    """Run a command once, uninterrupted and watched. Raises AssertionError if anything was written unseen."""
    command.prepare(base)
    root = base / "root"
    before, recorder, n_done = snapshot(root), Recorder(root), command.n_done()
    with recorder:
        command.run(base)
    assert recorder.bypassed == [], recorder.bypassed
    states = States(recorder)
    whole = states.after(Cut(len(states.log), Names.ALL, Data.ALL, 0))
    there = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert {path: left.content for path, left in whole.files.items()} == there, "the log is not what happened"
    return Tested(command, base, recorder, states, before, snapshot(root), command.n_done() - n_done)


@dataclass
class Explored:
    """What came of many states. bad: the first cut with each message, and how many there were."""

    n_operations: int
    n_states: int = 0
    bad: dict[str, Cut] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


def explore(tested: Tested, n_states: int, seed: int, *, stops: bool = False) -> Explored:
    """Try different states until there were so many, or no more are found. stops: at the first that is bad."""
    noise, n_log = random.Random(seed), len(tested.states.log)
    explored, n_idle = Explored(n_log), 0
    whole = [(n, names, data) for n in range(n_log + 1) for names in Names for data in Data]
    noise.shuffle(whole)
    # What was done must stay done, whatever else is tried.
    whole.sort(key=lambda each: each[0] < n_log or each[1] in (Names.FIRST, Names.ANY))
    for turn in range(1_000_000):
        n, names, data = whole[turn % len(whole)]
        cut = Cut(n, names, data, seed + turn // len(whole))
        try:
            is_new = tested.try_out(cut)
        except Bad as bad:
            is_new = True
            message = str(bad)
            explored.counts[message] += 1
            if message not in explored.bad or explored.bad[message].n > cut.n:
                explored.bad[message] = cut
        explored.n_states += is_new
        n_idle = 0 if is_new else n_idle + 1
        if explored.n_states >= n_states or n_idle > 5 * len(whole) or (stops and explored.bad):
            break
    return explored


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.crash")
    parser.add_argument("command", nargs="*")
    parser.add_argument("--states", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    n_bad = 0
    with commands() as known:
        for name in options.command or known:
            with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as base:
                started = time.monotonic()
                explored = explore(record(known[name], Path(base) / "x"), options.states, options.seed)
            took = time.monotonic() - started
            print(
                f"{name}: {explored.n_operations} operations, {explored.n_states} states, "
                f"{sum(explored.counts.values())} bad, {took:.0f} s",
                flush=True,
            )
            for message, cut in explored.bad.items():
                print(f"  {explored.counts[message]} x {message}\n    first at {cut}", flush=True)
            n_bad += len(explored.bad)
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
