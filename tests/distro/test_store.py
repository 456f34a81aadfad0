"""The store: part files that outlive their writers, names that appear only when all is on the disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distro import disk
from distro.errors import CannotCreateError, DiskFullError, DistroError, MalformedManifestError, StorageError, exit_code
from distro.manifest import File
from distro.owner import CLAIMS, Owner
from distro.receipt import Entry, Receipt
from distro.store import Store

FILE = File("sub/weights.bin", 11, sha256="ab" * 32)
RECEIPT = Receipt("m", "v", "gguf", {"sub/weights.bin": Entry("ab" * 32, 11, "test", "2026-01-31T12:00:00Z")})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def _in_another_process(code: str, home: Path) -> None:
    """Run some lines with a store at hand, and die as by `kill -9`."""
    lines = [
        "import os, signal, pathlib", "from distro.store import Store", "from distro.manifest import File",
        f"store, file = Store(pathlib.Path({str(home)!r})), File('sub/weights.bin', 11, sha256='ab' * 32)",
        code, "os.kill(os.getpid(), signal.SIGKILL)",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr


# Part files


def test_a_part_file_is_found_again_after_a_kill(store: Store) -> None:
    _in_another_process("store.partial('m', 'v', file).append(b'hello ')", store.home)
    assert store.received("m", "v", FILE) == 6
    with store.partial("m", "v", FILE) as partial:
        assert partial.size == 6
        partial.append(b"world")
        assert partial.path.read_bytes() == b"hello world"
    assert len(list(store.home.glob("partial/*.part"))) == 1


def test_a_swarms_data_takes_room_but_not_for_its_holes(store: Store) -> None:
    area = store.home / "partial" / f"sha256-{'ab' * 32}.swarm"
    area.mkdir(parents=True)
    with (area / "data").open("wb") as data:
        data.truncate(100_000_000)
        data.seek(50_000_000)
        data.write(b"x" * 1_000_000)

    assert store.received("m", "v", FILE) == 0
    assert 1_000_000 <= store.occupied("m", "v", FILE) < 1_200_000


def test_a_part_file_that_is_being_written_is_nobody_elses(store: Store) -> None:
    with store.partial("m", "v", FILE) as first, store.partial("m", "v", FILE) as second:
        first.append(b"one")
        second.append(b"three")
        assert first.path != second.path
        assert (first.path.read_bytes(), second.path.read_bytes()) == (b"one", b"three")
    with store.partial("m", "v", FILE) as longest:
        assert longest.path.read_bytes() == b"three"


def test_a_live_process_keeps_its_part_file(store: Store) -> None:
    code = (
        "import sys, pathlib, time\nfrom distro.store import Store\nfrom distro.manifest import File\n"
        f"file, store = File('sub/weights.bin', 11, sha256='ab' * 32), Store(pathlib.Path({str(store.home)!r}))\n"
        "p = store.partial('m', 'v', file)\np.append(b'hello')\nprint('ready', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        with store.partial("m", "v", FILE) as ours:
            assert ours.size == 0
        assert store.collect() == 0
        other.communicate(b"")
    assert store.collect() == 5


def test_another_machines_part_file_is_copied_and_not_taken(store: Store) -> None:
    with store.partial("m", "v", FILE) as partial:
        partial.append(b"hello")
    theirs = partial.path.with_name(partial.path.name.replace(str(Owner.this_process()), "00000000-1-1"))
    partial.path.rename(theirs)
    with store.partial("m", "v", FILE) as ours:
        assert ours.path.read_bytes() == b"hello"
        ours.append(b" world")
    assert theirs.read_bytes() == b"hello"
    os.utime(theirs, (0, 0))
    ours.path.unlink()
    with store.partial("m", "v", FILE) as again:
        assert again.size == 5
    assert not theirs.exists()  # untouched for an hour: given up


def test_another_digest_is_another_part_file(store: Store) -> None:
    with store.partial("m", "v", FILE) as partial:
        partial.append(b"hello")
    with store.partial("m", "v", File(FILE.path, 11, sha256="cd" * 32)) as other:
        assert other.size == 0
    with store.partial("another", "model", File("same.bin", 11, sha256="ab" * 32)) as same:
        assert same.size == 5  # the same content, wherever it belongs


def test_an_empty_part_file_leaves_nothing_behind(store: Store) -> None:
    with store.partial("m", "v", FILE):
        pass
    assert list(store.home.glob("partial/*")) == []


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("/etc/passwd"), os.mkfifo])
def test_what_only_looks_like_a_part_file_is_let_be(store: Store, make: Callable[[Path], None]) -> None:
    trap = store.home / "partial" / f"sha256-{FILE.sha256}.{CLAIMS.new_suffix()}.part"
    trap.parent.mkdir(parents=True)
    make(trap)
    with store.partial("m", "v", FILE) as partial:
        assert partial.size == 0
        assert partial.path != trap


def test_part_files_are_for_us_alone(store: Store) -> None:
    with store.partial("m", "v", FILE) as partial:
        partial.append(b"x")
        assert partial.path.stat().st_mode & 0o777 == 0o600
        assert partial.path.parent.stat().st_mode & 0o777 == 0o700


def test_adopt_clone_restart_and_quarantine(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "elsewhere"
    with store.partial("m", "v", FILE) as partial:
        source.write_bytes(b"other bytes")
        seen: list[int] = []
        partial.clone(source, seen.append)
        assert (partial.size, sum(seen), source.read_bytes()) == (11, 11, b"other bytes")
        partial.restart()
        assert (partial.size, partial.path.read_bytes()) == (0, b"")
        partial.adopt(source)
        assert (partial.size, source.exists()) == (11, False)
        aside = partial.quarantine()
        assert (partial.size, aside.read_bytes()) == (0, b"other bytes")
        partial.append(b"new")
        assert aside.read_bytes() == b"other bytes"
        with pytest.raises(FileNotFoundError):
            partial.clone(tmp_path / "none")
        with pytest.raises(OSError, match="not a regular file"):
            partial.clone(tmp_path)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="not a regular file"):  # at once: a pipe is not waited for
            partial.clone(tmp_path / "pipe")


# The order


class Recorder:
    """The calls that make things last, in order, by the names of the files concerned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        fsync, replace = os.fsync, os.replace

        def recorded_fsync(descriptor: int) -> None:
            fsync(descriptor)
            self.calls.append(f"fsync {_shape(Path(f'/proc/self/fd/{descriptor}').readlink())}")

        def recorded_replace(source: Path, target: Path, **options: int) -> None:
            replace(source, target, **options)
            self.calls.append(f"rename {_shape(source)} to {_shape(target)}")

        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(os, "replace", recorded_replace)


