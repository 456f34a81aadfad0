"""A conversion as the command does it, from a path: open, plan, derive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters import plan
from converters.formats import open_checkpoint
from converters.imatrix import Imatrix
from converters.recipe import Recipe
from distro import derive
from distro.derive import Derived
from distro.progress import Silent
from distro.store import Store

_QUIETLY = {"threads": 1, "check": False, "progress": Silent()}


def into_store(
    store: Store, source: Path, recipe: Recipe, model: str, variant: str, imatrix: Imatrix | None = None, **wanted: Any
) -> Derived:
    made_by = wanted.pop("made_by", derive.made_by())
    with open_checkpoint(source) as checkpoint:
        made = plan.make(checkpoint, recipe, model, imatrix, made_by=made_by)
        return derive.into_store(store, checkpoint, made, model, variant, **{**_QUIETLY, **wanted})


def into_path(store: Store, source: Path, recipe: Recipe, target: Path, **wanted: Any) -> Derived:
    name = source.stem if target.is_dir() else target.name.removesuffix(".gguf")
    with open_checkpoint(source) as checkpoint:
        made = plan.make(checkpoint, recipe, name, made_by=derive.made_by())
        return derive.into_path(store, checkpoint, made, target, **{**_QUIETLY, **wanted})
