"""Importance matrices: both forms byte by byte, every lie that they can tell, and what a conversion does with them."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import dtypes, imatrix, quants
from converters import plan as planning
from converters.checkpoint import Checkpoint
from converters.convert import convert, make_rows
from converters.errors import MalformedError, RefusedError, UnsupportedError
from converters.imatrix import Entry, Imatrix
from converters.layout import OutputFile, PlacedTensor
from converters.plan import Work
from converters.recipe import Recipe
from converters.tensors import TensorInfo
from tests.fakes import ggml, memory_llama
from tests.fakes.gguf_bytes import F16, Gguf, int32s, string, strings, tensor, uint32
from tests.fakes.memory_sink import MemorySink

GATE, EXPERTS = "blk.0.ffn_gate.weight", "blk.0.ffn_up_exps.weight"


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 32)


# A plain matrix of 4 columns that saw 8 tokens; two experts of 2 columns, of which the text never reached the first.
KEYS = {
    "type": string("general.type", "imatrix"),
    "datasets": strings("imatrix.datasets", ["wiki.txt"]),
    "chunk_count": uint32("imatrix.chunk_count", 2),
    "chunk_size": uint32("imatrix.chunk_size", 4),
}
TENSORS = {
    GATE + ".in_sum2": tensor(GATE + ".in_sum2", (4,), 0, 0),
    GATE + ".counts": tensor(GATE + ".counts", (1,), 0, 32),
    EXPERTS + ".in_sum2": tensor(EXPERTS + ".in_sum2", (2, 2), 0, 64),
    EXPERTS + ".counts": tensor(EXPERTS + ".counts", (1, 2), 0, 96),
}
DATA = padded(floats(8, 4, 0, 1)) + padded(floats(8)) + padded(floats(0, 0, 5, 10)) + padded(floats(0, 5))
GOOD = Gguf(tuple(KEYS.values()), tuple(TENSORS.values()), DATA)


def legacy(*entries: tuple[bytes, int, list[float]], tail: bytes = struct.pack("<ii", 2, 8) + b"wiki.txt") -> bytes:
    """The older form. entries: name, number of calls, values."""
    data = struct.pack("<i", len(entries))
    for name, n_calls, values in entries:
        data += struct.pack("<i", len(name)) + name + struct.pack("<ii", n_calls, len(values)) + floats(*values)
    return data + tail


OLD = legacy((GATE.encode(), 2, [2, 1, 0, 0.25]), (EXPERTS.encode(), 2, [2, 2, 2, 4]))


def info(name: str, *shape: int) -> TensorInfo:
    return TensorInfo(name, dtypes.F32, shape)


def entry(sums: Any, *counts: int) -> Entry:
    return Entry(np.array(sums, np.float32), np.array(counts, np.int64))


def saved(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "imatrix.gguf"
    path.write_bytes(data)
    return path


def test_the_gguf_form_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path, GOOD.build())
    matrix = imatrix.read(path)

    assert (matrix.datasets, matrix.chunk_count, matrix.chunk_size) == (("wiki.txt",), 2, 4)
    assert matrix.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(matrix.entries) == [GATE, EXPERTS]
    assert matrix.importance(info(GATE, 6, 4)).tolist() == [1, 0.5, 0, 0.125]
    assert matrix.importance(info(EXPERTS, 2, 3, 2), 1).tolist() == [1, 2]
    assert matrix.entries[EXPERTS].counts.tolist() == [0, 5]


def test_the_legacy_form_is_read(tmp_path: Path) -> None:
    matrix = imatrix.read(saved(tmp_path, OLD))

    assert (matrix.datasets, matrix.chunk_count, matrix.chunk_size) == (("wiki.txt",), 2, 0)
    assert matrix.importance(info(GATE, 6, 4)).tolist() == [1, 0.5, 0, 0.125]
    assert matrix.importance(info(EXPERTS, 2, 3, 2), 0).tolist() == [1, 1]
    assert matrix.importance(info(EXPERTS, 2, 3, 2), 1).tolist() == [1, 2]


@pytest.mark.parametrize("tail", [b"", struct.pack("<i", 2), struct.pack("<ii", 2, 0)])
def test_what_ends_the_legacy_form_may_be_missing(tail: bytes, tmp_path: Path) -> None:
    matrix = imatrix.read(saved(tmp_path, legacy((b"x", 1, [3.0]), tail=tail)))
    assert matrix.datasets == ()
    assert matrix.importance(info("x", 1, 1)).tolist() == [3]


def test_a_legacy_count_of_zero_means_that_values_stand_as_they_are(tmp_path: Path) -> None:
    matrix = imatrix.read(saved(tmp_path, legacy((b"x", 0, [3.0, 5.0]))))
    assert matrix.importance(info("x", 1, 2)).tolist() == [3, 5]


def test_experts_that_the_text_never_reached_are_told_and_count_all_columns_the_same(tmp_path: Path) -> None:
    matrix = imatrix.read(saved(tmp_path, GOOD.build()))
    experts = info(EXPERTS, 2, 3, 2)
    assert matrix.unreached(experts) == (0,)
    assert matrix.unreached(info(GATE, 6, 4)) == ()
    assert matrix.importance(experts, 0).tolist() == [1, 1]

    # Old tools wrote zeros for such experts, under the count of the others.
    matrix = imatrix.read(saved(tmp_path, legacy((EXPERTS.encode(), 2, [0, 0, 2, 4]))))
    assert matrix.unreached(experts) == (0,)
    assert matrix.importance(experts, 0).tolist() == [1, 1]


def test_matrices_with_few_tokens_are_told() -> None:
    matrix = Imatrix({
        "much": entry([[1]], 200), "little": entry([[1]], 199), "experts": entry([[0], [1], [1]], 0, 1000, 7),
    })  # fmt: skip
    assert matrix.with_few_tokens() == {"little": {0: 199}, "experts": {0: 0, 2: 7}}


def test_importance_is_divided_in_float32() -> None:
    """As llama-quantize does, whose division decides about ties."""
    matrix = Imatrix({"x": entry([[0.1, 1e-3, 1234.5678]], 3)})
    expected = np.array([0.1, 1e-3, 1234.5678], np.float32) / np.float32(3)
    assert matrix.importance(info("x", 1, 3)).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("shape", "found", "wanted"),
    [((6, 3), "4 columns in all", "3 columns"), ((3, 6, 2), "4 columns in all", "3 experts of 2 columns")],
)
def test_a_matrix_of_another_model_is_refused(shape: tuple[int, ...], found: str, wanted: str, tmp_path: Path) -> None:
    matrix = imatrix.read(saved(tmp_path, GOOD.build()))
    with pytest.raises(RefusedError, match=f"{GATE} has {found}, the model's has {wanted}"):
        matrix.importance(info(GATE, *shape))
    with pytest.raises(RefusedError, match="has 2 experts, the model's has 4 columns"):
        matrix.check_fits(info(EXPERTS, 3, 4))


def test_the_gguf_form_is_written_as_llama_cpp_writes_it(tmp_path: Path) -> None:
    matrix = imatrix.read(saved(tmp_path, GOOD.build()))
    assert imatrix.pack(matrix) == GOOD.build()
    reversed_entries = dict(reversed(matrix.entries.items()))
    assert imatrix.pack(replace(matrix, entries=reversed_entries)) == GOOD.build()

    reader = gguf.GGUFReader(saved(tmp_path, imatrix.pack(matrix)))
    assert {each.name: each.data.tolist() for each in reader.tensors}[EXPERTS + ".in_sum2"] == [[0, 0], [5, 10]]
    assert reader.fields["imatrix.datasets"].contents() == ["wiki.txt"]


NUMBERS = st.floats(0, 2.0**127, width=32)


@given(
    sums=st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=4),
    count=st.integers(0, 2**24),
    datasets=st.lists(st.text(max_size=20), max_size=3),
)
def test_what_is_written_is_read(
    sums: list[list[float]], count: int, datasets: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.gguf"
    datasets = [text.encode("utf-8", "replace").decode() for text in datasets]
    wanted = Imatrix({"x": entry(sums, *[count] * len(sums)), "y": entry([[1]], 1)}, tuple(datasets), 3, 512)
    path.write_bytes(imatrix.pack(wanted))

    found = imatrix.read(path)

    assert (found.datasets, found.chunk_count, found.chunk_size) == (tuple(datasets), 3, 512)
    assert found.entries["x"].sums.tolist() == wanted.entries["x"].sums.tolist()
    assert found.entries["x"].counts.tolist() == wanted.entries["x"].counts.tolist()


def with_keys(**replaced: bytes | None) -> Gguf:
    keys: dict[str, bytes | None] = KEYS | replaced
    return replace(GOOD, keys=tuple(key for key in keys.values() if key is not None))


def with_tensor(name: str, new: bytes | None) -> Gguf:
    """Another entry of the list in place of one, or none."""
    tensors: dict[str, bytes | None] = TENSORS | {name: new}
    return replace(GOOD, tensors=tuple(each for each in tensors.values() if each is not None))


def with_data(offset: int, *values: float) -> Gguf:
    data = floats(*values)
    return replace(GOOD, data=DATA[:offset] + data + DATA[offset + len(data) :])


LAST = EXPERTS + ".counts"
BAD_GGUF: list[tuple[str, Gguf, str]] = [
    ("no datasets", with_keys(datasets=None), "imatrix.datasets"),
    ("datasets of numbers", with_keys(datasets=int32s("imatrix.datasets", [1])), "imatrix.datasets"),
    ("no chunk count", with_keys(chunk_count=None), "imatrix.chunk_count"),
    ("a chunk size in words", with_keys(chunk_size=string("imatrix.chunk_size", "4")), "imatrix.chunk_size"),
    ("no tensors", replace(GOOD, tensors=(), data=b""), "n_tensors"),
    ("only strangers", replace(GOOD, tensors=(tensor("x.weight", (4, 1), 0, 0),), data=padded(floats(1))), "n_tensors"),
    ("no counts", replace(with_tensor(LAST, None), data=DATA[:96]), LAST),
    ("sums without counts", with_tensor(LAST, tensor("blk.1.x.counts", (1, 2), 0, 96)), LAST),
    ("half floats", with_tensor(LAST, tensor(LAST, (1, 2), F16, 96)), LAST + ".type"),
    ("nothing in it", replace(with_tensor(LAST, tensor(LAST, (0, 2), 0, 96)), data=DATA[:96]), LAST + ".shape"),
    ("three counts for four sums", with_tensor(LAST, tensor(LAST, (1, 3), 0, 96)), EXPERTS + ".in_sum2"),
    ("a negative sum", with_data(4, -1.0), GATE + ".in_sum2"),
    ("infinity", with_data(4, float("inf")), GATE + ".in_sum2"),
    ("not a number", with_data(64, float("nan")), EXPERTS + ".in_sum2"),
    ("a negative count", with_data(32, -8.0), GATE + ".counts"),
    ("an infinite count", with_data(32, float("inf")), GATE + ".counts"),
    ("half a token", with_data(100, 5.5), LAST),
    ("more tokens than there are", with_data(100, 1e30), LAST),
    ("cut short", replace(GOOD, data=DATA[:100]), LAST),
    ("something after it", replace(GOOD, tail=b"x"), "trailing bytes"),
]


@pytest.mark.parametrize(("name", "bad", "field"), BAD_GGUF, ids=[case[0] for case in BAD_GGUF])
def test_a_broken_gguf_form_is_refused(name: str, bad: Gguf, field: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedError) as caught:
        imatrix.read(saved(tmp_path, bad.build()))
    assert caught.value.field == field


@pytest.mark.parametrize("kind", [string("general.type", "model"), None])
def test_another_kind_of_gguf_is_refused(kind: bytes | None, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"general.type: found model, allowed imatrix"):
        imatrix.read(saved(tmp_path, with_keys(type=kind).build()))


def changed(offset: int, *numbers: int) -> bytes:
    data = struct.pack(f"<{len(numbers)}i", *numbers)
    return OLD[:offset] + data + OLD[offset + len(data) :]


N_CALLS = 8 + len(GATE)  # where the first entry's number of calls stands
BAD_LEGACY: list[tuple[str, bytes, str]] = [
    ("empty", b"", "n_entries"),
    ("two bytes", b"\1\0", "n_entries"),
    ("no entries", struct.pack("<i", 0), "n_entries"),
    ("fewer than none", changed(0, -1), "n_entries"),
    ("more entries than bytes", changed(0, 2**30), "n_entries"),
    ("more entries than there are", changed(0, 3), "entry[2].name"),
    ("fewer entries than there are", changed(0, 1), "dataset.length"),
    ("no name", changed(4, 0), "entry[0].name.length"),
    ("a negative name", changed(4, -1), "entry[0].name.length"),
    ("a name of a gigabyte", changed(4, 2**30), "entry[0].name.length"),
    ("a name that is no text", legacy((b"\xff\xfe", 1, [1.0])), "entry[0].name"),
    ("a name with a zero", legacy((b"x\0y", 1, [1.0])), "entry[0].name"),
    ("a name twice", legacy((b"x", 1, [1.0]), (b"x", 1, [1.0])), "entry[1].name"),
    ("calls below zero", changed(N_CALLS, -1), f"{GATE}.n_calls"),
    ("no values", legacy((b"x", 1, [])), "x.n_values"),
    ("more values than bytes", changed(N_CALLS + 4, 2**30), f"{GATE}.n_values"),
    ("a negative value", legacy((b"x", 1, [1.0, -1.0])), "x"),
    ("not a number", legacy((b"x", 1, [float("nan")])), "x"),
    ("infinity", legacy((b"x", 1, [float("inf")])), "x"),
    ("cut in the values", OLD[: N_CALLS + 12], f"{GATE}.n_values"),
    ("chunks below zero", legacy((b"x", 1, [1.0]), tail=struct.pack("<i", -1)), "n_chunks"),
    ("a text's name that is not there", legacy((b"x", 1, [1.0]), tail=struct.pack("<ii", 1, 9)), "dataset.length"),
    ("something after it", OLD + b"x", "trailing bytes"),
    ("another format", b'{"config": "json", "of": ["some", "model"]}', "n_entries"),
]


@pytest.mark.parametrize(("name", "bad", "field"), BAD_LEGACY, ids=[case[0] for case in BAD_LEGACY])
def test_a_broken_legacy_form_is_refused(name: str, bad: bytes, field: str, tmp_path: Path) -> None:
    with pytest.raises(MalformedError) as caught:
        imatrix.read(saved(tmp_path, bad))
    assert caught.value.field == field


def test_the_place_of_a_bad_value_is_told(tmp_path: Path) -> None:
    message = r"x at 21: found '?-1.0 as value 1'?, allowed finite numbers, not negative"
    with pytest.raises(MalformedError, match=message):
        imatrix.read(saved(tmp_path, legacy((b"x", 1, [1.0, -1.0]))))


def test_what_is_too_large_for_memory_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, GOOD.build())
    with path.open("r+b") as file:
        file.truncate(imatrix.MOST_BYTES + 1)
    with pytest.raises(MalformedError, match="found 4294967297 bytes, allowed at most 4294967296"):
        imatrix.read(path)


# What a conversion does with one.


def model(**config: Any) -> Checkpoint:
    return memory_llama.checkpoint(memory_llama.reference(intermediate_size=64, **config))


def matrix_for(checkpoint: Checkpoint, *, seed: int = 0) -> Imatrix:
    """Importance for every matrix of the layers, some columns a thousand times as important as others."""
    random = np.random.default_rng(seed)
    entries = {
        name: entry([10.0 ** random.uniform(-2, 2, each.info.n_columns)], 512)
        for name, each in checkpoint.tensors.items()
        if name.startswith("blk.") and len(each.info.shape) == 2
    }
    return Imatrix(entries, sha256="5e" * 32, path=Path("some.imatrix"))


def weighed(mix: str) -> Recipe:
    return Recipe("gguf", mix, imatrix="5e" * 32)


def test_a_recipe_without_one_keeps_its_digest() -> None:
    plain = Recipe("gguf", "q4_0")
    assert plain.canonical() == '{"mix":"q4_0","target":"gguf"}'
    assert plain.sha256 == "b5bda41c75836b9484ef32d811c183973ba7d39d286c702e3771d90f819f2e1f"
    assert weighed("q4_0").canonical() == (f'{{"imatrix":"{"5e" * 32}","mix":"q4_0","target":"gguf"}}')


@pytest.mark.parametrize(("target", "mix"), [("gguf", "f16"), ("safetensors", "bf16")])
def test_plain_numbers_take_none(target: str, mix: str) -> None:
    with pytest.raises(RefusedError, match=f"{mix}: plain numbers are not searched"):
        Recipe(target, mix, imatrix="5e" * 32)


def test_a_plan_takes_the_matrix_that_the_recipe_names_and_no_other() -> None:
    checkpoint = model()
    for recipe, given_matrix in (
        (weighed("q4_0"), None),
        (Recipe("gguf", "q4_0"), matrix_for(checkpoint)),
        (weighed("q4_0"), replace(matrix_for(checkpoint), sha256="00" * 32)),
        (Recipe("gguf", "q4_0"), replace(matrix_for(checkpoint), sha256=None)),
    ):
        with pytest.raises(ValueError, match="this is another"):
            planning.make(checkpoint, recipe, "tiny", given_matrix)


def test_the_mix_knows_of_the_matrix() -> None:
    """llama.cpp gives the first eighth of ffn_down Q4_1 then, for Q4_0 goes astray there."""
    checkpoint = model(num_hidden_layers=8)

    def type_of(name: str, recipe: Recipe, matrix: Imatrix | None) -> str:
        plan = planning.make(checkpoint, recipe, "tiny", matrix)
        return {work.placed.info.name: work.placed.info.dtype.name for work in plan.work}[name]

    assert type_of("blk.0.ffn_down.weight", Recipe("gguf", "q4_0"), None) == "Q4_0"
    assert type_of("blk.0.ffn_down.weight", weighed("q4_0"), matrix_for(checkpoint)) == "Q4_1"
    assert type_of("blk.1.ffn_down.weight", weighed("q4_0"), matrix_for(checkpoint)) == "Q4_0"


@pytest.mark.parametrize("threads", [1, 3])
def test_every_tensor_is_what_ggml_makes_with_its_columns_importance(threads: int) -> None:
    checkpoint = model()
    matrix, sink = matrix_for(checkpoint), MemorySink()
    plan = planning.make(checkpoint, weighed("q4_0"), "tiny", matrix)
    convert(checkpoint, plan, sink, threads=threads)

    (data,) = sink.files.values()
    differs = set()
    for work in plan.work:
        placed = work.placed
        if placed.info.dtype != dtypes.Q4_0:
            continue
        rows = checkpoint.tensors[placed.info.name].read_rows(0, placed.info.n_rows).view(np.float32)
        known = matrix.entries.get(placed.info.name)
        columns = None if known is None else known.sums[0] / np.float32(512)
        made = data[placed.offset_in_file : placed.offset_in_file + placed.info.n_bytes]
        assert made == ggml.quantize(rows, placed.info.dtype, columns).tobytes(), placed.info.name
        if made != ggml.quantize(rows, placed.info.dtype).tobytes():
            differs.add(placed.info.name)
        assert (work.imatrix is None) == (known is None)
        assert work.steps[-1] == ("encode Q4_0" if known is None else "encode Q4_0 by importance")
    assert differs == matrix.entries.keys()


@pytest.mark.parametrize(("start", "stop"), [(0, 12), (0, 4), (3, 5), (1, 11), (8, 12)])
def test_each_expert_has_an_importance_of_its_own(start: int, stop: int) -> None:
    """Three experts of four rows; blocks of rows end where they like."""
    random = np.random.default_rng(1)
    weights = random.standard_normal((3, 4, 64)).astype(np.float32)
    sums = 10.0 ** random.uniform(-2, 2, (3, 64))
    sums[1] = 0
    matrix = Imatrix({EXPERTS: entry(sums, 10, 0, 30)})
    packed = TensorInfo(EXPERTS, dtypes.Q4_0, weights.shape)
    file = OutputFile("x", 0, b"")
    work = Work(memory_llama.tensor(EXPERTS, weights), PlacedTensor(packed, EXPERTS, 0), file, matrix)

    columns = [sums[0].astype(np.float32) / np.float32(10), np.ones(64, np.float32), sums[2].astype(np.float32) / 30]
    expected = [ggml.quantize(weights[expert], dtypes.Q4_0, columns[expert]) for expert in range(3)]
    assert make_rows(work, start, stop).tobytes() == np.concatenate(expected)[start:stop].tobytes()


def test_experts_without_a_matrix_are_encoded_alike() -> None:
    weights = np.random.default_rng(2).standard_normal((2, 3, 32)).astype(np.float32)
    placed = PlacedTensor(TensorInfo(EXPERTS, dtypes.Q8_0, weights.shape), EXPERTS, 0)
    work = Work(memory_llama.tensor(EXPERTS, weights), placed, OutputFile("x", 0, b""))
    expected = quants.encode(weights.reshape(6, 32), dtypes.Q8_0, tensor="x", first_index=0)
    assert make_rows(work, 1, 6).tobytes() == expected[1:].tobytes()


def test_types_that_are_nonsense_without_one_are_refused() -> None:
    checkpoint = model(hidden_size=256)
    with pytest.raises(RefusedError, match=r"blk.0.attn_q.weight: Q2_K is nonsense without an importance matrix"):
        planning.make(checkpoint, Recipe("gguf", "q2_k_s"), "tiny")

    matrix = matrix_for(checkpoint)
    assert planning.make(checkpoint, weighed("q2_k_s"), "tiny", matrix).warnings == ()
    entries = {name: each for name, each in matrix.entries.items() if name != "blk.1.attn_k.weight"}
    with pytest.raises(RefusedError, match=r"blk.1.attn_k.weight: Q2_K is nonsense"):
        planning.make(checkpoint, weighed("q2_k_s"), "tiny", replace(matrix, entries=entries))


def test_a_matrix_of_another_width_or_of_nothing_here_is_refused() -> None:
    checkpoint, wider = model(), model(hidden_size=64)
    with pytest.raises(RefusedError, match=r"some.imatrix: blk.0.attn_q.weight has 64 columns in all.* 32 columns"):
        planning.make(checkpoint, weighed("q4_0"), "tiny", matrix_for(wider))
    stranger = replace(matrix_for(checkpoint), entries={"blk.99.attn_q.weight": entry([[1.0] * 32], 1)})
    with pytest.raises(RefusedError, match=r"some.imatrix: has nothing on any tensor of tiny"):
        planning.make(checkpoint, weighed("q4_0"), "tiny", stranger)


def test_tensors_that_go_without_are_told() -> None:
    checkpoint = model()
    matrix = matrix_for(checkpoint)
    zeros = Entry(np.zeros((1, 32), np.float32), np.array([512]))
    kept = {name: each for name, each in matrix.entries.items() if not name.startswith("blk.1.")}
    changed = replace(matrix, entries=kept | {"blk.0.ffn_up.weight": zeros})
    assert planning.make(checkpoint, weighed("q4_0"), "tiny", changed).warnings == (
        "the importance matrix has nothing on blk.1.attn_q.weight, blk.1.attn_k.weight, blk.1.attn_v.weight, "
        "blk.1.attn_output.weight and 3 more",
        "blk.0.ffn_up.weight: calibration never reached the columns; there all count the same",
    )
