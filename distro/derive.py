"""One variant made from another: convert what a plan says, check that it still speaks, put it in place.

The result appears under its name whole and proven, or not at all; what was on the way when the run was killed is gone
on with by the next run of the same plan.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from converters import convert
from converters.checkpoint import Checkpoint
from converters.convert import Journal, Made, NoJournal
from converters.errors import RefusedError, shown
from converters.formats import FORMATS, open_checkpoint
from converters.plan import Plan
from distro import disk
from distro.digest import sha256_of
from distro.errors import MalformedManifestError, WrongBytesError
from distro.progress import Progress
from distro.proof.proofs import Proofs, Stamp, named
from distro.receipt import Entry, Receipt, now
from distro.store import Result, Store

if TYPE_CHECKING:
    from distro.runtime.check import Verdict


@dataclass(frozen=True)
class Derived:
    """What was made. path: its file or folder. verdict: None where nothing was checked, and made_before says why."""

    path: Path
    plan: Plan
    verdict: Verdict | None
    made_before: bool = False


class Feed(Protocol):
    """What brings a source while it is converted (`distro.arrive`)."""

    @property
    def origin(self) -> str:
        """What the source is called."""
        ...

    @property
    def known(self) -> Mapping[str, str]:
        """SHA-256 of the inputs, by name, as far as somebody published them."""
        ...

    def begin(self, journal: Journal, plan: Plan, path: Path) -> Journal:
        """Begin to bring what is needed. path: where the result is made. Gives the journal to tell of each block."""
        ...

    def give_up(self) -> None:
        """Let everybody go who waits."""
        ...


class CheckFailedError(RefusedError):
    """The result does not say what its source says; it was not kept."""


def made_by() -> str:
    """Who we are, for the provenance of a result."""
    return f"distro {version('weights-distro')}"


def base_name(source: Path, *, model: str | None, target: Path | None) -> str:
    """What the files of a result are called after: the place that was asked for, else the model, else its folder."""
    if target is not None and not target.is_dir():
        return target.name.removesuffix(".gguf")
    if model is not None:
        return model.rpartition("/")[2]  # of the hub's owner/name
    place = source.resolve() if source.name in ("", "..") else source
    return place.name if source.is_dir() else place.stem


def into_store(
    store: Store,
    checkpoint: Checkpoint,
    plan: Plan,
    model: str,
    variant: str,
    *,
    threads: int,
    check: bool,
    progress: Progress,
    feed: Feed | None = None,
    proofs: Proofs | None = None,
) -> Derived:
    """Make a variant of a model of the store, receipt and all.

    feed: what brings the inputs meanwhile. proofs: the memory of what was proven, to which the result is added.
    If it is there already from the same recipe and the same inputs, it is left as it is. Raises CannotCreateError if
    something else has its name, CheckFailedError, WrongBytesError if an input is no longer what its receipt says, and
    what `converters` raises.
    """
    target = store.folder(model, variant)
    proven = {**(feed.known if feed else _proven(store, checkpoint)), **plan.known_inputs}
    with store.lock(model, variant, waiting=lambda: progress.say("another distro is making this; waiting")):
        there = store.receipt(model, variant)
        if there is not None and _is_whole(there, target) and _is_of(there, checkpoint, plan, proven):
            with disk.told(target):
                disk.settle(target)
            return Derived(_path_in(target, plan), plan, None, made_before=True)
        with store.result(target, identity=_identity(checkpoint, plan)) as result:
            made = _convert(checkpoint, plan, result, proven, threads=threads, progress=progress, feed=feed)
            seen, seen_ns = {path: Stamp.of((result.path / path).stat()) for path in made.outputs}, time.time_ns()
            verdict = _checked(checkpoint, _path_in(result.path, plan), target) if check else None
            receipt = Receipt(
                model=model,
                variant=variant,
                format=plan.recipe.target,
                files=_entries(plan, made, f"made here from {feed.origin if feed else checkpoint.path.name}"),
                recipe=json.loads(plan.recipe.canonical()),
                inputs=made.inputs,
            ).to_bytes()
            result.create("receipt.json", len(receipt)).write_at(0, receipt)
            result.publish()
            if proofs is not None:
                digests = {path: {"sha256": sha256} for path, sha256 in made.outputs.items()}
                known = (named(target / path, seen[path], seen_ns, digests[path], None) for path in seen)
                proofs.remember(each for each in known if each is not None)
    return Derived(_path_in(target, plan), plan, verdict)


def into_path(
    store: Store,
    checkpoint: Checkpoint,
    plan: Plan,
    target: Path,
    *,
    threads: int,
    check: bool,
    progress: Progress,
    replace: bool = False,
    feed: Feed | None = None,
) -> Derived:
    """Make a file (a GGUF in one) or a folder (all else) at a place of the user's own.

    feed: what brings the inputs meanwhile. replace: a model that is at the place now gives way to the result, once
    that is proven. Raises RefusedError where the place is one of the inputs, in the store, or holds what is no model,
    and otherwise as `into_store`.
    """
    single_file = plan.recipe.target == "gguf" and len(plan.files) == 1
    if single_file and target.is_dir():
        target = target / plan.files[0].path
    refuse_inputs(checkpoint, target)
    store.refuse_inside(target)
    if replace and target.is_dir():
        _refuse_no_model(target)
    proven = {**(feed.known if feed else _proven(store, checkpoint)), **plan.known_inputs}
    identity = _identity(checkpoint, plan)
    with store.result(target, single_file=single_file, replace=replace, identity=identity) as result:
        _convert(checkpoint, plan, result, proven, threads=threads, progress=progress, feed=feed)
        verdict = None
        if check:
            verdict = _checked(checkpoint, result.path if single_file else _path_in(result.path, plan), target)
        result.publish()
    return Derived(target, plan, verdict)


def refuse_inputs(checkpoint: Checkpoint, target: Path) -> None:
    """Raise RefusedError if writing to target would write over what is being read, by any of its names."""
    if not target.exists():
        return
    for path in _input_paths(checkpoint):
        if target.samefile(path) or target.samefile(path.parent):
            raise RefusedError(f"{shown(str(target))}: is the input itself")


def _refuse_no_model(folder: Path) -> None:
    if any(folder.iterdir()) and not any(known.sniff(folder) for known in FORMATS):
        raise RefusedError(f"{shown(str(folder))}: holds no model, and is not replaced")


def _is_whole(receipt: Receipt, folder: Path) -> bool:
    return all(disk.length(folder / name) == entry.size for name, entry in receipt.files.items())


def _is_of(receipt: Receipt, checkpoint: Checkpoint, plan: Plan, proven: Mapping[str, str]) -> bool:
    """Whether a receipt is of the same recipe and the same inputs."""
    if receipt.recipe != json.loads(plan.recipe.canonical()):
        return False
    unknown = [path for path in _input_paths(checkpoint) if path.name not in proven]
    return receipt.inputs == {**proven, **{path.name: sha256_of(path) for path in unknown}}


def _input_paths(checkpoint: Checkpoint) -> list[Path]:
    return [*(file.path for file in checkpoint.files), *checkpoint.companions]


def _path_in(folder: Path, plan: Plan) -> Path:
    """What a user opens: the one file of a GGUF, or the folder."""
    return folder / plan.files[0].path if len(plan.files) == 1 else folder


def _identity(checkpoint: Checkpoint, plan: Plan) -> str:
    """SHA-256 of what is being made: the plan, and the inputs as far as they are known before they are read."""
    said = {
        "made by": made_by(),
        "recipe": plan.recipe.canonical(),
        "files": [(file.path, file.size, hashlib.sha256(file.head).hexdigest()) for file in plan.files],
        "blocks": [work.rows_in_a_block for work in plan.work],
        "inputs": [(file.path.name, *file.identity) for file in checkpoint.files],
        "companions": [(path.name, sha256_of(path)) for path in checkpoint.companions],
        "known": plan.known_inputs,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _convert(
    checkpoint: Checkpoint,
    plan: Plan,
    result: Result,
    proven: Mapping[str, str],
    *,
    threads: int,
    progress: Progress,
    feed: Feed | None = None,
) -> Made:
    for warning in (*checkpoint.warnings, *plan.warnings):
        progress.say(warning)
    if result.journal and result.journal.done:
        progress.say(f"going on: {len(result.journal.done)} blocks are done, and are looked at again")
    journal: Journal = result.journal or NoJournal()
    if feed is not None:
        journal = feed.begin(journal, plan, result.path)
    with progress.bar(f"convert to {plan.recipe.mix}", plan.size) as bar:
        made = convert.convert(
            checkpoint,
            plan,
            result,
            threads=threads,
            journal=journal,
            known=proven,
            advance=bar.advance,
            give_up=feed.give_up if feed else lambda: None,
        )
    for name, sha256 in proven.items():
        if made.inputs.get(name, sha256) != sha256:
            raise WrongBytesError(checkpoint.path.with_name(name), "sha256", made.inputs[name], sha256)
    return made


def _checked(checkpoint: Checkpoint, path: Path, target: Path) -> Verdict:
    """The verdict on a result. Raises CheckFailedError where it does not speak as its source does."""
    from distro.runtime.check import compare

    with open_checkpoint(path) as converted:
        verdict = compare(checkpoint, converted)
    if not verdict.passed:
        raise CheckFailedError(f"{shown(str(target))}: not kept, {'; '.join(verdict.failures)}")
    return verdict


def _entries(plan: Plan, made: Made, source: str) -> dict[str, Entry]:
    return {file.path: Entry(made.outputs[file.path], file.size, source, now()) for file in plan.files}


def _proven(store: Store, checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of each input that has a receipt in the store, by name."""
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    with suppress(MalformedManifestError):
        receipt = Receipt.read(folder / "receipt.json")
        if receipt is not None and store.folder(receipt.model, receipt.variant) == folder:
            names = {path.name for path in _input_paths(checkpoint)}
            return {name: entry.sha256 for name, entry in receipt.files.items() if name in names}
    return {}
