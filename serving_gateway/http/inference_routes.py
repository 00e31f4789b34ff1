"""Predictions over ASGI: what the connection class does not answer itself."""

from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of_package
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Header, Request, Response

from serving_gateway.contract import (
    EffectiveModelMetadata,
    InferenceRequest,
    InferenceResponse,
    PredictRequest,
    PredictResponse,
    Ready,
    ServerLive,
    ServerMetadata,
)
from serving_gateway.control.hosting import Hosting
from serving_gateway.errors import (
    BadUpstreamAnswer,
    InferenceRefused,
    NotFound,
)
from serving_gateway.http.bodies import EncodedAs
from serving_gateway.http.descriptions import (
    API_KEY,
    BINARY,
    KEY_IS_OPTIONAL,
    PREDICT_ERRORS,
    READ_ERRORS,
    errors,
)
from serving_gateway.http.inference_endpoint import AwaitedExchange, InferenceEndpoint
from serving_gateway.http.routes import StructResponse, route_class
from serving_gateway.http.security import Access
from serving_gateway.inference.open_inference import EXTENSIONS, NAME
from serving_gateway.triton.exchange import TritonResponse
from serving_gateway.triton.protocol import error_text

VersionOf = Callable[..., Awaitable[int | None]]
"""A dependency: the version that a path names, if it names one."""
_ROWS: Final[dict[str, Any]] = {
    "rows": {"value": {"data": [[5.1, 3.5, 1.4, 0.2]], "client_id": "customer-17"}}
}
PredictBody = Annotated[
    bytes, EncodedAs(PredictRequest), Body(media_type="application/json", openapi_examples=_ROWS)
]
InferBody = Annotated[bytes, EncodedAs(InferenceRequest), Body(media_type="application/json")]
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


def inference_routes(access: Access, endpoint: InferenceEndpoint, max_body: int) -> APIRouter:
    """`POST /predict`, `POST /models/{model}/predict` and the inferences of `/v2`."""
    router = APIRouter(
        tags=["data"],
        dependencies=[API_KEY],
        responses=errors(*PREDICT_ERRORS),
        route_class=route_class(
            lambda r: access.admit_prediction(r.headers.raw), max_body, json_only=False
        ),
    )

    @router.post("/predict", response_model=PredictResponse, openapi_extra=KEY_IS_OPTIONAL)
    async def predict_by_default(request: Request, body: PredictBody) -> Response:
        """Predict by the version of the default model that is effective for the client.

        Send rows as `data`, in the order of the model's features, or as `instances`, by feature
        name. The response names the variant, version and run that made it. `client_id` keeps a
        client on its variant while traffic is split.
        """
        return await _answer(endpoint, request, body)

    @router.post(
        "/models/{model}/predict", response_model=PredictResponse, openapi_extra=KEY_IS_OPTIONAL
    )
    async def predict_by_model(model: str, request: Request, body: PredictBody) -> Response:  # noqa: ARG001 -- described
        """Predict by the version of a model that is effective for the client."""
        return await _answer(endpoint, request, body)

    for path, version_of in _MODEL_PATHS:
        _add_infer(router, f"{path}/infer", version_of, endpoint)
    return router


def _add_infer(
    router: APIRouter, path: str, version_of: VersionOf, endpoint: InferenceEndpoint
) -> None:
    @router.post(
        path,
        response_model=InferenceResponse,
        responses={200: {"content": BINARY, "description": "The outputs."}},
        openapi_extra={**KEY_IS_OPTIONAL, "requestBody": {"content": BINARY}},
    )
    async def infer(
        model: str,  # noqa: ARG001 -- described
        request: Request,
        body: InferBody,
        version: Annotated[int | None, Depends(version_of)],  # noqa: ARG001 -- described
        json_length: JsonLength = None,  # noqa: ARG001 -- described
        client_id: ClientId = None,  # noqa: ARG001 -- described
    ) -> Response:
        """Have the effective version, or a named one that is effective, answer tensors."""
        return await _answer(endpoint, request, body)


async def _answer(endpoint: InferenceEndpoint, request: Request, body: bytes) -> Response:
    """Answer what the connection did not answer itself, in the same way."""
    route = endpoint.routes.parse(request.scope["raw_path"].partition(b"?")[0])
    if route is None:
        raise NotFound("That is not the name of a model.", code="unknown_model")
    exchange = AwaitedExchange(endpoint, route, request.headers.raw, body)
    content, headers = await exchange.answered()
    return Response(content, headers=headers)


