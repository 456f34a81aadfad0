"""Two ways to say which neighbours join first: SentencePiece's scores and tokenizers' ranked merges.

SentencePiece joins the two neighbours whose joint token has the highest score, the leftmost on a tie. tokenizers joins
the pair with the lowest rank, the leftmost on a tie. A token of n characters has up to n - 1 pairs; they share one
score but need n - 1 ranks, so the two agree except where a tie of one score is between overlapping pairs that differ
(the runs of blanks "▁ ▁▁" and "▁▁ ▁"), or between different tokens of one score.
"""

from __future__ import annotations

from collections.abc import Sequence

from converters.tokenizers.vocabulary import TokenKind, Vocabulary


def merges_from_scores(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every pair of normal tokens that makes a third, ranked: higher score first.

    On a tie the longer left half goes first, as a scan from the left would have it: there the left neighbour is what
    has grown most.
    """
    scores = {
        token: score
        for token, kind, score in zip(vocabulary.tokens, vocabulary.kinds, vocabulary.scores or (), strict=True)
        if kind is TokenKind.NORMAL
    }
    pairs = [
        (-score, -cut, token)
        for token, score in scores.items()
        for cut in range(1, len(token))
        if token[:cut] in scores and token[cut:] in scores
    ]
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
