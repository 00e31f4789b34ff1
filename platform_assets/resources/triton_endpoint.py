"""One Triton server: what is READY, load, unload, infer by exact version."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from platform_assets.resources.triton_api import (
    CONTROL_HEADER,
    READY,
    UNAVAILABLE,
    IndexEntry,
    InferenceAnswer,
    ModelMetadata,
    TritonAnswerError,
    TritonError,
    TritonNotReady,
    TritonUnreachable,
    VersionMismatch,
)
from platform_assets.resources.triton_failures import translated
from platform_assets.resources.triton_wire import decoded, index_entry, infer_input, tensor_metadata

if TYPE_CHECKING:
    import numpy.typing as npt
    from tritonclient.http import InferenceServerClient, InferResult

_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class TritonEndpoint:
    """A Triton server in explicit mode, at one address.

    Every call opens a connection of its own, so one endpoint may be used by several threads.
    All methods raise `TritonUnreachable` when no answer comes, `TritonRefused` when Triton says
    no (`TritonLocked` for the control key) and `TritonAnswerError` for an answer that makes no
    sense; all are `TritonError`.
    """

    url: str
    """HTTP address."""
    grpc_url: str
    """HOST:PORT of gRPC, or empty."""
    control_key: str = field(repr=False)
    timeout_s: float
    load_timeout_s: float

    def live(self) -> bool:
        """Whether the server answers at all; never raises `TritonUnreachable`."""
        try:
            with self._client("ask whether it lives") as client:
                return bool(client.is_server_live())
        except TritonUnreachable:
            return False

    def index(self, model_name: str | None = None) -> list[IndexEntry]:
        """Return the repository index, of one model or of all."""
        with self._client("read the repository index") as client:
            lines = client.get_model_repository_index(headers=self._key())
            entries = [index_entry(line) for line in lines]
        return [entry for entry in entries if model_name in (None, entry.name)]

    def ready_versions(self, model_name: str) -> tuple[int, ...]:
        """Return the READY versions by the repository index, ascending."""
        return tuple(
            sorted(
                entry.version
                for entry in self.index(model_name)
                if entry.version is not None and entry.state == READY
            )
        )

    def version_ready(self, model_name: str, version: int) -> bool:
        """Whether the versioned ready endpoint answers yes at this moment."""
        with self._client(f"ask whether {model_name} version {version} is ready") as client:
            return bool(client.is_model_ready(model_name, str(version)))

    def wait_until_ready(self, model_name: str, version: int, timeout_s: float = 60.0) -> None:
        """Return once the versioned ready endpoint says yes.

        Raises:
            TritonNotReady: Triton says that the version failed, or the time is over.
            TritonUnreachable: Triton itself did not answer until the time was over.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            late = time.monotonic() >= deadline
            try:
                if self.version_ready(model_name, version):
                    return
                entry = self._entry(model_name, version)
            except TritonUnreachable:
                if late:
                    raise
            else:
                failed = entry is not None and entry.state == UNAVAILABLE and entry.reason
                if failed or late:
                    raise TritonNotReady(self._not_ready(model_name, version, entry, timeout_s))
            time.sleep(_POLL_S)

    def _entry(self, model_name: str, version: int) -> IndexEntry | None:
        return next((e for e in self.index(model_name) if e.version == version), None)

    def _not_ready(
        self, model_name: str, version: int, entry: IndexEntry | None, timeout_s: float
    ) -> str:
        if entry is None:
            state = f"not in the repository index after {timeout_s} s"
        else:
            state = entry.state + (f" ({entry.reason})" if entry.reason else "")
        ready = self.ready_versions(model_name)
        return (
            f"{model_name} version {version} is not READY in Triton at {self.url}: {state}. "
            f"Still READY: {', '.join(map(str, ready)) or 'none'}"
        )

    def load(self, model_name: str, config: Mapping[str, object] | None = None) -> None:
        """Load the model and return when Triton is done.

        `config` (a model configuration as JSON) overrides `config.pbtxt`. One that differs
        from the loaded configuration in its version policy alone adds and retires versions
        and leaves the others as they are; any other difference loads every version anew.
        With None the file on disk counts.

        Goes over gRPC when `grpc_url` is set. It should be: a load over HTTP occupies one of
        Triton's HTTP threads until it is done, and every client connection that happens to
        belong to that thread, often half of them, waits as long (measured: 1.4 s instead of
        0.02 s).

        Raises:
            TritonRefused: a version failed to load; those that were READY still are.
        """
        text = None if config is None else json.dumps(config)
        with self._control(f"load {model_name}") as (client, headers):
            client.load_model(model_name, headers=headers, config=text)

    def unload(self, model_name: str) -> None:
        """Unload all versions; requests in flight are finished first."""
        with self._control(f"unload {model_name}") as (client, headers):
            client.unload_model(model_name, headers=headers)

    def loaded_config(self, model_name: str, version: int) -> dict[str, Any]:
        """Return the configuration that a READY version runs with, as JSON."""
        with self._client(f"read the configuration of {model_name}") as client:
            config: dict[str, Any] = client.get_model_config(
                model_name, str(version), headers=self._key()
            )
            return config

    def metadata(self, model_name: str, version: int) -> ModelMetadata:
        """Return the inputs and outputs of a READY version."""
        with self._client(f"read the metadata of {model_name} version {version}") as client:
            answer = client.get_model_metadata(model_name, str(version))
            return ModelMetadata(
                name=answer["name"],
                version=version,
                platform=answer["platform"],
                inputs=tuple(tensor_metadata(tensor) for tensor in answer["inputs"]),
                outputs=tuple(tensor_metadata(tensor) for tensor in answer["outputs"]),
            )

    def infer(
        self,
        model_name: str,
        version: int,
        inputs: Mapping[str, npt.NDArray[Any]],
        outputs: Sequence[str] = (),
    ) -> InferenceAnswer:
        """Ask exactly this version.

        Args:
            model_name: the model.
            version: the version; never left to Triton.
            inputs: input name -> array, its type that of the model; text as `str`, `bytes`
                or object arrays.
            outputs: outputs wanted; empty for all of them.

        Raises:
            VersionMismatch: Triton says that another version made the answer.
        """
        from tritonclient.http import InferRequestedOutput

        with self._client(f"infer with {model_name} version {version}") as client:
            result = client.infer(
                model_name,
                [infer_input(name, array) for name, array in inputs.items()],
                model_version=str(version),
                outputs=[InferRequestedOutput(name) for name in outputs] or None,
            )
            return self._answer(result, model_name, version, outputs)

    def time_inferences(
        self,
        model_name: str,
        version: int,
        inputs: Mapping[str, npt.NDArray[Any]],
        outputs: Sequence[str],
        *,
        requests: int,
        fewest: int,
        seconds: float,
    ) -> list[float]:
        """Return the milliseconds of inferences, one after the other over one connection.

        Args:
            model_name: the model.
            version: the version.
            inputs: input name -> array.
            outputs: outputs wanted.
            requests: how many.
            fewest: as many even when the time is over.
            seconds: time after which no further one is sent.
        """
        from tritonclient.http import InferRequestedOutput

        took: list[float] = []
        with self._client(f"infer with {model_name} version {version}") as client:
            tensors = [infer_input(name, array) for name, array in inputs.items()]
            wanted = [InferRequestedOutput(name) for name in outputs]
            end = time.monotonic() + seconds
            while len(took) < requests and (len(took) < fewest or time.monotonic() < end):
                began = time.perf_counter()
                client.infer(model_name, tensors, model_version=str(version), outputs=wanted)
                took.append((time.perf_counter() - began) * 1e3)
        return took

    def _answer(
        self, result: InferResult, model_name: str, version: int, wanted: Sequence[str]
    ) -> InferenceAnswer:
        response = result.get_response()
        answered = int(response["model_version"])
        if (response["model_name"], answered) != (model_name, version):
            raise VersionMismatch(
                f"asked {model_name} version {version} of Triton at {self.url}, but "
                f"{response['model_name']} version {answered} answered; the answer is dropped"
            )
        names = [output["name"] for output in response.get("outputs", [])]
        missing = sorted(set(wanted) - set(names))
        if missing:
            raise TritonAnswerError(
                f"{model_name} version {version} of Triton at {self.url} left out the outputs "
                f"{', '.join(missing)}"
            )
        arrays = {name: decoded(result.as_numpy(name)) for name in names}
        return InferenceAnswer(outputs=arrays, model_version=answered)

    def _key(self) -> dict[str, str]:
        return {CONTROL_HEADER: self.control_key}

    @contextlib.contextmanager
    def _control(self, doing: str) -> Iterator[tuple[Any, dict[str, str]]]:
        """A client for what takes long, and the headers that open it."""
        if not self.grpc_url:
            with self._client(doing, self.load_timeout_s) as client:
                yield client, self._key()
            return
        from tritonclient.grpc import InferenceServerClient

        with translated(self.grpc_url, doing, self.load_timeout_s):
            # A proxy of the user's environment must not stand before a server on loopback.
            options = [("grpc.enable_http_proxy", 0)]
            grpc_client = InferenceServerClient(self.grpc_url, channel_args=options)
            try:
                yield (
                    _WithDeadline(grpc_client, self.load_timeout_s),
                    {f"triton-grpc-protocol-{CONTROL_HEADER}": self.control_key},
                )
            finally:
                grpc_client.close()

    @contextlib.contextmanager
    def _client(
        self, doing: str, timeout_s: float | None = None
    ) -> Iterator[InferenceServerClient]:
        """A connected client, inside the one place where foreign exceptions are translated."""
        from tritonclient.http import InferenceServerClient

        seconds = timeout_s or self.timeout_s
        with translated(self.url, doing, seconds):
            client = InferenceServerClient(
                _host(self.url), connection_timeout=self.timeout_s, network_timeout=seconds
            )
            try:
                yield client
            finally:
                client.close()


class _WithDeadline:
    """The two gRPC calls in the shape that the HTTP client has them."""

    def __init__(self, client: Any, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    def load_model(self, name: str, *, headers: dict[str, str], config: str | None) -> None:
        self._client.load_model(
            name, headers=headers, config=config, client_timeout=self._timeout_s
        )

    def unload_model(self, name: str, *, headers: dict[str, str]) -> None:
        self._client.unload_model(name, headers=headers, client_timeout=self._timeout_s)


def _host(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment:
        raise TritonError(f"{url!r} is no address of a Triton: use http://HOST:PORT")
    return f"{parts.netloc}{parts.path}".rstrip("/")
