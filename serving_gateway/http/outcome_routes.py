"""Routes of outcomes: true values of predicted rows, as callers report them."""

import asyncio
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Body
from pydantic import PlainValidator

from serving_gateway.batching import ByteBudget
from serving_gateway.contract import Outcome, OutcomesRequest, OutcomesResponse
from serving_gateway.control.hosting import Hosting
from serving_gateway.errors import Conflict, Overloaded
from serving_gateway.http.descriptions import errors
from serving_gateway.http.routes import guarded_router
from serving_gateway.http.security import Access, Need
from serving_gateway.inference.bodies import unreadable_body
from serving_gateway.inference.offload import LARGE_BYTES
from serving_gateway.settings import Settings
from serving_gateway.telemetry.outcome_writer import OutcomeWriter

_EXAMPLE: Final = {
    "outcomes": {
        "summary": "the truth about two rows of one request",
        "value": {
            "outcomes": [
                {"prediction_id": "the one of the response", "outcome": "yes"},
                {
                    "prediction_id": "the one of the response",
                    "row": 1,
                    "outcome": "no",
                    "observed_at": "2026-03-01T12:00:00Z",
                },
            ]
        },
    },
}
OutcomesBody = Annotated[
    bytes,
    PlainValidator(bytes, json_schema_input_type=OutcomesRequest),
    Body(media_type="application/json", openapi_examples=_EXAMPLE),
]
_decode: Final = msgspec.json.Decoder(OutcomesRequest).decode
_MEMORY: Final = 6
"""Memory that decoded outcomes take, as a multiple of their body."""
_LEAST_SECONDS: Final = 0.002
_SECONDS_PER_BYTE: Final = 1e-7
"""Time from one call's turn to the next, so that a flood takes a fifth of the interpreter."""
_LONGEST_SECONDS: Final = 5.0


class OutcomeReceiver:
    """Receives outcomes, one call after the other; `writer` is None where none are kept."""

    def __init__(self, writer: OutcomeWriter | None, settings: Settings) -> None:
        self._writer = writer
        self._budget = ByteBudget(settings.outcome_queue_bytes)
        self._next_turn = 0.0

    async def accept(self, model_name: str, body: bytes) -> OutcomesResponse:
        """Write the outcomes of a body, and answer once they are in a file.

        Raises:
            Conflict: the gateway keeps no outcomes.
            InvalidInput, MalformedRequest: the body is not outcomes; nothing of it is kept.
            Overloaded, OutcomesNotWritten: they cannot be kept now.
        """
        if self._writer is None:
            raise Conflict(
                "This gateway keeps no outcomes: its GATEWAY_SAMPLE_DIR is not set. Set it to a "
                "folder that the pipeline reads, and send them again.",
                code="outcomes_not_kept",
            )
        # A body that is larger than the limit is handled alone.
        size = min(_MEMORY * len(body), self._budget.limit)
        if not self._budget.take(size):
            raise Overloaded("Outcomes that wait hold as many bytes as they may. Send them later.")
        try:
            await self._wait_for_turn(len(body))
            outcomes = await _decode_body(body)
            await asyncio.wrap_future(self._writer.submit(model_name, outcomes))
        finally:
            self._budget.release(size)
        return OutcomesResponse(model_name, len(outcomes))

    async def _wait_for_turn(self, size: int) -> None:
        """Wait, so that predictions have priority."""
        now = asyncio.get_running_loop().time()
        begin = max(now, self._next_turn)
        if begin - now > _LONGEST_SECONDS:
            raise Overloaded("Too many calls with outcomes wait: send more of them in one call.")
        self._next_turn = begin + max(_LEAST_SECONDS, size * _SECONDS_PER_BYTE)
        await asyncio.sleep(begin - now)


async def _decode_body(body: bytes) -> list[Outcome]:
    try:
        if len(body) <= LARGE_BYTES:
            return _decode(body).outcomes
        return (await asyncio.to_thread(_decode, body)).outcomes
    except (ValueError, RecursionError) as error:
        raise unreadable_body(error) from error


def outcome_routers(
    hosting: Hosting, access: Access, receiver: OutcomeReceiver, max_body: int
) -> Iterator[APIRouter]:
    """The routes of outcomes; `max_body` bytes is the largest body."""
    router = guarded_router(access, Need.OUTCOMES, "data", max_body=max_body)

    @router.post("/outcomes", responses=errors(409))
    async def add_by_default(body: OutcomesBody) -> OutcomesResponse:
        """Add outcomes of the default model.

        At most 10,000 in one call. `prediction_id` is that of the prediction's response, `row` the
        place of the row in its request, from 0. They are in a file when this answers. The same
        call again is harmless: of several outcomes of a row the first one counts.
        """
        return await receiver.accept(hosting.default.model_name, body)

    @router.post("/models/{model}/outcomes", responses=errors(409))
    async def add_by_model(model: str, body: OutcomesBody) -> OutcomesResponse:
        """Add outcomes of a named model."""
        return await receiver.accept(hosting.find(model).model_name, body)

    yield router
