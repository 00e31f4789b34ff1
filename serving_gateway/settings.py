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
        # Addresses stand in answers and logs.
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
        found = None
        with suppress(ModuleNotFoundError):  # one of the module's parents
            found = importlib.util.find_spec(module)
        if found is None:
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

    The texts below the fields are their descriptions in README.md.
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
    """Least severe log line that is written."""
    access_log: bool = False
    """Log each request; errors and control calls are logged anyway."""
    drain_seconds: float = Field(default=0.0, ge=0, le=600)
    """After SIGTERM, how long /ready answers 503 while new requests are still accepted: the time a
    load balancer needs to notice."""
    shutdown_seconds: Seconds = 30.0
    """After that, how long requests in flight may take to finish."""

    model_name: ModelName = DEFAULT_MODEL
    """The model of the unprefixed paths. Others are hosted at /models/{model_name} from their
    first reload on."""
    max_models: int = Field(default=1000, ge=1, le=10_000)
    """Most models hosted."""
    state_dir: Path = Path(".local/gateway")
    """Where the file store keeps the routing record, and every replica a snapshot of the last
    record that it routed by."""
    redis_url: Annotated[SecretStr, AfterValidator(_check_redis_url)] | None = None
    """Redis that keeps the routing record of replicas on several hosts: redis://, rediss:// or
    unix://. Unset: the file store, for one host."""
    store_seconds: Seconds = 0.5
    """Limit for one answer of the Redis that keeps the record."""

    replica_seconds: float = Field(default=5.0, ge=1, le=3600)
    """How long a replica that reports nothing more counts as live."""

    triton_url: Url = "http://127.0.0.1:8000"
    """Triton's HTTP address."""
    triton_servers_url: Urls | None = None
    """Every Triton behind triton_url, where a Service spreads requests over several: addresses
    separated by commas, or a name that resolves to all of them, as that of a headless Service,
    looked up every five seconds. Requests go to those that have the version READY; a switch needs
    each that can be reached to have it. Unset: triton_url is one Triton."""
    shadow_triton_url: Url | None = None
    """Triton for all variants B, when it is another one."""
    shadow_triton_servers_url: Urls | None = None
    """Every Triton behind shadow_triton_url, likewise."""
    shadow_model_name: ModelName | None = None
    """Name in Triton of the default model's variant B, when it is another one."""
    triton_connections: int = Field(default=16, ge=2, le=1024)
    """Most idle connections kept to one Triton."""
    triton_connect_seconds: Seconds = 1.0
    """Limit for opening a connection."""
    probe_seconds: Seconds = 1.0
    """Limit for a readiness or metadata question."""
    watch_seconds: Seconds = 0.5
    """How often the routing store is looked at, and each version that answers no requests is
    probed; at most 50 versions a second are, idle ones in turn."""
    staleness_seconds: Seconds = 3.0
    """How long a confirmed READY counts while Triton does not answer probes."""
    warm_up_seconds: Seconds = 30.0
    """Limit for the inference that proves a version before a switch."""

    mlflow_url: Url | None = None
    """MLflow's address. Unset: no registry, callers name the run_id."""
    mlflow_ui_url: Url | None = None
    """Where people find MLflow's pages; the status page then links each version to its run. Unset:
    it names the run alone."""
    mlflow_token: SecretStr | None = None
    """Bearer token for MLflow."""
    mlflow_username: str | None = None
    """User for MLflow's own login, in the place of a token."""
    mlflow_password: SecretStr | None = None
    """Password of that user."""
    mlflow_seconds: Seconds = 10.0
    """Limit for one question to MLflow."""

    feast_dir: Path | None = None
    """Directory of the feature_store.yaml that the pipeline renders, for predictions by entity id;
    it need not be there yet. Unset: rows come from requests alone, and Feast is not imported.
    Needs the extra 'feast'."""
    feature_seconds: Seconds = 0.1
    """Limit for one look-up; then the request's own rows are taken, or it is 503."""

    control_token: Key | None = None
    """Bearer token of the control endpoints; it is recorded as 'default'. Without this and
    GATEWAY_CONTROL_TOKENS one is generated: the file control-token in the state directory, whose
    place is logged at the start."""
    control_tokens: Annotated[
        tuple[tuple[str, SecretStr], ...], NoDecode, BeforeValidator(_split_tokens)
    ] = ()
    """Further control tokens as name:token, separated by commas. The routing record keeps the name
    of the token that made a change; two tokens of one person allow to replace one without a
    gap."""
    allowed_hosts: Names = ()
    """Names, separated by commas, that a request for clients' data (GET /shadow) may carry as its
    Host when it carries no control token, besides localhost and addresses; * is every name. A
    defence against DNS rebinding, which cannot forge a token."""
    cors_origins: Names = ()
    """Origins, separated by commas, whose web pages may ask for predictions, as
    https://app.example.com; * is every origin. Control endpoints never allow any."""

    api_keys: Keys = ()
    """Keys, separated by commas, one of which (or a control token) everything but health and
    readiness then needs, as 'X-API-Key: <key>' or 'Authorization: Bearer <key>'. Several, so that
    one can be replaced while clients still use the other. Unset: none is needed."""

    request_seconds: Seconds = 5.0
    """Deadline of one prediction."""
    max_body_bytes: int = Field(default=1_048_576, ge=256)
    """Largest body of a prediction."""
    max_pending_bytes: int = Field(default=67_108_864, ge=1_048_576)
    """Most bytes held for requests that have not arrived completely, over all clients; beyond it
    503."""
    head_seconds: Seconds = 10.0
    """Limit for receiving the target and headers of a request."""
    body_seconds: Seconds = 30.0
    """Limit for receiving a whole request, and for a client to take a response."""
    keep_alive_seconds: Seconds = 75.0
    """How long an idle connection is kept: longer than the idle timeout of the load balancers in
    front."""
    max_head_bytes: int = Field(default=16_384, ge=1_024, le=1_048_576)
    """Largest target and headers together."""
    max_rows: int = Field(default=MAX_BATCH_SIZE, ge=1, le=MAX_BATCH_SIZE)
    """Most rows in one prediction."""
    max_batch_rows: int = Field(default=64, ge=1, le=MAX_BATCH_SIZE)
    """Rows up to which concurrent requests are put into one Triton inference."""
    max_in_flight: int = Field(default=2, ge=1, le=256)
    """Most inferences under way per version at one time: one that Triton works on and one that
    waits there. More only helps a model with several instances."""
    max_queued: int = Field(default=1024, ge=1)
    """Most requests waiting per version; beyond it 503."""
    max_queued_bytes: int = Field(default=67_108_864, ge=1_048_576)
    """Most bytes of rows waiting for Triton, over all versions; beyond it 503."""
    mirror_queue: int = Field(default=1024, ge=1)
    """Most answers waiting to be mirrored; beyond it they are dropped."""
    mirror_queue_bytes: int = Field(default=16_777_216, ge=1_048_576)
    """Most bytes of answers waiting to be mirrored, over all models."""
    mirror_in_flight: int = Field(default=2, ge=1, le=64)
    """Most inferences of mirrored requests under way."""
    mirror_gather_seconds: float = Field(default=0.02, ge=0, le=1)
    """How long a copy waits for others to go to B in one inference with."""
    shadow_examples: int = Field(default=5, ge=0, le=100)
    """Rows that both variants label differently, kept for GET /shadow; they hold clients' data and
    are shown to callers that may change what is served. 0 keeps none."""

    sample_dir: Annotated[Path, _needs("pyarrow", "samples")] | None = None
    """Where samples of answered predictions are written as Parquet, a folder for each model.
    Unset: nothing is sampled. Needs the extra 'samples'. The files hold clients' data."""
    sample_fraction: float = Field(default=0.1, gt=0, le=1)
    """Share of the requests that are sampled."""
    sample_rows_per_file: int = Field(default=10_000, ge=1, le=1_000_000)
    """Rows after which a file is written."""
    sample_seconds: Seconds = 60.0
    """Age of the oldest row after which a file is written anyway."""
    sample_queue_rows: int = Field(default=10_000, ge=MAX_BATCH_SIZE)
    """Most rows waiting for the writer; beyond it samples are dropped and counted."""
    sample_queue_bytes: int = Field(default=33_554_432, ge=4_194_304)
    """Most bytes of the rows waiting for the writer, and again of those that it gathers for files:
    beyond it samples are dropped, and files are written early."""
    sample_max_bytes: int = Field(default=268_435_456, ge=1_048_576)
    """Most bytes of a model's samples; the oldest files are deleted."""

    otlp_endpoint: (
        Annotated[Url, _needs("opentelemetry.exporter.otlp.proto.http", "tracing")] | None
    ) = None
    """Base address of an OpenTelemetry collector, for OTLP over HTTP, as http://collector:4318:
    predictions and the inferences that answer them are traced. Unset: none is; a caller's
    traceparent goes on to Triton all the same. Needs the extra 'tracing'."""
    trace_fraction: float = Field(default=0.01, ge=0, le=1)
    """Share of the predictions traced that come without a traceparent; the others are traced when
    that says so."""

    @property
    def triton_servers(self) -> dict[str, str | None]:
        """Addresses of Tritons, and every server behind each; None for a single one."""
        found = {self.triton_url: self.triton_servers_url}
        if self.shadow_triton_url is not None:
            found.setdefault(self.shadow_triton_url, self.shadow_triton_servers_url)
        return found
