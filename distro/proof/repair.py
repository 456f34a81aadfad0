"""What is wrong of a file is fetched again, and nothing else: `distro verify --repair`.

    the file  ── extents shared, or copied ──►  a part file of the right size
    its piece hashes (of its receipt, of a torrent)  ──►  which pieces are wrong
    files of this machine, the hub, web servers, swarms  ──►  those pieces, each judged as it comes
    the digest of the whole  ──►  the part file takes the place of the file

The wrong file stays until the right one is proven. A repair that was interrupted goes on with its part file. Without
piece hashes, with hashes that turn out to be of another file, or where nobody sends parts, the whole file is brought as
`distro fetch` does it, from all sources at once, and gone on with as that is.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from converters.errors import shown
from converters.running_digest import SHORT_BYTES
from distro import disk
from distro.config import Settings
from distro.digest import open_regular
from distro.errors import CannotCreateError, DistroError, NotFoundError, SourceError, WrongBytesError
from distro.fetch import fetch_anew
from distro.journal import Journal
from distro.manifest import File
from distro.manners.pace import pace_of
from distro.progress import Progress, SilentBar
from distro.proof.mending import Mending, Pieces, copy, is_whole
from distro.proof.piece_hashes import PieceHashes, find_list
from distro.proof.proofs import Proofs, Stamp, named
from distro.proof.prove import How, Proof, prove
from distro.proof.ranges import Ranges
from distro.proof.verification import Finding, Subject, keep
from distro.receipt import Receipt
from distro.sources import kind_of, open_source
from distro.sources.base import NoRangesError
from distro.sources.caches import caches_of
from distro.sources.paced import Paced
from distro.store import Result, Store
from distro.verify import Status, judge, strongest

_MOST_COPIES = 16  # files of this machine that are looked into
_BROKEN = (Status.WRONG, Status.MISSING)


@dataclass(frozen=True)
class Helpers:
    """What the user adds: a folder that may have the files, a .torrent, peers of its swarm (host and port)."""

    folder: Path | None = None
    torrent: Path | None = None
    peers: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Repaired:
    """A file that is right again. n_wrong: of its n_pieces. fetched: bytes that others gave, and who they are."""

    name: str
    n_wrong: int
    n_pieces: int
    fetched: int
    sources: tuple[str, ...]

    def __str__(self) -> str:
        origin = (
            f"{self.fetched} bytes from {', '.join(self.sources)}" if self.sources else "from files of this machine"
        )
        what = "fetched again" if self.n_pieces == 1 else f"{self.n_wrong} of {self.n_pieces} pieces put right"
        return f"{shown(self.name)}: {what}, {origin}; proven, and in its place"


@dataclass(frozen=True)
class Outcome:
    """findings: as they are now. failure: why a file could not be repaired, the first if there are several."""

    findings: list[Finding]
    repaired: list[Repaired]
    failure: DistroError | None


def repair(
    settings: Settings, subject: Subject, findings: Sequence[Finding], helpers: Helpers, *, progress: Progress
) -> Outcome:
    """Make right what is wrong or missing. Files that are right, or of which nothing is known, are not touched."""
    found, repaired, failure = list(findings), list[Repaired](), None
    broken = [index for index, each in enumerate(found) if each.verdict.status in _BROKEN]
    with _Repair(settings, subject, [found[index].verdict.path for index in broken], helpers, progress) as work:
        for index in broken:
            try:
                with disk.told(found[index].verdict.path):
                    proof, done = work.mend(found[index])
            except DistroError as error:
                progress.say(f"{shown(found[index].name)}: not repaired: {error}")
                failure = failure or error
                continue
            found[index] = replace(found[index], proof=proof)
            repaired.append(done)
            progress.say(str(done))
        work.discard_left(found)
    keep(settings, subject, [found[index] for index in broken])
    return Outcome(found, repaired, failure)


class _Repair:
    """One run: whatever may have bytes is opened once."""

    def __init__(
        self, settings: Settings, subject: Subject, broken: Iterable[Path], helpers: Helpers, progress: Progress
    ) -> None:
        self._settings, self._subject, self._helpers, self._progress = settings, subject, helpers, progress
        self._store = Store(settings.home)
        self._ranges = Ranges(settings, subject.model, subject.variant, progress)
        self._closing, self._open = ExitStack(), dict[Path, BinaryIO]()
        # Open from the beginning, so that of two files that were swapped each has what the other needs until the end.
        self._broken = [stream for path in broken if (stream := self._opened(path)) is not None]

    def __enter__(self) -> _Repair:
        return self

    def __exit__(self, *_: object) -> None:
        self._ranges.close()
        self._closing.close()

    def mend(self, finding: Finding) -> tuple[Proof, Repaired]:
        """Raises DistroError if nobody had what is missing; the file is then as it was."""
        claim = finding.claim
        digest = None if claim is None else strongest(claim.file)
        if claim is None or digest is None:
            raise NotFoundError("nobody says what it ought to be")
        _refuse_links(claim.path, self._subject.folder)
        pieces = self._pieces(claim.file, claim.pieces)
        if pieces is None:
            self._progress.say(f"{shown(finding.name)}: no hashes of its pieces are known; all of it is fetched")
            return self._whole(finding.name, claim.path, claim.file, *digest)
        try:
            return self._mend(finding.name, claim.path, claim.file, pieces)
        except WrongBytesError as error:
            self._progress.say(f"{error}, though its pieces are what their hashes say; all of it is fetched")
        except SourceError as error:
            if not any(isinstance(each, NoRangesError) for each in self._ranges.failures.values()):
                raise
            self._progress.say(f"{error}; all of it is fetched")
        return self._whole(finding.name, claim.path, claim.file, *digest)

    def discard_left(self, findings: Sequence[Finding]) -> None:
        """Delete what runs that were killed had of files that are right now."""
        model, variant = self._subject.model, self._subject.variant
        for finding in findings:
            if model is not None and variant is not None and finding.claim is not None and finding.verdict.is_right:
                self._store.discard_left(model.name, variant.name, finding.claim.file, beside=self._beside)

    @property
    def _beside(self) -> Path | None:
        """The folder, if it is not one of the store."""
        return None if self._subject.receipt is not None else self._subject.folder

    def _pieces(self, file: File, own: PieceHashes | None) -> Pieces | None:
        """The hashes of a file's pieces: of its receipt, of the same file in the store, of torrents."""
        if own is not None and own.size == file.size and file.sha256 in (None, own.sha256):
            return own
        for folder, name in self._copies(file):
            entry = self._receipts[folder].files[name]
            if (found := find_list(folder, entry.pieces, entry.sha256, entry.size)) is not None:
                return found
        return self._pieces_of_torrent(file)

    def _pieces_of_torrent(self, file: File) -> Pieces | None:
        for reference in self._torrents():
            from distro.sources.swarm import find_torrent
            from distro.swarm.piece_layers import hashes_of

            try:
                torrent = find_torrent(self._settings, reference, peers=self._helpers.peers)
            except SourceError as error:
                self._progress.say(str(error))
                continue
            if (found := hashes_of(torrent, file)) is not None:
                return found
        return None

    def _torrents(self) -> list[str]:
        """Their references; files before magnets, which have to be asked for."""
        sources = self._subject.variant.sources if self._subject.variant else ()
        given = [str(self._helpers.torrent)] if self._helpers.torrent else []
        files = [source for source in sources if source.endswith(".torrent") and Path(source).is_file()]
        return [*given, *files, *(source for source in sources if source.startswith("magnet:"))]

    def _mend(self, name: str, path: Path, file: File, pieces: Pieces) -> tuple[Proof, Repaired]:
        """Raises WrongBytesError if the file is another although no piece is wrong."""
        identity = hashlib.sha256(f"repair {strongest(file)} {pieces.size}".encode()).hexdigest()
        with self._store.result(path, single_file=True, replace=True, identity=identity) as result:
            output, journal = result.create(path.name, pieces.size), result.journal
            is_begun = journal is not None and not journal.is_empty
            if not is_begun and (old := self._opened(path)) is not None and not output.take_over(old):
                copy(old, output, 0, pieces.size)
            with open_regular(result.path) as part, self._progress.bar(name, None) as bar:
                mending = Mending(file, pieces, output, part, bar, functools.partial(_note, journal))
                wrong, doubtful = mending.scan()
                self._bring(mending, wrong)
                proof = prove(result.path, file)
                if doubtful and not proof.verdict.is_right:
                    self._bring(mending, doubtful)
                    proof = prove(result.path, file)
            proof = self._publish(result, proof)
        return proof, Repaired(name, len(wrong), pieces.n_pieces, mending.fetched, tuple(mending.sources))

    def _whole(self, name: str, path: Path, file: File, kind: str, digest: str) -> tuple[Proof, Repaired]:
        """From a file of this machine that is the same, else from whoever has it. Raises as `fetch` does."""
        for stream in self._near(file):
            if is_whole(stream.fileno(), file.size, kind, digest):
                with self._store.result(path, single_file=True, replace=True) as result:
                    output = result.create(path.name, size := os.fstat(stream.fileno()).st_size)
                    if not output.take_over(stream):
                        copy(stream, output, 0, size)
                    return self._publish(result, prove(result.path, file)), Repaired(name, 1, 1, 0, ())
        model, variant = self._subject.model, self._subject.variant
        if model is None or variant is None:
            raise SourceError(name, "nobody is known who has it (see --from)")
        if self._helpers.torrent is not None:
            variant = replace(variant, sources=(*variant.sources, str(self._helpers.torrent)))
        before = self._store.received(model.name, variant.name, file, beside=self._beside)
        entry, pieces = fetch_anew(
            self._settings, model, variant, file,
            target=self._beside, folder=self._helpers.folder, peers=self._helpers.peers, progress=self._progress,
        )  # fmt: skip
        proof = Proof(judge(path, kind, digest, digest), How.READ, pieces=pieces)
        return proof, Repaired(name, 1, 1, max(0, entry.size - before), (entry.source,))

    def _publish(self, result: Result, proof: Proof) -> Proof:
        """Put what was made and just proven into its place. Raises WrongBytesError for what is not right."""
        path, verdict = result.target, replace(proof.verdict, path=result.target)
        kind, found = verdict.kind or "", verdict.found or ""
        if not verdict.is_right:
            raise WrongBytesError(path, kind, found, verdict.expected or "")
        stamp, read_ns = Stamp.of(result.path.stat()), time.time_ns()
        result.publish()
        digests = {kind: found} | ({"sha256": proof.pieces.sha256} if proof.pieces else {})
        memory = named(path, stamp, read_ns, digests, proof.pieces.digest if proof.pieces else None)
        Proofs(self._settings.state_folder).remember([memory] if memory is not None else [])
        return replace(proof, verdict=verdict)

    def _bring(self, mending: Mending, wrong: Sequence[int]) -> None:
        """These pieces, from what is near first. Raises SourceError if nobody has one of them."""
        left = [index for index in wrong if not mending.take(index, self._near(mending.file))]
        left = self._from_transfers(mending, self._ranges.bring(mending, left))
        if left:
            start, stop = mending.pieces.span(left[0])
            told = "; ".join(map(str, self._ranges.failures.values()))
            why = f"no source has bytes {start} to {stop - 1}" + (f": {told}" if told else " (see --from, --peer)")
            raise SourceError(mending.file.path, why)

    def _near(self, file: File) -> Iterator[BinaryIO]:
        """Files of this machine that may have pieces of it."""
        yield from self._broken
        paths = [folder / name for folder, name in self._copies(file)]
        paths += [self._helpers.folder / file.path] if self._helpers.folder else []
        for cache in caches_of(self._settings):
            paths += cache.candidates(file)
        for path in paths[:_MOST_COPIES]:
            if (stream := self._opened(path)) is not None:
                yield stream

    def _copies(self, file: File) -> Iterator[tuple[Path, str]]:
        """Files of the store that are to be the same: folder and name."""
        for folder, receipt in self._receipts.items():
            for name, entry in receipt.files.items():
                if file.sha256 is not None and entry.sha256 == file.sha256:
                    yield folder, name

    @functools.cached_property
    def _receipts(self) -> dict[Path, Receipt]:
        found = {}
        for model, variant in self._store.variants():
            if (receipt := self._store.receipt(model, variant)) is not None:
                found[self._store.folder(model, variant)] = receipt
        return found

    def _opened(self, path: Path) -> BinaryIO | None:
        if path not in self._open:
            try:
                self._open[path] = self._closing.enter_context(open_regular(path))
            except OSError:
                return None
        return self._open[path]

    def _from_transfers(self, mending: Mending, wrong: list[int]) -> list[int]:
        """What only comes as a whole file: from swarms, which are told what is right already, and from packages."""
        model, variant = self._subject.model, self._subject.variant
        if not wrong or model is None or variant is None:
            return wrong
        packages = [source for source in variant.sources if source.startswith("index:")]
        for reference in (*self._torrents(), *packages):
            try:
                with ExitStack() as stack:
                    pace = pace_of(self._settings, kind_of(reference), say=self._progress.say)
                    source = Paced(open_source(self._settings, reference, variant, peers=self._helpers.peers), pace)
                    stack.callback(source.close)
                    partial = stack.enter_context(
                        self._store.partial(model.name, variant.name, mending.file, beside=self._beside)
                    )
                    partial.restart()
                    if reference not in packages:
                        mending.copy_to(partial.path.with_name(partial.path.name.partition(".")[0] + ".swarm") / "data")
                    source.transfer(mending.file, partial, SilentBar())
                    wrong = mending.fill(wrong, partial.path, source.name)
                    partial.restart()
            except SourceError as error:
                self._progress.say(f"{error}; leaving this source")
            if not wrong:
                break
        return wrong


def _note(journal: Journal | None, index: int) -> None:
    """That there is something to go on with. What is right of it, the hashes of the pieces say."""
    if journal is not None:
        journal.record(index, bytes(SHORT_BYTES))


def _refuse_links(path: Path, folder: Path) -> None:
    """What lies behind a link below the folder is not ours to replace."""
    for place in (path, *path.parents):
        if place == folder:
            return
        if place.is_symlink():
            raise CannotCreateError(f"{shown(str(place))}: is a link to elsewhere; remove it by hand")
