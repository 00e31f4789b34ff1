"""`python -m tests.benchmarks.noop`: a uvicorn application that does nothing, as a ceiling.

It reads the body and answers with a fixed one, on the same server, loop, parser and options as
the gateway: what is left when a Python application on this server does no work.
"""

from __future__ import annotations

import argparse
from typing import Any

import uvicorn

ANSWER = (
    b'{"predictions":[0],"probabilities":[[0.97,0.03,0.0]],"model":"best_model","variant":"A",'
    b'"version":1,"run_id":"run-1","generation":1,"feature_source":"payload"}'
)
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(ANSWER)).encode()),
]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request with the same prediction."""
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


def server_config(host: str = "127.0.0.1", port: int = 0) -> uvicorn.Config:
    """The options by which the gateway runs, where they matter for speed."""
    return uvicorn.Config(
        application,
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=4096,
    )


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.noop")
    parser.add_argument("--port", type=int, required=True)
    uvicorn.Server(server_config(port=parser.parse_args().port)).run()


if __name__ == "__main__":
    main()
