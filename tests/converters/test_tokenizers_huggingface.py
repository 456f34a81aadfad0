import base64
import json
import warnings
from dataclasses import replace

import pytest
import tokenizers
from transformers import AutoTokenizer

from converters.errors import ConversionError, MalformedError, UnsupportedError
from converters.tokenizers import sentencepiece_model
from converters.tokenizers.huggingface import read_vocabulary, vocabulary_files
from converters.tokenizers.vocabulary import TokenKind
from distro.runtime.tokenizer import Tokenizer
from tests.data.corpus import CORPUS, SPECIAL
from tests.fakes.vocabularies import small_bpe, small_spm, vocabulary_of

FILES = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"}


def put(folder, vocabulary, **options):
    """The files of a vocabulary in a folder, with the config.json by which transformers knows a llama."""
    for name, data in vocabulary_files(vocabulary, **options).items():
        (folder / name).write_bytes(data)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": len(vocabulary)}))
    return folder


def change(folder, name, pointer, value):
    """One value of a JSON file, by the keys that lead to it; None takes it out."""
    path = folder / name
    document = json.loads(path.read_text()) if path.exists() else {}
    place = document
    for key in pointer[:-1]:
        place = place[key]
    if value is None:
        del place[pointer[-1]]
    elif isinstance(place, list) and pointer[-1] == len(place):
        place.append(value)
    else:
        place[pointer[-1]] = value
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "vocabulary",
    [
        small_bpe(),
        small_spm(),
        replace(small_bpe(), stop_ids=(0, 2), add_bos=True, add_eos=True, chat_template="{{ 'ü' }}\n"),
        replace(small_spm(), prefix_scheme="first", add_bos=False),
        replace(small_spm(), add_space_prefix=False, chat_template="{# <|x|> #}"),
        replace(small_bpe(), bos_id=None, pad_id=None, unk_id=None, pre_tokenizer="llama-bpe"),
    ],
    ids=["bpe", "spm", "bpe with everything", "spm, first", "spm without prefix", "bpe with nothing"],
)
def test_a_vocabulary_comes_back(vocabulary, tmp_path):
    assert read_vocabulary(put(tmp_path, vocabulary), len(vocabulary)) == vocabulary


def test_the_same_vocabulary_gives_the_same_bytes():
    assert vocabulary_files(small_bpe()) == vocabulary_files(small_bpe())
    assert set(vocabulary_files(small_bpe())) == FILES
    assert set(vocabulary_files(small_spm())) == FILES | {"tokenizer.model"}


def test_what_the_small_files_say():
    files = vocabulary_files(replace(small_bpe(), stop_ids=(0, 2)), context_length=2048)
    config = json.loads(files["tokenizer_config.json"])
    assert (config["bos_token"], config["eos_token"], config["model_max_length"]) == (
        "<|im_start|>",
        "<|im_end|>",
        2048,
    )
    assert config["added_tokens_decoder"]["3"]["special"] is False
    assert json.loads(files["generation_config.json"]) == {"bos_token_id": 1, "eos_token_id": [0, 2], "pad_token_id": 2}
    assert json.loads(files["special_tokens_map.json"]) == {
        "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|end|>",
    }  # fmt: skip


