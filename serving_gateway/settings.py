"""All settings of the gateway: read once, by the process that starts it, never at import."""

from __future__ import annotations

import importlib.util
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, HttpUrl, SecretStr, TypeAdapter
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from serving_gateway.contract import DEFAULT_MODEL, MAX_BATCH_SIZE, check_model_name

_HTTP_URL = TypeAdapter(HttpUrl)
MIN_KEY_LENGTH = 16
"""Fewest characters of a token or key."""
_TOKEN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


def redis_place(url: str) -> str:
    """Host and port of a Redis URL, for people: without credentials.

    A `ValueError`, for one that cannot be read, does not repeat it: it may hold a password.
    """
    with suppress(ValueError):
        address = urlsplit(url)
        place = f"{address.hostname}:{address.port or 6379}" if address.hostname else "its socket"
        # A '/', '?' or '#' in a password ends the authority early, and moves the '@' behind it.
        if "@" not in f"{address.path}{address.query}{address.fragment}":
            return place
    raise ValueError(
        "cannot be read as an address: percent-encode '/', '?', '#', '@' and ':' in the "
        "password (as %2F, %3F, %23, %40 and %3A)"
    )


def _check_redis_url(value: SecretStr) -> SecretStr:
    # The messages must not repeat the address: it may hold a password.
    if not value.get_secret_value().startswith(_REDIS_SCHEMES):
        raise ValueError(f"must start with one of {', '.join(_REDIS_SCHEMES)}")
    redis_place(value.get_secret_value())
    return value


def _http_url(value: str) -> str:
    """Check an address of the form http(s)://host[:port] and drop a trailing slash."""
    url = _HTTP_URL.validate_python(value)
    if url.username or url.password:
        # Addresses appear in answers and logs.
        raise ValueError("must not hold a user or password: MLflow's have settings of their own")
    return str(url).rstrip("/")


def _check_key(value: SecretStr) -> SecretStr:
    key = value.get_secret_value().strip()  # a secret made by `echo` ends with a newline
    if len(key) < MIN_KEY_LENGTH:
        raise ValueError(f"must have at least {MIN_KEY_LENGTH} characters, or be unset")
    return SecretStr(key)


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _split_names(value: Any) -> Any:
    return [name.rstrip("/").lower() for name in _split(value) if name]


def _split_tokens(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [tuple(map(str.strip, pair.partition(":")[::2])) for pair in value.split(",")]
    for number, (name, token) in enumerate(pairs, 1):
        # The message must not repeat what may be the token.
        if _TOKEN_NAME.fullmatch(name) is None or len(token) < MIN_KEY_LENGTH:
            raise ValueError(
                f"number {number} is not name:token, with a name of A-Za-z0-9_.- and a token "
                f"of at least {MIN_KEY_LENGTH} characters"
            )
    return pairs


def _needs(module: str, extra: str) -> AfterValidator:
    """Refuses a setting whose optional dependency is not installed."""

    def check(value: Any) -> Any:
        spec = None
        with suppress(ModuleNotFoundError):  # one of the module's parents
            spec = importlib.util.find_spec(module)
        if spec is None:
            raise ValueError(f"needs {module}: install the extra '{extra}', or unset it")
        return value

    return AfterValidator(check)


Seconds = Annotated[float, Field(gt=0, le=3600)]
ModelName = Annotated[str, AfterValidator(check_model_name)]
Url = Annotated[str, AfterValidator(_http_url)]
Urls = Annotated[str, AfterValidator(lambda urls: ",".join(map(_http_url, urls.split(","))))]
Key = Annotated[SecretStr, AfterValidator(_check_key)]
Keys = Annotated[
    tuple[SecretStr, ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(lambda keys: tuple(map(_check_key, keys))),
]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_names)]


