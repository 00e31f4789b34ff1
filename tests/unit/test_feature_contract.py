"""The digest of what a model reads."""

from hashlib import sha256

from serving_gateway.contract import DType, Feature, feature_contract

FEATURES = (Feature("age", DType.FP32), Feature("amount", DType.FP64, nullable=True))


def test_contract_without_request_features_is_that_of_earlier_releases() -> None:
    assert feature_contract(FEATURES) == sha256(b"age FP32\namount FP64").hexdigest()
    assert feature_contract(FEATURES, ()) == feature_contract(FEATURES)


def test_feature_that_moves_from_the_store_to_the_request_is_another_contract() -> None:
    sent = feature_contract(FEATURES, ("amount",))
    assert sent == sha256(b"age FP32\nrequest amount FP64").hexdigest()
    assert sent != feature_contract(FEATURES)
