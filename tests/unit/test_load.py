"""What counts as an answer by a version that was not effective."""

from __future__ import annotations

import pytest

from tests.support.load import Answer, Reign, wrongly_answered

REIGNS = {1: Reign(1, 0.0, 10.0), 2: Reign(2, 9.5)}


def answer(sent: float, received: float, version: int, generation: int, label: int) -> Answer:
    return Answer(sent, received, 200, version, generation, [label], "")


@pytest.mark.parametrize(
    "right",
    [
        answer(1, 2, 1, 1, 1),
        answer(9.9, 11, 1, 1, 1),  # it was effective when the request was sent
        answer(9, 9.6, 2, 2, 2),  # it became effective before the answer came
    ],
)
def test_an_answer_within_the_time_of_its_version_is_right(right: Answer) -> None:
    assert wrongly_answered([right], REIGNS) == []


@pytest.mark.parametrize(
    "wrong",
    [
        answer(10.1, 11, 1, 1, 1),  # too late
        answer(8, 9.4, 2, 2, 2),  # too early
        answer(1, 2, 2, 1, 2),  # another version than its generation has
        answer(1, 2, 1, 1, 2),  # computed by another version than it names
        answer(1, 2, 1, 7, 1),  # of no generation that there was
    ],
)
def test_any_other_answer_is_found(wrong: Answer) -> None:
    assert wrongly_answered([wrong], REIGNS) == [wrong]
