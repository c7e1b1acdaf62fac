"""What format plugins have in common: names that are safe in shards, and fingerprints of files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import xxhash

from neurofm_shards.errors import SourceError

#: Files up to this size are hashed whole.
_WHOLE_BYTES = 16 << 20
#: Of larger files, this many pieces are hashed, the first and the last bytes included.
_PIECES = 64
_PIECE_BYTES = 128 << 10


def field_name(text: str) -> str:
    """Make a field name (lower case, ``[a-z0-9_-]``) of any text.

    Examples
    --------
    >>> field_name("Suite2p F.chan1")
    'suite2p_f_chan1'
    """
    name = re.sub(r"[^a-z0-9_-]+", "_", text.lower()).strip("_-")
    return name or "data"


def file_fingerprint(paths: Sequence[str]) -> str:
    """Hash names, sizes and content of files: all of small ones, 64 pieces spread over large ones.

    Neither the folder nor the times of a file count, so a copied input is the same input.

    Parameters
    ----------
    paths : sequence of str
        The files of one input, in order.

    Returns
    -------
    str
        ``"xxh3-"`` and 32 hexadecimal digits.

    Raises
    ------
    SourceError
        A file cannot be read.
    """
    digest = xxhash.xxh3_128()
    for path in paths:
        _add_file(digest, path)
    return f"xxh3-{digest.hexdigest()}"


def _add_file(digest: xxhash.xxh3_128, path: str) -> None:
    try:
        _hash_pieces(digest, path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error


def _hash_pieces(digest: xxhash.xxh3_128, path: str) -> None:
    with open(path, "rb") as file:  # noqa: PTH123  (Path.open costs more and gives the same)
        size = os.fstat(file.fileno()).st_size
        digest.update(f"{os.path.basename(path)}\0{size}\0".encode())  # noqa: PTH119  (a plain string operation)
        if size <= _WHOLE_BYTES:
            while piece := file.read(1 << 20):
                digest.update(piece)
            return
        for i in range(_PIECES):
            file.seek((size - _PIECE_BYTES) * i // (_PIECES - 1))
            digest.update(file.read(_PIECE_BYTES))
