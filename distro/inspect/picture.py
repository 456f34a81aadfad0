"""A picture of sizes and types by layer: inline SVG, a row for each layer, its tensors side by side, coloured by type.

Tensors outside the layers (embedding, output, norms) have rows of their own, on a scale of their own: an embedding may
be thirty times as large as a layer. A tensor's name and size are in its tooltip.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from converters.errors import shown
from converters.tensors import TensorInfo
from distro.words import size

# Eight colours that also people who confuse red and green can tell apart (after Okabe and Ito), on white and on black.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b3a500", "#8a6fd1")
OTHER = "#8c8c8c"
_LIGHT = ("#e69f00", "#cc79a7", "#56b4e9", "#b3a500")  # those that take dark letters

# `blk.3.` in GGUF, `model.layers.3.`, `h.3.`, `encoder.block.3.` elsewhere; what stands before it is another tower.
_LAYER = re.compile(r"(?:(.*)\.)?(?:blk|layers?|h|blocks?)\.(\d{1,6})\.(.+)")
_WIDTH, _LABELS, _SIZES, _TOP = 960, 150, 80, 22  # units of the drawing: all, left of the bars, right of them, above
_BARS = _WIDTH - _LABELS - _SIZES
_MOST_OUTSIDE = 12
_LEAST_WIDTH = 0.4  # thinner tensors are drawn together


@dataclass(frozen=True)
class Piece:
    """A tensor in a row, or several that differ only in a number, such as experts."""

    name: str
    dtype: str
    n_bytes: int
    n_tensors: int = 1


@dataclass(frozen=True)
class Row:
    label: str
    pieces: tuple[Piece, ...]

    @property
    def n_bytes(self) -> int:
        return sum(piece.n_bytes for piece in self.pieces)


def rows(infos: Iterable[TensorInfo]) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """The rows outside the layers, the largest first, and those of the layers in order."""
    layers: dict[tuple[str, int], dict[tuple[str, str], Piece]] = {}
    outside: list[Piece] = []
    for info in infos:
        match = _LAYER.fullmatch(info.name)
        if match is None:
            outside.append(Piece(info.name, info.dtype.name, info.n_bytes))
            continue
        pieces = layers.setdefault((match[1] or "", int(match[2])), {})
        key = (re.sub(r"\d+", "*", match[3]) if re.search(r"\bexperts\.\d", match[3]) else match[3], info.dtype.name)
        before = pieces.get(key, Piece(*key, 0, 0))
        pieces[key] = Piece(*key, before.n_bytes + info.n_bytes, before.n_tensors + 1)
    outside.sort(key=lambda piece: -piece.n_bytes)
    few, rest = outside[:_MOST_OUTSIDE], outside[_MOST_OUTSIDE:]
    above = [Row(piece.name, (piece,)) for piece in few]
    if rest:
        above.append(Row(f"{len(rest)} others", tuple(rest)))
    towers = {tower for tower, _ in layers}
    return tuple(above), tuple(
        Row(f"layer {number}" if len(towers) == 1 else f"{tower} {number}".lstrip(), tuple(pieces.values()))
        for (tower, number), pieces in sorted(layers.items())
    )


def colours(types: Sequence[str]) -> dict[str, str]:
    """A colour for each type, given in order of their bytes; beyond the eighth all share one."""
    return {name: COLOURS[i] if i < len(COLOURS) else OTHER for i, name in enumerate(types)}


def bars(rows: Sequence[Row], colour: Mapping[str, str], title: str) -> str:
    """One bar a row, as wide as its bytes; all rows on one scale. title: what readers that cannot see are told."""
    height = 20 if len(rows) <= 40 else 13
    most = max((row.n_bytes for row in rows), default=0) or 1
    total = _TOP + height * len(rows) + 4
    drawn = [
        f'<svg class="bars" role="img" viewBox="0 0 {_WIDTH} {total}" xmlns="http://www.w3.org/2000/svg">',
        f"<title>{_text(title)}</title>",
        *_grid(most, total),
    ]
    before: list[str] = []
    for number, row in enumerate(rows):
        drawn += _bar(row, colour, most, _TOP + number * height, height)
        names = [piece.name for piece in row.pieces]
        if names != before and len(rows) > 1:  # once for all layers that are alike
            drawn += _names(row, colour, most, _TOP + number * height + height / 2 + 3.5)
        before = names
    return "\n".join([*drawn, "</svg>"])


def share(parts: Sequence[Piece], colour: Mapping[str, str], title: str) -> str:
    """One bar over the whole width: what takes which part of all bytes."""
    total = sum(part.n_bytes for part in parts) or 1
    drawn = [
        f'<svg class="share" role="img" viewBox="0 0 {_WIDTH} 26" xmlns="http://www.w3.org/2000/svg">',
        f"<title>{_text(title)}</title>",
    ]
    x = 0.0
    for part in parts:
        width = _WIDTH * part.n_bytes / total
        drawn.append(_rectangle(x, 0, width, 26, colour[part.dtype], _told(part)))
        drawn += _written(part.dtype, x, width, 17.5, colour[part.dtype])
        x += width
    return "\n".join([*drawn, "</svg>"])


def _grid(most: int, bottom: int) -> Iterable[str]:
    """Lines at round numbers of bytes, with the numbers above."""
    step = next(step for power in range(19) for step in (10**power, 2 * 10**power, 5 * 10**power) if most / step <= 6)
    for n_bytes in range(0, most + 1, step):
        x = _LABELS + _BARS * n_bytes / most
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{bottom}"/>'
        yield f'<text class="tick" x="{x:.1f}" y="{_TOP - 9}">{_text(size(n_bytes).replace(".0 ", " "))}</text>'


def _bar(row: Row, colour: Mapping[str, str], most: int, top: int, height: int) -> Iterable[str]:
    middle = top + height / 2 + 3.5
    yield f'<text class="label" x="{_LABELS - 8}" y="{middle:.1f}">{_text(_short(row.label))}</text>'
    x = float(_LABELS)
    for piece in _merged(row.pieces, most):
        width = _BARS * piece.n_bytes / most
        yield _rectangle(x, top + 1, width, height - 2, colour[piece.dtype], _told(piece))
        x += width
    yield f'<text class="size" x="{x + 6:.1f}" y="{middle:.1f}">{_text(size(row.n_bytes))}</text>'


def _names(row: Row, colour: Mapping[str, str], most: int, y: float) -> Iterable[str]:
    """What the tensors of a row are called, in those that have room for it."""
    x = float(_LABELS)
    for piece in _merged(row.pieces, most):
        width = _BARS * piece.n_bytes / most
        if row.label != piece.name:
            yield from _written(piece.name.removesuffix(".weight"), x, width, y, colour[piece.dtype])
        x += width


def _written(text: str, x: float, width: float, y: float, colour: str) -> Iterable[str]:
    """Letters in the middle of a rectangle, if they fit in."""
    if width > 7 * len(text) + 6:
        kind = "on light" if colour in _LIGHT else "on"
        yield f'<text class="{kind}" x="{x + width / 2:.1f}" y="{y:.1f}">{_text(text)}</text>'


def _merged(pieces: Sequence[Piece], most: int) -> list[Piece]:
    """Neighbours of one type drawn as one where they are too thin to be seen."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        thin = _BARS * piece.n_bytes / most < _LEAST_WIDTH
        if last is not None and thin and last.dtype == piece.dtype:
            name = last.name if last.name.endswith(" …") else f"{last.name} …"
            merged[-1] = Piece(name, piece.dtype, last.n_bytes + piece.n_bytes, last.n_tensors + piece.n_tensors)
        else:
            merged.append(piece)
    return merged


def _rectangle(x: float, y: float, width: float, height: float, colour: str, told: str) -> str:
    box = f'x="{x:.2f}" y="{y:g}" width="{width:.2f}" height="{height:g}"'
    return f'<rect {box} fill="{colour}"><title>{_text(told)}</title></rect>'


def _told(piece: Piece) -> str:
    several = f", {piece.n_tensors} tensors" if piece.n_tensors > 1 else ""
    return f"{piece.name}: {piece.dtype}, {size(piece.n_bytes)}{several}"


def _short(label: str) -> str:
    """The end of a long name, which tells more than its beginning."""
    return label if len(label) <= 22 else "…" + label[-21:]


def _text(text: str) -> str:
    """Text of a file, for a page: what steers is spelled out, what is markup is quoted."""
    return html.escape(shown(text))