def _shape(path: object) -> str:
    """The last name of a path, without what differs from run to run."""
    name = Path(str(path)).name
    for suffix in (".part", ".gguf"):
        if name.endswith(suffix) and name != "out.gguf":
            return f"*{suffix}"
    return "made" if name.startswith((".out", "made-")) else "receipt part" if name.startswith(".receipt") else name


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc names open files")
def test_publish_syncs_the_file_then_renames_then_syncs_the_folder(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.folder("m", "v")
    with store.partial("m", "v", FILE) as partial:
        partial.append(b"hello world")
        disk.make_folder(folder / "sub")
        recorder = Recorder(monkeypatch)
        partial.publish(folder / FILE.path, within=folder)
    assert recorder.calls == ["fsync *.part", "rename *.part to weights.bin", "fsync sub"]
    assert (folder / FILE.path).read_bytes() == b"hello world"
    assert list(store.home.glob("partial/*")) == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc names open files")
def test_a_new_folder_is_synced_into_its_parent_before_it_is_used(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.partial("m", "v", FILE) as partial:
        partial.append(b"hello world")
        recorder = Recorder(monkeypatch)
        partial.publish(store.folder("m", "v") / FILE.path, within=store.folder("m", "v"))
    assert recorder.calls == [
        "fsync *.part", "fsync home", "fsync models", "fsync m", "fsync v", "rename *.part to weights.bin", "fsync sub",
    ]  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc names open files")
def test_a_result_is_synced_whole_before_it_is_renamed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.result(tmp_path / "out") as result:
        result.create("a.json", 2).write_at(0, b"{}")
        result.create("deep/b.bin", 3).write_at(0, b"abc")
        recorder = Recorder(monkeypatch)
        result.publish()
    assert recorder.calls == [
        "fsync a.json", "fsync b.bin", "fsync deep", "fsync made", "rename made to out", f"fsync {tmp_path.name}",
    ]  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc names open files")
def test_a_receipt_is_written_beside_and_renamed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.make_folder(store.folder("m", "v"))
    recorder = Recorder(monkeypatch)
    store.write_receipt(RECEIPT)
    assert recorder.calls == ["fsync receipt part", "rename receipt part to receipt.json", "fsync v"]


def test_a_failed_fsync_leaves_no_final_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    final = store.folder("m", "v") / FILE.path

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with store.partial("m", "v", FILE) as partial:
        partial.append(b"hello world")
        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(StorageError) as caught:
            partial.publish(final)
    assert exit_code(caught.value) == 74
    assert not final.exists()


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [(errno.ENOSPC, DiskFullError, 80), (errno.EDQUOT, DiskFullError, 80), (errno.EIO, StorageError, 74),
     (errno.EROFS, CannotCreateError, 73), (errno.EFBIG, CannotCreateError, 73)],
)  # fmt: skip
def test_a_disk_that_refuses(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int, error: type[DistroError], code: int
) -> None:
    def broken(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with store.partial("m", "v", FILE) as partial:
        partial.append(b"hello")
        with monkeypatch.context() as patch, pytest.raises(error) as caught:
            patch.setattr(os, "pwrite", broken)
            partial.append(b" world")
        assert exit_code(caught.value) == code
        assert partial.path.read_bytes() == b"hello"  # what was written is kept
        partial.append(b" world")  # and it goes on
        assert partial.path.read_bytes() == b"hello world"


def test_short_writes_are_finished(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, data[:1], offset))
    with store.partial("m", "v", FILE) as partial:
        partial.append(b"hello world")
        assert partial.path.read_bytes() == b"hello world"


# Final names


def _publish(store: Store, final: Path, within: Path) -> None:
    with store.partial("m", "v", FILE) as partial:
        partial.append(b"hello world")
        partial.publish(final, within=within)


def test_a_file_of_that_name_is_replaced_and_its_other_name_is_not(store: Store, tmp_path: Path) -> None:
    folder = store.folder("m", "v")
    folder.mkdir(parents=True)
    (folder / "x").write_bytes(b"before")
    (tmp_path / "other").hardlink_to(folder / "x")
    _publish(store, folder / "x", folder)
    assert ((folder / "x").read_bytes(), (tmp_path / "other").read_bytes()) == (b"hello world", b"before")


def test_a_link_of_that_name_is_replaced_and_not_followed(store: Store, tmp_path: Path) -> None:
    folder = store.folder("m", "v")
    folder.mkdir(parents=True)
    (tmp_path / "precious").write_bytes(b"before")
    (folder / "x").symlink_to(tmp_path / "precious")
    _publish(store, folder / "x", folder)
    assert (tmp_path / "precious").read_bytes() == b"before"
    assert (folder / "x").read_bytes() == b"hello world"
    assert not (folder / "x").is_symlink()


def test_a_folder_that_is_a_link_is_not_followed(store: Store, tmp_path: Path) -> None:
    folder = store.folder("m", "v")
    folder.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (folder / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(CannotCreateError):
        _publish(store, folder / "sub" / "x", folder)
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo])
def test_a_name_that_is_taken_by_no_file_is_73(store: Store, make: Callable[[Path], None]) -> None:
    folder = store.folder("m", "v")
    folder.mkdir(parents=True)
    make(folder / "x")
    with pytest.raises(CannotCreateError) as caught:
        _publish(store, folder / "x", folder)
    assert exit_code(caught.value) == 73


