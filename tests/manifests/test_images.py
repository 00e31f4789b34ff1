"""The Dockerfiles: what they install is what is locked, and their Triton starts anywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import httpx
import pytest

from tests.manifests.local.images import BASE, OURS, STAND_INS, Recipe
from tests.support.onnx_models import iris_classifier, write_entry
from tests.support.servers import LOOPBACK, ROOT, TRITON_ENV, RunningProcess, free_port

INSTALL = (
    "/opt/venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: --no-deps "
    "-r /tmp/lock.txt"
)
CHECK = " && /opt/venv/bin/pip check"
SYSTEM = {"readygate/pipeline": {"libgomp1"}}
"""Debian's packages that an image installs beside Python's: what a locked package links to."""
SCRIPTS = ROOT / "k8s" / "base" / "triton"


def instructions(recipe: Recipe) -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), its continued lines joined."""
    text = (ROOT / recipe.dockerfile).read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line[:1].isalpha()]
    return [(words[0], " ".join(words[1].split())) for words in lines]


def sources(recipe: Recipe) -> list[str]:
    """What the Dockerfile copies out of the repository, with its arguments filled in."""
    locks = {"${LOCK}": recipe.arguments.get("LOCK", "")}
    copied = [words.split()[:-1] for kind, words in instructions(recipe) if kind == "COPY"]
    return [locks.get(name, name) for names in copied if "--from" not in names[0] for name in names]


def each(recipes: tuple[Recipe, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("recipe", recipes, ids=lambda recipe: recipe.image)


def test_hadolint_finds_nothing() -> None:
    folders = (ROOT / "k8s", ROOT / "tests" / "manifests")
    files = [str(path) for folder in folders for path in sorted(folder.rglob("Dockerfile"))]
    assert len(files) == len(OURS) + len(STAND_INS)

    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, *files], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


@each(OURS)
def test_an_image_installs_a_lock_file_with_its_hashes_and_nothing_else(recipe: Recipe) -> None:
    installing = [
        words for kind, words in instructions(recipe) if kind == "RUN" and " install" in words
    ]
    system = [words for words in installing if words.startswith("apt-get ")]
    installing = [words for words in installing if words not in system]
    named = {name for words in system for name in re.findall(r"recommends (.+?) &&", words)}
    assert named == SYSTEM.get(recipe.image, set())
    locks = [name for name in sources(recipe) if name.endswith(".lock.txt")]

    expected = INSTALL if recipe.image.endswith("/triton") else INSTALL + CHECK
    assert [words.partition("/etc/pip.conf ")[2] for words in installing] == [expected]
    assert locks, "no lock file is copied"
    assert all("--hash=sha256:" in (ROOT / lock).read_text() for lock in locks)


@each((*OURS, *STAND_INS.values()))
def test_an_image_has_the_shared_base_and_an_unprivileged_user(recipe: Recipe) -> None:
    read = instructions(recipe)

    assert read[0] == ("ARG", f"BASE={BASE}")
    assert {words.split()[0] for kind, words in read if kind == "FROM"} == {"${BASE}"}
    assert [words for kind, words in read if kind == "USER"] == ["10001:10001"]


@each((*OURS, *STAND_INS.values()))
def test_what_an_image_copies_is_there(recipe: Recipe) -> None:
    assert sources(recipe) or recipe not in OURS
    for name in sources(recipe):
        assert (ROOT / name).exists(), name


@each(OURS)
def test_the_build_context_lets_through_all_that_is_copied_and_no_more(recipe: Recipe) -> None:
    ignored = (ROOT / recipe.dockerfile).with_name("Dockerfile.dockerignore").read_text()
    let_through = re.findall(r"^!(.+)$", ignored, flags=re.MULTILINE)
    copied = sources(recipe)

    assert "\n*\n" in ignored
    for name in copied:
        assert any(
            fnmatch(name, pattern) or name.startswith(f"{pattern}/") for pattern in let_through
        )
    for pattern in let_through:
        assert any(fnmatch(name, pattern) or name.startswith(f"{pattern}/") for name in copied)


def lay_out(folder: Path) -> None:
    """Run the step that makes `/opt/tritonserver`, with what was copied for it and Python alone."""
    (recipe,) = (one for one in OURS if one.image.endswith("/triton"))
    read = instructions(recipe)
    for kind, words in read:
        *names, target = words.split()
        if kind == "COPY" and target.startswith("/build/"):
            for name in names:
                source, place = ROOT / name, folder / target.lstrip("/")
                place = place / source.name if target.endswith("/") else place
                place.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if source.is_dir() else shutil.copy)(source, place)
    (step,) = (words for kind, words in read if kind == "RUN" and "layout.py" in words)
    for path, here in (
        ("/build", folder / "build"),
        ("/opt/venv", TRITON_ENV.absolute()),
        ("/opt/tritonserver", folder / "tritonserver"),
        ("python3", f"{sys.executable} -S"),
    ):
        step = step.replace(path, str(here))
    subprocess.run(["/bin/sh", "-c", step], env={"PATH": "/usr/bin:/bin"}, cwd=folder, check=True)


def test_the_images_tritonserver_starts_by_the_manifests_script_in_a_bare_environment(
    tmp_path: Path,
) -> None:
    repository = tmp_path / "models"
    write_entry(repository, "best_model", {3: iris_classifier()})
    lay_out(tmp_path)
    http = free_port()
    bare = {
        "PATH": f"{tmp_path}/tritonserver/bin:/usr/bin:/bin",
        "MODEL_REPOSITORY": str(repository),
        "TRITON_CONTROL_KEY": "a-key-of-this-test",
        "TRITON_HTTP_PORT": str(http),
        "TRITON_GRPC_PORT": str(free_port()),
        "TRITON_METRICS_PORT": str(free_port()),
    }

    def ready() -> bool:
        probe = subprocess.run(["/bin/bash", SCRIPTS / "probe.sh"], env=bare, check=False)
        return probe.returncode == 0

    server = RunningProcess(
        argv=["/bin/bash", str(SCRIPTS / "start.sh")],
        ready=ready,
        timeout_s=60,
        env=bare,
        log=tmp_path / "triton.log",
    )
    try:
        server.start()
        address = f"http://{LOOPBACK}:{http}/v2"
        answer = httpx.post(
            f"{address}/models/best_model/versions/3/infer",
            json={
                "inputs": [
                    {
                        "name": "features",
                        "datatype": "FP32",
                        "shape": [1, 4],
                        "data": [5.1, 3.5, 1.4, 0.2],
                    }
                ]
            },
            trust_env=False,
        )
        locked = httpx.post(f"{address}/repository/index", trust_env=False)
    finally:
        if server.tether is not None:
            server.stop()

    # Triton names the outputs in any order.
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert outputs["label"] == [0]
    assert locked.status_code == 403
