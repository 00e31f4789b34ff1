"""Errors in the JSON of a prediction name the value that is wrong."""

from __future__ import annotations

import pytest

from serving_gateway.errors import GatewayError, InvalidInput
from serving_gateway.inference import bodies
from serving_gateway.inference.bodies import decode_prediction


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"entities":{"a":1,"b":1.5}}', "entities.b"),
        (b'{"entities":[{"a":"1"},{"b":null}]}', "entities[1].b"),
        (b'{"entities":{"a":true}}', "entities.a"),
        (b'\xef\xbb\xbf{"entities":{"a":true}}', "entities.a"),
        (b'{"request":[{"a":1,"c":[]}]}', "request[0].c"),
        (b'{"instances":[{"a":1},{"c":{}}]}', "instances[1].c"),
        (b'{"entities":{"%b":null}}' % (b"n" * 5_000), f"entities.{'n' * 200}"),
        # What cannot be read again keeps the decoder's path.
        (b'{"entities":{"a":1.5},"request":{"a":NaN}}', "entities[...]"),
        (b'{"entities":{"a":1.5},"entities":[{}]}', "entities[...]"),
        (b'{"entities":{"a":1.5,"b":%b}}' % (b"[" * 20_000 + b"]" * 20_000), "entities[...]"),
    ],
)
def test_value_of_an_object_is_named(body: bytes, field: str) -> None:
    with pytest.raises(InvalidInput, match="Expected") as caught:
        decode_prediction(body, floats=True)
    assert (caught.value.field, caught.value.code) == (field, "wrong_type")
    assert caught.value.message.startswith(f"{field}: ")


def test_large_body_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its values would be built at once, while nothing else can run."""
    monkeypatch.setattr(bodies, "LARGE_BYTES", 40)
    fields = []
    for filling in (b"", b"n" * 40):
        with pytest.raises(GatewayError) as caught:
            decode_prediction(b'{"entities":{"b":1.5},"%b":[]}' % filling, floats=False)
        fields.append(caught.value.field)
    assert fields == ["entities.b", "entities[...]"]
