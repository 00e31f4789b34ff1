"""Ids of predictions are unique, and tell nothing of each other."""

from __future__ import annotations

from itertools import pairwise

from serving_gateway.telemetry.prediction_ids import PredictionIds

_COUNT = 20_000


def test_ids_are_unique_over_replicas_and_fit_the_log() -> None:
    replicas = PredictionIds(), PredictionIds()
    numbers = [[one.next_number() for _ in range(_COUNT)] for one in replicas]
    assert len({one.text(n) for one, own in zip(replicas, numbers, strict=True) for n in own}) == (
        2 * _COUNT
    )
    assert all(0 <= number < 2**63 for own in numbers for number in own)


def test_id_does_not_tell_that_of_the_next_prediction() -> None:
    ids = PredictionIds()
    steps = [after - before for before, after in pairwise(ids.next_number() for _ in range(_COUNT))]
    assert len(set(steps)) > 0.99 * len(steps)
    near = sum(abs(step) < 2**40 for step in steps)
    assert near < 0.01 * len(steps)


def test_text_is_what_a_response_is_made_of() -> None:
    ids = PredictionIds()
    number = ids.next_number()
    assert f'"{ids.text(number)}"'.encode() == b'%b%d"' % (ids.member, number)
