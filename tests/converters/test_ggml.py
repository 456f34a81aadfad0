"""Models in GGML, GGMF and GGJT: opened as the llamas that they are, one file or in parts."""

from __future__ import annotations

import dataclasses
import io
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf as gguf_py
import numpy as np
import pytest
import sentencepiece
import torch

from converters import convert, dtypes, plan, quants
from converters.architectures import llama
from converters.checkpoint import Checkpoint
from converters.dtypes import DType
from converters.errors import MalformedError, MissingError, RefusedError, UnsafeError
from converters.formats import open_checkpoint
from converters.hyperparameters import HyperParameters
from converters.input_file import InputFile
from converters.recipe import Recipe
from converters.tokenizers.vocabulary import TokenKind
from distro.runtime.models import decoder
from distro.runtime.tokenizer import Tokenizer
from tests.fakes import ggml, llama_cpp, memory_llama, old_ggml
from tests.fakes.memory_sink import MemorySink
from tests.fakes.old_ggml import CONTAINERS, PIECES, SCORES, TOKENS, Old, OldType, Shape

WIDE = Shape(dim=256, n_heads=8, n_kv_heads=8, n_mult=256, n_layers=1)  # for blocks of 256, and for eight parts
GROUPED = Shape(n_kv_heads=2)
OF_THE_TIME = [
    *((container, name) for container in ("GGML", "GGMF v1", "GGJT v1") for name in ("F16", *old_ggml.V1)),
    *(("GGJT v2", name) for name in ("F16", *old_ggml.V2)),
    *(("GGJT v3", name) for name in ("F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")),
    *(("GGJT v3", name) for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")),
]


def kind(container: str, name: str) -> OldType:
    """A type as it was in a container; those of GGJT v3 are today's, written by ggml and read by gguf-py."""
    if name in ("F32", "F16"):
        return {"F32": old_ggml.F32, "F16": old_ggml.F16}[name]
    if container != "GGJT v3":
        return (old_ggml.V2 if container == "GGJT v2" else old_ggml.V1)[name]
    dtype, number = dtypes.BY_NAME[name], gguf_py.GGMLQuantizationType[name]
    return OldType(
        int(number),
        dtype.block_size,
        lambda weights: ggml.quantize(weights, dtype),
        lambda blocks: gguf_py.quants.dequantize(blocks, number).astype(np.float32),
    )


def opened(path: Path, model: Old) -> Checkpoint:
    path.write_bytes(model.build())
    return open_checkpoint(path)


def weights(checkpoint: Checkpoint) -> dict[str, old_ggml.Floats]:
    """All of a checkpoint's, by Meta's names."""
    names = llama.meta_names(checkpoint.hyperparameters)
    return {
        names[name]: quants.decode(tensor.read_rows(0, tensor.info.n_rows), tensor.info.dtype).reshape(
            tensor.info.shape
        )
        for name, tensor in checkpoint.tensors.items()
    }


def original(model: Old, matrices: OldType) -> dict[str, old_ggml.Floats]:
    """The same by the formula of the time."""
    return {
        each.name: (matrices if len(each.shape) == 2 else old_ggml.F32).read(each.data, each.shape)
        for each in model.tensors
    }


@pytest.mark.parametrize(("container", "name"), OF_THE_TIME)
def test_weights_are_bit_for_bit_what_they_were(tmp_path: Path, container: str, name: str) -> None:
    shape = replace(WIDE, n_layers=1) if name.endswith("K") else Shape()
    model = old_ggml.model(container, kind(container, name), shape)
    with opened(tmp_path / "m.bin", model) as checkpoint:
        assert checkpoint.tensors["token_embd.weight"].info.dtype.name == name
        ours, theirs = weights(checkpoint), original(model, kind(container, name))
    assert ours.keys() == theirs.keys()
    for each, expected in theirs.items():
        np.testing.assert_array_equal(ours[each].view(np.uint32), expected.view(np.uint32), each)


@pytest.mark.parametrize(
    ("container", "name"),
    [("GGML", "Q4_0_V1"), ("GGMF v1", "Q4_1_V1"), ("GGJT v1", "Q5_1"), ("GGJT v2", "Q4_0_V2"), ("GGJT v3", "Q4_0")],
)
def test_logits_are_those_of_the_same_weights_in_gguf(tmp_path: Path, container: str, name: str) -> None:
    """Written by gguf-py: keys, names and order of rows come from elsewhere."""
    model = old_ggml.model(container, kind(container, name), GROUPED if container == "GGJT v3" else None)
    ids = [1, 260, 263, *range(3, 40), 5, 269]
    with opened(tmp_path / "m.bin", model) as checkpoint:
        ours = decoder(checkpoint, in_memory=False).forward(ids)
        plain = original(model, kind(container, name))
        names = llama.meta_names(checkpoint.hyperparameters)
        floats = {name: memory_llama.tensor(name, plain[theirs]) for name, theirs in names.items()}
        llama_cpp.write_checkpoint(tmp_path / "m.gguf", replace(checkpoint, tensors=floats))
    with open_checkpoint(tmp_path / "m.gguf") as judge:
        assert judge.format == "gguf"
        theirs = decoder(judge, in_memory=False).forward(ids)
    assert theirs.std() > 0.3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_llama_cpp_says_the_same_after_a_conversion(tmp_path: Path) -> None:
    """Ids of a text with bytes in it, and what comes next, out of a GGML file made F32."""
    with opened(tmp_path / "m.bin", old_ggml.model("GGML", old_ggml.V1["Q4_0_V1"], seed=6)) as checkpoint:
        result = converted(checkpoint, "f32").save(tmp_path / "new") / "m-F32.gguf"
        text = "hello h\u00fc\u4e16, hel"
        assert checkpoint.vocabulary is not None
        ids = Tokenizer(checkpoint.vocabulary).encode(text)
        assert llama_cpp.tokenize(result, [text], tmp_path / "ids", add_special=True) == [ids]
        logits = decoder(checkpoint, in_memory=True).forward(ids)[-1].log_softmax(-1)
    (said, *_), (likeliest, *_) = llama_cpp.complete(result, ids, 1, tmp_path / "said", n_probs=10)
    assert said == int(logits.argmax())
    for token, logprob in likeliest.items():
        assert logprob == pytest.approx(float(logits[token]), abs=1e-4)


def converted(checkpoint: Checkpoint, mix: str) -> MemorySink:
    sink = MemorySink()
    convert.convert(checkpoint, plan.make(checkpoint, Recipe("gguf", mix, pure=mix != "f32" or None), "m"), sink)
    return sink


@pytest.mark.parametrize("name", ["Q5_0", "Q5_1"])
def test_five_bits_are_copied_with_their_nibbles_in_todays_order(tmp_path: Path, name: str) -> None:
    """gguf-py reads the copy as what the old formula makes of the original."""
    model = old_ggml.model("GGJT v1", old_ggml.V1[name])
    with opened(tmp_path / "m.bin", model) as checkpoint:
        made = plan.make(checkpoint, Recipe("gguf", name.lower(), pure=True), "m")
        assert {work.steps for work in made.work} == {("copy",)}
        assert made.warnings == ()
        result = converted(checkpoint, name.lower()).save(tmp_path / "new") / f"m-{name}.gguf"
        names = llama.meta_names(checkpoint.hyperparameters)
    expected = original(model, old_ggml.V1[name])
    for tensor in gguf_py.GGUFReader(result).tensors:
        back = gguf_py.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(back, expected[names[tensor.name]], tensor.name)


def test_four_bits_with_scales_of_32_bits_are_quantized_a_second_time(tmp_path: Path) -> None:
    with opened(tmp_path / "m.bin", old_ggml.model("GGJT v1", old_ggml.V1["Q4_0_V1"])) as checkpoint:
        made = plan.make(checkpoint, Recipe("gguf", "q4_0", pure=True), "m")
        steps = {work.placed.info.name: work.steps for work in made.work}
        (warning,) = made.warnings
    assert steps["blk.0.attn_q.weight"] == ("decode Q4_0_V1", "encode Q4_0")
    assert steps["blk.0.attn_norm.weight"] == ("copy",)
    assert warning == "Q4_0_V1 weights are quantized a second time; a floating-point source would be better"


def test_no_gguf_is_laid_out_in_a_type_that_is_read_alone() -> None:
    with pytest.raises(RefusedError, match="q4_0_v1: no such"):
        Recipe("gguf", "q4_0_v1")


def test_the_vocabulary(tmp_path: Path) -> None:
    with opened(tmp_path / "m.bin", old_ggml.model("GGJT v3", old_ggml.F16)) as checkpoint:
        vocabulary = checkpoint.vocabulary
    assert vocabulary is not None
    assert vocabulary.tokens == ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES)
    assert vocabulary.scores == SCORES
    counted = {kind: vocabulary.kinds.count(kind) for kind in TokenKind}
    assert counted == {
        TokenKind.UNKNOWN: 1, TokenKind.CONTROL: 2, TokenKind.BYTE: 256, TokenKind.NORMAL: len(PIECES),
        TokenKind.USER_DEFINED: 0, TokenKind.UNUSED: 0,
    }  # fmt: skip
    assert (vocabulary.model, vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id) == ("spm", 1, 2, 0)
    assert vocabulary.add_bos and vocabulary.add_space_prefix and vocabulary.stop_ids == (2,)


