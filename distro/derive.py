"""One variant made from another: plan, convert, check that it still speaks, put in place.

The result appears under its name whole and proven, or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from converters import convert, plan
from converters.checkpoint import Checkpoint
from converters.errors import RefusedError, shown
from converters.formats import open_checkpoint
from converters.imatrix import Imatrix
from converters.plan import Plan
from converters.recipe import Recipe
from distro.digest import sha256_of
from distro.progress import Progress
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


class CheckFailedError(RefusedError):
    """The result does not say what its source says; it was not kept."""


def into_store(
    store: Store,
    source: Path,
    recipe: Recipe,
    model: str,
    variant: str,
    *,
    threads: int,
    check: bool,
    progress: Progress,
    imatrix: Imatrix | None = None,
) -> Derived:
    """Make a variant of a model of the store, receipt and all. imatrix: the importance matrix that the recipe names.

    If it is there already from the same recipe and the same inputs, it is left as it is. Raises CannotCreateError if
    something else has its name, CheckFailedError, and what `converters` raises.
    """
    target = store.folder(model, variant)
    with open_checkpoint(source) as checkpoint:
        made = plan.make(checkpoint, recipe, model, imatrix)
        inputs = _inputs(store, checkpoint, imatrix)
        if _is_the_same(store.receipt(model, variant), recipe, inputs):
            return Derived(_path_in(target, made), made, None, made_before=True)
        with store.result(target) as result:
            verdict = _fill(checkpoint, made, result, threads=threads, check=check, progress=progress)
            receipt = Receipt(
                model=model,
                variant=variant,
                format=recipe.target,
                files=_entries(result, made, f"made here from {source.name}"),
                recipe=json.loads(recipe.canonical()),
                inputs=inputs,
            ).to_bytes()
            result.create("receipt.json", len(receipt)).write_at(0, receipt)
            result.publish()
    return Derived(_path_in(target, made), made, verdict)


def _is_the_same(receipt: Receipt | None, recipe: Recipe, inputs: Mapping[str, str]) -> bool:
    if receipt is None:
        return False
    return receipt.recipe == json.loads(recipe.canonical()) and receipt.inputs == inputs


def _path_in(folder: Path, made: Plan) -> Path:
    """What a user opens: the one file of a GGUF, or the folder."""
    return folder / made.files[0].path if len(made.files) == 1 else folder


def into_path(
    store: Store,
    source: Path,
    recipe: Recipe,
    target: Path,
    *,
    threads: int,
    check: bool,
    progress: Progress,
    imatrix: Imatrix | None = None,
) -> Derived:
    """Make a file (GGUF) or a folder (safetensors) at a place of the user's own.

    Raises RefusedError where the place is one of the inputs, and otherwise as `into_store`.
    """
    with open_checkpoint(source) as checkpoint:
        made = plan.make(checkpoint, recipe, target.name.removesuffix(".gguf"), imatrix)
        single_file = recipe.target == "gguf"
        if single_file and target.is_dir():
            target = target / made.files[0].path
        refuse_inputs(checkpoint, target)
        with store.result(target, single_file=single_file) as result:
            verdict = _fill(checkpoint, made, result, threads=threads, check=check, progress=progress)
            result.publish()
    return Derived(target, made, verdict)


def refuse_inputs(checkpoint: Checkpoint, target: Path) -> None:
    """Raise RefusedError if writing to target would write over what is being read, by any of its names."""
    if not target.exists():
        return
    for file in checkpoint.files:
        if target.samefile(file.path) or target.samefile(file.path.parent):
            raise RefusedError(f"{shown(str(target))}: is the input itself")


def _fill(
    checkpoint: Checkpoint, made: Plan, result: Result, *, threads: int, check: bool, progress: Progress
) -> Verdict | None:
    for warning in (*checkpoint.warnings, *made.warnings):
        progress.say(warning)
    with progress.bar(f"convert to {made.recipe.mix}", made.size) as bar:
        convert.convert(checkpoint, made, result, threads=threads, advance=bar.advance)
    if not check:
        return None
    from distro.runtime.check import compare

    with open_checkpoint(result.path if result.path.is_file() else _path_in(result.path, made)) as converted:
        verdict = compare(checkpoint, converted)
    if not verdict.passed:
        raise CheckFailedError(f"{shown(str(result.target))}: not kept, {'; '.join(verdict.failures)}")
    return verdict


def _entries(result: Result, made: Plan, source: str) -> dict[str, Entry]:
    return {file.path: Entry(sha256_of(result.path / file.path), file.size, source, now()) for file in made.files}


def _inputs(store: Store, checkpoint: Checkpoint, imatrix: Imatrix | None) -> dict[str, str]:
    """SHA-256 of every file that was read, out of the receipt where the store has one for it."""
    known: dict[Path, str] = {}
    for model, variant in store.variants():
        folder, receipt = store.folder(model, variant), store.receipt(model, variant)
        if receipt and checkpoint.path.is_relative_to(folder):
            known = {folder / name: entry.sha256 for name, entry in receipt.files.items()}
    files = {file.path.name: known.get(file.path) or sha256_of(file.path) for file in checkpoint.files}
    return files | _imatrix_input(imatrix)


def _imatrix_input(imatrix: Imatrix | None) -> dict[str, str]:
    if imatrix is None or imatrix.path is None or imatrix.sha256 is None:
        return {}
    return {f"imatrix/{imatrix.path.name}": imatrix.sha256}  # a slash, which no file's name has
