"""Pickles read as data: a machine for pickle's opcodes that imports nothing and calls nothing.

A pickle is a program for a stack machine, and two of its instructions name anything that Python can import and call it.
Here names are only names: one that is on the caller's list becomes a `Global`, calling it becomes a `Call` that holds
its arguments, a persistent id becomes a `Persistent`, and what those mean is for the caller to judge. Any other name is
an UnsafeError. Plain values become themselves. Opcodes, as `pickletools` in Python's library describes them, have
budgets, and nothing here recurses, so no pickle can take more than a few seconds or a small multiple of its own size.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from converters.errors import MalformedError, UnsafeError

# A tensor takes about 40 opcodes, so this is a file of 13,000 tensors.
_MOST_OPCODES = 1 << 19
_LONGEST_INTEGER = 16  # bytes
_LONGEST_NUMBER = 40  # characters
_LONGEST_LINE = 4096
# Larger integers can all have one hash, and a dictionary of those takes hours.
_LARGEST_KEY = (1 << 61) - 2

_DECIMAL = re.compile("-?(?:0|[1-9][0-9]*)")

ORDERED_DICT = "collections.OrderedDict"
T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Global:
    """A name of something in Python, and no more than the name."""

    name: str


@dataclass(frozen=True, eq=False, repr=False)
class Call:
    """A call that the pickle asks for. Nobody made it."""

    function: str
    arguments: tuple[object, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Persistent:
    """Something that lies outside the pickle, by its id."""

    identity: object


class OrderedDict(dict[object, object]):
    """What a pickle calls `collections.OrderedDict`; plain dictionaries keep their order too."""


@dataclass(frozen=True)
class Unpickled:
    """What a pickle says. end: where in the data it ends. outside: everything that it says lies outside of it."""

    value: object
    end: int
    outside: tuple[Persistent, ...] = ()


def load(path: Path, field: str, data: bytes, allowed: Set[str], *, start: int = 0) -> Unpickled:
    """The value that the first pickle in these bytes describes.

    field: what the bytes are, for messages. allowed: full names, such as `torch._utils._rebuild_tensor_v2`. start: of
    the pickle in the data. Raises UnsafeError for any other name and for instructions that make objects;
    MalformedError for the rest.
    """
    return _Machine(path, field, data, allowed, start).run()


class _Machine:
    def __init__(self, path: Path, field: str, data: bytes, allowed: Set[str], start: int) -> None:
        self._path, self._field, self._data, self._allowed = path, field, data, allowed
        self._stack: list[object] = []
        self._marks: list[int] = []  # heights of the stack
        self._memo: dict[int, object] = {}
        self._outside: list[Persistent] = []
        self._position = start  # of the next byte
        self._opcode = start  # offset of the current opcode
        self._name = "pickle"

    def run(self) -> Unpickled:
        for _ in range(_MOST_OPCODES):
            self._opcode = self._position
            code = self._take(1)
            if code == b".":
                return Unpickled(self._pop(), self._position, tuple(self._outside))
            name, step = _STEPS.get(code, (f"opcode {code!r}", None))
            self._name = name
            if step is None:
                raise self._wrong(name, "the instructions of a pickle of tensors")
            step(self)
        raise self._wrong(f"more than {_MOST_OPCODES} instructions", f"at most {_MOST_OPCODES}")

    def _wrong(self, found: str, allowed: str) -> MalformedError:
        return MalformedError(
            self._path, f"{self._field}: {self._name}", offset=self._opcode, found=found, allowed=allowed
        )

    def _unsafe(self, found: str) -> UnsafeError:
        return UnsafeError(
            self._path,
            f"{self._field}: {self._name}",
            offset=self._opcode,
            found=found,
            allowed="tensors and plain values",
        )

    # Bytes of the program.

    def _take(self, n_bytes: int) -> bytes:
        data = self._data[self._position : self._position + n_bytes]
        if len(data) != n_bytes:
            raise self._wrong(f"{len(self._data) - self._position} bytes left", f"{n_bytes}")
        self._position += n_bytes
        return data

    def _unsigned(self, n_bytes: int) -> int:
        return int.from_bytes(self._take(n_bytes), "little")

    def _line(self) -> str:
        end = self._data.find(b"\n", self._position, self._position + _LONGEST_LINE)
        if end < 0:
            raise self._wrong("no end of the line", f"one within {_LONGEST_LINE} bytes")
        line = self._text(self._data[self._position : end])
        self._position = end + 1
        return line

    def _text(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self._wrong(repr(data[error.start : error.start + 8]), "UTF-8") from None

    # The stack.

    def _pop(self) -> object:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise self._wrong("an empty stack", "a value")
        return self._stack.pop()

    def _pop_a(self, kind: type[T]) -> T:
        value = self._pop()
        if not isinstance(value, kind):
            raise self._wrong(_kind(value), kind.__name__)
        return value

    def _top(self, kind: type[T]) -> T:
        value = self._pop_a(kind)
        self._stack.append(value)
        return value

    def _pop_to_mark(self) -> list[object]:
        if not self._marks:
            raise self._wrong("no mark", "one on the stack")
        height = self._marks.pop()
        values = self._stack[height:]
        del self._stack[height:]
        return values

    def _remember(self, index: int) -> None:
        self._memo[index] = self._top(object)

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            raise self._wrong(f"memo {index}, which is empty", "one that was filled")
        self._stack.append(self._memo[index])

    # Instructions that do more than push a value.

    def _integer(self, data: bytes) -> None:
        if len(data) > _LONGEST_INTEGER:
            raise self._wrong(f"an integer of {len(data)} bytes", f"at most {_LONGEST_INTEGER}")
        self._stack.append(int.from_bytes(data, "little", signed=True))

    def _long(self, length: int) -> None:
        if length > _LONGEST_INTEGER:
            raise self._wrong(f"an integer of {length} bytes", f"at most {_LONGEST_INTEGER}")
        self._integer(self._take(length))

    def _number(self, line: str, kind: type[int] | type[float]) -> None:
        """INT, LONG, FLOAT: decimal text. 00 and 01 are the booleans of protocol 1."""
        if len(line) > _LONGEST_NUMBER:
            raise self._wrong(f"{len(line)} characters", f"at most {_LONGEST_NUMBER}")
        if line in ("00", "01") and kind is int:
            self._stack.append(line == "01")
            return
        text = line.removesuffix("L") if kind is int else line
        if kind is int and not _DECIMAL.fullmatch(text):  # Python has more ways to write one, octal among them
            raise self._wrong(line, "int")
        try:
            self._stack.append(kind(text))
        except ValueError:
            raise self._wrong(line, "float") from None

    def _string(self) -> None:
        line = self._unescaped()
        if len(line) < 2 or line[0] not in "'\"" or line[0] != line[-1]:
            raise self._wrong(line, "text in quotes")
        self._stack.append(line[1:-1])

    def _unescaped(self) -> str:
        """STRING, UNICODE: a line in which a backslash would begin what Python reads as another character."""
        line = self._line()
        if "\\" in line:
            raise self._wrong(line, "text without a backslash")
        return line

    def _global(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self._allowed:
            raise self._unsafe(full)
        self._stack.append(Global(full))

    def _stack_global(self) -> None:
        name, module = self._pop_a(str), self._pop_a(str)
        self._global(module, name)

    def _instance(self) -> None:
        """INST: names a class and makes an object of it at once."""
        raise self._unsafe(f"{self._line()}.{self._line()}")

    def _new(self) -> None:
        """OBJ, NEWOBJ, NEWOBJ_EX: make an object of a class on the stack. The class may be allowed, this is not."""
        named = [value.name for value in self._stack[-4:] if isinstance(value, Global)]
        raise self._unsafe(f"a new object of {', '.join(named) or 'something without a name'}")

    def _set(self) -> None:
        raise self._wrong("a set", "dictionaries, lists and tuples")

    def _extension(self) -> None:
        raise self._unsafe("a number from the registry of extensions")

    def _persistent(self, identity: object) -> None:
        self._outside.append(Persistent(identity))
        self._stack.append(self._outside[-1])

    def _reduce(self) -> None:
        arguments = self._pop_a(tuple)
        function = self._pop()
        if not isinstance(function, Global):
            raise self._unsafe(f"a call of {_kind(function)}")
        if function.name != ORDERED_DICT:
            self._stack.append(Call(function.name, arguments))
        elif arguments:
            raise self._wrong(f"{len(arguments)} arguments of {ORDERED_DICT}", "none")
        else:
            self._stack.append(OrderedDict())

    def _build(self) -> None:
        """BUILD sets attributes; the one that state dictionaries have, versions of modules, is of no use to us."""
        state, target = self._pop(), self._pop()
        if not isinstance(target, OrderedDict) or not isinstance(state, dict) or state.keys() != {"_metadata"}:
            raise self._unsafe(f"attributes for {_kind(target)}")
        self._stack.append(target)

    def _append(self, values: list[object]) -> None:
        self._top(list).extend(values)

    def _set_items(self, values: list[object]) -> None:
        if len(values) % 2:
            raise self._wrong("a key without a value", "pairs")
        target = self._top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, (str, int, float, bytes, type(None))):
                raise self._wrong(f"{_kind(key)} as a key", "text or a number")
            if isinstance(key, int) and abs(key) > _LARGEST_KEY:
                raise self._wrong(f"the key {key}", f"keys up to {_LARGEST_KEY}")
            if key in target:
                raise self._wrong(f"the key {key!r} again", "each key once")
            target[key] = value


def _push(value: Callable[[], object]) -> Callable[[_Machine], None]:
    return lambda machine: machine._stack.append(value())


def _tuple(n: int) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        values: list[object] = [machine._pop() for _ in range(n)]
        machine._stack.append(tuple(reversed(values)))

    return step


def _text_of(length_bytes: int) -> Callable[[_Machine], None]:
    return lambda machine: machine._stack.append(machine._text(machine._take(machine._unsigned(length_bytes))))


def _bytes_of(length_bytes: int) -> Callable[[_Machine], None]:
    return lambda machine: machine._stack.append(machine._take(machine._unsigned(length_bytes)))


def _protocol(machine: _Machine) -> None:
    version = machine._unsigned(1)
    if version > 5:
        raise machine._wrong(f"protocol {version}", "up to 5")


def _frame(machine: _Machine) -> None:
    """FRAME announces how many bytes follow; a promise that the data must be able to keep."""
    length = machine._unsigned(8)
    if length > len(machine._data) - machine._position:
        raise machine._wrong(f"a frame of {length} bytes", f"at most the {len(machine._data) - machine._position} left")


def _kind(value: object) -> str:
    if isinstance(value, Global):
        return value.name
    return f"a result of {value.function}" if isinstance(value, Call) else type(value).__name__


# By opcode: its name in pickletools, and what it does.
_STEPS: dict[bytes, tuple[str, Callable[[_Machine], None]]] = {
    b"\x80": ("PROTO", _protocol),
    b"\x95": ("FRAME", _frame),
    b"N": ("NONE", _push(lambda: None)),
    b"\x88": ("NEWTRUE", _push(lambda: True)),
    b"\x89": ("NEWFALSE", _push(lambda: False)),
    b"}": ("EMPTY_DICT", _push(dict)),
    b"]": ("EMPTY_LIST", _push(list)),
    b")": ("EMPTY_TUPLE", _push(tuple)),
    b"\x8f": ("EMPTY_SET", _Machine._set),
    b"(": ("MARK", lambda m: m._marks.append(len(m._stack))),
    b"I": ("INT", lambda m: m._number(m._line(), int)),
    b"L": ("LONG", lambda m: m._number(m._line(), int)),
    b"F": ("FLOAT", lambda m: m._number(m._line(), float)),
    b"K": ("BININT1", lambda m: m._stack.append(m._unsigned(1))),
    b"M": ("BININT2", lambda m: m._stack.append(m._unsigned(2))),
    b"J": ("BININT", lambda m: m._integer(m._take(4))),
    b"\x8a": ("LONG1", lambda m: m._long(m._unsigned(1))),
    b"\x8b": ("LONG4", lambda m: m._long(m._unsigned(4))),
    b"G": ("BINFLOAT", lambda m: m._stack.append(struct.unpack(">d", m._take(8))[0])),
    b"S": ("STRING", _Machine._string),
    b"V": ("UNICODE", lambda m: m._stack.append(m._unescaped())),
    b"U": ("SHORT_BINSTRING", _text_of(1)),
    b"T": ("BINSTRING", _text_of(4)),
    b"\x8c": ("SHORT_BINUNICODE", _text_of(1)),
    b"X": ("BINUNICODE", _text_of(4)),
    b"\x8d": ("BINUNICODE8", _text_of(8)),
    b"C": ("SHORT_BINBYTES", _bytes_of(1)),
    b"B": ("BINBYTES", _bytes_of(4)),
    b"\x8e": ("BINBYTES8", _bytes_of(8)),
    b"t": ("TUPLE", lambda m: m._stack.append(tuple(m._pop_to_mark()))),
    b"\x85": ("TUPLE1", _tuple(1)),
    b"\x86": ("TUPLE2", _tuple(2)),
    b"\x87": ("TUPLE3", _tuple(3)),
    b"l": ("LIST", lambda m: m._stack.append(m._pop_to_mark())),
    b"a": ("APPEND", lambda m: m._append([m._pop()])),
    b"e": ("APPENDS", lambda m: m._append(m._pop_to_mark())),
    b"s": ("SETITEM", lambda m: m._set_items([m._pop(), m._pop()][::-1])),
    b"u": ("SETITEMS", lambda m: m._set_items(m._pop_to_mark())),
    b"p": ("PUT", lambda m: m._remember(_index(m))),
    b"q": ("BINPUT", lambda m: m._remember(m._unsigned(1))),
    b"r": ("LONG_BINPUT", lambda m: m._remember(m._unsigned(4))),
    b"\x94": ("MEMOIZE", lambda m: m._remember(len(m._memo))),
    b"g": ("GET", lambda m: m._recall(_index(m))),
    b"h": ("BINGET", lambda m: m._recall(m._unsigned(1))),
    b"j": ("LONG_BINGET", lambda m: m._recall(m._unsigned(4))),
    b"c": ("GLOBAL", lambda m: m._global(m._line(), m._line())),
    b"\x93": ("STACK_GLOBAL", _Machine._stack_global),
    b"i": ("INST", _Machine._instance),
    b"o": ("OBJ", _Machine._new),
    b"\x81": ("NEWOBJ", _Machine._new),
    b"\x92": ("NEWOBJ_EX", _Machine._new),
    b"\x82": ("EXT1", _Machine._extension),
    b"\x83": ("EXT2", _Machine._extension),
    b"\x84": ("EXT4", _Machine._extension),
    b"P": ("PERSID", lambda m: m._persistent(m._line())),
    b"Q": ("BINPERSID", lambda m: m._persistent(m._pop())),
    b"R": ("REDUCE", _Machine._reduce),
    b"b": ("BUILD", _Machine._build),
}


def _index(machine: _Machine) -> int:
    line = machine._line()
    if not line.isascii() or not line.isdecimal() or len(line) > 10:
        raise machine._wrong(line, "a memo's number")
    return int(line)