def test_scores_of_a_file_without_any_are_sentencepieces(tmp_path: Path) -> None:
    """A vocabulary trained as Llama's was, written as the first converter did: without scores."""
    text, out = random.Random(1), io.BytesIO()
    words = ["".join(text.choices("abcdefgh", k=text.randint(2, 6))) for _ in range(400)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(text.choices(words, k=8)) for _ in range(400)), model_writer=out,
        model_type="bpe", vocab_size=300, byte_fallback=True, minloglevel=2,
    )  # fmt: skip
    trained = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    pieces = [trained.id_to_piece(i) for i in range(trained.vocab_size())]
    texts = (*TOKENS[:259], *(piece.replace("▁", " ").encode() for piece in pieces[259:]))
    model = Old(
        "GGML", texts, (0.0,) * 300, Shape().numbers(1, 300),
        old_ggml.stored(Shape().weights(n_vocab=300), old_ggml.F16),
    )  # fmt: skip
    with opened(tmp_path / "m.bin", model) as checkpoint:
        vocabulary = checkpoint.vocabulary
    assert vocabulary is not None
    assert vocabulary.scores == tuple(trained.get_score(i) for i in range(300))
    assert list(vocabulary.tokens) == pieces


def test_half_characters_and_empty_tokens_of_the_first_converters(tmp_path: Path) -> None:
    tokens = [*TOKENS, b""]
    for byte in range(128, 256):
        tokens[3 + byte] = b"\xef\xbf\xbd"
    shape = Shape()
    weights = shape.weights(n_vocab=len(tokens))
    model = Old(
        "GGML", tuple(tokens), (0.0,) * len(tokens), shape.numbers(1, len(tokens)),
        old_ggml.stored(weights, old_ggml.F16),
    )  # fmt: skip
    with opened(tmp_path / "m.bin", model) as checkpoint:
        vocabulary = checkpoint.vocabulary
    assert vocabulary is not None
    assert vocabulary.tokens[3:259] == tuple(f"<0x{byte:02X}>" for byte in range(256))
    assert (vocabulary.tokens[-1], vocabulary.kinds[-1]) == ("[EMPTY_272]", TokenKind.CONTROL)


