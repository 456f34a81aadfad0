"""How text is cut before byte-level BPE: llama.cpp's name for each way, and what tokenizer.json says of it.

A file's regular expression is compared with the ones in this table and never compiled. Facts from the models' own
tokenizer.json and from `llm_tokenizer_bpe` in llama.cpp's src/llama-vocab.cpp, whose comments quote them.

Where llama.cpp cuts otherwise than the models' own tokenizer.json, which is what we follow:
- it does not apply the NFC that qwen2 asks for, so text that is not in NFC gets other ids there;
- with tekken it takes combining marks for no part of a word, so Hindi, Thai and others get other ids there;
- with deepseek-llm and deepseek-coder it keeps a blank with a following U+2028 or U+3000, which are in `_CJK`'s range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from converters.errors import UnsupportedError

Json = Mapping[str, object]

_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_WORDS = _LLAMA3_WORDS.replace("{1,3}", "")
_TEKKEN_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Letters with a case, by code point: several of them turn into others when an editor normalizes a file.
_DEEPSEEK_LETTERS = (
    "\\s?[A-Za-z"
    "\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    "\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
    "]+"
)
_DEEPSEEK_PUNCTUATION = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_CJK_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK3_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"""
    "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)


@dataclass(frozen=True)
class PreTokenizer:
    """One way to cut text. steps: of tokenizer.json's `pre_tokenizer`, in order. normalizer: its `normalizer`.

    ignore_merges: whether a piece that is a token as a whole needs no merges to become it.
    """

    name: str
    steps: tuple[Json, ...]
    normalizer: Json | None = None
    ignore_merges: bool = False

    @property
    def pre_tokenizer(self) -> Json:
        """As tokenizer.json writes it."""
        return self.steps[0] if len(self.steps) == 1 else {"type": "Sequence", "pretokenizers": list(self.steps)}


def _split(regex: str) -> Json:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def _byte_level(*, cut_words: bool) -> Json:
    """Bytes to letters; with cut_words, GPT-2's own regular expression first."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": cut_words}


_DIGITS: Json = {"type": "Digits", "individual_digits": True}
_LETTERS = _byte_level(cut_words=False)

TABLE: tuple[PreTokenizer, ...] = (
    PreTokenizer("gpt-2", (_byte_level(cut_words=True),)),
    PreTokenizer("smollm", (_DIGITS, _byte_level(cut_words=True))),
    PreTokenizer("llama-bpe", (_split(_LLAMA3_WORDS), _LETTERS), ignore_merges=True),
    PreTokenizer("smaug-bpe", (_split(_LLAMA3_WORDS), _LETTERS)),
    PreTokenizer("qwen2", (_split(_QWEN2_WORDS), _LETTERS), normalizer={"type": "NFC"}),
    PreTokenizer("tekken", (_split(_TEKKEN_WORDS), _LETTERS), ignore_merges=True),
    PreTokenizer(
        "deepseek-llm",
        (
            _split("[\r\n]"), _split(_DEEPSEEK_LETTERS), _split(_DEEPSEEK_PUNCTUATION), _split(r"\s+$"), _split(_CJK),
            _DIGITS, _LETTERS,
        ),
    ),
    PreTokenizer(
        "deepseek-coder",
        (_split("[\r\n]"), _split(r"\s?\p{L}+"), _split(r"\s?\p{P}+"), _split(_CJK), _DIGITS, _LETTERS),
    ),
    PreTokenizer(
        "deepseek-v3",
        (_split(r"\p{N}{1,3}"), _split(_CJK_AND_KANA), _split(_DEEPSEEK3_WORDS), _LETTERS),
    ),
)  # fmt: skip
# Names that llama.cpp treats as another one (`llama_vocab::impl::load`).
_ALIASES = {
    "llama3": "llama-bpe", "llama-v3": "llama-bpe", "falcon3": "llama-bpe", "pixtral": "llama-bpe",
    "starcoder": "smollm", "refact": "smollm", "phi-2": "gpt-2", "dbrx": "smaug-bpe",
}  # fmt: skip
_BY_NAME = {entry.name: entry for entry in TABLE}


def by_name(name: str) -> PreTokenizer:
    """The way that llama.cpp calls so. Raises UnsupportedError for a name that the table does not have."""
    entry = _BY_NAME.get(_ALIASES.get(name, name))
    if entry is None:
        raise UnsupportedError("tokenizer", "tokenizer.ggml.pre", found=name, allowed=", ".join(_BY_NAME))
    return entry


def by_regex(path: Path, field: str, regex: str) -> PreTokenizer:
    """The way of tiktoken: one expression that cuts, whole pieces first. Raises UnsupportedError for unknown ones."""
    ranked = [entry for entry in TABLE if entry.ignore_merges]
    for entry in ranked:
        if entry.steps == (_split(regex), _LETTERS):
            return entry
    raise UnsupportedError(path, field, found=regex, allowed=f"that of {' or '.join(entry.name for entry in ranked)}")


def recognize(path: Path, pre_tokenizer: object, normalizer: object, *, ignore_merges: bool) -> PreTokenizer:
    """The entry that a tokenizer.json describes, by its structure. Raises UnsupportedError naming the JSON pointer."""
    steps = _canonical_steps(pre_tokenizer, "pretokenizers")
    same_cut = [entry for entry in TABLE if _canonical_steps(entry.pre_tokenizer, "pretokenizers") == steps]
    if not same_cut:
        raise UnsupportedError(path, "/pre_tokenizer", found=pre_tokenizer, allowed=f"that of {', '.join(_BY_NAME)}")
    normalizers = _canonical_steps(normalizer, "normalizers")
    same_text = [entry for entry in same_cut if _canonical_steps(entry.normalizer, "normalizers") == normalizers]
    if not same_text:
        allowed = " or ".join(str(entry.normalizer) for entry in same_cut)
        raise UnsupportedError(path, "/normalizer", found=normalizer, allowed=f"{allowed} with this pre_tokenizer")
    for entry in same_text:
        if entry.ignore_merges == ignore_merges:
            return entry
    raise UnsupportedError(
        path, "/model/ignore_merges", found=ignore_merges, allowed=f"{not ignore_merges} with this pre_tokenizer"
    )


def _canonical_steps(value: object, key: str) -> list[object]:
    """The steps of a pre-tokenizer or normalizer, defaults filled in, what has no influence on ids left out."""
    if value is None:
        return []
    if isinstance(value, Mapping) and value.get("type") == "Sequence" and isinstance(value.get(key), list):
        return [_canonical(step) for step in value[key]]
    return [_canonical(value)]


def _canonical(step: object) -> object:
    if not isinstance(step, Mapping) or step.get("type") != "ByteLevel":
        return step
    filled = {"add_prefix_space": True, "use_regex": True, **step}
    filled.pop("trim_offsets", None)
    return filled
