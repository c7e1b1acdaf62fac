"""Which keys a data set has, so that none comes twice."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from neurofm_shards.errors import ConfigError
from neurofm_shards.shards.sample_keys import automatic_key, automatic_number, named_keys


class KeyRegistry:
    """Remembers keys: automatic ones as stretches of numbers, others one by one.

    Parameters
    ----------
    existing : callable
        Returns the keys that were there before; called when the first key that is not automatic comes.
    next_number : int
        Number of the next automatic key.
    """

    def __init__(self, existing: Callable[[], Iterable[str]], next_number: int) -> None:
        self._existing: Callable[[], Iterable[str]] | None = existing
        self._named: set[str] = set()
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.next_number = next_number

    def take_automatic(self, count: int) -> int:
        """Take the next numbers; return the first.

        Raises
        ------
        ConfigError
            A sample was given one of these automatic keys by name.
        """
        first = self.next_number
        if self._named:
            taken = next((n for n in range(first, first + count) if automatic_key(n) in self._named), None)
            if taken is not None:
                raise ConfigError(
                    f"the automatic key {automatic_key(taken)!r} was given to another sample by name; give all samples "
                    "ids, or none"
                )
        if self._stops and self._stops[-1] == first:
            self._stops[-1] = first + count
        else:
            self._starts.append(first)
            self._stops.append(first + count)
        self.next_number = first + count
        return first

    def take_named(self, ids: Sequence[str | int]) -> None:
        """Take keys that their caller named.

        Raises
        ------
        ConfigError
            One was used before.
        """
        if self._existing is not None:
            self._named.update(self._existing())
            self._existing = None
        keys = named_keys(ids).keys
        before = len(self._named)
        fresh = set(keys)
        if len(fresh) < len(keys) or not fresh.isdisjoint(self._named) or any(map(self._is_automatic, keys)):
            raise ConfigError(self._explained(ids, keys))
        self._named.update(keys)
        self.next_number += len(self._named) - before

    def give_back(self, sample_id: str | int | None) -> None:
        """Forget the key that was taken last (None: an automatic one), whose sample was not written after all."""
        self.next_number -= 1
        if sample_id is None:
            self._stops[-1] -= 1
        else:
            self._named.difference_update(named_keys([sample_id]).keys)

    def _is_automatic(self, key: str) -> bool:
        number = automatic_number(key)
        if number is None:
            return False
        place = bisect_right(self._starts, number) - 1
        return place >= 0 and number < self._stops[place]

    def _explained(self, ids: Sequence[str | int], keys: Sequence[str]) -> str:
        seen = set(self._named)
        for given, key in zip(ids, keys, strict=True):
            if key in seen or self._is_automatic(key):
                return f"sample id {given!r} is used a second time; ids must be unique over the whole data set"
            seen.add(key)
        raise AssertionError("some key was used before")
