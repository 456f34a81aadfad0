"""Calls that fail, kills, bits that flip: the right exit code, no name without proof, and the next run ends it."""

from __future__ import annotations

import errno
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distro.errors import WrongBytesError
from distro.partial import Partial
from distro.sources import retry
from tests.fakes import crash_commands, failed_calls, faults
from tests.fakes.crash import Bad, record
from tests.fakes.crash_commands import SHARD, WEIGHTS, Command
from tests.fakes.failed_calls import Failing
from tests.fakes.faults import Fault
from tests.fakes.killed_calls import NoStraceError, kill_at
from tests.fakes.recorder import Recorder

NAMES = [command.name for command in crash_commands.LOCAL] + ["fetch-http"]


@pytest.fixture
def commands() -> Iterator[dict[str, Command]]:
    with crash_commands.commands() as known:
        yield known


@pytest.mark.parametrize("name", NAMES)
def test_any_call_may_fail_and_any_may_be_the_last(name: str, commands: dict[str, Command], tmp_path: Path) -> None:
    """A sample; `python -m tests.fakes.faults` tries them all."""
    tested = record(commands[name], tmp_path / "x")
    chosen = random.Random(3).sample(list(faults.faults_of(tested)), 16)
    for fault in chosen:
        assert faults.try_out(tested, fault), fault


@pytest.mark.parametrize("name", ["fetch-http", "convert-file"])
def test_what_an_fsync_could_not_bring_to_the_disk_is_not_believed(
    name: str, commands: dict[str, Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says EIO once, and by that the system has forgotten the bytes; the next one says that all is well."""
    tested = record(commands[name], tmp_path / "x")
    failures = [fault for fault in faults.faults_of(tested) if _is_eio_of_fsync(fault)]
    assert len(failures) >= 3
    ends = [faults.try_out(tested, fault) for fault in failures]
    assert set(ends) - {"done"} == {"exit 74"}  # done: a lock can be done without
    # Were it not for the read from the disk, one could not tell.
    monkeypatch.setattr(Recorder, "posix_fadvise", lambda *_: None)
    with pytest.raises(Bad, match="power cut when it had been done at last"):
        for fault in failures:
            faults.try_out(tested, fault)


def _is_eio_of_fsync(fault: Fault) -> bool:
    failure = fault.failure
    return failure is not None and (failure.kind, failure.errno, failure.times) == ("fsync", errno.EIO, 1)


@pytest.mark.parametrize("name", ["fetch-http", "fetch-copy"])
@pytest.mark.parametrize("at", [5, len(WEIGHTS) - 1])
def test_a_bit_that_the_disk_flips_is_never_published(
    name: str, at: int, commands: dict[str, Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, flipped = Partial.write_at, list[int]()

    def write_at(self: Partial, offset: int, data: bytes | memoryview) -> None:
        real(self, offset, data)
        if offset <= at < offset + len(data) and not flipped:
            flipped.append(offset)
            with self.path.open("r+b") as stream:
                stream.seek(at)
                stream.write(bytes([data[at - offset] ^ 0x10]))

    monkeypatch.setattr(Partial, "write_at", write_at)
    command, base = commands[name], tmp_path / "x"
    command.prepare(base)
    final = base / "root/home/models/m/v" / SHARD
    try:
        command.run(base)
    except WrongBytesError:
        assert not final.exists()
        command.run(base)
    assert flipped
    assert final.read_bytes() == WEIGHTS


@pytest.mark.skipif(sys.platform != "linux", reason="strace is Linux's")
@pytest.mark.parametrize("name", ["convert-store", "fetch-http", "repair"])
def test_a_kill_at_any_system_call(name: str, commands: dict[str, Command], tmp_path: Path) -> None:
    """A sample; `python -m tests.fakes.killed_calls` tries them one by one."""
    tested = record(commands[name], tmp_path / "x")
    try:
        assert [kill_at(tested, n) for n in (5, 40, 80)] == [True] * 3
    except NoStraceError as error:
        pytest.skip(str(error))


@pytest.mark.skipif(sys.platform != "linux", reason="strace is Linux's")
@pytest.mark.parametrize(
    ("failing", "ended"),
    [
        (Failing("fsync", "EIO", 1, lasts=True), "exit 74"),
        (Failing("pwrite64", "EDQUOT", 2, lasts=True), "exit 80"),
        (Failing("recvfrom", "ECONNRESET", 1, lasts=False), "exit 0"),
        (Failing("connect", "ENETUNREACH", 1, lasts=True), "exit 75"),
    ],
    ids=str,
)
def test_a_system_call_that_fails(
    failing: Failing, ended: str, commands: dict[str, Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample; `python -m tests.fakes.failed_calls` tries them one by one."""
    monkeypatch.setattr(retry, "wait_s", lambda n_failed, error: 0.0)
    tested = record(commands["fetch-many"], tmp_path / "x")
    try:
        assert failed_calls.try_out(tested, failing) == ended
    except NoStraceError as error:
        pytest.skip(str(error))
