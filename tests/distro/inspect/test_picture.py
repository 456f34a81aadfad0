"""The drawing, by its structure: what is where, how wide, in which colour."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from converters import dtypes
from converters.tensors import TensorInfo
from distro.inspect import picture
from distro.inspect.picture import COLOURS, OTHER, Piece, Row

SVG = "{http://www.w3.org/2000/svg}"


def _info(name: str, rows: int = 32, dtype: dtypes.DType = dtypes.F32) -> TensorInfo:
    return TensorInfo(name, dtype, (rows, 32))


def _rectangles(svg: str) -> list[tuple[float, float, float, str]]:
    """x, y, width and colour of each."""
    found = ET.fromstring(svg).iter(f"{SVG}rect")  # noqa: S314  our own
    return [
        (float(each.attrib["x"]), float(each.attrib["y"]), float(each.attrib["width"]), each.attrib["fill"])
        for each in found
    ]


def _texts(svg: str, kind: str) -> list[str | None]:
    found = ET.fromstring(svg).iter(f"{SVG}text")  # noqa: S314
    return [each.text for each in found if each.attrib["class"].split()[0] == kind]


def test_layers_are_found_by_any_name() -> None:
    names = ("blk.10.a", "blk.2.a", "output.weight", "blk.2.b")
    outside, layers = picture.rows(_info(name) for name in names)
    assert [(row.label, [piece.name for piece in row.pieces]) for row in layers] == [
        ("layer 2", ["a", "b"]), ("layer 10", ["a"]),
    ]  # fmt: skip
    assert [row.label for row in outside] == ["output.weight"]
    for prefix in ("model.layers.3.", "layers.3.", "transformer.h.3.", "encoder.block.3."):
        _, (row,) = picture.rows([_info(f"{prefix}w.weight")])
        assert (row.label, row.pieces[0].name) == ("layer 3", "w.weight")


def test_two_towers_keep_their_names() -> None:
    _, layers = picture.rows([_info("v.blk.0.a"), _info("a.blk.0.a"), _info("v.blk.1.a")])
    assert [row.label for row in layers] == ["a 0", "v 0", "v 1"]


def test_experts_are_drawn_together() -> None:
    infos = [_info(f"model.layers.0.mlp.experts.{i}.up.weight") for i in range(300)]
    _, (row,) = picture.rows([*infos, _info("model.layers.0.mlp.gate.weight")])
    assert row.pieces == (
        Piece("mlp.experts.*.up.weight", "F32", 300 * 4096, 300),
        Piece("mlp.gate.weight", "F32", 4096, 1),
    )


def test_many_tensors_outside_share_a_row() -> None:
    outside, layers = picture.rows(_info(f"odd{i}", i + 1) for i in range(15))
    assert [row.label for row in outside] == [*(f"odd{i}" for i in range(14, 2, -1)), "3 others"]
    assert layers == ()


def test_bars_are_as_wide_as_their_bytes() -> None:
    rows = (
        Row("layer 0", (Piece("a", "Q8_0", 300), Piece("b", "F32", 100))),
        Row("layer 1", (Piece("a", "Q8_0", 200),)),
    )
    svg = picture.bars(rows, {"Q8_0": "#111111", "F32": "#222222"}, "all")
    first, second, third = _rectangles(svg)
    assert first == (150, 23, 547.5, "#111111")  # 3/4 of the 730 that the longest row has
    assert second == (697.5, 23, 182.5, "#222222")
    assert third == (150, 43, 365, "#111111")
    assert _texts(svg, "label") == ["layer 0", "layer 1"]
    assert _texts(svg, "size") == ["400 B", "200 B"]
    assert _texts(svg, "tick") == ["0 B", "100 B", "200 B", "300 B", "400 B"]


@pytest.mark.parametrize(("n_layers", "height"), [(2, 66), (126, 1664)])
def test_it_grows_with_the_layers(n_layers: int, height: int) -> None:
    rows = tuple(Row(f"layer {i}", (Piece("a", "F32", 10),)) for i in range(n_layers))
    svg = picture.bars(rows, {"F32": "#111111"}, "all")
    assert ET.fromstring(svg).attrib["viewBox"] == f"0 0 960 {height}"  # noqa: S314
    assert len(_rectangles(svg)) == n_layers


def test_names_stand_once_for_layers_that_are_alike() -> None:
    wide = Row("layer", (Piece("ffn_up.weight", "F32", 900), Piece("norm", "F32", 1)))
    other = Row("layer", (Piece("ffn_gate.weight", "F32", 900),))
    svg = picture.bars((wide, wide, other), {"F32": "#111111"}, "all")
    assert _texts(svg, "on") == ["ffn_up", "ffn_gate"]


def test_what_is_too_thin_is_drawn_with_its_neighbour() -> None:
    row = Row("layer 0", (Piece("big", "F32", 10**9), *(Piece(f"n{i}", "F32", 1) for i in range(1000))))
    (rectangle,) = ET.fromstring(picture.bars((row,), {"F32": "#111111"}, "all")).iter(f"{SVG}rect")  # noqa: S314
    assert rectangle[0].text == "big …: F32, 1.0 GB, 1001 tensors"


def test_nothing_to_draw() -> None:
    assert _rectangles(picture.bars((), {}, "none")) == []
    assert _rectangles(picture.bars((Row("a", (Piece("a", "F32", 0),)),), {"F32": "#111111"}, "none"))[0][2] == 0


def test_colours_end_after_the_eighth_type() -> None:
    names = [f"T{i}" for i in range(10)]
    assert list(picture.colours(names).values()) == [*COLOURS, OTHER, OTHER]
    assert len(set(COLOURS)) == 8


def test_the_share_of_each_type() -> None:
    svg = picture.share(
        [Piece("Q4_K", "Q4_K", 750), Piece("F32", "F32", 250)], {"Q4_K": "#111111", "F32": "#222222"}, "t"
    )
    assert [(x, width) for x, _, width, _ in _rectangles(svg)] == [(0, 720), (720, 240)]
    assert _texts(svg, "on") == ["Q4_K", "F32"]


def test_text_of_a_file_is_no_markup() -> None:
    name = '<script>alert("1")</script>\x1b[2J\u202e'
    row = Row(name, (Piece(name, "F32", 10),))
    svg = picture.bars((row,), {"F32": "#111111"}, name)
    assert "<script" not in svg
    assert "\x1b" not in svg
    assert "\u202e" not in svg
    assert ET.fromstring(svg)[0].text == '<script>alert("1")</script>\\x1b[2J\\u202e'  # noqa: S314
