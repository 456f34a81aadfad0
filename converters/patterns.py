"""Regular expressions over names of tensors, from whoever: found, or not, in a time that nobody can blow up.

A recipe may come out of a file, and `re` can be made to try 2**60 ways. Here all ways are gone at once, so a name costs
at most its length times the steps of the pattern (Thompson, "Regular Expression Search Algorithm", 1968). What both
Python and ECMAScript, which llama-quantize takes, read alike is understood:

    a . \\d \\w \\s \\D \\W \\S [a-z_] [^0-9] \\.    one character; letters and digits are ASCII's
    x* x+ x? x{2} x{2,} x{2,5}                  repeated; a ? behind changes nothing, as only found or not is asked
    xy x|y (x) (?:x)                            one after the other, one or the other, a group
    ^ $ \\b \\B                                   begin, end, and edges of words

No reference to a group and no looking around: no machine without a memory can do that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

MOST_STEPS = 1000  # of one pattern, with every count written out
_DEEPEST = 50  # groups in groups
_MOST_STATES = 1000  # of one pattern that are remembered


@dataclass(frozen=True)
class _Characters:
    """Those in any of the ranges, ends included, or all others."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool = False

    def __contains__(self, character: str) -> bool:
        return any(first <= character <= last for first, last in self.ranges) is not self.negated


_WORD = _Characters((("0", "9"), ("A", "Z"), ("_", "_"), ("a", "z")))
_ANY_BUT_LINE_ENDS = _Characters((("\n", "\n"), ("\r", "\r")), negated=True)
_CLASSES = {"d": (("0", "9"),), "w": _WORD.ranges, "s": ((" ", " "), ("\t", "\r"))}
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}


def _is_edge(before: str, after: str) -> bool:
    return (before != "" and before in _WORD) is not (after != "" and after in _WORD)


@dataclass(frozen=True)
class _Take:
    """One of the characters, then the next step."""

    characters: _Characters


@dataclass(frozen=True)
class _Go:
    """On with each of these steps."""

    to: tuple[int, ...]


@dataclass(frozen=True)
class _If:
    """The next step, if this holds of the characters before and behind, "" at the ends."""

    holds: Callable[[str, str], bool]


_Step = _Take | _Go | _If
# Writes its steps to the end of a program: a part of a pattern, as often as it is wanted.
_Part = Callable[[list[_Step]], None]


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """All places that a text may have come to. steps: those that are next. before: "", a letter or a space.

    moves: the states behind the characters that were met so far, "" for the end.
    """

    steps: frozenset[int]
    before: str
    moves: dict[str, _State] = field(default_factory=dict)


_FOUND = _State(frozenset(), "")


@dataclass(frozen=True)
class Pattern:
    """A regular expression. Raises ValueError that says what is wrong and where."""

    text: str
    _steps: tuple[_Step, ...] = field(init=False, compare=False, repr=False)
    _states: dict[tuple[frozenset[int], str], _State] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "_steps", _Reader(self.text).read())

    @property
    def n_steps(self) -> int:
        return len(self._steps)

    def found_in(self, name: str) -> bool:
        """Whether any part of the name is what the pattern says."""
        state = self._state(frozenset(), "")
        for after in (*name, ""):
            if (moved := state.moves.get(after)) is None:
                moved = state.moves[after] = self._moved(state, after)
            if moved is _FOUND:
                return True
            state = moved
        return False

    def _state(self, steps: frozenset[int], before: str) -> _State:
        if len(self._states) == _MOST_STATES:
            self._states.clear()
        return self._states.setdefault((steps, before), _State(steps, before))

    def _moved(self, state: _State, after: str) -> _State:
        """The state behind one more character. A match may begin anywhere, and has ended behind the last step."""
        seen, open_, moved = set[int](), [0, *state.steps], set[int]()
        while open_:
            at = open_.pop()
            if at in seen:
                continue
            seen.add(at)
            if at == len(self._steps):
                return _FOUND
            match self._steps[at]:
                case _Take(characters):
                    if after and after in characters:
                        moved.add(at + 1)
                case _Go(to):
                    open_ += to
                case _If(holds):
                    if holds(state.before, after):
                        open_.append(at + 1)
        return self._state(frozenset(moved), "a" if after and after in _WORD else " ")


