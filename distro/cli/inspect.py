"""`distro inspect`: what is inside a model, here or elsewhere, from headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distro.cli import console

if TYPE_CHECKING:
    from distro.cli import Session
    from distro.inspect.inspection import Inspection


def inspect(
    context: typer.Context,
    reference: Annotated[
        str, typer.Argument(metavar="REF|PATH", help="A model, a file or folder, hf:owner/repo[:file], an address.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: everything there is.")] = False,
    as_html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Draw it: one page that needs no network.")
    ] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List the tensors: type, shape, bytes, offset.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="List the keys of the header.")] = False,
) -> None:
    """Look inside a model: format, shape, tensors, types, tokenizer, origin. Remote files are read by their headers."""
    from distro.inspect.inspection_facts import described
    from distro.inspect.whereabouts import inspect_reference

    session: Session = context.obj
    found = inspect_reference(session.settings, reference)
    if as_html is not None:
        _draw(session, found, as_html)
    if as_json:
        console.result_json(described(found))
    elif keys or tensors:
        if keys:
            _print_keys(found)
        if keys and tensors:
            console.result("")
        if tensors:
            _print_tensors(found)
    elif as_html is not None:
        console.result(str(as_html))
    else:
        _print_page(found)


def _draw(session: Session, found: Inspection, target: Path) -> None:
    from distro.inspect.inspection_page import page
    from distro.store import Store

    store = Store(session.settings.home)
    store.refuse_inside(target)
    data = page(found).encode("utf-8", "backslashreplace")
    with store.result(target.absolute(), single_file=True, replace=True) as result:
        result.create(target.name, len(data)).write_at(0, data)
        result.publish()


def _print_page(found: Inspection) -> None:
    from converters.errors import escape
    from distro.inspect.inspection_facts import facts
    from distro.inspect.inspection_page import notes

    for label, value in facts(found):
        console.result(f"{label:<12}  {escape(value)}".rstrip())
    console.result("")
    rows = [
        [
            count.dtype.name, f"{count.dtype.bits_per_weight:g}", str(count.n_tensors), f"{count.n_weights:,}",
            console.size(count.n_bytes),
        ]
        for count in found.types
    ]  # fmt: skip
    console.table(["type", "bits", "tensors", "weights", "size"], rows, right=[1, 2, 3, 4])
    if len(found.containers) > 1:
        console.result("")
        files = [[each.name, console.size(each.size), str(len(each.tensors))] for each in found.containers]
        console.table(["file", "size", "tensors"], files, right=[1, 2])
    for line in notes(found):
        console.result(f"note: {escape(line)}")


def _print_keys(found: Inspection) -> None:
    from distro.inspect.inspection_facts import value_text

    rows = [[name, key.type, value_text(key)] for each in found.containers for name, key in each.keys.items()]
    console.table(["key", "type", "value"], rows)


def _print_tensors(found: Inspection) -> None:
    from distro.inspect.inspection_facts import shape_text

    rows = [
        [info.name, info.dtype.name, shape_text(info.shape), str(info.n_bytes), str(offset), container.name]
        for container, info, offset in found.tensors
    ]
    console.table(["tensor", "type", "shape", "bytes", "offset", "file"], rows, right=[3, 4])