def test_the_home_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "home").write_bytes(b"")
    with pytest.raises(CannotCreateError):
        Store(tmp_path / "home").partial("m", "v", FILE)
    assert (tmp_path / "home").stat().st_mode & 0o777 != 0o700  # nor was it touched


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a\0b", "x" * 201])
def test_names_that_are_no_folder(store: Store, name: str) -> None:
    with pytest.raises(MalformedManifestError):
        store.folder(name, "v")
    with pytest.raises(MalformedManifestError):
        store.folder("m", name)


def test_variants_are_what_has_a_sound_receipt(store: Store) -> None:
    store.write_receipt(RECEIPT)
    store.write_receipt(Receipt("owner/model", "abc", "gguf", {}))
    (store.home / "models" / "m" / "no-receipt").mkdir()
    broken = store.home / "models" / "m" / "broken"
    broken.mkdir()
    (broken / "receipt.json").write_text("{}")
    moved = store.home / "models" / "m" / "moved"
    moved.mkdir()
    (moved / "receipt.json").write_bytes(RECEIPT.to_bytes())
    assert list(store.variants()) == [("m", "v"), ("owner/model", "abc")]
    assert store.receipt("m", "v") == RECEIPT
    assert store.receipt("m", "none") is None
    with pytest.raises(MalformedManifestError):
        store.receipt("m", "broken")


