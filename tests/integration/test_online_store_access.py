"""Several writers and readers of one online store, and every way to reach a Redis."""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

from platform_assets.features.feast_definitions import feast_definitions
from platform_assets.features.materialization import update_online
from platform_assets.features.reading import read_source
from platform_assets.features.sources.reader import Progress
from platform_assets.features.storage import write_feature_data
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.redis_address import require_redis
from tests.support.feature_chain import FeatureChain
from tests.support.servers import free_port, run_redis
from tests.support.visits import (
    SPEC,
    changes,
    read_as_gateway,
    run,
    visit_lines,
    visits_chain,
    write_source,
)


def test_reads_wait_for_no_writer_and_writers_as_long_as_it_takes(tmp_path: Path) -> None:
    chain = visits_chain(tmp_path)
    run(chain)
    with closing(sqlite3.connect(chain.feast.home / "online.db")) as writer:
        # What a transaction takes that has outgrown the page cache.
        writer.execute("BEGIN EXCLUSIVE")
        [found] = asyncio.run(read_as_gateway(chain.feast, 1))
        assert found.values == [1.5]
    write_source(chain, visit_lines(range(40), x=0.75))
    held = threading.Event()

    def hold() -> None:
        with (
            closing(sqlite3.connect(chain.feast.home / "online.db")) as online,
            closing(sqlite3.connect(chain.feast.home / "registry.db")) as registry,
        ):
            for database in (online, registry):
                database.execute("BEGIN IMMEDIATE")
            held.set()
            time.sleep(6)  # longer than SQLite waits by itself

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    assert changes(run(chain)) == (40, 0)
    thread.join()


def _materialize(home: Path, name: str) -> str:
    spec = dataclasses.replace(SPEC, model_name=name)
    chain = visits_chain(home / name, spec=spec)
    chain.feast = FeastResource(state_dir=str(home / "feast"))
    write_source(chain, visit_lines(range(20_000)))
    return str(chain.run().failures)


def test_chains_of_several_models_start_at_once_on_a_new_store(tmp_path: Path) -> None:
    names = ("one", "two", "three")
    # As the stack forks its runs: three interpreters of their own would import all of Feast each.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["platform_assets.local_stack.run_imports"])
    with ProcessPoolExecutor(3, context) as pool:
        assert [*pool.map(_materialize, [tmp_path] * 3, names)] == ["{}"] * 3
    feast = FeastResource(state_dir=str(tmp_path / "feast"))
    for name in names:
        spec = dataclasses.replace(SPEC, model_name=name)
        assert feast.views(name) == [spec.feature_view]
        [row] = feast.online(spec.feature_view).read([19_999])
        assert row.values["x"] == 19_999.5


def test_files_of_two_writers_with_one_process_id_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every container's main process has number 1; the volume is shared."""
    chain = visits_chain(tmp_path)
    staged: list[str] = []
    replace = Path.replace

    def recording(self: Path, target: Any) -> Path:
        staged.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", recording)
    for _ in range(2):
        write_feature_data(read_source(SPEC, chain.resource), SPEC, chain.feast.data_dir)
    chain.feast.render()
    assert len(staged) == 5
    assert len({*staged}) == 5
    assert not any(f".{one}." in name for name in staged for one in ("1", str(_own_id())))


def _own_id() -> int:
    return multiprocessing.current_process().pid or 0


@pytest.mark.needs("redis-server")
def test_redis_without_scripts_serves_the_whole_chain(tmp_path: Path) -> None:
    """Some managed services take EVAL away, and dangerous commands with it."""
    with run_redis(tmp_path / "redis") as running:
        with redis_client.Redis(port=running.port) as admin:
            rights = ("+@read", "+@write", "+@connection", "-@scripting", "-@dangerous")
            admin.execute_command("ACL", "SETUSER", "feast", "on", ">pw", "~*", *rights)
            admin.execute_command("ACL", "SETUSER", "default", "off")
        chain = visits_chain(tmp_path, f"redis://feast:pw@127.0.0.1:{running.port}/0")
        run(chain)
        write_source(chain, visit_lines(range(1, 40)))
        assert changes(run(chain)) == (0, 1)
        [found] = asyncio.run(read_as_gateway(chain.feast, 1))
        assert found.values == [1.5]
        chain.feast.delete_service(SPEC.feature_view)


@pytest.mark.needs("redis-server")
def test_feast_and_the_gateway_reach_redis_by_the_same_address(tmp_path: Path) -> None:
    """By TLS with an authority of its own, IPv6, a socket, and a password with a comma."""
    authority, key, path = (tmp_path / name for name in ("ca.pem", "key.pem", "redis.sock"))
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = "subjectAltName=IP:127.0.0.1,IP:::1"
    files = ["-keyout", str(key), "-out", str(authority)]
    subprocess.run(
        [*make.split(), "-subj", "/CN=redis", "-addext", names, *files],
        check=True,
        capture_output=True,
    )
    tls = free_port()
    options = {
        "requirepass": "ab,cd",
        "unixsocket": path,
        "tls-port": tls,
        "tls-cert-file": authority,
        "tls-key-file": key,
        "tls-auth-clients": "no",
    }
    given = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    with run_redis(tmp_path / "redis", *given, "--bind", "127.0.0.1", "::1") as running:
        urls = (
            f"redis://:ab%2Ccd@127.0.0.1:{running.port}/1",
            f"redis://:ab%2Ccd@[::1]:{running.port}/1",
            f"rediss://:ab%2Ccd@[::1]:{tls}/1?ssl_ca_certs={authority}",
            f"unix://:ab%2Ccd@{path}?db=1",
        )
        for number, url in enumerate(urls):
            require_redis(url)
            chain = visits_chain(tmp_path / f"chain-{number}", url)
            _apply_and_write(chain)
            [found] = asyncio.run(read_as_gateway(chain.feast, 1))
            assert found.values == [1.5], url


def _apply_and_write(chain: FeatureChain) -> None:
    chain.feast.apply(feast_definitions(chain.spec, chain.feast.data_dir))
    source = read_source(chain.spec, chain.resource)
    data = write_feature_data(source, chain.spec, chain.feast.data_dir)
    update_online(chain.feast, data, chain.spec, Progress(None))
