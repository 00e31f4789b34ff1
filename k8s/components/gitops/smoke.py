"""Ask a gateway how it is: that it lives and is ready, and that its default model can answer.

An empty platform passes: no version was promoted, which no deployment can change. Anything else
that keeps the model from answering fails the sync.
"""

import os
import sys
import time
import urllib.error
import urllib.request

import msgspec

from serving_gateway.contract import HealthStatus

GATEWAY = os.environ["GATEWAY"]  # as http://gateway-control:8080
DEADLINE_S = float(os.environ.get("SMOKE_SECONDS", "120"))


def ask(path: str) -> tuple[int, str]:
    """Return status and body of a GET; raises OSError when there is no answer."""
    try:
        with urllib.request.urlopen(GATEWAY + path, timeout=5) as answer:  # noqa: S310 # http
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def state() -> tuple[bool, str]:
    """Whether all is well, and what was seen."""
    try:
        _, health = ask("/health")
        status = msgspec.json.decode(health, type=HealthStatus)
        model = f"/models/{status.model_name}/ready"
        answers = {path: ask(path) for path in ("/ready", model)}
    except (OSError, msgspec.DecodeError) as error:
        return False, f"no gateway answers at {GATEWAY}: {error}"
    seen = [f"/health: {health}", *(f"{path} {code}: {b}" for path, (code, b) in answers.items())]
    well = answers["/ready"][0] == 200 and (answers[model][0] == 200 or status.generation == 0)
    return well, "\n".join(seen)


def main() -> int:
    """Wait until all is well, SMOKE_SECONDS at most; exit code 1 otherwise."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        well, seen = state()
        if well or time.monotonic() > deadline:
            print(seen)
            return 0 if well else 1
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