def test_the_token_that_gpt4all_counted_and_never_wrote(tmp_path: Path) -> None:
    n_vocab = len(TOKENS) + 1
    weights = Shape().weights(n_vocab=n_vocab)
    model = Old("GGML", TOKENS, SCORES, Shape().numbers(2, n_vocab), old_ggml.stored(weights, old_ggml.V1["Q4_0_V1"]))
    with opened(tmp_path / "m.bin", model) as checkpoint:
        assert checkpoint.vocabulary is not None
        assert checkpoint.vocabulary.tokens[-2:] == ("▁a", "<pad>")
        assert checkpoint.hyperparameters.vocab_size == n_vocab


def parameters(path: Path, container: str, shape: Shape, **numbers: int) -> tuple[HyperParameters, tuple[str, ...]]:
    model = old_ggml.model(container, old_ggml.F16, shape)
    with opened(path, replace(model, numbers=dict(model.numbers) | numbers)) as checkpoint:
        return checkpoint.hyperparameters, checkpoint.warnings


def test_hyperparameters_of_llama_1(tmp_path: Path) -> None:
    found, warnings = parameters(tmp_path / "m.bin", "GGJT v2", Shape())
    assert found == HyperParameters(
        dim=32, hidden_dim=96, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=8, vocab_size=272,
        norm_eps=1e-6, rope_theta=10_000.0, context_length=2048,
    )  # fmt: skip
    assert warnings == ()


