"""Ids of predictions, by which their outcomes are reported later."""

from __future__ import annotations

import os
from array import array
from itertools import chain, count, repeat
from typing import Final

_PREFIX_BYTES: Final = 8
_DRAWN_BYTES: Final = 4096
"""Random bytes drawn at once: asking the kernel for each id costs ten times as much."""
_COUNTED_BITS: Final = 31
"""With the random bits 63, as many as the log keeps of a number."""
_COUNTED: Final = (1 << _COUNTED_BITS) - 1


class PredictionIds:
    """Ids of one process's predictions: `<prefix>-<number>`; threads may share them.

    The prefix is random, so that no id is used twice, by any replica or after any restart. Most of
    a number is random as well: the first outcome that is reported for an id counts, so a client
    must not be able to guess other clients' ids from its own.
    """

    def __init__(self) -> None:
        self.prefix = os.urandom(_PREFIX_BYTES).hex()
        self.member = f'"{self.prefix}-'.encode()
        """How the JSON of an id begins; the number and a quote follow."""
        self._count = count(1).__next__
        self._draw = chain.from_iterable(map(_random_numbers, repeat(_DRAWN_BYTES))).__next__

    def next_number(self) -> int:
        """Return a number below 2**63 that this process has not used."""
        return self._draw() << _COUNTED_BITS | self._count() & _COUNTED

    def text(self, number: int) -> str:
        """The id of this number."""
        return f"{self.prefix}-{number}"


def _random_numbers(size: int) -> array[int]:
    """Unpredictable numbers of 32 bits, from `size` bytes."""
    return array("I", os.urandom(size))
