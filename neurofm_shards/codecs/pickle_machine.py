"""A stack machine that reads pickles and runs nothing: strict, bounded, with the opcodes that plain data needs.

Raw bytes stay where they are until the end, so the same reading gives the value and the place of an array's bytes.
Memory beyond the payload is bounded by 300,000 small objects and twice the payload in copied bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from neurofm_shards.codecs.pickle_values import MAX_OPERATIONS, ArrayRecord, DtypeRecord, Reading, Span, brief
from neurofm_shards.errors import FormatError, UnsafePickleError

_STOP = 0x2E
_MAX_TEXT_ARGUMENT = 512
_MAX_INTEGER_BYTES = 16
_KEY_TYPES = (str, int, float, bool, type(None))


Construct = Callable[[Reading, tuple[Any, ...]], object]


class Global:
    """A name on the allow-list; calling the original is replaced by ``construct``."""

    __slots__ = ("construct", "name")

    def __init__(self, name: str, construct: Construct | None = None) -> None:
        self.name = name
        self.construct = construct

    def call(self, reading: Reading, args: tuple[Any, ...]) -> object:
        """Stand in for ``original(*args)``.

        Raises
        ------
        UnsafePickleError
            The arguments are not those that an ordinary pickle has.
        """
        if self.construct is None:
            raise UnsafePickleError(f"the pickle calls {self.name}, which is only allowed as a name")
        try:
            return self.construct(reading, args)
        except UnsafePickleError as error:
            raise UnsafePickleError(f"the pickle calls {self.name} with {error}") from error
        except FormatError as error:
            raise FormatError(f"{self.name}: {error}") from error


def find_global(allowed: Mapping[str, Global], module: object, name: object) -> Global:
    """Return the substitute for a global (raises UnsafePickleError)."""
    full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else brief(module)
    found = allowed.get(full)
    if found is None:
        raise UnsafePickleError(
            f"the pickle names {full[:120]!r:.120}, which is not on the allow-list (plain NumPy arrays and scalars, "
            "tensors and containers of them): refused, and nothing was run; where you trust the data, write it as .npy"
        )
    return found


@dataclass(frozen=True)
class Persistent:
    """A persistent id, as the storages of tensors have."""

    persistent_id: object


class Machine:
    """Reads one pickle.

    Parameters
    ----------
    reading : Reading
        The whole payload, whose positions count from its start, and the budget.
    start, stop : int
        Where the pickle begins, and what it may not pass.
    allowed : mapping of str to Global
        The globals that it may name.
    persistent : bool
        Whether persistent ids are allowed (inside the storage of a tensor).

    Attributes
    ----------
    position : int
        After ``run``: the first byte behind the pickle.
    """

    def __init__(
        self, reading: Reading, start: int, stop: int, allowed: Mapping[str, Global], *, persistent: bool = False
    ) -> None:
        self._reading = reading
        self._payload = reading.payload
        self.position = start
        self._stop = stop
        self._allowed = allowed
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return the value of the pickle, with arrays as records and bytes as spans.

        Raises
        ------
        FormatError
            The pickle is damaged, names a global that is not allowed, or is too large.
        """
        if self._byte() != 0x80 or not 2 <= self._byte() <= 5:
            raise FormatError("not a pickle of protocol 2 to 5")
        while (code := self._byte()) != _STOP:
            self._reading.spend()
            operation = self._operations.get(code)
            if operation is None:
                raise UnsafePickleError(f"pickle opcode {bytes([code])!r} at byte {self.position - 1} is not allowed")
            operation(self)
        return self._result()

    def _result(self) -> Any:
        if len(self._stack) != 1 or self._marks:
            raise FormatError("the pickle does not end with exactly one value")
        return self._stack[0]

    # Reading

    def _take(self, count: int) -> int:
        """Return where the next ``count`` bytes begin, and pass them."""
        start = self.position
        if count > self._stop - start:
            raise FormatError(f"the pickle is truncated: {count} bytes claimed at {start}, {self._stop - start} left")
        self.position = start + count
        return start

    def _byte(self) -> int:
        return self._payload[self._take(1)]

    def _unsigned(self, width: int) -> int:
        start = self._take(width)
        return int.from_bytes(self._payload[start : start + width], "little")

    def _line(self) -> str:
        """Return a text argument that ends with a newline."""
        window = bytes(self._payload[self.position : min(self._stop, self.position + _MAX_TEXT_ARGUMENT)])
        length = window.find(b"\n")
        if length < 0:
            raise FormatError(f"a name without end at byte {self.position}")
        self._take(length + 1)
        return window[:length].decode("utf-8", "backslashreplace")

    # The stack

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack:
            raise FormatError(f"the pickle takes a value that is not there, before byte {self.position}")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            raise FormatError(f"the pickle uses a value that is not there, before byte {self.position}")
        return self._stack[-1]

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise FormatError(f"the pickle ends a list that was not begun, before byte {self.position}")
        items = self._stack
        self._stack = self._marks.pop()
        return items

    # Opcodes

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _frame(self) -> None:
        if self._unsigned(8) > self._stop - self.position:
            raise FormatError("a frame of the pickle is longer than the pickle")

    def _text(self, width: int) -> None:
        length = self._unsigned(width)
        start = self._take(length)
        try:
            self._push(str(self._payload[start : start + length], "utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            raise FormatError(f"text at byte {start} is not UTF-8") from error

    def _raw(self, width: int) -> None:
        length = self._unsigned(width)
        start = self._take(length)
        self._push(Span(start, start + length))

    def _integer(self, width: int) -> None:
        start = self._take(width)
        self._push(int.from_bytes(self._payload[start : start + width], "little", signed=width == 4))

    def _long(self) -> None:
        length = self._unsigned(1)
        if length > _MAX_INTEGER_BYTES:
            raise UnsafePickleError(f"an integer of {length} bytes")
        start = self._take(length)
        self._push(int.from_bytes(self._payload[start : start + length], "little", signed=True))

    def _float(self) -> None:
        self._push(struct.unpack_from(">d", self._payload, self._take(8))[0])

    def _tuple(self, count: int) -> None:
        self._push(tuple(reversed([self._pop() for _ in range(count)])))

    def _marked_tuple(self) -> None:
        items = self._pop_mark()
        self._push(tuple(items))

    def _append(self) -> None:
        self._extend([self._pop()])

    def _appends(self) -> None:
        self._extend(self._pop_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise UnsafePickleError(f"the pickle appends to a {type(target).__name__}")
        target.extend(items)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def _set_items(self) -> None:
        self._update(self._pop_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict or len(items) % 2:
            raise UnsafePickleError(f"the pickle sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in _KEY_TYPES:
                raise UnsafePickleError(f"a dict whose key is a {type(key).__name__}")
            self._reading.spend_on_key(key, len(target))
            target[key] = value

    def _store(self, number: int) -> None:
        if number > MAX_OPERATIONS:
            raise UnsafePickleError(f"the pickle stores a value under the number {number}")
        self._memo[number] = self._top()

    def _recall(self, number: int) -> None:
        if number not in self._memo:
            raise FormatError(f"the pickle refers to a value {number} that it never stored")
        self._push(self._memo[number])

    def _global(self) -> None:
        self._push(find_global(self._allowed, self._line(), self._line()))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._push(find_global(self._allowed, module, name))

    def _reduce(self) -> None:
        args, function = self._pop(), self._pop()
        if not isinstance(function, Global) or type(args) is not tuple:
            raise UnsafePickleError(f"the pickle calls {brief(function)}")
        self._push(function.call(self._reading, args))

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if not isinstance(target, (ArrayRecord, DtypeRecord)):
            raise UnsafePickleError(f"the pickle sets the state of {brief(target)}")
        target.set_state(state)

    def _persistent_id(self) -> None:
        if not self._persistent:
            raise UnsafePickleError("the pickle refers to an object outside itself (a persistent id)")
        self._push(Persistent(self._pop()))

    #: The opcodes that plain data needs, by their codes in :mod:`pickletools`.
    _operations: ClassVar[Mapping[int, Callable[[Machine], object]]] = MappingProxyType(
        {
            ord(b"("): _mark,
            ord(b"0"): _pop,  # POP
            ord(b"N"): lambda self: self._push(None),
            ord(b"\x88"): lambda self: self._push(True),
            ord(b"\x89"): lambda self: self._push(False),
            ord(b"J"): lambda self: self._integer(4),
            ord(b"K"): lambda self: self._integer(1),
            ord(b"M"): lambda self: self._integer(2),
            ord(b"\x8a"): _long,
            ord(b"G"): _float,
            ord(b"\x8c"): lambda self: self._text(1),
            ord(b"X"): lambda self: self._text(4),
            ord(b"\x8d"): lambda self: self._text(8),
            ord(b"C"): lambda self: self._raw(1),
            ord(b"B"): lambda self: self._raw(4),
            ord(b"\x8e"): lambda self: self._raw(8),
            ord(b"\x96"): lambda self: self._raw(8),
            ord(b"]"): lambda self: self._push([]),
            ord(b"}"): lambda self: self._push({}),
            ord(b")"): lambda self: self._push(()),
            ord(b"\x85"): lambda self: self._tuple(1),
            ord(b"\x86"): lambda self: self._tuple(2),
            ord(b"\x87"): lambda self: self._tuple(3),
            ord(b"t"): _marked_tuple,
            ord(b"a"): _append,
            ord(b"e"): _appends,
            ord(b"s"): _set_item,
            ord(b"u"): _set_items,
            ord(b"q"): lambda self: self._store(self._unsigned(1)),
            ord(b"r"): lambda self: self._store(self._unsigned(4)),
            ord(b"\x94"): lambda self: self._store(len(self._memo)),
            ord(b"h"): lambda self: self._recall(self._unsigned(1)),
            ord(b"j"): lambda self: self._recall(self._unsigned(4)),
            ord(b"c"): _global,
            ord(b"\x93"): _stack_global,
            ord(b"R"): _reduce,
            ord(b"b"): _build,
            ord(b"Q"): _persistent_id,
            ord(b"\x95"): _frame,
        }
    )
