"""What happens to samples that cannot be read when the loader was told to go on without them."""

from __future__ import annotations

import logging
from collections.abc import Sized

from neurofm_shards.errors import FormatError
from neurofm_shards.loading.workers.pipeline import Fetched

#: This many unreadable samples in a row are not a damaged sample here and there.
MOST_IN_A_ROW = 100

_log = logging.getLogger("neurofm_shards.loading")


class SkipCounter:
    """Counts and reports samples that were left out, and gives up when too many of them follow one another.

    Attributes
    ----------
    total : int
        Samples left out so far.
    """

    def __init__(self, most_in_a_row: int = MOST_IN_A_ROW) -> None:
        self.total = 0
        self._most = most_in_a_row
        self._in_a_row = 0

    def add(self, fetched: Fetched, asked: Sized) -> None:
        """Take the next batch into account; ``asked`` has the length that it had before any samples were left out.

        Raises
        ------
        FormatError
            Too many samples in a row could not be read.
        """
        if not fetched.failures:
            self._in_a_row = 0
            return
        after = 0
        for place, text in fetched.failures:
            self._in_a_row = self._in_a_row + 1 if place == after else 1
            after = place + 1
            self.total += 1
            _log.warning("left out a sample that cannot be read: %s", text)
            if self._in_a_row >= self._most:
                raise FormatError(
                    f"{self._in_a_row} samples in a row cannot be read, the last of them: {text}. This is more than "
                    "single damaged samples: check the storage, run `neurofm-shards validate`"
                )
        if after < len(asked):
            self._in_a_row = 0
