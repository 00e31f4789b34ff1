"""The protocol over real processes: two gateways on Redis, and an embedded Triton.

Each method is one step; what must hold after each is checked by `check`, against the changes that
were accepted. The pipeline's part (load, retire) is its own code. `protocol.py` plays the same with
steps that overlap, a thousand times as fast.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from platform_assets.export.records import PackagedVersion
from platform_assets.resources.model_repository import ModelRepository, Provenance
from platform_assets.resources.triton import TritonResource
from platform_assets.serving.loading import (
    load_beside,
    persisted_versions,
    retire,
    serve_exactly,
)
from platform_assets.serving.policy import versions_to_keep
from serving_gateway.contract import DEFAULT_MODEL
from tests.faults.askers import Asker, Content
from tests.support.gateway_harness import ROW, RunningGateway, run_gateway
from tests.support.onnx_models import config_text, telltale, write_config
from tests.support.servers import RunningRedis, RunningTriton, run_redis, run_triton, wait_until

GATEWAYS: Final = 2
VERSIONS: Final = 4
BROKEN: Final = VERSIONS + 1
"""A version that Triton does not load."""
RETENTION: Final = 2
CLIENTS: Final = (None, *(f"client-{number}" for number in range(6)))
_FOLLOW_SECONDS: Final = 60.0
_LOSS_SECONDS: Final = 2.0
"""Within which a request is answered while Triton is lost."""
_TOKEN: Final = "a-token-of-the-real-protocol"
_AUTHORIZATION: Final = {"authorization": f"Bearer {_TOKEN}"}


@dataclass(slots=True)
class RealProtocol:
    """The processes, and what is known of them."""

    triton: RunningTriton
    redis: RunningRedis
    gateways: Sequence[RunningGateway]
    askers: Sequence[Asker]
    redis_files: Path
    packaged: dict[int, PackagedVersion]
    up: set[int] = field(default_factory=lambda: set(range(GATEWAYS)))
    is_redis_up: bool = True
    generation: int = 0
    content: Content = field(default_factory=lambda: Content({}))
    accepted: dict[int, Content] = field(default_factory=dict)
    """What each generation says."""
    ever: list[Content] = field(default_factory=list)
    """All that was ever accepted."""
    is_uncertain: bool = False
    """The store was lost while not all replicas had the newest record: an older one may be back."""
    steps: int = 0
    accepted_changes: int = 0

    @property
    def repository(self) -> ModelRepository:
        """Triton's repository."""
        return ModelRepository(root=str(self.triton.repository))

    @property
    def control(self) -> TritonResource:
        """Triton as the pipeline sees it."""
        return TritonResource(url=self.triton.http_url, control_key=self.triton.control_key)

    def ready(self) -> set[int]:
        """What Triton has READY."""
        return set(self.control.ready_versions(DEFAULT_MODEL))

    def persisted(self) -> set[int]:
        """What a restarted Triton would load."""
        return set(persisted_versions(self.repository, DEFAULT_MODEL))

    def reset(self) -> None:
        """Have all up, versions 1 to 3 READY, A on version 1 and half of the clients on B."""
        self.start_redis(loses=False)
        for number in range(GATEWAYS):
            self.start_gateway(number)
        self._serve(1, 2, 3, *self.content.variants.values())
        self.clear(0)
        self.reload(0, "A", 1, mode="ssot", unpin=True)
        self.reload(1, "B", 2, mode="ssot", unpin=True)
        self.set_traffic(0, "split", 50)
        self._serve(1, 2, 3)
        self.check()

    def _serve(self, *versions: int) -> None:
        serve_exactly(DEFAULT_MODEL, set(versions), triton=self.control, repository=self.repository)

    # Triton and the pipeline

    def load(self, version: int) -> None:
        """Load a version beside what serves."""
        before, file = self.ready(), self.repository.persisted_config(DEFAULT_MODEL)
        state = load_beside(
            self.packaged[version],
            triton=self.control,
            repository=self.repository,
            timeout_s=60,
            log=lambda _: None,
        )
        assert state.ready == (version != BROKEN), state.reason
        expected = before if version == BROKEN else {*before, version}
        assert self.ready() == expected, "a load took a version away, or left one (I4)"
        if version == BROKEN:
            assert self.repository.persisted_config(DEFAULT_MODEL) == file, "I4"
        assert self.persisted() == expected, "a restarted Triton would serve others (I10)"

    def retire(self) -> None:
        """Retire what is beyond the retention, when all replicas are known to agree."""
        if not self.is_redis_up or self.up != set(range(GATEWAYS)):
            return
        models = self._models(0)
        routed = set(self.content.variants.values())
        kept = versions_to_keep(
            production=self.content.variants["A"],
            previous=[one["version"] for one in models["routing"]["previous"].get("A", ())],
            routed=routed,
            ready=self.ready(),
            retention=RETENTION,
        )
        retire(DEFAULT_MODEL, kept, triton=self.control, repository=self.repository)
        assert self.ready() == self.persisted() == set(kept) >= routed, "I3"

    def restart_triton(self) -> None:
        """Kill Triton and start it again; each request is answered at once meanwhile."""
        persisted = self.persisted()
        with self._excused(*self.up, statuses=(503, 504)):
            self.triton.kill()
            for number in self.up:
                began = time.monotonic()
                answer = self.gateways[number].predict()
                assert time.monotonic() - began < _LOSS_SECONDS, "not answered at once (I3)"
                assert answer.status_code in (503, 504), answer.text
                assert "retry-after" in answer.headers
            self.triton.restart()
            assert self.ready() == persisted, "other versions came back (I10)"
            for number in self.up:
                self.gateways[number].wait_ready()

    # The store and the replicas

    def turn_redis(self, *, loses: bool) -> None:
        """Kill Redis; or start it again, with its files or without them."""
        if self.is_redis_up:
            self.redis.process.kill()
            self.is_redis_up = False
        else:
            self.start_redis(loses=loses)

    def start_redis(self, *, loses: bool) -> None:
        """All that is up agrees again (I7)."""
        if self.is_redis_up:
            return
        if loses:
            shutil.rmtree(self.redis_files)
        newest = any(self._generation(number) == self.generation for number in self.up)
        self.is_uncertain |= loses and not newest
        self.redis.process.start()
        self.is_redis_up = True
        if self.up:
            self._settle()

    def _settle(self) -> None:
        """See what all replicas agree on, which no loss may have changed (I7)."""
        models = self._agreed()
        found = Content.of(models)
        if self.is_uncertain:
            assert found in self.ever, "a record that was never accepted came back"
            self.accepted.clear()
            for asker in self.askers:
                asker.forget()
        else:
            assert found == self.content, "an accepted change was lost (I7)"
        self.is_uncertain &= self.up != set(range(GATEWAYS))
        self._accept(models)

    def turn_gateway(self, number: int) -> None:
        """Kill a replica, or start it again."""
        if number in self.up:
            self.up.discard(number)
            self.askers[number].pause()
            self.gateways[number].process.kill()
        else:
            self.start_gateway(number)

    def start_gateway(self, number: int) -> None:
        """It goes on with the store's record, or with its own copy (I9)."""
        if number in self.up:
            return
        self.gateways[number].process.start()
        gateway = self.gateways[number]
        wait_until(lambda: gateway.client.get("/ready").status_code == 200, 60, "/ready")
        gateway.wait_ready()
        self.up.add(number)
        self.askers[number].forget()
        if self.is_redis_up:
            self._settle()
        else:
            found = Content.of(self._models(number))
            assert found in self.ever, "resumed from what was never accepted"
        self.askers[number].resume()

    # Changes

    def reload(
        self, number: int, alias: str, version: int | None, *, mode: str | None, unpin: bool
    ) -> None:
        """Reload a variant; a version that is not READY is refused (I1)."""
        body: dict[str, Any] = {"unpin": unpin}
        if version is not None:
            body |= {"version": version, "run_id": f"run-{version}"}
        if mode is not None:
            body["mode"] = mode
        path = f"/variant/{alias}/reload"
        is_done = self._change(number, "POST", path, body)
        if is_done and version is not None:
            assert version in self.ready(), "reloaded onto a version that is not READY (I1)"
            assert self.content.variants[alias] == version

    def roll_back(self, number: int, alias: str, version: int | None) -> None:
        """Roll a variant back."""
        before = self.content.variants.get(alias)
        body = {} if version is None else {"version": version}
        if self._change(number, "POST", f"/variant/{alias}/rollback", body):
            now = self.content.variants[alias]
            assert now in self.ready(), "rolled back to a version that is not READY (I1)"
            assert now == version if version is not None else now != before

    def set_traffic(self, number: int, strategy: str, percent: float) -> None:
        """Change B's share."""
        self._change(number, "PUT", "/traffic", {"strategy": strategy, "percent": percent})

    def clear(self, number: int) -> None:
        """Take B away."""
        if self._change(number, "DELETE", "/variant/B?force=true", None):
            assert "B" not in self.content.variants
            assert self.content.strategy == "off"

    def begin_release(self, number: int, version: int) -> None:
        """Begin a release that splits."""
        plan = {"steps": [{"strategy": "split", "percent": 50}], "approval": "before_switch"}
        body = {"version": version, "run_id": f"run-{version}", "plan": plan}
        if self._change(number, "POST", "/release", body):
            assert version in self.ready(), "a release of a version that is not READY (I1)"

    def stop_release(self, number: int) -> None:
        """Stop a release: A answers all clients from now on (I19)."""
        if number not in self.up or not self.is_redis_up:
            return
        release = self._models(number)["routing"]["release"]
        is_active = release is not None and release["state"] in ("running", "waiting")
        if self._change(number, "POST", "/release/stop", {"reason": "bad"}) and is_active:
            assert {self._ask(number, client)[0] for client in CLIENTS} == {"A"}, "I19"

    def _change(self, number: int, method: str, path: str, body: Any) -> bool:
        """Make a change by one replica; whether it was accepted. One refused changes nothing."""
        if number not in self.up:
            return False
        before = self._models(number)
        client = self.gateways[number].client
        answer = client.request(method, path, json=body, headers=_AUTHORIZATION)
        assert answer.status_code in (200, 400, 404, 409, 422, 503), answer.text
        after = self._models(number)
        is_done = answer.status_code == 200
        if not is_done:
            assert Content.of(after) == Content.of(before), f"refused, and done: {answer.text}"
            assert after["routing"]["generation"] == before["routing"]["generation"], answer.text
            return False
        assert self.is_redis_up, "a change was accepted without the store"
        self.accepted_changes += 1
        self._accept(after)
        return True

    def _accept(self, models: Any) -> None:
        generation, content = models["routing"]["generation"], Content.of(models)
        known = self.accepted.setdefault(generation, content)
        assert known == content, "two contents of one generation"
        if content not in self.ever:
            self.ever.append(content)
        self.generation, self.content = generation, content

    # Invariants

    def check(self) -> None:
        """What must hold after each step."""
        self.steps += 1
        if self.is_redis_up and self.up:
            models = self._agreed()
            assert models["routing"]["generation"] == self.generation, "I7"
        for number in self.up:
            self._check_gateway(number)
        for number, asker in enumerate(self.askers):
            problems = asker.problems(self.accepted)
            assert problems == [], f"client of replica {number}: {problems[:3]}"
            if self.is_redis_up and number in self.up and not self.is_uncertain:
                asker.floor = self.generation

    def _check_gateway(self, number: int) -> None:
        gateway = self.gateways[number]
        assert gateway.client.get("/ready").status_code == 200, "I12"
        models = self._models(number)
        assert models["in_sync"] == self.is_redis_up, "I7"
        content = Content.of(models)
        for client in CLIENTS:
            answers = functools.partial(self._ask, number, client)
            wait_until(lambda: answers() == content.answer(client), 60, "I3")  # noqa: B023

    def _ask(self, number: int, client: str | None) -> tuple[str, int]:
        """Variant and version of an answer, by the model itself (I2)."""
        body = {} if client is None else {"client_id": client}
        answer = self.gateways[number].predict(ROW, **body)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["predictions"] == [found["version"]], "I2"
        return found["variant"], found["version"]

    def _agreed(self) -> Any:
        """`GET /models` once all replicas that are up route by the same record (I7)."""

        def agree() -> bool:
            seen = [self._models(number) for number in self.up]
            return len({one["replica"]["digest"] for one in seen}) == 1 and all(
                one["in_sync"] for one in seen
            )

        wait_until(agree, _FOLLOW_SECONDS, "all replicas agree (I7)")
        return self._models(min(self.up))

    def _models(self, number: int) -> Any:
        return self.gateways[number].models()

    def _generation(self, number: int) -> int:
        return int(self._models(number)["routing"]["generation"])

    @contextlib.contextmanager
    def _excused(self, *numbers: int, statuses: Sequence[int]) -> Iterator[None]:
        """Clients of these replicas may meet failures meanwhile."""
        for number in numbers:
            self.askers[number].excused = frozenset(statuses)
        yield
        for number in numbers:
            self.askers[number].settle()
            self.askers[number].excused = frozenset()


