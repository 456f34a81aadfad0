import json
from dataclasses import replace

import pytest
import sentencepiece

from converters.errors import MalformedError, UnsafeError, UnsupportedError
from converters.fields import Fields
from converters.tokenizers import huggingface, sentencepiece_model, tiktoken
from converters.tokenizers.gguf_keys import vocabulary_from_gguf, vocabulary_to_gguf
from converters.tokenizers.meta import meta_vocabulary_files, read_meta_vocabulary
from converters.tokenizers.vocabulary import TokenKind
from distro.runtime.tokenizer import Tokenizer
from tests.converters.test_tokenizers_tekken import small as small_tekken
from tests.data.corpus import CORPUS, SPECIAL
from tests.fakes import llama_cpp
from tests.fakes.vocabularies import small_bpe, small_llama_3, small_spm, vocabulary_of

MISTRAL = "mistral-common==1.13.1"
MODEL, CONFIG, GENERATION = "tokenizer.model", "tokenizer_config.json", "generation_config.json"


def put(folder, vocabulary, **options):
    files = meta_vocabulary_files(vocabulary, **options)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return set(files)


def llama_3(**values):
    return replace(small_llama_3(), **values)


def llama_3_1():
    return tiktoken.parse("x", tiktoken.write(small_llama_3())[0], 516, scaled_rope=True)


TEMPLATE = "{{ bos_token }}{{ messages }}<|eot_id|>"
# What it is, the vocabulary, use_scaled_rope, the files that hold it.
KINDS = [
    ("Llama 2", small_spm(), False, {MODEL}),
    ("Llama 3", small_llama_3(), False, {MODEL}),
    ("Llama 3.1", llama_3_1(), True, {MODEL}),
    ("a chat's template", llama_3(chat_template=TEMPLATE), False, {MODEL, CONFIG, GENERATION}),
    ("a base model, one end", llama_3(stop_ids=(261,)), False, {MODEL, CONFIG, GENERATION}),
    ("another eos", llama_3(eos_id=269), False, {MODEL, CONFIG, GENERATION}),
    ("a token for padding", llama_3(pad_id=262), False, {MODEL, CONFIG, GENERATION}),
    ("no begin wanted", llama_3(add_bos=False), False, {MODEL, CONFIG, GENERATION}),
    ("a template of Llama 2", replace(small_spm(), chat_template="[INST]"), False, {MODEL, CONFIG, GENERATION}),
    ("a space at the start only", replace(small_spm(), prefix_scheme="first"), False, {MODEL, CONFIG, GENERATION}),
    ("no space in front", replace(small_spm(), add_space_prefix=False), False, {MODEL}),
    ("Llama 3.1's tokens in a model of 3.0", llama_3_1(), False, None),
    ("a BPE of its own", small_bpe(), False, None),
    ("a renamed special token", llama_3(tokens=(*small_llama_3().tokens[:-1], "<|im_end|>")), False, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("vocabulary", "scaled_rope", "files"), [row[1:] for row in KINDS], ids=[row[0] for row in KINDS]
)
def test_a_vocabulary_comes_back(vocabulary, scaled_rope, files, tmp_path):
    written = put(tmp_path, vocabulary, scaled_rope=scaled_rope)
    assert written == (files or {"tokenizer.json", CONFIG, GENERATION, "special_tokens_map.json"})
    assert read_meta_vocabulary(tmp_path, len(vocabulary), scaled_rope=scaled_rope) == vocabulary
    assert read_meta_vocabulary(tmp_path, None, scaled_rope=scaled_rope) == vocabulary
    assert meta_vocabulary_files(vocabulary, scaled_rope=scaled_rope) == {
        name: (tmp_path / name).read_bytes() for name in written
    }


def test_without_an_unknown_token_there_is_a_tokenizer_json(tmp_path):
    kinds = (TokenKind.CONTROL, *small_spm().kinds[1:])
    vocabulary = replace(small_spm(), unk_id=None, kinds=kinds)
    assert MODEL not in put(tmp_path, vocabulary)
    again = read_meta_vocabulary(tmp_path, 271)
    assert (again.tokens, again.kinds) == (vocabulary.tokens, vocabulary.kinds)


@pytest.mark.parametrize("member", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"])
def test_mistrals_own_tokenizer_comes_back(member, wheel_file, tmp_path):
    path = wheel_file(MISTRAL, f"mistral_common/data/{member}")
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / f"tokenizer.model{path.suffix}").write_bytes(path.read_bytes())
    vocabulary = read_meta_vocabulary(tmp_path / "release", None)
    assert vocabulary == sentencepiece_model.read(path)
    assert put(tmp_path, vocabulary) == {MODEL}
    assert read_meta_vocabulary(tmp_path, len(vocabulary)) == vocabulary
    judge = sentencepiece.SentencePieceProcessor(model_file=str(path))
    again = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / MODEL))
    texts = [*CORPUS, *SPECIAL]
    assert again.encode(texts) == judge.encode(texts)
    assert (again.bos_id(), again.eos_id(), again.pad_id()) == (judge.bos_id(), judge.eos_id(), judge.pad_id())


