"""What a failure says to people."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from platform_assets.resources.failures import failure
from platform_assets.resources.feast import FeastResource, FeatureStoreError
from platform_assets.resources.mlflow_client import RegistryError
from platform_assets.resources.mlflow_runs import store_artifact

SECRET = "s3cr3t-token-value"


def test_a_failure_holds_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_CONTROL_TOKEN", SECRET)
    refusal = failure(f"the file /data/{SECRET}.csv is missing", f"write {SECRET}, or do not.")
    assert SECRET not in f"{refusal.description} {refusal.metadata}"
    assert "The file /data/***.csv is missing." in str(refusal.description)
    assert "What to do: write ***, or do not." in str(refusal.description)


@pytest.mark.parametrize(
    "address", ["redis://joe:{}@nowhere.invalid:6379", "rediss://:{}@127.0.0.1:1"]
)
def test_an_unreachable_redis_is_named_without_its_password(tmp_path: Path, address: str) -> None:
    redis = address.format(SECRET)
    feast = FeastResource(state_dir=str(tmp_path), online_store="redis", redis=redis)
    with pytest.raises(FeatureStoreError, match="does not answer") as refused:
        feast.online("view")
    assert SECRET not in str(refused.value)


def test_a_full_disk_beside_mlflow_is_a_refusal_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RegistryError, match="this machine cannot store a/b with run r: No space"):
        store_artifact(None, "r", "a/b", b"")
