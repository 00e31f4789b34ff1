"""What the gateway knows of Feast's storage, compared with the installed Feast and Redis client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving_gateway.contract import import_feast
from serving_gateway.features import feast_redis
from serving_gateway.features.blocking_reader import BlockingReader, _rows
from serving_gateway.features.entity_ids import ID_TYPES, ServiceKey
from serving_gateway.features.entity_rows import HashRead, KeyRead, View, ViewRead
from serving_gateway.features.feast_redis import derive_command, make_hashes
from serving_gateway.features.planned_read import KeyedIds, PlannedRead
from serving_gateway.features.row_decoder import make_row_decoder, plain_value
from serving_gateway.features.types import LookupRequest, rfc3339
from tests.support.servers import free_port

NULL: Any = 0
FEATURES = ("width", "Größe", "count")
NAMES = ("petals", "sepals")
INTS = st.integers(-(1 << 63), (1 << 63) - 1)
IDS = {"INT64": INTS, "INT32": st.integers(-(1 << 31), (1 << 31) - 1), "STRING": st.text()}


@pytest.fixture(scope="module", autouse=True)
def _feast() -> None:
    """Imported as the gateway does it: in a quarter of the time."""
    import_feast()


def value(**fields: Any) -> Any:
    """Feast's message; importing Feast takes seconds, so no module does it."""
    from feast.protos.feast.types.Value_pb2 import Value

    return Value(**fields)


def list_value(numbers: list[float]) -> Any:
    from feast.protos.feast.types.Value_pb2 import FloatList

    return value(float_list_val=FloatList(val=numbers))


VALUES = {
    "FLOAT": st.builds(value, float_val=st.floats(width=32)),
    "DOUBLE": st.builds(value, double_val=st.floats()),
    "INT64": st.builds(value, int64_val=INTS),
    "BOOL": st.builds(value, bool_val=st.booleans()),
    "STRING": st.builds(value, string_val=st.text()),
    "BYTES": st.builds(value, bytes_val=st.binary()),
    "NULL": st.builds(value, null_val=st.just(NULL)),
    "UNSET": st.builds(value),
    "LIST": st.builds(list_value, st.just([1.0])),
}


def config(**options: Any) -> Any:
    from feast.infra.online_stores.redis import RedisOnlineStoreConfig

    online = RedisOnlineStoreConfig(**options)
    return SimpleNamespace(
        project="my_project",
        online_store=online,
        entity_key_serialization_version=3,
        registry=SimpleNamespace(enable_online_feature_view_versioning=False),
    )


class RecordingClient:
    """Stands in for Redis's client: records what is read, and has none of it."""

    def __init__(self) -> None:
        self.reads: list[tuple[bytes, list[bytes | str]]] = []

    def pipeline(self, **_: bool) -> contextlib.nullcontext[RecordingClient]:
        return contextlib.nullcontext(self)

    def hmget(self, key: bytes, fields: list[bytes | str]) -> None:
        self.reads.append((key, fields))

    def execute(self) -> list[list[None]]:
        return [[None] * len(fields) for _, fields in self.reads]


@cache
def command_of(id_type: str) -> Callable[[Any], bytes]:
    hashes = hashes_of(view("petals", id_type))
    assert hashes is not None
    [one] = hashes
    return one.command


def view(name: str, id_type: str = "INT64", key: str = "plant") -> View:
    return View(name, SimpleNamespace(name=name), ServiceKey(key, ID_TYPES[id_type]), key, 0)


def hashes_of(*views: View) -> list[HashRead] | None:
    types = ["FLOAT"] * len(FEATURES)
    reads = [ViewRead(one, FEATURES, types, FEATURES, []) for one in views]
    return make_hashes(config(), views[0].key.id_type, reads)


def resp(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)