class Settings(BaseSettings):
    """Settings of one gateway process, from environment variables named GATEWAY_<FIELD>.

    The texts below the fields are their descriptions in REFERENCE.md.
    """

    model_config = SettingsConfigDict(
        env_prefix="GATEWAY_",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest severity that is logged."""
    access_log: bool = False
    """Log each request; errors and control calls are logged anyway."""
    drain_seconds: float = Field(default=0.0, ge=0, le=600)
    """How long /ready answers 503 after SIGTERM while new requests are still accepted: the time
    that a load balancer needs to notice."""
    shutdown_seconds: Seconds = 30.0
    """How long requests in flight may then take to finish; rounded up to whole seconds."""

    model_name: ModelName = DEFAULT_MODEL
    """The model of the unprefixed paths. Others are hosted at /models/{model_name} from their
    first reload on."""
    max_models: int = Field(default=1000, ge=1, le=10_000)
    """Maximum number of hosted models."""
    state_dir: Path = Path(".local/gateway")
    """Directory of the file store with the routing record, and of every replica's snapshot of the
    last record that it routed by."""
    redis_url: Annotated[SecretStr, AfterValidator(_check_redis_url)] | None = None
    """Redis with the routing record of replicas on several hosts: redis://, rediss:// or unix://.
    Unset: the file store, for one host."""
    store_seconds: Seconds = 0.5
    """Timeout of one call to that Redis."""

    replica_seconds: float = Field(default=5.0, ge=1, le=3600)
    """How long a replica counts as live after its last report."""

    triton_url: Url = "http://127.0.0.1:8000"
    """Triton's HTTP address."""
    triton_servers_url: Urls | None = None
    """Every Triton behind triton_url, when that is the Service of several: addresses separated by
    commas, or a name that resolves to all of them (such as a headless Service), looked up every
    five seconds. Requests go to the servers that have the version READY; a switch requires it to
    be READY on every server that can be reached. Unset: triton_url is a single Triton."""
    shadow_triton_url: Url | None = None
    """Triton of all variants B, when they have their own."""
    shadow_triton_servers_url: Urls | None = None
    """Every Triton behind shadow_triton_url, as for triton_servers_url."""
    shadow_model_name: ModelName | None = None
    """Name in Triton of the default model's variant B, when it differs from A's."""
    triton_connections: int = Field(default=16, ge=2, le=1024)
    """Maximum number of idle connections kept to one Triton."""
    triton_connect_seconds: Seconds = 1.0
    """Timeout of opening a connection."""
    probe_seconds: Seconds = 1.0
    """Timeout of a readiness or metadata call."""
    watch_seconds: Seconds = 0.5
    """Interval at which the routing store is read and each idle version is probed; at most 50
    versions are probed per second, one after the other."""
    staleness_seconds: Seconds = 3.0
    """How long a confirmed READY remains valid while Triton does not answer probes."""
    warm_up_seconds: Seconds = 30.0
    """Timeout of the trial inference before a switch."""

    mlflow_url: Url | None = None
    """MLflow's address. Unset: there is no registry, and callers name the run_id."""
    mlflow_ui_url: Url | None = None
    """Address of MLflow's web pages, to which the status page links each version's run. Unset: it
    shows the run without a link."""
    mlflow_token: SecretStr | None = None
    """Bearer token for MLflow."""
    mlflow_username: str | None = None
    """User for MLflow's own login, in the place of a token."""
    mlflow_password: SecretStr | None = None
    """Password of that user."""
    mlflow_seconds: Seconds = 10.0
    """Timeout of one call to MLflow."""

    feast_dir: Path | None = None
    """Directory of the feature_store.yaml that the pipeline renders, for predictions by entity id;
    it need not exist yet. Unset: rows come from requests only, and Feast is not imported. Needs the
    extra 'feast'."""
    feature_seconds: Seconds = 0.1
    """Timeout of one look-up; after it the request's own rows are used, or the answer is 503."""

    control_token: Key | None = None
    """Bearer token of the control endpoints, recorded as 'default'. If neither this nor
    GATEWAY_CONTROL_TOKENS is set, one is generated in the file control-token of the state
    directory, and its path is logged at the start."""
    control_tokens: Annotated[
        tuple[tuple[str, SecretStr], ...], NoDecode, BeforeValidator(_split_tokens)
    ] = ()
    """Further control tokens as name:token, separated by commas. The routing record keeps the name
    of the token that made a change. Two tokens may have the same name, so that one can be replaced
    without a gap."""
    allowed_hosts: Names = ()
    """Host names, separated by commas, under which clients' data (GET /shadow) can be requested
    without a control token, in addition to localhost and IP addresses; * allows every name. A
    defence against DNS rebinding, which cannot forge a token."""
    cors_origins: Names = ()
    """Origins, separated by commas, whose web pages may request predictions, such as
    https://app.example.com; * allows every origin. Outcomes and control endpoints allow none."""

    api_keys: Keys = ()
    """Keys, separated by commas. Every call except health and readiness then needs one of them, as
    'X-API-Key: <key>' or 'Authorization: Bearer <key>', or a control token, as 'Authorization:
    Bearer <token>'. With several keys, one can be replaced while clients still use the other.
    Unset: no key is needed."""

    request_seconds: Seconds = 5.0
    """Deadline of one prediction."""
    max_body_bytes: int = Field(default=1_048_576, ge=256)
    """Maximum size of the body of a prediction."""
    max_pending_bytes: int = Field(default=67_108_864, ge=1_048_576)
    """Maximum bytes of incomplete requests, over all clients; above it the answer is 503."""
    head_seconds: Seconds = 10.0
    """Timeout of receiving the target and headers of a request."""
    body_seconds: Seconds = 30.0
    """Timeout of receiving a whole request, and of sending a response."""
    keep_alive_seconds: Seconds = 75.0
    """How long an idle connection is kept open. Choose more than the idle timeout of the load
    balancers in front."""
    max_head_bytes: int = Field(default=16_384, ge=1_024, le=1_048_576)
    """Maximum size of target and headers together."""
    max_rows: int = Field(default=MAX_BATCH_SIZE, ge=1, le=MAX_BATCH_SIZE)
    """Maximum number of rows in one prediction."""
    max_batch_rows: int = Field(default=64, ge=1, le=MAX_BATCH_SIZE)
    """Maximum number of rows of concurrent requests that share one inference."""
    max_in_flight: int = Field(default=2, ge=1, le=256)
    """Maximum number of concurrent inferences per version: one that Triton works on and one that
    waits there. A higher value only helps a model with several instances."""
    max_queued: int = Field(default=1024, ge=1)
    """Maximum number of waiting requests per version; above it the answer is 503."""
    max_queued_bytes: int = Field(default=67_108_864, ge=1_048_576)
    """Maximum bytes of rows waiting for Triton, over all versions; above it the answer is 503."""
    mirror_queue: int = Field(default=1024, ge=1)
    """Maximum number of answers waiting to be mirrored; further ones are not mirrored."""
    mirror_queue_bytes: int = Field(default=16_777_216, ge=1_048_576)
    """Maximum bytes of answers waiting to be mirrored, over all models."""
    mirror_in_flight: int = Field(default=2, ge=1, le=64)
    """Maximum number of concurrent inferences of mirrored requests."""
    mirror_gather_seconds: float = Field(default=0.02, ge=0, le=1)
    """How long a copy waits for others that can share its inference on B."""
    shadow_examples: int = Field(default=5, ge=0, le=100)
    """Number of rows, labelled differently by the two variants, that GET /shadow shows. They hold
    clients' data and are shown only to callers with a control token. 0 keeps none."""

    sample_dir: Annotated[Path, _needs("pyarrow", "samples")] | None = None
    """Directory of the prediction log: answered predictions as Parquet, one folder per model and
    day. Unset: nothing is logged. Needs the extra 'samples'. The files hold clients' data."""
    sample_fraction: float = Field(default=0.1, gt=0, le=1)
    """Share of the requests that are logged."""
    sample_key: Key | None = None
    """Key with which the log hashes client ids. Replicas on several hosts need the same one, or a
    client has several hashes. Unset: it is generated in the file prediction-log-key of the state
    directory."""
    sample_rows_per_file: int = Field(default=50_000, ge=1, le=1_000_000)
    """Number of rows after which a file is written."""
    sample_seconds: Seconds = 60.0
    """Age of the oldest row after which a smaller file is written."""
    sample_queue_rows: int = Field(default=50_000, ge=MAX_BATCH_SIZE)
    """Maximum number of rows waiting for the writer, those of other requests in the same inferences
    included; further ones are dropped and counted."""
    sample_queue_bytes: int = Field(default=33_554_432, ge=4_194_304)
    """Maximum bytes of the rows waiting for the writer, and again of the rows that it collects for
    files: above it, waiting rows are dropped and files are written early."""
    sample_max_bytes: int = Field(default=268_435_456, ge=1_048_576)
    """Maximum bytes of a model's log; above it the oldest files are deleted."""
    sample_max_days: int = Field(default=90, ge=1, le=3650)
    """Days after which a file of the log is deleted; more than an outcome takes to be final."""

    outcome_queue_bytes: int = Field(default=33_554_432, ge=4_194_304)
    """Maximum bytes of outcomes on their way to a file in sample_dir; above it the answer is
    503."""
    outcome_max_bytes: int = Field(default=268_435_456, ge=1_048_576)
    """Maximum bytes of a model's outcomes; above it the oldest files are deleted, as are those
    that are older than sample_max_days."""

    otlp_endpoint: (
        Annotated[Url, _needs("opentelemetry.exporter.otlp.proto.http", "tracing")] | None
    ) = None
    """Base address of an OpenTelemetry collector that takes OTLP over HTTP, such as
    http://collector:4318, for traces of predictions and their inferences. Unset: there are none,
    but a caller's traceparent is still passed to Triton. Needs the extra 'tracing'."""
    trace_fraction: float = Field(default=0.01, ge=0, le=1)
    """Share of the predictions without a traceparent that are traced. With one, the traceparent
    decides."""

    @property
    def triton_servers(self) -> dict[str, str | None]:
        """Addresses of Tritons, and every server behind each; None for a single one."""
        servers = {self.triton_url: self.triton_servers_url}
        if self.shadow_triton_url is not None:
            servers.setdefault(self.shadow_triton_url, self.shadow_triton_servers_url)
        return servers
