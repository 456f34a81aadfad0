"""The main job for programs, in three functions: what the command line does, with its settings, without its words.

Every error is one of `distro.errors` or `converters.errors`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from distro import config
from distro.errors import NotPermittedError
from distro.progress import Progress, Silent

if TYPE_CHECKING:
    from distro.runtime.model import Model


def fetch(
    reference: str,
    *,
    accept_license: str = "",
    settings: config.Settings | None = None,
    progress: Progress | None = None,
) -> Path:
    """Bring a model here, proven, and say where it is: its file if it has but one, else its folder.

    reference: whatever `distro fetch` takes. What is here already is not fetched again. accept_license: identifier of
    the licence that your user agrees to, as `distro show` names it; it is recorded, once, as by `--accept-license`.
    Nobody is ever asked: raises NotPermittedError for a licence that has to be agreed to and was not, UsageError for
    the identifier of another.
    """
    from distro import fetch as fetching
    from distro.lookup import wanted
    from distro.manners.consent import described, unanswered

    settings = settings or config.load()
    found = wanted(settings, reference, progress=progress)
    if (terms := unanswered(settings, found.family, str(found), accept_license)) is not None:
        why = f"is under {described(terms)}; nobody agreed to it yet; accept_license={terms.id!r} does"
        raise NotPermittedError(str(found), why)
    return fetching.fetch(settings, found.model, found.variant, progress=progress or Silent())


def convert(
    source: Path | str,
    quant: str,
    target: Path | str,
    *,
    to: str = "gguf",
    imatrix: Path | str | None = None,
    replace: bool = False,
    check: bool = True,
    threads: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Convert a file or a folder into a file (to="gguf") or a folder (to="safetensors", "bin", "pth", "mistral").

    quant: a type such as "q8_0", "f16". imatrix: an importance matrix. replace: whether a result may take the place of
    what is at target. threads: 0 for one on each core. A result that fails its check is not kept, and one that was
    interrupted is gone on with by the same call.
    """
    from converters import imatrix as matrices
    from converters import plan
    from converters.formats import open_checkpoint
    from converters.recipe import Recipe
    from distro import derive
    from distro.store import Store

    target, weighing = Path(target), None if imatrix is None else matrices.read(Path(imatrix))
    recipe = Recipe(to, quant, imatrix=weighing.sha256 if weighing else None)
    with open_checkpoint(Path(source)) as checkpoint:
        made = derive.into_path(
            Store(config.load().home),
            checkpoint,
            plan.make(checkpoint, recipe, target.name.removesuffix(".gguf"), weighing, made_by=derive.made_by()),
            target,
            threads=threads or os.cpu_count() or 1,
            check=check,
            progress=progress or Silent(),
            replace=replace,
        )
    return made.path


def open_model(path: Path | str) -> Model:
    """A model that answers, in the reference runtime: `open_model(path).answer("What is the capital of France?")`."""
    from distro.runtime.model import Model

    return Model.open(path)
