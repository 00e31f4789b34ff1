"""Releases over HTTP, for tests of a gateway in the test's own event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from tests.support.in_process_gateway import TOKEN, InProcessGateway

MIRROR = {"strategy": "mirror", "percent": 100}
SPLIT = {"strategy": "split", "percent": 100}
PLAN: dict[str, Any] = {
    "steps": [MIRROR, SPLIT],
    "guardrails": {"failures": 0.005, "disagreement": 0.05},
    "approval": "before_switch",
}


class ReleaseClient:
    """What the pipeline, its pilot and clients do to model `m`, version 1 in production."""

    def __init__(self, gateway: InProcessGateway) -> None:
        self.http = gateway.client
        self.triton = gateway.triton

    async def prepare(self) -> None:
        """Let go of the pin that the harness's reload has set."""
        self.http.headers["authorization"] = f"Bearer {TOKEN}"
        body = {"version": 1, "run_id": "r", "mode": "ssot", "unpin": True}
        answer = await self.http.post("/variant/A/reload", json=body)
        assert answer.status_code == 200, answer.text

    async def begin(self, *steps: dict[str, Any], **plan: Any) -> httpx.Response:
        """Begin the release of version 2."""
        plan = PLAN | ({"steps": steps} if steps else {}) | plan
        return await self.http.post("/release", json={"version": 2, "run_id": "r2", "plan": plan})

    async def report(self) -> Any:
        """`GET /release`."""
        answer = await self.http.get("/models/m/release")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def advance(self, verdict: str = "go") -> httpx.Response:
        """Give a verdict on the present phase."""
        now = (await self.report())["release"]
        body = {name: now[name] for name in ("id", "state", "step")}
        body |= {"verdict": verdict, "reason": "0 of 500 failed"}
        return await self.http.post("/models/m/release/advance", json=body)

    async def stop(self) -> httpx.Response:
        """Stop the release."""
        return await self.http.post("/release/stop", json={"reason": "it is wrong"})

    async def switch(self) -> httpx.Response:
        """Reload production onto version 2, as the pipeline does."""
        body = {"version": 2, "run_id": "r2", "mode": "ssot"}
        return await self.http.post("/variant/A/reload", json=body)

    async def watched(self) -> None:
        """Have version 2 in production, and watched."""
        assert (await self.begin(SPLIT, approval="none")).status_code == 200
        assert (await self.advance()).status_code == 200
        assert (await self.switch()).status_code == 200

    async def predict(self) -> httpx.Response:
        """Predict as a client that a split sends to B."""
        return await self.http.post("/predict", json={"data": [[1.0, 2.0]], "client_id": "c"})

    async def answers(self) -> str:
        """Variant and version that answer."""
        answer = await self.predict()
        assert answer.status_code == 200, answer.text
        return f"{answer.json()['variant']}{answer.json()['version']}"

    async def routing(self) -> Any:
        """The routing record, as `GET /models` has it."""
        return (await self.http.get("/models")).json()["routing"]

    async def wait_for(self, state: str, seconds: float = 10) -> Any:
        """The report, once the release is in a state."""
        async with asyncio.timeout(seconds):
            while (found := await self.report())["release"]["state"] != state:  # noqa: ASYNC110 -- over HTTP
                await asyncio.sleep(0.02)
        return found
