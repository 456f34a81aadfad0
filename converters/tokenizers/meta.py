"""The vocabulary of a folder with params.json, as Meta and Mistral release their models, both ways.

    tekken.json           Mistral Nemo and later (`converters.tokenizers.tekken`)
    tokenizer.model.v3    Mistral's numbered versions; the highest counts (`converters.tokenizers.model_file`)
    tokenizer.model       Meta's all, Mistral's first
    tokenizer.json        of what fits in none of these (`converters.tokenizers.huggingface`)

The first that is there is taken, as mistral-common does. What a release leaves unsaid (chat template, other tokens that
end an answer) may stand in tokenizer_config.json, generation_config.json and chat_template.jinja beside it, as in a
folder of Hugging Face's; but not which tokens there are.
"""

from __future__ import annotations

import re
from pathlib import Path

from converters.errors import RefusedError
from converters.folder import inside
from converters.input_file import InputFile
from converters.tokenizers import huggingface, model_file, sentencepiece_model, tekken, tiktoken
from converters.tokenizers.huggingface import read_settings, settled
from converters.tokenizers.vocabulary import Vocabulary

_MODEL = "tokenizer.model"
_VERSIONED = re.compile(r"tokenizer\.model\.v([0-9]{1,3})(?:m([0-9]{1,3}))?")
_SETTINGS = ("tokenizer_config.json", "generation_config.json")


def read_meta_vocabulary(folder: Path, vocab_size: int | None, *, scaled_rope: bool = False) -> Vocabulary | None:
    """The vocabulary of a release; None where its folder has no tokenizer.

    vocab_size: rows of the embedding, None where params.json does not know (-1). scaled_rope: `use_scaled_rope` of
    params.json, by which Llama 3.1 and later are known.
    Raises MalformedError for broken files, UnsupportedError for tokenizers that we do not know, UnsafeError for links
    that leave the folder.
    """
    path = _find(folder)
    if path is None:
        return huggingface.read_vocabulary(folder, vocab_size)
    if path.name == tekken.FILE:
        vocabulary = tekken.read(path)
    else:
        vocabulary = model_file.read(path, vocab_size, scaled_rope=scaled_rope)
    return settled(path, huggingface.grown(path, vocabulary, vocab_size, {}), read_settings(folder))


def _find(folder: Path) -> Path | None:
    """The file of tokens that counts, if it is one of Meta's or Mistral's."""
    versions = [match for path in folder.iterdir() if (match := _VERSIONED.fullmatch(path.name))]
    versions.sort(key=lambda match: (int(match[1]), int(match[2] or 0)), reverse=True)
    for name in (tekken.FILE, *(match[0] for match in versions), _MODEL, "tokenizer.json"):
        if inside(folder, name).exists():
            return None if name == "tokenizer.json" else folder / name
    return None


def meta_vocabulary_files(
    vocabulary: Vocabulary, *, scaled_rope: bool = False, own: Path | None = None
) -> dict[str, bytes]:
    """The tokenizer's files for a folder with params.json, by name; the same bytes for the same vocabulary.

    scaled_rope: whether params.json will say so. own: a tekken.json of the model's own, which says more than we know
    of it and so is passed on as it is, if the vocabulary is still what is in it. Otherwise a tokenizer.model where the
    vocabulary can be one; with small files of Hugging Face's beside either if they say more; else tokenizer.json and
    those. Raises UnsupportedError for a cut of text that no file can describe.
    """
    if own is not None:
        alone = settled(own, huggingface.grown(own, tekken.read(own), len(vocabulary), {}), read_settings(None))
        if _tokens_of(alone) == _tokens_of(vocabulary):
            with InputFile(own) as file:
                files = {tekken.FILE: file.read(0, file.size, "file")}
            return files if alone == vocabulary else files | _settings_of(vocabulary)
    try:
        model, alone = _as_model(vocabulary, scaled_rope=scaled_rope)
    except RefusedError:
        files = huggingface.vocabulary_files(vocabulary)
        return {name: data for name, data in files.items() if name != _MODEL}
    if alone == vocabulary:
        return {_MODEL: model}
    return {_MODEL: model} | _settings_of(vocabulary)


def _settings_of(vocabulary: Vocabulary) -> dict[str, bytes]:
    """The small files that say what part each token plays."""
    files = huggingface.vocabulary_files(vocabulary)
    return {name: files[name] for name in _SETTINGS}


def _tokens_of(vocabulary: Vocabulary) -> tuple[object, ...]:
    """What the settings cannot say."""
    return vocabulary.model, vocabulary.pre_tokenizer, vocabulary.tokens, vocabulary.kinds, vocabulary.merges


def _as_model(vocabulary: Vocabulary, *, scaled_rope: bool) -> tuple[bytes, Vocabulary]:
    """A tokenizer.model and what a reader makes of it alone. Raises RefusedError where tokens would be lost in it."""
    path = Path(_MODEL)
    if vocabulary.model == "bpe":
        data, alone = tiktoken.write(vocabulary, scaled_rope=scaled_rope)
    else:
        data, alone = _as_sentencepiece(path, vocabulary)
    return data, settled(path, alone, read_settings(None))


def _as_sentencepiece(path: Path, vocabulary: Vocabulary) -> tuple[bytes, Vocabulary]:
    data = sentencepiece_model.write(vocabulary)
    if data is None:
        raise RefusedError(f"{path}: a SentencePiece model needs an unknown token, which this vocabulary has not")
    alone = sentencepiece_model.parse(path, data)
    kept = (vocabulary.tokens, vocabulary.kinds, vocabulary.scores, vocabulary.add_space_prefix)
    if kept != (alone.tokens, alone.kinds, alone.scores, alone.add_space_prefix):
        raise RefusedError(f"{path}: a SentencePiece model would change tokens of this vocabulary")
    return data, alone
