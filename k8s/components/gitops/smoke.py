"""Ask a gateway how it is: that it lives, and that it serves or says why it does not yet.

An empty platform passes: no version was promoted, which no deployment can change. Anything else
that keeps a gateway from being ready fails the sync.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

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
        alive, health = ask("/health")
        ready, why = ask("/ready")
    except OSError as error:
        return False, f"no gateway answers at {GATEWAY}: {error}"
    seen = f"/health {alive}: {health}\n/ready {ready}: {why}"
    return alive == 200 and (ready == 200 or json.loads(health)["generation"] == 0), seen


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
