"""A batch's metadata: the list of its samples' dicts, decoded when someone looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any, SupportsIndex

from typing_extensions import Self


class LazyMetadata(list[Any]):
    """A list that is filled by ``decode`` when it is first used; its length is known before.

    Copying and pickling give a plain list. C code that reads lists from the inside, past their methods (orjson), sees
    an empty one until then: hand it ``list(metadata)``. Like any list it is made of items, which is how code that
    rebuilds containers by their type (Lightning, Accelerate, torch) calls it.

    Parameters
    ----------
    items : iterable
        What it holds.
    """

    _decode: Callable[[Any], list[dict[str, Any]]] | None = None
    _rows: Sized = ()

    @classmethod
    def later(cls, decode: Callable[[Any], list[dict[str, Any]]], rows: Sized) -> Self:
        """Make a list that is filled when it is first used: by ``decode(rows)``, which returns one item per row."""
        made = cls()
        made._decode, made._rows = decode, rows
        return made

    @property
    def decoded(self) -> bool:
        """Whether someone has looked."""
        return self._decode is None

    def _filled(self) -> LazyMetadata:
        if self._decode is not None:
            items = self._decode(self._rows)
            if self._decode is not None:  # another thread may have been faster
                super().extend(items)
                self._decode = None
        return self

    def __len__(self) -> int:
        return len(self._rows) if self._decode is not None else super().__len__()

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type[list[Any]], tuple[list[Any]]]:
        return list, (list(self),)

    def __radd__(self, other: list[Any]) -> list[Any]:
        return other + list(self)

    def __iter__(self) -> Iterator[Any]:
        self._filled()
        return super().__iter__()


def _looking(name: str) -> Callable[..., Any]:
    """Return a list's method that fills the list first."""
    method = getattr(list, name)

    def look(self: LazyMetadata, *arguments: Any, **options: Any) -> Any:
        for other in arguments:
            if isinstance(other, LazyMetadata):
                other._filled()  # noqa: SLF001  (its own class)
        return method(self._filled(), *arguments, **options)

    look.__name__ = name
    return look


for _name in (
    *("__getitem__", "__setitem__", "__delitem__", "__contains__", "__reversed__", "__repr__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__add__", "__mul__", "__rmul__", "__iadd__"),
    *("__imul__", "append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"),
):
    setattr(LazyMetadata, _name, _looking(_name))
