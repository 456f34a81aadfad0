"""One file from several sources at once, proven as a whole; and if that fails, who sent wrong bytes.

Where single pieces can be judged (distro/fetching/piece_proof.py), whoever sends a wrong one is left at once. Where
they cannot, only the whole tells that something is wrong, and not what. Then

1. pieces that are not on the disk as they came are fetched again: that is nobody's fault but the disk's;
2. the source that most of the file came from is asked for what came from others, some pieces at a time. Where it says
   something else, it is believed for the time being, and the whole is tried again;
3. if all is of one source and still wrong, that source is named and left, and the next one is asked in the same way.

When the whole is right, every piece that was ever replaced by another says who was wrong.

Where a swarm may have written into what others had brought (distro/fetching/errand.py), that is compared with what it
was before anything is proven by it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from converters.errors import shown
from converters.running_digest import SHORT_BYTES
from distro.errors import SourceError, WrongBytesError
from distro.fetching.flusher import Flusher
from distro.fetching.front import Front
from distro.fetching.lane import Lane
from distro.fetching.piece_proof import PieceProof
from distro.fetching.transfer import Transfer
from distro.manifest import File
from distro.partial import Partial
from distro.pieces import Pieces, Received
from distro.progress import MeteredBar
from distro.proof.piece_hashes import PieceHashes
from distro.verify import Verdict, judge, strongest
from distro.words import size as in_words

_FIRST_BATCH = 16  # the part of all suspects that is looked into first; then twice as many each time
_MOST_REPAIRS = 2
_READ = 1 << 20


@dataclass(frozen=True)
class Gathered:
    """A file that is proven. sources: names of those it came from, an earlier run among them. hashes: of its pieces."""

    verdict: Verdict
    sha256: str
    sources: tuple[str, ...]
    hashes: PieceHashes | None


@dataclass
class Gathering:
    """One file on its way.

    pieces: of the part file. proof: by which they are judged when they come. leave: told of each lane that is of no
    more use for this file, and why. say: lines for people.
    """

    file: File
    partial: Partial
    pieces: Pieces
    lanes: Sequence[Lane]
    proof: PieceProof | None
    bar: MeteredBar
    leave: Callable[[Lane, SourceError | WrongBytesError], None]
    say: Callable[[str], None]
    _sha256: str = ""
    _is_wrong: bool = False  # all of it, from one lane
    _is_unproven: bool = False  # what was read to prove it is not what is here now
    _digests: dict[int, bytes] = field(default_factory=dict)  # SHA-256 of pieces
    _overruled: list[tuple[int, Received]] = field(default_factory=list)  # what others had said of a piece
    _n_shown: int = 0
    _n_verified: int = 0
    _noted: str = ""
    _came: Counter[str] = field(default_factory=Counter)
    _came_shown: Counter[str] = field(default_factory=Counter)

    def gather(self) -> Gathered | None:
        """The file, proven; None if no lane is left, with what came kept, or put aside if it is known to be wrong.

        Raises what the disk raises.
        """
        self._n_shown = self.pieces.n_bytes
        for lane in self.lanes:
            lane.begin()
        with Flusher(self.partial.sync) as self._flusher:
            return self._until_proven()

    def _until_proven(self) -> Gathered | None:
        n_tries = 0
        while (verdict := self._whole()) is not None:
            n_tries += 1
            if not verdict.is_right and n_tries <= _MOST_REPAIRS and (changed := self._changed_on_disk()):
                self._say_lost(len(changed))
                self._drop(changed)
                continue
            if not verdict.is_right:
                verdict = self._compare(verdict)
            if verdict is not None and verdict.is_right:
                return self._proven(verdict)
            if not self._live:
                break
        if self._is_wrong and not self._live:
            self.partial.quarantine()
        return None

    def _say_lost(self, n_pieces: int) -> None:
        what = "1 piece is not on the disk as it came; fetching that again"
        if n_pieces > 1:
            what = f"{n_pieces} pieces are not on the disk as they came; fetching those again"
        self.say(f"{shown(self.file.path)}: {what}")

    @property
    def _live(self) -> list[Lane]:
        return [lane for lane in self.lanes if lane.left is None]

    # Filling and proving

    def _whole(self) -> Verdict | None:
        """The verdict on the file, filled up from all lanes; None if they could not."""
        while (verdict := self._whole_once()) is None and self._is_unproven:
            pass
        return verdict

    def _whole_once(self) -> Verdict | None:
        """The same; None also where some of what the proof had read was overwritten or fetched again meanwhile."""
        kind, expected = strongest(self.file) or ("sha256", "")
        left_before = {number for number in self.pieces if number not in self._digests}
        lanes = self._live
        if self._is_unproven:  # once is enough
            lanes = [lane for lane in lanes if not lane.is_swarm] or lanes
        with Front(
            self.partial.read_into, self.pieces.size, {kind, "sha256"}, self.pieces.length, left_before.__contains__
        ) as front:
            if not self._fill(lanes, front):
                return None
            found = front.finish(lambda: self._tell(front))
            self._tell(front)
            self._digests.update(front.pieces)
        self._sha256 = found["sha256"]
        return judge(self.partial.path, kind, found.get(kind, "that of no bytes"), expected)

    def _fill(self, lanes: Sequence[Lane], front: Front | None = None) -> bool:
        """Whether all is here, and as it came."""
        transfer = Transfer(
            self.file, self.partial, self.pieces, lanes,
            proof=self.proof, say=self.say, arrived=front.reached if front else lambda n_bytes: None,
            spared=front.spare if front else lambda start: None,
        )  # fmt: skip
        try:
            is_here = transfer.run(lambda: self._tell(front, transfer))
        finally:
            self._came += transfer.received
            self._digests.update(transfer.digests)
            for lane, error in transfer.left:
                self.leave(lane, error)
        overwritten = [number for number in transfer.contested if not self._is_as_it_came(number)]
        if overwritten:
            self._say_lost(len(overwritten))
            self._drop(overwritten)
        self._is_unproven = is_here and (transfer.has_dropped or bool(overwritten))
        return is_here and not self._is_unproven

    def _tell(self, front: Front | None, transfer: Transfer | None = None) -> None:
        """Show how far it is; no number goes back."""
        if transfer is not None:
            n_more = max(0, transfer.n_here - self._n_shown)
            self._n_shown += n_more
            self.bar.advance(n_more)
            self._flusher.reached(self._n_shown)
            came = self._came + transfer.received
            for name, n_bytes in (came - self._came_shown).items():
                self.bar.came_from(name, n_bytes)
            self._came_shown = came
        if front is not None and (n_more := front.n_verified - self._n_verified) > 0:
            self._n_verified += n_more
            self.bar.verified(n_more)
        verified = f"verified {in_words(self._n_verified)}" if self._n_verified else ""
        note = ", ".join(filter(None, [*(lane.note for lane in self.lanes), verified]))
        if note != self._noted:
            self._noted = note
            self.bar.note(note)

    def _proven(self, verdict: Verdict) -> Gathered:
        names = {lane.tag: lane.name for lane in self.lanes}
        for sender, numbers in self._wrong_pieces().items():
            error = self._accusation(names.get(sender, "an earlier run"), numbers)
            guilty = [lane for lane in self._live if lane.tag == sender]
            for lane in guilty:
                lane.left = error
                self.leave(lane, error)
            if not guilty:
                self.say(str(error))
        senders = Counter(self.pieces[number].sender for number in self.pieces)
        sources = tuple(dict.fromkeys(names.get(sender, "an earlier run") for sender, _ in senders.most_common()))
        digests = b"".join(self._digests[number] for number in range(self.pieces.n))
        hashes = PieceHashes(self.pieces.size, self.pieces.length, self._sha256, digests)
        return Gathered(verdict, self._sha256, sources, hashes if self.pieces.n > 1 else None)

    # When the whole is wrong

    def _compare(self, verdict: Verdict) -> Verdict | None:
        """Ask one lane about the pieces of all others: the verdict after that; None if something is missing now.

        If there is nothing to ask, all is of that lane, which is wrong and left.
        """
        n_pieces = Counter(self.pieces[number].sender for number in self.pieces)
        lane = max(self._live, key=lambda lane: n_pieces[lane.tag], default=None)
        if lane is None:
            return verdict
        self._is_wrong = False
        suspects = [number for number in self.pieces if self.pieces[number].sender != lane.tag]
        if not suspects:
            lane.left = WrongBytesError(
                f"{self.file.path} from {lane.name}",
                verdict.kind or "file", verdict.found or "nothing", verdict.expected or "a file",
            )  # fmt: skip
            self.leave(lane, lane.left)
            self._is_wrong = True
            return verdict
        for batch in _batches(suspects):
            before = {number: self._as_it_is(number) for number in batch}
            self._drop(batch)
            if not self._fill([lane]):
                return None
            differing = [number for number in batch if self.pieces[number].digest != before[number].digest]
            self._overruled += [(number, before[number]) for number in differing]
            if differing and (found := self._whole()) is not None and found.is_right:
                return found
        return verdict

    def _as_it_is(self, number: int) -> Received:
        """A piece, with its digest even where nobody knows what it was when it came."""
        piece = self.pieces[number]
        return piece if piece.digest is not None else Received(self._digest_on_disk(number), piece.sender)

    def _wrong_pieces(self) -> dict[int, dict[int, str]]:
        """Now that all is right: who sent which pieces as something else, and as what."""
        found: dict[int, dict[int, str]] = {}
        for number, said in self._overruled:
            if said.digest is not None and said.digest != self.pieces[number].digest:
                found.setdefault(said.sender, {})[number] = said.digest.hex()
        return found

    def _accusation(self, name: str, said: dict[int, str]) -> WrongBytesError:
        number = min(said)
        start, stop = self.pieces.span(number)
        more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
        what = f"SHA-256 of bytes {start} to {stop - 1}{more}"
        right = self._digests[number][:SHORT_BYTES].hex()
        return WrongBytesError(f"{self.file.path} from {name}", what, f"{said[number]}…", f"{right}…")

    def _changed_on_disk(self) -> list[int]:
        """Pieces that are not what they were when they came, as after a power cut."""
        return [number for number in self.pieces if not self._is_as_it_came(number)]

    def _is_as_it_came(self, number: int) -> bool:
        """Whether a piece is on the disk as it came, as far as that is known."""
        digest = self.pieces[number].digest
        return digest is None or digest == self._digest_on_disk(number)

    def _digest_on_disk(self, number: int) -> bytes:
        start, stop = self.pieces.span(number)
        hasher, buffer = hashlib.sha256(), memoryview(bytearray(_READ))
        while start < stop and (n_read := self.partial.read_into(buffer[: stop - start], start)):
            hasher.update(buffer[:n_read])
            start += n_read
        return hasher.digest()[:SHORT_BYTES]

    def _drop(self, numbers: Collection[int]) -> None:
        for number in numbers:
            self.pieces.drop(number)
            self._digests.pop(number, None)


def _batches(numbers: list[int]) -> Iterator[list[int]]:
    """A few first, then ever more."""
    start, n = 0, max(1, len(numbers) // _FIRST_BATCH)
    while start < len(numbers):
        yield numbers[start : start + n]
        start, n = start + n, 2 * n