# The first text is slow to draw: tables of all characters are made.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data(), id_type=st.sampled_from([*IDS]))
def test_keys_and_fields_are_those_of_feast(data: st.DataObject, id_type: str) -> None:
    from feast.infra.online_stores.helpers import _mmh3, _redis_key
    from feast.infra.online_stores.redis import RedisOnlineStore

    one: Any = data.draw(IDS[id_type])
    keys = ID_TYPES[id_type].keys("plant", [one])
    store: Any = RedisOnlineStore()
    client = store._client = RecordingClient()
    store.online_read(config(), SimpleNamespace(name="petals"), keys, [*FEATURES])
    [(key, fields)] = client.reads
    encoded = [one.encode() if isinstance(one, str) else one for one in fields]
    assert command_of(id_type)(one) == resp(b"HMGET", key, *encoded)
    assert key == _redis_key("my_project", keys[0])
    names = [f"petals:{name}" for name in FEATURES]
    assert encoded == [*map(_mmh3, names), b"_ts:petals"]


def test_views_of_one_key_are_read_by_one_command() -> None:
    both, petals, sepals = (
        [one.command(7).split(b"\r\n") for one in hashes_of(*map(view, names)) or ()]
        for names in (NAMES, NAMES[:1], NAMES[1:])
    )
    assert both == [[b"*10", *petals[0][1:-1], *sepals[0][5:]]]
    [one] = hashes_of(*map(view, NAMES)) or []
    stamp = Timestamp(seconds=5).SerializeToString()
    values = [b"\x35\x00\x00\x80\x3f", None, b"\x35\x00\x00\x00\x40", stamp]
    assert one.rows([[*values, *[None] * 4]]) == [[(5.0, [1.0, None, 2.0])], [(0.0, [None] * 3)]]
    assert one.width == 8
    apart = hashes_of(view("petals"), view("sepals", key="other"))
    assert apart is not None
    assert [hashed.width for hashed in apart] == [4, 4]


@pytest.mark.parametrize("broken", ["key", "field", "timestamp", "id"])
def test_unknown_layout_is_recognized(broken: str) -> None:
    id_type = ID_TYPES["INT64"]
    reads = feast_redis.redis_reads(config(), view("v"), id_type, ["a"])
    key, (field, stamp) = reads[2]
    wrong = {
        "key": [*reads[:2], (key + b"!", [field, stamp]), *reads[3:]],
        "field": [*reads[:2], (key, [b"other", stamp]), *reads[3:]],
        "timestamp": [(one, [field, b"when"]) for one, _ in reads],
        "id": [(one[::-1], own) for one, own in reads],
    }[broken]
    assert derive_command(id_type, reads)(0).endswith(b"_ts:v\r\n")
    with pytest.raises(ValueError, match="unknown form"):
        derive_command(id_type, wrong)


def plain_by_protobuf(serialized: bytes | None) -> Any:
    return plain_value(value().FromString(serialized)) if serialized else None


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data(), types=st.lists(st.sampled_from(["FLOAT", "DOUBLE", "INT64"]), max_size=5))
def test_rows_are_decoded_as_protobuf_does(data: st.DataObject, types: list[str]) -> None:
    """Also where other types are stored than the definitions say."""
    row: list[bytes | None] = []
    for own in types:
        any_value = st.one_of(VALUES[own], VALUES[own], VALUES[own], *VALUES.values())
        serialized = any_value.map(lambda value: value.SerializeToString())
        row.append(data.draw(st.one_of(serialized, serialized, serialized, st.none())))
    nanos = data.draw(st.none() | st.integers(0, 10**9 - 1))
    stamp = None if nanos is None else Timestamp(seconds=1_700_000_000, nanos=nanos)
    seconds, values = make_row_decoder(types)([*row, stamp and stamp.SerializeToString()])
    assert values == [plain_by_protobuf(one) for one in row]
    assert [type(one) for one in values] == [type(plain_by_protobuf(one)) for one in row]
    assert seconds == pytest.approx(stamp.seconds + stamp.nanos / 1e9 if stamp else 0.0)


@pytest.mark.parametrize("seconds", [-62_135_596_801, 253_402_300_800, 10**12])
def test_time_outside_of_the_calendar_is_corrupt(seconds: int) -> None:
    stamp = Timestamp(seconds=seconds).SerializeToString()
    with pytest.raises(ValueError, match="not a time"):
        make_row_decoder(["FLOAT"])([b"\x35\x00\x00\x80\x3f", stamp])


