"""Predictions over ASGI: what the connection class does not answer itself."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Header, Request, Response
from pydantic import PlainValidator

from serving_gateway import __version__
from serving_gateway.contract import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    PredictRequest,
    PredictResponse,
    Ready,
    ServerLive,
    ServerMetadata,
)
from serving_gateway.control.hosting import Hosting
from serving_gateway.errors import BadUpstreamAnswer, InferenceRefused, NotFound
from serving_gateway.http.descriptions import BINARY
from serving_gateway.http.inference_endpoint import AwaitedExchange, InferenceEndpoint
from serving_gateway.http.routes import guarded_router, open_router
from serving_gateway.http.security import Access, Need
from serving_gateway.inference.open_inference import EXTENSIONS, NAME
from serving_gateway.triton.exchange import TritonResponse
from serving_gateway.triton.protocol import error_text

VersionDependency = Callable[..., Awaitable[int | None]]
"""A dependency: the version that a path names, if it names one."""
_ROWS: Final[dict[str, Any]] = {
    "rows": {"value": {"data": [[5.1, 3.5, 1.4, 0.2]], "client_id": "customer-17"}},
    "entity": {"summary": "stored features, by their only key", "value": {"entity_id": 17}},
    "entities": {
        "summary": "stored features by several keys, and features that only the caller knows",
        "value": {
            "entities": {"customer_id": 17, "merchant_id": "m00009"},
            "request": {"amount": 12.5, "hour": 23},
        },
    },
}
PredictBody = Annotated[
    bytes,
    PlainValidator(bytes, json_schema_input_type=PredictRequest),
    Body(media_type="application/json", openapi_examples=_ROWS),
]
"""The body as it came, which the endpoint decodes."""
InferBody = Annotated[
    bytes,
    PlainValidator(bytes, json_schema_input_type=InferenceRequest),
    Body(media_type="application/json"),
]
JsonLength = Annotated[
    str | None,
    Header(
        alias="Inference-Header-Content-Length",
        description="Bytes of the JSON part, where binary tensors follow it.",
    ),
]
ClientId = Annotated[
    str | None,
    Header(alias="X-Client-Id", description="Keeps a client on its variant in a split."),
]

MinGeneration = Annotated[
    str | None,
    Header(
        alias="X-Min-Generation",
        pattern="^[0-9]{1,18}$",
        description="Have a replica that routes by an older generation refuse the request (503).",
    ),
]


def inference_routers(
    hosting: Hosting, access: Access, endpoint: InferenceEndpoint, max_body: int
) -> tuple[APIRouter, ...]:
    """Predictions, and all of `/v2`; `max_body` bytes is the largest body."""
    infer = guarded_router(access, Need.PREDICTION, "data", max_body=max_body)
    described = guarded_router(access, Need.PREDICTION, "data")
    # Health and readiness need no key: a prober has none.
    health = open_router("health", responses={400: {"model": Ready, "description": "Not ready."}})
    _add_predictions(infer, endpoint)
    _add_server(health, described, hosting)
    for path, version_of in (
        ("/v2/models/{model}", _any_version),
        ("/v2/models/{model}/versions/{version}", _named_version),
    ):
        _add_inference(infer, path, version_of, endpoint)
        _add_model(health, described, path, version_of, hosting)
    return infer, health, described


def _add_predictions(router: APIRouter, endpoint: InferenceEndpoint) -> None:
    @router.post("/predict", response_model=PredictResponse)
    async def predict_by_default(
        request: Request,
        body: PredictBody,
        min_generation: MinGeneration = None,  # noqa: ARG001 -- described
    ) -> Response:
        """Predict by the default model.

        The version that is effective for the client answers. Send rows as `data`, in the order of
        the model's features, or as `instances`, by feature name. Stored features are read by
        `entity_id`, or by `entities` with the names of their keys, and `request` holds the features
        that only the caller knows: `effective.A.signature` of `GET /models` lists both, as
        `join_keys` and `request`. The response names the variant, version and run that made it.
        `client_id` keeps a client on its variant while traffic is split.
        """
        return await _answer(endpoint, request, body)

    @router.post("/models/{model}/predict", response_model=PredictResponse)
    async def predict_by_model(
        model: str,  # noqa: ARG001 -- described
        request: Request,
        body: PredictBody,
        min_generation: MinGeneration = None,  # noqa: ARG001 -- described
    ) -> Response:
        """Predict by a named model."""
        return await _answer(endpoint, request, body)


def _add_inference(
    router: APIRouter, path: str, version_of: VersionDependency, endpoint: InferenceEndpoint
) -> None:
    @router.post(
        f"{path}/infer",
        response_model=InferenceResponse,
        responses={200: {"content": BINARY, "description": "The outputs."}},
        openapi_extra={"requestBody": {"content": BINARY}},
    )
    async def infer(
        model: str,  # noqa: ARG001 -- described
        request: Request,
        body: InferBody,
        version: Annotated[int | None, Depends(version_of)],  # noqa: ARG001 -- described
        json_length: JsonLength = None,  # noqa: ARG001 -- described
        client_id: ClientId = None,  # noqa: ARG001 -- described
        min_generation: MinGeneration = None,  # noqa: ARG001 -- described
    ) -> Response:
        """Predict by tensors.

        The effective version answers, or a named one that is effective.
        """
        return await _answer(endpoint, request, body)


async def _answer(endpoint: InferenceEndpoint, request: Request, body: bytes) -> Response:
    """Answer what the connection did not answer itself, in the same way."""
    route = endpoint.routes[request.scope["raw_path"].partition(b"?")[0]]
    if route is None:
        raise NotFound("That is not the name of a model.", code="unknown_model")
    headers = request.headers.raw
    exchange = AwaitedExchange(endpoint, route, headers, dict(headers))
    lines, content = await exchange.get_response(body)
    response = Response(content)
    for line in lines.splitlines():
        name, _, value = line.partition(b": ")
        response.headers.raw.append((name, value))
    return response


def _add_server(health: APIRouter, described: APIRouter, hosting: Hosting) -> None:
    metadata = ServerMetadata(NAME, __version__, EXTENSIONS)

    @health.get("/v2/health/live")
    async def live() -> ServerLive:
        """Say whether the process lives."""
        return ServerLive()

    @health.get("/v2/health/ready")
    async def ready(response: Response) -> Ready:
        """Say whether this replica should get traffic."""
        return _ready(not hosting.readiness().reasons, response)

    @described.get("/v2")
    async def server_metadata() -> ServerMetadata:
        """Say which server this is, and what it can do beyond the protocol."""
        return metadata


def _add_model(
    health: APIRouter,
    described: APIRouter,
    path: str,
    version_of: VersionDependency,
    hosting: Hosting,
) -> None:
    Version = Annotated[int | None, Depends(version_of)]  # noqa: N806 -- a type

    @health.get(f"{path}/ready")
    async def model_ready(model: str, version: Version, response: Response) -> Ready:
        """Say whether a model's effective version can answer."""
        target = hosting.resolve(model).open_inference.target(model, version)
        return _ready(target.client.ready, response)

    @described.get(path)
    async def model_metadata(model: str, version: Version) -> ModelMetadata:
        """Describe what the effective version of a model reads and answers."""
        return await hosting.resolve(model).open_inference.metadata(model, version)

    @described.get(f"{path}/config", response_model=dict[str, Any])
    async def config(model: str, version: Version) -> Response:
        """Read Triton's configuration of the effective version."""
        return _relay(await hosting.resolve(model).open_inference.ask(model, version, "config"))

    @described.get(f"{path}/stats", response_model=dict[str, Any])
    async def stats(model: str, version: Version) -> Response:
        """Read Triton's statistics of the effective version."""
        return _relay(await hosting.resolve(model).open_inference.ask(model, version, "stats"))


def _ready(ready: bool, response: Response) -> Ready:
    # As Triton does; clients of the protocol take anything but 200 for "not ready".
    response.status_code = 200 if ready else 400
    return Ready(ready)


async def _any_version() -> None:
    return None


async def _named_version(version: str) -> int:
    if not version.isascii() or not version.isdecimal() or len(version) > 18:
        raise NotFound(f"{version[:100]!r} is not a version.", code="unknown_version")
    return int(version)


def _relay(answer: TritonResponse) -> Response:
    """Triton's description; its errors are raised as the gateway's."""
    if answer.status == 400:
        raise InferenceRefused(error_text(answer.body))
    if answer.status in {401, 403}:
        raise NotFound("Triton shows that only with a key, which this gateway does not have.")
    if answer.status != 200:
        raise BadUpstreamAnswer(f"Triton answered {answer.status}: {error_text(answer.body)}")
    return Response(answer.body, media_type="application/json")
