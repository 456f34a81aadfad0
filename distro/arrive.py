"""Converting while it arrives: the plan is made from headers, then each shard is converted as soon as it is proven.

    headers   ── read in parts from the source (distro/inspect/remote.py) ──► plan
    shards    ── fetched one after the other, each proven ──► blocks that were waiting for it ──► result
    discarded ── a shard whose blocks are all done may go, so that a release larger than the disk becomes a file

Shards are fetched in the order in which the blocks want them. A run that was killed knows from the journal which
blocks are done, and fetches none of the shards that only they needed.
"""

from __future__ import annotations

import bisect
import glob
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from converters.checkpoint import Checkpoint
from converters.convert import Journal, blocks_of
from converters.errors import RefusedError
from converters.fidelity import tensor_errors
from converters.formats import open_checkpoint
from converters.input_file import InputFile
from converters.plan import Plan
from converters.provenance import UNKNOWN
from converters.running_digest import short_digest
from converters.tensors import StoredTensor
from distro import disk, fetch
from distro.config import Settings
from distro.errors import StorageError
from distro.inspect.remote import remote_folder
from distro.inspect.remote_file import RemoteFile
from distro.manifest import File, Model, Variant
from distro.progress import Progress
from distro.store import Store
from distro.verify import strongest

# While one shard is converted the next one arrives.
_MOST_HERE = 2
# Formats in which a tensor lies in one file; in others a shard is needed to the end.
_ONE_FILE_A_TENSOR = ("safetensors", "pytorch", "gguf")


