from dataclasses import replace

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from converters.tokenizers import sentencepiece_model
from distro.runtime.tokenizer import Tokenizer
from tests.data.corpus import CORPUS, SPECIAL
from tests.fakes import llama_cpp
from tests.fakes.vocabularies import small_bpe, small_spm, vocabulary_of

MISTRAL = "mistral-common==1.13.1"
MODELS = ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"]
BPE, SPM = Tokenizer(small_bpe()), Tokenizer(small_spm())


def test_merges_in_order_of_rank():
    tokens = small_bpe().tokens
    assert [tokens[i] for i in BPE.encode(" hello")] == ["Ġhel", "lo"]
    tokens = small_spm().tokens
    assert [tokens[i] for i in SPM.encode("helohello", add_special=False)] == ["▁hel", "o", "h", "el", "lo"]


def test_special_tokens_count_only_when_asked():
    assert BPE.encode("<|im_end|>", parse_special=True) == [2]
    assert len(BPE.encode("<|im_end|>")) == 10
    assert BPE.encode("<tool>") == [3]  # user-defined: always


def test_begin_and_end_are_added_as_the_vocabulary_wants():
    assert SPM.encode("") == [1]
    assert SPM.encode("", add_special=False) == []
    both = Tokenizer(replace(small_bpe(), add_bos=True, add_eos=True))
    assert both.encode("<tool>") == [1, 3, 2]


def test_bytes_fall_back_and_come_back():
    ids = SPM.encode("é", add_special=False)
    assert [small_spm().tokens[i] for i in ids] == ["▁", "<0xC3>", "<0xA9>"]
    assert SPM.decode(ids) == "é"


@pytest.mark.parametrize("model", MODELS)
def test_ids_are_sentencepieces(wheel_file, model):
    path = wheel_file(MISTRAL, f"mistral_common/data/{model}")
    judge = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = Tokenizer(sentencepiece_model.read(path))
    for text in (*CORPUS, *SPECIAL):
        ids = judge.encode(text)
        assert tokenizer.encode(text, add_special=False) == ids
        assert tokenizer.encode(text) == [1, *ids]
        assert tokenizer.decode(ids) == judge.decode(ids) == text.replace("▁", " ")


def test_after_a_user_defined_token_a_space_begins_that_sentencepiece_does_not_put():
    """The known difference: tokenizers and llama.cpp begin a new stretch of text there."""
    judge = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model.write(small_spm()))
    tokens = small_spm().tokens
    assert [tokens[i] for i in judge.encode("<tool>hello")] == ["▁", "<tool>", "h", "el", "lo"]
    assert [tokens[i] for i in SPM.encode("<tool>hello", add_special=False)] == ["<tool>", "▁hello"]


def test_a_prefix_at_the_beginning_only():
    first = Tokenizer(replace(small_spm(), prefix_scheme="first"))
    tokens = small_spm().tokens
    ids = first.encode("<s>hello", add_special=False, parse_special=True)
    assert [tokens[i] for i in ids] == ["<s>", "h", "el", "lo"]
    assert first.encode(" hello") == first.encode("hello")
    assert SPM.encode(" hello") != SPM.encode("hello")


def test_ids_are_llama_cpps(smollm2_gguf, tmp_path):
    tokenizer = Tokenizer(vocabulary_of(smollm2_gguf))
    texts = [*CORPUS, *SPECIAL]
    for parse in (False, True):
        theirs = llama_cpp.tokenize(smollm2_gguf, texts, tmp_path / "ids.json", add_special=True, parse_special=parse)
        assert theirs == [tokenizer.encode(text, parse_special=parse) for text in texts]


def test_real_text_comes_back(smollm2_gguf):
    tokenizer = Tokenizer(vocabulary_of(smollm2_gguf))
    for text in (*CORPUS, *SPECIAL):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    prompt = tokenizer.encode(SPECIAL[0], parse_special=True)
    assert tokenizer.decode(prompt) == "user\nWhen is high water?\nassistant\n"


@given(st.text(max_size=50))
def test_any_text_comes_back(text):
    assert BPE.decode(BPE.encode(text)) == text
    assert SPM.decode(SPM.encode(text)) == text.replace("▁", " ")


def test_lone_surrogates_are_replaced():
    assert BPE.decode(BPE.encode("a\ud800b")) == "a\ufffdb"


@given(st.text(alphabet=st.characters(min_codepoint=0x7F, codec="utf-8"), max_size=20))
def test_a_stream_never_ends_inside_a_character(text):
    stream = BPE.stream()
    parts = [stream.feed(token_id) for token_id in BPE.encode(text)]
    assert "".join(parts) == text
    assert stream.finish() == ""


def test_a_stream_that_is_cut_shows_it():
    stream = SPM.stream()
    smile = SPM.encode("🙂", add_special=False)
    assert [stream.feed(token_id) for token_id in smile[:-1]] == ["", "", "", ""]
    assert stream.finish() == "\ufffd"


def test_a_stream_after_a_text_keeps_the_space_between():
    (hello,) = SPM.encode("hello", add_special=False)
    assert SPM.stream().feed(hello) == "hello"
    assert SPM.stream(after=[1]).feed(hello) == "hello"
    assert SPM.stream(after=[1, hello]).feed(hello) == " hello"


def test_an_id_outside_the_vocabulary_is_a_wrong_call():
    with pytest.raises(ValueError, match="token 265 of a vocabulary of 265"):
        BPE.decode([265])
    with pytest.raises(ValueError, match="token -1"):
        BPE.decode([-1])