class _Reader:
    """A pattern's text, read from left to right."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def read(self) -> tuple[_Step, ...]:
        whole = self._choice(0)
        if self._at < len(self._text):
            raise self._error("a ) that closes nothing")
        steps: list[_Step] = []
        whole(steps)
        return tuple(steps)

    def _choice(self, depth: int) -> _Part:
        if depth > _DEEPEST:
            raise self._error(f"more than {_DEEPEST} groups in each other")
        branches = [self._sequence(depth)]
        while self._take("|"):
            branches.append(self._sequence(depth))
        return branches[0] if len(branches) == 1 else _either(branches)

    def _sequence(self, depth: int) -> _Part:
        parts = []
        while self._next not in ("", "|", ")"):
            parts.append(self._repeated(depth))
        return _one_after_the_other(parts)

    def _repeated(self, depth: int) -> _Part:
        start = self._at
        part = self._edge() or self._atom(depth)
        is_edge = self._text[start : self._at] in ("^", "$", r"\b", r"\B")
        counts = self._counts()
        if counts is None:
            return part
        self._take("?")
        if is_edge or self._next in ("*", "+", "?", "{"):
            raise self._error("nothing that could be repeated")
        return _repeat(part, *counts)

    def _edge(self) -> _Part | None:
        for text, holds in (
            ("^", lambda before, after: before == ""),
            ("$", lambda before, after: after == ""),
            (r"\b", _is_edge),
            (r"\B", lambda before, after: not _is_edge(before, after)),
        ):
            if self._take(text):
                return _step(_If(holds))
        return None

    def _atom(self, depth: int) -> _Part:
        if self._take("("):
            if self._take("?") and not self._take(":"):
                raise self._error("a group of a kind that is not understood")
            part = self._choice(depth + 1)
            if not self._take(")"):
                raise self._error("a ( that nothing closes")
            return part
        if self._take("["):
            return _step(_Take(self._class()))
        if self._take("."):
            return _step(_Take(_ANY_BUT_LINE_ENDS))
        if self._next in ("*", "+", "?", "{"):
            raise self._error("nothing that could be repeated")
        return _step(_Take(self._character()))

    def _class(self) -> _Characters:
        negated = self._take("^")
        ranges: list[tuple[str, str]] = []
        while not self._take("]"):
            if self._next in ("", "["):
                raise self._error("a [ that nothing closes, or a second one")
            characters = self._character()
            if self._next == "-" and self._text[self._at + 1 : self._at + 2] not in ("", "]"):
                self._take("-")
                characters = self._range(characters, self._character())
            if characters.negated:
                raise self._error("a class of what it is not, in another class")
            ranges += characters.ranges
        if not ranges:
            raise self._error("a class of nothing")
        return _Characters(tuple(ranges), negated)

    def _range(self, first: _Characters, last: _Characters) -> _Characters:
        """From one character to another."""
        ends = [*first.ranges, *last.ranges]
        if (
            len(ends) != 2
            or any(low != high for low, high in ends)
            or first.negated
            or last.negated
            or ends[0] > ends[1]
        ):
            raise self._error("a range that ends before it begins, or not in one character")
        return _Characters(((ends[0][0], ends[1][0]),))

    def _character(self) -> _Characters:
        """One character that stands for itself, or an escape."""
        character = self._advance()
        if character != "\\":
            return _Characters(((character, character),))
        escaped = self._advance()
        if escaped.lower() in _CLASSES:
            return _Characters(_CLASSES[escaped.lower()], negated=escaped.isupper())
        literal = _CONTROLS.get(escaped, escaped)
        if escaped == "" or (literal == escaped and escaped.isalnum()):
            raise self._error(f"\\{escaped}, which is not understood")
        return _Characters(((literal, literal),))

    def _counts(self) -> tuple[int, int | None] | None:
        """How often, at least and at most; None for what is not repeated."""
        for sign, counts in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return counts
        if not self._take("{"):
            return None
        least, comma, most = self._advance_to("}").partition(",")
        numbers = [text for text in (least, most) if text]
        if not least or not all(text.isascii() and text.isdigit() and len(text) <= 4 for text in numbers):
            raise self._error("a count that is none")
        at_most = int(most) if most else None if comma else int(least)
        if at_most is not None and at_most < int(least):
            raise self._error("a count that ends before it begins")
        return int(least), at_most

    @property
    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _advance(self) -> str:
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def _advance_to(self, end: str) -> str:
        found, there, _ = self._text[self._at :].partition(end)
        if not there:
            raise self._error(f"no {end}")
        self._at += len(found) + 1
        return found

    def _take(self, text: str) -> bool:
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _error(self, found: str) -> ValueError:
        return ValueError(f"at {self._at}: found {found}")


def _add(steps: list[_Step], step: _Step) -> int:
    if len(steps) == MOST_STEPS:
        raise ValueError(f"more than {MOST_STEPS} steps")
    steps.append(step)
    return len(steps) - 1


def _step(step: _Step) -> _Part:
    def write(steps: list[_Step]) -> None:
        _add(steps, step)

    return write


def _one_after_the_other(parts: Sequence[_Part]) -> _Part:
    def write(steps: list[_Step]) -> None:
        for part in parts:
            part(steps)

    return write if parts else _nothing


def _nothing(steps: list[_Step]) -> None:
    """A step all the same, so that nothing a million times is too many steps."""
    _add(steps, _Go((len(steps) + 1,)))


def _either(branches: Sequence[_Part]) -> _Part:
    def write(steps: list[_Step]) -> None:
        fork = _add(steps, _Go(()))
        starts, ends = [], []
        for branch in branches:
            starts.append(len(steps))
            branch(steps)
            ends.append(_add(steps, _Go(())))
        steps[fork] = _Go(tuple(starts))
        for end in ends:
            steps[end] = _Go((len(steps),))

    return write


def _repeat(part: _Part, least: int, most: int | None) -> _Part:
    def write(steps: list[_Step]) -> None:
        _nothing(steps)
        for _ in range(least):
            part(steps)
        forks = []
        for _ in range(1 if most is None else most - least):
            forks.append(_add(steps, _Go(())))
            part(steps)
        if most is None:
            _add(steps, _Go((forks[0],)))
        for fork in forks:
            steps[fork] = _Go((fork + 1, len(steps)))

    return write
