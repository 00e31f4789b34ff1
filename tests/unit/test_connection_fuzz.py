"""Any split of valid requests gives the same responses; any bytes leave the gateway standing."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fake_connection import FakeServer, Response, fake_server, post

INFER = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
CHUNKED = (
    b"POST /predict HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'8\r\n{"data":\r\n8;a=b\r\n[[9,2]]}\r\n0\r\n\r\n'
)
OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA")
BINARY = INFER.replace(b'"data":[1,2]', b'"parameters":{"binary_data_size":8}')
REQUESTS = (
    *(post("/predict", b'{"data":[[%d,2]]}' % number) for number in range(3)),
    post("/predict", b'{"data":[[1,NaN]]}'),
    post("/predict", b'{"data":[["\\ud800",NaN]],"\\ud800":1}'),
    post("/predict", b"{"),
    post("/predict", b'{"data":[[7,2]]}' + b" " * 3000),
    post("/predict", b'{"data":[[8,2]]}', *OFFER),
    post("/models/m/predict", b'{"instances":[{"a":5,"b":null}]}'),
    post("/v2/models/m/infer", INFER),
    post("/v2/models/m/versions/1/infer", INFER),
    post("/v2/models/m/versions/9/infer", INFER),
    post(
        "/v2/models/m/infer", BINARY + bytes(8), f"Inference-Header-Content-Length: {len(BINARY)}"
    ),
    post("/other", b"body"),
    b"GET /health HTTP/1.1\r\nHost: g\r\n\r\n",
    CHUNKED,
)


def in_loop(work: object) -> None:
    """Run a coroutine function with a server of its own."""

    async def run() -> None:
        with TemporaryDirectory() as home:
            server = fake_server(Path(home))
            with server.plane:
                await work(server)  # type: ignore[operator]

    asyncio.run(run())


def outcomes(found: list[Response]) -> list[tuple[int, object]]:
    """What responses say, but for ids."""
    content: list[tuple[int, object]] = []
    for one in found:
        body: object = one.body
        if one.headers["content-type"] == "application/json":
            body = json.loads(one.body)
            if isinstance(body, dict):
                body.pop("request_id", None)
                body.pop("prediction_id", None)
                if "probabilities" in body:
                    body["probabilities"] = [row[0] for row in body["probabilities"]]
                for output in body.get("outputs", ()):
                    output["data"] = output["data"][:1]
        content.append((one.status, body))
    return content


async def answers(server: FakeServer, stream: bytes, cuts: list[int], count: int) -> object:
    ends = [0, *sorted({cut % (len(stream) + 1) for cut in cuts}), len(stream)]
    parts = [stream[start:stop] for start, stop in itertools.pairwise(ends) if start < stop]
    return outcomes(await server.answer(*parts, count=count))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(range(len(REQUESTS))), min_size=1, max_size=8),
    st.lists(st.integers(0, 10**6), max_size=12),
)
def test_responses_do_not_depend_on_how_the_requests_are_cut(
    chosen: list[int], cuts: list[int]
) -> None:
    async def work(server: FakeServer) -> None:
        stream = b"".join(REQUESTS[at] for at in chosen)
        one_by_one: list[object] = []
        for at in chosen:
            one_by_one += outcomes(await server.answer(REQUESTS[at]))
        assert len(one_by_one) == len(chosen)
        assert await answers(server, stream, cuts, len(chosen)) == one_by_one

    in_loop(work)


MUTATION = st.one_of(
    st.tuples(st.just("delete"), st.integers(0, 10**6), st.integers(1, 20)),
    st.tuples(st.just("insert"), st.integers(0, 10**6), st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("replace"), st.integers(0, 10**6), st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("repeat"), st.integers(0, 10**6), st.integers(1, 200)),
)


def mutated(stream: bytes, mutations: list[tuple[str, int, object]]) -> bytes:
    for kind, place, what in mutations:
        at = place % (len(stream) + 1)
        if isinstance(what, bytes):
            rest = stream[at + len(what) * (kind == "replace") :]
            stream = stream[:at] + what + rest
        elif isinstance(what, int):
            end = stream[at : at + what]
            stream = stream[:at] + (end * 2 if kind == "repeat" else b"") + stream[at + what :]
    return stream


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=4),
    st.lists(MUTATION, min_size=1, max_size=5),
    st.lists(st.integers(0, 10**6), max_size=4),
)
def test_no_bytes_make_the_gateway_fail(
    chosen: list[bytes], mutations: list[tuple[str, int, object]], cuts: list[int]
) -> None:
    logging.disable(logging.ERROR)

    async def work(server: FakeServer) -> None:
        problems: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        stream = mutated(b"".join(chosen), mutations)
        ends = [0, *sorted({cut % (len(stream) + 1) for cut in cuts}), len(stream)]
        client = server.connect()
        client.send(*[stream[a:b] for a, b in itertools.pairwise(ends) if a < b])
        await asyncio.sleep(0.01)
        found = await client.responses(0)
        assert all(one.status < 500 or one.status == 503 for one in found), found
        client.leave()
        await asyncio.sleep(0)
        assert server.policy.budget.held == 0
        assert problems == []
        assert (await server.answer(REQUESTS[0]))[0].status == 200

    try:
        in_loop(work)
    finally:
        logging.disable(logging.NOTSET)
