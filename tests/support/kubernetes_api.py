"""As much of a Kubernetes API server, and of the kubelets behind it, as Dagster asks for.

Jobs are checked against the published schema as they come in; the process of each container is
then really run, with the environment that ConfigMaps and Secrets give it, and the Job's status
tells how it ended.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from tests.support.servers import LOOPBACK

VERSION = "1.33"
_JOBS = re.compile(r"/apis/batch/v1/namespaces/(?P<namespace>[^/]+)/jobs(/(?P<name>[^/?]+))?")

Job = dict[str, Any]


@dataclass(slots=True)
class FakeKubernetes:
    """Jobs by name, and what became of their processes.

    A pod that mounts its account's token has a `KUBECONFIG` for that account; accounts other
    than `may` are refused whatever they ask.
    `command` makes the process of a container's arguments; `breaks` says of which Jobs the pod
    dies before its process begins, as one does that gets no memory.
    """

    configs: Mapping[str, Mapping[str, str]]
    secrets: Mapping[str, Mapping[str, str]]
    command: Callable[[Sequence[str]], Sequence[str]]
    environment: Mapping[str, str]
    logs: Path
    may: frozenset[str]
    breaks: Callable[[Job], bool] = lambda job: False
    jobs: dict[str, Job] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    url: str = ""

    def kubeconfig(self, account: str) -> Path:
        """Write the file by which a client of this account finds the server."""
        named = [
            ("clusters", "cluster", {"server": self.url}),
            ("users", "user", {"token": account}),
        ]
        named.append(("contexts", "context", {"cluster": "fake", "user": "fake"}))
        config = {plural: [{"name": "fake", one: content}] for plural, one, content in named}
        path = self.logs / f"kubeconfig-{account}"
        path.write_text(yaml.safe_dump({"current-context": "fake", "kind": "Config", **config}))
        return path

    def admits(self, request: BaseHTTPRequestHandler) -> bool:
        """Whether the account that asks may."""
        account = (request.headers["Authorization"] or "").removeprefix("Bearer ")
        if account not in self.may:
            self.refused.append(f"{account or 'nobody'}: {request.command} {request.path}")
        return account in self.may

    def create(self, namespace: str, job: Job) -> tuple[int, object]:
        """Take a Job in and start its process."""
        name = job["metadata"]["name"]
        job["metadata"]["namespace"] = namespace
        if name in self.jobs:
            return 409, {"reason": "AlreadyExists", "code": 409}
        try:
            kubernetes_validate.validate(job, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            self.refused.append(f"{name}: {error.message}")
            return 422, {"message": error.message, "code": 422}
        self.jobs[name] = job
        if not self.breaks(job):
            self._start(name, job["spec"]["template"]["spec"])
        return 201, job

    def status(self, name: str) -> tuple[int, object]:
        """The Job with its status."""
        if name not in self.jobs:
            return 404, {"reason": "NotFound", "code": 404}
        process = self.processes.get(name)
        code = process.poll() if process else 1
        status = {"active": 1} if code is None else {"failed" if code else "succeeded": 1}
        return 200, {**self.jobs[name], "status": status}

    def environ(self, container: Mapping[str, Any]) -> dict[str, str]:
        """The environment that the kubelet gives a container; KeyError for what is missing."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            if "configMapRef" in source:
                found |= self.configs[source["configMapRef"]["name"]]
            else:
                reference = source["secretRef"]
                if reference["name"] in self.secrets or not reference.get("optional"):
                    found |= self.secrets[reference["name"]]
        for entry in container.get("env", ()):
            if "valueFrom" in entry:
                reference = entry["valueFrom"]["secretKeyRef"]
                found[entry["name"]] = self.secrets[reference["name"]][reference["key"]]
            else:
                found[entry["name"]] = entry["value"]
        return found

    def _start(self, name: str, pod: Mapping[str, Any]) -> None:
        container = pod["containers"][0]
        token = pod["automountServiceAccountToken"]
        account = self.kubeconfig(pod["serviceAccountName"]) if token else None
        access = {"KUBECONFIG": str(account)} if account else {}
        with (self.logs / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                self.command(container["args"]),
                env={**self.environment, **access, **self.environ(container)},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )


def _handler(cluster: FakeKubernetes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found = _JOBS.fullmatch(self.path) if cluster.admits(self) else None
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(*(cluster.create(found["namespace"], body) if found else _forbidden(self)))

        def do_GET(self) -> None:
            found = _JOBS.match(self.path) if cluster.admits(self) else None
            named = found is not None and found["name"] is not None
            self._answer(*(cluster.status(found["name"]) if found and named else _forbidden(self)))

        def _answer(self, status: int, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    return Handler


def _forbidden(request: BaseHTTPRequestHandler) -> tuple[int, object]:
    return 403, {"message": f"{request.command} {request.path} is forbidden", "code": 403}


@contextlib.contextmanager
def run_kubernetes(cluster: FakeKubernetes) -> Iterator[FakeKubernetes]:
    """Serve the API on a free loopback port; end all pods afterwards."""
    server = ThreadingHTTPServer((LOOPBACK, 0), _handler(cluster))
    cluster.url = f"http://{LOOPBACK}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        for process in cluster.processes.values():
            process.kill()
            process.wait()
