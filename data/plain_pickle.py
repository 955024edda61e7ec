"""Pickles as plain data, read by a machine that can call nothing.

Python's own unpickler calls what a file names, and even where it is held to a few names of numpy a hostile
file brings it down: a memo index in a file of nine bytes makes it fill gigabytes, a key of tuples in tuples
overflows C's stack. What CIFAR's files hold (dicts, lists, strings, numbers, an array of bytes) takes thirty of
pickle's instructions, and these are bounded in number and in the memory that each can take.

The instructions are described in Python's pickletools; those here are what Python 2's cPickle writes in
protocol 2, as in the published files, and what Python 3 writes for the same content in protocols 2 to 4.
"""

import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

MOST_INSTRUCTIONS = 2_000_000  # the largest of the published files, with 50,000 images, takes about 200,000
MOST_NAME_BYTES = 100
MOST_DIMENSIONS = 4


class NotPlain(Exception):
    """The bytes are no pickle, or one of something else than plain data; the message says what."""


class Name(NamedTuple):
    """What a file calls by the name of a module and of something in it: a name, and nothing more."""

    module: str
    name: str


class ByteArray:
    """An array while it is read: `values` is uint8 of any shape, or None until its state has come."""

    def __init__(self) -> None:
        self.values: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        """State as numpy writes it: version, shape, type, whether columns come first, content."""
        _, shape, kind, columns_first, content = state
        if not (isinstance(shape, tuple) and isinstance(kind, ArrayType) and isinstance(content, bytes)):
            raise NotPlain("an array without shape, type or content")
        if not all(type(length) is int and length >= 0 for length in shape[:MOST_DIMENSIONS]):
            raise NotPlain("an array whose shape is no shape")
        if len(shape) > MOST_DIMENSIONS or math.prod(shape) != len(content):
            raise NotPlain(f"an array of {len(content):,} bytes in a shape of another size")
        self.values = np.frombuffer(content, np.uint8).reshape(shape, order="F" if columns_first else "C")


class ArrayType:
    """The type of an array's elements, where it is uint8."""

    def __init__(self, code: Any):
        if as_name(code) not in ("u1", "|u1", "uint8"):
            raise NotPlain(f"an array of {as_name(code)} in place of bytes")

    def set_state(self, state: Any) -> None:
        """Byte order and the like, which bytes have not."""


class Machine:
    """Pickle's stack machine. `stack` is what stands above the last mark, `below` the stacks under the marks."""

    def __init__(self, content: bytes):
        self.content, self.position = content, 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.encodable = len(content)

    def run(self) -> Any:
        """What stands on top when the pickle ends."""
        for _ in range(MOST_INSTRUCTIONS):
            code = self.content[self.position]
            self.position += 1
            if code == STOP:
                return self.stack.pop()
            if code not in INSTRUCTIONS:
                raise NotPlain(f"the instruction {bytes([code])!r} has no place in it")
            INSTRUCTIONS[code](self)
        raise NotPlain(f"more than {MOST_INSTRUCTIONS:,} instructions")

    def take(self, count: int) -> bytes:
        """The next bytes, all of them."""
        end = self.position + count
        if not 0 <= count <= len(self.content) - self.position:
            raise NotPlain("it ends too early")
        taken = self.content[self.position : end]
        self.position = end
        return taken

    def number(self, layout: struct.Struct) -> int:
        """The number that comes next."""
        return layout.unpack(self.take(layout.size))[0]

    def line(self) -> str:
        """The text up to the next line break."""
        end = self.content.index(b"\n", self.position, self.position + MOST_NAME_BYTES)
        text = self.take(end - self.position).decode("ascii")
        self.position += 1
        return text

    def top(self, kind: type) -> Any:
        """What stands on top and stays there, which is of this kind."""
        if not isinstance(self.stack[-1], kind):
            raise NotPlain(f"{type(self.stack[-1]).__name__} where a {kind.__name__} should be")
        return self.stack[-1]

    def above_mark(self) -> list[Any]:
        """All that stands above the last mark, taken off with the mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self) -> None:
        """What comes next is counted from here."""
        self.below.append(self.stack)
        self.stack = []

    def last(self, count: int) -> None:
        """A tuple of the last items."""
        items = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def append(self, items: list[Any]) -> None:
        """Items to the end of a list."""
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Keys, which are texts here, and values in turns into a dict."""
        self.top(dict).update(zip(map(as_name, items[::2]), items[1::2], strict=True))

    def remember(self, index: int) -> None:
        """What stands on top, under a number."""
        self.memo[index] = self.stack[-1]

    def call(self) -> None:
        """Not a call: of what may be named, what a call of it with these arguments would stand for."""
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple):
            raise NotPlain(f"{type(arguments).__name__} where arguments should be")
        match name:
            case Name("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"):
                self.stack.append(ByteArray())
            case Name("numpy", "dtype"):
                self.stack.append(ArrayType(arguments[0]))
            case Name("_codecs", "encode"):
                self.stack.append(self.encoded(*arguments))
            case Name(module, attribute):
                raise NotPlain(f"{module}.{attribute} has no place in it")
            case _:
                raise NotPlain(f"it calls a {type(name).__name__}")

    def encoded(self, text: str, encoding: str) -> bytes:
        """Bytes as Python 3 writes them in protocol 2, as a text. All together cannot be more than the file has."""
        self.encodable -= len(text)
        if encoding != "latin1" or self.encodable < 0:
            raise NotPlain("a text in an encoding that is not latin1, or again and again")
        return text.encode("latin1")

    def build(self) -> None:
        """The state of an array or of its type."""
        state = self.stack.pop()
        match self.stack[-1]:
            case ByteArray() | ArrayType() as built:
                built.set_state(state)
            case other:
                raise NotPlain(f"{type(other).__name__} where an array or its type should be")


