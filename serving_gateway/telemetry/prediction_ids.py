"""Ids of predictions, by which their outcomes are reported later."""

from __future__ import annotations

import os
from itertools import count

_RANDOM_BYTES = 8


class PredictionIds:
    """Ids of one process's predictions: `<prefix>-<number>`.

    The prefix is random, so that no id is used twice, by any replica or after any restart.
    """

    def __init__(self) -> None:
        self.prefix = os.urandom(_RANDOM_BYTES).hex()
        self.member = f'"{self.prefix}-'.encode()
        """How the JSON of an id begins; the number and a quote follow."""
        numbers = count(1)
        self.next_number = numbers.__next__
        """Returns a number that this process has not used."""

    def text(self, number: int) -> str:
        """The id of this number."""
        return f"{self.prefix}-{number}"