def test_a_real_vocabulary_that_is_neither(smollm2_gguf, tmp_path):
    vocabulary = vocabulary_of(smollm2_gguf)
    assert put(tmp_path, vocabulary) == {"tokenizer.json", CONFIG, GENERATION, "special_tokens_map.json"}
    assert read_meta_vocabulary(tmp_path, 49152) == vocabulary


def test_which_file_counts(tmp_path):
    assert read_meta_vocabulary(tmp_path, 271) is None

    def spm(text):
        return sentencepiece_model.write(replace(small_spm(), tokens=(*small_spm().tokens[:-2], text, "[PAD270]")))

    (tmp_path / "tokenizer.model.v3.bak").write_bytes(b"not looked at")
    for name, text in (
        (MODEL, "<plain>"), ("tokenizer.model.v2", "<two>"), ("tokenizer.model.v7", "<seven>"),
        ("tokenizer.model.v7m1", "<seven, one>"), ("tokenizer.model.v11", "<eleven>"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(spm(text))
        assert read_meta_vocabulary(tmp_path, 271).tokens[269] == text
    (tmp_path / "tokenizer.json").write_text("not looked at either")
    assert read_meta_vocabulary(tmp_path, 271).tokens[269] == "<eleven>"
    (tmp_path / "tekken.json").write_text(json.dumps(small_tekken()))
    assert read_meta_vocabulary(tmp_path, 262).pre_tokenizer == "tekken"


def test_the_small_files_beside_a_release_are_heard(tmp_path):
    put(tmp_path, small_llama_3())
    (tmp_path / GENERATION).write_text('{"eos_token_id": [261, 269, 263]}')
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    vocabulary = read_meta_vocabulary(tmp_path, 516)
    assert (vocabulary.stop_ids, vocabulary.chat_template) == ((261, 263, 269), TEMPLATE)
    keys = vocabulary_to_gguf(vocabulary)
    assert (keys["tokenizer.ggml.eos_token_id"], keys["tokenizer.ggml.eot_token_id"]) == (261, 263)


def test_tokens_that_a_folder_of_both_kinds_would_add_are_not_heard(tmp_path):
    """Mistral's repositories hold both; tekken.json and tokenizer_config.json differ in the names of kept tokens."""
    (tmp_path / "tekken.json").write_text(json.dumps(small_tekken()))
    added = {"3": {"content": "</s>", "special": True}, "261": {"content": "[x]", "special": True}}
    (tmp_path / CONFIG).write_text(json.dumps({"added_tokens_decoder": added, "pad_token": "<SPECIAL_3>"}))
    vocabulary = read_meta_vocabulary(tmp_path, 262)
    assert (vocabulary.tokens[3], vocabulary.tokens[261], vocabulary.pad_id) == ("<SPECIAL_3>", "abc", 3)


def test_rows_without_a_token(tmp_path):
    (tmp_path / "tekken.json").write_text(json.dumps(small_tekken()))
    vocabulary = read_meta_vocabulary(tmp_path, 264)
    assert vocabulary.tokens[261:] == ("abc", "[PAD262]", "[PAD263]")
    assert vocabulary.kinds[261:] == (TokenKind.NORMAL, TokenKind.UNUSED, TokenKind.UNUSED)
    assert read_meta_vocabulary(tmp_path, 262) == read_meta_vocabulary(tmp_path, None)
    with pytest.raises(MalformedError, match=r"tekken\.json: tokens: found 262, allowed some for the .* 261 rows"):
        read_meta_vocabulary(tmp_path, 261)
    with pytest.raises(MalformedError, match="2000000000 rows"):
        read_meta_vocabulary(tmp_path, 2_000_000_000)


def test_more_pieces_than_rows(tmp_path):
    put(tmp_path, small_spm())
    with pytest.raises(MalformedError, match=r"tokenizer\.model: tokens: found 271, allowed some for the .* 270 rows"):
        read_meta_vocabulary(tmp_path, 270)
    put(tmp_path, small_llama_3())
    for rows in (515, 517):
        with pytest.raises(UnsupportedError, match=f"ranks: found 260 for the embedding's {rows} rows"):
            read_meta_vocabulary(tmp_path, rows)


@pytest.mark.parametrize("name", [MODEL, "tokenizer.model.v3", "tekken.json", CONFIG, GENERATION])
def test_a_link_that_leaves_the_folder_is_unsafe(name, tmp_path):
    folder = tmp_path / "release"
    folder.mkdir()
    put(folder, small_spm())
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/etc/passwd")
    with pytest.raises(UnsafeError, match="a link to"):
        read_meta_vocabulary(folder, 271)


NEITHER = [
    b"",
    b"\n",
    b"IQ==",
    b"IQ== 0",
    b'{"a": 1}',
    b"\x80\x04\x95",
    b"version https://git-lfs.github.com/spec/v1\n",
]


@pytest.mark.parametrize("data", NEITHER, ids=range(len(NEITHER)))
def test_a_tokenizer_model_that_is_neither(data, tmp_path):
    (tmp_path / MODEL).write_bytes(data)
    errors = []
    for read in (read_meta_vocabulary, huggingface.read_vocabulary):
        with pytest.raises(MalformedError, match=r"a SentencePiece model, or lines of base64 and a rank") as caught:
            read(tmp_path, 271)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]  # one verdict, whoever asks


@pytest.mark.parametrize("vocabulary", [small_spm(), small_llama_3()], ids=["SentencePiece", "ranks"])
def test_a_cut_gets_one_verdict_in_both_kinds_of_folder(vocabulary, tmp_path):
    data = meta_vocabulary_files(vocabulary)[MODEL]
    for length in [*range(40), *range(40, len(data), 61), len(data) - 1]:
        (tmp_path / MODEL).write_bytes(data[:length])
        errors = []
        for read in (read_meta_vocabulary, huggingface.read_vocabulary):
            with pytest.raises(MalformedError) as caught:
                read(tmp_path, len(vocabulary))
            errors.append((type(caught.value), str(caught.value)))
        assert errors[0] == errors[1]


@pytest.fixture(scope="module")
def code_llama(wheel_file):
    """Mistral's first pieces and Code Llama's four at their ids; seven lead to them, five fill up to 32016."""
    base = sentencepiece_model.read(wheel_file(MISTRAL, "mistral_common/data/tokenizer.model.v1"))
    pieces = ["▁<SU", "▁<SUF", "▁<PRE", "▁<M", "▁<MID", "▁<E", "▁<EOT", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]
    pieces += [f"▁<unused{n}>" for n in range(5)]
    lowest = min(base.scores)
    return replace(
        base,
        tokens=(*base.tokens, *pieces),
        kinds=(*base.kinds, *[TokenKind.NORMAL] * 16),
        scores=(*base.scores, *(lowest - 1 - n for n in range(16))),
    )


@pytest.fixture(scope="module")
def code_llama_folder(code_llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("code-llama")
    (folder / MODEL).write_bytes(sentencepiece_model.write(code_llama))
    return folder


def test_code_llamas_tokens_for_filling_in(code_llama_folder, tmp_path):
    vocabulary = read_meta_vocabulary(code_llama_folder, 32016)
    fill_in = (vocabulary.fim_prefix_id, vocabulary.fim_suffix_id, vocabulary.fim_middle_id)
    assert fill_in == (32007, 32008, 32009)
    assert vocabulary.stop_ids == (2, 32010)
    assert huggingface.read_vocabulary(code_llama_folder, 32016) == vocabulary
    assert put(tmp_path, vocabulary) == {MODEL}
    assert read_meta_vocabulary(tmp_path, 32016) == vocabulary

    keys = vocabulary_to_gguf(vocabulary)
    names = ("prefix", "suffix", "middle", "eot")
    assert [keys[f"tokenizer.ggml.{name}_token_id"] for name in names] == [32007, 32008, 32009, 32010]
    assert vocabulary_from_gguf(Fields("code.gguf", keys)) == vocabulary


def test_prompts_for_filling_in_have_the_ids_of_metas_code(code_llama_folder, tmp_path):
    """`infilling_prompt_tokens` in meta-llama/codellama, llama/generation.py, with SentencePiece as there."""
    vocabulary = read_meta_vocabulary(code_llama_folder, 32016)
    judge = sentencepiece.SentencePieceProcessor(model_file=str(code_llama_folder / MODEL))
    prefix, suffix = "def tide(hours):\n    return ", "  # metres\n\nprint(tide(3))\n"
    without_space = judge.encode("☺" + suffix)[2:]
    theirs = [1, judge.piece_to_id("▁<PRE>"), *judge.encode(prefix), judge.piece_to_id("▁<SUF>"), *without_space,
              judge.piece_to_id("▁<MID>")]  # fmt: skip

    tokenizer, bare = Tokenizer(vocabulary), Tokenizer(replace(vocabulary, add_space_prefix=False))
    ours = [vocabulary.bos_id, vocabulary.fim_prefix_id, *tokenizer.encode(prefix, add_special=False)]
    ours += [vocabulary.fim_suffix_id, *bare.encode(suffix, add_special=False), vocabulary.fim_middle_id]
    assert ours == theirs
    # Written out, the same prompt has the same ids.
    assert tokenizer.encode(f"<PRE> {prefix} <SUF>{suffix} <MID>") == theirs

    llama_cpp.write_model(tmp_path / "code.gguf", vocabulary)
    texts = [*CORPUS, *SPECIAL]
    llama = llama_cpp.tokenize(tmp_path / "code.gguf", texts, tmp_path / "ids", add_special=True, parse_special=True)
    assert llama == [tokenizer.encode(text, parse_special=True) for text in texts]