@pytest.mark.parametrize(
    ("seconds", "time"), [(-62_135_596_800, "0001-01-01T00"), (253_402_300_799, "9999-12-31T23")]
)
def test_first_and_last_time_of_the_calendar_can_be_shown(seconds: int, time: str) -> None:
    stamp = Timestamp(seconds=seconds).SerializeToString()
    observed_at, _ = make_row_decoder(["FLOAT"])([None, stamp])
    assert rfc3339(observed_at or 0).startswith(time)


@pytest.mark.parametrize(
    "fields",
    [
        *(None, {}, {"null_val": NULL}, {"string_val": ""}),
        *({"float_val": float("nan")}, {"double_val": float("nan")}),
    ],
)
def test_null_in_any_form_is_none(fields: dict[str, Any] | None) -> None:
    null = None if fields is None else value(**fields)
    assert plain_value(null) is None
    serialized = None if null is None else null.SerializeToString()
    for kind in ("FLOAT", "STRING"):
        _, values = make_row_decoder([kind, "FLOAT"])([serialized, b"\x35\x00\x00\x80\x3f", None])
        assert values == [None, 1.0]


def test_timestamps_without_a_zone_are_in_utc() -> None:
    noon = datetime(2024, 6, 1, 12, tzinfo=UTC)
    stamps = [noon, noon.replace(tzinfo=None), noon.astimezone(timezone(timedelta(hours=9)))]
    store = SimpleNamespace(online_read=lambda *_: [(stamp, None) for stamp in [*stamps, None]])
    own = view("v")
    read = ViewRead(own, ["a"], ["FLOAT"], ("a",), [0])
    keyed = KeyedIds(KeyRead(own.key, ("a",), [read], None), [1], {}, None)
    planned = PlannedRead(None, LookupRequest("s", ("a",), [1]), [keyed], None, True)
    found = _rows(store, planned, keyed, read)
    assert found == [*[(noon.timestamp(), None)] * 3, (None, None)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, True), ({"redis_type": "redis_cluster"}, False), ({"client": "glide"}, False)],
)
def test_only_a_plain_redis_is_read_on_the_loop(options: dict[str, Any], expected: bool) -> None:
    assert feast_redis.is_plain_redis(config(**options)) is expected


async def test_connection_is_that_of_redis_own_client_and_can_be_taken_over() -> None:
    """AUTH and SELECT of the connection string are sent; replies then come to our protocol."""
    received: list[bytes] = []
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                received.append(data)
                writer.write(b"+OK\r\n" * data.count(b"*"))
        writer.close()
        ended.set()

    port = free_port()
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    text = f"127.0.0.1:{port},password=secret,db=3,socket_timeout=0.25,retry=null,protocol=2"
    writer, limit = await feast_redis.connect_redis(config(connection_string=text))
    assert limit == 0.25
    sent = b"".join(received)
    assert b"AUTH\r\n$6\r\nsecret" in sent
    assert b"SELECT\r\n$1\r\n3" in sent
    replies: asyncio.Queue[bytes] = asyncio.Queue()

    class Taken(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            replies.put_nowait(data)

    writer.transport.set_protocol(Taken())
    writer.transport.write(b"*1\r\n$4\r\nPING\r\n")
    async with asyncio.timeout(5):
        assert await replies.get() == b"+OK\r\n"
    writer.transport.abort()
    await ended.wait()
    server.close()
    await server.wait_closed()


def test_closing_an_online_store_closes_its_connections() -> None:
    from feast.infra.online_stores.redis import RedisOnlineStore
    from feast.infra.online_stores.sqlite import SqliteOnlineStore

    closed: list[str] = []

    class Connection:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)
            raise OSError("it was broken")

    reader = BlockingReader("s")
    reader._store = SimpleNamespace(_conn=Connection("sqlite"), _client=Connection("redis"))
    reader.close()
    reader._thread._thread.join(5)
    assert closed == ["sqlite", "redis"]
    assert hasattr(SqliteOnlineStore, "_conn")
    assert hasattr(RedisOnlineStore, "_client")