U8, I32, U32, U16, U64 = (struct.Struct(f"<{code}") for code in "BiIHQ")
STOP = ord(".")


def push(read: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    """The instruction that puts a value on top, which it may take from there."""

    def instruction(machine: Machine) -> None:
        value = read(machine)
        machine.stack.append(value)

    return instruction


INSTRUCTIONS: dict[int, Callable[[Machine], None]] = {
    # What a pickle begins with, and how long its frames are: of no use here.
    0x80: lambda machine: machine.take(1),
    0x95: lambda machine: machine.take(8),
    # Values: None, True, False, whole numbers.
    ord("N"): push(lambda machine: None),
    0x88: push(lambda machine: True),
    0x89: push(lambda machine: False),
    ord("J"): push(lambda machine: machine.number(I32)),
    ord("K"): push(lambda machine: machine.number(U8)),
    ord("M"): push(lambda machine: machine.number(U16)),
    0x8A: push(lambda machine: int.from_bytes(machine.take(machine.number(U8)), "little", signed=True)),
    # Strings of bytes, by Python 2 and by Python 3; texts.
    ord("U"): push(lambda machine: machine.take(machine.number(U8))),
    ord("T"): push(lambda machine: machine.take(machine.number(I32))),
    ord("C"): push(lambda machine: machine.take(machine.number(U8))),
    ord("B"): push(lambda machine: machine.take(machine.number(U32))),
    0x8C: push(lambda machine: machine.take(machine.number(U8)).decode()),
    ord("X"): push(lambda machine: machine.take(machine.number(U32)).decode()),
    # Tuples, lists, dicts.
    ord("("): Machine.mark,
    ord(")"): push(lambda machine: ()),
    0x85: lambda machine: machine.last(1),
    0x86: lambda machine: machine.last(2),
    0x87: lambda machine: machine.last(3),
    ord("t"): push(lambda machine: tuple(machine.above_mark())),
    ord("]"): push(lambda machine: []),
    ord("a"): lambda machine: machine.append([machine.stack.pop()]),
    ord("e"): lambda machine: machine.append(machine.above_mark()),
    ord("}"): push(lambda machine: {}),
    ord("s"): lambda machine: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    ord("u"): lambda machine: machine.set_items(machine.above_mark()),
    # What is used again.
    ord("q"): lambda machine: machine.remember(machine.number(U8)),
    ord("r"): lambda machine: machine.remember(machine.number(U32)),
    0x94: lambda machine: machine.remember(len(machine.memo)),
    ord("h"): push(lambda machine: machine.memo[machine.number(U8)]),
    ord("j"): push(lambda machine: machine.memo[machine.number(U32)]),
    # Names, calls, states.
    ord("c"): push(lambda machine: Name(machine.line(), machine.line())),
    0x93: push(lambda machine: Name(as_name(machine.stack.pop(-2)), as_name(machine.stack.pop()))),
    ord("R"): Machine.call,
    ord("b"): Machine.build,
}


def as_name(value: Any) -> str:
    """A name: a short text, also from a string of bytes, as Python 2 wrote texts."""
    if not isinstance(value, str | bytes):
        raise NotPlain(f"{type(value).__name__} where a name should be")
    if len(value) > MOST_NAME_BYTES:
        raise NotPlain(f"{len(value):,} signs where a name should be")
    return value.decode("latin1") if isinstance(value, bytes) else value


def load(content: bytes) -> Any:
    """The plain data in a pickle: keys as texts, strings as they are, arrays as `ByteArray`. Raises NotPlain."""
    machine = Machine(content)
    try:
        return machine.run()
    except (ValueError, TypeError, LookupError, AttributeError):
        raise NotPlain(f"damaged before byte {machine.position:,}") from None