def test_what_ggjt_v3_does_not_say_is_taken_with_a_warning(tmp_path: Path) -> None:
    found, (warning,) = parameters(tmp_path / "m.bin", "GGJT v3", Shape())
    assert (found.norm_eps, found.rope_theta, found.context_length) == (5e-6, 10_000.0, 2048)
    assert warning == (
        "GGJT files do not say these: norm_eps 5e-06, rope_theta 10000, context_length 2048 are taken, "
        "as the model looks like LLaMA 1 or Llama 2"
    )
    found, (warning,) = parameters(tmp_path / "m.bin", "GGJT v3", GROUPED)
    assert (found.n_kv_heads, found.norm_eps, found.context_length) == (2, 1e-5, 4096)
    assert warning.endswith("looks like Llama 2 70B")
    found, (warning,) = parameters(tmp_path / "m.bin", "GGJT v3", replace(GROUPED, n_layers=48))
    assert (found.norm_eps, found.rope_theta, found.context_length) == (1e-5, 1e6, 16384)
    assert warning.endswith("looks like Code Llama")


@dataclasses.dataclass(frozen=True)
class Wider(Shape):
    """With the feed-forward network of Llama 2 70B, 1.3 times as wide."""

    @property
    def hidden_dim(self) -> int:
        return -(-int(1.3 * (8 * self.dim // 3)) // self.n_mult) * self.n_mult


def test_the_feed_forward_network_of_llama_2_70b_is_wider(tmp_path: Path) -> None:
    found, _ = parameters(tmp_path / "m.bin", "GGJT v3", Wider(n_kv_heads=2))
    assert found.hidden_dim == 128  # 85 * 1.3 = 110, and a multiple of 32


Change = Callable[[Old], Old]


def number(**numbers: int) -> Change:
    return lambda model: replace(model, numbers=dict(model.numbers) | numbers)


def tensor(name: str, /, **changes: object) -> Change:
    return lambda model: replace(
        model,
        tensors=tuple(replace(each, **changes) if each.name == name else each for each in model.tensors),  # type: ignore[arg-type]
    )


def without(name: str) -> Change:
    return lambda model: replace(model, tensors=tuple(each for each in model.tensors if each.name != name))


def token(token_id: int, text: bytes) -> Change:
    return lambda model: replace(model, tokens=(*model.tokens[:token_id], text, *model.tokens[token_id + 1 :]))


def score(token_id: int, value: float) -> Change:
    return lambda model: replace(model, scores=(*model.scores[:token_id], value, *model.scores[token_id + 1 :]))


BAD: list[tuple[str, Change, str]] = [
    ("heads that do not divide", number(n_head=3), "n_rot"),
    ("heads of another width", number(n_rot=16), "n_rot"),
    ("heads of an odd width", number(n_head=32, n_rot=1), "n_rot"),
    ("no such multiple", number(n_mult=31), "layers.0.feed_forward.w1.weight"),
    ("three layers", number(n_layer=3), "layers.2.attention_norm.weight"),
    ("one layer", number(n_layer=1), "layers.1.attention.wq.weight"),
    ("no embedding", without("tok_embeddings.weight"), "tok_embeddings.weight"),
    ("no keys", without("layers.0.attention.wk.weight"), "layers.0.attention.wk.weight"),
    ("no output", without("output.weight"), "output.weight"),
    ("an embedding of one dimension", tensor("tok_embeddings.weight", shape=(272 * 32,)), "tok_embeddings.weight"),
    ("an embedding of a width that is no part", tensor("tok_embeddings.weight", shape=(32, 272)),
     "tok_embeddings.weight"),
    ("an output turned round", tensor("output.weight", shape=(32, 272)), "output.weight"),
    ("keys of half a head", tensor("layers.0.attention.wk.weight", shape=(4, 32), data=bytes(256)),
     "layers.0.attention.wk.weight"),
    ("keys of three heads", tensor("layers.0.attention.wk.weight", shape=(24, 32), data=bytes(1536)),
     "layers.0.attention.wk.weight"),
    ("a norm of another length", tensor("norm.weight", shape=(16,), data=bytes(64)), "norm.weight"),
    ("an unknown tensor", tensor("output.weight", name="lm_head.weight"), "output.weight"),
    ("two tokens", lambda model: replace(model, tokens=TOKENS[:2], scores=SCORES[:2]), "n_vocab"),
    ("a token that is no text", token(265, b"\xff\xfe"), "vocabulary[265]"),
    ("a token twice", token(265, TOKENS[260]), "vocabulary[265]"),
    ("a byte twice", token(10, TOKENS[11]), "vocabulary[11]"),
    ("a byte too few", token(10, b"x y"), "vocabulary"),
    ("a score that is no number", score(265, float("nan")), "scores[265]"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "field"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_model_that_lies_is_refused(tmp_path: Path, change: Change, field: str) -> None:
    model = change(old_ggml.model("GGJT v2", old_ggml.F16))
    if len(model.tokens) != model.numbers["n_vocab"]:
        model = number(n_vocab=len(model.tokens))(model)
    with pytest.raises(MalformedError) as caught:
        opened(tmp_path / "m.bin", model)
    assert caught.value.field == field


PART_TYPES = {"F16": old_ggml.F16, **{name: old_ggml.V1[name] for name in ("Q4_0_V1", "Q4_1_V1")}}


@pytest.mark.parametrize("n_parts", [1, 2, 4, 8])
@pytest.mark.parametrize("name", PART_TYPES)
def test_parts_together_are_the_whole(tmp_path: Path, name: str, n_parts: int) -> None:
    old_ggml.write_parts(tmp_path / "m.bin", "GGMF v1", PART_TYPES[name], n_parts, WIDE)
    whole = old_ggml.model("GGMF v1", PART_TYPES[name], WIDE)
    with open_checkpoint(tmp_path / "m.bin") as checkpoint:
        assert len(checkpoint.files) == n_parts
        assert checkpoint.hyperparameters.dim == 256
        names = llama.meta_names(checkpoint.hyperparameters)
        stored = {
            names[each]: tensor.read_rows(0, tensor.info.n_rows).tobytes()
            for each, tensor in checkpoint.tensors.items()
        }
    assert stored == {each.name: each.data for each in whole.tensors}


def test_five_bits_in_parts_are_repacked_before_they_are_joined(tmp_path: Path) -> None:
    kind = old_ggml.V1["Q5_0"]
    old_ggml.write_parts(tmp_path / "m.bin", "GGML", kind, 2, WIDE)
    with open_checkpoint(tmp_path / "m.bin") as checkpoint:
        found = weights(checkpoint)
    for name, expected in original(old_ggml.model("GGML", kind, WIDE), kind).items():
        np.testing.assert_array_equal(found[name], expected, name)


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    paths = old_ggml.write_parts(tmp_path / "m.bin", "GGML", old_ggml.F16, 4, WIDE)
    with pytest.raises(
        MissingError, match=r"m\.bin\.2\.1: not found, m\.bin\.2 is a part of a model; give the first, m"
    ):
        open_checkpoint(paths[2])
    paths[2].unlink()
    with pytest.raises(MissingError, match=r"m\.bin\.2: not found, part 3 of a model that was written in parts"):
        open_checkpoint(paths[0])


def test_a_part_that_is_a_link_to_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    first, second = old_ggml.write_parts(tmp_path / "model" / "m.bin", "GGML", old_ggml.F16, 2, WIDE)
    second.rename(tmp_path / second.name)
    second.symlink_to(tmp_path / second.name)
    with pytest.raises(UnsafeError, match=r"m\.bin\.1: file: found a link to"):
        open_checkpoint(first)
    first.rename(tmp_path / first.name)
    first.symlink_to(tmp_path / first.name)
    open_checkpoint(first).close()


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    first, second = old_ggml.write_parts(tmp_path / "m.bin", "GGML", old_ggml.F16, 2, WIDE)
    good = second.read_bytes()

    def refused(data: bytes) -> str:
        second.write_bytes(data)
        with pytest.raises(MalformedError) as caught:
            open_checkpoint(first)
        assert caught.value.path == second
        return caught.value.field

    assert refused(b"fmgg\1\0\0\0" + good[4:]) != ""
    assert refused(good[:28] + b"\7" + good[29:]) == "numbers"  # ftype
    assert refused(good.replace(b"\4\0\0\0 hel", b"\4\0\0\0 hal")) == "tokens"
    assert refused(good.replace(b"layers.0.attention.wq.weight", b"layers.0.attention.wx.weight")) in (
        "layers.0.attention.wq.weight", "layers.0.attention.wx.weight",
    )  # fmt: skip
    at = good.index(b"layers.0.ffn_norm.weight") + len(b"layers.0.ffn_norm.weight")
    assert refused(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]) == "layers.0.ffn_norm.weight"
    second.write_bytes(good)
    open_checkpoint(first).close()


def test_a_vector_larger_than_memory_in_every_part_is_not_read(tmp_path: Path) -> None:
    """It is no tensor of a llama, and that is seen before anybody compares the parts: 16 GiB of zeros in no room."""
    paths = old_ggml.write_parts(tmp_path / "m.bin", "GGML", old_ggml.F16, 2, WIDE)
    for path in paths:
        with path.open("ab") as file:
            file.write(struct.pack("<IIII", 1, 4, 0, 2**32 - 1) + b"huge")
            file.truncate(file.tell() + 4 * (2**32 - 1))
    with pytest.raises(MalformedError) as caught:
        open_checkpoint(paths[0])
    assert (caught.value.field, caught.value.found) == ("huge", "an unknown tensor")


def test_the_opener_opens_every_part(tmp_path: Path) -> None:
    paths = old_ggml.write_parts(tmp_path / "m.bin", "GGML", old_ggml.F16, 2, WIDE)
    seen: list[Path] = []

    def opener(path: Path) -> InputFile:
        seen.append(path)
        return InputFile(path)

    with open_checkpoint(paths[0], opener=opener):
        assert seen == paths


def test_a_failed_opening_leaves_no_file_open(tmp_path: Path) -> None:
    paths = old_ggml.write_parts(tmp_path / "m.bin", "GGML", old_ggml.F16, 2, WIDE)
    paths[1].write_bytes(b"lmgg")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(MalformedError):
        open_checkpoint(paths[0])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("container", CONTAINERS)
def test_it_is_found_by_content(tmp_path: Path, container: str) -> None:
    with opened(tmp_path / "model.safetensors", old_ggml.model(container, old_ggml.F16)) as checkpoint:
        assert (checkpoint.format, checkpoint.architecture) == ("ggml", "llama")


def test_types_are_counted_as_the_file_has_them(tmp_path: Path) -> None:
    with opened(tmp_path / "m.bin", old_ggml.model("GGJT v2", old_ggml.V2["Q8_0_V2"])) as checkpoint:
        found: set[DType] = {tensor.info.dtype for tensor in checkpoint.tensors.values()}
        assert found == {dtypes.F32, dtypes.Q8_0_V2}
        assert checkpoint.tensors["output.weight"].origin == "m.bin: output.weight"