def protocol_routes(hosting: Hosting, access: Access) -> APIRouter:
    """What `/v2` tells: which server and model this is, and Triton's own descriptions."""
    router = APIRouter(
        tags=["data"],
        dependencies=[API_KEY],
        responses=errors(*READ_ERRORS),
        default_response_class=StructResponse,
        route_class=route_class(lambda r: access.admit_prediction(r.headers.raw), 0),
    )
    metadata = ServerMetadata(NAME, _own_version(), EXTENSIONS)

    @router.get("/v2", openapi_extra=KEY_IS_OPTIONAL)
    async def server_metadata() -> ServerMetadata:
        """Which server this is, and what it can do beyond the protocol."""
        return metadata

    for path, version_of in _MODEL_PATHS:
        _add_descriptions(router, path, version_of, hosting)
    return router


def _add_descriptions(
    router: APIRouter, path: str, version_of: VersionOf, hosting: Hosting
) -> None:
    Version = Annotated[int | None, Depends(version_of)]  # noqa: N806 -- a type

    @router.get(path, openapi_extra=KEY_IS_OPTIONAL)
    async def model_metadata(model: str, version: Version) -> EffectiveModelMetadata:
        """What the effective version of a model reads and answers."""
        return await hosting.answering(model).open_inference.metadata(model, version)

    @router.get(f"{path}/config", response_model=dict[str, Any], openapi_extra=KEY_IS_OPTIONAL)
    async def config(model: str, version: Version) -> Response:
        """Triton's configuration of the effective version, as Triton tells it."""
        return _relayed(await hosting.answering(model).open_inference.ask(model, version, "config"))

    @router.get(f"{path}/stats", response_model=dict[str, Any], openapi_extra=KEY_IS_OPTIONAL)
    async def stats(model: str, version: Version) -> Response:
        """Triton's statistics of the effective version, as Triton tells them."""
        return _relayed(await hosting.answering(model).open_inference.ask(model, version, "stats"))


def protocol_health_routes(hosting: Hosting) -> APIRouter:
    """Health and readiness of `/v2`, which need no key: a prober has none."""
    not_ready = {"model": Ready, "description": "Not ready."}
    router = APIRouter(
        tags=["health"],
        responses={**errors(*READ_ERRORS), 400: not_ready},
        default_response_class=StructResponse,
    )

    @router.get("/v2/health/live")
    async def live() -> ServerLive:
        """Whether the process lives."""
        return ServerLive()

    @router.get("/v2/health/ready")
    async def ready(response: Response) -> Ready:
        """Whether this replica should get traffic."""
        return _ready(not hosting.readiness().reasons, response)

    for path, version_of in _MODEL_PATHS:
        _add_readiness(router, f"{path}/ready", version_of, hosting)
    return router


def _add_readiness(router: APIRouter, path: str, version_of: VersionOf, hosting: Hosting) -> None:
    @router.get(path)
    async def model_ready(
        model: str, version: Annotated[int | None, Depends(version_of)], response: Response
    ) -> Ready:
        """Whether a model's effective version can answer."""
        target = hosting.answering(model).open_inference.target(model, version)
        return _ready(target.client.ready, response)


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


_MODEL_PATHS: Final[tuple[tuple[str, VersionOf], ...]] = (
    ("/v2/models/{model}", _any_version),
    ("/v2/models/{model}/versions/{version}", _named_version),
)


def _relayed(answer: TritonResponse) -> Response:
    """Triton's answer, with the headers that tell how to read it and no others.

    Raises:
        InferenceRefused: Triton refused the request.
        NotFound: Triton has it behind a key, which the gateway does not have.
        BadUpstreamAnswer: Triton failed.
    """
    if answer.status == 400:
        raise InferenceRefused(error_text(answer.body), upstream_status=400)
    if answer.status in {401, 403}:
        raise NotFound("Triton shows that only with a key, which this gateway does not have.")
    if answer.status != 200:
        raise BadUpstreamAnswer(f"Triton answered {answer.status}: {error_text(answer.body)}")
    size = answer.inference_header_length
    if size is None:
        return Response(answer.body, answer.status, media_type="application/json")
    headers = {"inference-header-content-length": str(size)}
    return Response(answer.body, answer.status, headers, "application/octet-stream")


def _own_version() -> str:
    try:
        return version_of_package("serving-platform")
    except PackageNotFoundError:
        return "unknown"
