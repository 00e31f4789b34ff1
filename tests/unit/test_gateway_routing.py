"""Who gets which variant: the documented rule, its refinement, and what a ramp may move."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from serving_gateway.contract import Strategy, Traffic
from serving_gateway.inference.traffic import TrafficPolicy, bucket, threshold

IDS = [f"client-{i}" for i in range(100_000)]


def split(percent: float, salt: str | None = None) -> TrafficPolicy:
    return TrafficPolicy(Traffic(Strategy.SPLIT, percent, salt))


@given(st.text(), st.integers(0, 100))
def test_a_whole_percent_without_salt_is_the_documented_rule(client_id: str, percent: int) -> None:
    documented = int(sha256(client_id.encode()).hexdigest(), 16) % 100 < percent
    assert split(percent).choose_variant(client_id) == ("B" if documented else "A")


def test_the_shares_are_what_they_say() -> None:
    for percent in (0.01, 0.5, 10, 33.33):
        share = sum(split(percent).choose_variant(i) == "B" for i in IDS) / len(IDS) * 100
        assert abs(share - percent) < 0.3


@given(st.text(), st.floats(0, 100), st.floats(0, 100), st.none() | st.text())
def test_a_ramp_keeps_the_smaller_share(
    client_id: str, one: float, other: float, salt: str | None
) -> None:
    low, high = sorted((round(one, 2), round(other, 2)))
    if split(low, salt).choose_variant(client_id) == "B":
        assert split(high, salt).choose_variant(client_id) == "B"


def test_salts_make_independent_cohorts() -> None:
    chosen = {salt: {i for i in IDS if bucket(i, salt) < 1000} for salt in (None, "a", "b")}
    for one, other in ((None, "a"), (None, "b"), ("a", "b")):
        both = len(chosen[one] & chosen[other]) / len(IDS) * 100
        assert abs(both - 1) < 0.15
    assert bucket("b:c", "a") != bucket("c", "a:b")


def test_without_a_client_id_a_answers() -> None:
    assert split(100).choose_variant(None) == "A"
    assert split(100).choose_variant("anybody") == "B"
    assert split(0).choose_variant("anybody") == "A"


def test_a_mirror_never_answers_and_at_100_percent_copies_all() -> None:
    all_of_it = TrafficPolicy(Traffic(Strategy.MIRROR, 100))
    assert all_of_it.choose_variant("anybody") == "A"
    assert all_of_it.is_mirrored("anybody")
    assert all_of_it.is_mirrored(None)
    part = TrafficPolicy(Traffic(Strategy.MIRROR, 50))
    assert not part.is_mirrored(None)
    assert not TrafficPolicy(Traffic(Strategy.OFF, 50)).is_mirrored("anybody")


def test_thresholds_are_exact_at_each_hundredth() -> None:
    assert [threshold(i / 100) for i in range(10_001)] == list(range(10_001))
