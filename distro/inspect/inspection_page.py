"""An inspection as one HTML page that needs nothing else: no scripts, no fonts, nothing from the network."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence

from converters.errors import escape, shown
from distro.inspect import picture
from distro.inspect.inspection import Inspection
from distro.inspect.inspection_facts import facts, shape_text, value_text
from distro.inspect.picture import Piece
from distro.words import size

_MOST_ROWS = 5000  # of a table; a browser has enough to do with these

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5d6670; --line: #d8dde3; --paper: #fff; --card: #f6f8fa }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #98a2ad; --line: #333b44; --paper: #14181c; --card: #1b2127 }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1040px; padding: 2.5rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
       font: 15px/1.55 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; overflow-wrap: anywhere }
h2 { font-size: 1.05rem; margin: 2.4rem 0 .7rem }
.lead { color: var(--soft); margin: 0 0 1.6rem; font-size: 1.05rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.4rem; margin: 0; padding: 1rem 1.2rem;
     background: var(--card); border-radius: 8px }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
.note { border-left: 3px solid #d55e00; background: var(--card); margin: 1rem 0; padding: .6rem 1rem;
        overflow-wrap: anywhere }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; margin: .6rem 0; list-style: none;
          font-size: .88rem; color: var(--soft) }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .45em }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums }
th { text-align: left; color: var(--soft); font-weight: 500 }
th, td { padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
td { overflow-wrap: anywhere } .number { text-align: right }
.number, td:has(.swatch) { white-space: nowrap }
summary { cursor: pointer; font-weight: 600; margin: 2rem 0 .6rem }
svg { display: block; width: 100%; height: auto; margin: .3rem 0 1rem; font: 11px system-ui, sans-serif }
svg rect { stroke: var(--paper); stroke-width: .6 } svg rect:hover { opacity: .75 }
svg text { fill: var(--soft) } .label { text-anchor: end; fill: var(--ink) } .tick { text-anchor: middle }
.grid { stroke: var(--line) } svg text.on { text-anchor: middle; fill: #fff; pointer-events: none }
svg text.light { fill: #1b1f24 } .share text.on { font-size: 12px; font-weight: 600 } .share rect { stroke-width: 1.5 }
@media (max-width: 700px) { .bars { min-width: 640px } }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem }
"""


def page(found: Inspection) -> str:
    """The page, every text from a file escaped."""
    title = _text(found.name)
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    lead = f"{size(found.size)}, {found.n_weights:,} weights, {found.bits_per_weight:.2f} bits each"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8"/>',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f"<title>{title}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            f"<h1>{title}</h1>",
            f'<p class="lead">{lead}</p>',
            *(f'<p class="note">{_long_text(line)}</p>' for line in notes(found)),
            *_facts(found),
            *_pictures(found),
            *_tables(found),
            "<footer>Made by distro, from headers.</footer>",
            "</body>",
            "</html>",
            "",
        ]
    )


def notes(found: Inspection) -> tuple[str, ...]:
    """What is to be said before all else."""
    return ((f"cannot be converted: {found.note}",) if found.note else ()) + found.warnings


def _facts(found: Inspection) -> Iterator[str]:
    yield "<dl>"
    for label, value in facts(found):
        yield f"<dt>{_text(label)}</dt><dd>{_long_text(value)}</dd>"
    yield "</dl>"


def _pictures(found: Inspection) -> Iterator[str]:
    if not found.n_bytes:
        return
    names = [count.dtype.name for count in found.types]
    colour = picture.colours(names)
    parts = [Piece(count.dtype.name, count.dtype.name, count.n_bytes, count.n_tensors) for count in found.types]
    outside, layers = picture.rows(info for _, info, _ in found.tensors)
    yield "<h2>Types</h2>"
    yield picture.share(parts, colour, "bytes of all tensors by type")
    yield '<div class="scroll">'
    rows = [
        [
            count.dtype.name, f"{count.dtype.bits_per_weight:g}", f"{count.n_tensors:,}", f"{count.n_weights:,}",
            size(count.n_bytes), f"{100 * count.n_bytes / found.n_bytes:.1f} %",
        ]
        for count in found.types
    ]  # fmt: skip
    heads = ("type", "bits per weight", "tensors", "weights", "size", "share")
    yield from _table(heads, rows, numbers=range(1, 6), swatches=[colour[name] for name in names])
    yield "</div>"
    for heading, part in (("Layer by layer", layers), ("Outside the layers", outside)):
        if part:
            yield f"<h2>{heading}</h2>"
            yield from _legend({name: colour[name] for name in names if name in _types(part)})
            drawn = picture.bars(part, colour, f"{heading}: bytes of each tensor, coloured by type")
            yield f'<div class="scroll">{drawn}</div>'


def _types(rows: Sequence[picture.Row]) -> set[str]:
    return {piece.dtype for row in rows for piece in row.pieces}


def _legend(colour: dict[str, str]) -> Iterator[str]:
    yield '<ul class="legend">'
    for name, value in colour.items():
        yield f'<li><span class="swatch" style="background:{value}"></span>{_text(name)}</li>'
    yield "</ul>"


def _tables(found: Inspection) -> Iterator[str]:
    if len(found.containers) > 1:
        files = [[each.name, size(each.size), str(len(each.tensors))] for each in found.containers]
        yield from _folded("Files", ("file", "size", "tensors"), files, numbers=(1, 2))
    keys = [[name, key.type, value_text(key)] for each in found.containers for name, key in each.keys.items()]
    if keys:
        yield from _folded("Keys", ("key", "type", "value"), keys)
    tensors = [
        [info.name, info.dtype.name, shape_text(info.shape), f"{info.n_bytes:,}", f"{offset:,}"]
        for _, info, offset in found.tensors
    ]
    yield from _folded("Tensors", ("tensor", "type", "shape", "bytes", "offset"), tensors, numbers=(3, 4))


def _folded(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Iterable[int] = ()
) -> Iterator[str]:
    more = "" if len(rows) <= _MOST_ROWS else f", the first {_MOST_ROWS:,} of them; --json has all"
    yield f'<details><summary>{title} ({len(rows):,}{more})</summary><div class="scroll">'
    yield from _table(heads, rows[:_MOST_ROWS], numbers=numbers)
    yield "</div></details>"


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Iterable[int] = (), swatches: Sequence[str] = ()
) -> Iterator[str]:
    classes = [' class="number"' if i in set(numbers) else "" for i in range(len(heads))]
    yield "<table><thead><tr>"
    yield "".join(f"<th{kind}>{head}</th>" for kind, head in zip(classes, heads, strict=True))
    yield "</tr></thead><tbody>"
    for number, row in enumerate(rows):
        swatch = f'<span class="swatch" style="background:{swatches[number]}"></span>' if swatches else ""
        cells = [f"<td{kind}>{_text(cell)}</td>" for kind, cell in zip(classes, row, strict=True)]
        yield f"<tr>{''.join(cells).replace('<td>', f'<td>{swatch}', 1)}</tr>"
    yield "</tbody></table>"


def _text(text: str) -> str:
    return html.escape(shown(text))


def _long_text(text: str) -> str:
    return html.escape(escape(text))
