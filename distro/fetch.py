"""The story of a fetch: what is here already, room for the rest, the sources, proof, its place, a receipt.

Small files come several at once (distro/fetching/several.py), then the large ones one after another, each from all
sources together (distro/fetching/bring.py). They are answered for in that order, so that an error is that of the first
file that has one. Whatever was proven until then stands in the receipt.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from converters.errors import escape, shown
from distro import disk
from distro.config import Settings
from distro.digest import sha256_of
from distro.errors import CannotCreateError, DistroError, MalformedManifestError, NotFoundError, UnsafeRequestError
from distro.fetching.bars import Bars, Total
from distro.fetching.bring import Bringing, Brought, Job, is_in_pieces
from distro.fetching.several import Several
from distro.fetching.ways import Ways
from distro.manifest import File, Model, Variant
from distro.manners.choice import EVERYTHING, Choice
from distro.paths import PARTS, is_ours
from distro.progress import MeteredBar, Progress
from distro.proof.piece_hashes import PieceHashes
from distro.proof.proofs import Proofs, Remembered
from distro.receipt import Entry, Receipt, now
from distro.store import Store
from distro.verify import Status, check


def fetch(
    settings: Settings,
    model: Model,
    variant: Variant,
    *,
    progress: Progress,
    only: str | None = None,
    wanted: Choice = EVERYTHING,
    target: Path | None = None,
    folder: Path | None = None,
    peers: Sequence[tuple[str, int]] = (),
) -> Path:
    """Bring a variant, proven, and say where it is: its file if it has but one, else its folder.

    only: a pattern such as `*.json`; `*` matches slashes too; or `wanted`, which says more. target: a folder to put it
    in instead of the store. folder: one to look in before any other source. peers: host and port for swarms.
    Raises NotFoundError if `only` matches nothing, UnsafeRequestError if nobody published what the files are,
    DiskFullError before anything is transferred, WrongBytesError if no source had the right bytes, and else the
    SourceError of the source that came nearest.
    """
    choice = wanted if only is None else Choice((only,))
    files = tuple(file for file in variant.files if choice(file.path))
    if not files:
        raise _nothing_to_fetch(model, variant, choice)
    store = Store(settings.home)
    place = target or store.folder(model.name, variant.name)
    fetching = _Fetch(settings, store, model, variant, place, target, progress)
    with (
        store.lock(model.name, variant.name, waiting=lambda: progress.say("another distro is fetching this; waiting")),
        store.lock_place(target, waiting=lambda: progress.say("another distro puts files there; waiting")),
    ):
        fetching.run(files, folder, peers)
    return place / variant.files[0].path if len(variant.files) == 1 else place


def fetch_anew(
    settings: Settings,
    model: Model,
    variant: Variant,
    file: File,
    *,
    target: Path | None,
    folder: Path | None,
    peers: Sequence[tuple[str, int]],
    progress: Progress,
) -> tuple[Entry, PieceHashes | None]:
    """One file of a variant in the place of what has its name now, which is wrong; what `fetch` leaves is gone on with.

    Gives its entry, which no receipt has yet, and its list of piece hashes if one was made. All else as `fetch`.
    """
    store = Store(settings.home)
    place = target or store.folder(model.name, variant.name)
    fetching = _Fetch(settings, store, model, variant, place, target, progress)
    fetching.bring((file,), folder, peers)
    Proofs(settings.state_folder).remember(fetching.memories)
    store.discard_left(model.name, variant.name, file, beside=target)
    return fetching.entries[file.path], next(iter(fetching.lists), None)


@dataclass
class _Fetch:
    """One run.

    received: what the receipt said. entries: what is proven now. missing: paths of what is wanted, now or by a run that
    failed, and has not come. lists: of piece hashes that were made. memories: of the reads that proved it.
    """

    settings: Settings
    store: Store
    model: Model
    variant: Variant
    place: Path
    target: Path | None
    progress: Progress
    received: dict[str, Entry] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    lists: list[PieceHashes] = field(default_factory=list)
    memories: list[Remembered] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, wanted: tuple[File, ...], folder: Path | None, peers: Sequence[tuple[str, int]]) -> None:
        self._refuse_our_own_name(wanted)
        self._know_from_receipt()
        missing = tuple(file for file in wanted if not self._is_here(file))
        self.missing = (self.missing | {file.path for file in missing}) - self.entries.keys()
        try:
            if missing:
                self.bring(missing, folder, peers)
        except BaseException:
            with suppress(DistroError):  # the first error is the one to tell
                self._keep_what_is_new()
            raise
        if not self._keep_what_is_new() and self.target is None:
            with disk.told(self.place):
                disk.settle(self.place / "receipt.json")
        for file in wanted:
            self.store.discard_left(self.model.name, self.variant.name, file, beside=self.target)
        for reference in self.variant.sources:
            self.store.discard_work(reference)

    # What is here

    def _know_from_receipt(self) -> None:
        try:
            receipt = None if self.target else self.store.receipt(self.model.name, self.variant.name)
        except MalformedManifestError as error:
            self.progress.say(f"{error}; not believed, so all is read again")
            return
        if receipt is not None:
            self.received, self.missing = dict(receipt.files), set(receipt.missing)

    def _refuse_our_own_name(self, wanted: tuple[File, ...]) -> None:
        for path in (file.path for file in wanted if is_ours(file.path)):
            if path.casefold().startswith(PARTS):
                raise CannotCreateError(f"{shown(path)}: is where files arrive; leave it out with --except")
            if self.target is None:
                raise CannotCreateError(f"{shown(path)}: is our own name in the store; fetch this with -o FOLDER")

    def _is_here(self, file: File) -> bool:
        """Whether the file has its place already: by the receipt and the size, else by reading it."""
        final = self.place / file.path
        if not disk.is_file(final):
            is_our_link = self.target is None and final.is_symlink()
            if disk.is_taken(final) and not is_our_link:
                raise CannotCreateError(f"{shown(str(final))}: is there already and is no file")
            return False
        entry = self.received.get(file.path)
        is_proven_before = entry and (entry.sha256 == file.sha256 or not file.is_proven_by_digest)
        if entry and is_proven_before and entry.size == final.stat().st_size:
            self.entries[file.path] = entry
            return True
        verdict = check(final, file)
        if verdict.status == Status.WRONG and self.target is not None:
            raise CannotCreateError(f"{shown(str(final))}: is there already with other bytes")
        if verdict.is_right or self.target is not None:
            with disk.told(final):
                disk.settle(final)
            sha256 = verdict.found if verdict.kind == "sha256" and verdict.found else sha256_of(final)
            is_proven = verdict.status != Status.UNPROVEN
            if entry is None or (entry.sha256, entry.proven) != (sha256, is_proven):
                entry = Entry(sha256, final.stat().st_size, "was here already", now(), proven=is_proven)
            self.entries[file.path] = entry
            return True
        return False

    # What is missing

    def bring(self, missing: tuple[File, ...], folder: Path | None, peers: Sequence[tuple[str, int]]) -> None:
        """These files, whatever is in their places."""
        self._check_room(missing)
        ways = Ways(
            self.settings, self.store, self.model, self.variant,
            target=self.target, folder=folder, peers=peers, progress=self.progress,
        )  # fmt: skip
        bringing = Bringing(
            self.settings, self.store, self.model, self.variant, ways,
            place=self.place, target=self.target, progress=self.progress,
        )  # fmt: skip
        with ways, self._total_bar(missing) as bar:
            total = Total(bar)
            jobs = [Job(file, Bars(self.progress, file, total, self._arrived(file))) for file in missing]
            self._bring_small([job for job in jobs if not is_in_pieces(job.file)], bringing, ways)
            for job in jobs:
                if is_in_pieces(job.file):
                    self._keep(job, bringing.large(job))

    def _bring_small(self, jobs: Sequence[Job], bringing: Bringing, ways: Ways) -> None:
        def bring(job: Job) -> Brought | None:
            brought = bringing.small(job)
            if brought is not None:
                self._keep(job, brought)
            return brought

        with Several(jobs, bring, n_threads=self.settings.files_at_once, stop=ways.stopped.set) as several:
            for job, brought in several.answers():
                if brought is None:
                    self._keep(job, bringing.rest(job))

    def _keep(self, job: Job, brought: Brought) -> None:
        with self.lock:
            self.entries[job.file.path] = brought.entry
            if brought.hashes is not None:
                self.lists.append(brought.hashes)
            if brought.memory is not None:
                self.memories.append(brought.memory)

    def _check_room(self, missing: tuple[File, ...]) -> None:
        disk.check_place(self.place)
        needed = sum(max(0, (file.size or 0) - self._occupied(file)) for file in missing)
        disk.check_space(needed, self.place)

    def _occupied(self, file: File) -> int:
        return self.store.occupied(self.model.name, self.variant.name, file, beside=self.target)

    def _arrived(self, file: File) -> int:
        return self.store.received(self.model.name, self.variant.name, file, beside=self.target)

    def _total_bar(self, missing: tuple[File, ...]) -> MeteredBar:
        sizes = [file.size for file in missing]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        return self.progress.bar(f"{self.model.name}:{self.variant.name}", total, sum(map(self._arrived, missing)))

    # What is proven

    def _keep_what_is_new(self) -> bool:
        """Write down what this run has proven, in a receipt and for later proofs; whether there was anything."""
        with self.lock:  # a thread that was left behind may still have one more
            entries, lists, memories = dict(self.entries), list(self.lists), list(self.memories)
        is_new = bool(entries.items() - self.received.items())
        if is_new and self.target is None:
            known = {file.path for file in self.variant.files}
            missing = (self.missing & known) - entries.keys()
            before = {path: entry for path, entry in self.received.items() if path in known - missing}
            receipt = Receipt(
                self.model.name, self.variant.name, self.variant.format, {**before, **entries},
                sources=self.variant.sources, missing=tuple(sorted(missing)),
            )  # fmt: skip
            self.store.write_receipt(receipt, lists)
        Proofs(self.settings.state_folder).remember(memories)
        return is_new


def _nothing_to_fetch(model: Model, variant: Variant, choice: Choice) -> NotFoundError | UnsafeRequestError:
    """Nothing matches; or the publisher gave a torrent and no word about its files, so there is nothing to prove by."""
    name = f"{model.name}:{variant.name}"
    torrents = [source for source in variant.sources if source.startswith("magnet:") or source.endswith(".torrent")]
    if variant.files or not torrents:
        return NotFoundError(f"{name}: no file matches {shown(str(choice))}")
    is_v2 = "urn:btmh:" in torrents[0].lower()
    why = f"its publisher gave a {'' if is_v2 else 'v1 '}torrent, and nobody published digests of the files in it"
    doubt = "" if is_v2 else "; SHA-1, which is all that proves it, can be forged"
    command = f"distro fetch '{escape(torrents[0])}'{'' if is_v2 else ' --allow-sha1'}"
    return UnsafeRequestError(f"{name}: {why}{doubt}; `{command}` takes the torrent's word for it")