def opened_by_transformers(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return AutoTokenizer.from_pretrained(folder)


def test_transformers_opens_a_real_vocabulary_with_equal_ids(smollm2_gguf, tmp_path):
    vocabulary = vocabulary_of(smollm2_gguf)
    judge = opened_by_transformers(put(tmp_path, vocabulary))
    assert len(judge) == len(vocabulary)
    assert (judge.bos_token_id, judge.eos_token_id, judge.pad_token_id, judge.unk_token_id) == (1, 2, 2, 0)
    ours = Tokenizer(vocabulary)
    for text in (*CORPUS, *SPECIAL):
        ids = judge(text).input_ids
        assert ids == ours.encode(text, parse_special=True)
        assert judge.decode(ids, skip_special_tokens=True) == ours.decode(ids)
    assert read_vocabulary(tmp_path, 49152) == vocabulary


def test_transformers_opens_sentencepiece_with_equal_ids(wheel_file, tmp_path):
    path = wheel_file("mistral-common==1.13.1", "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3")
    vocabulary = sentencepiece_model.read(path)
    judge = opened_by_transformers(put(tmp_path, vocabulary))
    ours = Tokenizer(vocabulary)
    for text in (*CORPUS, *SPECIAL):
        assert judge(text).input_ids == ours.encode(text, parse_special=True)
    assert read_vocabulary(tmp_path, 32768) == vocabulary

    (tmp_path / "tokenizer.json").unlink()
    assert read_vocabulary(tmp_path, 32768) == vocabulary


def test_without_tokenizer_model_the_merges_give_scores_that_join_alike(wheel_file, tmp_path):
    path = wheel_file("mistral-common==1.13.1", "mistral_common/data/tokenizer.model.v1")
    vocabulary = sentencepiece_model.read(path)
    put(tmp_path, vocabulary)
    (tmp_path / "tokenizer.model").unlink()
    guessed = read_vocabulary(tmp_path, 32000)
    assert (guessed.tokens, guessed.kinds) == (vocabulary.tokens, vocabulary.kinds)
    assert guessed.scores != vocabulary.scores
    ours, theirs = Tokenizer(guessed), Tokenizer(vocabulary)
    assert [ours.encode(text) for text in CORPUS] == [theirs.encode(text) for text in CORPUS]


def test_the_smaller_of_tokenizers_own_writers_is_read(tmp_path):
    """A tokenizer.json as the tokenizers library writes it after training, judged by its own ids."""
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(["low lower lowest newer wider"] * 3, vocab_size=300, special_tokens=["<|endoftext|>"])
    made.save(str(tmp_path / "tokenizer.json"))
    vocabulary = read_vocabulary(tmp_path, None)
    assert (vocabulary.model, vocabulary.pre_tokenizer, vocabulary.kinds[0]) == ("bpe", "gpt-2", TokenKind.CONTROL)
    assert Tokenizer(vocabulary).encode("newest low") == made.encode("newest low").ids


def test_rows_without_a_token_become_unused_ones(tmp_path):
    vocabulary = read_vocabulary(put(tmp_path, small_bpe()), 300)
    assert (vocabulary.tokens[264], vocabulary.tokens[299]) == ("ello", "[PAD299]")
    assert vocabulary.kinds[264:] == (TokenKind.NORMAL, *[TokenKind.UNUSED] * 35)
    assert read_vocabulary(put(tmp_path, vocabulary), 300) == vocabulary


def test_a_folder_without_a_tokenizer_has_no_vocabulary(tmp_path):
    assert read_vocabulary(tmp_path, 100) is None


def test_old_merges_are_texts(tmp_path):
    put(tmp_path, small_bpe())
    change(tmp_path, "tokenizer.json", ("model", "merges"), list(small_bpe().merges))
    assert read_vocabulary(tmp_path, 265) == small_bpe()


def test_special_tokens_as_objects_and_in_the_older_map(tmp_path):
    put(tmp_path, small_bpe())
    config = {"bos_token": {"__type": "AddedToken", "content": "<|im_start|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_vocabulary(tmp_path, 265) == small_bpe()


def test_begin_and_end_come_from_the_post_processor_unless_the_config_speaks(tmp_path):
    put(tmp_path, replace(small_bpe(), add_bos=True))
    change(tmp_path, "tokenizer_config.json", ("add_bos_token",), None)
    assert read_vocabulary(tmp_path, 265).add_bos
    change(tmp_path, "tokenizer_config.json", ("add_bos_token",), False)
    assert not read_vocabulary(tmp_path, 265).add_bos


def test_the_template_file_goes_before_the_config(tmp_path):
    put(tmp_path, replace(small_bpe(), chat_template="old"))
    assert read_vocabulary(tmp_path, 265).chat_template == "old"
    (tmp_path / "chat_template.jinja").write_text("new\n")
    assert read_vocabulary(tmp_path, 265).chat_template == "new\n"


def test_of_named_templates_the_default_counts(tmp_path):
    put(tmp_path, small_bpe())
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "chat"}]
    change(tmp_path, "tokenizer_config.json", ("chat_template",), named)
    assert read_vocabulary(tmp_path, 265).chat_template == "chat"


def test_tokenizer_model_grows_by_the_tokens_that_the_folder_adds(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(vocabulary_files(small_spm())["tokenizer.model"])
    added = {"271": {"content": "<|sep|>", "special": True}, "272": {"content": "[x]", "special": False}}
    config = {"added_tokens_decoder": added, "legacy": False, "eos_token": "<|sep|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    vocabulary = read_vocabulary(tmp_path, 274)
    assert vocabulary.tokens[270:] == ("[PAD270]", "<|sep|>", "[x]", "[PAD273]")
    assert vocabulary.kinds[271:] == (TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNUSED)
    assert (vocabulary.eos_id, vocabulary.prefix_scheme) == (271, "first")


def test_gemmas_cut_is_read_as_no_prefix(tmp_path):
    put(tmp_path, replace(small_spm(), add_space_prefix=False))
    whole = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    change(tmp_path, "tokenizer.json", ("pre_tokenizer",), whole)
    assert not read_vocabulary(tmp_path, 271).add_space_prefix


def token(token_id, content, **flags):
    return {"id": token_id, "content": content, "special": True, **flags}


JSON, CONFIG, GENERATION = "tokenizer.json", "tokenizer_config.json", "generation_config.json"
# What is wrong, the file, where in it, the new value, the field of the error.
BAD = [
    ("no model", JSON, ("model",), None, "/model"),
    ("a model of another kind", JSON, ("model", "type"), "Unigram", "/model/type"),
    ("dropout", JSON, ("model", "dropout"), 0.1, "/model/dropout"),
    ("prefixes of words", JSON, ("model", "continuing_subword_prefix"), "##", "/model/continuing_subword_prefix"),
    ("vocab is a list", JSON, ("model", "vocab"), [], "/model/vocab"),
    ("no vocab", JSON, ("model", "vocab"), None, "/model/vocab"),
    ("an id twice", JSON, ("model", "vocab", "zzz"), 5, "/model/vocab/zzz"),
    ("a negative id", JSON, ("model", "vocab", "zzz"), -1, "/model/vocab/zzz"),
    ("an id of 2**31", JSON, ("model", "vocab", "zzz"), 2**31, "/model/vocab/zzz"),
    ("an id that is text", JSON, ("model", "vocab", "zzz"), "5", "/model/vocab/zzz"),
    ("an id that is true", JSON, ("model", "vocab", "zzz"), True, "/model/vocab/zzz"),
    ("an id above the rows", JSON, ("model", "vocab", "zzz"), 265, "/model/vocab"),
    ("a lone surrogate", JSON, ("model", "vocab"), {"a": 0, "\ud800": 1}, "JSON"),
    ("merges are an object", JSON, ("model", "merges"), {"a": "b"}, "/model/merges"),
    ("a merge is a number", JSON, ("model", "merges"), [["Ġ", "h"], 5], "/model/merges/1"),
    ("a merge with a space", JSON, ("model", "merges"), [["Ġ h", "h"]], "/model/merges/0"),
    ("a merge into no token", JSON, ("model", "merges"), [["h", "h"]], "/model/merges[0]"),
    ("ignore_merges is a number", JSON, ("model", "ignore_merges"), 1, "/model/ignore_merges"),
    ("added tokens are text", JSON, ("added_tokens",), "x", "/added_tokens"),
    ("100,000 added tokens", JSON, ("added_tokens",), [0] * 100_000, "/added_tokens"),
    ("an added token is a number", JSON, ("added_tokens", 4), 7, "/added_tokens/4"),
    ("an added token of another text", JSON, ("added_tokens", 4), token(9, "zzz"), "/added_tokens/4/content"),
    ("an added token of another id", JSON, ("added_tokens", 4), token(9, "<tool>"), "/added_tokens/4/content"),
    ("an added token twice", JSON, ("added_tokens", 4), token(264, "<tool>"), "/added_tokens/4/content"),
    ("an added token that strips", JSON, ("added_tokens", 0), token(0, "<|end|>", rstrip=True),
     "/added_tokens/0/rstrip"),
    ("an added id that is missing", JSON, ("added_tokens", 0), {"content": "x"}, "/added_tokens/0/id"),
    ("a cut that we do not know", JSON, ("pre_tokenizer",), {"type": "Whitespace"}, "/pre_tokenizer"),
    ("a normalizer", JSON, ("normalizer",), {"type": "NFKC"}, "/normalizer"),
    ("a post-processor", JSON, ("post_processor",), {"type": "RobertaProcessing"}, "/post_processor"),
    ("a template of two begins", JSON, ("post_processor",),
     {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<tool>"}}] * 2 + [{"Sequence": {"id": "A"}}]},
     "/post_processor/single"),
    ("a template without text", JSON, ("post_processor",), {"type": "TemplateProcessing", "single": []},
     "/post_processor/single"),
    ("a template of a lost token", JSON, ("post_processor",),
     {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<lost>"}}]}, "/post_processor/single"),
    ("eos that is no token", CONFIG, ("eos_token",), "<lost>", "/eos_token"),
    ("eos that is a number", CONFIG, ("eos_token",), 2, "/eos_token"),
    ("add_bos is text", CONFIG, ("add_bos_token",), "yes", "/add_bos_token"),
    ("a template that is a number", CONFIG, ("chat_template",), 5, "/chat_template"),
    ("templates by name, no default", CONFIG, ("chat_template",), [{"name": "rag", "template": "x"}], "/chat_template"),
    ("templates whose names are lists", CONFIG, ("chat_template",), [{"name": ["default"], "template": "x"}],
     "/chat_template"),
    ("two default templates", CONFIG, ("chat_template",), [{"name": "default", "template": text} for text in "xy"],
     "/chat_template"),
    ("a default template that is an object", CONFIG, ("chat_template",), [{"name": "default", "template": {}}],
     "/chat_template"),
    ("a template that is an object", CONFIG, ("chat_template",), {"default": "x"}, "/chat_template"),
    ("stop ids outside", GENERATION, ("eos_token_id",), [2, 265], "/eos_token_id"),
    ("stop ids negative", GENERATION, ("eos_token_id",), -2, "/eos_token_id"),
    ("stop ids are text", GENERATION, ("eos_token_id",), ["2"], "/eos_token_id"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pointer", "value", "field"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_files_are_named(name, pointer, value, field, tmp_path):
    put(tmp_path, small_bpe())
    change(tmp_path, name, pointer, value)
    with pytest.raises(MalformedError) as caught:
        read_vocabulary(tmp_path, 265)
    assert caught.value.field == field
    assert str(tmp_path / name)[:100] in str(caught.value)


def test_a_post_processor_of_very_many_items_is_refused_unread(tmp_path):
    """20,000 items, each looked for among 265 tokens, are no work; among 20,000 they were ten seconds of it."""
    put(tmp_path, small_bpe())
    items = [{"SpecialToken": {"id": "<tool>"}}] * 20_000
    change(tmp_path, "tokenizer.json", ("post_processor",), {"type": "TemplateProcessing", "single": items})
    with pytest.raises(UnsupportedError, match="/post_processor/single: found 20000 items, allowed at most one token"):
        read_vocabulary(tmp_path, 265)


@pytest.mark.parametrize("scheme", [{"prepend_scheme": "always"}, {"prepend_scheme": "first", "split": True}])
def test_other_prefixes_are_unsupported(scheme, tmp_path):
    put(tmp_path, replace(small_spm(), prefix_scheme="first"))
    cut = {"type": "Metaspace", "replacement": "▁", "split": False, **scheme}
    change(tmp_path, "tokenizer.json", ("pre_tokenizer",), cut)
    with pytest.raises(UnsupportedError, match="/pre_tokenizer"):
        read_vocabulary(tmp_path, 271)


def test_more_rows_than_any_file_fills_are_refused(tmp_path):
    with pytest.raises(MalformedError, match="265 tokens for 2000000000 ids"):
        read_vocabulary(put(tmp_path, small_bpe()), 2_000_000_000)


def test_two_files_that_disagree_are_refused(tmp_path):
    put(tmp_path, small_spm())
    other = replace(small_spm(), tokens=(*small_spm().tokens[:260], "other", *small_spm().tokens[261:]))
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model.write(other))
    with pytest.raises(MalformedError, match=r"tokenizer\.model: pieces\[260\]: found other, allowed 'el'"):
        read_vocabulary(tmp_path, 271)


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("tokenizer.json", b"", "tokenizer.json"),
        ("tokenizer.json", b"[]", "tokenizer.json"),
        ("tokenizer.json", b"[" * 100_000, "tokenizer.json"),
        ("tokenizer_config.json", b"{", "tokenizer_config.json"),
        ("tokenizer_config.json", b'{"eos_token": "a", "eos_token": "b"}', "tokenizer_config.json"),
        ("chat_template.jinja", b"a\n\xff", "line 2"),
        ("chat_template.jinja", b"a" * 5_000_000, "at most"),
    ],
)  # fmt: skip
def test_broken_files_are_named(name, data, text, tmp_path):
    put(tmp_path, small_bpe())
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConversionError, match=text):
        read_vocabulary(tmp_path, 265)


def test_a_folder_with_llama_3s_tokenizer_model_alone(tmp_path):
    ranks = b"".join(b"%b %d\n" % (base64.b64encode(bytes([byte])), byte) for byte in range(256))
    (tmp_path / "tokenizer.model").write_bytes(ranks)
    added = {"258": {"content": "<|im_start|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    vocabulary = read_vocabulary(tmp_path, 512)
    assert (vocabulary.pre_tokenizer, vocabulary.tokens[256:259]) == (
        "llama-bpe",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>"),
    )
    with pytest.raises(UnsupportedError, match="found 256 for the embedding's 513 rows"):
        read_vocabulary(tmp_path, 513)