class Arrival:
    """The shards of one variant on their way, and who waits for them.

    discards: whether shards go when nobody needs them any more.
    """

    def __init__(
        self,
        settings: Settings,
        model: Model,
        variant: Variant,
        *,
        discards: bool,
        progress: Progress,
        peers: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.discards, self._peers = discards, peers
        self.has_begun = False
        self.origin = f"{model.name}:{variant.name}"
        self._settings, self._model, self._variant, self._progress = settings, model, variant, progress
        self._store = Store(settings.home)
        self._folder = self._store.folder(model.name, variant.name)
        self._changed = threading.Condition()
        self._ordered: list[str] = []  # still to be fetched, in order
        self._asked: set[str] = set()  # somebody waits for these now
        self._here: set[str] = set()  # proven, and not discarded yet
        self._failure: BaseException | None = None

    def begin(self, names: list[str], n_bytes: int, place: Path) -> None:
        """Fetch these, in this order; what others ask for comes in between.

        n_bytes: that the result still needs beside them, in `place`. Raises DiskFullError at once.
        """
        missing = sorted(self._missing(file) for file in self._variant.files if file.path in names)
        shards = sum(missing[-_MOST_HERE:] if self.discards else missing)
        with disk.told(self._folder):
            disk.make_folder(self._store.home)
            together = disk.device_of(place) == disk.device_of(self._store.home)
        disk.check_space(shards + n_bytes * together, self._folder)
        self._ordered, self.has_begun = list(names), True
        threading.Thread(target=self._run, name="fetch", daemon=True).start()

    def _missing(self, file: File) -> int:
        """Bytes of a file that are still to come."""
        if self._received(file.path) is not None and disk.length(self._folder / file.path) == file.size:
            return 0
        return max(0, (file.size or 0) - self._store.occupied(self._model.name, self._variant.name, file))

    def wait(self, name: str) -> Path:
        """Where a file is, as soon as it is proven. Raises what stopped the fetching."""
        with self._changed:
            while name not in self._here:
                if self._failure is not None:
                    raise self._failure
                self._asked.add(name)
                self._changed.notify_all()
                self._changed.wait()
            self._asked.discard(name)
            return self._folder / name

    def sha256(self, name: str) -> str:
        """Of a file, as it was proven when it came, in this run or an earlier one."""
        if self._received(name) is None:
            self.wait(name)
        return self._received(name) or UNKNOWN

    def _received(self, name: str) -> str | None:
        receipt = self._store.receipt(self._model.name, self._variant.name)
        return receipt.files[name].sha256 if receipt and name in receipt.files else None

    def release(self, name: str) -> None:
        """Nobody needs this file any more."""
        with self._changed:
            if self.discards and name in self._here:
                self._here.discard(name)
                with disk.told(self._folder / name):
                    (self._folder / name).unlink(missing_ok=True)
                self._changed.notify_all()

    def stop(self, why: BaseException | None = None) -> None:
        """Fetch no more; whoever waits is told why."""
        with self._changed:
            self._failure = self._failure or why or StorageError("the conversion was given up")
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while (name := self._next()) is not None:
                fetch.fetch(
                    self._settings, self._model, self._variant,
                    progress=self._progress, only=glob.escape(name), peers=self._peers,
                )  # fmt: skip
                with self._changed:
                    self._here.add(name)
                    self._changed.notify_all()
        except BaseException as error:  # told to those who wait, and raised in their threads
            self.stop(error)

    def _next(self) -> str | None:
        """The file to fetch now: one that somebody waits for, else the next in order as soon as there is room."""
        with self._changed:
            while self._failure is None:
                name = next((name for name in sorted(self._asked) if name not in self._here), None)
                if name is None and self._ordered and not (self.discards and len(self._here) >= _MOST_HERE):
                    name = self._ordered[0]
                if name is not None:
                    self._ordered = [each for each in self._ordered if each != name]
                    return name
                self._changed.wait()
            return None


class ArrivingFile(InputFile):
    """A shard: its header is read where it is, its weights when they have arrived."""

    def __init__(self, header: InputFile, file: File, arrival: Arrival) -> None:
        self.path, self.size, self.name, self.published = header.path, header.size, file.path, file.sha256
        # By what the publisher says of it, so that a run with another source knows it for the same.
        proof = strongest(file)
        self.identity = (header.size, 0, int(proof[1], 16)) if proof else header.identity
        self._header, self._arrival = header, arrival
        self._local: InputFile | None = None
        self._lock = threading.Lock()

    def _fill(self, view: memoryview, offset: int) -> None:
        if not self._arrival.has_begun:
            self._header._fill(view, offset)
            return
        with self._lock:
            if self._local is None:
                local = InputFile(self._arrival.wait(self.name))
                if isinstance(self._header, RemoteFile):
                    self._header.check_same(local)  # the plan was made from what nobody had proven
                self._local = local
            local = self._local
        local._fill(view, offset)

    def begin_digest(self, n_bytes: int = 0) -> None:
        """Nothing to do: it is hashed when it comes."""

    def finish_digest(self) -> str:
        """What was proven when it came; it is not read again."""
        return self.published or self._arrival.sha256(self.name)

    def let_go(self) -> None:
        """All that is made from it is made."""
        self.close()
        self._arrival.release(self.name)

    def check_unchanged(self) -> None:
        if self._local is not None:
            self._local.check_unchanged()

    def close(self) -> None:
        with self._lock:
            if self._local is not None:
                self._local.close()
                self._local = None


class ArrivingFeed:
    """What `derive` is fed with: begins the fetching, counts blocks, lets shards go.

    Where shards are discarded, each tensor of one is held against its result before.
    """

    def __init__(self, arrival: Arrival, checkpoint: Checkpoint) -> None:
        self._arrival, self._checkpoint = arrival, checkpoint
        self._files = {file.path.name: file for file in checkpoint.files if isinstance(file, ArrivingFile)}
        self._lock = threading.Lock()

    @property
    def origin(self) -> str:
        return self._arrival.origin

    @property
    def known(self) -> Mapping[str, str]:
        return {name: file.published for name, file in self._files.items() if file.published}

    def begin(self, journal: Journal, plan: Plan, path: Path) -> Journal:
        self._journal, self._plan, self._path = journal, plan, path
        # A shard goes when its blocks are done, so here it must be known of each of them before.
        self._done = self._borne_out() if self._arrival.discards else journal.done
        self._starts: list[int] = []
        self._shards: list[str] = []
        self._left: Counter[str] = Counter()
        for block in sorted(blocks_of(plan), key=lambda block: block.number):
            shard = block.work.input.position[0]
            if block.start == 0:
                self._starts.append(block.number)
                self._shards.append(shard)
            if block.number not in self._done:
                self._left[shard] += 1
        if self._checkpoint.format not in _ONE_FILE_A_TENSOR and self._left:
            self._left.update(dict.fromkeys(self._files, 1))  # one that never comes: all are needed to the end
        needed = [self._files[name].name for name in sorted(self._files) if self._left[name]]
        made = [path] if path.is_file() else path.rglob("*")
        n_bytes = max(0, plan.size - sum(map(disk.allocated, made)))
        self._arrival.begin(needed, n_bytes, path.parent)
        return self

    @property
    def done(self) -> Mapping[int, bytes]:
        return self._done

    def record(self, number: int, digest: bytes) -> None:
        self._journal.record(number, digest)
        shard = self._shards[bisect.bisect_right(self._starts, number) - 1]
        with self._lock:
            self._left[shard] -= 1
            is_last = self._left[shard] == 0
        if is_last and shard in self._files and self._arrival.discards:
            self._hold_against_source(shard)
            self._files[shard].let_go()

    def give_up(self) -> None:
        self._arrival.stop()

    def _borne_out(self) -> dict[int, bytes]:
        """The blocks that an earlier run made and that are on the disk as it made them."""
        done, made = {}, dict[str, InputFile]()
        with ExitStack() as stack:
            for output in self._plan.files if self._journal.done else ():
                path = self._made(output.path)
                if disk.length(path) == output.size:  # else it will be begun anew
                    made[output.path] = stack.enter_context(InputFile(path))
            for block in blocks_of(self._plan):
                file, digest = made.get(block.work.file.path), self._journal.done.get(block.number)
                if file is None or digest is None:
                    continue
                if short_digest(file.read(block.offset_in_file, block.n_bytes, "block")) == digest:
                    done[block.number] = digest
        return done

    def _hold_against_source(self, shard: str) -> None:
        """Raise RefusedError if a tensor made from this shard is farther from it than its type allows."""
        works = [work for work in self._plan.work if work.input.position[0] == shard and not work.takes_columns]
        with ExitStack() as stack:
            paths = {work.file.path for work in works}
            made = {path: stack.enter_context(InputFile(self._made(path))) for path in paths}
            for work in works:
                placed = work.placed
                result = StoredTensor(placed.info, made[work.file.path], placed.offset_in_file)
                (error,) = tensor_errors({placed.info.name: work.input}, {placed.info.name: result})
                if not error.passed:
                    raise RefusedError(
                        f"{self._made(work.file.path)}: not kept, {placed.info.name} is off by {error.error:.2g}, "
                        f"allowed {error.allowed:g} for {error.dtype}"
                    )

    def _made(self, path: str) -> Path:
        return self._path / path if self._path.is_dir() else self._path


@contextmanager
def arriving(settings: Settings, model: Model, variant: Variant, arrival: Arrival) -> Iterator[Checkpoint]:
    """The model as its headers describe it, whose weights come with `arrival` once that has begun.

    Raises what `distro.inspect.remote.remote_folder` raises: NotFoundError where no source can be read in parts.
    """
    files = {file.path.rpartition("/")[2]: file for file in variant.files}
    with remote_folder(settings, model, variant) as folder:

        def opener(path: Path) -> InputFile:
            return ArrivingFile(folder.opener(path), files[path.name], arrival)

        with open_checkpoint(folder.path, opener=opener) as checkpoint:
            try:
                yield checkpoint
            finally:
                arrival.stop()
