"""tekken.json, the tokenizer of Mistral Nemo and later: tiktoken's ranks, the regular expression, the special tokens.

    config            pattern, version, default_vocab_size (ids in all), default_num_special_tokens (the first of them)
    vocab             [{rank, token_bytes: base64, token_str}, …] in order of rank, more of them than are used
    special_tokens    [{rank, token_str, is_control}, …] by id; the ids that it leaves are called <SPECIAL_20>

A token's id is its rank behind all special ones. Files up to version 7 leave the special tokens to the library
(`Tekkenizer` in mistralai/mistral-common, src/mistral_common/tokens/tokenizers/tekken.py, from which all this is).
"""

from __future__ import annotations

from pathlib import Path

from converters import json_file
from converters.errors import MalformedError
from converters.fields import Fields
from converters.tokenizers import byte_alphabet, pre_tokenizers
from converters.tokenizers.merges import merges_from_ranks
from converters.tokenizers.tiktoken import LONGEST_TOKEN, check_bytes, decode_token
from converters.tokenizers.vocabulary import TokenKind, Vocabulary, judged

FILE = "tekken.json"
LARGEST_FILE = 32 << 20  # bytes; the largest known have 20 MB
MOST_TOKENS = 1 << 20
_SPECIAL_UP_TO_7 = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip
_WITHOUT_SPECIAL = ("v1", "v2", "v3", "v7")
_NAMES = {"tokens": "tokens", "kinds": "/special_tokens", "merges": "/vocab", "add_bos": "/special_tokens"}


def read(path: Path) -> Vocabulary:
    """The vocabulary of a tekken.json; every special token is a control token, as none is ever found in text.

    Raises MalformedError with a JSON pointer, UnsupportedError for a regular expression that we do not know.
    """
    return from_document(path, json_file.read(path, max_bytes=LARGEST_FILE))


def from_document(path: Path, document: dict[str, object]) -> Vocabulary:
    """The same from the file's object; path is for messages."""
    root = Fields(path, document, "/")
    config = root.section("config")
    if config is None:
        raise root.error("config", "nothing", "an object")
    cut = pre_tokenizers.by_regex(path, "/config/pattern", config.string("pattern"))
    size = config.integer("default_vocab_size", maximum=MOST_TOKENS)
    n_special = config.integer("default_num_special_tokens", maximum=size)
    special = _special_tokens(root, config.string("version"), n_special)
    ranks = _ranks(root, size - n_special)
    ids = {token: token_id for token_id, token in enumerate(special)}
    eos_id = ids.get("</s>")
    vocabulary = Vocabulary(
        model="bpe",
        pre_tokenizer=cut.name,
        tokens=(*special, *map(byte_alphabet.to_letters, ranks)),
        kinds=(TokenKind.CONTROL,) * n_special + (TokenKind.NORMAL,) * len(ranks),
        merges=merges_from_ranks(path, "/vocab", ranks),
        bos_id=ids.get("<s>"),
        eos_id=eos_id,
        unk_id=ids.get("<unk>"),
        pad_id=ids.get("<pad>"),
        stop_ids=() if eos_id is None else (eos_id,),
        add_bos="<s>" in ids,
    )
    return judged(path, vocabulary, _NAMES)


def _special_tokens(root: Fields, version: str, n_special: int) -> tuple[str, ...]:
    """The texts of the special tokens, by id."""
    given = root.values.get("special_tokens")
    if given is None and version not in _WITHOUT_SPECIAL:
        raise root.error("special_tokens", "nothing", f"a list, as the file is of version {version}")
    names = list(_SPECIAL_UP_TO_7) if given is None else _listed(root, given)
    if len(names) > n_special:
        raise root.error("special_tokens", f"{len(names)} tokens", f"at most {n_special}, as config says")
    return (*names, *(f"<SPECIAL_{token_id}>" for token_id in range(len(names), n_special)))


def _listed(root: Fields, given: object) -> list[str]:
    if not isinstance(given, list):
        raise root.error("special_tokens", given, "a list")
    names: list[str] = []
    for n, value in enumerate(given):
        entry = _entry(root, f"special_tokens/{n}", value, n)
        entry.boolean("is_control")
        names.append(entry.string("token_str"))
    return names


def _ranks(root: Fields, n_ranks: int) -> list[bytes]:
    """The bytes of the tokens that are used, in order of rank."""
    given = root.values.get("vocab")
    if not isinstance(given, list) or len(given) < n_ranks:
        found = f"{len(given)} tokens" if isinstance(given, list) else given
        raise root.error("vocab", found, f"a list of at least {n_ranks} tokens, as config says")
    ranks: dict[bytes, int] = {}
    for rank, value in enumerate(given[:n_ranks]):
        entry = _entry(root, f"vocab/{rank}", value, rank)
        text = entry.string("token_bytes")
        token = decode_token(text)
        if token is None:
            raise entry.error("token_bytes", text, f"1 to {LONGEST_TOKEN} bytes in base64")
        if ranks.setdefault(token, rank) != rank:
            raise entry.error("token_bytes", f"{token!r} again, as of rank {ranks[token]}", "every token once")
    check_bytes(root.path, "/vocab", ranks)
    return list(ranks)


def _entry(root: Fields, pointer: str, value: object, rank: int) -> Fields:
    """One token's object, which stands in order."""
    if not isinstance(value, dict):
        raise root.error(pointer, value, "an object")
    entry = Fields(root.path, value, f"/{pointer}/")
    if entry.integer("rank", minimum=0) != rank:
        raise MalformedError(root.path, f"/{pointer}/rank", found=value["rank"], allowed=str(rank))
    return entry
