"""Three ways to say which neighbours join first: SentencePiece's scores, tokenizers' ranked merges, tiktoken's ranks.

SentencePiece joins the two neighbours whose joint token has the highest score, the leftmost on a tie. tokenizers joins
the pair with the lowest rank, the leftmost on a tie. A token of n characters has up to n - 1 pairs; they share one
score but need n - 1 ranks, so the two agree except where a tie of one score is between overlapping pairs that differ
(the runs of blanks "▁ ▁▁" and "▁▁ ▁"), or between different tokens of one score.

tiktoken joins the two neighbours whose joint token has the lowest rank, the leftmost on a tie, and ranks are ids. Its
ranks become merges as the converters of transformers and llama.cpp make them, so that they are the same as in the files
that Meta and Mistral publish.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from converters.errors import MalformedError, UnsupportedError
from converters.tokenizers.byte_alphabet import to_letters
from converters.tokenizers.vocabulary import TokenKind, Vocabulary

# What ranks may ask for; Llama 3's 128,000 tokens have 0.9 million bytes and their merges 2.4 million letters.
MOST_BYTES = 4 << 20
MOST_LETTERS = 16 << 20
# What scores may ask for: the squares of the tokens' lengths in all. Gemma's 262,144 tokens come to 14 million.
MOST_LOOKED_AT = 1 << 29


def merges_from_scores(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every pair of normal tokens that makes a third, ranked: higher score first.

    On a tie the longer left half goes first, as a scan from the left would have it: there the left neighbour is what
    has grown most. Raises UnsupportedError for a few long tokens that ask for very many halves.
    """
    scores = {
        token: score
        for token, kind, score in zip(vocabulary.tokens, vocabulary.kinds, vocabulary.scores or (), strict=True)
        if kind is TokenKind.NORMAL
    }
    n_letters = sum(len(token) ** 2 for token in scores)
    if n_letters > MOST_LOOKED_AT:
        found = f"halves of tokens with {n_letters} letters in all"
        raise UnsupportedError("tokenizer", "merges", found=found, allowed=f"at most {MOST_LOOKED_AT}")
    pairs: list[tuple[float, int, str]] = []
    n_letters = 0
    for token, score in scores.items():
        halves = [cut for cut in range(1, len(token)) if token[:cut] in scores and token[cut:] in scores]
        pairs += [(-score, -cut, token) for cut in halves]
        n_letters += len(halves) * len(token)
        if n_letters > MOST_LETTERS:
            found = f"merges of more than {MOST_LETTERS} letters"
            raise UnsupportedError("tokenizer", "merges", found=found, allowed="tokens that fewer pairs of others make")
    pairs.sort(key=lambda pair: pair[:2])
    return [(token[:-cut], token[-cut:]) for _, cut, token in pairs]


def scores_from_merges(tokens: Sequence[str], kinds: Sequence[TokenKind], merges: Sequence[str]) -> tuple[float, ...]:
    """Scores that lead to the same joins: 0, -1, -2, … in the order in which the merges first make a token.

    Tokens that no merge makes (single characters) follow in the order of their ids; all but normal tokens get 0.
    """
    order: dict[str, int] = {}
    for merge in merges:
        left, _, right = merge.partition(" ")
        order.setdefault(left + right, len(order))
    for token, kind in zip(tokens, kinds, strict=True):
        if kind is TokenKind.NORMAL:
            order.setdefault(token, len(order))
    return tuple(
        -float(order[token]) if kind is TokenKind.NORMAL else 0.0 for token, kind in zip(tokens, kinds, strict=True)
    )


def merges_from_ranks(path: Path, field: str, ranks: Sequence[bytes]) -> tuple[str, ...]:
    """Every pair of tokens that makes a third, as "left right" in the byte alphabet: by the rank of what it makes.

    ranks: the tokens in order of rank. Pairs that make the same token go by the ranks of their halves
    (`extract_vocab_merges_from_model` in transformers' convert_slow_tokenizer.py). path and field are for messages:
    a small file can ask for very many pairs, which raises MalformedError.
    """
    n_bytes = sum(map(len, ranks))
    if n_bytes > MOST_BYTES:
        raise MalformedError(path, field, found=f"tokens of {n_bytes} bytes", allowed=f"at most {MOST_BYTES} in all")
    order = {token: rank for rank, token in enumerate(ranks)}
    letters = [to_letters(token) for token in ranks]
    merges: list[str] = []
    n_letters = 0
    for token in ranks:
        halves = ((order.get(token[:cut]), order.get(token[cut:])) for cut in range(1, len(token)))
        pairs = sorted((left, right) for left, right in halves if left is not None and right is not None)
        n_letters += len(pairs) * len(token)
        if n_letters > MOST_LETTERS:
            found = f"more than {MOST_LETTERS} letters"
            raise MalformedError(path, field, found=found, allowed="tokens that fewer pairs of others make")
        merges += [f"{letters[left]} {letters[right]}" for left, right in pairs]
    return tuple(merges)