@contextlib.contextmanager
def run_real_protocol(home: Path) -> Iterator[RealProtocol]:
    """Run all processes, with versions packaged and 1 and 2 READY, and A on version 1."""
    repository = ModelRepository(root=str(home / "repository"))
    packaged = {number: _package(repository, number) for number in range(1, BROKEN + 1)}
    write_config(home / "repository", DEFAULT_MODEL, _config(1, 2))
    files = home / "redis"
    kept = ("--appendonly", "yes", "--appendfsync", "always", "--appenddirname", "records")
    with contextlib.ExitStack() as stack:
        triton = stack.enter_context(run_triton(home / "repository", home / "triton"))
        redis = stack.enter_context(run_redis(files, *kept))
        env = {
            "GATEWAY_REDIS_URL": redis.url,
            "GATEWAY_CONTROL_TOKEN": _TOKEN,
            # Generous, so that a busy machine fails no step; a lost request still does.
            "GATEWAY_STORE_SECONDS": "2",
            "GATEWAY_REQUEST_SECONDS": "20",
        }
        gateways = [
            stack.enter_context(run_gateway(home / str(number), triton.http_url, env=env))
            for number in range(GATEWAYS)
        ]
        askers = [Asker(gateway.url) for gateway in gateways]
        protocol = RealProtocol(triton, redis, gateways, askers, files / "records", packaged)
        protocol.reload(0, "A", 1, mode="ssot", unpin=True)
        protocol.check()
        for asker in askers:
            stack.enter_context(asker)
        yield protocol


def _package(repository: ModelRepository, version: int) -> PackagedVersion:
    onnx = b"not a graph" if version == BROKEN else telltale(version)
    digest = hashlib.sha256(onnx).hexdigest()
    repository.package(
        onnx, Provenance(DEFAULT_MODEL, version, f"run-{version}", digest, "fingerprint", "dagster")
    )
    return PackagedVersion(
        DEFAULT_MODEL, version, f"run-{version}", digest, config_text=_config(version)
    )


def _config(*versions: int) -> str:
    return config_text(DEFAULT_MODEL, telltale(1), list(versions))
