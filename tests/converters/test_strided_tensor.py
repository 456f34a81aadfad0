"""Matrices whose weights lie apart: numpy's own views as judge, whatever the rows that are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import dtypes, strided_tensor
from converters.input_file import InputFile
from converters.strided_tensor import StridedTensor
from converters.tensors import TensorInfo

WHOLE = np.arange(1, 60 * 50 + 1, dtype=np.uint16).reshape(60, 50)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("strided") / "w"
    path.write_bytes(b"head" + WHOLE.tobytes())
    return path


def over(file: InputFile, view: np.ndarray) -> StridedTensor:
    """The tensor that is this view of WHOLE."""
    first = (view.__array_interface__["data"][0] - WHOLE.__array_interface__["data"][0]) // 2
    strides = (view.strides[0] // 2, view.strides[1] // 2)
    return StridedTensor(TensorInfo("w", dtypes.F16, view.shape), file, 4 + 2 * first, strides)


VIEWS = {
    "transposed": WHOLE.T,
    "columns": WHOLE[:, 7:20],
    "rows of the transposed": WHOLE.T[3:9, 5:],
    "every third row": WHOLE[::3],
    "one column": WHOLE[:, 3:4],
    "one row": WHOLE.T[3:4],
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("tile_bytes", [2, 64, 700, 1 << 20])
def test_rows_in_any_pieces_are_numpys(path: Path, name: str, tile_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strided_tensor, "_TILE_BYTES", tile_bytes)
    view = VIEWS[name]
    with InputFile(path) as file:
        tensor = over(file, view)
        for step in (1, 4, len(view)):
            rows = [tensor.read_rows(start, min(start + step, len(view))) for start in range(0, len(view), step)]
            assert all(each.shape[1] == view.shape[1] * 2 for each in rows)
            assert np.concatenate(rows).tobytes() == view.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_part_of_either_order_is_numpys(path: Path, data: st.DataObject) -> None:
    whole = WHOLE.T if data.draw(st.booleans()) else WHOLE
    top, left = data.draw(st.integers(0, whole.shape[0] - 1)), data.draw(st.integers(0, whole.shape[1] - 1))
    view = whole[top : data.draw(st.integers(top + 1, whole.shape[0])), left:]
    start = data.draw(st.integers(0, len(view) - 1))
    stop = data.draw(st.integers(start + 1, len(view)))
    with InputFile(path) as file:
        assert over(file, view).read_rows(start, stop).tobytes() == view[start:stop].tobytes()


def test_a_read_spans_a_tile_and_no_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strided_tensor, "_TILE_BYTES", 1000)
    with InputFile(path) as file:
        lengths: list[int] = []
        read_array = file.read_array
        monkeypatch.setattr(file, "read_array", lambda at, n, field: (lengths.append(n), read_array(at, n, field))[1])
        over(file, WHOLE.T).read_rows(0, 50)
    assert max(lengths) <= 1000
    assert sum(lengths) == WHOLE.nbytes  # nothing twice


def test_where_it_lies_is_said(path: Path) -> None:
    with InputFile(path) as file:
        tensor = over(file, WHOLE.T[3:])
        assert (tensor.origin, tensor.position) == ("w: w", ("w", 4 + 2 * 3))
