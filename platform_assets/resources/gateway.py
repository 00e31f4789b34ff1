"""The gateways, as the pipeline sees them: reload, look, ask for a prediction."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
import msgspec
from pydantic import Field

from serving_gateway.contract import ReloadRequest, ReloadResponse, RollbackRequest

if TYPE_CHECKING:
    import httpx

_TIMEOUT_S: Final = 10.0
_RELOAD_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.1
_NOT_HOSTED: Final = frozenset({"unknown_model", "model_not_open"})


class GatewayError(Exception):
    """A gateway could not be used; the message says which and why."""


class GatewayUnavailable(GatewayError):
    """No gateway answers at that address."""


class GatewayRefused(GatewayError):
    """The gateway answered, and refused."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ModelNotHosted(GatewayRefused):
    """The gateway routes to no version of that model."""


@dataclass(frozen=True, slots=True)
class Convergence:
    """How far the replicas followed a switch."""

    late: dict[str, str]
    """Address or id of each replica that did not, and how it stands instead."""
    live: tuple[str, ...]
    """Ids of all live replicas."""


class GatewayResource(dg.ConfigurableResource[None]):
    """All gateway replicas that route to one Triton; each model has paths of its own there."""

    urls: str = Field(description="Addresses of the replicas, separated by commas.")
    control_token: str = Field(description="Bearer token of the control endpoints.")

    @property
    def replicas(self) -> tuple[str, ...]:
        """Address of each replica."""
        return tuple(url.strip().rstrip("/") for url in self.urls.split(",") if url.strip())

    def reload(self, model_name: str, alias: str, request: ReloadRequest) -> ReloadResponse:
        """Move a variant; replicas share the routing record, so one is asked.

        Raises:
            GatewayUnavailable: no replica answers.
            GatewayRefused: with the gateway's own reason; nothing changed.
        """
        return self._change(model_name, f"/variant/{alias}/reload", request)

    def rollback(self, model_name: str, alias: str, request: RollbackRequest) -> ReloadResponse:
        """Move a variant back, and pin it there.

        Raises:
            GatewayUnavailable: no replica answers.
            GatewayRefused: with the gateway's own reason; nothing changed.
        """
        return self._change(model_name, f"/variant/{alias}/rollback", request)

    def models(self, replica: str, model_name: str) -> dict[str, Any]:
        """Return what one replica says of a model (`GET /models/{model_name}`).

        Raises:
            GatewayUnavailable: it does not answer.
            ModelNotHosted: it never routed to a version of the model, or does not yet.
        """
        return self._json(replica, f"/models/{model_name}")

    def pages(self, model_name: str) -> list[dict[str, Any]]:
        """Return what each replica that hosts the model says of it; none before the first reload.

        Raises:
            GatewayUnavailable: a replica does not answer.
        """
        found = []
        for replica in self.replicas:
            with contextlib.suppress(ModelNotHosted):
                found.append(self.models(replica, model_name))
        return found

    def health(self, replica: str, model_name: str) -> dict[str, Any]:
        """Return `GET /models/{model_name}/health` of one replica."""
        return self._json(replica, f"/models/{model_name}/health")

    def metrics(self, replica: str) -> str:
        """Return `GET /metrics` of one replica, in Prometheus' text format."""
        return self._request(replica, "GET", "/metrics").decode()

    def predict(self, model_name: str, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """Return the answer to a prediction for rows in signature order; None is missing."""
        answer = self._any_replica(
            "POST",
            f"/models/{model_name}/predict",
            content=msgspec.json.encode({"data": rows}),
            headers={"content-type": "application/json"},
        )
        return dict(msgspec.json.decode(answer))

    def wait_switched(
        self, model_name: str, alias: str, answer: ReloadResponse, deadline_s: float
    ) -> Convergence:
        """Wait until every replica routes `alias` by the generation that a reload made.

        Every replica is each address of `urls`, and whichever else those list as live.

        Raises:
            GatewayUnavailable: an address does not answer at the end of the time.
        """
        deadline = time.monotonic() + deadline_s
        while True:
            out_of_time = time.monotonic() >= deadline
            try:
                found = self._convergence(model_name, alias, answer)
            except GatewayError:
                if out_of_time:
                    raise
            else:
                if out_of_time or not found.late:
                    return found
            time.sleep(_POLL_S)

    def _convergence(self, model_name: str, alias: str, answer: ReloadResponse) -> Convergence:
        late: dict[str, str] = {}
        live: set[str] = set()
        for replica in self.replicas:
            try:
                page = self.models(replica, model_name)
            except ModelNotHosted:
                late[replica] = "does not host the model yet"
                continue
            version = effective_version(page, alias)
            if version != answer.version:
                late[replica] = "no confirmed version" if version is None else f"version {version}"
            late |= laggards(page, answer.generation)
            live |= {str(other["id"]) for other in page["replicas"]}
        return Convergence(late, tuple(sorted(live)))

    def _change(self, model_name: str, path: str, request: msgspec.Struct) -> ReloadResponse:
        answer = self._any_replica(
            "POST",
            f"/models/{model_name}{path}",
            content=msgspec.json.encode(request),
            headers={
                "content-type": "application/json",
                "authorization": f"Bearer {self.control_token}",
            },
            timeout_s=_RELOAD_TIMEOUT_S,
        )
        return msgspec.json.decode(answer, type=ReloadResponse)

    def _json(self, replica: str, path: str) -> dict[str, Any]:
        return dict(msgspec.json.decode(self._request(replica, "GET", path)))

    def _any_replica(self, method: str, path: str, **options: Any) -> bytes:
        unavailable: GatewayUnavailable | None = None
        for replica in self.replicas:
            try:
                return self._request(replica, method, path, **options)
            except GatewayUnavailable as error:
                unavailable = error
        raise unavailable or GatewayUnavailable("GATEWAY_URLS names no gateway")

    def _request(
        self, replica: str, method: str, path: str, *, timeout_s: float = _TIMEOUT_S, **options: Any
    ) -> bytes:
        import httpx

        try:
            # Cluster-internal addresses: a proxy of the environment has no business here.
            with httpx.Client(timeout=timeout_s, trust_env=False) as client:
                answer = client.request(method, replica + path, **options)
        except httpx.HTTPError as error:
            raise GatewayUnavailable(
                f"the gateway at {replica} does not answer: {error}"
            ) from error
        if answer.is_success:
            return answer.content
        raise _refusal(replica, path, answer)


def _refusal(replica: str, path: str, answer: httpx.Response) -> GatewayRefused:
    code, reason = "", answer.text[:500]
    try:
        body = answer.json()
        code, reason = str(body["code"]), str(body["error"])
    except (ValueError, KeyError, TypeError):
        pass
    kind = ModelNotHosted if code in _NOT_HOSTED else GatewayRefused
    return kind(
        f"the gateway at {replica} refused {path} ({answer.status_code} {code}): {reason}",
        status=answer.status_code,
        code=code,
    )


def effective_version(models: dict[str, Any], alias: str) -> int | None:
    """Version that `GET /models` shows as effective for a variant.

    None when the variant has none, or the replica could not confirm it with Triton.
    """
    slot = models["effective"].get(alias)
    return int(slot["version"]) if slot is not None and slot["ready"] else None


def laggards(models: dict[str, Any], generation: int) -> dict[str, str]:
    """Live replicas on a page of `GET /models` that do not serve by `generation` yet.

    Returns:
        Why, by replica. A list that may lack somebody counts as a replica that is late.
    """
    late: dict[str, str] = {}
    if models["replicas_problem"] is not None:
        late["replicas that are not listed"] = str(models["replicas_problem"])
    for replica in models["replicas"]:
        if replica["generation"] < generation:
            late[replica["id"]] = f"generation {replica['generation']}"
        elif not replica["ready"]:
            late[replica["id"]] = "not ready: " + "; ".join(replica["reasons"])
    return late


def routed_versions(models: Iterable[dict[str, Any]]) -> tuple[int, ...]:
    """Every version that some variant of some replica routes to."""
    return tuple(
        dict.fromkeys(
            int(slot["version"]) for page in models for slot in page["effective"].values()
        )
    )
