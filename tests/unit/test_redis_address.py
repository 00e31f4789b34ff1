"""Addresses of Redis: one syntax for the gateway and, by way of Feast's own, the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import ConnectionPool

from platform_assets.resources.feast import FeastResource
from platform_assets.resources.feast_errors import FeatureStoreError
from platform_assets.resources.redis_address import connection_string, require_redis
from serving_gateway.contract import import_feast
from tests.support.servers import free_port


def _by_feast(url: str) -> tuple[str, dict[str, Any]]:
    """The class of connection and its options, as Feast makes them of its own form."""
    import_feast()
    from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig

    config = RedisOnlineStoreConfig(connection_string=connection_string(url))
    pool = RedisOnlineStore()._get_client(config).connection_pool
    options = pool.connection_kwargs
    if "port" in options:
        options["port"] = int(options["port"])
    return pool.connection_class.__name__, options


def _by_redis(url: str) -> tuple[str, dict[str, Any]]:
    """The same, as the gateway makes them for its routing record."""
    pool = ConnectionPool.from_url(url)
    return pool.connection_class.__name__, pool.connection_kwargs


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1",
        "redis://:ab%2Ccd@127.0.0.1:6379/0",
        "redis://user:1e5@cache:6380/3",
        *(f"redis://:{word}@cache" for word in ("true", "null", "007", "%22x%22", "a=b%5Cu002c")),
        "redis://cache?socket_timeout=0.25&health_check_interval=5&client_name=a,b",
        "rediss://u:p@cache:6380/0?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required",
        "rediss://cache?ssl_check_hostname=false&ssl_certfile=/a,b.pem&ssl_keyfile=/k.pem",
        "unix://:p%2Cw@/run/redis.sock?db=2",
    ],
)
def test_feast_gets_what_redis_own_client_reads_in_a_url(url: str) -> None:
    kind, options = _by_redis(url)
    kind_by_feast, by_feast = _by_feast(url)
    assert kind_by_feast == kind
    assert {name: by_feast[name] for name in options} == options


# The first text is slow to draw: tables of all characters are made.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(password=st.text(min_size=1).filter(lambda one: max(one) < "\ud800" or min(one) > "\udfff"))
def test_any_password_reaches_redis(password: str) -> None:
    from urllib.parse import quote

    _, options = _by_feast(f"redis://:{quote(password, safe='')}@cache:6379/0")
    assert options["password"] == password


@pytest.mark.parametrize("url", ["cache:6379,db=0,password=s3cret", "redis://:s3cret#@cache:x/0"])
def test_what_is_not_a_url_is_refused_before_anything_is_written(tmp_path: Path, url: str) -> None:
    feast = FeastResource(state_dir=str(tmp_path), online_store="redis", redis=url)
    with pytest.raises(FeatureStoreError, match="redis://, rediss:// or unix://") as caught:
        feast.render()
    assert "s3cret" not in str(caught.value)
    assert [*tmp_path.iterdir()] == []


def test_redis_that_does_not_answer_is_named_without_its_password() -> None:
    port = free_port()
    with pytest.raises(FeatureStoreError, match=f"127.0.0.1:{port} does not answer") as caught:
        require_redis(f"redis://:s3cret@127.0.0.1:{port}/0")
    assert "s3cret" not in str(caught.value)
