"""The manifests as podman is told them: nothing that they mean gets lost on the way."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.manifests.local.platform import new_secrets, played_objects
from tests.manifests.local.security import faults
from tests.manifests.local.translate import Play, plays
from tests.manifests.local.variables import UntranslatableError

SECRETS = new_secrets()
VOLUMES = Path("/volumes")
EMPTY = Path("/empty")


def translated(objects: list[dict[str, Any]]) -> dict[str, Play]:
    found = plays(
        objects,
        secrets=SECRETS,
        image=lambda name: f"localhost/{name}",
        volume_folder=lambda name: VOLUMES / name,
        empty_folder=lambda name: EMPTY / name,
    )
    return {play.name: play for play in found}


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    return list(played_objects())


@pytest.fixture(scope="module")
def played(objects: list[dict[str, Any]]) -> dict[str, Play]:
    return translated(objects)


def the(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name)


def container(play: Play) -> dict[str, Any]:
    return dict(play.pod["spec"]["containers"][0])


def test_every_workload_and_every_name_of_a_service_is_there(
    objects: list[dict[str, Any]], played: dict[str, Play]
) -> None:
    workloads = {
        o["metadata"]["name"] for o in objects if o["kind"] in {"Deployment", "StatefulSet"}
    }
    services = {o["metadata"]["name"] for o in objects if o["kind"] == "Service"}
    names = {name for play in played.values() for name in (play.name, *play.aliases)}

    assert set(played) == workloads
    assert services <= names


def test_state_comes_first_and_the_gateway_last(played: dict[str, Play]) -> None:
    order = list(played)

    assert order.index("postgres") < order.index("mlflow") < order.index("dagster-code")
    assert order[-1] == "gateway"


def test_pods_are_confined_as_the_manifests_say(
    objects: list[dict[str, Any]], played: dict[str, Play]
) -> None:
    for play in played.values():
        rendered_container = play.container
        for pod in (play.pod, *play.before):
            assert pod["spec"]["securityContext"]["runAsUser"] == 10001
            inner = pod["spec"]["containers"][0]["securityContext"]
            assert inner == rendered_container["securityContext"]
            assert inner["readOnlyRootFilesystem"] is True


def test_no_reference_is_left_to_expand(played: dict[str, Play]) -> None:
    values = {entry["name"]: entry.get("value") for entry in container(played["mlflow"])["env"]}
    login = SECRETS["postgres-credentials"]

    assert values["MLFLOW_BACKEND_STORE_URI"] == (
        f"postgresql+psycopg2://{login['username']}:{login['password']}@postgres:5432/mlflow"
    )
    for play in played.values():
        inner = container(play)
        assert "$(" not in json.dumps([inner.get("env"), inner.get("args")])


def test_a_variable_of_the_container_overrides_that_of_a_whole_config_map(
    played: dict[str, Play],
) -> None:
    inner = container(played["dagster-code"])
    entries = [entry for entry in inner["env"] if entry["name"] == "FEAST_REDIS"]

    assert [list(entry) for entry in entries] == [["name", "valueFrom"]]
    assert "envFrom" not in inner
    assert {"name": "MODEL_REPOSITORY", "value": "/models"} in inner["env"]


def test_a_folder_of_a_volume_is_mounted_and_not_the_volume(played: dict[str, Play]) -> None:
    spec = played["gateway"].pod["spec"]
    mounts = {mount["mountPath"]: mount for mount in spec["containers"][0]["volumeMounts"]}
    paths = {volume["name"]: volume.get("hostPath", {}).get("path") for volume in spec["volumes"]}

    assert paths[mounts["/state/feast"]["name"]] == str(VOLUMES / "platform-state" / "feast")
    assert mounts["/state/feast"]["readOnly"] is True
    assert paths[mounts["/state/samples"]["name"]] == str(VOLUMES / "platform-state" / "samples")
    assert "subPath" not in json.dumps([play.pod for play in played.values()])


def test_mounted_folders_of_volumes_are_made_by_what_is_played_first(
    played: dict[str, Play],
) -> None:
    made = 0
    for play in played.values():
        commands = [pod["spec"]["containers"][0]["command"] for pod in play.before]
        paths = (one.get("hostPath", {}).get("path", "") for one in play.pod["spec"]["volumes"])
        for folder in (Path(path).name for path in paths if path.startswith(str(VOLUMES))):
            assert f"/state/{folder}" in json.dumps(commands), (play.name, folder)
            made += 1
    assert made == 3


def test_no_two_pods_share_an_empty_folder(played: dict[str, Play]) -> None:
    mounted = [
        Path(volume["hostPath"]["path"])
        for play in played.values()
        for pod in (play.pod, *play.before)
        for volume in pod["spec"]["volumes"]
        if volume.get("hostPath", {}).get("path", "").startswith(f"{EMPTY}/")
    ]

    assert len(mounted) > len(played)
    assert len(set(mounted)) == len(mounted)
    assert set(mounted) == {folder for play in played.values() for folder in play.empty}


def test_triton_reads_the_repository_that_runs_write(played: dict[str, Play]) -> None:
    def mount(name: str) -> dict[str, Any]:
        mounts = container(played[name])["volumeMounts"]
        return next(m for m in mounts if m["mountPath"] == "/models")

    assert mount("triton")["readOnly"] is True
    assert not mount("dagster-code").get("readOnly", False)


def test_what_comes_before_a_container_is_played_once_and_first(played: dict[str, Play]) -> None:
    assert [pod["metadata"]["name"] for pod in played["gateway"].before] == [
        "gateway-prepare-state"
    ]
    assert {pod["spec"]["restartPolicy"] for p in played.values() for pod in p.before} == {"Never"}
    assert {p.pod["spec"]["restartPolicy"] for p in played.values()} == {"Always"}


def _unknown_kind(objects: list[dict[str, Any]]) -> None:
    objects.append({"kind": "DaemonSet", "metadata": {"name": "x"}})


def _second_container(objects: list[dict[str, Any]]) -> None:
    spec = the(objects, "Deployment", "triton")["spec"]["template"]["spec"]
    spec["containers"].append(spec["containers"][0])


def _moved_port(objects: list[dict[str, Any]]) -> None:
    the(objects, "Service", "mlflow")["spec"]["ports"][0]["port"] = 80


def _unknown_secret(objects: list[dict[str, Any]]) -> None:
    spec = the(objects, "Deployment", "triton")["spec"]["template"]["spec"]
    reference = {"secretKeyRef": {"name": "nobody", "key": "made"}}
    spec["containers"][0]["env"].append({"name": "X", "valueFrom": reference})


def _missing_config(objects: list[dict[str, Any]]) -> None:
    objects.remove(the(objects, "ConfigMap", "pipeline-environment"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_unknown_kind, "DaemonSet x"),
        (_second_container, "2 containers"),
        (_moved_port, "moves port 80"),
        (_unknown_secret, "'made' of the secret 'nobody'"),
        (_missing_config, "pipeline-environment"),
    ],
)
def test_what_podman_could_not_play_faithfully_is_refused(
    objects: list[dict[str, Any]], change: Callable[[list[dict[str, Any]]], None], said: str
) -> None:
    changed = copy.deepcopy(objects)
    change(changed)

    with pytest.raises(UntranslatableError, match=said):
        translated(changed)


CONFINED = {"HostConfig": {"ReadonlyRootfs": True, "Privileged": False}}
STATUS = """Uid:\t10001\t10001\t10001\t10001
Gid:\t10001\t10001\t10001\t10001
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2"""


def test_a_confined_container_has_no_fault() -> None:
    assert list(faults(CONFINED, STATUS)) == []


@pytest.mark.parametrize(
    ("inspected", "status", "said"),
    [
        (CONFINED, STATUS.replace("Uid:\t10001", "Uid:\t0"), "runs as"),
        (CONFINED, STATUS.replace("CapBnd:\t0", "CapBnd:\t1"), "CapBnd"),
        (CONFINED, STATUS.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0"), "gain privileges"),
        (CONFINED, STATUS.replace("Seccomp:\t2", "Seccomp:\t0"), "seccomp"),
        ({"HostConfig": {"ReadonlyRootfs": False, "Privileged": False}}, STATUS, "write its root"),
        ({"HostConfig": {"ReadonlyRootfs": True, "Privileged": True}}, STATUS, "privileged"),
    ],
)
def test_a_container_with_more_privileges_is_reported(
    inspected: dict[str, Any], status: str, said: str
) -> None:
    found = list(faults(inspected, status))

    assert len(found) == 1
    assert said in found[0]
