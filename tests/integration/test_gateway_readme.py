"""The gateway's page, followed as a new user does: in front of a Triton, without the pipeline."""

from __future__ import annotations

from pathlib import Path

from serving_gateway.contract import DEFAULT_MODEL
from tests.support.gateway_harness import run_gateway
from tests.support.pages import run_commands
from tests.support.servers import RunningTriton

PAGE = "serving_gateway/README.md"


def test_commands_of_the_page_work(tmp_path: Path, shared_triton: RunningTriton) -> None:
    with run_gateway(tmp_path, shared_triton.http_url) as gateway:
        address = gateway.url.removeprefix("http://")
        output = run_commands(
            PAGE,
            {
                "127.0.0.1:8080": address,
                ".local/gateway/": f"{gateway.state_dir}/",
                "models/iris": f"models/{DEFAULT_MODEL}",
                'infer("iris"': f'infer("{DEFAULT_MODEL}"',
            },
        )
        switches = gateway.client.get("/models").json()
    assert '"version":2' in output, "the split and the switch reached version 2"
    assert switches["effective"] == {}, "the page ends by taking the model away"