def test_remove_frees_the_variant_and_what_was_arriving(store: Store) -> None:
    store.write_receipt(RECEIPT)
    size = len(RECEIPT.to_bytes())
    with store.partial("m", "v", FILE) as partial:
        partial.append(b"hello")
    (store.work("index:x==1/y") / "wheel").write_bytes(b"123")
    assert store.remove("m", "v", (FILE,), ("index:x==1/y",)) == size + 5 + 3
    assert list(store.variants()) == []
    assert not (store.home / "models" / "m").exists()
    assert store.remove("m", "v", (FILE,)) == 0


def test_collect_frees_what_no_living_process_writes(store: Store, tmp_path: Path) -> None:
    _in_another_process("store.partial('m', 'v', file).append(b'hello')", store.home)
    _in_another_process("store.result(store.folder('m', 'v')).create('x', 3).write_at(0, b'abc')", store.home)
    (store.home / "partial" / "sha256-x.wrong").write_bytes(b"1234567")
    (store.work("index:x==1/y") / "wheel").write_bytes(b"12")
    with store.partial("other", "v", File("y", 4)) as live:
        live.append(b"live")
        with store.lock("other", "v"):
            assert store.collect() == 5 + 3 + 7  # the wheel may be in use
        assert store.collect() == 2
        assert live.path.read_bytes() == b"live"


# Locks


def test_the_lock_is_held_by_one_at_a_time(store: Store) -> None:
    order: list[str] = []

    def second() -> None:
        with store.lock("m", "v", waiting=lambda: order.append("waits")):
            order.append("second")

    thread = threading.Thread(target=second)
    with store.lock("m", "v"):
        thread.start()
        while not order:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["waits", "first", "second"]


def test_a_lock_whose_holder_does_nothing_for_long_is_waited_for_no_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distro.store._WAIT_S", 0.05)
    monkeypatch.setattr("distro.store._DESERTED_S", 0.3)
    began = time.monotonic()
    with store.lock("m", "v"), store.lock("m", "v"):
        assert 0.3 <= time.monotonic() - began < 5
    with store.partial("m", "v", FILE) as partial:
        partial.append(b"hello")
        os.utime(partial.path, (time.time() + 1, time.time() + 1))  # it is being written for another second
        with store.lock("m", "v"), store.lock("m", "v"):
            assert time.monotonic() - began > 1


