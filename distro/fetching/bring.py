"""One file of a fetch, from whoever has it to its place: proven before it gets its name.

large    of several pieces: a copy, else all sources together that can be read in parts (distro/fetching/gather.py)
small    of one piece, of unknown size, or what nobody can prove: a copy, else those sources one after another
rest     what none of them had: packages and swarms, one after another
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distro.config import Settings
from distro.digest import sha256_of
from distro.errors import NotPermittedError, NotThereError, SourceError, WrongBytesError
from distro.fetching.bars import Bars
from distro.fetching.gather import Gathering
from distro.fetching.lane import Lane
from distro.fetching.piece_proof import PieceProof, known_list, proof_of
from distro.fetching.turns import StoppedError
from distro.fetching.ways import Ways
from distro.manifest import File, Model, Variant
from distro.partial import Partial
from distro.progress import Progress
from distro.proof.piece_hashes import PieceHashes, piece_length_for
from distro.proof.proofs import Proofs, Remembered, Stamp, named
from distro.proof.prove import prove
from distro.receipt import Entry, now
from distro.sources.base import Source
from distro.sources.local import CacheSource
from distro.store import Store
from distro.verify import Status, Verdict, check


@dataclass
class Job:
    """A file that is wanted. failures: why those who were asked do not have it."""

    file: File
    bars: Bars
    failures: list[SourceError | WrongBytesError] = field(default_factory=list)


@dataclass(frozen=True)
class Brought:
    """A file that has its place. hashes: of its pieces. memory: of the read that proved it, if it was proven."""

    entry: Entry
    hashes: PieceHashes | None
    memory: Remembered | None


@dataclass(frozen=True)
class _Read:
    """What a part file was found to be, and when that reading began, in nanoseconds since 1970."""

    verdict: Verdict
    began_ns: int
    sha256: str
    hashes: PieceHashes | None


class Bringing:
    """What the files of one fetch share. target: where it goes, if not into the store; place: wherever it goes."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        model: Model,
        variant: Variant,
        ways: Ways,
        *,
        place: Path,
        target: Path | None,
        progress: Progress,
    ) -> None:
        self._store, self._model, self._variant, self._ways = store, model, variant, ways
        self._place, self._target, self._progress = place, target, progress
        self._proofs = Proofs(settings.state_folder)

    def small(self, job: Job) -> Brought | None:
        """None if `rest` is left to ask. Several threads may, each for another file. Raises StoppedError."""
        with self._partial(job.file) as partial:
            return (
                self._from_earlier(job, partial)
                or self._from_near(job, partial)
                or self._one_by_one(job, partial, self._ways.streams())
            )

    def large(self, job: Job) -> Brought:
        """Raises what `rest` raises."""
        with self._partial(job.file) as partial:
            brought = self._from_near(job, partial)
            if brought is None and (lanes := self._ways.lanes()):
                brought = self._from_lanes(job, partial, lanes)
        return brought or self.rest(job, swarms=False)

    def rest(self, job: Job, *, swarms: bool = True) -> Brought:
        """swarms: whether they are to be asked, too. Raises WrongBytesError, SourceError: what all together come to."""
        with self._partial(job.file) as partial:
            brought = self._one_by_one(job, partial, self._ways.whole(swarms=swarms))
        if brought is None:
            raise _told_together(job.file, list(dict.fromkeys([*self._ways.left.values(), *job.failures])))
        return brought

    def _partial(self, file: File, *, fresh: bool = False) -> Partial:
        return self._store.partial(self._model.name, self._variant.name, file, beside=self._target, fresh=fresh)

    def _from_earlier(self, job: Job, partial: Partial) -> Brought | None:
        """A file that was complete when an earlier run ended; of one in pieces, the lanes find that out."""
        if partial.size != job.file.size or not job.file.is_proven_by_digest:
            return None
        with job.bars.begin(partial.size):
            read = _read(partial, job.file)
            if not read.verdict.is_right:
                return None
            job.bars.verified(partial.size)
            return self._publish(job, partial, "an earlier run", read)

    def _from_near(self, job: Job, partial: Partial) -> Brought | None:
        """A copy. What arrived before is not touched until that is right."""
        sources = list(self._ways.near())
        if not sources:
            return None
        with self._partial(job.file, fresh=True) as copy:
            brought = self._one_by_one(job, copy, sources)
        if brought is not None:
            partial.discard()
        return brought

    def _from_lanes(self, job: Job, partial: Partial, lanes: Sequence[Lane]) -> Brought | None:
        def leave(lane: Lane, error: SourceError | WrongBytesError) -> None:
            job.failures.append(error)
            self._ways.leave(lane, error)
            self._progress.say(f"{error}; leaving this source for {job.file.path}")

        began_ns, pieces = time.time_ns(), partial.pieces()
        with job.bars.begin(pieces.n_bytes) as bar:
            gathered = Gathering(
                job.file, partial, pieces, lanes, self._proof_of(job.file), bar, leave, self._progress.say
            ).gather()  # fmt: skip
        if gathered is None:
            return None
        for name in gathered.sources:
            self._ways.worked(name)
        read = _Read(gathered.verdict, began_ns, gathered.sha256, gathered.hashes)
        return self._publish(job, partial, ", ".join(gathered.sources), read)

    def _proof_of(self, file: File) -> PieceProof | None:
        return proof_of(file, self._variant) or known_list(self._store, self._proofs, file)

    def _one_by_one(self, job: Job, partial: Partial, sources: Iterable[Source]) -> Brought | None:
        """From the first source that has all of it right."""
        if not partial.is_in_order:  # pieces of a file; those who give it from its beginning on cannot use them
            with self._partial(job.file, fresh=True) as begun:
                brought = self._one_by_one(job, begun, sources)
            if brought is not None:
                partial.discard()
            return brought
        for source in sources:
            try:
                brought = self._from_source(source, job, partial)
            except (SourceError, WrongBytesError) as error:
                self._leave(source, job, error)
            else:
                self._ways.worked(source.name)
                return brought
        return None

    def _leave(self, source: Source, job: Job, error: SourceError | WrongBytesError) -> None:
        job.failures.append(error)
        is_expected = isinstance(error, NotThereError) and isinstance(source, CacheSource)  # it may lack anything
        if self._ways.leave(source, error) and not is_expected:
            self._progress.say(f"{error}; leaving this source for {job.file.path}")
        if isinstance(error, WrongBytesError):
            self._progress.say(f"{job.file.path}: the wrong bytes are kept for a look, until `distro gc`")

    def _from_source(self, source: Source, job: Job, partial: Partial) -> Brought:
        """What a source brought, if it is right, or unproven where no digest is known.

        Bytes of earlier runs or other sources are not this source's fault: if they were part of what is wrong, they are
        thrown away and the source is asked for all. Raises WrongBytesError naming the source; the bytes are put aside.
        """
        file = job.file
        if not file.is_proven_by_digest or (file.size is not None and partial.size > file.size):
            partial.restart()
        inherited = partial.size
        with job.bars.begin(partial.size, source.name):
            read = self._transfer(source, job, partial)
            if read.verdict.status != Status.WRONG or not inherited:
                return self._judged(source, job, partial, read)
        self._progress.say(f"{file.path}: what an earlier run left is not right; starting again")
        partial.restart()
        with job.bars.begin(0, source.name):
            return self._judged(source, job, partial, self._transfer(source, job, partial))

    def _transfer(self, source: Source, job: Job, partial: Partial) -> _Read:
        if partial.size != job.file.size or job.file.size == 0:
            source.transfer(job.file, partial, job.bars)
        job.bars.note("verifying")
        return _read(partial, job.file)

    def _judged(self, source: Source, job: Job, partial: Partial, read: _Read) -> Brought:
        verdict = read.verdict
        if verdict.status in (Status.WRONG, Status.MISSING):
            partial.quarantine()
            raise WrongBytesError(
                f"{job.file.path} from {source.name}",
                verdict.kind or "file", verdict.found or "nothing", verdict.expected or "a file",
            )  # fmt: skip
        if verdict.is_right:
            job.bars.verified(partial.size)
        return self._publish(job, partial, source.name, read)

    def _publish(self, job: Job, partial: Partial, source: str, read: _Read) -> Brought:
        """Raises StoppedError where nobody wants it any more."""
        if self._ways.stopped.is_set():
            raise StoppedError
        file, is_proven = job.file, read.verdict.status != Status.UNPROVEN
        if not is_proven:
            self._progress.say(f"{file.path}: no digest was published; the bytes are unproven")
        sha256 = read.sha256 or sha256_of(partial.path)
        entry = Entry(
            sha256, partial.path.stat().st_size, source, now(),
            proven=is_proven, pieces=read.hashes.digest if read.hashes else None,
        )  # fmt: skip
        before, final = Stamp.of(partial.path.stat()), self._place / file.path
        partial.publish(final, within=self._place)
        return Brought(entry, read.hashes, _memory(final, before, read, sha256) if is_proven else None)


def is_in_pieces(file: File) -> bool:
    """Whether it is worth all sources at once, and can be put together of what they send."""
    return file.is_proven_by_digest and file.size is not None and file.size > piece_length_for(file.size)


def _read(partial: Partial, file: File) -> _Read:
    """Prove a part file, with its pieces if it has several."""
    began_ns = time.time_ns()
    if is_in_pieces(file):
        proof = prove(partial.path, file)
        verdict, hashes = proof.verdict, proof.pieces
    else:
        verdict, hashes = check(partial.path, file), None
    found = verdict.found if verdict.kind == "sha256" else None
    return _Read(verdict, began_ns, hashes.sha256 if hashes else found or "", hashes)


def _memory(final: Path, before: Stamp, read: _Read, sha256: str) -> Remembered | None:
    """Of a file that has just got its name; None if somebody has been at it since."""
    verdict = read.verdict
    digests = {"sha256": sha256} | ({verdict.kind: verdict.found} if verdict.kind and verdict.found else {})
    return named(final, before, read.began_ns, digests, read.hashes.digest if read.hashes else None)


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
