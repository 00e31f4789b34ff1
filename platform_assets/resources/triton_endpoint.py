"""One Triton server: what is READY, load, unload, infer by exact version."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from platform_assets.resources.triton_api import (
    CONTROL_HEADER,
    READY,
    UNAVAILABLE,
    IndexEntry,
    TritonAnswerError,
    TritonError,
    TritonNotReady,
    TritonUnreachable,
    VersionMismatch,
)
from platform_assets.resources.triton_failures import translate_triton_errors

if TYPE_CHECKING:
    import numpy.typing as npt
    from tritonclient.http import InferenceServerClient, InferInput, InferResult

    Tensors = Mapping[str, npt.NDArray[Any]]
    Infer = Callable[[str, int, Tensors, Sequence[str]], dict[str, npt.NDArray[Any]]]
    """Takes model, version, inputs and requested outputs (none: all), as `infer` does."""

_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class TritonEndpoint:
    """A Triton server in explicit mode, at one address. Thread-safe: each call connects anew.

    All methods raise `TritonError`: `TritonUnreachable` without an answer, `TritonRefused` if
    Triton refuses (`TritonLocked` for the control key), `TritonAnswerError` for an invalid
    answer.
    """

    url: str
    """HTTP address."""
    grpc_url: str
    """HOST:PORT of gRPC, or empty."""
    control_key: str = field(repr=False)
    timeout_s: float
    load_timeout_s: float

    def index(self, model_name: str | None = None) -> list[IndexEntry]:
        """Return the repository index of one model, or of all."""
        with self._client("read the repository index") as client:
            lines = client.get_model_repository_index(headers=self._key())
            entries = [
                IndexEntry(
                    name=line["name"],
                    version=int(line["version"]) if line.get("version") else None,
                    state=line.get("state", ""),
                    reason=line.get("reason", ""),
                )
                for line in lines
            ]
        return [entry for entry in entries if model_name in (None, entry.name)]

    def ready_versions(self, model_name: str) -> tuple[int, ...]:
        """Return the versions that are READY in the repository index, ascending."""
        ready = [entry.version for entry in self.index(model_name) if entry.state == READY]
        return tuple(sorted(version for version in ready if version is not None))

    def version_ready(self, model_name: str, version: int) -> bool:
        """Whether the versioned ready endpoint answers yes at this moment."""
        with self._client(f"ask whether {model_name} version {version} is ready") as client:
            return bool(client.is_model_ready(model_name, str(version)))

    def wait_until_ready(self, model_name: str, version: int, timeout_s: float = 60.0) -> None:
        """Return once the versioned ready endpoint says yes.

        Raises:
            TritonNotReady: the version failed to load, or the time is up.
            TritonUnreachable: Triton itself did not answer before the time was up.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            late = time.monotonic() >= deadline
            try:
                if self.version_ready(model_name, version):
                    return
                index = self.index(model_name)
            except TritonUnreachable:
                if late:
                    raise
            else:
                entry = next((line for line in index if line.version == version), None)
                failed = entry is not None and entry.state == UNAVAILABLE and entry.reason
                if failed or late:
                    raise TritonNotReady(self._not_ready(model_name, version, entry, timeout_s))
            time.sleep(_POLL_S)

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
        """Load the model and return once Triton has finished.

        `config` (a model configuration as JSON) overrides `config.pbtxt`. If it differs from the
        loaded configuration only in the version policy, versions are added and retired while the
        others stay untouched; any other difference reloads every version. With None the file on
        disk applies.

        Uses gRPC if `grpc_url` is set. It should be: a load over HTTP occupies one of Triton's
        HTTP threads until it has finished, and every client connection that happens to belong to
        that thread, often half of them, waits as long (measured: 1.4 s instead of 0.02 s).

        Raises:
            TritonRefused: a version failed to load; versions that were READY still are.
        """
        text = None if config is None else json.dumps(config)
        with self._control(f"load {model_name}") as (client, options):
            client.load_model(model_name, config=text, **options)

    def unload(self, model_name: str) -> None:
        """Unload all versions after requests in flight have finished."""
        with self._control(f"unload {model_name}") as (client, options):
            client.unload_model(model_name, **options)

    def infer(
        self,
        model_name: str,
        version: int,
        inputs: Tensors,
        outputs: Sequence[str] = (),
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the `outputs` (all when empty) of exactly this version.

        `inputs` have the model's types; text may be `str`, `bytes` or object arrays, and is
        returned as object arrays of `str`.

        Raises:
            VersionMismatch: Triton reports that another version answered.
        """
        with self.connection(f"infer with {model_name} version {version}") as infer:
            return infer(model_name, version, inputs, outputs)

    @contextlib.contextmanager
    def connection(self, doing: str) -> Iterator[Infer]:
        """Open one connection, and yield a function that infers over it like `infer`.

        An inference that is refused leaves the connection open.
        """
        from tritonclient.http import InferRequestedOutput

        def infer(
            model_name: str, version: int, inputs: Tensors, outputs: Sequence[str]
        ) -> dict[str, npt.NDArray[Any]]:
            call = f"infer with {model_name} version {version}"
            with translate_triton_errors(self.url, call, self.timeout_s):
                result = client.infer(
                    model_name,
                    [_infer_input(name, array) for name, array in inputs.items()],
                    model_version=str(version),
                    outputs=[InferRequestedOutput(name) for name in outputs] or None,
                )
                return self._answer(result, model_name, version, outputs)

        with self._client(doing) as client:
            yield infer

    def _answer(
        self, result: InferResult, model_name: str, version: int, wanted: Sequence[str]
    ) -> dict[str, npt.NDArray[Any]]:
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
        return {name: _decode(result.as_numpy(name)) for name in names}

    def _key(self) -> dict[str, str]:
        return {CONTROL_HEADER: self.control_key}

    @contextlib.contextmanager
    def _control(self, doing: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield a client for slow calls, and the options of its calls."""
        if not self.grpc_url:
            with self._client(doing, self.load_timeout_s) as client:
                yield client, {"headers": self._key()}
            return
        from tritonclient.grpc import InferenceServerClient

        key = {f"triton-grpc-protocol-{CONTROL_HEADER}": self.control_key}
        # A proxy from the user's environment must not be used for a server on loopback.
        direct = [("grpc.enable_http_proxy", 0)]
        with (
            translate_triton_errors(self.grpc_url, doing, self.load_timeout_s),
            contextlib.closing(InferenceServerClient(self.grpc_url, channel_args=direct)) as client,
        ):
            yield client, {"headers": key, "client_timeout": self.load_timeout_s}

    @contextlib.contextmanager
    def _client(
        self, doing: str, timeout_s: float | None = None
    ) -> Iterator[InferenceServerClient]:
        """Yield a connected client; this is the only place where its exceptions are translated."""
        from tritonclient.http import InferenceServerClient

        seconds = timeout_s or self.timeout_s
        limits = {"connection_timeout": self.timeout_s, "network_timeout": seconds}
        with (
            translate_triton_errors(self.url, doing, seconds),
            _event_loop_of_thread(),
            contextlib.closing(InferenceServerClient(_host(self.url), **limits)) as client,
        ):
            yield client


@contextlib.contextmanager
def _event_loop_of_thread() -> Iterator[None]:
    """Close the event loop that gevent opens for each thread that uses a client.

    gevent itself leaves the two descriptors of a loop open when its thread ends.
    """
    from gevent import get_hub  # type: ignore[import-untyped] # ships no stubs

    try:
        yield
    finally:
        if threading.current_thread() is not threading.main_thread():
            get_hub().destroy(destroy_loop=True)


def _host(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment:
        raise TritonError(f"{url!r} is not the address of a Triton: use http://HOST:PORT")
    return f"{parts.netloc}{parts.path}".rstrip("/")


def _infer_input(name: str, array: npt.NDArray[Any]) -> InferInput:
    import numpy as np
    from tritonclient.http import InferInput
    from tritonclient.utils import np_to_triton_dtype

    # NumPy's text types pad and truncate: the wire format needs objects.
    data = array.astype(np.object_) if array.dtype.kind in "US" else np.ascontiguousarray(array)
    tensor = InferInput(name, list(data.shape), np_to_triton_dtype(data.dtype))
    return tensor.set_data_from_numpy(data)


def _decode(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Decode a BYTES tensor; return any other unchanged."""
    import numpy as np

    if array.dtype.kind != "O":
        return array
    texts = np.empty(array.size, dtype=np.object_)
    texts[:] = [item.decode() if isinstance(item, bytes) else item for item in array.flat]
    return texts.reshape(array.shape)
