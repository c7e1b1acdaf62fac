"""Keyed pseudo-random permutations of ``[0, n)``: a formula instead of a stored list.

A Feistel network over ``a * b >= n`` points (``a`` just above the square root of ``n``): a point is a pair
``(left, right)`` with ``left < a`` and ``right < b``; the rounds add to either half, modulo its size, a keyed hash of
the other, so each round can be undone. Points that land outside of ``[0, n)`` walk on along their cycle (Black and
Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Everything broadcasts: each element may belong to a permutation
of its own size and key.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.values import MIX_1, MIX_2, SPREAD, splitmix64

Words = npt.NDArray[np.uint64]

#: Largest ``n``: both halves must fit into 31 bits.
MAX_SIZE = 1 << 62
#: Up to this size a permutation is drawn exactly, as a table of at most 128 KiB; Feistel networks are for large sets.
TABLE_SIZE = 1 << 14

#: Rounds of the network; permutations of few points need more to become equally likely.
ROUNDS = 8
SMALL_ROUNDS = 24
#: Sizes up to which ``SMALL_ROUNDS`` are in order.
SMALL_SIZE = 64

#: Points per pass, so that all intermediate arrays stay in the processor's cache.
_PASS = 1 << 13
#: Wider halves are not tabulated: the tables would leave the cache, and take a millisecond to make.
_WIDEST = 1 << 13

_HALF = np.uint64(32)


def derive_key(*words: object) -> int:
    """Return a 64-bit key that depends on all the words (numbers and strings) and their order."""
    text = "\x1f".join(str(word) for word in words).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def combine(key: Words | int, words: Words) -> Words:
    """Return one 64-bit key per word, all different from each other for one ``key``."""
    return splitmix64((np.asarray(words, dtype=np.uint64) + np.uint64(1)) * SPREAD ^ np.asarray(key, dtype=np.uint64))


def sorting_order(words: Words) -> npt.NDArray[np.int64]:
    """Return the order that sorts uniformly distributed, distinct words, as ``argsort`` does.

    Their upper halves are enough, nearly always, and NumPy sorts numbers of 16 bits much faster than longer ones.
    """
    upper = words >> _HALF
    order = np.argsort(upper.astype(np.uint16), kind="stable")
    order = order[np.argsort((upper >> np.uint64(16)).astype(np.uint16)[order], kind="stable")]
    placed = upper[order]
    return np.argsort(words) if (placed[1:] == placed[:-1]).any() else order


_CONSTANTS = [np.uint64(derive_key("neurofm_shards round", i)) for i in range(SMALL_ROUNDS)]


def _hashed(half: Words, key: Words, size: Words) -> Words:
    """Return a keyed hash of ``half`` in ``[0, size)``."""
    words: Words = half * SPREAD
    words ^= key
    words ^= words >> _HALF
    words *= MIX_1
    words ^= words >> np.uint64(29)
    words *= MIX_2
    words >>= _HALF
    words *= size
    words >>= _HALF
    return words


def halves(size: Any) -> tuple[Words, Words]:
    """Return the sizes ``(a, b)`` of the two halves for permutations of ``size`` points each."""
    size = np.asarray(size, dtype=np.uint64)
    a = np.sqrt(size.astype(np.float64)).astype(np.uint64) + np.uint64(1)
    return a, (size + a - np.uint64(1)) // a


class _Step(ABC):
    """One pass of points through their networks."""

    @abstractmethod
    def __call__(self, points: Words, at: Any) -> Words:
        """Return the images of points; ``at`` (a slice or an index array) says which of all points these are."""


class _Computed(_Step):
    """Computes the hash of each point in each round."""

    def __init__(self, a: Words, b: Words, key: Words, rounds: int) -> None:
        self._of = (a, b, key)
        self._rounds = rounds

    def __call__(self, points: Words, at: Any) -> Words:
        a, b, key = [part if part.size == 1 else part[at] for part in self._of]
        left = points // b  # one size for all points is divided by much faster like this than by divmod
        right = points - left * b
        for i in range(0, self._rounds, 2):
            left += _hashed(right, key + _CONSTANTS[i], a)
            np.minimum(left, left - a, out=left)
            right += _hashed(left, key + _CONSTANTS[i + 1], b)
            np.minimum(right, right - b, out=right)
        left *= b
        left += right
        return left


class _Inverted(_Computed):
    """The way back."""

    def __call__(self, points: Words, at: Any) -> Words:
        a, b, key = [part if part.size == 1 else part[at] for part in self._of]
        left = points // b
        right = points - left * b
        for i in range(self._rounds - 2, -1, -2):
            right -= _hashed(left, key + _CONSTANTS[i + 1], b)
            np.minimum(right, right + b, out=right)
            left -= _hashed(right, key + _CONSTANTS[i], a)
            np.minimum(left, left + a, out=left)
        left *= b
        left += right
        return left


class _LookedUp(_Step):
    """Hashes each value of a half once in each round, and looks it up: halves have few values, and points are many."""

    def __init__(self, a: Words, b: Words, keys: Words, rounds: int, which: npt.NDArray[np.int64] | None) -> None:
        width = int(max(a.max(), b.max()))
        values = np.tile(np.arange(width, dtype=np.uint64), (len(keys), 1))
        self._tables = [
            _hashed(values, (keys + constant)[:, None], size[:, None]).reshape(-1)
            for constant, size in zip(_CONSTANTS[:rounds], cycle((a, b)), strict=False)
        ]
        self._one = which is None
        self._of = (a, b, np.zeros(1, np.int64)) if which is None else (a[which], b[which], which * width)

    def __call__(self, points: Words, at: Any) -> Words:
        a, b, base = [part if self._one else part[at] for part in self._of]
        left = points // (b[0] if self._one else b)
        right = points - left * b
        of_left, of_right = left.view(np.int64), right.view(np.int64)  # the same memory, as indices
        for by_right, by_left in zip(self._tables[::2], self._tables[1::2], strict=True):
            left += by_right.take(of_right if self._one else of_right + base, mode="wrap")
            np.minimum(left, left - a, out=left)
            right += by_left.take(of_left if self._one else of_left + base, mode="wrap")
            np.minimum(right, right - b, out=right)
        left *= b
        left += right
        return left


def permute(points: Words, size: Any, key: Words, rounds: int = ROUNDS) -> Words:
    """Send each point to its place in its own keyed permutation.

    Parameters
    ----------
    points : numpy.ndarray of uint64, shape (n,)
        Each below its ``size``.
    size : int or numpy.ndarray of uint64, shape (n,)
        Sizes of the permutations.
    key : numpy.ndarray of uint64, shape (1,) or (n,)
        Their keys.
    rounds : int
        Even, up to ``SMALL_ROUNDS``.
    """
    return _walk(_Computed(*halves(size), key, rounds), points, size)


def permute_within(
    points: Words, which: npt.NDArray[np.int64], sizes: Words, keys: Words, rounds: int = ROUNDS
) -> Words:
    """Do the same for the points of few permutations.

    Parameters
    ----------
    points : numpy.ndarray of uint64, shape (n,)
        Points.
    which : numpy.ndarray of int64, shape (n,)
        The permutation of each.
    sizes, keys : numpy.ndarray of uint64, shape (permutations,)
        Their sizes and keys.
    rounds : int
        See :func:`permute`.
    """
    a, b = halves(sizes)
    if 2 * len(sizes) * int(max(a.max(initial=0), b.max(initial=0))) > len(points):
        return permute(points, sizes[which], keys[which], rounds)
    return _walk(_LookedUp(a, b, keys, rounds, which), points, sizes[which])


def _walk(step: _Step, points: Words, size: Any) -> Words:
    size = np.asarray(size, dtype=np.uint64)
    found = np.empty_like(points)
    for first in range(0, len(points), _PASS):
        part = slice(first, first + _PASS)
        found[part] = step(points[part], part)
    outside = np.flatnonzero(found >= size)
    while len(outside):
        again = step(found[outside], outside)
        found[outside] = again
        outside = outside[again >= (size[outside] if size.ndim else size)]
    return found


class Permutation:
    """One keyed permutation of ``[0, size)``.

    Parameters
    ----------
    size : int
        Up to 2**62.
    key : int
        64 bits; see :func:`derive_key`.

    Examples
    --------
    >>> order = Permutation(5, derive_key("epoch", 0))
    >>> sorted(order(np.arange(5)).tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(self, size: int, key: int) -> None:
        self.size = size
        self._key = np.array([key], dtype=np.uint64)
        self._table = self._drawn() if size <= TABLE_SIZE else None
        self._network: _Step | None = None  # made when it is first needed

    def __call__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the images of ``positions``, each in ``[0, size)``; int64, same shape."""
        if self._table is not None:
            return self._table[positions]
        if self._network is None:
            self._network = self._made()
        return self._walked(self._network, positions)

    def inverse(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the positions whose images these are."""
        if self._table is not None:
            return np.argsort(self._table)[images]
        return self._walked(_Inverted(*halves(self.size), self._key, ROUNDS), images)

    def _drawn(self) -> npt.NDArray[np.int64]:
        """Sort by keyed 64-bit hashes: each permutation is as likely as any other."""
        return sorting_order(combine(self._key, np.arange(self.size, dtype=np.uint64)))

    def _made(self) -> _Step:
        a, b = (half.reshape(1) for half in halves(self.size))
        if max(a[0], b[0]) > _WIDEST:
            return _Computed(a, b, self._key, ROUNDS)
        return _LookedUp(a, b, self._key, ROUNDS, None)

    def _walked(self, step: _Step, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        flat = np.ascontiguousarray(positions, dtype=np.int64).reshape(-1).view(np.uint64)
        found: npt.NDArray[np.int64] = _walk(step, flat, self.size).view(np.int64)
        return found.reshape(np.shape(positions))
