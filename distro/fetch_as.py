"""The story of a fetch that converts: the model is fetched and converted at the same time, and only the result stays.

Where no source can be read in parts (a torrent, a package), or the model is here already, the one follows the other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from converters import plan
from converters.errors import shown
from converters.formats import open_checkpoint
from converters.formats.gguf_shards import prefix_of
from converters.recipe import Recipe
from distro import derive, disk
from distro.arrive import Arrival, ArrivingFeed, arriving
from distro.catalog import Resolved
from distro.config import Settings
from distro.derive import Derived
from distro.errors import CannotCreateError, NotFoundError, UsageError
from distro.fetch import fetch
from distro.lookup import Stored
from distro.manifest import Model, Variant
from distro.manners.choice import EVERYTHING, Choice
from distro.progress import Progress
from distro.proof.proofs import Proofs
from distro.store import Store


def fetch_as(
    settings: Settings,
    resolved: Resolved,
    mix: str,
    *,
    wanted: Choice = EVERYTHING,
    target: Path | None = None,
    folder: Path | None = None,
    peers: Sequence[tuple[str, int]] = (),
    discard_source: bool = False,
    threads: int = 0,
    progress: Progress,
) -> Derived:
    """Bring a variant and make another of it, as `distro.derive` does.

    mix: a type such as "q4_k_m". wanted: of a repository with several models, the files of one. target: a file to make
    instead of a variant of the store. folder: one to look in before any other source. discard_source: free each shard
    when it is converted, and all of the source in the end; then each tensor is held against its source before that
    goes, and logits are not compared. threads: 0 for one on each core. Raises UsageError where the result would have
    the name of something published, CannotCreateError where it is there already, and what `fetch` and `derive` raise.
    """
    model, store, recipe = resolved.model, Store(settings.home), Recipe("gguf", mix)
    variant = replace(resolved.variant, files=tuple(file for file in resolved.variant.files if wanted(file.path)))
    if not variant.files:
        raise NotFoundError(f"{resolved}: no file matches {shown(str(wanted))}")
    if target is None and model.variant(recipe.mix) is not None:
        raise UsageError(f"{model.name}:{recipe.mix} is published under that name; fetch that, or say -o FILE")
    if target is not None and disk.is_taken(target) and not target.is_dir():
        raise CannotCreateError(f"{shown(str(target))}: is there already")

    def bring() -> None:
        fetch(settings, model, resolved.variant, wanted=wanted, progress=progress, folder=folder, peers=peers)

    with ExitStack() as stack:
        feed = None
        arrival = Arrival(settings, model, resolved.variant, discards=discard_source, progress=progress, peers=peers)
        try:
            is_near = folder is not None or _is_here(store, model, variant)
            checkpoint = None if is_near else stack.enter_context(arriving(settings, model, variant, arrival))
        except NotFoundError as error:
            progress.say(f"{error}; converting after it is here")
            checkpoint = None
        if checkpoint is not None:
            feed = ArrivingFeed(arrival, checkpoint)
        else:
            bring()
            checkpoint = stack.enter_context(open_checkpoint(_path_of(store, model, variant)))
        base = derive.base_name(checkpoint.path, model=model.name, target=target)
        made = plan.make(checkpoint, recipe, base, made_by=derive.made_by())
        threads, check = threads or os.cpu_count() or 1, feed is None or not discard_source
        if target is not None:
            derived = derive.into_path(
                store, checkpoint, made, target, threads=threads, check=check, progress=progress, feed=feed
            )
        else:
            name, variant_name = model.name, recipe.mix
            derived = derive.into_store(
                store, checkpoint, made, name, variant_name,
                threads=threads, check=check, progress=progress, feed=feed, proofs=Proofs(settings.state_folder),
            )  # fmt: skip
    if discard_source:
        _discard(store, model, variant)
    else:
        bring()  # what the conversion had no use for
    return derived


def _path_of(store: Store, model: Model, variant: Variant) -> Path:
    """What to open of a variant that was fetched: the GGUF that was wanted, whatever lies beside it, or as always."""
    receipt, place = store.receipt(model.name, variant.name), store.folder(model.name, variant.name)
    if receipt is None:
        raise NotFoundError(f"{model.name}:{variant.name}: was fetched, and has no receipt")
    models = {prefix_of(file.path): file.path for file in reversed(variant.files) if file.path.endswith(".gguf")}
    return place / next(iter(models.values())) if len(models) == 1 else Stored(place, receipt, None).path


def _is_here(store: Store, model: Model, variant: Variant) -> bool:
    """Whether all of it was fetched before."""
    receipt, place = store.receipt(model.name, variant.name), store.folder(model.name, variant.name)
    names = [file.path for file in variant.files]
    return receipt is not None and all(name in receipt.files and (place / name).exists() for name in names)


def _discard(store: Store, model: Model, variant: Variant) -> None:
    """Delete the source, and no files of the same variant that were fetched for something else."""
    receipt, place = store.receipt(model.name, variant.name), store.folder(model.name, variant.name)
    ours = {file.path for file in variant.files}
    others = {} if receipt is None else {name: entry for name, entry in receipt.files.items() if name not in ours}
    if receipt is None or not others:
        store.remove(model.name, variant.name, variant.files, variant.sources)
        return
    store.write_receipt(replace(receipt, files=others))
    for name in ours:
        with disk.told(place / name):
            (place / name).unlink(missing_ok=True)
