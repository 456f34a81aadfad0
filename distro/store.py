"""The only writer of model files. Nothing gets its final name before it is proven and on the disk.

    models/<model>/<variant>/<files…>     final names
    models/<model>/<variant>/receipt.json what they are, where they came from
    models/<model>/<variant>/.pieces/     SHA-256 of their pieces, each list under its own digest (piece_hashes.py)
    partial/<digest>.<owner>-<n>.part     one file that is arriving, and beside it .pieces, what of it is here
    partial/<digest>.wrong                what a source sent instead; kept for a look until `gc`
    partial/made-<digest>.<owner>-<n>     a folder or file that is being made, and beside it .journal, what is done
    partial/<digest>.swarm/               a swarm's own, until the part file has taken it over
    partial/locks/<name>.lock             held while a variant is fetched; saves bandwidth, proves nothing

and, in the folder `work` of `partial`, what a source needs while a variant arrives, such as a wheel: `<kind>-<digest>`.

The order is always: partial, verify, fsync, rename, fsync of the folder. A part file is named after the digest that it
is to have, so another version of a manifest never finds it by mistake, and after its writer (distro/owner.py).
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from converters.errors import RefusedError, shown
from distro import disk
from distro.disk import discard
from distro.errors import CannotCreateError, MalformedManifestError, StorageError
from distro.manifest import File
from distro.owner import CLAIMS, Owner
from distro.partial import Partial
from distro.paths import PARTS
from distro.pieces import identity_of, received
from distro.proof.piece_hashes import FOLDER as LISTS
from distro.proof.piece_hashes import PieceHashes, find_list
from distro.receipt import Receipt
from distro.result import Output, Result
from distro.verify import strongest

_DESERTED_S = 3600.0
_WAIT_S = 30.0  # between looks whether whoever holds a lock does anything

__all__ = ["Output", "Partial", "Result", "Store"]


class Store:
    """Models at rest and arriving, under one home. Makes folders only when something is written."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._models, self._partial = home / "models", home / "partial"

    def folder(self, model: str, variant: str) -> Path:
        """Where a variant lives. A hub's `owner/name` is one folder, `owner--name`."""
        return self._models / _component(model) / _component(variant)

    def receipt(self, model: str, variant: str) -> Receipt | None:
        """What is known to be here, or None. Raises MalformedManifestError for a receipt that breaks its rules."""
        return Receipt.read(self.folder(model, variant) / "receipt.json")

    def write_receipt(self, receipt: Receipt, lists: Iterable[PieceHashes] = ()) -> None:
        """lists: of piece hashes that the receipt names and that are not there yet."""
        folder = self.folder(receipt.model, receipt.variant)
        with disk.told(folder):
            disk.make_folder(folder)
            if (folder / LISTS).is_symlink():
                raise CannotCreateError(f"{shown(str(folder / LISTS))}: is a link to elsewhere; remove it by hand")
            if disk.is_file(folder / LISTS):
                (folder / LISTS).unlink()
            for each in lists:
                disk.make_folder(folder / LISTS)
                disk.write_whole(folder / LISTS / each.digest, each.encode())
            disk.write_whole(folder / "receipt.json", receipt.to_bytes())
            named = {entry.pieces for entry in receipt.files.values()}
            for path in (folder / LISTS).glob("*"):
                is_being_written = path.name.startswith(".")  # by another process
                if path.name not in named and not is_being_written and not path.is_dir():
                    path.unlink(missing_ok=True)

    def find_list(self, digest: str, sha256: str, size: int) -> PieceHashes | None:
        """A list of piece hashes that lies beside any receipt here."""
        paths = self._models.glob(f"*/*/{LISTS}/{digest}")
        found = (find_list(path.parent.parent, digest, sha256, size) for path in paths)
        return next((each for each in found if each is not None), None)

    def variants(self) -> Iterator[tuple[str, str]]:
        """(model, variant) of all that is here with a receipt, by name; a receipt that is not sound is passed over."""
        for path in sorted(self._models.glob("*/*/receipt.json")):
            with suppress(MalformedManifestError):
                receipt = Receipt.read(path)
                if receipt and self.folder(receipt.model, receipt.variant) == path.parent:
                    yield receipt.model, receipt.variant

    def partial(
        self, model: str, variant: str, file: File, *, beside: Path | None = None, fresh: bool = False
    ) -> Partial:
        """The part file of a file, with what an earlier run left unless it is to be fresh.

        beside: a target folder outside the home.
        """
        return Partial(self._area(beside), _key(model, variant, file), file.size, fresh=fresh)

    def result(
        self, target: Path, *, single_file: bool = False, replace: bool = False, identity: str | None = None
    ) -> Result:
        """Something made here, which appears at `target` whole or not at all.

        identity: SHA-256 of what it is, for something that a later run may go on with.
        Raises CannotCreateError if something is there already and is not to be replaced.
        """
        inside = target.is_relative_to(self.home)
        # Beside the target, because a rename does not cross file systems.
        prefix = f"made-{_digest(str(target))}" if inside else f".{target.name}"
        area = self._partial if inside else target.parent
        return Result(area, prefix, target, single_file=single_file, replace=replace, identity=identity)

    def refuse_inside(self, target: Path) -> None:
        """Raise RefusedError if a place that is meant to be the user's own is in the store, by whatever name."""
        if target.resolve().is_relative_to(self.home.resolve()):
            place = shown(str(target))
            raise RefusedError(
                f"{place}: is in the store, where everything has a receipt; choose a place outside of it"
            )

    def work(self, reference: str) -> Path:
        """A private folder for a source while a variant arrives; found again after a kill, gone with `discard_work`."""
        folder = self._work_of(reference)
        with disk.told(folder):
            disk.make_folder(folder, private=self._partial)
        return folder

    def discard_work(self, reference: str) -> None:
        shutil.rmtree(self._work_of(reference), ignore_errors=True)

    def _work_of(self, reference: str) -> Path:
        return self._partial / "work" / f"{reference.partition(':')[0]}-{_digest(reference)}"

    @contextmanager
    def lock(self, model: str, variant: str, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Held by one process at a time where locks work; `waiting` is called once if another holds it.

        Where locks do not work, or cannot be made, this is no lock at all, and nothing else depends on it. So after an
        hour in which nothing was written here, whoever holds it is not waited for any more: it may have been stopped,
        or be cut off from a shared disk.
        """
        import filelock

        path = self._partial / "locks" / f"{_component(model)}.{_component(variant)}.lock"
        lock = filelock.FileLock(path, mode=0o600)
        try:
            disk.make_folder(path.parent, private=self._partial)
            lock.acquire(blocking=False)
        except filelock.Timeout:
            waiting()
            began = time.monotonic()
            while time.monotonic() - began < _DESERTED_S or not self._is_deserted():
                with suppress(filelock.Timeout):
                    lock.acquire(timeout=_WAIT_S, poll_interval=0.1)
                    break
        except (OSError, NotImplementedError):  # read-only, or a file system without locks
            pass
        try:
            yield
        finally:
            lock.release()

    def lock_place(
        self, target: Path | None, *, waiting: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[None]:
        """The same for a folder of the user's own, so that no two variants come into it at once; None needs none."""
        return nullcontext() if target is None else self.lock("place", _digest(str(target.resolve())), waiting=waiting)

    def _is_deserted(self) -> bool:
        """Whether nothing that is arriving has been touched for long."""
        try:
            return all(time.time() - path.lstat().st_mtime > _DESERTED_S for path in self._partial.glob("*"))
        except FileNotFoundError:  # which somebody has just finished
            return False

    def received(self, model: str, variant: str, file: File, *, beside: Path | None = None) -> int:
        """Bytes of a file that an earlier run left, at its beginning or in pieces."""
        area, key = self._area(beside), _key(model, variant, file)
        identity = identity_of(key, file.size)
        return max((received(path, identity, file.size) for path in disk.named(area, f"{key}.", ".part")), default=0)

    def occupied(self, model: str, variant: str, file: File, *, beside: Path | None = None) -> int:
        """Bytes of the disk that a file takes already: as it was received, or as a swarm's data, which has holes."""
        swarm = self._area(beside) / f"{_key(model, variant, file)}.swarm" / "data"
        return max(self.received(model, variant, file, beside=beside), disk.allocated(swarm))

    def discard_left(self, model: str, variant: str, file: File, *, beside: Path | None = None) -> None:
        """Delete what earlier runs left of a file that is in its place now."""
        area = self._area(beside)
        for path in disk.named(area, f"{_key(model, variant, file)}."):
            if Owner.of(path) and CLAIMS.is_free(path.with_suffix(".part")):
                with suppress(CannotCreateError, StorageError):  # another user's
                    discard(path)
        if beside is not None:
            with suppress(OSError):  # only if nothing else is arriving
                area.rmdir()

    def remove(self, model: str, variant: str, files: tuple[File, ...] = (), sources: tuple[str, ...] = ()) -> int:
        """Delete a variant and what of it was arriving. Gives the bytes freed."""
        folder = self.folder(model, variant)
        freed = disk.size_of(folder) + sum(discard(left) for left in self._partial.glob("removed.*"))
        with disk.told(folder):
            if folder.is_symlink():
                raise CannotCreateError(f"{shown(str(folder))}: is a link to elsewhere; remove it by hand")
            if folder.exists():
                # Under another name first, so that a kill half-way leaves nothing that looks whole.
                gone = self._partial / f"removed.{CLAIMS.new_suffix()}"
                disk.make_folder(self._partial, private=self._partial)
                folder.replace(gone)
                disk.sync_folder(folder.parent)
                shutil.rmtree(gone)
                with suppress(OSError):  # the last variant of its model
                    folder.parent.rmdir()
            elif folder.parent.is_dir():
                disk.sync_folder(folder.parent)
        for file in files:
            freed += sum(map(discard, disk.named(self._partial, f"{_key(model, variant, file)}.")))
        for reference in sources:
            freed += discard(self._work_of(reference))
        return freed

    def collect(self) -> int:
        """Delete everything partial that no living process writes. Gives the bytes freed.

        Working folders of sources do not say whose they are; they stay while any variant is being fetched.
        """
        found = [path for path in sorted(self._partial.glob("*")) if path.name != "locks"]
        if not self._is_idle():
            found = [path for path in found if path.name != "work" and path.suffix != ".swarm"]
        return sum(map(discard, found))

    def _is_idle(self) -> bool:
        import filelock

        for path in (self._partial / "locks").glob("*.lock"):
            try:
                with filelock.FileLock(path, mode=0o600).acquire(blocking=False):
                    pass
            except (filelock.Timeout, OSError, NotImplementedError):
                return False
        return True

    def _area(self, beside: Path | None) -> Path:
        return self._partial if beside is None else beside / PARTS


def _key(model: str, variant: str, file: File) -> str:
    """What a part file is named after: the strongest digest known, else the place where it belongs."""
    if proof := strongest(file):
        kind, digest = proof
        return f"{kind}-{digest}"
    return f"name-{_digest('/'.join((model, variant, file.path)))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _component(name: str) -> str:
    """One folder name for a model or variant; the names themselves are judged where they come from."""
    flat = name.replace("/", "--")
    if not flat or flat.startswith(".") or "\0" in flat or len(flat.encode()) > 200:
        raise MalformedManifestError("store", "name", found=name, allowed="1 to 200 bytes without a leading dot")
    return flat
