"""GGUF as a checkpoint: a llama put together by hand, read; and laid out, read by gguf-py and by ourselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gguf as gguf_py
import numpy as np
import pytest

from converters import dtypes
from converters.checkpoint import Checkpoint
from converters.dtypes import DType
from converters.errors import (
    ChangedError,
    ConversionError,
    MalformedError,
    MissingError,
    RefusedError,
    UnsupportedError,
)
from converters.formats import gguf
from converters.formats.gguf_header import read_header
from converters.hyperparameters import HyperParameters
from converters.input_file import InputFile
from converters.layout import OutputFile
from converters.tokenizers.vocabulary import TokenKind
from tests.fakes.gguf_bytes import (
    F32,
    FLOAT32,
    INT8,
    INT32,
    LLAMA_SHAPES,
    Q8_0,
    SMALL,
    TOKENS,
    Gguf,
    array,
    float32,
    int32s,
    key,
    llama,
    string,
    strings,
    tensor,
    uint32,
)


def opened(path: Path, file: Gguf, **options: bool) -> Checkpoint:
    path.write_bytes(file.build())
    return gguf.open_checkpoint(path, **options)


def as_stored(checkpoint: Checkpoint) -> dict[str, DType]:
    return {name: tensor.info.dtype for name, tensor in checkpoint.tensors.items()}


def fill(folder: Path, files: tuple[OutputFile, ...], checkpoint: Checkpoint) -> Path:
    """Write a layout whose tensors are stored as they are to be written."""
    (file,) = files
    path = folder / file.path
    with path.open("wb") as out:
        out.truncate(file.size)
        out.write(file.head)
        for placed in file.tensors:
            out.seek(placed.offset_in_file)
            source = checkpoint.tensors[placed.source]
            out.write(source.read_rows(0, source.info.n_rows).tobytes())
    return path


def test_llama_is_opened(tmp_path: Path) -> None:
    with opened(tmp_path / "f", llama()) as checkpoint:
        assert (checkpoint.format, checkpoint.architecture, checkpoint.warnings) == ("gguf", "llama", ())
        assert checkpoint.hyperparameters == HyperParameters(
            dim=32, hidden_dim=64, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=16, vocab_size=8, norm_eps=1e-5,
            rope_theta=10000.0, context_length=64,
        )  # fmt: skip
        assert checkpoint.card == {"name": "Tiny", "license": "apache-2.0", "languages": ("en", "de")}
        vocabulary = checkpoint.vocabulary
        assert vocabulary is not None
        assert (vocabulary.tokens, vocabulary.merges, vocabulary.eos_id) == (TOKENS, ("a b", "Ġ a"), 7)
        assert vocabulary.kinds[0] is TokenKind.CONTROL
        assert {name: tensor.info.shape for name, tensor in checkpoint.tensors.items()} == LLAMA_SHAPES
        norm = checkpoint.tensors["blk.0.attn_norm.weight"]
        assert norm.read_rows(0, 1).view(np.float32).tolist() == [list(range(256, 288))]
        q = checkpoint.tensors["blk.0.attn_q.weight"]
        assert q.read_rows(3, 5).view(np.float32)[:, 0].tolist() == [288 + 3 * 32, 288 + 4 * 32]
        assert q.origin == "f: blk.0.attn_q.weight"


def test_llama_without_vocabulary_and_card_is_opened(tmp_path: Path) -> None:
    keys = tuple(each for each in llama().keys if b"tokenizer." not in each and b"general.name" not in each)
    with opened(tmp_path / "f", replace(llama(), keys=keys)) as checkpoint:
        assert checkpoint.vocabulary is None and "name" not in checkpoint.card


def test_output_that_is_not_there_is_the_embedding(tmp_path: Path) -> None:
    with opened(tmp_path / "f", llama(TIED)) as checkpoint:
        assert checkpoint.hyperparameters.tied_embeddings


def test_an_unknown_tensor_is_refused_as_it_is_in_every_format(tmp_path: Path) -> None:
    with pytest.raises(MalformedError) as caught:
        opened(tmp_path / "f", llama(LLAMA_SHAPES | {"a\x1b[2J": (8,)}))
    assert str(caught.value).endswith(r"a\x1b[2J: found an unknown tensor, allowed the tensors of a llama of 1 layers")


def test_rotary_frequencies_of_another_form_are_kept_with_a_warning(tmp_path: Path) -> None:
    names = ["rope_freqs.weight", "blk.0.attn_rot_embd.weight"]
    with opened(tmp_path / "f", llama(LLAMA_SHAPES | dict.fromkeys(names, (8,)))) as checkpoint:
        assert checkpoint.warnings == ("rope_freqs.weight, blk.0.attn_rot_embd.weight: kept, and not looked at",)
        assert set(names) < set(checkpoint.tensors)


def test_a_vocabulary_of_another_size_is_said(tmp_path: Path) -> None:
    with opened(tmp_path / "f", more(uint32("llama.vocab_size", 9))) as checkpoint:
        assert checkpoint.warnings == ("llama.vocab_size is 9, the embedding has 8 rows",)
        assert checkpoint.hyperparameters.vocab_size == 8


@pytest.mark.parametrize("version", [0, 1, 3, 2**32 - 1])
def test_quantized_blocks_of_another_version_are_other_weights(tmp_path: Path, version: int) -> None:
    said = uint32("general.quantization_version", version)
    opened(tmp_path / "plain", more(said)).close()
    n_bytes = 8 * 34
    quantized = tensor("token_embd.weight", (32, 8), Q8_0, 0)
    moved = [quantized]
    for name, shape in list(LLAMA_SHAPES.items())[1:]:
        n_bytes += -n_bytes % 32
        moved.append(tensor(name, shape[::-1], F32, n_bytes))
        n_bytes += 4 * int(np.prod(shape))
    file = replace(llama(), tensors=tuple(moved), data=bytes(n_bytes))
    opened(tmp_path / "usual", replace(file, keys=(*file.keys, uint32("general.quantization_version", 2)))).close()
    opened(tmp_path / "unsaid", file).close()
    with pytest.raises(UnsupportedError, match=f"general.quantization_version: found {version}, allowed 2"):
        opened(tmp_path / "f", replace(file, keys=(*file.keys, said)))


def test_merged_file_is_whole(tmp_path: Path) -> None:
    # llama-gguf-split --merge leaves its keys in, with a count of 0.
    merged = (uint32("split.no", 0), uint32("split.count", 0), uint32("split.tensors.count", len(LLAMA_SHAPES)))
    opened(tmp_path / "f", replace(llama(), keys=llama().keys + merged)).close()


def test_file_is_closed_when_it_is_refused(tmp_path: Path) -> None:
    descriptors = len(list(Path("/dev/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(MalformedError):
            opened(tmp_path / "f", llama(block_count=uint32("llama.block_count", 0)))
    assert len(list(Path("/dev/fd").iterdir())) == descriptors


def reshaped(name: str, shape: tuple[int, ...]) -> Gguf:
    return llama(LLAMA_SHAPES | {name: shape})


def without(name: str) -> Gguf:
    return llama({known: shape for known, shape in LLAMA_SHAPES.items() if known != name})


def more(*keys: bytes) -> Gguf:
    return replace(llama(), keys=llama().keys + keys)


NAN, INFINITY = float("nan"), float("inf")
EPSILON, ROTATION = "llama.attention.layer_norm_rms_epsilon", "llama.rope.dimension_count"
KINDS = "tokenizer.ggml.token_type"
TIED = {name: shape for name, shape in LLAMA_SHAPES.items() if name != "output.weight"}

BAD: list[tuple[str, Gguf, str]] = [
    ("no such architecture", llama(architecture=string("general.architecture", "mamba")), "general.architecture"),
    ("no architecture", replace(SMALL, keys=SMALL.keys[1:]), "general.architecture"),
    ("architecture is a number", llama(architecture=uint32("general.architecture", 1)), "general.architecture"),
    *(
        (f"G41 block_count {n}", llama(block_count=uint32("llama.block_count", n)), "llama.block_count")
        for n in (0, 513, 2**32 - 1)
    ),
    ("G41 block_count is text", llama(block_count=string("llama.block_count", "1")), "llama.block_count"),
    ("G41 no heads", llama(head_count=uint32("llama.attention.head_count", 0)), "llama.attention.head_count"),
    ("G41 3 of 2", llama(head_count_kv=uint32("llama.attention.head_count_kv", 3)), "llama.attention.head_count_kv"),
    ("G41 33 of 2", llama(embedding_length=uint32("llama.embedding_length", 33)), "llama.embedding_length"),
    ("G41 odd rotation", more(uint32(ROTATION, 15)), ROTATION),
    ("G41 negative rotation", more(key(ROTATION, INT32, b"\xff" * 4)), ROTATION),
    ("G41 one layer too many", llama(block_count=uint32("llama.block_count", 2)), "blk.1.attn_norm.weight"),
    *((f"G46 epsilon {x}", llama(epsilon=float32(EPSILON, x)), EPSILON) for x in (NAN, INFINITY, 0.0, -1.0)),
    *(
        (f"G46 theta {x}", llama(freq_base=float32("llama.rope.freq_base", x)), "llama.rope.freq_base")
        for x in (NAN, INFINITY, -1.0)
    ),
    ("G43 no tokens", llama(tokens=strings("tokenizer.ggml.tokens", [])), "tokenizer.ggml.tokens"),
    ("G43 tokens are numbers", llama(tokens=int32s("tokenizer.ggml.tokens", range(8))), "tokenizer.ggml.tokens"),
    ("G43 kinds fewer", llama(token_type=int32s(KINDS, [1] * 7)), KINDS),
    ("G43 kinds are floats", llama(token_type=array(KINDS, FLOAT32, 8, bytes(32))), KINDS),
    ("G43 eos beyond", llama(eos=uint32("tokenizer.ggml.eos_token_id", 8)), "tokenizer.ggml.eos_token_id"),
    ("G43 eos negative", llama(eos=key("tokenizer.ggml.eos_token_id", INT8, b"\xff")), "tokenizer.ggml.eos_token_id"),
    ("fewer rows than tokens", reshaped("token_embd.weight", (4, 32)), "output.weight"),
    ("fewer rows than tokens, tied", llama(TIED | {"token_embd.weight": (4, 32)}), "tokenizer.ggml.tokens"),
    ("G48 imatrix", llama(type=string("general.type", "imatrix")), "general.type"),
    ("G48 adapter", llama(type=string("general.type", "adapter")), "general.type"),
    ("G48 control vector", llama(architecture=string("general.architecture", "controlvector")), "general.architecture"),
    ("G39 shard", more(key("split.count", 2, b"\3\0")), "split.count"),
    ("G39 shard that calls itself one", more(uint32("split.tensors.count", 99)), "split.tensors.count"),
    ("tensor missing", without("blk.0.ffn_up.weight"), "blk.0.ffn_up.weight"),
    ("embedding missing", without("token_embd.weight"), "token_embd.weight"),
    ("tensor transposed", reshaped("blk.0.attn_k.weight", (32, 16)), "blk.0.attn_k.weight"),
    ("tensor with one dimension more", reshaped("output_norm.weight", (1, 32)), "output_norm.weight"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "field"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_model(tmp_path: Path, file: Gguf, field: str) -> None:
    with pytest.raises(MalformedError) as caught:
        opened(tmp_path / "f", file)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{tmp_path / 'f'}: {field}") and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (without("blk.0.ffn_up.weight"), "found no such tensor, allowed one of shape (64, 32)"),
        (reshaped("blk.0.attn_k.weight", (32, 16)), "found shape (32, 16), allowed (16, 32)"),
        (more(key("split.count", 2, b"\3\0")), "found a shard of 3, allowed a name such as f-00001-of-00003.gguf"),
        (llama(type=string("general.type", "imatrix")), "found imatrix, allowed model"),
    ],
)
def test_message_says_what_is_wrong(tmp_path: Path, file: Gguf, said: str) -> None:
    with pytest.raises(MalformedError) as caught:
        opened(tmp_path / "f", file)
    assert said in str(caught.value)


@pytest.mark.parametrize("row", ["G48 imatrix", "G39 shard", "no such architecture"])
def test_known_but_not_read_is_unsupported(tmp_path: Path, row: str) -> None:
    (file,) = (file for name, file, _ in BAD if name == row)
    with pytest.raises(UnsupportedError):
        opened(tmp_path / "f", file)


def test_trailing_bytes_are_left_alone_when_allowed(tmp_path: Path) -> None:
    file = replace(llama(), tail=b"PK\3\4")
    with pytest.raises(MalformedError, match="trailing bytes"):
        opened(tmp_path / "f", file)
    opened(tmp_path / "f", file, allow_trailing=True).close()


def test_model_with_any_bit_of_its_keys_flipped_is_read_or_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "f", llama().build()
    path.write_bytes(data)
    verdicts = {True: 0, False: 0}
    with path.open("r+b", buffering=0) as out:
        for position in range(len(b"".join(llama().keys)) + 24):
            bit = position % 8  # one bit of each byte: every bit of the header alone is flipped in test_gguf_header
            os.pwrite(out.fileno(), bytes([data[position] ^ 1 << bit]), position)
            try:
                gguf.open_checkpoint(path).close()
                verdicts[True] += 1
            except ConversionError:
                verdicts[False] += 1
            os.pwrite(out.fileno(), data[position : position + 1], position)
    assert min(verdicts.values()) > 20


def test_file_that_changes_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path / "f", llama()) as checkpoint:
        os.truncate(tmp_path / "f", 4096)
        with pytest.raises(ChangedError):
            checkpoint.check_unchanged()
        with pytest.raises(ChangedError):
            checkpoint.tensors["output.weight"].read_rows(0, 8)


def test_file_that_grows_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path / "f", llama()) as checkpoint:
        with (tmp_path / "f").open("ab") as out:
            out.write(b"more")
        with pytest.raises(ChangedError):
            checkpoint.check_unchanged()


def test_sniff_goes_by_content(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(SMALL.build())
    (tmp_path / "model.gguf").write_bytes(b"PK\3\4 and more")
    (tmp_path / "short.gguf").write_bytes(b"GGU")
    os.mkfifo(tmp_path / "fifo")
    names = ("weights.bin", "model.gguf", "short.gguf", "fifo", "nothing")
    assert [gguf.sniff(tmp_path / name) for name in names] == [True, False, False, False, False]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        gguf.open_checkpoint(tmp_path / "nothing.gguf")


def test_what_is_laid_out_is_read_again(tmp_path: Path) -> None:
    with opened(tmp_path / "f", llama(LLAMA_SHAPES | {"blk.0.attn_rot_embd.weight": (8,)})) as original:
        layout = gguf.lay_out(original, as_stored(original), "out.gguf", file_type=0)
        path = fill(tmp_path, layout, original)
        with gguf.open_checkpoint(path) as again:
            assert (again.hyperparameters, again.vocabulary, again.card) == (
                original.hyperparameters, original.vocabulary, original.card,
            )  # fmt: skip
            assert {name: (t.info, t.read_rows(0, t.info.n_rows).tobytes()) for name, t in again.tensors.items()} == {
                name: (t.info, t.read_rows(0, t.info.n_rows).tobytes()) for name, t in original.tensors.items()
            }
            second = gguf.lay_out(again, as_stored(again), "out.gguf", file_type=0)
    assert second == layout


def test_gguf_py_reads_what_is_laid_out(tmp_path: Path) -> None:
    with opened(tmp_path / "f", llama()) as original:
        path = fill(tmp_path, gguf.lay_out(original, as_stored(original), "out.gguf", file_type=0), original)
        expected = {name: t.read_rows(0, t.info.n_rows).tobytes() for name, t in original.tensors.items()}
    reader = gguf_py.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert list(fields)[:2] == ["general.architecture", "general.type"]
    assert {name: fields[name] for name in fields if name.startswith("general.")} == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "Tiny",
        "general.license": "apache-2.0",
        "general.languages": ["en", "de"],
        "general.file_type": 0,
    }
    assert fields["llama.attention.head_count_kv"] == 1
    assert fields["llama.rope.freq_base"] == 10000.0
    assert fields["tokenizer.ggml.tokens"] == list(TOKENS)
    assert fields["tokenizer.ggml.token_type"] == [3, 1, 1, 1, 1, 1, 1, 3]
    assert {t.name: t.data.tobytes() for t in reader.tensors} == expected
    assert all(t.data_offset % 32 == 0 for t in reader.tensors)


Q8 = {name: dtypes.Q8_0 if len(shape) == 2 else dtypes.F32 for name, shape in LLAMA_SHAPES.items()}


def test_layout_is_known_before_any_weight_is_read(tmp_path: Path) -> None:
    original = opened(tmp_path / "f", llama())
    original.close()  # from here on, reading a weight would fail
    (file,) = gguf.lay_out(original, Q8, "out.gguf", file_type=7)
    assert file.path == "out.gguf"
    sizes = {name: np.prod(shape) // 32 * 34 if len(shape) == 2 else 128 for name, shape in LLAMA_SHAPES.items()}
    assert {t.info.name: t.info.n_bytes for t in file.tensors} == sizes
    assert [t.source for t in file.tensors] == [t.info.name for t in file.tensors]
    assert all(t.row_order is None for t in file.tensors)
    assert file.tensors[0].offset_in_file == len(file.head)
    ends = [t.offset_in_file + -(-t.info.n_bytes // 32) * 32 for t in file.tensors]
    assert ends == [t.offset_in_file for t in file.tensors[1:]] + [file.size]
    path = tmp_path / "sparse"
    path.write_bytes(file.head)
    os.truncate(path, file.size)
    with InputFile(path) as opened_file:
        header = read_header(opened_file)
    assert header.metadata["general.file_type"] == 7 and header.metadata["general.quantization_version"] == 2
    assert header.tensors == tuple((t.info, t.offset_in_file) for t in file.tensors)


def test_order_of_tensors_does_not_depend_on_where_they_came_from(tmp_path: Path) -> None:
    shapes = LLAMA_SHAPES | {"rope_freqs.weight": (8,), "blk.0.attn_rot_embd.weight": (8,)}
    backwards = dict(reversed(shapes.items()))
    with opened(tmp_path / "f", llama(shapes)) as one, opened(tmp_path / "g", llama(backwards)) as other:
        layouts = [gguf.lay_out(each, as_stored(each), "out.gguf", file_type=0) for each in (one, other)]
    assert layouts[0] == layouts[1]
    names = [placed.info.name for placed in layouts[0][0].tensors]
    assert names == [*LLAMA_SHAPES, "blk.0.attn_rot_embd.weight", "rope_freqs.weight"]
    assert names[:3] == ["token_embd.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"output.weight": dtypes.F8_E4M3}, "output.weight: GGUF has no type F8_E4M3"),
        ({"output.weight": dtypes.Q4_K}, "output.weight: Q4_K needs rows of a multiple of 256 weights, these have 32"),
    ],
)
def test_type_that_a_tensor_cannot_have_is_refused(tmp_path: Path, changed: Mapping[str, DType], said: str) -> None:
    with opened(tmp_path / "f", llama()) as checkpoint, pytest.raises(RefusedError) as caught:
        gguf.lay_out(checkpoint, Q8 | changed, "out.gguf", file_type=7)
    assert str(caught.value) == said


def test_real_model_is_laid_out_as_it_was(tmp_path: Path, smollm2_gguf: Path) -> None:
    path = tmp_path / "sparse.gguf"
    with gguf.open_checkpoint(smollm2_gguf) as original:
        assert original.hyperparameters == HyperParameters(
            dim=576, hidden_dim=1536, n_layers=30, n_heads=9, n_kv_heads=3, head_dim=64, vocab_size=49152,
            norm_eps=1e-5, rope_theta=100000.0, context_length=8192, tied_embeddings=True,
        )  # fmt: skip
        assert original.warnings == () and original.card["license"] == "apache-2.0"
        (file,) = gguf.lay_out(original, as_stored(original), path.name, file_type=3)
        path.write_bytes(file.head)
        os.truncate(path, file.size)
        with InputFile(smollm2_gguf) as theirs, InputFile(path) as ours:
            before, after = read_header(theirs), read_header(ours)
        with gguf.open_checkpoint(path) as again:
            assert again.hyperparameters == original.hyperparameters
            assert again.vocabulary == original.vocabulary
    assert {info for info, _ in before.tensors} == {info for info, _ in after.tensors}
    arrays = {"tokenizer.ggml.token_type"}
    assert before.metadata.keys() <= after.metadata.keys()
    for name in before.metadata.keys() - arrays:
        assert after.metadata[name] == before.metadata[name], name
        assert after.entries[name].type is before.entries[name].type, name
