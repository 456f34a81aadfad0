"""The story of a fetch: what is here already, room for the rest, the sources, proof, its place, a receipt.

A file of several pieces comes from all sources together that can be read in parts (distro/gather.py); small ones, those
of unknown size and what nobody can prove come from one source after another, as do copies, packages and swarms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from converters.errors import escape, shown
from distro import disk
from distro.bars import Bars
from distro.choice import EVERYTHING, Choice
from distro.config import Settings
from distro.digest import sha256_of
from distro.errors import (
    CannotCreateError,
    MalformedManifestError,
    NotFoundError,
    NotPermittedError,
    NotThereError,
    SourceError,
    UnsafeRequestError,
    WrongBytesError,
)
from distro.gather import Gathering
from distro.lane import Lane
from distro.manifest import File, Model, Variant
from distro.partial import Partial
from distro.piece_hashes import PieceHashes, piece_length_for
from distro.piece_proof import proof_of
from distro.progress import MeteredBar, Progress
from distro.receipt import Entry, Receipt, now
from distro.sources.base import Source
from distro.sources.local import CacheSource
from distro.store import Store
from distro.verify import Status, Verdict, check
from distro.ways import Ways


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
    with store.lock(model.name, variant.name, waiting=lambda: progress.say("another distro is fetching this; waiting")):
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
    store.discard_left(model.name, variant.name, file, beside=target)
    return fetching.entries[file.path], next(iter(fetching.lists), None)


@dataclass
class _Fetch:
    """One run. received: what the receipt said. entries: what is proven now. lists: of piece hashes that were made."""

    settings: Settings
    store: Store
    model: Model
    variant: Variant
    place: Path
    target: Path | None
    progress: Progress
    received: dict[str, Entry] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    lists: list[PieceHashes] = field(default_factory=list)

    def run(self, wanted: tuple[File, ...], folder: Path | None, peers: Sequence[tuple[str, int]]) -> None:
        self._refuse_our_own_name(wanted)
        self.received = self._known_from_receipt()
        missing = tuple(file for file in wanted if not self._is_here(file))
        if missing:
            self.bring(missing, folder, peers)
        if self.target is None:
            self._write_receipt()
        for file in wanted:
            self.store.discard_left(self.model.name, self.variant.name, file, beside=self.target)
        for reference in self.variant.sources:
            self.store.discard_work(reference)

    def bring(self, missing: tuple[File, ...], folder: Path | None, peers: Sequence[tuple[str, int]]) -> None:
        """These files, whatever is in their places."""
        self._check_room(missing)
        ways = Ways(
            self.settings, self.store, self.model, self.variant,
            target=self.target, folder=folder, peers=peers, progress=self.progress,
        )  # fmt: skip
        with ways, self._total_bar(missing) as total:
            for file in missing:
                self.entries[file.path] = self._bring(file, ways, total)

    def _known_from_receipt(self) -> dict[str, Entry]:
        try:
            receipt = None if self.target else self.store.receipt(self.model.name, self.variant.name)
        except MalformedManifestError as error:
            self.progress.say(f"{error}; not believed, so all is read again")
            return {}
        return dict(receipt.files) if receipt else {}

    def _refuse_our_own_name(self, wanted: tuple[File, ...]) -> None:
        if self.target is None and any(file.path.casefold() == "receipt.json" for file in wanted):
            raise CannotCreateError("receipt.json: is our own name in the store; fetch this variant with -o FOLDER")

    def _is_here(self, file: File) -> bool:
        """Whether the file has its place already: by the receipt and the size, else by reading it."""
        final = self.place / file.path
        if not disk.is_file(final):
            is_ours = self.target is None and final.is_symlink()
            if disk.is_taken(final) and not is_ours:
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
            self.entries[file.path] = _entry(final, "was here already", verdict)
            return True
        return False

    def _check_room(self, missing: tuple[File, ...]) -> None:
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

    def _bring(self, file: File, ways: Ways, total: MeteredBar) -> Entry:
        """One file, proven, in its place. Raises what the sources raised."""
        failures: list[SourceError | WrongBytesError] = []
        with self._partial(file) as partial:
            entry = self._from_earlier(file, partial) or self._from_near(file, partial, ways, total, failures)
            if entry is None and _is_in_pieces(file) and (lanes := ways.lanes()):
                entry = self._from_lanes(file, partial, ways, lanes, total, failures)
            if entry is None:
                sources = ways.whole() if _is_in_pieces(file) else chain(ways.streams(), ways.whole())
                entry = self._one_by_one(file, partial, sources, ways, total, failures)
        if entry is None:
            raise _told_together(file, list(dict.fromkeys([*ways.left.values(), *failures])))
        return entry

    def _partial(self, file: File, *, fresh: bool = False) -> Partial:
        return self.store.partial(self.model.name, self.variant.name, file, beside=self.target, fresh=fresh)

    def _from_earlier(self, file: File, partial: Partial) -> Entry | None:
        """A file that was complete when an earlier run ended; in pieces, the lanes find that out."""
        if not _is_in_pieces(file) and partial.size == file.size and (verdict := check(partial.path, file)).is_right:
            return self._publish(file, partial, "an earlier run", verdict)
        return None

    def _from_near(
        self, file: File, partial: Partial, ways: Ways, total: MeteredBar, failures: list[SourceError | WrongBytesError]
    ) -> Entry | None:
        """A copy. What arrived before is not touched until that is right."""
        with self._partial(file, fresh=True) as copy:
            entry = self._one_by_one(file, copy, ways.near(), ways, total, failures)
        if entry is not None:
            partial.discard()
        return entry

    def _from_lanes(
        self,
        file: File,
        partial: Partial,
        ways: Ways,
        lanes: Sequence[Lane],
        total: MeteredBar,
        failures: list[SourceError | WrongBytesError],
    ) -> Entry | None:
        def leave(lane: Lane, error: SourceError | WrongBytesError) -> None:
            failures.append(error)
            ways.leave(lane, error)
            self.progress.say(f"{error}; leaving this source for {file.path}")

        pieces, proof = partial.pieces(), proof_of(file, self.variant)
        with Bars(self.progress, file, total, pieces.n_bytes).begin(pieces.n_bytes) as bar:
            gathered = Gathering(file, partial, pieces, lanes, proof, bar, leave, self.progress.say).gather()
        if gathered is None:
            return None
        for name in gathered.sources:
            ways.worked(name)
        if gathered.hashes is not None:
            self.lists.append(gathered.hashes)
        return self._publish(
            file, partial, ", ".join(gathered.sources), gathered.verdict, gathered.sha256, gathered.hashes
        )

    def _one_by_one(
        self,
        file: File,
        partial: Partial,
        sources: Iterable[Source],
        ways: Ways,
        total: MeteredBar,
        failures: list[SourceError | WrongBytesError],
    ) -> Entry | None:
        """From the first source that has all of it right."""
        if not partial.is_in_order:  # pieces of a file; those who give it from its beginning on cannot use them
            with self._partial(file, fresh=True) as begun:
                entry = self._one_by_one(file, begun, sources, ways, total, failures)
            if entry is not None:
                partial.discard()
            return entry
        bars = Bars(self.progress, file, total, partial.size)
        for source in sources:
            try:
                verdict = self._try(source, file, partial, bars)
            except (SourceError, WrongBytesError) as error:
                failures.append(error)
                ways.leave(source, error)
                if not (isinstance(error, NotThereError) and isinstance(source, CacheSource)):  # it may lack anything
                    self.progress.say(f"{error}; leaving this source for {file.path}")
                if isinstance(error, WrongBytesError):
                    self.progress.say(f"{file.path}: the wrong bytes are kept for a look, until `distro gc`")
            else:
                ways.worked(source.name)
                return self._publish(file, partial, source.name, verdict)
        return None

    def _publish(
        self,
        file: File,
        partial: Partial,
        source: str,
        verdict: Verdict,
        sha256: str = "",
        hashes: PieceHashes | None = None,
    ) -> Entry:
        if verdict.status == Status.UNPROVEN:
            self.progress.say(f"{file.path}: no digest was published; the bytes are unproven")
        entry = _entry(partial.path, source, verdict, sha256, hashes)
        partial.publish(self.place / file.path, within=self.place)
        return entry

    def _try(self, source: Source, file: File, partial: Partial, bars: Bars) -> Verdict:
        """The verdict on what a source brought: right, or unproven where no digest is known.

        Bytes of earlier runs or other sources are not this source's fault: if they were part of what is wrong, they are
        thrown away and the source is asked for all. Raises WrongBytesError naming the source; the bytes are put aside.
        """
        if not file.is_proven_by_digest or (file.size is not None and partial.size > file.size):
            partial.restart()
        inherited = partial.size
        verdict = self._transfer(source, file, partial, bars)
        if verdict.status == Status.WRONG and inherited:
            self.progress.say(f"{file.path}: what an earlier run left is not right; starting again")
            partial.restart()
            verdict = self._transfer(source, file, partial, bars)
        if verdict.status in (Status.WRONG, Status.MISSING):
            partial.quarantine()
            raise WrongBytesError(
                f"{file.path} from {source.name}",
                verdict.kind or "file", verdict.found or "nothing", verdict.expected or "a file",
            )  # fmt: skip
        return verdict

    def _transfer(self, source: Source, file: File, partial: Partial, bars: Bars) -> Verdict:
        with bars.begin(partial.size) as bar:
            if partial.size != file.size or file.size == 0:
                source.transfer(file, partial, bar)
            bar.note("verifying")
            return check(partial.path, file)

    def _write_receipt(self) -> None:
        if not self.entries.items() - self.received.items():
            with disk.told(self.place):
                disk.settle(self.place / "receipt.json")
            return
        known = {file.path for file in self.variant.files}
        before = {path: entry for path, entry in self.received.items() if path in known}
        files = {**before, **self.entries}
        receipt = Receipt(self.model.name, self.variant.name, self.variant.format, files, sources=self.variant.sources)
        self.store.write_receipt(receipt, self.lists)


def _entry(path: Path, source: str, verdict: Verdict, sha256: str = "", hashes: PieceHashes | None = None) -> Entry:
    """sha256: where it is known already, as is `hashes`, the list of piece hashes."""
    if not sha256:
        sha256 = verdict.found if verdict.kind == "sha256" and verdict.found else sha256_of(path)
    proven, pieces = verdict.status != Status.UNPROVEN, hashes.digest if hashes else None
    return Entry(sha256, path.stat().st_size, source, now(), proven=proven, pieces=pieces)


def _is_in_pieces(file: File) -> bool:
    return file.is_proven_by_digest and file.size is not None and file.size > piece_length_for(file.size)


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


def _told_together(file: File, failures: Sequence[SourceError | WrongBytesError]) -> SourceError | WrongBytesError:
    """One error out of those of all sources: wrong bytes before a missing permission before all that may pass."""
    for worst in (WrongBytesError, NotPermittedError):
        for failure in failures:
            if isinstance(failure, worst):
                return failure
    rest = [failure for failure in failures if isinstance(failure, SourceError)]
    told = [failure for failure in rest if not isinstance(failure, NotThereError)] or rest
    if not told:
        return SourceError(file.path, "no source to fetch it from (see --from and --peer)")
    if len(told) == 1:
        return told[0]
    kinds = {type(failure) for failure in told}
    kind = kinds.pop() if len(kinds) == 1 else SourceError
    return kind(file.path, "no source could give it: " + "; ".join(map(str, told)))
