"""The gateways as the pipeline uses them: switches, status, predictions."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import dagster as dg
import msgspec
from pydantic import Field

from serving_gateway.contract import (
    PLATFORM_HEADER,
    ErrorResponse,
    HealthStatus,
    ModelStatus,
    PredictResponse,
    ReleaseAdvance,
    ReleaseDecision,
    ReleaseReport,
    ReleaseRequest,
    ReleaseResponse,
    ReloadRequest,
    ReloadResponse,
    RollbackRequest,
)

if TYPE_CHECKING:
    import ssl

    import httpx

_TIMEOUT_S: Final = 10.0
_RELOAD_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.1
_NO_GATEWAY: Final = "GATEWAY_URLS names no gateway"
STOP_PENDING: Final = "stop_pending"
"""HTTP status of a stop that replicas carry out but could not record yet."""

Body = TypeVar("Body", bound=msgspec.Struct)


class GatewayClientError(Exception):
    """A call to a gateway failed; the message says which one and why."""


class GatewayUnavailable(GatewayClientError):
    """No gateway answers at that address."""


class UnreadableAnswer(GatewayClientError):
    """The gateway's answer does not match its contract."""


class GatewayRefused(GatewayClientError):
    """The gateway answered, and refused."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ModelNotHosted(GatewayRefused):
    """The gateway routes to no version of that model."""


class VariantPinned(GatewayRefused):
    """An operator pinned the variant to another version."""


_REFUSALS: Final = {
    "unknown_model": ModelNotHosted,
    "model_not_open": ModelNotHosted,
    "variant_pinned": VariantPinned,
}
"""Exceptions by the error code of the gateway's answer."""


@dataclass(frozen=True, slots=True)
class Convergence:
    """How far the replicas have followed a switch."""

    behind: dict[str, str]
    """Address or id of each replica that has not, and its state instead."""
    live: tuple[str, ...]
    """Ids of all live replicas."""


