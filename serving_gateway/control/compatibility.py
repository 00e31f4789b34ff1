"""Whether variant B can answer the requests that variant A's clients send; pure functions."""

from __future__ import annotations

from serving_gateway.contract import Signature
from serving_gateway.errors import Conflict


def require_same_requests(a: Signature, b: Signature, *, named: bool) -> None:
    """Refuse (`Conflict`) a B that cannot answer every request that A can.

    Clients send rows by name, rows by position, tensors, and keys with request features: so B must
    read the same features, of the same types, in the same order, by the same keys, and the same
    tensors. Signatures from Triton's metadata are not `named`: they lack the names of a packed
    tensor's columns, so only tensors are compared.
    """
    diffs = [*_feature_differences(a, b), *_key_differences(a, b)] if named else []
    if not diffs and list(_tensors(a).items()) != list(_tensors(b).items()):
        diffs = [f"A reads the tensors {_describe_tensors(a)}, and B {_describe_tensors(b)}"]
    if diffs:
        raise Conflict(
            "Variant B cannot answer what A's clients send: " + "; ".join(diffs) + ". Nothing was "
            "changed. Mirror the traffic instead, or reload B with a version that reads the same.",
            code="incompatible_variants",
        )


def _feature_differences(a: Signature, b: Signature) -> list[str]:
    """Describe how the features differ, for people."""
    ours = {feature.name: feature for feature in a.features}
    theirs = {feature.name: feature for feature in b.features}
    diffs = []
    if missing := [name for name in theirs if name not in ours]:
        diffs.append(f"B reads {', '.join(missing)}, which A does not")
    if extra := [name for name in ours if name not in theirs]:
        diffs.append(f"B does not read {', '.join(extra)}, so rows by position have another width")
    if not diffs and list(ours) != list(theirs):
        diffs.append(f"B reads the features in another order: {', '.join(theirs)}")
    for name, feature in theirs.items():
        if name in ours and ours[name].dtype is not feature.dtype:
            diffs.append(f"{name} is {ours[name].dtype} for A and {feature.dtype} for B")
        elif name in ours and ours[name].nullable and not feature.nullable:
            diffs.append(f"{name} may be null for A and not for B")
    return diffs


def _key_differences(a: Signature, b: Signature) -> list[str]:
    """Describe the differences for clients that send keys and request features, for people."""
    if a.feature_service is None and not a.request:
        return []
    diffs = []
    # The reverse does not matter: a request may also hold what B has stored.
    if missing := [name for name in b.request if name not in a.request]:
        diffs.append(f"B takes {', '.join(missing)} from the request, and A does not")
    ours, theirs = a.join_keys, b.join_keys
    is_same = {*ours} == {*theirs} if ours and theirs else len(ours or theirs) <= 1
    if a.feature_service and b.feature_service and not is_same:
        keys = [", ".join(names) or "one key" for names in (ours, theirs)]
        diffs.append(f"the features of A are read by {keys[0]}, and those of B by {keys[1]}")
    return diffs


def _tensors(signature: Signature) -> dict[str, tuple[str, int]]:
    """Type and width of each input tensor."""
    if signature.packed_input is not None:
        dtype = signature.features[0].tensor_dtype.value if signature.features else ""
        return {signature.packed_input: (dtype, len(signature.features))}
    return {feature.name: (feature.tensor_dtype.value, 1) for feature in signature.features}


def _describe_tensors(signature: Signature) -> str:
    return ", ".join(
        f"{name} ({dtype}, {width} wide)" for name, (dtype, width) in _tensors(signature).items()
    )
