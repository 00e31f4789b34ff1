"""A client that sends inferences to a cluster of Tritons, and keeps their outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serving_gateway.errors import (
    GatewayError,
)
from serving_gateway.triton.cluster import TritonCluster
from serving_gateway.triton.exchange import TritonResponse
from serving_gateway.triton.inference_call import InferenceCall
from serving_gateway.triton.version_state import VersionState

Outcome = TritonResponse | GatewayError
MakeCluster = Callable[..., TritonCluster]
LIMIT = 0.3


def request(body: bytes = b"{}") -> bytes:
    head = b"POST /v2/models/m/versions/1/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


class ClusterClient:
    """Sends inferences of version 1 of model m to a cluster, and keeps the outcomes."""

    def __init__(self, cluster: TritonCluster) -> None:
        self.cluster = cluster
        self.state: VersionState = cluster.version("m", 1)
        self.outcomes: list[Outcome] = []

    def send(
        self, body: bytes = b"{}", *, repeatable: bool = True
    ) -> tuple[InferenceCall, asyncio.Future[Outcome]]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Outcome] = loop.create_future()

        def done(outcome: Outcome) -> None:
            self.outcomes.append(outcome)
            ended.set_result(outcome)

        call = self.cluster.infer(
            self.state, request(body), loop.time() + 5, done, repeatable=repeatable
        )
        assert not ended.done(), "never called back before infer returns"
        return call, ended

    async def infer(self, body: bytes = b"{}", *, repeatable: bool = True) -> Outcome:
        _, ended = self.send(body, repeatable=repeatable)
        return await asyncio.wait_for(ended, 10)

    async def error(self, *, repeatable: bool = True) -> GatewayError:
        outcome = await self.infer(repeatable=repeatable)
        assert isinstance(outcome, GatewayError), outcome
        return outcome

    async def many(self, count: int) -> list[Outcome]:
        return list(await asyncio.gather(*(self.infer() for _ in range(count))))

    @property
    def is_ready(self) -> bool:
        return self.state.ready

    async def probe(self) -> VersionState:
        await self.state.probe(LIMIT)
        return self.state


def good(outcomes: list[Outcome]) -> bool:
    return all(isinstance(one, TritonResponse) for one in outcomes)
