"""How text is cut before byte-level BPE: llama.cpp's name for each way, and what tokenizer.json says of it.

A file's regular expression is compared with the ones in this table and never compiled. Facts from the models' own
tokenizer.json and from `llm_tokenizer_bpe` in llama.cpp's src/llama-vocab.cpp, whose comments quote them.

llama.cpp does not apply the NFC that qwen2's tokenizer.json asks for; text that is not in NFC gets other ids there.
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
_DEEPSEEK_LETTERS = (
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐ"
    r"ῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
)
_DEEPSEEK_PUNCTUATION = r"\s?[!-/:-~！-／：-～‘-‟　-。]+"
_CJK = "[一-龥ࠀ-一가-퟿]+"
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
        (_split(r"\p{N}{1,3}"), _split("[一-龥぀-ゟ゠-ヿ]+"), _split(_DEEPSEEK3_WORDS), _LETTERS),
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