def test_a_lock_that_does_nothing_stops_nobody(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    def unsupported(*_: object, **__: object) -> None:
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(filelock.FileLock, "acquire", unsupported)
    with store.lock("m", "v"), store.partial("m", "v", FILE) as one, store.partial("m", "v", FILE) as two:
        assert one.path != two.path


# Results


def test_a_result_appears_whole_or_not_at_all(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(RuntimeError), store.result(target) as result:
        result.create("a.bin", 3).write_at(0, b"abc")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with store.result(target) as result:
        output = result.create("deep/a.bin", 6)
        output.write_at(3, memoryview(b"def"))
        output.write_at(0, bytearray(b"abc"))
        assert not target.exists()
        result.publish()
    assert (target / "deep" / "a.bin").read_bytes() == b"abcdef"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_result_may_be_one_file(store: Store, tmp_path: Path) -> None:
    with store.result(tmp_path / "new" / "model.gguf", single_file=True) as result:
        result.create("ignored", 4).write_at(0, b"GGUF")
        with pytest.raises(ValueError, match="one file"):
            result.create("second", 1)
        result.publish()
    assert (tmp_path / "new" / "model.gguf").read_bytes() == b"GGUF"


def test_a_result_of_the_store(store: Store) -> None:
    with store.result(store.folder("m", "v")) as result:
        result.create("a", 1).write_at(0, b"a")
        assert result.path.parent == store.home / "partial"
        assert result.path.stat().st_mode & 0o777 == 0o700
        result.publish()
    assert (store.folder("m", "v") / "a").read_bytes() == b"a"


def test_what_is_there_stays_until_it_is_replaced(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_bytes(b"old")
    with pytest.raises(CannotCreateError, match="is there already"):
        store.result(target)
    with store.result(target, replace=True) as result:
        result.create("new", 1).write_at(0, b"n")
        assert (target / "old").exists()
        result.publish()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_target_that_came_meanwhile_is_not_replaced(store: Store, tmp_path: Path) -> None:
    with store.result(tmp_path / "out.gguf", single_file=True) as result:
        result.create("x", 1)
        (tmp_path / "out.gguf").write_bytes(b"precious")
        with pytest.raises(CannotCreateError):
            result.publish()
    assert (tmp_path / "out.gguf").read_bytes() == b"precious"


def test_an_empty_folder_is_no_obstacle_and_a_file_or_link_is(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with store.result(tmp_path / "empty") as result:
        result.create("x", 0)
        result.publish()
    assert (tmp_path / "empty" / "x").exists()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("file", "link"):
        with pytest.raises(CannotCreateError):
            store.result(tmp_path / name, replace=True)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", ""])
def test_paths_of_a_result_stay_inside(store: Store, tmp_path: Path, path: str) -> None:
    with store.result(tmp_path / "out") as result, pytest.raises(ValueError):
        result.create(path, 1)


def test_writes_beyond_an_output_are_our_bug(store: Store, tmp_path: Path) -> None:
    with store.result(tmp_path / "out") as result:
        output = result.create("x", 4)
        for offset, data in ((-1, b"x"), (4, b"x"), (0, b"12345")):
            with pytest.raises(ValueError, match="in a file of 4"):
                output.write_at(offset, data)


def test_a_result_too_large_for_the_disk_is_refused_before_it_is_written(store: Store, tmp_path: Path) -> None:
    with store.result(tmp_path / "out") as result:
        with pytest.raises(DiskFullError) as caught:
            result.create("x", 2**62)
        assert exit_code(caught.value) == 80
        assert "missing" in str(caught.value)
        result.create("y", 10)


def test_what_a_killed_run_made_beside_its_target_is_cleared_by_the_next(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "out"
    _in_another_process(f"store.result(pathlib.Path({str(target)!r})).create('x', 3)", store.home)
    assert len(list(tmp_path.glob(".out.*"))) == 1
    with store.result(target) as result:
        result.create("x", 1)
        result.publish()
    assert list(tmp_path.glob(".out.*")) == []


# Owners


def test_an_owner_is_alive_dead_or_unknown() -> None:
    us = Owner.this_process()
    assert not us.is_surely_dead()
    assert Owner(us.place, us.pid, us.start + 1).is_surely_dead()  # the number was given to another process
    assert not Owner("00000000", 1, 1).is_surely_dead()  # another machine: who knows
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
        assert Owner(us.place, child.pid, 1).is_surely_dead()


@pytest.mark.parametrize("name", ["x.part", "x.1-2-3-4.part", "x.00000000-a-1-1.part", "", "."])
def test_names_that_tell_no_owner(name: str) -> None:
    assert Owner.of(Path("/partial") / name) is None
