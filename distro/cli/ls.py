"""`distro ls`: what is known, and what is here."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Annotated

import typer

from distro.cli import console

if TYPE_CHECKING:
    from distro.cli import Session
    from distro.manifest import Family, Model
    from distro.receipt import Receipt

_MOST_NAMES = 4  # of variants in a line


def ls(
    context: typer.Context,
    here: Annotated[bool, typer.Option("--here", help="Only what is on this disk, one line a variant.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models that manifests describe, and what is here."""
    if here:
        _list_here(context.obj, as_json=as_json)
    else:
        _list_known(context.obj, as_json=as_json)


def _list_known(session: Session, *, as_json: bool) -> None:
    from distro import catalog
    from distro.store import Store

    present: dict[str, list[str]] = defaultdict(list)
    for model, variant in Store(session.settings.home).variants():
        present[model].append(variant)
    known = list(catalog.load(session.settings).models())
    unlisted = sorted(present.keys() - {model.name for _, model in known})
    if as_json:
        models = [_described(family, model, present[model.name]) for family, model in known]
        models += [{"model": name, "here": present[name]} for name in unlisted]
        console.result_json({"schema": "distro-ls/1", "models": models})
        return
    rows = [
        [
            model.name,
            count(model.parameters),
            _few([variant.name for variant in model.variants]),
            " ".join(present[model.name]) or "-",
            license_of(family),
        ]
        for family, model in known
    ]
    rows += [[name, "?", "-", " ".join(present[name]), "?"] for name in unlisted]
    console.table(["model", "parameters", "variants", "here", "licence"], rows, right=[1])


def _list_here(session: Session, *, as_json: bool) -> None:
    from distro.store import Store

    store = Store(session.settings.home)
    found = []
    for model, variant in store.variants():
        receipt = store.receipt(model, variant)
        if receipt is not None:
            found.append((receipt, store.folder(model, variant)))
    if as_json:
        variants = [
            {
                "model": receipt.model,
                "variant": receipt.variant,
                "format": receipt.format,
                "size": receipt.size,
                "files": len(receipt.files),
                "missing": len(receipt.missing),
                "made_here": receipt.recipe is not None,
                "path": str(folder),
            }
            for receipt, folder in found
        ]
        console.result_json({"schema": "distro-ls-here/1", "variants": variants})
        return
    rows = [
        [
            f"{receipt.model}:{receipt.variant}",
            receipt.format,
            console.size(receipt.size),
            _n_files(receipt),
            "made here" if receipt.recipe is not None else "fetched",
            str(folder),
        ]
        for receipt, folder in found
    ]
    console.table(["variant", "format", "size", "files", "from", "folder"], rows, right=[2, 3])


def _n_files(receipt: Receipt) -> str:
    """`12`, or `7 of 12` where a fetch ended before it had all."""
    n_here, n_missing = len(receipt.files), len(receipt.missing)
    return f"{n_here} of {n_here + n_missing}" if n_missing else f"{n_here}"


def _described(family: Family, model: Model, here: list[str]) -> dict[str, object]:
    return {
        "model": model.name,
        "aliases": list(model.aliases),
        "family": family.name,
        "parameters": model.parameters or None,
        "architecture": model.architecture or None,
        "default": model.default,
        "variants": [
            {"name": variant.name, "format": variant.format, "size": variant.size, "gated": variant.gated}
            for variant in model.variants
        ],
        "here": here,
        "license": {
            "id": family.license.id,
            "url": family.license.url,
            "redistribution": family.license.redistribution,
        },
    }


def count(parameters: int) -> str:
    """Weights as people name models: `135M`, `6.7B`; `?` for 0."""
    if not parameters:
        return "?"
    if parameters < 999_500_000:
        return f"{parameters / 1e6:.0f}M"
    return f"{parameters / 1e9:.1f}B"


def license_of(family: Family) -> str:
    """The licence's name, and whether it limits sharing."""
    word = {"allowed": "", "conditions": " (conditions)", "forbidden": " (do not share)"}
    return family.license.id + word[family.license.redistribution]


def _few(names: list[str]) -> str:
    """The first names, and how many there are in all."""
    more = f" … {len(names)}" if len(names) > _MOST_NAMES else ""
    return " ".join(names[:_MOST_NAMES]) + more