class GatewayResource(dg.ConfigurableResource[None]):
    """All gateway replicas that route to one Triton; each model has its own paths there.

    All methods raise `GatewayClientError`: `GatewayUnavailable` without an answer,
    `GatewayRefused` with the gateway's own reason (nothing changed), `ModelNotHosted` before the
    first reload of a model, `UnreadableAnswer` for an answer that violates the contract.
    """

    urls: str = Field(description="Addresses of the replicas, separated by commas.")
    control_token: str = Field(description="Bearer token of the control endpoints.")

    @property
    def replicas(self) -> tuple[str, ...]:
        """Address of each replica."""
        return tuple(url.strip().rstrip("/") for url in self.urls.split(",") if url.strip())

    def reload(self, model_name: str, alias: str, request: ReloadRequest) -> ReloadResponse:
        """Move a variant; replicas share the routing record, so asking one is enough."""
        return self._change(model_name, f"/variant/{alias}/reload", request, ReloadResponse)

    def rollback(self, model_name: str, alias: str, request: RollbackRequest) -> ReloadResponse:
        """Roll a variant back, and pin it there."""
        return self._change(model_name, f"/variant/{alias}/rollback", request, ReloadResponse)

    def release(self, model_name: str) -> ReleaseReport:
        """Return the present or the last release, with the counts of all replicas."""
        path = f"/models/{model_name}/release"
        return _decode(self._first("GET", path, is_authorized=True), path, ReleaseReport)

    def begin_release(self, model_name: str, request: ReleaseRequest) -> ReleaseResponse:
        """Begin a release of a version that is READY."""
        return self._change(model_name, "/release", request, ReleaseResponse)

    def advance_release(self, model_name: str, request: ReleaseAdvance) -> ReleaseResponse:
        """End the present phase of a release; refused (409) if it has changed meanwhile."""
        return self._change(model_name, "/release/advance", request, ReleaseResponse)

    def approve_release(self, model_name: str, request: ReleaseDecision) -> ReleaseResponse:
        """Give the approval that a release waits for."""
        return self._change(model_name, "/release/approve", request, ReleaseResponse)

    def stop_release(self, model_name: str, request: ReleaseDecision) -> ReleaseResponse:
        """Stop a release; after the switch, it is rolled back.

        If a replica cannot record the stop, the others are asked, too: each stops it for its own
        clients.
        """
        path, content = f"/models/{model_name}/release/stop", msgspec.json.encode(request)
        answer: ReleaseResponse | GatewayUnavailable = GatewayUnavailable(_NO_GATEWAY)
        for replica in self.replicas:
            try:
                body = self._request(replica, "POST", path, content=content, is_authorized=True)
            except GatewayUnavailable as error:
                answer = answer if isinstance(answer, ReleaseResponse) else error
                continue
            answer = _decode(body, path, ReleaseResponse)
            if answer.status != STOP_PENDING:
                break
        if isinstance(answer, ReleaseResponse):
            return answer
        raise answer

    def model_status(self, replica: str, model_name: str) -> ModelStatus:
        """Return the status of a model on one replica (`GET /models/{model_name}`)."""
        return self._get(replica, f"/models/{model_name}", ModelStatus)

    def model_statuses(self, model_name: str) -> list[ModelStatus]:
        """Return the status on each replica that hosts the model; [] before the first reload."""
        statuses = []
        for replica in self.replicas:
            with contextlib.suppress(ModelNotHosted):
                statuses.append(self.model_status(replica, model_name))
        return statuses

    def health(self, replica: str, model_name: str) -> HealthStatus:
        """Return `GET /models/{model_name}/health` of one replica."""
        return self._get(replica, f"/models/{model_name}/health", HealthStatus)

    def metrics(self, replica: str) -> str:
        """Return `GET /metrics` of one replica, in Prometheus' text format."""
        return self._request(replica, "GET", "/metrics").decode()

    def predict(self, model_name: str, rows: Sequence[Sequence[Any]]) -> PredictResponse:
        """Return the predictions for rows in signature order, with None for missing values.

        The request is not counted as traffic (`PLATFORM_HEADER`), and needs no API key.
        """
        return self._predict(model_name, {"data": rows})

    def predict_entities(
        self,
        model_name: str,
        entities: Sequence[Mapping[str, int | str]],
        request: Sequence[Mapping[str, Any]],
    ) -> PredictResponse:
        """Return the predictions for keys and the values that requests send; as `predict`.

        `request` has the request features of each of the `entities`, by name.
        """
        sent = {"request": request} if any(request) else {}
        return self._predict(model_name, {"entities": entities, **sent})

    def _predict(self, model_name: str, body: Mapping[str, Any]) -> PredictResponse:
        path = f"/models/{model_name}/predict"
        answer = self._post(path, body, headers={PLATFORM_HEADER: "1"})
        return _decode(answer, path, PredictResponse)

    def wait_until_converged(
        self, model_name: str, alias: str, switch: ReloadResponse, deadline_s: float
    ) -> Convergence:
        """Wait until every replica routes `alias` by a switch's generation.

        Replicas are all addresses of `urls`, and any others that those list as live. After
        `deadline_s` seconds the last state is returned, or the last error raised.
        """
        deadline = time.monotonic() + deadline_s
        while True:
            out_of_time = time.monotonic() >= deadline
            try:
                convergence = self._convergence(model_name, alias, switch)
            except GatewayClientError:
                if out_of_time:
                    raise
            else:
                if out_of_time or not convergence.behind:
                    return convergence
            time.sleep(_POLL_S)

    def _convergence(self, model_name: str, alias: str, switch: ReloadResponse) -> Convergence:
        behind: dict[str, str] = {}
        live: set[str] = set()
        for replica in self.replicas:
            try:
                status = self.model_status(replica, model_name)
            except ModelNotHosted:
                behind[replica] = "does not host the model yet"
                continue
            version = confirmed_version(status, alias)
            if version != switch.version:
                behind[replica] = f"version {version}" if version else "no confirmed version"
            behind |= replicas_behind(status, switch.generation)
            live |= {other.id for other in status.replicas}
        return Convergence(behind, tuple(sorted(live)))

    def _change(
        self, model_name: str, path: str, request: msgspec.Struct, kind: type[Body]
    ) -> Body:
        path = f"/models/{model_name}{path}"
        return _decode(self._post(path, request, timeout_s=_RELOAD_TIMEOUT_S), path, kind)

    def _get(self, replica: str, path: str, kind: type[Body]) -> Body:
        return _decode(self._request(replica, "GET", path), replica + path, kind)

    def _post(self, path: str, body: Any, **options: Any) -> bytes:
        content = msgspec.json.encode(body)
        return self._first("POST", path, content=content, is_authorized=True, **options)

    def _first(self, method: str, path: str, **options: Any) -> bytes:
        """Ask the first replica that answers."""
        unavailable = GatewayUnavailable(_NO_GATEWAY)
        for replica in self.replicas:
            try:
                return self._request(replica, method, path, **options)
            except GatewayUnavailable as error:
                unavailable = error
        raise unavailable

    def _request(
        self,
        replica: str,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
        is_authorized: bool = False,
    ) -> bytes:
        import httpx

        headers = {**(headers or {}), "content-type": "application/json"}
        if is_authorized:
            headers["authorization"] = f"Bearer {self.control_token}"
        try:
            # Cluster-internal addresses: ignore the environment's proxy.
            with httpx.Client(timeout=timeout_s, trust_env=False, verify=_trust()) as client:
                answer = client.request(method, replica + path, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise GatewayUnavailable(
                f"the gateway at {replica} does not answer: {error}"
            ) from error
        if answer.is_success:
            return answer.content
        raise _refusal(replica, path, answer)


@functools.cache
def _trust() -> ssl.SSLContext:
    """Load the root certificates for HTTPS once: each client would need 20 ms for it."""
    import httpx

    return httpx.create_ssl_context(trust_env=False)


def _decode(body: bytes, where: str, kind: type[Body]) -> Body:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise UnreadableAnswer(
            f"the gateway's answer to {where} cannot be read ({error}): is there a gateway of a "
            "compatible release at that address?"
        ) from error


def _refusal(replica: str, path: str, answer: httpx.Response) -> GatewayRefused:
    try:
        body = msgspec.json.decode(answer.content, type=ErrorResponse)
        code, reason = body.code, body.error
    except msgspec.DecodeError:  # an answer from a proxy in between
        code, reason = "", answer.text[:500]
    return _REFUSALS.get(code, GatewayRefused)(
        f"the gateway at {replica} refused {path} ({answer.status_code} {code}): {reason}",
        status=answer.status_code,
        code=code,
    )


def confirmed_version(status: ModelStatus, alias: str) -> int | None:
    """Return the version that a variant routes to if the replica confirmed it with Triton."""
    slot = status.effective.get(alias)
    return slot.version if slot is not None and slot.ready else None


def routed_version(status: ModelStatus, alias: str) -> int | None:
    """Return the version that a variant routes to, confirmed or not; None without one."""
    slot = status.effective.get(alias)
    return None if slot is None else slot.version


def routed_versions(statuses: Iterable[ModelStatus]) -> tuple[int, ...]:
    """Return every version that any variant of any replica routes to."""
    return tuple(
        dict.fromkeys(slot.version for status in statuses for slot in status.effective.values())
    )


def replicas_behind(status: ModelStatus, generation: int) -> dict[str, str]:
    """Say why each live replica that lags in a model's status does not serve `generation` yet.

    A possibly incomplete list counts as a replica that lags.
    """
    behind: dict[str, str] = {}
    if status.replicas_problem is not None:
        behind["replicas that are not listed"] = status.replicas_problem
    for replica in status.replicas:
        if replica.generation < generation:
            behind[replica.id] = f"generation {replica.generation}"
        elif not replica.ready:
            behind[replica.id] = "not ready: " + "; ".join(replica.reasons)
    return behind
